"""Requests and answers of searches by dvecdb's own endpoints, as both sides know them.

The vector of a hit, if it is asked for, is a list of numbers in JSON and bytes of little-endian
float32 in MessagePack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from msgspec import UNSET, UnsetType

from dvecdb.records import check_whole
from dvecdb.results import Explained, FacetCount, Group, Hit, Hits
from dvecdb.wire.bodies import Answer, AsOf, Json, Metadata, Request
from dvecdb.wire.vectors import FLOAT32, Matrix, Vector, vector_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy.typing as npt

    from dvecdb.results import SearchOptions

T = TypeVar("T")

QUERIES_MAX = 1_000
HITS_MAX = 200_000
"""Hits that one request may make: queries times limit and offset. An answer lies in memory."""
"""Queries of one request."""


class Search(Request, frozen=True, kw_only=True):
    """What any search may ask for.

    where: only records that match. limit: how many; offset: how many nearer ones to pass over.
    threshold: none whose distance is larger. recall: share of the true nearest that is aimed at,
    0 to 1, or ef_search: 1 to 1000, the effort. explain: say how it was answered.
    """

    where: Metadata | None = None
    as_of: AsOf | None = None
    limit: int = 10
    offset: int = 0
    threshold: float | None = None
    recall: float | None = None
    ef_search: int | None = None
    with_metadata: bool = True
    with_vectors: bool = False
    on_damage: Literal["fail", "exclude"] = "fail"
    explain: bool = False


class QueryRequest(Search, frozen=True):
    """Search. `recall` 1.0 measures every record; by default the server aims at a little less."""

    vector: Vector


class QueryBatchRequest(Search, frozen=True):
    """Several searches of one state that differ in their vectors."""

    vectors: Matrix


class GroupsRequest(Search, frozen=True):
    """Search for `limit` groups of records that share a value of the field `by`, without offset."""

    vector: Vector
    by: str
    group_size: int = 3


class FacetRequest(Request, frozen=True):
    """Count the records by the values of the field `by`, the commonest `limit` of them."""

    by: str
    limit: int = 10
    where: Metadata | None = None
    as_of: AsOf | None = None


class HitBody(Answer, frozen=True):
    """A search result. Smaller `distance` is nearer. `vector` only if asked for."""

    id: str
    distance: float
    metadata: Metadata | None
    vector: Vector | UnsetType = UNSET


class QueryAnswer(Answer, frozen=True):
    """Nearest first. `excluded`: ids left out because their bytes are damaged.

    `explain`: how it was answered, if that was asked for.
    """

    hits: list[HitBody]
    excluded: list[str]
    lsn: int
    explain: Explained | UnsetType = UNSET


class BatchItem(Answer, frozen=True):
    """The answer to one query of several."""

    hits: list[HitBody]
    excluded: list[str]
    explain: Explained | UnsetType = UNSET


class QueryBatchAnswer(Answer, frozen=True):
    """Answers in the order of the queries."""

    answers: list[BatchItem]
    lsn: int


class GroupBody(Answer, frozen=True):
    """The nearest records that share a value."""

    value: Json
    hits: list[HitBody]


class GroupsAnswer(Answer, frozen=True):
    """The group with the nearest record first."""

    groups: list[GroupBody]
    lsn: int


class FacetValue(Answer, frozen=True):
    """How many records have a value."""

    value: Json
    count: int


class FacetAnswer(Answer, frozen=True):
    """Values and how many records have them, the commonest first."""

    values: list[FacetValue]
    lsn: int


# --- between values and messages ---


def options_of(request: Search) -> SearchOptions:
    """Return what a request asks for, as the engine takes it."""
    return {
        "limit": request.limit,
        "offset": request.offset,
        "threshold": request.threshold,
        "recall": request.recall,
        "ef_search": request.ef_search,
        "with_metadata": request.with_metadata,
        "with_vectors": request.with_vectors,
        "on_damage": request.on_damage,
        "explain": request.explain,
    }


def check_hits(count: int) -> None:
    """Refuse a request that may make more hits than an answer should hold.

    Raises:
        InvalidRequestError: `invalid-argument`.
    """
    check_whole("the hits of all queries, limit and offset of each", count, 0, HITS_MAX)


def hit_bodies(hits: Iterable[Hit], kind: Callable[..., T], *, is_binary: bool) -> list[T]:
    """Return hits as messages of `kind`: of id, distance, metadata and a vector if there is one."""
    return [
        kind(hit.id, hit.distance, hit.metadata)
        if hit.vector is None
        else kind(hit.id, hit.distance, hit.metadata, _vector(hit.vector, is_binary=is_binary))
        for hit in hits
    ]


def _vector(vector: npt.NDArray[np.float32], *, is_binary: bool) -> Vector:
    if is_binary:
        return vector.astype(FLOAT32, copy=False).tobytes()
    numbers: list[float] = vector.tolist()
    return numbers


def explain_body(hits: Hits) -> Explained | UnsetType:
    """Return how hits were found, if that was asked for."""
    return UNSET if hits.explained is None else hits.explained


def hits_from(answer: QueryAnswer | BatchItem) -> Hits:
    """Return the hits of an answer."""
    explained = None if isinstance(answer.explain, UnsetType) else answer.explain
    return Hits(_hits(answer.hits), answer.excluded, explained)


def groups_from(answer: GroupsAnswer) -> list[Group]:
    """Return the groups of an answer."""
    return [Group(item.value, _hits(item.hits)) for item in answer.groups]


def facet_from(answer: FacetAnswer) -> list[FacetCount]:
    """Return the counts of an answer."""
    return [FacetCount(item.value, item.count) for item in answer.values]


def _hits(bodies: Iterable[HitBody]) -> list[Hit]:
    return [
        Hit(item.id, item.distance, item.metadata)
        if isinstance(item.vector, UnsetType)
        else Hit(item.id, item.distance, item.metadata, vector_of(item.vector).astype(np.float32))
        for item in bodies
    ]
