"""What a person can do to a running job: pause it, let it go on, stop it. From any thread."""

from __future__ import annotations

import threading


class Controls:
    """Shared by a job and whoever controls it.

    takes_signals: signals to this process reach it; others may send them.
    """

    def __init__(self, *, takes_signals: bool = False) -> None:
        self.takes_signals = takes_signals
        self.stopping = threading.Event()
        self._paused = threading.Event()

    @property
    def is_paused(self) -> bool:
        """Whether no new request is sent."""
        return self._paused.is_set()

    def pause(self) -> None:
        """Send nothing more until `resume`; what is under way is finished and committed."""
        self._paused.set()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._paused.clear()

    def stop(self) -> None:
        """End the run: what is under way is finished and committed. The next run goes on there."""
        self.stopping.set()
