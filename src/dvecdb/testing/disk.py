"""`MemoryDisk`: the table of file calls in memory, behaving as `OsFiles` does on ext4.

It keeps what is visible apart from what is durable (`volume.py`), so that `crash.py` can cut the
power at any moment, and records every operation in `log`, so that it can do so afterwards:

    disk = MemoryDisk()
    image = disk.clone()             # the state the log starts from
    ...                              # run an engine on the disk; disk.mark(...) acknowledgements
    for state in enumerate_states(disk.log, image, per_operation=8, rng=Random(1)): ...

Limits: no symbolic links, no permissions, names are single components. Inode numbers and handles
are never used twice, so that a stale one is an error. Space is counted in blocks of 4,096 bytes,
at least one for each inode, and holes count.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import TYPE_CHECKING, Final

from dvecdb.testing.handles import Handles, failure
from dvecdb.testing.nodes import BLOCK_SIZE_BYTES, DirectoryNode, FileNode, blocks_for
from dvecdb.testing.operations import (
    Allocate,
    Create,
    Damage,
    FailedSync,
    Link,
    MakeDirectory,
    Mark,
    Operation,
    Remove,
    RemoveDirectory,
    Rename,
    Sync,
    SyncDirectory,
    Truncate,
    Write,
)
from dvecdb.testing.volume import ROOT, Volume

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dvecdb.clock import Clock
    from dvecdb.media.files import Buffer, Dir, File, Stat

NAME_SIZE_BYTES_MAX: Final = 255
FILE_SIZE_BYTES_MAX: Final = 16 * 1024**4  # as on ext4 with blocks of 4,096 bytes
UNLIMITED_BYTES: Final = 1024**4  # what `free_bytes` says when there is no capacity


class MemoryDisk:
    """A disk in memory, implementing `Files`. Safe for threads; one lock guards everything.

    capacity_bytes: size of the disk, None for no limit; may be changed at any time.
    on_sync: called by every sync before it takes effect, without the lock; a delay, for example.
        Changes made while it runs are not covered by that sync.
    record: whether operations are kept in `log`, with the bytes written.
    clock: for modification times; without one, they count operations.
    drop_syncs, drop_directory_syncs: a disk that lies; the call succeeds and does nothing.
    split_renames: a rename of a file between directories is durable in each on its own.
    """

    def __init__(
        self,
        *,
        capacity_bytes: int | None = None,
        on_sync: Callable[[], object] | None = None,
        record: bool = True,
        clock: Clock | None = None,
        drop_syncs: bool = False,
        drop_directory_syncs: bool = False,
        split_renames: bool = False,
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self.on_sync = on_sync
        self.record = record
        self.log: list[Operation] = []
        self.volume = Volume()
        self.volume.drops_syncs = drop_syncs
        self.volume.drops_directory_syncs = drop_directory_syncs
        self.volume.splits_renames = split_renames
        self._clock = clock
        self._lock = threading.RLock()
        self._handles = Handles()
        self._orphans: set[int] = set()  # inodes without a name and without a handle
        self._used_blocks = 1

    # --- for tests ---------------------------------------------------------------------------

    @classmethod
    def from_tree(
        cls, tree: Mapping[str, bytes | None], *, capacity_bytes: int | None = None
    ) -> MemoryDisk:
        """Return a disk with this durable content: path to bytes, None for a directory."""
        disk = cls(capacity_bytes=capacity_bytes, record=False)
        for path, data in tree.items():
            above, _, name = path.strip("/").rpartition("/")
            parent = disk.open_root("/" + (above if data is not None else path), create=True)
            if data is not None:
                file = disk.create(parent, name)
                disk.write_at(file, [data], 0)
                disk.sync(file)
                disk.close(file)
                disk.sync_directory(parent)
            disk.close_directory(parent)
        disk.record = True
        return disk

    def clone(self) -> MemoryDisk:
        """Return an independent disk as a new process finds it: no handles, no locks, no log.

        What was not synced still is not. Copying is put off until either side writes.
        """
        with self._lock:
            return self.with_volume(self.volume.fork())

    def with_volume(self, volume: Volume) -> MemoryDisk:
        """Return a disk like this one that holds `volume`, which it owns from now on."""
        disk = MemoryDisk(
            capacity_bytes=self.capacity_bytes,
            on_sync=self.on_sync,
            record=self.record,
            clock=self._clock,
        )
        disk.volume = volume
        nameless = {inode for inode in volume.nodes if volume.link_count(inode) == 0}
        disk._orphans = volume.forget(nameless)
        held = volume.nodes.keys() - disk._orphans
        disk._used_blocks = sum(volume.block_count(inode) for inode in held)
        return disk

    @property
    def log_position(self) -> int:
        """The number of operations recorded."""
        return len(self.log)

    @property
    def handle_count(self) -> int:
        """How many handles are open, to find the ones that leak."""
        with self._lock:
            return self._handles.count

    def mark(self, value: object) -> None:
        """Record that something happened now, such as an acknowledgement."""
        with self._lock:
            self._apply(Mark(value))

    def tree(self) -> dict[str, bytes | None]:
        """Return path to bytes, None for a directory, of everything visible."""
        with self._lock:
            return self.volume.tree()

    def read_path(self, path: str) -> bytes:
        """Return the bytes of a file, by its path from the top."""
        with self._lock:
            content = self.volume.file(self.volume.find(path)).content
            return content.read(0, content.size_bytes)

    def damage(self, path: str, data: bytes) -> None:
        """Replace the stored bytes of a file, as bad media would; what was not synced is durable.

        Later reads and maps see it; a map made before keeps its bytes.
        """
        with self._lock:
            inode = self.volume.find(path)
            self._charge(inode, len(data))
            self._apply(Damage(inode, data))

    def fail_sync(self, file: File) -> None:
        """Do to `file` what a failed sync does: its changes stay visible and never get durable."""
        with self._lock:
            self._apply(FailedSync(self._handles.file(file)))

    # --- directories -------------------------------------------------------------------------

    def open_root(self, path: str, *, create: bool) -> Dir:
        """Open the directory at `path`, which is absolute or counts from the top."""
        with self._lock:
            above, _, name = path.strip("/").rpartition("/")
            if create and name:
                parent = self.open_root(above, create=True)
                try:
                    with contextlib.suppress(FileExistsError):
                        self.make_directory(parent, name)
                    self.sync_directory(parent)
                finally:
                    self.close_directory(parent)
            inode = self.volume.find(path)
            if not self._is_directory(path):
                raise failure(errno.ENOTDIR, path)
            return self._handles.open_directory(inode)

    def open_directory(self, parent: Dir, name: str) -> Dir:
        """Open an existing directory."""
        with self._lock:
            inode = self._look_up(parent, name)
            if isinstance(self.volume.nodes[inode], FileNode):
                raise failure(errno.ENOTDIR, name)
            return self._handles.open_directory(inode)

    def make_directory(self, parent: Dir, name: str) -> None:
        """Make a directory."""
        with self._lock:
            directory = self._for_new_name(parent, name)
            self._take_blocks(1)
            self._apply(MakeDirectory(directory, name, self.volume.inode_next))

    def close_directory(self, directory: Dir) -> None:
        """Close a directory handle."""
        with self._lock:
            self._release(self._handles.close_directory(directory))

    def list_names(self, directory: Dir) -> list[str]:
        """Return the names in a directory, sorted."""
        with self._lock:
            return sorted(self.volume.directory(self._handles.directory(directory)).names)

    def stat(self, directory: Dir, name: str) -> Stat | None:
        """Return what `name` is, or None."""
        with self._lock:
            try:
                return self.volume.stat(self._look_up(directory, name))
            except FileNotFoundError:
                return None

    def sync_directory(self, directory: Dir) -> None:
        """Make the names in `directory` durable."""
        with self._lock:
            inode = self._handles.directory(directory)
            before = self.volume.directory(inode).changes
        if self.on_sync is not None:
            self.on_sync()
        with self._lock:
            uncovered = self.volume.directory(inode).changes - before
            self._apply(SyncDirectory(inode, uncovered))
            if self._orphans:
                self._orphans = self.volume.forget(self._orphans)

    def free_bytes(self, directory: Dir) -> int:
        """Return the bytes that can still be written."""
        with self._lock:
            self._handles.directory(directory)
            if self.capacity_bytes is None:
                return UNLIMITED_BYTES
            return max(0, self._capacity_blocks() - self._used_blocks) * BLOCK_SIZE_BYTES

    def total_bytes(self, directory: Dir) -> int:
        """Return the size of the disk."""
        with self._lock:
            self._handles.directory(directory)
            return UNLIMITED_BYTES if self.capacity_bytes is None else self.capacity_bytes

    # --- files -------------------------------------------------------------------------------

    def create(self, directory: Dir, name: str) -> File:
        """Create a file that must not exist."""
        with self._lock:
            parent = self._for_new_name(directory, name)
            self._take_blocks(1)
            inode = self.volume.inode_next
            self._apply(Create(parent, name, inode))
            return self._handles.open_file(inode, is_writable=True)

    def open(self, directory: Dir, name: str) -> File:
        """Open an existing file for reading."""
        with self._lock:
            return self._handles.open_file(self._look_up(directory, name), is_writable=False)

    def close(self, file: File) -> None:
        """Close a file, and release its lock."""
        with self._lock:
            self._release(self._handles.close_file(file))

    def write_at(self, file: File, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all of `buffers` from `offset`. On a full disk, as much of it as fits."""
        if offset < 0:
            raise failure(errno.EINVAL, "offset")
        data = b"".join(buffers)
        if not data:
            return
        with self._lock:
            inode = self._handles.writable(file, errno.EBADF)
            content = self.volume.file(inode).content
            fitting = self._size_possible(content.size_bytes) - offset
            if fitting < len(data):
                if fitting > 0:
                    self._charge(inode, offset + fitting)
                    self._apply(Write(inode, offset, data[:fitting]))
                raise failure(errno.ENOSPC, "write")
            self._charge(inode, max(content.size_bytes, offset + len(data)))
            self._apply(Write(inode, offset, data))

    def allocate(self, file: File, offset: int, size_bytes: int) -> None:
        """Reserve space that reads as zeros."""
        with self._lock:
            self._handles.file(file)
            if offset < 0 or size_bytes <= 0:
                raise failure(errno.EINVAL, "allocate")
            inode = self._handles.writable(file, errno.EBADF)
            size_before = self.volume.file(inode).content.size_bytes
            self._charge(inode, max(size_before, offset + size_bytes))
            self._apply(Allocate(inode, offset, size_bytes))

    def truncate(self, file: File, size_bytes: int) -> None:
        """Cut a file being written."""
        with self._lock:
            inode = self._handles.writable(file, errno.EINVAL)
            if size_bytes < 0:
                raise failure(errno.EINVAL, "truncate")
            self._charge(inode, size_bytes)
            self._apply(Truncate(inode, size_bytes))

    def sync(self, file: File) -> None:
        """Make everything written to `file` durable, with its size."""
        with self._lock:
            inode = self._handles.file(file)
            before = self.volume.file(inode).changes
        if self.on_sync is not None:
            self.on_sync()
        with self._lock:
            if inode in self.volume.nodes:
                uncovered = self.volume.file(inode).changes - before
                self._apply(Sync(inode, uncovered))

    def sync_together(self, files: Sequence[File], directories: Sequence[Dir]) -> None:
        """Sync several files and directories, one after the other."""
        for file in files:
            self.sync(file)
        for directory in directories:
            self.sync_directory(directory)

    def seal(self, file: File) -> None:
        """Take away write permission; there is none to take here."""
        with self._lock:
            self._handles.file(file)

    def read_at(self, file: File, size_bytes: int, offset: int) -> bytes:
        """Return up to `size_bytes` from `offset`."""
        with self._lock:
            node = self._readable(file)
            if size_bytes < 0 or offset < 0:
                raise failure(errno.EINVAL, "read")
            return node.content.read(offset, offset + size_bytes)

    def size(self, file: File) -> int:
        """Return the size of an open file."""
        with self._lock:
            return self.volume.stat(self._handles.file(file)).size_bytes

    def map(self, file: File, size_bytes: int) -> memoryview:
        """Return a read-only view of the first `size_bytes`."""
        if size_bytes == 0:
            return memoryview(b"")
        with self._lock:
            node = self._readable(file)
            if not 0 < size_bytes <= node.content.size_bytes:
                raise failure(errno.EINVAL, "map")
            return node.content.view(size_bytes)

    def file_stat(self, file: File) -> Stat:
        """Return what an open file is."""
        with self._lock:
            return self.volume.stat(self._handles.file(file))

    def open_lock(self, directory: Dir, name: str) -> File:
        """Open the lock file, creating it if missing."""
        with self._lock:
            try:
                inode = self._look_up(directory, name)
            except FileNotFoundError:
                return self.create(directory, name)
            if isinstance(self.volume.nodes[inode], DirectoryNode):
                raise failure(errno.EISDIR, name)
            return self._handles.open_file(inode, is_writable=True)

    def try_lock(self, file: File) -> bool:
        """Take the exclusive lock; False if another handle has it."""
        with self._lock:
            return self._handles.try_lock(file)

    # --- names -------------------------------------------------------------------------------

    def rename(self, source: Dir, source_name: str, target: Dir, target_name: str) -> None:
        """Rename, refusing to replace anything."""
        with self._lock:
            inode = self._look_up(source, source_name)
            parent = self._for_new_name(target, target_name)
            above = parent
            while inode in self.volume.parents and above != ROOT:
                if above == inode:
                    raise failure(errno.EINVAL, source_name)
                above = self.volume.parents[above]
            directory = self._handles.directory(source)
            self._apply(Rename(directory, source_name, parent, target_name, inode))

    def link(self, source: Dir, source_name: str, target: Dir, target_name: str) -> None:
        """Give a file a second name."""
        with self._lock:
            inode = self._look_up(source, source_name)
            parent = self._for_new_name(target, target_name)
            if isinstance(self.volume.nodes[inode], DirectoryNode):
                raise failure(errno.EPERM, source_name)
            self._apply(Link(parent, target_name, inode))

    def remove(self, directory: Dir, name: str) -> None:
        """Remove a file name."""
        with self._lock:
            inode = self._look_up(directory, name)
            if isinstance(self.volume.nodes[inode], DirectoryNode):
                raise failure(errno.EISDIR, name)
            self._apply(Remove(self._handles.directory(directory), name, inode))
            self._release(inode)

    def remove_directory(self, parent: Dir, name: str) -> None:
        """Remove an empty directory."""
        with self._lock:
            inode = self._look_up(parent, name)
            node = self.volume.nodes[inode]
            if isinstance(node, FileNode):
                raise failure(errno.ENOTDIR, name)
            if node.names:
                raise failure(errno.ENOTEMPTY, name)
            self._apply(RemoveDirectory(self._handles.directory(parent), name, inode))
            self._release(inode)

    # --- inside, under the lock --------------------------------------------------------------

    def _apply(self, operation: Operation) -> None:
        if self._clock is not None:
            self.volume.now_ns = self._clock.wall_ns() - 1  # applying adds one
        self.volume.apply(operation)
        if self.record:
            self.log.append(operation)

    def _readable(self, handle: int) -> FileNode:
        node = self.volume.nodes[self._handles.file(handle)]
        if isinstance(node, DirectoryNode):
            raise failure(errno.EISDIR, "handle")
        return node

    def _look_up(self, directory: int, name: str) -> int:
        node = self.volume.directory(self._handles.directory(directory))
        assert name not in {".", ".."}, "a name is a single component"
        assert "/" not in name, "a name is a single component"
        if len(os.fsencode(name)) > NAME_SIZE_BYTES_MAX:
            raise failure(errno.ENAMETOOLONG, name)
        if name not in node.names:
            raise failure(errno.ENOENT, name)
        return node.names[name]

    def _for_new_name(self, directory: int, name: str) -> int:
        """Return the inode of the directory in which `name` is free."""
        inode = self._handles.directory(directory)
        with contextlib.suppress(FileNotFoundError):
            self._look_up(directory, name)
            raise failure(errno.EEXIST, name)
        if inode not in self.volume.parents or not name:
            raise failure(errno.ENOENT, name)
        return inode

    def _is_directory(self, path: str) -> bool:
        try:
            return isinstance(self.volume.nodes[self.volume.find(path)], DirectoryNode)
        except OSError:
            return False

    def _release(self, inode: int) -> None:
        """Give back the space of an inode that has neither a name nor a handle any more."""
        if not self.volume.link_count(inode) and not self._handles.is_open(inode):
            self._used_blocks -= self.volume.block_count(inode)
            self._orphans.add(inode)

    def _capacity_blocks(self) -> int:
        capacity = UNLIMITED_BYTES * 16 if self.capacity_bytes is None else self.capacity_bytes
        return capacity // BLOCK_SIZE_BYTES

    def _size_possible(self, size_bytes: int) -> int:
        """Return the size to which a file of `size_bytes` can grow."""
        free = max(0, self._capacity_blocks() - self._used_blocks)
        return (blocks_for(size_bytes) + free) * BLOCK_SIZE_BYTES

    def _take_blocks(self, count: int) -> None:
        if count > 0 and self._used_blocks + count > self._capacity_blocks():
            raise failure(errno.ENOSPC, "disk")
        self._used_blocks += count

    def _charge(self, inode: int, size_bytes: int) -> None:
        """Take or give back the space for a file that is to have `size_bytes`."""
        if size_bytes > FILE_SIZE_BYTES_MAX:
            raise failure(errno.EFBIG, "file")
        self._take_blocks(blocks_for(size_bytes) - self.volume.block_count(inode))
