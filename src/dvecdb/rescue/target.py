"""The data directory that an upgrade fills: collections, trash entries and backups, each at once.

What is taken in has the uuid that the upgrade derives from where it came from, so a later run
recognises it, wherever in the data directory it is by then.
"""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from dvecdb.clock import NANOSECONDS_PER_SECOND
from dvecdb.engine.findings import Findings
from dvecdb.engine.reclaim import remove_tree
from dvecdb.engine.recovery import Access, open_store
from dvecdb.engine.replay import SetAsideError
from dvecdb.engine.storage import rename_stamped, write_failed, write_file
from dvecdb.formats import names
from dvecdb.formats.manifest_file import BackupFile, DeletionFile, seal_json
from dvecdb.rescue.database import Database

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from dvecdb.engine.store import Environment
    from dvecdb.media.files import Dir
    from dvecdb.records import Epoch

    Write = Callable[[Dir, Environment, Epoch], int]

TRASH_HOURS_MIN: Final = 30 * 24
"""How long what was deleted before the upgrade can be restored after it, at least."""
ACTOR: Final = "upgrade"
_HOUR_NS: Final = 3_600 * NANOSECONDS_PER_SECOND


@dataclass(frozen=True, slots=True)
class Place:
    """Where a collection goes. parent: `collections`, `.deleted` or `.backups`.

    moment: when it was deleted or copied, nanoseconds; reason: for people.
    """

    parent: str
    name: str
    uuid: UUID
    reason: str
    moment: int = 0


class UpgradeTarget(Database):
    """A data directory that takes in what an upgrade reads."""

    def known(self) -> dict[str, dict[str, str]]:
        """Return, by uuid, the names of collections, trash entries and backups by parent."""
        found: dict[str, dict[str, str]] = {}
        for backup in self.backups():
            found.setdefault(backup.uuid, {})[names.BACKUPS] = backup.name
        for entry in self.trash():
            if entry.uuid is not None:
                found.setdefault(entry.uuid, {})[names.TRASH] = entry.name
        for name in self.collections():
            uuid = self.collection(name).stats().uuid
            found.setdefault(uuid, {})[names.COLLECTIONS] = name
        return found

    def taken(self) -> set[str]:
        """Return the names that no new collection may have, in lower case."""
        return {name.lower() for name in self._names()}

    def take_in(self, place: Place, write: Write) -> str:
        """Make what `write` puts into a directory a collection, a trash entry or a backup.

        Durable on return, and before that nothing is visible. Returns its name.

        Raises:
            ConflictError: `collection-exists`.
            DiskFullError, OutcomeUnknownError, HandleError: as making a collection.
        """
        environment = replace(self._environment, new_uuid=_first(place.uuid, self._new_uuid))
        if place.parent == names.COLLECTIONS:

            def fill(directory: Dir) -> int:
                return write(directory, environment, self._epoch)

            return self._build(place.name, fill, f"upgrading {place.name!r}").name
        with self._working():
            try:
                return self._take_in_entry(place, write, environment)
            except OSError as error:
                raise write_failed(f"upgrading {place.name!r}", error) from error

    def _take_in_entry(self, place: Place, write: Write, environment: Environment) -> str:
        files, root = self._files, self._root
        self._environment.check_right()
        with contextlib.suppress(FileExistsError):
            files.make_directory(root, place.parent)
            files.sync_directory(root)
        parent = files.open_directory(root, place.parent)
        partial = f"{names.PARTIAL}{place.name}-{place.uuid.hex[:8]}"
        try:
            remove_tree(files, parent, partial)
            files.make_directory(parent, partial)
            try:
                self._fill(parent, partial, place, write, environment)
                self._environment.check_right()
                source = (parent, partial)
                name = rename_stamped(files, source, parent, root, place.name, place.moment)
            except BaseException:
                with contextlib.suppress(OSError):
                    remove_tree(files, parent, partial)
                raise
            files.sync_directory(parent)
        finally:
            files.close_directory(parent)
        return name

    def _fill(
        self, parent: Dir, partial: str, place: Place, write: Write, environment: Environment
    ) -> None:
        """Write a collection, open and seal it, and write what makes it an entry of `parent`."""
        directory = self._files.open_directory(parent, partial)
        try:
            write(directory, environment, self._epoch)
            state = self._begin(parent, partial, place.name)
            sizes = self._sizes(directory, "")
            if place.parent == names.BACKUPS:
                name, data = names.BACKUP_FILE, seal_json(_backup(place, state, sizes))
            else:
                deletion = self._deletion(place, state, sum(sizes.values()))
                name, data = names.DELETION_FILE, seal_json(deletion)
            write_file(self._files, directory, name, [data])
        finally:
            self._files.close_directory(directory)

    def _begin(self, parent: Dir, partial: str, name: str) -> _State:
        """Open what was written, so that it gets its log, seal that, and say what it is.

        Raises:
            OSError: it cannot be read back.
        """
        own = replace(self._environment, findings=Findings())
        directory = self._files.open_directory(parent, partial)
        try:
            store = open_store(name, own, directory, self._epoch, Access.NEW)
        except BaseException as error:
            self._files.close_directory(directory)
            if isinstance(error, SetAsideError):
                raise OSError(errno.EIO, error.message) from error
            raise
        visible, manifest = store.visible, store.manifest
        rows = store.view.count(visible.lsn, visible.row_limit)
        store.close(seal=True)
        return _State(manifest.collection_uuid, manifest.lineage, visible.lsn, rows)

    def _deletion(self, place: Place, state: _State, size_bytes: int) -> DeletionFile:
        hours = max(TRASH_HOURS_MIN, self._settings.trash_hours)
        return DeletionFile(
            name=place.name,
            uuid=state.uuid,
            deleted_ns=place.moment,
            actor=ACTOR,
            reason=place.reason,
            expires_ns=self._clock.wall_ns() + hours * _HOUR_NS,
            rows=state.rows,
            size_bytes=size_bytes,
        )

    def _sizes(self, directory: Dir, above: str) -> dict[str, int]:
        """Return the size of every file in a directory by its path."""
        files, sizes = self._files, dict[str, int]()
        for name in files.list_names(directory):
            found = files.stat(directory, name)
            assert found is not None
            if not found.is_directory:
                sizes[above + name] = found.size_bytes
                continue
            child = files.open_directory(directory, name)
            try:
                sizes |= self._sizes(child, f"{above}{name}/")
            finally:
                files.close_directory(child)
        return sizes


@dataclass(frozen=True, slots=True)
class _State:
    uuid: str
    lineage: str
    lsn: int
    rows: int


def _backup(place: Place, state: _State, sizes: dict[str, int]) -> BackupFile:
    return BackupFile(
        name=place.name,
        uuid=state.uuid,
        lineage=state.lineage,
        lsn=state.lsn,
        created_ns=place.moment,
        rows=state.rows,
        size_bytes=sum(sizes.values()),
        files=sizes,
        reason=place.reason,
        actor=ACTOR,
        automatic=False,
        independent=True,
    )


def _first(uuid: UUID, others: Callable[[], UUID]) -> Callable[[], UUID]:
    """Return what gives `uuid` once, and then what `others` gives."""
    waiting = [uuid]
    return lambda: waiting.pop() if waiting else others()
