"""Threads for an event loop: one queue, one future for each call, and nothing else.

A hop to `ThreadPoolExecutor` and back costs twice as much, for a future of its own with a condition
in it; beside a get of one record that is most of the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_Work = tuple["asyncio.AbstractEventLoop", "asyncio.Future[Any]", "Callable[[Any], Any]", Any]


class Threads:
    """Up to `threads_max` threads, started when they are needed. Used from one event loop."""

    def __init__(self, name: str, threads_max: int) -> None:
        self._name = name
        self._threads_max = threads_max
        self._threads: list[threading.Thread] = []
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._waiting = 0  # calls that were not answered yet; of the loop's thread

    def run(self, call: Callable[[Any], T], argument: Any) -> asyncio.Future[T]:
        """Call in a thread; the future ends with what it returns or raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting += 1
        if len(self._threads) < min(self._waiting, self._threads_max):
            name = f"{self._name}-{len(self._threads)}"
            self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
            self._threads[-1].start()
        self._queue.put((loop, future, call, argument))
        return future

    def close(self) -> None:
        """Wait for the calls that were begun or wait, and end the threads. Not on the loop."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _work(self) -> None:
        while True:
            work = self._queue.get()
            if work is None:
                return
            loop, future, call, argument = work
            result, error = None, None
            try:
                result = call(argument)
            except BaseException as raised:  # noqa: BLE001 - it is raised where it is awaited
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._answer, future, result, error)
            del work, loop, future, call, argument, result, error

    def _answer(
        self, future: asyncio.Future[Any], result: object, error: BaseException | None
    ) -> None:
        self._waiting -= 1
        if future.done():  # whoever waited was cancelled
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
