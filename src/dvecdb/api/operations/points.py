"""Search and points by the endpoints kept from before."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from dvecdb.api.context import Answer
from dvecdb.errors import Code, InvalidRequestError
from dvecdb.records import check_whole
from dvecdb.wire.codec import Format, check_filter, encode
from dvecdb.wire.legacy import (
    LIMIT,
    HitAnswer,
    Point,
    PointsCountAnswer,
    PointsCountRequest,
    PointsScrollAnswer,
    PointsScrollRequest,
    SearchBatchRequest,
    SearchRequest,
    options_of,
    query_of,
)
from dvecdb.wire.searches import QUERIES_MAX, check_hits, hit_bodies
from dvecdb.wire.vectors import vector_bytes, vector_of

if TYPE_CHECKING:
    from dvecdb.api.context import Context
    from dvecdb.records import Record

_OFFSET = re.compile(r"([0-9]{1,18})@([0-9]{1,18})")


def search(context: Context, request: SearchRequest) -> Answer:
    """Return the nearest records, nearest first; none if none are asked for."""
    query = context.query
    options = options_of(request, query)
    is_empty = options["limit"] == 0
    if is_empty:
        options["limit"] = 1
    hits = context.collection.search(
        vector_of(query_of(request)),
        where=check_filter(request.filter),
        as_of=request.as_of if request.as_of is not None else query.as_of,
        **options,
    )
    return Answer([] if is_empty else hit_bodies(hits, HitAnswer, is_binary=context.is_binary))


def search_batch(context: Context, request: SearchBatchRequest) -> Answer:
    """Answer several searches of one state; those that differ in their vectors only at once."""
    check_whole("the number of searches", len(request.searches), 0, QUERIES_MAX)
    if not request.searches:
        return Answer([])
    alike: dict[bytes, list[int]] = {}
    for index, one in enumerate(request.searches):
        key = encode((one.filter, options_of(one)), Format.JSON)
        alike.setdefault(key, []).append(index)
    asked = [options_of(one) for one in request.searches]
    check_hits(sum(one["limit"] + one["offset"] for one in asked))
    snapshot = context.collection.snapshot()
    found: list[list[HitAnswer]] = [[] for _ in request.searches]
    for places in alike.values():
        searches = [request.searches[place] for place in places]
        vectors = [
            vector_of(one.vector, f"search {place}")
            for place, one in zip(places, searches, strict=True)
        ]
        answers = snapshot.search_batch(
            vectors, where=check_filter(searches[0].filter), **options_of(searches[0])
        )
        for place, hits in zip(places, answers, strict=True):
            found[place] = hit_bodies(hits, HitAnswer, is_binary=context.is_binary)
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
