"""One system in a process of its own: `python -m benchmarks.peers.worker NAME DIRECTORY`.

Each line of stdin is a JSON object, a task and its arguments; each line of stdout is the answer or
`{"error": ...}`. What a library prints goes to stderr instead. DIRECTORY holds the rows as
`rows.npy` and `shares.npy`, the queries as `tune.npy` and `measure.npy`.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.peers.adapter import NotSupportedError, System, metadata_of
from benchmarks.peers.memory import anonymous_bytes
from benchmarks.peers.registry import entry

if TYPE_CHECKING:
    import numpy.typing as npt
    from benchmarks.peers.adapter import Effort, Metadata, Session

    Rows = npt.NDArray[np.float32]

BATCH_ROWS = 1_000
WARM_SEARCHES = 20
WARM_SECONDS = 0.5


class Worker:
    """The system and what is asked of it."""

    system: System
    closed = True

    def __init__(self, name: str, directory: Path) -> None:
        self.name, self.directory = name, directory
        self.queries = {what: np.load(directory / f"{what}.npy") for what in ("tune", "measure")}

    def load(self) -> dict[str, Any]:
        """Import the system. Memory before that is the interpreter's, numpy's and the queries'."""
        self.before = anonymous_bytes([os.getpid()])
        start = time.perf_counter()
        self.system = entry(self.name).load()
        return {
            "seconds": time.perf_counter() - start,
            "durability": self.system.durability,
            "copied_closed": self.system.copied_closed,
        }

    def ladders(self) -> dict[str, Any]:
        """Return the efforts to try."""
        return {"ladders": self.system.ladders}

    def fill(self, path: str) -> dict[str, Any]:
        """Insert every row, make it durable, then wait for the index."""
        rows = np.asarray(np.load(self.directory / "rows.npy", mmap_mode="r"))
        shares = np.load(self.directory / "shares.npy").tolist()
        metadata = [metadata_of(number, share) for number, share in enumerate(shares)]
        rows.sum()  # what is read from the disk is not the system's time
        self.closed = False
        self.system.create(Path(path), rows.shape[1], len(rows))
        gc.collect()
        start = time.perf_counter()
        for first in range(0, len(rows), BATCH_ROWS):
            end = min(first + BATCH_ROWS, len(rows))
            self.system.insert(first, rows[first:end], metadata[first:end])
        self.system.sync()
        durable = time.perf_counter()
        self.system.index()
        return {"durable": durable - start, "searchable": time.perf_counter() - start}

    def open(self, path: str) -> dict[str, Any]:
        """Open what another process filled."""
        dimension = self.queries["tune"].shape[1]
        self.closed = False
        start = time.perf_counter()
        self.system.open(Path(path), dimension)
        return {"seconds": time.perf_counter() - start}

    def state(self) -> dict[str, Any]:
        """Return the memory beyond the interpreter, and which processes serve."""
        gc.collect()
        pids = self.system.processes()
        memory = anonymous_bytes([os.getpid(), *pids]) - self.before
        return {"memory": memory, "pids": pids, "versions": self.system.versions()}

    def answer(self, query: int, effort: Effort) -> dict[str, Any]:
        """Answer one of the measured queries, nothing warm."""
        start = time.perf_counter()
        self.system.prepare(effort, None)
        session = self.system.session()
        found = session.search(self.queries["measure"][query])
        seconds = time.perf_counter() - start
        session.close()
        return {"seconds": seconds, "answer": [item["number"] for item in found]}

    def round(
        self,
        what: str,
        effort: Effort,
        below: int | None,
        clients: int,
        at_least: float,
        at_most: float,
    ) -> dict[str, Any]:
        """Let clients answer all queries as often as it takes, each the next one, for seconds."""
        self.system.prepare(effort, below)
        drill = Drill(self.system, self.queries[what], at_least, at_most)
        return drill.run(clients)

    def copy(self, target: str) -> dict[str, Any]:
        """Copy or back up."""
        if self.system.copied_closed:
            self.close()
        os.sync()
        start = time.perf_counter()
        self.system.copy(Path(target))
        return {"seconds": time.perf_counter() - start}

    def close(self) -> dict[str, Any]:
        """Close the system, if it is open."""
        start = time.perf_counter()
        if not self.closed:
            self.system.close()
        self.closed = True
        return {"seconds": time.perf_counter() - start}


class Drill:
    """One round: some threads, each with a session, take the next query until time is up."""

    def __init__(self, system: System, queries: Rows, at_least: float, at_most: float) -> None:
        self.system, self.queries = system, queries
        self.at_least, self.at_most = at_least, at_most
        self.next = itertools.count()
        self.taken: list[float] = []
        self.answers: dict[int, list[Metadata]] = {}
        self.errors: list[BaseException] = []

    def run(self, clients: int) -> dict[str, Any]:
        """Return how many queries took how long and the first answer to each."""
        self.started = threading.Barrier(clients + 1, action=self.start)
        gc.collect()
        threads = [threading.Thread(target=self.client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        with contextlib.suppress(threading.BrokenBarrierError):
            self.started.wait()
        for thread in threads:
            thread.join()
        if self.errors:
            raise self.errors[0]
        took = self.ended - self.begun
        p50, p99 = np.percentile(self.taken, [50, 99]).tolist()
        answers = {at: [item["number"] for item in found] for at, found in self.answers.items()}
        return {
            "qps": len(self.taken) / took,
            "p50_ms": p50 * 1e3,
            "p99_ms": p99 * 1e3,
            "searches": len(self.taken),
            "answers": answers,
        }

    def start(self) -> None:
        self.begun = self.ended = time.perf_counter()

    def client(self) -> None:
        try:
            session = self.system.session()
            self.warm(session)
            self.started.wait()
            self.ask(session)
            session.close()
        except BaseException as error:  # noqa: BLE001  # told to whoever asked for the round
            self.errors.append(error)
            self.started.abort()

    def warm(self, session: Session) -> None:
        until = time.perf_counter() + WARM_SECONDS
        for query in self.queries[:WARM_SEARCHES]:
            session.search(query)
            if time.perf_counter() > until:
                break

    def ask(self, session: Session) -> None:
        while True:
            number = next(self.next)
            at = number % len(self.queries)
            start = time.perf_counter()
            spent = start - self.begun
            if spent > self.at_most or (number >= len(self.queries) and spent > self.at_least):
                break
            found = session.search(self.queries[at])
            end = time.perf_counter()
            self.taken.append(end - start)
            self.ended = max(self.ended, end)
            if number < len(self.queries):
                self.answers[at] = list(found)


def main() -> None:
    """Answer until stdin ends, then close: nothing that serves is left behind."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker(sys.argv[1], Path(sys.argv[2]))
    try:
        for line in sys.stdin:
            out.write(json.dumps(answered(worker, **json.loads(line))) + "\n")
            out.flush()
    finally:  # also where whoever asked has died
        worker.close()


def answered(worker: Worker, task: str, **arguments: Any) -> dict[str, Any]:
    """Return the answer of a task, or why there is none."""
    try:
        return getattr(worker, task)(**arguments)
    except NotSupportedError as error:
        return {"not_supported": str(error)}
    except Exception as error:  # noqa: BLE001  # told to whoever asked
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main()
