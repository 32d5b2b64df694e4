"""Collections: create, list, describe, delete."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec

from dvecdb.api.auth import Scope
from dvecdb.api.context import Answer
from dvecdb.errors import DamagedDataError
from dvecdb.records import check_name
from dvecdb.wire.legacy import (
    CollectionConfig,
    CreateRequest,
    LegacyStats,
    NamedMessage,
    config_of,
    schema_of,
)

if TYPE_CHECKING:
    from dvecdb.api.context import Context
    from dvecdb.protection.collection import Collection

_INDEX_CONFIG = "index_config"


def create_collection(context: Context, request: CreateRequest) -> Answer:
    """Create a collection. It is durable when this answers."""
    schema = schema_of(request)
    context.parts.guard.require(context.principal, Scope.WRITE, request.name)
    collection = context.database.create_collection(
        request.name,
        dimension=request.dimension,
        metric=schema.metric,
        vector_type=schema.vector_type,
    )
    lsn = 0
    if request.index_config is not None:
        values = {_INDEX_CONFIG: msgspec.to_builtins(request.index_config)}
        lsn = collection.configure(values, **context.options).lsn
    return Answer(NamedMessage(request.name, "Collection created successfully"), lsn=lsn)


def list_collections(context: Context, _: None) -> Answer:
    """List the names of the collections."""
    names = context.database.collections()
    return Answer([name for name in names if context.principal.may_see(name)])


def read_collection(context: Context, _: None) -> Answer:
    """Describe a collection: its configuration and its figures, in this order."""
    collection = context.collection
    return Answer((_config(collection), _stats(collection)))


def read_stats(context: Context, _: None) -> Answer:
    """Return the figures of a collection."""
    return Answer(_stats(context.collection))


def delete_collection(context: Context, _: None) -> Answer:
    """Move a collection to the trash. No byte of its data is removed."""
    name = check_name(context.path["collection"])
    rows = lsn = None
    with contextlib.suppress(DamagedDataError):  # what cannot be opened can be deleted
        stats = context.collection.stats()
        rows, lsn = stats.count, stats.last_lsn
    options = context.options
    context.database.delete_collection(
        name, actor=options.get("actor"), reason=options.get("reason")
    )
    context.parts.jobs.leave(name)
    return Answer(NamedMessage(name, "Collection deleted successfully"), lsn=lsn, rows=rows)


def _config(collection: Collection) -> CollectionConfig:
    stored = collection.documents.get("_config", _INDEX_CONFIG)
    return config_of(collection.name, collection.schema, stored)


def _stats(collection: Collection) -> LegacyStats:
    stats = collection.stats()
    return LegacyStats(
        name=stats.name,
        vector_count=stats.count,
        dimension=stats.schema.dimension,
        index_size=stats.index.size_bytes,
        memory_usage=stats.memtable_bytes,
    )
