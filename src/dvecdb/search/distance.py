"""Exact nearest rows of one query, block by block, however the rows are cut into blocks.

The answer is that of measuring every live row with `exact.exact_distances` and sorting by
(distance, row). To get there quickly, `TopK` keeps a **threshold**: a key (see `kernels`) that at
least `limit` rows seen so far are sure not to exceed. A row whose lowest possible key is above it
cannot be among the answer. The others are copied, and measured exactly in the end. Copies are
bounded: beyond `PENDING_BYTES` they are measured early, which also sharpens the threshold.

Not here: which rows are live, verified or filtered. Nothing here blocks, reads files or keeps
hold of the arrays it was offered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dvecdb.records import Metric
from dvecdb.search.exact import exact_distances
from dvecdb.search.kernels import Kernel, copy_rows, make_kernel, needs_norms, row_norms

if TYPE_CHECKING:
    import numpy.typing as npt

    from dvecdb.records import VectorType

    Numbers = npt.NDArray[np.int64]
    Distances = npt.NDArray[np.float64]

__all__ = ["TopK", "copy_rows", "exact_distances", "needs_norms", "row_norms"]

PENDING_BYTES: Final = 32 * 1024 * 1024
PENDING_BYTES_MAX: Final = 4 * PENDING_BYTES
"""Copied rows that wait to be measured exactly, at most, give or take one block: room for twice
`limit` rows, but no more than the maximum."""
SMALL_ELEMENTS: Final = 16 * 1024
"""Blocks up to this many components are measured exactly at once: bounds would cost more."""
FOUND_SPARE: Final = 4 * 1024
"""Measured rows kept beyond twice `limit` before they are cut: sorting often costs more."""
GATHER_SHARE: Final = 3
"""Live rows are copied out of a block when they are at most one in so many."""
_INDIFFERENT: Final = (Metric.COSINE, Metric.DOT_PRODUCT)  # to every row, for a zero query


class TopK:
    """The `limit` nearest rows of one query over many blocks. One thread; offer each row once."""

    __slots__ = (
        "_found",
        "_found_count",
        "_highs",
        "_highs_count",
        "_indifferent",
        "_kernel",
        "_limit",
        "_metric",
        "_pending",
        "_pending_bytes",
        "_pending_bytes_max",
        "_query",
        "_threshold",
        "_type",
        "_worst",
    )

    def __init__(
        self, query: npt.NDArray[np.float32], metric: Metric, vector_type: VectorType, limit: int
    ) -> None:
        """Search for `query`, float32[d], finite; `limit` >= 1."""
        assert query.ndim == 1
        assert query.dtype == np.float32
        assert limit >= 1
        self._query = np.ascontiguousarray(query)
        self._metric = metric
        self._type = vector_type
        self._limit = limit
        self._indifferent = metric in _INDIFFERENT and not query.any()
        self._kernel: Kernel | None = None
        self._threshold = math.inf
        self._highs: list[Distances] = []  # upper bounds of keys; the lowest `limit` come first
        self._highs_count = 0  # how many of them came since the threshold was last lowered
        self._pending: list[_Candidates] = []
        self._pending_bytes = 0
        self._pending_bytes_max = min(
            max(PENDING_BYTES, 2 * limit * query.size * vector_type.dtype.itemsize),
            PENDING_BYTES_MAX,
        )
        self._found: list[tuple[Distances, Numbers]] = []
        self._found_count = 0
        self._worst = math.inf  # distance of the last row that was in the last cut

    def offer(
        self,
        rows: npt.NDArray[Any],
        first_row: int,
        live: npt.NDArray[np.bool_] | None = None,
        norms: npt.NDArray[np.float32] | None = None,
        numbers: Numbers | None = None,
    ) -> None:
        """Consider rows `first_row` and following, or those with these `numbers`, which rise.

        rows: stored type [n, d]; live: bool[n], None: all; norms: `row_norms(rows)`, used where
        `needs_norms` says so and then computed if None. A live row that is not finite, which only
        an import can bring, is never found; the bytes of the others may be anything.
        """
        assert rows.dtype == self._type.dtype
        assert rows.shape[1:] == self._query.shape
        small = rows.size <= SMALL_ELEMENTS or self._indifferent
        if live is not None:
            count = int(np.count_nonzero(live))
            if count == len(live):
                live = None
            elif small or count * GATHER_SHARE <= len(live):
                alive = np.flatnonzero(live)
                numbers = alive + first_row if numbers is None else numbers[alive]
                rows, live = rows[alive], None
                norms = None if norms is None else norms[alive]
                small = small or rows.size <= SMALL_ELEMENTS
        if not len(rows):
            return
        if small:
            if numbers is None:
                numbers = np.arange(first_row, first_row + len(rows))
            self._add_found(exact_distances(rows, self._query, self._metric), numbers)
            return
        if not (rows.flags.c_contiguous and rows.flags.aligned):
            rows = rows.copy()
        self._scan(rows, first_row, numbers, live, norms)

    def offer_measured(self, numbers: Numbers, distances: Distances) -> None:
        """Consider rows whose exact distances are known; early, they spare work on the others."""
        self._add_found(distances, numbers)
        self._cut_found()

    def result(self) -> tuple[Numbers, Distances]:
        """Return rows and distances by (distance, row): int64[m], float64[m], m <= limit."""
        self._measure_pending()
        self._cut_found()
        if not self._found:
            return np.empty(0, np.int64), np.empty(0)
        distances, numbers = self._found[0]
        return numbers, distances

    def _scan(
        self,
        rows: npt.NDArray[Any],
        first_row: int,
        numbers: Numbers | None,
        live: npt.NDArray[np.bool_] | None,
        norms: npt.NDArray[np.float32] | None,
    ) -> None:
        """Keep the rows that may be among the answer."""
        if self._kernel is None:
            self._kernel = make_kernel(self._query, self._metric, self._type)
            if self._worst < math.inf:
                self._sharpen(self._kernel.key(self._worst))
        bounds = self._kernel.bounds(rows, norms, self._threshold)
        near = bounds.low <= self._threshold
        if live is not None:
            near &= live if bounds.index is None else live[bounds.index]
        chosen = np.flatnonzero(near)
        if not chosen.size:
            return
        low = bounds.low[chosen]
        width = bounds.width if isinstance(bounds.width, float) else bounds.width[chosen]
        self._lower_threshold(low * bounds.gain + width)
        if chosen.size > self._limit:
            near = low <= self._threshold
            chosen, low = chosen[near], low[near]
        index = chosen if bounds.index is None else bounds.index[chosen]
        numbers = index + first_row if numbers is None else numbers[index]
        self._pending.append(_Candidates(rows[index], numbers, low))
        self._pending_bytes += index.size * rows.strides[0]
        if self._pending_bytes > self._pending_bytes_max:
            self._relieve()

    def _lower_threshold(self, highs: Distances) -> None:
        """Take upper bounds of the keys of more rows into account; rows not finite have none."""
        highs = highs[np.isfinite(highs)]
        self._highs.append(highs)
        self._highs_count += highs.size
        if self._highs_count * 8 < self._limit:
            return
        best = np.concatenate(self._highs)
        if best.size >= self._limit:
            best = np.partition(best, self._limit - 1)[: self._limit]
            self._sharpen(float(best[-1]))
        self._highs = [best]
        self._highs_count = 0

    def _sharpen(self, key: float) -> None:
        """Lower the threshold to `key`, which at least `limit` rows are sure not to exceed."""
        assert self._kernel is not None
        if key < self._threshold and key <= self._kernel.key_max:
            self._threshold = key

    def _relieve(self) -> None:
        """Drop candidates that are out of reach by now; measure the rest if it is still much."""
        self._pending = [item.within(self._threshold) for item in self._pending]
        self._pending_bytes = sum(item.rows.nbytes for item in self._pending)
        if self._pending_bytes * 2 > self._pending_bytes_max:
            self._measure_pending()
            self._cut_found()

    def _measure_pending(self) -> None:
        for item in self._pending:
            within = item.within(self._threshold)
            if within.numbers.size:
                distances = exact_distances(within.rows, self._query, self._metric)
                self._add_found(distances, within.numbers)
        self._pending, self._pending_bytes = [], 0

    def _add_found(self, distances: Distances, numbers: Numbers) -> None:
        """Take measured rows into account."""
        near = (distances <= self._worst) & np.isfinite(distances)
        if not near.all():
            distances, numbers = distances[near], numbers[near]
        self._found.append((distances, numbers))
        self._found_count += distances.size
        if self._found_count > 2 * self._limit + FOUND_SPARE:
            self._cut_found()

    def _cut_found(self) -> None:
        """Keep the `limit` nearest measured rows, in order."""
        if not self._found:
            return
        distances = np.concatenate([item[0] for item in self._found])
        numbers = np.concatenate([item[1] for item in self._found])
        order = np.lexsort((numbers, distances))[: self._limit]
        distances, numbers = distances[order], numbers[order]
        self._found, self._found_count = [(distances, numbers)], distances.size
        if distances.size == self._limit:
            self._worst = float(distances[-1])
            if self._kernel is not None:
                self._sharpen(self._kernel.key(self._worst))


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Copies of rows that may be among the answer: [m, d], int64[m], float64[m]."""

    rows: npt.NDArray[Any]
    numbers: Numbers
    low: Distances

    def within(self, threshold: float) -> _Candidates:
        """Return those whose key may be `threshold` or less."""
        near = self.low <= threshold
        if near.all():
            return self
        return _Candidates(self.rows[near], self.numbers[near], self.low[near])
