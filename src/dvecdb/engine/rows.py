"""Which rows exist and are live at an LSN: the one rule of the log of rows.

    row r is live at L  <=>  born(r) <= L  and  (r has no end, or end(r) > L)

Rows are numbered in commit order, so `born(r) <= L` is `r < row_limit(L)`. A `View` is an
immutable list of segments and memtables; with an LSN it is a consistent state for ever.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from dvecdb.engine.segment import Segment, UnreadableError
from dvecdb.errors import Code, DamagedDataError
from dvecdb.formats import segment_file as sf
from dvecdb.formats.columns import DocumentEntry
from dvecdb.formats.framing import checksum
from dvecdb.formats.lookup_file import hash_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from dvecdb.engine.lookup import Run
    from dvecdb.engine.memtable import Chunk, Memtable
    from dvecdb.formats.manifest_file import Manifest

_document_decoder = msgspec.msgpack.Decoder(DocumentEntry)


class View:
    """Segments and memtables in row order, and the lookup runs over the segments. Immutable."""

    def __init__(
        self,
        manifest: Manifest,
        segments: Sequence[Segment],
        memtables: Sequence[Memtable],
        runs: Sequence[Run],
    ) -> None:
        """Index the segments by the rows of their ranges, of which some may hold none any more."""
        self.manifest = manifest
        self.segments = tuple(segments)
        self.memtables = tuple(memtables)
        self.runs = tuple(runs)
        self.row_segments = tuple(
            sorted(
                (item for item in segments if item.row_end > item.first_row),
                key=lambda item: item.first_row,
            )
        )
        self._starts = [segment.first_row for segment in self.row_segments]
        self._start_array = np.array(self._starts, dtype=np.int64)
        self._covered = sum(run.count for run in runs) == sum(s.rows for s in self.row_segments)
        self._has_documents = any(sf.DOCUMENTS in segment.sections for segment in segments)

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments, and of the rows in memory."""
        stored = sum(s.entry.vectors_bytes + s.entry.records_bytes for s in self.segments)
        return stored + sum(memtable.size_bytes for memtable in self.memtables)

    # --- commits ---

    def holder(self, lsn: int) -> Segment | Memtable:
        """Return what holds the commit note of `lsn`, which must exist."""
        for memtable in reversed(self.memtables):
            if memtable.first_lsn <= lsn <= memtable.last_lsn:
                return memtable
        for segment in reversed(self.segments):
            if segment.commits and segment.first_lsn <= lsn <= segment.last_lsn:
                return segment
        raise AssertionError(f"no commit {lsn}")

    def row_limit(self, lsn: int) -> int:
        """Return the number of rows born at or before `lsn`."""
        if lsn == 0:
            return 0
        holder = self.holder(lsn)
        if isinstance(holder, Segment):
            return int(holder.commit_row_ends[lsn - holder.first_lsn])
        return holder.row_ends[lsn - holder.first_lsn]

    def hlc(self, lsn: int) -> int:
        """Return the time of a commit, which must exist: nanoseconds."""
        holder = self.holder(lsn)
        if isinstance(holder, Segment):
            return int(holder.commit_hlcs[lsn - holder.first_lsn])
        return holder.hlcs[lsn - holder.first_lsn]

    def lsn_at(self, hlc: int, last_lsn: int) -> int:
        """Return the newest LSN not after `hlc` among those up to `last_lsn`; 0 if none."""
        for memtable in reversed(self.memtables):
            if memtable.hlcs and memtable.hlcs[0] <= hlc:
                return min(memtable.first_lsn + bisect_right(memtable.hlcs, hlc) - 1, last_lsn)
        for segment in reversed(self.segments):
            if segment.commits and int(segment.commit_hlcs[0]) <= hlc:
                count = int(np.searchsorted(segment.commit_hlcs, np.uint64(hlc), side="right"))
                return min(segment.first_lsn + count - 1, last_lsn)
        return 0

    def born(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the LSN each row was born at: int64[n]."""
        born = np.zeros(len(rows), dtype=np.int64)
        for segment in self.segments:
            if segment.commits:
                ends = segment.commit_row_ends
                todo = np.flatnonzero((born == 0) & (rows < int(ends[-1])))
                found = np.searchsorted(ends, rows[todo].astype(np.uint64), side="right")
                born[todo] = found + segment.first_lsn
        for memtable in self.memtables:
            for index in np.flatnonzero(born == 0).tolist():
                row = int(rows[index])
                if memtable.row_ends and row < memtable.row_ends[-1]:
                    born[index] = memtable.first_lsn + bisect_right(memtable.row_ends, row)
        return born

    # --- liveness ---

    def segment_of(self, row: int) -> Segment:
        """Return the segment in whose range `row` lies."""
        return self.row_segments[bisect_right(self._starts, row) - 1]

    def by_segment(
        self, rows: npt.NDArray[np.int64]
    ) -> Iterator[tuple[Segment, npt.NDArray[np.int64]]]:
        """Yield each segment in whose range some of `rows` lie, and their positions in `rows`."""
        numbers = np.searchsorted(self._start_array, rows, side="right") - 1
        for number in sorted(set(numbers.tolist())):
            yield self.row_segments[number], np.flatnonzero(numbers == number)

    def slices(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[Segment, int, int]]:
        """Yield each segment in whose range some of rising `rows` lie, first .. end - 1 of them."""
        first = 0
        ends = rows.searchsorted(self._start_array[1:]).tolist()
        for segment, end in zip(self.row_segments, [*ends, len(rows)], strict=False):
            if end > first:
                yield segment, first, end
            first = end

    def chunks(self, row_limit: int) -> Iterator[tuple[Chunk, int]]:
        """Yield the memtables' chunks and how many of their rows lie below `row_limit`."""
        for memtable in self.memtables:
            for chunk in memtable.chunks:
                count = min(chunk.used, row_limit - chunk.first_row)
                if count > 0:
                    yield chunk, count

    def sources(self, row_limit: int) -> Iterator[tuple[Segment | Chunk, int]]:
        """Yield segments and chunks that have rows below `row_limit`, and how many."""
        for segment in self.row_segments:
            count = segment.count_below(row_limit)
            if count:
                yield segment, count
        yield from self.chunks(row_limit)

    def in_memory(self, row: int) -> Memtable | None:
        """Return the memtable that holds `row`, or None."""
        for memtable in self.memtables:
            if memtable.chunks and memtable.first_row <= row < memtable.row_end:
                return memtable
        return None

    def memory_start(self) -> int:
        """Return the first row that may be in a memtable."""
        starts = [memtable.first_row for memtable in self.memtables if memtable.chunks]
        return min(starts, default=2**63 - 1)

    def end_of(self, row: int) -> int:
        """Return the LSN that ended `row`, 0 for none."""
        memtable = self.in_memory(row)
        if memtable is not None:
            chunk = memtable.chunk_of(row)
            return int(chunk.ends[row - chunk.first_row])
        segment = self.segment_of(row)
        return int(segment.ends[segment.ordinal_of(row)])

    def count(self, lsn: int, row_limit: int) -> int:
        """Return the number of live rows at `lsn`."""
        total = 0
        for segment in self.row_segments:
            rows = segment.count_below(row_limit)
            if rows > 0:
                live = live_mask(segment.ends[:rows], lsn) if segment.ended_count else None
                total += rows if live is None else int(np.count_nonzero(live))
        for chunk, rows in self.chunks(row_limit):
            total += int(np.count_nonzero(live_mask(chunk.ends[:rows], lsn)))
        return total

    # --- ids ---

    def find(self, ids: Sequence[str], lsn: int, row_limit: int) -> list[int]:
        """Return for each id the row that is live at `lsn`, or -1.

        Raises:
            DamagedDataError: `damaged-data`, whether an id exists cannot be told.
        """
        found = [-1] * len(ids)
        missing: list[int] = []
        memtables = [
            memtable
            for memtable in reversed(self.memtables)
            if not memtable.latest.keys().isdisjoint(ids)
        ]
        for index, record_id in enumerate(ids) if memtables else ():
            for memtable in memtables:
                row = self._live_version(memtable, record_id, lsn, row_limit)
                if row >= 0:
                    found[index] = row
                    break
            else:
                missing.append(index)
        if not memtables:
            missing = list(range(len(ids)))
        if missing and self._starts:
            wanted = [ids[index] for index in missing]
            for position, row in self._stored_rows(wanted, lsn, row_limit):
                found[missing[position]] = row
            if not self._covered:
                self._refuse_absence([ids[index] for index in missing if found[index] < 0])
        return found

    def versions(self, record_id: str, row_limit: int) -> list[int]:
        """Return every row below `row_limit` that ever had this id, in no order.

        Raises:
            DamagedDataError: `damaged-data`.
        """
        rows = [row for memtable in self.memtables for row in memtable.versions(record_id)]
        if self._starts:
            rows += [row for _, row in self._stored_rows([record_id], None, row_limit)]
            if not self._covered:
                self._refuse_absence([record_id])
        return [row for row in rows if row < row_limit]

    def _live_version(self, memtable: Memtable, record_id: str, lsn: int, row_limit: int) -> int:
        for row in memtable.versions(record_id):
            if row < row_limit:
                chunk = memtable.chunk_of(row)
                end = int(chunk.ends[row - chunk.first_row])
                if end == 0 or end > lsn:
                    return row
        return -1

    def _stored_rows(
        self, ids: Sequence[str], lsn: int | None, row_limit: int
    ) -> Iterator[tuple[int, int]]:
        """Yield (index into ids, row) of the segments' rows with these ids; live ones at `lsn`."""
        hashes = hash_ids(ids)
        for run in self.runs:
            indexes, rows = run.find(hashes)
            below = rows < row_limit
            indexes, rows = indexes[below], rows[below]
            for segment, positions in self.by_segment(rows) if len(rows) else ():
                ordinals = segment.ordinals_of(rows[positions])
                if segment.row_numbers is not None:
                    held = ordinals >= 0
                    positions, ordinals = positions[held], ordinals[held]
                if lsn is not None:
                    live = live_mask(segment.ends[ordinals], lsn)
                    positions, ordinals = positions[live], ordinals[live]
                wanted = indexes[positions].tolist()
                try:
                    stored = segment.ids(ordinals)
                except UnreadableError:
                    # The derived lookup says that a damaged row had an id with this hash.
                    named = [ids[index] for index in wanted]
                    raise damaged_rows(named, "the stored id is damaged") from None
                numbers = segment.rows_at(ordinals).tolist()
                for index, number, text in zip(wanted, numbers, stored, strict=True):
                    if text == ids[index]:
                        yield index, number

    def _refuse_absence(self, missing: Sequence[str]) -> None:
        """Refuse to call an id absent while there are rows whose ids cannot be read."""
        if missing:
            raise damaged_rows(
                missing, "ids of some rows are damaged, so these may or may not exist"
            )

    # --- documents ---

    def document(self, namespace: str, key: str, lsn: int) -> bytes | None:
        """Return the JSON of a document as of `lsn`, or None."""
        for memtable in reversed(self.memtables):
            for version, value in reversed(memtable.documents.get((namespace, key), ())):
                if version <= lsn:
                    return value
        if not self._has_documents:
            return None
        wanted = document_hash(namespace, key)
        for segment in reversed(self.segments):
            for version, entry in _documents_with(segment, wanted):
                if version <= lsn and entry[:2] == (namespace, key):
                    return entry[2]
        return None

    def documents(self, namespace: str, lsn: int) -> dict[str, bytes]:
        """Return the JSON of every document of a namespace as of `lsn`, by key."""
        found = self._newest_documents(lsn, lambda space: space == namespace, namespace)
        return {key: value for (_, key), value in sorted(found.items())}

    def user_documents(self, lsn: int) -> dict[tuple[str, str], bytes]:
        """Return the JSON of every document that is not ours as of `lsn`."""
        return self._newest_documents(lsn, lambda space: not space.startswith("_"))

    def _newest_documents(
        self, lsn: int, wanted: Callable[[str], bool], namespace: str | None = None
    ) -> dict[tuple[str, str], bytes]:
        """Return the newest values by name. namespace: the only one that is wanted, if it is."""
        newest: dict[tuple[str, str], tuple[int, bytes | None]] = {}
        versions = [
            (version, name, value)
            for memtable in self.memtables
            for name, values in list(memtable.documents.items())
            if wanted(name[0])
            for version, value in values
        ]
        for segment in self.segments:
            versions += [
                (version, entry[:2], entry[2])
                for version, entry in segment_documents(segment, namespace)
                if wanted(entry[0])
            ]
        for version, name, value in versions:
            if version <= lsn and version > newest.get(name, (0, None))[0]:
                newest[name] = (version, value)
        return {name: value for name, (_, value) in newest.items() if value is not None}


def document_hash(namespace: str, key: str) -> int:
    """Return the hash documents are sorted by in a segment."""
    return checksum(f"{namespace}\0{key}".encode())


def _documents_with(segment: Segment, wanted: int) -> Iterator[tuple[int, DocumentEntry]]:
    """Yield (lsn, entry) of a segment's documents with a hash, newest first."""
    if sf.DOCUMENTS not in segment.sections:
        return
    hashes = segment.section(sf.DOCUMENT_HASHES, np.uint64)
    value = np.uint64(wanted)
    first, end = (int(np.searchsorted(hashes, value, side=side)) for side in ("left", "right"))
    if first == end:
        return
    lsns = segment.section(sf.DOCUMENT_LSNS, np.uint64)
    sizes = segment.section(sf.DOCUMENT_SIZES, np.uint32)
    bounds = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    for index in range(end - 1, first - 1, -1):
        blob = segment.sections[sf.DOCUMENTS][bounds[index] : bounds[index + 1]]
        yield int(lsns[index]), _document_decoder.decode(blob)


def segment_documents(
    segment: Segment, namespace: str | None = None
) -> Iterator[tuple[int, DocumentEntry]]:
    """Yield (lsn, entry) of all documents of a segment, or of those in a namespace."""
    if sf.DOCUMENTS not in segment.sections:
        return
    lsns = segment.section(sf.DOCUMENT_LSNS, np.uint64).tolist()
    sizes = segment.section(sf.DOCUMENT_SIZES, np.uint32).tolist()
    documents, start = bytes(segment.sections[sf.DOCUMENTS]), 0
    beginning = b"" if namespace is None else b"\x93" + msgspec.msgpack.encode(namespace)
    for version, size in zip(lsns, sizes, strict=True):
        if documents.startswith(beginning, start):
            yield version, _document_decoder.decode(documents[start : start + size])
        start += size


def live_mask(ends: npt.NDArray[np.uint64], lsn: int) -> npt.NDArray[np.bool_]:
    """Return which rows are live at `lsn` given their ends (0 = none): bool[n]."""
    return (ends - np.uint64(1)) >= np.uint64(lsn)  # 0 - 1 wraps to the largest number


def damaged_rows(ids: Sequence[str], why: str) -> DamagedDataError:
    """Return the error for rows whose bytes are damaged."""
    shown = ", ".join(repr(text) for text in ids[:10]) + (", ..." if len(ids) > 10 else "")
    return DamagedDataError(
        Code.DAMAGED_DATA,
        f"{why}: {shown}. See findings(); restore these rows from a backup or write them again",
        ids=list(ids),
    )
