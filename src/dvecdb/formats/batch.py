"""The control data and data of a batch record in the log.

Sections of the control data (tags; absent when empty):

    1  batch       first row u64, rows u32, vector bytes u32, metadata bytes u64, wall time u64 ns,
                   schema id u32, flags u32 (0)
    2  id sizes    u32 per row
    3  ids         UTF-8, joined
    4  metadata    u32 per row: bytes of its JSON, 0 = none; absent: no row has any
    5  ends        u64 per ended row
    6  note        JSON object: op, actor, reason, request id ...
    7  documents   MessagePack
    8  checksums   u64 per block of the data: first the vectors', then the metadata's
    9  bulk        MessagePack [uuid, digest, directory]: the rows lie in that segment, not here
    10 reserved    vector references (rows that share the vector of an older row)
    11 reserved    presence bitmaps (rows without a vector, further vector fields)

The data is the rows' vectors, row-major, followed by their metadata JSON, joined.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from dvecdb.formats.columns import (
    METADATA_BLOCK_BYTES,
    DocumentEntry,
    block_checksums,
    block_rows,
    damaged_blocks,
    decode_documents,
    decode_texts,
    encode_documents,
    encode_texts,
    offsets_of,
)
from dvecdb.formats.framing import Buffer, FormatError, decode_sections, encode_sections

_BATCH, _ID_SIZES, _IDS, _METADATA, _ENDS, _NOTE, _DOCUMENTS, _CHECKSUMS, _BULK = range(1, 10)
_FIXED: Final = struct.Struct("<QIIQQII")
_NO_ROWS: Final = np.zeros(0, dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class BulkReference:
    """Names the segment that holds a bulk batch's rows. `digest` is that of its control data."""

    uuid: str
    digest: str
    directory: str


class Batch(msgspec.Struct):
    """One atomic batch, its rows and LSN assigned.

    vectors: stored bytes of `row_count` rows, or empty for a bulk batch; metadata: JSON bytes by
    row, b"" for none, or None if no row has any; ends: uint64 rows this batch ends.
    """

    first_row: int
    row_count: int
    vector_bytes: int
    wall_ns: int
    ids: list[str]
    vectors: Buffer
    metadata: list[bytes] | None
    ends: npt.NDArray[np.uint64] = _NO_ROWS
    note: bytes = b"{}"
    documents: list[DocumentEntry] = []
    bulk: BulkReference | None = None
    lost_vectors: list[int] = []  # ordinals; only after decoding damage
    lost_metadata: list[int] = []


def batch_tag(tag: int, lsn: int) -> int:
    """Return the tag that binds a batch's data blocks to their file and batch."""
    return (tag ^ (lsn * 0xD6E8FEB86659FD93)) & (2**64 - 1)


def encode_batch(batch: Batch, tag: int) -> tuple[bytes, list[Buffer], int]:
    """Return control data, data buffers and data size. `tag` is `batch_tag(...)`."""
    metadata = b"".join(batch.metadata) if batch.metadata else b""
    checksums = block_checksums(
        batch.vectors, block_rows(batch.vector_bytes) * batch.vector_bytes, tag
    )
    if metadata:
        checksums += block_checksums(metadata, METADATA_BLOCK_BYTES, tag + 1)
    sections: dict[int, Buffer] = {
        _BATCH: _FIXED.pack(
            batch.first_row, batch.row_count, batch.vector_bytes, len(metadata), batch.wall_ns, 0, 0
        )
    }
    if batch.ids:
        sizes, joined = encode_texts(batch.ids)
        sections[_ID_SIZES] = sizes.tobytes()
        sections[_IDS] = joined
    if metadata:
        sizes = np.fromiter(map(len, batch.metadata or ()), np.uint32, count=batch.row_count)
        sections[_METADATA] = sizes.tobytes()
    if len(batch.ends):
        sections[_ENDS] = batch.ends.tobytes()
    sections[_NOTE] = batch.note
    if batch.documents:
        sections[_DOCUMENTS] = encode_documents(batch.documents)
    if checksums:
        sections[_CHECKSUMS] = struct.pack(f"<{len(checksums)}Q", *checksums)
    if batch.bulk is not None:
        bulk = batch.bulk
        sections[_BULK] = msgspec.msgpack.encode((bulk.uuid, bulk.digest, bulk.directory))
    return encode_sections(sections), [batch.vectors, metadata], len(batch.vectors) + len(metadata)


