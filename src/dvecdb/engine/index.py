"""The index of a collection as searches use it: published whole, never changed, but replaced.

It covers rows by number, wherever they lie: flushes and compactions do not touch it. Which of them
are live at an LSN is one bit a row, kept for the newest LSN and for some earlier ones.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from dvecdb.clock import NANOSECONDS_PER_SECOND
from dvecdb.engine.rows import live_mask

if TYPE_CHECKING:
    import numpy.typing as npt

    from dvecdb.clock import Clock
    from dvecdb.engine.rows import View
    from dvecdb.search.effort import Cost, Curve
    from dvecdb.search.ivf import Codes

    Numbers = npt.NDArray[np.int64]
    Flags = npt.NDArray[np.bool_]

_PAST_KEPT: Final = 4


@dataclass(frozen=True, slots=True)
class LiveRows:
    """Which of the first rows are live at an LSN. mask: bool[rows], None for all of them.

    bits: the same as uint8, low bit first; shared with the codes, which read it.
    """

    lsn: int
    count: int
    mask: Flags | None
    bits: npt.NDArray[np.uint8] | None


@dataclass(slots=True)
class Index:
    """Codes of the rows below `row_end`, those below `base_end` in their shared part.

    Rows without a code, both int64, rising: zeros, for cosine, as far from every query; apart,
    which are measured each time: they were damaged when they should have got one, or are too long
    for it. apart_before: how many those were when the lists were made. name: of the file, None if
    only in memory.
    """

    codes: Codes
    curve: Curve
    cost: Cost
    base_end: int
    row_end: int
    trained_rows: int
    zeros: Numbers
    apart: Numbers
    apart_before: int
    name: str | None = None
    _newest: LiveRows | None = None
    _past: dict[int, LiveRows] = field(default_factory=dict)

    def live(self, view: View, lsn: int, row_limit: int) -> LiveRows:
        """Return which rows of the index are live at `lsn`, when there were `row_limit` rows."""
        newest = self._newest
        if newest is not None and newest.lsn == lsn:
            return newest
        past = self._past.get(lsn)
        if past is not None:
            return past
        # Only of a state that has all rows of the index the next one follows by what ended.
        if row_limit >= self.row_end and (newest is None or lsn > newest.lsn):
            self._newest = found = _advance(newest, view, lsn) or live_rows(
                view, lsn, self.row_end, self.row_end
            )
            return found
        found = live_rows(view, lsn, min(self.row_end, row_limit), self.row_end)
        kept = list(self._past.items())[-_PAST_KEPT + 1 :]
        self._past = {**dict(kept), lsn: found}
        return found


def live_rows(view: View, lsn: int, limit: int, size: int) -> LiveRows:
    """Return which of `size` rows are live at `lsn`; those from `limit` on were not born."""
    mask = np.zeros(size, dtype=np.bool_)
    for segment in view.row_segments:
        count = segment.count_below(limit)
        if not count:
            continue
        live = live_mask(segment.ends[:count], lsn)
        if segment.row_numbers is None:
            mask[segment.first_row : segment.first_row + count] = live
        else:
            mask[segment.row_numbers[:count][live]] = True
    for chunk, count in view.chunks(limit):
        mask[chunk.first_row : chunk.first_row + count] = live_mask(chunk.ends[:count], lsn)
    return _packed(lsn, mask)


def _packed(lsn: int, mask: Flags) -> LiveRows:
    count = int(np.count_nonzero(mask))
    if count == len(mask):
        return LiveRows(lsn, count, None, None)
    return LiveRows(lsn, count, mask, np.packbits(mask, bitorder="little"))


def _advance(newest: LiveRows | None, view: View, lsn: int) -> LiveRows | None:
    """Return what is live at a later LSN, from the ends recorded since; None if they are gone."""
    if newest is None or view.memtables[0].first_lsn > newest.lsn + 1:
        return None
    size = newest.count if newest.mask is None else len(newest.mask)
    ended = [
        rows
        for memtable in view.memtables
        for end_lsn, rows in _ends_after(memtable.ends, newest.lsn)
        if end_lsn <= lsn
    ]
    rows = np.concatenate(ended).astype(np.int64) if ended else np.zeros(0, np.int64)
    rows = rows[rows < size]
    if not len(rows):
        return LiveRows(lsn, newest.count, newest.mask, newest.bits)
    mask = np.ones(size, dtype=np.bool_) if newest.mask is None else newest.mask.copy()
    mask[rows] = False
    return _packed(lsn, mask)


def _ends_after(
    ends: list[tuple[int, npt.NDArray[np.uint64]]], lsn: int
) -> list[tuple[int, npt.NDArray[np.uint64]]]:
    """Return the newest of a memtable's ends, back to `lsn`."""
    start = len(ends)
    while start and ends[start - 1][0] > lsn:
        start -= 1
    return ends[start:]


class Progress:
    """How far the work on one collection's index is, for `stats`."""

    __slots__ = ("_clock", "_kept", "_started_ns", "done", "is_building", "to_do")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started_ns = 0
        self.done = self.to_do = self._kept = 0
        self.is_building = False

    def start(self, rows: int, kept: int) -> None:
        """Begin to count so many rows, beside those that are kept as they are."""
        self._started_ns = self._clock.monotonic_ns()
        self.done, self.to_do, self._kept, self.is_building = 0, rows, kept, True

    @property
    def rows_done(self) -> int:
        """The rows that are in what is being made."""
        return self._kept + self.done

    def seconds_left(self) -> float | None:
        """Return how long it will go on at this rate, None if that cannot be told yet."""
        if not self.done:
            return None
        passed = (self._clock.monotonic_ns() - self._started_ns) / NANOSECONDS_PER_SECOND
        return max(0.0, passed * (self.to_do - self.done) / self.done)


class Indexing:
    """The work on a collection's index. `lock`: who makes one; `changed`: it was published.

    wanted_from: the number of rows from which it is looked again whether one is due.
    """

    __slots__ = ("changed", "lock", "progress", "wanted_from")

    def __init__(self, clock: Clock) -> None:
        self.lock = threading.Lock()
        self.changed = threading.Condition()
        self.wanted_from = 0
        self.progress = Progress(clock)
