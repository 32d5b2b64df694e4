"""Fast approximate distances with a proven error: what lets an exact scan skip almost every row.

A kernel belongs to one query. It maps a block of rows to **keys**, numbers that rise with the
distance, and gives for each row an interval `low .. high` that holds the key of the distance
which `exact.exact_distances` defines. Keys of all blocks of one query are comparable.

Bounds. u = 2**-24 is the rounding unit of float32. A float32 sum of d products in any order, with
or without fused multiply-add, is within `d u / (1 - d u)` times the sum of the absolute products
(Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), which Cauchy-Schwarz limits
to |x| |q|. `rounding` is that with room to spare for the few operations around it and for the
float64 arithmetic of the definition. A query that had to be rounded (to float16, or to two int8
parts) adds its residual r by |r . x| <= |r| |x|. Overflow and underflow:

    products              the query is scaled to length 1 first; rows whose length leaves
                          `LENGTH_MIN .. _LENGTH_MAX` are measured exactly instead
    differences           sums of terms >= 0 can only overflow to inf, never to NaN, and such
                          rows are beyond `key_max`; underflow is covered by `_tiny`

simsimd's int8 products are exact (32-bit sums of at most 65,536 * 2**14). Its float16 products
are summed in float32 by every kernel but those for AVX512-FP16 and SVE: these are switched off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from dvecdb.records import Metric, VectorType
from dvecdb.search.exact import exact_distances

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Stored = npt.NDArray[Any]
    Float32s = npt.NDArray[np.float32]
    Float64s = npt.NDArray[np.float64]
    Indices = npt.NDArray[np.intp]
    Measure = Callable[[Float32s, Float32s], Float64s]

_UNIT: Final = 2.0**-24
LENGTH_MIN: Final = 2.0**-60
_LENGTH_MAX: Final = 2.0**100
_SQUARE_MIN: Final = 2.0**-80
_SQUARE_MAX: Final = 2.0**100
_EUCLIDEAN_MAX: Final = 2.0**60
_MANHATTAN_MAX: Final = 2.0**120
_EXACT: Final = 2.0**-40
_HALF_MAX: Final = 65_504.0
_WIDEN_ELEMENTS: Final = 256 * 1024
_SHARED_BYTES: Final = 8 * 1024 * 1024
_KEPT_LOCK_BYTES: Final = 64 * 1024
_HALF_MASK: Final = np.uint32(0x8FFFE000).view(np.int32)
_HALF_SCALE: Final = np.float32(2.0**112)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where the keys of some rows lie: between `low` and `low * gain + width`.

    `index` says which rows of the block these are, intp[m] rising; None: all of them. The others
    are beyond the threshold that was asked for. low: float64[m]; width: a number or float64[m].
    """

    index: Indices | None
    low: Float64s
    gain: float
    width: float | Float64s


class Kernel(Protocol):
    """Bounds the distances of rows to one query."""

    key_max: float
    """Keys above it do not bound anything: compare against infinity instead."""

    def bounds(self, rows: Stored, norms: Float32s | None, threshold: float) -> Bounds:
        """Return the bounds of at least all rows whose key may be `threshold` or less.

        rows: stored type [n, d], C order, n >= 1; norms: `row_norms(rows)` or None.
        """

    def key(self, distance: float) -> float:
        """Return a number no smaller than the key of any row at `distance`."""


def make_kernel(query: Float32s, metric: Metric, vector_type: VectorType) -> Kernel:
    """Return the kernel for `query`, float32[d], finite, and not zero unless L1 or L2."""
    if metric is Metric.MANHATTAN:
        return _Differences(query, _manhattan, _MANHATTAN_MAX, vector_type)
    if metric is Metric.EUCLIDEAN and vector_type is not VectorType.INT8:
        if vector_type is VectorType.FLOAT16 and np.abs(query).max() <= _HALF_MAX:
            return _HalfEuclidean(query)
        differences = _Differences(query, _euclidean, _EUCLIDEAN_MAX, vector_type)
        length = _length(query.astype(np.float64))
        if vector_type is VectorType.FLOAT32 and LENGTH_MIN <= length <= _LENGTH_MAX:
            return _ProductsFirst(query, differences)
        return differences
    return _Products(query, metric, vector_type)


