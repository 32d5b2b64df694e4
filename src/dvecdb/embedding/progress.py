"""How far a job is with a source: the cursor, as the document that is written with the vectors.

    running ──commit──> running ──all rows seen──> done ──next run──> running, from the start

A run that ended anyhow goes on behind its position. The counts are of the run, over all its starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import blake3
import msgspec

from dvecdb.records import Json  # msgspec reads it

if TYPE_CHECKING:
    from dvecdb.embedding.job import SourceSpec, TextSpec

JOBS: Final = "jobs"
"""Namespace of the cursors, one document per source."""
DEAD_LETTERS: Final = "dead_letters"
"""Namespace of the rows that have no vector, by their id."""
EMBEDDER: Final = ("embedding", "embedder")
LEASE: Final = ("embedding", "lease")
CONTROL: Final = ("embedding", "control")
"""Documents: the embedder that is pinned, who runs the job, and what is wanted of that run."""
FORMAT: Final = 1


class Cursor(msgspec.Struct, frozen=True):
    """How far a run is with a source. cursor: rows behind which everything is done.

    Each of these rows is counted once. embedded: its text was paid for; copied: its text had a
    vector; unchanged: it was as it should be; relabelled: only its metadata changed; failed: it is
    a dead letter; skipped: it has no text, and those are passed over. since, mark: the
    `changed_since` values from which this run reads, and from which the next one will.
    """

    run: str
    definition: str
    format: int = FORMAT
    state: Literal["running", "done"] = "running"
    sequence: int = 0
    cursor: int = 0
    position: Json = None
    total: int | None = None
    embedded: int = 0
    copied: int = 0
    unchanged: int = 0
    relabelled: int = 0
    failed: int = 0
    skipped: int = 0
    since: Json = None
    mark: Json = None
    started: str = ""
    updated: str = ""


def read_cursor(value: Json) -> Cursor | None:
    """Return what a document says, None if there is none that can be read."""
    try:
        return msgspec.convert(value, Cursor)
    except msgspec.ValidationError:
        return None


def definition_of(source: SourceSpec, text: TextSpec) -> str:
    """Return a digest of all that decides what a row becomes."""
    return blake3.blake3(msgspec.json.encode([source, text])).hexdigest()[:32]


def begin(before: Cursor | None, definition: str, run: str, now: str, *, full: bool) -> Cursor:
    """Return where a source starts: behind what an unfinished run did, or at its beginning.

    full: from the beginning, and with every row, however old its `changed_since`.
    """
    same = before is not None and before.definition == definition
    if before is not None and same and before.state == "running" and not full:
        return before
    since = before.mark if before is not None and same and not full else None
    sequence = 0 if before is None else before.sequence
    return Cursor(run=run, definition=definition, sequence=sequence, since=since, started=now)


class DeadLetter(msgspec.Struct, frozen=True):
    """A row that has no vector, and why.

    key: the first characters of it. tries: in how many runs it was refused; run: the last one that
    counted it.
    content_hash: of its text and metadata, where the database refused them: the same row is not
    paid for again.
    """

    source: str
    key: str
    reason: str
    message: str
    tries: int = 1
    time: str = ""
    run: str = ""
    content_hash: str = ""


def read_letter(value: Json) -> DeadLetter | None:
    """Return what a document says, None if it is no dead letter."""
    try:
        return msgspec.convert(value, DeadLetter)
    except msgspec.ValidationError:
        return None


def plain(value: Cursor | DeadLetter | None) -> Json:
    """Return a cursor or dead letter as the document that it is stored as."""
    return None if value is None else msgspec.json.decode(msgspec.json.encode(value))
