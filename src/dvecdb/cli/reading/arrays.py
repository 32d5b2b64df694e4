"""Records as numpy arrays: vectors in a .npy file with their ids beside it, or all in one .npz.

The file of ids (`--ids`) has a line for each vector: an id, or {"id": ..., "metadata": {...}}; or
it is a .npy array of texts. A .npz has `vectors`, perhaps `ids`, and perhaps metadata as the member
`metadata.jsonl`, a JSON object or null a line, or as the array `metadata` of JSON texts. Arrays
are read piece by piece.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import PurePath
from typing import IO, TYPE_CHECKING, Any, Final, NoReturn

import msgspec
import numpy as np
from numpy.lib import format as npy_format

from dvecdb.cli.reading.rows import Layout, RowError, Rows, read_metadata
from dvecdb.cli.values import parse_id
from dvecdb.errors import Code

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    import numpy.typing as npt

    from dvecdb.records import Metadata

METADATA_MEMBER: Final = "metadata.jsonl"
_LINE_BYTES_MAX: Final = 1024 * 1024
_SKIP_ROWS: Final = 10_000


class _Entry(msgspec.Struct):
    id: str
    metadata: msgspec.Raw = msgspec.Raw()


_decode_entry = msgspec.json.Decoder(_Entry).decode


class Column:
    """One array of a file, read some rows at a time; text and numbers only."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name
        try:
            version = npy_format.read_magic(file)
            read = {
                (1, 0): npy_format.read_array_header_1_0,
                (2, 0): npy_format.read_array_header_2_0,
            }.get(version)
            if read is None:
                raise ValueError(f"format version {version} is not known")
            self.shape, fortran, self.dtype = read(file)
        except (ValueError, EOFError, OSError) as error:
            self._refuse(f"not a numpy array: {error}")
        if self.dtype.hasobject:
            self._refuse("holds Python objects; save it as numbers or texts")
        if fortran and len(self.shape) > 1:
            self._refuse("is in Fortran order; save numpy.ascontiguousarray(vectors)")
        self._row_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.shape[0]) if self.shape else 0

    def take(self, count: int) -> npt.NDArray[Any]:
        """Return the next `count` rows, which exist. Raises `RowError`, the file is cut short."""
        try:
            data = self._file.read(count * self._row_bytes)
        except (zipfile.BadZipFile, zlib.error) as error:
            self._refuse(f"is damaged: {error}")
        if len(data) != count * self._row_bytes:
            self._refuse(f"is cut short: {count * self._row_bytes - len(data)} bytes are missing")
        return np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])

    def skip(self, count: int) -> None:
        """Leave out `count` rows."""
        while count:
            step = min(count, _SKIP_ROWS)
            self.take(step)
            count -= step

    def texts(self, count: int) -> list[str]:
        """Return the next `count` rows of a column of texts."""
        found: list[str] = self.take(count).tolist()
        return found

    def check_texts(self, rows: int) -> None:
        """Refuse anything but `rows` texts."""
        if self.dtype.kind != "U" or self.shape != (rows,):
            self._refuse(f"expected {rows} texts, found {self.dtype} of shape {self.shape}")

    def check_vectors(self, dimension: int) -> int:
        """Refuse anything but numbers [n, dimension], of any dimension for 0; return it."""
        wanted = dimension or "dimension"
        if self.dtype.kind not in "fiu" or len(self.shape) != 2:
            self._refuse(
                f"expected numbers of shape [n, {wanted}], found {self.dtype} of shape {self.shape}"
            )
        found = int(self.shape[1])
        if found != (dimension or max(found, 1)):
            message = f"expected vectors of {dimension or 1} numbers, found {found}"
            raise RowError(Code.WRONG_DIMENSION, self._name, message)
        return found

    def _refuse(self, message: str) -> NoReturn:
        raise RowError(Code.INVALID_ARGUMENT, self._name, message)


