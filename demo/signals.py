"""Signals end the tour through its `finally` blocks, so that no process is left behind."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_SECONDS: Final = 0.1


class Signals:
    """While open, Ctrl-C, SIGTERM and SIGHUP raise SystemExit; at a bad moment, a little later."""

    def __init__(self) -> None:
        self._held = 0
        self._number: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in _ENDING:
            self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _take(self, number: int, _: FrameType | None) -> None:
        self._number = number
        if not self._held:
            raise SystemExit(128 + number)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Raise nothing inside: a process that is being started gets its place first."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if self._number is not None and not self._held:
            raise SystemExit(128 + self._number)

    def ignore(self) -> None:
        """Raise nothing from now on: things are being stopped already."""
        self._held += 1

    def wait(self, look: Callable[[], None]) -> int:
        """Wait for a signal; return its number. look: is called every second."""
        self._held += 1
        looked = time.monotonic()
        while self._number is None:
            time.sleep(_POLL_SECONDS)
            if time.monotonic() - looked >= 1.0:
                look()
                looked = time.monotonic()
        number, self._number = self._number, None
        self._held -= 1
        return number
