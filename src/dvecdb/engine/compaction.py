"""Merging small segments, and writing again those of which too much is past the window.

Both end in a manifest swap, which also raises the horizon if anything was left out: from then on
no state is readable that would miss it. The old files go by reclaim, when no manifest needs them.
Runs in the maintenance thread under `maintenance_lock`; takes the commit lock only to publish.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from dvecdb.engine.commits import commit_counts
from dvecdb.engine.contents import Gathered, gather
from dvecdb.engine.horizon import Commits, byte_horizon, choose_horizon
from dvecdb.engine.lookup import without_rows
from dvecdb.engine.manifest import install
from dvecdb.engine.new_segment import (
    log_manifest,
    no_trace_if_full,
    open_segment,
    place_segment,
    write_content,
)
from dvecdb.engine.rows import View, live_mask
from dvecdb.engine.segment import UnreadableError
from dvecdb.engine.store import sorted_segments
from dvecdb.engine.writes import CONFIG_NAMESPACE, TAGS_NAMESPACE
from dvecdb.settings import MIB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dvecdb.engine.segment import Segment
    from dvecdb.engine.store import Store

_MERGE_SEGMENTS_MAX: Final = 64
_NANOSECONDS_PER_HOUR: Final = 3_600_000_000_000


def compact(store: Store) -> bool:
    """Merge or rewrite some segments; return whether there were any.

    Raises:
        DvecdbError: `disk-full` (nothing changed) or `outcome-unknown`.
    """
    settings = store.environment.settings
    segments = _named(store)
    picked = pick_compaction(segments, settings.merge_bytes, settings.merge_count)
    if not picked and not _pick_rewrite(store, segments, store.manifest.flushed_lsn):
        return False  # whatever the horizon may be
    horizon = allowed_horizon(store, store.manifest.flushed_lsn)
    picked = picked or _pick_rewrite(store, segments, horizon)
    if not picked:
        return False
    try:
        gathered = gather(picked, store.view, horizon)
    except UnreadableError:
        return False  # the damage is a finding now, and the segment will not be picked again
    _swap(store, picked, gathered)
    return True


def needs_settling(store: Store) -> bool:
    """Tell whether only the manifest before the installed one still names some segments."""
    before, now = store.previous_manifest, {entry.uuid for entry in store.manifest.segments}
    return before is not None and any(entry.uuid not in now for entry in before.segments)


def settle(store: Store) -> bool:
    """Install the manifest again, unchanged, so that what compaction replaced can go.

    Otherwise it would stay until the next flush, for as long as nobody writes. Returns whether
    there was such a thing.

    Raises:
        DvecdbError: `disk-full` (nothing changed) or `outcome-unknown`.
    """
    if not needs_settling(store):
        return False
    manifest = install(store, "settle", store.manifest.segments)
    with store.commit_lock:
        view = store.view
        store.view = View(manifest, view.segments, view.memtables, view.runs)
        log_manifest(store)
    return True


def is_expiry_due(store: Store) -> bool:
    """Tell whether time alone has made a segment worth writing again, flushed or not. Cheap."""
    segments, last_lsn = _named(store), store.visible.lsn
    if not _pick_rewrite(store, segments, last_lsn):
        return False
    return bool(_pick_rewrite(store, segments, allowed_horizon(store, last_lsn)))


def _named(store: Store) -> list[Segment]:
    """Return the segments that the manifest names, by their commits."""
    named = {entry.uuid for entry in store.manifest.segments}
    return [item for item in store.view.segments if item.entry.uuid in named]


def _swap(store: Store, picked: Sequence[Segment], gathered: Gathered) -> None:
    """Write what was gathered and put it in the place of the segments it was gathered from."""
    content = gathered.content
    written = write_content(store, content)
    entry = place_segment(store, written, gathered.rows, content.first_lsn, content.commits)
    merged = open_segment(store, entry)
    kept = [item.entry for item in _named(store) if item not in picked]
    with no_trace_if_full(store, entry):
        manifest = install(
            store,
            "compaction",
            sorted([*kept, entry], key=lambda item: item.last_lsn),
            horizon_lsn=max(store.manifest.horizon_lsn, gathered.horizon),
        )
    filtered = {
        id(run): without_rows([run], gathered.dropped)
        for run in (store.view.runs if len(gathered.dropped) else ())
    }
    with store.commit_lock:
        if gathered.parts:
            kept_ends = [segment.ends[mask] for segment, mask in gathered.parts]
            merged.ends[:] = np.concatenate(kept_ends)
        merged.ended_count = int(np.count_nonzero(merged.ends))
        view = store.view
        rest = [item for item in view.segments if item not in picked]
        runs = [left for run in view.runs for left in filtered.get(id(run), (run,))]
        store.view = View(manifest, sorted_segments([*rest, merged]), view.memtables, runs)
        log_manifest(store)


# --- what to write again ---


def pick_compaction(
    segments: Sequence[Segment], merge_bytes: int, merge_count: int
) -> list[Segment]:
    """Return neighbouring small undamaged segments to merge, or nothing. Pure.

    Rows of a bulk batch are large when they are born; they join once they have shrunk, and only
    with what holds their commit.
    """
    best: list[Segment] = []
    current: list[Segment] = []
    for segment in segments:
        size = _size(segment)
        if segment.damaged or size >= (merge_bytes if segment.commits else merge_bytes // 2):
            best, current = max(best, _with_commits(current), key=len), []
            continue
        total = sum(map(_size, current))
        if current and (
            not _adjacent(current, segment)
            or total + size > 2 * merge_bytes
            or len(current) >= _MERGE_SEGMENTS_MAX
        ):
            best, current = max(best, _with_commits(current), key=len), []
        current.append(segment)
    best = max(best, _with_commits(current), key=len)
    return best if len(best) >= max(2, merge_count) else []


def _size(segment: Segment) -> int:
    return segment.entry.vectors_bytes + segment.entry.records_bytes


def _with_commits(run: list[Segment]) -> list[Segment]:
    """Return a run without the bulk rows at its end: their commit lies in the next segment."""
    end = len(run)
    while end and not run[end - 1].commits:
        end -= 1
    return run[:end]


def _adjacent(current: Sequence[Segment], segment: Segment) -> bool:
    """Tell whether a segment goes on where a run ends, in commits and in rows."""
    last_lsn = next((item.last_lsn for item in reversed(current) if item.commits), None)
    row_end = next(
        (item.row_end for item in reversed(current) if item.row_end > item.first_row), None
    )
    has_range = segment.row_end > segment.first_row
    rows_join = row_end is None or not has_range or segment.first_row == row_end
    return rows_join and (
        last_lsn is None or not segment.commits or last_lsn + 1 == segment.first_lsn
    )


def _pick_rewrite(store: Store, segments: Sequence[Segment], horizon: int) -> list[Segment]:
    """Return one segment of which enough ended by `horizon` to write it again, or nothing."""
    settings = store.environment.settings
    percent, bytes_min = settings.compact_dead_percent, min(MIB, settings.merge_bytes)
    for segment in segments:
        enough = segment.rows * percent
        ended = segment.ended_count
        if not ended or segment.damaged or (ended < segment.rows and ended * 100 <= enough):
            continue
        dead = segment.rows - int(np.count_nonzero(live_mask(segment.ends, horizon)))
        frees = dead * _size(segment) >= bytes_min * segment.descriptor.rows
        if dead == segment.rows or (dead * 100 > enough and frees):
            return [segment]
    return []


# --- the horizon ---


def allowed_horizon(store: Store, last_lsn: int) -> int:
    """Return the newest LSN up to `last_lsn` that may be the horizon; 0 if nothing may expire."""
    environment, view = store.environment, store.view
    if not environment.expiry_allowed():
        return 0
    hours = history_hours(store)
    moment = environment.clock.wall_ns() - round(hours * _NANOSECONDS_PER_HOUR)
    by_age = view.lsn_at(max(moment, 0), last_lsn) if hours else last_lsn
    by_bytes = _by_bytes(store, last_lsn)
    if max(by_age, by_bytes) <= view.manifest.horizon_lsn:
        return view.manifest.horizon_lsn
    tags = view.documents(TAGS_NAMESPACE, store.visible.lsn).values()
    return choose_horizon(view.manifest.horizon_lsn, by_age, by_bytes, map(_tagged_lsn, tags))


def history_hours(store: Store) -> float:
    """Return how long replaced rows stay readable: the collection's own setting or the engine's."""
    stored = store.view.document(CONFIG_NAMESPACE, "history_hours", store.visible.lsn)
    own = None if stored is None else msgspec.json.decode(stored)
    if isinstance(own, int | float) and not isinstance(own, bool) and own >= 0:
        return own
    return store.environment.settings.history_hours


def _tagged_lsn(tag: bytes) -> int:
    return int(msgspec.json.decode(tag)["lsn"])


def _by_bytes(store: Store, last_lsn: int) -> int:
    """Return the horizon that the size of what ended asks for; 0 if it is not too much."""
    view, bytes_max = store.view, store.environment.settings.history_bytes_max
    ended = sum(segment.ended_count for segment in view.row_segments)
    size = sum(
        segment.ended_count * _size(segment) / segment.descriptor.rows
        for segment in view.row_segments
        if segment.ended_count
    )
    first_lsn = view.manifest.horizon_lsn + 1
    if size <= bytes_max or first_lsn > last_lsn:
        return 0
    born, gone = commit_counts(view, first_lsn, last_lsn)
    rows_after = view.count(last_lsn, view.row_limit(last_lsn))
    return byte_horizon(Commits(first_lsn, born, gone, rows_after, size / ended), bytes_max)
