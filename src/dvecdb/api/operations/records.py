"""Records by dvecdb's own endpoints: one general atomic write, reads of one state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import UNSET

from dvecdb.api.context import Answer
from dvecdb.wire.bodies import (
    CountAnswer,
    DocumentAnswer,
    GetAnswer,
    GetRequest,
    HistoryAnswer,
    MetadataAnswer,
    MetadataRequest,
    Rows,
    ScrollAnswer,
    WriteAnswer,
    WriteRequest,
    commit_note,
    info_body,
    pairs,
    record_body,
)
from dvecdb.wire.codec import Format, check_depth, check_filter, decode
from dvecdb.wire.recovery import DeleteAnswer, DeleteRequest
from dvecdb.wire.vectors import matrix_of, vector_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dvecdb.api.context import Context
    from dvecdb.protection.collection import Collection
    from dvecdb.records import Commit, Metadata, Record


def write(context: Context, request: WriteRequest) -> Answer:
    """Write one atomic batch: upserts or inserts, deletes, documents. Durable when this answers."""
    commit = _commit(context, request)
    return Answer(
        WriteAnswer(commit.lsn, commit.ids, commit.count), lsn=commit.lsn, rows=commit.count
    )


def _commit(context: Context, request: WriteRequest) -> Commit:
    """Write a batch; one that is an upsert, an insert or a delete and no more is noted as that."""
    collection = context.collection
    upserts, inserts = _rows(collection, request.upserts), _rows(collection, request.inserts)
    options = context.conditions(request.expect, request.if_lsn, confirm=request.confirm)
    if request.documents or len([part for part in (upserts, inserts, request.deletes) if part]) > 1:
        return collection.write(
            upserts=upserts,
            inserts=inserts,
            deletes=request.deletes,
            documents=pairs(request.documents, "documents"),
            **options,
        )
    if upserts is not None:
        return collection.upsert(**upserts, **options)
    if inserts is not None:
        return collection.insert(**inserts, **options)
    return collection.delete(request.deletes, **options)


def delete_records(context: Context, request: DeleteRequest) -> Answer:
    """Delete records by ids or by a filter; a deletion of many needs `confirm`."""
    where = check_filter(request.filter)
    commit = context.collection.delete(
        request.ids,
        where=where,
        **context.conditions(request.expect, request.if_lsn, confirm=request.confirm),
    )
    return Answer(DeleteAnswer(commit.count, commit.lsn), lsn=commit.lsn, rows=commit.count)


def update_metadata(context: Context, request: MetadataRequest) -> Answer:
    """Change the metadata of records and leave their vectors."""
    for index, value in enumerate(request.metadata):
        check_depth(value, f"metadata of item {index}")
    commit = context.collection.update_metadata(
        request.ids,
        request.metadata,
        mode=request.mode,
        **context.conditions(request.expect, request.if_lsn),
    )
    return Answer(MetadataAnswer(commit.lsn, commit.count), lsn=commit.lsn, rows=commit.count)


def get_records(context: Context, request: GetRequest) -> Answer:
    """Return records by id, null where there is none."""
    records = context.readable.get(
        request.ids,
        where=check_filter(request.where, "where"),
        as_of=request.as_of,
        with_vectors=request.with_vectors,
    )
    bodies = [
        None if record is None else record_body(record, in_lists=not context.is_binary)
        for record in records
    ]
    return Answer(GetAnswer(bodies, **_packed(context, [item for item in records if item])))


def scroll(context: Context, _: None) -> Answer:
    """Return a page of records in the order of their rows."""
    asked = context.query
    snapshot = context.readable.snapshot(as_of=asked.as_of)
    page = snapshot.scroll(
        limit=asked.limit,
        after=asked.after,
        where=_where(asked.where),
        with_vectors=asked.with_vectors,
    )
    bodies = [record_body(record, in_lists=not context.is_binary) for record in page.records]
    packed = _packed(context, page.records)
    return Answer(ScrollAnswer(bodies, page.next, snapshot.lsn, **packed))


def count(context: Context, _: None) -> Answer:
    """Count records."""
    snapshot = context.readable.snapshot(as_of=context.query.as_of)
    number = snapshot.count(where=_where(context.query.where))
    return Answer(CountAnswer(number, snapshot.lsn))


def info(context: Context, _: None) -> Answer:
    """Return every figure of a collection."""
    return Answer(info_body(context.readable.stats()))


def history(context: Context, _: None) -> Answer:
    """Return who wrote what, when and why, newest first."""
    commits = context.readable.history(context.query.limit, context.query.before)
    return Answer(HistoryAnswer([commit_note(commit) for commit in commits]))


def read_documents(context: Context, _: None) -> Answer:
    """Return every document of a namespace by key."""
    namespace = context.path["namespace"]
    return Answer(context.readable.documents.list(namespace, as_of=context.query.as_of))


def read_document(context: Context, _: None) -> Answer:
    """Return a document's value, null if there is none."""
    path = context.path
    value = context.readable.documents.get(
        path["namespace"], path["key"], as_of=context.query.as_of
    )
    return Answer(DocumentAnswer(value))


def _where(text: str | None) -> Metadata | None:
    """Return the filter of a query string."""
    if text is None:
        return None
    found: Metadata = check_filter(decode(text.encode(), dict[str, Any], Format.JSON), "where")
    return found


def _rows(collection: Collection, rows: Rows | None) -> dict[str, Any] | None:
    if rows is None:
        return None
    for index, value in enumerate(rows.metadata or ()):
        if value:
            check_depth(value, f"metadata of item {index}")
    return {
        "ids": rows.ids,
        "vectors": matrix_of(rows.vectors, collection.schema.dimension),
        "metadata": rows.metadata,
    }


def _packed(context: Context, records: Sequence[Record]) -> dict[str, Any]:
    """Return the vectors of all records as bytes, if that is how they are answered."""
    vectors = [record.vector for record in records if record.vector is not None]
    if not context.is_binary or not vectors:
        return {"vectors": UNSET, "dimension": UNSET}
    return {"vectors": vector_bytes(np.stack(vectors)), "dimension": len(vectors[0])}
