"""What an embedding job is made of: rows of a source, answers of an embedder, and how both fail.

A **source** has rows in a fixed order of their keys and can be read on from any position. An
**embedder** makes a vector of each text. Neither knows the database; the runner brings them
together and alone decides what is written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

    from dvecdb.records import Json, Metadata


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row of a source. `text` is None if there is nothing to embed; `problem` says why.

    key: as text, unique in its source. position: a JSON value; `read(position)` goes on behind
    this row, also in another process. problem: the row cannot be used (text that is null or no
    UTF-8, a template without its column, a value that JSON cannot hold); it becomes a dead letter.
    """

    key: str
    position: Json
    text: str | None
    metadata: Metadata
    problem: str | None = None
    empty: bool = False


class Source(Protocol):
    """Rows to embed. Used by one thread at a time. What a call cannot get it raises.

    Raises, wherever it reaches out: `UnavailableError`, `source-unreachable`: the connection
    failed, is away or timed out; the next call connects afresh. `InvalidRequestError`,
    `source-refused`: wrong credentials, no such table or column, no stable key, a file of another
    format; trying again cannot help.
    """

    def check(self) -> None:
        """Refuse what can never work, before the first text is paid for: see above."""

    def count(self, since: Json = None) -> int | None:
        """Return how many rows `read` will give from the start, or None if that is not known."""

    def mark(self) -> Json:
        """Return the greatest value of the `changed_since` column now, or None without one.

        A JSON value; as `since` of a later run it leaves out what is older.
        """

    def read(self, after: Json, limit: int, since: Json = None) -> Sequence[SourceRow]:
        """Return up to `limit` rows behind the position `after` (None: from the start), in order.

        An empty answer is the end. since: only rows whose `changed_since` column is at least this.
        A position that no longer fits (a file was replaced) starts again from the front: rows that
        did not change cost nothing.
        """

    def keys(self) -> Iterator[str]:
        """Yield the key of every row, whatever its text and age."""

    def close(self) -> None:
        """Give back connections and files. May be called twice."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an embedder made of texts. vectors: float32[n, dimension], finite, in their order.

    tokens: how many it counted, None if it does not say.
    """

    vectors: npt.NDArray[np.float32]
    tokens: int | None = None


class Reason(StrEnum):
    """Why texts have no vectors. Each calls for another reaction (`retry.decide`)."""

    UNREACHABLE = "unreachable"
    """No connection, or it broke."""
    TIMEOUT = "timeout"
    """No answer in time."""
    RATE_LIMITED = "rate-limited"
    """429: come back later; no try is used up."""
    OVERLOADED = "overloaded"
    """5xx and 408: it may work next time."""
    TOO_LARGE = "too-large"
    """413, or a 400 that speaks of too many texts or tokens: ask for less."""
    REFUSED = "refused"
    """Any other 4xx: something in these texts will never be taken."""
    WRONG_ANSWER = "wrong-answer"
    """Not what was asked for: count, order, dimension, a value that is not finite, no JSON."""
    FORBIDDEN = "forbidden"
    """401, 403, 404 and 405: the key or the address is wrong; nothing else will work either."""


class EmbedError(Exception):
    """An embedder gave no vectors for a request. Internal: the runner turns it into its reaction.

    retry_after_seconds: what the service asked for.
    """

    def __init__(
        self, reason: Reason, message: str, *, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after_seconds = retry_after_seconds


class Embedder(Protocol):
    """Makes vectors of texts. Safe to use from several threads."""

    @property
    def model(self) -> str:
        """Return what names the model for people and in the collection, like `openai:NAME`.

        Two embedders with different vectors have different names, as far as can be told.
        """

    def embed(self, texts: Sequence[str]) -> Answer:
        """Return a vector for each of the texts, at least one, in one request.

        Raises:
            EmbedError: there are none; nothing is to be believed of a part of an answer.
        """

    def renew(self) -> None:
        """Drop every connection: the next request makes a fresh one."""

    def close(self) -> None:
        """Give back connections. May be called twice."""


@dataclass(slots=True)
class Usage:
    """What was asked of an embedder. texts: those it answered; tokens: its count or an estimate."""

    requests: int = 0
    texts: int = 0
    tokens: int = 0
    failed: int = 0
    waited_seconds: float = 0.0  # because it was told to wait
    reasons: dict[str, int] = field(default_factory=dict)
