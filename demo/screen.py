"""What the tour prints. A claim is printed once it was checked, and a wrong one as such."""

from __future__ import annotations

import threading
import time
from typing import Final, Self

WIDTH: Final = 88


class TourError(Exception):
    """The tour cannot go on; the message says why and what to do."""


class Screen:
    """Prints lines, from any thread, and remembers whether every claim held."""

    def __init__(self, steps: int) -> None:
        self.is_good = True
        self._steps = steps
        self._step = 0
        self._lock = threading.Lock()
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the tour has taken so far."""
        return time.monotonic() - self._began

    def step(self, title: str) -> None:
        """Begin a step."""
        self._step += 1
        head = f"-- {self._step}/{self._steps}  {title} "
        self.say(f"\n{head:-<{WIDTH - 8}} {self.seconds:5.1f} s")

    def say(self, line: str = "") -> None:
        """Print a line that claims nothing."""
        with self._lock:
            print(line, flush=True)

    def check(self, holds: bool, claim: str) -> bool:  # noqa: FBT001  # what it is about
        """Print a claim with its verdict."""
        self.say(f"   {'ok    ' if holds else 'WRONG '} {claim}")
        self.is_good = self.is_good and holds
        return holds


class Stopwatch:
    """Measures a `with` block: `seconds`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._began
