"""Embedding jobs that the server runs: each is a task in a thread of its own.

It goes on when the client goes away. Which jobs there are, and how far they are, the collections
say themselves, so a job that somebody runs elsewhere is shown and stopped like one of this server.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from dvecdb import embedding
from dvecdb.api.context import Answer
from dvecdb.api.job_allowance import Allowance
from dvecdb.api.job_runs import JobRun
from dvecdb.api.operations.server import task_body
from dvecdb.embedding.job import refuse_own_field
from dvecdb.embedding.lease import Lease, is_free, running
from dvecdb.embedding.progress import CONTROL, LEASE
from dvecdb.errors import Code, DamagedDataError, HandleError, NotFoundError
from dvecdb.records import check_name, parse_metric, parse_vector_type
from dvecdb.wire import jobs as messages
from dvecdb.wire.bodies import Done, TaskStarted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    from dvecdb.api.context import Context
    from dvecdb.api.job_request import JobRequest
    from dvecdb.api.jobs import Run
    from dvecdb.api.task import Task
    from dvecdb.embedding.job import Job

    State = Literal["running", "paused", "idle"]

KIND: Final = "embed"
_ESTIMATE: Final = "embed-estimate"


# --- starting ---


def run_job(context: Context, request: JobRequest) -> Answer:
    """Run an embedding job in the server; `dry_run` only counts what it would do."""
    job, parts = request.job(), context.parts
    name = context.subject = job.target.collection
    _check(job)
    allowance = Allowance(parts.database, parts.import_roots, parts.job_env, parts.environment)
    environment = allowance.admit(job)
    is_trial = context.query.dry_run
    run = parts.jobs.begin(None if is_trial else name)
    try:
        if not is_trial:
            _refuse_running(context, name)
        work = JobRun(context, request, run, allowance, environment)
        task = parts.tasks.start(
            _ESTIMATE if is_trial else KIND,
            name,
            work.estimate if is_trial else work.run,
            key=context.principal.name,
            request_id=context.request_id,
            apart=True,
        )
    except BaseException:
        parts.jobs.end(run)
        raise
    run.task_id = task.id
    headers = {"location": f"/tasks/{task.id}"}
    return Answer(TaskStarted(task_body(task)), status=202, headers=headers)


def _check(job: Job) -> None:
    """Refuse what can never work.

    Raises:
        InvalidRequestError: `invalid-name`, `invalid-argument`, `invalid-job`.
    """
    check_name(job.target.collection)
    parse_metric(job.target.metric)
    parse_vector_type(job.target.vector_type)
    refuse_own_field(job)


def _refuse_running(context: Context, name: str) -> None:
    """Refuse a second job on a collection, of whomever the first is. This server has none there.

    The lease of another machine may be dead: the run watches it.

    Raises:
        ConflictError: `job-running`.
    """
    if name not in context.database.collections():
        return
    collection = context.database.collection(name)
    lease: Any = collection.documents.get(*LEASE)
    if lease is None or is_free(lease, context.parts.clock.monotonic_ns()):
        return
    if _is_own(lease):
        collection.write(
            documents={LEASE: None},
            expect={LEASE: lease},
            actor=context.options.get("actor"),
            reason="the lease of a run that has ended",
            request_id=context.request_id,
        )
    elif lease["host"] == Lease.of_this_process("").host:
        raise running(lease, name)


def _is_own(lease: Mapping[str, Any]) -> bool:
    """Tell whether a lease is of this process.

    Without a run it is left over: the run could not give it back, or the collection was brought
    back from a time when it had one.
    """
    own = Lease.of_this_process("")
    found = lease.get("host"), lease.get("pid"), lease.get("started")
    return found == (own.host, own.pid, own.started)


# --- looking ---


def list_jobs(context: Context, _: None) -> Answer:
    """List the jobs, by collection: those that run, and what earlier ones came to."""
    # a collection without a job, one that was deleted meanwhile or cannot be read is left out
    names = {*context.database.collections(), *context.parts.jobs.collections()}
    tasks = _tasks(context)
    found: list[messages.JobSummary] = []
    for name in sorted(filter(context.principal.may_see, names)):
        with contextlib.suppress(NotFoundError, HandleError, DamagedDataError):
            facts, _letters = _facts(context, name, tasks.get(name))
            found.append(messages.JobSummary(**facts))
    return Answer(messages.JobsAnswer(found))


def read_job(context: Context, _: None) -> Answer:
    """Return how far the job of a collection is, and the first of its dead letters."""
    name = check_name(context.path["collection"])
    facts, letters = _facts(context, name, _tasks(context).get(name))
    listed = msgspec.convert(letters, list[messages.DeadLetterBody])
    return Answer(messages.JobAnswer(**facts, dead_letters=listed))


def _tasks(context: Context) -> Mapping[str, Task]:
    """Return the newest run of each collection."""
    newest: dict[str, Task] = {}
    for task in context.parts.tasks.list():
        if task.kind == KIND and task.collection is not None:
            newest.setdefault(task.collection, task)
    return newest


def _facts(context: Context, name: str, task: Task | None) -> tuple[dict[str, Any], list[Any]]:
    """Return the fields of a summary, and the dead letters.

    Raises:
        NotFoundError: `job-not-found`, `collection-not-found`.
    """
    run = context.parts.jobs.find(name)
    facts: dict[str, Any] = {
        "collection": name, "model": None, "dimension": None, "running": None, "sources": {},
        "state": _state(run, None, None), "task": None if task is None else task_body(task),
    }  # fmt: skip
    try:
        found = embedding.status(context.database, name)
    except NotFoundError:
        if run is None:
            raise
        return facts, []  # it has not got as far as making it
    lease = found.running
    if run is None and lease is not None and _is_own(lease):
        lease = None
    control = context.database.collection(name).documents.get(*CONTROL)
    facts |= {
        "model": found.model,
        "dimension": found.dimension,
        "running": lease,
        "state": _state(run, lease, control),
        "sources": msgspec.convert(
            msgspec.to_builtins(found.sources), dict[str, messages.JobSource]
        ),
    }
    return facts, found.dead_letters


def _state(run: Run | None, lease: Mapping[str, Any] | None, control: Any) -> State:
    if run is not None:
        return "paused" if run.controls.is_paused else "running"
    if lease is None:
        return "idle"
    is_meant = isinstance(control, dict) and control.get("owner") == lease.get("owner")
    return "paused" if is_meant and control.get("want") == "pause" else "running"


# --- speaking to a run ---


def pause_job(context: Context, _: None) -> Answer:
    """Send nothing more until the job is resumed; what is under way is committed."""
    return _tell(context, "pause")


def resume_job(context: Context, _: None) -> Answer:
    """Let a paused job go on."""
    return _tell(context, "resume")


def stop_job(context: Context, _: None) -> Answer:
    """End the run of a job within seconds; what is under way is committed."""
    return _tell(context, "stop")


def _tell(context: Context, want: Literal["pause", "resume", "stop"]) -> Answer:
    """Tell a run what is wanted: one of this server at once, and any by a document."""
    name = check_name(context.path["collection"])
    run = context.parts.jobs.find(name)
    lease: Any = context.database.collection(name).documents.get(*LEASE) if run is None else None
    if lease is not None and _is_own(lease):
        raise NotFoundError(
            Code.JOB_NOT_FOUND, f"nobody runs a job on collection {name!r}", collection=name
        )
    try:
        embedding.wish(context.database, name, want)
    except NotFoundError:
        if run is None:
            raise  # else: it has not taken the collection yet
    if run is not None:
        getattr(run.controls, want)()
    return Answer(Done())
