"""Large batches: the segment is written in the caller's thread, then one log record names it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import numpy as np

from dvecdb.engine.lookup import Run, make_run
from dvecdb.engine.segment import Segment
from dvecdb.engine.segment_writer import ByteColumn, SegmentContent, remove_partial, write_segment
from dvecdb.engine.storage import write_failed
from dvecdb.engine.store import BulkSegment, Ticket
from dvecdb.errors import OutcomeUnknownError
from dvecdb.formats.columns import block_rows, encode_texts
from dvecdb.formats.lookup_file import hash_ids
from dvecdb.formats.segment_file import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dvecdb.engine.store import Store
    from dvecdb.engine.writes import Write
    from dvecdb.formats.manifest_file import SegmentEntry
    from dvecdb.records import Commit, Schema


def commit_bulk(store: Store, write: Write) -> Commit:
    """Commit a large write durably.

    Raises:
        DvecdbError: as any write; nothing of it is visible then.
    """
    store.check_writable()
    ticket = Ticket(write)
    try:
        bulk = _prepare(store, write)
    except OutcomeUnknownError as error:  # the disk failed: nothing more is written to it
        store.stop_writes(error)
        raise
    try:
        store.commit_bulk(ticket, bulk)
    finally:
        # After the commit the partial name is gone; before it, nobody knows the segment.
        remove_partial(store.environment.files, store.directories.segments, bulk.partial_name)
    assert ticket.commit is not None
    return ticket.commit


def _buffers(write: Write, schema: Schema) -> Iterator[memoryview]:
    """Yield the stored bytes of a write's vectors, in pieces of whole blocks."""
    if write.source is None:
        assert write.vectors is not None
        yield write.vectors.data
        return
    rows = block_rows(schema.vector_bytes)
    for piece in write.source.pieces(max(1, CHUNK_BYTES // (rows * schema.vector_bytes)) * rows):
        yield piece.data


def _prepare(store: Store, write: Write) -> BulkSegment:
    environment, parent = store.environment, store.directories.segments
    collection = UUID(store.manifest.collection_uuid)
    lineage = UUID(store.manifest.lineage)
    count = len(write.ids)
    lengths, joined = encode_texts(write.ids)
    metadata = write.metadata or []
    sizes = (
        np.fromiter(map(len, metadata), np.uint32, len(metadata))
        if metadata
        else np.zeros(count, np.uint32)
    )
    content = SegmentContent(
        rows=count,
        vectors=_buffers(write, store.schema),
        ids=ByteColumn(lengths, [joined]),
        metadata=ByteColumn(sizes, [b"".join(metadata)]),
        first_lsn=0,
        commits=0,
    )
    try:
        written = write_segment(
            environment.files, parent, content, store.schema, environment.new_uuid(), collection
        )
    except OSError as error:
        raise write_failed(f"writing a segment of {store.name!r}", error) from error
    hashes = hash_ids(write.ids)

    def entry_at(first_row: int, lsn: int) -> SegmentEntry:
        return written.entry(range(first_row, first_row + count), lsn, 0)

    def rename_to(first_row: int, lsn: int) -> str:
        name = entry_at(first_row, lsn).directory
        environment.files.rename(parent, written.partial_name, parent, name)
        environment.files.sync_directory(parent)
        return name

    def open_as(first_row: int, lsn: int) -> Segment:
        entry = entry_at(first_row, lsn)
        return Segment(environment.files, parent, entry, store.report, store.name)

    def run_at(first_row: int) -> Run:
        return make_run(collection, lineage, first_row, hashes)

    return BulkSegment(
        written.partial_name, written.uuid, written.digest, count, open_as, rename_to, run_at
    )
