"""One row a request over HTTP: many connections against one, each sync longer than it is."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Measure, Options, alternate, fresh

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]

CONNECTIONS = 64
CALLS_OF_ONE = 100
CALLS_OF_EACH = 40
SLOW_SYNC_SECONDS = 0.004


def inserts(options: Options, rows: Rows) -> list[Measure]:
    """Durable single inserts a second, 64 connections against 1, with a sync of 4 ms."""
    pairs = alternate(
        options.rounds,
        lambda: _rate(options, rows, 1, CALLS_OF_ONE),
        lambda: _rate(options, rows, CONNECTIONS, CALLS_OF_EACH),
    )
    ratio = Measure("64 connections / 1, 4 ms sync", "x", [many / one for one, many in pairs])
    ratio.notes = {
        "inserts/s": statistics.median(many for _, many in pairs),
        "of one": statistics.median(one for one, _ in pairs),
    }
    return [ratio.against(at_least=8)]


def _rate(options: Options, rows: Rows, connections: int, calls: int) -> float:
    """Return inserts per second; every one was answered with 200, and all rows are there."""
    with fresh(options) as path, _server(path / "data", rows.shape[1]) as port:
        requests = [
            [_request(rows[(worker * calls + number) % len(rows)], f"{worker}-{number}")
             for number in range(calls)]
            for worker in range(connections)
        ]  # fmt: skip
        return asyncio.run(_load(port, requests))


@contextlib.contextmanager
def _server(path: Path, dimension: int) -> Iterator[int]:
    """Run a server with slow syncs in a process of its own; give its port."""
    given = {"path": str(path), "dimension": dimension, "sync_seconds": SLOW_SYNC_SECONDS}
    command = [sys.executable, "-m", "benchmarks.child", "serve", json.dumps(given)]
    root = Path(__file__).resolve().parent.parent
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.communicate("")


def _request(row: npt.NDArray[np.float32], record_id: str) -> bytes:
    data = base64.b64encode(row.tobytes()).decode()
    body = json.dumps({"id": record_id, "data": data}).encode()
    head = (
        "POST /collections/docs/vectors HTTP/1.1\r\nHost: here\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _load(port: int, requests: list[list[bytes]]) -> float:
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in requests]

    async def work(number: int) -> None:
        reader, writer = streams[number]
        for request in requests[number]:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            (size,) = (
                int(line.partition(b":")[2])
                for line in head.splitlines()
                if line.lower().startswith(b"content-length:")
            )
            body = await reader.readexactly(size)
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(body)

    start = time.perf_counter()
    await asyncio.gather(*(work(number) for number in range(len(requests))))
    took = time.perf_counter() - start
    for _, writer in streams:
        writer.close()
    return sum(map(len, requests)) / took
