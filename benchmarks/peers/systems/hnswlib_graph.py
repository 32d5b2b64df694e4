"""hnswlib: a library. A filter is a Python function that it calls for every row it meets.

`chroma-hnswlib` is imported by the same name and used just so.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import hnswlib
from benchmarks.peers.adapter import BUILD_EFFORT, GRAPH_DEGREE, GRAPH_EFFORTS, LIMIT
from benchmarks.peers.embedded import Library

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from benchmarks.peers.adapter import Effort, Metadata

    Rows = npt.NDArray[np.float32]


class Hnswlib(Library):
    """One index file."""

    ladders = ([{"ef": effort} for effort in GRAPH_EFFORTS],)

    def create(self, path: Path, dimension: int, rows: int) -> None:
        self.keep(path, dimension)
        self.graph = hnswlib.Index(space="cosine", dim=dimension)
        self.graph.init_index(rows, M=GRAPH_DEGREE, ef_construction=BUILD_EFFORT)

    def insert(self, first: int, vectors: Rows, metadata: list[Metadata]) -> None:
        self.graph.add_items(vectors, num_threads=os.cpu_count() or 1)
        self.metadata += metadata

    def sync(self) -> None:
        self.graph.save_index(str(self.path / "graph"))
        self.write()

    def open(self, path: Path, dimension: int) -> None:
        self.read(path, dimension)
        self.graph = hnswlib.Index(space="cosine", dim=dimension)
        self.graph.load_index(str(path / "graph"))

    def prepare(self, effort: Effort, below: int | None) -> None:
        self.graph.set_ef(int(effort["ef"]))
        self.graph.set_num_threads(1)
        self.options: dict[str, object] = {"num_threads": 1}
        if below is not None:
            accepted = (self.shares() < below).tolist()
            self.options["filter"] = accepted.__getitem__

    def search(self, query: Rows) -> list[Metadata]:
        found, _ = self.graph.knn_query(query, k=LIMIT, **self.options)
        return [self.metadata[row] for row in found[0].tolist()]


def system() -> Hnswlib:
    """Return the adapter."""
    return Hnswlib()
