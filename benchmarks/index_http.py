"""Searches over HTTP under load, server and load on the same two processors, at equal recall.

Against the same searches by two threads of this process, and against the server of Chroma.
"""

from __future__ import annotations

import contextlib
import math
import os
import statistics
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from benchmarks.answers import LIMIT
from benchmarks.harness import Measure, Options, fresh
from benchmarks.http import served
from benchmarks.index_chroma import Chroma
from benchmarks.index_data import indexed, settings_for, wait
from benchmarks.index_systems import skipped
from benchmarks.load import Load, is_present, json_numbers
from benchmarks.rates import Level, Ours, Queries, in_turn, ratios

import dvecdb
from dvecdb.client.search_requests import search as search_call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]

RECALL = 0.95
PROCESSORS = 2
TARGETS = {"JSON": 0.4, "binary": 0.6}  # of the rate in this process
TIMES_CHROMA = 3


def index_http(options: Options, rows: Rows, queries: Rows) -> list[Measure]:
    """Measure all in turn; skipped without wrk."""
    if not is_present():
        notes = {"skipped, not installed": "wrk"}
        return [Measure("HTTP searches", "x", [math.nan], notes=notes)]
    with _two_processors(), fresh(options) as path, contextlib.ExitStack() as stack:
        asked = Queries(rows, queries)
        docs = stack.enter_context(indexed(path / "own", rows))
        level = asked.level(Ours(docs), RECALL)
        with indexed(path / "served", rows) as other:
            other.flush()
        loads, remote = stack.enter_context(_loads(path, len(rows), asked))
        calls: dict[str, Callable[[], float]] = {
            "in-process": partial(level.rate, asked.measured, PROCESSORS),
            **{name: load.rate for name, load in loads.items()},
        }
        chroma = None
        if not skipped(["chromadb"]):
            chroma = stack.enter_context(contextlib.closing(Chroma(path / "chroma", rows, asked)))
            calls["Chroma"] = chroma.load(path / "chroma-load", asked).rate
        found = in_turn(options.rounds, calls, slices=1)
    return _measures(found, level, remote, chroma)


def _measures(
    found: dict[str, list[float]], level: Level, remote: Level, chroma: Chroma | None
) -> list[Measure]:
    measures = []
    rates = {f"{name}/s": statistics.median(values) for name, values in found.items()}
    for name, wanted in TARGETS.items():
        values = ratios(found[name], found["in-process"])
        measure = Measure(f"HTTP {name} / in-process, 2 threads", "x", values)
        measure.notes = {**rates, "recall": remote.recall, "in-process recall": level.recall}
        measures.append(measure.against(at_least=wanted))
    if chroma is None:
        measures[-1].notes |= skipped(["chromadb"])
        return measures
    measure = Measure("HTTP JSON / Chroma's server", "x", ratios(found["JSON"], found["Chroma"]))
    measure.notes = {
        "recall": remote.recall, "Chroma's recall": chroma.recall, "its ef": chroma.effort,
    }  # fmt: skip
    return [*measures, measure.against(at_least=TIMES_CHROMA)]


@contextlib.contextmanager
def _two_processors() -> Iterator[None]:
    """Keep this process and what it starts on two processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[:PROCESSORS]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _loads(path: Path, count: int, asked: Queries) -> Iterator[tuple[dict[str, Load], Level]]:
    """Serve, and give the loads by format, at the effort that reaches the recall there."""
    setting = f"engine.index_rows_min={settings_for(count).index_rows_min}"
    with served(path / "served", "--set", setting) as url, dvecdb.connect(url) as remote:
        docs = remote.collection("docs")
        wait(docs)
        level = asked.level(Ours(docs), RECALL)
        calls = [
            search_call(docs.target, query, limit=LIMIT, recall=level.effort)
            for query in asked.measured
        ]
        binary, json = calls[0].headers["content-type"], "application/json"
        bodies = {
            (json, "JSON"): [
                _as_json(call.body, query)
                for call, query in zip(calls, asked.measured, strict=True)
            ],
            (binary, "binary"): [call.body for call in calls],
        }
        address = url.rstrip("/") + calls[0].path
        loads = {
            name: Load(path / f"load-{name}", address, {"content-type": kind, "accept": kind}, sent)
            for (kind, name), sent in bodies.items()
        }
        yield loads, level


def _as_json(body: bytes, query: Rows) -> bytes:
    """Return a request as clients of other languages send it: the vector is a list."""
    request: dict[str, Any] = msgspec.msgpack.decode(body)
    return msgspec.json.encode(request | {"vector": msgspec.Raw(json_numbers(query))})
