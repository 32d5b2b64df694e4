"""The index of a collection: how soon it is there, threads, memory, and searches of the past."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.answers import LIMIT
from benchmarks.data import ids_of
from benchmarks.harness import Measure, Options, child, fresh, timed
from benchmarks.index_data import drop_index, indexed, settings_for, wait
from benchmarks.index_systems import Hnswlib, skipped
from benchmarks.rates import Ours, Queries, in_turn, rate, ratios

import dvecdb

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]

GRAPH_ROUNDS = 3  # a graph takes minutes, and the target is far from any noise
MEMORY_MB_MAX = 120
SEARCHES = 100


def index(options: Options, rows: Rows, queries: Rows) -> list[Measure]:
    """Building against hnswlib, two threads against one, memory, the past against now."""
    with fresh(options) as path:
        with indexed(path / "data", rows) as docs:
            measures = [
                *_threads(options, docs, Queries(rows, queries)),
                *_past(options, docs, rows, queries),
            ]
        np.save(path / "queries.npy", queries[:SEARCHES])
    with fresh(options) as path:
        with indexed(path / "data", rows):
            pass
        np.save(path / "queries.npy", queries[:SEARCHES])
        return [*_building(options, path / "data", rows), *_memory(path, rows), *measures]


def build_seconds(path: Path, count: int) -> float:
    """Return how long a closed directory without an index file takes to be open with an index."""
    drop_index(path)

    def build() -> Any:
        database = dvecdb.open(path, settings=settings_for(count))
        wait(database.collection("docs"))
        opened.append(database)

    opened: list[Any] = []
    took = timed(build)
    opened[0].close()
    return took


def _building(options: Options, path: Path, rows: Rows) -> list[Measure]:
    build_seconds(path, len(rows))  # reads the files into the page cache
    missing = skipped(["hnswlib"])
    if missing:
        own = [build_seconds(path, len(rows)) for _ in range(options.rounds)]
        return [Measure("index build", "s", own, notes=missing)]
    own, graph = [], []
    for _ in range(min(options.rounds, GRAPH_ROUNDS)):
        own.append(build_seconds(path, len(rows)))
        graph.append(timed(lambda: Hnswlib(rows)))
    measure = Measure("index build, hnswlib / dvecdb", "x", ratios(graph, own))
    measure.notes = {"s": statistics.median(own), "hnswlib s": statistics.median(graph)}
    return [measure.against(at_least=40)]


def _threads(options: Options, docs: Any, queries: Queries) -> list[Measure]:
    level = queries.level(Ours(docs), 0.95)
    found = in_turn(
        options.rounds,
        {
            "one": lambda: level.rate(queries.measured),
            "two": lambda: level.rate(queries.measured, 2),
        },
    )
    measure = Measure("QPS of 2 threads / of 1", "x", ratios(found["two"], found["one"]))
    measure.notes = {"QPS of 1": statistics.median(found["one"]), "recall": level.recall}
    return [measure.against(at_least=1.7)]


def _memory(path: Path, rows: Rows) -> list[Measure]:
    """What a process holds after it opened the collection, and after it also built the index."""
    measures = []
    asked = {"path": str(path / "data"), "queries": str(path / "queries.npy"), "rows": len(rows)}
    for name, dropped in (("stored", False), ("built", True)):
        if dropped:
            drop_index(path / "data")
        found = child("index-memory", **asked)
        measure = Measure(f"anonymous memory, index {name}", "MB", [found["memory"]])
        measure.notes = {key: found[key] for key in ("modules", "index")}
        measures.append(measure.against(at_most=MEMORY_MB_MAX))
    return measures


def _past(options: Options, docs: Any, rows: Rows, queries: Rows) -> list[Measure]:
    """Replace and delete each a part of the rows; ask for the state before, and for now."""
    ids, before = ids_of(len(rows)), docs.stats().last_lsn
    changed = np.random.default_rng(3).permutation(len(rows))[: len(rows) // 20].tolist()
    half = len(changed) // 2
    docs.delete([ids[row] for row in changed[:half]])
    docs.upsert([ids[row] for row in changed[half:]], rows[changed[half:]] + np.float32(0.01))
    wait(docs)

    def then(query: Rows) -> Any:
        return docs.search(query, limit=LIMIT, as_of=before)

    def now(query: Rows) -> Any:
        return docs.search(query, limit=LIMIT)

    found = in_turn(
        options.rounds, {"then": lambda: rate(then, queries), "now": lambda: rate(now, queries)}
    )
    measure = Measure("search as of before / now", "x", ratios(found["now"], found["then"]))
    measure.notes = {"changed": len(changed), "now ms": 1e3 / statistics.median(found["now"])}
    return [measure.against(at_most=1.5)]
