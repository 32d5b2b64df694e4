"""`dvecdb backup`: making, listing, looking into, verifying and deleting backups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from dvecdb.cli.exit_codes import DAMAGE, NOT_FOUND, OK
from dvecdb.cli.output import (
    confirm,
    duration_text,
    finding_lines,
    print_facts,
    print_json,
    print_table,
    say,
    size_text,
    time_text,
    working,
)
from dvecdb.cli.trash import look_inside, print_records
from dvecdb.clock import NANOSECONDS_PER_SECOND, SystemClock, from_datetime
from dvecdb.errors import Code, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import dvecdb
    from dvecdb.cli.target import Target
    from dvecdb.records import Backup


def create_backup(
    target: Target,
    name: str,
    *,
    independent: bool,
    actor: str | None,
    reason: str | None,
    as_json: bool,
) -> int:
    """Make a backup; return the exit code. Raises `DvecdbError`."""
    with (
        target.open(write=True) as database,
        working(f"copying {name}" if independent else f"linking {name}", quiet=as_json),
    ):
        made = database.collection(name).backup(reason, independent=independent, actor=actor)
    if as_json:
        print_json(made)
        return OK
    say(
        f"backed up {name} at LSN {made.lsn} as {made.name}: {made.rows} records, "
        f"{size_text(made.size_bytes)}, {_sharing(made)}"
    )
    return OK


def _sharing(backup: Backup) -> str:
    if backup.independent:
        return "a complete copy"
    return f"{size_text(backup.own_bytes)} of it not shared with the collection"


def list_backups(target: Target, collection: str | None, *, as_json: bool) -> int:
    """Print the backups; return the exit code. Raises `DvecdbError`."""
    with target.open() as database:
        found = database.backups(collection)
    damaged = any(item.ok is False for item in found)
    if as_json:
        print_json({"backups": found})
        return DAMAGE if damaged else OK
    if not found:
        say("no backups" if collection is None else f"no backups of {collection}")
        return OK
    print_table(
        ["NAME", "MADE", "LSN>", "ROWS>", "SIZE>", "OWN>", "KIND", "VERIFIED", "BY", "REASON"],
        [
            (item.name, f"{_since(item.created)} ago", item.lsn, item.rows,
             size_text(item.size_bytes), size_text(item.own_bytes), _kind(item),
             _verified(item), item.actor or "-", item.reason or "-")
            for item in found
        ],
    )  # fmt: skip
    return DAMAGE if damaged else OK


def _since(moment: datetime) -> str:
    passed_ns = SystemClock().wall_ns() - from_datetime(moment)
    return duration_text(passed_ns / NANOSECONDS_PER_SECOND)


def _kind(backup: Backup) -> str:
    kind = "automatic" if backup.automatic else "asked for"
    return f"{kind}, a copy" if backup.independent else kind


def _verified(backup: Backup) -> str:
    if backup.verified is None:
        return "never"
    return f"{'ok' if backup.ok else 'DAMAGED'}, {_since(backup.verified)} ago"


def show_backup(
    target: Target, name: str, ids: Sequence[str], records: int, *, as_json: bool
) -> int:
    """Print a backup and records in it; return the exit code: 3 if one does not exist.

    Raises:
        NotFoundError: `backup-not-found`. Others as `Database.preview`.
    """
    with target.open() as database:
        backup = _find(database, name)
        count, shown, missing = look_inside(database, backup.path, ids, records)
    if as_json:
        print_json({**msgspec.to_builtins(backup), "count": count, "records": shown})
        return NOT_FOUND if missing else OK
    print_facts([
        ("name", backup.name),
        ("collection", backup.collection),
        ("uuid", backup.uuid),
        ("LSN", backup.lsn),
        ("records", count),
        ("size", size_text(backup.size_bytes)),
        ("of its own", size_text(backup.own_bytes)),
        ("made", f"{time_text(backup.created)}, {_since(backup.created)} ago"),
        ("kind", _kind(backup)),
        ("verified", _verified(backup)),
        ("by", backup.actor or "-"),
        ("reason", backup.reason or "-"),
        ("path", backup.path),
    ])  # fmt: skip
    print_records(shown, missing)
    return NOT_FOUND if missing else OK


def _find(database: dvecdb.Database, name: str) -> Backup:
    for item in database.backups():
        if item.name == name:
            return item
    raise NotFoundError(Code.BACKUP_NOT_FOUND, f"there is no backup {name!r}", name=name)


def verify_backup(target: Target, name: str, *, as_json: bool) -> int:
    """Read a backup whole; return the exit code. Raises `DvecdbError`."""
    with (
        target.open(write=True) as database,
        working(f"reading every byte of {name}", quiet=as_json),
    ):
        report = database.verify_backup(name)
    if as_json:
        print_json(report)
        return OK if report.ok else DAMAGE
    state = "ok" if report.ok else f"DAMAGED, {len(report.findings)} findings"
    say(f"{name}: {state}, {report.blocks} blocks, {size_text(report.size_bytes)}")
    for finding in report.findings:
        say("\n".join("  " + line for line in finding_lines(finding)))
    if not report.ok:
        say(f"what is whole of it comes back with: dvecdb restore {name} --allow-damage")
    return OK if report.ok else DAMAGE


def remove_backup(target: Target, name: str, *, yes: bool, as_json: bool) -> int:
    """Delete a backup for good; return the exit code. Raises `DvecdbError`."""
    with target.open(write=True) as database:
        backup = _find(database, name)
        confirm(
            f"Delete the backup {name} for good? It has {backup.rows} records of "
            f"{backup.collection} at LSN {backup.lsn}, {_since(backup.created)} old.",
            yes=yes,
        )
        database.delete_backup(name)
    if as_json:
        print_json({"deleted": name, "freed_bytes": backup.own_bytes})
    else:
        say(f"deleted the backup {name}, {size_text(backup.own_bytes)} freed")
    return OK