def decode_batch(control: Buffer, data: memoryview, tag: int) -> Batch:
    """Return the batch, with the rows whose data is damaged listed in it.

    Raises:
        FormatError: the control data contradicts itself.
    """
    try:
        return _decode(control, data, tag)
    except (KeyError, ValueError, struct.error, msgspec.MsgspecError) as error:
        raise FormatError(f"batch: {error!r}") from error


def _decode(control: Buffer, data: memoryview, tag: int) -> Batch:
    sections = decode_sections(control)
    first_row, row_count, vector_bytes, metadata_bytes, wall_ns, _, _ = _FIXED.unpack(
        sections[_BATCH]
    )
    note = bytes(sections[_NOTE])
    ids: list[str] = []
    if _ID_SIZES in sections:
        ids = decode_texts(np.frombuffer(sections[_ID_SIZES], np.uint32), sections[_IDS])
    bulk = None
    if _BULK in sections:
        bulk = BulkReference(*msgspec.msgpack.decode(sections[_BULK], type=tuple[str, str, str]))
    own_rows = 0 if bulk else row_count
    vectors = data[: own_rows * vector_bytes]
    metadata_data = data[own_rows * vector_bytes :]
    if len(vectors) != own_rows * vector_bytes or len(metadata_data) != metadata_bytes:
        raise FormatError("batch: the data has another size than the control data says")
    if not bulk and len(ids) != row_count:
        raise FormatError(f"batch: {len(ids)} ids for {row_count} rows")
    batch = Batch(
        first_row=first_row,
        row_count=row_count,
        vector_bytes=vector_bytes,
        wall_ns=wall_ns,
        ids=ids,
        vectors=vectors,
        metadata=None,
        ends=np.frombuffer(sections.get(_ENDS, b""), np.uint64),
        note=note,
        documents=decode_documents(sections[_DOCUMENTS]) if _DOCUMENTS in sections else [],
        bulk=bulk,
    )
    offsets = None
    if _METADATA in sections:
        offsets = offsets_of(np.frombuffer(sections[_METADATA], np.uint32))
        if len(offsets) != row_count + 1 or int(offsets[-1]) != metadata_bytes:
            raise FormatError("batch: metadata sizes do not fit")
        raw, cuts = bytes(metadata_data), offsets.tolist()
        batch.metadata = [raw[a:b] for a, b in pairwise(cuts)]
    _mark_damage(batch, sections, metadata_data, offsets, tag)
    return batch


def _mark_damage(
    batch: Batch,
    sections: dict[int, memoryview],
    metadata: memoryview,
    offsets: npt.NDArray[np.uint64] | None,
    tag: int,
) -> None:
    checksums = np.frombuffer(sections.get(_CHECKSUMS, b""), np.uint64)
    rows = block_rows(batch.vector_bytes) if batch.vector_bytes else 1
    block_bytes = rows * batch.vector_bytes
    count = -(-len(batch.vectors) // block_bytes) if block_bytes else 0
    for number in damaged_blocks(batch.vectors, block_bytes, tag, checksums[:count]):
        first = number * rows
        batch.lost_vectors += range(first, min(first + rows, batch.row_count))
    for number in damaged_blocks(metadata, METADATA_BLOCK_BYTES, tag + 1, checksums[count:]):
        if offsets is None:
            raise FormatError("batch: metadata without sizes")
        start, end = number * METADATA_BLOCK_BYTES, (number + 1) * METADATA_BLOCK_BYTES
        touched = (offsets[:-1] < end) & (offsets[1:] > start)
        batch.lost_metadata += np.flatnonzero(touched).tolist()
    batch.lost_metadata = sorted(set(batch.lost_metadata))