class _Labels:
    """Ids, and perhaps metadata, that come beside the vectors, one row after the other."""

    def __init__(
        self, ids: Column | None, lines: Iterator[bytes] | None, where: str, *, with_ids: bool
    ) -> None:
        self._ids = ids
        self._lines = lines
        self._where = where
        self._with_ids = with_ids  # the lines hold ids, else metadata only
        self._row = 0

    def take(
        self, rows: int, bytes_max: int
    ) -> tuple[int, list[str] | None, list[Metadata | None] | None]:
        """Return how many of the next `rows` rows fit, their ids and their metadata."""
        if self._lines is None:
            return rows, self._ids.texts(rows) if self._ids is not None else None, None
        ids: list[str] = []
        metadata: list[Metadata | None] = []
        size = 0
        while len(metadata) < rows and (not metadata or size < bytes_max):
            record_id, value, own = self._next()
            ids.append(record_id)
            metadata.append(value)
            size += own
        count = len(metadata)
        if self._ids is not None:
            ids = self._ids.texts(count)
        has_ids = self._with_ids or self._ids is not None
        has_metadata = any(value is not None for value in metadata)
        return count, ids if has_ids else None, metadata if has_metadata else None

    def skip(self, count: int) -> None:
        """Leave out rows."""
        if self._ids is not None:
            self._ids.skip(count)
        if self._lines is not None:
            for _ in range(count):
                self._next()

    def finish(self) -> None:
        """Refuse labels for which there is no vector."""
        if self._lines is not None and any(line.strip() for line in self._lines):
            message = f"has more lines than the {self._row} vectors"
            raise RowError(Code.INVALID_ARGUMENT, self._where, message)

    def _next(self) -> tuple[str, Metadata | None, int]:
        assert self._lines is not None
        self._row += 1
        where = f"{self._where} line {self._row}"
        line = next(self._lines, b"")
        if not line.strip():
            message = "expected a line for each vector, found none"
            raise RowError(Code.INVALID_ARGUMENT, where, message)
        if not self._with_ids:
            return "", read_metadata(line, where), len(line)
        try:
            if line.lstrip()[:1] != b"{":
                return parse_id(line.decode()), None, 0
            entry = _decode_entry(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RowError(Code.INVALID_ID, where, str(error)) from None
        size = len(memoryview(entry.metadata))
        return entry.id, read_metadata(entry.metadata, where) if size else None, size


class _Arrays:
    """Vectors and labels, batch by batch. `done` and `total` in rows."""

    def __init__(self, vectors: Column, labels: _Labels, layout: Layout) -> None:
        self._dimension = vectors.check_vectors(layout.dimension)
        self.total: int | None = vectors.rows
        self.done = 0
        self._vectors = vectors
        self._labels = labels
        self._layout = layout

    def batches(self) -> Iterator[Rows]:
        """Yield the batches. Raises `RowError`, `OSError`."""
        layout, total = self._layout, self._vectors.rows
        self.done = min(layout.skip_rows, total)
        self._vectors.skip(self.done)
        self._labels.skip(self.done)
        while self.done < total:
            wanted = max(1, min(layout.rows_max, layout.bytes_max // (4 * self._dimension)))
            count, ids, metadata = self._labels.take(
                min(wanted, total - self.done), layout.bytes_max
            )
            rows = Rows(self.done, self._vectors.take(count), ids, metadata)
            self.done += count
            yield rows
        self._labels.finish()


class NpyFile(_Arrays):
    """Reads a .npy file of vectors, and the file of ids beside it."""

    def __init__(self, file: IO[bytes], layout: Layout, beside: IO[bytes] | None) -> None:
        """Read the headers. beside: the file of ids."""
        vectors = Column(file, "the array")
        column, lines, where = None, None, ""
        if beside is not None:
            where = PurePath(beside.name).name
            if where.endswith(".npy"):
                column = Column(beside, where)
                column.check_texts(vectors.rows)
            else:
                lines = _lines(beside)
        super().__init__(vectors, _Labels(column, lines, where, with_ids=True), layout)


class NpzFile(_Arrays):
    """Reads a .npz file."""

    def __init__(self, file: IO[bytes], layout: Layout, opened: ExitStack) -> None:
        """Read the headers. What is opened on the way is left to `opened` to close."""
        self._opened = opened
        try:
            archive = opened.enter_context(zipfile.ZipFile(file))
        except (zipfile.BadZipFile, OSError) as error:
            raise RowError(Code.INVALID_ARGUMENT, "", f"not a .npz file: {error}") from None
        members = {info.removesuffix(".npy") for info in archive.namelist()}
        name = layout.vector_field if layout.vector_field in members else "vectors"
        if name not in members:
            raise RowError(
                Code.INVALID_ARGUMENT,
                "",
                f"no array 'vectors'; found {', '.join(sorted(members)[:8])}. --vector-field "
                "names another",
            )
        vectors = Column(opened.enter_context(archive.open(f"{name}.npy")), name)
        ids = self._texts(archive, members, "ids", vectors.rows)
        lines: Iterator[bytes] | None = None
        if METADATA_MEMBER in members:
            lines = _lines(opened.enter_context(archive.open(METADATA_MEMBER)))
        elif (column := self._texts(archive, members, "metadata", vectors.rows)) is not None:
            lines = _text_lines(column)
        super().__init__(vectors, _Labels(ids, lines, METADATA_MEMBER, with_ids=False), layout)

    def _texts(
        self, archive: zipfile.ZipFile, members: set[str], name: str, rows: int
    ) -> Column | None:
        if name not in members:
            return None
        column = Column(self._opened.enter_context(archive.open(f"{name}.npy")), name)
        column.check_texts(rows)
        return column


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    while line := file.readline(_LINE_BYTES_MAX):
        if len(line) == _LINE_BYTES_MAX:
            message = f"a line is longer than {_LINE_BYTES_MAX} bytes"
            raise RowError(Code.INVALID_ARGUMENT, "", message)
        yield line


def _text_lines(column: Column) -> Iterator[bytes]:
    """Yield JSON texts of an array as lines; an empty text is no metadata."""
    left = column.rows
    while left:
        count = min(left, 1_000)
        for text in column.texts(count):
            yield text.encode() or b"null"
        left -= count
