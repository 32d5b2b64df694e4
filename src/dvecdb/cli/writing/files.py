"""Writing records to files: one class per format, each fed blocks of records in order.

What is written comes back the same through `dvecdb insert`: every bit of a float32, every id,
metadata as the same JSON value. Numbers in text are those of the nearest float64, which is exact.
"""

from __future__ import annotations

import tempfile
import zipfile
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

import msgspec
import numpy as np
from numpy.lib import format as npy_format

from dvecdb.cli.options import Format
from dvecdb.cli.reading.arrays import METADATA_MEMBER
from dvecdb.cli.reading.parquet import load_pyarrow
from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dvecdb.records import Record

_COPY_BYTES: Final = 4 * 1024 * 1024
_TEXTS: Final = 10_000
_encode = msgspec.json.Encoder().encode
_decode_id = msgspec.json.Decoder(str).decode


class _Line(msgspec.Struct):
    id: str
    vector: list[float]
    metadata: dict[str, Any] | None


class _Label(msgspec.Struct):
    id: str
    metadata: dict[str, Any] | None


class Writer(Protocol):
    """A format. The caller opens, syncs and renames the file."""

    def write(self, records: Sequence[Record]) -> None:
        """Write some records."""

    def finish(self) -> None:
        """Write what comes after the last record."""

    def close(self) -> None:
        """Let go of what it holds, finished or not."""


def make_writer(
    kind: Format, file: IO[bytes], labels: IO[bytes] | None, count: int, dimension: int
) -> Writer:
    """Return the writer of `count` records; `labels`: where the ids beside a .npy go."""
    if kind is Format.JSONL:
        return _JsonLines(file)
    if kind is Format.CSV:
        return _Csv(file)
    if kind is Format.PARQUET:
        return _Parquet(file, dimension)
    if kind is Format.NPZ:
        return _Npz(file, count, dimension)
    assert labels is not None
    return _Npy(file, labels, count, dimension)


def _matrix(records: Sequence[Record]) -> npt.NDArray[np.float32]:
    vectors = [record.vector for record in records if record.vector is not None]
    assert len(vectors) == len(records)
    return np.ascontiguousarray(np.stack(vectors), dtype="<f4")


class _JsonLines:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, records: Sequence[Record]) -> None:
        lines = [
            _encode(_Line(record.id, vector, record.metadata))
            for record, vector in zip(records, _matrix(records).tolist(), strict=True)
        ]
        self._file.write(b"\n".join([*lines, b""]))

    def finish(self) -> None:
        """Nothing comes after the last line."""

    def close(self) -> None:
        """Nothing is held."""


class _Csv:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        file.write(b"id,vector,metadata\r\n")

    def write(self, records: Sequence[Record]) -> None:
        lines = [
            b'%b,"%b",%b'
            % (
                _quoted(record.id.encode()),
                _encode(vector),  # a list of numbers: commas, but no quotes
                b"" if record.metadata is None else _quoted(_encode(record.metadata)),
            )
            for record, vector in zip(records, _matrix(records).tolist(), strict=True)
        ]
        self._file.write(b"\r\n".join([*lines, b""]))

    def finish(self) -> None:
        """Nothing comes after the last line."""

    def close(self) -> None:
        """Nothing is held."""


def _quoted(text: bytes) -> bytes:
    """Return a cell of CSV."""
    if any(letter in text for letter in (b",", b'"', b"\r", b"\n")):
        return b'"' + text.replace(b'"', b'""') + b'"'
    return text


class _Npy:
    def __init__(self, file: IO[bytes], labels: IO[bytes], count: int, dimension: int) -> None:
        self._file, self._labels = file, labels
        _write_header(file, "<f4", (count, dimension))

    def write(self, records: Sequence[Record]) -> None:
        self._file.write(_matrix(records).data)
        lines = [_encode(_Label(record.id, record.metadata)) for record in records]
        self._labels.write(b"\n".join([*lines, b""]))

    def finish(self) -> None:
        """Nothing comes after the last row."""

    def close(self) -> None:
        """Nothing is held."""


class _Npz:
    """Vectors go straight into the archive, ids and metadata wait in files of their own."""

    def __init__(self, file: IO[bytes], count: int, dimension: int) -> None:
        self._archive = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        self._count = count
        self._vectors = self._archive.open("vectors.npy", "w", force_zip64=True)
        _write_header(self._vectors, "<f4", (count, dimension))
        self._ids: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as we do
        self._metadata: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._id_length = 1
        self._has_metadata = False

    def write(self, records: Sequence[Record]) -> None:
        self._vectors.write(_matrix(records).data)
        for record in records:
            if record.id.endswith("\0"):  # numpy takes it for padding
                raise InvalidRequestError(
                    Code.INVALID_ID,
                    f"a .npz cannot hold the id {record.id!r}, which ends with NUL; export jsonl",
                    id=record.id,
                )
        self._ids.write(b"".join(_encode(record.id) + b"\n" for record in records))
        self._metadata.write(b"".join(_encode(record.metadata) + b"\n" for record in records))
        self._id_length = max(self._id_length, *(len(record.id) for record in records))
        self._has_metadata |= any(record.metadata is not None for record in records)

    def finish(self) -> None:
        self._vectors.close()
        dtype = f"<U{self._id_length}"
        self._ids.seek(0)
        with self._archive.open("ids.npy", "w", force_zip64=True) as member:
            _write_header(member, dtype, (self._count,))
            texts: list[str] = []
            for line in self._ids:
                texts.append(_decode_id(line))
                if len(texts) == _TEXTS:
                    member.write(np.array(texts, dtype).tobytes())
                    texts = []
            member.write(np.array(texts, dtype).tobytes())
        if self._has_metadata:
            self._metadata.seek(0)
            with self._archive.open(METADATA_MEMBER, "w", force_zip64=True) as member:
                while block := self._metadata.read(_COPY_BYTES):
                    member.write(block)

    def close(self) -> None:
        for part in (self._vectors, self._archive, self._ids, self._metadata):
            part.close()


class _Parquet:
    def __init__(self, file: IO[bytes], dimension: int) -> None:
        self._pa, pq = load_pyarrow()
        self._schema = self._pa.schema(
            [
                ("id", self._pa.string()),
                ("vector", self._pa.list_(self._pa.float32(), dimension)),
                ("metadata", self._pa.string()),
            ]
        )
        self._dimension = dimension
        self._writer = pq.ParquetWriter(file, self._schema)

    def write(self, records: Sequence[Record]) -> None:
        pa = self._pa
        flat = pa.array(_matrix(records).reshape(-1))
        metadata = [
            None if record.metadata is None else _encode(record.metadata).decode()
            for record in records
        ]
        columns = [
            pa.array([record.id for record in records], pa.string()),
            pa.FixedSizeListArray.from_arrays(flat, self._dimension),
            pa.array(metadata, pa.string()),
        ]
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))

    def finish(self) -> None:
        """Nothing yet: closing writes the end of the file."""

    def close(self) -> None:
        self._writer.close()


def _write_header(file: IO[bytes], dtype: str, shape: tuple[int, ...]) -> None:
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    npy_format.write_array_header_1_0(file, header)
