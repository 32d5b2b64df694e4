"""Exact search of one query through a collection, against numpy over an array in memory."""

from __future__ import annotations

import gc
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.data import ids_of
from benchmarks.harness import Measure, Options, fresh

from dvecdb.protection.database import Database
from dvecdb.records import Metric, VectorType
from dvecdb.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]

LIMIT = 10
UNINDEXED = Settings(index_rows_min=0)
BLOCK_ROWS = 256


def search(options: Options, rows: Rows, queries: Rows) -> list[Measure]:
    """All metrics and types; the first search, which verifies what it reads, is not counted."""
    scale = np.float32(127.0 / np.abs(rows).max())
    codes = np.rint(rows * scale)
    ids = ids_of(len(rows))
    measures = []
    for metric in Metric:
        peer = numpy_search(rows, metric)
        with fresh(options) as path, Database(str(path), settings=UNINDEXED) as database:
            collections = {}
            for kind in VectorType:
                docs = database.create_collection(
                    kind, dimension=rows.shape[1], metric=metric, vector_type=kind
                )
                docs.upsert(ids, codes if kind is VectorType.INT8 else rows)
                docs.search(queries[-1], limit=LIMIT)
                collections[kind] = docs
            measures += _compare(options, metric, collections, peer, queries, scale)
    return measures


def _compare(
    options: Options,
    metric: Metric,
    collections: dict[VectorType, Any],
    peer: Callable[[Rows], npt.NDArray[np.int64]],
    queries: Rows,
    scale: np.float32,
) -> list[Measure]:
    ratios: dict[VectorType, list[float]] = {kind: [] for kind in collections}
    own: dict[VectorType, list[float]] = {kind: [] for kind in collections}
    plain: list[float] = []
    wrong = 0
    for number in range(max(options.rounds, 5)):
        query = queries[number]
        expected, took = answered(peer, query)
        plain.append(took)
        for kind, docs in collections.items():
            asked = query * scale if kind is VectorType.INT8 else query
            hits, seconds = answered(partial(docs.search, limit=LIMIT), asked)
            own[kind].append(seconds)
            ratios[kind].append(own[kind][-1] / took)
            if kind is VectorType.FLOAT32:
                wrong += {hit.id for hit in hits} != {f"row-{row:07}" for row in expected.tolist()}
    measures = []
    for kind, values in ratios.items():
        measure = Measure(f"search {metric} {kind} / numpy", "x", values).against(at_most=1.5)
        measure.notes = {
            "ms": statistics.median(own[kind]) * 1e3,
            "numpy ms": statistics.median(plain) * 1e3,
        }
        if kind is VectorType.FLOAT32 and wrong:
            measure.notes["other answers than numpy's"] = wrong
        measures.append(measure)
    return measures


def answered(search: Callable[[Rows], Any], query: Rows) -> tuple[Any, float]:
    """Return an answer and the seconds it took."""
    gc.collect()
    start = time.perf_counter()
    answer = search(query)
    return answer, time.perf_counter() - start


def numpy_search(rows: Rows, metric: Metric) -> Callable[[Rows], npt.NDArray[np.int64]]:
    """Return plain numpy's search; norms are given for nothing: a collection keeps them."""
    norms = np.linalg.norm(rows, axis=1)
    squares = norms * norms

    def distances(query: Rows) -> Rows:
        if metric is Metric.COSINE:
            return 1.0 - (rows @ query) / (norms * np.linalg.norm(query))
        if metric is Metric.EUCLIDEAN:
            return np.sqrt(np.maximum(squares - 2.0 * (rows @ query) + query @ query, 0.0))
        if metric is Metric.MANHATTAN:
            found = np.empty(len(rows), np.float32)
            for start in range(0, len(rows), BLOCK_ROWS):  # three times as fast as all at once
                part = rows[start : start + BLOCK_ROWS] - query
                found[start : start + BLOCK_ROWS] = np.abs(part, out=part).sum(axis=1)
            return found
        return -(rows @ query)

    def nearest(query: Rows) -> npt.NDArray[np.int64]:
        found = distances(query)
        best = np.argpartition(found, LIMIT)[:LIMIT]
        return best[np.argsort(found[best])]

    return nearest
