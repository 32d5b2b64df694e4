"""Background work: flush, compaction, lookup runs, reclaim, and the log's idle marker.

One thread a database. Without it (`background=False`) the same work runs in the writer's thread
after its commit, which makes a run repeatable.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from dvecdb.clock import NANOSECONDS_PER_SECOND
from dvecdb.engine.compaction import compact, is_expiry_due, needs_settling, settle
from dvecdb.engine.flush import flush_oldest, tidy_runs
from dvecdb.engine.reclaim import reclaim
from dvecdb.engine.storage import unexpected, write_failed
from dvecdb.errors import Code, DiskFullError, DvecdbError, OutcomeUnknownError
from dvecdb.records import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dvecdb.clock import Clock
    from dvecdb.engine.store import Store
    from dvecdb.settings import Settings

_RETRY_SECONDS: Final = 1.0
_WAITING: Final = "waiting-for-space"
_NANOSECONDS_PER_MILLISECOND: Final = 1_000_000


def needs_freeze(store: Store) -> bool:
    """Return whether the active memtable has reached its bounds."""
    settings, active, wal = store.environment.settings, store.active, store.wal
    return (
        active.size_bytes >= settings.flush_bytes
        or len(active.row_ends) >= settings.flush_commits
        or (wal is not None and wal.size >= 2 * settings.flush_bytes and bool(active.row_ends))
    )


def maintain(store: Store, *, force_flush: bool = False, is_idle: bool = False) -> None:
    """Do all the work that is due. is_idle: nobody writes.

    Errors stop writes or, on a full disk, become findings.
    """
    with store.maintenance_lock:
        if store.stopped is not None:
            return
        try:
            store.environment.check_right()
            changed = _flush(store, force=force_flush)
            while compact(store):
                changed = True
            while tidy_runs(store):
                changed = True
            if is_idle and not changed:
                changed = settle(store)
            if changed:
                reclaim(store)
            if store.space_wanted:
                store.space_wanted = False
                store.environment.findings.forget(store.name, _WAITING)
        except DiskFullError as error:
            store.space_wanted = True
            store.report(Finding(_WAITING, store.name, store.name, error.message))
        except DvecdbError as error:
            store.stop_writes(error)
        except OSError as error:
            store.stop_writes(
                OutcomeUnknownError(
                    Code.OUTCOME_UNKNOWN,
                    f"background work on {store.name!r} failed ({error.strerror}); no acknowledged "
                    "write is affected",
                )
            )
        except BaseException as error:
            store.stop_writes(unexpected(error))
            raise


def tend(store: Store) -> None:
    """Do what the passing of time alone has made due: let go of what left the history window."""
    for force in (False, True):
        if store.stopped is None and is_expiry_due(store):
            maintain(store, force_flush=force)
    if store.stopped is None and needs_settling(store):
        maintain(store, is_idle=True)


def _flush(store: Store, *, force: bool) -> bool:
    changed = False
    while flush_oldest(store):
        changed = True
    if needs_freeze(store) or (force and store.active.row_ends):
        try:
            store.freeze()
        except OSError as error:
            raise write_failed("starting a new log", error) from error
    while flush_oldest(store):
        changed = True
    return changed


class Worker:
    """The background thread of a database. `_wake` guards `_running` and `_asked`."""

    def __init__(
        self,
        stores: Callable[[], Sequence[Store]],
        tend_all: Callable[[], None],
        settings: Settings,
        clock: Clock,
    ) -> None:
        """Start it. tend_all: is called every `tend_seconds`, and raises nothing."""
        self._stores = stores
        self._tend_all = tend_all
        self._clock = clock
        self._idle_ns = settings.idle_marker_ms * _NANOSECONDS_PER_MILLISECOND
        self._tend_ns = settings.tend_seconds * NANOSECONDS_PER_SECOND
        self._wake = threading.Condition()
        self._running = True
        self._asked = False
        self._watching = False
        self._tended_ns = clock.monotonic_ns()
        self._thread = threading.Thread(target=self._run, name="dvecdb-maintenance", daemon=True)
        self._thread.start()

    def after_commit(self, store: Store) -> None:
        """Tell the worker that something was committed; cheap while it is awake anyway."""
        if needs_freeze(store) or len(store.view.memtables) > 1:
            with self._wake:
                self._asked = True
                self._wake.notify()
        elif not self._watching and self._idle_ns:
            with self._wake:
                self._watching = True
                self._wake.notify()

    def stop(self) -> None:
        """Finish the work under way and end the thread."""
        with self._wake:
            self._running = False
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                if self._running and not self._asked:
                    self._wake.wait(self._patience())
                if not self._running:
                    return
                self._asked = False
            for store in self._stores():
                if needs_freeze(store) or len(store.view.memtables) > 1:
                    maintain(store)
            self._mark_idle()
            self._tend()

    def _patience(self) -> float | None:
        if any(store.space_wanted for store in self._stores()):
            return _RETRY_SECONDS
        if self._watching:
            return self._idle_ns / 1e9
        return self._tend_ns / 1e9 or None

    def _tend(self) -> None:
        now = self._clock.monotonic_ns()
        if self._tend_ns and now - self._tended_ns >= self._tend_ns:
            self._tended_ns = now
            self._tend_all()

    def _mark_idle(self) -> None:
        """Mark the logs that have been idle long enough; stop watching when all are marked."""
        if not self._idle_ns:
            return
        self._watching = False
        for store in self._stores():
            wal = store.wal
            if wal is None or wal.marked or store.stopped is not None:
                continue
            idle_ns = store.environment.clock.monotonic_ns() - store.last_commit_ns
            if idle_ns >= self._idle_ns:
                store.mark_idle()
            else:
                self._watching = True