def needs_norms(metric: Metric, vector_type: VectorType) -> bool:
    """Tell whether scans of this kind are faster when given `row_norms`."""
    if metric is Metric.EUCLIDEAN:
        return vector_type is not VectorType.FLOAT16
    return metric is not Metric.MANHATTAN


def copy_rows(source: Stored, target: Stored) -> None:
    """Copy `source` into `target`: the same type and shape, `target` in C order.

    A few rows are copied without giving up the interpreter's lock, as numpy would: among many
    threads that write one row each, getting it back costs more than everything else.
    """
    if source.nbytes <= _KEPT_LOCK_BYTES and source.flags.c_contiguous and source.size:
        target.data.cast("B")[:] = source.data.cast("B")
    else:
        np.copyto(target, source)


def all_finite(rows: Float32s) -> bool:
    """Tell whether float32 rows in C order hold neither NaN nor infinities. See `copy_rows`."""
    if 0 < rows.nbytes <= _KEPT_LOCK_BYTES:
        flat = rows.reshape(-1)
        if math.isfinite(float(_simsimd().dot(flat, flat))):
            return True  # else there is one, or the sum overflowed
    return bool(np.isfinite(rows).all())


def row_norms(rows: Stored) -> Float32s:
    """Return the Euclidean length of every row: float32[n], inf if beyond float32.

    rows: float32, float16 or int8 [n, d]. The relative error is within what `bounds` assumes.
    """
    if not rows.size:
        return np.zeros(len(rows), np.float32)
    squares = dots(rows, rows)
    with np.errstate(over="ignore", invalid="ignore"):  # damaged rows may hold anything
        norms = np.sqrt(squares).astype(np.float32)
        if rows.dtype == np.float32:
            smallest, largest = np.minimum.reduce(squares), np.maximum.reduce(squares)
            if not (smallest > _SQUARE_MIN and largest < _SQUARE_MAX):
                odd = np.flatnonzero(~((squares > _SQUARE_MIN) & (squares < _SQUARE_MAX)))
                zero = np.zeros(rows.shape[1], np.float32)
                norms[odd] = exact_distances(rows[odd], zero, Metric.EUCLIDEAN)
    return norms


def row_length(row: Float32s) -> float:
    """Return the Euclidean length of one row, float32[d], as `row_norms` does, sooner."""
    square = float(_simsimd().dot(row, row))
    if _SQUARE_MIN < square < _SQUARE_MAX:
        return float(np.float32(math.sqrt(square)))
    return float(row_norms(row[None])[0])


def rounding(dimension: int) -> float:
    """Return the relative error of float32 sums of `dimension` terms, generously."""
    return 1.05 * (dimension + 32) * _UNIT


@cache
def _simsimd() -> Any:
    """Return simsimd without the kernels that sum in float16. This holds for the whole process."""
    module = import_module("simsimd")
    for capability in ("sapphire", "sve"):
        module.disable_capability(capability)
    ones = np.ones(65_537, np.float16)  # one more than float16 could count
    if float(module.dot(ones, ones)) != ones.size:
        for capability in module.get_capabilities():
            if capability != "serial":
                module.disable_capability(capability)
    return module


@cache
def faiss_library() -> Any:
    """Return faiss, imported when it is first needed: it takes 0.15 s."""
    return import_module("faiss")


def pair_distances(queries: Float32s, rows: Float32s, *, manhattan: bool) -> Float32s:
    """Return the L1, or else squared L2, distances of every pair, about: float32[q, n].

    By faiss: threads of numpy's BLAS and those of faiss would wait for each other.
    """
    kind = faiss_library().METRIC_L1 if manhattan else faiss_library().METRIC_L2
    return np.asarray(faiss_library().pairwise_distances(queries, rows, kind))


