"""Milvus Lite through pymilvus: a server in threads of this process.

The server hangs up on a client that is idle for minutes, because pymilvus asks after it more often
than it allows. So no connection is kept between rounds.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from benchmarks.peers.adapter import BUILD_EFFORT, GRAPH_DEGREE, GRAPH_EFFORTS, LIMIT
from benchmarks.peers.embedded import Embedded
from milvus_lite.server_manager import server_manager_instance
from pymilvus import DataType, MilvusClient

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from benchmarks.peers.adapter import Effort, Metadata

    Rows = npt.NDArray[np.float32]

COLUMNS = ["number", "lang", "share"]


class MilvusLite(Embedded):
    """One collection; a connection a client."""

    durability = "at `flush`, once at the end"
    ladders = ([{"ef": effort} for effort in GRAPH_EFFORTS],)

    def connect(self) -> MilvusClient:
        return MilvusClient(str(self.path), dedicated=True)

    def create(self, path: Path, dimension: int, rows: int) -> None:
        self.path = path.with_suffix(".db")
        self.client = self.connect()
        schema = MilvusClient.create_schema()
        schema.add_field("number", DataType.INT64, is_primary=True)
        schema.add_field("lang", DataType.VARCHAR, max_length=8)
        schema.add_field("share", DataType.INT64)
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=dimension)
        self.client.create_collection("docs", schema=schema)

    def open(self, path: Path, dimension: int) -> None:
        self.path = path.with_suffix(".db")
        with contextlib.closing(self.connect()) as client:
            client.load_collection("docs")

    def insert(self, first: int, vectors: Rows, metadata: list[Metadata]) -> None:
        rows = [
            {**item, "embedding": vector}
            for item, vector in zip(metadata, vectors.tolist(), strict=True)
        ]
        self.client.insert("docs", rows)

    def sync(self) -> None:
        self.client.flush("docs")

    def index(self) -> None:
        indexes = self.client.prepare_index_params()
        indexes.add_index(
            "embedding",
            index_type="HNSW",
            metric_type="COSINE",
            params={"M": GRAPH_DEGREE, "efConstruction": BUILD_EFFORT},
        )
        indexes.add_index("share", index_type="INVERTED")
        self.client.create_index("docs", indexes)
        self.client.load_collection("docs")
        self.client.close()

    def prepare(self, effort: Effort, below: int | None) -> None:
        self.params = {"metric_type": "COSINE", "params": {"ef": int(effort["ef"])}}
        self.filter = "" if below is None else f"share < {below}"

    def session(self) -> Client:
        return Client(self)

    def close(self) -> None:
        server_manager_instance.release_server(os.fspath(self.path))


class Client:
    """A connection."""

    def __init__(self, system: MilvusLite) -> None:
        self.client = system.connect()
        self.system = system

    def search(self, query: Rows) -> list[Metadata]:
        (hits,) = self.client.search(
            "docs",
            [query],
            filter=self.system.filter,
            limit=LIMIT,
            output_fields=COLUMNS,
            search_params=self.system.params,
        )
        return [hit["entity"] for hit in hits]

    def close(self) -> None:
        self.client.close()


def system() -> MilvusLite:
    """Return the adapter."""
    return MilvusLite()
