"""Where things are in a legacy record, and how to find the next one.

A record body is: u64 16, 16 bytes of UUID, u64 dimension, the float32s, a tag (0: no metadata, 1:
metadata follows), metadata. Generation A lays bodies end to end; B and C put a u32 length before
each. What stands first in a body, less the UUID, is its *marker*: 16 of 32 bytes are known.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING, Final

from dvecdb.records import DIMENSION_MAX
from dvecdb.rescue.legacy.plausible import is_likely_vector

if TYPE_CHECKING:
    from dvecdb.media.files import Mapped

SIXTEEN: Final = b"\x10" + bytes(7)
HEAD_SIZE: Final = 32
"""Of a body, before its vector."""

PREFIX_SIZE: Final = 4
METADATA_BYTES_MAX: Final = 1 << 20
"""Of one record, as far as anybody looks."""

_BODIES_MAX: Final = 16
_SAMPLES_MAX: Final = 2_000
_SURE_AFTER: Final = 50
_CHUNK: Final = 1 << 20

u32 = struct.Struct("<I").unpack_from
u64 = struct.Struct("<Q").unpack_from


def used_size(data: Mapped, size: int) -> int:
    """Return where the zeros begin that fill the rest of a file."""
    end = size
    while end > 0:
        start = max(0, end - _CHUNK)
        piece = bytes(data[start:end])
        if piece != bytes(len(piece)):
            return start + len(piece.rstrip(b"\0"))
        end = start
    return 0


class Marks:
    """The markers of records of one dimension in some bytes.

    used: where the zeros at the end begin, in which none are looked for.
    """

    def __init__(self, data: Mapped, size: int, dimension: int, used: int | None = None) -> None:
        self.data = data
        self.size = size
        self._end = size if used is None else min(size, used + HEAD_SIZE)
        self.dimension_bytes = struct.pack("<Q", dimension)
        self.vector_end = HEAD_SIZE + 4 * dimension
        """Where the tag is in a body."""

    def is_whole(self, at: int) -> bool:
        """Tell whether a marker is at `at`."""
        data = self.data
        return (
            data[at : at + 8] == SIXTEEN and data[at + 24 : at + HEAD_SIZE] == self.dimension_bytes
        )

    def is_half(self, at: int) -> bool:
        """Tell whether a marker is at `at`, one of its two fields perhaps damaged."""
        data = self.data
        return (
            data[at : at + 8] == SIXTEEN or data[at + 24 : at + HEAD_SIZE] == self.dimension_bytes
        )

    def following(self, at: int, end: int | None = None) -> int:
        """Return where the next whole marker is, from `at` on, or -1."""
        data, wanted = self.data, self.dimension_bytes
        limit = self._end if end is None else min(end + HEAD_SIZE, self._end)
        at += 24
        while True:
            hit = data.find(wanted, at, limit)
            if hit < 0:
                return -1
            if data[hit - 24 : hit - 16] == SIXTEEN:
                return hit - 24
            at = hit + 1

    def bodies_after(self, begin: int) -> list[int]:
        """Return where bodies may begin that follow metadata at `begin`, nearest first."""
        at = begin + 8
        found: list[int] = []
        while len(found) < _BODIES_MAX:
            at = self.following(at, begin + METADATA_BYTES_MAX)
            if at < 0:
                break
            found.append(at)
            at += 1
        return found

    def halves(self, start: int, end: int) -> list[int]:
        """Return where half a marker is, from `start` to before `end`."""
        data, found = self.data, set()
        for wanted, back in ((SIXTEEN, 0), (self.dimension_bytes, 24)):
            at = start + back
            while (hit := data.find(wanted, at, min(end + back + 7, self.size))) >= 0:
                found.add(hit - back)
                at = hit + 1
        return sorted(found)

    def starts_record(self, at: int) -> bool:
        """Tell whether a record, with or without a length before it, begins at `at`."""
        return self.is_whole(at) or self.is_whole(at + PREFIX_SIZE)


def cut_off(marks: Marks, start: int, end: int) -> str | None:
    """Return what is left of a record that begins at `start` and ends before it should, if one."""
    for body in (start, start + PREFIX_SIZE):
        if marks.is_whole(body):
            whole = max(0, min(end, body + marks.vector_end) - body - HEAD_SIZE) // 4
            wanted = (marks.vector_end - HEAD_SIZE) // 4
            identifier = bytes(marks.data[body + 8 : body + 24]).hex()
            return f"cut off: id {identifier}, {whole} of {wanted} numbers of its vector"
    return None


def dimensions_in(data: Mapped, size: int) -> Counter[int]:
    """Return how often each dimension stands where a record says its own.

    Those before numbers of no usual size count only if there are no others.
    """
    found: Counter[int] = Counter()
    unlikely: Counter[int] = Counter()
    for start in (0, size // 2):
        at, samples = start, 0
        while samples < _SAMPLES_MAX and (hit := data.find(SIXTEEN, at, size)) >= 0:
            at = hit + 1
            if hit + HEAD_SIZE >= size:
                break
            (dimension,) = u64(data, hit + 24)
            tag_at = hit + HEAD_SIZE + 4 * dimension
            if not 1 <= dimension <= DIMENSION_MAX or tag_at >= size:
                continue
            if found[dimension] >= _SURE_AFTER or (
                data[tag_at] <= 1 and is_likely_vector(data, hit + HEAD_SIZE, 4 * dimension)
            ):
                found[dimension] += 1
                samples += 1
                at = tag_at
            else:
                unlikely[dimension] += 1
        if samples < _SAMPLES_MAX:
            break
    return +found or unlikely
