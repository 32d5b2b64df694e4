"""Comma-separated values with a header, UTF-8: also with semicolons or tabs between them.

The separator is the one that makes the header name every column that is needed. Quoted values may
have line breaks in them. All values are text; an empty key is none. A record with another number
of values than the header has, or a stray quote, is a problem of its row; a quote that is never
closed is refused, for it swallows all rows behind it.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, BinaryIO, Final

from dvecdb.embedding.sources.files import RECORD_BYTES_MAX, FileError, Record
from dvecdb.embedding.sources.places import Places, Start

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dvecdb.records import Json

_BOM: Final = b"\xef\xbb\xbf"
_WIDE_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")
_SEPARATORS: Final = ",;\t|"
_BUFFER_BYTES: Final = 256 * 1024


class CsvRecords:
    """`Records` of a CSV file. Numbers are of the line in which a record ends."""

    unit = "line"

    def __init__(self, path: str, columns: Sequence[str]) -> None:
        self._path = path
        self._columns = tuple(columns)
        self.unseen: set[str] = set()

    def fits(self, position: Json) -> bool:
        """Return whether the file there is now has this position. Raises `OSError`."""
        with open(self._path, "rb") as file:  # noqa: PTH123  # text
            return Places(file).find(file, position) is not None

    def read(self, after: Json) -> Iterator[Record]:
        """Yield the records behind a position. Raises `FileError`, `OSError`."""
        csv.field_size_limit(RECORD_BYTES_MAX)
        with open(self._path, "rb", buffering=_BUFFER_BYTES) as file:  # noqa: PTH123  # text
            lines = _Lines(file)
            header, separator = self._header(lines)
            places = Places(file)
            start = None if after is None else places.find(file, after)
            if start is None:
                start = Start(lines.offset, lines.number)
            file.seek(start.offset)
            lines.offset, lines.number = start
            yield from self._records(lines, places, header, separator)

    def _header(self, lines: _Lines) -> tuple[list[str], str]:
        """Return the header and the separator; an empty file has an empty header."""
        text = next(lines, "")
        if text.startswith(tuple(bom.decode(errors="surrogateescape") for bom in _WIDE_BOMS)):
            raise FileError("it is UTF-16 text; convert it to UTF-8")
        found: list[list[str]] = []
        for separator in _SEPARATORS:
            try:
                header = next(csv.reader(iter([text]), delimiter=separator, strict=True), [])
            except csv.Error:
                continue
            names = [name.strip() for name in header]
            if set(self._columns) <= set(names):
                twice = [name for name in self._columns if names.count(name) > 1]
                if twice:
                    raise FileError(f"its header has the column {twice[0]!r} twice")
                return names, separator
            found.append(names)
        if not text:
            return [], ","
        best = max(found, key=len, default=[])
        missing = ", ".join(repr(name) for name in self._columns if name not in best)
        raise FileError(f"no column {missing}; its header has {', '.join(map(ascii, best[:20]))}")

    def _records(
        self, lines: _Lines, places: Places, header: list[str], separator: str
    ) -> Iterator[Record]:
        reader = csv.reader(lines, delimiter=separator, strict=True)
        wanted = [header.index(name) for name in self._columns] if header else []
        width, position = len(header), places.position
        while True:
            first = lines.number + 1
            lines.record.clear()
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                problem = f"not CSV: {error}"
                if "unexpected end of data" in str(error):
                    raise FileError(
                        f"line {first}: a quote that opens in this record is never closed, so "
                        "everything behind it is one value"
                    ) from None
                yield Record(
                    position(lines.offset, lines.tail, lines.number), lines.number, None, problem
                )
                continue
            if not values:
                continue
            place = position(lines.offset, lines.tail, lines.number)
            if len(values) == width:
                yield Record(place, lines.number, [values[at] for at in wanted])
            else:
                problem = f"{len(values)} values, but the header has {width}"
                yield Record(place, lines.number, None, problem)


class _Lines:
    """The lines of a file as text, one by one; it knows what it has given for a record.

    offset, number: bytes and lines behind; record: the raw lines of the record, so far.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.offset = 0
        self.number = 0
        self.record: list[bytes] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(RECORD_BYTES_MAX)
        if not line:
            raise StopIteration
        self.record.append(line)
        self.offset += len(line)
        self.number += 1
        if self.offset == len(line):
            line = line.removeprefix(_BOM)
        return line.decode(errors="surrogateescape")

    @property
    def tail(self) -> bytes:
        """The bytes of the record."""
        return self.record[0] if len(self.record) == 1 else b"".join(self.record)
