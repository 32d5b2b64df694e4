"""How much a search must do to find what it should: measured once, when an index is built.

An **effort** is how many lists are probed and how many candidates are measured exactly. A **curve**
holds the efforts that paid on rows of the collection itself: each finds more of the ten nearest
than any cheaper one. A search names the recall it wants, or an `ef_search`, and gets the cheapest
effort on the curve that reached it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dvecdb.search.ivf import Codes, Points

    Numbers = npt.NDArray[np.int64]

TUNED_LIMIT: Final = 10
"""The number of nearest rows that recall is measured at."""
DEPTHS: Final = (16, 24, 32, 40, 50, 60, 75, 90, 110, 130, 150, 175, 200, 250, 300, 400, 600)
DEEPER: Final = (1_200, 1_600, 2_400, 3_200)
"""Tried with all lists where those do not find enough: codes say little of some rows."""
EF_MAX: Final = 1_000
_ROW_COST: Final = 130.0  # of a row measured exactly, in codes looked at
_ENOUGH: Final = 0.998  # found: more lists are not tried
_TOO_LITTLE: Final = 0.99
_SAFETY: Final = 0.25  # of what may be missed is kept in reserve: other queries are harder


class Effort(msgspec.Struct, frozen=True):
    """How much to do. recall: how much of the ten nearest rows that found when it was tuned."""

    probes: int
    depth: int
    recall: float

    def for_limit(self, limit: int, lists: int) -> Effort:
        """Return the effort for another number of nearest rows than it was tuned for."""
        share = max(1.0, limit / TUNED_LIMIT)
        return Effort(
            min(lists, ceil(self.probes * share**0.25)),
            max(ceil(self.depth * share**0.8), limit + self.depth // 2),
            self.recall,
        )

    def for_share(self, share: float, lists: int) -> Effort:
        """Return the effort where only this share of the rows counts: they lie further apart."""
        return Effort(min(lists, ceil(self.probes * share**-0.2)), self.depth, self.recall)


@dataclass(frozen=True, slots=True)
class Curve:
    """Efforts by rising cost and recall. The last one looks into every list."""

    efforts: tuple[Effort, ...]

    def at(self, recall: float, growth: float = 1.0) -> Effort | None:
        """Return the cheapest effort that found this much, with some in reserve.

        growth: times as many rows as when it was tuned: what those before missed, new ones, of
        which the lists know nothing, may miss as many times. Without reserve if none has it; None
        if none found this much.
        """
        wanted = 1.0 - (1.0 - recall) * (1.0 - _SAFETY) / max(1.0, growth)
        for effort in self.efforts:
            if effort.recall >= wanted:
                return effort
        return self.efforts[-1] if self.efforts[-1].recall >= recall else None

    def at_ef(self, ef_search: int, growth: float = 1.0) -> Effort:
        """Return the effort for an `ef_search`, which measures at least so many rows.

        It aims at recall 1 - 0.8 ef^-0.75, which is about what graphs reach with it.
        """
        effort = self.at(1.0 - 0.8 * ef_search**-0.75, growth) or self.efforts[-1]
        return Effort(effort.probes, max(effort.depth, ef_search), effort.recall)


@dataclass(frozen=True, slots=True)
class Aim:
    """What a search asks for. count: rows wanted, with those that `offset` passes over.

    recall, ef_search: at most one of them; neither: the default recall.
    """

    count: int
    recall: float | None
    ef_search: int | None
    default_recall: float

    @property
    def is_exact(self) -> bool:
        """Whether every row must be measured."""
        wanted = self.default_recall if self.recall is None else self.recall
        return self.ef_search is None and wanted >= 1.0

    def effort(self, curve: Curve, lists: int, share: float, growth: float = 1.0) -> Effort | None:
        """Return what it takes among this share of the rows of an index; None: it cannot do it.

        growth: times as many rows as when it was tuned.
        """
        effort: Effort | None
        if self.ef_search is not None:
            effort = curve.at_ef(self.ef_search, growth)
        else:
            recall = self.default_recall if self.recall is None else self.recall
            effort = curve.at(recall, growth)
        if effort is None:
            return None
        return effort.for_limit(self.count, lists).for_share(share, lists)


@dataclass(frozen=True, slots=True)
class Cost:
    """What an effort costs, in codes looked at. rows: in the index."""

    rows: int
    lists: int

    def of(self, probes: int, depth: int) -> float:
        """Return the cost of a search."""
        return self.rows * probes / self.lists + depth * _ROW_COST


def tune(codes: Codes, points: Points, truth: Numbers, cost: Cost) -> Curve:
    """Return the curve of an index.

    points: queries as points, float32[q, components]; truth: the rows nearest to each by number,
    int64[q, m], -1 where there are fewer. A query must not be a row that counts as its own answer.
    """
    deepest = DEPTHS[-1]
    found: list[tuple[float, Effort]] = []
    for probes in _probe_steps(codes.lists):
        numbers, _ = codes.search(points, probes, deepest)
        for depth, recall in zip(DEPTHS, recalls(numbers, truth, DEPTHS), strict=True):
            found.append((cost.of(probes, depth), Effort(probes, depth, recall)))
        if found[-1][1].recall >= _ENOUGH:
            break
    if found[-1][1].recall < _TOO_LITTLE:
        deepest = DEEPER[-1]
        numbers, _ = codes.search(points, codes.lists, deepest)
        for depth, recall in zip(DEEPER, recalls(numbers, truth, DEEPER), strict=True):
            found.append((cost.of(codes.lists, depth), Effort(codes.lists, depth, recall)))
    found.sort(key=lambda item: (item[0], -item[1].recall))
    efforts: list[Effort] = []
    for _, effort in found:
        if not efforts or effort.recall > efforts[-1].recall:
            efforts.append(effort)
    last = efforts[-1]
    if last.probes < codes.lists:
        efforts.append(Effort(codes.lists, deepest, last.recall))
    return Curve(tuple(efforts))


def recalls(numbers: Numbers, truth: Numbers, depths: Sequence[int]) -> list[float]:
    """Return for each depth how much of the truth is among so many first candidates."""
    wanted = int(np.count_nonzero(truth >= 0))
    places = np.full(truth.shape, np.iinfo(np.int64).max)
    for query in range(len(truth)):  # some hundred, when an index is built
        order = np.argsort(numbers[query], kind="stable")
        sorted_numbers = numbers[query][order]
        at = np.minimum(np.searchsorted(sorted_numbers, truth[query]), len(order) - 1)
        hit = (sorted_numbers[at] == truth[query]) & (truth[query] >= 0)
        places[query][hit] = order[at[hit]]
    if not wanted:
        return [1.0] * len(depths)
    return [float(np.count_nonzero(places < depth)) / wanted for depth in depths]


def _probe_steps(lists: int) -> list[int]:
    """Return how many lists are tried: 1, 2, 3, 4, 6, 8, 12, ... up to all."""
    steps = {lists}
    step = 1
    while step <= lists:
        steps |= {step, min(lists, step * 3 // 2)}
        step *= 2
    return sorted(steps)
