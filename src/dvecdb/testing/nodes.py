"""Files and directories: what is visible, what is durable, and the changes in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import xxhash

from dvecdb.testing.operations import Allocate, Change, Truncate, Write

if TYPE_CHECKING:
    from collections.abc import Iterable

BLOCK_SIZE_BYTES: Final = 4096


def blocks_for(size_bytes: int) -> int:
    """Return the blocks that a file of `size_bytes` takes up."""
    return max(1, -(-size_bytes // BLOCK_SIZE_BYTES))


class Content:
    """The bytes of a file: `data`, then zeros up to `size_bytes`, so that reserving is free."""

    __slots__ = ("data", "size_bytes")

    def __init__(self, data: bytearray, size_bytes: int) -> None:
        self.data = data
        self.size_bytes = size_bytes

    def copy(self) -> Content:
        """Return the same bytes, independent."""
        return Content(bytearray(self.data), self.size_bytes)

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end`, fewer at the end of the file."""
        end = min(end, self.size_bytes)
        if start >= end:
            return b""
        found = bytes(self.data[start:end])
        return found + bytes(end - start - len(found))

    def write(self, offset: int, data: bytes) -> None:
        """Put `data` at `offset`, growing the file."""
        if not data:
            return
        end = offset + len(data)
        self._hold(max(end, len(self.data)))
        self.data[offset:end] = data
        self.size_bytes = max(self.size_bytes, end)

    def resize(self, size_bytes: int) -> None:
        """Cut, or fill with zeros."""
        if size_bytes < len(self.data):
            self._hold(size_bytes)
        self.size_bytes = size_bytes

    def apply(self, change: Change) -> None:
        """Do what `change` says."""
        match change:
            case Write(_, offset, data):
                self.write(offset, data)
            case Allocate(_, offset, size_bytes):
                self.resize(max(self.size_bytes, offset + size_bytes))
            case Truncate(_, size_bytes):
                self.resize(size_bytes)

    def view(self, size_bytes: int) -> memoryview:
        """Return a read-only view of the first `size_bytes`. It shows later writes in place."""
        if len(self.data) < size_bytes:
            self._hold(size_bytes)
        return memoryview(self.data).toreadonly()[:size_bytes]

    def digest(self) -> int:
        """Return a 128-bit hash of size and bytes."""
        kept = self.data.rstrip(b"\0")
        return xxhash.xxh3_128_intdigest(kept, seed=self.size_bytes & 0xFFFF_FFFF)

    def _hold(self, length: int) -> None:
        """Make `data` that long. A view pins the old bytes, which then are its own."""
        try:
            self._stretch(length)
        except BufferError:
            self.data = bytearray(self.data)
            self._stretch(length)

    def _stretch(self, length: int) -> None:
        if length < len(self.data):
            del self.data[length:]
        else:
            self.data.extend(bytes(length - len(self.data)))


class FileNode:
    """A file: `content` as seen, `durable` as on the medium, and what lies between.

    `pending` are the changes since the last sync, in order. `lost` are writes a failed sync gave
    up: visible, and on the medium only by luck.
    """

    __slots__ = (
        "changes",
        "content",
        "digest",
        "durable",
        "is_faithful",
        "lost",
        "modified_ns",
        "pending",
    )

    def __init__(self, content: Content, durable: Content) -> None:
        self.content = content
        self.durable = durable
        self.pending: list[Change] = []
        self.lost: list[Write] = []
        self.is_faithful = True  # no sync of it has failed
        self.changes = 0  # ever, for syncs that overlap writes
        self.modified_ns = 0
        self.digest: int | None = None  # of the content, while it is known

    @property
    def is_clean(self) -> bool:
        """Whether a power cut leaves exactly what is visible."""
        return self.is_faithful and not self.pending

    def copy(self) -> FileNode:
        """Return the same file, independent."""
        node = FileNode(self.content.copy(), self.durable.copy())
        node.pending = self.pending.copy()
        node.lost, node.is_faithful = self.lost.copy(), self.is_faithful
        node.changes, node.modified_ns, node.digest = self.changes, self.modified_ns, self.digest
        return node

    def change(self, change: Change) -> None:
        """Make a change, visible at once."""
        self.content.apply(change)
        self.pending.append(change)
        self.changes += 1
        self.digest = None

    def settle(self, uncovered: int) -> None:
        """Make all but the last `uncovered` changes durable."""
        for change in self._take(uncovered):
            self.durable.apply(change)
            if isinstance(change, Write) and self.lost:
                end = change.offset + len(change.data)
                self.lost = list(_outside(self.lost, change.offset, end))

    def lose(self, uncovered: int) -> None:
        """Give up all but the last `uncovered` changes: they stay visible."""
        self.is_faithful = False
        for change in self._take(uncovered):
            if isinstance(change, Write):
                end = change.offset + len(change.data)
                self.lost = [*_outside(self.lost, change.offset, end), change]

    def damage(self, data: bytes) -> None:
        """Replace what is stored, below the notice of everyone. Existing views keep theirs."""
        self.content = Content(bytearray(data), len(data))
        self.durable = Content(bytearray(data), len(data))
        self.pending, self.lost, self.is_faithful, self.digest = [], [], True, None

    def _take(self, uncovered: int) -> list[Change]:
        count = max(0, len(self.pending) - uncovered)
        taken = self.pending[:count]
        del self.pending[:count]
        return taken


class NameChange(NamedTuple):
    """One step of one directory. A rename between directories is a step of each, same serial."""

    serial: int
    removed: str | None
    added: str | None
    inode: int
    other: int | None  # the other directory of a rename that is one step


class DirectoryNode:
    """A directory: `names` as seen, `durable` as on the medium, `pending` steps between."""

    __slots__ = ("changes", "durable", "modified_ns", "names", "pending")

    def __init__(self, names: dict[str, int], durable: dict[str, int]) -> None:
        self.names = names
        self.durable = durable
        self.pending: list[NameChange] = []
        self.changes = 0
        self.modified_ns = 0

    def copy(self) -> DirectoryNode:
        """Return the same directory, independent."""
        node = DirectoryNode(self.names.copy(), self.durable.copy())
        node.pending = self.pending.copy()
        node.changes, node.modified_ns = self.changes, self.modified_ns
        return node


def step(names: dict[str, int], change: NameChange) -> None:
    """Apply one step to the names of a directory."""
    if change.removed is not None:
        names.pop(change.removed, None)
    if change.added is not None:
        names[change.added] = change.inode


def _outside(writes: Iterable[Write], start: int, end: int) -> Iterable[Write]:
    """Yield what is left of `writes` outside the bytes from `start` to `end`."""
    for write in writes:
        inode, offset, data = write
        if offset + len(data) <= start or end <= offset:
            yield write
            continue
        if offset < start:
            yield Write(inode, offset, data[: start - offset])
        if end < offset + len(data):
            yield Write(inode, end, data[end - offset :])