def dots(left: Stored, right: Stored) -> Float64s:
    """Return the dot products of the pairs of rows; `left` may be a single row. float64[n]."""
    return np.asarray(_simsimd().dot(left, right))


def squared_distances(query: Float32s, rows: Float32s) -> Float64s:
    """Return the squared L2 distances of every row to the query [1, d]: float64[n]."""
    return np.asarray(_simsimd().sqeuclidean(query, rows)).reshape(-1)


def _products(query: Stored, rows: Stored) -> Float64s:
    """Return the dot products of every row with the query [1, d] of the same type: float64[n].

    Much float32 by BLAS, which also uses the other cores: one core alone cannot fill the memory
    bus. Little is done before another core is awake, and waits long for one that is busy.
    """
    if rows.dtype != np.float32 or rows.nbytes < _SHARED_BYTES:
        return dots(query, rows)
    with np.errstate(all="ignore"):  # rows that are not live may hold anything
        products: Float32s = rows @ query[0]
        return products.astype(np.float64)


def _euclidean(query: Stored, rows: Stored) -> Float64s:
    """Return the distances by float32 sums. query: [1, d]; rows: [n, d] of the same type."""
    squares: Float64s = np.asarray(_simsimd().sqeuclidean(query, rows))
    return np.sqrt(squares, out=squares)


def _manhattan(query: Float32s, rows: Float32s) -> Float64s:
    """Return the distances by float32 sums. query: float32[1, d]; rows: float32[n, d]."""
    faiss = faiss_library()
    distances: Float32s = faiss.pairwise_distances(query, rows, faiss.METRIC_L1)[0]
    return distances.astype(np.float64)


