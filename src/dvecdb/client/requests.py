"""Every call of the interface as one HTTP request: arguments in, a `Call` out. Pure.

The methods of `connection`, `collection` and `aio` are made of these functions: their signatures
and texts are what users read. The first argument is what the handle knows of its collection.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, Unpack

import msgspec

from dvecdb.client import arguments
from dvecdb.client.attempts import Call, Repeat, Wait
from dvecdb.client.messages import BODY_HEADERS, NO_HEADERS, ask, change, read
from dvecdb.errors import Code, UnavailableError
from dvecdb.records import (
    DIMENSION_MAX,
    LIMIT_MAX,
    Lsn,
    Metric,
    Options,
    Page,
    Schema,
    VectorType,
    check_name,
    check_whole,
    parse_metric,
    parse_vector_type,
)
from dvecdb.wire import bodies
from dvecdb.wire.codec import Format, encode
from dvecdb.wire.envelope import ErrorBody, error_from
from dvecdb.wire.legacy import CreateRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dvecdb.records import (
        AsOf,
        CollectionStats,
        Commit,
        CommitInfo,
        Finding,
        Json,
        Metadata,
        Record,
        UpdateMode,
        VerifyReport,
        WriteOptions,
    )

T = TypeVar("T")
A = TypeVar("A")
Plan = Generator[Call[Any] | Wait, Any, T]
"""Several calls: yields each and is sent its result."""

_SCAN_ROWS: Final = 1000
_SCAN_BYTES: Final = 8 * 1024 * 1024
_POLL_SECONDS_FIRST: Final = 0.02
_POLL_SECONDS_MAX: Final = 1.0


@dataclass(frozen=True, slots=True)
class Target:
    """A collection as its handle knows it. path: of its URL; get_path: where ids are read."""

    name: str
    path: str
    schema: Schema
    get_path: str = "vectors/get"


# --- collections ---


def target(name: str, schema: Schema) -> Target:
    """Return what a handle has to know."""
    return Target(name, collection_path(name), schema)


def collection_path(name: str) -> str:
    """Return where a collection is."""
    return f"/collections/{arguments.segment('name', name)}"


def create_collection(
    name: str,
    *,
    dimension: int,
    metric: str = Metric.COSINE,
    vector_type: str = VectorType.FLOAT32,
) -> Call[Target]:
    """Create a collection; durable when it returns.

    Raises:
        InvalidRequestError: `invalid-name`, `invalid-argument`.
        ConflictError: `collection-exists`, also where only the case differs.
        DiskFullError: `disk-full`.
    """
    check_name(name)
    check_whole("dimension", dimension, 1, DIMENSION_MAX)
    schema = Schema(dimension, parse_metric(metric), parse_vector_type(vector_type))
    made = target(name, schema)
    request = CreateRequest(name, dimension, str(schema.metric), str(schema.vector_type))
    body = encode(request, Format.MSGPACK)
    return Call("POST", "/collections", BODY_HEADERS, body, lambda _: made, Repeat.ONCE)


def open_collection(name: str) -> Call[Target]:
    """Return an existing collection.

    Raises:
        NotFoundError: `collection-not-found`.
        DamagedDataError: `collection-damaged`, it was set aside; says why.
    """

    def finish(answer: bodies.InfoAnswer) -> Target:
        return target(answer.name, bodies.stats_from(answer).schema)

    return read(f"{collection_path(name)}/info", bodies.InfoAnswer, finish)


def list_collections() -> Call[list[str]]:
    """Return the names of the open collections, sorted."""
    return read("/collections", list[str], sorted)


def delete_collection(
    name: str, *, actor: str | None = None, reason: str | None = None
) -> Call[None]:
    """Move a collection to the trash; no byte of its data is removed. Durable when it returns.

    Raises:
        NotFoundError: `collection-not-found`.
    """
    headers = arguments.note_headers(Options(actor=actor, reason=reason))
    return Call("DELETE", collection_path(name), headers, b"", lambda _: None, Repeat.ONCE)


def all_findings() -> Call[list[Finding]]:
    """Return everything damaged or doubtful in the data directory of the server."""
    return read("/findings", bodies.FindingsAnswer, _findings)


def _findings(answer: bodies.FindingsAnswer) -> list[Finding]:
    return [bodies.finding_from(item) for item in answer.findings]


# --- writes ---


def upsert(
    collection: Target,
    ids: Sequence[str] | None = None,
    vectors: Any = None,
    metadata: Sequence[Metadata | None] | None = None,
    **options: Unpack[WriteOptions],
) -> Call[Commit]:
    """Write records, replacing those whose ids exist. Durable when it returns.

    vectors: [n, dimension], an array of any float type or lists; ids: n texts, or None to have
    UUIDs made; metadata: n JSON objects or None. A repeated id: the last one wins.

    Raises:
        InvalidRequestError, ConflictError, DiskFullError, OutcomeUnknownError, HandleError,
        UnavailableError.
    """
    rows = arguments.rows(collection.schema, ids, vectors, metadata)
    return _write(collection, Options(**options), upserts=rows)


def insert(
    collection: Target,
    ids: Sequence[str] | None = None,
    vectors: Any = None,
    metadata: Sequence[Metadata | None] | None = None,
    **options: Unpack[WriteOptions],
) -> Call[Commit]:
    """Write new records; if any id exists nothing is written. Durable when it returns.

    Raises:
        ConflictError: `id-exists`, names them. Others as `upsert`.
    """
    rows = arguments.rows(collection.schema, ids, vectors, metadata)
    return _write(collection, Options(**options), inserts=rows)


def write(
    collection: Target,
    *,
    upserts: Mapping[str, Any] | None = None,
    inserts: Mapping[str, Any] | None = None,
    deletes: Sequence[str] = (),
    documents: Mapping[tuple[str, str], Json] | None = None,
    **options: Unpack[WriteOptions],
) -> Call[Commit]:
    """Write one atomic batch of upserts or inserts, deletes and documents. Durable when it returns.

    upserts, inserts: a mapping with `vectors` and, if wanted, `ids` and `metadata`, as `upsert`
    takes them; only one of them. documents: values by (namespace, key), None removing one.
    """
    if upserts is not None and inserts is not None:
        raise arguments.invalid("pass upserts or inserts, not both; split the batch")
    schema, parts = collection.schema, {}
    if upserts is not None:
        parts["upserts"] = arguments.row_parts(upserts, "upserts", schema)
    if inserts is not None:
        parts["inserts"] = arguments.row_parts(inserts, "inserts", schema)
    return _write(
        collection,
        Options(**options),
        deletes=arguments.id_list(deletes),
        documents=arguments.documents(documents, "document"),
        **parts,
    )


def _write(collection: Target, options: Options, **parts: Any) -> Call[Commit]:
    request = bodies.WriteRequest(
        **parts,
        expect=arguments.documents(options.expect, "expect"),
        if_lsn=arguments.lsn(options.if_lsn),
        confirm=bool(options.confirm),
    )
    path = f"{collection.path}/write"
    return change(path, request, options, bodies.WriteAnswer, bodies.commit_from)


def update_metadata(
    collection: Target,
    ids: Sequence[str],
    metadata: Sequence[Metadata],
    *,
    mode: UpdateMode = "merge",
    **options: Unpack[WriteOptions],
) -> Call[Commit]:
    """Change the metadata of existing records and leave their vectors. Durable when it returns.

    mode: `merge` sets the given top-level keys, `replace` replaces the whole object.

    Raises:
        NotFoundError: `id-not-found`; nothing was updated.
    """
    given = Options(**options)
    texts, values = arguments.id_list(ids), list(metadata)
    if len(texts) != len(values):
        raise arguments.invalid(f"{len(texts)} ids for {len(values)} metadata; pass one per id")
    if mode not in {"merge", "replace"}:
        raise arguments.invalid(f"unknown update mode {mode!r}; expected merge or replace")
    request = bodies.MetadataRequest(
        texts,
        arguments.objects(values),
        mode,
        arguments.lsn(given.if_lsn),
        arguments.documents(given.expect, "expect"),
    )

    def finish(answer: bodies.MetadataAnswer) -> Commit:
        return bodies.commit_from(bodies.WriteAnswer(answer.lsn, texts, answer.count))

    path = f"{collection.path}/vectors/metadata"
    return change(path, request, given, bodies.MetadataAnswer, finish)


# --- reads ---


def pin(collection: Target, *, as_of: AsOf | None = None) -> Call[Lsn]:
    """Return the LSN of a state that can be read: of now, of an LSN, or of an aware datetime.

    Raises:
        InvalidRequestError: `as-of-unreadable`, says what is readable.
    """
    path, state = f"{collection.path}/count", arguments.state(as_of)
    return read(path, bodies.CountAnswer, lambda answer: Lsn(answer.lsn), as_of=state)


def get(
    collection: Target,
    ids: Sequence[str],
    *,
    where: Mapping[str, Json] | None = None,
    as_of: AsOf | None = None,
    with_vectors: bool = True,
) -> Call[list[Record | None]]:
    """Return the records of `ids` in order, None for those that do not exist or do not match.

    Raises:
        InvalidRequestError: `invalid-id`, `invalid-filter`.
        DamagedDataError: `damaged-data`, names the ids that cannot be read.
    """
    request = bodies.GetRequest(
        arguments.id_list(ids),
        arguments.state(as_of),
        bool(with_vectors),
        arguments.where_map(where),
    )
    path = f"{collection.path}/{collection.get_path}"
    return ask(path, request, bodies.GetAnswer, bodies.records_from)


def scroll(
    collection: Target,
    *,
    limit: int = 100,
    after: int | None = None,
    where: Mapping[str, Json] | None = None,
    as_of: AsOf | None = None,
    with_vectors: bool = False,
) -> Call[Page]:
    """Return a page of records in row order; `after` is the `next` of the page before.

    where: only records that match, as in `search`.
    """
    check_whole("limit", limit, 1, LIMIT_MAX)
    if after is not None:
        check_whole("after", after, 0, 2**63)

    def finish(answer: bodies.ScrollAnswer) -> Page:
        records = [record for record in bodies.records_from(answer) if record is not None]
        return Page(records, answer.next)

    return read(
        f"{collection.path}/scroll",
        bodies.ScrollAnswer,
        finish,
        limit=limit,
        after=after,
        where=arguments.where_map(where),
        as_of=arguments.state(as_of),
        with_vectors=bool(with_vectors),
    )


def scan_rows(schema: Schema, *, with_vectors: bool) -> int:
    """Return how many rows a page of a scan has: the vectors of one fill a few megabytes."""
    if not with_vectors:
        return _SCAN_ROWS
    return max(1, min(_SCAN_ROWS, _SCAN_BYTES // (4 * schema.dimension)))


def count(
    collection: Target, *, where: Mapping[str, Json] | None = None, as_of: AsOf | None = None
) -> Call[int]:
    """Return the number of records, or of those that match `where`."""
    return read(
        f"{collection.path}/count",
        bodies.CountAnswer,
        lambda answer: answer.count,
        where=arguments.where_map(where),
        as_of=arguments.state(as_of),
    )


def document(
    collection: Target, namespace: str, key: str, *, as_of: AsOf | None = None
) -> Call[Json]:
    """Return the value of a document, or None."""
    path = f"{documents_path(collection, namespace)}/{arguments.segment('document key', key)}"
    return read(
        path, bodies.DocumentAnswer, lambda answer: answer.value, as_of=arguments.state(as_of)
    )


def documents(
    collection: Target, namespace: str, *, as_of: AsOf | None = None
) -> Call[dict[str, Json]]:
    """Return every document of a namespace by key."""
    path = documents_path(collection, namespace)
    return read(path, dict[str, Any], lambda found: found, as_of=arguments.state(as_of))


def documents_path(collection: Target, namespace: str) -> str:
    """Return where the documents of a namespace are."""
    return f"{collection.path}/documents/{arguments.segment('document namespace', namespace)}"


def history(
    collection: Target, limit: int = 100, before: int | None = None
) -> Call[list[CommitInfo]]:
    """Return up to `limit` commits, newest first; `before` is an LSN, itself not included.

    Reaches back to the horizon. The LSN of the last one is the `before` of the next call.

    Raises:
        InvalidRequestError: `invalid-argument`.
    """
    check_whole("limit", limit, 1, LIMIT_MAX)
    if before is not None:
        check_whole("before", before, 0, 2**63)

    def finish(answer: bodies.HistoryAnswer) -> list[CommitInfo]:
        return [bodies.commit_info_from(note) for note in answer.commits]

    path = f"{collection.path}/history"
    return read(path, bodies.HistoryAnswer, finish, limit=limit, before=before)


# --- care ---


def stats(collection: Target) -> Call[CollectionStats]:
    """Return the collection's figures."""
    return read(f"{collection.path}/info", bodies.InfoAnswer, bodies.stats_from)


