"""Tasks: long work that a request starts and others watch and cancel.

    queued -> running -> done | failed | cancelled
       any of the first two -> interrupted (the server stopped before it ended)

    ID.started.json   a task was accepted: durable before the request is answered
    ID.ended.json     how it ended, with its result or its error

So tasks survive a restart as what they came to; one that was started and has no end was
interrupted. Progress is only in memory. Ids are numbers that rise. Cancelling is cooperative: the
work asks at places where it can stop. There are no threads while there are no tasks.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import msgspec

from dvecdb.api.task import Task, TaskState, task_of
from dvecdb.api.task_files import TaskFiles
from dvecdb.clock import SystemClock
from dvecdb.engine.storage import unreadable, write_failed
from dvecdb.errors import (
    Code,
    DvecdbError,
    HandleError,
    NotFoundError,
    ServerError,
    UnavailableError,
)
from dvecdb.formats import names
from dvecdb.formats.server_file import TaskEndFile, TaskStartFile
from dvecdb.records import Finding

if TYPE_CHECKING:
    from collections.abc import Callable

    from dvecdb.clock import Clock
    from dvecdb.media.files import Dir, Files
    from dvecdb.records import Json

RUNNING_MAX: Final = 2
QUEUED_MAX: Final = 32
KEPT_MAX: Final = 1_000
"""Ended tasks that are kept; those that ended first go first."""
RESULT_BYTES_MAX: Final = 1024 * 1024
RETRY_AFTER_SECONDS: Final = 5


@dataclass(slots=True, eq=False)
class _Entry:
    """A task of this process: what it stands at, and the work as long as there is some."""

    task: Task
    run: Callable[[TaskHandle], Json] | None = None
    apart: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    when_stopped: Callable[[], None] | None = None

    def ask_to_stop(self) -> None:
        """Tell the work to stop. Under the lock of the table."""
        self.stop.set()
        if self.when_stopped is not None:
            self.when_stopped()


class TaskHandle:
    """What a running task tells, and asks, those who keep it. Safe for threads."""

    def __init__(self, entry: _Entry, lock: threading.Lock) -> None:
        self._entry, self._lock = entry, lock

    @property
    def task_id(self) -> str:
        """The id of the task."""
        return self._entry.task.id

    def progress(
        self,
        done: int,
        total: int | None = None,
        unit: str | None = None,
        rate: float | None = None,
    ) -> None:
        """Say how far it is: `done` of `total` `unit`, `rate` of them in a second."""
        with self._lock:
            task = self._entry.task
            total = total if total is not None else task.total
            unit = unit if unit is not None else task.unit
            self._entry.task = replace(task, done=done, total=total, unit=unit, rate=rate)

    @property
    def is_stopping(self) -> bool:
        """Whether somebody cancelled the task, or the server stops."""
        return self._entry.stop.is_set()

    def when_stopped(self, call: Callable[[], None]) -> None:
        """Have `call` called once the task is to stop, at once if it is already. It may not wait.

        For work that waits where it cannot ask.
        """
        with self._lock:
            self._entry.when_stopped = call
            if self._entry.stop.is_set():
                call()

    def check_cancelled(self) -> None:
        """Stop here if somebody cancelled the task, or the server stops. Let the error pass.

        Raises:
            UnavailableError: `cancelled`.
        """
        if self._entry.stop.is_set():
            raise UnavailableError(
                Code.CANCELLED,
                f"task {self._entry.task.id} was cancelled or the server stopped; start it again",
                task=self._entry.task.id,
            )


class Tasks:
    """The tasks of a server. `directory`: an open handle of DATA_DIR/.server/tasks.

    The handle belongs to the tasks from now on. `_lock` guards the table, the queue and the
    counters; files are written without it. on_error: told what a task raised that nobody foresaw.
    """

    def __init__(
        self,
        files: Files,
        directory: Dir,
        *,
        clock: Clock | None = None,
        running_max: int = RUNNING_MAX,
        queued_max: int = QUEUED_MAX,
        kept_max: int = KEPT_MAX,
        on_error: Callable[[Task, Exception], object] | None = None,
    ) -> None:
        """Read what is known of earlier tasks.

        Raises:
            DirectoryError: `directory-unreadable`.
        """
        self._clock = clock if clock is not None else SystemClock()
        self._running_max, self._queued_max, self._kept_max = running_max, queued_max, kept_max
        self._on_error = on_error
        self._files = TaskFiles(files, directory)
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._queue: deque[_Entry] = deque()
        self._accepting = 0  # being noted on disk, so they count as queued
        self._running = self._running_apart = 0
        self._is_closed = False  # nothing is started any more
        self._is_ended = False
        self._is_closed_apart = False
        self._findings: list[Finding] = []
        try:
            stored = self._files.load(self._findings)
        except OSError as error:
            raise unreadable("the directory of the tasks", error) from error
        self._entries = {item.id: _Entry(task_of(item)) for item in stored}
        self._next = 1 + max((int(task_id) for task_id in self._entries), default=0)
        self._next = max(self._next, self._files.next_number)
        self._prune()

    # --- starting --------------------------------------------------------------------------------

    def start(
        self,
        kind: str,
        collection: str | None,
        run: Callable[[TaskHandle], Json],
        *,
        key: str | None = None,
        request_id: str | None = None,
        apart: bool = False,
    ) -> Task:
        """Queue a task; that it was started is durable on return.

        run: does the work in a thread of ours and returns a JSON value of at most 1 MiB.
        apart: it may take days, so it runs at once, in a thread of its own, and keeps nothing
        waiting; whoever starts such tasks sees to it that they are few.

        Raises:
            UnavailableError: `too-many-requests`; details: `retry_after_seconds`.
            DiskFullError, OutcomeUnknownError: it could not be noted, and will not run.
            HandleError: `handle-closed`.
        """
        task_id = self._accept(apart=apart)
        now = self._clock.wall_ns()
        task = Task(task_id, kind, collection, TaskState.QUEUED, key, request_id, now)
        started = TaskStartFile(
            id=task_id, kind=kind, collection=collection, key=key, request_id=request_id,
            queued_ns=now,
        )  # fmt: skip
        try:
            self._files.write_start(started)
        except OSError as error:
            with self._lock:
                self._accepting -= 1
            raise write_failed(f"starting the task {kind!r}", error) from error
        return self._enqueue(_Entry(task, run, apart))

    def _accept(self, *, apart: bool) -> str:
        """Take a place in the queue and return the id for it."""
        with self._lock:
            if self._is_closed or (apart and self._is_closed_apart):
                raise HandleError(Code.HANDLE_CLOSED, "the server is stopping; no task was started")
            waiting = len(self._queue) + self._accepting
            if waiting >= self._queued_max and not apart:
                raise UnavailableError(
                    Code.TOO_MANY_REQUESTS,
                    f"{waiting} tasks wait already, {self._queued_max} at most; this one was not "
                    "started. Try again later, or cancel one",
                    retry_after_seconds=RETRY_AFTER_SECONDS,
                )
            self._accepting += 1
            number, self._next = self._next, self._next + 1
            return f"{number:010d}"

    def _enqueue(self, entry: _Entry) -> Task:
        with self._lock:
            self._accepting -= 1
            self._entries[entry.task.id] = entry
            if self._is_closed or (entry.apart and self._is_closed_apart):  # meanwhile
                self._end(entry, TaskState.INTERRUPTED)
                return entry.task
            if entry.apart:
                self._running_apart += 1
                entry.task = replace(entry.task, state=TaskState.RUNNING)
                name = f"dvecdb-{entry.task.kind}"
                threading.Thread(
                    target=self._work_apart, args=[entry], name=name, daemon=True
                ).start()
                return entry.task
            self._queue.append(entry)
            if self._running < self._running_max:
                self._running += 1
                threading.Thread(target=self._work, name="dvecdb-task", daemon=True).start()
            return entry.task

    # --- running ---------------------------------------------------------------------------------

    def _work(self) -> None:
        """Run what is queued until nothing is."""
        while True:
            with self._lock:
                if self._is_closed or not self._queue:
                    self._running -= 1
                    self._ended.notify_all()
                    return
                entry = self._queue.popleft()
                entry.task = replace(entry.task, state=TaskState.RUNNING)
            self._run(entry)

    def _work_apart(self, entry: _Entry) -> None:
        try:
            self._run(entry)
        finally:
            with self._lock:
                self._running_apart -= 1
                self._ended.notify_all()

    def _run(self, entry: _Entry) -> None:
        run, entry.run = entry.run, None
        assert run is not None
        result: Json = None
        error: DvecdbError | None = None
        try:
            result = _bounded(run(TaskHandle(entry, self._lock)))
        except DvecdbError as raised:
            error = raised
        except Exception as raised:  # noqa: BLE001  # the task failed, the server goes on
            error = ServerError(
                Code.SERVER_ERROR,
                f"task {entry.task.id} failed in a way that nobody foresaw; the server's log knows "
                "more under its id",
                task=entry.task.id,
            )
            if self._on_error is not None:
                with contextlib.suppress(Exception):
                    self._on_error(entry.task, raised)
        state = TaskState.DONE
        if error is not None:
            state = TaskState.FAILED
            if error.code == Code.CANCELLED and entry.stop.is_set():
                is_ours = entry.task.is_cancelling
                state = TaskState.CANCELLED if is_ours else TaskState.INTERRUPTED
        self._finish(entry, state, result, error)

    def _finish(
        self, entry: _Entry, state: TaskState, result: Json = None, error: DvecdbError | None = None
    ) -> None:
        """Note how a task ended, first on disk."""
        ended = TaskEndFile(
            id=entry.task.id,
            state=state,
            ended_ns=self._clock.wall_ns(),
            result=result,
            error=None if error is None else _described(error),
        )
        if entry.task.state.is_over:
            return  # marked as interrupted while it went on
        failed = self._note_end(ended)
        self._publish_end(entry, ended, failed)
        self._prune()

    def _publish_end(self, entry: _Entry, ended: TaskEndFile, failed: Finding | None) -> None:
        with self._lock:
            if not entry.task.state.is_over:
                self._end(
                    entry, TaskState(ended.state), ended_ns=ended.ended_ns, result=ended.result,
                    error=ended.error,
                )  # fmt: skip
                if failed is not None:
                    self._findings.append(failed)

    def _note_end(self, ended: TaskEndFile) -> Finding | None:
        try:
            self._files.write_end(ended)
        except OSError as error:
            where = f"{names.SERVER}/{names.TASKS}/{names.task_name(ended.id, ended=True)}"
            return Finding(
                "task-not-noted", None, where,
                f"the end of task {ended.id} ({ended.state}) could not be written "
                f"({error.strerror}); after a restart it will be shown as interrupted",
            )  # fmt: skip
        return None

    def _end(self, entry: _Entry, state: TaskState, **fields: object) -> None:
        """Change the table. Under `_lock`."""
        changed: dict[str, object] = {"ended_ns": self._clock.wall_ns(), **fields}
        entry.task = replace(entry.task, state=state, rate=None, **changed)  # type: ignore[arg-type]
        entry.run = entry.when_stopped = None
        self._ended.notify_all()

    def _prune(self) -> None:
        """Forget the tasks that ended first, beyond the bound."""
        with self._lock:
            over = [entry.task for entry in self._entries.values() if entry.task.state.is_over]
            over.sort(key=lambda task: (task.ended_ns or task.queued_ns, task.id))
            gone = over[: max(0, len(over) - self._kept_max)]
            for task in gone:
                del self._entries[task.id]
        for task in gone:
            self._files.remove(task.id)

    # --- watching --------------------------------------------------------------------------------

    def get(self, task_id: str) -> Task:
        """Return a task as it stands.

        Raises:
            NotFoundError: `task-not-found`.
        """
        with self._lock:
            return self._find(task_id).task

    def _find(self, task_id: str) -> _Entry:
        entry = self._entries.get(task_id)
        if entry is None:
            raise NotFoundError(
                Code.TASK_NOT_FOUND,
                f"there is no task {task_id!r:.80}; the {self._kept_max} newest are kept",
                task=task_id,
            )
        return entry

    def cancel(self, task_id: str) -> Task:
        """Ask a task to stop, and return it. One that waits ends at once; one that ended stays.

        Raises:
            NotFoundError: `task-not-found`.
        """
        with self._lock:
            entry = self._find(task_id)
            if entry.task.state.is_over:
                return entry.task
            entry.task = replace(entry.task, is_cancelling=True)
            entry.ask_to_stop()
            if entry not in self._queue:
                return entry.task
            self._queue.remove(entry)
        self._finish(entry, TaskState.CANCELLED)
        return entry.task

    def findings(self) -> list[Finding]:
        """Return what is wrong with the files: `task-damaged`, `task-not-noted`."""
        with self._lock:
            return self._findings.copy()

    def wait(self, task_id: str) -> Task:
        """Wait for the end of a task, or for the server's, and return how it stands.

        Raises:
            NotFoundError: `task-not-found`.
        """
        with self._lock:
            entry = self._find(task_id)
            self._ended.wait_for(lambda: entry.task.state.is_over or self._is_closed)
            return entry.task

    def stop(self) -> None:
        """Ask everything to stop, start nothing more, and let go of those who wait for an end."""
        with self._lock:
            self._is_closed = True
            self._queue.clear()
            for entry in self._entries.values():
                entry.ask_to_stop()
            self._ended.notify_all()

    def stop_apart(self) -> None:
        """Ask what runs apart to stop, and start no more of that. Everything else goes on."""
        with self._lock:
            self._is_closed_apart = True
            for entry in self._entries.values():
                if entry.apart and not entry.task.state.is_over:
                    entry.ask_to_stop()

    def wait_apart(self, timeout_seconds: float) -> bool:
        """Wait at most that long for what runs apart; return whether it has ended."""
        with self._lock:
            return self._ended.wait_for(lambda: self._running_apart == 0, timeout_seconds)

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Stop everything, wait at most that long, and mark what it interrupts."""
        self.stop()
        with self._lock:
            if self._is_ended:
                return
            self._is_ended = True
            self._ended.wait_for(lambda: self._running + self._running_apart == 0, timeout_seconds)
            left = [e for e in self._entries.values() if not e.task.state.is_over]
        for entry in left:
            self._finish(entry, TaskState.INTERRUPTED)
        self._files.close()

    def list(self) -> list[Task]:
        """Return the tasks as they stand, newest first."""
        with self._lock:
            found = [entry.task for entry in self._entries.values()]
        return sorted(found, key=lambda task: task.id, reverse=True)


def _bounded(result: Json) -> Json:
    """Return `result` as JSON values, or what it was too large for."""
    encoded = msgspec.json.encode(result, enc_hook=str)
    if len(encoded) > RESULT_BYTES_MAX:
        return {"too_large_bytes": len(encoded), "limit_bytes": RESULT_BYTES_MAX}
    return msgspec.json.decode(encoded)


def _described(error: DvecdbError) -> dict[str, Json]:
    described = {
        "code": str(error.code),
        "message": error.message,
        "advice": error.advice,
        "details": dict(error.details),
    }
    value: dict[str, Json] = msgspec.json.decode(msgspec.json.encode(described, enc_hook=str))
    return value
