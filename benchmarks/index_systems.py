"""What is measured beside dvecdb: graph libraries, and databases that run in this process.

All build graphs of degree 16 with ef_construction 128. Rows are of length 1: the inner product is
the cosine. Row n has the number n.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.answers import LIMIT
from benchmarks.index_data import BATCH_ROWS
from benchmarks.rates import GRAPH_EFFORTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from benchmarks.rates import Search

    Rows = npt.NDArray[np.float32]
    Metadata = list[dict[str, Any]]

DEGREE = 16
BUILD_EFFORT = 128
THREADS = 2
RESCORED = 32  # candidates of int8 that are measured again in float32
SCAN_BELOW_KB = 1_000


class Hnswlib:
    """hnswlib over float32."""

    name = "hnswlib"
    efforts = GRAPH_EFFORTS

    def __init__(self, rows: Rows) -> None:
        module = importlib.import_module("hnswlib")
        self.graph = module.Index(space="ip", dim=rows.shape[1])
        self.graph.init_index(len(rows), M=DEGREE, ef_construction=BUILD_EFFORT)
        self.graph.set_num_threads(THREADS)
        self.graph.add_items(rows, num_threads=THREADS)
        self.graph.set_num_threads(1)

    def at(self, effort: float) -> Search:
        graph = self.graph
        graph.set_ef(int(effort))
        return lambda query: graph.knn_query(query, LIMIT, num_threads=1)

    def numbers(self, answer: Any) -> Sequence[int]:
        return answer[0][0].tolist()


class Faiss:
    """faiss HNSW over float32."""

    name = "faiss HNSW"
    efforts = GRAPH_EFFORTS

    def __init__(self, rows: Rows) -> None:
        module = importlib.import_module("faiss")
        threads = module.omp_get_max_threads()
        module.omp_set_num_threads(THREADS)
        self.graph = module.IndexHNSWFlat(rows.shape[1], DEGREE, module.METRIC_INNER_PRODUCT)
        self.graph.hnsw.efConstruction = BUILD_EFFORT
        self.graph.add(rows)
        module.omp_set_num_threads(threads)

    def at(self, effort: float) -> Search:
        graph = self.graph
        graph.hnsw.efSearch = int(effort)
        return lambda query: graph.search(query[None], LIMIT)

    def numbers(self, answer: Any) -> Sequence[int]:
        return answer[1][0].tolist()


class Usearch:
    """usearch over int8; the best are measured again from the float32 rows."""

    name = "usearch int8"
    efforts = tuple(effort for effort in GRAPH_EFFORTS if effort >= RESCORED)

    def __init__(self, rows: Rows) -> None:
        module = importlib.import_module("usearch.index")
        self.rows = rows
        self.graph = module.Index(
            ndim=rows.shape[1], metric="cos", dtype="i8", connectivity=DEGREE,
            expansion_add=BUILD_EFFORT,
        )  # fmt: skip
        self.graph.add(np.arange(len(rows)), rows, threads=THREADS)

    def at(self, effort: float) -> Search:
        graph, rows = self.graph, self.rows
        graph.expansion_search = int(effort)

        def search(query: Rows) -> npt.NDArray[Any]:
            keys = graph.search(query, RESCORED, threads=1).keys
            keys.sort()
            products = rows[keys] @ query
            best = np.argpartition(products, -LIMIT)[-LIMIT:]
            return keys[best[np.argsort(-products[best])]]

        return search

    def numbers(self, answer: Any) -> Sequence[int]:
        return answer.astype(np.int64).tolist()


class Zvec:
    """zvec: a database in this process. Metadata is returned."""

    name = "zvec"
    efforts = GRAPH_EFFORTS

    def __init__(self, path: Path, rows: Rows, metadata: Metadata) -> None:
        self.module = zvec = importlib.import_module("zvec")
        zvec.init(log_level=zvec.LogLevel.ERROR)
        graph = zvec.HnswIndexParam(
            metric_type=zvec.MetricType.COSINE, m=DEGREE, ef_construction=BUILD_EFFORT
        )
        schema = zvec.CollectionSchema(
            name="docs",
            fields=[
                zvec.FieldSchema("number", zvec.DataType.INT64),
                zvec.FieldSchema("lang", zvec.DataType.STRING),
                zvec.FieldSchema("share", zvec.DataType.INT64),
            ],
            vectors=[
                zvec.VectorSchema(
                    "embedding", zvec.DataType.VECTOR_FP32, rows.shape[1], index_param=graph
                )
            ],
        )
        self.docs = zvec.create_and_open(str(path), schema)
        for first in range(0, len(rows), BATCH_ROWS):
            batch = [
                zvec.Doc(
                    id=str(number), vectors={"embedding": rows[number]}, fields=metadata[number]
                )
                for number in range(first, min(first + BATCH_ROWS, len(rows)))
            ]
            for status in self.docs.insert(batch):
                assert status.ok(), status
        self.docs.flush()
        self.docs.optimize()
        self.docs.flush()

    def at(self, effort: float) -> Search:
        docs, zvec = self.docs, self.module
        options = zvec.HnswQueryParam(ef=int(effort))

        def search(query: Rows) -> Any:
            asked = zvec.Query(field_name="embedding", vector=query, param=options)
            return docs.query(asked, topk=LIMIT)

        return search

    def numbers(self, answer: Any) -> Sequence[int]:
        return [item.fields["number"] for item in answer]

    def close(self) -> None:
        self.docs.close()


class QdrantEdge:
    """Qdrant Edge: the core of Qdrant in this process. Metadata is returned."""

    name = "qdrant-edge"
    efforts = GRAPH_EFFORTS

    def __init__(self, path: Path, rows: Rows, metadata: Metadata) -> None:
        self.module = qdrant = importlib.import_module("qdrant_edge")
        path.mkdir()
        config = qdrant.EdgeConfig(
            vectors=qdrant.EdgeVectorParams(rows.shape[1], qdrant.Distance.Cosine),
            hnsw_config=qdrant.HnswIndexConfig(DEGREE, BUILD_EFFORT, SCAN_BELOW_KB),
            optimizers=qdrant.EdgeOptimizersConfig(indexing_threshold=SCAN_BELOW_KB),
        )
        self.shard = qdrant.EdgeShard.create(str(path), config)
        for first in range(0, len(rows), BATCH_ROWS):
            batch = rows[first : first + BATCH_ROWS].tolist()
            points = [
                qdrant.Point(first + at, vector, metadata[first + at])
                for at, vector in enumerate(batch)
            ]
            self.shard.update(qdrant.UpdateOperation.upsert_points(points))
        self.shard.flush()
        self.shard.optimize()
        self.shard.flush()

    def at(self, effort: float) -> Search:
        shard, qdrant = self.shard, self.module
        options = qdrant.SearchParams(hnsw_ef=int(effort))

        def search(query: Rows) -> Any:
            request = qdrant.QueryRequest(
                limit=LIMIT,
                query=qdrant.Query.Nearest(query.tolist()),
                with_payload=True,
                params=options,
            )
            return shard.query(request)

        return search

    def numbers(self, answer: Any) -> Sequence[int]:
        return [point.payload["number"] for point in answer]

    def close(self) -> None:
        self.shard.close()


LIBRARIES: dict[str, Callable[[Rows], Any]] = {
    "hnswlib": Hnswlib, "usearch": Usearch, "faiss": Faiss,
}  # fmt: skip
DATABASES: dict[str, Callable[[Path, Rows, Metadata], Any]] = {
    "zvec": Zvec, "qdrant_edge": QdrantEdge,
}  # fmt: skip


def skipped(modules: Iterable[str]) -> dict[str, str]:
    """Return which of these are not installed, as notes of a measure."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return {"skipped, not installed": " ".join(missing)} if missing else {}


def present(makers: Mapping[str, Any]) -> list[Any]:
    """Return the makers of what is installed."""
    return [make for module, make in makers.items() if importlib.util.find_spec(module)]
