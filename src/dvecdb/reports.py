"""What a rescue found, brought back and could not: the reports of scan, import and upgrade.

Every byte range is half open, `start` inclusive and `end` exclusive, in the named file. The JSON
form is these fields by these names.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

LOST_LISTED_MAX: Final = 10_000
"""Ranges of `lost` that a report lists."""

DoubtKind = Literal["ambiguous", "zero-class", "metadata-lost", "repaired", "not-finite", "damaged"]


class Lost(msgspec.Struct, frozen=True):
    """Bytes that held something which cannot be brought back."""

    file: str
    start: int
    end: int
    why: str


class Doubt(msgspec.Struct, frozen=True, kw_only=True):
    """A record, or a class of them, that came back with a reservation.

    why: `ambiguous`, its metadata has more than one reading and the likeliest was taken;
    `zero-class`, values under `key` are eight zero bytes, which are 0, 0.0, "", [] or {}: one entry
    for all such `rows`; `metadata-lost`, only id and vector came back; `repaired`, a damaged field
    was put right from its surroundings; `not-finite`, the vector has NaN or infinities; `damaged`,
    stored checksums do not fit. raw: the metadata as stored, in hexadecimal.
    """

    id: str | None = None
    file: str
    offset: int
    why: DoubtKind
    text: str
    key: str | None = None
    raw: str | None = None
    rows: int = 1


class Unreadable(msgspec.Struct, frozen=True):
    """A file that the system refuses to give, or gives in part."""

    file: str
    why: str


class ImportReport(msgspec.Struct, kw_only=True):
    """What an import took from its source.

    kind: what the source is; generation: A, B or C, or several joined by "+" in file order, or
    `log`, of a legacy one; `dvecdb` of our own. records_found: whole records, older versions of an
    id (`superseded`) included; imported: rows of the new collection; exact: those of them that
    come without a doubt. lost: the first `LOST_LISTED_MAX` ranges; a note tells how many more there
    are, and their bytes. deleted_by_log: ids whose deletion the log holds; dropped_by_log:
    collections whose deletion it holds. bytes_used: up to the last record; bytes_good: of whole
    records.
    """

    source: str
    kind: str = "legacy-collection"
    name: str | None = None
    generation: str | None = None
    dimension: int | None = None
    metric: str | None = None
    records_found: int = 0
    imported: int = 0
    exact: int = 0
    superseded: int = 0
    doubtful: list[Doubt] = []
    lost: list[Lost] = []
    deleted_by_log: list[str] = []
    dropped_by_log: list[str] = []
    unreadable: list[Unreadable] = []
    notes: list[str] = []
    bytes_used: int = 0
    bytes_good: int = 0


def cap_lost(report: ImportReport) -> None:
    """Leave no more than `LOST_LISTED_MAX` ranges in a report, and note what the others are."""
    rest = report.lost[LOST_LISTED_MAX:]
    if rest:
        size = sum(item.end - item.start for item in rest)
        report.lost = report.lost[:LOST_LISTED_MAX]
        report.notes.append(f"{len(rest):,} more ranges with {size:,} bytes are lost, not listed")


class Imported(msgspec.Struct, frozen=True):
    """A collection that an import made. replaced: the trash entry of what had its name before."""

    name: str
    report: ImportReport
    replaced: str | None = None
    seconds: float = 0.0


class ScanEntry(msgspec.Struct, kw_only=True):
    """One thing that a scan found.

    kind: `collection`, `deleted`, `backup`, `snapshot`, `log`, or `damaged` if it is nothing
    that is known; name: of its collection; good: the share of used bytes that are whole records.
    import_as: arguments of `dvecdb import` that bring it back.
    """

    path: str
    kind: str
    generation: str | None = None
    name: str | None = None
    dimension: int | None = None
    metric: str | None = None
    records: int = 0
    rows: int = 0
    bytes_used: int = 0
    good: float = 0.0
    lost_ranges: int = 0
    notes: list[str] = []
    import_as: list[str] = []


Outcome = Literal["imported", "present", "empty", "left", "conflict", "failed"]


class UpgradedItem(msgspec.Struct, kw_only=True):
    """What became of one collection of a legacy data directory.

    kind: `collection`, `deleted`, `backup`, `snapshot`, or `log` if only the log knows it; was: its
    name there; name: of the collection, trash entry or backup that it is now, or would be.
    outcome: `imported`; `present`, an earlier run did it; `empty`, there is nothing in it and
    nothing says what it is; `left`, on purpose; `conflict`, its name is taken; `failed`; `why` says
    more.
    import_as: arguments of `dvecdb import` for what was not brought over.
    """

    path: str
    kind: str
    outcome: Outcome
    was: str | None = None
    name: str | None = None
    renamed: bool = False
    why: str | None = None
    report: ImportReport | None = None
    import_as: list[str] = []


class UpgradeReport(msgspec.Struct, kw_only=True):
    """What an upgrade did, or with `dry_run` would do. timezone: of the old directory names."""

    source: str
    target: str
    dry_run: bool
    timezone: str
    items: list[UpgradedItem] = []
    unreadable: list[Unreadable] = []
    notes: list[str] = []
    seconds: float = 0.0

    def count(self, outcome: Outcome) -> int:
        """Return how many came to this."""
        return sum(item.outcome == outcome for item in self.items)
