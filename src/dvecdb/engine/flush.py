"""From a frozen memtable to a segment, which a manifest then names; and care of the lookup runs.

Runs in the maintenance thread under `maintenance_lock`; takes the commit lock only to publish.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from dvecdb.engine.new_segment import (
    document_sections,
    identity_of,
    log_manifest,
    no_trace_if_full,
    open_segment,
    place_segment,
    write_content,
)
from dvecdb.engine.rows import View
from dvecdb.engine.segment_writer import ByteColumn, SegmentContent
from dvecdb.engine.store import sorted_segments
from dvecdb.formats import segment_file as sf
from dvecdb.formats.columns import encode_texts
from dvecdb.formats.lookup_file import hash_ids

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dvecdb.engine.memtable import Memtable
    from dvecdb.engine.store import Store
    from dvecdb.formats.framing import Buffer


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
    written = write_content(store, memtable_content(memtable))
    entry = place_segment(
        store,
        written,
        range(memtable.first_row, memtable.row_end),
        memtable.first_lsn,
        len(memtable.row_ends),
    )
    segment = open_segment(store, entry)
    named = [item.entry for item in store.view.segments if item.last_lsn <= memtable.last_lsn]
    with no_trace_if_full(store, entry):
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
            make_run(*identity_of(store), memtable.first_row, hash_ids(ids)),
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
        log_manifest(store)
    return True


def memtable_content(memtable: Memtable, last_lsn: int | None = None) -> SegmentContent:
    """Return what the segment of a memtable holds, or of its commits up to `last_lsn`.

    Commits after that may be added meanwhile.
    """
    last_lsn = memtable.last_lsn if last_lsn is None else min(last_lsn, memtable.last_lsn)
    commits = last_lsn - memtable.first_lsn + 1
    row_end = memtable.row_ends[commits - 1]
    parts = [
        (chunk, min(chunk.used, row_end - chunk.first_row))
        for chunk in memtable.chunks
        if chunk.first_row < row_end
    ]
    ids = [text for chunk, used in parts for text in chunk.ids[:used]]
    metadata = [value for chunk, used in parts for value in chunk.metadata[:used]]
    id_lengths, id_bytes = encode_texts(ids)
    sizes = np.fromiter(map(len, metadata), np.uint32, count=len(metadata))
    return SegmentContent(
        rows=sum(used for _, used in parts),
        vectors=[chunk.vectors[:used].data for chunk, used in parts if used],
        ids=ByteColumn(id_lengths, [id_bytes]),
        metadata=ByteColumn(sizes, [b"".join(metadata)]),
        first_lsn=memtable.first_lsn,
        commits=commits,
        control=_memtable_control(memtable, last_lsn, row_end),
    )


def _memtable_control(memtable: Memtable, last_lsn: int, row_end: int) -> dict[int, Buffer]:
    """Return the control sections of a memtable's commits up to `last_lsn`."""
    commits = last_lsn - memtable.first_lsn + 1
    documents = [
        (lsn, (space, key, value))
        for (space, key), versions in list(memtable.documents.items())
        for lsn, value in versions
        if lsn <= last_lsn
    ]
    ended = [(lsn, rows) for lsn, rows in list(memtable.ends) if lsn <= last_lsn]
    ends_lsns = [np.full(len(rows), lsn, np.uint64) for lsn, rows in ended]
    notes = memtable.notes[:commits]
    return {
        sf.ENDS_ROWS: np.concatenate([rows for _, rows in ended]).tobytes() if ended else b"",
        sf.ENDS_LSNS: np.concatenate(ends_lsns).tobytes() if ended else b"",
        sf.COMMIT_ROW_ENDS: np.array(memtable.row_ends[:commits], np.uint64).tobytes(),
        sf.COMMIT_HLCS: np.array(memtable.hlcs[:commits], np.uint64).tobytes(),
        sf.COMMIT_WALLS: np.array(memtable.walls[:commits], np.uint64).tobytes(),
        sf.NOTE_SIZES: np.fromiter(map(len, notes), np.uint32, commits).tobytes(),
        sf.NOTES: b"".join(notes),
        sf.LOST_VECTORS: _ordinals(memtable.lost_vectors, memtable.first_row, row_end),
        sf.LOST_METADATA: _ordinals(memtable.lost_metadata, memtable.first_row, row_end),
        **document_sections(documents),
    }


def _ordinals(rows: Iterable[int], first_row: int, row_end: int) -> bytes:
    return np.array(sorted(row - first_row for row in rows if row < row_end), np.uint32).tobytes()


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
