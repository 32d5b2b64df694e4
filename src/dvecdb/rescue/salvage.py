"""What a reader of damaged files hands over: rows that can be written as a collection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy.typing as npt

    from dvecdb.records import Json, Schema
    from dvecdb.reports import ImportReport

    Progress = Callable[[int, int], None]  # bytes done, bytes in all; called now and then


@dataclass(frozen=True, slots=True)
class Choice:
    """What is wanted of a source.

    collection: which one of a data directory; dimension, metric: what the caller believes them to
    be, refused if the bytes say otherwise; use_log: overlay a log at hand; keep_deleted: rows that
    the log deletes stay; include_dropped: the log's content from before it dropped the collection
    counts too; keep_raw: the stored bytes of doubtful metadata go into the row, in hexadecimal
    under `_dvecdb_raw`.
    """

    collection: str | None = None
    dimension: int | None = None
    metric: str | None = None
    use_log: bool = True
    keep_deleted: bool = False
    include_dropped: bool = False
    keep_raw: bool = False


class Halves:
    """Reading and then writing, each as one half of the progress of both."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._size = 1

    def first(self, done: int, total: int) -> None:
        """Report how much was read."""
        self._size = max(total, 1)
        if self._progress is not None:
            self._progress(done, 2 * self._size)

    def second(self, done: int, total: int) -> None:
        """Report how much was written."""
        if self._progress is not None:
            share = self._size * done // total if total else self._size
            self._progress(self._size + share, 2 * self._size)


class Vectors(Protocol):
    """Rows of vectors that lie in files."""

    @property
    def stored_bytes(self) -> int:
        """Size of all of them as stored."""

    def pieces(self, rows_per_piece: int) -> Iterator[npt.NDArray[Any]]:
        """Yield them as stored, [n, dimension], `rows_per_piece` at a time but for the last."""


@dataclass(slots=True)
class Salvage:
    """The newest provable state of a source, each id once, in the order they were written.

    metadata: JSON bytes by row, b"" for none. close: gives the source's files back; the vectors
    cannot be read after it.
    """

    schema: Schema
    report: ImportReport
    ids: list[str]
    metadata: list[bytes]
    vectors: Vectors
    close: Callable[[], None]
    documents: Mapping[tuple[str, str], Json] = field(default_factory=dict)
