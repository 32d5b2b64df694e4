"""Records as comma-separated values with a header.

The vector is a JSON list in one column (`vector`), or a column for each number, named after it:
vector_0, vector_1, ... (also vector0 or vector.0). Metadata is a JSON object in a column.
"""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec

from dvecdb.cli.options import Others
from dvecdb.cli.reading.rows import Layout, Pending, RowError, decode_vector, read_metadata
from dvecdb.errors import Code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dvecdb.cli.reading.rows import Rows
    from dvecdb.records import Metadata

_CELL_CHARACTERS_MAX: Final = 64 * 1024 * 1024
_decode_numbers = msgspec.json.Decoder(list[float]).decode


class CsvFile:
    """Reads a file of comma-separated values. `done` and `total` in bytes."""

    def __init__(self, file: BinaryIO, layout: Layout, total: int | None) -> None:
        self.total = total
        self._file = _Counted(file)
        self._layout = layout

    @property
    def done(self) -> int:
        """Bytes read."""
        return self._file.count

    def batches(self) -> Iterator[Rows]:
        """Yield the batches. Raises `RowError`, `OSError`."""
        csv.field_size_limit(_CELL_CHARACTERS_MAX)
        buffered = io.BufferedReader(self._file, 256 * 1024)
        text = io.TextIOWrapper(buffered, encoding="utf-8-sig", newline="")
        reader = csv.reader(text, strict=True)
        pending, skip = Pending(self._layout, self._layout.skip_rows), self._layout.skip_rows
        line = 1
        try:
            columns = _Columns(next(reader, []), self._layout)
            line = reader.line_num + 1
            for cells in reader:
                if cells:
                    if skip:
                        skip -= 1
                    else:
                        pending.add(line, *columns.read(cells, f"line {line}"))
                        if pending.full:
                            yield pending.take()
                line = reader.line_num + 1
        except csv.Error as error:
            raise RowError(Code.INVALID_ARGUMENT, f"line {line}", f"not CSV: {error}") from None
        except UnicodeDecodeError as error:
            message = f"not UTF-8 text: {error}"
            raise RowError(Code.INVALID_ARGUMENT, f"after line {line}", message) from None
        if pending.lines:
            yield pending.take()


class _Counted(io.RawIOBase):
    """A file that knows how much was read of it."""

    def __init__(self, file: BinaryIO) -> None:
        self.count = 0
        self._inner = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # any buffer
        data = self._inner.read(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)


class _Columns:
    """Which column holds what."""

    def __init__(self, header: list[str], layout: Layout) -> None:
        self._layout = layout
        self._header = header
        if len(set(header)) != len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise _bad_header(f"the column {twice!r} is there twice")
        self._id = self._position(layout.id_field)
        self._vector = self._position(layout.vector_field)
        self._metadata = self._position(layout.metadata_field)
        self._numbers: slice | list[int] = []
        if self._vector is None:
            self._numbers = self._number_columns()
        taken = {self._id, self._vector, self._metadata}
        if self._vector is None:
            every = range(len(header))
            taken |= set(every[self._numbers] if isinstance(self._numbers, slice)
                         else self._numbers)  # fmt: skip
        self._others = [at for at in range(len(header)) if at not in taken]
        if self._others and layout.others is Others.REFUSE:
            named = ", ".join(repr(header[at]) for at in self._others[:5])
            raise _bad_header(
                f"unknown columns {named}; expected {layout.fields}. --others metadata or ignore "
                "takes more"
            )

    def _position(self, name: str) -> int | None:
        return self._header.index(name) if name in self._header else None

    def _number_columns(self) -> slice | list[int]:
        pattern = re.compile(re.escape(self._layout.vector_field) + r"[_.]?(\d+)", re.ASCII)
        numbered = sorted(
            (int(match[1]), at)
            for at, name in enumerate(self._header)
            if (match := pattern.fullmatch(name))
        )
        field = self._layout.vector_field
        if not numbered:
            raise _bad_header(
                f"no column {field!r} and none like {field}_0; found "
                f"{', '.join(self._header[:8])}. --vector-field names another"
            )
        numbers = [number for number, _ in numbered]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))) or numbers[0] > 1:
            raise _bad_header(f"the columns {field}_N are not numbered from 0 without a gap")
        found = [at for _, at in numbered]
        if found == list(range(found[0], found[0] + len(found))):
            return slice(found[0], found[0] + len(found))
        return found

    def read(
        self, cells: list[str], where: str
    ) -> tuple[str | None, list[float], Metadata | None, int]:
        """Return id, vector, metadata and its size.

        Raises:
            RowError: the row is not right.
        """
        if len(cells) != len(self._header):
            message = f"expected {len(self._header)} cells, found {len(cells)}"
            raise RowError(Code.INVALID_ARGUMENT, where, message)
        record_id = cells[self._id] if self._id is not None else None
        if self._vector is not None:
            vector = self._from_text(cells[self._vector], where)
        else:
            vector = self._from_cells(cells, where)
        text = cells[self._metadata] if self._metadata is not None else ""
        metadata, size = read_metadata(text, where) if text else None, len(text)
        if self._others and self._layout.others is Others.METADATA:
            more = {self._header[at]: cells[at] for at in self._others if cells[at]}
            if more:
                metadata = {**more, **(metadata or {})}
                size += sum(map(len, more.values()))
        return record_id, vector, metadata, size

    def _from_text(self, text: str, where: str) -> list[float]:
        if not text.lstrip().startswith("["):
            return decode_vector(text, where)
        try:
            return _decode_numbers(text)
        except msgspec.MsgspecError as error:
            message = f"{self._layout.vector_field}: expected a JSON list of numbers: {error}"
            raise RowError(Code.INVALID_ARGUMENT, where, message) from None

    def _from_cells(self, cells: list[str], where: str) -> list[float]:
        at = self._numbers
        texts = cells[at] if isinstance(at, slice) else [cells[position] for position in at]
        try:
            return list(map(float, texts))
        except ValueError:
            position = next(number for number, text in enumerate(texts) if not _is_number(text))
            raise RowError(
                Code.INVALID_ARGUMENT,
                where,
                f"position {position}: expected a number, found {texts[position]!r:.60}",
            ) from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _bad_header(message: str) -> RowError:
    return RowError(Code.INVALID_ARGUMENT, "line 1", message)
