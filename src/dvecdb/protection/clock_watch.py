"""Whether the wall clock can be believed: nothing expires by a clock that jumped.

Two signs: since the last time it was trusted the wall clock went another way than the monotonic
one; or the newest commit of a collection lies in the future, so that the clock went back since.
A clock that was wrong before the start and is set right soon after shows as a jump, so nothing
expires in the first minutes either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dvecdb.clock import NANOSECONDS_PER_SECOND, to_datetime
from dvecdb.records import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dvecdb.clock import Clock
    from dvecdb.engine.findings import Findings

JUMP_NS: Final = 5 * 60 * NANOSECONDS_PER_SECOND
CLOCK_JUMPED: Final = "clock-jumped"


class ClockWatch:
    """Watches a clock. `hlcs`: the times of the newest commits, nanoseconds."""

    def __init__(
        self,
        clock: Clock,
        findings: Findings,
        hlcs: Callable[[], Iterable[int]],
        settle_seconds: int,
    ) -> None:
        self._clock = clock
        self._findings = findings
        self._hlcs = hlcs
        self._settled_ns = clock.monotonic_ns() + settle_seconds * NANOSECONDS_PER_SECOND
        self._ahead_ns = 0
        self._rebase()

    def _rebase(self) -> None:
        self._wall_ns, self._monotonic_ns = self._clock.wall_ns(), self._clock.monotonic_ns()

    def has_jumped(self) -> bool:
        """Tell whether the clock jumped since it was last trusted; a jump is a finding."""
        wall, monotonic = self._clock.wall_ns(), self._clock.monotonic_ns()
        drift = (wall - self._wall_ns) - (monotonic - self._monotonic_ns)
        ahead = max(self._hlcs(), default=wall) - wall
        if abs(drift) <= JUMP_NS and ahead <= self._ahead_ns + JUMP_NS:
            self._findings.forget(None, CLOCK_JUMPED)  # it was set right
            return False
        found = (
            f"it moved {drift / 1e9:+.0f} s against the time that passed"
            if abs(drift) > JUMP_NS
            else f"a commit was made {ahead / 1e9:.0f} s in its future"
        )
        self._findings.add(
            Finding(
                CLOCK_JUMPED,
                None,
                "clock",
                f"the wall clock says {to_datetime(wall).isoformat(timespec='seconds')}, but "
                f"{found}; nothing expires until it is set right, or trusted as it is",
            )
        )
        return True

    def may_expire(self) -> bool:
        """Tell whether things may expire by the clock now."""
        settled = self._clock.monotonic_ns() >= self._settled_ns
        return settled and not self.has_jumped()

    def trust(self) -> None:
        """Take the clock as it is now for right."""
        self._rebase()
        wall = self._clock.wall_ns()
        self._ahead_ns = max(0, max(self._hlcs(), default=wall) - wall)
        self._findings.forget(None, CLOCK_JUMPED)
