"""The trash: deleted collections, whole, each in a directory NAME_YYYYMMDD_HHMMSS of `.deleted`.

What is removed by hand is gone from the list without an error; what is no collection is not listed.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from dvecdb.clock import NANOSECONDS_PER_SECOND, parse_stamp, to_datetime
from dvecdb.engine.reclaim import own_bytes, remove_tree, set_apart
from dvecdb.engine.storage import read_file, reading, write_failed
from dvecdb.errors import Code, ConflictError, DvecdbError, NotFoundError
from dvecdb.formats import names
from dvecdb.formats.framing import FormatError
from dvecdb.formats.manifest_file import DeletionFile, decode_deletion_file
from dvecdb.records import TrashEntry

if TYPE_CHECKING:
    from dvecdb.engine.store import Environment
    from dvecdb.media.files import Dir

_HOUR_NS: Final = 3_600 * NANOSECONDS_PER_SECOND


class Trash:
    """The entries of `.deleted` below an open data directory."""

    def __init__(self, environment: Environment, root: Dir, path: str) -> None:
        self._environment = environment
        self._root = root
        self._path = f"{path}/{names.TRASH}"

    @reading(names.TRASH)
    def entries(self) -> list[TrashEntry]:
        """Return what is in the trash, newest first."""
        files = self._environment.files
        try:
            directory = files.open_directory(self._root, names.TRASH)
        except FileNotFoundError:
            return []
        try:
            found = [self._entry(directory, name) for name in files.list_names(directory)]
        finally:
            files.close_directory(directory)
        entries = [item for item in found if item is not None]
        return sorted(entries, key=lambda item: (item.deleted, item.name), reverse=True)

    @reading(names.TRASH)
    def entry(self, name: str) -> TrashEntry:
        """Return an entry.

        Raises:
            NotFoundError: `trash-entry-not-found`.
        """
        files, found = self._environment.files, None
        with contextlib.suppress(FileNotFoundError):
            directory = files.open_directory(self._root, names.TRASH)
            try:
                found = self._entry(directory, name)
            finally:
                files.close_directory(directory)
        if found is None:
            raise NotFoundError(
                Code.TRASH_ENTRY_NOT_FOUND,
                f"there is no {name!r} in the trash; it was restored or purged, or its time was "
                "up. What is there: trash()",
                name=name,
            )
        return found

    def _entry(self, trash: Dir, name: str) -> TrashEntry | None:
        parsed = names.parse_stamped_name(name)
        if parsed is None or name.startswith("."):
            return None
        files = self._environment.files
        found = files.stat(trash, name)
        stamped_ns = parse_stamp(parsed[1])
        if found is None or not found.is_directory or stamped_ns is None:
            return None
        written = self._deletion(trash, name)
        deleted_ns = stamped_ns if written is None else written.deleted_ns
        settings, now = self._environment.settings, self._environment.clock.wall_ns()
        expires_ns = None if written is None else written.expires_ns
        if expires_ns is None:
            expires_ns = deleted_ns + settings.trash_hours * _HOUR_NS
        return TrashEntry(
            name=name,
            path=f"{self._path}/{name}",
            collection=parsed[0] if written is None else written.name,
            uuid=None if written is None else written.uuid or None,
            deleted=to_datetime(deleted_ns),
            age_hours=(now - deleted_ns) / _HOUR_NS,
            expires=to_datetime(expires_ns),
            actor=None if written is None else written.actor,
            reason=None if written is None else written.reason,
            rows=None if written is None else written.rows,
            size_bytes=None if written is None else written.size_bytes,
        )

    def _deletion(self, trash: Dir, name: str) -> DeletionFile | None:
        """Return what deletion.json says; None if it is damaged or could not be written."""
        files = self._environment.files
        try:
            directory = files.open_directory(trash, name)
        except OSError:
            return None
        try:
            return decode_deletion_file(read_file(files, directory, names.DELETION_FILE))
        except (OSError, FormatError, DvecdbError):
            return None
        finally:
            files.close_directory(directory)

    @reading(names.TRASH)
    def budget(self) -> int | None:
        """Return the bytes that the trash may have; None if there is no limit."""
        environment, settings = self._environment, self._environment.settings
        limits = [settings.trash_bytes_max] if settings.trash_bytes_max else []
        if settings.trash_percent_max:
            total = environment.files.total_bytes(self._root)
            limits.append(total * settings.trash_percent_max // 100)
        return min(limits, default=None)

    def take_out(self, name: str, collections: Dir, target: str) -> None:
        """Move an entry back among the collections; durable on return. Works on a full disk.

        Raises:
            NotFoundError: `trash-entry-not-found`.
            ConflictError: `collection-exists`.
            OutcomeUnknownError, HandleError: as the disk says; `fenced`.
        """
        environment, files = self._environment, self._environment.files
        environment.check_right()
        try:
            trash = files.open_directory(self._root, names.TRASH)
            try:
                files.rename(trash, name, collections, target)
                files.sync_directory(collections)
                files.sync_directory(trash)
            finally:
                files.close_directory(trash)
        except FileNotFoundError:
            self.entry(name)  # which says so
            raise
        except FileExistsError as error:
            raise ConflictError(
                Code.COLLECTION_EXISTS,
                f"collection {target!r} exists; nothing was changed: restore under another name",
                name=target,
            ) from error
        except OSError as error:
            raise write_failed(f"restoring {name}", error) from error

    def remove_apart(self, name: str) -> int:
        """Delete what was moved here to be deleted; return the bytes that were freed.

        Raises:
            OutcomeUnknownError, HandleError: as the disk says; `fenced`. The next opening goes on.
        """
        environment, files = self._environment, self._environment.files
        environment.check_right()
        try:
            trash = files.open_directory(self._root, names.TRASH)
            try:
                freed = own_bytes(files, trash, name)
                remove_tree(files, trash, name)
            finally:
                files.close_directory(trash)
        except OSError as error:
            raise write_failed("freeing the space of a collection", error) from error
        return freed

    def purge(self, name: str) -> bool:
        """Delete an entry for good; return whether it was still there. Works on a full disk.

        Raises:
            DvecdbError: `outcome-unknown`, as the disk says; `fenced`.
        """
        return drop_entry(self._environment, self._root, names.TRASH, name)


def drop_entry(environment: Environment, root: Dir, parent: str, name: str) -> bool:
    """Delete an entry of `.deleted` or `.backups` for good; return whether it was still there.

    Raises:
        DvecdbError: `outcome-unknown`, as the disk says; `fenced`.
    """
    files = environment.files
    environment.check_right()
    try:
        directory = files.open_directory(root, parent)
        try:
            partial = set_apart(files, directory, name)
            environment.check_right()
            remove_tree(files, directory, partial)
        finally:
            files.close_directory(directory)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise write_failed(f"deleting {parent}/{name}", error) from error
    return True
