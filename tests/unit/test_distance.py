"""`TopK` answers exactly like measuring every row and sorting, however rows are cut and spread."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvecdb.records import Metric, VectorType
from dvecdb.search import distance, kernels
from dvecdb.search.distance import TopK, exact_distances, needs_norms, row_norms

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

KINDS = list(itertools.product(Metric, VectorType))
all_kinds = pytest.mark.parametrize(("metric", "kind"), KINDS)


@pytest.fixture(
    params=["small blocks measured", "every block bounded", "bounded by every core"], autouse=True
)
def _both_paths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run everything with and without the shortcut for small blocks, by simsimd and by BLAS."""
    if request.param != "small blocks measured":
        monkeypatch.setattr(distance, "SMALL_ELEMENTS", 0)
    if request.param == "bounded by every core":
        monkeypatch.setattr(kernels, "_SHARED_BYTES", 0)


def oracle(rows: Array, query: Array, metric: Metric, limit: int, live: Array | None = None) -> Any:
    """Measure each row alone in float64 and sort by (distance, row)."""
    target = query.astype(np.float64)
    measured = []
    for number, stored in enumerate(rows):
        if live is None or live[number]:
            measured.append((measure(stored.astype(np.float64), target, metric), number))
    measured.sort()
    nearest = measured[:limit]
    return [row for _, row in nearest], [value for value, _ in nearest]


def measure(row: Array, target: Array, metric: Metric) -> float:
    """Measure one row by the definition."""
    if metric is Metric.EUCLIDEAN:
        return float(np.sqrt(((row - target) * (row - target)).sum()))
    if metric is Metric.MANHATTAN:
        return float(np.abs(row - target).sum())
    product = (row * target).sum()
    if metric is Metric.DOT_PRODUCT:
        return float(0.0 - product)
    length = np.sqrt((row * row).sum() * (target * target).sum())
    return 1.0 if length == 0.0 else float(min(max(1.0 - product / length, 0.0), 2.0))


def search(
    rows: Array,
    query: Array,
    metric: Metric,
    kind: VectorType,
    limit: int,
    cuts: list[int] | None = None,
    live: Array | None = None,
    *,
    with_norms: bool = True,
) -> tuple[list[int], list[float]]:
    """Offer `rows` in blocks that end at `cuts`."""
    nearest = TopK(query, metric, kind, limit)
    edges = sorted({0, len(rows), *(cuts or [])})
    for start, end in itertools.pairwise(edges):
        block = rows[start:end]
        norms = row_norms(block) if with_norms and needs_norms(metric, kind) else None
        nearest.offer(block, start, None if live is None else live[start:end], norms)
    found, distances = nearest.result()
    assert found.dtype == np.int64
    assert distances.dtype == np.float64
    return found.tolist(), distances.tolist()


def stored(values: Array, kind: VectorType) -> Array:
    """Round `values` to the stored type."""
    if kind is VectorType.INT8:
        return np.rint(np.clip(values, -128, 127)).astype(np.int8)
    if kind is VectorType.FLOAT16:
        return np.clip(values, -65504, 65504).astype(np.float16)
    return values.astype(np.float32)


