"""Searches a second against graph libraries and databases in this process, at equal recall.

Each library answers row numbers, each database records with metadata; dvecdb always does the whole
of `docs.search`. All stand in memory at the same time and take turns.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.answers import LIMIT
from benchmarks.harness import Measure, Options, fresh, timed
from benchmarks.index_data import filled, indexed, metadata_of
from benchmarks.index_systems import DATABASES, LIBRARIES, present, skipped
from benchmarks.rates import Level, Ours, Queries, fastest, in_turn, ratios

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]

LIBRARY_LEVELS = {0.95: 1.0, 0.99: 1.3}  # recall: times as fast
DATABASE_LEVEL = 0.95
CLIENTS = (1, 8)
SOONER = 20
POLL_SECONDS = 0.005


def index_peers(options: Options, rows: Rows, queries: Rows) -> list[Measure]:
    """Against libraries, then against databases."""
    asked = Queries(rows, queries)
    with fresh(options) as path, indexed(path / "own", rows) as docs:
        measures = _libraries(options, Ours(docs), rows, asked)
    with fresh(options) as path:
        return measures + _databases(options, path, rows, asked)


def _libraries(options: Options, own: Ours, rows: Rows, queries: Queries) -> list[Measure]:
    systems = [make(rows) for make in present(LIBRARIES)]
    measures = []
    for recall, wanted in LIBRARY_LEVELS.items():
        levels = {system.name: queries.level(system, recall) for system in (own, *systems)}
        measures += _compare(options, levels, queries, f"at {recall}", wanted)
        measures[-1].notes |= skipped(LIBRARIES)
    return measures


def _compare(
    options: Options,
    levels: dict[str, Level],
    queries: Queries,
    what: str,
    wanted: float,
    clients: int = 1,
) -> list[Measure]:
    """Return dvecdb's rate over that of the fastest of the others, by round."""
    found = in_turn(
        options.rounds,
        {name: partial(level.rate, queries.measured, clients) for name, level in levels.items()},
    )
    own = found.pop(Ours.name)
    notes = {
        name: f"{statistics.median(found.get(name, own)):.0f}/s recall {level.recall:.4f} "
        f"effort {level.effort:g}"
        for name, level in levels.items()
    }
    if not found:
        return [Measure(f"QPS {what}", "/s", own, notes=notes)]
    best = fastest(found)
    measure = Measure(f"QPS {what}, dvecdb / {best}", "x", ratios(own, found[best]))
    measure.notes = notes
    return [measure.against(at_least=wanted)]


def _databases(options: Options, path: Path, rows: Rows, queries: Queries) -> list[Measure]:
    metadata = metadata_of(len(rows))
    seconds: dict[str, float] = {}
    own_seconds = [_own_fill(options, queries, rows)]
    with contextlib.ExitStack() as stack:
        systems: list[Any] = []
        for number, make in enumerate(present(DATABASES)):
            target = path / f"database-{number}"
            took = timed(lambda: systems.append(make(target, rows, metadata)))  # noqa: B023
            stack.callback(systems[-1].close)
            seconds[systems[-1].name] = took
            own_seconds.append(_own_fill(options, queries, rows))
        docs = stack.enter_context(indexed(path / "own", rows))
        levels = {
            system.name: queries.level(system, DATABASE_LEVEL) for system in (Ours(docs), *systems)
        }
        measures = [_sooner(own_seconds, seconds)]
        for clients in CLIENTS:
            what = f"of {clients} client{'s' * (clients > 1)}"
            measures += _compare(options, levels, queries, what, 1.0, clients)
        measures[-1].notes |= skipped(DATABASES)
        return measures


def _own_fill(options: Options, queries: Queries, rows: Rows) -> float:
    """Return how long it takes until all rows are durable and the index covers them.

    What it finds by default at that moment is checked: it may be made anew in a quiet second.
    """
    with fresh(options, 2 * rows.nbytes) as path, contextlib.ExitStack() as stack:

        def run() -> None:
            docs = stack.enter_context(filled(path / "data", rows))
            while docs.stats().index.state != "ready":
                time.sleep(POLL_SECONDS)
            opened.append(docs)

        opened: list[Any] = []
        took = timed(run)
        docs = opened[0]
        if docs.search(queries.measured[0], explain=True).explained.plan != "index":
            raise RuntimeError("the index was not used")
        found = queries.recall(Ours(docs), lambda query: docs.search(query, limit=LIMIT))
        if found < DATABASE_LEVEL:
            raise RuntimeError("the index finds too little")
        return took


def _sooner(own: list[float], others: dict[str, float]) -> Measure:
    """Compare with the quickest database, which is filled once: it takes minutes."""
    if not others:
        return Measure("rows in to searchable", "s", own)
    best = min(others, key=lambda name: others[name])
    values = [others[best] / value for value in own]
    measure = Measure(f"rows in to searchable, {best} / dvecdb", "x", values)
    measure.notes = {"s": statistics.median(own)} | {f"{name} s": s for name, s in others.items()}
    return measure.against(at_least=SOONER)
