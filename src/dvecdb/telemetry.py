"""The names under which the server reports: log events and metrics, each declared once.

An event is a name and facts, not prose. Never in a fact: vectors, metadata, documents, keys.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Event(StrEnum):
    """Log events. Operators search for them: a name does not change its meaning."""

    SERVER_STARTED = "server.started"
    SERVER_STOPPING = "server.stopping"
    SERVER_STOPPED = "server.stopped"
    SETTING_IGNORED = "server.setting_ignored"
    UNSAFE_ADDRESS = "server.unsafe_address"
    RECOVERY = "recovery"
    FINDING = "recovery.finding"
    DELETED = "recovery.deleted"
    RESTORED = "recovery.restored"
    CLONED = "recovery.cloned"
    IMPORTED = "recovery.imported"
    BACKED_UP = "recovery.backed_up"
    BACKUP_VERIFIED = "recovery.backup_verified"
    BACKUP_DELETED = "recovery.backup_deleted"
    UNDONE = "recovery.undone"
    PURGED = "recovery.purged"
    EXPIRED = "recovery.expired"
    HARD_DELETED = "recovery.hard_deleted"
    PROTECTION = "recovery.protection"
    CLOCK_TRUSTED = "recovery.clock_trusted"
    REQUEST = "request"
    REQUEST_FAILED = "request.failed"
    METRICS_FAILED = "metrics.failed"
    LIBRARY = "library"


# --- metrics: `dvecdb_` noun, unit, and `_total` for what only grows -----------------------------

REQUESTS: Final = "dvecdb_requests_total"
REQUEST_DURATION: Final = "dvecdb_request_duration_seconds"
REQUESTS_IN_FLIGHT: Final = "dvecdb_requests_in_flight"
CONNECTIONS: Final = "dvecdb_connections"
CONNECTIONS_REFUSED: Final = "dvecdb_connections_refused_total"
COLLECTIONS: Final = "dvecdb_collections"
COLLECTIONS_DAMAGED: Final = "dvecdb_collections_damaged"
ROWS: Final = "dvecdb_rows"
ROWS_WRITTEN: Final = "dvecdb_rows_written"
SEGMENT_BYTES: Final = "dvecdb_segment_bytes"
MEMTABLE_BYTES: Final = "dvecdb_memtable_bytes"
WAL_BYTES: Final = "dvecdb_wal_bytes"
SYNCS: Final = "dvecdb_syncs_total"
FINDINGS: Final = "dvecdb_findings"
DISK_FREE_BYTES: Final = "dvecdb_disk_free_bytes"
DISK_RESERVE_BYTES: Final = "dvecdb_disk_reserve_bytes"
TRASH_ENTRIES: Final = "dvecdb_trash_entries"
TRASH_BYTES: Final = "dvecdb_trash_bytes"
TRASH_OLDEST_AGE: Final = "dvecdb_trash_oldest_age_seconds"
TRASH_EXPIRING: Final = "dvecdb_trash_expiring"
BACKUPS: Final = "dvecdb_backups"
BACKUPS_DAMAGED: Final = "dvecdb_backups_damaged"
BACKUP_OWN_BYTES: Final = "dvecdb_backup_own_bytes"
BACKUP_AGE: Final = "dvecdb_backup_newest_age_seconds"
BACKUP_VERIFIED_AGE: Final = "dvecdb_backup_verified_age_seconds"
HORIZON_LAG: Final = "dvecdb_horizon_lag_seconds"
IMPORTS: Final = "dvecdb_imports_total"
IMPORTED_ROWS: Final = "dvecdb_imported_rows_total"
IMPORT_DOUBTS: Final = "dvecdb_import_doubtful_rows_total"
IMPORT_LOST_RANGES: Final = "dvecdb_import_lost_ranges_total"
AUDIT_ERRORS: Final = "dvecdb_audit_errors_total"
LOG_LINES_DROPPED: Final = "dvecdb_log_lines_dropped_total"
TASKS: Final = "dvecdb_tasks"
UPTIME: Final = "dvecdb_uptime_seconds"
BUILD_INFO: Final = "dvecdb_build_info"
