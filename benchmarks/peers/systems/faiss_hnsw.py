"""faiss, HNSW over float32: a library. A filter is a bitmap that its user makes beforehand."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import faiss
import numpy as np
from benchmarks.peers.adapter import BUILD_EFFORT, GRAPH_DEGREE, GRAPH_EFFORTS, LIMIT
from benchmarks.peers.embedded import Library

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    from benchmarks.peers.adapter import Effort, Metadata

    Rows = npt.NDArray[np.float32]


class Faiss(Library):
    """One index file. The bitmap of a filter is made when it is prepared, not by each search."""

    ladders = ([{"ef": effort} for effort in GRAPH_EFFORTS],)

    def create(self, path: Path, dimension: int, rows: int) -> None:
        self.keep(path, dimension)
        self.graph = faiss.IndexHNSWFlat(dimension, GRAPH_DEGREE, faiss.METRIC_INNER_PRODUCT)
        self.graph.hnsw.efConstruction = BUILD_EFFORT

    def insert(self, first: int, vectors: Rows, metadata: list[Metadata]) -> None:
        faiss.omp_set_num_threads(os.cpu_count() or 1)
        self.graph.add(vectors)
        self.metadata += metadata

    def sync(self) -> None:
        faiss.write_index(self.graph, str(self.path / "graph"))
        self.write()

    def open(self, path: Path, dimension: int) -> None:
        self.read(path, dimension)
        self.graph = faiss.read_index(str(path / "graph"))

    def prepare(self, effort: Effort, below: int | None) -> None:
        options: dict[str, object] = {"efSearch": int(effort["ef"])}
        if below is not None:
            bits = np.packbits(self.shares() < below, bitorder="little")
            options["sel"] = faiss.IDSelectorBitmap(bits)
        self.options = faiss.SearchParametersHNSW(**options)
        self.threads = threading.local()

    def search(self, query: Rows) -> list[Metadata]:
        if not hasattr(self.threads, "set"):  # each thread has its own number of threads
            faiss.omp_set_num_threads(1)
            self.threads.set = True
        _, found = self.graph.search(query[None], LIMIT, params=self.options)
        return [self.metadata[row] for row in found[0].tolist() if row >= 0]


def system() -> Faiss:
    """Return the adapter."""
    return Faiss()
