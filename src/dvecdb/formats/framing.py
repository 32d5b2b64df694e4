"""What every binary format shares: checksums bound to an identity, feature bits, sections.

**Checksums.** Blocks carry XXH3-64, seeded with the *tag* of their file (the low half of its
uuid) and their number, so that a block that lies in the wrong file or at the wrong place is
damage, as a flipped bit is. Whole files are identified by BLAKE3-256.

**Feature bits.** Every file header has a set of *required* and of *optional* features. A reader
that does not know a required one refuses the file (`format-too-new`); it ignores optional ones.

**Sections.** Control data is a list of tagged byte strings, so that fields can be added:

    offset  size  field
    0       4     count         u32, number of sections
    4       4     reserved      0
    8       16·n  table         tag u16, reserved u16, reserved u32, size u64
    ..      ..    payloads      in table order, each padded with zeros to 8 bytes

All numbers are little-endian.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import blake3
import xxhash

from dvecdb.errors import Code, DirectoryError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

Buffer = bytes | bytearray | memoryview

FORMAT_VERSION: Final = 1
CONTROL_BYTES_MAX: Final = 2**32 - 1

_MASK: Final = 2**64 - 1
_SECTIONS_HEAD: Final = struct.Struct("<II")
_SECTIONS_ENTRY: Final = struct.Struct("<HHIQ")
_PADDING: Final = (b"", b"\0" * 7, b"\0" * 6, b"\0" * 5, b"\0" * 4, b"\0" * 3, b"\0" * 2, b"\0")


class FormatError(Exception):
    """Bytes that are not what they should be. Always caught and classified by the engine."""


def checksum(data: Buffer, seed: int = 0) -> int:
    """Return the XXH3-64 of `data`."""
    return xxhash.xxh3_64_intdigest(data, seed)


def block_checksum(data: Buffer, tag: int, number: int) -> int:
    """Return the checksum of block `number` of the file with `tag`."""
    return xxhash.xxh3_64_intdigest(data, (tag + number * 0x9E3779B97F4A7C15) & _MASK)


def digest(data: Buffer) -> bytes:
    """Return the BLAKE3-256 of `data`."""
    return blake3.blake3(data).digest()


def tag_of(file_uuid: UUID) -> int:
    """Return the tag of a file: the low 64 bits of its uuid."""
    return file_uuid.int & _MASK


def padding(size: int) -> bytes:
    """Return the zeros that pad `size` bytes to a multiple of 8."""
    return _PADDING[size & 7]


def padded(size: int) -> int:
    """Return `size` rounded up to a multiple of 8."""
    return (size + 7) & ~7


def check_format(what: str, version: int, required_features: int, known: int = 0) -> None:
    """Refuse what this version cannot read. known: the features that it does, as bits.

    Raises:
        DirectoryError: `format-too-new`.
    """
    unknown = required_features & ~known
    if version > FORMAT_VERSION or unknown:
        found = f"version {version}" if version > FORMAT_VERSION else f"features {unknown:#x}"
        raise DirectoryError(
            Code.FORMAT_TOO_NEW,
            f"{what} needs {found}; this program reads version {FORMAT_VERSION} without further "
            "required features. Use a newer dvecdb; no data was changed",
            what=what,
            version=version,
            features=unknown,
        )


def encode_sections(sections: Mapping[int, Buffer]) -> bytes:
    """Return the bytes of `sections`, a mapping from tag to payload."""
    entry = _SECTIONS_ENTRY.pack
    parts: list[Buffer] = [_SECTIONS_HEAD.pack(len(sections), 0)]
    parts += [entry(tag, 0, 0, len(payload)) for tag, payload in sections.items()]
    for payload in sections.values():
        parts += (payload, _PADDING[len(payload) & 7])
    return b"".join(parts)


def decode_sections(data: Buffer) -> dict[int, memoryview]:
    """Return the sections in `data` by tag, unknown ones included, as views of `data`.

    Raises:
        FormatError: the table contradicts the size of `data`.
    """
    view = memoryview(data)
    if len(view) < _SECTIONS_HEAD.size:
        raise FormatError("section table cut short")
    count, _ = _SECTIONS_HEAD.unpack_from(view, 0)
    position = _SECTIONS_HEAD.size + count * _SECTIONS_ENTRY.size
    if position > len(view):
        raise FormatError("section table runs past its end")
    sections: dict[int, memoryview] = {}
    for index in range(count):
        entry = _SECTIONS_HEAD.size + index * _SECTIONS_ENTRY.size
        tag, _, _, size = _SECTIONS_ENTRY.unpack_from(view, entry)
        if size > len(view) - position:
            raise FormatError(f"section {tag} runs past the end")
        sections[tag] = view[position : position + size]
        position += padded(size)
    return sections
