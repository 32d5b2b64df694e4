"""The two files of a segment.

`vectors.bin` is rows x dimension, little-endian, row-major, and nothing else. `records.bin`
describes and protects both.

records.bin:

    head        128 bytes, magic b"dvSG"
    control     sections, padded to 8, then zeros to a multiple of 4096
    body        columns that are read by row, each starting at a multiple of 4096
    control     the same control data again
    tail        the head again, magic b"dvST"

    offset  size  field of the head
    0       4     magic
    4       2     version          1
    6       2     reserved
    8       8     required         feature bits
    16      8     optional         feature bits
    24      16    segment uuid     its low half is the tag of all checksums
    40      16    collection uuid
    56      8     control size     unpadded
    64      8     control checksum XXH3-64, seeded with the tag
    72      8     body offset
    80      8     body size
    88      8     vectors size     of vectors.bin
    96      24    reserved
    120     8     checksum         XXH3-64 of the 120 bytes before

Sections of the control data (tags; absent when empty):

    1   descriptor        JSON, `Descriptor`
    2   row numbers       u64 per row, rising, if the required feature 1 is set; else the number
                          of a row is that of the first row + its ordinal
    3   ends: rows        u64: rows of any segment that these commits ended
    4   ends: lsns        u64: by which commit
    5   commits: row end  u64 per commit: rows of the collection after it
    6   commits: hlc      u64 per commit, nanoseconds
    7   commits: wall     u64 per commit, nanoseconds
    8   notes: sizes      u32 per commit
    9   notes             JSON objects, joined
    10  documents: hash   u64, sorted (hash, lsn): XXH3-64 of namespace, NUL, key
    11  documents: lsn    u64
    12  documents: sizes  u32
    13  documents         MessagePack [namespace, key, JSON bytes or nil], joined
    14  vector blocks     u64 checksum per block of `block_rows` rows of vectors.bin
    15  body pages        u64 checksum per 4096 bytes of the body
    16  vector digests    BLAKE3 per 4 MiB of vectors.bin
    17  body digests      BLAKE3 per 4 MiB of the body
    18  lost vectors      u32 ordinals of rows whose vector was already damaged in the log
    19  lost metadata     u32 ordinals, likewise
    20  reserved          presence bitmaps, vector references, codec and key ids

The BLAKE3 of the control data is the segment's digest; it pins every byte of both files. Control
data is small and there twice; body pages and vector blocks are there once, and damage in one loses
the rows in it and no others.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import msgspec

from dvecdb.formats.framing import (
    FORMAT_VERSION,
    Buffer,
    FormatError,
    check_format,
    checksum,
    padded,
    tag_of,
)

HEAD_SIZE: Final = 128
PAGE_BYTES: Final = 4096
CHUNK_BYTES: Final = 4 * 1024 * 1024
VECTORS_NAME: Final = "vectors.bin"
RECORDS_NAME: Final = "records.bin"

(
    DESCRIPTOR,
    ROW_NUMBERS,
    ENDS_ROWS,
    ENDS_LSNS,
    COMMIT_ROW_ENDS,
    COMMIT_HLCS,
    COMMIT_WALLS,
    NOTE_SIZES,
    NOTES,
    DOCUMENT_HASHES,
    DOCUMENT_LSNS,
    DOCUMENT_SIZES,
    DOCUMENTS,
    VECTOR_BLOCKS,
    BODY_PAGES,
    VECTOR_DIGESTS,
    BODY_DIGESTS,
    LOST_VECTORS,
    LOST_METADATA,
) = range(1, 20)

FEATURE_ROW_NUMBERS: Final = 1
"""Required feature: rows of the range were dropped, section 2 says which are here."""
_KNOWN_FEATURES: Final = FEATURE_ROW_NUMBERS

_HEAD_MAGIC: Final = b"dvSG"
_TAIL_MAGIC: Final = b"dvST"
_HEAD: Final = struct.Struct("<4sHHQQ16s16sQQQQQ24x")
_U64: Final = struct.Struct("<Q")
assert _HEAD.size == HEAD_SIZE - 8


@dataclass(frozen=True, slots=True)
class SegmentHead:
    """Where things are in records.bin."""

    segment_uuid: UUID
    collection_uuid: UUID
    control_size: int
    control_checksum: int
    body_offset: int
    body_size: int
    vectors_size: int
    required_features: int = 0
    optional_features: int = 0

    @property
    def second_control_offset(self) -> int:
        """Offset of the second copy of the control data."""
        return self.body_offset + padded(self.body_size)

    @property
    def file_size(self) -> int:
        """Size of records.bin."""
        return self.second_control_offset + padded(self.control_size) + HEAD_SIZE


class Span(msgspec.Struct, frozen=True, array_like=True):
    """A column's place in the body."""

    offset: int
    size: int


class Descriptor(msgspec.Struct, frozen=True):
    """What a segment holds. Fields this version does not know are ignored."""

    rows: int
    dimension: int
    vector_type: str
    vector_bytes: int
    block_rows: int
    first_lsn: int
    commits: int
    columns: dict[str, Span]
    schema_id: int = 0
    vector_fields: list[dict[str, object]] = []  # msgspec copies it
    codec: str = "none"


def encode_head(head: SegmentHead) -> tuple[bytes, bytes]:
    """Return head and tail."""
    fields = (
        FORMAT_VERSION,
        0,
        head.required_features,
        head.optional_features,
        head.segment_uuid.bytes,
        head.collection_uuid.bytes,
        head.control_size,
        head.control_checksum,
        head.body_offset,
        head.body_size,
        head.vectors_size,
    )
    first = _HEAD.pack(_HEAD_MAGIC, *fields)
    last = _HEAD.pack(_TAIL_MAGIC, *fields)
    return first + _U64.pack(checksum(first)), last + _U64.pack(checksum(last))


def decode_head(data: Buffer) -> SegmentHead:
    """Return the head (or tail) in `data`.

    Raises:
        FormatError: damaged.
        DirectoryError: `format-too-new`.
    """
    if len(data) != HEAD_SIZE:
        raise FormatError("segment head cut short")
    body = bytes(data[: HEAD_SIZE - 8])
    (expected,) = _U64.unpack_from(data, HEAD_SIZE - 8)
    if body[:4] not in {_HEAD_MAGIC, _TAIL_MAGIC} or checksum(body) != expected:
        raise FormatError("segment head damaged")
    fields = _HEAD.unpack(body)
    check_format("a segment", fields[1], fields[3], _KNOWN_FEATURES)
    return SegmentHead(
        segment_uuid=UUID(bytes=fields[5]),
        collection_uuid=UUID(bytes=fields[6]),
        control_size=fields[7],
        control_checksum=fields[8],
        body_offset=fields[9],
        body_size=fields[10],
        vectors_size=fields[11],
        required_features=fields[3],
        optional_features=fields[4],
    )


def control_checksum(control: Buffer, segment_uuid: UUID) -> int:
    """Return the checksum of a segment's control data."""
    return checksum(control, tag_of(segment_uuid))


def decode_descriptor(data: Buffer) -> Descriptor:
    """Return the descriptor.

    Raises:
        FormatError: not a descriptor.
    """
    try:
        return msgspec.json.decode(data, type=Descriptor)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"segment descriptor: {error}") from error


def align_page(size: int) -> int:
    """Return `size` rounded up to a whole page."""
    return -(-size // PAGE_BYTES) * PAGE_BYTES
