"""Codes of four bits in the blocks that faiss scans: put in and taken out many at once.

A list of an inverted file holds its codes in blocks of 32 rows, so that one instruction looks up
the same component of all of them (André, Kermarrec and Le Scouarnec, "Cache locality is not
enough: High-Performance Nearest Neighbor Search with Product Quantization Fast Scan", VLDB 2015).
A block has 32 bytes for each two components: 16 for the first, then 16 for the second. In byte i
of those, the low half is of row `_ORDER[i]` and the high half of the row 16 later. Outside, a row
is one byte for two components, the first in its low half.

faiss fills blocks row by row, in one thread, while it computes codes; what is here moves whole
lists, from codes that were computed anywhere.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Numbers = npt.NDArray[np.int64]

BLOCK_ROWS: Final = 32
_HALF: Final = BLOCK_ROWS // 2
_ORDER: Final = np.arange(_HALF).reshape(2, -1).T.ravel()
_PLACE: Final = np.argsort(_ORDER)


def pack(codes: Bytes) -> Bytes:
    """Return the blocks of codes [n, m], the last one filled up with zeros: uint8[b, m, 32]."""
    count, size = codes.shape
    blocks = -(-count // BLOCK_ROWS)
    rows = np.zeros((blocks * BLOCK_ROWS, size), np.uint8)
    rows[:count] = codes
    rows = rows.reshape(blocks, 2, _HALF, size)[:, :, _ORDER].transpose(0, 1, 3, 2)
    early, late = rows[:, 0], rows[:, 1]
    packed = np.empty((blocks, size, 2, _HALF), np.uint8)
    packed[:, :, 0] = early & 15 | late << 4
    packed[:, :, 1] = early >> 4 | late & 240
    return packed.reshape(blocks, size, BLOCK_ROWS)


def unpack(blocks: Bytes, count: int) -> Bytes:
    """Return the first `count` codes of blocks [b, m, 32]: uint8[count, m]."""
    size = blocks.shape[1]
    halves = blocks.reshape(-1, size, 2, _HALF)[..., _PLACE].transpose(0, 3, 1, 2)
    first, second = halves[..., 0], halves[..., 1]
    rows = np.empty((len(halves), 2, _HALF, size), np.uint8)
    rows[:, 0] = first & 15 | second << 4
    rows[:, 1] = first >> 4 | second & 240
    return rows.reshape(-1, size)[:count]


def put(index: Any, lists: Numbers, codes: Bytes, numbers: Numbers) -> None:
    """Add rows behind those of their lists in a faiss `IndexIVFFastScan`, which is nobody else's.

    lists: int64[n], the list of each; codes: uint8[n, m]; numbers: int64[n].
    """
    held = _lists(index)
    order = np.argsort(lists, kind="stable")
    bounds = np.searchsorted(lists[order], np.arange(index.nlist + 1)).tolist()
    for number in np.unique(lists).tolist():
        rows = order[bounds[number] : bounds[number + 1]]
        before = held.list_size(number)
        whole = before - before % BLOCK_ROWS
        more = codes[rows]
        if before > whole:
            last = _blocks(index, held, number, whole, before)
            more = np.concatenate([unpack(last, before - whole), more])
        total = before + len(rows)
        held.resize(number, total)
        _numbers(held, number, total)[before:] = numbers[rows]
        _blocks(index, held, number, whole, total)[:] = pack(more)
    index.ntotal += len(numbers)


def take(index: Any) -> tuple[Numbers, Bytes, Numbers]:
    """Return lists, codes and numbers of all rows, as `put` takes them."""
    held = _lists(index)
    sizes = np.array([held.list_size(number) for number in range(index.nlist)])
    filled = np.flatnonzero(sizes).tolist()
    codes = [np.zeros((0, index.code_size), np.uint8)]
    numbers = [np.zeros(0, np.int64)]
    for number in filled:
        size = int(sizes[number])
        codes.append(unpack(_blocks(index, held, number, 0, size), size))
        numbers.append(_numbers(held, number, size).copy())
    return np.repeat(np.arange(index.nlist), sizes), np.concatenate(codes), np.concatenate(numbers)


def put_chosen(index: Any, source: Any, chosen: npt.NDArray[np.bool_]) -> None:
    """Put rows of another index with the same lists into an empty one, list by list.

    chosen: bool[numbers]. The source is only read.
    """
    given, held = _lists(source), _lists(index)
    for number in range(source.nlist):
        size = given.list_size(number)
        numbers = _numbers(given, number, size) if size else np.zeros(0, np.int64)
        rows = np.flatnonzero(chosen[numbers])
        if not len(rows):
            continue
        held.resize(number, len(rows))
        _numbers(held, number, len(rows))[:] = numbers[rows]
        whole = _blocks(source, given, number, 0, size)
        needed, at = np.unique(rows // BLOCK_ROWS, return_inverse=True)
        codes = unpack(whole[needed], len(needed) * BLOCK_ROWS)
        _blocks(index, held, number, 0, len(rows))[:] = pack(
            codes[at * BLOCK_ROWS + rows % BLOCK_ROWS]
        )
        index.ntotal += len(rows)


def _lists(index: Any) -> Any:
    return import_module("faiss").downcast_InvertedLists(index.invlists)


def _numbers(held: Any, number: int, size: int) -> Numbers:
    """Return the row numbers of a list, where they lie: int64[size]."""
    numbers: Numbers = import_module("faiss").rev_swig_ptr(held.get_ids(number), size)
    return numbers


def _blocks(index: Any, held: Any, number: int, first: int, end: int) -> Bytes:
    """Return the blocks of a list with its rows `first` .. `end` - 1, where they lie.

    first: a multiple of `BLOCK_ROWS`. result: uint8[b, m, 32].
    """
    blocks, size = -(-end // BLOCK_ROWS), int(index.code_size)
    whole = import_module("faiss").rev_swig_ptr(held.get_codes(number), blocks * size * BLOCK_ROWS)
    found: Bytes = whole.reshape(blocks, size, BLOCK_ROWS)[first // BLOCK_ROWS :]
    return found
