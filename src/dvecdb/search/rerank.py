"""The nearest of some candidates: first roughly, in float32, then all that may matter exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dvecdb.search.exact import exact_distances
from dvecdb.search.kernels import rough_distances

if TYPE_CHECKING:
    import numpy.typing as npt

    from dvecdb.records import Metric

    Numbers = npt.NDArray[np.int64]
    Distances = npt.NDArray[np.float64]

_SPARE: Final = 3  # so few rows beyond the limit are measured sooner than they are looked at


class Taken:
    """Rows side by side in memory, with their numbers: what is to be measured."""

    __slots__ = ("_numbers", "_rows", "count")

    def __init__(self, room: int, dimension: int, dtype: np.dtype[Any]) -> None:
        self._rows = np.empty((room, dimension), dtype)
        self._numbers = np.empty(room, np.int64)
        self.count = 0

    def add(self, vectors: npt.NDArray[Any], ordinals: Numbers, numbers: Numbers) -> None:
        """Copy those of `vectors` that `ordinals` name."""
        end = self.count + len(ordinals)
        vectors.take(ordinals, axis=0, out=self._rows[self.count : end], mode="clip")
        self._numbers[self.count : end] = numbers
        self.count = end

    @property
    def rows(self) -> npt.NDArray[Any]:
        """The rows: [count, dimension]."""
        return self._rows[: self.count]

    @property
    def numbers(self) -> Numbers:
        """Their numbers: int64[count]."""
        return self._numbers[: self.count]


def nearest_of(
    rows: npt.NDArray[Any],
    numbers: Numbers,
    query: npt.NDArray[np.float32],
    metric: Metric,
    limit: int,
    *,
    roughly: bool = True,
) -> tuple[Numbers, Distances]:
    """Return the `limit` nearest of `rows` by (distance, number), measured by `exact_distances`.

    rows: of a stored type [m, d]; numbers: int64[m]; query: float32[d]. Rows that are not finite
    are never found. roughly: none is so long or so short that float32 cannot measure it.
    result: int64[n], float64[n].
    """
    if roughly and len(rows) > limit + _SPARE:
        rough, gain, width = rough_distances(rows.astype(np.float32, copy=False), query, metric)
        last = float(np.partition(rough, limit - 1)[limit - 1])
        kept = ~(rough > last * (1.0 + gain) + width)  # NaN, if `last` is none, keeps all
        rows, numbers = rows[kept], numbers[kept]
    distances = exact_distances(rows, query, metric)
    order = np.lexsort((numbers, distances))[:limit]
    numbers, distances = numbers[order], distances[order]
    if len(distances) and not np.isfinite(distances[-1]):
        finite = np.isfinite(distances)
        return numbers[finite], distances[finite]
    return numbers, distances
