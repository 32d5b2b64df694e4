"""The only module that deletes local files, and only what no root needs.

Roots of a collection are its two newest manifests. A file goes when neither names it and either
an older manifest that is going away named it, or nothing has named it for `orphan_age_hours`.
A log file goes when the commits in it are flushed according to the *second* newest manifest, so a
damaged newest manifest costs nothing.

The right to write is checked between looking and deleting: what a process that slept through a
takeover finds here may be another's, and it knows none of its manifests.
"""

from __future__ import annotations

import contextlib
from itertools import pairwise
from typing import TYPE_CHECKING

from dvecdb.engine.storage import close_quietly, read_file
from dvecdb.formats import names
from dvecdb.formats.framing import FormatError
from dvecdb.formats.manifest_file import decode_manifest
from dvecdb.records import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dvecdb.engine.store import Store
    from dvecdb.formats.manifest_file import Manifest
    from dvecdb.media.files import Dir, Files

_NANOSECONDS_PER_HOUR = 3_600_000_000_000


def reclaim(store: Store) -> None:
    """Delete what the two newest manifests of `store` do not need.

    Deletions are not synced: a file that comes back after a power cut goes the next time.

    Raises:
        OSError: as the disk says.
        HandleError: `fenced`.
    """
    if store.previous_manifest is None or not store.files_lock.acquire(blocking=False):
        return  # files are being linked: another time
    try:
        _reclaim(store, store.manifest, store.previous_manifest)
    finally:
        store.files_lock.release()


def _reclaim(store: Store, newest: Manifest, second: Manifest) -> None:
    files, directories = store.environment.files, store.directories
    named = {entry.directory for entry in [*newest.segments, *second.segments]}
    with store.commit_lock:  # a bulk segment gets its name and enters the view under it
        present = files.list_names(directories.segments)
        kept = named | {segment.entry.directory for segment in store.view.segments}
    for name in files.list_names(directories.manifests):
        generation = names.parse_manifest_name(name)
        if generation is not None and generation < second.generation:
            _drop_manifest(store, name, kept)
    _drop_logs(store, second.flushed_lsn)
    _drop_orphans(store, [name for name in present if name not in kept])
    _drop_derived(store)


def _drop_manifest(store: Store, name: str, kept: set[str]) -> None:
    """Delete an old manifest after the segments that only it named."""
    files, directories = store.environment.files, store.directories
    try:
        old = decode_manifest(read_file(files, directories.manifests, name)).manifest
        for entry in old.segments:
            if entry.directory not in kept:
                store.environment.check_right()
                remove_tree(files, directories.segments, entry.directory)
    except FormatError:
        pass  # damaged and superseded: what only it named goes as an orphan
    store.environment.check_right()
    files.remove(directories.manifests, name)


def _drop_logs(store: Store, flushed_lsn: int) -> None:
    files, directory = store.environment.files, store.directories.wal
    logs = sorted(
        (parsed, name)
        for name in files.list_names(directory)
        if (parsed := names.parse_wal_name(name))
    )
    for (_, name), ((_, next_first), _) in pairwise(logs):
        if next_first - 1 > flushed_lsn:
            break
        store.environment.check_right()
        files.remove(directory, name)


def _drop_orphans(store: Store, orphans: Sequence[str]) -> None:
    """Delete old segments that nothing names, and name the young ones."""
    files, directory = store.environment.files, store.directories.segments
    hours = store.environment.settings.orphan_age_hours
    now = store.environment.clock.wall_ns()
    for name in orphans:
        found = files.stat(directory, name)
        if found is None or names.parse_segment_name(name) is None:
            continue  # partial names may be in use; they go when the directory is opened
        if now - found.modified_ns >= hours * _NANOSECONDS_PER_HOUR:
            store.environment.check_right()
            remove_tree(files, directory, name)
        else:
            where = f"segments/{name}"
            message = (
                f"{where}: named by no manifest and no log; it goes {hours} h after it was written"
            )
            store.report(Finding("orphan-segment", store.name, where, message))


def drop_unnamed_segment(store: Store, name: str) -> None:
    """Delete a segment that just got its name, and for whose manifest there is no room."""
    with contextlib.suppress(OSError):
        remove_tree(store.environment.files, store.directories.segments, name)


def _drop_derived(store: Store) -> None:
    files, directory = store.environment.files, store.directories.derived
    used = {run.name for run in store.view.runs}
    for name in files.list_names(directory):
        if names.parse_lookup_name(name) is not None and name not in used:
            store.environment.check_right()
            files.remove(directory, name)


