"""What a running job tells whoever watches: values, to be shown or logged in any form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dvecdb.embedding.progress import Cursor
    from dvecdb.embedding.report import Spent


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """A request failed and will be made again. what: `service`, `source` or `database`.

    reason: a `model.Reason` for a service, else an error code. attempt: None where being told to
    wait uses up no try, and where there is no last one.
    """

    what: str
    reason: str
    message: str
    attempt: int | None
    attempts: int | None
    wait_seconds: float


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The first success after an `AttemptFailed` of the same `what`."""

    what: str


@dataclass(frozen=True, slots=True)
class Paused:
    """Nothing is sent until a probe succeeds, or until somebody resumes. why: for people."""

    why: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """It goes on after a `Paused`."""


@dataclass(frozen=True, slots=True)
class Split:
    """A request of `texts` texts was too large, or has one that is refused: it is halved."""

    texts: int
    message: str


@dataclass(frozen=True, slots=True)
class SourceReached:
    """A source is there, and can be read."""

    source: str


@dataclass(frozen=True, slots=True)
class SourceStarted:
    """A source is begun, or gone on with behind `cursor` rows. total: its rows, if known.

    before: how many rows the run before had done, whether this one goes on there or not.
    """

    source: str
    total: int | None
    cursor: int
    resumed: bool
    before: int = 0


@dataclass(frozen=True, slots=True)
class PageRead:
    """Rows `first` to `last` of a source, counted from 1, are read. number: of the page."""

    source: str
    number: int
    first: int
    last: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Committed:
    """Something is durable: the vectors and this cursor, in one batch. spent: by this run."""

    source: str
    cursor: Cursor
    spent: Spent | None = None


@dataclass(frozen=True, slots=True)
class Buried:
    """A row became a dead letter, durably with the next `Committed`."""

    source: str
    key: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class RetryStarted:
    """The dead letters of a source are tried once more."""

    source: str
    rows: int


@dataclass(frozen=True, slots=True)
class SourceDone:
    """Every row of a source was seen."""

    source: str
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Noted:
    """Something that a person may want to know. message: one sentence."""

    message: str


JobEvent = (
    AttemptFailed
    | Reconnected
    | Paused
    | Resumed
    | Split
    | SourceReached
    | SourceStarted
    | PageRead
    | Committed
    | Buried
    | RetryStarted
    | SourceDone
    | Noted
)
if TYPE_CHECKING:
    Watch = Callable[[JobEvent], None]
