"""What a disk holds, and how much of it would survive a power cut.

A `Volume` is inodes without handles, locks or errors. It is driven by operations, the same small
tuples `MemoryDisk` records, so that a recorded log can be replayed one operation at a time. Per
file it keeps what is visible, what is durable, and the changes in between; per directory likewise:

    write, allocate, truncate     visible at once; durable after a sync of the file
    create, link, rename, remove  visible at once; durable after a sync of the directory
    a failed sync of a file       its changes stay visible and never become durable

Syncing a file says nothing about its name, and syncing a directory nothing about its own name:
file systems are often kinder, and an engine must not depend on it. A rename between directories
is one step that is durable as soon as either is synced, as on every journalling file system; with
`splits_renames` it is two for files, and both directories must be synced.

What is legal after a power cut is decided in `crash.py`, from `pending` and `lost`.
"""

from __future__ import annotations

import errno
from typing import Final

import xxhash

from dvecdb.media.files import Stat
from dvecdb.testing.handles import failure
from dvecdb.testing.nodes import (
    BLOCK_SIZE_BYTES,
    Content,
    DirectoryNode,
    FileNode,
    NameChange,
    blocks_for,
    step,
)
from dvecdb.testing.operations import (
    Allocate,
    Create,
    Damage,
    FailedSync,
    Link,
    MakeDirectory,
    Mark,
    NameOperation,
    Operation,
    Remove,
    RemoveDirectory,
    Rename,
    Sync,
    SyncDirectory,
    Truncate,
    Write,
)

ROOT: Final = 1  # the inode of the top directory


