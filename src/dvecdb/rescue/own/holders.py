"""Rows as they lie in a segment or in a log: what of each can be read, and where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dvecdb.engine.segment import UnreadableError
from dvecdb.errors import Code, DirectoryError
from dvecdb.formats import segment_file as sf
from dvecdb.formats.columns import block_rows
from dvecdb.records import VectorType

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from dvecdb.media.files import File, Files
    from dvecdb.records import Schema
    from dvecdb.rescue.own.logs import Logged
    from dvecdb.rescue.own.segments import Opened

    Ordinals = npt.NDArray[np.int64]


class Holder(Protocol):
    """Rows that lie together. `rows`: their numbers, rising; an ordinal is a place in it.

    bad_vectors: bool[n], which vectors cannot be served; is_certain: whether the rows are known to
    have been committed.
    """

    file: str
    rows: npt.NDArray[np.int64]
    bad_vectors: npt.NDArray[np.bool_]
    is_certain: bool
    is_shared: bool

    def ids(self, ordinals: Ordinals) -> list[str | None]:
        """Return ids, None for those that cannot be read."""

    def metadata(self, ordinals: Ordinals) -> list[bytes | None]:
        """Return metadata JSON, b"" for none, None for what cannot be read."""

    def vectors(self, ordinals: Ordinals) -> npt.NDArray[Any]:
        """Return vectors that are not bad, as stored. DirectoryError: they cannot be read now."""

    def block(self, ordinal: int) -> tuple[int, int]:
        """Return the byte range in `file` that one checksum guards, around a vector."""

    def offset(self, ordinal: int) -> int:
        """Return where a vector begins in `file`."""


class SegmentRows:
    """The rows of an open segment, its every byte verified."""

    def __init__(self, opened: Opened, *, is_shared: bool) -> None:
        """Read all of it. is_shared: another collection wrote it, and may go on in it."""
        segment = opened.segment
        self.segment = segment
        self.file = opened.found.path(sf.VECTORS_NAME)
        self.is_certain = opened.is_certain
        self.is_shared = is_shared
        segment.verify()
        self.rows = segment.rows_at(np.arange(segment.rows, dtype=np.int64))
        self.bad_vectors = np.zeros(segment.rows, dtype=np.bool_)
        if segment.rows:
            self.bad_vectors[segment.unreadable_vectors(0, segment.rows)] = True

    def ids(self, ordinals: Ordinals) -> list[str | None]:
        """Return ids, None for those that cannot be read."""
        return _readable(self.segment.ids, ordinals)

    def metadata(self, ordinals: Ordinals) -> list[bytes | None]:
        """Return metadata JSON, b"" for none, None for what cannot be read."""
        return _readable(self.segment.metadata, ordinals)

    def vectors(self, ordinals: Ordinals) -> npt.NDArray[Any]:
        """Return vectors that are not bad, as stored; of neighbours a view of the file."""
        first, last = int(ordinals[0]), int(ordinals[-1])
        if last - first + 1 == len(ordinals):
            return self.segment.vectors[first : last + 1]
        return self.segment.vectors[ordinals]

    def block(self, ordinal: int) -> tuple[int, int]:
        """Return the byte range of the block that a vector lies in."""
        descriptor = self.segment.descriptor
        size = descriptor.block_rows * descriptor.vector_bytes
        start = ordinal // descriptor.block_rows * size
        return start, min(start + size, descriptor.rows * descriptor.vector_bytes)

    def offset(self, ordinal: int) -> int:
        """Return where a vector begins in `file`."""
        return ordinal * self.segment.descriptor.vector_bytes


class BatchRows:
    """The rows of a batch in a log, whose file stays open."""

    def __init__(self, files: Files, file: File, logged: Logged, schema: Schema) -> None:
        """Take the rows that the batch itself holds, none of a bulk batch."""
        batch = logged.batch
        assert batch is not None
        self._files, self._open_file = files, file
        self._logged, self._schema = logged, schema
        self._ids, self._metadata = batch.ids, batch.metadata
        self._lost_metadata = frozenset(batch.lost_metadata)
        self.file = logged.log.path
        self.is_certain, self.is_shared = True, False
        count = 0 if batch.bulk is not None else batch.row_count
        self.rows = np.arange(batch.first_row, batch.first_row + count, dtype=np.int64)
        self.bad_vectors = np.zeros(count, dtype=np.bool_)
        self.bad_vectors[batch.lost_vectors] = True

    def ids(self, ordinals: Ordinals) -> list[str | None]:
        """Return ids: control data, so all of them can be read."""
        return [self._ids[number] for number in ordinals.tolist()]

    def metadata(self, ordinals: Ordinals) -> list[bytes | None]:
        """Return metadata JSON, b"" for none, None for what cannot be read."""
        lost, values = self._lost_metadata, self._metadata
        return [
            None if number in lost else values[number] if values is not None else b""
            for number in ordinals.tolist()
        ]

    def vectors(self, ordinals: Ordinals) -> npt.NDArray[Any]:
        """Return vectors that are not bad, as stored, read from the file."""
        schema, size = self._schema, self._schema.vector_bytes
        found = np.empty((len(ordinals), schema.dimension), schema.vector_type.dtype)
        done = 0
        for run in np.split(ordinals, np.flatnonzero(np.diff(ordinals) != 1) + 1):
            try:
                data = self._files.read_at(
                    self._open_file, len(run) * size, self.offset(int(run[0]))
                )
            except OSError as error:
                raise _gone(self.file, error.strerror or "unreadable") from error
            if len(data) < len(run) * size:
                raise _gone(self.file, "it became shorter meanwhile")
            found[done : done + len(run)] = np.frombuffer(data, schema.vector_type.dtype).reshape(
                -1, schema.dimension
            )
            done += len(run)
        return found

    def block(self, ordinal: int) -> tuple[int, int]:
        """Return the byte range of the block that a vector lies in."""
        size = self._schema.vector_bytes
        step = block_rows(size)
        first = ordinal // step * step
        end = min(first + step, len(self.rows))
        return self.offset(first), self.offset(end)

    def offset(self, ordinal: int) -> int:
        """Return where a vector begins in `file`."""
        return self._logged.vectors_offset + ordinal * self._schema.vector_bytes


def holds(holder: SegmentRows, schema: Schema) -> bool:
    """Tell whether the rows of a segment have the form that the schema says."""
    found = holder.segment.descriptor
    return (found.dimension, VectorType(found.vector_type)) == (
        schema.dimension,
        schema.vector_type,
    )


def _gone(file: str, why: str) -> DirectoryError:
    return DirectoryError(
        Code.DIRECTORY_UNREADABLE, f"{file} cannot be read any more: {why}", path=file
    )


def _readable(read: Callable[[Ordinals], list[Any]], ordinals: Ordinals) -> list[Any]:
    """Return what `read` gives of each ordinal, None where it cannot."""
    values: list[Any] = [None] * len(ordinals)
    left = np.arange(len(ordinals))
    while len(left):
        try:
            found = read(ordinals[left])
        except UnreadableError as error:
            bad = np.isin(ordinals[left], np.array(error.ordinals, dtype=np.int64))
            left = left[~bad]
            continue
        except (ValueError, IndexError):  # checksums fit, and yet it makes no sense
            break
        for place, value in zip(left.tolist(), found, strict=True):
            values[place] = value
        break
    return values
