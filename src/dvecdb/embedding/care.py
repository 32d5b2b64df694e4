"""What can be done with a job beside running it: look, compare, clean up, and speak to a run."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

import msgspec

from dvecdb.clock import SystemClock
from dvecdb.embedding.checking import batched, check, estimate, ids_of, orphans
from dvecdb.embedding.controls import Controls
from dvecdb.embedding.job import refuse_own_field
from dvecdb.embedding.lease import is_free
from dvecdb.embedding.progress import (
    CONTROL,
    DEAD_LETTERS,
    EMBEDDER,
    JOBS,
    LEASE,
    read_cursor,
)
from dvecdb.embedding.report import Checked, Estimate, SourceStatus, Status
from dvecdb.embedding.session import draw
from dvecdb.embedding.sources.opening import open_sources
from dvecdb.embedding.target import Target
from dvecdb.embedding.waiting import Waiting
from dvecdb.errors import Code, ConflictError, DvecdbError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Literal

    from dvecdb.embedding.identity import Identity
    from dvecdb.embedding.job import Job, TargetSpec
    from dvecdb.embedding.model import Source
    from dvecdb.rescue.database import Database

_DELETED_AT_ONCE: Final = 1_000
_LETTERS_MAX: Final = 1_000


def _target(database: Database, spec: TargetSpec, flow: Any) -> Target:
    waiting = Waiting(flow, SystemClock(), Controls().stopping, lambda _event: None, draw)
    return Target(database, spec, waiting)


@contextlib.contextmanager
def _opened(
    job: Job, environment: Mapping[str, str], resolve: Callable[[str], str] | None
) -> Iterator[dict[str, Source]]:
    refuse_own_field(job)
    with open_sources(job.sources, environment, resolve) as sources:
        for source in sources.values():
            source.check()
        yield sources


def _pinned(target: Target) -> Identity:
    identity = target.find()
    if identity is None:
        raise NotFoundError(
            Code.JOB_NOT_FOUND,
            f"collection {target.name!r} does not exist or was not made by an embedding job; "
            "'dvecdb embed run' makes it",
            collection=target.name,
        )
    return identity


def estimate_job(
    job: Job,
    database: Database,
    *,
    environment: Mapping[str, str] = os.environ,
    resolve: Callable[[str], str] | None = None,
) -> dict[str, Estimate]:
    """Return what a run would do, by source; nothing is sent or written.

    Raises:
        InvalidRequestError, UnavailableError: of a source.
    """
    target = _target(database, job.target, job.flow)
    identity = target.find()
    with _opened(job, environment, resolve) as sources:
        return {
            name: estimate(name, source, job, identity, target) for name, source in sources.items()
        }


def check_job(
    job: Job,
    database: Database,
    *,
    environment: Mapping[str, str] = os.environ,
    resolve: Callable[[str], str] | None = None,
) -> dict[str, Checked]:
    """Return how every source and its records compare; every vector is read.

    Raises:
        NotFoundError: `job-not-found`.
        InvalidRequestError, UnavailableError: of a source.
    """
    target = _target(database, job.target, job.flow)
    identity = _pinned(target)
    with _opened(job, environment, resolve) as sources:
        return {
            name: check(name, source, job, identity, target) for name, source in sources.items()
        }


def delete_missing(
    job: Job,
    database: Database,
    *,
    share_max: float = 0.1,
    dry_run: bool = False,
    environment: Mapping[str, str] = os.environ,
    resolve: Callable[[str], str] | None = None,
) -> dict[str, list[str]]:
    """Delete the records whose row is not there any more; return their ids by source.

    They stay readable inside the history window. dry_run: only return them.

    Raises:
        ConflictError: `confirmation-needed`, more than `share_max` of a source's records would go;
            nothing was deleted. `job-running`.
        NotFoundError: `job-not-found`.
    """
    target = _target(database, job.target, job.flow)
    identity = _pinned(target)
    with _opened(job, environment, resolve) as sources:
        if dry_run:
            return {name: orphans(name, one, ids_of(name, target)) for name, one in sources.items()}
        target.attach(identity, f"delete-missing-{draw()}")  # no job writes meanwhile
        try:
            gone = {name: _gone(name, one, target, share_max) for name, one in sources.items()}
            for name, ids in gone.items():
                _delete(name, ids, target)
        finally:
            with contextlib.suppress(DvecdbError):  # it expires by itself
                target.release()
        return gone


def _gone(name: str, source: Source, target: Target, share_max: float) -> list[str]:
    """Return the ids of the records of a source without a row. Raises `confirmation-needed`."""
    own = ids_of(name, target)
    gone = orphans(name, source, own)
    if len(gone) > share_max * len(own):
        raise ConflictError(
            Code.CONFIRMATION_NEEDED,
            f"source {name!r}: {len(gone)} of its {len(own)} records have no row any more, and at "
            f"most a share of {share_max:.0%} may go at once. Nothing was deleted; look whether "
            "the source is whole, then give a larger --max-share",
            rows=len(gone),
            total=len(own),
        )
    return gone


def _delete(name: str, ids: list[str], target: Target) -> None:
    """Delete records, and the dead letters that they have."""
    documents = target.collection.documents
    letters = target.reach(lambda: documents.list(DEAD_LETTERS))
    for some in batched(ids, _DELETED_AT_ONCE):
        extra = {(DEAD_LETTERS, id): None for id in some if id in letters}
        why = f"{name}: their rows are gone"
        target.commit({}, deletes=some, extra=extra, reason=why, confirm=True)


def status(database: Database, collection: str) -> Status:
    """Return what a collection says of its job.

    Raises:
        NotFoundError: `collection-not-found`; `job-not-found`, no job ever wrote into it.
    """
    documents = database.collection(collection).documents
    pinned = documents.get(*EMBEDDER)
    if pinned is None:
        raise NotFoundError(
            Code.JOB_NOT_FOUND,
            f"collection {collection!r} was not made by an embedding job",
            collection=collection,
        )
    lease = documents.get(*LEASE)
    letters = documents.list(DEAD_LETTERS)
    counts: dict[str, int] = {}
    for letter in letters.values():
        counts[letter["source"]] = counts.get(letter["source"], 0) + 1
    cursors = {name: read_cursor(value) for name, value in documents.list(JOBS).items()}
    return Status(
        collection=collection,
        model=pinned["model"],
        dimension=pinned["dimension"],
        running=None if lease is None or is_free(lease, SystemClock().monotonic_ns()) else lease,
        sources={
            name: SourceStatus(cursor, counts.get(name, 0)) for name, cursor in cursors.items()
        },
        dead_letters=[
            {**msgspec.to_builtins(letter), "id": id}
            for id, letter in list(letters.items())[:_LETTERS_MAX]
        ],
    )


def wish(
    database: Database, collection: str, want: Literal["pause", "resume", "stop"]
) -> dict[str, str | int]:
    """Tell the run of a collection what is wanted of it; it does so within seconds.

    Returns its lease.

    Raises:
        NotFoundError: `collection-not-found`; `job-not-found`, nobody runs a job there.
    """
    found = database.collection(collection)
    lease = found.documents.get(*LEASE)
    if lease is None or is_free(lease, SystemClock().monotonic_ns()):
        raise NotFoundError(
            Code.JOB_NOT_FOUND,
            f"nobody runs a job on collection {collection!r}",
            collection=collection,
        )
    found.write(
        documents={CONTROL: {"owner": lease["owner"], "want": want}},
        actor="embed",
        reason=f"{want} the job",
    )
    running: dict[str, str | int] = lease
    return running
