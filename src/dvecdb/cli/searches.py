"""`dvecdb search` and `facet`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dvecdb.cli.exit_codes import OK
from dvecdb.cli.output import compact_json, numbers_text, print_facts, print_json, print_table, say
from dvecdb.errors import Code, NotFoundError
from dvecdb.records import LIMIT_MAX, canonical_id
from dvecdb.wire.searches import HitBody, hit_bodies

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    import numpy as np
    import numpy.typing as npt

    import dvecdb
    from dvecdb.cli.target import Target
    from dvecdb.records import Json
    from dvecdb.results import Explained, Group, Hit, Hits, SearchOptions


@dataclass(frozen=True, slots=True)
class Sought:
    """What is searched for: the records nearest to `query`, or to the record `like`."""

    query: Any
    like: str | None
    where: dict[str, Json] | None
    as_of: int | datetime | None

    def near(self, collection: dvecdb.Collection) -> tuple[Any, str | None]:
        """Return the query, and the id of the record that it is the vector of.

        Raises:
            NotFoundError: `id-not-found`, of `like`.
        """
        if self.like is None:
            return self.query, None
        like = canonical_id(self.like)
        return _vector_of(collection, like, self.as_of), like


def search_records(
    target: Target, name: str, sought: Sought, options: SearchOptions, *, as_json: bool
) -> int:
    """Print the nearest records; return the exit code.

    Raises:
        NotFoundError: `id-not-found`, of `like`. Others as `Collection.search`.
    """
    offset, limit = options["offset"], options["limit"]
    with target.open() as database:
        collection = database.collection(name)
        query, like = sought.near(collection)
        if like is not None:  # it is the nearest to itself, and not what was asked for
            options = {**options, "offset": 0, "limit": min(offset + limit + 1, LIMIT_MAX)}
        found = collection.search(query, where=sought.where, as_of=sought.as_of, **options)
    hits: list[Hit] = found
    if like is not None:
        hits = [hit for hit in found if hit.id != like][offset : offset + limit]
    if as_json:
        parts: dict[str, Any] = {"hits": _plain(hits), "excluded": found.excluded}
        print_json(parts | ({"explain": found.explained} if found.explained else {}))
        return OK
    if hits:
        print_table(_headings(hits), [_row(hit) for hit in hits])
    else:
        say("nothing found")
    _say_rest(found)
    return OK


def search_groups(
    target: Target,
    name: str,
    sought: Sought,
    options: SearchOptions,
    *,
    by: str,
    group_size: int,
    as_json: bool,
) -> int:
    """Print the nearest groups of records; return the exit code. Raises as `search_records`."""
    limit = options["limit"]
    with target.open() as database:
        collection = database.collection(name)
        query, like = sought.near(collection)
        more = 0 if like is None else 1
        options["limit"] = min(limit + more, LIMIT_MAX)
        found = collection.search_groups(
            query,
            by,
            group_size=group_size + more,
            where=sought.where,
            as_of=sought.as_of,
            **options,
        )
    groups = [
        (group, [hit for hit in group.hits if hit.id != like][:group_size]) for group in found
    ]
    groups = [(group, hits) for group, hits in groups if hits][:limit]
    if as_json:
        print_json({"groups": [{"value": group.value, "hits": _plain(hits)}
                               for group, hits in groups]})  # fmt: skip
        return OK
    if not groups:
        say("nothing found")
        return OK
    print_table([by.upper(), *_headings(groups[0][1])], list(_group_rows(groups)))
    return OK


def _group_rows(groups: Iterable[tuple[Group, list[Hit]]]) -> Iterable[tuple[object, ...]]:
    for group, hits in groups:
        for index, hit in enumerate(hits):
            yield (_value_text(group.value) if index == 0 else "", *_row(hit))


def count_values(
    target: Target,
    name: str,
    by: str,
    *,
    limit: int,
    where: dict[str, Json] | None,
    as_of: int | datetime | None,
    as_json: bool,
) -> int:
    """Print how many records have each value of a field; return the exit code."""
    with target.open() as database:
        found = database.collection(name).facet(by, limit=limit, where=where, as_of=as_of)
    if as_json:
        print_json({"values": found})
    elif found:
        print_table(
            [by.upper(), "RECORDS>"], [(_value_text(item.value), item.count) for item in found]
        )
    else:
        say(f"no record has a value in {by}")
    return OK


def _vector_of(
    collection: dvecdb.Collection, like: str, as_of: int | datetime | None
) -> npt.NDArray[np.float32]:
    (record,) = collection.get([like], as_of=as_of)
    if record is None or record.vector is None:
        raise NotFoundError(Code.ID_NOT_FOUND, f"--like {like!r}: does not exist", id=like)
    return record.vector


# --- how it looks ---


def _plain(hits: Iterable[Hit]) -> list[HitBody]:
    return hit_bodies(hits, HitBody, is_binary=False)


def _headings(hits: Sequence[Hit]) -> list[str]:
    has_vectors = hits[0].vector is not None
    return ["ID", "DISTANCE>", "METADATA"] + ["VECTOR"] * has_vectors


def _row(hit: Hit) -> tuple[object, ...]:
    shown = () if hit.vector is None else (numbers_text(hit.vector),)
    return (hit.id, f"{hit.distance:.6g}", compact_json(hit.metadata), *shown)


def _value_text(value: Json) -> str:
    return value if isinstance(value, str) else compact_json(value)


def _say_rest(found: Hits) -> None:
    if found.excluded:
        say(f"left out, damaged: {', '.join(map(repr, found.excluded))}")
    if found.explained is not None:
        say("")
        print_facts(_plan(found.explained))


def _plan(explained: Explained) -> list[tuple[str, object]]:
    """Return the lines that say how a search was answered."""
    done = explained
    measured = f"{done.rows_measured} one by one"
    if done.lists:
        measured = (
            f"{done.rows_reranked} that the index chose, in {done.lists_probed} of {done.lists} "
            f"lists; {measured}"
        )
    facts: list[tuple[str, object]] = [
        ("plan", f"{done.plan}: {done.why}"),
        ("records", done.rows_live),
        ("matching", done.rows_matching),
        ("in the index", done.rows_indexed),
        ("measured", measured),
        ("recall expected", f"{done.recall_expected:.3g}"),
    ]
    facts += [
        (f"time: {stage}", f"{seconds * 1000:.3f} ms") for stage, seconds in done.seconds.items()
    ]
    return [*facts, ("time", f"{sum(done.seconds.values()) * 1000:.3f} ms")]
