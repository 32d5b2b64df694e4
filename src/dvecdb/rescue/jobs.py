"""What is to be read of a directory tree, and how: one job for each collection in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from dvecdb.errors import DvecdbError
from dvecdb.rescue.legacy.names import LOG
from dvecdb.rescue.logged import logged_collections
from dvecdb.rescue.naming import usable_name
from dvecdb.rescue.salvage import Choice
from dvecdb.rescue.walk import base_name, printable

if TYPE_CHECKING:
    from dvecdb.rescue.walk import Findings, Found, LogFound

JobKind = Literal["collection", "deleted", "backup", "snapshot", "log"]

LOG_DROPPED: Final = "the log deletes it; --include-dropped brings back what it held before"
LOG_OF_DELETED: Final = "deleted: its directory is in .deleted; this is what the log still has"


@dataclass(frozen=True, slots=True)
class Job:
    """A collection to be read. source, choice: what `read_source` takes.

    path: what is shown to people; name: as its directory or the log says; stamp: of a deleted one
    or a copy; size_bytes: about what is to be read; note: what there is to know before; is_gone:
    its server did not serve it any more, although it is no copy.
    """

    source: str
    choice: Choice
    kind: JobKind
    path: str
    name: str | None
    own: bool = False
    stamp: str | None = None
    stray: bool = False
    size_bytes: int = 0
    note: str | None = None
    is_gone: bool = False

    def arguments(self, name: str | None = None) -> list[str]:
        """Return the arguments of `dvecdb import` that bring it back. name: of the collection."""
        choice = self.choice
        found = [printable(self.source), "--as", usable_name(self.name if name is None else name)]
        if choice.collection is not None:
            found += ["--collection", printable(choice.collection)]
        if choice.include_dropped:
            found.append("--include-dropped")
        return found


def jobs_of(findings: Findings) -> list[Job]:
    """Return what is to be read, in the order of the paths. Logs are read for what they name."""
    jobs = [_of_collection(item) for item in findings.collections]
    for log in findings.logs:
        jobs += _of_log(log, findings.collections)
    return sorted(jobs, key=lambda job: (job.path, job.name or ""))


def _of_collection(found: Found) -> Job:
    source, choice = found.path, Choice()
    if found.is_live and found.data_dir is not None and found.name is not None:
        source, choice = found.data_dir, Choice(collection=found.name)
    return Job(
        source=source,
        choice=choice,
        kind=found.kind,
        path=found.path,
        name=found.name,
        own=found.own,
        stamp=found.stamp,
        stray=found.stray,
        size_bytes=found.size_bytes,
    )


def _of_log(log: LogFound, collections: list[Found]) -> list[Job]:
    """Return a job for each collection that a log knows and no directory beside it has."""
    beside = [item for item in collections if item.data_dir == log.data_dir]
    live = {item.name for item in beside if item.is_live}
    deleted = {item.name for item in beside if item.kind == "deleted"}
    source = log.data_dir if base_name(log.path) == LOG else log.path
    jobs: list[Job] = []
    try:
        known = logged_collections(log.path)
    except (DvecdbError, OSError) as error:
        why = error.message if isinstance(error, DvecdbError) else error.strerror
        return [Job(source, Choice(), "log", log.path, None, size_bytes=log.size_bytes, note=why)]
    for name, is_dropped in known.items():
        if name in live:
            continue
        note = LOG_DROPPED if is_dropped else LOG_OF_DELETED if name in deleted else None
        jobs.append(
            Job(
                source=source,
                choice=Choice(collection=name, include_dropped=is_dropped),
                kind="log",
                path=log.path,
                name=name,
                size_bytes=log.size_bytes,
                note=note,
                is_gone=is_dropped or name in deleted,
            )
        )
    return jobs
