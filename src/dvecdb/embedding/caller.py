"""The one way to an embedder: every text gets its vector or its final error, whatever happens.

When a request fails, `retry` decides. Before texts are blamed for failures that may be the
service's, a probe must show that the service is well:

    tries used up ──> others have succeeded meanwhile? ── yes ───────────────> halve
                      │ no, or a single text
                      └> others do now, or a probe is ok ──> one more try ──> halve, bury
                            └ fails: breaker open, nobody sends; wait longer and longer, probe again

A single text is buried only between two such proofs; if the service was away meanwhile, its tries
begin anew. One that takes the service down whenever it is tried is buried after a few times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from dvecdb.embedding.breaker import Breaker, refused
from dvecdb.embedding.door import SERVICE, BudgetReached, Door, Interrupted, Stopped
from dvecdb.embedding.events import AttemptFailed, Split
from dvecdb.embedding.model import EmbedError, Reason, Usage
from dvecdb.embedding.retry import Bury, Halve, Stop, Wait, decide, wait_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from threading import Event

    from dvecdb.clock import Clock
    from dvecdb.embedding.door import Result
    from dvecdb.embedding.events import Watch
    from dvecdb.embedding.job import FlowSpec
    from dvecdb.embedding.model import Answer, Embedder

__all__ = ["BudgetReached", "Caller", "Interrupted", "Stopped"]

PART_ATTEMPTS: Final = 3
"""Tries of a part of a request that used up all of its own; a single text has all again."""
FALLS_MAX: Final = 3
"""A text during whose tries the service was away so often is at fault."""
_TEXTS: Final = frozenset({Reason.TOO_LARGE, Reason.REFUSED})


@dataclass(slots=True)
class _Request:
    """What has happened to one piece of texts so far. successes: all, when it was first sent."""

    texts: int
    terms: FlowSpec
    successes: int
    failed: int = 0
    limited: int = 0
    is_proven: bool = False  # a good probe came before its last try
    falls: int = 0


class Caller:
    """Calls an embedder. Safe to use from several threads.

    probe: sends a text of its own, past this, and returns if the service is well; it raises
    `EmbedError` while that is away, and `DvecdbError` if it is another one: this ends every call.
    watch: is given every event, one at a time, and must not call this. stop: when set, every wait
    ends. random: in [0, 1). price: of a million tokens. dimension: of every vector, if known; with
    another one an answer is wrong.

    Raises:
        InvalidRequestError: `invalid-job`, money is limited and there is no price.
    """

    def __init__(
        self,
        embedder: Embedder,
        flow: FlowSpec,
        *,
        probe: Callable[[], None],
        watch: Watch,
        stop: Event,
        clock: Clock,
        random: Callable[[], float],
        price: float | None = None,
        dimension: int | None = None,
    ) -> None:
        self._embedder = embedder
        self._flow = flow
        self._part_flow = msgspec.structs.replace(flow, attempts=min(flow.attempts, PART_ATTEMPTS))
        self._random = random
        self._dimension = dimension
        self._door = Door(flow, watch, stop, clock, price)
        self._breaker = Breaker(self._door, embedder, flow, probe, clock, random)

    @property
    def usage(self) -> Usage:
        """A copy of what was asked of the embedder so far, probes not included.

        waited_seconds: by how much the service's orders to wait made it longer, not per thread.
        """
        return self._door.usage()

    def batch_max(self) -> int:
        """Return how many texts the next call of `embed` should have at most."""
        return self._door.batch_max()

    def concurrency(self) -> int:
        """Return how many calls of `embed` should be under way now, from 1 to 64.

        More than requests at a time: while one call waits for its next try, another may send.
        """
        return self._door.concurrency()

    def pause(self, why: str = "somebody paused it") -> None:
        """Let no request go until `resume`; those under way end."""
        self._door.pause(why)

    def resume(self) -> None:
        """Let requests go again."""
        self._door.resume()

    def embed(self, texts: Sequence[str]) -> list[Result]:
        """Return float32[dimension] of each text, or the error it is given up with, in order.

        More texts than a request may have are sent in several, one after the other.

        Raises:
            Stopped, BudgetReached: with what is done.
            InvalidRequestError: `embedder-refused`, nothing will work: a wrong key or address.
            UnavailableError: `embedder-unreachable`, away for longer than `give_up_seconds`.
            DvecdbError: what `probe` raised.
        """
        done: list[Result] = []
        try:
            while len(done) < len(texts):
                self._finish(self._door.piece(texts, len(done)), done, is_part=False)
        except Interrupted as end:
            end.done = done
            raise
        return done

    def _finish(self, texts: Sequence[str], done: list[Result], *, is_part: bool) -> bool:
        """Append the result of each text; return whether all have vectors. Raises as `embed`."""
        terms = self._part_flow if is_part and len(texts) > 1 else self._flow
        request = _Request(len(texts), terms, self._door.successes())
        while True:
            try:
                answer = self._attempt(texts)
            except EmbedError as error:
                failure = error
            else:
                return _append(answer, done)
            step = self._after(failure, request)
            if isinstance(step, Bury):
                done.append(step.error)
                return False
            if isinstance(step, Halve):
                return self._halve(texts, done, failure)

    def _halve(self, texts: Sequence[str], done: list[Result], error: EmbedError) -> bool:
        """Finish the halves; return whether all texts have vectors. Raises as `embed`."""
        self._door.tell(Split(len(texts), error.message))
        is_part = error.reason not in _TEXTS
        middle = (len(texts) + 1) // 2
        first = self._finish(texts[:middle], done, is_part=is_part)
        second = self._finish(texts[middle:], done, is_part=is_part)
        if first and second and error.reason in {Reason.TOO_LARGE, Reason.TIMEOUT}:
            self._door.too_large(len(texts))  # it was their number, and no single one
        return first and second

    def _attempt(self, texts: Sequence[str]) -> Answer:
        """Make one request. Raises EmbedError, and as `embed`."""
        passed = self._door.enter(texts)
        try:
            answer = self._embedder.embed(texts)
            self._check(answer, len(texts))
        except EmbedError as error:
            self._door.leave_failed(passed, error)
            raise
        except BaseException:
            self._door.leave(passed, texts, None)
            raise
        self._door.leave(passed, texts, answer)
        return answer

    def _check(self, answer: Answer, texts: int) -> None:
        shape = answer.vectors.shape
        if len(shape) != 2 or shape[0] != texts or shape[1] != (self._dimension or shape[1]):
            of = "" if self._dimension is None else f" of {self._dimension} dimensions"
            raise EmbedError(
                Reason.WRONG_ANSWER,
                f"{self._embedder.model}: expected {texts} vectors{of}, found an array of "
                f"{' x '.join(map(str, shape))}",
            )

    def _after(self, error: EmbedError, request: _Request) -> Bury | Halve | None:
        """React to a failed try: wait or probe, as needed. None: try again. Raises as `embed`."""
        is_limited = error.reason is Reason.RATE_LIMITED
        request.limited = request.limited + 1 if is_limited else 0
        request.failed += not is_limited
        attempt = request.limited if is_limited else request.failed
        step = decide(error, request.texts, attempt, request.terms, self._random())
        if isinstance(step, Stop):
            raise self._door.end(refused(step.error)) from step.error
        if isinstance(step, Wait):
            self._wait(error, step, request)
            return None
        if error.reason in _TEXTS:
            if isinstance(step, Bury) and not self._others_succeed(request):
                self._breaker.prove(error)  # or it refuses everything
            return step
        return self._blame(error, step, request)

    def _wait(self, error: EmbedError, step: Wait, request: _Request) -> None:
        """Wait before the next try; `rate-limited`, everybody does.

        An own wait ends after `retry_seconds` if the service answers others.
        """
        self._tell_failed(error, request, step.seconds)
        if error.reason is Reason.UNREACHABLE:
            self._embedder.renew()
        was_told = error.retry_after_seconds is not None or not step.counts
        if was_told:
            self._door.hold(step.seconds, everybody=not step.counts)
        first = wait_seconds(1, request.terms, self._random())
        with self._door.waiting():
            self._door.rest(step.seconds, step.seconds if was_told else first)

    def _blame(
        self, error: EmbedError, step: Bury | Halve, request: _Request
    ) -> Bury | Halve | None:
        """Return `step` if it is the texts and not the service, else None. Raises as `embed`."""
        self._tell_failed(error, request, 0.0)
        if error.reason is Reason.UNREACHABLE:
            self._embedder.renew()
        is_single = isinstance(step, Bury)
        if not is_single and (request.is_proven or self._others_succeed(request)):
            return step
        was_away = self._breaker.prove(error)
        request.falls += was_away
        if is_single and was_away and request.falls < FALLS_MAX:
            request.failed = 0
            request.is_proven = False
            return None
        if request.is_proven:
            return step
        request.is_proven = True
        return None

    def _others_succeed(self, request: _Request) -> bool:
        return self._door.successes() > request.successes

    def _tell_failed(self, error: EmbedError, request: _Request, wait: float) -> None:
        is_counted = error.reason is not Reason.RATE_LIMITED
        attempts = request.terms.attempts
        self._door.tell_failed(
            AttemptFailed(
                SERVICE,
                error.reason.value,
                error.message,
                min(request.failed, attempts) if is_counted else None,
                attempts if is_counted else None,
                wait,
            )
        )


def _append(answer: Answer, done: list[Result]) -> bool:
    """Append each vector, or an error where it has no direction; return whether all are there."""
    some = np.any(answer.vectors, axis=1)
    if np.all(some):
        done.extend(answer.vectors)
        return True
    for vector, has_direction in zip(answer.vectors, some, strict=True):
        if has_direction:
            done.append(vector)
        else:
            said = "the vector of this text is all zeros: it has no direction"
            done.append(EmbedError(Reason.WRONG_ANSWER, said))
    return False
