"""Which commits are there, and how many rows there were after each of them. Pure."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt


class _Run(NamedTuple):
    """Commits one after the other; rows were numbered from `first_row` on in them, at most."""

    first: int
    last: int
    first_row: int
    row_ends: Sequence[int]


@dataclass(slots=True)
class Coverage:
    """The commits that are known, as runs; what was added first counts where two say the same."""

    _runs: list[_Run] = field(default_factory=list)
    _merged: list[tuple[int, int]] = field(default_factory=list)

    def add(self, first: int, first_row: int, row_ends: Sequence[int]) -> None:
        """Add the commits from `first` on.

        first_row: rows of the collection before them, or more; row_ends: rows after each.
        """
        if not len(row_ends):
            return
        last = first + len(row_ends) - 1
        self._runs.append(_Run(first, last, first_row, row_ends))
        merged: list[tuple[int, int]] = []
        for start, end in sorted([*self._merged, (first, last)]):
            if merged and start <= merged[-1][1] + 1:
                merged[-1] = merged[-1][0], max(merged[-1][1], end)
            else:
                merged.append((start, end))
        self._merged = merged

    def copy(self) -> Coverage:
        """Return another one that says the same, to add to."""
        return Coverage(list(self._runs), list(self._merged))

    @property
    def last(self) -> int:
        """The newest commit; 0 if there is none."""
        return self._merged[-1][1] if self._merged else 0

    @property
    def first(self) -> int:
        """The oldest commit; 0 if there is none."""
        return self._merged[0][0] if self._merged else 0

    def __contains__(self, lsn: int) -> bool:
        """Tell whether a commit is there."""
        place = bisect_right(self._merged, (lsn, 2**63)) - 1
        return place >= 0 and lsn <= self._merged[place][1]

    def holds(self, lsns: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Return which of the commits are there: bool[n]."""
        found = np.zeros(len(lsns), dtype=np.bool_)
        for first, last in self._merged:
            found |= (lsns >= np.uint64(first)) & (lsns <= np.uint64(last))
        return found

    def missing(self, last: int) -> list[tuple[int, int]]:
        """Return the runs of commits from 1 to `last` that are not there, inclusive."""
        gaps, expected = [], 1
        for first, end in self._merged:
            if first > expected:
                gaps.append((expected, min(first - 1, last)))
            expected = end + 1
        if expected <= last:
            gaps.append((expected, last))
        return [(first, end) for first, end in gaps if first <= end]

    def row_limit(self, lsn: int) -> int | None:
        """Return how many rows there were after a commit; None if it is not there."""
        if lsn == 0:
            return 0
        for run in self._runs:
            if run.first <= lsn <= run.last:
                return int(run.row_ends[lsn - run.first])
        return None

    def rows_before(self, lsn: int) -> int | None:
        """Return how many rows there were before a commit, or more; None if nothing tells."""
        exact = self.row_limit(lsn - 1)
        if exact is not None:
            return exact
        return min((run.first_row for run in self._runs if run.first == lsn), default=None)
