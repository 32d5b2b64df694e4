"""Doubles of `Files` that misbehave: calls that fail, syncs that are slow, bytes that rot.

`FailingFiles` and `SlowSync` wrap any `Files`; without a fault they change nothing. `RottenFiles`
damages a `MemoryDisk` at rest. Loss of what was not synced is in `crash.py`.

The loop that fails every call of an operation once:

    for k in itertools.count(1):
        files = FailingFiles(disk.clone(), k)
        ...                       # run it; an error must be reported and nothing be lost
        if files.calls < k:
            break                 # past the last call: nothing failed
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from typing import TYPE_CHECKING, Final, ParamSpec, Protocol, TypeVar, cast, runtime_checkable

from dvecdb.media.files import Dir, File

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from dvecdb.media.files import Buffer, Files, Stat
    from dvecdb.testing.disk import MemoryDisk

P = ParamSpec("P")
T = TypeVar("T")

READING_CALLS: Final = frozenset(
    {"open", "open_directory", "list_names", "stat", "read_at", "size", "map", "file_stat"}
    | {"free_bytes", "total_bytes"}
)
WRITING_CALLS: Final = frozenset(
    {"make_directory", "create", "write_at", "allocate", "truncate", "sync", "sync_directory"}
    | {"seal", "rename", "link", "remove", "remove_directory"}
)
FALLIBLE_CALLS: Final = READING_CALLS | WRITING_CALLS | {"open_root", "open_lock", "try_lock"}
"""Every call but the two that close; those fail only when named."""
SPACE_CALLS: Final = frozenset({"make_directory", "create", "write_at", "allocate"})
"""The calls that a full disk refuses."""


@runtime_checkable
class SyncLoss(Protocol):
    """A disk that can do to a file what a failed sync does. `MemoryDisk` is one."""

    def fail_sync(self, file: File) -> None:
        """Keep what was written visible, and never make it durable."""


class InterposedFiles:
    """`Files` that passes every call to another through `_call`, for wrappers to override."""

    def __init__(self, inner: Files) -> None:
        self.inner = inner

    def _call(
        self, _name: str, call: Callable[P, T], /, *arguments: P.args, **options: P.kwargs
    ) -> T:
        """Carry out the call that has this name."""
        return call(*arguments, **options)

    def open_root(self, path: str, *, create: bool) -> Dir:
        """Open the directory at `path`."""
        return self._call("open_root", self.inner.open_root, path, create=create)

    def open_directory(self, parent: Dir, name: str) -> Dir:
        """Open an existing directory."""
        return self._call("open_directory", self.inner.open_directory, parent, name)

    def make_directory(self, parent: Dir, name: str) -> None:
        """Make a directory."""
        self._call("make_directory", self.inner.make_directory, parent, name)

    def close_directory(self, directory: Dir) -> None:
        """Close a directory handle."""
        self._call("close_directory", self.inner.close_directory, directory)

    def list_names(self, directory: Dir) -> list[str]:
        """Return the names in a directory, sorted."""
        return self._call("list_names", self.inner.list_names, directory)

    def stat(self, directory: Dir, name: str) -> Stat | None:
        """Return what `name` is, or None."""
        return self._call("stat", self.inner.stat, directory, name)

    def create(self, directory: Dir, name: str) -> File:
        """Create a file that must not exist."""
        return self._call("create", self.inner.create, directory, name)

    def open(self, directory: Dir, name: str) -> File:
        """Open an existing file for reading."""
        return self._call("open", self.inner.open, directory, name)

    def close(self, file: File) -> None:
        """Close a file."""
        self._call("close", self.inner.close, file)

    def write_at(self, file: File, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all of `buffers` from `offset`."""
        self._call("write_at", self.inner.write_at, file, buffers, offset)

    def allocate(self, file: File, offset: int, size_bytes: int) -> None:
        """Reserve space that reads as zeros."""
        self._call("allocate", self.inner.allocate, file, offset, size_bytes)

    def truncate(self, file: File, size_bytes: int) -> None:
        """Cut a file being written."""
        self._call("truncate", self.inner.truncate, file, size_bytes)

    def sync(self, file: File) -> None:
        """Make everything written to `file` durable."""
        self._call("sync", self.inner.sync, file)

    def sync_directory(self, directory: Dir) -> None:
        """Make the names in `directory` durable."""
        self._call("sync_directory", self.inner.sync_directory, directory)

    def sync_together(self, files: Sequence[File], directories: Sequence[Dir]) -> None:
        """Sync several files and directories, one after the other."""
        for file in files:
            self.sync(file)
        for directory in directories:
            self.sync_directory(directory)

    def seal(self, file: File) -> None:
        """Take away write permission."""
        self._call("seal", self.inner.seal, file)

    def read_at(self, file: File, size_bytes: int, offset: int) -> bytes:
        """Return up to `size_bytes` from `offset`."""
        return self._call("read_at", self.inner.read_at, file, size_bytes, offset)

    def size(self, file: File) -> int:
        """Return the size of an open file."""
        return self._call("size", self.inner.size, file)

    def map(self, file: File, size_bytes: int) -> memoryview:
        """Return a read-only view of the first `size_bytes`."""
        return self._call("map", self.inner.map, file, size_bytes)

    def rename(self, source: Dir, source_name: str, target: Dir, target_name: str) -> None:
        """Rename, refusing to replace anything."""
        self._call("rename", self.inner.rename, source, source_name, target, target_name)

    def link(self, source: Dir, source_name: str, target: Dir, target_name: str) -> None:
        """Give a file a second name."""
        self._call("link", self.inner.link, source, source_name, target, target_name)

    def remove(self, directory: Dir, name: str) -> None:
        """Remove a file name."""
        self._call("remove", self.inner.remove, directory, name)

    def remove_directory(self, parent: Dir, name: str) -> None:
        """Remove an empty directory."""
        self._call("remove_directory", self.inner.remove_directory, parent, name)

    def free_bytes(self, directory: Dir) -> int:
        """Return the bytes that can still be written."""
        return self._call("free_bytes", self.inner.free_bytes, directory)

    def total_bytes(self, directory: Dir) -> int:
        """See `Files`."""
        return self._call("total_bytes", self.inner.total_bytes, directory)

    def open_lock(self, directory: Dir, name: str) -> File:
        """Open the lock file, creating it if missing."""
        return self._call("open_lock", self.inner.open_lock, directory, name)

    def try_lock(self, file: File) -> bool:
        """Take the exclusive lock; False if another has it."""
        return self._call("try_lock", self.inner.try_lock, file)

    def file_stat(self, file: File) -> Stat:
        """Return what an open file is."""
        return self._call("file_stat", self.inner.file_stat, file)

    def fail_sync(self, file: File) -> None:
        """Do what a failed sync does, if the disk below knows how."""
        if isinstance(self.inner, SyncLoss):
            self.inner.fail_sync(file)


