"""What all threads that call an embedder share: who may send now, what it cost, what was told.

A request goes when nobody holds it up: a pause, a probe under way, other requests, a time that the
service named, the limits per minute. It must also be within the budget.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Condition, Lock
from typing import TYPE_CHECKING, Final

from dvecdb.clock import NANOSECONDS_PER_SECOND
from dvecdb.embedding.budget import Budget
from dvecdb.embedding.embedders.http import UnsentError
from dvecdb.embedding.events import Paused, Reconnected, Resumed
from dvecdb.embedding.model import EmbedError, Reason, Usage
from dvecdb.embedding.pace import Pace, TokenEstimate
from dvecdb.embedding.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from threading import Event

    import numpy as np
    import numpy.typing as npt

    from dvecdb.clock import Clock
    from dvecdb.embedding.events import JobEvent, Watch
    from dvecdb.embedding.job import FlowSpec
    from dvecdb.embedding.model import Answer
    from dvecdb.embedding.pace import Taken
    from dvecdb.errors import DvecdbError

    Result = npt.NDArray[np.float32] | EmbedError

SERVICE: Final = "service"
CALLS_MAX: Final = 64
"""Calls that `concurrency` asks for at most, those that wait for a retry included."""
LOOK_SECONDS: Final = 0.05
"""How often a thread that waits for another looks whether to stop."""
LOOKS_MAX: Final = 20
"""How often a thread looks for the success of another before it asks the service itself."""
_OWED: Final = frozenset({Reason.UNREACHABLE, Reason.TIMEOUT, Reason.WRONG_ANSWER})
"""Failures after which the service may have done the work, and count it."""


class Interrupted(Exception):  # noqa: N818  # no error: somebody asked for it
    """Not all texts have their result. done: those of the first ones, in order; they are paid."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.done: list[Result] = []


class Stopped(Interrupted):
    """The stop event is set."""


class BudgetReached(Interrupted):
    """The next request would exceed a budget; `why` says which."""


@dataclass(frozen=True, slots=True)
class Pass:
    """A request that may go. tokens: estimated; taken: of the limit per minute."""

    at_ns: int
    tokens: int
    taken: Taken | None


@dataclass(slots=True)
class _State:
    """Read and written under `Door.changed` only."""

    in_flight: int = 0
    waiting: int = 0
    is_paused: bool = False
    is_shut: bool = False
    has_failed: bool = False  # and nothing has succeeded since
    hold_ns: int = 0  # nobody sends before
    told_ns: int = 0  # the end of the time that the service told to wait, as far as counted
    successes: int = 0
    ended: DvecdbError | None = None
    usage: Usage = field(default_factory=Usage)


