"""Rows and commits newer than the flushed LSN, in memory.

Rows live in chunks of arrays; a chunk never moves, so readers keep views of it. The writer adds
a batch *before* it is synced: its rows and ends carry an LSN that no reader looks at until the
commit is published, so a batch whose sync fails is never seen.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

import numpy as np

from dvecdb.media.memory import new_rows
from dvecdb.search.distance import copy_rows, row_norms

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from dvecdb.engine.row_columns import RowColumns
    from dvecdb.formats.columns import DocumentEntry
    from dvecdb.records import Schema

_CHUNK_BYTES: Final = 4 * 1024 * 1024
_ROW_OVERHEAD_BYTES: Final = 200  # id, metadata and dictionary entry, about


class Chunk:
    """A run of rows. Arrays have room for `capacity` rows, of which `used` are filled.

    vectors: stored type [capacity, dimension]; ends: uint64[capacity], 0 for none.
    """

    __slots__ = ("_norms", "_norms_used", "capacity", "ends", "first_row", "ids", "metadata",
                 "row_columns", "used", "vectors")  # fmt: skip

    def __init__(self, first_row: int, vectors: npt.NDArray[np.generic], used: int) -> None:
        self.first_row = first_row
        self.vectors = vectors
        self.capacity = len(vectors)
        self.used = used
        self.ends: npt.NDArray[np.uint64] = np.zeros(self.capacity, dtype=np.uint64)
        self.ids: list[str] = []
        self.metadata: list[bytes] = []
        self.row_columns: RowColumns | None = None  # made by the first filter
        self._norms: npt.NDArray[np.float32] = np.zeros(self.capacity, dtype=np.float32)
        self._norms_used = 0

    def rows_at(self, ordinals: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the row numbers of rows by ordinal."""
        return ordinals + self.first_row

    def count_below(self, row_limit: int) -> int:
        """Return how many rows have a number below `row_limit`."""
        return max(0, min(self.used, row_limit - self.first_row))

    def norms(self, count: int) -> npt.NDArray[np.float32]:
        """Return the L2 norms of the first `count` rows: float32[count]."""
        start = self._norms_used
        if start < count:  # two readers may both do this: they write the same values
            self._norms[start:count] = row_norms(self.vectors[start:count])
            self._norms_used = max(self._norms_used, count)
        return self._norms[:count]

    def served_rows(self) -> npt.NDArray[np.int64]:
        """Return the ordinals of its rows, as a segment does."""
        return np.arange(self.used)


