"""Where bytes live: the one table of file calls that everything above goes through.

`Files` is the interface, `OsFiles` the production implementation; `dvecdb.testing.disk`, `crash`
and `faults` hold the doubles: a disk that records and forgets, one that fails, one that rots.
Rules the interface enforces by not offering anything else:

* Directories are handles. Names are single components relative to a handle, never paths, so an
  open collection keeps working on its own directory whatever happens to names above it.
* No existing file can be opened for writing. `create` is exclusive; a written file is sealed.
  The one exception is `lock`, whose file carries a few hundred bytes rewritten by its holder.
* Writing is positional (`write_at`), whole (short writes are looped), and never implies a sync.
* A handle is an int. Every method raises `OSError` and nothing else; the caller classifies.
* `map` gives a read-only view of bytes; whoever serves from it verifies them first, and hands the
  view back to nobody: it stays valid after the file is removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import stat as stat_module
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, NewType, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Dir = NewType("Dir", int)  # an open directory
File = NewType("File", int)  # an open file

Buffer = bytes | bytearray | memoryview
Mapped = bytes | bytearray | mmap.mmap
"""What a view that `map` returns is of (its `obj`): bytes that can be searched, whole or mapped."""

_LARGE_BYTES: Final = 2 * 1024 * 1024  # writes from here on go out piece by piece
_PIECE_BYTES: Final = 1024 * 1024
_SYNC_FILE_RANGE_WRITE: Final = 2
_WRITE_VECTOR_COUNT_MAX: Final = 512  # below IOV_MAX (1024) on Linux and macOS
_SYNC_THREADS_MAX: Final = 16
_RENAME_NOREPLACE: Final = 1


@dataclass(frozen=True, slots=True)
class Stat:
    """What is known of a name. `inode` identifies the file however it is called.

    is_special: it is neither a file nor a directory, but a link, a pipe, a socket or a device.
    """

    inode: int
    size_bytes: int
    link_count: int
    is_directory: bool
    modified_ns: int
    is_special: bool = False


class Files(Protocol):
    """The file calls of dvecdb. Every method may raise `OSError`."""

    def open_root(self, path: str, *, create: bool) -> Dir:
        """Open the directory at `path`; with `create`, make it and its parents durable first.

        The parents are synced also where they exist: a killed process may have made them.
        """

    def open_directory(self, parent: Dir, name: str) -> Dir:
        """Open an existing directory."""

    def make_directory(self, parent: Dir, name: str) -> None:
        """Make a directory. Durable after `sync_directory(parent)`. `FileExistsError` if taken."""

    def close_directory(self, directory: Dir) -> None:
        """Close a directory handle."""

    def list_names(self, directory: Dir) -> list[str]:
        """Return the names in a directory, sorted."""

    def stat(self, directory: Dir, name: str) -> Stat | None:
        """Return what `name` is, or None if there is no such name. Does not follow links."""

    def create(self, directory: Dir, name: str) -> File:
        """Create a file that must not exist and open it for writing and reading."""

    def open(self, directory: Dir, name: str) -> File:
        """Open an existing file for reading."""

    def close(self, file: File) -> None:
        """Close a file."""

    def write_at(self, file: File, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all of `buffers` one after the other from `offset`. Not durable."""

    def allocate(self, file: File, offset: int, size_bytes: int) -> None:
        """Reserve space that reads as zeros, growing the file. `ENOSPC` before anything is used."""

    def truncate(self, file: File, size_bytes: int) -> None:
        """Cut a file being written to `size_bytes`."""

    def sync(self, file: File) -> None:
        """Make everything written to `file` durable, with its size. Works on read handles too."""

    def sync_directory(self, directory: Dir) -> None:
        """Make the names in `directory` durable."""

    def sync_together(self, files: Sequence[File], directories: Sequence[Dir]) -> None:
        """Sync several files and directories, in any order. Raises if one of them fails."""

    def seal(self, file: File) -> None:
        """Take away write permission from a finished file."""

    def read_at(self, file: File, size_bytes: int, offset: int) -> bytes:
        """Return up to `size_bytes` from `offset`; fewer only at the end of the file."""

    def size(self, file: File) -> int:
        """Return the size of an open file."""

    def map(self, file: File, size_bytes: int) -> memoryview:
        """Return a read-only view of the first `size_bytes`, which must be in the file."""

    def rename(self, source: Dir, source_name: str, target: Dir, target_name: str) -> None:
        """Rename, refusing to replace anything (`FileExistsError`). Durable after both syncs."""

    def link(self, source: Dir, source_name: str, target: Dir, target_name: str) -> None:
        """Give a file a second name. Durable after `sync_directory(target)`."""

    def remove(self, directory: Dir, name: str) -> None:
        """Remove a file name."""

    def remove_directory(self, parent: Dir, name: str) -> None:
        """Remove an empty directory."""

    def free_bytes(self, directory: Dir) -> int:
        """Return the bytes an unprivileged user can still write."""

    def total_bytes(self, directory: Dir) -> int:
        """Return the size of the file system that `directory` is on."""

    def open_lock(self, directory: Dir, name: str) -> File:
        """Open the lock file, creating it if missing, without taking the lock."""

    def try_lock(self, file: File) -> bool:
        """Take the exclusive lock for as long as the file is open; False if another has it."""

    def file_stat(self, file: File) -> Stat:
        """Return what an open file is, whatever its name does."""


