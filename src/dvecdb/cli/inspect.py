"""`dvecdb verify` and `findings`: what is damaged or doubtful."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dvecdb.cli.exit_codes import DAMAGE, OK
from dvecdb.cli.output import finding_lines, print_json, say, size_text
from dvecdb.cli.show import set_aside

if TYPE_CHECKING:
    from dvecdb.cli.target import Target


def verify_collections(target: Target, collection: str | None, *, as_json: bool) -> int:
    """Verify one or all collections; return the exit code. Raises `DvecdbError`."""
    with target.open() as database:
        names = database.collections() if collection is None else [collection]
        reports = [database.collection(name).verify() for name in names]
        aside = set_aside(database) if collection is None else []
    sound = not aside and all(report.ok for report in reports)
    if as_json:
        print_json({"ok": sound, "collections": reports, "set_aside": aside})
        return OK if sound else DAMAGE
    for report in reports:
        state = "ok" if report.ok else f"{len(report.findings)} findings"
        say(f"{report.collection}: {state}, {report.blocks} blocks, {size_text(report.size_bytes)}")
        for finding in report.findings:
            say("\n".join("  " + line for line in finding_lines(finding)))
    for finding in aside:
        say("\n".join(finding_lines(finding)))
    say("sound" if sound else "not sound: see the findings above")
    return OK if sound else DAMAGE


def list_findings(target: Target, *, as_json: bool) -> int:
    """Print all findings; return the exit code. Raises `DvecdbError`."""
    with target.open() as database:
        found = database.findings()
    if as_json:
        print_json({"findings": found})
    else:
        for finding in found:
            say("\n".join(finding_lines(finding)))
        if not found:
            say("no findings")
    return DAMAGE if found else OK
