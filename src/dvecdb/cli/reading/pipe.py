"""Reading a pipe or a terminal so that Ctrl-C ends it at once, however long it says nothing."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import threading
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

_BUFFER_BYTES = 64 * 1024


@contextlib.contextmanager
def interruptible(file: BinaryIO) -> Iterator[BinaryIO]:
    """Yield a reader of what is left in a file that has a descriptor; any other file as it is.

    A signal that comes after the interpreter last looked, and before the system call that waits,
    is seen when that call returns: when the writer has more to say. So no read waits here. What
    waits is a poll, for the data or for the byte that the interpreter writes at every signal.
    Outside the main thread, which alone is told of signals, the file is yielded as it is.
    """
    try:
        number = file.fileno()
    except (OSError, AttributeError):  # in memory
        yield file
        return
    if threading.current_thread() is not threading.main_thread():
        yield file
        return
    woken, waking = os.pipe()
    try:
        os.set_blocking(woken, False)
        os.set_blocking(waking, False)
        before = signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        try:
            raw = _Interruptible(number, woken)
            yield cast("BinaryIO", io.BufferedReader(raw, _BUFFER_BYTES))
        finally:
            signal.set_wakeup_fd(before)
    finally:
        os.close(woken)
        os.close(waking)


class _Interruptible(io.RawIOBase):
    """What a descriptor says; waits for it and for signals. Closes neither descriptor."""

    def __init__(self, number: int, woken: int) -> None:
        self._number, self._woken = number, woken
        self._poll = select.poll()
        self._poll.register(number, select.POLLIN)
        self._poll.register(woken, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # any buffer
        while True:
            ready = {number for number, _ in self._poll.poll()}
            if self._woken in ready:  # the handler runs before the next line of this function
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, _BUFFER_BYTES)
            if self._number in ready:
                return os.readv(self._number, [buffer])
