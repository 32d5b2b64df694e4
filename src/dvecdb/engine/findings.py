"""Findings of one data directory: what is damaged or doubtful, each named once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvecdb.records import Finding


class Findings:
    """A thread-safe list of findings without repetitions.

    `_lock` guards `_found`; nothing else is taken while it is held.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[tuple[str, str | None, str], Finding] = {}

    def add(self, finding: Finding) -> None:
        """Keep `finding`, unless the same code was already reported for the same place."""
        with self._lock:
            self._found.setdefault((finding.code, finding.collection, finding.where), finding)

    def all(self, collection: str | None = None) -> list[Finding]:
        """Return the findings, oldest first; those of `collection` if given."""
        with self._lock:
            found = list(self._found.values())
        return [item for item in found if collection is None or item.collection == collection]

    def forget(self, collection: str, code: str | None = None) -> None:
        """Drop the findings of a collection that left this directory, or those that are over."""
        with self._lock:
            for key in [key for key in self._found if key[1] == collection]:
                if code is None or key[0] == code:
                    del self._found[key]
