"""The embedding jobs that this server runs: few at once, and one for each collection."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Final

from dvecdb.embedding.controls import Controls
from dvecdb.errors import AuthError, Code, ConflictError, UnavailableError

RUNNING_MAX: Final = 2
RETRY_AFTER_SECONDS: Final = 60


@dataclass(slots=True, eq=False)
class Run:
    """A job that runs, or is looked at. collection: the one it writes into, None: none.

    is_left: the collection was deleted.
    """

    collection: str | None
    controls: Controls = field(default_factory=Controls)
    task_id: str | None = None
    is_left: bool = False


class Jobs:
    """The runs of this moment. Safe for threads."""

    def __init__(self, running_max: int = RUNNING_MAX) -> None:
        self._running_max = running_max
        self._lock = threading.Lock()
        self._runs: list[Run] = []

    def begin(self, collection: str | None) -> Run:
        """Take a place; `end` gives it back. collection: None for a job that is only looked at.

        Raises:
            ConflictError: `job-running`, the collection has a run here.
            UnavailableError: `too-many-requests`; details: `retry_after_seconds`.
            AuthError: `forbidden`, the server runs none.
        """
        with self._lock:
            if self._running_max == 0:
                raise AuthError(
                    Code.FORBIDDEN,
                    "this server runs no jobs (its setting jobs_max is 0); run the job with "
                    "'dvecdb embed run' and this server as its target",
                )
            running = self._find(collection) if collection is not None else None
            if running is not None:
                raise ConflictError(
                    Code.JOB_RUNNING,
                    f"collection {collection!r} has a job already: task {running.task_id} of this "
                    f"server. Wait for it, or stop it with 'POST /jobs/{collection}/stop'; nothing "
                    "was written",
                    collection=collection,
                    task=running.task_id,
                )
            if len(self._runs) >= self._running_max:
                raise UnavailableError(
                    Code.TOO_MANY_REQUESTS,
                    f"this server runs {len(self._runs)} jobs, {self._running_max} at most "
                    "(jobs_max); this one was not started. Try again when one has ended",
                    retry_after_seconds=RETRY_AFTER_SECONDS,
                )
            run = Run(collection)
            self._runs.append(run)
            return run

    def end(self, run: Run) -> None:
        """Give the place back."""
        with self._lock:
            self._runs.remove(run)

    def find(self, collection: str) -> Run | None:
        """Return the run that writes into a collection."""
        with self._lock:
            return self._find(collection)

    def leave(self, collection: str) -> None:
        """End the run of a collection that is gone, wherever it waits; it fails with that."""
        run = self.find(collection)
        if run is not None:
            run.is_left = True
            run.controls.stop()

    def _find(self, collection: str) -> Run | None:
        return next((run for run in self._runs if run.collection == collection), None)

    def collections(self) -> list[str]:
        """Return the collections that have a run here, sorted."""
        with self._lock:
            return sorted(run.collection for run in self._runs if run.collection is not None)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._runs)
