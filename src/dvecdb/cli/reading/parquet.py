"""Records as a Parquet file: columns id, vector (a list of numbers) and metadata.

Metadata is a column of JSON texts, or of structs or maps. Needs the extra `parquet`.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from dvecdb.cli.options import Others
from dvecdb.cli.reading.rows import Layout, RowError, Rows, read_metadata
from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    import numpy.typing as npt

    from dvecdb.records import Metadata


def load_pyarrow() -> tuple[Any, Any]:
    """Return the modules `pyarrow` and `pyarrow.parquet`.

    Raises:
        InvalidRequestError: `invalid-argument`, they are not installed.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415  # an extra, and slow to import
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError:
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT,
            "Parquet files need the extra 'parquet': pip install 'dvecdb[parquet]'",
        ) from None
    return pa, pq


class ParquetFile:
    """Reads a Parquet file. `done` and `total` in rows."""

    def __init__(self, file: IO[bytes], layout: Layout, opened: ExitStack) -> None:
        """Read the footer. What is opened on the way is left to `opened` to close."""
        self._pa, pq = load_pyarrow()
        self._layout = layout
        try:
            self._file = opened.enter_context(pq.ParquetFile(file))
        except (self._pa.ArrowException, OSError) as error:
            message = f"not a Parquet file: {_first_line(error)}"
            raise RowError(Code.INVALID_ARGUMENT, "", message) from None
        self.total: int | None = self._file.metadata.num_rows
        self.done = 0
        names = list(self._file.schema_arrow.names)
        if layout.vector_field not in names:
            raise RowError(
                Code.INVALID_ARGUMENT,
                "",
                f"no column {layout.vector_field!r}; found {', '.join(names[:8])}. --vector-field "
                "names another",
            )
        known = (layout.id_field, layout.vector_field, layout.metadata_field)
        self._others = [name for name in names if name not in known]
        if self._others and layout.others is Others.REFUSE:
            raise RowError(
                Code.INVALID_ARGUMENT,
                "",
                f"unknown columns {', '.join(map(repr, self._others[:5]))}; expected "
                f"{layout.fields}. --others metadata or ignore takes more",
            )
        self._columns = [
            name for name in names if name in known or layout.others is Others.METADATA
        ]
        self._dimension = layout.dimension or self._first_length()

    def _first_length(self) -> int:
        """Return the dimension of the first row, 0 if it cannot be told."""
        name = self._layout.vector_field
        try:
            batch = next(self._file.iter_batches(batch_size=1, columns=[name]), None)
            length = batch.column(name).value_lengths()[0].as_py() if batch else None
        except (self._pa.ArrowException, AttributeError, OSError):  # said where it is read
            length = None
        return length or 0

    def batches(self) -> Iterator[Rows]:
        """Yield the batches. Raises `RowError`, `OSError`."""
        layout = self._layout
        wanted = max(1, min(layout.rows_max, layout.bytes_max // (4 * max(1, self._dimension))))
        skip = layout.skip_rows
        try:
            for batch in self._file.iter_batches(batch_size=wanted, columns=self._columns):
                left_out = min(skip, batch.num_rows)
                skip -= left_out
                if left_out:
                    batch = batch.slice(left_out)
                first = self.done + left_out
                if batch.num_rows:
                    yield from self._split(self._rows(batch, first))
                self.done = first + batch.num_rows
        except (self._pa.ArrowException, OSError) as error:
            where = f"after row {self.done}"
            raise RowError(Code.INVALID_ARGUMENT, where, _first_line(error)) from None

    def _rows(self, batch: Any, first: int) -> Rows:
        layout, names = self._layout, batch.schema.names
        ids: list[str] | None = None
        if layout.id_field in names:
            ids = self._ids(batch.column(layout.id_field), first)
        metadata = self._metadata(batch, first)
        return Rows(first, self._vectors(batch.column(layout.vector_field), first), ids, metadata)

    def _ids(self, column: Any, first: int) -> list[str]:
        found = cast("list[object]", column.to_pylist())
        for number, value in enumerate(found):
            if isinstance(value, bool) or not isinstance(value, (str, int)):
                message = f"expected a text or a whole number as id, found {value!r:.60}"
                raise RowError(Code.INVALID_ID, f"row {first + number + 1}", message)
        return [value if isinstance(value, str) else str(value) for value in found]

    def _vectors(self, column: Any, first: int) -> npt.NDArray[Any]:
        pa, dimension = self._pa, self._dimension
        kind = column.type
        is_list = (
            pa.types.is_list(kind)
            or pa.types.is_large_list(kind)
            or pa.types.is_fixed_size_list(kind)
        )
        if not is_list or not (
            pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)
        ):
            message = f"{self._layout.vector_field}: expected lists of numbers, found {kind}"
            raise RowError(Code.INVALID_ARGUMENT, "", message)
        if column.null_count:
            number = column.is_null().to_pylist().index(True)
            raise RowError(Code.INVALID_ARGUMENT, f"row {first + number + 1}", "no vector")
        if not dimension:
            raise RowError(Code.WRONG_DIMENSION, f"row {first + 1}", "the vector is empty")
        if not pa.types.is_fixed_size_list(kind) or kind.list_size != dimension:
            lengths = column.value_lengths().to_numpy(zero_copy_only=False)
            wrong = np.flatnonzero(lengths != dimension)
            if len(wrong):
                message = f"expected {dimension} numbers, found {lengths[wrong[0]]}"
                where = f"row {first + int(wrong[0]) + 1}"
                raise RowError(Code.WRONG_DIMENSION, where, message)
        flat = column.flatten()
        if flat.null_count:
            number = flat.is_null().to_pylist().index(True)
            where = f"row {first + number // dimension + 1}"
            message = f"number {number % dimension} of the vector is missing"
            raise RowError(Code.INVALID_ARGUMENT, where, message)
        numbers: npt.NDArray[Any] = flat.to_numpy(zero_copy_only=False)
        return numbers.reshape(len(column), dimension)

    def _metadata(self, batch: Any, first: int) -> list[Metadata | None] | None:
        found: list[Metadata | None] = [None] * batch.num_rows
        if self._layout.metadata_field in batch.schema.names:
            values = batch.column(self._layout.metadata_field).to_pylist(maps_as_pydicts="strict")
            for number, value in enumerate(values):
                where = f"row {first + number + 1}"
                found[number] = read_metadata(value, where) if isinstance(value, str) else value
        if self._layout.others is Others.METADATA and self._others:
            columns = {name: batch.column(name).to_pylist() for name in self._others}
            for number, own in enumerate(found):
                more = {name: values[number] for name, values in columns.items()}
                found[number] = {**more, **(own or {})}
        return found if any(value is not None for value in found) else None

    def _split(self, rows: Rows) -> Iterator[Rows]:
        """Yield rows as they are, or in pieces where their metadata are large."""
        if rows.metadata is None:
            yield rows
            return
        start = size = 0
        for number, value in enumerate(rows.metadata):
            size += len(repr(value)) if value else 0
            last = number + 1 == len(rows.metadata)
            if size >= self._layout.bytes_max or last:
                part = slice(start, number + 1)
                yield Rows(
                    rows.first + start,
                    rows.vectors[part],
                    rows.ids[part] if rows.ids is not None else None,
                    rows.metadata[part],
                )
                start, size = number + 1, 0


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
