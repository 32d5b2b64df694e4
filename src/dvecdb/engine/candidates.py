"""Measuring what an index found: where the rows lie if that is known, else by reading them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dvecdb.search.rerank import Candidates

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dvecdb.engine.located import Located
    from dvecdb.engine.rows import View
    from dvecdb.records import VectorType
    from dvecdb.search.compiled import Nearest, Question, Scan

    Flags = npt.NDArray[np.bool_]
    Numbers = npt.NDArray[np.int64]
    Distances = npt.NDArray[np.float64]


class Measured(NamedTuple):
    """The nearest rows, int64[n] and float64[n], by (distance, row); and damaged candidates.

    considered: how many candidates there were.
    """

    rows: Numbers
    distances: Distances
    damaged: list[int]
    considered: int


@dataclass(frozen=True, slots=True)
class Measuring:
    """Who measures candidates for one query. located: where rows lie; None: they are read."""

    view: View
    vector_type: VectorType
    located: Located | None
    asked: Question

    def of(self, candidates: Numbers, *, roughly: bool = True) -> Measured:
        """Return the nearest of rows of an index. roughly: float32 can measure them all."""
        if self.located is None:
            return self._read(candidates, roughly=roughly)
        return self._completed(self.located.nearest(self.asked, candidates), roughly=roughly)

    def by(self, scan: Scan, allowed: Flags | None, wanted: int, at_least: int) -> Measured | None:
        """Return the nearest of the first `wanted` candidates that are allowed, bool by place.

        None if there were fewer than `at_least`. Only where it is known where rows lie.
        """
        assert self.located is not None
        found = self.located.search(self.asked, scan, allowed, wanted)
        return None if found.candidates < at_least else self._completed(found, roughly=True)

    def _completed(self, found: Nearest, *, roughly: bool) -> Measured:
        if not len(found.unknown):
            return Measured(found.places, found.distances, [], found.candidates)
        others = self._read(found.unknown, roughly=roughly)
        parts = [(found.places, found.distances), others[:2]]
        nearest = merged(parts, self.asked.limit)
        return Measured(*nearest, others.damaged, found.candidates)

    def _read(self, candidates: Numbers, *, roughly: bool) -> Measured:
        damaged: list[int] = []
        candidates = np.sort(candidates)
        query, metric, limit = self.asked.query, self.asked.metric, self.asked.limit
        measured = Candidates(
            query, metric, self.vector_type.dtype, limit, len(candidates), roughly=roughly
        )
        stored = candidates
        if len(candidates) and int(candidates[-1]) >= self.view.memory_start():
            stored = self._add_from_memory(candidates, measured, damaged)
        for segment, first, end in self.view.slices(stored):
            numbers = stored[first:end]
            ordinals = segment.ordinals_of(numbers)
            if segment.row_numbers is not None:
                held = ordinals >= 0
                ordinals, numbers = ordinals[held], numbers[held]
            bad = segment.unreadable_rows(ordinals)
            if len(bad):
                good = ~np.isin(ordinals, bad)
                damaged += numbers[~good].tolist()
                ordinals, numbers = ordinals[good], numbers[good]
            measured.add(segment.vectors, ordinals, numbers)
            if self.located is not None:
                self.located.learn(segment, ordinals)
        return Measured(*measured.nearest(), damaged, len(candidates))

    def _add_from_memory(
        self, candidates: Numbers, measured: Candidates, damaged: list[int]
    ) -> Numbers:
        """Add the candidates that are in memtables; return the others."""
        stored = np.ones(len(candidates), dtype=np.bool_)
        for memtable in self.view.memtables:
            for chunk in memtable.chunks:
                first, end = np.searchsorted(
                    candidates, [chunk.first_row, chunk.first_row + chunk.used]
                ).tolist()
                if first == end:
                    continue
                numbers = candidates[first:end]
                stored[first:end] = False
                if memtable.lost_vectors:
                    lost = np.isin(numbers, list(memtable.lost_vectors))
                    damaged += numbers[lost].tolist()
                    numbers = numbers[~lost]
                elif self.located is not None:
                    self.located.learn_chunk(chunk)
                measured.add(chunk.vectors, numbers - chunk.first_row, numbers)
        return candidates[stored]


def merged(parts: Sequence[tuple[Numbers, Distances]], limit: int) -> tuple[Numbers, Distances]:
    """Return the nearest of what was found apart, by (distance, row)."""
    rows, distances = map(np.concatenate, zip(*parts, strict=True))
    order = np.lexsort((rows, distances))[:limit]
    return rows[order], distances[order]