def findings(collection: Target) -> Call[list[Finding]]:
    """Return what is damaged or doubtful in this collection."""
    return read(f"{collection.path}/findings", bodies.FindingsAnswer, _findings)


def verify(collection: Target) -> Plan[VerifyReport]:
    """Read and check every stored byte that counts; damage becomes findings.

    The server does it as a task: this waits for its end, however long that takes.

    Raises:
        UnavailableError: `cancelled`, somebody stopped the task, or the server did.
    """
    request = bodies.VerifyRequest(background=True)
    path = f"{collection.path}/verify"
    task = yield ask(path, request, bodies.TaskStarted, lambda got: got.task)
    result = yield from finished(task, f"verifying {collection.name!r}")
    return bodies.report_from(msgspec.convert(result, bodies.VerifyAnswer))


def finished(
    task: bodies.TaskBody, what: str, progress: Callable[[int, int], None] | None = None
) -> Plan[Json]:
    """Wait for the end of a task of the server; return its result.

    progress: is called with what is done and what there is in all, once that is known.

    Raises:
        DvecdbError: what it failed with; UnavailableError: `cancelled`.
    """
    seconds = _POLL_SECONDS_FIRST
    while task.state in {"queued", "running"}:
        if progress is not None and task.total is not None:
            progress(task.done, task.total)
        yield Wait(seconds)
        seconds = min(seconds * 2, _POLL_SECONDS_MAX)
        task = yield read(f"/tasks/{task.id}", bodies.TaskBody, lambda got: got)
    if task.state == "failed" and task.error is not None:
        raise error_from(msgspec.convert({"error": "", **task.error}, ErrorBody))
    if task.state != "done":
        raise UnavailableError(
            Code.CANCELLED,
            f"{what}: task {task.id} was {task.state}; start it again",
            task=task.id,
        )
    return task.result


def flush(collection: Target) -> Call[None]:
    """Write everything in memory into segments and do the maintenance that is due."""
    return Call("POST", f"{collection.path}/flush", NO_HEADERS, b"", lambda _: None)
