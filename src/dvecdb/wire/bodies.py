"""Requests and answers of the endpoints that are dvecdb's own, as both sides know them.

In JSON a vector of an answer is a list of numbers in its record; in MessagePack the vectors of all
records that are there come as one `bytes` of little-endian float32, with `dimension`.
Unknown request fields are refused. Searches are in `searches`, the endpoints kept from before in
`legacy`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType

from dvecdb.errors import Code, InvalidRequestError
from dvecdb.records import (
    CollectionStats,
    Commit,
    CommitInfo,
    Epoch,
    Finding,
    IndexStats,
    Lsn,
    Metric,
    Record,
    Schema,
    VectorType,
    VerifyReport,
)
from dvecdb.wire.codec import check_depth
from dvecdb.wire.vectors import Matrix, vectors_from

Json = Any
Metadata = dict[str, Any]
AsOf = int | Annotated[datetime, Meta(tz=True)]
"""An LSN, or an RFC 3339 time with a zone."""


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request: what it does not know it refuses."""


class Answer(msgspec.Struct, frozen=True):
    """An answer. Readers ignore fields they do not know: a newer server may say more."""


# --- values in several messages ---


class DocumentValue(Request, frozen=True):
    """A document and its value; null: there is none, or remove it."""

    namespace: str
    key: str
    value: Json = None


class Rows(Request, frozen=True):
    """Records to write, in columns. No `ids`: they are made. `metadata`: one or null per vector."""

    vectors: Matrix
    ids: list[str] | None = None
    metadata: list[Metadata | None] | None = None


class RecordBody(Answer, frozen=True):
    """A record. `vector` only in JSON, and if asked for."""

    id: str
    metadata: Metadata | None
    lsn: int
    vector: list[float] | UnsetType = UNSET


class FindingBody(Answer, frozen=True):
    """A report of damage or doubt."""

    code: str
    collection: str | None
    where: str
    message: str
    lost: str | None = None
    details: dict[str, Json] = {}


# --- writes ---


class WriteRequest(Request, frozen=True):
    """One atomic batch. `upserts` and `inserts` exclude each other. `confirm`: many deletes too."""

    upserts: Rows | None = None
    inserts: Rows | None = None
    deletes: list[str] = []
    documents: list[DocumentValue] = []
    expect: list[DocumentValue] = []
    if_lsn: int | None = None
    confirm: bool = False


class WriteAnswer(Answer, frozen=True):
    """A commit: it is on disk. `ids` of the rows written, made ones included."""

    lsn: int
    ids: list[str]
    count: int


class MetadataRequest(Request, frozen=True):
    """Change the metadata of records and leave their vectors."""

    ids: list[str]
    metadata: list[Metadata]
    mode: Literal["merge", "replace"] = "merge"
    if_lsn: int | None = None
    expect: list[DocumentValue] = []


class MetadataAnswer(Answer, frozen=True):
    """A commit of changed metadata."""

    lsn: int
    count: int


# --- reads ---


class GetRequest(Request, frozen=True):
    """Read records by id. `where`: null for those that do not match this filter."""

    ids: list[str]
    as_of: AsOf | None = None
    with_vectors: bool = True
    where: Metadata | None = None


class GetAnswer(Answer, frozen=True):
    """Records in the order of the ids, null where there is none."""

    records: list[RecordBody | None]
    vectors: bytes | UnsetType = UNSET
    dimension: int | UnsetType = UNSET


class ScrollQuery(Request, frozen=True):
    """A page of records in the order of their rows; `after` is the `next` of the page before.

    `where`: JSON text of a filter, an equality map or a tree of conditions.
    """

    limit: int = 100
    after: int | None = None
    where: str | None = None
    as_of: AsOf | None = None
    with_vectors: bool = False


class ScrollAnswer(Answer, frozen=True):
    """A page. `next` null: the last one. `lsn`: pass it as `as_of` to go on in the same state."""

    records: list[RecordBody]
    next: int | None
    lsn: int
    vectors: bytes | UnsetType = UNSET
    dimension: int | UnsetType = UNSET


