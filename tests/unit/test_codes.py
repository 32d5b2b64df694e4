"""Codes of rows are those that faiss gives them, but where two centroids are as near."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.records import Metric
from dvecdb.search import ivf
from dvecdb.search.compiled import compiled
from dvecdb.search.ivf import Codes, Space


def by_hand(points, centroids):
    """Return the nearest centroid of each part, in float64: int[n, parts], and all distances."""
    parts, _, shared = centroids.shape
    split = points.astype(np.float64).reshape(len(points), parts, 1, shared)
    distances = ((split - centroids) ** 2).sum(axis=3)
    return distances.argmin(axis=2), distances


def halves(codes, parts):
    """Return the codes of parts: int[n, parts]."""
    return np.stack([codes & 15, codes >> 4], axis=2).reshape(len(codes), 2 * codes.shape[1])[
        :, :parts
    ]


@given(st.integers(0, 40), st.integers(1, 50), st.sampled_from([2, 4]), st.integers(0, 2**32 - 1))
def test_a_code_is_the_nearest_centroid(count, parts, shared, seed):
    random = np.random.default_rng(seed)
    centroids = random.standard_normal((parts, 16, shared)).astype(np.float32)
    points = random.standard_normal((count, parts * shared)).astype(np.float32)
    codes = compiled().code(points, centroids)
    assert codes.shape == (count, (parts + 1) // 2)
    found, (_, distances) = halves(codes, parts), by_hand(points, centroids)
    at_code = np.take_along_axis(distances, found[..., None].astype(np.intp), 2)[..., 0]
    assert (at_code <= distances.min(axis=2) + 1e-5).all()
    if parts % 2 and count:
        assert not (codes[:, -1] >> 4).any()


def test_of_equal_centroids_the_first_is_taken():
    centroids = np.zeros((2, 16, 4), np.float32)
    assert not compiled().code(np.ones((3, 8), np.float32), centroids).any()


@pytest.mark.parametrize("dimension", [130, 250, 260, 1_536])
def test_faiss_gives_the_same_codes_and_lists(dimension, monkeypatch):
    random = np.random.default_rng(dimension)
    rows = random.standard_normal((1_003, dimension)).astype(np.float32)
    space = Space(Metric.EUCLIDEAN, dimension)
    points = space.points(rows)
    codes = Codes.train(space, points[:600], 8)
    ours = codes.code(np.arange(1_003), points)
    monkeypatch.setattr(ivf, "compiled", lambda: None)
    theirs = codes.code(np.arange(1_003), points)
    assert np.array_equal(ours.lists, theirs.lists)
    assert ours.codes.shape == theirs.codes.shape
    assert (ours.codes != theirs.codes).mean() < 1e-4
