"""Everything a user can tune in the engine, with unit, default, limit and reason."""

from __future__ import annotations

from dataclasses import dataclass, fields

from dvecdb.errors import Code, InvalidRequestError

MIB = 1024 * 1024
HOURS_MAX = 876_000  # a hundred years: beyond it dates run out
_LAST = {
    "history_hours": HOURS_MAX, "trash_hours": HOURS_MAX, "orphan_age_hours": HOURS_MAX,
    "backup_keep_days": HOURS_MAX // 24, "compact_dead_percent": 100, "trash_percent_max": 100,
    "guard_percent": 100, "index_recall_permille": 1_000,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """Engine settings. All are positive whole numbers; `0` is allowed where it says so."""

    metadata_bytes_max: int = 64 * 1024
    """Largest JSON metadata of one record: a get stays small, a page stays bounded."""
    batch_bytes_max: int = 16 * 1024 * MIB
    """Largest single batch: it is held in memory once."""
    bulk_bytes: int = 32 * MIB
    """From this size a batch is written straight into a segment and the log only names it."""
    flush_bytes: int = 64 * MIB
    """Memtable size that starts a flush: bounds memory and replay time."""
    flush_commits: int = 20_000
    """Commits in the memtable that start a flush: bounds replay time of tiny rows."""
    merge_bytes: int = 64 * MIB
    """Segments below this size are merged with their neighbours."""
    merge_count: int = 4
    """Neighbouring small segments that are merged together at least."""
    memtables_max: int = 3
    """Memtables waiting for a flush before writers wait: bounds memory."""
    group_commits_max: int = 1_024
    """Batches of one group commit: bounds the time a caller works for others."""
    group_bytes_max: int = 64 * MIB
    """Bytes of one group commit."""
    wal_reserve_bytes: int = 1 * MIB
    """Log space kept for deletes on a full disk, per open collection."""
    wal_extend_bytes: int = 8 * MIB
    """Log space reserved ahead at a time."""
    ballast_bytes: int = 16 * MIB
    """Space kept for trash, purge and restore on a full disk. 0: none."""
    low_water_bytes: int = 64 * MIB
    """Free space below which inserts are refused. 0: only when the disk says no."""
    idle_marker_ms: int = 50
    """Idle time after which the log records how far it is synced. 0: never."""
    orphan_age_hours: int = 24
    """Age from which files that nothing names are reclaimed."""
    history_hours: int = 24
    """How long a replaced or deleted row stays readable with `as_of`, at least. 0: no history."""
    history_bytes_max: int = 64 * 1024 * MIB
    """Bytes of replaced and deleted rows of a collection beyond which the oldest go before that
    time, but never what the newest large change replaced."""
    compact_dead_percent: int = 30
    """Share of dead rows behind the horizon from which a large segment is written again."""
    trash_hours: int = 24
    """How long a deleted collection stays in the trash at least."""
    trash_bytes_max: int = 0
    """Size of the trash above which the oldest entries go before their time, though none in its
    first hour. 0: none goes before its time."""
    trash_percent_max: int = 0
    """The same as a share of the disk. 0: none goes before its time."""
    backup_keep_last: int = 7
    """Automatic backups of a collection that are kept, however old."""
    backup_keep_days: int = 7
    """Automatic backups younger than this are kept, however many."""
    backup_bytes_max: int = 0
    """Bytes that automatic backups may hold on to beyond their collections; then the oldest go,
    but never the last one of a collection. 0: no limit."""
    guard_rows: int = 1_000
    """Deletions of more rows than this are looked at by the guard."""
    guard_percent: int = 50
    """Share of the rows of a collection that a deletion may hit without being confirmed."""
    index_rows_min: int = 20_000
    """Live rows from which a collection gets an index; below, every row is measured, which is
    quick and exact. 0: never."""
    index_recall_permille: int = 980
    """Share of the ten nearest rows that a search finds, in thousandths, unless it says more or
    less itself. 1000: every search measures every row."""
    tend_seconds: int = 60
    """Time between two looks for what has expired. 0: never by itself."""
    settle_seconds: int = 600
    """Time after opening in which nothing expires: a clock that is wrong at the start of a machine
    is set right by then, and that is noticed."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        zero_allowed = {
            "ballast_bytes", "low_water_bytes", "idle_marker_ms", "orphan_age_hours",
            "history_hours", "trash_hours", "trash_bytes_max", "trash_percent_max",
            "backup_keep_last", "backup_keep_days", "backup_bytes_max", "tend_seconds",
            "settle_seconds", "index_rows_min",
        }  # fmt: skip
        for item in fields(self):
            value = getattr(self, item.name)
            first, last = 0 if item.name in zero_allowed else 1, _LAST.get(item.name, value)
            if not isinstance(value, int) or not first <= value <= last:
                bound = f" up to {last}" if item.name in _LAST else ""
                raise InvalidRequestError(
                    Code.INVALID_ARGUMENT,
                    f"setting {item.name}: expected a positive whole number{bound}, "
                    f"found {value!r}",
                    setting=item.name,
                )