class AsOfQuery(Request, frozen=True):
    """Which state to read."""

    as_of: AsOf | None = None


class CountQuery(Request, frozen=True):
    """What to count. `where`: as in a scroll."""

    where: str | None = None
    as_of: AsOf | None = None


class CountAnswer(Answer, frozen=True):
    """The number of records."""

    count: int
    lsn: int


class DocumentAnswer(Answer, frozen=True):
    """A document's value, null if there is none."""

    value: Json


class PageQuery(Request, frozen=True):
    """A page of a list, newest first; `before` leaves out what is not older."""

    limit: int = 100
    before: int | None = None


class CommitNote(Answer, frozen=True):
    """A commit of the history. `hlc`: the collection's own time; `ended`: replaced or deleted."""

    lsn: int
    time: datetime
    hlc: int
    operation: str
    actor: str | None
    reason: str | None
    request_id: str | None
    rows: int
    ended: int


class HistoryAnswer(Answer, frozen=True):
    """Commits, newest first."""

    commits: list[CommitNote]


class InfoAnswer(Answer, frozen=True):
    """Figures of one collection. Sizes in bytes."""

    name: str
    uuid: str
    dimension: int
    metric: str
    vector_type: str
    count: int
    rows: int
    last_lsn: int
    flushed_lsn: int
    horizon_lsn: int
    epoch: int
    segments: int
    segment_bytes: int
    memtable_rows: int
    memtable_bytes: int
    wal_bytes: int
    syncs: int
    findings: int
    index: IndexStats = IndexStats()


# --- care ---


class FindingsAnswer(Answer, frozen=True):
    """What is damaged or doubtful."""

    findings: list[FindingBody]


class VerifyRequest(Request, frozen=True):
    """Read and check every stored byte. `background`: answer at once with a task."""

    background: bool = False


class VerifyAnswer(Answer, frozen=True):
    """What reading everything found. `ok`: no damage at all."""

    collection: str
    ok: bool
    blocks: int
    size_bytes: int
    findings: list[FindingBody]


class TaskBody(Answer, frozen=True):
    """A task. `error`: code, message, advice, details; `rate`: of `unit`, in a second."""

    id: str
    kind: str
    collection: str | None
    state: Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
    key: str | None
    request_id: str | None
    queued: datetime
    ended: datetime | None
    done: int
    total: int | None
    unit: str | None
    is_cancelling: bool
    result: Json
    error: dict[str, Json] | None
    rate: float | None = None


class TaskStarted(Answer, frozen=True):
    """The task that does it."""

    task: TaskBody


class TasksAnswer(Answer, frozen=True):
    """Tasks, newest first."""

    tasks: list[TaskBody]


class AuditQuery(Request, frozen=True):
    """A page of the audit log; `before` is the `next` of the page before."""

    limit: int = 100
    before: str | None = None


class AuditLine(Answer, frozen=True):
    """A call that changed something. `code`: of the error it ended with."""

    when: str
    key: str | None
    address: str | None
    method: str
    operation: str
    collection: str | None
    rows: int | None
    lsn: int | None
    status: int
    code: str | None
    request_id: str | None
    actor: str | None
    reason: str | None


class AuditAnswer(Answer, frozen=True):
    """Entries, newest first. `damaged` names what could not be read between them."""

    entries: list[AuditLine]
    next: str | None
    damaged: list[str]


class Nothing(Request, frozen=True):
    """No body, no parameters."""


class Done(Answer, frozen=True):
    """It is done."""

    done: bool = True


# --- between values and messages ---


def pairs(documents: list[DocumentValue], what: str) -> dict[tuple[str, str], Json] | None:
    """Return documents by (namespace, key), None for none.

    Raises:
        InvalidRequestError: `invalid-argument`, one is there twice; `invalid-body`, too deep.
    """
    values: dict[tuple[str, str], Json] = {}
    for item in documents:
        name = (item.namespace, item.key)
        if name in values:
            raise InvalidRequestError(
                Code.INVALID_ARGUMENT,
                f"{what}: {item.namespace}/{item.key} is there twice; name each document once",
            )
        values[name] = check_depth(item.value, f"{what} {item.namespace}/{item.key}")
    return values or None


