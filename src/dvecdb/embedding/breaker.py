"""Whether the service is well: one thread asks it, again and again, while nobody else sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dvecdb.clock import NANOSECONDS_PER_SECOND
from dvecdb.embedding.door import LOOK_SECONDS
from dvecdb.embedding.events import Paused, Resumed
from dvecdb.embedding.model import EmbedError, Reason
from dvecdb.embedding.retry import Wait, decide, wait_seconds
from dvecdb.errors import Code, DvecdbError, InvalidRequestError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dvecdb.clock import Clock
    from dvecdb.embedding.door import Door
    from dvecdb.embedding.job import FlowSpec
    from dvecdb.embedding.model import Embedder


class Breaker:
    """Shuts the door while it probes. Safe to use from several threads; arguments: see `Caller`."""

    def __init__(
        self,
        door: Door,
        embedder: Embedder,
        flow: FlowSpec,
        probe: Callable[[], None],
        clock: Clock,
        random: Callable[[], float],
    ) -> None:
        self._door = door
        self._embedder = embedder
        self._flow = flow
        self._probe = probe
        self._clock = clock
        self._random = random
        self._is_probing = False
        self._proofs = 0
        self._was_away = False  # what the last proof found

    def prove(self, error: EmbedError) -> bool:
        """Return once a request or a probe has succeeded: whether a probe had failed before.

        error: why that is asked. As long as others send, theirs may show that the service is well,
        and nobody needs to stop for it. Whoever comes while another thread probes takes its result.

        Raises:
            Stopped: asked to.
            InvalidRequestError: `embedder-refused`, even the probe is.
            UnavailableError: `embedder-unreachable`, for longer than `give_up_seconds`.
            DvecdbError: what the probe raised.
        """
        changed = self._door.changed
        with self._door.waiting():
            if self._door.another_succeeds():
                return False
            with changed:
                before = self._proofs
                while self._is_probing:
                    self._door.refuse()
                    changed.wait(LOOK_SECONDS)
                    if self._proofs > before:
                        return self._was_away
                self._door.refuse()
                self._is_probing = True
            try:
                with self._door.shut():
                    was_away = self._probe_until_well(error)
                    if was_away:
                        self._door.tell(Resumed())
                with changed:
                    self._was_away = was_away
                    self._proofs += 1
            finally:
                with changed:
                    self._is_probing = False
                    changed.notify_all()
        return was_away

    def _probe_until_well(self, error: EmbedError) -> bool:
        """Probe at growing intervals; return whether the first one failed. Raises as `prove`."""
        start_ns = self._clock.monotonic_ns()
        attempt = 0
        while True:
            self._embedder.renew()
            try:
                self._probe()
            except EmbedError as failure:
                if failure.reason in {Reason.FORBIDDEN, Reason.REFUSED, Reason.TOO_LARGE}:
                    raise self._door.end(refused(failure)) from failure
                if attempt == 0:
                    self._door.tell(Paused(f"{error.message}; so does a probe: {failure.message}"))
                attempt += 1
                self._door.sleep(self._wait_seconds(failure, attempt, start_ns))
            except DvecdbError as other:
                raise self._door.end(other) from None
            else:
                return attempt > 0

    def _wait_seconds(self, failure: EmbedError, attempt: int, start_ns: int) -> float:
        """Return the seconds until the next probe. Raises `embedder-unreachable`."""
        seconds = wait_seconds(attempt, self._flow, self._random())
        if failure.retry_after_seconds is not None:
            asked = decide(failure, 1, 0, self._flow, self._random())
            assert isinstance(asked, Wait)
            self._door.hold(asked.seconds, everybody=False)
            seconds = max(seconds, asked.seconds)
        limit = self._flow.give_up_seconds
        if limit is None:
            return seconds
        passed = (self._clock.monotonic_ns() - start_ns) / NANOSECONDS_PER_SECOND
        if passed >= limit:
            raise self._door.end(
                UnavailableError(
                    Code.EMBEDDER_UNREACHABLE,
                    f"{self._embedder.model} was away for {passed:.0f} s and give_up_seconds is "
                    f"{limit:g}: {failure.message}. What is done is kept; start it again when the "
                    "service is back",
                )
            )
        return min(seconds, limit - passed)


def refused(error: EmbedError) -> InvalidRequestError:
    """Return what ends every call when nothing else will work either."""
    return InvalidRequestError(
        Code.EMBEDDER_REFUSED,
        f"{error.message}. Nothing else would work either; what is done is kept",
    )
