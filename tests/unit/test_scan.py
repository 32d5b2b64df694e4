"""One call that scans and measures finds what the same steps find apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.records import Metric
from dvecdb.search.compiled import Question, compiled
from dvecdb.search.ivf import Codes, Space
from dvecdb.search.kernels import row_length
from dvecdb.search.scattered import Scattered

ROWS = 700


def made(metric, dimension, base, tail):
    """Return rows, and codes of which so many are in either part."""
    random = np.random.default_rng(dimension)
    rows = random.standard_normal((ROWS, dimension)).astype(np.float32)
    rows[480:520] = rows[20]  # equal ones, which seem and are as near
    reach = float(np.linalg.norm(rows, axis=1).max()) if metric is Metric.DOT_PRODUCT else 0.0
    space = Space(metric, dimension, reach)
    points = space.points(rows)
    codes = Codes.train(space, points[:400], 8)
    numbers = np.arange(ROWS)
    coded = codes.code(numbers[:base], points[:base])
    more = codes.code(numbers[base : base + tail], points[base : base + tail])
    return rows, codes.with_base([coded]).with_tail([more])


def known(rows):
    held = Scattered(compiled(), rows.dtype, ROWS)
    held.put(np.arange(ROWS), rows, np.arange(ROWS))
    return held


@pytest.mark.parametrize(("base", "tail"), [(ROWS, 0), (0, ROWS), (500, 200), (650, 30)])
@pytest.mark.parametrize("dimension", [16, 131, 384])
@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.EUCLIDEAN, Metric.MANHATTAN])
def test_it_finds_what_the_steps_find(metric, dimension, base, tail):
    rows, codes = made(metric, dimension, base, tail)
    held = known(rows)

    @given(
        st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 90), st.integers(1, 120),
        st.sampled_from([None, 0.02, 0.5]), st.sampled_from([1e-9, 1.0, 1e6]),
    )  # fmt: skip
    def same(seed, probes, depth, wanted, share, scale):
        random = np.random.default_rng(seed)
        query = (scale * (rows[20] + 0.3 * random.standard_normal(dimension))).astype(np.float32)
        allowed = None if share is None else random.random(ROWS) < share
        scan = codes.scan(row_length(query), probes, depth)
        found = held.search(Question(query, metric, 10), scan, allowed, wanted)
        seem = codes.search(codes.space.query_points(query[None]), probes, depth)[0][0]
        seem = seem[seem >= 0]
        if allowed is not None:
            seem = seem[allowed[seem]]
        chosen = seem[:wanted]
        expected = held.nearest(Question(query, metric, 10), chosen)
        assert found.candidates == len(chosen)
        assert found.places.tolist() == expected.places.tolist()
        assert found.distances.tolist() == expected.distances.tolist()

    same()


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e9])
def test_the_largest_products_are_found_however_long_the_query(scale):
    rows, codes = made(Metric.DOT_PRODUCT, 131, 500, 200)
    query = np.float32(scale) * rows[20]
    scan = codes.scan(row_length(query), 8, 60)
    found = known(rows).search(Question(query, Metric.DOT_PRODUCT, 10), scan, None, 120)
    products = rows @ query
    assert set(found.places.tolist()) == set(np.argsort(-products, kind="stable")[:10].tolist())


def test_bits_that_are_told_to_the_scan_count_in_both_parts():
    rows, codes = made(Metric.EUCLIDEAN, 131, 500, 200)
    allowed = np.zeros(ROWS, bool)
    allowed[[3, 499, 500, 699]] = True
    bits = np.packbits(allowed, bitorder="little")
    scan = codes.scan(row_length(rows[0]), 8, 16, bits)
    found = known(rows).search(Question(rows[0], Metric.EUCLIDEAN, 10), scan, None, 32)
    assert sorted(found.places.tolist()) == [3, 499, 500, 699]


def test_codes_of_no_rows_have_no_scan():
    assert made(Metric.EUCLIDEAN, 16, 0, 0)[1].scan(1.0, 8, 16) is None