def document_values(documents: dict[tuple[str, str], Json] | None) -> list[DocumentValue]:
    """Return the message form of documents by (namespace, key)."""
    return [
        DocumentValue(namespace, key, value)
        for (namespace, key), value in (documents or {}).items()
    ]


def commit_from(answer: WriteAnswer) -> Commit:
    """Return the commit of an answer."""
    return Commit(Lsn(answer.lsn), list(answer.ids), answer.count)


def record_body(record: Record, *, in_lists: bool) -> RecordBody:
    """Return the message form of a record; `in_lists`: with its vector, if it has one."""
    if in_lists and record.vector is not None:
        return RecordBody(record.id, record.metadata, record.lsn, record.vector.tolist())
    return RecordBody(record.id, record.metadata, record.lsn)


def records_from(answer: GetAnswer | ScrollAnswer) -> list[Record | None]:
    """Return the records of an answer of either format."""
    packed = None
    if isinstance(answer.vectors, bytes) and isinstance(answer.dimension, int):
        packed = iter(vectors_from(answer.vectors, answer.dimension))
    records: list[Record | None] = []
    for item in answer.records:
        if item is None:
            records.append(None)
            continue
        vector = None
        if packed is not None:
            vector = next(packed)
        elif item.vector is not UNSET:
            vector = np.array(item.vector, np.float32)
        records.append(Record(item.id, vector, item.metadata, Lsn(item.lsn)))
    return records


def commit_note(commit: CommitInfo) -> CommitNote:
    """Return the message form of a commit of the history."""
    return CommitNote(**{name: getattr(commit, name) for name in CommitNote.__struct_fields__})


def commit_info_from(note: CommitNote) -> CommitInfo:
    """Return the commit of the history of a message."""
    values = {name: getattr(note, name) for name in CommitNote.__struct_fields__}
    return CommitInfo(**{**values, "lsn": Lsn(note.lsn)})


def finding_body(finding: Finding) -> FindingBody:
    """Return the message form of a finding."""
    return FindingBody(
        finding.code,
        finding.collection,
        finding.where,
        finding.message,
        finding.lost,
        dict(finding.details),
    )


def finding_from(body: FindingBody) -> Finding:
    """Return the finding of a message."""
    return Finding(body.code, body.collection, body.where, body.message, body.lost, body.details)


def report_body(report: VerifyReport) -> VerifyAnswer:
    """Return the message form of a report."""
    findings = [finding_body(item) for item in report.findings]
    return VerifyAnswer(report.collection, report.ok, report.blocks, report.size_bytes, findings)


def report_from(answer: VerifyAnswer) -> VerifyReport:
    """Return the report of a message."""
    findings = [finding_from(item) for item in answer.findings]
    return VerifyReport(answer.collection, answer.ok, answer.blocks, answer.size_bytes, findings)


_SAME_FIGURES = [name for name in InfoAnswer.__struct_fields__ if name not in Schema.__slots__]


def info_body(stats: CollectionStats) -> InfoAnswer:
    """Return the message form of a collection's figures."""
    schema = stats.schema
    return InfoAnswer(
        dimension=schema.dimension,
        metric=str(schema.metric),
        vector_type=str(schema.vector_type),
        **{name: getattr(stats, name) for name in _SAME_FIGURES},
    )


def stats_from(answer: InfoAnswer) -> CollectionStats:
    """Return a collection's figures of a message."""
    schema = Schema(answer.dimension, Metric(answer.metric), VectorType(answer.vector_type))
    figures = {name: getattr(answer, name) for name in _SAME_FIGURES}
    figures |= {"schema": schema, "epoch": Epoch(answer.epoch)}
    return CollectionStats(**figures)
