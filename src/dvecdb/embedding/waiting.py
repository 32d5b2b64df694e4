"""Waiting for what is away: a source, a database. It ends when that is back, or somebody stops it.

Services of vectors have rules of their own (`retry`), for they cost money; waits grow alike.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, TypeVar

from dvecdb.embedding.caller import Stopped
from dvecdb.embedding.events import AttemptFailed, Reconnected
from dvecdb.embedding.retry import wait_seconds
from dvecdb.errors import Code, DiskFullError, DvecdbError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dvecdb.clock import Clock
    from dvecdb.embedding.events import Watch
    from dvecdb.embedding.job import FlowSpec

T = TypeVar("T")

GRACE_SECONDS: Final = 10.0
"""How long what is paid for may try to be written after somebody stopped the job."""
_LOOK_SECONDS: Final = 1.0
_GRACE_LOOK_SECONDS: Final = 0.2
_OF_A_RESTART: Final = frozenset({Code.HANDLE_CLOSED, Code.OUTCOME_UNKNOWN, Code.WRITES_STOPPED})


def is_away(error: DvecdbError) -> bool:
    """Return whether it may work later: no connection, no space, a server about to start again."""
    if isinstance(error, UnavailableError):
        return error.code is not Code.CANCELLED
    if isinstance(error, DiskFullError):
        return True
    return error.code in _OF_A_RESTART and "request_id" in error.details


class Waiting:
    """How a job waits, and whom it tells.

    random: values in [0, 1), for the jitter.
    """

    def __init__(
        self,
        flow: FlowSpec,
        clock: Clock,
        stop: threading.Event,
        watch: Watch,
        random: Callable[[], float],
    ) -> None:
        self._flow = flow
        self._clock = clock
        self._stop = stop
        self._watch = watch
        self._random = random
        self._never = threading.Event()

    def now_ns(self) -> int:
        """Return the monotonic time: of this machine, the same in all its processes."""
        return self._clock.monotonic_ns()

    def pause(self, seconds: float) -> None:
        """Wait. Raises `Stopped` as soon as somebody stops the job."""
        if self._stop.wait(seconds):
            raise Stopped("somebody stopped the job")

    def reach(
        self,
        what: str,
        call: Callable[[], T],
        *,
        grace_seconds: float = 0.0,
        between: Callable[[], object] | None = None,
    ) -> T:
        """Return what `call` returns, trying again while it is away.

        grace_seconds: how long to go on trying after somebody stopped the job. between: is called
        every second or so while waiting.

        Raises:
            DvecdbError: what waiting cannot cure, or was away for longer than `give_up_seconds`.
            Stopped: somebody stopped the job meanwhile.
        """
        flow, began_ns, attempt = self._flow, self.now_ns(), 0
        until_ns: int | None = None
        while True:
            try:
                result = call()
            except DvecdbError as error:
                if not is_away(error):
                    raise
                away = (self.now_ns() - began_ns) / 1e9
                if flow.give_up_seconds is not None and away > flow.give_up_seconds:
                    raise
                attempt += 1
                seconds = wait_seconds(attempt, flow, self._random())
                self._watch(AttemptFailed(what, error.code, error.message, attempt, None, seconds))
                until_ns = self._rest(seconds, grace_seconds, until_ns, between)
            else:
                if attempt:
                    self._watch(Reconnected(what))
                return result

    def _rest(
        self,
        seconds: float,
        grace_seconds: float,
        until_ns: int | None,
        between: Callable[[], object] | None,
    ) -> int | None:
        """Wait between two tries; return when the grace ends, if somebody stopped the job."""
        end_ns = self.now_ns() + round(seconds * 1e9)
        while until_ns is None:
            left = (end_ns - self.now_ns()) / 1e9
            if left <= 0:
                return None
            if self._stop.wait(left if between is None else min(left, _LOOK_SECONDS)):
                until_ns = self.now_ns() + round(grace_seconds * 1e9)
            elif between is not None:
                between()
        if self.now_ns() >= until_ns:
            raise Stopped("somebody stopped the job")
        self._never.wait(min(seconds, _GRACE_LOOK_SECONDS))
        return until_ns
