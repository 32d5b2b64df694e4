"""The calls about embedding jobs that the server runs. Pure.

A job is a task of the server: a plan that waits for one asks how far it is until it has ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from dvecdb.client import arguments
from dvecdb.client.attempts import Call, Repeat
from dvecdb.client.messages import NO_HEADERS, read, send
from dvecdb.client.requests import Plan, finished
from dvecdb.records import Options
from dvecdb.wire import bodies, jobs

if TYPE_CHECKING:
    from collections.abc import Callable


def run_job(
    job: Mapping[str, Any] | msgspec.Struct,
    *,
    full: bool = False,
    only_failed: bool = False,
    progress: Callable[[int, int], None] | None = None,
    actor: str | None = None,
    reason: str | None = None,
) -> Plan[jobs.JobReport]:
    """Let the server run an embedding job, and wait for its end, however long that takes.

    The run goes on if this is interrupted; `job` says how far it is. To run it in this process,
    `dvecdb.embedding.run(job, database)` takes any database.

    job: a `dvecdb.embedding.Job`, or a mapping with the fields of its TOML. Paths are of the
    server's machine, inside its data directory or an import root; environment variables are the
    server's. full: look at every row, however old its `changed_since`. only_failed: try just the
    dead letters once more. progress: is called with rows done and rows in all.

    Raises:
        InvalidRequestError: `invalid-job`, `invalid-body`, `unknown-field`; `source-not-allowed`,
            says what would allow it; `source-refused`, `embedder-refused`, `extra-missing`.
        ConflictError: `job-running`, `embedder-mismatch`.
        UnavailableError: `too-many-requests`, the server runs as many as it may; `cancelled`.
    """
    started = yield _start(job, {"full": full, "only_failed": only_failed}, actor, reason)
    result = yield from finished(started.task, _what(started.task), progress)
    return msgspec.convert(result, jobs.JobReport)


def start_job(
    job: Mapping[str, Any] | msgspec.Struct,
    *,
    full: bool = False,
    only_failed: bool = False,
    actor: str | None = None,
    reason: str | None = None,
) -> Call[str]:
    """Let the server run an embedding job; return the id of its task. Else as `run_job`.

    `job` of its collection says how far it is.
    """
    return _start(
        job,
        {"full": full, "only_failed": only_failed},
        actor,
        reason,
        finish=lambda answer: answer.task.id,
    )


def estimate_job(job: Mapping[str, Any] | msgspec.Struct) -> Plan[dict[str, jobs.JobEstimate]]:
    """Return what a run of a job would do, by source. Nothing is sent or written.

    Every row of the sources is read, so it takes its time. Raises as `run_job`.
    """
    started = yield _start(job, {}, None, None, dry_run=True)
    result = yield from finished(started.task, _what(started.task))
    return msgspec.convert(result, dict[str, jobs.JobEstimate])


def job(collection: str) -> Call[jobs.JobAnswer]:
    """Return how far the job of a collection is, whoever runs it, and the first dead letters.

    Raises:
        NotFoundError: `collection-not-found`; `job-not-found`, no job ever wrote into it.
    """
    return read(_path(collection), jobs.JobAnswer, lambda answer: answer)


def list_jobs() -> Call[list[jobs.JobSummary]]:
    """Return the jobs of all collections that have one, by name."""
    return read("/jobs", jobs.JobsAnswer, lambda answer: answer.jobs)


def pause_job(collection: str) -> Call[None]:
    """Let a running job send nothing more until it is resumed; what is under way is committed.

    Raises:
        NotFoundError: `collection-not-found`; `job-not-found`, nobody runs a job there.
    """
    return _tell(collection, "pause")


def resume_job(collection: str) -> Call[None]:
    """Let a paused job go on. Raises as `pause_job`."""
    return _tell(collection, "resume")


def stop_job(collection: str) -> Call[None]:
    """End the run of a job within seconds; what is under way is committed. Raises as `pause_job`.

    The next run goes on where it stopped.
    """
    return _tell(collection, "stop")


def _start(
    job: Mapping[str, Any] | msgspec.Struct,
    how: Mapping[str, bool],
    actor: str | None,
    reason: str | None,
    *,
    dry_run: bool = False,
    finish: Callable[[bodies.TaskStarted], Any] = lambda answer: answer,
) -> Call[Any]:
    if not isinstance(job, Mapping | msgspec.Struct):
        raise arguments.invalid(f"job: expected a Job or a mapping, found {type(job).__name__}")
    values: dict[str, Any] = dict(msgspec.to_builtins(job))
    values |= {name: True for name, wanted in how.items() if wanted}
    headers = arguments.note_headers(Options(actor=actor, reason=reason))
    path = "/jobs?dry_run=true" if dry_run else "/jobs"
    repeat = Repeat.READ if dry_run else Repeat.ONCE
    return send("POST", path, values, headers, bodies.TaskStarted, repeat, finish=finish)


def _what(task: bodies.TaskBody) -> str:
    return f"the job of collection {task.collection!r}"


def _path(collection: str) -> str:
    return f"/jobs/{arguments.segment('collection', collection)}"


def _tell(collection: str, want: str) -> Call[None]:
    path = f"{_path(collection)}/{want}"
    return Call("POST", path, NO_HEADERS, b"", lambda _: None)
