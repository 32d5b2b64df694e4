"""From a frozen memtable to a segment, and merging small segments. Both end in a manifest swap.

Runs in the maintenance thread under `maintenance_lock`; takes the commit lock only to publish.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final
from uuid import UUID

import numpy as np

from dvecdb.engine.lookup import (
    Run,
    insert_run,
    make_run,
    merge_runs,
    pick_merge,
    replace_runs,
    save_run,
)
from dvecdb.engine.manifest import install
from dvecdb.engine.reclaim import drop_unnamed_segment
from dvecdb.engine.rows import View, document_hash, segment_documents
from dvecdb.engine.segment import Segment, SegmentLostError, UnreadableError
from dvecdb.engine.segment_writer import (
    ByteColumn,
    SegmentContent,
    WrittenSegment,
    remove_partial,
    write_segment,
)
from dvecdb.engine.storage import not_read_back, unclear, write_failed
from dvecdb.engine.store import sorted_segments
from dvecdb.errors import DiskFullError, DvecdbError
from dvecdb.formats import names
from dvecdb.formats import segment_file as sf
from dvecdb.formats.columns import encode_document, encode_texts
from dvecdb.formats.lookup_file import hash_ids
from dvecdb.formats.manifest_file import SegmentEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from dvecdb.engine.memtable import Memtable
    from dvecdb.engine.store import Store
    from dvecdb.formats.columns import DocumentEntry
    from dvecdb.formats.framing import Buffer

_MERGE_SEGMENTS_MAX: Final = 64


def flush_oldest(store: Store) -> bool:
    """Write the oldest frozen memtable as a segment; return whether there was one.

    Raises:
        DvecdbError: `disk-full` (nothing changed, try again) or `outcome-unknown`.
    """
    with store.commit_lock:  # a bulk commit shows its memtable before it is synced
        frozen = store.view.memtables[:-1]
        if not frozen or store.stopped is not None:
            return False
    memtable = frozen[0]
    written = _write(store, memtable_content(memtable))
    entry = _place(
        store,
        written,
        memtable.first_row,
        memtable.rows,
        memtable.first_lsn,
        len(memtable.row_ends),
    )
    segment = _open(store, entry)
    named = [item.entry for item in store.view.segments if item.last_lsn <= memtable.last_lsn]
    with _no_trace_if_full(store, entry):
        manifest = install(
            store,
            "flush",
            [*named, entry],
            flushed_lsn=memtable.last_lsn,
            flushed_hash=memtable.hashes[-1],
            row_end=memtable.row_end,
            hlc=memtable.hlcs[-1],
        )
    ids = [text for chunk in memtable.chunks for text in chunk.ids[: chunk.used]]
    run = (
        save_run(
            store.environment.files,
            store.directories.derived,
            make_run(*_identity(store), memtable.first_row, hash_ids(ids)),
            store.environment.new_uuid().hex[:8],
        )
        if ids
        else None
    )
    with store.commit_lock:
        ends = memtable.all_ends()
        segment.ends[:] = ends
        segment.ended_count = int(np.count_nonzero(ends))
        view = store.view
        runs = insert_run(view.runs, run) if run is not None else view.runs
        memtables = [item for item in view.memtables if item is not memtable]
        store.view = View(manifest, sorted_segments([*view.segments, segment]), memtables, runs)
        _log_manifest(store)
    return True


def _log_manifest(store: Store) -> None:
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


def memtable_content(memtable: Memtable) -> SegmentContent:
    """Return what a frozen memtable's segment holds."""
    chunks = memtable.chunks
    ids = [text for chunk in chunks for text in chunk.ids[: chunk.used]]
    metadata = [value for chunk in chunks for value in chunk.metadata[: chunk.used]]
    id_lengths, id_bytes = encode_texts(ids)
    sizes = np.fromiter(map(len, metadata), np.uint32, count=len(metadata))
    documents = [
        (lsn, (space, key, value))
        for (space, key), versions in memtable.documents.items()
        for lsn, value in versions
    ]
    ends_rows = [rows for _, rows in memtable.ends]
    ends_lsns = [np.full(len(rows), lsn, np.uint64) for lsn, rows in memtable.ends]
    control: dict[int, Buffer] = {
        sf.ENDS_ROWS: np.concatenate(ends_rows).tobytes() if ends_rows else b"",
        sf.ENDS_LSNS: np.concatenate(ends_lsns).tobytes() if ends_lsns else b"",
        sf.COMMIT_ROW_ENDS: np.array(memtable.row_ends, np.uint64).tobytes(),
        sf.COMMIT_HLCS: np.array(memtable.hlcs, np.uint64).tobytes(),
        sf.COMMIT_WALLS: np.array(memtable.walls, np.uint64).tobytes(),
        sf.NOTE_SIZES: np.fromiter(
            map(len, memtable.notes), np.uint32, len(memtable.notes)
        ).tobytes(),
        sf.NOTES: b"".join(memtable.notes),
        sf.LOST_VECTORS: _ordinals(memtable.lost_vectors, memtable.first_row),
        sf.LOST_METADATA: _ordinals(memtable.lost_metadata, memtable.first_row),
        **document_sections(documents),
    }
    return SegmentContent(
        rows=memtable.rows,
        vectors=[chunk.vectors[: chunk.used].data for chunk in chunks if chunk.used],
        ids=ByteColumn(id_lengths, [id_bytes]),
        metadata=ByteColumn(sizes, [b"".join(metadata)]),
        first_lsn=memtable.first_lsn,
        commits=len(memtable.row_ends),
        control=control,
    )


