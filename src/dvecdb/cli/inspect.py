"""`dvecdb verify`, `findings` and `collections`: looking at a data directory, read-only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

import dvecdb
from dvecdb.cli.exit_codes import DAMAGE, OK
from dvecdb.cli.output import finding_lines, print_json, say, size_text

if TYPE_CHECKING:
    from pathlib import Path


def verify_directory(data_dir: Path, collection: str | None, *, as_json: bool) -> int:
    """Verify one or all collections; return the exit code. Raises `DvecdbError`."""
    with dvecdb.open(data_dir, read_only=True) as database:
        names = database.collections() if collection is None else [collection]
        reports = [database.collection(name).verify() for name in names]
        opened = set(database.collections())
        set_aside = [
            finding
            for finding in database.findings()
            if collection is None and finding.collection not in opened
        ]
    sound = not set_aside and all(report.ok for report in reports)
    if as_json:
        print_json({"ok": sound, "collections": reports, "set_aside": set_aside})
        return OK if sound else DAMAGE
    for report in reports:
        state = "ok" if report.ok else f"{len(report.findings)} findings"
        say(f"{report.collection}: {state}, {report.blocks} blocks, {size_text(report.size_bytes)}")
        for finding in report.findings:
            say("\n".join("  " + line for line in finding_lines(finding)))
    for finding in set_aside:
        say("\n".join(finding_lines(finding)))
    say("sound" if sound else "not sound: see the findings above")
    return OK if sound else DAMAGE


def list_findings(data_dir: Path, *, as_json: bool) -> int:
    """Print the findings of a data directory; return the exit code. Raises `DvecdbError`."""
    with dvecdb.open(data_dir, read_only=True) as database:
        found = database.findings()
    if as_json:
        print_json({"findings": found})
    else:
        for finding in found:
            say("\n".join(finding_lines(finding)))
        if not found:
            say("no findings")
    return DAMAGE if found else OK


def list_collections(data_dir: Path, *, as_json: bool) -> int:
    """Print the collections of a data directory; return the exit code. Raises `DvecdbError`."""
    with dvecdb.open(data_dir, read_only=True) as database:
        stats = [database.collection(name).stats() for name in database.collections()]
        opened = set(database.collections())
        set_aside = [item for item in database.findings() if item.collection not in opened]
    if as_json:
        found: dict[str, Any] = {"collections": msgspec.to_builtins(stats), "set_aside": set_aside}
        print_json(found)
        return DAMAGE if set_aside else OK
    for item in stats:
        schema = item.schema
        say(
            f"{item.name}: {item.count} records, {schema.dimension} x {schema.vector_type}, "
            f"{schema.metric}, last LSN {item.last_lsn}, {item.segments} segments, "
            f"{size_text(item.segment_bytes)}, {item.findings} findings"
        )
    for finding in set_aside:
        say("\n".join(finding_lines(finding)))
    if not stats and not set_aside:
        say("no collections")
    return DAMAGE if set_aside else OK
