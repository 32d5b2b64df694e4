"""What to do when a request for vectors failed. Pure.

    reason                    what is done                     when its tries are used up
    rate-limited              wait; no try is used up
    unreachable, timeout,     wait                             halve, a single text: bury
    overloaded, wrong-answer
    too-large, refused        halve; a single text: bury
    forbidden                 stop

Whether a service that fails is away, or well and kept from answering by these texts, is not seen
here: `caller` probes it before it follows a `Halve` or `Bury` of the third row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dvecdb.embedding.model import Reason

if TYPE_CHECKING:
    from dvecdb.embedding.job import FlowSpec
    from dvecdb.embedding.model import EmbedError

RETRY_AFTER_SECONDS_MAX: Final = 3_600.0
"""However much later a service wants to be asked, it is asked after this."""
ASKED_EXTRA: Final = 0.1
"""To a time the service named, at most this share is added: not all come back at once."""
ASKED_SHARE_MIN: Final = 0.1
"""Of the own wait, where the service named a shorter one: one that says 0 is not asked at once."""
_DOUBLINGS_MAX: Final = 40


@dataclass(frozen=True, slots=True)
class Wait:
    """Make the request again in this time. counts: a try was used up."""

    seconds: float
    counts: bool


@dataclass(frozen=True, slots=True)
class Halve:
    """Make two requests of it."""


@dataclass(frozen=True, slots=True)
class Bury:
    """Give this single text up: it is the error of its dead letter."""

    error: EmbedError


@dataclass(frozen=True, slots=True)
class Stop:
    """Give everything up: nothing else will work either."""

    error: EmbedError


Step = Wait | Halve | Bury | Stop


def decide(error: EmbedError, texts: int, attempt: int, terms: FlowSpec, random: float) -> Step:
    """Return what to do after a request of `texts` texts failed.

    attempt: how many of its tries have failed, from 1; for `rate-limited`, how often in a row it
    was told to wait. random: in [0, 1).
    """
    give_up = Halve() if texts > 1 else Bury(error)
    if error.reason is Reason.FORBIDDEN:
        return Stop(error)
    if error.reason in {Reason.TOO_LARGE, Reason.REFUSED}:
        return give_up
    counts = error.reason is not Reason.RATE_LIMITED
    if counts and attempt >= terms.attempts:
        return give_up
    own = wait_seconds(attempt, terms, random)
    asked = error.retry_after_seconds
    if asked is None:
        return Wait(own, counts)
    asked = min(max(asked, 0.0), RETRY_AFTER_SECONDS_MAX)
    asked *= 1 + ASKED_EXTRA * terms.jitter * random
    return Wait(max(asked, own * ASKED_SHARE_MIN), counts)


def wait_seconds(attempt: int, terms: FlowSpec, random: float) -> float:
    """Return the wait after the given try, from 1: doubled with each, less a random part.

    random: in [0, 1).
    """
    doublings = min(attempt - 1, _DOUBLINGS_MAX)
    seconds = min(terms.retry_seconds * 2.0**doublings, terms.retry_seconds_max)
    return seconds * (1 - terms.jitter * random)
