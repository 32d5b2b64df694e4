"""Tasks that need a process of their own: `python -m benchmarks.child TASK ARGUMENTS_AS_JSON`.

The answer is one JSON object on stdout. Clocks start after the imports, which are timed apart.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

_BEFORE = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
_START = time.perf_counter()

import numpy as np  # noqa: E402  # timed

import dvecdb  # noqa: E402

IMPORT_SECONDS = time.perf_counter() - _START

from benchmarks.index_data import READY_SECONDS, settings_for  # noqa: E402  # after the clock

from dvecdb.settings import Settings  # noqa: E402  # loaded already


def build(path: str, rows: str, batch: int, ids: str = "row-{:07}") -> dict[str, object]:
    """Write all rows in batches and close."""
    data = np.load(rows)
    with dvecdb.open(path) as database:
        docs = database.create_collection("docs", dimension=data.shape[1])
        for start in range(0, len(data), batch):
            end = min(start + batch, len(data))
            docs.upsert([ids.format(number) for number in range(start, end)], data[start:end])
    return {}


def fill_and_die(path: str, rows: str, batch: int) -> dict[str, object]:
    """Write batches up to just below the size that starts a flush, then end without a word."""
    data = np.load(rows, mmap_mode="r")
    database = dvecdb.open(path)
    docs = database.create_collection("docs", dimension=data.shape[1])
    start = before = 0
    while start + batch <= len(data):
        vectors = np.ascontiguousarray(data[start : start + batch])
        docs.upsert([f"row-{number:07}" for number in range(start, start + batch)], vectors)
        start += batch
        held = docs.stats().memtable_bytes
        if held + 2 * (held - before) >= Settings().flush_bytes:
            break
        before = held
    else:
        raise RuntimeError("not enough rows to come near a flush")
    Path(path + ".json").write_text(
        json.dumps({"rows": start, "wal_bytes": docs.stats().wal_bytes}), encoding="utf-8"
    )
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def reopen(path: str, query: list[float], expected: list[str]) -> dict[str, object]:
    """Open, search once, check the answer; how long each took and what it left in memory."""
    vector = np.array(query, dtype=np.float32)
    before = anonymous_bytes()
    start = time.perf_counter()
    database = dvecdb.open(path)
    docs = database.collection("docs")
    opened = time.perf_counter()
    memory_open = anonymous_bytes()
    searched = time.perf_counter()
    found = [hit.id for hit in docs.search(vector, limit=len(expected))]
    answered = time.perf_counter()
    memory_answered = anonymous_bytes()
    warm = time.perf_counter()
    docs.search(vector, limit=len(expected))
    warm = time.perf_counter() - warm
    count, findings = docs.count(), [item.code for item in database.findings()]
    database.close()
    return {
        "import": IMPORT_SECONDS,
        "open": opened - start,
        "answer": opened - start + answered - searched,
        "warm": warm,
        "memory_open": (memory_open - before) / 1e6,
        "memory_answered": (memory_answered - before) / 1e6,
        "correct": found == expected,
        "count": count,
        "findings": findings,
    }


def get_many(path: str, rows: int, count: int, seed: int) -> dict[str, object]:
    """Open and get random ids, twice the same number of other ones."""
    rng = np.random.default_rng(seed)
    asked = [[f"row-{n:07}" for n in rng.integers(0, rows, count).tolist()] for _ in range(6)]
    before = anonymous_bytes()
    start = time.perf_counter()
    database = dvecdb.open(path)
    docs = database.collection("docs")
    opened = time.perf_counter() - start
    memory = anonymous_bytes() - before
    times = []
    for ids in asked:
        start = time.perf_counter()
        records = docs.get(ids)
        times.append(time.perf_counter() - start)
        if [record.id for record in records] != ids:
            raise RuntimeError("wrong records")
    start = time.perf_counter()
    docs.get(asked[0])
    again = time.perf_counter() - start
    memory_used = anonymous_bytes() - before
    segments = docs.stats().segments
    database.close()
    return {
        "open": opened,
        "memory": memory / 1e6,
        "memory_used": memory_used / 1e6,
        "first": times[0],
        "warm": sorted(times[1:])[len(times[1:]) // 2],
        "again": again,
        "segments": segments,
    }


def serve(path: str, dimension: int, sync_seconds: float) -> dict[str, object]:
    """Serve a new collection, each sync longer by `sync_seconds`, until stdin ends."""
    from dvecdb.media.files import OsFiles
    from dvecdb.testing.faults import SlowSync
    from dvecdb.testing.serving import serving

    with serving(path, files=SlowSync(OsFiles(), sync_seconds)) as served:
        served.database.create_collection("docs", dimension=dimension)
        print(served.port, flush=True)
        sys.stdin.read()
    return {}


def index_memory(path: str, queries: str, rows: int) -> dict[str, object]:
    """Open, wait until the index is ready, search. Memory beyond that of the interpreter."""
    asked = np.load(queries)
    before, modules = anonymous_bytes(_BEFORE), anonymous_bytes()
    start = time.perf_counter()
    with dvecdb.open(path, settings=settings_for(rows)) as database:
        docs = database.collection("docs")
        stats = docs.wait_for_index(READY_SECONDS)
        ready = time.perf_counter() - start
        for query in asked:
            docs.search(query)
        memory = anonymous_bytes()
    return {
        "state": stats.state,
        "ready": ready,
        "memory": (memory - before - asked.nbytes) / 1e6,
        "modules": (modules - before) / 1e6,
        "index": stats.size_bytes / 1e6,
    }


def anonymous_bytes(status: str | None = None) -> int:
    """Return the memory of this process that no file stands behind: exact, unlike RssAnon."""
    status = status or Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("Anonymous:"))
    return int(line.split()[1]) * 1024


TASKS = {
    "build": build,
    "fill-and-die": fill_and_die,
    "reopen": reopen,
    "get-many": get_many,
    "index-memory": index_memory,
    "serve": serve,
}

if __name__ == "__main__":
    print(json.dumps(TASKS[sys.argv[1]](**json.loads(sys.argv[2]))))
