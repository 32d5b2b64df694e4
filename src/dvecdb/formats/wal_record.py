"""The write-ahead log: one file header, then records one after the other, then zeros.

File header (128 bytes). Damage here costs nothing: name and records carry the identity again.

    offset  size  field
    0       4     magic            b"dvWL"
    4       2     version          1
    6       2     reserved
    8       8     required         feature bits
    16      8     optional         feature bits
    24      16    file uuid        its low half is the tag of every record
    40      16    collection uuid
    56      16    lineage
    72      8     epoch
    80      8     first lsn        records of older epochs from this LSN on are void
    88      8     previous         hash of the record before the first, 0 at the start
    96      8     created          wall time, nanoseconds
    104     16    reserved
    120     8     checksum         XXH3-64 of the 120 bytes before

Record. The head and the control data are there twice, at both ends, so that one damaged place
never costs more than the data block it lies in:

    head        88 bytes, magic b"dvWR"
    control     sections (see below), padded to 8 bytes
    data        vectors, then metadata; in blocks with checksums in the control data; padded
    control     the same again
    tail        the head again, magic b"dvWT"

    offset  size  field of the head
    0       4     magic
    4       1     kind             1 batch, 2 marker, 3 manifest, 4 seal
    5       3     reserved
    8       8     tag              of the file
    16      8     lsn              of the batch; of the last batch before any other kind
    24      8     epoch
    32      8     durable lsn      highest LSN that was synced when this was written
    40      8     previous         hash of the record before: its head's checksum
    48      8     hlc              hybrid logical time, nanoseconds
    56      4     control size     unpadded
    60      4     reserved
    64      8     data size        unpadded
    72      8     control checksum XXH3-64, seeded with tag + lsn
    80      8     checksum         XXH3-64 of the 80 bytes before; it is the record's hash

Control data of a manifest record is section 1, the file's bytes. That of a seal has section 2 if
the next log was durable before the seal was written: if that one is missing or empty, it is damage.

Because the hash covers the control checksum, which covers the block checksums, the chain of
`previous` fields pins the whole history before a record.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final
from uuid import UUID

from dvecdb.formats.framing import (
    FORMAT_VERSION,
    Buffer,
    FormatError,
    check_format,
    checksum,
    padded,
    padding,
)
from dvecdb.records import Epoch, Lsn

if TYPE_CHECKING:
    from collections.abc import Sequence

FILE_HEADER_SIZE: Final = 128
HEAD_SIZE: Final = 88

_FILE_MAGIC: Final = b"dvWL"
_HEAD_MAGIC: Final = b"dvWR"
_TAIL_MAGIC: Final = b"dvWT"
_FILE_HEADER: Final = struct.Struct("<4sHHQQ16s16s16sQQQQ16x")
_HEAD: Final = struct.Struct("<4sB3xQQQQQQIIQQ")
_U64: Final = struct.Struct("<Q")
assert _FILE_HEADER.size == FILE_HEADER_SIZE - 8
assert _HEAD.size == HEAD_SIZE - 8


class Kind(IntEnum):
    """What a record is."""

    BATCH = 1
    MARKER = 2
    MANIFEST = 3
    SEAL = 4


_KINDS: Final = {int(kind): kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class FileHeader:
    """The identity of a log file."""

    file_uuid: UUID
    collection_uuid: UUID
    lineage: UUID
    epoch: Epoch
    first_lsn: Lsn
    previous: int
    created_ns: int
    required_features: int = 0
    optional_features: int = 0


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a record."""

    kind: Kind
    tag: int
    lsn: Lsn
    epoch: Epoch
    durable_lsn: Lsn
    previous: int
    hlc: int
    control_size: int
    data_size: int
    control_checksum: int

    @property
    def size(self) -> int:
        """Bytes of the whole record."""
        return 2 * (HEAD_SIZE + padded(self.control_size)) + padded(self.data_size)

    @property
    def data_offset(self) -> int:
        """Offset of the data from the start of the record."""
        return HEAD_SIZE + padded(self.control_size)


