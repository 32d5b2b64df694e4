"""Rows that are settled and not yet written, in commits of bounded size; which ones are refused.

A commit is atomic, so one row that the database cannot hold would keep all others out: it becomes a
dead letter, and the others go without it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import blake3
import msgspec

from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dvecdb.embedding.pending import Pending

COMMIT_ROWS: Final = 500
COMMIT_BYTES: Final = 16 * 1024 * 1024
"""Of vectors in a commit; servers take several times as much in a request."""
ROW_CODES: Final = frozenset({
    Code.METADATA_TOO_LARGE, Code.INVALID_METADATA, Code.NOT_FINITE, Code.VECTOR_OUT_OF_RANGE,
    Code.BATCH_TOO_LARGE,
})  # fmt: skip
"""Refusals of a commit that may be the fault of one row."""


class Outbox:
    """Settled rows, in the order in which they were settled."""

    def __init__(self) -> None:
        self._rows: deque[Pending] = deque()
        self._bytes = 0
        self._rows_max = COMMIT_ROWS

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self._rows)

    @property
    def is_full(self) -> bool:
        """Whether there is enough for a commit of the largest size."""
        return self._bytes >= COMMIT_BYTES or len(self._rows) >= COMMIT_ROWS

    def put(self, row: Pending) -> None:
        """Add a row."""
        self._rows.append(row)
        self._bytes += _bytes(row)

    def first(self) -> list[Pending]:
        """Return the rows of the next commit, at least one if there are any."""
        found: list[Pending] = []
        size = 0
        for row in self._rows:
            size += _bytes(row)
            if found and (len(found) >= self._rows_max or size > COMMIT_BYTES):
                break
            found.append(row)
        return found

    def drop(self, rows: int) -> None:
        """Drop the first rows, which were written."""
        for _ in range(rows):
            self._bytes -= _bytes(self._rows.popleft())
        self._rows_max = min(self._rows_max * 2, COMMIT_ROWS)

    def blame(self, error: InvalidRequestError, rows: Sequence[Pending]) -> Pending | None:
        """Return the row for which a commit of these rows was refused; its vector is taken away.

        None: that is not known, and the next commit has fewer.

        Raises:
            InvalidRequestError: the refusal itself, if no row is at fault.
        """
        written = [row for row in rows if row.vector is not None]
        if error.code not in ROW_CODES or not written:
            raise error
        item = error.details.get("item")
        if isinstance(item, int) and 0 <= item < len(written):
            row = written[item]
        elif len(rows) > 1:
            self._rows_max = max(len(rows) // 2, 1)
            return None
        else:
            row = written[0]
        self._bytes -= _bytes(row)
        row.vector = None
        return row


def _bytes(row: Pending) -> int:
    return 0 if row.vector is None else row.vector.nbytes


def said_of(error: InvalidRequestError) -> str:
    """Return the message of a refusal without the row's number in the commit."""
    return error.message.removeprefix(f"item {error.details.get('item')}").lstrip(":, ")


def attempt_hash(row: Pending) -> str:
    """Return the hash of what a commit would have of a row: 32 hex digits."""
    return blake3.blake3(row.content_hash.encode() + _encoded(row)).hexdigest()[:32]


def metadata_bytes(row: Pending) -> int:
    """Return the size of a row's metadata as stored."""
    return len(_encoded(row))


def _encoded(row: Pending) -> bytes:
    try:
        return msgspec.json.encode(row.metadata)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        return repr(row.metadata).encode(errors="backslashreplace")  # no JSON; it will be refused
