"""How far back a collection stays readable. Pure: it decides, compaction acts.

The horizon is the oldest LSN whose state can be read. Rows that ended at or before it are visible
in no readable state, so they may go. It is as new as the window allows, and never goes back:

    by age    the state of `history_hours` ago is the oldest that must be readable
    by bytes  when ended rows take more than `history_bytes_max`, the oldest states go earlier,
              but not what the newest large destructive commit replaced: that goes by age alone
    tags      hold it, whatever age and bytes say
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

LARGE_ROWS: Final = 1_000
"""A commit that ends so many rows is a large destructive one,"""
LARGE_SHARE: Final = 10
"""and so is one that ends one in so many of the rows that lived before it."""


@dataclass(frozen=True, slots=True)
class Commits:
    """The commits from `first_lsn` on, in order.

    born, ended: int64[n], rows that each wrote and ended; rows_after: live rows after the last;
    row_bytes: stored bytes of one row, about.
    """

    first_lsn: int
    born: npt.NDArray[np.int64]
    ended: npt.NDArray[np.int64]
    rows_after: int
    row_bytes: float

    @property
    def last_lsn(self) -> int:
        """The newest of them; `first_lsn - 1` if there is none."""
        return self.first_lsn + len(self.ended) - 1


def choose_horizon(current: int, by_age: int, by_bytes: int, tags: Iterable[int]) -> int:
    """Return the newest LSN that may be the horizon, given what age, bytes and tags allow."""
    return max(current, min([max(by_age, by_bytes), *tags]))


def byte_horizon(commits: Commits, bytes_max: int) -> int:
    """Return the oldest LSN behind which enough rows ended, or 0 if there are not too many bytes.

    Rows that ended at or before the horizon do not count; it stays below the commit whose loss
    would be felt most.
    """
    ended_after = np.cumsum(commits.ended[::-1])[::-1]  # by each commit and those after it
    too_many = np.flatnonzero(ended_after * commits.row_bytes > bytes_max)
    if not len(too_many):
        return 0
    wanted = commits.first_lsn + int(too_many[-1])
    return max(0, min(wanted, kept_for_age(commits) - 1))


def kept_for_age(commits: Commits) -> int:
    """Return the LSN of the newest large destructive commit, or else of the newest one at all.

    The LSN after the last if none of them ended anything.
    """
    ended, born = commits.ended, commits.born
    later = np.cumsum((born - ended)[::-1])[::-1]  # what each commit and those after it added
    before = commits.rows_after - later
    large = (ended > 0) & ((ended >= LARGE_ROWS) | (ended * LARGE_SHARE >= before))
    found = np.flatnonzero(large)
    if not len(found):
        found = np.flatnonzero(ended)
    return commits.first_lsn + int(found[-1]) if len(found) else commits.last_lsn + 1