@dataclass(frozen=True, slots=True)
class Found:
    """A record found in a log: `control` is None if both copies are damaged.

    `repaired` names the copies that were damaged while the other one was good.
    """

    offset: int
    head: Head
    hash: int
    control: memoryview | None
    repaired: tuple[str, ...]
    whole: bool  # head and tail are both there: the record was written to its end

    @property
    def end(self) -> int:
        """Offset after the record."""
        return self.offset + self.head.size


@dataclass(frozen=True, slots=True)
class Scan:
    """All that is in a log file. `gaps`: half-open byte ranges that are neither record nor zero."""

    header: FileHeader | None
    records: list[Found]
    gaps: list[tuple[int, int]]
    used_bytes: int


def encode_file_header(header: FileHeader) -> bytes:
    """Return the 128 bytes of `header`."""
    body = _FILE_HEADER.pack(
        _FILE_MAGIC,
        FORMAT_VERSION,
        0,
        header.required_features,
        header.optional_features,
        header.file_uuid.bytes,
        header.collection_uuid.bytes,
        header.lineage.bytes,
        header.epoch,
        header.first_lsn,
        header.previous,
        header.created_ns,
    )
    return body + _U64.pack(checksum(body))


def decode_file_header(data: Buffer) -> FileHeader:
    """Return the header at the start of `data`.

    Raises:
        FormatError: damaged.
        DirectoryError: `format-too-new`.
    """
    if len(data) < FILE_HEADER_SIZE:
        raise FormatError("log header cut short")
    body = bytes(data[: FILE_HEADER_SIZE - 8])
    (expected,) = _U64.unpack_from(data, FILE_HEADER_SIZE - 8)
    if body[:4] != _FILE_MAGIC or checksum(body) != expected:
        raise FormatError("log header damaged")
    fields = _FILE_HEADER.unpack(body)
    check_format("a log file", fields[1], fields[3])
    return FileHeader(
        file_uuid=UUID(bytes=fields[5]),
        collection_uuid=UUID(bytes=fields[6]),
        lineage=UUID(bytes=fields[7]),
        epoch=Epoch(fields[8]),
        first_lsn=Lsn(fields[9]),
        previous=fields[10],
        created_ns=fields[11],
        required_features=fields[3],
        optional_features=fields[4],
    )


def control_checksum(control: Buffer, tag: int, lsn: int) -> int:
    """Return the checksum that binds control data to its file and batch."""
    return checksum(control, (tag + lsn) & (2**64 - 1))


def encode_record(
    kind: Kind,
    *,
    tag: int,
    lsn: int,
    epoch: int,
    durable_lsn: int,
    previous: int,
    hlc: int,
    control: bytes,
    data: Sequence[Buffer] = (),
    data_size: int = 0,
) -> tuple[list[Buffer], int, int]:
    """Return the buffers of a record to be written in order, its size and its hash."""
    fields = (
        kind,
        tag,
        lsn,
        epoch,
        durable_lsn,
        previous,
        hlc,
        len(control),
        0,
        data_size,
        control_checksum(control, tag, lsn),
    )
    head = _HEAD.pack(_HEAD_MAGIC, *fields)
    tail = _HEAD.pack(_TAIL_MAGIC, *fields)
    own_hash = checksum(head)
    control_padding = padding(len(control))
    first = b"".join((head, _U64.pack(own_hash), control, control_padding))
    last = b"".join((padding(data_size), control, control_padding, tail, _U64.pack(checksum(tail))))
    return [first, *data, last], len(first) + data_size + len(last), own_hash


def scan(data: Buffer, *, tag: int | None = None) -> Scan:
    """Return every record in a log file, whatever is damaged between them.

    `tag` is the file's tag if it is known from elsewhere; otherwise the header's, or that of the
    first record. Records of another tag are stale bytes and are not returned.

    Raises:
        DirectoryError: `format-too-new`.
    """
    view = memoryview(data)
    try:
        header = decode_file_header(view[:FILE_HEADER_SIZE])
    except FormatError:
        header = None
    if header is not None:
        tag = header.file_uuid.int & (2**64 - 1)
    used = _used_bytes(view)
    records: list[Found] = []
    gaps: list[tuple[int, int]] = []
    position = FILE_HEADER_SIZE
    while position < used:
        found = _record_at(view, position, tag) or _record_ending_after(view, position, tag, used)
        if found is None:
            gaps.append((position, used))
            break
        tag = found.head.tag if tag is None else tag
        if found.offset > position:
            gaps.append((position, found.offset))
        records.append(found)
        position = found.end
    return Scan(header, records, gaps, used)


