"""The proven bounds hold on inputs built to break them."""

from __future__ import annotations

import itertools
import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dvecdb.records import Metric, VectorType
from dvecdb.search import kernels
from dvecdb.search.exact import exact_distances
from dvecdb.search.kernels import make_kernel, row_norms

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Array = npt.NDArray[Any]

KINDS = list(itertools.product(Metric, VectorType))


@pytest.fixture(params=["one core", "every core"], autouse=True)
def _both_libraries(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply blocks of float32 by simsimd, as if they were small, and by BLAS."""
    shared = 0 if request.param == "every core" else sys.maxsize
    monkeypatch.setattr(kernels, "_SHARED_BYTES", shared)


def adversaries(kind: VectorType, dimension: int) -> Iterator[tuple[Array, Array]]:
    """Yield rows of the stored type and queries whose sums round badly or cancel."""
    rng = np.random.default_rng(dimension)
    top = {"float32": 1e9, "float16": 60000.0, "int8": 127.0}[kind]
    signs = rng.choice([-1.0, 1.0], (40, dimension))
    ramp = np.linspace(1.0, 0.0, dimension) ** 8
    for query in (
        np.ones(dimension),
        rng.standard_normal(dimension),
        np.full(dimension, 1 / 3),
        ramp + 1e-7,
        10.0 ** rng.uniform(-6, 6, dimension),
        rng.integers(-127, 128, dimension),
        rng.integers(-127, 128, dimension) + 0.4999,
        np.full(dimension, -128),
        np.eye(1, dimension)[0] + 1e-5,
    ):
        for values in (
            signs * top,  # cancels
            np.full((3, dimension), top) * (1 - 2.0**-9),  # every addition rounds the same way
            rng.standard_normal((40, dimension)) * top / 5,
            signs * (top * ramp),
            query * rng.uniform(0.5, 1.5, (40, 1)),
            query + signs * 1e-3,
            np.full((2, dimension), -128.0),
        ):
            rows = np.clip(values, -top - 1, top)
            rows = (np.rint(rows) if kind is VectorType.INT8 else rows).astype(kind.dtype)
            yield rows, query.astype(np.float32)


@pytest.mark.parametrize(("metric", "kind"), KINDS)
@pytest.mark.parametrize("dimension", [1, 2, 17, 1536, 65_536])
def test_the_key_of_every_row_lies_within_its_bounds(
    metric: Metric, kind: VectorType, dimension: int
) -> None:
    for rows, query in adversaries(kind, dimension):
        if not query.any():
            continue  # `TopK` does not ask kernels about it
        check_bounds(rows, query, metric, kind)


def check_bounds(rows: Array, query: Array, metric: Metric, kind: VectorType) -> None:
    """Whatever threshold is asked about, no key is outside its bounds or left out wrongly."""
    key = make_kernel(query, metric, kind).key
    keys = np.array([key(float(item)) for item in exact_distances(rows, query, metric)])
    for threshold in (math.inf, float(np.median(keys)), float(keys.min()) - 1e-9):
        kernel = make_kernel(query, metric, kind)  # a kernel remembers what did not help
        bounds = kernel.bounds(rows, row_norms(rows), threshold)
        index = np.arange(len(rows)) if bounds.index is None else bounds.index
        high = bounds.low * bounds.gain + bounds.width
        assert (bounds.low <= keys[index]).all()
        assert (high >= keys[index] * (1 - np.sign(keys[index]) * 2.0**-48)).all()
        left_out = np.setdiff1d(np.arange(len(rows)), index)
        assert (keys[left_out] > threshold).all()


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("exponent", [-45, -43, -38, -30, -24, -23, -22, -21, -19, -12])
def test_bounds_hold_where_squares_and_products_underflow(metric: Metric, exponent: int) -> None:
    rng = np.random.default_rng(-exponent)
    for dimension in (1, 40, 1536):
        with np.errstate(under="ignore"):
            rows = (rng.uniform(-3, 3, (30, dimension)) * 10.0**exponent).astype(np.float32)
            query = (rng.uniform(-3, 3, dimension) * 10.0**exponent).astype(np.float32)
        if not query.any():
            continue
        check_bounds(rows, query, metric, VectorType.FLOAT32)


@pytest.mark.parametrize("dimension", [1, 3, 31, 32, 33, 63, 64, 65, 1536, 65_536])
def test_int8_products_are_exact_even_at_the_extremes(dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    extremes = rng.choice(np.array([-128, 127], np.int8), (6, dimension))
    extremes[0], extremes[1] = -128, 127
    for left in extremes:
        products = kernels.dots(left.reshape(1, -1), extremes)
        assert products.tolist() == (extremes.astype(np.int64) @ left.astype(np.int64)).tolist()


@pytest.mark.parametrize("dimension", [1, 3, 8, 15, 16, 17, 1536, 65_536])
def test_float16_sums_are_kept_in_float32(dimension: int) -> None:
    """A sum in float16 would stop growing at 2,048 ones and overflow at 65,504."""
    ones = np.ones((2, dimension), np.float16)
    assert kernels.dots(ones[:1], ones).tolist() == [dimension] * 2
    large = np.full((2, dimension), 60_000, np.float16)
    expected = dimension * 60_000.0**2
    found = kernels.dots(large[:1], large)
    assert np.allclose(found, expected, rtol=kernels.rounding(dimension))


def test_widening_float16_is_exact_for_every_finite_value() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(1, -1)
    widened = kernels._widen(finite, np.empty(finite.shape, np.float32))
    assert widened.tobytes() == finite.astype(np.float32).tobytes()