class FailingFiles(InterposedFiles):
    """Counts calls, and makes the `fail_at`-th raise `error`. Safe for threads.

    fail_at: counted from 1 among `operations`; None never fails.
    once: only that call; otherwise that one and every later one of `operations`.
    operations: names of calls; all of `FALLIBLE_CALLS` by default.
    before: fail without effect; otherwise after the call took effect, its result being lost.
    partial_bytes: of a write that fails, how much is written first.

    A sync that fails loses what it should have saved, if the disk knows how (`fail_sync`), and
    with `before=False` has saved it. A close that fails has closed.
    """

    def __init__(
        self,
        inner: Files,
        fail_at: int | None = None,
        *,
        error: int = errno.EIO,
        once: bool = True,
        operations: Collection[str] | None = None,
        before: bool = True,
        partial_bytes: int = 0,
    ) -> None:
        super().__init__(inner)
        self.fail_at = fail_at
        self.error = error
        self.once = once
        self.operations = FALLIBLE_CALLS if operations is None else frozenset(operations)
        self.before = before
        self.partial_bytes = partial_bytes
        self.calls = 0
        self.failed: list[str] = []
        self._lock = threading.Lock()

    def _call(
        self, name: str, call: Callable[P, T], /, *arguments: P.args, **options: P.kwargs
    ) -> T:
        if not self._is_due(name):
            return call(*arguments, **options)
        if not self.before or name.startswith("close"):
            self._drop(name, call(*arguments, **options))
        elif name == "sync" and isinstance(self.inner, SyncLoss):
            self.inner.fail_sync(cast("File", arguments[0]))
        elif name == "write_at" and self.partial_bytes:
            file, buffers, offset = cast("tuple[File, Sequence[Buffer], int]", arguments)
            self.inner.write_at(file, [b"".join(buffers)[: self.partial_bytes]], offset)
        raise OSError(self.error, os.strerror(self.error), name)

    def _is_due(self, name: str) -> bool:
        if name not in self.operations:
            return False
        with self._lock:
            self.calls += 1
            if self.fail_at is None or self.calls < self.fail_at:
                return False
            if self.once and self.calls > self.fail_at:
                return False
            self.failed.append(name)
            return True

    def _drop(self, name: str, result: object) -> None:
        """Close a handle that the caller will never see."""
        with contextlib.suppress(OSError):
            if name in {"create", "open", "open_lock"}:
                self.inner.close(File(cast("int", result)))
            elif name in {"open_root", "open_directory"}:
                self.inner.close_directory(Dir(cast("int", result)))


