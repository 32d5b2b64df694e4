"""Searches a second at a given recall: what is measured of dvecdb and of everything beside it.

The effort of each system is the lowest that reaches the recall on the queries that are measured:
were it chosen by others, some would be measured below the recall and some above. All systems have
their turn, slice by slice and each time in another order.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks.answers import LIMIT, Right

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]
    Search = Callable[[Rows], Any]

SLICES = 5  # of a round: whatever else the machine does should hit all alike
SLICE_SECONDS = 0.3
WARM_QUERIES = 10

RECALLS = (
    0.6, 0.7, 0.75, 0.8, 0.825, 0.85, 0.875, 0.89, 0.9, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.965,
    0.97, 0.975, 0.98, 0.985, 0.99, 0.9925, 0.995, 0.9975,
)  # fmt: skip
GRAPH_EFFORTS = (
    12, 16, 20, 24, 28, 32, 36, 40, 48, 56, 64, 72, 80, 96, 112, 128, 160, 192, 224, 256, 320,
    384, 448, 512, 640, 800,
)  # fmt: skip


class System(Protocol):
    """Something that is searched."""

    name: str
    efforts: Sequence[float]  # rising

    def at(self, effort: float) -> Search:
        """Return the search with this effort. Another effort may end its use."""

    def numbers(self, answer: Any) -> Sequence[int]:
        """Return the row numbers of an answer."""


class Ours:
    """The collection as it is used in this process: `docs.search`, everything included."""

    name = "dvecdb"
    efforts = RECALLS

    def __init__(self, docs: Any, **options: Any) -> None:
        self.docs, self.options = docs, options

    def at(self, effort: float) -> Search:
        docs, options = self.docs, self.options
        return lambda query: docs.search(query, limit=LIMIT, recall=effort, **options)

    def numbers(self, answer: Any) -> Sequence[int]:
        return [int(hit.id[4:]) for hit in answer]


@dataclass(frozen=True, slots=True)
class Level:
    """A system at the effort for a recall. recall: what it finds with it."""

    system: System
    effort: float
    recall: float

    def rate(self, queries: Rows, clients: int = 1) -> float:
        """Return the searches a second."""
        return rate(self.system.at(self.effort), queries, clients)


class Queries:
    """The queries, and what is right for each."""

    def __init__(self, rows: Rows, queries: Rows, **options: Any) -> None:
        self.measured = queries
        self._right = Right(rows, queries, **options)

    def recall(self, system: System, search: Search) -> float:
        """Return the recall of a search."""
        return self._right.recall(_answers(system, search, self.measured))

    def level(self, system: System, recall: float) -> Level:
        """Return a system at the lowest effort that finds this much; else at its highest."""
        low, high = 0, len(system.efforts) - 1
        while low < high:  # recall rises with the effort, but for noise
            middle = (low + high) // 2
            if self.recall(system, system.at(system.efforts[middle])) >= recall:
                high = middle
            else:
                low = middle + 1
        effort = system.efforts[low]
        return Level(system, effort, self.recall(system, system.at(effort)))


def _answers(system: System, search: Search, queries: Rows) -> dict[int, Sequence[int]]:
    return {at: system.numbers(search(query)) for at, query in enumerate(queries)}


def in_turn(
    rounds: int, calls: Mapping[str, Callable[[], float]], slices: int = SLICES
) -> dict[str, list[float]]:
    """Return by round the mean of what each call gives in some slices, each of all in turn."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for _ in range(rounds):
        parts: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(slices):
            start = (turn + len(found[names[0]])) % len(names)
            for name in names[start:] + names[:start]:
                parts[name].append(calls[name]())
        for name, values in parts.items():
            found[name].append(statistics.mean(values))
    return found


def rate(search: Search, queries: Rows, clients: int = 1, seconds: float = SLICE_SECONDS) -> float:
    """Return the searches a second of some threads that take the next query in turn."""
    for query in queries[:WARM_QUERIES]:
        search(query)
    gc.collect()
    if clients == 1:
        return _ask(search, itertools.cycle(queries), seconds)
    numbers = itertools.count()
    gate = threading.Barrier(clients)
    counts: list[float] = []
    failed: list[BaseException] = []

    def client() -> None:
        try:
            gate.wait()
            own = (queries[next(numbers) % len(queries)] for _ in itertools.repeat(None))
            counts.append(_ask(search, own, seconds))
        except BaseException as error:  # noqa: BLE001  # raised below
            failed.append(error)
            gate.abort()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return sum(counts)


def _ask(search: Search, queries: Any, seconds: float) -> float:
    """Return the searches a second of this thread."""
    count = 0
    start = now = time.perf_counter()
    for query in queries:
        search(query)
        count += 1
        now = time.perf_counter()
        if now - start >= seconds:
            break
    return count / (now - start)


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Return the quotients by round."""
    return [first / second for first, second in zip(over, under, strict=True)]


def fastest(rates: Mapping[str, list[float]]) -> str:
    """Return the name with the highest median."""
    return max(rates, key=lambda name: statistics.median(rates[name]))
