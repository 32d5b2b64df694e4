"""The calls that search, and the wait for the index that makes searches fast. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Unpack

from dvecdb.client import arguments
from dvecdb.client.attempts import Call, Wait
from dvecdb.client.messages import ask
from dvecdb.client.requests import Plan, Target, scan_rows, stats
from dvecdb.records import LIMIT_MAX, CollectionStats, IndexStats, check_whole
from dvecdb.search.filters import parse_path
from dvecdb.search.vectors import check_query
from dvecdb.search.wanted import Wanted
from dvecdb.wire import searches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dvecdb.records import AsOf, Json
    from dvecdb.results import FacetCount, Group, Hits, SearchOptions

_POLL_SECONDS_FIRST: Final = 0.02
_POLL_SECONDS_MAX: Final = 1.0


def search(
    collection: Target,
    query: Any,
    *,
    where: Mapping[str, Json] | None = None,
    as_of: AsOf | None = None,
    **options: Unpack[SearchOptions],
) -> Call[Hits]:
    """Return the nearest records, best first; distances are always exact.

    query: [dimension], finite; where: only records that match. Options:

    limit: how many, 10 by default; offset: how many nearer ones to pass over.
    threshold: none whose distance is larger.
    recall: share of the true nearest that is aimed at, 0 to 1; 1.0 measures every row, and so does
        a collection without an index. ef_search: 1 to 1000, the effort as others name it.
    with_metadata, with_vectors: what the hits carry.
    on_damage: with "exclude", records whose bytes are damaged are left out and listed in
        `Hits.excluded`.
    explain: say in `Hits.explained` how it was done, and how long each stage took.

    Raises:
        InvalidRequestError: `wrong-dimension`, `not-finite`, `invalid-argument`, `invalid-filter`.
        DamagedDataError: `damaged-data`, names the ids that cannot be read.
    """
    fields = _fields(where, as_of, Wanted(**options))
    request = searches.QueryRequest(_packed(collection, query), **fields)
    path = f"{collection.path}/query"
    return ask(path, request, searches.QueryAnswer, searches.hits_from)


def search_batch(
    collection: Target,
    queries: Any,
    *,
    where: Mapping[str, Json] | None = None,
    as_of: AsOf | None = None,
    **options: Unpack[SearchOptions],
) -> Plan[list[Hits]]:
    """Return the hits of several queries [n, dimension] in one state. Others as `search`."""
    wanted = Wanted(**options)
    fields = _fields(where, as_of, wanted)
    packed = [_packed(collection, query) for query in queries]
    found: list[Hits] = []
    step = min(
        scan_rows(collection.schema, with_vectors=True),
        searches.QUERIES_MAX,
        searches.HITS_MAX // (wanted.limit + wanted.offset),
    )
    for start in range(0, len(packed), step):
        request = searches.QueryBatchRequest(b"".join(packed[start : start + step]), **fields)
        path = f"{collection.path}/search/batch"
        answer = yield ask(path, request, searches.QueryBatchAnswer, lambda got: got)
        found += [searches.hits_from(item) for item in answer.answers]
        fields["as_of"] = answer.lsn
    return found


def search_groups(
    collection: Target,
    query: Any,
    by: str,
    *,
    group_size: int = 3,
    where: Mapping[str, Json] | None = None,
    as_of: AsOf | None = None,
    **options: Unpack[SearchOptions],
) -> Call[list[Group]]:
    """Return the `limit` groups whose best records are nearest, each with its nearest ones.

    by: the path of a metadata field; records that share a value of it are a group, and records
    without it are in none. group_size: how many hits a group has at most. Others as `search`;
    `offset` counts for nothing.
    """
    fields = _fields(where, as_of, Wanted(**options))
    request = searches.GroupsRequest(
        _packed(collection, query),
        _path(by),
        check_whole("group_size", group_size, 1, LIMIT_MAX),
        **fields,
    )
    path = f"{collection.path}/search/groups"
    return ask(path, request, searches.GroupsAnswer, searches.groups_from)


def facet(
    collection: Target,
    by: str,
    *,
    limit: int = 10,
    where: Mapping[str, Json] | None = None,
    as_of: AsOf | None = None,
) -> Call[list[FacetCount]]:
    """Return how many records have each value of the field `by`, the commonest first.

    by: the path of a metadata field; of lists every element counts, once a record.

    Raises:
        InvalidRequestError: `invalid-argument`, `invalid-filter`.
        DamagedDataError: `damaged-data`, names the ids that cannot be counted.
    """
    request = searches.FacetRequest(
        _path(by),
        check_whole("limit", limit, 1, LIMIT_MAX),
        arguments.where_map(where),
        arguments.state(as_of),
    )
    return ask(f"{collection.path}/facet", request, searches.FacetAnswer, searches.facet_from)


def wait_for_index(collection: Target, timeout_seconds: float = 600.0) -> Plan[IndexStats]:
    """Wait until the index covers what was written before this call, or none is due.

    Return its figures, also where the time was up before.
    """
    waited, seconds = 0.0, _POLL_SECONDS_FIRST
    while True:
        found: CollectionStats = yield stats(collection)
        if found.index.state != "building" or waited >= timeout_seconds:
            return found.index
        seconds = min(seconds, timeout_seconds - waited)
        yield Wait(seconds)
        waited += seconds
        seconds = min(2 * seconds, _POLL_SECONDS_MAX)


def _fields(where: Mapping[str, Json] | None, as_of: AsOf | None, wanted: Wanted) -> dict[str, Any]:
    """Return what a search asks for as fields of a request: plain numbers and truth values."""
    return {
        "where": arguments.where_map(where),
        "as_of": arguments.state(as_of),
        "limit": wanted.limit,
        "offset": wanted.offset,
        "threshold": None if wanted.threshold is None else float(wanted.threshold),
        "recall": None if wanted.recall is None else float(wanted.recall),
        "ef_search": wanted.ef_search,
        "with_metadata": bool(wanted.with_metadata),
        "with_vectors": bool(wanted.with_vectors),
        "on_damage": wanted.on_damage,
        "explain": bool(wanted.explain),
    }


def _packed(collection: Target, query: Any) -> bytes:
    return check_query(query, collection.schema.dimension).astype("<f4", copy=False).tobytes()


def _path(by: str) -> str:
    parse_path(by, "by")
    return by
