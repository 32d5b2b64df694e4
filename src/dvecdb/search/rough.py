"""Distances by float32, with a proven error: which of some candidates have to be measured.

The bounds are those of `kernels`: of a sum of products in any order, and of the few operations
around it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from dvecdb.records import Metric
from dvecdb.search.kernels import (
    LENGTH_MIN,
    dots,
    rounding,
    row_length,
    row_norms,
    squared_distances,
)

if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

    Float32s = npt.NDArray[np.float32]

_TINY: Final = 2.0**-120  # what a term may lose that is too small for float32


class Rough:
    """**Keys** of rows, numbers that sort as their distances to one query do, but for rounding.

    A row that is no farther than another one has no key beyond `limit` of that one's.
    """

    __slots__ = ("_gain", "_longest", "_metric", "_query", "_width")

    def __init__(self, query: Float32s, metric: Metric) -> None:
        """Take a query, float32[d], not zero unless L1 or L2."""
        self._metric = metric
        self._query = query[None]
        error = 2.0 * rounding(len(query))
        self._gain, self._width, self._longest = 0.0, len(query) * _TINY, 0.0
        if metric in {Metric.MANHATTAN, Metric.EUCLIDEAN}:
            self._gain, self._longest = error, 1.0
            return
        length = row_length(query)
        if length > LENGTH_MIN:
            self._query, self._width = self._query / np.float32(length), error * (1.0 + error)
        else:  # what is that short is not divided by its length: it is rounded, too
            self._query = self._query / np.abs(query).max()
            self._width = error * float(np.linalg.norm(self._query.astype(np.float64)))
        self._longest = float(metric is Metric.COSINE)

    def keys(self, rows: Float32s) -> npt.NDArray[Any]:
        """Return the keys of rows, float32[n, d] in C order, which float32 can measure: [n].

        Rows with numbers that are not finite have NaN.
        """
        if self._metric is Metric.MANHATTAN:
            with np.errstate(all="ignore"):
                return np.asarray(np.abs(rows - self._query).sum(axis=1))
        if self._metric is Metric.EUCLIDEAN:
            return squared_distances(self._query, rows)
        return self._turned(dots(self._query, rows), row_norms(rows))

    def _turned(self, products: npt.NDArray[Any], lengths: Float32s) -> npt.NDArray[Any]:
        """Return the keys of rows by what they have in common with the query."""
        if self._metric is Metric.COSINE:
            lengths[lengths == 0.0] = 1.0
            return -products / lengths
        self._longest = max(self._longest, float(np.fmax.reduce(lengths)))
        return -products

    def limit(self, key: float) -> float:
        """Return the largest key of a row that may be no farther than one with this key."""
        return key * (1.0 + self._gain) + self._width * self._longest
