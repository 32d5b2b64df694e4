"""The table of endpoints: a new call is a new row here, and a function in `operations`.

Routes, scopes, audit, labels of metrics and the OpenAPI description all come from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from dvecdb.api.auth import Scope
from dvecdb.api.job_request import JobRequest
from dvecdb.api.operations import (
    collections,
    jobs,
    pages,
    points,
    records,
    recovery,
    rescue,
    searches,
    server,
    stored,
    vectors,
)
from dvecdb.records import Backup, Restored, TrashEntry, Undone
from dvecdb.reports import ImportReport
from dvecdb.wire import bodies, legacy
from dvecdb.wire import jobs as running
from dvecdb.wire import recovery as messages
from dvecdb.wire import rescue as imports
from dvecdb.wire import searches as searching

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dvecdb.api.context import Answer, Context

    Operation = Callable[[Context, Any], Answer]


class Thread(Enum):
    """Where an operation runs."""

    LOOP = "loop"  # microseconds, no waiting: health, ready-made pages
    READ = "read"
    WRITE = "write"  # waits for a sync: many at once, so that one sync serves them all


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One call.

    method, path: `{name}` is a parameter; scope: None for everybody; request: type of the body,
    None if there is none; query: type of the query string; answer: type of `data`, or of the whole
    answer where it is not enveloped; accepted: type of `data` with status 202; octets: field of
    the request that a body of bare float32 fills; media: of the answer, if it is not a message;
    mutates: it changes something, so it is audited; durable_audit: answered after the audit log
    is synced; unready: 503 has the same answer, not an error; legacy: kept from before;
    asks_itself: the body names collections, so the operation asks whether the key is for them;
    unhurried: the request timeout does not apply; trial: type of `data` if it was only tried;
    headers: of the answer, besides those of every answer, with what they say.
    """

    method: str
    path: str
    operation: Operation
    scope: Scope | None
    answer: Any
    request: Any = None
    query: Any = None
    legacy: bool = False
    mutates: bool = False
    durable_audit: bool = False
    enveloped: bool = True
    unready: bool = False
    accepted: Any = None
    octets: str | None = None
    media: str | None = None
    asks_itself: bool = False
    unhurried: bool = False
    trial: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    thread: Thread = Thread.READ
    segments: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Take the path apart."""
        object.__setattr__(self, "segments", tuple(self.path.split("/")[1:]))

    @property
    def name(self) -> str:
        """The name of the operation: label of metrics, `operationId`, audit."""
        return self.operation.__name__

    @property
    def summary(self) -> str:
        """The first sentence about it."""
        return (self.operation.__doc__ or "").strip().partition("\n")[0]

    @property
    def parameters(self) -> list[str]:
        """Names of the path's parameters."""
        return [item[1:-1] for item in self.segments if item.startswith("{")]


def _legacy(method: str, path: str, operation: Operation, answer: Any, **rest: Any) -> Endpoint:
    """Return an endpoint kept from before."""
    return Endpoint(
        method=method, path=path, operation=operation, answer=answer, legacy=True, **rest
    )


def _own(method: str, path: str, operation: Operation, answer: Any, **rest: Any) -> Endpoint:
    """Return an endpoint of dvecdb's own."""
    return Endpoint(method=method, path=path, operation=operation, answer=answer, **rest)


_READ: Final = {"scope": Scope.READ}
_WRITE: Final = {"scope": Scope.WRITE, "mutates": True, "thread": Thread.WRITE}
_HEALTH: Final = {"scope": None, "thread": Thread.LOOP}
_BARE: Final = {**_HEALTH, "enveloped": False}
_ONE: Final = "/collections/{collection}"

_HEALTH_ROWS: Final = (
    _legacy("GET", "/health", server.health, str, **_HEALTH),
    _legacy("GET", "/health/live", server.live, legacy.LiveAnswer, **_BARE),
    _legacy("GET", "/health/ready", server.ready, legacy.ReadyAnswer, **_BARE, unready=True),
    _legacy("GET", "/ready", server.ready, legacy.ReadyAnswer, **_BARE, unready=True),
    _legacy(
        "GET", "/health/check", server.check_health, legacy.HealthAnswer, **_BARE, unready=True
    ),
)

_COLLECTION_ROWS: Final = (
    _legacy("GET", "/stats", server.server_stats, legacy.ServerStats, **_READ),
    _legacy(
        "POST", "/collections", collections.create_collection, legacy.NamedMessage,
        request=legacy.CreateRequest, **_WRITE,
    ),
    _legacy("GET", "/collections", collections.list_collections, list[str], **_READ),
    _legacy(
        "GET", _ONE, collections.read_collection,
        tuple[legacy.CollectionConfig, legacy.LegacyStats], **_READ,
    ),
    _legacy("GET", f"{_ONE}/stats", collections.read_stats, legacy.LegacyStats, **_READ),
    _legacy(
        "DELETE", _ONE, collections.delete_collection, legacy.NamedMessage,
        durable_audit=True, **_WRITE,
    ),
)  # fmt: skip

