"""Group commit: one sync serves everybody who waits for one.

An uncontended caller commits inline. While it syncs, others queue; when it is done the lead goes
to the first of them, who commits for all. Nobody leads for longer than one group.

Those who are done are woken one by the other: threads that wake all at once fight for the
interpreter's lock, which costs more than the commits. The last of them hands on the lead, so that
what the woken bring next is in the next group: if the first of them could lead at once, every
other sync would serve its one write.
"""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import TYPE_CHECKING

from dvecdb.engine.store import Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dvecdb.engine.writes import Write
    from dvecdb.records import Commit
    from dvecdb.settings import Settings


class _Waiter:
    """A queued ticket. `wake` is held until its outcome, or the lead, is there."""

    __slots__ = ("done", "following", "size_bytes", "ticket", "wake")

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.size_bytes = ticket.write.size_bytes
        self.done = False
        self.following: _Waiter | None = None  # whom to wake next; nobody: hand on the lead
        self.wake = threading.Lock()
        self.wake.acquire()


class GroupCommit:
    """The queue in front of a store. `_mutex` guards `_queue` and `_leading`, for moments only."""

    def __init__(self, commit: Callable[[Sequence[Ticket]], None], settings: Settings) -> None:
        self._commit = commit
        self._settings = settings
        self._mutex = threading.Lock()
        self._queue: list[_Waiter] = []
        self._leading = False

    def submit(self, write: Write) -> Commit:
        """Commit `write` and return when it is durable. Raises `DvecdbError`."""
        ticket = Ticket(write)
        waiter: _Waiter | None = None
        with self._mutex:
            if self._leading:
                waiter = _Waiter(ticket)
                self._queue.append(waiter)
            else:
                self._leading = True
        if waiter is None:
            self._lead([ticket], [])
        else:
            self._follow(waiter)
        if ticket.error is not None:
            raise ticket.error
        assert ticket.commit is not None
        return ticket.commit

    def _follow(self, waiter: _Waiter) -> None:
        """Wait for the outcome, or lead. An interruption comes out when nobody needs us."""
        interruption = self._wait(waiter)
        if not waiter.done:
            with self._mutex:
                others = self._take(waiter)
            self._lead([waiter.ticket, *(other.ticket for other in others)], others)
        elif waiter.following is not None:
            waiter.following.wake.release()
        else:
            self._hand_on()
        if interruption is not None:
            raise interruption

    def _wait(self, waiter: _Waiter) -> BaseException | None:
        interruption: BaseException | None = None
        while True:
            try:
                waiter.wake.acquire()
            except BaseException as error:  # of the main thread: Ctrl-C
                with self._mutex:
                    if waiter in self._queue:  # not begun: nothing of it is written
                        self._queue.remove(waiter)
                        raise
                interruption = error
            else:
                return interruption

    def _take(self, leader: _Waiter) -> list[_Waiter]:
        """Return the waiters that go with `leader`, within the bounds of a group."""
        size, count = leader.size_bytes, 0
        for waiter in self._queue:
            size += waiter.size_bytes
            if size > self._settings.group_bytes_max or count >= self._settings.group_commits_max:
                break
            count += 1
        taken, self._queue = self._queue[:count], self._queue[count:]
        return taken

    def _lead(self, group: list[Ticket], others: list[_Waiter]) -> None:
        try:
            self._commit(group)
        finally:
            for other in others:
                other.done = True
            for first, second in pairwise(others):
                first.following = second
            if others:
                others[0].wake.release()
            else:
                self._hand_on()

    def _hand_on(self) -> None:
        """Let the first of the queue lead."""
        with self._mutex:
            successor = self._queue.pop(0) if self._queue else None
            self._leading = successor is not None
        if successor is not None:
            successor.wake.release()
