"""`dvecdb import` of what d-vecDB, or this program, left behind: into a directory or a server.

A directory takes it in one step (`Database.import_legacy`). For a server, this process reads the
source, as its own user, and streams the rows into a collection that is being filled.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from dvecdb.cli.exit_codes import OK
from dvecdb.cli.output import print_json, progress_bar, say, visible
from dvecdb.cli.rescue_report import report_file, report_lines, source_text
from dvecdb.cli.staging import Note, refuse_taken, staged
from dvecdb.cli.streaming import stream_rows
from dvecdb.cli.target import Target, server_of
from dvecdb.clock import NANOSECONDS_PER_SECOND, SystemClock
from dvecdb.engine.lock import look_at_lock
from dvecdb.errors import Code, ConflictError, DirectoryError, NotFoundError
from dvecdb.formats import names
from dvecdb.media.files import OsFiles
from dvecdb.reports import Imported, ImportReport
from dvecdb.rescue.database import examine
from dvecdb.rescue.sources import read_source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import dvecdb
    from dvecdb.rescue.salvage import Choice, Progress

REASON_LENGTH_MAX: Final = 900


@dataclass(frozen=True, slots=True)
class Aim:
    """What is to become of a source. replace: a collection of this name goes to the trash."""

    name: str
    replace: bool = False
    actor: str | None = None
    reason: str | None = None

    def note(self, source: Path) -> Note:
        """Return who and why, for the history."""
        return Note(self.actor, self.reason or f"import of {source}"[:REASON_LENGTH_MAX])


def import_source(
    target: Target,
    source: Path,
    choice: Choice,
    aim: Aim,
    *,
    report: Path | None,
    as_json: bool,
) -> int:
    """Make a collection of a source; return the exit code.

    Raises:
        DvecdbError: as `Database.import_legacy`. What was found goes into the report all the same.
        OSError: the report cannot be written.
    """

    def run(progress: Progress) -> Imported:
        _refuse_missing(source)
        refuse_live(source)
        return into_target(
            target,
            lambda database: _import_here(database, source, choice, aim, progress),
            lambda database: _import_there(database, source, choice, aim, progress),
        )

    return report_import(run, source, report, as_json=as_json)


def examine_source(source: Path, choice: Choice, *, report: Path | None, as_json: bool) -> int:
    """Say what an import would bring; return the exit code. Raises as `import_source`."""
    with report_file(report) as write, progress_bar(quiet=as_json) as advance:
        try:
            found = examine(str(source), choice, advance)
        except NotFoundError as error:
            _keep_report(error, write, as_json=as_json)
            raise
        write(found)
    if as_json:
        print_json(found)
        return OK
    say(visible(f"would import {found.imported:,} records of {source} ({source_text(found)})"))
    _print_details(found)
    return OK


def into_target(
    target: Target,
    here: Callable[[dvecdb.Database], Imported],
    there: Callable[[dvecdb.Database], Imported],
) -> Imported:
    """Return what `here` makes of a data directory, or `there` of a server.

    A directory that a server of this machine has open is imported into through that server.
    """
    if target.url is None:
        try:
            with target.open(write=True, create=True) as database:
                return here(database)
        except DirectoryError as error:
            url = server_of(error)
            if error.code is not Code.DIRECTORY_IN_USE or url is None:
                raise
        target = Target(url=url, api_key=target.api_key)
    with target.open(write=True) as database:
        return there(database)


def report_import(
    run: Callable[[Progress], Imported], source: Path, report: Path | None, *, as_json: bool
) -> int:
    """Do an import, and print and keep its report; return the exit code. Raises as `run`."""
    clock = SystemClock()
    start = clock.monotonic_ns()
    with report_file(report) as write:
        try:
            with progress_bar(quiet=as_json) as advance:
                done = run(advance)
        except NotFoundError as error:
            _keep_report(error, write, as_json=as_json)
            raise
        write(done.report)
    seconds = (clock.monotonic_ns() - start) / NANOSECONDS_PER_SECOND
    if as_json:
        more = {"name": done.name, "replaced": done.replaced, "seconds": round(seconds, 3)}
        print_json({**msgspec.to_builtins(done.report), **more})
        return OK
    found = done.report
    rate = f", {found.imported / seconds:,.0f} rows/s" if seconds >= 0.1 else ""
    say(
        visible(
            f"imported {found.imported:,} records of {source} ({source_text(found)}) as "
            f"{done.name} in {seconds:.1f} s{rate}"
        )
    )
    if found.imported != found.exact:
        say(f"  {found.exact:,} of them exactly as they were stored")
    _print_details(found)
    if done.replaced is not None:
        say(f"what was {done.name} before is in the trash: dvecdb restore {done.replaced}")
    return OK


def _print_details(report: ImportReport) -> None:
    lines = report_lines(report)
    if lines:
        say("\n".join(lines))


def _keep_report(error: NotFoundError, write: Callable[[object], None], *, as_json: bool) -> None:
    """Print and keep the report of a source that has nothing to bring back."""
    found: Any = error.details.get("report")
    if error.code is not Code.NOTHING_RECOVERABLE or found is None:
        return
    report = found if isinstance(found, ImportReport) else msgspec.convert(found, ImportReport)
    write(report)
    if not as_json:  # else it is in the details of the error
        say(visible(f"nothing of {report.source} can be brought back"))
        _print_details(report)


# --- the two ways ----------------------------------------------------------------------------


def _import_here(
    database: dvecdb.Database, source: Path, choice: Choice, aim: Aim, progress: Progress
) -> Imported:
    return database.import_legacy(
        str(source),
        aim.name,
        collection=choice.collection,
        dimension=choice.dimension,
        metric=choice.metric,
        use_log=choice.use_log,
        keep_deleted=choice.keep_deleted,
        include_dropped=choice.include_dropped,
        keep_raw=choice.keep_raw,
        replace=aim.replace,
        progress=progress,
        actor=aim.actor,
        reason=aim.reason,
    )


def _import_there(
    database: dvecdb.Database, source: Path, choice: Choice, aim: Aim, progress: Progress
) -> Imported:
    refuse_taken(database, aim.name, replace=aim.replace)
    salvage = read_source(str(source), choice, progress=progress)
    note = aim.note(source)
    try:
        with staged(database, aim.name, salvage.schema, note) as staging:
            staging.try_rights()
            stream_rows(staging.collection, salvage, note, progress)
            replaced = staging.finish(replace=aim.replace)
            salvage.report.notes += staging.notes
    finally:
        salvage.close()
    return Imported(aim.name, salvage.report, replaced)


def _refuse_missing(source: Path) -> None:
    """Refuse what is not there, before a data directory is made for it.

    Raises:
        NotFoundError: `source-not-found`.
    """
    if not os.path.lexists(source):
        raise NotFoundError(
            Code.SOURCE_NOT_FOUND, f"{source}: there is nothing of that name", path=str(source)
        )


def refuse_live(source: Path) -> None:
    """Refuse what a writing process has open: it changes while it is read.

    Its trash and its backups do not change.

    Raises:
        ConflictError: `source-in-use`.
    """
    path, files = source.resolve(), OsFiles()
    for place in (path, *path.parents):
        if not (place / names.LOCK).is_file() or not (place / names.COLLECTIONS).is_dir():
            continue
        inside = path.relative_to(place).parts
        if inside and inside[0] != names.COLLECTIONS:
            continue
        root = files.open_root(str(place), create=False)
        try:
            _, is_held = look_at_lock(files, root)
        finally:
            files.close_directory(root)
        if is_held:
            raise ConflictError(
                Code.SOURCE_IN_USE,
                f"{source} belongs to the data directory {place}, which a running process has "
                "open; clone, export or back up the collection instead, or stop the process",
                path=str(source),
            )
