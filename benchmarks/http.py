"""What HTTP adds to a call: get and search over one connection, against the embedded calls.

The server is `dvecdb serve` in a process of its own. Binary is `dvecdb.connect`; JSON is what other
clients send, vectors as lists of numbers, encoded and decoded by msgspec.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from benchmarks.data import ids_of
from benchmarks.harness import Measure, Options, fresh

import dvecdb
from dvecdb.client.address import Limits, parse_address
from dvecdb.client.exchange import request_head
from dvecdb.client.sockets import SocketPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]

ROWS = 1_000
CALLS = 200  # a round
LIMIT = 10
BINARY_MS_MAX = 0.5
JSON_MS_MAX = 1.0


def http(options: Options, rows: Rows, queries: Rows) -> list[Measure]:
    """Get by id and search, embedded, binary and as JSON, in turn."""
    rows, ids = rows[:ROWS], ids_of(min(ROWS, len(rows)))
    with fresh(options) as path:
        for name in ("embedded", "served"):
            with dvecdb.open(path / name) as database:
                docs = database.create_collection("docs", dimension=rows.shape[1])
                docs.upsert(ids, rows, [{"n": number} for number in range(len(rows))])
        with contextlib.ExitStack() as stack:
            database = stack.enter_context(dvecdb.open(path / "embedded"))
            url = stack.enter_context(served(path / "served"))
            remote = stack.enter_context(dvecdb.connect(url))
            callers = {
                "embedded": _calls(database.collection("docs")),
                "binary": _calls(remote.collection("docs")),
                "JSON": _json_calls(url),
            }
            return [
                measure
                for what in ("get", "search")
                for measure in _compare(options, what, callers, ids, queries)
            ]


def _compare(
    options: Options,
    what: str,
    callers: dict[str, dict[str, Callable[[str, Rows], Any]]],
    ids: list[str],
    queries: Rows,
) -> list[Measure]:
    times: dict[str, list[float]] = {name: [] for name in callers}
    cpu: dict[str, list[float]] = {name: [] for name in callers}
    for number in range(options.rounds + 1):  # the first warms up
        found = _round({name: calls[what] for name, calls in callers.items()}, ids, queries)
        for name, (took, used) in found.items():
            if number:
                times[name].append(took)
                cpu[name].append(used)
    measures = []
    for name, limit in (("binary", BINARY_MS_MAX), ("JSON", JSON_MS_MAX)):
        added = [own - plain for own, plain in zip(times[name], times["embedded"], strict=True)]
        measure = Measure(f"{what} over HTTP, {name}, added", "ms", added).against(at_most=limit)
        measure.notes = {
            "ms": statistics.median(times[name]),
            "embedded ms": statistics.median(times["embedded"]),
            "client CPU ms": statistics.median(cpu[name]),
        }
        measures.append(measure)
    return measures


def _round(
    calls: dict[str, Callable[[str, Rows], Any]], ids: list[str], queries: Rows
) -> dict[str, tuple[float, float]]:
    """Return the median milliseconds of each kind of call, and CPU milliseconds of this thread.

    The kinds take turns call by call: an embedded call in a loop of its own would find the rows in
    the caches and its processor awake, as no caller does who waits for anything.
    """
    gc.collect()
    took: dict[str, list[float]] = {name: [] for name in calls}
    used = dict.fromkeys(calls, 0.0)
    for number in range(CALLS):
        record_id, query = ids[number * 37 % len(ids)], queries[number % len(queries)]
        for name, call in calls.items():
            cpu, start = time.thread_time(), time.perf_counter()
            call(record_id, query)
            took[name].append(time.perf_counter() - start)
            used[name] += time.thread_time() - cpu
    return {name: (statistics.median(took[name]) * 1e3, used[name] / CALLS * 1e3) for name in calls}


def _calls(docs: Any) -> dict[str, Callable[[str, Rows], Any]]:
    return {
        "get": lambda record_id, _: docs.get([record_id]),
        "search": lambda _, query: docs.search(query, limit=LIMIT),
    }


def _json_calls(url: str) -> dict[str, Callable[[str, Rows], Any]]:
    address = parse_address(url, verify=True)
    pool = SocketPool(address, Limits())
    fixed = f"host: {address.authority}\r\ncontent-type: application/json\r\n".encode()

    def ask(method: str, path: str, body: bytes) -> Any:
        answer = pool.exchange(request_head(method, f"/collections/docs{path}", {}, fixed), body)
        assert answer.status == 200, answer.body
        return msgspec.json.decode(answer.body)["data"]

    def get(record_id: str, _: Rows) -> Any:
        return np.array(ask("GET", f"/vectors/{record_id}", b"")["data"], np.float32)

    def search(_: str, query: Rows) -> Any:
        request = {"vector": query.tolist(), "limit": LIMIT}
        return ask("POST", "/search", msgspec.json.encode(request))

    return {"get": get, "search": search}


@contextlib.contextmanager
def served(path: Path, *arguments: str) -> Iterator[str]:
    """Run `dvecdb serve` and give its URL."""
    command = [sys.executable, "-m", "dvecdb", "serve", "--data-dir", str(path)]
    command += ["--rest-port", "0", "--metrics-port", "0", "--log-format", "json", *arguments]
    server = subprocess.Popen(
        command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert server.stdout is not None
        for line in server.stdout:
            event = json.loads(line)
            if event["event"] == "server.started":
                yield event["rest"]
                break
        else:
            raise RuntimeError("the server did not start")
    finally:
        server.terminate()
        server.communicate()