class OsFiles:
    """`Files` on the operating system."""

    def open_root(self, path: str, *, create: bool) -> Dir:
        """Open the directory at `path`."""
        parent, name = os.path.split(os.path.abspath(path))
        if create and name:
            self._make_durable(parent, name, path)
        return Dir(os.open(path, os.O_RDONLY | os.O_DIRECTORY))

    def _make_durable(self, parent: str, name: str, path: str) -> None:
        """Make sure that `name` in `parent` is there and durable, whoever made it."""
        try:
            above = self.open_root(parent, create=True)
        except PermissionError:
            if os.path.isdir(path):
                return  # below a directory that is not ours to read, so we did not make it either
            raise
        try:
            with contextlib.suppress(FileExistsError):
                self.make_directory(above, name)
            self.sync_directory(above)
        finally:
            self.close_directory(above)

    def open_directory(self, parent: Dir, name: str) -> Dir:
        """Open an existing directory."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        return Dir(os.open(name, flags, dir_fd=parent))

    def make_directory(self, parent: Dir, name: str) -> None:
        """Make a directory."""
        os.mkdir(name, 0o755, dir_fd=parent)

    def close_directory(self, directory: Dir) -> None:
        """Close a directory handle."""
        os.close(directory)

    def list_names(self, directory: Dir) -> list[str]:
        """Return the names in a directory, sorted."""
        return sorted(os.listdir(directory))

    def stat(self, directory: Dir, name: str) -> Stat | None:
        """Return what `name` is, or None."""
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return _stat(found)

    def create(self, directory: Dir, name: str) -> File:
        """Create a file that must not exist."""
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
        return File(os.open(name, flags, 0o644, dir_fd=directory))

    def open(self, directory: Dir, name: str) -> File:
        """Open an existing file for reading."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe in its place does not block
        return File(os.open(name, flags, dir_fd=directory))

    def close(self, file: File) -> None:
        """Close a file."""
        os.close(file)

    def write_at(self, file: File, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all of `buffers` from `offset`."""
        if offset < 0:  # which the system takes for the file's position
            raise OSError(errno.EINVAL, "negative offset")
        pending = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
        is_large = sum(buffer.nbytes for buffer in pending) >= _LARGE_BYTES
        while pending:
            group = _beginning(pending) if is_large else pending[:_WRITE_VECTOR_COUNT_MAX]
            written = os.pwritev(file, group, offset)
            if written <= 0:
                raise OSError(errno.EIO, "write made no progress")
            if is_large:
                _start_writing(file, offset, written)
            offset += written
            while pending and written >= pending[0].nbytes:
                written -= pending.pop(0).nbytes
            if written:
                pending[0] = pending[0][written:]

    def allocate(self, file: File, offset: int, size_bytes: int) -> None:
        """Reserve space that reads as zeros."""
        os.posix_fallocate(file, offset, size_bytes)

    def truncate(self, file: File, size_bytes: int) -> None:
        """Cut a file being written."""
        os.ftruncate(file, size_bytes)

    def sync(self, file: File) -> None:
        """Make everything written to `file` durable, with its size."""
        if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: fsync alone stops at the drive's cache
            fcntl.fcntl(file, fcntl.F_FULLFSYNC)
        else:
            os.fdatasync(file)

    def sync_directory(self, directory: Dir) -> None:
        """Make the names in `directory` durable."""
        os.fsync(directory)

    def sync_together(self, files: Sequence[File], directories: Sequence[Dir]) -> None:
        """Sync several files and directories: at once, so that they share what the disk does."""
        syncs = [partial(self.sync, file) for file in files]
        syncs += [partial(self.sync_directory, directory) for directory in directories]
        if len(syncs) < 2:
            for sync in syncs:
                sync()
            return
        own, *others = syncs
        with ThreadPoolExecutor(min(len(others), _SYNC_THREADS_MAX), "dvecdb-sync") as pool:
            started = [pool.submit(sync) for sync in others]
            own()
        for item in started:
            item.result()

    def seal(self, file: File) -> None:
        """Take away write permission."""
        os.fchmod(file, 0o444)

    def read_at(self, file: File, size_bytes: int, offset: int) -> bytes:
        """Return up to `size_bytes` from `offset`."""
        data = os.pread(file, size_bytes, offset)
        while 0 < len(data) < size_bytes:
            more = os.pread(file, size_bytes - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def size(self, file: File) -> int:
        """Return the size of an open file."""
        return os.fstat(file).st_size

    def map(self, file: File, size_bytes: int) -> memoryview:
        """Return a read-only view of the first `size_bytes`."""
        if size_bytes == 0:
            return memoryview(b"")
        if not 0 < size_bytes <= os.fstat(file).st_size:
            raise OSError(errno.EINVAL, "map beyond the end of the file")
        return memoryview(mmap.mmap(file, size_bytes, prot=mmap.PROT_READ))

    def rename(self, source: Dir, source_name: str, target: Dir, target_name: str) -> None:
        """Rename, refusing to replace anything."""
        code = _renameat2(source, os.fsencode(source_name), target, os.fsencode(target_name))
        if code in {errno.ENOSYS, errno.EINVAL}:  # a file system or kernel without the flag
            if self.stat(target, target_name) is not None:
                code = errno.EEXIST
            else:
                os.rename(source_name, target_name, src_dir_fd=source, dst_dir_fd=target)
                return
        if code:
            raise OSError(code, os.strerror(code), source_name, None, target_name)

    def link(self, source: Dir, source_name: str, target: Dir, target_name: str) -> None:
        """Give a file a second name."""
        os.link(source_name, target_name, src_dir_fd=source, dst_dir_fd=target)

    def remove(self, directory: Dir, name: str) -> None:
        """Remove a file name."""
        os.unlink(name, dir_fd=directory)

    def remove_directory(self, parent: Dir, name: str) -> None:
        """Remove an empty directory."""
        os.rmdir(name, dir_fd=parent)

    def free_bytes(self, directory: Dir) -> int:
        """Return the bytes an unprivileged user can still write."""
        found = os.fstatvfs(directory)
        return found.f_bavail * found.f_frsize

    def total_bytes(self, directory: Dir) -> int:
        """Return the size of the file system."""
        found = os.fstatvfs(directory)
        return found.f_blocks * found.f_frsize

    def open_lock(self, directory: Dir, name: str) -> File:
        """Open the lock file, creating it if missing."""
        return File(os.open(name, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o644, dir_fd=directory))

    def try_lock(self, file: File) -> bool:
        """Take the exclusive lock; False if another has it."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def file_stat(self, file: File) -> Stat:
        """Return what an open file is."""
        return _stat(os.fstat(file))


def absolute_paths(path: str) -> tuple[str, str]:
    """Return `path` as an absolute path: as it was given, and without links."""
    return os.path.abspath(path), os.path.realpath(path)


def _find_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Return Linux's `sync_file_range`, which the standard library does not have."""
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


_sync_file_range: Final = _find_sync_file_range()


def _beginning(buffers: Sequence[memoryview]) -> list[memoryview]:
    """Return the first bytes of `buffers`, up to a piece."""
    group: list[memoryview] = []
    room = _PIECE_BYTES
    for buffer in buffers[:_WRITE_VECTOR_COUNT_MAX]:
        group.append(buffer[:room])
        room -= group[-1].nbytes
        if not room:
            break
    return group


def _start_writing(file: File, offset: int, size_bytes: int) -> None:
    """Let the disk begin with a part while the next is copied. A hint: `sync` is what counts.

    A failure is not lost: the kernel keeps it for the next sync of the file.
    """
    if _sync_file_range is not None:
        _sync_file_range(file, offset, size_bytes, _SYNC_FILE_RANGE_WRITE)


def _stat(found: os.stat_result) -> Stat:
    return Stat(
        inode=found.st_ino,
        size_bytes=found.st_size,
        link_count=found.st_nlink,
        is_directory=stat_module.S_ISDIR(found.st_mode),
        modified_ns=found.st_mtime_ns,
        is_special=not (stat_module.S_ISREG(found.st_mode) or stat_module.S_ISDIR(found.st_mode)),
    )


_rename_call: Final = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def _renameat2(source: int, source_name: bytes, target: int, target_name: bytes) -> int:
    """Rename without replacing; return 0 or an errno. The standard library has no such call."""
    function = _rename_call
    if function is None:
        return errno.ENOSYS
    if function(source, source_name, target, target_name, _RENAME_NOREPLACE) == 0:
        return 0
    return ctypes.get_errno()