_VECTOR_ROWS: Final = (
    _legacy(
        "POST", f"{_ONE}/vectors", vectors.insert_vector, str,
        request=legacy.VectorBody, **_WRITE,
    ),
    _legacy(
        "POST", f"{_ONE}/vectors/batch", vectors.insert_vectors, list[str],
        request=legacy.BatchRequest, **_WRITE,
    ),
    _legacy(
        "POST", f"{_ONE}/vectors/upsert", vectors.upsert_vectors, legacy.UpsertAnswer,
        request=legacy.UpsertRequest, **_WRITE,
    ),
    _legacy(
        "POST", f"{_ONE}/vectors/batch-delete", vectors.delete_vectors, legacy.BatchDeleteAnswer,
        request=legacy.BatchDeleteRequest, **_WRITE,
    ),
    _legacy("GET", f"{_ONE}/vectors/{{id}}", vectors.get_vector, legacy.VectorAnswer, **_READ),
    _legacy(
        "PUT", f"{_ONE}/vectors/{{id}}", vectors.put_vector, legacy.IdMessage,
        request=legacy.PutRequest, octets="data", **_WRITE,
    ),
    _legacy("DELETE", f"{_ONE}/vectors/{{id}}", vectors.delete_vector, bool, **_WRITE),
)  # fmt: skip

_POINT_ROWS: Final = (
    _legacy(
        "POST", f"{_ONE}/search", points.search, list[legacy.HitAnswer],
        request=legacy.SearchRequest, query=legacy.SearchQuery, octets="vector", **_READ,
    ),
    _legacy(
        "POST", f"{_ONE}/points/scroll", points.scroll_points, legacy.PointsScrollAnswer,
        request=legacy.PointsScrollRequest, **_READ,
    ),
    _legacy(
        "POST", f"{_ONE}/points/count", points.count_points, legacy.PointsCountAnswer,
        request=legacy.PointsCountRequest, **_READ,
    ),
    _legacy(
        "POST", f"{_ONE}/points/search/batch", points.search_batch,
        list[list[legacy.HitAnswer]], request=legacy.SearchBatchRequest, **_READ,
    ),
)  # fmt: skip

_RECORD_ROWS: Final = (
    _own(
        "POST", f"{_ONE}/write", records.write, bodies.WriteAnswer,
        request=bodies.WriteRequest, **_WRITE,
    ),
    _own(
        "POST", f"{_ONE}/vectors/delete", records.delete_records, messages.DeleteAnswer,
        request=messages.DeleteRequest, **_WRITE,
    ),
    _own(
        "POST", f"{_ONE}/vectors/metadata", records.update_metadata, bodies.MetadataAnswer,
        request=bodies.MetadataRequest, **_WRITE,
    ),
    _own(
        "POST", f"{_ONE}/vectors/get", records.get_records, bodies.GetAnswer,
        request=bodies.GetRequest, **_READ,
    ),
    _own(
        "POST", f"{_ONE}/query", searches.query, searching.QueryAnswer,
        request=searching.QueryRequest, **_READ,
    ),
    _own(
        "POST", f"{_ONE}/search/batch", searches.query_batch, searching.QueryBatchAnswer,
        request=searching.QueryBatchRequest, **_READ,
    ),
    _own(
        "POST", f"{_ONE}/search/groups", searches.search_groups, searching.GroupsAnswer,
        request=searching.GroupsRequest, **_READ,
    ),
    _own(
        "POST", f"{_ONE}/facet", searches.facet, searching.FacetAnswer,
        request=searching.FacetRequest, **_READ,
    ),
    _own(
        "GET", f"{_ONE}/scroll", records.scroll, bodies.ScrollAnswer,
        query=bodies.ScrollQuery, **_READ,
    ),
    _own("GET", f"{_ONE}/count", records.count, bodies.CountAnswer,
         query=bodies.CountQuery, **_READ),
    _own("GET", f"{_ONE}/info", records.info, bodies.InfoAnswer, **_READ),
    _own(
        "GET", f"{_ONE}/history", records.history, bodies.HistoryAnswer,
        query=bodies.PageQuery, **_READ,
    ),
    _own(
        "GET", f"{_ONE}/documents/{{namespace}}", records.read_documents, dict[str, Any],
        query=bodies.AsOfQuery, **_READ,
    ),
    _own(
        "GET", f"{_ONE}/documents/{{namespace}}/{{key}}", records.read_document,
        bodies.DocumentAnswer, query=bodies.AsOfQuery, **_READ,
    ),
)  # fmt: skip

