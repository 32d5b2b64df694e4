"""What every measured system is made to look like, and what a measured row is.

Row n has the id `row-{n:07}`, the vector n and `metadata_of(n, share)`. Every answer is a list of
such metadata, nearest first: who does not return metadata has not answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]

LIMIT = 10
LANGUAGES = ("ar", "de", "en", "ja", "pt")
SHARES = 1_000  # `share` is uniform below this: `share < 10` holds for 1 % of the rows

# The graph that the libraries and databases build, wherever there is a choice.
GRAPH_DEGREE = 16
BUILD_EFFORT = 128
GRAPH_EFFORTS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640, 896)

Metadata = dict[str, Any]
Effort = dict[str, float]  # the settings of one search; what they are called is the system's


class NotSupportedError(Exception):
    """The system has no such call. Its message stands in the report."""


class Session(Protocol):
    """One client: a connection where there are connections. Used by one thread."""

    def search(self, query: Rows) -> Sequence[Metadata]:
        """Return the metadata of the LIMIT nearest rows at the effort that was prepared."""

    def close(self) -> None:
        """Hang up."""


class System(Protocol):
    """One system in this process, or served by processes that this one started."""

    durability: str  # when an inserted row is on the disk
    copied_closed: bool  # `copy` wants it closed
    ladders: Sequence[Sequence[Effort]]  # ways to search, each from little effort to much

    def create(self, path: Path, dimension: int, rows: int) -> None:
        """Make and open an empty collection for about `rows` rows, cosine metric."""

    def insert(self, first: int, vectors: Rows, metadata: list[Metadata]) -> None:
        """Insert rows numbered from `first`; on return they are as durable as it promises."""

    def sync(self) -> None:
        """Make durable what was inserted, where `insert` does not."""

    def index(self) -> None:
        """Return when every row is in the index, those that filters use included."""

    def open(self, path: Path, dimension: int) -> None:
        """Open what another process made."""

    def prepare(self, effort: Effort, below: int | None) -> None:
        """Make searches use this effort and, unless None, find only rows with `share < below`.

        Raises:
            NotSupportedError: it cannot filter.
        """

    def session(self) -> Session:
        """Return a client for the calling thread."""

    def versions(self) -> dict[str, str]:
        """Return versions that no Python distribution tells."""

    def processes(self) -> list[int]:
        """Return the ids of the processes that serve, other than this one."""

    def copy(self, target: Path) -> None:
        """Make the copy or backup that its documentation describes: complete and on the disk."""

    def close(self) -> None:
        """Close; stop what serves."""


def metadata_of(number: int, share: int) -> Metadata:
    """Return the metadata of a row."""
    return {"number": number, "lang": LANGUAGES[number % len(LANGUAGES)], "share": share}


def id_of(number: int) -> str:
    """Return the id of a row."""
    return f"row-{number:07}"
