"""What happens to files of others: bits that flip, ends that are missing, pages that are zero.

Each function damages a `LegacyServer`'s files in memory; `legacy_truth` then says what is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

    from dvecdb.testing.legacy_writer import Append, LegacyServer, Logged, VectorFile

FIELDS: Final = ("prefix", "marker", "uuid", "dimension", "vector", "tag", "metadata")


def flip(vectors: VectorFile, append: Append, field: str, random: Random) -> bool:
    """Flip one bit in a field of a record; return False if the record has no such field."""
    if field not in append.fields:
        return False
    start, end = append.fields[field]
    flip_bit(vectors.data, append.offset + random.randrange(start, end), random.randrange(8))
    return True


def flip_high(vectors: VectorFile, append: Append) -> bool:
    """Make a length prefix claim 2 GiB; return False if there is none."""
    if "prefix" not in append.fields:
        return False
    flip_bit(vectors.data, append.offset + 3, 7)
    return True


def flip_metadata_length(vectors: VectorFile, append: Append, random: Random) -> bool:
    """Flip a bit of the count or length that metadata begins with."""
    if "metadata" not in append.fields:
        return False
    start, _ = append.fields["metadata"]
    flip_bit(vectors.data, append.offset + start + random.randrange(8), random.randrange(8))
    return True


def flip_bit(data: bytearray, at: int, bit: int) -> None:
    """Flip one bit of a byte."""
    data[at] ^= 1 << bit


def cut(vectors: VectorFile, at: int) -> None:
    """Take away all bytes from `at` on."""
    del vectors.data[at:]
    vectors.size = len(vectors.data)


def zero_hole(vectors: VectorFile, start: int, end: int) -> None:
    """Make bytes zero, as pages are that never reached the disk."""
    end = min(end, len(vectors.data))
    vectors.data[start:end] = bytes(max(0, end - start))


def cut_log(server: LegacyServer, at: int) -> None:
    """Take away the log from byte `at` on."""
    del server.log[at:]


def flip_log(server: LegacyServer, entry: Logged, random: Random, *, magic: bool = False) -> None:
    """Flip a bit in the payload of a log entry, or in its magic."""
    head = 8 if entry.log_version == 2 else 4
    low, high = (0, 4) if magic else (head, len(entry.stored))
    flip_bit(server.log, entry.start + random.randrange(low, high), random.randrange(8))
