"""`dvecdb rescue scan` and `dvecdb upgrade`."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dvecdb.cli.app import UsageError
from dvecdb.cli.exit_codes import DAMAGE, NOT_FOUND, OK
from dvecdb.cli.output import print_json, print_table, progress_bar, say, size_text, visible
from dvecdb.cli.rescue_report import report_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dvecdb.reports import ScanEntry, UpgradedItem, UpgradeReport

_PERCENT_DECIMALS: Final = 2
_LOST_SHOWN_MAX: Final = 5


def scan_path(path: Path, *, as_json: bool) -> int:
    """Print what can be rescued; return the exit code: 3 if there is nothing.

    Raises:
        NotFoundError: `source-not-found`.
    """
    from dvecdb.rescue.finding import scan  # noqa: PLC0415  # lazy

    with progress_bar(quiet=as_json) as progress:
        entries = scan(str(path), progress)
    code = OK if any(entry.kind != "damaged" for entry in entries) else NOT_FOUND
    if as_json:
        print_json({"path": str(path), "entries": entries})
        return code
    if not entries:
        say(f"nothing of d-vecDB or dvecdb at {visible(str(path))}")
        return code
    print_table(
        ["PATH", "KIND", "GENERATION", "NAME", "DIMENSION>", "ROWS>", "RECORDS>", "USED>",
         "GOOD>", "LOST>"],
        [scan_row(entry, str(path)) for entry in entries],
    )  # fmt: skip
    _say_notes(entries, str(path))
    return code


def scan_row(entry: ScanEntry, above: str) -> tuple[object, ...]:
    """Return the cells of the table of `rescue scan` for one entry."""
    return (
        _below(entry.path, above),
        entry.kind,
        entry.generation or "-",
        "-" if entry.name is None else entry.name or '""',
        entry.dimension or "-",
        f"{entry.rows:,}",
        f"{entry.records:,}",
        size_text(entry.bytes_used),
        percent_text(entry.good),
        entry.lost_ranges,
    )


def percent_text(share: float) -> str:
    """Return a share in percent, rounded down: 100 % is all."""
    scale = 10**_PERCENT_DECIMALS
    return f"{int(share * 100 * scale + 1e-9) / scale:.{_PERCENT_DECIMALS}f} %"


def _below(path: str, above: str) -> str:
    """Return a path as it is from `above` on."""
    whole = os.path.abspath(above)  # noqa: PTH100  # without resolving links
    if path == whole:
        return "."
    return path.removeprefix(whole.rstrip("/") + "/")


def _say_notes(entries: Sequence[ScanEntry], above: str) -> None:
    for entry in entries:
        for note in entry.notes:
            say(visible(f"{_below(entry.path, above)}: {note}"))
    able = [entry for entry in entries if entry.import_as]
    if able:
        first = next((entry for entry in able if entry.kind == "collection"), able[0])
        say(f"bring one back: dvecdb import {visible(shlex.join(first.import_as))} --data-dir DIR")


def upgrade_directory(
    old: Path,
    new: Path | None,
    *,
    dry_run: bool,
    timezone: str | None,
    report: Path | None,
    as_json: bool,
) -> int:
    """Bring a legacy data directory into a new one; return the exit code.

    1: something was not brought over although it should have been.

    Raises:
        UsageError: no new directory is named.
        DvecdbError: as `rescue.upgrade.upgrade`.
    """
    from dvecdb.rescue.upgrade import upgrade  # noqa: PLC0415  # lazy

    named = os.environ.get("DVECDB_DATA_DIR")
    if new is None and named:
        new = Path(named)
    if new is None:
        raise UsageError("name the new data directory: --data-dir or DVECDB_DATA_DIR")
    with report_file(report) as keep, progress_bar(quiet=as_json) as progress:
        done = upgrade(str(old), str(new), dry_run=dry_run, timezone=timezone, progress=progress)
        keep(done)
    if as_json:
        print_json(done)
    else:
        _say_upgrade(done)
    failed = done.count("failed") + done.count("conflict")
    return DAMAGE if failed or done.unreadable else OK


def _say_upgrade(report: UpgradeReport) -> None:
    print_table(
        ["PATH", "KIND", "OUTCOME", "NAME", "ROWS>", "EXACT>", "DOUBTFUL>", "LOST>"],
        [_upgrade_row(item, report) for item in report.items],
    )
    for item in report.items:
        path = visible(_below(item.path, report.source))
        if item.renamed:
            say(f"{path}: {visible(repr(item.was))} cannot be a name here; it is {item.name}")
        if item.why is not None and item.outcome != "present":
            say(f"{path}: {visible(item.why)}")
        if item.import_as:
            say(f"{path}: dvecdb import {visible(shlex.join(item.import_as))} --data-dir DIR")
        for note in _notes(item):
            say(f"{path}: {visible(note)}")
    for place in report.unreadable:
        say(visible(f"{place.file}: {place.why}"))
    for note in report.notes:
        say(visible(note))
    counts = Counter(item.outcome for item in report.items)
    text = ", ".join(f"{number} {outcome}" for outcome, number in counts.items())
    if report.dry_run:
        say(f"nothing was written; it would be: {text}")
    else:
        say(f"{text} in {report.seconds:.1f} s; {visible(report.source)} is as it was")


def _notes(item: UpgradedItem) -> list[str]:
    if item.report is None:
        return []
    notes = list(item.report.notes)
    if item.report.dropped_by_log and item.outcome in {"imported", "present"}:
        notes.append("the log deletes this collection, but its directory is there: it came over")
    notes += [
        f"lost: {lost.file} bytes {lost.start:,} .. {lost.end:,}: {lost.why}"
        for lost in item.report.lost[:_LOST_SHOWN_MAX]
    ]
    more = len(item.report.lost) - _LOST_SHOWN_MAX
    return [*notes, f"{more} more ranges are lost; --report has them all"] if more > 0 else notes


def _upgrade_row(item: UpgradedItem, report: UpgradeReport) -> tuple[object, ...]:
    found = item.report
    outcome = item.outcome
    numbers: tuple[object, ...] = ("-",) * 4
    if found is not None:
        rows = sum(doubt.rows for doubt in found.doubtful)
        numbers = (f"{found.imported:,}", f"{found.exact:,}", f"{rows:,}", len(found.lost))
    return (_below(item.path, report.source), item.kind, outcome, item.name or "-", *numbers)
