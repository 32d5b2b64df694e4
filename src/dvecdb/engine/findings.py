"""Findings of one data directory: what is damaged or doubtful, each named once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dvecdb.records import Finding


NO_DAMAGE: Final = frozenset(
    {"torn", "possibly-acknowledged", "fenced-records", "orphan-segment", "derived-damaged"}
    | {"recovery-not-rewritten", "waiting-for-space", "writes-stopped"}
)
"""Codes that say what happened and that nothing which was promised is missing."""


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

    def forget(self, collection: str | None, code: str | None = None) -> list[Finding]:
        """Drop the findings of a collection that left this directory, or those that are over.

        Returns them.
        """
        with self._lock:
            over = [
                key
                for key in self._found
                if key[1] == collection and (code is None or key[0] == code)
            ]
            return [self._found.pop(key) for key in over]
