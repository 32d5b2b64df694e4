"""Records as lines of JSON: {"id": "a", "vector": [1, 2], "metadata": {}}, fields renamed at will.

A vector may also be base64 text of little-endian float32. Numbers as ids are taken as text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import msgspec

from dvecdb.cli.options import Others
from dvecdb.cli.reading.rows import KNOWN_VECTOR_FIELDS, Layout, Pending, RowError, read_metadata
from dvecdb.errors import Code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dvecdb.cli.reading.rows import Rows
    from dvecdb.records import Metadata

_BLOCK_BYTES: Final = 1024 * 1024
_LINE_BYTES_MAX: Final = 64 * 1024 * 1024
_BOM: Final = b"\xef\xbb\xbf"

Row = tuple["str | int | None", "list[float] | str", "Metadata | None", int]


class JsonLines:
    """Reads a file of JSON lines. `done` and `total` in bytes."""

    def __init__(self, file: BinaryIO, layout: Layout, total: int | None) -> None:
        self.total, self.done = total, 0
        self._file = file
        self._layout = layout
        refuse_others = layout.others is not Others.METADATA
        self._decode = _struct_decoder(layout) if refuse_others else _object_decoder(layout)

    def batches(self) -> Iterator[Rows]:
        """Yield the batches. Raises `RowError`, `OSError`."""
        pending, skip = Pending(self._layout, self._layout.skip_rows), self._layout.skip_rows
        number = 0
        for lines in self._blocks():
            for line in lines:
                number += 1
                if not line or line.isspace():
                    continue
                if skip:
                    skip -= 1
                    continue
                pending.add(number, *self._read(line, number))
                if pending.full:
                    yield pending.take()
        if pending.lines:
            yield pending.take()

    def _read(self, line: bytes, number: int) -> Row:
        try:
            return self._decode(line, f"line {number}")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            message = f"{error}{_hint(line, self._layout)}"
            raise RowError(Code.INVALID_ARGUMENT, f"line {number}", message) from None

    def _blocks(self) -> Iterator[list[bytes]]:
        """Yield the lines of the file, some at a time."""
        rest, number = b"", 1
        while block := self._file.read(_BLOCK_BYTES):
            if self.done == 0:
                block = block.removeprefix(_BOM)
            self.done += len(block)
            lines = (rest + block).split(b"\n") if b"\n" in block else [rest + block]
            rest = lines.pop()
            number += len(lines)
            if len(rest) > _LINE_BYTES_MAX:
                raise RowError(
                    Code.INVALID_ARGUMENT,
                    f"line {number}",
                    f"longer than {_LINE_BYTES_MAX} bytes; expected one JSON object a line",
                )
            yield lines
        yield [rest]


def _struct_decoder(layout: Layout) -> Callable[[bytes, str], Row]:
    names = {
        "id": layout.id_field, "vector": layout.vector_field, "metadata": layout.metadata_field
    }  # fmt: skip
    # Metadata stays as it is for a moment: its bytes count towards the size of the batch.
    row = msgspec.defstruct(
        "Row",
        [
            ("vector", list[float] | str),
            ("id", str | int | None, None),
            ("metadata", msgspec.Raw, msgspec.Raw()),
        ],
        rename=names,
        forbid_unknown_fields=layout.others is Others.REFUSE,
    )
    decode = cast("Callable[[bytes], Any]", msgspec.json.Decoder(row).decode)

    def read(line: bytes, where: str) -> Row:
        found = decode(line)
        raw = found.metadata
        size = len(memoryview(raw))
        return found.id, found.vector, read_metadata(raw, where) if size else None, size

    return read


def _object_decoder(layout: Layout) -> Callable[[bytes, str], Row]:
    """Return a decoder that makes metadata of the fields it does not know."""
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    head = msgspec.defstruct("Row", [("vector", list[float] | str), ("id", str | int | None, None),
                                     ("metadata", dict[str, Any] | None, None)])  # fmt: skip

    def read(line: bytes, _where: str) -> Row:
        fields = decode(line)
        known = {
            name: fields.pop(called)
            for name, called in (
                ("id", layout.id_field),
                ("vector", layout.vector_field),
                ("metadata", layout.metadata_field),
            )
            if called in fields
        }
        found: Any = msgspec.convert(known, head)
        metadata = {**fields, **(found.metadata or {})} if fields else found.metadata
        size = len(line) - (len(found.vector) if isinstance(found.vector, str) else 0)
        return found.id, found.vector, metadata, max(0, size - 4 * layout.dimension)

    return read


def _hint(line: bytes, layout: Layout) -> str:
    """Return what to do about a line that is not a row, if that can be told."""
    if line.lstrip()[:1] == b"[":
        return "; expected one JSON object a line, without a list around them"
    try:
        fields = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return f"; expected a JSON object of {layout.fields}"
    if layout.vector_field not in fields:
        for name in KNOWN_VECTOR_FIELDS:
            if name in fields:
                return f"; if the vector is in {name!r}, give --vector-field {name}"
    known = {layout.id_field, layout.vector_field, layout.metadata_field}
    if layout.others is Others.REFUSE and set(fields) - known:
        return f"; expected {layout.fields}. --others metadata or ignore takes more"
    return ""
