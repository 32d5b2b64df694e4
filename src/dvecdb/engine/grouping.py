"""Records by the values of a metadata field: the nearest groups of a search, and facets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dvecdb.engine.row_columns import columns_of
from dvecdb.engine.rows import damaged_rows, live_mask
from dvecdb.engine.searching import name_rows
from dvecdb.engine.segment import Segment
from dvecdb.records import LIMIT_MAX
from dvecdb.results import FacetCount, Group
from dvecdb.search.columns import NESTED
from dvecdb.search.conditions import AnyOf, Filter, Tree, json_key, values_at

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    import numpy.typing as npt

    from dvecdb.engine.matching import Matching
    from dvecdb.engine.memtable import Chunk
    from dvecdb.engine.searching import Searching
    from dvecdb.records import Json
    from dvecdb.results import Hit
    from dvecdb.search.columns import Column
    from dvecdb.search.conditions import Path
    from dvecdb.search.wanted import Wanted

    Match = Callable[[Filter | None], Matching | None]

_STEP: Final = 4  # times as many hits are looked at where they make too few groups


def nearest_groups(
    searching: Searching,
    query: Any,
    wanted: Wanted,
    by: Path,
    group_size: int,
    where: Filter | None,
    match: Match,
) -> list[Group]:
    """Return `wanted.limit` groups, those whose first records are nearest, in that order.

    They are looked for among the 10,000 nearest records. match: makes a filter usable.
    """
    ask = replace(wanted, with_metadata=True, offset=0, explain=False)
    count = min(LIMIT_MAX, 2 * wanted.limit * group_size)
    while True:
        hits = searching.one(query, replace(ask, limit=count), match(where))
        groups = _grouped(hits, by)
        exhausted = len(hits) + len(hits.excluded) < count  # those might have been among them
        if len(groups) >= wanted.limit or exhausted or count == LIMIT_MAX:
            break
        count = min(LIMIT_MAX, _STEP * count)
    found: list[Group] = []
    for key, (value, own) in list(groups.items())[: wanted.limit]:
        if len(own) < group_size and not exhausted:
            inside = Filter(_with_value(where, by, value, key))
            own = list(searching.one(query, replace(ask, limit=group_size), match(inside)))
        kept = own[:group_size]
        if not wanted.with_metadata:
            kept = [replace(hit, metadata=None) for hit in kept]
        found.append(Group(value, kept))
    return found


def _grouped(hits: list[Hit], by: Path) -> dict[Hashable, tuple[Json, list[Hit]]]:
    """Return the hits by the scalars they have in the field, groups and hits in order."""
    groups: dict[Hashable, tuple[Json, list[Hit]]] = {}
    for hit in hits:
        values = values_at(hit.metadata or {}, by)
        scalars = {json_key(one): one for one in values if one is not None and not _is_nested(one)}
        for key, value in scalars.items():
            groups.setdefault(key, (value, []))[1].append(hit)
    return groups


def _is_nested(value: Json) -> bool:
    return isinstance(value, (list, dict))


def _with_value(where: Filter | None, by: Path, value: Json, key: Hashable) -> Tree:
    own = AnyOf(by, (value,), frozenset({key}))
    return Tree(must=(own,) if where is None else (where.tree, own))


def count_values(
    searching: Searching, by: Path, limit: int, matching: Matching | None
) -> list[FacetCount]:
    """Return how many live records that match have each scalar of a field, commonest first.

    Raises:
        DamagedDataError: `damaged-data`, names records that cannot be counted.
    """
    counts: dict[Hashable, tuple[Json, int]] = {}
    untold: list[int] = []
    for source, count in searching.view.sources(searching.row_limit):
        live = live_mask(source.ends[:count], searching.lsn)
        if matching is not None:
            live &= matching.mask(source, count)
        kept = columns_of(source, count)
        for start, column in kept.columns.values_of(by):
            stop = min(start + column.rows, count)
            if stop > start:
                _add(counts, column, live[start:stop])
        untold += _lost(searching, source, kept.lost, live)
    if matching is not None:
        untold += matching.damaged
    if untold:
        named = name_rows(searching.view, sorted(set(untold)))
        raise damaged_rows(named, "stored metadata is damaged, so these cannot be counted")
    ordered = sorted(counts.values(), key=lambda item: (-item[1], str(type(item[0])), item[0]))
    return [FacetCount(value, count) for value, count in ordered[:limit]]


def _lost(
    searching: Searching,
    source: Segment | Chunk,
    lost: npt.NDArray[np.int64],
    live: npt.NDArray[np.bool_],
) -> list[int]:
    """Return the live rows of a source whose metadata cannot be read."""
    if not isinstance(source, Segment):
        rows = [row for memtable in searching.view.memtables for row in memtable.lost_metadata]
        lost = np.array(rows, dtype=np.int64) - source.first_row
    lost = lost[(lost >= 0) & (lost < len(live))]
    return [int(row) for row in source.rows_at(lost[live[lost]])]


def _add(
    counts: dict[Hashable, tuple[Json, int]], column: Column, live: npt.NDArray[np.bool_]
) -> None:
    """Count the values of the live rows of a column; a row counts once for each."""
    codes, owners, kinds = column.codes, column.owners, len(column.distinct)
    if not kinds:
        return
    if owners is None:
        codes = codes[: len(live)][live]
    else:
        inside = owners < len(live)
        codes, owners = codes[inside], owners[inside]
        codes, owners = codes[live[owners]], owners[live[owners]]
        pairs = np.unique(owners * kinds + codes)
        codes = (pairs % kinds).astype(np.int32)
    found = np.bincount(codes[codes >= 0], minlength=kinds)
    for code in np.flatnonzero(found).tolist():
        value = column.distinct[code]
        if value is None or value is NESTED:
            continue
        key = json_key(value)
        counts[key] = (value, counts.get(key, (value, 0))[1] + int(found[code]))
