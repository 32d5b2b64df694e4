"""The nearest of some candidates are those of the definition, however little sets them apart."""

from itertools import pairwise

import numpy as np
import pytest

from dvecdb.records import Metric
from dvecdb.search import rerank
from dvecdb.search.rerank import Candidates

NUMBERS = np.arange(600)
SOURCES = (0, 1, 250, 251, 600)  # where their rows begin and end


def nearest_of(rows, numbers, query, metric, limit, *, roughly=True):
    candidates = Candidates(query, metric, rows.dtype, limit, len(rows), roughly=roughly)
    for first, end in pairwise(SOURCES):
        candidates.add(rows[first:end], NUMBERS[: end - first], numbers[first:end])
    return candidates.nearest()


def agree(rows, query, metric, limit):
    expected = nearest_of(rows, NUMBERS, query, metric, limit, roughly=False)
    found = nearest_of(rows, NUMBERS, query, metric, limit)
    return all(map(np.array_equal, found, expected))


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("apart", [0.0, 1e-7, 3e-5, 1e-3])
@pytest.mark.parametrize("dimension", [16, 768])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("block_rows", [1, 7, 600])
def test_near_duplicates_are_told_apart(monkeypatch, metric, apart, dimension, dtype, block_rows):
    random = np.random.default_rng(dimension)
    rows = random.standard_normal(dimension) + apart * random.standard_normal((600, dimension))
    rows = rows.astype(dtype)
    monkeypatch.setattr(rerank, "_BLOCK_BYTES", block_rows * rows[0].nbytes)
    queries = rows[:3].astype(np.float32)
    assert all(agree(rows, query, metric, limit) for query in queries for limit in (1, 7, 300))


@pytest.mark.parametrize("metric", [Metric.EUCLIDEAN, Metric.MANHATTAN, Metric.DOT_PRODUCT])
@pytest.mark.parametrize("scale", [1e-23, 1e-19, 1e14])
def test_tiny_and_huge_numbers_are_told_apart(metric, scale):
    rows = scale * np.random.default_rng(1).standard_normal((600, 32))
    rows = rows.astype(np.float32)
    assert all(agree(rows, rows[row], metric, 5) for row in range(9))


@pytest.mark.parametrize("metric", Metric)
def test_rows_that_are_not_finite_are_never_found(metric):
    rows = np.random.default_rng(2).standard_normal((600, 8)).astype(np.float32)
    rows[4:, 3] = np.nan
    assert agree(rows, rows[0], metric, 10)
    assert len(nearest_of(rows, NUMBERS, rows[0], metric, 10)[0]) == 4
