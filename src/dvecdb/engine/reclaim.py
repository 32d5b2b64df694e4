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

from dvecdb.engine.storage import read_file
from dvecdb.formats import names
from dvecdb.formats.framing import FormatError
from dvecdb.formats.manifest_file import decode_manifest
from dvecdb.records import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dvecdb.engine.store import Store
    from dvecdb.media.files import Dir, Files

_NANOSECONDS_PER_HOUR = 3_600_000_000_000


def reclaim(store: Store) -> None:
    """Delete what the two newest manifests of `store` do not need.

    Deletions are not synced: a file that comes back after a power cut goes the next time.

    Raises:
        OSError: as the disk says.
        HandleError: `fenced`.
    """
    newest, second = store.manifest, store.previous_manifest
    if second is None:
        return
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


def drop_partials(files: Files, directory: Dir) -> None:
    """Delete what a crash left half-written under a partial name. Raises `OSError`."""
    for name in files.list_names(directory):
        if name.startswith(names.PARTIAL):
            remove_tree(files, directory, name)


def drop_uncommitted_deletion(files: Files, collection: Dir) -> None:
    """Delete the deletion.json of a delete that never reached the trash. Raises `OSError`."""
    with contextlib.suppress(FileNotFoundError):
        files.remove(collection, names.DELETION_FILE)
        files.sync_directory(collection)


def drop_ballast(files: Files, root: Dir) -> bool:
    """Delete the ballast file; return whether there was one. Raises `OSError`."""
    try:
        files.remove(root, names.BALLAST)
    except FileNotFoundError:
        return False
    return True


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
