"""What happens to a disk, as small tuples: `MemoryDisk` records them, `Volume` carries them out.

Files and directories are named by inode number, so that an operation means the same whatever
happened to names in between.
"""

from __future__ import annotations

from typing import NamedTuple


class Create(NamedTuple):
    """A new file."""

    directory: int
    name: str
    inode: int


class MakeDirectory(NamedTuple):
    """A new directory."""

    directory: int
    name: str
    inode: int


class Link(NamedTuple):
    """Another name of a file."""

    directory: int
    name: str
    inode: int


class Remove(NamedTuple):
    """One name of a file less."""

    directory: int
    name: str
    inode: int


class RemoveDirectory(NamedTuple):
    """An empty directory less."""

    directory: int
    name: str
    inode: int


class Rename(NamedTuple):
    """A file or directory moved to a name that was free."""

    source: int
    source_name: str
    target: int
    target_name: str
    inode: int


class Write(NamedTuple):
    """Bytes put at an offset."""

    inode: int
    offset: int
    data: bytes


class Allocate(NamedTuple):
    """Zeros up to `offset + size_bytes`, if the file was shorter."""

    inode: int
    offset: int
    size_bytes: int


class Truncate(NamedTuple):
    """A new size, cut or filled with zeros."""

    inode: int
    size_bytes: int


class Sync(NamedTuple):
    """A file made durable, but for its last `uncovered` changes, made while the sync ran."""

    inode: int
    uncovered: int = 0


class FailedSync(NamedTuple):
    """A sync that failed: what it covered is visible, counts as clean and is not durable."""

    inode: int
    uncovered: int = 0


class SyncDirectory(NamedTuple):
    """The names of a directory made durable, but for the last `uncovered` changes of them."""

    inode: int
    uncovered: int = 0


class Damage(NamedTuple):
    """Bytes that changed on the medium: the whole new content of a file, durable at once."""

    inode: int
    data: bytes


class Mark(NamedTuple):
    """Something the test wants to know the time of, such as an acknowledgement."""

    value: object


Change = Write | Allocate | Truncate
NameOperation = Create | MakeDirectory | Link | Remove | RemoveDirectory | Rename
Operation = Change | NameOperation | Sync | FailedSync | SyncDirectory | Damage | Mark
