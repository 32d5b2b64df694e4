"""Power cuts: which disks may be left when the power goes, under a weak model of POSIX.

    file        what was synced is there; of the changes since, any subset of 512-byte sectors, in
                the version of any moment, and any size on the way
    directory   what was synced is there; of the steps since, a prefix, for each directory on its
                own, but a rename between two is kept by both or by neither; `Names.SUBSET` is
                weaker still: any steps that make sense together
    both        a name may survive without bytes and bytes without a name; a directory whose name
                is lost takes everything below it along

The model never loses or tears what was synced, never invents bytes (space without data reads as
zeros), and writes a sector whole. Lying disks are options of `MemoryDisk`; for an engine with its
steps in the wrong order there is `sync_after_rename`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from dvecdb.testing.nodes import Content, DirectoryNode, FileNode, step
from dvecdb.testing.operations import Allocate, Mark, Rename, Sync, Truncate, Write
from dvecdb.testing.volume import ROOT, Volume

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from random import Random

    from dvecdb.testing.disk import MemoryDisk
    from dvecdb.testing.nodes import NameChange
    from dvecdb.testing.operations import Change, Operation

SECTOR_SIZE_BYTES: Final = 512


class Data(StrEnum):
    """What is left of the changes of a file since its last sync."""

    ALL = "all"
    NONE = "none"
    PREFIX = "prefix"
    """The first changes, in order."""
    SUBSET = "subset"
    """Each write whole, or not at all."""
    TORN = "torn"
    """Each sector of each write, or not."""
    SIZE_ONLY = "size-only"
    """The size, with zeros for what was added."""
    DATA_ONLY = "data-only"
    """The bytes, as far as the old size reaches."""


class Names(StrEnum):
    """What is left of the steps of the directories since their last syncs."""

    ALL = "all"
    NONE = "none"
    PREFIX = "prefix"
    """Of each directory the first steps, in order."""
    SUBSET = "subset"
    """Any steps that make sense together. Weaker than any journalling file system."""


@dataclass(frozen=True, slots=True)
class CrashState:
    """One disk that a power cut may leave.

    position: operations of the log that had begun; the last one may be half done.
    marks: values of all marks before that; what they promise must hold on `disk`.
    style: how the state was made, for the message of a failing test.
    """

    position: int
    marks: tuple[object, ...]
    style: str
    disk: MemoryDisk


def crash(
    disk: MemoryDisk, rng: Random, *, data: Data | None = None, names: Names | None = None
) -> MemoryDisk:
    """Return a disk that a power cut now may leave. `disk` goes on unharmed.

    data, names: what to keep; None draws, for each file on its own. Everything on the disk that
    is returned is durable.
    """
    return disk.with_volume(survivors(disk.clone().volume, rng, data=data, names=names))


def kill(disk: MemoryDisk) -> MemoryDisk:
    """Return the disk as the next process finds it after this one was killed.

    All writes are visible, all handles and locks are gone, and what was not synced still is not:
    it may be lost in a later power cut unless the next process syncs it.
    """
    return disk.clone()


def replay(image: MemoryDisk, log: Sequence[Operation], position: int | None = None) -> MemoryDisk:
    """Return `image` after the operations of `log` before `position`, all by default."""
    disk = image.clone()
    for operation in log[:position]:
        disk.volume.apply(operation)
    return disk.clone()


def sync_after_rename(log: Sequence[Operation], *, delay: int = 0) -> list[Operation]:
    """Return `log` as if the engine had renamed files before it synced them: a control.

    A sync whose file is renamed next takes effect `delay` operations after the rename.
    """
    late = {index for index in range(len(log)) if _is_renamed_next(log, index)}
    moved: list[Operation] = []
    waiting: dict[int, Operation] = {}  # inode to sync
    due: list[tuple[int, Operation]] = []  # operations still to come before it, sync
    for index, operation in enumerate(log):
        if index in late and isinstance(operation, Sync):
            waiting[operation.inode] = operation
            continue
        moved.append(operation)
        if isinstance(operation, Rename) and operation.inode in waiting:
            due.append((delay + 1, waiting.pop(operation.inode)))
        due = [(count - 1, sync) for count, sync in due]
        moved += [sync for count, sync in due if count == 0]
        due = [(count, sync) for count, sync in due if count > 0]
    return moved + [sync for _, sync in due]


def enumerate_states(
    log: Sequence[Operation],
    image: MemoryDisk,
    *,
    per_operation: int,
    rng: Random,
    weak: bool = False,
) -> Iterator[CrashState]:
    """Yield disks that a power cut may leave, before each operation of `log` and after the last.

    image: the disk that the log starts from; it is not changed.
    per_operation: how many states are tried at each position, the four extremes first. A tree
        that was already yielded with the same marks is left out, so fewer may come.
    weak: draw names with `Names.SUBSET` as well.
    """
    tracked = image.clone().volume
    marks: tuple[object, ...] = ()
    seen: set[int] = set()
    for position in range(len(log) + 1):
        if position:
            operation = log[position - 1]
            tracked.apply(operation)
            if isinstance(operation, Mark):
                marks = (*marks, operation.value)
                seen.clear()
        count = 1 if tracked.is_settled else per_operation
        for data, names in _styles(count, rng, weak=weak):
            volume = survivors(tracked, rng, data=data, names=names)
            digest = volume.digest()
            if digest not in seen:
                seen.add(digest)
                disk = image.with_volume(volume)
                disk.record = False
                yield CrashState(position, marks, f"data {data}, names {names}", disk)


def survivors(
    volume: Volume, rng: Random, *, data: Data | None = None, names: Names | None = None
) -> Volume:
    """Return what a power cut may leave of `volume`. They share what is the same in both."""
    kept = _surviving_names(volume, rng, names or rng.choice(_NAMES_STRICT))
    volume.share()
    found: dict[int, FileNode | DirectoryNode] = {}
    links: dict[int, int] = {}
    waiting = [ROOT]
    while waiting:
        inode = waiting.pop()
        node = volume.nodes[inode]
        if isinstance(node, FileNode):
            links[inode] = links.get(inode, 0) + 1
            if inode not in found:
                found[inode] = node if node.is_clean else _surviving_file(node, rng, data)
            continue
        if inode in kept:
            node = DirectoryNode(kept[inode], kept[inode])
        found[inode] = node
        waiting.extend(node.names.values())
    left = Volume()
    left.inherit(volume)
    left.rebuild(found, links)
    return left


# --- files -----------------------------------------------------------------------------------


def _surviving_file(node: FileNode, rng: Random, data: Data | None) -> FileNode:
    content = surviving_content(node, rng, data or rng.choice(_DATA))
    left = FileNode(content, content)
    left.modified_ns = node.modified_ns
    return left


def surviving_content(node: FileNode, rng: Random, data: Data) -> Content:
    """Return bytes that a power cut may leave of a file."""
    left = node.durable.copy()
    pending = node.pending
    match data:
        case Data.NONE:
            return left
        case Data.ALL | Data.PREFIX:
            count = len(pending) if data is Data.ALL else rng.randint(0, len(pending))
            for change in pending[:count]:
                left.apply(change)
            return left
        case Data.SIZE_ONLY:
            left.resize(node.content.size_bytes)
            return left
        case Data.DATA_ONLY:
            size_bytes = left.size_bytes
            for change in pending:
                if isinstance(change, Write):
                    left.apply(change)
            left.resize(size_bytes)
            return left
        case Data.SUBSET | Data.TORN:
            for write in node.lost:
                if rng.random() < 0.5:
                    left.apply(write)
            _keep_some(left, pending, rng, is_torn=data is Data.TORN)
            if left.size_bytes < node.content.size_bytes and rng.random() < 0.5:
                left.resize(node.content.size_bytes)
            return left


def _keep_some(left: Content, pending: Sequence[Change], rng: Random, *, is_torn: bool) -> None:
    """Apply some of `pending` to `left`: a sector is written as it stood in memory then."""
    memory = left.copy()
    for change in pending:
        memory.apply(change)
        if not isinstance(change, Write):
            if rng.random() < 0.5:
                left.apply(change)
            continue
        first = change.offset // SECTOR_SIZE_BYTES
        count = -(-(change.offset + len(change.data)) // SECTOR_SIZE_BYTES) - first
        if not is_torn:
            runs = [(0, count)] if rng.random() < 0.5 else []
        else:
            runs = _sector_runs(count, rng)
        for run_start, run_end in runs:
            start = (first + run_start) * SECTOR_SIZE_BYTES
            end = (first + run_end) * SECTOR_SIZE_BYTES
            left.write(start, memory.read(start, end))


def _sector_runs(count: int, rng: Random) -> list[tuple[int, int]]:
    """Return half-open runs of the `count` sectors of a write that reached the medium."""
    match rng.randrange(6):
        case 0:
            return [(0, count)]
        case 1:
            return [(0, rng.randint(0, count))]
        case 2:
            return [(rng.randint(0, count), count)]
        case 3:
            missing = rng.randrange(count)
            return [(0, missing), (missing + 1, count)]
        case _:
            bits = f"{rng.getrandbits(count):0{count}b}"
            return [run.span() for run in re.finditer("1+", bits)]


# --- names -----------------------------------------------------------------------------------


def _surviving_names(volume: Volume, rng: Random, names: Names) -> dict[int, dict[str, int]]:
    """Return the names left in each directory that has steps since its last sync."""
    unsettled = {
        inode: node
        for inode, node in volume.nodes.items()
        if isinstance(node, DirectoryNode) and node.pending
    }
    match names:
        case Names.ALL:
            return {inode: node.names.copy() for inode, node in unsettled.items()}
        case Names.NONE:
            return {inode: node.durable.copy() for inode, node in unsettled.items()}
        case Names.PREFIX:
            return _name_prefixes(unsettled, rng)
        case Names.SUBSET:
            return _name_subset(unsettled, rng)


def _name_prefixes(unsettled: dict[int, DirectoryNode], rng: Random) -> dict[int, dict[str, int]]:
    serials: dict[int, int] = {}  # for each directory, of the first step that is lost
    for inode, node in unsettled.items():
        count = rng.randint(0, len(node.pending))
        serials[inode] = node.pending[count].serial if count < len(node.pending) else _NEVER
    shrinking = True
    while shrinking:  # a rename between directories is lost by both if one loses it
        shrinking = False
        for inode, node in unsettled.items():
            for change in node.pending:
                if change.other is None or change.serial >= serials[inode]:
                    continue
                if change.serial >= serials.get(change.other, _NEVER):
                    serials[inode] = change.serial
                    shrinking = True
                    break
    left = {inode: node.durable.copy() for inode, node in unsettled.items()}
    for inode, node in unsettled.items():
        for change in node.pending:
            if change.serial < serials[inode]:
                step(left[inode], change)
    return left


def _name_subset(unsettled: dict[int, DirectoryNode], rng: Random) -> dict[int, dict[str, int]]:
    left = {inode: node.durable.copy() for inode, node in unsettled.items()}
    moves: dict[int, list[tuple[int, NameChange]]] = {}
    for inode, node in unsettled.items():
        for change in node.pending:
            moves.setdefault(change.serial, []).append((inode, change))
    for serial in sorted(moves):
        possible = all(_makes_sense(left[inode], change) for inode, change in moves[serial])
        if possible and rng.random() < 0.5:
            for inode, change in moves[serial]:
                step(left[inode], change)
    return left


def _makes_sense(names: dict[str, int], change: NameChange) -> bool:
    if change.removed is not None and names.get(change.removed) != change.inode:
        return False
    return change.added is None or change.added not in names


# --- drawing ---------------------------------------------------------------------------------

_NEVER: Final = 2**63
_DATA: Final = tuple(Data)
_NAMES_STRICT: Final = (Names.ALL, Names.NONE, Names.PREFIX, Names.PREFIX)
_EXTREMES: Final = (
    (Data.ALL, Names.ALL),
    (Data.NONE, Names.NONE),
    (Data.NONE, Names.ALL),
    (Data.ALL, Names.NONE),
)


def _styles(count: int, rng: Random, *, weak: bool) -> Iterator[tuple[Data | None, Names | None]]:
    """Yield the extremes, then draws: half with one style for all files, half mixed."""
    yield from _EXTREMES[:count]
    for _ in range(count - len(_EXTREMES)):
        data = rng.choice(_DATA) if rng.random() < 0.5 else None
        names = Names.SUBSET if weak and rng.random() < 0.5 else rng.choice(_NAMES_STRICT)
        yield data, names


def _is_renamed_next(log: Sequence[Operation], index: int) -> bool:
    sync = log[index]
    if not isinstance(sync, Sync):
        return False
    for operation in log[index + 1 :]:
        match operation:
            case Write() | Allocate() | Truncate() | Sync() | Rename():
                if operation.inode == sync.inode:
                    return isinstance(operation, Rename)
    return False