class Volume:
    """All inodes of a disk. Not safe for threads; forks share inodes until one side writes."""

    def __init__(self) -> None:
        self.nodes: dict[int, FileNode | DirectoryNode] = {ROOT: DirectoryNode({}, {})}
        self.links: dict[int, int] = {}  # names of each file, as seen
        self.parents: dict[int, int] = {ROOT: ROOT}  # of each directory that has a name
        self.inode_next = ROOT + 1
        self.serial_next = 0
        self.now_ns = 0
        self.drops_syncs = False
        self.drops_directory_syncs = False
        self.splits_renames = False
        self._owned: set[int] = {ROOT}

    # --- reading -----------------------------------------------------------------------------

    def file(self, inode: int) -> FileNode:
        """Return a file, to read."""
        node = self.nodes[inode]
        assert isinstance(node, FileNode)
        return node

    def directory(self, inode: int) -> DirectoryNode:
        """Return a directory, to read."""
        node = self.nodes[inode]
        assert isinstance(node, DirectoryNode)
        return node

    def find(self, path: str) -> int:
        """Return the inode at `path` from the top. Raises `OSError`."""
        inode = ROOT
        for name in path.split("/"):
            if name in {"", "."}:
                continue
            node = self.nodes[inode]
            if isinstance(node, FileNode):
                raise failure(errno.ENOTDIR, path)
            if name not in node.names:
                raise failure(errno.ENOENT, path)
            inode = node.names[name]
        return inode

    def stat(self, inode: int) -> Stat:
        """Return what an inode is."""
        node = self.nodes[inode]
        return Stat(
            inode=inode,
            size_bytes=node.content.size_bytes if isinstance(node, FileNode) else BLOCK_SIZE_BYTES,
            link_count=self.link_count(inode),
            is_directory=isinstance(node, DirectoryNode),
            modified_ns=node.modified_ns,
        )

    def tree(self, inode: int = ROOT, above: str = "") -> dict[str, bytes | None]:
        """Return path to bytes, None for a directory, of everything visible below `inode`."""
        found: dict[str, bytes | None] = {}
        for name, child in sorted(self.directory(inode).names.items()):
            node = self.nodes[child]
            if isinstance(node, FileNode):
                found[above + name] = node.content.read(0, node.content.size_bytes)
            else:
                found[above + name] = None
                found |= self.tree(child, f"{above}{name}/")
        return found

    def digest(self, inode: int = ROOT) -> int:
        """Return a 128-bit hash of all names and bytes visible below `inode`."""
        parts = []
        for name, child in sorted(self.directory(inode).names.items()):
            node = self.nodes[child]
            if isinstance(node, DirectoryNode):
                parts.append(f"{name}/{self.digest(child):x}")
                continue
            if node.digest is None:
                node.digest = node.content.digest()
            parts.append(f"{name}={node.content.size_bytes:x}:{node.digest:x}")
        return xxhash.xxh3_128_intdigest("\0".join(parts).encode("utf-8", "surrogateescape"))

    def link_count(self, inode: int) -> int:
        """Return the names of an inode; a directory with a name counts itself and its own."""
        node = self.nodes[inode]
        if isinstance(node, FileNode):
            return self.links[inode]
        if inode not in self.parents:
            return 0
        return 2 + sum(child in self.parents for child in node.names.values())

    def block_count(self, inode: int) -> int:
        """Return the blocks that an inode takes up."""
        node = self.nodes[inode]
        return blocks_for(node.content.size_bytes) if isinstance(node, FileNode) else 1

    @property
    def is_settled(self) -> bool:
        """Whether a power cut leaves exactly what is visible."""
        return not any(
            node.pending if isinstance(node, DirectoryNode) else not node.is_clean
            for node in self.nodes.values()
        )

    # --- forking -----------------------------------------------------------------------------

    def fork(self) -> Volume:
        """Return the same volume, independent; costs little until either side writes."""
        other = Volume()
        self.share()
        other.nodes = self.nodes.copy()
        other.links = self.links.copy()
        other.parents = self.parents.copy()
        other.inherit(self)
        other._owned = set()
        return other

    def share(self) -> None:
        """Leave all inodes as they are from now on: each is copied before it changes."""
        self._owned.clear()

    def inherit(self, source: Volume) -> None:
        """Take over the counters and the manners of another volume."""
        self.inode_next, self.serial_next = source.inode_next, source.serial_next
        self.now_ns = source.now_ns
        self.drops_syncs = source.drops_syncs
        self.drops_directory_syncs = source.drops_directory_syncs
        self.splits_renames = source.splits_renames

    def rebuild(self, nodes: dict[int, FileNode | DirectoryNode], links: dict[int, int]) -> None:
        """Become these inodes, owned by someone else. Every directory in them has its names."""
        self.nodes, self.links, self._owned = nodes, links, set()
        self.parents = {ROOT: ROOT}
        for inode, node in nodes.items():
            if isinstance(node, DirectoryNode):
                for child in node.names.values():
                    if isinstance(nodes[child], DirectoryNode):
                        self.parents[child] = inode

    def forget(self, orphans: set[int]) -> set[int]:
        """Drop inodes without a name, but for those a power cut could give a name back.

        Returns those that are still needed.
        """
        wanted: set[int] = set()
        for node in self.nodes.values():
            if isinstance(node, DirectoryNode):
                wanted.update(node.durable.values())
                wanted.update(change.inode for change in node.pending)
        for inode in orphans - wanted:
            del self.nodes[inode]
            self.links.pop(inode, None)
        return orphans & wanted

    # --- changing ----------------------------------------------------------------------------

    def apply(self, operation: Operation) -> None:
        """Carry out one operation, which must be possible."""
        self.now_ns += 1
        match operation:
            case Write() | Allocate() | Truncate():
                node = self._own_file(operation.inode)
                node.change(operation)
                node.modified_ns = self.now_ns
            case Sync(inode, uncovered):
                if not self.drops_syncs and self.file(inode).pending:
                    self._own_file(inode).settle(uncovered)
            case FailedSync(inode, uncovered):
                if self.file(inode).pending:
                    self._own_file(inode).lose(uncovered)
            case SyncDirectory(inode, uncovered):
                count = len(self.directory(inode).pending) - uncovered
                if not self.drops_directory_syncs and count > 0:
                    self._settle_names(inode, count)
            case Damage(inode, data):
                self._own_file(inode).damage(data)
            case Mark():
                pass
            case _:
                self._apply_name(operation)

    def _apply_name(self, operation: NameOperation) -> None:
        match operation:
            case Create(directory, name, inode):
                self._add(inode, FileNode(Content(bytearray(), 0), Content(bytearray(), 0)))
                self.links[inode] = 1
                self._step(directory, None, name, inode)
            case MakeDirectory(directory, name, inode):
                self._add(inode, DirectoryNode({}, {}))
                self.parents[inode] = directory
                self._step(directory, None, name, inode)
            case Link(directory, name, inode):
                self.links[inode] += 1
                self._step(directory, None, name, inode)
            case Remove(directory, name, inode):
                self.links[inode] -= 1
                self._step(directory, name, None, inode)
            case RemoveDirectory(directory, name, inode):
                del self.parents[inode]
                self._step(directory, name, None, inode)
            case Rename():
                self._apply_rename(operation)

    def _apply_rename(self, rename: Rename) -> None:
        source, source_name, target, target_name, inode = rename
        if inode in self.parents:
            self.parents[inode] = target
        if source == target:
            self._step(source, source_name, target_name, inode)
            return
        one_step = inode in self.parents or not self.splits_renames
        serial = self.serial_next
        self._step(source, source_name, None, inode, other=target if one_step else None)
        self.serial_next = serial if one_step else self.serial_next
        self._step(target, None, target_name, inode, other=source if one_step else None)

    def _add(self, inode: int, node: FileNode | DirectoryNode) -> None:
        node.modified_ns = self.now_ns
        self.nodes[inode] = node
        self._owned.add(inode)
        self.inode_next = max(self.inode_next, inode + 1)

    def _step(
        self,
        directory: int,
        removed: str | None,
        added: str | None,
        inode: int,
        other: int | None = None,
    ) -> None:
        node = self._own_directory(directory)
        change = NameChange(self.serial_next, removed, added, inode, other)
        self.serial_next += 1
        step(node.names, change)
        node.pending.append(change)
        node.changes += 1
        node.modified_ns = self.now_ns

    def _settle_names(self, directory: int, count: int) -> None:
        node = self._own_directory(directory)
        settled = node.pending[:count]
        del node.pending[:count]
        for change in settled:
            step(node.durable, change)
        for change in settled:
            other = None if change.other is None else self.nodes.get(change.other)
            if isinstance(other, DirectoryNode) and change.other is not None:
                serials = [waiting.serial for waiting in other.pending]
                if change.serial in serials:
                    self._settle_names(change.other, serials.index(change.serial) + 1)

    def _own_file(self, inode: int) -> FileNode:
        node = self.file(inode)
        if inode not in self._owned:
            self.nodes[inode] = node = node.copy()
            self._owned.add(inode)
        return node

    def _own_directory(self, inode: int) -> DirectoryNode:
        node = self.directory(inode)
        if inode not in self._owned:
            self.nodes[inode] = node = node.copy()
            self._owned.add(inode)
        return node