_CHANGE: Final = {"mutates": True, "thread": Thread.WRITE}
_RESTORE: Final = {"scope": Scope.RESTORE, "durable_audit": True, **_CHANGE}
_BACKUP: Final = {"scope": Scope.BACKUP, **_CHANGE}
_ADMIN: Final = {"scope": Scope.ADMIN, **_CHANGE}
_DESTROY: Final = {"durable_audit": True, **_ADMIN}
_TASK: Final = {"accepted": bodies.TaskStarted}
_RESTORED: Final = {
    "Dvecdb-Source": "Name of the entry or backup that it was made of, percent-encoded",
    "Dvecdb-Rows": "Records in it",
    "Dvecdb-Rows-Rewritten": "Rows that had to be written again",
    "Dvecdb-Copied-Bytes": "Bytes that were copied; 0: the files are shared",
}
_IMPORTED: Final = {
    "Location": "Where the whole report is",
    "Dvecdb-Rows": "Records in it",
    "Dvecdb-Doubtful": "Those of them that came back with a doubt; the report says which and why",
    "Dvecdb-Lost": "Ranges of bytes that could not be brought back",
    "Dvecdb-Replaced": "Trash entry of the collection that had the name before",
}
_LEFT: Final = {
    "Dvecdb-Backups": "Names of the newest backups that are still there; missing: none is",
    "Dvecdb-Freed-Bytes": "Space that was freed",
}

_LEGACY_RECOVERY_ROWS: Final = (
    _own("GET", "/imports/{import}", rescue.read_import, imports.ImportAnswer, **_READ),
    _legacy(
        "GET", "/collections/deleted", stored.list_deleted, list[messages.DeletedCollection],
        **_READ,
    ),
    _legacy(
        "POST", "/collections/restore", recovery.restore_collection, legacy.NamedMessage,
        request=messages.RestoreRequest, asks_itself=True, headers=_RESTORED, **_TASK, **_RESTORE,
    ),
    _legacy(
        "POST", "/collections/import", rescue.import_collection, legacy.NamedMessage,
        request=imports.ImportRequest, query=imports.ImportQuery, trial=ImportReport,
        asks_itself=True, unhurried=True, headers=_IMPORTED, **_TASK, **_RESTORE,
    ),
    _legacy(
        "POST", "/collections/cleanup", recovery.clean_up, list[str],
        request=messages.CleanupRequest, asks_itself=True, **_DESTROY,
    ),
    _legacy(
        "POST", f"{_ONE}/backup", recovery.back_up, messages.BackupMade,
        request=messages.BackupRequest, **_TASK, **_BACKUP,
    ),
    _legacy(
        "DELETE", f"{_ONE}/hard-delete", recovery.hard_delete, legacy.NamedMessage,
        query=messages.HardDeleteQuery, headers=_LEFT, **_DESTROY,
    ),
    _legacy(
        "POST", f"{_ONE}/snapshots", recovery.make_snapshot, messages.SnapshotMade, **_BACKUP
    ),
    _legacy(
        "GET", f"{_ONE}/snapshots", stored.list_snapshots, list[messages.SnapshotInfo], **_READ
    ),
    _legacy(
        "GET", f"{_ONE}/snapshots/{{snapshot}}", stored.read_snapshot, messages.SnapshotInfo,
        **_READ,
    ),
    _legacy(
        "DELETE", f"{_ONE}/snapshots/{{snapshot}}", stored.delete_snapshot, legacy.NamedMessage,
        **_DESTROY,
    ),
)  # fmt: skip

_RECOVERY_ROWS: Final = (
    _own("GET", "/trash", stored.list_trash, messages.TrashAnswer, **_READ),
    _own("GET", "/trash/{entry}", stored.read_trash_entry, TrashEntry, **_READ),
    _own("DELETE", "/trash/{entry}", stored.purge_trash_entry, bodies.Done, **_DESTROY),
    _own("GET", "/backups", stored.list_backups, messages.BackupsAnswer, **_READ),
    _own("GET", "/backups/{backup}", stored.read_backup, Backup, **_READ),
    _own("DELETE", "/backups/{backup}", recovery.delete_backup, bodies.Done, **_DESTROY),
    _own(
        "POST", "/backups/{backup}/verify", recovery.verify_backup, bodies.VerifyAnswer,
        request=bodies.VerifyRequest, scope=Scope.READ, thread=Thread.WRITE, **_TASK,
    ),
    _own(
        "GET", f"{_ONE}/backups", stored.list_collection_backups, messages.BackupsAnswer, **_READ
    ),
    _own("GET", f"{_ONE}/protect", recovery.read_protection, messages.Protection, **_READ),
    _own(
        "POST", f"{_ONE}/protect", recovery.protect, messages.Protection,
        request=messages.ProtectRequest, **_ADMIN,
    ),
    _own(
        "POST", f"{_ONE}/undo", recovery.undo, Undone,
        request=messages.UndoRequest, **_TASK, **_RESTORE,
    ),
    _own(
        "POST", f"{_ONE}/clone", recovery.clone_collection, Restored,
        request=messages.CloneRequest, **_TASK, **_RESTORE,
    ),
    _own("GET", f"{_ONE}/tags", recovery.list_tags, messages.TagsAnswer, **_READ),
    _own(
        "POST", f"{_ONE}/tags", recovery.set_tag, messages.Tag,
        request=messages.TagRequest, **_WRITE,
    ),
    _own("DELETE", f"{_ONE}/tags/{{tag}}", recovery.remove_tag, bodies.Done, **_WRITE),
    _own("GET", f"{_ONE}/config", recovery.read_config, messages.ConfigAnswer, **_READ),
    _own(
        "PUT", f"{_ONE}/config", recovery.configure, messages.ConfigAnswer,
        request=messages.ConfigRequest, **_ADMIN,
    ),
    _own("POST", "/clock/trust", recovery.trust_clock, bodies.Done, **_ADMIN),
)  # fmt: skip


