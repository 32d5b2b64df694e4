"""`dvecdb trash`: what was deleted, how long it stays, what is in it; deleting it for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from dvecdb.cli.app import UsageError
from dvecdb.cli.exit_codes import NOT_FOUND, OK
from dvecdb.cli.output import (
    compact_json,
    confirm,
    duration_text,
    print_facts,
    print_json,
    print_table,
    say,
    size_text,
    time_text,
)
from dvecdb.errors import Code, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dvecdb
    from dvecdb.cli.target import Target
    from dvecdb.records import Record, TrashEntry

_HOUR_SECONDS: Final = 3_600
_NAMES_SHOWN: Final = 5


def list_trash(target: Target, *, as_json: bool) -> int:
    """Print what is in the trash; return the exit code. Raises `DvecdbError`."""
    with target.open() as database:
        entries = database.trash()
    if as_json:
        print_json({"entries": entries})
        return OK
    if not entries:
        say("the trash is empty")
        return OK
    print_table(
        ["NAME", "ROWS>", "SIZE>", "DELETED", "EXPIRES", "BY", "REASON"],
        [
            (item.name, _known(item.rows), _size(item.size_bytes), f"{age_text(item)} ago",
             expiry_text(item), item.actor or "-", item.reason or "-")
            for item in entries
        ],
    )  # fmt: skip
    return OK


def age_text(entry: TrashEntry) -> str:
    """Return how long ago it was deleted."""
    return duration_text(entry.age_hours * _HOUR_SECONDS)


def expiry_text(entry: TrashEntry) -> str:
    """Return when it goes: `in 23 h` or `now`."""
    kept = (entry.expires - entry.deleted).total_seconds()
    left = kept - entry.age_hours * _HOUR_SECONDS
    return f"in {duration_text(left)}" if left > 0 else "now"


def _known(value: object) -> object:
    return "?" if value is None else value


def _size(size_bytes: int | None) -> str:
    return "?" if size_bytes is None else size_text(size_bytes)


def show_entry(
    target: Target, name: str, ids: Sequence[str], records: int, *, as_json: bool
) -> int:
    """Print a trash entry and records in it; return the exit code: 3 if one does not exist.

    Raises:
        NotFoundError: `trash-entry-not-found`. Others as `Database.preview`.
    """
    with target.open() as database:
        found = [item for item in database.trash() if item.name == name]
        if not found:
            raise NotFoundError(
                Code.TRASH_ENTRY_NOT_FOUND, f"there is no {name!r} in the trash", name=name
            )
        count, shown, missing = look_inside(database, found[0].path, ids, records)
    entry = found[0]
    if as_json:
        print_json({**msgspec.to_builtins(entry), "count": count, "records": shown})
        return NOT_FOUND if missing else OK
    print_facts([
        ("name", entry.name),
        ("collection", entry.collection),
        ("uuid", _known(entry.uuid)),
        ("records", count),
        ("size", _size(entry.size_bytes)),
        ("deleted", f"{time_text(entry.deleted)}, {age_text(entry)} ago"),
        ("expires", expiry_text(entry)),
        ("by", entry.actor or "-"),
        ("reason", entry.reason or "-"),
        ("path", entry.path),
    ])  # fmt: skip
    print_records(shown, missing)
    return NOT_FOUND if missing else OK


def look_inside(
    database: dvecdb.Database, path: str, ids: Sequence[str], records: int
) -> tuple[int, list[Record], list[str]]:
    """Return the number of records in an entry, those asked for, and ids that do not exist.

    ids: these; else the first `records`.
    """
    with database.preview(path) as preview:
        count = preview.count()
        if ids:
            got = preview.get(ids, with_vectors=False)
            missing = [text for text, record in zip(ids, got, strict=True) if record is None]
            return count, [record for record in got if record is not None], missing
        shown = preview.scroll(limit=records).records if records else []
    return count, shown, []


def print_records(shown: Sequence[Record], missing: Sequence[str]) -> None:
    """Print records of an entry."""
    if shown:
        say("")
        rows = [(record.id, record.lsn, compact_json(record.metadata)) for record in shown]
        print_table(["ID", "LSN>", "METADATA"], rows)
    for text in missing:
        say(f"{text!r} does not exist in it")


def purge_entries(
    target: Target,
    names: Sequence[str] | None,
    older_than: float,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Delete trash entries for good; return the exit code. Raises `DvecdbError`."""
    wanted: dict[str, Any] = {"names": list(names) if names else None}
    with target.open(write=True) as database:
        found = database.purge(older_than, dry_run=True, **wanted)
        if found and not dry_run:
            confirm(f"Delete {_listed(found)} for good?", yes=yes)
            found = database.purge(older_than, names=found)
    if as_json:
        print_json({"purged": found, "dry_run": dry_run})
        return OK
    for name in found:
        say(f"would purge {name}" if dry_run else f"purged {name}")
    if not found:
        say(f"nothing in the trash is older than {older_than:g} h" if older_than
            else "the trash is empty")  # fmt: skip
    return OK


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def trust_clock(target: Target, *, as_json: bool) -> int:
    """Let a server take the clock for right; return the exit code.

    Raises:
        UsageError: of a directory nothing expires while no program has it open.
        DvecdbError: as calling a server does.
    """
    if target.url is None:
        raise UsageError(
            "a clock is trusted by a running server: --url. In a directory without one, 'trash "
            "purge' deletes what is named, or all with --older-than 0, whatever the clock says"
        )
    with target.open(write=True) as database:
        database.trust_clock()
    if as_json:
        print_json({"trusted": True})
    else:
        say("the clock is taken for right; what has expired goes again")
    return OK
