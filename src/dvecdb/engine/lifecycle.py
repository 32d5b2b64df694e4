"""How a collection comes into being and how it leaves: both by one rename.

A new one is built whole under a partial name, opened there, and then renamed: whoever sees its
name sees all of it. A deleted one gets a `deletion.json` and is renamed into the trash; if that
rename did not happen, the file means nothing and the next open removes it.
"""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dvecdb.clock import NANOSECONDS_PER_SECOND
from dvecdb.engine.manifest import check_coverage, schema_entry, write_first
from dvecdb.engine.reclaim import (
    drop_backup_file,
    drop_ballast,
    drop_partials,
    drop_uncommitted_deletion,
    remove_tree,
)
from dvecdb.engine.recovery import Access, open_store
from dvecdb.engine.replay import SetAsideError
from dvecdb.engine.storage import is_disk_full, read_file, rename_stamped, write_file
from dvecdb.errors import Code, HandleError
from dvecdb.formats import names
from dvecdb.formats.framing import FormatError
from dvecdb.formats.manifest_file import (
    BackupFile,
    DeletionFile,
    Manifest,
    SegmentEntry,
    decode_backup_file,
    decode_collection_file,
    seal_json,
)
from dvecdb.records import Finding

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from dvecdb.engine.store import Environment, Store
    from dvecdb.media.files import Dir, Files
    from dvecdb.records import Epoch, Schema

_HOUR_NS: Final = 3_600 * NANOSECONDS_PER_SECOND


def build_collection(
    name: str,
    environment: Environment,
    parent: Dir,
    epoch: Epoch,
    write: Callable[[Dir], int],
    make_room: Callable[[], None] | None = None,
) -> Store:
    """Make a collection below `parent` and return it open; durable on return.

    write: puts its files into an empty directory and returns the time of its creation; make_room:
    is called just before it gets its name.

    Raises:
        OSError: nothing is there under `name`, unless only the last sync failed.
        HandleError: `fenced`.
    """
    environment.check_right()
    files, partial = environment.files, names.PARTIAL + name
    remove_tree(files, parent, partial)
    files.make_directory(parent, partial)
    directory = files.open_directory(parent, partial)
    store: Store | None = None
    try:
        created_ns = write(directory)
        try:
            store = open_store(name, environment, directory, epoch, Access.NEW)
        except SetAsideError as error:  # what was just written cannot be read back
            raise OSError(errno.EIO, error.message) from error
        store.created_ns = created_ns
        if make_room is not None:
            make_room()
        environment.check_right()
        files.rename(parent, partial, parent, name)
        files.sync_directory(parent)
    except BaseException:
        if store is not None:
            store.close(seal=False)
        else:
            files.close_directory(directory)
        with contextlib.suppress(OSError):
            remove_tree(files, parent, partial)
        raise
    return store


def open_collection(
    name: str, environment: Environment, directory: Dir, epoch: Epoch, access: Access
) -> Store:
    """Open the collection in `directory`, which is closed with it or on an error.

    A deletion that never reached the trash is forgotten, and a backup that was put here is a
    collection from now on.

    Raises:
        SetAsideError: its current state is unknown.
        OSError, DvecdbError: as the disk says.
    """
    files = environment.files
    try:
        created_ns = _read_created(name, environment, directory)
        backup = read_backup_file(files, directory)
        copied_to = None if backup is None else backup.lsn
        if access is Access.WRITE:
            drop_partials(files, directory)
            drop_uncommitted_deletion(files, directory)
        store = open_store(name, environment, directory, epoch, access, copied_to=copied_to)
    except BaseException:
        files.close_directory(directory)
        raise
    store.created_ns = created_ns
    if access is Access.WRITE and backup is not None:
        try:
            drop_backup_file(files, directory)
        except BaseException:
            store.close(seal=False)
            raise
    return store


