"""Requests and answers of the endpoints kept from before: lenient in, the same to the key out.

Unknown fields are ignored, enum values are taken in any case, what may be missing may be null.
Answers have exactly these keys in this order: the old clients forbid any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from dvecdb.errors import Code, InvalidRequestError
from dvecdb.records import Metric, Schema, VectorType, parse_metric, parse_vector_type
from dvecdb.wire.bodies import AsOf, DocumentValue, Metadata
from dvecdb.wire.vectors import Vector

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dvecdb.results import SearchOptions

T = TypeVar("T")

LIMIT: Final = 10
"""Results of a search or a scroll that does not say how many."""


class LenientRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request: what it does not know it ignores."""


class LegacyAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An answer with exactly these keys."""


# --- collections ---


class IndexConfig(LenientRequest, frozen=True):
    """Parameters of another kind of index. Kept and answered; ours tunes itself."""

    max_connections: int = 16
    ef_construction: int = 200
    ef_search: int = 50
    max_layer: int = 16


class CreateRequest(LenientRequest, frozen=True):
    """Create a collection."""

    name: str
    dimension: int
    distance_metric: str = "Cosine"
    vector_type: str | None = None
    index_config: IndexConfig | None = None


class IndexParameters(LegacyAnswer, frozen=True):
    """Parameters of an index."""

    max_connections: int
    ef_construction: int
    ef_search: int
    max_layer: int


class CollectionConfig(LegacyAnswer, frozen=True):
    """How a collection was created."""

    name: str
    dimension: int
    distance_metric: str
    vector_type: str
    index_config: IndexParameters


class LegacyStats(LegacyAnswer, frozen=True):
    """Figures of a collection. Sizes in bytes."""

    name: str
    vector_count: int
    dimension: int
    index_size: int
    memory_usage: int


class ServerStats(LegacyAnswer, frozen=True):
    """Figures of the server. Sizes in bytes."""

    total_vectors: int
    total_collections: int
    memory_usage: int
    disk_usage: int
    uptime_seconds: int


class NamedMessage(LegacyAnswer, frozen=True):
    """What was done to a collection."""

    name: str
    message: str


class IdMessage(LegacyAnswer, frozen=True):
    """What was done to a record."""

    id: str
    message: str


# --- records ---


class VectorBody(LenientRequest, frozen=True):
    """A record to write. No `id`: one is made."""

    data: Vector
    id: str | None = None
    metadata: Metadata | None = None


class PutRequest(LenientRequest, frozen=True):
    """A record to write under the id of the path. An `id` in here is ignored."""

    data: Vector
    metadata: Metadata | None = None


class BatchRequest(LenientRequest, frozen=True):
    """Records to write."""

    vectors: list[VectorBody]


class UpsertRequest(LenientRequest, frozen=True):
    """Records to write, and documents to write and to compare in the same atomic batch."""

    vectors: list[VectorBody]
    documents: list[DocumentValue] = []
    expect: list[DocumentValue] = []


class UpsertAnswer(LegacyAnswer, frozen=True):
    """What was written."""

    upserted_count: int
    ids: list[str]


class BatchDeleteRequest(LenientRequest, frozen=True):
    """Records to delete. `confirm`: also if they are many."""

    ids: list[str]
    confirm: bool = False


class BatchDeleteAnswer(LegacyAnswer, frozen=True):
    """How many of them existed."""

    deleted_count: int


class VectorAnswer(LegacyAnswer, frozen=True):
    """A record. `data`: numbers in JSON, float32 bytes in MessagePack."""

    id: str
    data: Vector
    metadata: Metadata | None


# --- search ---


class Effort(LenientRequest, frozen=True):
    """How much a search should do, as other servers group it."""

    ef_search: int | None = None
    recall: float | None = None


class SearchFields(LenientRequest, frozen=True, kw_only=True):
    """What any search may ask for.

    threshold (or `score_threshold`): none whose distance is larger. recall: share of the true
    nearest that is aimed at, or ef_search: 1 to 1000, the effort; either may also be in `params`
    (or `search_params`). with_vectors (or `with_vector`): hits have a `vector`.
    """

    limit: int | None = None
    offset: int | None = None
    filter: Metadata | None = None
    threshold: float | None = None
    score_threshold: float | None = None
    recall: float | None = None
    ef_search: int | None = None
    params: Effort | None = None
    search_params: Effort | None = None
    with_metadata: bool = True
    with_vectors: bool | None = None
    with_vector: bool | None = None


class SearchRequest(SearchFields, frozen=True):
    """Search. `query_vector` is another name of `vector`."""

    vector: Vector | None = None
    query_vector: Vector | None = None
    as_of: AsOf | None = None


class SearchQuery(LenientRequest, frozen=True):
    """The same in the query string; the body goes first. `as_of` is for bodies of octets."""

    limit: int | None = None
    ef_search: int | None = None
    as_of: AsOf | None = None


class HitAnswer(LegacyAnswer, frozen=True):
    """A search result. Smaller `distance` is nearer. `vector` only if asked for."""

    id: str
    distance: float
    metadata: Metadata | None
    vector: Vector | UnsetType = UNSET


class OneSearch(SearchFields, frozen=True):
    """One search of several."""

    vector: Vector


class SearchBatchRequest(LenientRequest, frozen=True):
    """Several searches of one state."""

    searches: list[OneSearch]
    collection: str | None = None


class PointsScrollRequest(LenientRequest, frozen=True):
    """A page of records. `offset`: the `next_offset` of the page before."""

    collection: str | None = None
    filter: Metadata | None = None
    limit: int | None = None
    offset: str | None = None
    with_vectors: bool = True
    with_payload: bool = True
    as_of: AsOf | None = None


class Point(LegacyAnswer, frozen=True):
    """A record of a page. `score` is always 0."""

    id: str
    score: float
    vector: Vector | UnsetType = UNSET
    payload: Metadata | UnsetType | None = UNSET


class PointsScrollAnswer(LegacyAnswer, frozen=True):
    """A page. `next_offset` null: the last one."""

    points: list[Point]
    next_offset: str | None


class PointsCountRequest(LenientRequest, frozen=True):
    """Count records. `exact` changes nothing: it always is."""

    collection: str | None = None
    filter: Metadata | None = None
    exact: bool | None = None


class PointsCountAnswer(LegacyAnswer, frozen=True):
    """How many there are."""

    count: int


# --- health, without an envelope ---


class LiveAnswer(LegacyAnswer, frozen=True):
    """The process answers. `timestamp`: seconds since the Unix epoch."""

    alive: bool
    timestamp: int


class ReadyAnswer(LegacyAnswer, frozen=True):
    """Whether requests can be served."""

    ready: bool
    timestamp: int
    checks: dict[str, Any]


class HealthAnswer(LegacyAnswer, frozen=True):
    """The state of the server and its parts."""

    status: str
    timestamp: int
    version: str
    uptime_seconds: int
    components: dict[str, Any]


# --- enums ---

METRICS: Final = {
    Metric.COSINE: "Cosine",
    Metric.EUCLIDEAN: "Euclidean",
    Metric.DOT_PRODUCT: "DotProduct",
    Metric.MANHATTAN: "Manhattan",
}
VECTOR_TYPES: Final = {
    VectorType.FLOAT32: "Float32",
    VectorType.FLOAT16: "Float16",
    VectorType.INT8: "Int8",
}


def schema_of(request: CreateRequest) -> Schema:
    """Return what the collection is to hold; the dimension is not checked.

    Raises:
        InvalidRequestError: `invalid-body`, an enum value nobody knows.
    """
    metric = metric_named(request.distance_metric)
    return Schema(request.dimension, metric, vector_type_named(request.vector_type))


def metric_named(text: str) -> Metric:
    """Return the metric of `distance_metric`, in any case.

    Raises:
        InvalidRequestError: `invalid-body`, nobody knows it.
    """
    try:
        return parse_metric(text)
    except InvalidRequestError:
        raise _unknown("distance_metric", text, METRICS.values()) from None


def vector_type_named(text: str | None) -> VectorType:
    """Return the type of `vector_type`, in any case; Float32 if it is left out.

    Raises:
        InvalidRequestError: `invalid-body`, nobody knows it.
    """
    if text is None:
        return VectorType.FLOAT32
    try:
        return parse_vector_type(text)
    except InvalidRequestError:
        raise _unknown("vector_type", text, VECTOR_TYPES.values()) from None


def config_of(name: str, schema: Schema, index_config: object) -> CollectionConfig:
    """Return a collection's configuration; `index_config` as it was stored, or None."""
    stored = index_config if isinstance(index_config, dict) else {}
    index = msgspec.convert(stored, IndexConfig)
    return CollectionConfig(
        name=name,
        dimension=schema.dimension,
        distance_metric=METRICS[schema.metric],
        vector_type=VECTOR_TYPES[schema.vector_type],
        index_config=msgspec.convert(index, IndexParameters, from_attributes=True),
    )


