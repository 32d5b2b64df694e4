"""`dvecdb upgrade`: everything of a legacy data directory, into a data directory of ours.

Each collection is read, written whole and then visible at once; one after the other. The source is
only read. A run that was killed is gone on with by the next: a collection's uuid is derived from
where it came from and what lay there, so what is here already is recognised and left alone.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid5

import msgspec

from dvecdb.clock import NANOSECONDS_PER_SECOND, SystemClock, find_zone, parse_local_stamp, stamp
from dvecdb.engine.lifecycle import write_new
from dvecdb.errors import Code, ConflictError, DvecdbError, InvalidRequestError, NotFoundError
from dvecdb.formats import names
from dvecdb.media.files import OsFiles, absolute_paths
from dvecdb.records import Schema, VectorType, parse_metric
from dvecdb.reports import UpgradedItem, UpgradeReport
from dvecdb.rescue.build import Building
from dvecdb.rescue.database import examine
from dvecdb.rescue.finding import part_of, report_in
from dvecdb.rescue.jobs import jobs_of
from dvecdb.rescue.legacy.names import VECTORS
from dvecdb.rescue.naming import is_usable, usable_name
from dvecdb.rescue.sources import read_source
from dvecdb.rescue.target import ACTOR, Place, UpgradeTarget
from dvecdb.rescue.walk import find, printable

if TYPE_CHECKING:
    from datetime import tzinfo

    from dvecdb.clock import Clock
    from dvecdb.engine.store import Environment
    from dvecdb.media.files import Dir, Files
    from dvecdb.records import Epoch, Metric
    from dvecdb.reports import ImportReport, Outcome
    from dvecdb.rescue.jobs import Job
    from dvecdb.rescue.salvage import Progress, Salvage
    from dvecdb.rescue.target import Write
    from dvecdb.rescue.walk import Findings
    from dvecdb.settings import Settings

_SPACE: Final = UUID("5f1d1d3c-6f0e-5c58-9c62-8a2d2c9b3e17")
_ORDER: Final = ("collection", "log", "deleted", "backup", "snapshot")
_PARENTS: Final = {
    "collection": names.COLLECTIONS, "log": names.COLLECTIONS, "deleted": names.TRASH,
    "backup": names.BACKUPS, "snapshot": names.BACKUPS,
}  # fmt: skip
_SAID: Final = {
    "collection": "collection of", "log": "log of", "deleted": "deleted in", "backup": "backup of",
    "snapshot": "snapshot of",
}  # fmt: skip
_STATE_FILES: Final = (VECTORS, "metadata.json")
LOCAL: Final = "local"
_PIECE_ROWS: Final = 4096


def upgrade(
    old: str,
    new: str,
    *,
    dry_run: bool = False,
    timezone: str | None = None,
    progress: Progress | None = None,
    settings: Settings | None = None,
    files: Files | None = None,
    clock: Clock | None = None,
) -> UpgradeReport:
    """Bring all that the legacy data directory `old` holds into the data directory `new`.

    new: made if it is missing; what it holds already stays. Every collection is durable before the
    next is begun. timezone: of the times in the names of `.deleted` and `.backups`; None: that of
    this machine. dry_run: read everything and write nothing. progress: called with bytes done
    and in all; files: that `new` lies on. Calling it again goes on where it was stopped.

    Raises:
        NotFoundError: `source-not-found`, `old` is not there, or holds nothing of d-vecDB.
        InvalidRequestError: `invalid-argument`, `new` lies in `old`, or an unknown time zone.
        DirectoryError: as opening `new`.
        DiskFullError, OutcomeUnknownError, HandleError: as writing; what is done stays.
    """
    files, clock = files or OsFiles(), clock or SystemClock()
    zone = None if timezone is None else find_zone(timezone)
    _check_apart(old, new)
    begun = clock.monotonic_ns()
    findings = find(old)
    jobs = sorted(
        jobs_of(findings), key=lambda job: (_ORDER.index(job.kind), _depth(job), job.path)
    )
    if not any(not job.own for job in jobs):
        raise NotFoundError(
            Code.SOURCE_NOT_FOUND,
            f"{printable(old)} holds nothing that an old d-vecDB server wrote",
            path=printable(old),
        )
    report = UpgradeReport(
        source=printable(absolute_paths(old)[0]),
        target=printable(absolute_paths(new)[0]),
        dry_run=dry_run,
        timezone=timezone or LOCAL,
        unreadable=findings.unreadable,
        notes=_notes(findings),
    )
    with ExitStack() as stack:
        target = _open(new, settings, files, clock, dry_run=dry_run)
        if target is not None:
            stack.callback(target.close)
        run = _Upgrade(target, clock, zone, dry_run=dry_run)
        total, done = sum(job.size_bytes for job in jobs), 0
        for job in jobs:
            report.items.append(run.bring(job, part_of(progress, done, job.size_bytes, total)))
            done += job.size_bytes
            if progress is not None:
                progress(done, total)
    report.seconds = (clock.monotonic_ns() - begun) / NANOSECONDS_PER_SECOND
    return report


def _depth(job: Job) -> int:
    return job.path.count("/")


def _check_apart(old: str, new: str) -> None:
    above, below = absolute_paths(old)[1], absolute_paths(new)[1]
    if below == above or below.startswith(above.rstrip("/") + "/"):
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT,
            f"the new data directory {printable(new)} lies in the old one, {printable(old)}, which "
            "is not written to; choose a place beside it",
        )


def _notes(findings: Findings) -> list[str]:
    notes = []
    if findings.unreadable_more:
        notes.append(f"{findings.unreadable_more} more places cannot be looked into")
    if findings.is_cut:
        notes.append("the directory has more names, or deeper ones, than were looked at")
    return notes


def _open(
    new: str, settings: Settings | None, files: Files, clock: Clock, *, dry_run: bool
) -> UpgradeTarget | None:
    """Open the target; None for a dry run into a directory that is not there or is empty."""
    if dry_run:
        try:
            root = files.open_root(new, create=False)
        except FileNotFoundError:
            return None
        try:
            if not [name for name in files.list_names(root) if name not in names.NOT_DATA]:
                return None
        finally:
            files.close_directory(root)
    return UpgradeTarget(
        new, read_only=dry_run, settings=settings, files=files, clock=clock, background=False
    )


@dataclass(frozen=True, slots=True)
class _Read:
    """What could be read of a source. salvage: None, only what kind of collection it is."""

    report: ImportReport
    schema: Schema
    salvage: Salvage | None


class _Upgrade:
    """One run. `_names`: of collections, in lower case, given out in this run or an earlier one."""

    def __init__(
        self,
        target: UpgradeTarget | None,
        clock: Clock,
        zone: tzinfo | None,
        *,
        dry_run: bool,
    ) -> None:
        self._target = target
        self._files = OsFiles()
        self._clock = clock
        self._zone = zone
        self._dry_run = dry_run
        self._known = target.known() if target is not None else dict[str, dict[str, str]]()
        self._taken = target.taken() if target is not None else set[str]()
        self._names: set[str] = set()

    def bring(self, job: Job, progress: Progress | None) -> UpgradedItem:
        """Bring one collection over, if it is not there yet."""
        if job.own:
            return _item(job, "left", why="a collection of dvecdb: 'dvecdb import' takes it",
                         import_as=job.arguments())  # fmt: skip
        state = self._state(job)
        origin = [
            printable(absolute_paths(job.path)[1]),
            job.kind,
            printable(job.name or ""),
            state,
        ]
        uuid = uuid5(_SPACE, msgspec.json.encode(origin).decode())
        present = self._known.get(str(uuid))
        if present is not None:
            return self._present(job, present, progress)
        if job.stray or job.is_gone:
            return _item(job, "left", why=job.note or "a copy beside the collection itself",
                         import_as=job.arguments())  # fmt: skip
        return self._bring(job, uuid, state, progress)

    def _present(
        self, job: Job, present: dict[str, str], progress: Progress | None
    ) -> UpgradedItem:
        """Say what was brought over before: it is read once more, for the report."""
        live = present.get(names.COLLECTIONS)
        if live is not None:
            self._names.add(live.lower())
        report: ImportReport | None
        try:
            report = examine(job.source, job.choice, progress)
        except DvecdbError as error:
            report = report_in(error)
        name = present.get(_PARENTS[job.kind]) or min(present.values())
        why = "an earlier run brought it over"
        return _item(job, "present", name=name, why=why, report=report)

    def _bring(
        self, job: Job, uuid: UUID, state: list[tuple[str, int, int]], progress: Progress | None
    ) -> UpgradedItem:
        try:
            read = _read(job, progress)
        except DvecdbError as error:
            report = report_in(error)
            if error.code is Code.NOTHING_RECOVERABLE and report is not None and is_empty(report):
                why = "there are no records, and nothing says what dimension they would have"
                return _item(job, "empty", why=why, report=report)
            return _item(job, "failed", why=str(error), report=report)
        try:
            if read.salvage is not None and self._state(job) != state:
                read.report.notes.append("a file changed while it was read: does a server run?")
            return self._place(job, uuid, read)
        finally:
            if read.salvage is not None:
                read.salvage.close()

    def _place(self, job: Job, uuid: UUID, read: _Read) -> UpgradedItem:
        was, report = _best_name(job, read.report, self._names), read.report
        parent, moment = _PARENTS[job.kind], self._moment(job)
        if parent == names.COLLECTIONS:
            name = usable_name(was, self._names)
            if name == was and name.lower() in self._taken:
                return self._conflict(job, name, report)
            name = usable_name(name, self._taken | self._names)
            self._names.add(name.lower())
        else:
            name = usable_name(was)
        entry = name if parent == names.COLLECTIONS else names.stamped_name(name, stamp(moment))
        if self._target is not None and not self._dry_run:
            try:
                reason = f"{_SAID[job.kind]} d-vecDB; upgraded from {printable(job.path)}"
                place = Place(parent, name, uuid, reason, moment)
                entry = self._target.take_in(place, _writer(read, reason))
            except ConflictError:
                return self._conflict(job, name, report)
        elif read.salvage is not None:
            for _ in read.salvage.vectors.pieces(_PIECE_ROWS):  # which completes the report
                pass
        return _item(job, "imported", was=was, name=entry, renamed=name != was, report=report)

    def _conflict(self, job: Job, name: str, report: ImportReport) -> UpgradedItem:
        return _item(
            job,
            "conflict",
            was=name,
            why=f"there is a collection {name!r} already, and it is not what lies here now; "
            "nothing was changed: bring this one in under another name",
            import_as=job.arguments(usable_name(name, self._taken | self._names)),
            report=report,
        )

    def _moment(self, job: Job) -> int:
        """Return when a collection was deleted or copied: as its name says, or its files."""
        found: int | None = None
        if job.kind == "snapshot" and job.stamp is not None:
            found = int(job.stamp) * NANOSECONDS_PER_SECOND
        elif job.stamp is not None:
            found = parse_local_stamp(job.stamp, self._zone)
        if found is None:
            found = max((at for _, _, at in self._state(job)), default=self._clock.wall_ns())
        return max(0, found)

    def _state(self, job: Job) -> list[tuple[str, int, int]]:
        """Return name, size and time of change of the files that a collection is read from."""
        above, _, base = job.path.rpartition("/")
        places = [(job.path, name) for name in _STATE_FILES]
        places.append((above, base))  # a file by itself, or a log
        if job.choice.collection is not None and job.kind != "log":
            places.append((job.source, "wal"))
        found = []
        for directory, name in places:
            try:
                opened = self._files.open_root(directory, create=False)
            except OSError:
                continue
            try:
                stat = self._files.stat(opened, name)
            except OSError:
                continue
            finally:
                self._files.close_directory(opened)
            if stat is not None and not stat.is_directory:
                found.append((name, stat.size_bytes, stat.modified_ns))
        return found


def _read(job: Job, progress: Progress | None) -> _Read:
    """Read a collection. One without records is one all the same, if it says what it is.

    Raises:
        DvecdbError: as `read_source`.
    """
    try:
        salvage = read_source(job.source, job.choice, progress=progress)
    except NotFoundError as error:
        report = report_in(error)
        if report is None or not is_empty(report) or report.dimension is None:
            raise
        schema = Schema(report.dimension, _metric(report), VectorType.FLOAT32)
        return _Read(report, schema, None)
    return _Read(salvage.report, salvage.schema, salvage)


def _metric(report: ImportReport) -> Metric:
    return parse_metric(report.metric or "cosine")


def is_empty(report: ImportReport) -> bool:
    """Tell whether there never was anything in it, as far as can be seen."""
    return not (report.records_found or report.lost or report.unreadable or report.bytes_used)


def _best_name(job: Job, report: ImportReport, taken: set[str]) -> str:
    """Return what a collection was called: as it says itself, unless another has that name."""
    own, directory = report.name, job.name
    if own is None or (own.lower() in taken and directory is not None and is_usable(directory)):
        return printable(directory or "")
    return own


def _writer(read: _Read, reason: str) -> Write:
    def write(directory: Dir, environment: Environment, epoch: Epoch) -> int:
        if read.salvage is None:
            return write_new(read.schema, environment, epoch, directory)
        note = {"op": "import", "reason": reason, "actor": ACTOR}
        return Building(read.salvage, environment, epoch, note).write(directory)

    return write


def _item(job: Job, outcome: Outcome, *, was: str | None = None, **more: object) -> UpgradedItem:
    name = job.name if was is None else was
    return UpgradedItem(
        path=printable(job.path),
        kind=job.kind,
        outcome=outcome,
        was=None if name is None else printable(name),
        **more,  # type: ignore[arg-type]  # fields of the item
    )
