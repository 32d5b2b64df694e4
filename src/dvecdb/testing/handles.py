"""The handles of a process on a disk in memory, and the locks that belong to them."""

from __future__ import annotations

import errno
import os
from typing import Final, NamedTuple

from dvecdb.media.files import Dir, File

_HANDLE_FIRST: Final = 3


def failure(code: int, what: str) -> OSError:
    """Return the error that the operating system would raise, of the right subclass."""
    return OSError(code, os.strerror(code), what)


class _OpenFile(NamedTuple):
    inode: int
    is_writable: bool


class Handles:
    """Open files and directories. A handle is never used twice, so a stale one is an error."""

    def __init__(self) -> None:
        self._directories: dict[int, int] = {}  # handle to inode
        self._files: dict[int, _OpenFile] = {}
        self._locks: dict[int, int] = {}  # inode to the handle that holds the lock
        self._next = _HANDLE_FIRST

    @property
    def count(self) -> int:
        """How many handles are open, to find the ones that leak."""
        return len(self._directories) + len(self._files)

    def open_directory(self, inode: int) -> Dir:
        """Return a new handle on a directory."""
        handle = Dir(self._take())
        self._directories[handle] = inode
        return handle

    def open_file(self, inode: int, *, is_writable: bool) -> File:
        """Return a new handle on a file."""
        handle = File(self._take())
        self._files[handle] = _OpenFile(inode, is_writable)
        return handle

    def directory(self, handle: int) -> int:
        """Return the inode of an open directory."""
        if handle in self._files:
            raise failure(errno.ENOTDIR, "handle")
        if handle not in self._directories:
            raise failure(errno.EBADF, "handle")
        return self._directories[handle]

    def file(self, handle: int) -> int:
        """Return the inode of an open file."""
        if handle not in self._files:
            raise failure(errno.EBADF, "handle")
        return self._files[handle].inode

    def writable(self, handle: int, refusal: int) -> int:
        """Return the inode of a file open for writing; `refusal` is the errno if it is not."""
        inode = self.file(handle)
        if not self._files[handle].is_writable:
            raise failure(refusal, "handle")
        return inode

    def close_directory(self, handle: int) -> int:
        """Close a handle and return its inode."""
        inode = self.directory(handle)
        del self._directories[handle]
        return inode

    def close_file(self, handle: int) -> int:
        """Close a handle, releasing its lock, and return its inode."""
        inode = self.file(handle)
        del self._files[handle]
        if self._locks.get(inode) == handle:
            del self._locks[inode]
        return inode

    def try_lock(self, handle: int) -> bool:
        """Take the lock of a file; False if another handle has it."""
        return self._locks.setdefault(self.file(handle), handle) == handle

    def is_open(self, inode: int) -> bool:
        """Return whether any handle is on `inode`."""
        return inode in self._directories.values() or any(
            opened.inode == inode for opened in self._files.values()
        )

    def _take(self) -> int:
        self._next += 1
        return self._next - 1