class SlowSync(InterposedFiles):
    """Makes every sync take `seconds` longer. Writes made during the delay are not covered."""

    def __init__(self, inner: Files, seconds: float) -> None:
        super().__init__(inner)
        self.seconds = seconds

    def _call(
        self, name: str, call: Callable[P, T], /, *arguments: P.args, **options: P.kwargs
    ) -> T:
        result = call(*arguments, **options)
        if name in {"sync", "sync_directory"} and self.seconds:
            time.sleep(self.seconds)
        return result


class RottenFiles:
    """Damage to the stored bytes of a `MemoryDisk`, by path. Later reads and maps all see it.

    Offsets and sizes are in bytes and must lie in the file. What was not synced in a damaged file
    becomes durable with the damage.
    """

    def __init__(self, disk: MemoryDisk) -> None:
        self.disk = disk

    def read(self, path: str, offset: int, size_bytes: int) -> bytes:
        """Return stored bytes, to put back with `restore` later."""
        data = self.disk.read_path(path)[offset : offset + size_bytes]
        assert len(data) == size_bytes, "outside the file"
        return data

    def flip(self, path: str, offset: int, bit: int = 0) -> None:
        """Flip bit 0 to 7 of one byte. Always a change, unlike writing a constant."""
        assert 0 <= bit < 8
        self.restore(path, offset, bytes([self.read(path, offset, 1)[0] ^ 1 << bit]))

    def zero(self, path: str, offset: int, size_bytes: int) -> None:
        """Make a range zeros."""
        self.restore(path, offset, bytes(size_bytes))

    def restore(self, path: str, offset: int, older: bytes) -> None:
        """Put back what was there before: a write that was acknowledged and lost."""
        data = bytearray(self.disk.read_path(path))
        assert offset + len(older) <= len(data), "outside the file"
        data[offset : offset + len(older)] = older
        self.disk.damage(path, bytes(data))

    def truncate(self, path: str, size_bytes: int) -> None:
        """Cut a file short."""
        data = self.disk.read_path(path)
        assert size_bytes <= len(data), "outside the file"
        self.disk.damage(path, data[:size_bytes])

    def swap(
        self, path: str, offset: int, other_path: str, other_offset: int, size_bytes: int
    ) -> None:
        """Swap two blocks, within a file or between two: writes that went to the wrong place."""
        one = self.read(path, offset, size_bytes)
        two = self.read(other_path, other_offset, size_bytes)
        self.restore(path, offset, two)
        self.restore(other_path, other_offset, one)
