"""The only place that spells file names.

    DATA_DIR/LOCK .ballast collections/ .deleted/
    collections/<name>/collection.json [deletion.json]
                       manifests/ wal/ segments/ derived/ quarantine/

A name that begins with `.partial-` is being written and belongs to nobody after a crash.
"""

from __future__ import annotations

import re
from typing import Final

LOCK: Final = "LOCK"
BALLAST: Final = ".ballast"
COLLECTIONS: Final = "collections"
TRASH: Final = ".deleted"
COLLECTION_FILE: Final = "collection.json"
DELETION_FILE: Final = "deletion.json"
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
