"""What every reader of a file of records makes: batches of rows that know where they stand.

A reader is a generator of `Rows`. It holds one batch at a time, and ends one when the batch has
`Layout.rows_max` rows or `Layout.bytes_max` bytes as stored.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
import numpy as np

from dvecdb.cli.options import Others
from dvecdb.errors import Code

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from dvecdb.records import Metadata

KNOWN_VECTOR_FIELDS: Final = ("vector", "data", "embedding", "values")
_BLOCK_ROWS: Final = 128
_decode_metadata = msgspec.json.Decoder(dict[str, Any] | None).decode


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file is to be read: names of its fields, and the size of a batch.

    dimension: 0 for that of the first row.
    """

    dimension: int
    rows_max: int
    bytes_max: int
    skip_rows: int = 0
    id_field: str = "id"
    vector_field: str = "vector"
    metadata_field: str = "metadata"
    others: Others = Others.REFUSE

    @property
    def fields(self) -> str:
        """The fields of a row, as a person reads them."""
        return f"{self.id_field}, {self.vector_field}, {self.metadata_field}"


class RowError(Exception):
    """A row, or a whole file, that cannot be read. `where`: as in "line 7", "" for the file."""

    def __init__(self, code: Code, where: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.where = where
        self.message = message


@dataclass(slots=True)
class Rows:
    """One batch. vectors: numbers [n, dimension]; lines: the line each row begins at, if any."""

    first: int  # number of its first row in the file, from 0
    vectors: npt.NDArray[Any]
    ids: list[str] | None
    metadata: list[Metadata | None] | None
    lines: Sequence[int] | None = None

    def where(self, item: int) -> str:
        """Return where row number `item` of the batch is in the file."""
        if self.lines is not None:
            return f"line {self.lines[item]}"
        return f"row {self.first + item + 1}"


class Reader(Protocol):
    """A file being read. `done` of `total` units are behind; total None: nobody knows."""

    total: int | None

    @property
    def done(self) -> int:
        """How far it is."""

    def batches(self) -> Iterator[Rows]:
        """Yield the batches. Raises `RowError`, `OSError`."""


@dataclass(slots=True)
class Pending:
    """The batch that a reader of rows is gathering."""

    layout: Layout
    first: int = 0
    ids: list[str] = field(default_factory=list)
    vectors: list[list[float]] = field(default_factory=list)
    metadata: list[Metadata | None] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    size_bytes: int = 0
    _blocks: list[npt.NDArray[np.float64]] = field(default_factory=list)
    _has_ids: bool | None = None
    _dimension: int = 0

    def add(
        self,
        line: int,
        record_id: str | int | None,
        vector: list[float] | str,
        metadata: Metadata | None,
        metadata_bytes: int,
    ) -> None:
        """Add a row.

        Raises:
            RowError: it does not fit the collection or the rows before it.
        """
        where = f"line {line}"
        if isinstance(vector, str):
            vector = decode_vector(vector, where)
        dimension = self._dimension = self._dimension or self.layout.dimension or len(vector)
        if not dimension:
            message = f"{self.layout.vector_field} is empty"
            raise RowError(Code.WRONG_DIMENSION, where, message)
        if len(vector) != dimension:
            raise RowError(
                Code.WRONG_DIMENSION,
                where,
                f"expected {dimension} numbers in {self.layout.vector_field}, found {len(vector)}",
            )
        if self._has_ids is None:
            self._has_ids = record_id is not None
        elif self._has_ids is not (record_id is not None):
            before = "have" if self._has_ids else "have not"
            raise RowError(
                Code.INVALID_ID,
                where,
                f"expected {'an' if self._has_ids else 'no'} {self.layout.id_field}, as the rows "
                f"before {before} one; found {record_id!r}",
            )
        if record_id is not None:
            self.ids.append(record_id if isinstance(record_id, str) else str(record_id))
        self.vectors.append(vector)
        if len(self.vectors) == _BLOCK_ROWS:
            self._pack()
        self.metadata.append(metadata)
        self.lines.append(line)
        self.size_bytes += 4 * dimension + metadata_bytes

    @property
    def full(self) -> bool:
        """Whether the batch has reached a limit."""
        return len(self.lines) >= self.layout.rows_max or self.size_bytes >= self.layout.bytes_max

    def _pack(self) -> None:
        """Turn lists of numbers into an array, which takes a quarter of the memory."""
        dimension, count = self._dimension, len(self.vectors)
        numbers = np.fromiter(chain.from_iterable(self.vectors), np.float64, count * dimension)
        self._blocks.append(numbers.reshape(count, dimension))
        self.vectors = []

    def take(self) -> Rows:
        """Return the batch and begin the next one."""
        self._pack()
        has_metadata = any(value is not None for value in self.metadata)
        rows = Rows(
            self.first,
            np.concatenate(self._blocks),
            self.ids if self._has_ids else None,
            self.metadata if has_metadata else None,
            self.lines,
        )
        self.first += len(self.lines)
        self.ids, self.metadata, self.lines, self._blocks = [], [], [], []
        self.size_bytes = 0
        return rows


def decode_vector(text: str, where: str) -> list[float]:
    """Return the numbers in base64 text of little-endian float32.

    Raises:
        RowError: it is not.
    """
    try:
        data = base64.b64decode(text, validate=True)
        found: list[float] = np.frombuffer(data, "<f4").tolist()
    except (binascii.Error, ValueError) as error:
        message = f"expected numbers, or base64 of little-endian float32: {error}"
        raise RowError(Code.INVALID_ARGUMENT, where, message) from None
    return found


def read_metadata(text: str | bytes | msgspec.Raw, where: str) -> Metadata | None:
    """Return the metadata in a JSON text.

    Raises:
        RowError: not a JSON object or null.
    """
    try:
        found: Metadata | None = _decode_metadata(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message = f"metadata: expected a JSON object or null: {error}"
        raise RowError(Code.INVALID_METADATA, where, message) from None
    return found
