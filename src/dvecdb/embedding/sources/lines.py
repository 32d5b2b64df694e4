"""JSON lines: one JSON object a line, UTF-8. Blank lines are passed over.

Strict JSON is read; NaN and infinity, which Python writes, are null. A line with bytes that are no
UTF-8 is read with its key, so that its row can say which column they spoil.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import msgspec

from dvecdb.embedding.sources.files import RECORD_BYTES_MAX, Record
from dvecdb.embedding.sources.places import Places, Start

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dvecdb.records import Json

_BOM: Final = b"\xef\xbb\xbf"
_BUFFER_BYTES: Final = 256 * 1024


class JsonLines:
    """`Records` of a file of JSON lines."""

    unit = "line"

    def __init__(self, path: str, columns: Sequence[str]) -> None:
        self._path = path
        self._columns = tuple(columns)
        self.unseen: set[str] = set(columns)

    def fits(self, position: Json) -> bool:
        """Return whether the file there is now has this position. Raises `OSError`."""
        with open(self._path, "rb") as file:  # noqa: PTH123  # text
            return Places(file).find(file, position) is not None

    def read(self, after: Json) -> Iterator[Record]:
        """Yield the records behind a position. Raises `OSError`."""
        with open(self._path, "rb", buffering=_BUFFER_BYTES) as file:  # noqa: PTH123  # text
            places = Places(file)
            start = None if after is None else places.find(file, after)
            if start is None:
                start = Start(0, 0)
                self.unseen = set(self._columns)
            file.seek(start.offset)
            yield from self._records(file, places, start)

    def _records(self, file: BinaryIO, places: Places, start: Start) -> Iterator[Record]:
        offset, number = start
        columns, unseen, decode = self._columns, self.unseen, msgspec.json.Decoder().decode
        position = places.position
        while line := file.readline(RECORD_BYTES_MAX + 1):
            number += 1
            offset += len(line)
            if len(line) > RECORD_BYTES_MAX and not line.endswith(b"\n"):
                offset += _skip_line(file)
                line = _last_bytes(file, offset)
                problem = f"longer than {RECORD_BYTES_MAX} bytes"
                yield Record(position(offset, line, number), number, None, problem)
                continue
            if offset == len(line):
                line = line.removeprefix(_BOM)
            if line.isspace() or not line:
                continue
            found: Any
            try:
                found = decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                found = _leniently(line)
            if type(found) is not dict:
                problem = found if type(found) is _Problem else f"no object but {_kind(found)}"
                yield Record(position(offset, line, number), number, None, problem)
                continue
            if unseen:
                unseen.difference_update(found)
            get = found.get
            yield Record(position(offset, line, number), number, [get(one) for one in columns])


class _Problem(str):
    """Why a line cannot be read."""

    __slots__ = ()


def _leniently(line: bytes) -> Any:
    """Return the value of a line that is no strict JSON, or a `_Problem`."""
    try:
        return json.loads(line.decode(errors="surrogateescape"))
    except (ValueError, RecursionError) as error:
        return _Problem(f"not JSON: {error}")


def _kind(value: object) -> str:
    return {list: "a list", str: "text", type(None): "null", bool: "true or false"}.get(
        type(value), "a number"
    )


def _skip_line(file: BinaryIO) -> int:
    """Read to the end of the line; return how many bytes that were."""
    skipped = 0
    while part := file.readline(RECORD_BYTES_MAX):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def _last_bytes(file: BinaryIO, offset: int) -> bytes:
    """Return the bytes before `offset` that a position is known by."""
    size = min(4096, offset)
    file.seek(offset - size)
    return file.read(size)
