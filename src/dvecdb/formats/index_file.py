"""The index: coarse lists and codes of rows, for quick candidates. Derived: rebuilt from segments.

offset  size  field
0       4     magic            b"dvIX"
4       2     version          1
6       2     reserved
8       16    collection uuid
24      16    lineage
40      8     row end          rows below it that can be read are in here
48      4     header bytes     h, a multiple of 8: spaces follow the JSON
52      4     reserved
56      8     numbers bytes    n
64      8     codes bytes      c
72      h     header           JSON, see `IndexHeader`
..      n     numbers          u64, rising: the rows by place; none if row and place are the same
..      c     codes            a faiss index, as faiss writes it; its ids are places
..      8     checksum         XXH3-64 of everything before
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgspec
import numpy as np
import xxhash

from dvecdb.formats.framing import FORMAT_VERSION, Buffer, FormatError, checksum

if TYPE_CHECKING:
    import numpy.typing as npt

_MAGIC: Final = b"dvIX"
_HEAD: Final = struct.Struct("<4sHH16s16sQIIQQ")
_U64: Final = struct.Struct("<Q")


class IndexHeader(msgspec.Struct, frozen=True):
    """What an index says about itself.

    reach: of dot products, the length up to which rows have a code; horizon_lsn: rows that ended up
    to it may be missing; trained_rows: how many rows there were then; efforts: probes, depth and
    recall of what was measured. Rows without a code: zeros, whose distance is
    the same for every query, and those apart, which are measured each time.
    """

    dimension: int
    metric: str
    vector_type: str
    reach: float
    horizon_lsn: int
    trained_rows: int
    efforts: list[tuple[int, int, float]]
    zeros: list[int]
    apart: list[int]


@dataclass(frozen=True, slots=True)
class StoredIndex:
    """The content of an index file.

    numbers: the rows by place, int64[n], None for 0 .. `row_end` - 1; codes: uint8[m].
    """

    collection_uuid: UUID
    lineage: UUID
    row_end: int
    header: IndexHeader
    numbers: npt.NDArray[np.int64] | None
    codes: npt.NDArray[np.uint8]


def encode_index(index: StoredIndex) -> list[Buffer]:
    """Return the buffers of an index file, to be written in order."""
    header = msgspec.json.encode(index.header)
    header += b" " * (-len(header) % 8)
    numbers = b"" if index.numbers is None else index.numbers.astype("<u8").tobytes()
    codes = memoryview(np.ascontiguousarray(index.codes).data).cast("B")
    head = _HEAD.pack(
        _MAGIC, FORMAT_VERSION, 0, index.collection_uuid.bytes, index.lineage.bytes,
        index.row_end, len(header), 0, len(numbers), len(codes),
    )  # fmt: skip
    total = xxhash.xxh3_64(head)
    for part in (header, numbers, codes):
        total.update(part)
    return [head, header, numbers, codes, _U64.pack(total.intdigest())]


def decode_index(data: memoryview) -> StoredIndex:
    """Return the content as views of `data`, verified whole.

    Raises:
        FormatError: damaged, cut short or of another version. Rebuild it.
    """
    if len(data) < _HEAD.size + 8:
        raise FormatError("index cut short")
    (expected,) = _U64.unpack_from(data, len(data) - 8)
    if checksum(data[:-8]) != expected:
        raise FormatError("index damaged")
    head = _HEAD.unpack_from(data, 0)
    magic, version, _, collection, lineage, row_end, size, _, rows, codes = head
    whole = _HEAD.size + size + rows + codes + 8
    if magic != _MAGIC or version != FORMAT_VERSION or len(data) != whole or rows % 8:
        raise FormatError("index of another format")
    start = _HEAD.size
    try:
        header = msgspec.json.decode(data[start : start + size], type=IndexHeader)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"index header: {error}") from error
    start += size
    numbers = np.frombuffer(data[start : start + rows], "<i8").astype(np.int64) if rows else None
    stored = np.frombuffer(data[start + rows : start + rows + codes], np.uint8)
    return StoredIndex(
        UUID(bytes=collection), UUID(bytes=lineage), row_end, header, numbers, stored
    )
