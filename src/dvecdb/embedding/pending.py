"""Rows on their way: what each becomes, in the order of the source, so that a cursor can follow.

Rows are settled in any order; the cursor moves over those from the front that are durable. Pure.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import takewhile
from typing import TYPE_CHECKING

from dvecdb.embedding.identity import Made, row_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import numpy.typing as npt

    from dvecdb.embedding.identity import Identity
    from dvecdb.embedding.job import TextSpec
    from dvecdb.embedding.model import SourceRow
    from dvecdb.records import Metadata


class Outcome(Enum):
    """What became of a row; the names are the counts of a cursor."""

    EMBEDDED = auto()
    COPIED = auto()
    UNCHANGED = auto()
    RELABELLED = auto()
    FAILED = auto()
    SKIPPED = auto()


@dataclass(slots=True)
class Pending:
    """A row that was read. It is settled once it has an outcome, durable once that is committed.

    parts: its text as it is sent. vector: float32[dimension], of a row that is to be written.
    problem: reason and message of a dead letter; is_refused: that is what the database said of it.
    """

    row: SourceRow
    id: str
    metadata: Metadata = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    content_hash: str = ""
    outcome: Outcome | None = None
    vector: npt.NDArray[np.float32] | None = None
    problem: tuple[str, str] | None = None
    is_refused: bool = False
    durable: bool = False


def prepare(source: str, row: SourceRow, text: TextSpec, identity: Identity) -> Pending:
    """Return what is to be done with a row: to be embedded, or settled at once."""
    pending = Pending(row, row_id(source, row.key))
    if row.empty and text.empty == "skip":
        pending.outcome = Outcome.SKIPPED
        return pending
    if row.text is None or row.problem is not None:
        return bury(pending, "empty" if row.empty else "row", row.problem or "it has no text")
    limit = text.length_max
    if limit is None or len(row.text) <= limit:
        pending.parts = (row.text,)
    elif text.too_long == "truncate":
        pending.parts = (row.text[:limit],)
    elif text.too_long == "split":
        pending.parts = split(row.text, limit)
    else:
        what = f"the text has {len(row.text)} characters, at most {limit} are taken"
        return bury(pending, "too-long", what)
    if not any(part.strip() for part in pending.parts):
        return bury(pending, "empty", "what is taken of its text is blank")
    pending.content_hash = identity.content_hash(pending.parts)
    pending.metadata = Made(source, row.key, pending.content_hash).into(row.metadata)
    return pending


def bury(pending: Pending, reason: str, message: str) -> Pending:
    """Settle a row as a dead letter, and return it."""
    pending.outcome, pending.problem = Outcome.FAILED, (reason, message)
    return pending


def split(text: str, length_max: int) -> tuple[str, ...]:
    """Return a text in parts of at most `length_max` characters, cut at spaces where there are."""
    parts: list[str] = []
    start = 0
    while len(text) - start > length_max:
        end = start + length_max
        space = text.rfind(" ", start + length_max // 2, end)
        end = space + 1 if space != -1 else end
        parts.append(text[start:end])
        start = end
    parts.append(text[start:])
    return tuple(part for part in parts if part.strip())


class Window:
    """The rows between the cursor and what was read last."""

    def __init__(self) -> None:
        self._rows: deque[Pending] = deque()

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self._rows)

    def extend(self, rows: Iterable[Pending]) -> None:
        """Take in rows, in the order of their source."""
        self._rows.extend(rows)

    def front(self, written: Iterable[Pending] = ()) -> list[Pending]:
        """Return the rows at the front that are durable, or are once `written` are."""
        also = set(map(id, written))
        return list(takewhile(lambda row: row.durable or id(row) in also, self._rows))

    def drop(self, count: int) -> None:
        """Drop rows at the front."""
        for _ in range(count):
            self._rows.popleft()