class Memtable:
    """The commits first_lsn .. last_lsn and their rows. Changed only under the commit lock."""

    def __init__(self, schema: Schema, first_row: int, first_lsn: int) -> None:
        self.schema = schema
        self.first_row = first_row
        self.row_end = first_row
        self.first_lsn = first_lsn
        self.chunks: list[Chunk] = []
        self._chunk_starts: list[int] = []
        self.latest: dict[str, int] = {}
        self.earlier: dict[int, int] = {}
        self.row_ends: list[int] = []
        self.hlcs: list[int] = []
        self.walls: list[int] = []
        self.notes: list[bytes] = []
        self.hashes: list[int] = []
        self.ends: list[tuple[int, npt.NDArray[np.uint64]]] = []
        self.documents: dict[tuple[str, str], list[tuple[int, bytes | None]]] = {}
        self.lost_vectors: set[int] = set()
        self.lost_metadata: set[int] = set()
        self.size_bytes = 0

    @property
    def last_lsn(self) -> int:
        """The newest commit in here; `first_lsn - 1` if there is none."""
        return self.first_lsn + len(self.row_ends) - 1

    @property
    def rows(self) -> int:
        """Number of rows in here."""
        return self.row_end - self.first_row

    def add_commit(
        self,
        *,
        row_end: int,
        hlc: int,
        wall_ns: int,
        note: bytes,
        record_hash: int,
        ends: npt.NDArray[np.uint64],
        documents: Sequence[DocumentEntry],
    ) -> None:
        """Add the next commit. Its rows were added before, or lie in a bulk segment."""
        lsn = self.first_lsn + len(self.row_ends)
        for namespace, key, value in documents:
            self.documents.setdefault((namespace, key), []).append((lsn, value))
            self.size_bytes += len(key) + len(value or b"") + _ROW_OVERHEAD_BYTES
        if len(ends):
            self.ends.append((lsn, ends))
        self.hlcs.append(hlc)
        self.walls.append(wall_ns)
        self.notes.append(note)
        self.hashes.append(record_hash)
        self.size_bytes += len(note) + 8 * len(ends) + 64
        self.row_ends.append(row_end)
        self.row_end = max(self.row_end, row_end)

    def add_rows(
        self,
        vectors: npt.NDArray[np.generic],
        ids: Sequence[str],
        metadata: Sequence[bytes] | None,
    ) -> None:
        """Add rows after the last one. `vectors` [n, dimension] is owned by the memtable now."""
        count = len(ids)
        if vectors.nbytes * 2 >= _CHUNK_BYTES:
            self._append_chunk(Chunk(self.row_end, vectors, 0))
            self._fill(vectors, ids, metadata, 0, count, adopt=True)
            return
        start = 0
        while start < count:
            chunk = self.chunks[-1] if self.chunks else None
            if chunk is None or chunk.used == chunk.capacity:
                capacity = max(16, _CHUNK_BYTES // self.schema.vector_bytes)
                # One chunk may be all there ever is: its pages are small.
                allocate = new_rows if self.chunks else np.empty
                empty = allocate((capacity, self.schema.dimension), vectors.dtype)
                chunk = Chunk(self.row_end, empty, 0)
                self._append_chunk(chunk)
            end = min(count, start + chunk.capacity - chunk.used)
            self._fill(vectors, ids, metadata, start, end, adopt=False)
            start = end

    def _append_chunk(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self._chunk_starts.append(chunk.first_row)

    def _fill(  # one row range of one batch
        self,
        vectors: npt.NDArray[np.generic],
        ids: Sequence[str],
        metadata: Sequence[bytes] | None,
        start: int,
        end: int,
        *,
        adopt: bool,
    ) -> None:
        chunk, count = self.chunks[-1], end - start
        if not adopt:
            copy_rows(vectors[start:end], chunk.vectors[chunk.used : chunk.used + count])
        own_ids = ids if count == len(ids) else ids[start:end]
        chunk.ids += own_ids
        chunk.metadata += metadata[start:end] if metadata else [b""] * count
        row = self.row_end
        latest = self.latest
        for text in own_ids:
            before = latest.get(text)
            if before is not None:
                self.earlier[row] = before
            latest[text] = row
            row += 1
        if metadata:
            self.size_bytes += sum(map(len, metadata[start:end]))
        self.size_bytes += count * (self.schema.vector_bytes + _ROW_OVERHEAD_BYTES)
        chunk.used += count
        self.row_end = row

    def chunk_of(self, row: int) -> Chunk:
        """Return the chunk that holds `row`."""
        return self.chunks[bisect_right(self._chunk_starts, row) - 1]

    def versions(self, record_id: str) -> Iterator[int]:
        """Yield the rows of an id, newest first."""
        row = self.latest.get(record_id)
        while row is not None:
            yield row
            row = self.earlier.get(row)

    def apply_ends(self, rows: npt.NDArray[np.uint64], lsn: int) -> None:
        """Record ends of rows in here."""
        for row in rows.tolist():
            chunk = self.chunk_of(row)
            chunk.ends[row - chunk.first_row] = lsn

    def all_ends(self) -> npt.NDArray[np.uint64]:
        """Return the ends of all rows in here: uint64[rows]."""
        if not self.chunks:
            return np.zeros(0, dtype=np.uint64)
        return np.concatenate([chunk.ends[: chunk.used] for chunk in self.chunks])
