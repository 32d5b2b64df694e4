"""Say what a directory tree holds that can be rescued, and how much of it is good. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from dvecdb.errors import Code, DvecdbError
from dvecdb.reports import ImportReport, ScanEntry
from dvecdb.rescue.database import examine
from dvecdb.rescue.jobs import jobs_of
from dvecdb.rescue.walk import ENTRIES_MAX, find, printable

if TYPE_CHECKING:
    from dvecdb.media.files import Files
    from dvecdb.rescue.jobs import Job
    from dvecdb.rescue.salvage import Progress
    from dvecdb.rescue.walk import Findings

_NOTES_MAX: Final = 20


def scan(
    path: str, progress: Progress | None = None, *, files: Files | None = None
) -> list[ScanEntry]:
    """Return everything that can be rescued at `path` and below it, in the order of its paths.

    progress: called with bytes done and in all. What cannot be looked into is an entry too, of kind
    `damaged`. Nothing is written.

    Raises:
        NotFoundError: `source-not-found`, there is nothing at `path`.
    """
    findings = find(path, files=files)
    jobs = jobs_of(findings)
    total, done = sum(job.size_bytes for job in jobs), 0
    entries: list[ScanEntry] = []
    for job in jobs:
        entries.append(_examined(job, part_of(progress, done, job.size_bytes, total)))
        done += job.size_bytes
        if progress is not None:
            progress(done, total)
    return entries + _unseen(findings)


def part_of(progress: Progress | None, before: int, share: int, total: int) -> Progress | None:
    """Return what reports the progress of one job as that of all.

    before: bytes done by earlier ones; share: bytes of this one; total: of all.
    """
    if progress is None:
        return None

    def report(done: int, whole: int) -> None:
        progress(before + (share * min(done, whole) // whole if whole else 0), total)

    return report


def _examined(job: Job, progress: Progress | None) -> ScanEntry:
    try:
        return _entry(job, examine(job.source, job.choice, progress), None)
    except DvecdbError as error:
        return _entry(job, report_in(error), error)


def report_in(error: DvecdbError) -> ImportReport | None:
    """Return the report that an error of `read_source` carries in its details, or None."""
    found: Any = error.details.get("report")
    if found is None or isinstance(found, ImportReport):
        return found
    try:
        return msgspec.convert(found, ImportReport)
    except msgspec.ValidationError:
        return None


def _entry(job: Job, report: ImportReport | None, error: DvecdbError | None) -> ScanEntry:
    notes = [] if job.note is None else [job.note]
    if job.stray:
        notes.append("a copy that lies beside")
    if error is not None and error.code is not Code.NOTHING_RECOVERABLE:
        notes.append(str(error))
    if report is None:
        return ScanEntry(
            path=printable(job.path),
            kind="damaged",
            name=_name(job.name),
            notes=notes or ["nothing of it can be read"],
        )
    notes += [f"{item.file}: {item.why}" for item in report.unreadable]
    notes += report.notes
    is_empty = not report.records_found and not report.lost and not report.unreadable
    if is_empty:
        notes.append("no records")
    return ScanEntry(
        path=printable(job.path),
        kind=job.kind if report.records_found or is_empty else "damaged",
        generation=report.generation,
        name=_name(job.name if report.name is None else report.name),
        dimension=report.dimension,
        metric=report.metric,
        records=report.records_found,
        rows=report.imported,
        bytes_used=report.bytes_used,
        good=share_good(report),
        lost_ranges=len(report.lost),
        notes=notes[:_NOTES_MAX],
        import_as=job.arguments(report.name) if report.imported else [],
    )


def _name(name: str | None) -> str | None:
    return None if name is None else printable(name)


def share_good(report: ImportReport) -> float:
    """Return the share of the used bytes that are whole records; 1 of nothing."""
    if not report.bytes_used:
        return 0.0 if report.lost and not report.records_found else 1.0
    return min(1.0, report.bytes_good / report.bytes_used)


def _unseen(findings: Findings) -> list[ScanEntry]:
    """Return an entry for each place that could not be looked into."""
    entries = [
        ScanEntry(path=item.file, kind="damaged", notes=[item.why]) for item in findings.unreadable
    ]
    if findings.unreadable_more:
        text = f"{findings.unreadable_more} more places cannot be looked into"
        entries.append(ScanEntry(path="...", kind="damaged", notes=[text]))
    if findings.is_cut:
        text = f"more than {ENTRIES_MAX:,} names or too deep: the rest was not looked at"
        entries.append(ScanEntry(path="...", kind="damaged", notes=[text]))
    return entries
