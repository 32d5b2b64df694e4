"""What a reading came to: what was lost, what is doubtful and why, in the words of the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from dvecdb.formats import segment_file as sf
from dvecdb.reports import Doubt, Lost
from dvecdb.rescue.own.holders import SegmentRows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dvecdb.formats.manifest_file import SegmentEntry
    from dvecdb.records import Schema
    from dvecdb.reports import DoubtKind, ImportReport
    from dvecdb.rescue.own.evidence import Evidence
    from dvecdb.rescue.own.holders import Holder
    from dvecdb.rescue.own.logs import Log
    from dvecdb.rescue.own.places import Place
    from dvecdb.rescue.own.rows import Chosen, Dropped
    from dvecdb.rescue.own.segments import Opened

    Mask = npt.NDArray[np.bool_]

_DOUBTS_BY_ID_MAX: Final = 1_000
"""Above so many rows with the same doubt there is one entry for all of them."""


@dataclass(slots=True)
class Account:
    """Writes the report of one reading."""

    report: ImportReport
    place: Place
    evidence: Evidence
    schema: Schema
    holders: Sequence[Holder]
    chosen: Chosen
    _doubted: Mask = field(default_factory=lambda: np.zeros(0, np.bool_))
    _has_id: Mask = field(default_factory=lambda: np.zeros(0, np.bool_))

    def write(
        self, logs: Sequence[Log], dropped: Sequence[Dropped], *, type_is_certain: bool
    ) -> None:
        """Fill in the report. type_is_certain: whether a file says what the vectors are."""
        report, chosen = self.report, self.chosen
        count = len(chosen.rows)
        self._doubted = np.zeros(count, np.bool_)
        self._has_id = np.fromiter((text is not None for text in chosen.ids), np.bool_, count)
        report.dimension, report.metric = self.schema.dimension, str(self.schema.metric)
        self._lose_rows()
        self._lose_files(dropped)
        report.lost += self.evidence.accepted.lost
        self._doubt(type_is_certain=type_is_certain)
        imported = self.is_imported()
        report.imported = int(np.count_nonzero(imported))
        report.exact = int(np.count_nonzero(imported & ~self._doubted))
        report.superseded = chosen.superseded
        report.deleted_by_log = chosen.deleted
        good = [holder.rows[~holder.bad_vectors] for holder in self.holders]
        report.records_found = len(np.unique(np.concatenate([np.zeros(0, np.int64), *good])))
        self._measure(logs)
        self._note()

    def is_imported(self) -> Mask:
        """Return which of the chosen rows come back: those with an id and a vector."""
        return self._has_id & (self.chosen.holder >= 0)

    # --- lost ---

    def _lose_rows(self) -> None:
        """Name the rows that are there but cannot be read."""
        chosen = self.chosen
        nameless = np.flatnonzero(~self._has_id)
        for number in np.unique(chosen.first[nameless]).tolist():
            rows = chosen.rows[nameless[chosen.first[nameless] == number]].tolist()
            file, start, end = self._pages_of(self.holders[number])
            why = f"ids of {len(rows)} rows are damaged: rows {_joined(rows)}"
            self.report.lost.append(Lost(file, start, end, why))
        bad = np.flatnonzero(self._has_id & (chosen.holder < 0))
        ranges: list[tuple[int, int, int, list[str]]] = []
        for place, number, row in zip(
            bad.tolist(), chosen.first[bad].tolist(), chosen.rows[bad].tolist(), strict=True
        ):
            holder = self.holders[number]
            start, end = holder.block(int(np.searchsorted(holder.rows, row)))
            text = repr(chosen.ids[place])
            if ranges and ranges[-1][0] == number and start <= ranges[-1][2]:
                _, first, last, ids = ranges[-1]
                ranges[-1] = number, first, max(last, end), ids
                ids.append(text)
            else:
                ranges.append((number, start, end, [text]))
        for number, start, end, ids in ranges:
            why = f"vectors of {len(ids)} rows are damaged: {', '.join(ids)}"
            self.report.lost.append(Lost(self.holders[number].file, start, end, why))

    def _pages_of(self, holder: Holder) -> tuple[str, int, int]:
        """Return the file and the bytes around the damaged pages of a segment's records."""
        if not isinstance(holder, SegmentRows):
            return holder.file, 0, 0
        opened = next(item for item in self.evidence.opened if item.segment is holder.segment)
        pages = _damaged_pages(opened)
        start = opened.found.head.body_offset
        first, last = min(pages, default=0), max(pages, default=-1)
        file = opened.found.path(sf.RECORDS_NAME)
        return file, start + first * sf.PAGE_BYTES, start + (last + 1) * sf.PAGE_BYTES

    def _lose_files(self, dropped: Sequence[Dropped]) -> None:
        """Name the segments that are missing, and what is in no other file."""
        evidence, absent = self.evidence, _Absent(self.holders, dropped)
        gaps = evidence.coverage.missing(max(evidence.durable, evidence.coverage.last))
        named: set[str] = set()
        for entry in evidence.missing:
            rows = absent.count(entry.first_row, entry.row_end)
            if rows or any(_overlaps(entry, gap) for gap in gaps):
                self._lose_entry(entry, rows)
                named.add(entry.directory)
        for item in evidence.accepted.batches:
            batch = item.batch
            if batch is None or batch.bulk is None or batch.bulk.directory in named:
                continue
            rows = absent.count(batch.first_row, batch.first_row + batch.row_count)
            if rows:
                file = f"segments/{batch.bulk.directory}/{sf.VECTORS_NAME}"
                why = f"missing or damaged: {rows} rows of commit {item.lsn}"
                self.report.lost.append(Lost(file, 0, batch.row_count * batch.vector_bytes, why))
        if self.place.root is None:
            return  # a part that was asked for by itself
        missing = absent.count(0, self._row_end())
        for unusable in evidence.unusable if gaps or missing else ():
            if unusable.name in named:
                continue
            for name, size in unusable.sizes.items():
                file = f"{unusable.part.path(unusable.name)}/{name}"
                self.report.lost.append(Lost(file, 0, size, unusable.why))
        if missing:
            self.place.notes.append(f"{missing} rows were in files that are missing or damaged")
        for first, last in gaps:
            where = "wal" if evidence.manifest and first > evidence.manifest.flushed_lsn else ""
            why = f"commits {first} .. {last} are in no file that can be read"
            self.report.lost.append(Lost(where or "segments", 0, 0, why))

    def _row_end(self) -> int:
        """Return how many rows there ever were, as far as is known."""
        evidence = self.evidence
        known = evidence.coverage.row_limit(evidence.coverage.last) or 0
        return max(known, evidence.manifest.row_end if evidence.manifest is not None else 0)

    def _lose_entry(self, entry: SegmentEntry, rows: int) -> None:
        commits = f"commits {entry.first_lsn} .. {entry.last_lsn}"
        unusable = {item.name: item.why for item in self.evidence.unusable}
        why = unusable.get(entry.directory, "missing, or not what the manifest names")
        sizes = ((sf.RECORDS_NAME, entry.records_bytes), (sf.VECTORS_NAME, entry.vectors_bytes))
        for name, size in sizes:
            file = f"segments/{entry.directory}/{name}"
            self.report.lost.append(Lost(file, 0, size, f"{why}: {rows} rows of {commits}"))

    # --- doubtful ---

    def _doubt(self, *, type_is_certain: bool) -> None:
        chosen, evidence = self.chosen, self.evidence
        lost = np.fromiter((value is None for value in chosen.metadata), np.bool_, len(chosen.rows))
        self._add(lost, "metadata-lost", "its metadata is damaged; only id and vector came back")
        gaps = evidence.coverage.missing(max(evidence.durable, evidence.coverage.last))
        begin = -(2**62)
        for number, (_, last) in enumerate(gaps):
            limit = evidence.coverage.rows_before(last + 1)
            limit = 2**62 if limit is None else limit
            shown = ", ".join(f"{start} .. {end}" for start, end in gaps[number:])
            mask = (chosen.rows >= begin) & (chosen.rows < limit)
            self._add(
                mask, "damaged",
                f"commits {shown} are missing: it may have been replaced or deleted in them",
            )  # fmt: skip
            begin = max(begin, limit)
        uncertain = np.array([not item.is_certain for item in self.holders], np.bool_)
        shared = np.array([item.is_shared for item in self.holders], np.bool_)
        if len(self.holders) and len(chosen.rows):
            self._add(
                uncertain[chosen.first], "damaged",
                "no manifest and no log says that it was committed, or still there",
            )  # fmt: skip
            self._add(
                shared[chosen.first], "damaged",
                "it lies in a segment of another collection, and no manifest says how much of "
                "that belongs to this one",
            )  # fmt: skip
        if not type_is_certain:
            everything = np.ones(len(chosen.rows), np.bool_)
            self._add(everything, "damaged", "no file says what type its numbers are")

    def _add(self, mask: Mask, why: DoubtKind, text: str) -> None:
        """Say of the rows in `mask` that come back that they are doubtful."""
        places = np.flatnonzero(mask & self.is_imported())
        self._doubted[places] = True
        chosen = self.chosen
        is_class = len(places) > _DOUBTS_BY_ID_MAX
        for place in places[: 1 if is_class else None].tolist():
            holder = self.holders[int(chosen.holder[place])]
            self.report.doubtful.append(
                Doubt(
                    id=None if is_class else chosen.ids[place],
                    file=holder.file,
                    offset=holder.offset(int(chosen.ordinal[place])),
                    why=why,
                    text=text,
                    rows=len(places) if is_class else 1,
                )
            )

    # --- figures ---

    def _measure(self, logs: Sequence[Log]) -> None:
        """Count the bytes of what is there, and of what of it is whole."""
        report = self.report
        for opened in self.evidence.opened:
            segment, descriptor = opened.segment, opened.found.descriptor
            used = opened.found.head.file_size + descriptor.rows * descriptor.vector_bytes
            bad = len(segment.unreadable_vectors(0, segment.rows)) if segment.rows else 0
            damaged = bad * descriptor.vector_bytes + len(_damaged_pages(opened)) * sf.PAGE_BYTES
            report.bytes_used += used
            report.bytes_good += max(0, used - damaged)
        for unusable in self.evidence.unusable:
            report.bytes_used += sum(unusable.sizes.values())
        for log in logs:
            report.bytes_used += log.used_bytes
            report.bytes_good += min(log.good_bytes, log.used_bytes)

    def _note(self) -> None:
        report, evidence = self.report, self.evidence
        report.unreadable += self.place.unreadable
        report.notes += self.place.notes + evidence.accepted.notes
        if evidence.coverage.last:
            report.notes.append(f"state of commit {evidence.coverage.last}")
        if evidence.manifest is None:
            report.notes.append("no manifest can be read; segments and logs were put together")
        if not evidence.accepted.batches and self.place.wal is None and self.place.root is not None:
            report.notes.append("there is no log: later commits, if any, are not here")
        for opened in evidence.opened:
            for finding in opened.findings:
                if finding.code == "control-copy-damaged":
                    report.notes.append(f"{finding.where} is damaged; the other copy is good")


