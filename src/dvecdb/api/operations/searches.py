"""Searches by dvecdb's own endpoints: of one query or of many, by groups, and counts by value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dvecdb.api.context import Answer
from dvecdb.records import check_whole
from dvecdb.wire.codec import check_filter
from dvecdb.wire.searches import (
    QUERIES_MAX,
    BatchItem,
    FacetAnswer,
    FacetValue,
    GroupBody,
    GroupsAnswer,
    HitBody,
    QueryAnswer,
    QueryBatchAnswer,
    check_hits,
    explain_body,
    hit_bodies,
    options_of,
)
from dvecdb.wire.vectors import matrix_of, vector_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dvecdb.api.context import Context
    from dvecdb.records import Json
    from dvecdb.results import Hit
    from dvecdb.wire.searches import (
        FacetRequest,
        GroupsRequest,
        QueryBatchRequest,
        QueryRequest,
    )


def query(context: Context, request: QueryRequest) -> Answer:
    """Return the nearest records, nearest first."""
    snapshot = context.readable.snapshot(as_of=request.as_of)
    hits = snapshot.search(
        vector_of(request.vector), where=_where(request.where), **options_of(request)
    )
    bodies = _bodies(context, hits)
    return Answer(QueryAnswer(bodies, hits.excluded, snapshot.lsn, explain_body(hits)))


def query_batch(context: Context, request: QueryBatchRequest) -> Answer:
    """Return the nearest records of several queries of one state."""
    collection = context.readable
    vectors = matrix_of(request.vectors, collection.schema.dimension)
    check_whole("the number of vectors", len(vectors), 0, QUERIES_MAX)
    options = options_of(request)
    check_hits(len(vectors) * (options["limit"] + options["offset"]))
    snapshot = collection.snapshot(as_of=request.as_of)
    found = snapshot.search_batch(vectors, where=_where(request.where), **options)
    answers = [
        BatchItem(_bodies(context, hits), hits.excluded, explain_body(hits)) for hits in found
    ]
    return Answer(QueryBatchAnswer(answers, snapshot.lsn))


def search_groups(context: Context, request: GroupsRequest) -> Answer:
    """Return the nearest groups of records that share a value of a field."""
    snapshot = context.readable.snapshot(as_of=request.as_of)
    found = snapshot.search_groups(
        vector_of(request.vector),
        request.by,
        group_size=request.group_size,
        where=_where(request.where),
        **options_of(request),
    )
    groups = [GroupBody(group.value, _bodies(context, group.hits)) for group in found]
    return Answer(GroupsAnswer(groups, snapshot.lsn))


def facet(context: Context, request: FacetRequest) -> Answer:
    """Return how many records have each value of a field, the commonest first."""
    snapshot = context.readable.snapshot(as_of=request.as_of)
    found = snapshot.facet(request.by, limit=request.limit, where=_where(request.where))
    values = [FacetValue(item.value, item.count) for item in found]
    return Answer(FacetAnswer(values, snapshot.lsn))


def _where(where: Json) -> Json:
    found: Json = check_filter(where, "where")
    return found


def _bodies(context: Context, hits: Iterable[Hit]) -> list[HitBody]:
    return hit_bodies(hits, HitBody, is_binary=context.is_binary)