def _reads(path: str, inside: Callable[[Operation], Operation]) -> tuple[Endpoint, ...]:
    """Return the reads of a collection, of what `inside` opens at `path`."""
    return tuple(
        _own(row.method, path + row.path.removeprefix(_ONE).removeprefix("/vectors"),
             inside(row.operation), row.answer, request=row.request, query=row.query, **_READ)
        for row in _RECORD_ROWS
        if row.scope is Scope.READ
    )  # fmt: skip


_PREVIEW_ROWS: Final = (
    *_reads("/trash/{entry}", stored.inside_trash),
    *_reads("/backups/{backup}", stored.inside_backup),
)

_SERVER_ROWS: Final = (
    _own("GET", "/findings", server.findings, bodies.FindingsAnswer, **_READ),
    _own("GET", f"{_ONE}/findings", server.collection_findings, bodies.FindingsAnswer, **_READ),
    _own(
        "POST", f"{_ONE}/verify", server.verify, bodies.VerifyAnswer,
        request=bodies.VerifyRequest, accepted=bodies.TaskStarted, scope=Scope.READ,
        thread=Thread.WRITE,
    ),
    _own(
        "POST", f"{_ONE}/flush", server.flush, bodies.Done,
        scope=Scope.ADMIN, mutates=True, thread=Thread.WRITE,
    ),
    _own("GET", "/tasks", server.list_tasks, bodies.TasksAnswer, **_READ),
    _own("GET", "/tasks/{task}", server.read_task, bodies.TaskBody, **_READ),
    _own(
        "POST", "/tasks/{task}/cancel", server.cancel_task, bodies.TaskBody,
        scope=Scope.ADMIN, mutates=True, thread=Thread.WRITE,
    ),
    _own(
        "GET", "/audit", server.read_audit, bodies.AuditAnswer,
        query=bodies.AuditQuery, scope=Scope.ADMIN,
    ),
    _own(
        "GET", "/metrics", server.read_metrics, str, media="text/plain", enveloped=False, **_READ,
    ),
)  # fmt: skip

_JOB: Final = "/jobs/{collection}"
_JOB_ROWS: Final = (
    _own(
        "POST", "/jobs", jobs.run_job, bodies.TaskStarted, request=JobRequest,
        query=running.JobQuery, headers={"Location": "The task that does it"}, **_TASK, **_ADMIN,
    ),
    _own("GET", "/jobs", jobs.list_jobs, running.JobsAnswer, **_READ),
    _own("GET", _JOB, jobs.read_job, running.JobAnswer, **_READ),
    _own("POST", f"{_JOB}/pause", jobs.pause_job, bodies.Done, **_WRITE),
    _own("POST", f"{_JOB}/resume", jobs.resume_job, bodies.Done, **_WRITE),
    _own("POST", f"{_JOB}/stop", jobs.stop_job, bodies.Done, **_WRITE),
)  # fmt: skip

_PAGE: Final = {"scope": None, "thread": Thread.LOOP, "enveloped": False}
_PAGE_ROWS: Final = (
    _own("GET", "/openapi.json", pages.openapi, dict[str, Any], media="application/json", **_PAGE),
    _own("GET", "/docs", pages.docs, str, media="text/html; charset=utf-8", **_PAGE),
)

ENDPOINTS: Final = (
    *_HEALTH_ROWS,
    *_COLLECTION_ROWS,
    *_VECTOR_ROWS,
    *_POINT_ROWS,
    *_RECORD_ROWS,
    *_LEGACY_RECOVERY_ROWS,
    *_RECOVERY_ROWS,
    *_PREVIEW_ROWS,
    *_SERVER_ROWS,
    *_JOB_ROWS,
    *_PAGE_ROWS,
)
