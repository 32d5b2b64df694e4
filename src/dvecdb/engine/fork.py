"""A new collection out of a state of another one: segments are shared, not copied.

A fork at LSN L names the same segment files under a manifest of its own. A segment that reaches
past L is linked whole; its entry says where it ends, and what lies behind does not exist for the
fork (`formats.segment_bounds`). Rows that are still in memory are written into new segments. The
fork begins a lineage of its own: its LSNs go on from L, and are not those of its origin.

Files that cannot be linked, because the target lies on another file system, are copied.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import msgspec

from dvecdb.engine.flush import memtable_content
from dvecdb.engine.manifest import check_coverage, write_first
from dvecdb.engine.segment_writer import write_segment
from dvecdb.formats import names

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from dvecdb.engine.memtable import Memtable
    from dvecdb.engine.rows import View
    from dvecdb.engine.store import Environment, Store
    from dvecdb.formats.manifest_file import SegmentEntry
    from dvecdb.media.files import Dir, File, Files
    from dvecdb.records import Epoch

_UNSYNCED_MAX: Final = 64
_COPY_BYTES: Final = 4 * 1024 * 1024
_NOT_LINKABLE: Final = {errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP}


@dataclass(frozen=True, slots=True)
class Origin:
    """The state that a fork begins with: everything of `store` as of `lsn`."""

    store: Store
    view: View
    lsn: int
    row_limit: int

    @property
    def hlc(self) -> int:
        """The time of its newest commit."""
        return self.view.hlc(self.lsn) if self.lsn else self.view.manifest.hlc


@dataclass(frozen=True, slots=True)
class Identity:
    """What the new collection is. `reason`: of its first manifest, for people."""

    uuid: UUID
    epoch: Epoch
    reason: str
    share: bool = True


@dataclass(slots=True)
class Forked:
    """What a fork took. copied_bytes: of files that could not, or should not, be shared."""

    created_ns: int
    rows_rewritten: int = 0
    copied_bytes: int = 0


def write_fork(origin: Origin, environment: Environment, root: Dir, identity: Identity) -> Forked:
    """Write a collection into the empty directory `root`; all but `root`'s own name is durable.

    Raises:
        OSError: as the disk says.
    """
    files, store = environment.files, origin.store
    forked = Forked(store.created_ns)
    for child in names.COLLECTION_DIRECTORIES:
        files.make_directory(root, child)
    segments = files.open_directory(root, names.SEGMENTS)
    try:
        with store.files_lock, UnsyncedDirectories(files) as unsynced:  # nothing goes meanwhile
            entries = []
            for segment in origin.view.segments:
                if segment.first_lsn <= origin.lsn:
                    forked.copied_bytes += take_directory(
                        files,
                        store.directories.segments,
                        segments,
                        segment.entry.directory,
                        unsynced,
                        share=identity.share,
                    ).copied_bytes
                    entries.append(_bounded(segment.entry, origin))
            unsynced.sync()
        for memtable in origin.view.memtables:
            if memtable.row_ends and memtable.first_lsn <= origin.lsn:
                entries.append(_write_memtable(origin, memtable, environment, segments, identity))
                forked.rows_rewritten += entries[-1].row_end - entries[-1].first_row
        files.sync_directory(segments)
    finally:
        files.close_directory(segments)
    _write_manifest(origin, environment, root, identity, entries)
    return forked


def _bounded(entry: SegmentEntry, origin: Origin) -> SegmentEntry:
    """Return a segment's entry, cut at the origin's LSN."""
    if entry.last_lsn <= origin.lsn:
        return entry
    return msgspec.structs.replace(
        entry,
        row_end=max(entry.first_row, min(entry.row_end, origin.row_limit)),
        last_lsn=origin.lsn,
        commits=origin.lsn - entry.first_lsn + 1 if entry.commits else 0,
    )


@dataclass(slots=True)
class Taken:
    """Files that were linked or copied: size by name, and how much of it was copied."""

    sizes: dict[str, int]
    copied_bytes: int = 0


class UnsyncedDirectories:
    """Directories with new names in them, which are made durable together."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._open: list[Dir] = []

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close what is open."""
        for directory in self._open:
            self._files.close_directory(directory)
        self._open = []

    def open(self, parent: Dir, name: str) -> Dir:
        """Open a directory to put names into. Raises `OSError`."""
        if len(self._open) >= _UNSYNCED_MAX:
            self.sync()
        self._open.append(self._files.open_directory(parent, name))
        return self._open[-1]

    def sync(self, files: Sequence[File] = (), directories: Sequence[Dir] = ()) -> None:
        """Make the names in all of them durable, and others with them. Raises `OSError`."""
        self._files.sync_together(files, [*self._open, *directories])
        self.__exit__()


def take_directory(
    files: Files, source: Dir, target: Dir, name: str, unsynced: UnsyncedDirectories, *, share: bool
) -> Taken:
    """Make a directory `name` in `target` with the files of that in `source`.

    The files are durable on return, their names when `unsynced` is synced. Raises `OSError`.
    """
    files.make_directory(target, name)
    above = files.open_directory(source, name)
    try:
        wanted = files.list_names(above)
        return take_files(files, above, unsynced.open(target, name), wanted, share=share)
    finally:
        files.close_directory(above)


def take_files(files: Files, source: Dir, target: Dir, wanted: list[str], *, share: bool) -> Taken:
    """Link files into `target`, or copy them where they cannot or should not be shared.

    Copies are durable on return, their names after `sync_directory`. Raises `OSError`.
    """
    taken = Taken({})
    for name in wanted:
        found = files.stat(source, name)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "gone meanwhile", name)
        if not (share and _link(files, source, target, name)):
            copy_file(files, source, target, name)
            taken.copied_bytes += found.size_bytes
        taken.sizes[name] = found.size_bytes
    return taken


def _link(files: Files, source: Dir, target: Dir, name: str) -> bool:
    try:
        files.link(source, name, target, name)
    except OSError as error:
        if error.errno in _NOT_LINKABLE:
            return False
        raise
    return True


def copy_file(files: Files, source: Dir, target: Dir, name: str) -> None:
    """Copy a file, durably but for its name. Raises `OSError`."""
    original = files.open(source, name)
    try:
        copy = files.create(target, name)
        try:
            offset, size = 0, files.size(original)
            while offset < size:
                piece = files.read_at(original, min(_COPY_BYTES, size - offset), offset)
                if not piece:
                    raise OSError(errno.EIO, "file became shorter while it was copied", name)
                files.write_at(copy, [piece], offset)
                offset += len(piece)
            files.sync(copy)
            files.seal(copy)
        finally:
            files.close(copy)
    finally:
        files.close(original)


def _write_memtable(
    origin: Origin, memtable: Memtable, environment: Environment, segments: Dir, identity: Identity
) -> SegmentEntry:
    """Write the commits of a memtable up to the origin's LSN as a segment."""
    files = environment.files
    content = memtable_content(memtable, origin.lsn)
    written = write_segment(
        files, segments, content, origin.store.schema, environment.new_uuid(), identity.uuid
    )
    rows = range(memtable.first_row, memtable.first_row + content.rows)
    entry = written.entry(rows, content.first_lsn, content.commits)
    files.rename(segments, written.partial_name, segments, entry.directory)
    return entry


def _write_manifest(
    origin: Origin,
    environment: Environment,
    root: Dir,
    identity: Identity,
    entries: list[SegmentEntry],
) -> None:
    before = origin.view.manifest
    manifest = msgspec.structs.replace(
        before,
        generation=1,
        epoch=int(identity.epoch),
        collection_uuid=str(identity.uuid),
        lineage=str(environment.new_uuid()),
        parent_lineage=before.lineage,
        parent_lsn=origin.lsn,
        parent_digest=None,
        reason=identity.reason,
        created_ns=environment.clock.wall_ns(),
        segments=sorted(entries, key=lambda item: (item.last_lsn, item.commits > 0)),
        flushed_lsn=origin.lsn,
        flushed_hash=0,
        row_end=origin.row_limit,
        hlc=origin.hlc,
    )
    check_coverage(manifest)
    unknown = origin.store.manifest_unknown
    write_first(environment.files, root, manifest, origin.store.created_ns, unknown)
