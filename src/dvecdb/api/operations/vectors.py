"""Records by the endpoints kept from before: insert, upsert, get, delete."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from dvecdb.api.context import Answer
from dvecdb.errors import Code, NotFoundError
from dvecdb.wire.bodies import pairs
from dvecdb.wire.codec import check_depth
from dvecdb.wire.legacy import (
    BatchDeleteAnswer,
    BatchDeleteRequest,
    BatchRequest,
    IdMessage,
    PutRequest,
    UpsertAnswer,
    UpsertRequest,
    VectorAnswer,
    VectorBody,
)
from dvecdb.wire.vectors import vector_bytes, vector_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dvecdb.api.context import Context


def insert_vector(context: Context, request: VectorBody) -> Answer:
    """Insert a record. It is durable when this answers; `data` is its id."""
    commit = context.collection.insert(**_columns(context, [request]), **context.options)
    return Answer(commit.ids[0], lsn=commit.lsn, rows=commit.count)


def insert_vectors(context: Context, request: BatchRequest) -> Answer:
    """Insert records in one atomic batch; `data` is their ids in order."""
    if not request.vectors:
        return Answer([])
    commit = context.collection.insert(**_columns(context, request.vectors), **context.options)
    return Answer(commit.ids, lsn=commit.lsn, rows=commit.count)


def upsert_vectors(context: Context, request: UpsertRequest) -> Answer:
    """Write records, replacing those whose ids exist, with documents, in one atomic batch."""
    if not request.vectors and not request.documents:
        return Answer(UpsertAnswer(0, []))
    commit = context.collection.write(
        upserts=_columns(context, request.vectors) if request.vectors else None,
        documents=pairs(request.documents, "documents"),
        **context.conditions(request.expect),
    )
    return Answer(UpsertAnswer(commit.count, commit.ids), lsn=commit.lsn, rows=commit.count)


def get_vector(context: Context, _: None) -> Answer:
    """Return a record."""
    (record,) = context.collection.get([context.path["id"]])
    if record is None or record.vector is None:
        raise _no_record(context)
    data = vector_bytes(record.vector) if context.is_binary else record.vector.tolist()
    return Answer(VectorAnswer(record.id, data, record.metadata))


def put_vector(context: Context, request: PutRequest) -> Answer:
    """Write a record under this id, replacing the one that is there."""
    body = VectorBody(request.data, context.path["id"], request.metadata)
    commit = context.collection.upsert(**_columns(context, [body]), **context.options)
    return Answer(
        IdMessage(commit.ids[0], "Vector updated successfully"), lsn=commit.lsn, rows=commit.count
    )


def delete_vector(context: Context, _: None) -> Answer:
    """Delete a record; `data` says whether it existed."""
    commit = context.collection.delete([context.path["id"]], **context.options)
    return Answer(commit.count > 0, lsn=commit.lsn, rows=commit.count)


def delete_vectors(context: Context, request: BatchDeleteRequest) -> Answer:
    """Delete records in one atomic batch; ids that do not exist are passed over."""
    if not request.ids:
        return Answer(BatchDeleteAnswer(0))
    commit = context.collection.delete(
        request.ids, **context.conditions([], confirm=request.confirm)
    )
    return Answer(BatchDeleteAnswer(commit.count), lsn=commit.lsn, rows=commit.count)


def _columns(context: Context, bodies: Sequence[VectorBody]) -> dict[str, Any]:
    """Return ids, vectors and metadata as the engine takes them."""
    metadata = [body.metadata for body in bodies]
    for index, value in enumerate(metadata):
        if value:
            check_depth(value, f"metadata of item {index}")
    return {
        "ids": _ids(context, bodies),
        "vectors": [
            body.data if isinstance(body.data, list) else vector_of(body.data, f"item {index}")
            for index, body in enumerate(bodies)
        ],
        "metadata": metadata,
    }


def _ids(context: Context, bodies: Sequence[VectorBody]) -> list[str] | None:
    """Return the ids, made ones where some are missing; None: all are missing."""
    given = [body.id for body in bodies]
    if all(item is None for item in given):
        return None
    key = context.options.get("idempotency_key")
    return [_made_id(key, index) if item is None else item for index, item in enumerate(given)]


def _made_id(key: str | None, index: int) -> str:
    """Return a new id; the same key makes the same ids, so that a repeated call is the same."""
    return str(uuid.uuid4() if key is None else uuid.uuid5(uuid.NAMESPACE_OID, f"{key}\0{index}"))


def _no_record(context: Context) -> NotFoundError:
    name, record_id = context.path["collection"], context.path["id"]
    return NotFoundError(
        Code.ID_NOT_FOUND,
        f"there is no record {record_id!r} in collection {name!r}",
        ids=[record_id],
        name=name,
    )
