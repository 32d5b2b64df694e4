"""Rows measured where they lie give what reading them gives, wherever that is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.records import Metric, VectorType
from dvecdb.search import compiled
from dvecdb.search.compiled import Question
from dvecdb.search.exact import exact_distances
from dvecdb.search.scattered import Scattered

COUNTS = (3, 250, 1, 346)
PLACES = np.arange(sum(COUNTS))


def stored(random, count, dimension, kind):
    """Return rows of a type, with some that are equal, zero or not finite."""
    scale = 40 if kind is VectorType.INT8 else random.choice([1e-3, 1.0, 30.0])
    rows = (scale * random.standard_normal((count, dimension))).clip(-128, 127).astype(kind.dtype)
    rows[1::7] = rows[0]
    rows[2::11] = 0
    if kind is not VectorType.INT8:
        rows[3::13, -1] = np.inf
        rows[4::17, 0] = np.nan
    return rows


def scattered(dtype, places):
    return Scattered(compiled.compiled(), np.dtype(dtype), places)


def nearest(held, places, query, metric, limit):
    """Return places, distances and unknown places."""
    return held.nearest(Question(query, metric, limit), places)[:3]


def put(rows):
    """Return the rows in several arrays, at places that are not their numbers."""
    held = scattered(rows.dtype, len(rows))
    for part in np.array_split(np.arange(len(rows)), 4):
        held.put(place_of(part, len(rows)), rows[part].copy(), np.arange(len(part)))
    return held


def place_of(numbers, count):
    return (numbers * 7 + 3) % count


def defined(rows, places, query, metric, limit):
    """Return the nearest by (distance, place) as they are defined."""
    at = np.empty(len(rows), np.int64)
    at[place_of(np.arange(len(rows)), len(rows))] = np.arange(len(rows))
    with np.errstate(all="ignore"):
        distances = exact_distances(rows[at[places]], query, metric)
    order = np.lexsort((places, distances))
    order = order[np.isfinite(distances[order])][:limit]
    return places[order], distances[order]


def test_it_is_compiled_here():
    assert compiled.compiled() is not None, f"{compiled.LIBRARY} is missing, or of no use: run make"


@pytest.mark.parametrize("kind", list(VectorType))
@pytest.mark.parametrize("metric", list(Metric))
@given(
    st.integers(1, 1_700) | st.sampled_from([8, 128, 129, 136, 256, 384, 1_024, 1_536, 4_096]),
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
)
def test_distances_are_those_of_the_definition_to_the_last_bit(
    metric, kind, dimension, seed, limit
):
    random = np.random.default_rng(seed)
    rows = stored(random, 29 if dimension > 500 else 120, dimension, kind)
    query = rows[0].astype(np.float32) + random.choice([0.0, 1e-7, 1.0], size=dimension)
    query = query.astype(np.float32)
    if not query.any():
        query[0] = 1
    places = np.flatnonzero(random.random(len(rows)) < 0.8)
    asked = random.permutation(places)
    found = nearest(put(rows), asked, query, metric, limit)
    for ours, theirs in zip(found, defined(rows, places, query, metric, limit), strict=False):
        np.testing.assert_array_equal(ours, theirs)
    assert not len(found[2])


@pytest.mark.parametrize("limit", [1, 2, 299, 300, 301, 10_000])
def test_any_number_of_rows_is_found(limit):
    rows = np.random.default_rng(limit).integers(0, 4, (300, 3)).astype(np.float32)
    places = np.arange(300)
    found = nearest(put(rows), places, np.ones(3, np.float32), Metric.EUCLIDEAN, limit)
    expected = defined(rows, places, np.ones(3, np.float32), Metric.EUCLIDEAN, limit)
    assert all(map(np.array_equal, found, expected))


@pytest.mark.parametrize("scale", [1e-23, 1e-19, 1e14, 1e30])
@pytest.mark.parametrize("metric", list(Metric))
def test_tiny_and_huge_numbers_are_told_apart(metric, scale):
    rows = (scale * np.random.default_rng(1).standard_normal((600, 64))).astype(np.float32)
    held = put(rows)
    for row in range(9):
        found = nearest(held, PLACES, rows[row], metric, 5)
        assert all(map(np.array_equal, found, defined(rows, PLACES, rows[row], metric, 5)))


def test_rows_that_were_not_put_are_not_known():
    rows = np.ones((250, 64), np.float32)
    held = scattered(rows.dtype, 600)
    held.put(np.array([5, 599]), rows, np.array([0, 249]))
    more = held.with_places(700)
    more.put(np.array([650]), rows.copy(), np.array([3]))
    asked = np.array([5, -1, 6, 599, 650, 2**40])
    query = np.ones(64, np.float32)
    found, _, unknown = nearest(held, asked, query, Metric.COSINE, 9)
    assert (found.tolist(), unknown.tolist()) == ([5, 599], [6, 650, 2**40])
    found, _, unknown = nearest(more, asked, query, Metric.COSINE, 9)
    assert (found.tolist(), unknown.tolist()) == ([5, 599, 650], [6, 2**40])
    nothing = nearest(held, np.zeros(0, np.int64), query, Metric.COSINE, 9)
    assert [len(part) for part in nothing] == [0, 0, 0]


def test_an_array_is_kept_as_long_as_its_rows_are_known():
    held = scattered("<f4", 8)
    for place in range(8):  # each would be overwritten by the next
        held.put(np.array([place]), np.full((1, 4096), place, np.float32), np.array([0]))
    zero = np.zeros(4096, np.float32)
    assert nearest(held, np.arange(8), zero, Metric.MANHATTAN, 8)[1].tolist() == [
        4096.0 * place for place in range(8)
    ]


def test_rows_in_another_order_or_of_another_type_are_not_taken():
    held = scattered("<f4", 8)
    for rows in (np.ones((8, 4)), np.ones((4, 8), np.float32).T):
        with pytest.raises(AssertionError):
            held.put(np.arange(8), rows, np.arange(8))


@pytest.fixture
def unloaded():
    for kept in (compiled.library, compiled.compiled):
        kept.cache_clear()
    yield
    for kept in (compiled.library, compiled.compiled):
        kept.cache_clear()


@pytest.mark.usefixtures("unloaded")
def test_without_the_library_there_is_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled, "LIBRARY", str(tmp_path / "none.so"))
    assert compiled.compiled() is None


@pytest.mark.usefixtures("unloaded")
def test_a_library_that_measures_otherwise_is_not_used(monkeypatch):
    def slightly_off(*args):
        return np.nextafter(exact_distances(*args), 9.0)

    monkeypatch.setattr(compiled, "exact_distances", slightly_off)
    assert compiled.compiled() is None
