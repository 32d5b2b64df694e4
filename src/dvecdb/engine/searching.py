"""Searches of a snapshot: the nearest rows, and the hits made of them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from dvecdb.engine.nearest import Nearest
from dvecdb.engine.rows import damaged_rows
from dvecdb.engine.segment import UnreadableError
from dvecdb.results import Hit, Hits
from dvecdb.search.effort import Aim
from dvecdb.search.ivf import use_threads, using_threads
from dvecdb.search.vectors import check_query

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dvecdb.engine.index import Index, Indexing
    from dvecdb.engine.matching import Matching
    from dvecdb.engine.rows import View
    from dvecdb.engine.segment import Segment
    from dvecdb.records import Schema
    from dvecdb.search.wanted import Wanted

_decode = msgspec.json.Decoder().decode

_FEW_QUERIES: Final = 4  # up to so many a batch is done by the caller's thread


@dataclass(frozen=True, slots=True)
class Searching:
    """A consistent state to search in. default_recall: what a search aims at that says nothing."""

    view: View
    schema: Schema
    lsn: int
    row_limit: int
    index: Index | None
    default_recall: float
    indexing: Indexing

    def one(self, query: Any, wanted: Wanted, matching: Matching | None) -> Hits:
        """Return the hits of a query: [dimension] numbers.

        Raises:
            InvalidRequestError: `wrong-dimension`, `not-finite`, `invalid-argument`.
            DamagedDataError: `damaged-data`, names the ids that cannot be read.
        """
        vector = check_query(query, self.schema.dimension)
        return self._hits(self._nearest(wanted, matching), vector, wanted)

    def many(self, queries: Any, wanted: Wanted, matching: Matching | None) -> list[Hits]:
        """Return the hits of several queries, on all processors. Raises as `one`."""
        vectors = [check_query(query, self.schema.dimension) for query in queries]
        workers = min(os.cpu_count() or 1, len(vectors))
        nearest = self._nearest(wanted, matching)
        if len(vectors) <= _FEW_QUERIES or workers == 1:
            return [self._hits(nearest, vector, wanted) for vector in vectors]
        first = self._hits(nearest, vectors[0], wanted)  # finds out what the queries share
        with ThreadPoolExecutor(workers, initializer=partial(use_threads, 1)) as pool:
            call = partial(self._hits_apart, nearest, wanted)
            return [first, *pool.map(call, vectors[1:], chunksize=1)]

    def _hits_apart(self, shared: Nearest, wanted: Wanted, vector: npt.NDArray[np.float32]) -> Hits:
        return self._hits(shared.again(), vector, wanted)

    def _nearest(self, wanted: Wanted, matching: Matching | None) -> Nearest:
        self.indexing.is_missed = True
        now_ns = self.indexing.clock.monotonic_ns if wanted.explain else None
        return Nearest(
            self.view, self.schema, self.lsn, self.row_limit, self.index, matching, now_ns
        )

    def _hits(self, nearest: Nearest, vector: npt.NDArray[np.float32], wanted: Wanted) -> Hits:
        effort = Aim(
            wanted.limit + wanted.offset, wanted.recall, wanted.ef_search, self.default_recall
        )
        if self.index is None or effort.is_exact:
            return self._hits_for(nearest, vector, wanted, effort)
        with using_threads(1):  # to call others costs more than they would do
            return self._hits_for(nearest, vector, wanted, effort)

    def _hits_for(
        self, nearest: Nearest, vector: npt.NDArray[np.float32], wanted: Wanted, effort: Aim
    ) -> Hits:
        found = nearest.find(vector, effort)
        if self.index is not None and self.index.filters.wanted is not None:
            self.indexing.wake()
        excluded = name_rows(self.view, found.damaged) if found.damaged else []
        if excluded and wanted.on_damage == "fail":
            what = "vectors" if nearest.matching is None else "vectors or metadata"
            raise damaged_rows(
                excluded, f"stored {what} are damaged; on_damage='exclude' answers without them"
            )
        rows, distances = found.rows[wanted.offset :], found.distances[wanted.offset :]
        if wanted.threshold is not None:
            near = int(np.searchsorted(distances, wanted.threshold, side="right"))
            rows, distances = rows[:near], distances[:near]
        hits = self._made(rows, distances, excluded, wanted)
        if wanted.explain:
            nearest.lap("records")
            hits.explained = nearest.explained
        return hits

    # --- hits ---

    def _made(
        self,
        rows: npt.NDArray[np.int64],
        distances: npt.NDArray[np.float64],
        excluded: list[str],
        wanted: Wanted,
    ) -> Hits:
        """Return the hits of rows in order, with what was asked for."""
        count = len(rows)
        ids: list[str] = [""] * count
        metadata: list[bytes] = [b""] * count
        unreadable = self._fill(rows, ids, metadata, with_metadata=wanted.with_metadata)
        named = [ids[index] for index in sorted(unreadable)]
        if named and wanted.on_damage == "fail":
            raise damaged_rows(named, "ids or metadata of the nearest records are damaged")
        vectors = self._vectors(rows) if wanted.with_vectors else None
        hits = [
            Hit(
                ids[index],
                distance,
                _decode(metadata[index]) if metadata[index] and wanted.with_metadata else None,
                None if vectors is None else vectors[index],
            )
            for index, distance in enumerate(distances.tolist())
            if index not in unreadable
        ]
        return Hits(hits, [*excluded, *named])

    def _fill(
        self,
        rows: npt.NDArray[np.int64],
        ids: list[str],
        metadata: list[bytes],
        *,
        with_metadata: bool,
    ) -> set[int]:
        """Read ids and metadata of rows; return the positions of those that are damaged."""
        unreadable: set[int] = set()
        in_memory, stored = self.view.memory_start(), []
        for index, row in enumerate(rows.tolist()):
            memtable = self.view.in_memory(row) if row >= in_memory else None
            if memtable is not None:
                chunk = memtable.chunk_of(row)
                ids[index] = chunk.ids[row - chunk.first_row]
                metadata[index] = chunk.metadata[row - chunk.first_row]
                if with_metadata and row in memtable.lost_metadata:
                    unreadable.add(index)
                continue
            segment = self.view.segment_of(row)
            known = segment.known(segment.ordinal_of(row), metadata=with_metadata)
            if known is None:
                stored.append(index)
            else:
                ids[index], metadata[index] = known[0].decode(), known[1]
        outside = np.array(stored, dtype=np.int64)
        wanted = metadata if with_metadata else None
        for segment, found in self.view.by_segment(rows[outside]) if stored else ():
            positions = outside[found]
            try:
                _fill_hits(segment, rows, positions, ids, wanted)
            except UnreadableError:  # of some: find out which
                for position in positions.tolist():
                    try:
                        _fill_hits(segment, rows, np.array([position]), ids, wanted)
                    except UnreadableError:
                        ids[position] = ids[position] or f"row {rows[position]}"
                        unreadable.add(position)
        return unreadable

    def _vectors(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the vectors of rows that were measured, so they are readable: float32[n, d]."""
        vectors = np.empty((len(rows), self.schema.dimension), np.float32)
        stored = []
        for index, row in enumerate(rows.tolist()):
            memtable = self.view.in_memory(row)
            if memtable is None:
                stored.append(index)
            else:
                chunk = memtable.chunk_of(row)
                vectors[index] = chunk.vectors[row - chunk.first_row]
        outside = np.array(stored, dtype=np.int64)
        for segment, found in self.view.by_segment(rows[outside]) if stored else ():
            positions = outside[found]
            vectors[positions] = segment.vectors[segment.ordinals_of(rows[positions])]
        return vectors


def name_rows(view: View, rows: Sequence[int]) -> list[str]:
    """Return the ids of damaged rows; a row whose id is damaged too is named by number."""
    texts: list[str] = []
    for row in rows:
        memtable = view.in_memory(row)
        if memtable is not None:
            chunk = memtable.chunk_of(row)
            texts.append(chunk.ids[row - chunk.first_row])
            continue
        segment = view.segment_of(row)
        try:
            texts += segment.ids(np.array([segment.ordinal_of(row)]))
        except UnreadableError:
            texts.append(f"row {row}")
    return texts


def _fill_hits(
    segment: Segment,
    rows: npt.NDArray[np.int64],
    positions: npt.NDArray[np.int64],
    ids: list[str],
    metadata: list[bytes] | None,
) -> None:
    """Read ids, then metadata, of the rows at `positions` into both lists.

    Raises:
        UnreadableError: some are damaged; the ids are filled in if only metadata is.
    """
    ordinals, places = segment.ordinals_of(rows[positions]), positions.tolist()
    for place, text in zip(places, segment.ids(ordinals), strict=True):
        ids[place] = text
    if metadata is not None:
        for place, value in zip(places, segment.metadata(ordinals), strict=True):
            metadata[place] = value