def query_of(request: SearchRequest) -> Vector:
    """Return the vector to search for.

    Raises:
        InvalidRequestError: `invalid-body`, none or both of its names are there.
    """
    found = [item for item in (request.vector, request.query_vector) if item is not None]
    if len(found) != 1:
        text = "missing the vector: pass `vector` (or `query_vector`)"
        if found:
            text = "`vector` and `query_vector` are two names of one field; pass one of them"
        raise InvalidRequestError(Code.INVALID_BODY, f"the body: {text}", path="$")
    return found[0]


def options_of(request: SearchFields, query: SearchQuery | None = None) -> SearchOptions:
    """Return what a search asks for, as the engine takes it; the body goes before the query."""
    groups = [request, request.params, request.search_params]
    efforts = [group for group in groups if group is not None]
    ef_search = _first(*(group.ef_search for group in efforts))
    recall = _first(*(group.recall for group in efforts))
    limit = request.limit
    if query is not None:
        limit = _first(limit, query.limit)
        if recall is None:
            ef_search = _first(ef_search, query.ef_search)
    return {
        "limit": LIMIT if limit is None else limit,
        "offset": request.offset or 0,
        "threshold": _first(request.threshold, request.score_threshold),
        "recall": recall,
        "ef_search": ef_search,
        "with_metadata": request.with_metadata,
        "with_vectors": _first(request.with_vectors, request.with_vector) or False,
    }


def _first(*values: T | None) -> T | None:
    """Return the first value that is there."""
    return next((value for value in values if value is not None), None)


def _unknown(field: str, value: str, known: Iterable[str]) -> InvalidRequestError:
    return InvalidRequestError(
        Code.INVALID_BODY,
        f"the body: unknown value {value!r:.80} at $.{field}; expected one of {', '.join(known)}",
        path=f"$.{field}",
    )
