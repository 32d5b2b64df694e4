"""Care of the index: when one is due, publishing it, its file, and how far the work is.

An index is due from `index_rows_min` live rows on; again when the collection has grown fourfold
since its lists were made, or by half and nobody writes; and when most of what it holds is gone.
Between that it grows: in small steps, of which each publishes another index. Searches take what is
published when they begin. Once nobody writes it takes in the last rows, but for a few, and
keeps no long tail. Who writes and does not search has the processors for a while.

Everything here is derived: what fails is reported and tried again, and no writer waits for it.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final
from uuid import UUID

import numpy as np

from dvecdb.clock import NANOSECONDS_PER_SECOND
from dvecdb.engine.index import Index
from dvecdb.engine.index_build import (
    build,
    grow,
    has_outgrown,
    is_base_behind,
    is_stale,
    is_tail_long,
)
from dvecdb.engine.matching import Matching
from dvecdb.engine.narrowed import SHARE_MAX, Narrowed
from dvecdb.engine.reclaim import drop_index_files
from dvecdb.engine.row_range import RowRange
from dvecdb.engine.storage import write_file
from dvecdb.errors import HandleError
from dvecdb.formats import names
from dvecdb.formats.framing import FormatError
from dvecdb.formats.index_file import IndexHeader, StoredIndex, decode_index, encode_index
from dvecdb.media.heap import give_back
from dvecdb.records import Finding, IndexStats
from dvecdb.search.effort import Curve, Effort
from dvecdb.search.ivf import Codes, Space, using_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from dvecdb.engine.store import Store
    from dvecdb.formats.manifest_file import Manifest
    from dvecdb.media.files import Dir, Files
    from dvecdb.records import IndexState, Schema

_STEP_BYTES: Final = 4 * 1024 * 1024
_FEW_ROWS: Final = 4_096
_STEP_ROWS_MIN: Final = 64
_LOOK_SECONDS: Final = 0.25
_QUIET_SECONDS: Final = 1
_PAUSE_SECONDS: Final = 0.25
_PATIENCE_SECONDS: Final = 2
"""For so long, work on the index waits for such a pause while nobody searches."""
_REST_SHARE: Final = 4_096
"""So small a part of the rows need not be in it: another one makes what is kept beside it anew."""
_FAILED: Final = "index-failed"


class StoppedError(Exception):
    """The database closes, or the collection goes: nobody needs the index any more."""


def is_index_due(store: Store) -> bool:
    """Return whether there is work on the index; cheap enough for every commit."""
    settings, index = store.environment.settings, store.index
    if store.stopped is not None or not settings.index_rows_min:
        return False
    row_limit = store.visible.row_limit
    if row_limit < store.indexing.wanted_from:
        return False
    if index is None:
        return row_limit >= settings.index_rows_min
    grown = row_limit - index.row_end >= _step_rows(store.schema)
    return grown or is_base_behind(index, store.manifest.row_end)


def is_renewal_wanted(store: Store) -> bool:
    """Return whether an index is to be made anew once nobody writes."""
    index = store.index
    return index is not None and store.stopped is None and is_stale(index)


def is_settling_wanted(store: Store) -> bool:
    """Return whether an index can serve sooner once nobody writes, without being made anew."""
    index, row_limit = store.index, store.visible.row_limit
    if index is None or store.stopped is not None or row_limit < store.indexing.wanted_from:
        return False
    left = row_limit - index.row_end
    return left * _REST_SHARE > index.row_end or is_tail_long(index, row_limit)


def is_quiet(store: Store) -> bool:
    """Return whether nothing was written for a while."""
    since = store.environment.clock.monotonic_ns() - store.last_commit_ns
    return since >= _QUIET_SECONDS * NANOSECONDS_PER_SECOND


def can_wait(store: Store) -> bool:
    """Return whether work on the index is due that nobody misses yet.

    It would take a third of the speed from those who write now.
    """
    indexing, now = store.indexing, store.environment.clock.monotonic_ns()
    if not is_index_due(store):
        indexing.due_ns = None
        return False
    if indexing.due_ns is None:
        indexing.due_ns = now
    still = now - max(store.last_commit_ns, indexing.due_ns)
    return (
        not indexing.is_missed
        and still < _PAUSE_SECONDS * NANOSECONDS_PER_SECOND
        and now - indexing.due_ns < _PATIENCE_SECONDS * NANOSECONDS_PER_SECOND
    )


def tend_index(
    store: Store, stopping: Callable[[], bool] = lambda: False, *, renew: bool = False
) -> bool:
    """Do one step of what is due; return whether there was one. Raises nothing.

    renew: make the index anew, or settle it, where that is wanted and nobody writes.
    """
    with store.indexing.lock:
        done = _guarded(store, lambda: _do_what_is_due(store, stopping, renew=renew))
        saved = _guarded(store, lambda: _save_if_due(store))  # who waits was told before
        return saved is not None and bool(saved or done)


def _do_what_is_due(store: Store, stopping: Callable[[], bool], *, renew: bool) -> bool:
    if renew and is_renewal_wanted(store) and is_quiet(store):
        return _step(store, stopping, anew=True)
    if renew and is_settling_wanted(store) and is_quiet(store):
        return _step(store, stopping, settle=True)
    return (is_index_due(store) and _step(store, stopping)) or _narrow(store)


def _narrow(store: Store) -> bool:
    """Make the codes of a filter that is asked for often, if one is."""
    index, visible = store.index, store.visible  # before the view, as a search has them
    where = None if index is None else index.filters.wanted
    if index is None or where is None or store.stopped is not None:
        return False
    index.filters.wanted = None
    view = store.view
    matching = Matching(view, where, visible.lsn, visible.row_limit)
    chosen = np.zeros(index.places.rows, dtype=np.bool_)
    for source, count in view.sources(min(index.row_end, visible.row_limit)):
        index.put(chosen, source, matching.mask(source, count))
    inside = chosen[: index.places.count_below(index.base_end)]
    rows = int(np.count_nonzero(inside))
    if matching.damaged or rows > SHARE_MAX * len(inside):
        return False
    size_bytes = index.codes.bytes_of(rows) + len(inside)
    if not index.filters.make_room(size_bytes, index.codes.size_bytes):
        return False
    index.filters.keep(where, Narrowed(index.codes.narrowed(chosen), ~inside, size_bytes))
    return True


def _guarded(store: Store, work: Callable[[], bool]) -> bool | None:
    """Return what `work` does, None where it fails, and tell those who wait."""
    try:
        return work()
    except (StoppedError, HandleError):  # fenced off: the next commit will say so
        return None
    except Exception as error:  # noqa: BLE001  # it is derived: the collection answers without
        _note_failure(store, error)
        return None
    finally:
        store.indexing.progress.is_building = False
        with store.indexing.changed:
            store.indexing.changed.notify_all()


def _note_failure(store: Store, error: Exception) -> None:
    """Report it once, and let some more rows come before it is tried again."""
    row_limit = store.visible.row_limit
    store.indexing.wanted_from = row_limit + max(_step_rows(store.schema), row_limit // 4)
    message = (
        f"the index could not be made ({error!r}); rows without one are all measured, and it is "
        "tried again when there are more"
    )
    store.report(Finding(_FAILED, store.name, f"{store.name} index", message))


def _step_rows(schema: Schema) -> int:
    return max(_STEP_ROWS_MIN, _STEP_BYTES // schema.vector_bytes)


def _step(
    store: Store, stopping: Callable[[], bool], *, anew: bool = False, settle: bool = False
) -> bool:
    visible = store.visible  # first: the view is then at least as new
    view, index, progress = store.view, store.index, store.indexing.progress
    settings = store.environment.settings
    store.indexing.is_missed, store.indexing.due_ns = False, None

    def tick(done: int) -> None:
        progress.done = done
        if stopping() or store.stopped is not None:
            raise StoppedError

    if index is not None and not anew and not has_outgrown(index, view, visible.row_limit):
        progress.start(visible.row_limit - index.row_end, index.row_end)
        few = visible.row_limit - index.row_end < _FEW_ROWS  # the other cores are for searches
        with using_threads(1 if few else os.cpu_count() or 1):
            store.index = grow(index, view, store.schema, visible.row_limit, tick, settle=settle)
        if settle:
            give_back()
    else:
        live = view.count(visible.lsn, visible.row_limit)
        if live < settings.index_rows_min:
            store.indexing.wanted_from = visible.row_limit + settings.index_rows_min - live
            store.index = None
            return False
        progress.start(visible.row_limit, 0)
        with using_threads(os.cpu_count() or 1):
            store.index = build(view, store.schema, visible.row_limit, tick)
        give_back()
    store.environment.findings.forget(store.name, _FAILED)
    return True


def _save_if_due(store: Store) -> bool:
    """Write the shared part of the index, once it holds nothing but rows in manifests' segments.

    Those are never cut off again; a row in the log can be, by a power cut.
    """
    index = store.index
    if index is None or index.name is not None or store.stopped is not None:
        return False
    if index.base_end > store.manifest.row_end or not index.base_end:
        return False
    # Not for ever: who holds it may wait for `indexing.lock`, after a commit of its own.
    if not store.maintenance_lock.acquire(timeout=_LOOK_SECONDS):
        return False
    try:
        return _save(store, index)
    finally:
        store.maintenance_lock.release()


def _save(store: Store, index: Index) -> bool:
    if store.stopped is not None:
        return False
    store.environment.check_right()
    with contextlib.suppress(OSError):  # it stays in memory, and is tried again with the next one
        files, settings = store.environment.files, store.environment.settings
        free = files.free_bytes(store.directories.root)
        if free < settings.low_water_bytes + index.codes.size_bytes:
            return False  # what is left is for what cannot be made again
        name = names.index_name(index.base_end, store.environment.new_uuid().hex[:8])
        stored = _stored(store, index)
        index.name = name
        write_file(files, store.directories.derived, name, encode_index(stored))
        drop_index_files(store)
        return True
    return False


def _stored(store: Store, index: Index) -> StoredIndex:
    schema, manifest = store.schema, store.manifest
    efforts = [(effort.probes, effort.depth, effort.recall) for effort in index.curve.efforts]
    header = IndexHeader(
        schema.dimension, schema.metric, schema.vector_type, index.codes.space.reach,
        manifest.horizon_lsn, index.trained_rows, efforts,
        index.zeros[index.zeros < index.base_end].tolist(),
        index.apart[index.apart < index.base_end].tolist(),
    )  # fmt: skip
    numbers = index.places.row_numbers
    if numbers is not None:
        numbers = numbers[: index.places.count_below(index.base_end)]
    return StoredIndex(
        UUID(manifest.collection_uuid), UUID(manifest.lineage), index.base_end, header,
        numbers, index.codes.base_bytes(),
    )  # fmt: skip


def load_index(
    files: Files,
    derived: Dir,
    schema: Schema,
    manifest: Manifest,
    report: Callable[[Finding], None],
    collection: str,
) -> Index | None:
    """Return the stored index that covers the most, or None if none fits.

    What is damaged, or of another collection, lineage or shape, or does not know all rows of the
    manifest's segments, is not used: it is made again. Raises `OSError`.
    """
    best: Index | None = None
    for name in files.list_names(derived):
        end = names.parse_index_name(name)
        if end is None or end > manifest.row_end or (best is not None and end <= best.base_end):
            continue
        try:
            found = _load(files, derived, name, schema, manifest)
            if found is not None and found.row_end != end:
                raise FormatError(f"index of rows up to {found.row_end}")
        except FileNotFoundError:
            continue  # a writer beside us replaced it meanwhile
        except Exception as error:  # noqa: BLE001  # whatever is in it, it never stops a start
            where = f"derived/{name}"
            report(Finding("derived-damaged", collection, where, f"{where}: {error}; rebuilt"))
            continue
        best = found if found is not None else best
    return best


def _load(
    files: Files, derived: Dir, name: str, schema: Schema, manifest: Manifest
) -> Index | None:
    file = files.open(derived, name)
    try:
        stored = decode_index(files.map(file, files.size(file)))
    finally:
        files.close(file)
    header = stored.header
    shape = (header.dimension, header.metric, header.vector_type)
    identity = (UUID(manifest.collection_uuid), UUID(manifest.lineage))
    if (stored.collection_uuid, stored.lineage) != identity or shape != (
        schema.dimension, schema.metric, schema.vector_type,
    ):  # fmt: skip
        return None
    if header.horizon_lsn > manifest.horizon_lsn:  # of a damaged manifest the one before is taken
        return None
    space = Space(schema.metric, schema.dimension, header.reach)
    codes = Codes.from_bytes(space, stored.codes)
    efforts = tuple(Effort(*values) for values in header.efforts)
    if not efforts:
        raise FormatError("index without efforts")
    places = RowRange()
    held = stored.row_end if stored.numbers is None else len(stored.numbers)
    places.set_range(0, stored.row_end, held, stored.numbers)
    return Index(
        codes, Curve(efforts), places, stored.row_end, header.trained_rows,
        np.array(header.zeros, np.int64), np.array(header.apart, np.int64), len(header.apart), name,
    )  # fmt: skip


def index_stats(store: Store) -> IndexStats:
    """Return how far the index is."""
    index, progress = store.index, store.indexing.progress
    row_limit = store.visible.row_limit
    covered = 0 if index is None else index.row_end
    if progress.is_building:
        return IndexStats(
            "building", progress.rows_done, max(row_limit - progress.rows_done, 0),
            progress.seconds_left(), 0 if index is None else index.codes.lists,
            0 if index is None else index.codes.size_bytes,
        )  # fmt: skip
    if index is None:
        if is_index_due(store):
            return IndexStats("building", 0, row_limit, None, 0, 0)
        return IndexStats("none", 0, 0, None, 0, 0)
    left = row_limit - covered
    state: IndexState = "building" if is_index_due(store) else "ready"
    return IndexStats(state, covered, left, None, index.codes.lists, index.codes.size_bytes)


def wait_for_index(
    store: Store, timeout_seconds: float, check_open: Callable[[], None]
) -> IndexStats:
    """Wait until the index covers what is visible and fits it, or none is due; return figures."""
    clock = store.environment.clock
    until = clock.monotonic_ns() + int(timeout_seconds * NANOSECONDS_PER_SECOND)
    with store.indexing.changed:
        while (found := index_stats(store)).state == "building" or (
            store.indexing.is_tended and is_renewal_wanted(store)
        ):
            left = (until - clock.monotonic_ns()) / NANOSECONDS_PER_SECOND
            if left <= 0:
                break
            store.indexing.is_missed = True
            store.indexing.changed.wait(min(left, _LOOK_SECONDS))
            check_open()
    return found
