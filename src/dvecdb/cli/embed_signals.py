"""Signals of a process that runs a job: stop, pause, go on. How another process sends them.

SIGTERM, the first SIGINT    stop: what is under way is finished and committed
the second SIGINT            end at once; what was committed stays, the next run goes on there
SIGUSR1, SIGUSR2             pause; go on
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, Literal

from dvecdb.cli.exit_codes import INTERRUPTED
from dvecdb.embedding.controls import Controls
from dvecdb.media.processes import start_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Wish = Literal["pause", "resume", "stop"]

SENT: Final[Mapping[Wish, signal.Signals]] = {
    "pause": signal.SIGUSR1,
    "resume": signal.SIGUSR2,
    "stop": signal.SIGTERM,
}
"""What `tell` sends."""
_WISHES: Final[Mapping[int, Wish]] = {
    signal.SIGINT: "stop",
    **{number: wish for wish, number in SENT.items()},
}
_ABORTED: Final = (
    "\naborted: what was committed stays, and the next run goes on there; answers under way are "
    "lost\n"
)
_SHOW_CURSOR: Final = "\x1b[?25h"  # a progress bar hides it


@contextlib.contextmanager
def obeying() -> Iterator[Controls]:
    """Yield controls that the signals of this process reach while the context lasts.

    Outside the main thread, signals stay what they are. Handlers only write a byte: what they
    interrupt may hold the locks that `Controls` takes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Controls()
        return
    controls = Controls(takes_signals=True)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    reader = threading.Thread(target=_obey, args=(reading, controls), name="signals", daemon=True)
    reader.start()
    before = {number: signal.getsignal(number) for number in _WISHES}
    try:
        handle = _handler(writing)
        for number in _WISHES:
            signal.signal(number, handle)
        yield controls
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writing)
        reader.join()
        os.close(reading)


def _handler(writing: int) -> Callable[[int, Any], None]:
    interrupts = 0

    def handle(number: int, _frame: Any) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if interrupts > 1:
            _abort()
        with contextlib.suppress(BlockingIOError):
            os.write(writing, bytes([number]))

    return handle


def _abort() -> None:
    """End this process without waiting for requests under way; a killed job loses nothing else."""
    text = (_SHOW_CURSOR if sys.stderr.isatty() else "") + _ABORTED
    os.write(2, text.encode())
    os._exit(INTERRUPTED)


def _obey(reading: int, controls: Controls) -> None:
    acts = {"stop": controls.stop, "pause": controls.pause, "resume": controls.resume}
    while numbers := os.read(reading, 64):
        for number in numbers:
            acts[_WISHES[number]]()


def tell(pid: int, started: int, wish: Wish) -> bool:
    """Send a wish to a process; return whether it is there: the one that started then.

    started: as `media.processes.start_of` says it.

    Raises:
        PermissionError: it is another user's.
    """
    if not hasattr(os, "pidfd_open"):
        if start_of(pid) != started:
            return False
        os.kill(pid, SENT[wish])
        return True
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if start_of(pid) != started:  # from here on `process` is no other, whoever gets its id
            return False
        signal.pidfd_send_signal(process, SENT[wish])
    except ProcessLookupError:
        return False
    finally:
        os.close(process)
    return True
