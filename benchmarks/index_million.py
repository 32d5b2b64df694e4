"""A million rows of 384 dimensions: building the index, its memory, and searches as it grows.

The rows are of 2,000 clusters on a manifold of 40 dimensions that is bent into 384, with noise:
easier than texts, so it is the growth that is measured. They are made block by block.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.data import ids_of
from benchmarks.harness import Measure, Options, child, fresh
from benchmarks.index import build_seconds
from benchmarks.index_data import drop_index, settings_for, wait
from benchmarks.rates import Ours, Queries, in_turn, ratios

import dvecdb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]

MILLION = 1_000_000
TRIED = 20_000  # fewer rows asked for: it is only tried, on so many
FEWER = 10  # times as few rows in the collection that is compared with
DIMENSION = 384
RANK = 40
CLUSTERS = 2_000
QUERIES = 400
BLOCK_ROWS = 20_000
BUILDS = 3
RECALL = 0.95
BUILD_SECONDS_MAX = 20
MEMORY_MB_MAX = 100
GROWTH_MAX = 2.5


def index_million(options: Options) -> list[Measure]:
    """Fill, build anew, search; a tenth of the rows beside it."""
    count = options.rows if options.rows <= TRIED else MILLION
    with fresh(options) as path, contextlib.ExitStack() as stack:
        rows, queries = manifold(count)
        np.save(path / "queries.npy", queries[:100])
        for name, size in (("all", count), ("few", count // FEWER)):
            _fill(path / name, rows[:size])
        measures = _memory(path, count)
        builds = [build_seconds(path / "all", count) for _ in range(BUILDS)]
        measure = Measure("million: index build", "s", builds)
        measures.append(measure.against(at_most=BUILD_SECONDS_MAX))
        opened = {
            name: stack.enter_context(_opened(path / name, size))
            for name, size in (("all", count), ("few", count // FEWER))
        }
        return measures + _growth(options, opened, rows, queries)


def manifold(count: int) -> tuple[Rows, Rows]:
    """Return rows and QUERIES queries of the same kind, held out."""
    rng = np.random.default_rng(31)
    centres = rng.standard_normal((CLUSTERS, RANK), dtype=np.float32)
    first = rng.standard_normal((RANK, 128), dtype=np.float32) / np.float32(RANK**0.5)
    second = rng.standard_normal((128, DIMENSION), dtype=np.float32) / np.float32(128**0.5)
    rows = np.empty((count + QUERIES, DIMENSION), np.float32)
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS]
        points = centres[rng.integers(0, CLUSTERS, len(block))]
        points = points + np.float32(0.5) * rng.standard_normal(points.shape, dtype=np.float32)
        np.matmul(np.tanh(points @ first), second, out=block)
        block += np.float32(0.05) * rng.standard_normal(block.shape, dtype=np.float32)
    return rows[QUERIES:], rows[:QUERIES]


def _fill(path: Path, rows: Rows) -> None:
    ids = ids_of(len(rows))
    with dvecdb.open(path, settings=settings_for(len(rows))) as database:
        docs = database.create_collection("docs", dimension=DIMENSION)
        for start in range(0, len(rows), BLOCK_ROWS):
            docs.upsert(ids[start : start + BLOCK_ROWS], rows[start : start + BLOCK_ROWS])
        wait(docs)
        docs.flush()


@contextlib.contextmanager
def _opened(path: Path, count: int) -> Iterator[Any]:
    with dvecdb.open(path, settings=settings_for(count)) as database:
        docs = database.collection("docs")
        wait(docs)
        yield docs


def _memory(path: Path, count: int) -> list[Measure]:
    """What the statistics say, and what a process has more with the index than without."""
    asked = {"path": str(path / "all"), "queries": str(path / "queries.npy")}
    _settle(path / "all", count)
    found = child("index-memory", **asked, rows=count)
    drop_index(path / "all")
    without = child("index-memory", **asked, rows=0)
    assert without["index"] == 0, "there was an index after all"
    told = Measure("million: index, as told", "MB", [found["index"]])
    measured = Measure("million: index, in memory", "MB", [found["memory"] - without["memory"]])
    measured.notes = {"process MB": found["memory"], "ready s": found["ready"]}
    return [item.against(at_most=MEMORY_MB_MAX) for item in (told, measured)]


def _settle(path: Path, count: int) -> None:
    """Let the index be written, so that the next process only reads it."""
    deadline = time.monotonic() + 60
    with _opened(path, count):
        while not any(path.glob("collections/*/derived/index-*.ivf")):
            if time.monotonic() > deadline:
                raise RuntimeError("the index is not written")
            time.sleep(0.1)


def _growth(options: Options, opened: dict[str, Any], rows: Rows, queries: Rows) -> list[Measure]:
    asked = {name: Queries(rows[: docs.count()], queries) for name, docs in opened.items()}
    levels = {name: asked[name].level(Ours(docs), RECALL) for name, docs in opened.items()}
    found = in_turn(
        options.rounds,
        {name: partial(level.rate, asked[name].measured) for name, level in levels.items()},
    )
    measure = Measure("million: query / of a tenth", "x", ratios(found["few"], found["all"]))
    for name, level in levels.items():
        measure.notes[f"{name} ms"] = 1e3 / statistics.median(found[name])
        measure.notes[f"{name} recall"] = level.recall
    return [measure.against(at_most=GROWTH_MAX)]
