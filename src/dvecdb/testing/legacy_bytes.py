"""Bytes of every d-vecDB version, for writing test data: records, metadata, log entries.

Our own encoder, on purpose apart from the reader it is there to test. Everything is little-endian.

    record body     u64 16, uuid, u64 dimension, f32 x dimension, u8 tag, metadata if the tag is 1
    generation A    bodies end to end; B and C put a u32 length before each
    metadata, A, B  u64 entries, then (string key, value) each; values have no type
    metadata, C     u64 length, JSON text
    log, v1         u32 length, payload; v2: ef be ad de, u32 length, payload with its CRC-32
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dvecdb.records import Json, Metadata

CREATED_BYTES: Final = 1_048_576
"""Size of a new vectors.bin, and of every index.bin."""
MAGIC: Final = bytes.fromhex("efbeadde")
FLUSHED_BYTES: Final = 256 * 1024
"""A log v2 reaches its file once more than this has gathered."""
INDEX_CONFIG: Final = {
    "max_connections": 16, "ef_construction": 200, "ef_search": 50, "max_layer": 16,
}  # fmt: skip
METRICS: Final = ("Cosine", "Euclidean", "DotProduct", "Manhattan")
_UUID_LENGTH: Final = struct.pack("<Q", 16)


class Op(IntEnum):
    """What a log entry does."""

    CREATE = 0
    DROP = 1
    INSERT = 2
    BATCH = 3
    DELETE = 4


@dataclass(frozen=True, slots=True)
class Generation:
    """How one version of the server wrote.

    batch_append: a batch grows the file once; scans: an existing file is continued where a scan of
    length prefixes ends, not at 0; remembers: collections come back from metadata.json.
    """

    name: str
    prefixed: bool = False
    json_text: bool = False
    log_version: int = 2
    batch_append: bool = True
    scans: bool = False
    remembers: bool = False
    soft_delete: bool = False


GENERATIONS: Final = {
    generation.name: generation
    for generation in (
        Generation("A0", log_version=1, batch_append=False),
        Generation("A1", log_version=1),
        Generation("A2"),
        Generation("A3", soft_delete=True),
        Generation("A4", remembers=True, soft_delete=True),
        Generation("B0", prefixed=True, remembers=True, soft_delete=True),
        Generation("B1", prefixed=True, remembers=True, soft_delete=True, scans=True),
        Generation(
            "C0", prefixed=True, json_text=True, remembers=True, soft_delete=True, scans=True
        ),
        Generation(
            "C1", prefixed=True, json_text=True, remembers=True, soft_delete=True, scans=True
        ),
    )
}


# --- metadata --------------------------------------------------------------------------------


def encode_string(text: str) -> bytes:
    """Return a length and UTF-8."""
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def encode_value(value: Json) -> bytes:
    """Return a value without its type; keys of an object are sorted by their bytes."""
    if value is None:
        return b""
    if isinstance(value, bool):
        return bytes([value])
    if isinstance(value, int):
        if -(2**63) <= value < 2**64:
            return struct.pack("<q" if value < 0 else "<Q", value)
        value = float(value)
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, str):
        return encode_string(value)
    if isinstance(value, list):
        return struct.pack("<Q", len(value)) + b"".join(encode_value(item) for item in value)
    return encode_entries(_sorted_object(value))


def encode_entries(entries: Metadata) -> bytes:
    """Return a count and the entries in the order given, as generations A and B store metadata."""
    pairs = (encode_string(key) + encode_value(value) for key, value in entries.items())
    return struct.pack("<Q", len(entries)) + b"".join(pairs)


def encode_text(metadata: Metadata) -> bytes:
    """Return a length and JSON text, top-level keys in the order given, nested ones sorted."""
    text = "{" + ",".join(f"{_quoted(k)}:{_text(v)}" for k, v in metadata.items()) + "}"
    return encode_string(text)


def _sorted_object(value: Metadata) -> Metadata:
    return dict(sorted(value.items(), key=lambda pair: pair[0].encode()))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _text(value: Json) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**64:
        value = float(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, dict):
        entries = _sorted_object(value).items()
        return "{" + ",".join(f"{_quoted(key)}:{_text(item)}" for key, item in entries) + "}"
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _number(value: float) -> str:
    """Return a double as that JSON writer does: shortest digits, exponents from 1e-6 and 1e16."""
    mantissa, e, exponent = repr(value).partition("e")
    if not e:
        return mantissa
    if int(exponent) == -5:
        sign, digits = ("-" if value < 0 else ""), mantissa.lstrip("-").replace(".", "")
        return f"{sign}0.0000{digits}"
    return f"{mantissa}e{int(exponent)}"


# --- records ---------------------------------------------------------------------------------


def encode_body(
    id_bytes: bytes, vector: bytes, metadata: Metadata | None, *, json_text: bool
) -> bytes:
    """Return a record without a prefix. vector: f32 values."""
    assert len(id_bytes) == 16
    assert len(vector) % 4 == 0
    head = _UUID_LENGTH + id_bytes + struct.pack("<Q", len(vector) // 4) + vector
    if metadata is None:
        return head + b"\0"
    return head + b"\1" + (encode_text(metadata) if json_text else encode_entries(metadata))


def encode_record(body: bytes, *, prefixed: bool) -> bytes:
    """Return what an append writes for a body."""
    return struct.pack("<I", len(body)) + body if prefixed else body


def fields_of(length: int, dimension: int, *, prefixed: bool) -> dict[str, tuple[int, int]]:
    """Return start and end of each field of a record of `length` bytes, prefix included."""
    at = 4 if prefixed else 0
    tag = at + 32 + 4 * dimension
    fields = {"prefix": (0, 4)} if prefixed else {}
    fields |= {
        "marker": (at, at + 8),
        "uuid": (at + 8, at + 24),
        "dimension": (at + 24, at + 32),
        "vector": (at + 32, tag),
        "tag": (tag, tag + 1),
    }
    return fields | ({"metadata": (tag + 1, length)} if length > tag + 1 else {})


def grown_size(size: int, position: int, length: int) -> int:
    """Return the size of a vectors.bin of `size` after an append of `length` at `position`."""
    end = position + length
    return 2 * end if end > size else size


def scanned_end(data: bytes | bytearray, size: int) -> int:
    """Return where a server that scans length prefixes goes on. size: zeros follow up to it."""
    position = 0
    while position + 4 <= size:
        (length,) = struct.unpack("<I", data[position : position + 4].ljust(4, b"\0"))
        if length == 0 or position + 4 + length > size:
            break
        position += 4 + length
    return position


def vector_bytes(values: Sequence[float]) -> bytes:
    """Return f32 values; what is beyond their range becomes infinite."""
    return b"".join(_float32(value) for value in values)


def _float32(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", math.copysign(math.inf, value))


# --- log -------------------------------------------------------------------------------------


def create_fields(name: str, dimension: int, metric: int) -> bytes:
    """Return the fields of a `CREATE` entry."""
    config = struct.pack("<4Q", *INDEX_CONFIG.values())
    return encode_string(name) + struct.pack("<QII", dimension, metric, 0) + config


def insert_fields(name: str, body: bytes) -> bytes:
    """Return the fields of an `INSERT` entry."""
    return encode_string(name) + body


def batch_fields(name: str, bodies: Sequence[bytes]) -> bytes:
    """Return the fields of a `BATCH` entry."""
    return encode_string(name) + struct.pack("<Q", len(bodies)) + b"".join(bodies)


def delete_fields(name: str, id_bytes: bytes) -> bytes:
    """Return the fields of a `DELETE` entry."""
    return encode_string(name) + _UUID_LENGTH + id_bytes


def encode_entry(version: int, entry_id: bytes, seconds: int, op: Op, fields: bytes) -> bytes:
    """Return a framed log entry. entry_id: 16 bytes; seconds: of the Unix clock."""
    checked = struct.pack("<I", op) + fields
    checksum = zlib.crc32(checked) if version == 2 else 0
    payload = _UUID_LENGTH + entry_id + struct.pack("<QI", seconds, checksum) + checked
    frame = struct.pack("<I", len(payload))
    return (MAGIC + frame if version == 2 else frame) + payload


@dataclass(frozen=True, slots=True)
class RawEntry:
    """A log entry as it lies in the file, `fields` not decoded."""

    start: int
    end: int
    version: int
    entry_id: bytes
    seconds: int
    op: Op
    fields: bytes


def raw_entries(log: bytes) -> Iterator[RawEntry]:
    """Yield the entries of an undamaged log."""
    position = 0
    while position < len(log):
        version = 2 if log[position : position + 4] == MAGIC else 1
        start = position + (4 if version == 2 else 0)
        (length,) = struct.unpack_from("<I", log, start)
        payload = log[start + 4 : start + 4 + length]
        assert len(payload) == length, f"the entry at {position} is cut"
        seconds, _, op = struct.unpack_from("<QII", payload, 24)
        end = start + 4 + length
        yield RawEntry(position, end, version, payload[8:24], seconds, Op(op), payload[40:])
        position = end
