"""`dvecdb get`, `count` and `delete-vectors`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dvecdb.cli.exit_codes import NOT_FOUND, OK
from dvecdb.cli.output import compact_json, confirm, numbers_text, print_json, print_table, say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from dvecdb.cli.target import Target
    from dvecdb.records import Json


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
                row.append(numbers_text(record.vector))
        print_table(headings, rows)
    for text in missing:
        say(f"{text!r} does not exist")
    return NOT_FOUND if missing else OK


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