def drop_index_files(store: Store) -> None:
    """Delete the index files that the published index has replaced. Raises `OSError`."""
    files, directory, index = store.environment.files, store.directories.derived, store.index
    for name in files.list_names(directory):
        if names.parse_index_name(name) is not None and (index is None or name != index.name):
            store.environment.check_right()
            files.remove(directory, name)


def drop_partials(files: Files, directory: Dir) -> None:
    """Delete what a crash left half-written under a partial name. Raises `OSError`."""
    for name in files.list_names(directory):
        if name.startswith(names.PARTIAL):
            remove_tree(files, directory, name)


def tidy_entries(files: Files, root: Dir, parent: str) -> None:
    """Delete what a crash left half-written in `.deleted` or `.backups`, and in what is there.

    What a killed process put there is durable then. Raises `OSError`.
    """
    try:
        above = files.open_directory(root, parent)
    except (FileNotFoundError, NotADirectoryError):  # links are not followed
        return
    try:
        files.sync_directory(above)
        drop_partials(files, above)
        for name in files.list_names(above):
            if names.parse_stamped_name(name) is None or not _is_directory(files, above, name):
                continue
            directory = files.open_directory(above, name)
            try:
                drop_partials(files, directory)
            finally:
                files.close_directory(directory)
    finally:
        files.close_directory(above)


def _is_directory(files: Files, parent: Dir, name: str) -> bool:
    found = files.stat(parent, name)
    return found is not None and found.is_directory


def drop_uncommitted_deletion(files: Files, collection: Dir) -> None:
    """Delete the deletion.json of a delete that never reached the trash. Raises `OSError`."""
    with contextlib.suppress(FileNotFoundError):
        files.remove(collection, names.DELETION_FILE)
        files.sync_directory(collection)


def drop_backup_file(files: Files, collection: Dir) -> None:
    """Delete the backup.json of a backup that has become a collection. Raises `OSError`."""
    files.remove(collection, names.BACKUP_FILE)
    files.sync_directory(collection)


def keep_ballast(files: Files, root: Dir, size: int) -> None:
    """Make the ballast file of `size` bytes if there is none and there is room for it."""
    if not size or files.stat(root, names.BALLAST) is not None:
        return
    with contextlib.suppress(OSError):
        file = files.create(root, names.BALLAST)
        try:
            files.allocate(file, 0, size)
        except OSError:
            drop_ballast(files, root)
        finally:
            close_quietly(files, file)


def drop_ballast(files: Files, root: Dir) -> bool:
    """Delete the ballast file; return whether there was one. Raises `OSError`."""
    try:
        files.remove(root, names.BALLAST)
    except FileNotFoundError:
        return False
    return True


def drop_verifications(files: Files, backup: Dir, old: Sequence[str]) -> None:
    """Delete what a newer verification of a backup has replaced. Raises `OSError`."""
    for name in old:
        files.remove(backup, name)


def set_apart(files: Files, parent: Dir, name: str) -> str:
    """Give a directory a partial name, durably, before it is deleted; return that.

    So it is whole or gone: what a crash leaves of it goes when the data directory is opened.

    Raises:
        FileNotFoundError: it is not there.
        OSError: as the disk says.
    """
    partial = names.PARTIAL + name
    remove_tree(files, parent, partial)
    files.rename(parent, name, parent, partial)
    files.sync_directory(parent)
    return partial


def remove_tree(files: Files, parent: Dir, name: str) -> None:
    """Delete a file, or a directory with all that is in it. Raises `OSError`."""
    found = files.stat(parent, name)
    if found is None:
        return
    if not found.is_directory:
        files.remove(parent, name)
        return
    directory = files.open_directory(parent, name)
    try:
        for child in files.list_names(directory):
            remove_tree(files, directory, child)
    finally:
        files.close_directory(directory)
    files.remove_directory(parent, name)


def own_bytes(files: Files, parent: Dir, name: str) -> int:
    """Return the bytes that deleting a file or directory frees: of files with no other name."""
    found = files.stat(parent, name)
    if found is None:
        return 0
    if not found.is_directory:
        return found.size_bytes if found.link_count == 1 else 0
    directory = files.open_directory(parent, name)
    try:
        return sum(own_bytes(files, directory, child) for child in files.list_names(directory))
    finally:
        files.close_directory(directory)
