"""Imports: what others left behind on the server's machine becomes a collection.

Each is a task, also where the request waits for its end: the request timeout does not apply to it,
and nothing is cancelled because a client went away. A server that stops does cancel it, and then
nothing of it is left.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from dvecdb.api import import_sources
from dvecdb.api.auth import Scope
from dvecdb.api.context import Answer
from dvecdb.api.operations.server import require_owner, task_body
from dvecdb.api.recovery_log import log_imported
from dvecdb.clock import to_datetime
from dvecdb.errors import Code, DvecdbError, ServerError, UnavailableError
from dvecdb.formats.server_file import ImportReportFile
from dvecdb.media.files import absolute_paths
from dvecdb.reports import Imported, ImportReport
from dvecdb.rescue.files import SourceFiles
from dvecdb.rescue.legacy.names import LOG
from dvecdb.wire import rescue as messages
from dvecdb.wire.bodies import TaskStarted
from dvecdb.wire.legacy import NamedMessage

if TYPE_CHECKING:
    from dvecdb.api.context import Context
    from dvecdb.api.import_sources import Source
    from dvecdb.api.tasks import TaskHandle
    from dvecdb.records import Json
    from dvecdb.rescue.salvage import Progress

_KIND = "import"
_REPORT = "report"
_NANOSECONDS = 1_000_000_000
_LOG_OUTSIDE = (
    "a log beside the collection's directory was not looked for: it is outside the import roots; "
    "with its directory as an import root what the log adds and deletes counts too"
)


def import_collection(context: Context, request: messages.ImportRequest) -> Answer:
    """Make a collection of what can be saved of files on the server; `dry_run` only says what."""
    query = context.query
    request = messages.checked_request(request, dry_run=query.dry_run)
    context.subject = request.collection_name
    source = _allowed_source(context, request, dry_run=query.dry_run)
    work = _Import(context, request, source, query)
    tasks = context.parts.tasks
    task = tasks.start(
        _KIND, work.owner, work.run, key=context.principal.name, request_id=context.request_id
    )
    if query.wait:
        tasks.wait(task.id)
        return work.answer(task.id)
    headers = {"location": f"/tasks/{task.id}"}
    return Answer(TaskStarted(task_body(task)), status=202, headers=headers)


def _allowed_source(context: Context, request: messages.ImportRequest, *, dry_run: bool) -> Source:
    """Return what the request may read, and may make.

    Raises:
        AuthError: `forbidden`.
        InvalidRequestError: `source-not-allowed`.
        ConflictError: `source-in-use`.
    """
    guard, principal, target = context.parts.guard, context.principal, request.collection_name
    if target is not None:
        guard.require(principal, Scope.RESTORE, target)
        if request.replace and not dry_run:
            guard.require(principal, Scope.WRITE, target)
    shown, data_dir = absolute_paths(context.database.path)
    asked = import_sources.absolute(request.orphaned_path, shown)
    path = absolute_paths(asked)[1]
    roots = [absolute_paths(root)[1] for root in context.parts.import_roots]
    source = import_sources.find_source(path, data_dir, roots)
    if source is None:
        raise import_sources.not_allowed(request, asked, shown)
    guard.require(principal, Scope.RESTORE, source.collection)
    import_sources.refuse_in_use(path, data_dir, context.database.collections())
    return source


class _Import:
    """One import or trial: run by a task, and looked at by the request if it waits."""

    def __init__(
        self,
        context: Context,
        request: messages.ImportRequest,
        source: Source,
        query: messages.ImportQuery,
    ) -> None:
        self._context, self._request, self._source = context, request, source
        self._dry_run = query.dry_run
        self.owner = source.collection if query.dry_run else request.collection_name
        """Whose keys may see the task and the report; None: those for the whole server."""
        self._is_watched = query.wait  # the request is there to note what came of it
        self._done: Imported | None = None
        self._failed: DvecdbError | None = None
        self._location: str | None = None

    # --- in the thread of the task ---

    def run(self, handle: TaskHandle) -> Json:
        """Do it, keep the report, say so."""
        try:
            self._done = self._work(handle)
        except DvecdbError as error:
            self._fail(error)
            raise _brief(error) from error
        except BaseException:
            text = "the import failed in a way that nobody foresaw; the server's log knows more"
            self._fail(ServerError(Code.SERVER_ERROR, text, request_id=self._context.request_id))
            raise
        self._keep(handle.task_id, self._done)
        self._say(self._done)
        return {
            "name": None if self._dry_run else self._done.name,
            "replaced": self._done.replaced,
            "seconds": self._done.seconds,
            "report": msgspec.to_builtins(messages.shortened(self._done.report)),
            "report_at": self._location,
        }

    def _work(self, handle: TaskHandle) -> Imported:
        def progress(done: int, total: int) -> None:
            handle.progress(done, total, "bytes")
            handle.check_cancelled()

        handle.check_cancelled()
        request = self._request
        choice = messages.choice_of(request)
        notes: list[str] = []
        if request.use_log and not self._may_use_log():
            choice["use_log"] = False
            notes.append(_LOG_OUTSIDE)
        done = self._do(choice, progress)
        done.report.notes += notes
        return done

    def _may_use_log(self) -> bool:
        """Tell whether the log that belongs to the source may be read: it may lie outside."""
        source = self._source
        return source.log_beside or SourceFiles().has_file(f"{source.directory}/{LOG}")

    def _do(self, choice: dict[str, Any], progress: Progress) -> Imported:
        context, request = self._context, self._request
        if self._dry_run:
            began_ns = context.parts.clock.monotonic_ns()
            report = context.database.examine_legacy(self._source.path, progress=progress, **choice)
            seconds = (context.parts.clock.monotonic_ns() - began_ns) / _NANOSECONDS
            return Imported(request.collection_name or "", report, seconds=seconds)
        assert request.collection_name is not None
        return context.database.import_legacy(
            self._source.path,
            request.collection_name,
            keep_raw=request.keep_raw,
            replace=request.replace,
            progress=progress,
            actor=context.options.get("actor"),
            reason=context.options.get("reason"),
            **choice,
        )

    def _fail(self, error: DvecdbError) -> None:
        self._failed = error
        if not self._dry_run:
            self._context.parts.metrics.count_import(None)
        if not self._is_watched:
            self._context.note(None, error)

    def _keep(self, task_id: str, done: Imported) -> None:
        """Keep the report. It is only told: what was imported is durable without it."""
        stored = ImportReportFile(
            id=task_id,
            owner=self.owner,
            name=None if self._dry_run else done.name,
            replaced=done.replaced,
            seconds=done.seconds,
            finished_ns=self._context.parts.clock.wall_ns(),
            report=done.report,
        )
        with contextlib.suppress(OSError):
            self._context.parts.imports.keep(stored)
            self._location = f"/imports/{task_id}"

    def _say(self, done: Imported) -> None:
        context = self._context
        if not self._dry_run:
            context.parts.metrics.count_import(done.report)
            log_imported(done, self._source.path, context.request_id, context.principal.name)
        if not self._is_watched:
            context.note(self._answer(done), None)

    # --- in the thread of the request ---

    def answer(self, task_id: str) -> Answer:
        """Return what the task came to.

        Raises:
            DvecdbError: what it failed with; UnavailableError: `cancelled`.
        """
        if self._failed is not None:
            raise self._failed
        if self._done is None:
            self._is_watched = False
            raise UnavailableError(
                Code.CANCELLED,
                f"task {task_id} was cancelled or the server stops; it will leave nothing behind, "
                "unless it just came to its end: look whether the collection is there",
                task=task_id,
            )
        answer = self._answer(self._done)
        location = self._location or f"/tasks/{task_id}"
        return replace(answer, headers={**answer.headers, "location": location})

    def _answer(self, done: Imported) -> Answer:
        report = done.report
        headers = {
            "dvecdb-rows": str(report.imported),
            "dvecdb-doubtful": str(report.imported - report.exact),
            "dvecdb-lost": str(len(report.lost)),
        }
        if self._dry_run:
            return Answer(report, rows=0, headers=headers)
        if done.replaced is not None:
            headers["dvecdb-replaced"] = done.replaced
        lsn = None
        with contextlib.suppress(DvecdbError):  # deleted meanwhile
            lsn = self._context.database.collection(done.name).stats().last_lsn
        message = NamedMessage(done.name, messages.imported_message(done.name))
        return Answer(message, lsn=lsn, rows=report.imported, headers=headers)


def _brief(error: DvecdbError) -> DvecdbError:
    """Return an error whose report, if it has one, is short enough for a task."""
    found = error.details.get(_REPORT)
    if not isinstance(found, dict | ImportReport):
        return error
    report = messages.shortened(msgspec.convert(found, ImportReport))
    brief = type(error)(error.code, error.message)
    brief.details = {**error.details, _REPORT: msgspec.to_builtins(report)}
    return brief


def read_import(context: Context, _: None) -> Answer:
    """Return the whole report of an import."""
    found = context.parts.imports.get(context.path["import"])
    require_owner(context, found.owner)
    return Answer(
        messages.ImportAnswer(
            id=found.id,
            name=found.name,
            replaced=found.replaced,
            seconds=found.seconds,
            finished=to_datetime(found.finished_ns),
            report=found.report,
        )
    )
