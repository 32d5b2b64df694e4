"""Reading: get, search, scan, scroll, count and documents at one LSN.

A snapshot is a view and an LSN. It takes no lock, is never blocked by writers, and stays the same
for as long as it is held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, Unpack

import msgspec
import numpy as np

from dvecdb.engine.gather import ids_of
from dvecdb.engine.grouping import count_values, nearest_groups
from dvecdb.engine.matching import Matching
from dvecdb.engine.rows import damaged_rows, live_mask
from dvecdb.engine.searching import name_rows
from dvecdb.engine.segment import Segment, UnreadableError
from dvecdb.errors import Code, InvalidRequestError
from dvecdb.records import LIMIT_MAX, Lsn, Page, Record, canonical_ids, check_whole
from dvecdb.search.filters import parse_filter, parse_path
from dvecdb.search.wanted import Wanted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    import numpy.typing as npt

    from dvecdb.engine.searching import Searching
    from dvecdb.records import Json
    from dvecdb.results import FacetCount, Group, Hits
    from dvecdb.results import SearchOptions as Asked
    from dvecdb.search.conditions import Filter

_SCAN_ROWS = 1024
_decode = msgspec.json.Decoder().decode


class Snapshot:
    """A pinned, consistent read view of a collection."""

    def __init__(self, searching: Searching) -> None:
        self._searching = searching
        self._view = searching.view
        self._schema = searching.schema
        self._row_limit = searching.row_limit
        self.lsn = Lsn(searching.lsn)

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
        self, query: Any, *, where: Mapping[str, Json] | None = None, **options: Unpack[Asked]
    ) -> Hits:
        """Return the nearest records, nearest first, ties by row; distances are always exact.

        query: [dimension], finite, an array or a list; where: only records that match (see the
        page on filters). Options:

        limit: how many, 10 by default; offset: how many nearer ones to pass over.
        threshold: none whose distance is larger.
        recall: share of the true nearest that is aimed at, 0 to 1; 1.0 measures every row, and so
            does a collection without an index. ef_search: 1 to 1000, the effort as others name it.
        with_metadata, with_vectors: what the hits carry.
        on_damage: with "exclude", records whose bytes are damaged are left out and listed in
            `Hits.excluded`.
        explain: say in `Hits.explained` how it was done, and how long each stage took.

        Raises:
            InvalidRequestError: `wrong-dimension`, `not-finite`, `invalid-argument`,
                `invalid-filter`.
            DamagedDataError: `damaged-data`, names the ids that cannot be read.
        """
        return self._searching.one(query, Wanted(**options), self._matching(where))

    def search_batch(
        self, queries: Any, *, where: Mapping[str, Json] | None = None, **options: Unpack[Asked]
    ) -> list[Hits]:
        """Return the hits of several queries [n, dimension], on all processors. As `search`."""
        return self._searching.many(queries, Wanted(**options), self._matching(where))

    def _matching(self, where: Mapping[str, Json] | None) -> Matching | None:
        return self._usable(parse_filter(where))

    def _usable(self, where: Filter | None) -> Matching | None:
        return None if where is None else Matching(self._view, where, self.lsn, self._row_limit)

    def search_groups(
        self,
        query: Any,
        by: str,
        *,
        group_size: int = 3,
        where: Mapping[str, Json] | None = None,
        **options: Unpack[Asked],
    ) -> list[Group]:
        """Return the `limit` groups whose best records are nearest, each with its nearest ones.

        by: the path of a metadata field; records that share a value of it are a group, and records
        without it are in none. group_size: how many hits a group has at most. Other options and
        errors as `search`; `offset` counts for nothing.
        """
        check_whole("group_size", group_size, 1, LIMIT_MAX)
        wanted = Wanted(**options)
        check_whole("limit times group_size", wanted.limit * group_size, 1, LIMIT_MAX)
        return nearest_groups(
            self._searching, query, wanted, parse_path(by, "by"), group_size,
            parse_filter(where), self._usable,
        )  # fmt: skip

    def facet(
        self, by: str, *, limit: int = 10, where: Mapping[str, Json] | None = None
    ) -> list[FacetCount]:
        """Return how many records have each value of a field, the commonest first.

        by: the path of a metadata field; of lists every element counts, once a record.

        Raises:
            InvalidRequestError: `invalid-argument`, `invalid-filter`.
            DamagedDataError: `damaged-data`, names the ids that cannot be counted.
        """
        check_whole("limit", limit, 1, LIMIT_MAX)
        return count_values(self._searching, parse_path(by, "by"), limit, self._matching(where))

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
            named = name_rows(self._view, sorted(matching.damaged))
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
        sources = self._view.sources(self._row_limit)
        for source, count in sorted(sources, key=lambda item: item[0].first_row):
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