def _ordinals(rows: Iterable[int], first_row: int) -> bytes:
    return np.array(sorted(row - first_row for row in rows), np.uint32).tobytes()


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


# --- compaction ---


def pick_compaction(
    segments: Sequence[Segment], merge_bytes: int, merge_count: int
) -> list[Segment]:
    """Return neighbouring small undamaged segments to merge, or nothing. Pure."""
    best: list[Segment] = []
    current: list[Segment] = []
    for segment in segments:
        if not segment.commits:
            continue  # rows of a bulk batch: they stay where they are
        size = segment.entry.vectors_bytes + segment.entry.records_bytes
        adjacent = not current or _adjacent(current, segment)
        if segment.damaged or size >= merge_bytes or not adjacent:
            best = max(best, current, key=len)
            current = []
            if segment.damaged or size >= merge_bytes:
                continue
        total = sum(item.entry.vectors_bytes + item.entry.records_bytes for item in current)
        if current and (total + size > 2 * merge_bytes or len(current) >= _MERGE_SEGMENTS_MAX):
            best = max(best, current, key=len)
            current = []
        current.append(segment)
    best = max(best, current, key=len)
    return best if len(best) >= merge_count else []


def _adjacent(current: Sequence[Segment], segment: Segment) -> bool:
    last = current[-1]
    row_end = next((item.row_end for item in reversed(current) if item.rows), None)
    rows_join = row_end is None or not segment.rows or segment.first_row == row_end
    return last.last_lsn + 1 == segment.first_lsn and rows_join


def compact(store: Store) -> bool:
    """Merge one run of small segments; return whether there was one.

    Raises:
        DvecdbError: `disk-full` (nothing changed) or `outcome-unknown`.
    """
    settings = store.environment.settings
    named = {entry.uuid for entry in store.manifest.segments}
    candidates = [item for item in store.view.segments if item.entry.uuid in named]
    picked = pick_compaction(candidates, settings.merge_bytes, settings.merge_count)
    if not picked:
        return False
    try:
        content = merged_content(picked)
    except UnreadableError:
        return False  # the damage is a finding now, and the segment will not be picked again
    first_row = next((item.first_row for item in picked if item.rows), picked[0].first_row)
    written = _write(store, content)
    entry = _place(store, written, first_row, content.rows, content.first_lsn, content.commits)
    merged = _open(store, entry)
    kept = [item.entry for item in candidates if item not in picked]
    with _no_trace_if_full(store, entry):
        segments = sorted([*kept, entry], key=lambda item: item.last_lsn)
        manifest = install(store, "compaction", segments)
    with store.commit_lock:
        for segment in picked:
            if segment.rows:
                start = segment.first_row - first_row
                merged.ends[start : start + segment.rows] = segment.ends
        merged.ended_count = sum(segment.ended_count for segment in picked)
        rest = [item for item in store.view.segments if item not in picked]
        store.view = View(
            manifest, sorted_segments([*rest, merged]), store.view.memtables, store.view.runs
        )
        _log_manifest(store)
    return True


