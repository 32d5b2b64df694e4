"""Searches among few rows: each query with another filter, and all with the same one.

The filter is on a metadata field, read and decided on as part of the search. A search among a
thousandth of the rows has another tenth nearest row than one among all: both are at the lowest
effort that reaches the recall.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.answers import LIMIT, Right, halves
from benchmarks.harness import Measure, Options, fresh
from benchmarks.index_data import SHARES, indexed, shares_of
from benchmarks.rates import RECALLS, Ours, Queries, in_turn, rate, ratios

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]
    Where = dict[str, Any]

RECALL = 0.95
WIDTHS = (1, 10, 100, 500)  # values of `share` out of 1,000
WINDOWS = 40  # different filters that recall is measured with
RATE_MIN = 0.9


def index_filters(options: Options, rows: Rows, queries: Rows) -> list[Measure]:
    """Filtered searches against unfiltered ones, in turn."""
    with fresh(options) as path, indexed(path / "data", rows) as docs:
        asked = Queries(rows, queries)
        plain = asked.level(Ours(docs), RECALL)
        drills = {
            (width, moving): Filtered(docs, rows, queries, width, moving=moving)
            for width in WIDTHS
            for moving in (True, False)
        }
        calls: dict[str, Callable[[], float]] = {
            "plain": partial(plain.rate, asked.measured),
            **{str(key): drill.rate for key, drill in drills.items()},
        }
        found = in_turn(options.rounds, calls)
    measures = []
    for (width, moving), drill in drills.items():
        own = found[str((width, moving))]
        kind = "other filters" if moving else "same filter"
        name = f"QPS {100 * width / SHARES:g} %, {kind} / all"
        measure = Measure(name, "x", ratios(own, found["plain"]))
        measure.notes = {
            "QPS": statistics.median(own),
            "QPS of all": statistics.median(found["plain"]),
            "recall": drill.recall,
            "effort": drill.effort,
            "plan": drill.plan,
        }
        measures.append(measure.against(at_least=RATE_MIN))
    return measures


class Filtered:
    """Searches for rows whose `share` lies in a window of a width."""

    def __init__(self, docs: Any, rows: Rows, queries: Rows, width: int, *, moving: bool) -> None:
        """Choose the effort. moving: each query has another window."""
        self._docs = docs
        starts = np.arange(WINDOWS) * (SHARES - width) // (WINDOWS - 1) if moving else [0] * WINDOWS
        self._wheres = [_where(int(start), width) for start in starts]
        self._asked = self._wheres
        if moving:  # any of them, so that none comes back soon
            every = np.random.default_rng(width).permutation(SHARES - width + 1)
            self._asked = [_where(int(start), width) for start in every]
        shares = shares_of(len(rows))
        inside = np.array([(shares >= start) & (shares < start + width) for start in starts])
        self._tuned, self._measured = halves(queries)
        tuned, measured = (
            Right(rows, half, counts=inside[np.arange(len(half)) % WINDOWS])
            for half in (self._tuned, self._measured)
        )
        found = partial(self._recall, tuned, self._tuned)
        self.effort = next((effort for effort in RECALLS if found(effort) >= RECALL), RECALLS[-1])
        self.recall = self._recall(measured, self._measured, self.effort)
        self.plan = self._search(0, self._measured[0], self.effort, explain=True).explained.plan

    def _search(self, number: int, query: Rows, effort: float, **options: Any) -> Any:
        where = self._wheres[number % WINDOWS]
        return self._docs.search(query, limit=LIMIT, recall=effort, where=where, **options)

    def _recall(self, right: Right, queries: Rows, effort: float) -> float:
        return right.recall(
            {
                number: [int(hit.id[4:]) for hit in self._search(number, query, effort)]
                for number, query in enumerate(queries)
            }
        )

    def rate(self) -> float:
        """Return the searches a second."""
        numbers = iter(range(10**9))
        return rate(
            lambda query: self._docs.search(
                query, limit=LIMIT, recall=self.effort,
                where=self._asked[next(numbers) % len(self._asked)],
            ),
            self._measured,
        )  # fmt: skip


def _where(start: int, width: int) -> Where:
    below: dict[str, int] = {"lt": start + width}
    return {"must": [{"key": "share", "range": below | ({"gte": start} if start else {})}]}