@st.composite
def collections(draw: st.DrawFn) -> tuple[Array, Array, Metric, VectorType]:
    """Rows with ties, zeros, near-duplicates and any magnitude, and a query."""
    metric, kind = draw(st.sampled_from(KINDS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count, dimension = draw(st.integers(0, 60)), draw(st.integers(1, 40))
    largest = 38 if kind is VectorType.FLOAT32 else 4
    exponent = draw(st.integers(-44 if largest > 4 else -8, largest)) if draw(st.booleans()) else 1
    with np.errstate(over="ignore", under="ignore"):
        values = rng.uniform(-3, 3, (count, dimension)) * 10.0**exponent
        query = rng.uniform(-3, 3, dimension) * 10.0**exponent
        if draw(st.booleans()) and count:  # a cluster that float32 sums cannot tell apart
            values = values[:1] + values * draw(st.sampled_from([1e-7, 1e-6, 1e-4]))
            query = values[0] * draw(st.sampled_from([1.0, 0.5, 2.0]))
        if draw(st.booleans()) and count:  # rows of any size beside each other
            values *= 10.0 ** rng.integers(-10, 3, (count, 1))
        if draw(st.booleans()) and count:  # ties
            values = values[rng.integers(0, max(1, count // 4), count)]
        if draw(st.booleans()) and count:
            values[rng.random(count) < 0.3] = 0.0
        if draw(st.booleans()):
            values, query = np.rint(values), np.rint(query)
        if draw(st.integers(0, 9)) == 0:
            query[:] = 0.0
    limits = np.finfo(np.float32)
    values, query = (np.clip(item, limits.min, limits.max) for item in (values, query))
    return stored(values, kind), query.astype(np.float32), metric, kind


@settings(deadline=None, max_examples=200)
@given(collections(), st.data())
def test_equals_the_oracle_bit_for_bit_however_rows_are_cut(case: Any, data: st.DataObject) -> None:
    rows, query, metric, kind = case
    limit = data.draw(st.integers(1, 70))
    cuts = data.draw(st.lists(st.integers(0, len(rows)), max_size=6))
    seed = data.draw(st.integers(0, 2**32))
    alive = data.draw(st.sampled_from([None, 0.0, 0.3, 0.9]))
    live = None if alive is None else np.random.default_rng(seed).random(len(rows)) < alive
    with_norms = data.draw(st.booleans())
    expected = oracle(rows, query, metric, limit, live)
    assert search(rows, query, metric, kind, limit, cuts, live, with_norms=with_norms) == expected
    assert search(rows, query, metric, kind, limit, None, live) == expected


@settings(deadline=None, max_examples=200)
@given(collections(), st.data())
def test_rows_that_were_measured_before_change_nothing_but_the_work(
    case: Any, data: st.DataObject
) -> None:
    rows, query, metric, kind = case
    limit, cut = data.draw(st.integers(1, 70)), data.draw(st.integers(0, len(rows)))
    first, distances = oracle(rows[:cut], query, metric, limit)
    nearest = TopK(query, metric, kind, limit)
    nearest.offer_measured(np.array(first, np.int64), np.array(distances, np.float64))
    for start in range(cut, len(rows), 20):
        nearest.offer(rows[start : start + 20], start)
    numbers, found = nearest.result()
    assert (numbers.tolist(), found.tolist()) == oracle(rows, query, metric, limit)


@all_kinds
def test_equals_the_oracle_at_full_width(metric: Metric, kind: VectorType) -> None:
    rng = np.random.default_rng(5)
    values = rng.standard_normal((900, 12)) @ rng.standard_normal((12, 1536))
    values += 40 * rng.standard_normal(1536)
    values[100:400] = values[99] + rng.standard_normal((300, 1536)) * 1e-5
    values[500::50] = values[450]
    rows = stored(values * (127 / 160 if kind is VectorType.INT8 else 1), kind)
    for query in (rows[120], values[100] * 0.9, rng.standard_normal(1536), np.rint(values[7])):
        exact = query.astype(np.float32)
        for limit in (1, 10, 300):
            expected = oracle(rows, exact, metric, limit)
            assert search(rows, exact, metric, kind, limit, [70, 71, 300, 899]) == expected


@all_kinds
def test_near_duplicates_beyond_float32_are_ordered_exactly(
    metric: Metric, kind: VectorType
) -> None:
    rng = np.random.default_rng(8)
    base = rng.uniform(90, 120, 256)
    values = np.repeat(base[None], 500, axis=0)
    values[np.arange(500), rng.integers(0, 256, 500)] += rng.choice([1e-5, -1e-5, 2e-5, 1, -1], 500)
    rows, query = stored(values, kind), (base * 1.000001).astype(np.float32)
    expected = oracle(rows, query, metric, 40)
    assert search(rows, query, metric, kind, 40, [100, 250]) == expected


@all_kinds
@pytest.mark.parametrize("scale", [1e-45, 1e-40, 1e-30, 1e-20, 1e10, 1e19, 1e30, 1e38])
def test_huge_and_denormal_rows_and_queries_lose_nothing(
    metric: Metric, kind: VectorType, scale: float
) -> None:
    rng = np.random.default_rng(3)
    plain = rng.uniform(-3, 3, (80, 33))
    for row_scale, query_scale in ((scale, scale), (scale, 1.0), (1.0, scale)):
        size = row_scale if kind is VectorType.FLOAT32 else 1.0
        rows = stored(plain * size, kind)
        rows[::9] = stored(plain[::9], kind)
        query = (rng.uniform(-3, 3, 33) * query_scale).astype(np.float32)
        assert search(rows, query, metric, kind, 7, [20, 50]) == oracle(rows, query, metric, 7)


@all_kinds
def test_a_zero_query_and_zero_rows_have_defined_distances(
    metric: Metric, kind: VectorType
) -> None:
    rows = np.zeros((30, 5), kind.dtype)
    rows[10:20] = 2
    for query in (np.zeros(5, np.float32), np.full(5, 3, np.float32)):
        found = search(rows, query, metric, kind, 25, [7])
        assert found == oracle(rows, query, metric, 25)
        if metric is Metric.COSINE:
            assert found[1].count(1.0) == (25 if not query.any() else 15)


@all_kinds
def test_a_flood_of_ties_is_answered_by_the_lowest_rows_within_bounded_memory(
    metric: Metric, kind: VectorType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distance, "PENDING_BYTES", 4096)
    monkeypatch.setattr(distance, "PENDING_BYTES_MAX", 4096)
    monkeypatch.setattr(distance, "FOUND_SPARE", 50)
    rows = np.tile(stored(np.array([[3.0, -2.0, 1.0, 5.5]]), kind), (3000, 1))
    nearest = TopK(np.ones(4, np.float32), metric, kind, 5)
    for start in range(0, 3000, 100):
        nearest.offer(rows[start : start + 100], start)
        assert nearest._pending_bytes <= 4096 + 100 * rows.strides[0]
        assert nearest._found_count <= 160
    assert nearest.result()[0].tolist() == [0, 1, 2, 3, 4]


@all_kinds
def test_the_lowest_rows_win_ties_even_if_they_come_last(
    metric: Metric, kind: VectorType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distance, "PENDING_BYTES", 4096)
    monkeypatch.setattr(distance, "PENDING_BYTES_MAX", 4096)
    monkeypatch.setattr(distance, "FOUND_SPARE", 50)
    rows = np.tile(stored(np.array([[3.0, -2.0, 1.0, 5.5]]), kind), (2000, 1))
    nearest = TopK(np.ones(4, np.float32), metric, kind, 5)
    for start in range(1900, -1, -100):
        nearest.offer(rows[start : start + 100], start)
    assert nearest.result()[0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("metric", [Metric.EUCLIDEAN, Metric.MANHATTAN])
def test_sums_at_the_edge_of_float32_lose_nothing(metric: Metric) -> None:
    """The same terms in another order: some sums overflow in float32 and some do not."""
    rng = np.random.default_rng(12)
    largest = float(np.finfo(np.float32).max)
    for _ in range(4):
        terms = rng.uniform(0.5, 1.5, 300)
        if metric is Metric.EUCLIDEAN:
            terms *= np.sqrt(largest / (terms * terms).sum())
        else:
            terms *= largest / terms.sum()
        values = np.stack([rng.permutation(terms) for _ in range(200)])
        rows, query = values.astype(np.float32), np.zeros(300, np.float32)
        found, distances = oracle(rows, query, metric, 200)
        for limit in range(1, 200, 6):
            expected = found[:limit], distances[:limit]
            assert search(rows, query, metric, VectorType.FLOAT32, limit, [90]) == expected


@all_kinds
def test_blocks_may_come_in_any_order_and_be_read_only_or_strided(
    metric: Metric, kind: VectorType
) -> None:
    rng = np.random.default_rng(4)
    rows = stored(rng.uniform(-9, 9, (300, 16)), kind)
    rows[200:] = rows[:100]
    query = rng.uniform(-9, 9, 16).astype(np.float32)
    nearest = TopK(query, metric, kind, 30)
    for start in (200, 0, 100):
        block = rows[start : start + 100]
        if start == 0:
            block = np.asfortranarray(block)
        if start == 100:
            block = np.frombuffer(b"\0" + block.tobytes(), np.uint8)[1:].view(kind.dtype)
            block = block.reshape(100, 16)  # read-only and unaligned
        nearest.offer(block, start)
    found, distances = nearest.result()
    assert (found.tolist(), distances.tolist()) == oracle(rows, query, metric, 30)


@all_kinds
def test_nothing_offered_or_nothing_alive_gives_an_empty_answer(
    metric: Metric, kind: VectorType
) -> None:
    nearest = TopK(np.ones(3, np.float32), metric, kind, 10)
    assert [item.size for item in nearest.result()] == [0, 0]
    nearest.offer(np.zeros((0, 3), kind.dtype), 0)
    nearest.offer(np.zeros((20, 3), kind.dtype), 0, np.zeros(20, np.bool_))
    assert [item.size for item in nearest.result()] == [0, 0]


@all_kinds
@pytest.mark.parametrize("share", [0.2, 0.8])
def test_rows_that_are_not_live_may_hold_anything(
    metric: Metric, kind: VectorType, share: float
) -> None:
    rng = np.random.default_rng(6)
    rows = stored(rng.uniform(-9, 9, (400, 24)), kind)
    live = rng.random(400) < share
    garbage = np.frombuffer(rng.bytes(rows[~live].nbytes), kind.dtype).reshape(-1, 24).copy()
    if kind is not VectorType.INT8:
        garbage[::3] = np.inf
        garbage[1::3, 5] = np.nan
        garbage[2::3] = np.finfo(kind.dtype).max
    damaged = rows.copy()
    damaged[~live] = garbage
    query = rng.uniform(-9, 9, 24).astype(np.float32)
    expected = oracle(rows, query, metric, 30, live)
    assert search(damaged, query, metric, kind, 30, [100, 250], live) == expected


@all_kinds
def test_offered_arrays_may_be_overwritten_afterwards(metric: Metric, kind: VectorType) -> None:
    rng = np.random.default_rng(9)
    rows = stored(rng.uniform(-9, 9, (600, 8)), kind)
    query = rng.uniform(-9, 9, 8).astype(np.float32)
    nearest = TopK(query, metric, kind, 12)
    buffer = np.empty((200, 8), kind.dtype)
    for start in (0, 200, 400):
        buffer[:] = rows[start : start + 200]
        nearest.offer(buffer, start)
    buffer[:] = 0
    found, distances = nearest.result()
    assert (found.tolist(), distances.tolist()) == oracle(rows, query, metric, 12)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3000), st.sampled_from(KINDS))
def test_a_distance_does_not_depend_on_the_rows_beside_it(
    seed: int, dimension: int, of: Any
) -> None:
    metric, kind = of
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((90, dimension)) * 10.0 ** rng.integers(-6, 3, (90, dimension))
    rows, query = stored(values, kind), rng.standard_normal(dimension).astype(np.float32)
    together = exact_distances(rows, query, metric)
    alone = np.concatenate([exact_distances(rows[i : i + 1], query, metric) for i in range(90)])
    spread = exact_distances(np.ascontiguousarray(rows[::3]), query, metric)
    column_order = exact_distances(np.asfortranarray(rows), query, metric)
    assert np.array_equal(together, alone)
    assert np.array_equal(together[::3], spread)
    assert np.array_equal(together, column_order)
    assert together.tolist() == [
        measure(r.astype(float), query.astype(float), metric) for r in rows
    ]


def test_equal_vectors_are_at_distance_zero_and_opposite_ones_at_two() -> None:
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((200, 77)).astype(np.float32)
    for row in rows:
        pair = np.stack([row, -row])
        assert exact_distances(pair, row, Metric.COSINE).tolist() == [0.0, 2.0]
        assert exact_distances(pair, row, Metric.EUCLIDEAN)[0] == 0.0


@pytest.mark.parametrize("kind", list(VectorType))
@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-22, 1e-12, 1e-6, 1.0, 1e12, 1e19, 1e38])
def test_row_norms_are_as_close_as_the_bounds_assume(kind: VectorType, scale: float) -> None:
    rng = np.random.default_rng(1)
    for dimension in (1, 7, 64, 1536):
        size = scale if kind is VectorType.FLOAT32 else 20.0
        rows = stored(rng.uniform(-3, 3, (50, dimension)) * size, kind)
        rows[3] = 0
        exact = np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1))
        norms = row_norms(rows)
        assert norms.dtype == np.float32
        assert norms[3] == 0.0
        assert ((norms == 0.0) == (exact == 0.0)).all()
        inside = (exact > 2.0**-60) & (exact < 2.0**100)
        error = np.abs(norms.astype(np.float64) - exact)[inside]
        assert (error <= kernels.rounding(dimension) * exact[inside]).all()
        assert (norms[exact <= 2.0**-60] < 2.0**-59).all()
        assert (norms[exact >= 2.0**100] > 2.0**99).all()