def _used_bytes(view: memoryview) -> int:
    """Return the size of `view` without the zeros at its end, rounded up to 8."""
    end = len(view)
    step = 1 << 16
    while end > 0:
        start = max(0, end - step)
        part = bytes(view[start:end]).rstrip(b"\0")
        if part:
            return min(len(view), padded(start + len(part)))
        end = start
    return 0


def _record_at(view: memoryview, offset: int, tag: int | None) -> Found | None:
    """Return the record whose head is at `offset`, if that head is good."""
    head, own_hash = _decode_head(view, offset, _HEAD_MAGIC, tag)
    if head is None:
        return None
    tail, _ = _decode_head(view, offset + head.size - HEAD_SIZE, _TAIL_MAGIC, tag)
    whole = tail == head
    return _with_control(view, offset, head, own_hash, () if whole else ("tail",), whole=whole)


def _record_ending_after(view: memoryview, start: int, tag: int | None, used: int) -> Found | None:
    """Return the first record from `start` on, found by its head or, failing that, its tail."""
    position = start
    while position < used:
        nearest = min(
            (
                at
                for magic in (_HEAD_MAGIC, _TAIL_MAGIC)
                if (at := _find(view, magic, position)) >= 0
            ),
            default=-1,
        )
        if nearest < 0:
            return None
        if bytes(view[nearest : nearest + 4]) == _HEAD_MAGIC:
            found = _record_at(view, nearest, tag)
            if found is not None:
                return found
        else:
            tail, _ = _decode_head(view, nearest, _TAIL_MAGIC, tag)
            if tail is not None:
                offset = nearest + HEAD_SIZE - tail.size
                if offset >= start:
                    own_hash = checksum(_HEAD_MAGIC + view[nearest + 4 : nearest + HEAD_SIZE - 8])
                    return _with_control(view, offset, tail, own_hash, ("head",), whole=False)
        position = nearest + 8
    return None


def _find(view: memoryview, magic: bytes, start: int) -> int:
    """Return the next offset from `start`, a multiple of 8, where `magic` stands, or -1."""
    step = 1 << 20
    position = start
    while position < len(view):
        part = bytes(view[position : position + step + 3])
        at = part.find(magic)
        while at >= 0:
            if (position + at) % 8 == 0:
                return position + at
            at = part.find(magic, at + 1)
        position += step
    return -1


def _decode_head(
    view: memoryview, offset: int, magic: bytes, tag: int | None
) -> tuple[Head | None, int]:
    if offset < 0 or offset + HEAD_SIZE > len(view) or view[offset : offset + 4] != magic:
        return None, 0
    body = bytes(view[offset : offset + HEAD_SIZE - 8])
    (expected,) = _U64.unpack_from(view, offset + HEAD_SIZE - 8)
    if checksum(body) != expected:
        return None, 0
    fields = _HEAD.unpack(body)
    if fields[1] not in _KINDS or (tag is not None and fields[2] != tag):
        return None, 0
    head = Head(
        kind=_KINDS[fields[1]],
        tag=fields[2],
        lsn=Lsn(fields[3]),
        epoch=Epoch(fields[4]),
        durable_lsn=Lsn(fields[5]),
        previous=fields[6],
        hlc=fields[7],
        control_size=fields[8],
        data_size=fields[10],
        control_checksum=fields[11],
    )
    return head, expected


def _with_control(
    view: memoryview,
    offset: int,
    head: Head,
    own_hash: int,
    repaired: tuple[str, ...],
    *,
    whole: bool,
) -> Found:
    first = offset + HEAD_SIZE
    second = offset + head.size - HEAD_SIZE - padded(head.control_size)
    good: memoryview | None = None
    for name, start in (("control copy 2", second), ("control copy 1", first)):
        control = view[start : start + head.control_size]
        if (
            len(control) == head.control_size
            and control_checksum(control, head.tag, head.lsn) == head.control_checksum
        ):
            good = control
        else:
            repaired = (*repaired, name)
    return Found(offset, head, own_hash, good, repaired, whole)