class Door:
    """Lets requests through. Safe to use from several threads.

    changed: wakes up whoever waits here. Arguments and errors: see `caller.Caller`.
    """

    def __init__(
        self, flow: FlowSpec, watch: Watch, stop: Event, clock: Clock, price: float | None
    ) -> None:
        self.changed = Condition()
        self._flow = flow
        self._watch = watch
        self._stop = stop
        self._clock = clock
        self._telling = Lock()
        self._state = _State()
        self._pace = Pace(flow)
        self._budget = Budget(flow, price)
        self._estimate = TokenEstimate()
        self._throttle = Throttle(flow)

    # --- what others ask -------------------------------------------------------------------------

    def usage(self) -> Usage:
        """Return a copy of what was asked of the embedder so far."""
        with self.changed:
            usage = self._state.usage
            return replace(usage, reasons=dict(usage.reasons))

    def batch_max(self) -> int:
        """Return how many texts the next request should have at most."""
        with self.changed:
            return self._throttle.batch

    def concurrency(self) -> int:
        """Return how many calls should be under way, those that wait for a retry included."""
        with self.changed:
            return min(self._throttle.concurrency + self._state.waiting, CALLS_MAX)

    def successes(self) -> int:
        """Return how many requests have succeeded."""
        with self.changed:
            return self._state.successes

    def another_succeeds(self) -> bool:
        """Wait for the requests under way; return whether one of the next few to end succeeded.

        Raises: as `enter`.
        """
        with self.changed:
            before = self._state.successes
            for _ in range(LOOKS_MAX):
                self.refuse()
                if self._state.successes > before or not self._state.in_flight:
                    break
                self.changed.wait(LOOK_SECONDS)
            return self._state.successes > before

    def piece(self, texts: Sequence[str], start: int) -> Sequence[str]:
        """Return as many of the texts as should make one request, at least one."""
        with self.changed:
            piece = texts[start : start + self._throttle.batch]
            limits = [self._flow.tokens_per_request, self._budget.room()]
            room = min((limit for limit in limits if limit is not None), default=None)
            if room is None:
                return piece
            count = 0
            for text in piece:
                room -= self._estimate.of_one(text)
                if room < 0:
                    break
                count += 1
            return piece[: max(count, 1)]

    def too_large(self, texts: int) -> None:
        """Take in that so many texts were too many for a request, and half of them were not."""
        with self.changed:
            self._throttle.too_large(texts)

    # --- a request -------------------------------------------------------------------------------

    def enter(self, texts: Sequence[str]) -> Pass:
        """Wait until a request may go, and count it.

        Raises:
            Stopped, BudgetReached: it does not go.
            DvecdbError: what ended every call.
        """
        while True:
            with self.changed:
                self.refuse()
                found = self._try_enter(texts)
                if isinstance(found, Pass):
                    return found
                if found is None:
                    self.changed.wait(LOOK_SECONDS)
                    continue
            self._stop.wait(found / NANOSECONDS_PER_SECOND)

    def _try_enter(self, texts: Sequence[str]) -> Pass | int | None:
        """Return a pass, in how many nanoseconds to try again, or None: after a change."""
        state = self._state
        slots = self._throttle.concurrency
        if self._budget.counts_tokens and not self._estimate.is_learned:
            slots = 1  # the error of one estimate, not of many
        if state.is_paused or state.is_shut or state.in_flight >= slots:
            return None
        now_ns = self._clock.monotonic_ns()
        tokens = self._estimate.of(texts)
        wait_ns = max(state.hold_ns - now_ns, self._pace.wait_ns(tokens, now_ns))
        if wait_ns > 0:
            return wait_ns
        reached = self._budget.admit(tokens)
        if reached is not None:
            raise BudgetReached(reached)
        state.in_flight += 1
        state.usage.requests += 1
        return Pass(now_ns, tokens, self._pace.take(tokens, now_ns))

    def leave(self, passed: Pass, texts: Sequence[str], answer: Answer | None) -> None:
        """Count a request that has its answer; None, one that ended in no way that is known."""
        with self.changed:
            state = self._state
            tokens = passed.tokens
            is_back = answer is not None and state.has_failed
            if answer is not None:
                self._estimate.learn(sum(map(len, texts)), answer.tokens)
                tokens = tokens if answer.tokens is None else answer.tokens
                state.usage.texts += len(texts)
                state.usage.tokens += tokens
                state.successes += 1
                state.has_failed = False
                self._throttle.succeeded(len(texts))
            self._settle(passed, tokens)
        if is_back:
            self.tell(Reconnected(SERVICE))

    def leave_failed(self, passed: Pass, error: EmbedError) -> None:
        """Count a request that failed."""
        is_owed = error.reason in _OWED and not isinstance(error, UnsentError)
        with self.changed:
            usage = self._state.usage
            usage.failed += 1
            usage.reasons[error.reason.value] = usage.reasons.get(error.reason.value, 0) + 1
            self._throttle.failed(error.reason, passed.at_ns, self._clock.monotonic_ns())
            self._settle(passed, passed.tokens if is_owed else 0)

    def _settle(self, passed: Pass, tokens: int) -> None:
        self._pace.correct(passed.taken, tokens)
        self._budget.settle(passed.tokens, tokens)
        self._state.in_flight -= 1
        self.changed.notify_all()

    # --- holding up ------------------------------------------------------------------------------

    def pause(self, why: str) -> None:
        """Let no request go until `resume`; those under way end."""
        with self.changed:
            was_paused, self._state.is_paused = self._state.is_paused, True
        if not was_paused:
            self.tell(Paused(why))

    def resume(self) -> None:
        """Let requests go again."""
        with self.changed:
            was_paused, self._state.is_paused = self._state.is_paused, False
            self.changed.notify_all()
        if was_paused:
            self.tell(Resumed())

    @contextmanager
    def shut(self) -> Iterator[None]:
        """Let no request go inside."""
        with self.changed:
            self._state.is_shut = True
        try:
            yield
        finally:
            with self.changed:
                self._state.is_shut = False
                self.changed.notify_all()

    def hold(self, seconds: float, *, everybody: bool) -> None:
        """Count a time that the service told to wait, and let nobody send in it if so told.

        Times that overlap count once: it is by how much the job took longer.
        """
        with self.changed:
            state = self._state
            now_ns = self._clock.monotonic_ns()
            until_ns = now_ns + round(seconds * NANOSECONDS_PER_SECOND)
            if everybody:
                state.hold_ns = max(state.hold_ns, until_ns)
            if until_ns > state.told_ns:
                more_ns = until_ns - max(now_ns, state.told_ns)
                state.usage.waited_seconds += more_ns / NANOSECONDS_PER_SECOND
                state.told_ns = until_ns

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the caller as one that does not want to send."""
        with self.changed:
            self._state.waiting += 1
        try:
            yield
        finally:
            with self.changed:
                self._state.waiting -= 1

    # --- ending and telling ----------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        """Wait. Raises Stopped, at once."""
        if self._stop.wait(seconds):
            raise Stopped("asked to stop")

    def rest(self, seconds: float, part: float) -> None:
        """Wait, but no longer than until another request succeeds, looking after each part of it.

        Raises: Stopped, at once.
        """
        while seconds > 0:
            before = self.successes()
            self.sleep(min(seconds, part))
            seconds -= part
            if self.successes() > before:
                return

    def refuse(self) -> None:
        """Raise what ends every call, if there is such: Stopped, or a DvecdbError."""
        if self._state.ended is not None:
            raise self._state.ended
        if self._stop.is_set():
            raise Stopped("asked to stop")

    def end(self, error: DvecdbError) -> DvecdbError:
        """Let an error end every call; return it, or the one that came before it."""
        with self.changed:
            if self._state.ended is None:
                self._state.ended = error
            self.changed.notify_all()
            return self._state.ended

    def tell(self, event: JobEvent) -> None:
        """Show an event; one at a time."""
        with self._telling:
            self._watch(event)

    def tell_failed(self, event: JobEvent) -> None:
        """Show that a try failed; the next success is then told too."""
        with self.changed:
            self._state.has_failed = True
        self.tell(event)
