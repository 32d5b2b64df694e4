"""Reading: get, search, scan, scroll, count and documents at one LSN.

A snapshot is a view and an LSN. It takes no lock, is never blocked by writers, and stays the same
for as long as it is held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import msgspec
import numpy as np

from dvecdb.engine.gather import ids_of
from dvecdb.engine.matching import Matching
from dvecdb.engine.rows import damaged_rows, live_mask
from dvecdb.engine.segment import Segment, UnreadableError
from dvecdb.errors import Code, InvalidRequestError
from dvecdb.records import LIMIT_MAX, Hit, Hits, Lsn, Page, Record, canonical_ids, check_whole
from dvecdb.search.distance import TopK, needs_norms
from dvecdb.search.filters import parse_filter
from dvecdb.search.vectors import check_query

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    import numpy.typing as npt

    from dvecdb.engine.memtable import Chunk
    from dvecdb.engine.rows import View
    from dvecdb.records import Json, OnDamage, Schema

_SCAN_ROWS = 1024
_SEARCH_BLOCK_BYTES = 16 * 1024 * 1024
_decode = msgspec.json.Decoder().decode


class Snapshot:
    """A pinned, consistent read view of a collection."""

    def __init__(self, view: View, schema: Schema, lsn: int, row_limit: int) -> None:
        self._view = view
        self._schema = schema
        self._row_limit = row_limit
        self._needs_norms = needs_norms(schema.metric, schema.vector_type)
        self.lsn = Lsn(lsn)

    def __enter__(self) -> Self:
        """Return the snapshot."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing to release: a snapshot holds memory, not locks."""

    # --- by id ---

    def get(
        self,
        ids: Sequence[str],
        *,
        where: Mapping[str, Json] | None = None,
        with_vectors: bool = True,
    ) -> list[Record | None]:
        """Return the records of `ids` in order, None for those that do not exist.

        where: those that do not match are None too.

        Raises:
            InvalidRequestError: `invalid-id`, `invalid-argument`, `invalid-filter`.
            DamagedDataError: `damaged-data`, names the ids that cannot be read.
        """
        if isinstance(ids, str):
            raise InvalidRequestError(
                Code.INVALID_ARGUMENT, "ids: expected a list of ids, found text"
            )
        parsed = parse_filter(where)
        wanted = canonical_ids(list(ids))
        rows = np.array(self._view.find(wanted, self.lsn, self._row_limit), dtype=np.int64)
        present = np.flatnonzero(rows >= 0)
        records = self._records(rows[present], with_vectors=with_vectors)
        result: list[Record | None] = [None] * len(wanted)
        for position, record in zip(present.tolist(), records, strict=True):
            if parsed is None or parsed.matches(record.metadata, record.id):
                result[position] = record
        return result

    def _records(self, rows: npt.NDArray[np.int64], *, with_vectors: bool) -> list[Record]:
        """Return the records of `rows`, which exist, in order."""
        count = len(rows)
        if not count:
            return []
        ids: list[str] = [""] * count
        metadata: list[bytes] = [b""] * count
        vectors = np.empty((count, self._schema.dimension), np.float32) if with_vectors else None
        stored = np.ones(count, dtype=np.bool_)
        for memtable in self._view.memtables:
            if not memtable.chunks:
                continue
            inside = np.flatnonzero((rows >= memtable.first_row) & (rows < memtable.row_end))
            stored[inside] = False
            for position in inside.tolist():
                row = int(rows[position])
                chunk = memtable.chunk_of(row)
                offset = row - chunk.first_row
                ids[position], metadata[position] = chunk.ids[offset], chunk.metadata[offset]
                if row in memtable.lost_metadata or (with_vectors and row in memtable.lost_vectors):
                    raise damaged_rows([ids[position]], "the stored record is damaged")
                if vectors is not None:
                    vectors[position] = chunk.vectors[offset]
        outside = np.flatnonzero(stored)
        if len(outside):
            self._stored_records(rows, outside, ids, metadata, vectors)
        lsns = self._view.born(rows).tolist()
        return [
            Record(
                ids[index],
                None if vectors is None else vectors[index],
                _decode(metadata[index]) if metadata[index] else None,
                Lsn(lsns[index]),
            )
            for index in range(count)
        ]

    def _stored_records(
        self,
        rows: npt.NDArray[np.int64],
        outside: npt.NDArray[np.int64],
        ids: list[str],
        metadata: list[bytes],
        vectors: npt.NDArray[np.float32] | None,
    ) -> None:
        """Fill in the records that lie in segments: those at positions `outside`."""
        for segment, found in self._view.by_segment(rows[outside]):
            positions = outside[found]
            ordinals = segment.ordinals_of(rows[positions])
            texts = read_ids(segment, ordinals)
            try:
                values = segment.metadata(ordinals)
            except UnreadableError as error:
                named = read_ids(segment, np.array(error.ordinals))
                raise damaged_rows(named, "the stored metadata is damaged") from None
            if vectors is not None:
                damaged = segment.unreadable_rows(ordinals)
                if len(damaged):
                    raise damaged_rows(read_ids(segment, damaged), "the stored vector is damaged")
                vectors[positions] = segment.vectors[ordinals]
            for position, text, value in zip(positions.tolist(), texts, values, strict=True):
                ids[position], metadata[position] = text, value

    # --- search ---

    def search(
        self,
        query: Any,  # arrays and lists of any kind
        *,
        limit: int = 10,
        where: Mapping[str, Json] | None = None,
        with_metadata: bool = True,
        on_damage: OnDamage = "fail",
    ) -> Hits:
        """Return the `limit` nearest records, exactly, nearest first, ties by row.

        query: [dimension], finite; where: only records that match this filter, an equality map or
        a tree of conditions (`search.filters`). With `on_damage="exclude"` records whose bytes are
        damaged are left out and listed in `Hits.excluded`.

        Raises:
            InvalidRequestError: `wrong-dimension`, `not-finite`, `invalid-argument`,
                `invalid-filter`.
            DamagedDataError: `damaged-data`, names the ids that cannot be read.
        """
        check_whole("limit", limit, 1, LIMIT_MAX)
        if on_damage not in {"fail", "exclude"}:
            raise InvalidRequestError(
                Code.INVALID_ARGUMENT, f"on_damage: expected fail or exclude, found {on_damage!r}"
            )
        vector = check_query(query, self._schema.dimension)
        nearest = TopK(vector, self._schema.metric, self._schema.vector_type, limit)
        matching = self._matching(where)
        damaged: list[int] = []
        for segment in self._view.row_segments:
            self._offer_segment(nearest, segment, damaged, matching)
        for chunk, count in self._view.chunks(self._row_limit):
            self._offer_chunk(nearest, chunk, count, damaged, matching)
        if matching is not None:
            damaged = sorted(damaged + matching.damaged)
        excluded = self._name_rows(damaged)
        if excluded and on_damage == "fail":
            what = "vectors" if matching is None else "vectors or metadata"
            raise damaged_rows(
                excluded, f"stored {what} are damaged; on_damage='exclude' answers without them"
            )
        rows, distances = nearest.result()
        return self._hits(
            rows, distances, excluded, with_metadata=with_metadata, on_damage=on_damage
        )

    def _matching(self, where: Mapping[str, Json] | None) -> Matching | None:
        parsed = parse_filter(where)
        if parsed is None:
            return None
        return Matching(self._view, parsed, self.lsn, self._row_limit)

    def _offer_segment(
        self, nearest: TopK, segment: Segment, damaged: list[int], matching: Matching | None
    ) -> None:
        total = segment.count_below(self._row_limit)
        step = max(1, _SEARCH_BLOCK_BYTES // self._schema.vector_bytes)
        matched = None if matching is None else matching.mask(segment, total)
        for start in range(0, total, step):
            end = min(start + step, total)
            live = live_mask(segment.ends[start:end], self.lsn) if segment.ended_count else None
            if matched is not None:
                own = matched[start:end]
                live = own.copy() if live is None else live & own
                if not live.any():
                    continue
            bad = segment.unreadable_vectors(start, end)
            if len(bad):
                live = np.ones(end - start, dtype=np.bool_) if live is None else live
                damaged += segment.rows_at(bad[live[bad - start]]).tolist()
                live[bad - start] = False
                end = min(end, len(segment.vectors))
                live = live[: max(end - start, 0)]
            if end > start:
                first = segment.first_row + start
                norms = segment.norms(start, end) if self._needs_norms else None
                numbers = segment.row_numbers
                numbers = None if numbers is None else numbers[start:end]
                nearest.offer(segment.vectors[start:end], first, live, norms, numbers)

    def _offer_chunk(
        self,
        nearest: TopK,
        chunk: Chunk,
        count: int,
        damaged: list[int],
        matching: Matching | None,
    ) -> None:
        live = live_mask(chunk.ends[:count], self.lsn)
        if matching is not None:
            live &= matching.mask(chunk, count)
        lost = [row for memtable in self._view.memtables for row in memtable.lost_vectors]
        for row in lost:
            if chunk.first_row <= row < chunk.first_row + count and live[row - chunk.first_row]:
                damaged.append(row)
                live[row - chunk.first_row] = False
        norms = chunk.norms(count) if self._needs_norms else None
        nearest.offer(chunk.vectors[:count], chunk.first_row, live, norms)

    def _name_rows(self, rows: Sequence[int]) -> list[str]:
        """Return the ids of damaged rows; a row whose id is damaged too is named by number."""
        texts: list[str] = []
        for row in rows:
            memtable = self._view.in_memory(row)
            if memtable is not None:
                chunk = memtable.chunk_of(row)
                texts.append(chunk.ids[row - chunk.first_row])
                continue
            segment = self._view.segment_of(row)
            try:
                texts += segment.ids(np.array([segment.ordinal_of(row)]))
            except UnreadableError:
                texts.append(f"row {row}")
        return texts

    def _hits(
        self,
        rows: npt.NDArray[np.int64],
        distances: npt.NDArray[np.float64],
        excluded: list[str],
        *,
        with_metadata: bool,
        on_damage: OnDamage,
    ) -> Hits:
        ids: list[str] = [""] * len(rows)
        metadata: list[bytes] = [b""] * len(rows)
        unreadable: set[int] = set()
        for index, row in enumerate(rows.tolist()):
            memtable = self._view.in_memory(row)
            if memtable is not None:
                chunk = memtable.chunk_of(row)
                ids[index] = chunk.ids[row - chunk.first_row]
                metadata[index] = chunk.metadata[row - chunk.first_row]
                if with_metadata and row in memtable.lost_metadata:
                    unreadable.add(index)
        stored = np.array(
            [self._view.in_memory(row) is None for row in rows.tolist()], dtype=np.bool_
        )
        outside = np.flatnonzero(stored)
        for segment, found in self._view.by_segment(rows[outside]) if len(outside) else ():
            positions = outside[found]
            try:
                _fill_hits(segment, rows, positions, ids, metadata if with_metadata else None)
            except UnreadableError:  # of some: find out which
                for position in positions.tolist():
                    one = np.array([position])
                    try:
                        _fill_hits(segment, rows, one, ids, metadata if with_metadata else None)
                    except UnreadableError:
                        ids[position] = ids[position] or f"row {rows[position]}"
                        unreadable.add(position)
        named = [ids[index] for index in sorted(unreadable)]
        if named and on_damage == "fail":
            raise damaged_rows(named, "ids or metadata of the nearest records are damaged")
        hits = [
            Hit(
                ids[index],
                float(distance),
                _decode(metadata[index]) if metadata[index] and with_metadata else None,
            )
            for index, distance in enumerate(distances.tolist())
            if index not in unreadable
        ]
        return Hits(hits, [*excluded, *named])

    # --- all rows ---

    def count(self, *, where: Mapping[str, Json] | None = None) -> int:
        """Return the number of records, or of those that match `where`.

        Raises:
            InvalidRequestError: `invalid-argument`, `invalid-filter`.
            DamagedDataError: `damaged-data`, names the ids that may or may not match.
        """
        matching = self._matching(where)
        if matching is None:
            return self._view.count(self.lsn, self._row_limit)
        total = sum(len(rows) for rows in self._live_rows(0, matching))
        self._refuse_untold(matching)
        return total

    def _refuse_untold(self, matching: Matching | None) -> None:
        if matching is not None and matching.damaged:
            named = self._name_rows(sorted(matching.damaged))
            raise damaged_rows(named, "stored metadata is damaged, so these may or may not match")

    def ids(self, *, where: Mapping[str, Json] | None = None) -> list[str]:
        """Return the ids of all records, or of those that match `where`, in row order.

        Raises:
            InvalidRequestError: `invalid-argument`, `invalid-filter`.
            DamagedDataError: `damaged-data`, ids or metadata that cannot be read.
        """
        matching = self._matching(where)
        found = list(self._live_rows(0, matching))
        self._refuse_untold(matching)
        return ids_of(self._view, np.concatenate(found)) if found else []

    def scan(
        self, *, where: Mapping[str, Json] | None = None, with_vectors: bool = False
    ) -> Iterator[Record]:
        """Return every record, or those that match `where`, in row order, as they are asked for.

        Raises:
            InvalidRequestError: `invalid-argument`, `invalid-filter`.
            DamagedDataError: `damaged-data`, names the ids that cannot be read.
        """
        return self._scan(self._matching(where), with_vectors=with_vectors)

    def _scan(self, matching: Matching | None, *, with_vectors: bool) -> Iterator[Record]:
        for rows in self._live_rows(0, matching):
            self._refuse_untold(matching)
            for start in range(0, len(rows), _SCAN_ROWS):
                yield from self._records(
                    rows[start : start + _SCAN_ROWS], with_vectors=with_vectors
                )

    def scroll(
        self,
        *,
        limit: int = 100,
        after: int | None = None,
        where: Mapping[str, Json] | None = None,
        with_vectors: bool = False,
    ) -> Page:
        """Return up to `limit` records in row order; `after` is the `next` of the page before.

        where: only records that match, as in `search`.

        Raises:
            InvalidRequestError: `invalid-argument`, `invalid-filter`.
            DamagedDataError: `damaged-data`.
        """
        check_whole("limit", limit, 1, LIMIT_MAX)
        if after is not None:
            check_whole("after", after, 0, 2**63)
        taken: list[npt.NDArray[np.int64]] = []
        missing = limit + 1
        matching = self._matching(where)
        for rows in self._live_rows(0 if after is None else after + 1, matching):
            self._refuse_untold(matching)
            taken.append(rows[:missing])
            missing -= len(taken[-1])
            if not missing:
                break
        found = np.concatenate(taken) if taken else np.zeros(0, np.int64)
        records = self._records(found[:limit], with_vectors=with_vectors)
        return Page(records, int(found[limit - 1]) if len(found) > limit else None)

    def _live_rows(
        self, first: int, matching: Matching | None = None
    ) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the live rows from `first` on that match, rising."""
        sources: list[tuple[int, Segment | Chunk, int]] = []
        for segment in self._view.row_segments:
            count = segment.count_below(self._row_limit)
            if count > 0:
                sources.append((segment.first_row, segment, count))
        for chunk, count in self._view.chunks(self._row_limit):
            sources.append((chunk.first_row, chunk, count))
        for _, source, count in sorted(sources, key=lambda item: item[0]):
            skip = source.count_below(first)
            if skip >= count:
                continue
            mask = live_mask(source.ends[skip:count], self.lsn)
            matched = None if matching is None else matching.whole_mask(source, count)
            if matched is not None:
                mask &= matched[skip:]
            live = np.flatnonzero(mask) + skip
            if matching is None or matched is not None:
                if len(live):
                    yield source.rows_at(live)
                continue
            # Some cannot be told: whoever reads a page should not fail for those behind it.
            for begin in range(0, len(live), _SCAN_ROWS):
                asked = live[begin : begin + _SCAN_ROWS]
                yield source.rows_at(asked[matching.select(source, asked)])

    # --- documents ---

    def document(self, namespace: str, key: str) -> Json:
        """Return a document's value, or None."""
        stored = self._view.document(namespace, key, self.lsn)
        return None if stored is None else _decode(stored)

    def documents(self, namespace: str) -> dict[str, Json]:
        """Return every document of a namespace by key."""
        return {
            key: _decode(value) for key, value in self._view.documents(namespace, self.lsn).items()
        }


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


def read_ids(segment: Segment, ordinals: npt.NDArray[np.int64]) -> list[str]:
    """Return ids of a segment's rows.

    Raises:
        DamagedDataError: `damaged-data`.
    """
    try:
        return segment.ids(ordinals)
    except UnreadableError as error:
        rows = [f"row {row}" for row in segment.rows_at(np.array(error.ordinals)).tolist()]
        raise damaged_rows(rows, "stored ids are damaged") from None
