"""dvecdb in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.peers.adapter import GRAPH_EFFORTS, LIMIT, Effort, Metadata, id_of
from benchmarks.peers.embedded import Embedded

import dvecdb

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]

RECALLS = (0.8, 0.85, 0.9, 0.925, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995)
INDEX_SECONDS_MAX = 600


class Dvecdb(Embedded):
    """The collection `docs`. `where` and the effort are arguments of every search."""

    durability = "each batch, when the call returns"
    copied_closed = False
    ladders = (
        [{"recall": recall} for recall in RECALLS],
        [{"ef_search": effort} for effort in GRAPH_EFFORTS],
    )

    def create(self, path: Path, dimension: int, rows: int) -> None:
        self.path = path
        self.database = dvecdb.open(path)
        self.docs = self.database.create_collection("docs", dimension=dimension, metric="cosine")

    def open(self, path: Path, dimension: int) -> None:
        self.path = path
        self.database = dvecdb.open(path)
        self.docs = self.database.collection("docs")

    def insert(self, first: int, vectors: Rows, metadata: list[Metadata]) -> None:
        ids = [id_of(number) for number in range(first, first + len(vectors))]
        self.docs.upsert(ids=ids, vectors=vectors, metadata=metadata)

    def index(self) -> None:
        self.docs.wait_for_index(timeout_seconds=INDEX_SECONDS_MAX)

    def prepare(self, effort: Effort, below: int | None) -> None:
        self.options: dict[str, Any] = dict(effort)
        if below is not None:
            self.options["where"] = {"must": [{"key": "share", "range": {"lt": below}}]}

    def search(self, query: Rows) -> list[Metadata]:
        hits = self.docs.search(query, limit=LIMIT, with_metadata=True, **self.options)
        return [hit.metadata for hit in hits]

    def copy(self, target: Path) -> None:
        """Back up beside writers: complete and durable on return, disk blocks shared."""
        self.docs.backup("copy of the benchmark")

    def close(self) -> None:
        self.database.close()


def system() -> Dvecdb:
    """Return the adapter."""
    return Dvecdb()
