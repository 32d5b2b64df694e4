"""LanceDB in this process, IVF_PQ, candidates scored again: its documented way to recall."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lancedb
import pyarrow as pa
from benchmarks.peers.adapter import LIMIT
from benchmarks.peers.embedded import Embedded, sync_tree

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from benchmarks.peers.adapter import Metadata

    Rows = npt.NDArray[np.float32]

PROBES = (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
REFINES = (5, 20)
COMPONENTS_PER_CODE = 8
COLUMNS = ["number", "lang", "share"]


class Lance(Embedded):
    """One table; every batch is a version of it."""

    durability = "never by itself; its files are synced for it, once at the end"
    ladders = tuple(
        [{"nprobes": probes, "refine": refine} for probes in PROBES] for refine in REFINES
    )

    def create(self, path: Path, dimension: int, rows: int) -> None:
        self.path = path
        self.schema = pa.schema(
            [
                ("number", pa.int64()),
                ("lang", pa.string()),
                ("share", pa.int64()),
                ("embedding", pa.list_(pa.float32(), dimension)),
            ]
        )
        self.dimension = dimension
        self.table = lancedb.connect(str(path)).create_table("docs", schema=self.schema)

    def open(self, path: Path, dimension: int) -> None:
        self.path = path
        self.table = lancedb.connect(str(path)).open_table("docs")

    def insert(self, first: int, vectors: Rows, metadata: list[Metadata]) -> None:
        columns = [pa.array([item[name] for item in metadata]) for name in COLUMNS]
        columns.append(pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), self.dimension))
        self.table.add(pa.Table.from_arrays(columns, schema=self.schema))

    def sync(self) -> None:
        sync_tree(self.path)

    def index(self) -> None:
        self.table.create_index(
            metric="cosine",
            vector_column_name="embedding",
            index_type="IVF_PQ",
            num_sub_vectors=max(1, self.dimension // COMPONENTS_PER_CODE),
        )
        self.table.create_scalar_index("share")
        self.table.optimize()
        sync_tree(self.path)

    def search(self, query: Rows) -> list[Metadata]:
        asked = (
            self.table.search(query, vector_column_name="embedding")
            .distance_type("cosine")
            .nprobes(int(self.effort["nprobes"]))
            .refine_factor(int(self.effort["refine"]))
            .select(COLUMNS)
            .limit(LIMIT)
        )
        if self.below is not None:
            asked = asked.where(f"share < {self.below}", prefilter=True)
        return asked.to_list()


def system() -> Lance:
    """Return the adapter."""
    return Lance()
