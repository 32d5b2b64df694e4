"""zvec, HNSW: a database in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zvec
from benchmarks.peers.adapter import BUILD_EFFORT, GRAPH_DEGREE, GRAPH_EFFORTS, LIMIT, id_of
from benchmarks.peers.embedded import Embedded

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from benchmarks.peers.adapter import Effort, Metadata

    Rows = npt.NDArray[np.float32]

zvec.init(log_level=zvec.LogLevel.ERROR)


class Zvec(Embedded):
    """One collection. `optimize` builds the graph over what was inserted."""

    durability = "at `flush`, once at the end"
    ladders = ([{"ef": effort} for effort in GRAPH_EFFORTS],)

    def create(self, path: Path, dimension: int, rows: int) -> None:
        self.path = path
        ranges = zvec.InvertIndexParam(enable_range_optimization=True)
        graph = zvec.HnswIndexParam(
            metric_type=zvec.MetricType.COSINE, m=GRAPH_DEGREE, ef_construction=BUILD_EFFORT
        )
        schema = zvec.CollectionSchema(
            name="docs",
            fields=[
                zvec.FieldSchema("number", zvec.DataType.INT64),
                zvec.FieldSchema("lang", zvec.DataType.STRING),
                zvec.FieldSchema("share", zvec.DataType.INT64, index_param=ranges),
            ],
            vectors=[
                zvec.VectorSchema(
                    "embedding", zvec.DataType.VECTOR_FP32, dimension, index_param=graph
                )
            ],
        )
        self.docs = zvec.create_and_open(str(path), schema)

    def open(self, path: Path, dimension: int) -> None:
        self.path = path
        self.docs = zvec.open(str(path))

    def insert(self, first: int, vectors: Rows, metadata: list[Metadata]) -> None:
        statuses = self.docs.insert(
            [
                zvec.Doc(id=id_of(first + at), vectors={"embedding": vector}, fields=fields)
                for at, (vector, fields) in enumerate(zip(vectors, metadata, strict=True))
            ]
        )
        for status in statuses:
            assert status.ok(), status

    def sync(self) -> None:
        self.docs.flush()

    def index(self) -> None:
        self.docs.optimize()
        self.docs.flush()

    def prepare(self, effort: Effort, below: int | None) -> None:
        self.options = zvec.HnswQueryParam(ef=int(effort["ef"]))
        self.filter = None if below is None else f"share < {below}"

    def search(self, query: Rows) -> list[Metadata]:
        asked = zvec.Query(field_name="embedding", vector=query, param=self.options)
        return [doc.fields for doc in self.docs.query(asked, topk=LIMIT, filter=self.filter)]

    def close(self) -> None:
        self.docs.close()


def system() -> Zvec:
    """Return the adapter."""
    return Zvec()
