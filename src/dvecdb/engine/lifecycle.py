"""How a collection comes into being and how it leaves: both by one rename.

A new one is built whole under a partial name, opened there, and then renamed: whoever sees its
name sees all of it. A deleted one gets a `deletion.json` and is renamed into the trash; if that
rename did not happen, the file means nothing and the next open removes it.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Final

from dvecdb.clock import stamp
from dvecdb.engine.manifest import schema_entry
from dvecdb.engine.reclaim import drop_ballast, drop_uncommitted_deletion, remove_tree
from dvecdb.engine.recovery import Access, open_store
from dvecdb.engine.replay import SetAsideError
from dvecdb.engine.storage import is_disk_full, write_file
from dvecdb.errors import Code, HandleError
from dvecdb.formats import names
from dvecdb.formats.manifest_file import CollectionFile, DeletionFile, Manifest, seal_json

if TYPE_CHECKING:
    from dvecdb.engine.store import Environment, Store
    from dvecdb.media.files import Dir
    from dvecdb.records import Epoch, Schema

_SECOND_NS: Final = 1_000_000_000


def build_collection(
    name: str, schema: Schema, environment: Environment, parent: Dir, epoch: Epoch
) -> Store:
    """Make a collection below `parent` and return it open; durable on return.

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
        created_ns = _write_first_files(schema, environment, directory, epoch)
        try:
            store = open_store(name, environment, directory, epoch, Access.NEW)
        except SetAsideError as error:  # what was just written cannot be read back
            raise OSError(errno.EIO, error.message) from error
        store.created_ns = created_ns
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


def _write_first_files(
    schema: Schema, environment: Environment, directory: Dir, epoch: Epoch
) -> int:
    """Write directories, the first manifest and collection.json; return the time of creation."""
    files = environment.files
    for child in names.COLLECTION_DIRECTORIES:
        files.make_directory(directory, child)
    now, collection_uuid = environment.clock.wall_ns(), str(environment.new_uuid())
    manifest = Manifest(
        generation=1,
        epoch=int(epoch),
        collection_uuid=collection_uuid,
        lineage=str(environment.new_uuid()),
        reason="create",
        created_ns=now,
        schema=schema_entry(schema),
        segments=[],
        flushed_lsn=0,
        flushed_hash=0,
        row_end=0,
        hlc=now,
    )
    manifests = files.open_directory(directory, names.MANIFESTS)
    try:
        write_file(files, manifests, names.manifest_name(1), [seal_json(manifest)])
    finally:
        files.close_directory(manifests)
    created = CollectionFile(uuid=collection_uuid, created_ns=now, schema=manifest.schema)
    write_file(files, directory, names.COLLECTION_FILE, [seal_json(created)])
    return now


def move_to_trash(
    store: Store, root: Dir, collections: Dir, actor: str | None, reason: str | None
) -> None:
    """Move an open collection into the trash; durable on return. No byte of its data goes.

    Works on a full disk: the ballast makes room for deletion.json; without one, it goes without.

    Raises:
        OSError: it is where it was, unless only the last syncs failed.
        HandleError: `fenced`; it is where it was.
    """
    with store.maintenance_lock, store.commit_lock:
        store.environment.check_right()
        _write_deletion(store, root, actor, reason)
        before, store.stopped = store.stopped, deleted(store.name)  # nothing is acknowledged now
        files = store.environment.files
        trash = files.open_directory(root, names.TRASH)
        try:
            store.environment.check_right()
            _rename_into(trash, store, collections)
        except (OSError, HandleError):
            store.stopped = before
            raise
        finally:
            files.close_directory(trash)


def _rename_into(trash: Dir, store: Store, collections: Dir) -> None:
    files, moment = store.environment.files, store.environment.clock.wall_ns()
    while True:
        try:
            files.rename(collections, store.name, trash, f"{store.name}_{stamp(moment)}")
            break
        except FileExistsError:
            moment += _SECOND_NS  # the next free second
    files.sync_directory(trash)
    files.sync_directory(collections)


def deleted(name: str) -> HandleError:
    """Return the error of a handle whose collection was deleted."""
    return HandleError(
        Code.COLLECTION_DELETED, f"collection {name!r} was deleted; it is in the trash", name=name
    )


def _write_deletion(store: Store, root: Dir, actor: str | None, reason: str | None) -> None:
    files, directory = store.environment.files, store.directories.root
    deletion = DeletionFile(
        name=store.name,
        uuid=store.manifest.collection_uuid,
        deleted_ns=store.environment.clock.wall_ns(),
        actor=actor,
        reason=reason,
    )
    data = seal_json(deletion)
    drop_uncommitted_deletion(files, directory)
    try:
        write_file(files, directory, names.DELETION_FILE, [data])
    except OSError as error:
        if not is_disk_full(error):
            raise
        drop_ballast(files, root)
        try:
            write_file(files, directory, names.DELETION_FILE, [data])
        except OSError as again:
            if not is_disk_full(again):  # else it goes without: its name says when it was deleted
                raise
