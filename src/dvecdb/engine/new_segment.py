"""What flush and compaction share: a segment is written, named, opened and read back.

Both run in the maintenance thread under `maintenance_lock`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING
from uuid import UUID

import numpy as np

from dvecdb.engine.reclaim import drop_unnamed_segment
from dvecdb.engine.rows import document_hash
from dvecdb.engine.segment import Segment, SegmentLostError
from dvecdb.engine.segment_writer import (
    SegmentContent,
    WrittenSegment,
    remove_partial,
    write_segment,
)
from dvecdb.engine.storage import not_read_back, unclear, write_failed
from dvecdb.errors import DiskFullError, DvecdbError
from dvecdb.formats import segment_file as sf
from dvecdb.formats.columns import encode_document

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dvecdb.engine.store import Store
    from dvecdb.formats.columns import DocumentEntry
    from dvecdb.formats.framing import Buffer
    from dvecdb.formats.manifest_file import SegmentEntry


def document_sections(documents: Sequence[tuple[int, DocumentEntry]]) -> dict[int, Buffer]:
    """Return the document sections of a segment, sorted by (hash, lsn)."""
    if not documents:
        return {}
    keyed = sorted(
        (document_hash(entry[0], entry[1]), lsn, encode_document(entry)) for lsn, entry in documents
    )
    return {
        sf.DOCUMENT_HASHES: np.array([item[0] for item in keyed], np.uint64).tobytes(),
        sf.DOCUMENT_LSNS: np.array([item[1] for item in keyed], np.uint64).tobytes(),
        sf.DOCUMENT_SIZES: np.array([len(item[2]) for item in keyed], np.uint32).tobytes(),
        sf.DOCUMENTS: b"".join(item[2] for item in keyed),
    }


def identity_of(store: Store) -> tuple[UUID, UUID]:
    """Return collection uuid and lineage."""
    return UUID(store.manifest.collection_uuid), UUID(store.manifest.lineage)


def write_content(store: Store, content: SegmentContent) -> WrittenSegment:
    """Write a segment durably, under a partial name.

    Raises:
        DvecdbError: `disk-full` or `outcome-unknown`.
    """
    environment = store.environment
    try:
        return write_segment(
            environment.files,
            store.directories.segments,
            content,
            store.schema,
            environment.new_uuid(),
            identity_of(store)[0],
        )
    except OSError as error:
        raise write_failed(f"writing a segment of {store.name!r}", error) from error


def place_segment(
    store: Store, written: WrittenSegment, rows: range, first_lsn: int, commits: int
) -> SegmentEntry:
    """Give a written segment its name, durably, and return its manifest entry.

    rows: the range it covers; commits: 0 for rows alone, all of them born at `first_lsn`.

    Raises:
        DvecdbError: `disk-full` or `outcome-unknown`.
    """
    files, parent = store.environment.files, store.directories.segments
    entry = written.entry(rows, first_lsn, commits)
    try:
        files.rename(parent, written.partial_name, parent, entry.directory)
        files.sync_directory(parent)
    except OSError as error:
        remove_partial(files, parent, written.partial_name)
        raise write_failed(f"naming a segment of {store.name!r}", error) from error
    return entry


@contextlib.contextmanager
def no_trace_if_full(store: Store, entry: SegmentEntry) -> Iterator[None]:
    """Remove a segment that no manifest names for want of room: each new attempt writes another."""
    try:
        yield
    except DiskFullError:
        drop_unnamed_segment(store, entry.directory)
        raise


def open_segment(store: Store, entry: SegmentEntry) -> Segment:
    """Open a segment that was just written.

    Raises:
        DvecdbError: `outcome-unknown`, it cannot be read back.
    """
    try:
        return Segment(
            store.environment.files, store.directories.segments, entry, store.report, store.name
        )
    except OSError as error:
        raise write_failed(f"opening a segment of {store.name!r}", error) from error
    except SegmentLostError as error:
        raise unclear(f"reading back a segment of {store.name!r}", not_read_back(error)) from error


def log_manifest(store: Store) -> None:
    """Append a copy of the installed manifest to the log; the next sync makes it durable."""
    wal = store.wal
    if wal is None or store.stopped is not None:
        return
    try:
        wal.reserve(4 * len(store.manifest_bytes) + 1024, may_use_reserve=True)
        wal.append_manifest(store.manifest_bytes, store.next_hlc())
    except DvecdbError as error:
        if wal.failed:
            store.stop_writes(error)
