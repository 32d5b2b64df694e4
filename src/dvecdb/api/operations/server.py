"""The server itself: health, figures, findings, verification, tasks, audit log, metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

import dvecdb
from dvecdb.api.auth import Scope
from dvecdb.api.context import Answer
from dvecdb.clock import to_datetime
from dvecdb.errors import DvecdbError
from dvecdb.wire.bodies import (
    AuditAnswer,
    Done,
    FindingsAnswer,
    TaskBody,
    TasksAnswer,
    TaskStarted,
    VerifyRequest,
    finding_body,
    report_body,
)
from dvecdb.wire.legacy import HealthAnswer, LiveAnswer, ReadyAnswer, ServerStats

if TYPE_CHECKING:
    from dvecdb.api.context import Context
    from dvecdb.api.task import Task
    from dvecdb.api.tasks import TaskHandle
    from dvecdb.records import Finding, Json

_NANOSECONDS = 1_000_000_000


# --- health: on the event loop, so that a busy server still says that it lives ---


def health(_: Context, __: None) -> Answer:
    """Say that the server answers."""
    return Answer("OK")


def live(context: Context, _: None) -> Answer:
    """Say that the process answers."""
    return Answer(LiveAnswer(alive=True, timestamp=_now(context)))


def ready(context: Context, _: None) -> Answer:
    """Say whether requests can be served."""
    problem = _problem(context)
    answer = ReadyAnswer(problem is None, _now(context), {"database": problem or "ok"})
    return Answer(answer, status=200 if problem is None else 503)


def check_health(context: Context, _: None) -> Answer:
    """Describe the server and its parts."""
    problem = _problem(context)
    findings = [] if problem else context.database.findings()
    state = "unhealthy" if problem else "degraded" if findings else "healthy"
    components = {
        "database": problem or "ok",
        "findings": len(findings),
        "collections": 0 if problem else len(context.database.collections()),
    }
    answer = HealthAnswer(
        state, _now(context), dvecdb.__version__, context.parts.uptime_seconds, components
    )
    return Answer(answer, status=503 if problem else 200)


def _now(context: Context) -> int:
    return context.parts.clock.wall_ns() // _NANOSECONDS


def _problem(context: Context) -> str | None:
    try:
        context.database.collections()
    except DvecdbError as error:
        return str(error)
    return None


# --- figures ---


def server_stats(context: Context, _: None) -> Answer:
    """Return the figures of all collections together."""
    vectors = collections = memory = disk = 0
    for name in context.database.collections():
        if context.principal.may_see(name):
            stats = context.database.collection(name).stats()
            collections += 1
            vectors += stats.count
            memory += stats.memtable_bytes
            disk += stats.segment_bytes + stats.wal_bytes
    uptime = context.parts.uptime_seconds
    return Answer(ServerStats(vectors, collections, memory, disk, uptime))


def read_metrics(context: Context, _: None) -> Answer:
    """Return figures for Prometheus."""
    metrics = context.parts.metrics
    return Answer(metrics.render(context.database), media=metrics.content_type)


# --- damage ---


def findings(context: Context, _: None) -> Answer:
    """Return everything that is damaged or doubtful."""
    parts, principal = context.parts, context.principal
    found = parts.database.findings()
    if principal.is_unrestricted:
        found += [*parts.audit.findings(), *parts.tasks.findings()]
    return Answer(_findings([
        item for item in found
        if (principal.is_unrestricted if item.collection is None
            else principal.may_see(item.collection))
    ]))  # fmt: skip


def collection_findings(context: Context, _: None) -> Answer:
    """Return what is damaged or doubtful in a collection."""
    return Answer(_findings(context.collection.findings()))


def _findings(found: list[Finding]) -> FindingsAnswer:
    return FindingsAnswer([finding_body(item) for item in found])


def verify(context: Context, request: VerifyRequest) -> Answer:
    """Read and check every stored byte of a collection; damage becomes findings."""
    collection = context.collection
    if not request.background:
        return Answer(report_body(collection.verify()))

    def run(_: TaskHandle) -> Json:
        return msgspec.to_builtins(report_body(collection.verify()))

    task = context.parts.tasks.start(
        "verify",
        collection.name,
        run,
        key=context.principal.name,
        request_id=context.request_id,
    )
    return Answer(TaskStarted(task_body(task)), status=202)


def flush(context: Context, _: None) -> Answer:
    """Write everything in memory into segments and do the maintenance that is due."""
    context.collection.flush()
    return Answer(Done())


# --- tasks ---


def list_tasks(context: Context, _: None) -> Answer:
    """List the tasks, newest first."""
    principal = context.principal
    found = [
        task
        for task in context.parts.tasks.list()
        if (principal.is_unrestricted if task.collection is None
            else principal.may_see(task.collection))
    ]  # fmt: skip
    return Answer(TasksAnswer([task_body(task) for task in found]))


def read_task(context: Context, _: None) -> Answer:
    """Return a task."""
    task = context.parts.tasks.get(context.path["task"])
    require_owner(context, task.collection)
    return Answer(task_body(task))


def cancel_task(context: Context, _: None) -> Answer:
    """Ask a task to stop. One that has ended stays as it is."""
    return Answer(task_body(context.parts.tasks.cancel(context.path["task"])))


def require_owner(context: Context, collection: str | None) -> None:
    """Refuse to show what long work came to, unless the key is for its collection.

    collection: None if it was about the whole server, which takes a key for all collections.

    Raises:
        AuthError: `forbidden`.
    """
    guard, principal = context.parts.guard, context.principal
    if collection is not None:
        guard.require(principal, Scope.READ, collection)
    elif not principal.is_unrestricted:
        guard.require(principal, Scope.RESTORE)  # which is for the whole server


def task_body(task: Task) -> TaskBody:
    """Return the message form of a task."""
    return TaskBody(
        id=task.id,
        kind=task.kind,
        collection=task.collection,
        state=task.state.value,
        key=task.key,
        request_id=task.request_id,
        queued=to_datetime(task.queued_ns),
        ended=None if task.ended_ns is None else to_datetime(task.ended_ns),
        done=task.done,
        total=task.total,
        unit=task.unit,
        is_cancelling=task.is_cancelling,
        result=task.result,
        error=None if task.error is None else dict(task.error),
        rate=task.rate,
    )


# --- audit ---


def read_audit(context: Context, _: None) -> Answer:
    """Return who did what, newest first."""
    page = context.parts.audit.read(context.query.limit, context.query.before)
    return Answer(AuditAnswer(page.entries, page.next, page.damaged))  # type: ignore[arg-type]
