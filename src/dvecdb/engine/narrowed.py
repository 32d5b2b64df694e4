"""Codes of the rows that a filter matches, for filters that are asked for often.

A scan looks at every code of a list, whether its row matches or not. Once a filter was asked for
`ASKED_MIN` times, what it matches of the base gets lists of its own, and later scans look at those
only: with a tenth of the rows, in a fifth of the time.

Whether a row matches never changes, so they last as long as the base. Which rows are live at an LSN
is told to the scan as ever, and so is what matches in the tail. They are made from the rows that a
view has today; an older state may have others: `covers` says whether they serve it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable

    import numpy as np
    import numpy.typing as npt

    from dvecdb.search.conditions import Filter
    from dvecdb.search.ivf import Codes

    Flags = npt.NDArray[np.bool_]

ASKED_MIN: Final = 200
"""To make lists costs as much as some hundred searches with the filter save."""
SHARE_MAX: Final = 0.75  # of the base: with more, little would be saved
_COUNTED_MAX: Final = 256  # filters whose searches are counted at a time
_STATES_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class Narrowed:
    """Codes of some rows of the base, and of all of the tail.

    outside: bool[places of the base], the other rows; size_bytes: of what is not shared.
    """

    codes: Codes
    outside: Flags
    size_bytes: int
    _covered: dict[Hashable, bool] = field(default_factory=dict)

    def covers(self, state: Hashable, allowed: Flags) -> bool:
        """Return whether all rows are in here that may be found in a state: bool[places]."""
        known = self._covered.get(state)
        if known is None:
            known = not (self.outside & allowed[: len(self.outside)]).any()
            if len(self._covered) >= _STATES_MAX:
                self._covered.clear()
            self._covered[state] = known
        return known

    def with_tail_of(self, codes: Codes) -> Narrowed:
        """Return the same beside the tail of codes with the same base."""
        return Narrowed(self.codes.with_tail_of(codes), self.outside, self.size_bytes)


class Filters:
    """The filters that searches of one index ask for. Any number of threads; those that keep: one.

    wanted: one that is asked for often, for whoever makes its lists.
    """

    __slots__ = ("_asked", "_narrowed", "_used", "wanted")

    def __init__(self) -> None:
        self.wanted: Filter | None = None
        self._asked: dict[int, int] = {}  # by hash: filters may be large
        self._narrowed: dict[Filter, Narrowed] = {}
        self._used: dict[Filter, int] = {}  # since somebody wanted room

    def ask(self, where: Filter) -> Narrowed | None:
        """Return the codes of a filter that was asked for often, else count this time."""
        found = self._narrowed.get(where)
        if found is not None:
            self._used[where] = self._used.get(where, 0) + 1
        else:
            key = hash(where)
            asked = self._asked[key] = self._asked.get(key, 0) + 1
            if asked >= ASKED_MIN:
                self._asked.pop(key, None)
                self.wanted = where
            elif len(self._asked) > _COUNTED_MAX:
                again = {key: count for key, count in list(self._asked.items()) if count > 1}
                self._asked = again if len(again) <= _COUNTED_MAX // 2 else {}
        return found

    def make_room(self, size_bytes: int, bytes_max: int) -> bool:
        """Tell whether lists of a size may be made; all together never have more than `bytes_max`.

        Others go for them, those kept longest first, but none that were used as often meanwhile.
        """
        kept = dict(self._narrowed)
        held = sum(one.size_bytes for one in kept.values())
        for where in self._narrowed:
            if held + size_bytes > bytes_max and self._used.get(where, 0) < ASKED_MIN:
                held -= kept.pop(where).size_bytes
        self._used = dict.fromkeys(kept, 0)
        if held + size_bytes > bytes_max:
            return False
        self._narrowed = kept
        return True

    def keep(self, where: Filter, narrowed: Narrowed) -> None:
        """Keep codes, for which there is room."""
        self._narrowed = {**self._narrowed, where: narrowed}

    def grown(self, codes: Codes, *, same_base: bool) -> Filters:
        """Return the filters of an index that grew: how often they were asked for, and its lists.

        codes: its own; lists go with the base.
        """
        grown = Filters()
        grown.wanted, grown._asked = self.wanted, self._asked
        if same_base:
            kept = {where: one.with_tail_of(codes) for where, one in self._narrowed.items()}
            grown._narrowed, grown._used = kept, self._used
        return grown
