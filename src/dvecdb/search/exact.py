"""The definition of distance: float64 arithmetic, the same for a row whatever rows stand beside it.

Every distance a user sees comes from `exact_distances`. Stored values and the query are converted
to float64, multiplied or subtracted element by element, and summed along each row by
`np.add.reduce`. That sum is pairwise in an order that depends on the dimension alone, so a row's
distance does not change with the block it is measured in (BLAS and einsum do not promise that).

Smaller is nearer:

    cosine       1 - cos, within 0 .. 2; exactly 1 if either vector is zero
    euclidean    square root of the sum of squared differences
    manhattan    sum of absolute differences
    dot_product  minus the dot product

Nothing here overflows: float32 values squared and summed stay below 1e83.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, assert_never

import numpy as np

from dvecdb.records import Metric

if TYPE_CHECKING:
    import numpy.typing as npt

CHUNK_ELEMENTS: Final = 32 * 1024
"""Components converted to float64 at a time: 256 KiB, which stays in the processor's cache."""


_INDIFFERENT: Final = {Metric.COSINE: 1.0, Metric.DOT_PRODUCT: 0.0}
"""The distance of every row to a zero query."""


def exact_distances(
    rows: npt.NDArray[Any], query: npt.NDArray[np.float32], metric: Metric
) -> npt.NDArray[np.float64]:
    """Return the distance of every row.

    rows: float32, float16 or int8 [n, d]; query: float32[d], finite. result: float64[n], not
    finite for rows that are not.
    """
    target = query.astype(np.float64)
    count, dimension = rows.shape
    if metric in _INDIFFERENT and not target.any():
        return np.where(np.isfinite(rows).all(axis=1), _INDIFFERENT[metric], np.nan)
    step = max(1, CHUNK_ELEMENTS // max(1, dimension))
    with np.errstate(invalid="ignore"):
        if count <= step:
            return _measure(rows.astype(np.float64, order="C"), target, metric)
        distances = np.empty(count)
        for start in range(0, count, step):
            chunk = rows[start : start + step].astype(np.float64, order="C")
            distances[start : start + step] = _measure(chunk, target, metric)
    return distances


def _measure(
    chunk: npt.NDArray[np.float64], target: npt.NDArray[np.float64], metric: Metric
) -> npt.NDArray[np.float64]:
    """Return the distances of `chunk`, float64[n, d] in C order, which is overwritten."""
    distances: npt.NDArray[np.float64]
    match metric:
        case Metric.COSINE:
            distances = _cosine(chunk, target)
        case Metric.EUCLIDEAN:
            np.subtract(chunk, target, out=chunk)
            np.multiply(chunk, chunk, out=chunk)
            distances = np.sqrt(np.add.reduce(chunk, axis=1))
        case Metric.MANHATTAN:
            np.subtract(chunk, target, out=chunk)
            np.abs(chunk, out=chunk)
            distances = np.add.reduce(chunk, axis=1)
        case Metric.DOT_PRODUCT:
            np.multiply(chunk, target, out=chunk)
            distances = 0.0 - np.add.reduce(chunk, axis=1)  # never -0.0
        case _:
            assert_never(metric)
    return distances


def _cosine(
    chunk: npt.NDArray[np.float64], target: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    squares = np.add.reduce(chunk * chunk, axis=1)
    np.multiply(chunk, target, out=chunk)
    cosines = np.add.reduce(chunk, axis=1)
    # sqrt(a * b), not sqrt(a) * sqrt(b): it is exact for equal vectors, whose distance is then 0.
    lengths = np.sqrt(squares * np.add.reduce(target * target))
    np.divide(cosines, lengths, out=cosines, where=lengths > 0.0)  # a zero row keeps cosine 0
    distances: npt.NDArray[np.float64] = 1.0 - cosines
    np.maximum(distances, 0.0, out=distances)
    np.minimum(distances, 2.0, out=distances)
    return distances