class _Differences:
    """Euclidean and Manhattan by float32 sums of differences: the error is relative."""

    def __init__(
        self, query: Float32s, measure: Measure, key_max: float, vector_type: VectorType
    ) -> None:
        self.key_max = key_max
        self._query = query.reshape(1, -1)
        self._measure = measure
        self._type = vector_type
        self._error = rounding(query.size)
        self._tiny = math.sqrt(query.size) * 2.0**-62

    def bounds(self, rows: Stored, norms: Float32s | None, threshold: float) -> Bounds:
        """See `Kernel`."""
        del norms, threshold
        low = self._scores(rows)
        low *= 1.0 - self._error
        low -= self._tiny
        gain = (1.0 + self._error) / (1.0 - self._error)
        return Bounds(None, low, gain, self._tiny * (gain + 1.0))

    def key(self, distance: float) -> float:
        """See `Kernel`."""
        return distance

    def _scores(self, rows: Stored) -> Float64s:
        if self._type is VectorType.FLOAT32:
            return self._measure(self._query, rows)
        count, dimension = rows.shape
        step = max(1, min(count, _WIDEN_ELEMENTS // dimension))
        buffer = np.empty((step, dimension), np.float32)
        scores = np.empty(count)
        for start in range(0, count, step):
            chunk = _widen(rows[start : start + step], buffer)
            scores[start : start + step] = self._measure(self._query, chunk)
        return scores


def _widen(rows: Stored, buffer: Float32s) -> Float32s:
    """Return `rows`, int8 or finite float16, as float32 in the first rows of `buffer`.

    numpy converts float16 one by one. Here the bits are moved to where float32 has them, whole
    arrays at a time; the exponents then differ by 112, subnormals included.
    """
    target = buffer[: len(rows)]
    if rows.dtype == np.int8:
        target[...] = rows
        return target
    bits = target.view(np.int32)
    bits[...] = rows.view(np.int16)
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, _HALF_MASK, out=bits)
    return np.multiply(target, _HALF_SCALE, out=target)


class _HalfEuclidean:
    """Euclidean over float16 rows with the query rounded to float16."""

    def __init__(self, query: Float32s) -> None:
        self.key_max = _EUCLIDEAN_MAX
        self._query = query.astype(np.float16).reshape(1, -1)
        residual = query.astype(np.float64) - self._query[0]
        self._residual = 1.001 * float(np.sqrt(np.add.reduce(residual * residual)))
        self._error = rounding(query.size)

    def bounds(self, rows: Stored, norms: Float32s | None, threshold: float) -> Bounds:
        """See `Kernel`."""
        del norms, threshold
        low = _euclidean(self._query, rows)
        low *= 1.0 - self._error
        low -= self._residual
        gain = (1.0 + self._error) / (1.0 - self._error)
        return Bounds(None, low, gain, self._residual * (gain + 1.0))

    def key(self, distance: float) -> float:
        """See `Kernel`."""
        return distance


class _ProductsFirst:
    """Euclidean over float32: products drop the rows that are far, differences measure the rest.

    |x - q|^2 = |x|^2 + |q|^2 - 2 x.q is fast and rough: its error grows with the lengths, not
    with the distance. If it leaves too many rows, as with data far from zero, it is given up.
    """

    def __init__(self, query: Float32s, differences: _Differences) -> None:
        self.key_max = differences.key_max
        self._differences = differences
        self._rough = _Products(query, Metric.EUCLIDEAN, VectorType.FLOAT32)
        self._helps = True

    def bounds(self, rows: Stored, norms: Float32s | None, threshold: float) -> Bounds:
        """See `Kernel`."""
        if norms is None or not self._helps or threshold > self.key_max:
            return self._differences.bounds(rows, norms, threshold)
        if not np.maximum.reduce(norms) <= _LENGTH_MAX:  # short rows: see `_intervals`
            return self._differences.bounds(rows, norms, threshold)
        rough = self._rough.bounds(rows, norms, threshold)
        index = np.flatnonzero(rough.low <= self._rough.key(threshold))
        self._helps = index.size * 4 <= len(rows)
        if not index.size:
            return Bounds(index, rough.low[:0], 1.0, 0.0)
        near = self._differences.bounds(rows[index], None, threshold)
        return Bounds(index, near.low, near.gain, near.width)

    def key(self, distance: float) -> float:
        """See `Kernel`."""
        return self._differences.key(distance)


class _Products:
    """Cosine, dot product and, but for float16, Euclidean by dot products with q / |q|.

    Keys: cosine - 1, dot product / |q|, Euclidean squared. Int8 has two stages: with the query
    rounded to int8, and for the rows that may still matter with the rounded rest added.
    """

    def __init__(self, query: Float32s, metric: Metric, vector_type: VectorType) -> None:
        self.key_max = math.inf
        self._exact_query = query
        self._metric = metric
        target = query.astype(np.float64)
        self._length = _length(target)
        self._rest: npt.NDArray[np.int8] | None = None
        if vector_type is VectorType.INT8:
            self._norm_error = 4.0 * _UNIT
            self._split(target)
        else:
            self._norm_error = rounding(query.size)
            half = vector_type is VectorType.FLOAT16
            self._round(target / self._length, np.float16 if half else np.float32)

    def _round(self, target: Float64s, dtype: type[np.floating[Any]]) -> None:
        """Keep `target`, float64[d] of length 1, rounded; float16 at its highest exponent."""
        exponent = 0
        if dtype is np.float16:
            exponent = 15 - math.frexp(float(np.abs(target).max()))[1]
        target = np.ldexp(target, exponent)
        self._query = target.astype(dtype).reshape(1, -1)
        self._scale = math.ldexp(1.0, -exponent)
        residual = _length(target - self._query[0]) * self._scale
        self._error = 1.01 * rounding(target.size) + 1.001 * residual

    def _split(self, target: Float64s) -> None:
        """Keep `target`, the query as float64[d], as int8 or as a sum of two int8 vectors."""
        if _is_int8(target):
            self._query = target.astype(np.int8).reshape(1, -1)
            self._scale, self._error = 1.0 / (self._length or 1.0), _EXACT
            return
        target = target / self._length
        self._scale = float(np.abs(target).max()) / 127.0
        self._query = np.rint(target / self._scale).astype(np.int8).reshape(1, -1)
        residual = target - self._query[0] * self._scale
        self._error = 1.001 * _length(residual) + _EXACT
        self._rest_scale = self._scale / 254.0
        rest = np.clip(np.rint(residual / self._rest_scale), -127.0, 127.0)
        self._rest = rest.astype(np.int8).reshape(1, -1)
        self._rest_error = 1.001 * _length(residual - rest * self._rest_scale) + _EXACT

    def bounds(self, rows: Stored, norms: Float32s | None, threshold: float) -> Bounds:
        """See `Kernel`."""
        if norms is None:
            norms = row_norms(rows)
        lengths = norms.astype(np.float64)
        products = _products(self._query, rows)
        products *= self._scale
        self._replace_odd(rows, products, lengths)
        low, width = self._intervals(products, lengths, self._error)
        if self._rest is None:
            return Bounds(None, low, 1.0, width)
        index = np.flatnonzero(low <= threshold)
        if index.size > len(rows) // 4:
            products += dots(self._rest, rows) * self._rest_scale
            low, width = self._intervals(products, lengths, self._rest_error)
            return Bounds(None, low, 1.0, width)
        if not index.size:
            return Bounds(index, low[:0], 1.0, 0.0)
        products = products[index] + dots(self._rest, rows[index]) * self._rest_scale
        low, width = self._intervals(products, lengths[index], self._rest_error)
        return Bounds(index, low, 1.0, width)

    def key(self, distance: float) -> float:
        """See `Kernel`."""
        if self._metric is Metric.COSINE:
            return distance - 1.0 + 2.0**-50
        if self._metric is Metric.DOT_PRODUCT:
            return distance / self._length
        return distance * distance * (1.0 + 2.0**-50)

    def _intervals(
        self, products: Float64s, lengths: Float64s, error: float
    ) -> tuple[Float64s, float | Float64s]:
        """Return `low` and `width` for products known to within `error` times the lengths."""
        if self._metric is Metric.COSINE:
            slack = 1.05 * (error + self._norm_error)
            low = products / lengths
            np.negative(low, out=low)
            low -= slack
            return low, 2.0 * slack
        if self._metric is Metric.DOT_PRODUCT:
            slacks = lengths * (1.05 * error)
            low = -products
            low -= slacks
            return low, 2.0 * slacks
        squared = self._length * self._length
        squares = lengths * lengths
        slacks = lengths * (2.1 * self._length * error)
        # The last term covers what underflows in products of short rows, too.
        slacks += squares * (2.1 * self._norm_error) + squared * 2.0**-40
        low = squares - products * (2.0 * self._length)
        low += squared
        low -= slacks
        return low, 2.0 * slacks

    def _replace_odd(self, rows: Stored, products: Float64s, lengths: Float64s) -> None:
        """Put exact values where a row's length is 0 or leaves what float32 products can bear."""
        if self._metric is Metric.EUCLIDEAN:
            return
        smallest, largest = np.minimum.reduce(lengths), np.maximum.reduce(lengths)
        if smallest >= LENGTH_MIN and largest <= _LENGTH_MAX:
            return
        products[lengths == 0.0] = 0.0
        odd = np.flatnonzero(~((lengths >= LENGTH_MIN) & (lengths <= _LENGTH_MAX)))
        measured = odd[lengths[odd] > 0.0]
        with np.errstate(invalid="ignore"):  # rows that are not live may hold anything
            exact = exact_distances(rows[measured], self._exact_query, self._metric)
        if self._metric is Metric.COSINE:
            products[measured] = 1.0 - exact
            lengths[odd] = 1.0
        else:
            products[measured] = -exact / self._length
            lengths[odd] = 0.0


def _is_int8(vector: Float64s) -> bool:
    fits = (vector >= -128.0) & (vector <= 127.0) & (np.rint(vector) == vector)
    return bool(fits.all())


def _length(vector: Float64s) -> float:
    return float(np.sqrt(np.add.reduce(vector * vector)))
