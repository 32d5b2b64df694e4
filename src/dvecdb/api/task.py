"""A task as it stands: where it is in its life, how far it is, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dvecdb.api.task_files import StoredTask
    from dvecdb.records import Json


class TaskState(StrEnum):
    """Where a task stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """The server stopped before it ended."""

    @property
    def is_over(self) -> bool:
        """Whether the task has ended, however."""
        return self not in {TaskState.QUEUED, TaskState.RUNNING}


@dataclass(frozen=True, slots=True)
class Task:
    """A task as it stands at one moment. Times in nanoseconds since 1970, UTC.

    `done` of `total` `unit` says how far it is, `rate` how many of them there are in a second; None
    while unknown. `key` is the name of the API key that started it. `error` has the fields code,
    message, advice and details.
    """

    id: str
    kind: str
    collection: str | None
    state: TaskState
    key: str | None
    request_id: str | None
    queued_ns: int
    ended_ns: int | None = None
    done: int = 0
    total: int | None = None
    unit: str | None = None
    rate: float | None = None
    is_cancelling: bool = False
    result: Json = None
    error: Mapping[str, Json] | None = None


def task_of(stored: StoredTask) -> Task:
    """Return the task that files tell of: without an end it was interrupted."""
    start, end = stored.start, stored.end
    state = TaskState.INTERRUPTED
    if end is not None and end.state in set(TaskState):
        state = TaskState(end.state)
    return Task(
        id=stored.id,
        kind=start.kind,
        collection=start.collection,
        state=state,
        key=start.key,
        request_id=start.request_id,
        queued_ns=start.queued_ns,
        ended_ns=end.ended_ns if end is not None else None,
        result=end.result if end is not None else None,
        error=end.error if end is not None else None,
    )
