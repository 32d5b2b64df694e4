"""Requests and answers of embedding jobs that a server runs.

What a run did, and how far it is, has exactly the fields of `embedding.report` and
`embedding.progress`; a client knows nothing else of jobs.
"""

from __future__ import annotations

from typing import Any, Literal

from dvecdb.wire.bodies import Answer, Request, TaskBody

Json = Any


class JobQuery(Request, frozen=True):
    """`dry_run`: only say what the job would do."""

    dry_run: bool = False


class JobCursor(Answer, frozen=True):
    """How far a run is with a source. `cursor`: rows behind which everything is done.

    `embedded`: texts that were paid for; `copied`: rows whose text had a vector; `unchanged`: rows
    that were as they should be; `relabelled`: rows of which only the metadata changed; `failed`:
    rows that are dead letters; `skipped`: rows without text, if those are passed over.
    """

    run: str
    definition: str
    format: int
    state: Literal["running", "done"]
    sequence: int
    cursor: int
    position: Json
    total: int | None
    embedded: int
    copied: int
    unchanged: int
    relabelled: int
    failed: int
    skipped: int
    since: Json
    mark: Json
    started: str
    updated: str


class JobSpent(Answer, frozen=True):
    """What a run asked of its embedder. `money`: in the unit of `price_per_million_tokens`."""

    requests: int
    texts: int
    tokens: int
    money: float | None
    seconds: float
    waited_seconds: float


class JobReport(Answer, frozen=True):
    """A run that ended. `dead_letters`: rows of its sources that have no vector."""

    collection: str
    model: str
    state: Literal["done", "stopped", "budget"]
    sources: dict[str, JobCursor]
    dead_letters: int
    spent: JobSpent


class JobEstimate(Answer, frozen=True):
    """What a run would do with a source. `texts`: that would be paid for; `tokens`: about."""

    rows: int
    unchanged: int
    relabelled: int
    copied: int
    failed: int
    skipped: int
    texts: int
    tokens: int
    money: float | None


class JobSource(Answer, frozen=True):
    """A source as the collection remembers it. `dead_letters`: its rows without a vector."""

    cursor: JobCursor | None
    dead_letters: int


class JobSummary(Answer, frozen=True):
    """The job of a collection. `model`, `dimension`: null before the first run got that far.

    `state`: `idle` if nobody runs it. `running`: who does, as the collection says it. `task`: the
    newest run of this server that is still known.
    """

    collection: str
    state: Literal["running", "paused", "idle"]
    model: str | None
    dimension: int | None
    running: dict[str, Json] | None
    sources: dict[str, JobSource]
    task: TaskBody | None


class DeadLetterBody(Answer, frozen=True):
    """A row that has no vector, and why. `id`: of its record; `tries`: runs that refused it."""

    id: str
    source: str
    key: str
    reason: str
    message: str
    tries: int
    time: str


class JobAnswer(JobSummary, frozen=True):
    """The job of a collection, and the first thousand of its dead letters."""

    dead_letters: list[DeadLetterBody]


class JobsAnswer(Answer, frozen=True):
    """The jobs of all collections that have one, by name."""

    jobs: list[JobSummary]
