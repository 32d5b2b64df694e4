"""Qdrant Edge: the core of Qdrant in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import qdrant_edge as qdrant
from benchmarks.peers.adapter import BUILD_EFFORT, GRAPH_DEGREE, GRAPH_EFFORTS, LIMIT
from benchmarks.peers.embedded import Embedded

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from benchmarks.peers.adapter import Effort, Metadata

    Rows = npt.NDArray[np.float32]

SCAN_BELOW_KB = 1_000
INDEX_FROM_KB = 1_000


class QdrantEdge(Embedded):
    """One shard. `optimize` builds the graph over what was inserted."""

    durability = "at `flush`, once at the end"
    ladders = ([{"ef": effort} for effort in GRAPH_EFFORTS],)

    def create(self, path: Path, dimension: int, rows: int) -> None:
        path.mkdir()
        self.path = path
        graph = qdrant.HnswIndexConfig(GRAPH_DEGREE, BUILD_EFFORT, SCAN_BELOW_KB)
        config = qdrant.EdgeConfig(
            vectors=qdrant.EdgeVectorParams(dimension, qdrant.Distance.Cosine),
            hnsw_config=graph,
            optimizers=qdrant.EdgeOptimizersConfig(indexing_threshold=INDEX_FROM_KB),
        )
        self.shard = qdrant.EdgeShard.create(str(path), config)
        self.shard.update(
            qdrant.UpdateOperation.create_field_index("share", qdrant.PayloadSchemaType.Integer)
        )

    def open(self, path: Path, dimension: int) -> None:
        self.path = path
        self.shard = qdrant.EdgeShard.load(str(path))

    def insert(self, first: int, vectors: Rows, metadata: list[Metadata]) -> None:
        points = [
            qdrant.Point(first + at, vector, payload)
            for at, (vector, payload) in enumerate(zip(vectors.tolist(), metadata, strict=True))
        ]
        self.shard.update(qdrant.UpdateOperation.upsert_points(points))

    def sync(self) -> None:
        self.shard.flush()

    def index(self) -> None:
        self.shard.optimize()
        self.shard.flush()

    def prepare(self, effort: Effort, below: int | None) -> None:
        self.params = qdrant.SearchParams(hnsw_ef=int(effort["ef"]))
        self.filter = None
        if below is not None:
            below_it = qdrant.FieldCondition("share", range=qdrant.RangeFloat(lt=below))
            self.filter = qdrant.Filter(must=[below_it])

    def search(self, query: Rows) -> list[Metadata]:
        request = qdrant.QueryRequest(
            limit=LIMIT,
            query=qdrant.Query.Nearest(query.tolist()),
            filter=self.filter,
            with_payload=True,
            params=self.params,
        )
        return [point.payload for point in self.shard.query(request)]

    def close(self) -> None:
        self.shard.close()


def system() -> QdrantEdge:
    """Return the adapter."""
    return QdrantEdge()