class _Absent:
    """Counts the rows of a range that are neither there nor known to be gone."""

    def __init__(self, holders: Sequence[Holder], dropped: Sequence[Dropped]) -> None:
        rows = np.unique(np.concatenate([np.zeros(0, np.int64), *(item.rows for item in holders)]))
        self._ranges: list[tuple[int, int]] = []
        for part in sorted(dropped, key=lambda item: item.first):
            if self._ranges and part.first <= self._ranges[-1][1]:
                start, end = self._ranges[-1]
                self._ranges[-1] = start, max(end, part.end)
            elif part.first < part.end:
                self._ranges.append((part.first, part.end))
        for first, end in self._ranges:
            rows = rows[(rows < first) | (rows >= end)]
        self._rows = rows

    def count(self, first: int, end: int) -> int:
        """Return how many of the rows first .. end - 1 are missing."""
        there = int(np.searchsorted(self._rows, end) - np.searchsorted(self._rows, first))
        gone = sum(max(0, min(end, last) - max(first, start)) for start, last in self._ranges)
        return max(0, end - first - there - gone)


def _overlaps(entry: SegmentEntry, gap: tuple[int, int]) -> bool:
    return bool(entry.commits) and entry.first_lsn <= gap[1] and gap[0] <= entry.last_lsn


def _damaged_pages(opened: Opened) -> list[int]:
    return [
        int(finding.where.rpartition(" ")[2])
        for finding in opened.findings
        if finding.code == "page-damaged"
    ]


def _joined(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows))
