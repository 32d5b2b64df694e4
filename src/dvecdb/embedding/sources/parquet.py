"""Parquet files, a batch of rows at a time. Needs the extra `parquet`.

A position is `[row, fingerprint]`: rows are counted from the front, and the fingerprint is of the
size, the footer and the bytes at both ends of the data, so that a rewritten file is another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO, Final

import xxhash

from dvecdb.embedding.sources.files import FileError, Record
from dvecdb.embedding.sources.values import iso_of
from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dvecdb.records import Json

_BATCH_ROWS: Final = 1_024
_BUFFER_BYTES: Final = 1024 * 1024
_SAMPLE_BYTES: Final = 4096
_FOOTER_BYTES_MAX: Final = 64 * 1024 * 1024


class ParquetRecords:
    """`Records` of a Parquet file."""

    unit = "row"

    def __init__(self, path: str, columns: Sequence[str]) -> None:
        """Load pyarrow; nothing is opened yet.

        Raises:
            InvalidRequestError: `extra-missing`.
        """
        self._path = path
        self._columns = tuple(columns)
        self._pa, self._pq = _load_pyarrow()
        self.unseen: set[str] = set()

    def fits(self, position: Json) -> bool:
        """Return whether the file there is now has this position. Raises `FileError`, `OSError`."""
        with open(self._path, "rb") as file:  # noqa: PTH123  # text
            return _row_of(position, _fingerprint(file)) is not None

    def read(self, after: Json) -> Iterator[Record]:
        """Yield the records behind a position. Raises `FileError`, `OSError`."""
        with open(self._path, "rb") as file:  # noqa: PTH123  # text
            fingerprint = _fingerprint(file)
            done = _row_of(after, fingerprint) or 0
            file.seek(0)
            try:
                opened = self._pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
                self._check_columns(opened)
                for batch in self._batches(opened, done):
                    columns = [self._cells(batch.column(name), name) for name in self._columns]
                    for cells in zip(*columns, strict=True):
                        done += 1
                        yield Record([done, fingerprint], done, cells)
            except self._pa.ArrowException as error:
                raise FileError(f"after row {done}: {_first_line(error)}") from None
            except OSError as error:
                if error.errno is not None:
                    raise
                raise FileError(f"damaged after row {done}: {_first_line(error)}") from None

    def _check_columns(self, opened: Any) -> None:
        names = list(opened.schema_arrow.names)
        missing = [name for name in self._columns if name not in names]
        if missing:
            raise FileError(
                f"no column {', '.join(map(repr, missing))}; found {', '.join(names[:20])}"
            )

    def _batches(self, opened: Any, skip: int) -> Iterator[Any]:
        """Yield batches from row `skip` on; row groups before it are not read."""
        metadata = opened.metadata
        group = 0
        while group < metadata.num_row_groups and skip >= metadata.row_group(group).num_rows:
            skip -= metadata.row_group(group).num_rows
            group += 1
        if group == metadata.num_row_groups:
            return
        for batch in opened.iter_batches(
            batch_size=_BATCH_ROWS,
            row_groups=range(group, metadata.num_row_groups),
            columns=list(self._columns),
            use_threads=False,
        ):
            left_out = min(skip, batch.num_rows)
            skip -= left_out
            if left_out < batch.num_rows:
                yield batch.slice(left_out)

    def _cells(self, column: Any, name: str) -> list[object]:
        """Return the values of a column. Moments become ISO 8601 text, in UTC if they have a zone.

        Text that is no UTF-8 keeps those bytes as lone surrogates.
        """
        types, kind = self._pa.types, column.type
        if types.is_dictionary(kind):
            column, kind = column.dictionary_decode(), kind.value_type
        if types.is_timestamp(kind):
            if kind.tz is not None:
                column = column.cast(self._pa.timestamp(kind.unit, "UTC"))
            texts = column.cast(self._pa.string()).to_pylist()
            return [None if text is None else iso_of(text) for text in texts]
        if types.is_time(kind):
            return list(column.cast(self._pa.string()).to_pylist())
        try:
            return list(column.to_pylist())
        except UnicodeDecodeError:
            if types.is_string(kind) or types.is_large_string(kind):
                raw = column.cast(self._pa.large_binary()).to_pylist()
                return [None if one is None else one.decode(errors="surrogateescape")
                        for one in raw]  # fmt: skip
            raise FileError(f"the column {name} has text in it that is no UTF-8") from None
        except (ValueError, OverflowError) as error:
            raise FileError(f"the column {name} cannot be read: {_first_line(error)}") from None


def _load_pyarrow() -> tuple[Any, Any]:
    """Return the modules `pyarrow` and `pyarrow.parquet`."""
    try:
        import pyarrow as pa  # noqa: PLC0415  # an extra, and slow to import
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError:
        raise InvalidRequestError(
            Code.EXTRA_MISSING,
            "Parquet files need the extra 'parquet': pip install 'dvecdb[parquet]'",
        ) from None
    return pa, pq


def _fingerprint(file: BinaryIO) -> str:
    """Return the fingerprint of a Parquet file."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 8))
    end = file.read(8)
    if size < 12 or end[4:] != b"PAR1":
        raise FileError("it is no Parquet file, or was not written to its end")
    footer = int.from_bytes(end[:4], "little") + 8
    if footer > min(size, _FOOTER_BYTES_MAX):
        raise FileError("it is no Parquet file: its footer does not fit into it")
    sampled = max(0, size - footer - _SAMPLE_BYTES)
    found = xxhash.xxh3_64()
    found.update(size.to_bytes(8, "little"))
    file.seek(sampled)
    found.update(file.read(size - sampled))
    file.seek(0)
    found.update(file.read(_SAMPLE_BYTES))
    return found.hexdigest()


def _row_of(position: Json, fingerprint: str) -> int | None:
    """Return how many rows are behind a position, None if it is of another file."""
    if not isinstance(position, list) or len(position) != 2:
        return None
    row, of = position
    if type(row) is not int or row < 0 or of != fingerprint:
        return None
    return row


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
