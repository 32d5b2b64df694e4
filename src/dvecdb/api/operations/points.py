"""Search and points by the endpoints kept from before. Search is exact: `ef_search` is ignored."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from dvecdb.api.context import Answer
from dvecdb.errors import Code, InvalidRequestError
from dvecdb.records import LIMIT_MAX, check_whole
from dvecdb.wire.codec import check_filter
from dvecdb.wire.legacy import (
    LIMIT,
    Point,
    PointsCountAnswer,
    PointsCountRequest,
    PointsScrollAnswer,
    PointsScrollRequest,
    SearchBatchRequest,
    SearchRequest,
    query_of,
)
from dvecdb.wire.vectors import vector_bytes, vector_of

if TYPE_CHECKING:
    from dvecdb.api.context import Context
    from dvecdb.records import Record

_OFFSET = re.compile(r"([0-9]{1,18})@([0-9]{1,18})")
_SEARCHES_MAX = 1_000


def search(context: Context, request: SearchRequest) -> Answer:
    """Return the nearest records, nearest first; none if none are asked for."""
    query = context.query
    asked = request.limit if request.limit is not None else query.limit
    limit = LIMIT if asked is None else asked
    hits = context.collection.search(
        vector_of(query_of(request)),
        limit=limit if limit != 0 else 1,
        where=check_filter(request.filter),
        as_of=request.as_of if request.as_of is not None else query.as_of,
    )
    return Answer(hits if limit != 0 else [])


def search_batch(context: Context, request: SearchBatchRequest) -> Answer:
    """Answer several searches of one state."""
    check_whole("the number of searches", len(request.searches), 0, _SEARCHES_MAX)
    if not request.searches:
        return Answer([])
    snapshot = context.collection.snapshot()
    found = []
    for index, one in enumerate(request.searches):
        offset = check_whole("offset", one.offset or 0, 0, LIMIT_MAX - 1)
        limit = check_whole("limit", LIMIT if one.limit is None else one.limit, 1, LIMIT_MAX)
        hits = snapshot.search(
            vector_of(one.vector, f"search {index}"),
            limit=offset + limit,
            where=check_filter(one.filter),
        )
        found.append(hits[offset:])
    return Answer(found)


def scroll_points(context: Context, request: PointsScrollRequest) -> Answer:
    """Return a page of records. All pages are of the state of the first one."""
    after, as_of = None, request.as_of
    if request.offset is not None:
        after, as_of = _parse_offset(request.offset)
    snapshot = context.collection.snapshot(as_of=as_of)
    page = snapshot.scroll(
        limit=LIMIT if request.limit is None else request.limit,
        after=after,
        where=check_filter(request.filter),
        with_vectors=request.with_vectors,
    )
    points = [_point(context, record, request) for record in page.records]
    following = None if page.next is None else f"{page.next}@{snapshot.lsn}"
    return Answer(PointsScrollAnswer(points, following))


def count_points(context: Context, request: PointsCountRequest) -> Answer:
    """Count records."""
    return Answer(PointsCountAnswer(context.collection.count(where=check_filter(request.filter))))


def _point(context: Context, record: Record, request: PointsScrollRequest) -> Point:
    vector: Any = UNSET
    if record.vector is not None:
        vector = vector_bytes(record.vector) if context.is_binary else record.vector.tolist()
    payload: Any = record.metadata if request.with_payload else UNSET
    return Point(record.id, 0, vector, payload)


def _parse_offset(text: str) -> tuple[int, int]:
    match = _OFFSET.fullmatch(text)
    if match is None:
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT,
            f"offset {text!r:.80} is none of ours; pass the next_offset of the page before, "
            "or none for the first page",
        )
    return int(match[1]), int(match[2])
