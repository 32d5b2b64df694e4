"""A data directory that takes in what others left behind."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from dvecdb.clock import NANOSECONDS_PER_SECOND
from dvecdb.errors import Code, ConflictError
from dvecdb.formats import names
from dvecdb.media.files import absolute_paths
from dvecdb.protection.backups import Note
from dvecdb.protection.config import described, refuse_protected
from dvecdb.protection.database import Database as ProtectedDatabase
from dvecdb.records import check_name
from dvecdb.reports import Imported
from dvecdb.rescue.build import Building
from dvecdb.rescue.refusal import refuse_legacy
from dvecdb.rescue.salvage import Choice, Halves
from dvecdb.rescue.sources import read_source

if TYPE_CHECKING:
    from dvecdb.reports import ImportReport
    from dvecdb.rescue.salvage import Progress

_PIECE_ROWS = 4096


class Database(ProtectedDatabase):
    """An open data directory. Safe to use from any number of threads; not across a fork."""

    def _check_ours(self, present: list[str]) -> None:
        refuse_legacy(self._files, self._root, self.path, present)
        super()._check_ours(present)

    def import_legacy(  # the parts of an import
        self,
        source: str,
        name: str,
        *,
        collection: str | None = None,
        dimension: int | None = None,
        metric: str | None = None,
        use_log: bool = True,
        keep_deleted: bool = False,
        include_dropped: bool = False,
        keep_raw: bool = False,
        replace: bool = False,
        progress: Progress | None = None,
        actor: str | None = None,
        reason: str | None = None,
    ) -> Imported:
        """Make a collection of what can be saved of `source`; durable on return.

        source: a collection directory, a vectors.bin, or a data directory, then `collection` names
        which of it; of d-vecDB in any version, or of ours. It is only read. Visible all at once, or
        not at all. dimension, metric: refused if the bytes say otherwise. use_log: overlay the
        log beside it. keep_deleted: rows that the log deletes come too; include_dropped: also what
        the log dropped with its collection. keep_raw: doubtful metadata keeps its stored bytes,
        in hexadecimal under `_dvecdb_raw`. replace: a collection `name` goes to the trash, after
        an automatic backup. progress: is called with bytes done and bytes in all.

        Raises:
            NotFoundError: `source-not-found`; `nothing-recoverable`, details hold the report.
            InvalidRequestError: `source-unclear`, `source-contradicts`, `invalid-name`.
            ConflictError: `collection-exists`; `collection-protected`; `source-in-use`, it is
                this open directory's own.
            DirectoryError: `directory-unreadable`.
            DiskFullError: `disk-full`; nothing is left behind.
        """
        self._check_open()
        self._check_writable()
        check_name(name)
        choice = Choice(
            collection=collection, dimension=dimension, metric=metric, use_log=use_log,
            keep_deleted=keep_deleted, include_dropped=include_dropped, keep_raw=keep_raw,
        )  # fmt: skip
        with self._working():
            started = self._clock.monotonic_ns()
            self._check_target(name, replace=replace)
            self._refuse_own(source)
            halves = Halves(progress)
            salvage = read_source(source, choice, progress=halves.first)
            try:
                note = {"op": "import", "reason": reason or f"import of {source[:900]}"}
                if actor is not None:
                    note["actor"] = actor
                building = Building(
                    salvage, self._environment, self._epoch, note, progress=halves.second
                )
                replaced = self._import(name, building, actor, reason, replace=replace)
            finally:
                salvage.close()
            seconds = (self._clock.monotonic_ns() - started) / NANOSECONDS_PER_SECOND
        return Imported(name, salvage.report, replaced, round(seconds, 3))

    def _check_target(self, name: str, *, replace: bool) -> None:
        """Refuse a target that is there, before anything is read."""
        with self._lock:
            if not (replace and name in self._collections):
                self._check_free(
                    name, "choose another name, or replace it (it goes to the trash then)"
                )
            else:
                refuse_protected(self._stores[name])

    def _refuse_own(self, source: str) -> None:
        """Refuse what this open directory serves itself.

        Raises:
            ConflictError: `source-in-use`.
        """
        real = absolute_paths(source)[1]
        root = self._known_paths[1]
        live = posixpath.join(root, names.COLLECTIONS)
        if real in {root, live} or real.startswith(f"{live}/"):
            raise ConflictError(
                Code.SOURCE_IN_USE,
                f"{source} is part of this open data directory; nothing was imported. What it "
                "serves needs no import: clone it, restore a backup, or close it and rescue the "
                "directory into another one",
                path=source,
            )

    def _import(
        self,
        name: str,
        building: Building,
        actor: str | None,
        reason: str | None,
        *,
        replace: bool,
    ) -> str | None:
        """Build the collection; return the trash entry of the one it replaces."""
        gone: list[str] = []

        def make_room() -> None:
            if name in self._collections:
                note = Note("before import with replace", actor, automatic=True)
                self._backups.make(self._stores[name], note)
                why = described("replaced by an import", None, reason)
                self.delete_collection(name, actor=actor, reason=why)
                thrown = self._trash.entries()
                gone.append(next(item.name for item in thrown if item.collection == name))

        self._build(
            name, building.write, f"importing into {name!r}", make_room if replace else None
        )
        return gone[0] if gone else None

    def examine_legacy(  # an import but for the writing
        self,
        source: str,
        *,
        collection: str | None = None,
        dimension: int | None = None,
        metric: str | None = None,
        use_log: bool = True,
        keep_deleted: bool = False,
        include_dropped: bool = False,
        progress: Progress | None = None,
    ) -> ImportReport:
        """Return what `import_legacy` would bring back. Nothing is written. Raises as that."""
        self._check_open()
        choice = Choice(
            collection=collection, dimension=dimension, metric=metric, use_log=use_log,
            keep_deleted=keep_deleted, include_dropped=include_dropped,
        )  # fmt: skip
        with self._working():
            self._refuse_own(source)
            return examine(source, choice, progress)

    def announce(self, address: str) -> None:
        """Write into LOCK where a server of this directory listens. Read-only: do nothing.

        Raises:
            HandleError: `fenced`, `forked-handle`, `handle-closed`.
            OSError: as the disk says.
        """
        self._check_open()
        if self._writer is not None:
            self._writer.announce(address)


def examine(source: str, choice: Choice, progress: Progress | None = None) -> ImportReport:
    """Read a source to the end, vectors too, and return the report. Raises as `read_source`."""
    halves = Halves(progress)
    salvage = read_source(source, choice, progress=halves.first)
    try:
        done, size = 0, salvage.vectors.stored_bytes
        for piece in salvage.vectors.pieces(_PIECE_ROWS):
            done += piece.nbytes
            halves.second(done, size)
        return salvage.report
    finally:
        salvage.close()
