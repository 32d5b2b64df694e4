"""The nearest of some candidates: first roughly, in float32, then all that may matter exactly."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dvecdb.search.exact import exact_distances
from dvecdb.search.rough import Rough

if TYPE_CHECKING:
    import numpy.typing as npt

    from dvecdb.records import Metric

    Rows = npt.NDArray[Any]
    Numbers = npt.NDArray[np.int64]
    Distances = npt.NDArray[np.float64]

_BLOCK_BYTES: Final = 512 * 1024
"""Rows are looked at so many at a time: what was just copied is then still near the processor."""
_SPARE: Final = 3  # so few rows beyond the limit are measured sooner than they are looked at
_memory = threading.local()


class Candidates:
    """Rows of one or more sources, of which the nearest to a query are wanted. For one thread."""

    __slots__ = (
        "_block", "_ends", "_filled", "_keys", "_limit", "_looked", "_metric", "_numbers", "_parts",
        "_query", "_rough",
    )  # fmt: skip

    def __init__(
        self,
        query: npt.NDArray[np.float32],
        metric: Metric,
        dtype: np.dtype[Any],
        limit: int,
        room: int,
        *,
        roughly: bool = True,
    ) -> None:
        """Take at most `room` rows of a stored type, of which `limit` are wanted.

        query: float32[d]; roughly: none is so long or so short that float32 cannot measure it.
        """
        self._query, self._metric, self._limit = query, metric, limit
        is_many = room > limit + _SPARE
        self._rough = Rough(query, metric) if roughly and is_many else None
        self._block = _block(len(query), dtype, 0 if self._rough is None else room)
        self._filled = self._looked = 0
        self._keys = np.empty(room, np.float64)
        self._numbers = np.empty(room, np.int64)
        self._parts: list[tuple[Rows, Numbers]] = []
        self._ends = [0]

    def add(self, vectors: Rows, ordinals: Numbers, numbers: Numbers) -> None:
        """Consider those of `vectors` [m, d] that `ordinals` name. numbers: of their rows."""
        first = self._ends[-1]
        self._numbers[first : first + len(ordinals)] = numbers
        self._parts.append((vectors, ordinals))
        self._ends.append(first + len(ordinals))
        start = 0 if self._rough is not None else len(ordinals)
        while start < len(ordinals):
            filled = self._filled
            count = min(len(ordinals) - start, len(self._block) - filled)
            target = self._block[filled : filled + count]
            vectors.take(ordinals[start : start + count], axis=0, out=target, mode="clip")
            start, self._filled = start + count, filled + count
            if self._filled == len(self._block):
                self._look()

    def _look(self) -> None:
        """Find the keys of the rows in the block, which may be filled anew."""
        assert self._rough is not None
        end = self._looked + self._filled
        rows = self._block[: self._filled].astype(np.float32, copy=False)
        self._keys[self._looked : end] = self._rough.keys(rows)
        self._looked, self._filled = end, 0

    def nearest(self) -> tuple[Numbers, Distances]:
        """Return the nearest by (distance, number), as `exact_distances` measures them.

        Rows that are not finite are never found. result: int64[n], float64[n].
        """
        count = self._ends[-1]
        numbers, rows = self._numbers[:count], None
        if self._rough is not None and count > self._limit + _SPARE:
            if self._filled:
                self._look()
            kept = _near(self._keys[:count], self._rough, self._limit)
            numbers = numbers[kept]
            rows = self._block[kept] if count <= len(self._block) else self._rows(kept)
        if rows is None:
            rows = self._rows(np.arange(count))
        return _ordered(rows, numbers, self._query, self._metric, self._limit)

    def _rows(self, wanted: Numbers) -> Rows:
        """Return some of the rows, by their places in the order they came: [n, d]."""
        rows = np.empty((len(wanted), len(self._query)), self._block.dtype)
        bounds = np.searchsorted(wanted, self._ends).tolist()
        ends = zip(self._ends, bounds[:-1], bounds[1:], strict=False)
        for (vectors, ordinals), (first, low, high) in zip(self._parts, ends, strict=True):
            if high > low:
                chosen = ordinals[wanted[low:high] - first]
                vectors.take(chosen, axis=0, out=rows[low:high], mode="clip")
        return rows


def _near(keys: npt.NDArray[Any], rough: Rough, limit: int) -> npt.NDArray[np.intp]:
    """Return which rows may be among the `limit` nearest, by their keys."""
    last = rough.limit(float(np.partition(keys, limit - 1)[limit - 1]))
    return np.flatnonzero(~(keys > last))  # NaN, if `last` is none, keeps all


def _ordered(
    rows: Rows, numbers: Numbers, query: npt.NDArray[np.float32], metric: Metric, limit: int
) -> tuple[Numbers, Distances]:
    """Return the nearest of rows [n, d] by (distance, number), if they are finite."""
    distances = exact_distances(rows, query, metric)
    order = np.lexsort((numbers, distances))[:limit]
    numbers, distances = numbers[order], distances[order]
    if len(distances) and not np.isfinite(distances[-1]):
        finite = np.isfinite(distances)
        return numbers[finite], distances[finite]
    return numbers, distances


def _block(dimension: int, dtype: np.dtype[Any], room: int) -> Rows:
    """Return memory of this thread for some of `room` rows: used again, it is mapped already."""
    row_bytes = dimension * dtype.itemsize
    count = min(room, max(1, _BLOCK_BYTES // row_bytes))
    held: npt.NDArray[np.uint8] | None = getattr(_memory, "held", None)
    if held is None or len(held) < count * row_bytes:
        held = _memory.held = np.empty(max(_BLOCK_BYTES, count * row_bytes), np.uint8)
    return held[: count * row_bytes].view(dtype).reshape(count, dimension)
