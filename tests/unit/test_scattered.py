"""Rows measured where they lie give what reading them gives, wherever that is."""

import mmap

import numpy as np
import pytest

from dvecdb.records import Metric
from dvecdb.search import scattered
from dvecdb.search.rerank import Candidates, nearest_where
from dvecdb.search.scattered import METRICS, Scattered

COUNTS = (3, 250, 1, 346)
NUMBERS = np.arange(sum(COUNTS))


def paged(rows):
    """Return the same rows in memory that begins at a page."""
    held = np.frombuffer(mmap.mmap(-1, rows.nbytes), rows.dtype).reshape(rows.shape)
    held[:] = rows
    return held


def parts_of(rows):
    return [paged(part) for part in np.split(rows, np.cumsum(COUNTS)[:-1])]


def known(rows, metric):
    """Return rows of several arrays, all put, at places that are not their numbers."""
    parts = parts_of(rows)
    held = Scattered.over(parts, len(rows))
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1).astype(np.float32)
    for part, first in zip(parts, np.cumsum([0, *COUNTS]), strict=False):
        ordinals = np.arange(len(part))
        held.put(place_of(first + ordinals), part, ordinals, lengths[first : first + len(part)])
    return held


def place_of(numbers):
    return (numbers * 7 + 3) % len(NUMBERS)


def read(rows, numbers, query, metric, limit):
    candidates = Candidates(query, metric, rows.dtype, limit, len(numbers), roughly=False)
    candidates.add(rows, numbers, numbers)
    return candidates.nearest()


@pytest.mark.parametrize("metric", sorted(METRICS))
@pytest.mark.parametrize("apart", [0.0, 1e-7, 3e-5, 1e-3, 1.0])
@pytest.mark.parametrize("dimension", [16, 384, 1024, 1536])
def test_the_nearest_are_those_of_the_definition(metric, apart, dimension):
    random = np.random.default_rng(dimension)
    rows = random.standard_normal(dimension) + apart * random.standard_normal((600, dimension))
    rows = rows.astype(np.float32)
    held = known(rows, metric)
    for limit in (1, 7, 300):
        query, asked = rows[limit], np.flatnonzero(random.random(600) < 0.7)
        found = nearest_where(held, place_of(asked), asked, query, metric, limit)
        assert all(map(np.array_equal, found, read(rows, asked, query, metric, limit)))


@pytest.mark.parametrize("metric", sorted(METRICS - {Metric.COSINE}))
@pytest.mark.parametrize("scale", [1e-23, 1e-19, 1e14])
def test_tiny_and_huge_numbers_are_told_apart(metric, scale):
    rows = (scale * np.random.default_rng(1).standard_normal((600, 64))).astype(np.float32)
    held = known(rows, metric)
    for row in range(9):
        found = nearest_where(held, place_of(NUMBERS), NUMBERS, rows[row], metric, 5)
        assert all(map(np.array_equal, found, read(rows, NUMBERS, rows[row], metric, 5)))


def test_rows_that_were_not_put_are_not_known():
    rows = np.ones((600, 64), np.float32)
    parts = parts_of(rows)
    held = Scattered.over(parts, 600)
    held.put(np.array([5, 599]), parts[1], np.array([0, 249]), np.ones(2, np.float32))
    assert np.flatnonzero(held.known(NUMBERS)).tolist() == [5, 599]
    assert held.has(parts[1])
    assert not held.has(rows)


def test_arrays_that_do_not_begin_at_a_page_are_left_out():
    aligned = paged(np.ones((8, 64), np.float32))
    held = Scattered.over([aligned[1:], aligned], 8)
    assert held.has(aligned)
    assert not held.has(aligned[1:])
    assert Scattered.over([aligned[1:]], 8) is None
    assert Scattered.over([], 8) is None


@pytest.mark.parametrize("dimension", [1000, 77])
def test_rows_of_many_pieces_are_read(dimension):
    assert Scattered.over([paged(np.ones((4, dimension), np.float32))], 4) is None


@pytest.mark.parametrize("dtype", [np.float16, np.int8])
def test_other_types_are_read(dtype):
    assert Scattered.over([paged(np.ones((4, 1024), dtype))], 4) is None


def test_every_metric_it_knows_has_a_measure():
    assert set(Metric) - {Metric.MANHATTAN} == METRICS
    assert scattered._PIECES_MAX * 512 >= 1536
