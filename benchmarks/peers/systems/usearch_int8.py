"""usearch, int8 codes, candidates scored again in float32: a library without filters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from benchmarks.peers.adapter import (
    BUILD_EFFORT,
    GRAPH_DEGREE,
    GRAPH_EFFORTS,
    LIMIT,
    NotSupportedError,
)
from benchmarks.peers.embedded import Library
from usearch.index import Index

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    from benchmarks.peers.adapter import Effort, Metadata

    Rows = npt.NDArray[np.float32]

CANDIDATES = (20, 40)


class Usearch(Library):
    """One index file; the vectors for scoring are mapped from a plain one."""

    ladders = tuple(
        [{"ef": effort, "candidates": count} for effort in GRAPH_EFFORTS if effort >= count]
        for count in CANDIDATES
    )

    def create(self, path: Path, dimension: int, rows: int) -> None:
        self.keep(path, dimension)
        self.file = (path / "vectors").open("wb")
        self.graph = Index(
            ndim=dimension,
            metric="cos",
            dtype="i8",
            connectivity=GRAPH_DEGREE,
            expansion_add=BUILD_EFFORT,
        )

    def insert(self, first: int, vectors: Rows, metadata: list[Metadata]) -> None:
        self.graph.add(np.arange(first, first + len(vectors)), vectors)
        self.file.write(vectors.data)
        self.metadata += metadata

    def sync(self) -> None:
        self.graph.save(str(self.path / "graph"))
        self.file.close()
        self.write()
        self.rows = self.vectors()

    def open(self, path: Path, dimension: int) -> None:
        self.read(path, dimension)
        self.graph = Index.restore(str(path / "graph"))
        self.rows = self.vectors()

    def vectors(self) -> Rows:
        """Return the rows, mapped."""
        stored = np.memmap(self.path / "vectors", np.float32, "r")
        return np.asarray(stored).reshape(-1, self.dimension)

    def prepare(self, effort: Effort, below: int | None) -> None:
        if below is not None:
            raise NotSupportedError("usearch has no filter")
        self.graph.expansion_search = int(effort["ef"])
        self.candidates = int(effort["candidates"])

    def search(self, query: Rows) -> list[Metadata]:
        found = self.graph.search(query, self.candidates, threads=1).keys.astype(np.int64)
        scores = self.rows[found] @ query
        return [self.metadata[row] for row in found[np.argsort(-scores)[:LIMIT]].tolist()]


def system() -> Usearch:
    """Return the adapter."""
    return Usearch()
