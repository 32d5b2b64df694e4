"""Searches beside durable writes: the slowest hundredth, against an idle engine."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.answers import LIMIT
from benchmarks.data import ids_of
from benchmarks.harness import Measure, Options, fresh
from benchmarks.index_data import indexed, wait

if TYPE_CHECKING:
    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]

BATCH = 100
PACES = {"as fast as it can": None, "2,000 rows/s": 2_000}
SECONDS = 4.0
TIMES_MAX = 3.0


def index_writes(options: Options, rows: Rows, queries: Rows) -> list[Measure]:
    """Search alone, then beside a writer at each pace; every round begins with a ready index."""
    slow: dict[str, list[float]] = {name: [] for name in ("idle", *PACES)}
    middle: dict[str, list[float]] = {name: [] for name in slow}
    written: dict[str, list[float]] = {name: [] for name in PACES}
    with fresh(options) as path, indexed(path / "data", rows) as docs:
        for _ in range(options.rounds):
            for name, pace in {"idle": None, **PACES}.items():
                wait(docs)
                writer = None if name == "idle" else Writer(docs, rows, pace)
                times = _search(docs, queries)
                if writer is not None:
                    written[name].append(writer.stop())
                p50, p99 = np.percentile(times, [50, 99]).tolist()
                slow[name].append(p99)
                middle[name].append(p50)
    measures = []
    for name in PACES:
        values = [own / idle for own, idle in zip(slow[name], slow["idle"], strict=True)]
        measure = Measure(f"p99 beside writes, {name} / idle", "x", values)
        measure.notes = {
            "p99 ms": 1e3 * statistics.median(slow[name]),
            "idle p99 ms": 1e3 * statistics.median(slow["idle"]),
            "p50 ms": 1e3 * statistics.median(middle[name]),
            "idle p50 ms": 1e3 * statistics.median(middle["idle"]),
            "rows/s": statistics.median(written[name]),
        }
        measures.append(measure.against(at_most=TIMES_MAX))
    return measures


def _search(docs: Any, queries: Rows) -> list[float]:
    """Return the seconds of each search of one thread."""
    times = []
    gc.collect()
    start = now = time.perf_counter()
    while now - start < SECONDS:
        docs.search(queries[len(times) % len(queries)], limit=LIMIT)
        before, now = now, time.perf_counter()
        times.append(now - before)
    return times


class Writer:
    """A thread that replaces rows by slightly other ones, batch by batch, each durable."""

    def __init__(self, docs: Any, rows: Rows, pace: int | None) -> None:
        self._docs, self._rows, self._pace = docs, rows, pace
        self._ids = ids_of(len(rows))
        self._stopping = threading.Event()
        self._count = 0
        self._failed: BaseException | None = None
        self._start = time.perf_counter()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        rng = np.random.default_rng(int(self._start * 1e6))
        try:
            while not self._stopping.is_set():
                chosen = rng.choice(len(self._rows), BATCH, replace=False)
                vectors = self._rows[chosen] + np.float32(1e-4)
                metadata = [{"number": row} for row in chosen.tolist()]
                self._docs.upsert([self._ids[row] for row in chosen], vectors, metadata)
                self._count += BATCH
                if self._pace is not None:
                    due = self._start + self._count / self._pace
                    self._stopping.wait(max(0.0, due - time.perf_counter()))
        except BaseException as error:  # noqa: BLE001  # raised by `stop`
            self._failed = error

    def stop(self) -> float:
        """End it; return the rows a second that it wrote."""
        self._stopping.set()
        took = time.perf_counter() - self._start
        self._thread.join()
        if self._failed is not None:
            raise self._failed
        return self._count / took
