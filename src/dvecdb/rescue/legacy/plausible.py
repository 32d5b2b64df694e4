"""Whether bytes look like an embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from dvecdb.media.files import Mapped

_HOLE_BYTES_MIN: Final = 256
_ZEROS_MIN: Final = 16
_LIKELY_SHARE: Final = 0.9
_LEAST, _MOST = 1e-6, 1e4


def is_likely_vector(data: Mapped, start: int, size_bytes: int) -> bool:
    """Tell whether nearly all float32s are zero or of a usual magnitude."""
    with np.errstate(invalid="ignore"):
        numbers = np.abs(np.frombuffer(data[start : start + size_bytes], "<f4"))
        usual = (numbers == 0) | ((numbers >= _LEAST) & (numbers <= _MOST))
    return bool(np.count_nonzero(usual) >= _LIKELY_SHARE * len(numbers))


def may_have_hole(data: Mapped, start: int, end: int) -> bool:
    """Tell whether a vector has zeros as if a part of it was never written.

    That is two at its end, or several in a row anywhere, and few besides; or nothing but zeros.
    """
    stored = bytes(data[start:end])
    run = min(8, max(2, len(stored) // 16))
    if not stored.endswith(bytes(8)) and bytes(4 * run) not in stored:
        return False
    zero = np.frombuffer(stored, "<u4") == 0
    edges = np.flatnonzero(np.diff(np.concatenate(([False], zero, [False])).astype(np.int8)))
    longest = int((edges[1::2] - edges[::2]).max(initial=0))
    others = int(np.count_nonzero(zero)) - longest
    return others * 10 <= len(zero) - longest


def fills_holes(stored: bytes, other: bytes) -> bool:
    """Tell whether `other` is `stored` but where `stored` has zeros, and more than that there."""
    one, two = np.frombuffer(stored, np.uint8), np.frombuffer(other, np.uint8)
    return bool(((one == two) | (one == 0)).all()) and stored != other


def is_hole(piece: bytes, *, has_beginning: bool) -> bool:
    """Tell whether zeros took what is lost, rather than that it is an older record's rest.

    has_beginning: it begins with a record's marker. A hole begins in a record, or with zeros. A few
    zeros alone are a number's end.
    """
    if not piece.strip(b"\0"):
        return len(piece) >= _ZEROS_MIN
    return bytes(_HOLE_BYTES_MIN) in piece and (has_beginning or piece[:8] == bytes(8))


def zeros_begin(data: Mapped, start: int, end: int) -> int:
    """Return where the zeros begin that fill the rest of a range."""
    return start + len(bytes(data[start:end]).rstrip(b"\0"))


def bits_apart(one: bytes, other: bytes) -> int:
    """Return how many bits differ between two byte strings of one length."""
    return (int.from_bytes(one, "little") ^ int.from_bytes(other, "little")).bit_count()


def is_in_hole(data: Mapped, body: int) -> bool:
    """Tell whether zeros took a body's dimension, and the end of its id with it."""
    return bytes(data[body + 22 : body + 32]) == bytes(10)


def is_braced(data: Mapped, start: int, end: int) -> bool:
    """Tell whether text begins and ends as an object does; cheaper than to look inside."""
    return end - start >= 2 and data[start] == 0x7B and data[end - 1] == 0x7D
