"""What a walk through a file finds: whole records, and what is lost between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from dvecdb.reports import Doubt
from dvecdb.rescue.legacy.layout import METADATA_BYTES_MAX, PREFIX_SIZE, u32, u64
from dvecdb.rescue.legacy.metadata import read_json_text
from dvecdb.rescue.legacy.plausible import is_braced

if TYPE_CHECKING:
    from dvecdb.media.files import Mapped
    from dvecdb.reports import DoubtKind, Lost

TOO_MANY: Final = "its metadata has more readings than an import looks at"
"""The text of a doubt, where metadata was given up."""

_FLIPPED_BITS_MAX = 2
RAW, PREFIXED = "A", "BC"
_RUNS_MAX: Final = 1 << 62


class Found(msgspec.Struct, gc=False):
    """A whole record. One for each in the file, so it is no burden to the garbage collector.

    vector: where its floats begin; start, end: of all of it; open_cost: how unlikely its metadata
    is, if nothing but itself says where that ends.
    """

    start: int
    vector: int
    end: int
    json: bytes
    framing: str
    encoding: str = ""
    run: int = 0
    doubts: tuple[Doubt, ...] = ()
    zeros: tuple[str, ...] = ()
    open_cost: float = 0.0


def turn(found: Found) -> int:
    """Return what orders records by when they were written, that of a run in turn."""
    return (_RUNS_MAX if found.framing == PREFIXED else 0) - found.run


@dataclass(slots=True)
class Walked:
    """What a walk found. bytes_good: of whole records.

    unclear: where an older run may begin, so that what lies before would be newer.
    """

    records: list[Found] = field(default_factory=list)
    unclear: list[int] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    bytes_good: int = 0


@dataclass(slots=True)
class Extent:
    """Where a record's metadata ended, and what is to be said of it."""

    end: int
    json: bytes
    encoding: str = ""
    why: DoubtKind | None = None
    text: str = ""
    zeros: list[str] = field(default_factory=list)
    is_closed: bool = True
    raw: tuple[int, int] | None = None
    open_cost: float = 0.0


def text_of(data: Mapped, size: int, tag_at: int) -> Extent | None:
    """Return JSON text behind a tag, if it is whole: it says itself where it ends.

    size: of all data, in bytes.
    """
    if tag_at + 9 > size:
        return None
    (length,) = u64(data, tag_at + 1)
    end = tag_at + 9 + length
    if min(METADATA_BYTES_MAX, size - tag_at - 9) < length:
        return None
    if not is_braced(data, tag_at + 9, end):
        return None
    json = read_json_text(bytes(data[tag_at + 9 : end]))
    return None if json is None else Extent(end, json, "json")


def length_misfit(data: Mapped, found: Found) -> int:
    """Return how ill the length before a record fits: 0 or 1 if it may be one, 2 if not."""
    if found.framing == RAW:
        return 1
    (length,) = u32(data, found.start)
    actual = found.end - found.start - PREFIX_SIZE
    if length == actual:
        return 0
    if any(doubt.why == "metadata-lost" for doubt in found.doubts):
        return 1  # its end is a guess
    return 0 if not length or (length ^ actual).bit_count() <= _FLIPPED_BITS_MAX else 2
