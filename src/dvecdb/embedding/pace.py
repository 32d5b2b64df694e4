"""How fast requests may go: what the limits per minute leave room for, and how many tokens it is.

Pure arithmetic over monotonic nanoseconds that the caller reads; one lock around all of it is his.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Final

from dvecdb.clock import NANOSECONDS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dvecdb.embedding.job import FlowSpec

WINDOW_NS: Final = 60 * NANOSECONDS_PER_SECOND
BURST_NS: Final = 3 * NANOSECONDS_PER_SECOND
"""After a rest, as much may go at once as otherwise in this time."""
TOKENS_PER_CHARACTER: Final = 0.3
"""Before a service has counted any: more than English has, so that a limit is not overrun."""
_MEMORY: Final = 0.8  # of the correction by one answer, how much the next one leaves


@dataclass(slots=True)
class Taken:
    """What was taken from a bucket, and when: to be corrected once it is known."""

    at_ns: int
    amount: int


class Bucket:
    """A limit per minute: even flow with a small burst, and never more in any 60 seconds.

    An amount above the limit itself goes alone in its minute; otherwise it could never go.
    """

    def __init__(self, per_minute: int) -> None:
        self._limit = per_minute
        self._free_ns = 0  # the time at which everything taken so far has flowed off
        self._taken: deque[Taken] = deque()
        self._sum = 0

    def wait_ns(self, amount: int, now_ns: int) -> int:
        """Return in how many nanoseconds `amount` may be taken; 0: now."""
        self._forget(now_ns)
        wait = max(self._free_ns - BURST_NS - now_ns, 0)
        room = self._limit - min(amount, self._limit)
        over = self._sum - room
        if over > 0:
            for taken in self._taken:
                over -= taken.amount
                if over <= 0:
                    wait = max(wait, taken.at_ns + WINDOW_NS - now_ns)
                    break
        return wait

    def take(self, amount: int, now_ns: int) -> Taken:
        """Take it, whether there is room or not."""
        taken = Taken(now_ns, amount)
        self._taken.append(taken)
        self._sum += amount
        self._free_ns = max(self._free_ns, now_ns) + self._flow_ns(amount)
        return taken

    def correct(self, taken: Taken, amount: int) -> None:
        """Say what the amount was in truth."""
        if self._taken and taken.at_ns >= self._taken[0].at_ns:
            self._sum += amount - taken.amount
        self._free_ns += self._flow_ns(amount - taken.amount)
        taken.amount = amount

    def _flow_ns(self, amount: int) -> int:
        return ceil(amount * WINDOW_NS / self._limit)

    def _forget(self, now_ns: int) -> None:
        while self._taken and self._taken[0].at_ns + WINDOW_NS <= now_ns:
            self._sum -= self._taken.popleft().amount


class Pace:
    """The limits of requests and of tokens per minute, together."""

    def __init__(self, flow: FlowSpec) -> None:
        requests, tokens = flow.requests_per_minute, flow.tokens_per_minute
        self._requests = None if requests is None else Bucket(requests)
        self._tokens = None if tokens is None else Bucket(tokens)

    def wait_ns(self, tokens: int, now_ns: int) -> int:
        """Return in how many nanoseconds a request of so many tokens may go; 0: now."""
        wait = 0 if self._requests is None else self._requests.wait_ns(1, now_ns)
        if self._tokens is not None:
            wait = max(wait, self._tokens.wait_ns(tokens, now_ns))
        return wait

    def take(self, tokens: int, now_ns: int) -> Taken | None:
        """Count a request that goes now."""
        if self._requests is not None:
            self._requests.take(1, now_ns)
        return None if self._tokens is None else self._tokens.take(tokens, now_ns)

    def correct(self, taken: Taken | None, tokens: int) -> None:
        """Say how many tokens a request had in truth."""
        if self._tokens is not None and taken is not None:
            self._tokens.correct(taken, tokens)


class TokenEstimate:
    """How many tokens texts have, by their characters, and by what the service counted so far."""

    def __init__(self) -> None:
        self._per_character = TOKENS_PER_CHARACTER
        self.is_learned = False
        """Whether an answer has said how many there were, or that it does not say."""

    def of(self, texts: Iterable[str]) -> int:
        """Return the estimate; at least one token a text."""
        return sum(self.of_one(text) for text in texts)

    def of_one(self, text: str) -> int:
        """Return the estimate of one text, at least 1."""
        return max(ceil(len(text) * self._per_character), 1)

    def learn(self, characters: int, tokens: int | None) -> None:
        """Take in what a service counted; None, nothing."""
        if tokens and characters:
            found = tokens / characters
            keep = _MEMORY if self.is_learned else 0.0
            self._per_character = keep * self._per_character + (1 - keep) * found
        self.is_learned = True
