"""A clock that moves when a test says so."""

from __future__ import annotations

from typing import Final

from dvecdb.clock import NANOSECONDS_PER_SECOND

START_NS: Final = 1_700_000_000 * NANOSECONDS_PER_SECOND  # 2023-11-14 22:13:20 UTC


class ManualClock:
    """`Clock` for tests: stands still until `advance`, and jumps in wall time with `set_wall`."""

    def __init__(self, wall_ns: int = START_NS, monotonic_ns: int = 0) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns

    def wall_ns(self) -> int:
        """Return the wall time."""
        return self._wall_ns

    def monotonic_ns(self) -> int:
        """Return the monotonic time."""
        return self._monotonic_ns

    def advance(self, seconds: float) -> None:
        """Let time pass, on both clocks."""
        assert seconds >= 0, "time does not pass backwards; set_wall makes the wall clock jump"
        passed_ns = round(seconds * NANOSECONDS_PER_SECOND)
        self._wall_ns += passed_ns
        self._monotonic_ns += passed_ns

    def set_wall(self, wall_ns: int) -> None:
        """Make the wall clock jump, either way; the monotonic clock does not notice."""
        self._wall_ns = wall_ns