def _read_created(name: str, environment: Environment, directory: Dir) -> int:
    """Return when it was created. A damaged file is a finding: manifests know more."""
    try:
        data = read_file(environment.files, directory, names.COLLECTION_FILE)
        return decode_collection_file(data).created_ns
    except (FormatError, OSError) as error:
        where = f"{name}/{names.COLLECTION_FILE}"
        environment.findings.add(
            Finding("collection-file-damaged", name, where, f"{where}: {error}")
        )
        return 0


def read_backup_file(files: Files, directory: Dir) -> BackupFile | None:
    """Return what a directory says about the backup that it is, or None if it is none.

    Raises:
        SetAsideError: `backup-incomplete`, it is damaged.
        OSError: as the disk says.
    """
    if files.stat(directory, names.BACKUP_FILE) is None:
        return None
    try:
        return decode_backup_file(read_file(files, directory, names.BACKUP_FILE))
    except FormatError as error:
        where = names.BACKUP_FILE
        raise SetAsideError("backup-incomplete", where, f"{where}: {error}") from error


def write_new(
    schema: Schema,
    environment: Environment,
    epoch: Epoch,
    directory: Dir,
    *,
    reason: str = "create",
    write_segments: Callable[[Dir, UUID, int], list[SegmentEntry]] | None = None,
) -> int:
    """Write a new collection into an empty directory; return the time of its creation.

    write_segments: puts segments into the directory it is given, one commit each, for a collection
    with this uuid at this time; None: there are none. All but the directory's own name is durable
    on return. Raises `OSError`.
    """
    files, now = environment.files, environment.clock.wall_ns()
    for child in names.COLLECTION_DIRECTORIES:
        files.make_directory(directory, child)
    collection, entries = environment.new_uuid(), list[SegmentEntry]()
    if write_segments is not None:
        segments = files.open_directory(directory, names.SEGMENTS)
        try:
            entries = write_segments(segments, collection, now)
            files.sync_directory(segments)
        finally:
            files.close_directory(segments)
    manifest = Manifest(
        generation=1,
        epoch=int(epoch),
        collection_uuid=str(collection),
        lineage=str(environment.new_uuid()),
        reason=reason,
        created_ns=now,
        schema=schema_entry(schema),
        segments=entries,
        flushed_lsn=len(entries),
        flushed_hash=0,
        row_end=entries[-1].row_end if entries else 0,
        hlc=now + len(entries),
    )
    check_coverage(manifest)
    write_first(files, directory, manifest, now)
    return now


@dataclass(frozen=True, slots=True)
class Deletion:
    """What a deletion says about itself. hours: in the trash, at least; None: for ever."""

    actor: str | None = None
    reason: str | None = None
    hours: int | None = None


def move_to_trash(
    store: Store, root: Dir, collections: Dir, deletion: Deletion, check: Callable[[], None]
) -> str:
    """Move an open collection into the trash; durable on return. No byte of its data goes.

    Works on a full disk: the ballast makes room for deletion.json; without one, it goes without.
    check: raises if it must stay; nothing is committed between it and the move. Returns the name
    of the entry.

    Raises:
        OSError: it is where it was, unless only the last syncs failed.
        HandleError: `fenced`; it is where it was.
    """
    with store.maintenance_lock, store.commit_lock:
        check()
        store.environment.check_right()
        _write_deletion(store, root, deletion)
        return _leave(store, root, collections)


def move_aside(
    name: str, environment: Environment, root: Dir, collections: Dir, deletion: Deletion | None
) -> str:
    """Move a collection that cannot be opened into the trash; durable on return.

    deletion: None, it is to be deleted there, and has a partial name. Returns the name.

    Raises:
        OSError: it is where it was, unless only the last syncs failed.
        HandleError: `fenced`; it is where it was.
    """
    files, now = environment.files, environment.clock.wall_ns()
    directory = files.open_directory(collections, name)
    try:
        environment.check_right()
        if deletion is None:
            return _move(environment, root, collections, name, directory, names.PARTIAL)
        written = DeletionFile(
            name=name,
            uuid="",  # what says so may be damaged
            deleted_ns=now,
            actor=deletion.actor,
            reason=deletion.reason,
            expires_ns=None if deletion.hours is None else now + deletion.hours * _HOUR_NS,
        )
        drop_uncommitted_deletion(files, directory)
        write_file(files, directory, names.DELETION_FILE, [seal_json(written)])
        return _move(environment, root, collections, name, directory, "")
    finally:
        files.close_directory(directory)