def merged_content(segments: Sequence[Segment]) -> SegmentContent:
    """Return what neighbouring segments hold together.

    Raises:
        UnreadableError: some of it is damaged; damaged segments are never rewritten.
    """
    with_rows = [segment for segment in segments if segment.rows]
    columns: dict[str, ByteColumn] = {}
    for name in ("ids", "metadata"):
        parts = [segment.column(name) for segment in with_rows]
        lengths = np.concatenate([part[0] for part in parts]) if parts else np.zeros(0, np.uint32)
        columns[name] = ByteColumn(lengths, [part[1] for part in parts])
    first_row = with_rows[0].first_row if with_rows else 0
    lost: Mapping[int, list[int]] = {sf.LOST_VECTORS: [], sf.LOST_METADATA: []}
    for segment in with_rows:
        damaged = segment.unreadable_vectors(0, segment.rows)
        if segment.damaged:
            raise UnreadableError(damaged.tolist())
        for tag, ordinals in lost.items():
            own = segment.section(tag, np.uint32).astype(np.int64) + segment.first_row - first_row
            ordinals += own.tolist()
    control: dict[int, Buffer] = {
        tag: b"".join(bytes(segment.sections.get(tag, b"")) for segment in segments)
        for tag in (
            sf.ENDS_ROWS, sf.ENDS_LSNS, sf.COMMIT_ROW_ENDS, sf.COMMIT_HLCS, sf.COMMIT_WALLS,
            sf.NOTE_SIZES, sf.NOTES,
        )
    }  # fmt: skip
    for tag, ordinals in lost.items():
        control[tag] = np.array(sorted(ordinals), np.uint32).tobytes()
    control.update(
        document_sections([item for part in segments for item in segment_documents(part)])
    )
    return SegmentContent(
        rows=sum(segment.rows for segment in with_rows),
        vectors=[segment.vectors.data for segment in with_rows],
        ids=columns["ids"],
        metadata=columns["metadata"],
        first_lsn=segments[0].first_lsn,
        commits=sum(segment.commits for segment in segments),
        control=control,
    )


def tidy_runs(store: Store) -> bool:
    """Merge two lookup runs, or write one that is only in memory; return whether it did either."""
    runs = store.view.runs
    old = pick_merge(runs)
    if not old:
        unsaved = [run for run in runs if run.name is None]
        old = tuple(unsaved[:1])
    if not old:
        return False
    merged: Run = merge_runs(old) if len(old) > 1 else old[0]
    salt = store.environment.new_uuid().hex[:8]
    new = save_run(store.environment.files, store.directories.derived, merged, salt)
    if new is old[0]:
        return False  # it cannot be written now
    with store.commit_lock:
        view = store.view
        store.view = View(
            view.manifest, view.segments, view.memtables, replace_runs(view.runs, old, new)
        )
    return True


# --- shared ---


def _identity(store: Store) -> tuple[UUID, UUID]:
    return UUID(store.manifest.collection_uuid), UUID(store.manifest.lineage)


def _write(store: Store, content: SegmentContent) -> WrittenSegment:
    environment = store.environment
    try:
        return write_segment(
            environment.files,
            store.directories.segments,
            content,
            store.schema,
            environment.new_uuid(),
            _identity(store)[0],
        )
    except OSError as error:
        raise write_failed(f"writing a segment of {store.name!r}", error) from error


def _place(
    store: Store, written: WrittenSegment, first_row: int, rows: int, first_lsn: int, commits: int
) -> SegmentEntry:
    """Give a written segment its name, durably, and return its manifest entry."""
    files, parent = store.environment.files, store.directories.segments
    last_lsn = first_lsn + max(commits, 1) - 1
    name = names.segment_name(first_row, last_lsn, written.uuid.hex)
    try:
        files.rename(parent, written.partial_name, parent, name)
        files.sync_directory(parent)
    except OSError as error:
        remove_partial(files, parent, written.partial_name)
        raise write_failed(f"naming a segment of {store.name!r}", error) from error
    return SegmentEntry(
        directory=name,
        uuid=written.uuid.hex,
        digest=written.digest,
        first_row=first_row,
        row_end=first_row + rows,
        first_lsn=first_lsn,
        last_lsn=last_lsn,
        commits=commits,
        records_bytes=written.records_bytes,
        vectors_bytes=written.vectors_bytes,
    )


@contextlib.contextmanager
def _no_trace_if_full(store: Store, entry: SegmentEntry) -> Iterator[None]:
    """Remove a segment that no manifest names for want of room: each new attempt writes another."""
    try:
        yield
    except DiskFullError:
        drop_unnamed_segment(store, entry.directory)
        raise


def _open(store: Store, entry: SegmentEntry) -> Segment:
    try:
        return Segment(
            store.environment.files, store.directories.segments, entry, store.report, store.name
        )
    except OSError as error:
        raise write_failed(f"opening a segment of {store.name!r}", error) from error
    except SegmentLostError as error:
        raise unclear(f"reading back a segment of {store.name!r}", not_read_back(error)) from error
