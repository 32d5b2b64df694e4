"""How many requests at a time and how many texts each, by how the service takes them. Pure.

Concurrency is halved when the service says that it is too much, and grows by one with each round of
successes. The number of texts shrinks when a request was too large for its number, and grows back
slowly, to just below what was too large, until that is tried again. One lock around it is the
caller's.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from dvecdb.embedding.model import Reason

if TYPE_CHECKING:
    from dvecdb.embedding.job import FlowSpec

RECENT: Final = 20
OFTEN: Final = 15
"""Of the recent requests so many must have failed: one that fails now and then is not too busy."""
ROUNDS_TO_GROW: Final = 10
"""Successes until a request may have a tenth more texts."""
ROUNDS_TO_FORGET: Final = 500
"""Successes until the number that was too large is tried again."""
_PRESSURE: Final = frozenset({Reason.TIMEOUT, Reason.OVERLOADED, Reason.RATE_LIMITED})


class Throttle:
    """The number of requests at a time and of texts each; never above what the job says."""

    def __init__(self, flow: FlowSpec) -> None:
        self._batch_max = flow.batch
        self._concurrency_max = flow.concurrency
        self.batch = flow.batch
        self.concurrency = flow.concurrency
        self._too_large = flow.batch + 1
        self._successes = 0  # since concurrency changed
        self._takes = 0  # since the batch changed or was refused
        self._lowered_ns = -1
        self._recent: deque[bool] = deque(maxlen=RECENT)

    def succeeded(self, texts: int) -> None:
        """Take in a success."""
        self._recent.append(True)
        self._successes += 1
        if self._successes >= self.concurrency and self.concurrency < self._concurrency_max:
            self.concurrency += 1
            self._successes = 0
        if texts >= self.batch:
            self._takes += 1
            if self._takes % ROUNDS_TO_GROW == 0 and self.batch < self._batch_max:
                most = min(self._batch_max, self._too_large - 1)
                self.batch = max(self.batch, min(self.batch + 1 + self.batch // 10, most))
            if self._takes >= ROUNDS_TO_FORGET:
                self._takes = 0
                self._too_large = self._batch_max + 1

    def failed(self, reason: Reason, sent_ns: int, now_ns: int) -> None:
        """Take in a failure of a request sent at `sent_ns`.

        One that was sent before the last change says nothing about how it is now.
        """
        if reason not in _PRESSURE:
            return
        self._recent.append(False)
        if sent_ns < self._lowered_ns:
            return
        if reason is Reason.RATE_LIMITED or self._recent.count(False) >= OFTEN:
            self.concurrency = max(self.concurrency // 2, 1)
            self._successes = 0
            self._lowered_ns = now_ns
            self._recent.clear()

    def too_large(self, texts: int) -> None:
        """Take in that so many texts were too many, and half of them were not."""
        self._too_large = max(min(self._too_large, texts), 2)
        self.batch = max(min(self.batch, texts // 2), 1)
        self._takes = 0
