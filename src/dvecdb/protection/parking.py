"""Deleted collections that this process still holds open, so that a restore is only a rename.

A parked collection takes no calls. It is let go of when it is purged, when others need its place,
after ten minutes, and with the database.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Final

from dvecdb.clock import NANOSECONDS_PER_SECOND
from dvecdb.formats import names

if TYPE_CHECKING:
    from dvecdb.clock import Clock
    from dvecdb.engine.store import Store
    from dvecdb.media.files import Dir, Files
    from dvecdb.records import Finding

PARKED_MAX: Final = 4
PARKED_NS: Final = 10 * 60 * NANOSECONDS_PER_SECOND


@dataclass(frozen=True, slots=True)
class _Parked:
    store: Store
    inode: int
    findings: list[Finding]
    parked_ns: int


class Parking:
    """The deleted collections that are still open, by the name of their trash entry."""

    def __init__(self, files: Files, clock: Clock, root: Dir) -> None:
        self._files = files
        self._clock = clock
        self._root = root
        self._lock = Lock()  # guards `_parked`
        self._parked: OrderedDict[str, _Parked] = OrderedDict()

    def park(self, entry: str, store: Store, findings: list[Finding]) -> None:
        """Keep a store and what is known of its damage; the oldest goes if there are too many."""
        inode = self._inode(entry)
        if inode is None:
            store.close(seal=False)
            return
        with self._lock:
            self._parked[entry] = _Parked(store, inode, findings, self._clock.monotonic_ns())
            oldest = [
                self._parked.popitem(last=False)[1] for _ in range(len(self._parked) - PARKED_MAX)
            ]
        for item in oldest:
            item.store.close(seal=False)

    def take(self, entry: str, name: str) -> Store | None:
        """Return the store of an entry if it can go on under `name`; else let go of it.

        What is known of its damage is told again.
        """
        with self._lock:
            parked = self._parked.pop(entry, None)
        if parked is None:
            return None
        if parked.store.name == name and self._inode(entry) == parked.inode:
            for finding in parked.findings:
                parked.store.report(finding)
            return parked.store
        parked.store.close(seal=False)
        return None

    def _inode(self, entry: str) -> int | None:
        """Return what lies in the trash under this name now."""
        with contextlib.suppress(OSError):
            trash = self._files.open_directory(self._root, names.TRASH)
            try:
                found = self._files.stat(trash, entry)
            finally:
                self._files.close_directory(trash)
            return None if found is None else found.inode
        return None

    def drop(self, entry: str) -> None:
        """Let go of an entry that is about to be deleted."""
        with self._lock:
            parked = self._parked.pop(entry, None)
        if parked is not None:
            parked.store.close(seal=False)

    def tidy(self) -> None:
        """Let go of what has been here for long: it holds memory and files."""
        self._let_go(self._clock.monotonic_ns() - PARKED_NS)

    def close(self) -> None:
        """Let go of all."""
        self._let_go(self._clock.monotonic_ns())

    def _let_go(self, parked_until_ns: int) -> None:
        with self._lock:
            old = [name for name, item in self._parked.items() if item.parked_ns <= parked_until_ns]
            parked = [self._parked.pop(name) for name in old]
        for item in parked:
            item.store.close(seal=False)
