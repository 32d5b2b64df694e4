"""Writing: large batches, one bulk call, one row a call, many threads."""

from __future__ import annotations

import gc
import os
import statistics
import threading
import time
from typing import TYPE_CHECKING

from benchmarks.data import ids_of
from benchmarks.harness import (
    MEMORY_FACTOR,
    Measure,
    Options,
    alternate,
    costed,
    fresh,
    plain_write,
    timed,
)

from dvecdb.media.files import OsFiles
from dvecdb.protection.database import Database
from dvecdb.settings import Settings
from dvecdb.testing.faults import SlowSync

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from dvecdb.media.files import Files
    from dvecdb.protection.collection import Collection

    Rows = npt.NDArray[np.float32]

BATCH = 1000
THREADS = 64
CALLS = 200  # per round, of one client, and of each of many threads
SLOW_SYNC_SECONDS = 0.004


def ingest(options: Options, rows: Rows) -> list[Measure]:
    """Batches of 1,000 rows through the log, against one plain write of the same bytes."""
    ids, closing, busy, waits = ids_of(len(rows)), [], [], []

    def engine() -> float:
        with fresh(options, MEMORY_FACTOR * rows.nbytes) as path:
            database, docs = _open(path, rows.shape[1])

            def write() -> None:
                for start in range(0, len(rows), BATCH):
                    docs.upsert(ids[start : start + BATCH], rows[start : start + BATCH])

            took, used, waited = costed(write)
            busy.append(used)
            waits.append(waited)
            closing.append(took + timed(database.close))
            return took

    pairs = alternate(options.rounds, engine, lambda: plain_write(options, rows))
    ratio = Measure("ingest / plain write", "x", [plain / own for own, plain in pairs])
    ratio.notes = {
        "MB/s": rows.nbytes / 1e6 / statistics.median(own for own, _ in pairs),
        "plain MB/s": rows.nbytes / 1e6 / statistics.median(plain for _, plain in pairs),
        "CPU s": statistics.median(busy),
        "waited for CPU s": statistics.median(waits),
    }
    closed = [plain / own for own, (_, plain) in zip(closing, pairs, strict=True)]
    return [ratio.against(at_least=0.35), Measure("ingest and close / plain write", "x", closed)]


def bulk(options: Options, rows: Rows) -> list[Measure]:
    """One call with all rows, against one plain write of the same bytes."""
    ids, busy, waits = ids_of(len(rows)), [], []

    def engine() -> float:
        with fresh(options, MEMORY_FACTOR * rows.nbytes) as path:
            database, docs = _open(path, rows.shape[1])
            with database:
                took, used, waited = costed(lambda: docs.upsert(ids, rows))
            busy.append(used)
            waits.append(waited)
            return took

    pairs = alternate(options.rounds, engine, lambda: plain_write(options, rows))
    ratio = Measure("bulk / plain write", "x", [plain / own for own, plain in pairs])
    ratio.notes = {
        "MB/s": rows.nbytes / 1e6 / statistics.median(own for own, _ in pairs),
        "plain MB/s": rows.nbytes / 1e6 / statistics.median(plain for _, plain in pairs),
        "CPU s": statistics.median(busy),
        "waited for CPU s": statistics.median(waits),
    }
    return [ratio.against(at_least=0.6)]


def single(options: Options, rows: Rows) -> list[Measure]:
    """One row a call, against one synced append of the same size, call by call."""
    medians, tails = [], []
    for _ in range(options.rounds):
        with fresh(options) as path:
            database, docs = _open(path / "data", rows.shape[1])
            file = os.open(path / "plain", os.O_CREAT | os.O_WRONLY)
            own, plain = [], []
            gc.collect()
            for number in range(CALLS):
                row, record_id = rows[number % len(rows)], f"row-{number}"
                start = time.perf_counter()
                os.write(file, row)
                os.fdatasync(file)
                middle = time.perf_counter()
                docs.upsert([record_id], row[None])
                own.append(time.perf_counter() - middle)
                plain.append(middle - start)
            database.close()
            os.close(file)
        for cut, target in ((50, medians), (99, tails)):
            target.append((_percentile(own, cut), _percentile(plain, cut)))
    measures = []
    for name, pairs in (("median", medians), ("p99", tails)):
        measure = Measure(f"one row a call, {name}", "x", [own / plain for own, plain in pairs])
        own, plain = (statistics.median(pair[side] for pair in pairs) * 1e3 for side in (0, 1))
        measure.notes = {"ms": own, "append ms": plain}
        measure.target, measure.ok = "<= 2, +0.2 ms", measure.median <= 2 or own - plain <= 0.2
        measures.append(measure)
    return measures


def threads(options: Options, rows: Rows) -> list[Measure]:
    """64 threads, one row a call: with a slow sync against one thread, and on the disk as it is."""
    slow = Settings(ballast_bytes=0)
    ratios, pairs_rows = [], []
    for one, many in alternate(
        options.rounds,
        lambda: _rate(options, rows, 1, SlowSync(OsFiles(), SLOW_SYNC_SECONDS), slow)[0],
        lambda: _rate(options, rows, THREADS, SlowSync(OsFiles(), SLOW_SYNC_SECONDS), slow)[0],
    ):
        ratios.append(many / one)
        pairs_rows.append((one, many))
    grouped = Measure("64 threads / 1 thread, 4 ms sync", "x", ratios)
    grouped.notes = {
        "rows/s": statistics.median(many for _, many in pairs_rows),
        "of one": statistics.median(one for one, _ in pairs_rows),
    }
    found = [_rate(options, rows, THREADS, OsFiles(), slow) for _ in range(options.rounds)]
    real = Measure("64 threads on the disk", "rows/s", [item[0] for item in found])
    syncs = Measure("64 threads: syncs per 1,000 rows", "", [item[1] for item in found])
    busy = Measure("64 threads: CPU time a row", "us", [item[2] for item in found])
    return [grouped.against(at_least=20), real.against(at_least=8000), syncs, busy]


def _rate(
    options: Options, rows: Rows, count: int, files: Files, settings: Settings
) -> tuple[float, float, float]:
    """Return rows per second, syncs per 1,000 rows and microseconds of CPU a row."""
    with fresh(options) as path:
        database = Database(str(path), files=files, settings=settings)
        docs = database.create_collection("docs", dimension=rows.shape[1])
        barrier = threading.Barrier(count + 1)
        calls = CALLS if count > 1 else CALLS // 2

        def work(worker: int) -> None:
            barrier.wait()
            for number in range(calls):
                row = rows[(worker * calls + number) % len(rows)]
                docs.upsert([f"row-{worker}-{number}"], row[None])

        workers = [threading.Thread(target=work, args=(number,)) for number in range(count)]
        for worker in workers:
            worker.start()
        before = docs.stats().syncs
        barrier.wait()
        start, busy = time.perf_counter(), time.process_time()
        for worker in workers:
            worker.join()
        took, busy = time.perf_counter() - start, time.process_time() - busy
        total = count * calls
        stats = docs.stats()
        if stats.count != total:
            raise RuntimeError(f"{stats.count} rows of {total}")
        database.close()
    return total / took, (stats.syncs - before) * 1000 / total, busy / total * 1e6


def _open(path: Path, dimension: int) -> tuple[Database, Collection]:
    database = Database(str(path))
    return database, database.create_collection("docs", dimension=dimension)


def _percentile(values: list[float], cut: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * cut // 100)]
