"""Runs a job from start to end: opens what it needs, goes through the sources, reports."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from dvecdb.clock import SystemClock
from dvecdb.embedding.caller import BudgetReached, Stopped
from dvecdb.embedding.controls import Controls
from dvecdb.embedding.door import CALLS_MAX
from dvecdb.embedding.embedders.opening import open_embedder
from dvecdb.embedding.events import SourceReached
from dvecdb.embedding.job import refuse_own_field
from dvecdb.embedding.runner import SourceRun
from dvecdb.embedding.session import Session
from dvecdb.embedding.sources.opening import open_sources
from dvecdb.errors import Code, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dvecdb.embedding.events import JobEvent, Watch
    from dvecdb.embedding.job import Job
    from dvecdb.embedding.model import Source
    from dvecdb.embedding.report import JobReport, State
    from dvecdb.rescue.database import Database


def run(
    job: Job,
    database: Database,
    *,
    environment: Mapping[str, str] = os.environ,
    watch: Watch | None = None,
    controls: Controls | None = None,
    resolve: Callable[[str], str] | None = None,
    full: bool = False,
    only_failed: bool = False,
) -> JobReport:
    """Run a job to its end; return what it did. What was acknowledged by a `Committed` is durable.

    database: of `dvecdb.open` or `dvecdb.connect`. watch: is told everything (`events`), in any
    thread. full: look at every row, however old its `changed_since`, from the start, and read
    every vector. only_failed: try just the dead letters once more. resolve: says where a source's
    path is, or refuses it.

    Raises:
        InvalidRequestError: `invalid-job`, `source-refused`, `embedder-refused`, `extra-missing`.
        ConflictError: `job-running`, `embedder-mismatch`.
        UnavailableError: only after `give_up_seconds`.
        DvecdbError: of the database, if waiting cannot cure it.
    """
    controls = controls or Controls()
    refuse_own_field(job)
    with contextlib.ExitStack() as opened:
        sources = opened.enter_context(open_sources(job.sources, environment, resolve))
        embedder = open_embedder(job.embedder, environment)
        opened.callback(embedder.close)
        session = Session(job, database, embedder, controls, watch or _ignore, SystemClock())
        opened.callback(session.close)
        return session.report(_run(session, sources, full=full, only_failed=only_failed))


def _run(
    session: Session, sources: Mapping[str, Source], *, full: bool, only_failed: bool
) -> State:
    """Go through the sources. What is away is waited for, before the first text is paid for too."""
    try:
        for name, source in sources.items():
            session.reach_source(source.check)
            session.watch(SourceReached(name))
        session.begin()
        session.stored.reads_vectors = full
    except Stopped:
        raise UnavailableError(
            Code.CANCELLED, "the job was stopped before it began; no row was written"
        ) from None
    try:
        with ThreadPoolExecutor(CALLS_MAX, "embed") as pool:
            for name, source in sources.items():
                cursor = session.start(name, source, full=full, only_failed=only_failed)
                one = SourceRun(session, name, source, cursor, pool)
                if only_failed:
                    one.retry(frozenset(session.letters_of(name)))
                else:
                    one.run()
    except Stopped:
        return "stopped"
    except BudgetReached:
        return "budget"
    return "done"


def _ignore(_event: JobEvent) -> None:
    """Tell nobody."""
