"""An embedding job in the thread of a task: run, watched, told to others, without a secret.

ended by itself, or by `stop`     done, with the report
cancelled, or the server stops    cancelled, interrupted; the report is in the error's details
anything else                     failed
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from dvecdb import embedding
from dvecdb.api.context import Answer
from dvecdb.api.job_allowance import secrets_of, without
from dvecdb.clock import NANOSECONDS_PER_SECOND
from dvecdb.embedding.events import (
    AttemptFailed,
    Committed,
    Paused,
    Reconnected,
    Resumed,
    SourceDone,
    SourceStarted,
)
from dvecdb.embedding.progress import JOBS, Cursor, read_cursor
from dvecdb.errors import Code, DvecdbError, HandleError, ServerError, UnavailableError
from dvecdb.telemetry import Event

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dvecdb.api.context import Context
    from dvecdb.api.job_allowance import Allowance
    from dvecdb.api.job_request import JobRequest
    from dvecdb.api.jobs import Run
    from dvecdb.api.tasks import TaskHandle
    from dvecdb.embedding.report import JobReport
    from dvecdb.records import Json

_RATE_SECONDS: Final = 60  # the rate that is shown is of the last minute
_UNIT: Final = "rows"

_log = structlog.get_logger("dvecdb.api")


class JobRun:
    """One run of a job, or one look at what it would do."""

    def __init__(
        self,
        context: Context,
        request: JobRequest,
        run: Run,
        allowance: Allowance,
        environment: Mapping[str, str],
    ) -> None:
        self._context = context
        self._request = request
        self._job = request.job()
        self._run = run
        self._allowance = allowance
        self._environment = environment
        self._secrets = secrets_of(self._job, environment)
        self._progress: Progress | None = None

    def estimate(self, _: TaskHandle) -> Json:
        """Return what a run would do, by source."""
        try:
            found = embedding.estimate_job(
                self._job,
                self._context.database,
                environment=self._environment,
                resolve=self._allowance.resolve,
            )
        except DvecdbError as error:
            raise self._clean(error) from None
        finally:
            self._context.parts.jobs.end(self._run)
        return msgspec.to_builtins(found)

    def run(self, handle: TaskHandle) -> Json:
        """Run the job, say what came of it."""
        facts = {"collection": self._job.target.collection, "task": handle.task_id}
        _log.info(Event.JOB_STARTED, key=self._context.principal.name, **facts)
        self._progress = Progress(self._context, self._job, handle)
        handle.when_stopped(self._run.controls.stop)
        outcome, failure = "failed", None
        try:
            report = self._do()
            if self._run.is_left:
                raise _left(self._job.target.collection)
            outcome = report.state
            if outcome == "stopped" and handle.is_stopping:
                outcome = "interrupted"
                raise _interrupted(report, handle.task_id)
            return msgspec.to_builtins(report)
        except DvecdbError as error:
            failure = self._clean(error)
            if failure.code is Code.CANCELLED:
                outcome = "interrupted" if handle.is_stopping else "stopped"
            raise failure from None
        except Exception:  # noqa: BLE001  # the job failed, the server goes on
            request_id = self._context.request_id
            _log.exception(Event.REQUEST_FAILED, request_id=request_id, **facts)
            text = "the job failed in a way that nobody foresaw; the server's log knows more"
            failure = ServerError(Code.SERVER_ERROR, text, request_id=request_id)
            raise failure from None
        finally:
            self._context.parts.jobs.end(self._run)
            self._say(outcome, failure, facts)

    def _do(self) -> JobReport:
        assert self._progress is not None
        return embedding.run(
            self._job,
            self._context.database,
            environment=self._environment,
            watch=self._progress,
            controls=self._run.controls,
            resolve=self._allowance.resolve,
            full=self._request.full,
            only_failed=self._request.only_failed,
        )

    def _say(self, outcome: str, failure: DvecdbError | None, facts: Mapping[str, Any]) -> None:
        """Tell metrics, audit and log how it ended."""
        context, progress = self._context, self._progress
        assert progress is not None
        context.parts.metrics.count_job(outcome)
        code = None if failure is None else str(failure.code)
        _log.info(Event.JOB_ENDED, outcome=outcome, code=code, texts=progress.texts, **facts)
        lsn = None
        with contextlib.suppress(DvecdbError):  # deleted meanwhile, or the database closes
            lsn = context.database.collection(facts["collection"]).stats().last_lsn
        context.note(Answer(None, lsn=lsn, rows=progress.written), failure)

    def _clean(self, error: DvecdbError) -> DvecdbError:
        """Return an error that has no secret in it, whatever a service or a database said."""
        cleaned = type(error)(error.code, without(self._secrets, error.message))
        details = msgspec.json.decode(msgspec.json.encode(dict(error.details), enc_hook=str))
        cleaned.details = without(self._secrets, details)
        return cleaned


def _left(collection: str) -> DvecdbError:
    return HandleError(
        Code.COLLECTION_DELETED,
        f"collection {collection!r} was deleted while its job ran. What the job wrote went with it "
        "and comes back with it",
        collection=collection,
    )


def _interrupted(report: JobReport, task_id: str) -> DvecdbError:
    return UnavailableError(
        Code.CANCELLED,
        f"task {task_id} was cancelled or the server stopped. What was answered is committed; the "
        "same job goes on behind it when it is started again",
        task=task_id,
        report=msgspec.to_builtins(report),
    )


class Progress:
    """What a run tells, as figures of its task, counts of texts, and lines of the log.

    texts: that were paid for; written: records. What becomes a figure is told by the thread of the
    run alone, the rest by any.
    """

    def __init__(self, context: Context, job: embedding.Job, handle: TaskHandle) -> None:
        self._context = context
        self._job = job
        self._handle = handle
        self._cursors: dict[str, Cursor] = {}
        self._begun: dict[str, Cursor] = {}
        self._done: dict[str, int] = {}
        self._totals: dict[str, int | None] = {}
        self._seen: deque[tuple[int, int]] = deque()
        self._away: set[str] = set()
        self.texts = 0

    @property
    def written(self) -> int:
        """How many records the run wrote."""
        return sum(
            _written(cursor) - _written(self._begun[name]) for name, cursor in self._cursors.items()
        )

    def __call__(self, event: object) -> None:
        """Take an event."""
        if isinstance(event, SourceStarted):
            self._totals[event.source] = event.total
            self._done[event.source] = event.cursor
            self._remember(event.source)
            self._show()
        elif isinstance(event, Committed | SourceDone):
            self._count(event.source, event.cursor)
            self._done[event.source] = event.cursor.cursor
            self._show()
        elif isinstance(event, AttemptFailed):
            self._note_away(event)
        elif isinstance(event, Reconnected):
            self._away.discard(event.what)
        elif isinstance(event, Paused | Resumed):
            name = Event.JOB_PAUSED if isinstance(event, Paused) else Event.JOB_RESUMED
            self._log(name)

    def _remember(self, source: str) -> None:
        """Note the counts that a source begins with: it may go on with those of an earlier run."""
        with contextlib.suppress(DvecdbError):
            collection = self._context.database.collection(self._job.target.collection)
            cursor = read_cursor(collection.documents.get(JOBS, source))
            if cursor is not None:
                self._begun[source] = self._cursors[source] = cursor

    def _count(self, source: str, cursor: Cursor) -> None:
        before = self._cursors.get(source)
        if before is not None:
            texts = max(0, cursor.embedded - before.embedded)
            self.texts += texts
            self._context.parts.metrics.count_job_texts(texts)
            self._cursors[source] = cursor

    def _show(self) -> None:
        done = sum(self._done.values())
        totals = [self._totals.get(name) for name in self._job.sources]
        known = [total for total in totals if total is not None]
        total = sum(known) if len(known) == len(totals) else None
        now_ns = self._context.parts.clock.monotonic_ns()
        if not self._seen or now_ns - self._seen[-1][0] >= NANOSECONDS_PER_SECOND:
            self._seen.append((now_ns, done))
        while now_ns - self._seen[0][0] > _RATE_SECONDS * NANOSECONDS_PER_SECOND:
            self._seen.popleft()
        since_ns, before = self._seen[0]
        seconds = (now_ns - since_ns) / NANOSECONDS_PER_SECOND
        rate = (done - before) / seconds if seconds > 0 else None
        self._handle.progress(done, total, _UNIT, rate)

    def _note_away(self, event: AttemptFailed) -> None:
        """Say once that something is away; what it said stays out of the log."""
        if event.what not in self._away:
            self._away.add(event.what)
            self._log(Event.JOB_WAITING, what=event.what, reason=event.reason)

    def _log(self, name: Event, **facts: str) -> None:
        collection = self._job.target.collection
        _log.info(name, collection=collection, task=self._handle.task_id, **facts)


def _written(cursor: Cursor) -> int:
    return cursor.embedded + cursor.copied + cursor.relabelled
