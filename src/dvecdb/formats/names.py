"""The only place that spells file names.

    DATA_DIR/LOCK .ballast collections/ .deleted/ .backups/
    collections/<name>/collection.json [deletion.json]
                       manifests/ wal/ segments/ derived/ quarantine/
    .deleted/<name>_<stamp>/               the same, with deletion.json
    .backups/<name>_<stamp>/               the same, with backup.json [verified-<time>.json]
    .server/keys/ audit/ tasks/ imports/   what a server keeps; the engine leaves it alone

A name that begins with `.partial-` is being written and belongs to nobody after a crash.
"""

from __future__ import annotations

import re
from typing import Final

LOCK: Final = "LOCK"
BALLAST: Final = ".ballast"
COLLECTIONS: Final = "collections"
TRASH: Final = ".deleted"
BACKUPS: Final = ".backups"
SERVER: Final = ".server"
KEYS: Final = "keys"
AUDIT: Final = "audit"
TASKS: Final = "tasks"
IMPORTS: Final = "imports"
NOT_DATA: Final = frozenset({SERVER, "lost+found"})
"""What may lie in a directory that is to become a data directory."""
COLLECTION_FILE: Final = "collection.json"
DELETION_FILE: Final = "deletion.json"
BACKUP_FILE: Final = "backup.json"
MANIFESTS: Final = "manifests"
WAL: Final = "wal"
SEGMENTS: Final = "segments"
DERIVED: Final = "derived"
QUARANTINE: Final = "quarantine"
COLLECTION_DIRECTORIES: Final = (MANIFESTS, WAL, SEGMENTS, DERIVED, QUARANTINE)
PARTIAL: Final = ".partial-"

_MANIFEST: Final = re.compile(r"(\d{12})\.json")
_WAL: Final = re.compile(r"(\d{10})-(\d{16})\.wal")
_SEGMENT: Final = re.compile(r"(\d{16})-(\d{16})-([0-9a-f]{32})")
_LOOKUP: Final = re.compile(r"lookup-(\d{16})-(\d{16})-([0-9a-f]{8})\.idx")
_INDEX: Final = re.compile(r"index-(\d{16})-([0-9a-f]{8})\.ivf")
_STAMPED: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,63})_(\d{8}_\d{6})", re.ASCII)
_VERIFICATION: Final = re.compile(r"verified-(\d{20})\.json")
_KEY: Final = re.compile(r"([0-9a-f]{12})(\.revoked)?\.json")
_AUDIT: Final = re.compile(r"(\d{10})\.jsonl")
_TASK: Final = re.compile(r"(\d{10})\.(started|ended)\.json")
_IMPORT: Final = re.compile(r"(\d{10})\.json")


def manifest_name(generation: int) -> str:
    """Return the name of a manifest file."""
    return f"{generation:012d}.json"


def parse_manifest_name(name: str) -> int | None:
    """Return the generation in a manifest's name, or None."""
    match = _MANIFEST.fullmatch(name)
    return int(match[1]) if match else None


def wal_name(epoch: int, first_lsn: int) -> str:
    """Return the name of a log file."""
    return f"{epoch:010d}-{first_lsn:016d}.wal"


def parse_wal_name(name: str) -> tuple[int, int] | None:
    """Return epoch and first LSN in a log file's name, or None."""
    match = _WAL.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def segment_name(first_row: int, lsn: int, uuid_hex: str) -> str:
    """Return the name of a segment directory; `lsn` is its last."""
    return f"{first_row:016d}-{lsn:016d}-{uuid_hex}"


def parse_segment_name(name: str) -> tuple[int, int, str] | None:
    """Return first row, last LSN and uuid in a segment's name, or None."""
    match = _SEGMENT.fullmatch(name)
    return (int(match[1]), int(match[2]), match[3]) if match else None


def lookup_name(first_row: int, row_end: int, salt: str) -> str:
    """Return the name of a lookup file; `salt` (8 hex digits) makes it unique."""
    return f"lookup-{first_row:016d}-{row_end:016d}-{salt}.idx"


def parse_lookup_name(name: str) -> tuple[int, int] | None:
    """Return first row and row end in a lookup file's name, or None."""
    match = _LOOKUP.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def index_name(row_end: int, salt: str) -> str:
    """Return the name of an index file; `salt` (8 hex digits) makes it unique."""
    return f"index-{row_end:016d}-{salt}.ivf"


def parse_index_name(name: str) -> int | None:
    """Return the row end in an index file's name, or None."""
    match = _INDEX.fullmatch(name)
    return int(match[1]) if match else None


def stamped_name(name: str, stamp: str) -> str:
    """Return the name of a trash entry or backup; `stamp` is YYYYMMDD_HHMMSS."""
    return f"{name}_{stamp}"


def parse_stamped_name(name: str) -> tuple[str, str] | None:
    """Return collection and stamp in the name of a trash entry or backup, or None.

    The stamp is what stands at the end, so a collection's name may look like it ends in one.
    """
    match = _STAMPED.fullmatch(name)
    return (match[1], match[2]) if match else None


def verification_name(verified_ns: int) -> str:
    """Return the name of the file that says how a backup was verified."""
    return f"verified-{verified_ns:020d}.json"


def parse_verification_name(name: str) -> int | None:
    """Return the time in a verification file's name, nanoseconds, or None."""
    match = _VERIFICATION.fullmatch(name)
    return int(match[1]) if match else None


def key_name(key_id: str, *, revoked: bool = False) -> str:
    """Return the name of an API key's file, or of the file that revokes it."""
    return f"{key_id}.revoked.json" if revoked else f"{key_id}.json"


def parse_key_name(name: str) -> tuple[str, bool] | None:
    """Return the id in a key file's name and whether it revokes the key, or None."""
    match = _KEY.fullmatch(name)
    return (match[1], match[2] is not None) if match else None


def audit_name(number: int) -> str:
    """Return the name of a file of the audit log."""
    return f"{number:010d}.jsonl"


def parse_audit_name(name: str) -> int | None:
    """Return the number in the name of a file of the audit log, or None."""
    match = _AUDIT.fullmatch(name)
    return int(match[1]) if match else None


def task_name(task_id: str, *, ended: bool = False) -> str:
    """Return the name of the file that says that a task was started, or how it ended."""
    return f"{task_id}.ended.json" if ended else f"{task_id}.started.json"


def parse_task_name(name: str) -> tuple[str, bool] | None:
    """Return the task id in a name and whether the file says how the task ended, or None."""
    match = _TASK.fullmatch(name)
    return (match[1], match[2] == "ended") if match else None


def import_name(task_id: str) -> str:
    """Return the name of the file that has the report of an import."""
    return f"{task_id}.json"


def parse_import_name(name: str) -> str | None:
    """Return the task id in the name of an import's report, or None."""
    match = _IMPORT.fullmatch(name)
    return match[1] if match else None
