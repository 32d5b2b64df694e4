"""The thread that makes and grows indexes: one a database, beside the one for maintenance.

An index takes seconds to make; flushes cannot wait that long.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from dvecdb.engine.index_care import (
    can_wait,
    is_index_due,
    is_renewal_wanted,
    is_settling_wanted,
    tend_index,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dvecdb.engine.store import Store

_LOOK_SECONDS: Final = 1.0  # between looks for what waits for a flush to be written
_LATER_SECONDS: Final = 0.05  # until it is looked again whether those who write still do


class Indexer:
    """The thread. `_wake` guards what it waits for."""

    def __init__(self, stores: Callable[[], Sequence[Store]]) -> None:
        self._stores = stores
        self._wake = threading.Condition()
        self._running = True
        self._asked = True
        self._looks = False  # by itself, from time to time
        self._left = False  # for later, and looks soon
        self._thread = threading.Thread(target=self._run, name="dvecdb-indexer", daemon=True)
        self._thread.start()

    def after_commit(self, store: Store) -> None:
        """Tell the thread that something was committed; cheap where nothing is due."""
        if self._asked or (self._left and not store.indexing.is_missed):
            return
        if is_index_due(store) or (not self._looks and is_settling_wanted(store)):
            self.wake()

    def wake(self) -> None:
        """Let the thread look at once."""
        with self._wake:
            self._asked = True
            self._wake.notify()

    def stop(self) -> None:
        """End the thread; what it was making is given up."""
        with self._wake:
            self._running = False
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._looks = self._is_waiting()
                if self._running and not self._asked:
                    look_seconds = _LOOK_SECONDS if self._looks else None
                    self._wake.wait(_LATER_SECONDS if self._left else look_seconds)
                if not self._running:
                    return
                self._asked = self._left = False
            left = False
            for store in self._stores():
                store.indexing.is_tended, store.indexing.wake = True, self.wake
                while not can_wait(store) and tend_index(store, self._is_stopping, renew=True):
                    pass
                left = left or can_wait(store)
            self._left = left

    def _is_stopping(self) -> bool:
        return not self._running

    def _is_waiting(self) -> bool:
        """Return whether an index waits for a flush, to be saved, or for a quiet moment."""
        stores = self._stores()
        found = [store.index for store in stores]
        unsaved = any(index is not None and index.name is None for index in found)
        return (
            unsaved or any(map(is_renewal_wanted, stores)) or any(map(is_settling_wanted, stores))
        )
