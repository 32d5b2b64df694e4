"""`dvecdb get`, `search`, `count` and `delete-vectors`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dvecdb.cli.exit_codes import NOT_FOUND, OK
from dvecdb.cli.output import compact_json, confirm, print_json, print_table, say
from dvecdb.errors import Code, NotFoundError
from dvecdb.records import LIMIT_MAX, canonical_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from typing import Literal

    import numpy as np
    import numpy.typing as npt

    import dvecdb
    from dvecdb.cli.target import Target
    from dvecdb.records import Json
    from dvecdb.results import Hits

_SHOWN_NUMBERS = 6


def get_records(
    target: Target,
    name: str,
    ids: Sequence[str],
    *,
    as_of: int | datetime | None,
    with_vectors: bool,
    as_json: bool,
) -> int:
    """Print records by id; return the exit code: 3 if any does not exist. Raises `DvecdbError`."""
    with target.open() as database:
        records = database.collection(name).get(ids, as_of=as_of, with_vectors=with_vectors)
    missing = [text for text, record in zip(ids, records, strict=True) if record is None]
    if as_json:
        print_json({"records": records})
        return NOT_FOUND if missing else OK
    found = [record for record in records if record is not None]
    if found:
        headings = ["ID", "LSN>", "METADATA"] + ["VECTOR"] * with_vectors
        rows: list[list[object]] = [
            [record.id, record.lsn, compact_json(record.metadata)] for record in found
        ]
        if with_vectors:
            for row, record in zip(rows, found, strict=True):
                row.append(_numbers(record.vector))
        print_table(headings, rows)
    for text in missing:
        say(f"{text!r} does not exist")
    return NOT_FOUND if missing else OK


def _numbers(vector: npt.NDArray[np.float32] | None) -> str:
    """Return the first numbers of a vector as text."""
    assert vector is not None
    shown = ", ".join(f"{value:.6g}" for value in vector[:_SHOWN_NUMBERS].tolist())
    more = len(vector) - _SHOWN_NUMBERS
    return f"[{shown}, {more} more]" if more > 0 else f"[{shown}]"


def search_records(
    target: Target,
    name: str,
    query: Any,
    *,
    like: str | None,
    limit: int,
    where: dict[str, Json] | None,
    as_of: int | datetime | None,
    on_damage: Literal["fail", "exclude"],
    as_json: bool,
) -> int:
    """Print the records nearest to `query`, or to the record `like`; return the exit code.

    Raises:
        NotFoundError: `id-not-found`, of `like`. Others as `Collection.search`.
    """
    with target.open() as database:
        collection = database.collection(name)
        if like is not None:
            like = canonical_id(like)
            query = _vector_of(collection, like, as_of)
        found: Hits = collection.search(
            query,
            limit=min(limit + (like is not None), LIMIT_MAX),
            where=where,
            as_of=as_of,
            on_damage=on_damage,
        )
    hits = [hit for hit in found if hit.id != like][:limit]
    if as_json:
        print_json({"hits": hits, "excluded": found.excluded})
        return OK
    if hits:
        print_table(
            ["ID", "DISTANCE>", "METADATA"],
            [(hit.id, f"{hit.distance:.6g}", compact_json(hit.metadata)) for hit in hits],
        )
    else:
        say("nothing found")
    if found.excluded:
        say(f"left out, damaged: {', '.join(map(repr, found.excluded))}")
    return OK


def _vector_of(
    collection: dvecdb.Collection, like: str, as_of: int | datetime | None
) -> npt.NDArray[np.float32]:
    (record,) = collection.get([like], as_of=as_of)
    if record is None or record.vector is None:
        raise NotFoundError(Code.ID_NOT_FOUND, f"--like {like!r}: does not exist", id=like)
    return record.vector


def count_records(
    target: Target,
    name: str,
    *,
    where: dict[str, Json] | None,
    as_of: int | datetime | None,
    as_json: bool,
) -> int:
    """Print the number of records; return the exit code. Raises `DvecdbError`."""
    with target.open() as database:
        count = database.collection(name).count(where=where, as_of=as_of)
    if as_json:
        print_json({"count": count})
    else:
        say(str(count))
    return OK


def delete_records(
    target: Target,
    name: str,
    ids: Sequence[str] | None,
    where: dict[str, Json] | None,
    *,
    confirmed: bool,
    yes: bool,
    actor: str | None,
    reason: str | None,
    as_json: bool,
) -> int:
    """Delete records of `ids`, or that match `where`, in one batch; return the exit code.

    Raises:
        ConflictError: `confirmation-needed`. Others as `Collection.delete`.
    """
    with target.open(write=True) as database:
        collection = database.collection(name)
        if ids is None:
            asked = collection.count(where=where)
            shown = compact_json(where)
        else:
            asked = len(ids)
            shown = ", ".join(map(repr, ids[:3])) + (", ..." if len(ids) > 3 else "")
        confirm(f"Delete {asked} records of {name} ({shown})?", yes=yes)
        commit = collection.delete(ids, where=where, confirm=confirmed, actor=actor, reason=reason)
    if as_json:
        print_json({"deleted": commit.count, "asked": asked, "lsn": commit.lsn})
        return OK
    say(f"deleted {commit.count} of {asked} records at LSN {commit.lsn}")
    return OK
