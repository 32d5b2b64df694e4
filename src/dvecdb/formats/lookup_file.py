"""The id lookup: which rows had this id. Derived: it may vanish and is rebuilt from segments.

offset  size  field
0       4     magic            b"dvLK"
4       2     version          1
6       2     reserved
8       16    collection uuid
24      16    lineage
40      8     first row
48      8     row end
56      8     count            n
64      8n    hashes           u64, sorted: XXH3-64 of the id's UTF-8
..      8n    rows             u64, in the order of the hashes, rising among equal ones
..      8     checksum         XXH3-64 of everything before
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

import numpy as np
import xxhash

from dvecdb.formats.framing import FORMAT_VERSION, Buffer, FormatError, checksum

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

_MAGIC: Final = b"dvLK"
_HEAD: Final = struct.Struct("<4sHH16s16sQQQ")
_U64: Final = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class LookupTable:
    """Sorted hashes and their rows: uint64[n] each."""

    collection_uuid: UUID
    lineage: UUID
    first_row: int
    row_end: int
    hashes: npt.NDArray[np.uint64]
    rows: npt.NDArray[np.uint64]


def hash_ids(ids: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Return the lookup hash of every id: uint64[n]."""
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(text.encode()) for text in ids), dtype=np.uint64, count=len(ids))


def encode_lookup(table: LookupTable) -> list[Buffer]:
    """Return the buffers of a lookup file, to be written in order."""
    head = _HEAD.pack(
        _MAGIC,
        FORMAT_VERSION,
        0,
        table.collection_uuid.bytes,
        table.lineage.bytes,
        table.first_row,
        table.row_end,
        len(table.hashes),
    )
    hashes, rows = memoryview(table.hashes.data).cast("B"), memoryview(table.rows.data).cast("B")
    total = xxhash.xxh3_64(head)
    total.update(hashes)
    total.update(rows)
    return [head, hashes, rows, _U64.pack(total.intdigest())]


def decode_lookup(data: memoryview) -> LookupTable:
    """Return the table as views of `data`, verified whole.

    Raises:
        FormatError: damaged, cut short or of another version. Rebuild it.
    """
    if len(data) < _HEAD.size + 8:
        raise FormatError("lookup cut short")
    (expected,) = _U64.unpack_from(data, len(data) - 8)
    if checksum(data[:-8]) != expected:
        raise FormatError("lookup damaged")
    magic, version, _, collection, lineage, first_row, row_end, count = _HEAD.unpack_from(data, 0)
    if magic != _MAGIC or version != FORMAT_VERSION or len(data) != _HEAD.size + 16 * count + 8:
        raise FormatError("lookup of another format")
    start = _HEAD.size
    return LookupTable(
        UUID(bytes=collection),
        UUID(bytes=lineage),
        first_row,
        row_end,
        np.frombuffer(data[start : start + 8 * count], np.uint64),
        np.frombuffer(data[start + 8 * count : start + 16 * count], np.uint64),
    )