def drop_collection(store: Store, root: Dir, collections: Dir, check: Callable[[], None]) -> str:
    """Take an open collection away for good; durable on return. Its files are still there.

    Returns the partial name in the trash under which they are to be deleted. check: as
    `move_to_trash`.

    Raises:
        OSError: it is where it was, unless only the last syncs failed.
        HandleError: `fenced`; it is where it was.
    """
    with store.maintenance_lock, store.commit_lock:
        check()
        return _leave(store, root, collections, names.PARTIAL)


def _leave(store: Store, root: Dir, collections: Dir, prefix: str = "") -> str:
    """Move a collection's directory into the trash under a free name, durably; return that."""
    before, store.stopped = store.stopped, deleted(store.name)  # nothing is acknowledged now
    try:
        store.environment.check_right()
        entry = _move(
            store.environment, root, collections, store.name, store.directories.root, prefix
        )
    except (OSError, HandleError):
        store.stopped = before
        raise
    store.stopped_before = before
    return entry


def _move(
    environment: Environment, root: Dir, collections: Dir, name: str, directory: Dir, prefix: str
) -> str:
    """Move a directory of `collections`, open as `directory`, into the trash; return its name."""
    files = environment.files
    with contextlib.suppress(FileExistsError):
        files.make_directory(root, names.TRASH)  # removed by hand
    trash = files.open_directory(root, names.TRASH)
    try:
        now = environment.clock.wall_ns()
        entry = rename_stamped(files, (collections, name), trash, root, name, now, prefix)
        files.sync_directory(trash)  # first: it is in both rather than in none
        files.sync_together([], [collections, directory])
    finally:
        files.close_directory(trash)
    return entry


def come_back(store: Store) -> None:
    """Let a collection go on that was moved to the trash and back."""
    files = store.environment.files
    with store.maintenance_lock, store.commit_lock:
        with contextlib.suppress(OSError):  # else the next opening does it
            files.remove(store.directories.root, names.DELETION_FILE)
        store.came_back = True
        store.stopped = store.stopped_before


def deleted(name: str) -> HandleError:
    """Return the error of a handle whose collection was deleted."""
    return HandleError(
        Code.COLLECTION_DELETED, f"collection {name!r} was deleted; it is in the trash", name=name
    )


def _write_deletion(store: Store, root: Dir, deletion: Deletion) -> None:
    """Write deletion.json durably, but for its name: that is synced after the move."""
    files, directory, now = (
        store.environment.files, store.directories.root, store.environment.clock.wall_ns()
    )  # fmt: skip
    view, visible = store.view, store.visible
    expires = None if deletion.hours is None else now + deletion.hours * _HOUR_NS
    written = DeletionFile(
        name=store.name,
        uuid=store.manifest.collection_uuid,
        deleted_ns=now,
        actor=deletion.actor,
        reason=deletion.reason,
        expires_ns=expires,
        rows=view.count(visible.lsn, visible.row_limit),
        size_bytes=view.size_bytes,
    )
    data = seal_json(written)
    drop_uncommitted_deletion(files, directory)
    if store.came_back:  # else a power cut may bring back what an earlier deletion said
        files.sync_directory(directory)
        store.came_back = False
    try:
        write_file(files, directory, names.DELETION_FILE, [data], sync_directory=False)
    except OSError as error:
        if not is_disk_full(error):
            raise
        drop_ballast(files, root)
        try:
            write_file(files, directory, names.DELETION_FILE, [data], sync_directory=False)
        except OSError as again:
            if not is_disk_full(again):  # else it goes without: its name says when it was deleted
                raise
