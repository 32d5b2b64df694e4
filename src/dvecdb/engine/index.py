"""The index of a collection as searches use it: published whole, never changed, but replaced.

It covers rows by number, wherever they lie: flushes and compactions do not touch it. Inside, a row
goes by its **place** among the rows that were there, so that what was dropped long ago costs
nothing. Which places are live at an LSN is one bit each, kept for the newest and some earlier LSNs.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

import numpy as np

from dvecdb.clock import NANOSECONDS_PER_SECOND
from dvecdb.engine.located import Located
from dvecdb.engine.narrowed import Filters
from dvecdb.engine.rows import live_mask
from dvecdb.engine.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from dvecdb.clock import Clock
    from dvecdb.engine.memtable import Chunk
    from dvecdb.engine.row_range import RowRange
    from dvecdb.engine.rows import View
    from dvecdb.search.conditions import Filter
    from dvecdb.search.effort import Curve
    from dvecdb.search.ivf import Codes

    Numbers = npt.NDArray[np.int64]
    Flags = npt.NDArray[np.bool_]

_PAST_KEPT: Final = 4
_MATCHING_KEPT: Final = 16
_MATCHING_BYTES: Final = 16 * 1024 * 1024  # of all that are kept
_ASKED_BEFORE: Final = 100
"""So many searches of a view read their candidates before it is found out where all rows lie."""


@dataclass(frozen=True, slots=True)
class LiveRows:
    """Which places are live at an LSN. mask: bool[places], None for all of them.

    bits: the same as uint8, low bit first; shared with the codes, which read it.
    """

    lsn: int
    count: int
    mask: Flags | None
    bits: npt.NDArray[np.uint8] | None


MatchKey = tuple["Filter", int, int]
"""A filter, an LSN, and the number of rows there were."""


@dataclass(slots=True)
class MatchingRows:
    """Which places are live and match a filter: bool[places], and how many those are.

    bits: see `LiveRows`; made when they are first needed.
    """

    mask: Flags
    total: int
    bits: npt.NDArray[np.uint8] | None = None


@dataclass(slots=True)
class Index:
    """Codes of the rows below `row_end`, those below `base_end` in their shared part.

    places: the rows by place; codes know them by that. Rows without a code, both int64, rising:
    zeros, for cosine, as far from every query; apart, which are measured each time: they were
    damaged when they should have got one, or are too long for it. apart_before: how many those
    were when the lists were made. name: of the file, None if only in memory. filters: those that
    are asked for often.
    """

    codes: Codes
    curve: Curve
    places: RowRange
    base_end: int
    trained_rows: int
    zeros: Numbers
    apart: Numbers
    apart_before: int
    name: str | None = None
    filters: Filters = field(default_factory=Filters)
    _newest: LiveRows | None = None
    _past: dict[int, LiveRows] = field(default_factory=dict)
    _matching: dict[MatchKey, MatchingRows] = field(default_factory=dict)
    _located: WeakKeyDictionary[View, Located] = field(default_factory=WeakKeyDictionary)
    _asked: WeakKeyDictionary[View, int] = field(default_factory=WeakKeyDictionary)

    @property
    def row_end(self) -> int:
        """The number that follows the last row."""
        return self.places.row_end

    def places_of(self, rows: Numbers) -> Numbers:
        """Return the places of rows below `row_end`; those that are not held have none."""
        found = self.places.ordinals_of(rows)
        return found if self.places.row_numbers is None else found[found >= 0]

    def located(self, view: View) -> Located | None:
        """Return where the rows lie that a view holds, None as long as that is not worth it.

        Under load views and indexes come and go: it is found out for those that stay for a while.
        """
        found = self._located.get(view)
        if found is not None and found.is_current(view):
            return found
        asked = self._asked[view] = self._asked.get(view, 0) + 1
        if asked <= _ASKED_BEFORE:
            return None
        self._asked[view] = 0
        found = Located.of(view, self.places)
        if found is not None:
            self._located[view] = found
        return found

    @property
    def is_searched(self) -> bool:
        """Whether anybody looked for candidates in it yet."""
        return bool(self._asked or self._located)

    def known_located(self, view: View) -> Located | None:
        """Return where the rows lie if that was found out."""
        return self._located.get(view)

    def keep_located(self, view: View, located: Located) -> None:
        """Know where the rows of a view lie."""
        self._located[view] = located

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
            self._newest = found = self._advance(newest, view, lsn) or self._look(
                view, lsn, row_limit
            )
            return found
        found = self._look(view, lsn, row_limit)
        kept = list(self._past.items())[-_PAST_KEPT + 1 :]
        self._past = {**dict(kept), lsn: found}
        return found

    def matching(self, key: MatchKey) -> MatchingRows | None:
        """Return what was kept for a filter and a state."""
        return self._matching.get(key)

    def keep_matching(self, key: MatchKey, found: MatchingRows) -> None:
        """Keep what is the same for whoever asks again, instead of what was kept longest."""
        most = max(1, min(_MATCHING_KEPT, _MATCHING_BYTES // max(1, len(found.mask))))
        kept = list(self._matching.items())[1 - most :] if most > 1 else []
        self._matching = {**dict(kept), key: found}

    def _look(self, view: View, lsn: int, row_limit: int) -> LiveRows:
        """Return which places are live, from the ends of all rows."""
        mask = np.zeros(self.places.rows, dtype=np.bool_)
        for source, count in view.sources(min(self.row_end, row_limit)):
            self.put(mask, source, live_mask(source.ends[:count], lsn))
        return _packed(lsn, mask)

    def put(self, mask: Flags, source: Segment | Chunk, own: Flags) -> None:
        """Set bool[places] to true where the first rows of a source have it: bool[n]."""
        numbers = source.row_numbers if isinstance(source, Segment) else None
        if numbers is None and self.places.row_numbers is None:
            mask[source.first_row : source.first_row + len(own)] = own
        else:
            mask[self.places_of(source.rows_at(np.flatnonzero(own)))] = True

    def _advance(self, newest: LiveRows | None, view: View, lsn: int) -> LiveRows | None:
        """Return what is live at a later LSN, from the ends since; None if they are gone."""
        if newest is None or view.memtables[0].first_lsn > newest.lsn + 1:
            return None
        ended = [
            rows
            for memtable in view.memtables
            for end_lsn, rows in _ends_after(memtable.ends, newest.lsn)
            if end_lsn <= lsn
        ]
        rows = np.concatenate(ended).astype(np.int64) if ended else np.zeros(0, np.int64)
        places = self.places_of(rows[rows < self.row_end])
        if not len(places):
            return LiveRows(lsn, newest.count, newest.mask, newest.bits)
        if newest.mask is None:
            mask = np.ones(self.places.rows, dtype=np.bool_)
        else:
            mask = newest.mask.copy()
        mask[places] = False
        return _packed(lsn, mask)


def _packed(lsn: int, mask: Flags) -> LiveRows:
    count = int(np.count_nonzero(mask))
    if count == len(mask):
        return LiveRows(lsn, count, None, None)
    return LiveRows(lsn, count, mask, np.packbits(mask, bitorder="little"))


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


def _nobody() -> None:
    """Wake nobody."""


class Indexing:
    """The work on a collection's index. `lock`: who makes one; `changed`: it was published.

    wanted_from: the number of rows from which it is looked again whether one is due; is_tended:
    there is a thread for it; is_missed: somebody searched since the last step, or waits for the
    index; due_ns: since when there is work that was left for later, None if none is; wake: tells
    that thread of work that no commit tells it of.
    """

    __slots__ = (
        "changed", "clock", "due_ns", "is_missed", "is_tended", "lock", "progress", "wake",
        "wanted_from",
    )  # fmt: skip

    def __init__(self, clock: Clock) -> None:
        self.lock = threading.Lock()
        self.changed = threading.Condition()
        self.wanted_from = 0
        self.due_ns: int | None = None
        self.is_tended = self.is_missed = False
        self.wake: Callable[[], None] = _nobody
        self.clock = clock
        self.progress = Progress(clock)
