"""How much an import looks at before it gives metadata up, in steps: the same on every machine.

A step is a value that was looked at, a way that was tried to go on with it, or 32 bytes of text.
Whole metadata takes few of them once the keys are known. Damaged or hostile bytes may have readings
without end, so there are limits for each search, for what was looked at in vain, and for all of an
import. Beyond them a record comes without its metadata. Ids and vectors of records that lie between
whole ones stay; only where the metadata alone tells where a damaged record ends, its head is not
put right any more, and what overwrote it is not told from what was there before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

STEPS_MAX: Final = 400_000
STEPS_PER_BYTE_MAX: Final = 2_000
"""Of one search."""

_VAIN_STEPS: Final = 1_000_000
_VAIN_STEPS_PER_BYTE: Final = 1
_LATER_STEPS_PER_BYTE: Final = 3
_LATER_STEPS_MAX: Final = 10_000
_ALL_STEPS: Final = 4_000_000
_ALL_STEPS_PER_BYTE: Final = 5
_BYTES_PER_STEP: Final = 1024  # of what is only copied


class TooMuchError(Exception):
    """The bytes have more readings than are looked at."""


@dataclass(slots=True)
class Effort:
    """What one search may cost, and what it did cost."""

    limit: int = STEPS_MAX
    done: int = 0

    def spend(self, steps: int) -> None:
        """Count steps.

        Raises:
            TooMuchError: there are no more.
        """
        self.done += steps
        if self.done > self.limit:
            raise TooMuchError


@dataclass(slots=True)
class Budget:
    """What all searches of an import may cost. size: of what is read, in bytes.

    done: steps so far; in_vain: those of searches that found nothing; largest: of one search;
    given_up: how many searches were.
    """

    size: int
    done: int = 0
    in_vain: int = 0
    largest: int = 0
    given_up: int = 0
    _given_up_before: int = 0
    _record_in_vain: int = 0
    _record_size: int = 0

    def next_record(self) -> None:
        """Note that what follows is of another record."""
        self._given_up_before = self.given_up
        self._record_in_vain = 0
        self._record_size = 0

    @property
    def gave_up(self) -> bool:
        """Tell whether a search for this record's metadata was given up."""
        return self.given_up > self._given_up_before

    @property
    def limit(self) -> int:
        """Return how many steps all searches may take."""
        return _ALL_STEPS + _ALL_STEPS_PER_BYTE * self.size

    def effort(self, size: int) -> Effort:
        """Return what may be spent on a search through `size` bytes.

        What was in vain for the same record is taken off, but for a little: wherever else its
        metadata may end, it is much the same bytes. Once much was in vain, all searches for a
        record get that little together.
        """
        if not self._record_size:
            self._record_size = size
        little = min(_LATER_STEPS_MAX, _LATER_STEPS_PER_BYTE * size)
        if self.in_vain < _VAIN_STEPS + _VAIN_STEPS_PER_BYTE * self.size:
            most = max(min(STEPS_MAX, STEPS_PER_BYTE_MAX * size) - self._record_in_vain, little)
        else:
            little = min(little, _LATER_STEPS_PER_BYTE * self._record_size)
            most = max(0, little - self._record_in_vain)
        return Effort(min(most, max(0, self.limit - self.done)))

    def note(self, effort: Effort, size: int, *, found: bool) -> None:
        """Count what a search through `size` bytes cost."""
        steps = effort.done + 1 + size // _BYTES_PER_STEP
        self.done += steps
        self.largest = max(self.largest, effort.done)
        if not found:
            self.in_vain += steps
            self._record_in_vain += steps
        if effort.done > effort.limit:
            self.given_up += 1
