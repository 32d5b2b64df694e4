"""Everything a user can tune in the engine, with unit, default, limit and reason."""

from __future__ import annotations

from dataclasses import dataclass, fields

from dvecdb.errors import Code, InvalidRequestError

MIB = 1024 * 1024


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

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        zero_allowed = {"ballast_bytes", "low_water_bytes", "idle_marker_ms", "orphan_age_hours"}
        for item in fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, int) or value < (0 if item.name in zero_allowed else 1):
                raise InvalidRequestError(
                    Code.INVALID_ARGUMENT,
                    f"setting {item.name}: expected a positive whole number, found {value!r}",
                )
