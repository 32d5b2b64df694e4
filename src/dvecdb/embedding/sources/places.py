"""A place in a file of records, and whether it still is that place in the file that is there now.

A position is `[offset, length, number, head, tail]`: where the record ends, its bytes, its line,
and hashes of the first bytes of the file and of the last bytes of the record. A file that only
grew fits; one that was replaced does not, save one that is the same up to there for all the
hashes show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

import xxhash

if TYPE_CHECKING:
    from dvecdb.records import Json

HEAD_BYTES: Final = 4096
TAIL_BYTES: Final = 4096


class Start(NamedTuple):
    """Where to read on. offset: bytes; number: of the last line before it."""

    offset: int
    number: int


class Places:
    """Makes positions in an open file."""

    def __init__(self, file: BinaryIO) -> None:
        """Read the first bytes of the file; it is left where it was."""
        at = file.tell()
        file.seek(0)
        self._head = file.read(HEAD_BYTES)
        file.seek(at)
        self._whole = xxhash.xxh3_64_hexdigest(self._head)

    def position(self, offset: int, record: bytes, number: int) -> Json:
        """Return the position behind a record that ends at `offset`, in line `number`."""
        head = self._whole if offset >= HEAD_BYTES else self._hash_to(offset)
        tail = xxhash.xxh3_64_hexdigest(record[-TAIL_BYTES:])
        return [offset, len(record), number, head, tail]

    def _hash_to(self, offset: int) -> str:
        return xxhash.xxh3_64_hexdigest(self._head[:offset])

    def find(self, file: BinaryIO, position: Json) -> Start | None:
        """Return where to go on behind a position, None if it does not fit this file."""
        try:
            offset, length, number, head, tail = position
        except (TypeError, ValueError):
            return None
        if not all(type(one) is int and one >= 0 for one in (offset, length, number)):
            return None
        if length > offset or head != self._hash_to(min(offset, HEAD_BYTES)):
            return None
        size = min(length, TAIL_BYTES)
        file.seek(offset - size)
        found = file.read(size + 2)
        if len(found) < size or xxhash.xxh3_64_hexdigest(found[:size]) != tail:
            return None
        rest = found[size:]
        is_whole = found[:size].endswith(b"\n") or not rest or rest.startswith((b"\n", b"\r\n"))
        return Start(offset, number) if is_whole else None
