"""The nearest rows of a query at one LSN: which plan is taken, and how it is carried out.

    every row        no index, few rows, a filter that leaves few, or recall 1.0: measured exactly
    index            its candidates measured exactly, rows it does not cover all measured
    index, filtered  the same among the rows that match: as one bit a row they go into its scan,
                     and the fewer they are the more lists are looked into

Whatever the plan, distances are exact, and rows are in order of (distance, row).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from dvecdb.engine.candidates import Measured, Measuring, merged
from dvecdb.engine.index import MatchingRows
from dvecdb.engine.rows import live_mask
from dvecdb.records import Metric
from dvecdb.results import Explained
from dvecdb.search.compiled import Question
from dvecdb.search.distance import TopK, needs_norms
from dvecdb.search.ivf import LENGTH_MAX
from dvecdb.search.kernels import row_length

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from dvecdb.engine.index import Index, LiveRows
    from dvecdb.engine.matching import Matching
    from dvecdb.engine.memtable import Chunk
    from dvecdb.engine.rows import View
    from dvecdb.engine.segment import Segment
    from dvecdb.records import Schema
    from dvecdb.search.effort import Aim, Effort
    from dvecdb.search.ivf import Codes

    Numbers = npt.NDArray[np.int64]
    Distances = npt.NDArray[np.float64]
    Flags = npt.NDArray[np.bool_]

_BLOCK_BYTES: Final = 16 * 1024 * 1024
_EXACT_BYTES: Final = 768 * 1024
"""Rows that match and are no more than this are measured one by one: quicker, and exact."""
_SCATTERED: Final = 16
"""Rows here and there take so many times as long to measure as rows side by side."""
_SIFTED_SHARE_MIN: Final = 0.25
"""From this share of rows on, others are sifted out of more candidates: that costs less than
keeping them out of the scan, which is done where too few are left."""
_SPARE_DEPTH: Final = 1.2  # times as many candidates as that share asks for


@dataclass(slots=True)
class Found:
    """The nearest rows: int64[n], float64[n]. damaged: rows that might be among them."""

    rows: Numbers
    distances: Distances
    damaged: list[int]


@dataclass(slots=True)
class Nearest:
    """One consistent state that is searched, for one filter: any number of queries, in turn.

    now_ns: to tell the time of the stages, where that is asked for.
    """

    view: View
    schema: Schema
    lsn: int
    row_limit: int
    index: Index | None
    matching: Matching | None = None
    now_ns: Callable[[], int] | None = None
    explained: Explained | None = None
    _live: LiveRows | None = None
    _allowed: Flags | None = None
    _found_matching: MatchingRows | None = None
    _bits: npt.NDArray[np.uint8] | None = None
    _count: int = 0
    _masks: dict[int, Flags] = field(default_factory=dict)
    _prepared: bool = False
    _is_own: bool = False
    _measured: int = 0
    _seconds: dict[str, float] = field(default_factory=dict)
    _mark_ns: int = 0

    def find(self, query: npt.NDArray[np.float32], wanted: Aim) -> Found:
        """Return the rows nearest to `query`, float32[dimension], finite."""
        self._start()
        index, effort, why = self._index_for(query, wanted)
        if index is not None and effort is None:
            return self._few(index, query, wanted, why)
        if index is None or effort is None:
            self._measured = 0
            nearest = self._top(query, wanted.count)
            damaged = self._offer_from(nearest, 0)
            return self._found(nearest.result(), damaged, "exact", why)
        return self._through(index, query, wanted, effort, why)

    def again(self) -> Nearest:
        """Return the same for use by another thread; what was found out is shared."""
        return replace(self, _seconds={}, _masks=dict(self._masks))

    # --- the plan ---

    def _index_for(
        self, query: npt.NDArray[np.float32], wanted: Aim
    ) -> tuple[Index | None, Effort | None, str]:
        """Return the index and the effort, or None for either, and why.

        Without effort all rows of the index that may be found are measured, one by one.
        """
        index = self.index
        if index is None:
            return None, None, "there is no index"
        if wanted.is_exact:
            return None, None, "recall 1.0 was asked for"
        length = row_length(query)
        if not length and self.schema.metric in {Metric.COSINE, Metric.DOT_PRODUCT}:
            return None, None, "the query is zero: every row is as far"
        if length > LENGTH_MAX:
            return None, None, "the query is too long for the index"
        self._prepare(index)
        if self._count * self.schema.vector_bytes <= _EXACT_BYTES:
            few = "live" if self.matching is None else "matching"
            return index, None, f"only {self._count} {few} rows are in the index"
        assert self._live is not None
        share = self._count / max(index.codes.count, 1)
        effort = wanted.effort(
            index.curve, index.codes.lists, 1.0 if self.matching is None else min(1.0, share),
            self._live.count / max(index.trained_rows, 1),
        )  # fmt: skip
        if effort is None:
            return None, None, "the index was not seen to find as much as is asked for"
        if self.matching is not None and effort.depth * 2 >= self._count:
            return index, None, f"only {self._count} matching rows are in the index"
        if self.matching is None and effort.depth * _SCATTERED >= self._count:
            return None, None, f"{effort.depth} of {self._count} rows would be measured anyway"
        return index, effort, "large enough"

    def _prepare(self, index: Index) -> None:
        """Find out which rows of the index may be found."""
        if self._prepared:
            return
        self._prepared = True
        self._live = live = index.live(self.view, self.lsn, self.row_limit)
        self.lap("live")
        if self.matching is None:
            self._count, self._allowed, self._bits = live.count, live.mask, live.bits
            return
        key = (self.matching.where, self.lsn, self.row_limit)
        found = index.matching(key)
        if found is None:
            allowed = np.zeros(index.places.rows, dtype=np.bool_)
            for source, count in self.view.sources(min(index.row_end, self.row_limit)):
                index.put(allowed, source, self._mask(source, count))
            if live.mask is not None:
                allowed &= live.mask
            found = MatchingRows(allowed, int(np.count_nonzero(allowed)))
            if not self.matching.damaged:  # else all have to be named, each time
                index.keep_matching(key, found)
        self._found_matching, self._allowed, self._count = found, found.mask, found.total
        self.lap("filter")

    def _packed(self) -> npt.NDArray[np.uint8] | None:
        """Return which places may be found, as the codes take it; None: all."""
        found = self._found_matching
        if found is None:
            return self._bits
        if found.bits is None:
            found.bits = np.packbits(found.mask, bitorder="little")
        return found.bits

    def _codes(self, index: Index) -> tuple[Codes, bool]:
        """Return the codes to look at, and whether they are those of the filter alone."""
        if self.matching is None or self._allowed is None or not self.matching.is_by_metadata:
            return index.codes, False
        own = index.filters.ask(self.matching.where)
        if own is None or not own.covers((self.lsn, self.row_limit), self._allowed):
            return index.codes, False
        return own.codes, True

    def _mask(self, source: Segment | Chunk, count: int) -> Flags:
        """Return which of the first rows of a source match: bool[count]."""
        assert self.matching is not None
        known = self._masks.get(id(source))
        if known is None or len(known) < count:
            known = self._masks[id(source)] = self.matching.mask(source, count)
        return known[:count]

    # --- through the index ---

    def _few(self, index: Index, query: npt.NDArray[np.float32], wanted: Aim, why: str) -> Found:
        """Measure the few rows of the index that may be found, and all that it does not cover."""
        if self._allowed is None:
            places = np.arange(index.places.rows)
        else:
            places = np.flatnonzero(self._allowed)
        rows = index.places.rows_at(places)
        roughly = not len(index.apart)
        found = self._measuring(index, query, wanted).of(rows, roughly=roughly)
        damaged = found.damaged
        self._measured = len(rows)
        nearest = self._with_rest(index, query, wanted, [found[:2]], damaged)
        return self._found(nearest, damaged, "exact", why)

    def _through(
        self,
        index: Index,
        query: npt.NDArray[np.float32],
        wanted: Aim,
        effort: Effort,
        why: str,
    ) -> Found:
        """Measure what the index finds, and all that it does not cover."""
        measuring = self._measuring(index, query, wanted)
        found, probes = self._candidates(index, measuring, effort)
        if self._is_own:
            why = "the filter is asked for often: its rows have lists of their own"
        damaged, parts = found.damaged, [found[:2]]
        if len(index.zeros):
            zeros = self._allowed_of(index, index.zeros)
            more = measuring.of(zeros[: wanted.count])
            if more.damaged:  # others stand in for them
                more = measuring.of(zeros)
            damaged += more.damaged
            parts.append(more[:2])
        if len(index.apart):
            more = measuring.of(self._allowed_of(index, index.apart), roughly=False)
            damaged += more.damaged
            parts.append(more[:2])
        self.lap("rerank")
        self._measured = 0
        nearest = self._with_rest(index, query, wanted, parts, damaged)
        plan = "index" if self.matching is None else "index, filtered"
        return self._found(nearest, damaged, plan, why, found.considered, probes, effort.recall)

    def _candidates(
        self, index: Index, measuring: Measuring, effort: Effort
    ) -> tuple[Measured, int]:
        """Return the nearest candidates of an index, and how many of its lists were probed."""
        share = self._count / max(index.codes.count, 1)
        query = measuring.asked.query
        codes, is_own = self._codes(index)
        self._is_own = is_own
        self.lap("plan")
        bits, sifted, depth, probes = None, None, effort.depth, effort.probes
        if is_own or share < _SIFTED_SHARE_MIN:
            bits = self._packed()
        elif self._allowed is not None:
            sifted, depth = self._allowed, int(_SPARE_DEPTH * depth / share) + 8
        enough = min(effort.depth, self._count)
        if measuring.located is not None and self.now_ns is None:  # else to time the two apart
            scan = codes.scan(row_length(query), probes, depth, bits)
            found = None if scan is None else measuring.by(scan, sifted, effort.depth, enough)
            if found is not None:
                return found, probes
        points = codes.space.query_points(query[None])
        while True:
            places = codes.search(points, probes, depth, bits)[0][0]
            candidates = places if len(places) and places[-1] >= 0 else places[places >= 0]
            if sifted is not None:
                candidates = candidates[sifted[candidates]]
            if len(candidates) >= enough:
                break
            if sifted is not None:  # others lie near: none of them may take a place
                bits, sifted, depth = self._packed(), None, effort.depth
            elif probes < index.codes.lists:
                probes = index.codes.lists  # what matches lies elsewhere
            else:
                break
        candidates = index.places.rows_at(candidates[: effort.depth])
        self.lap("lists")
        return measuring.of(candidates), probes

    def _with_rest(
        self,
        index: Index,
        query: npt.NDArray[np.float32],
        wanted: Aim,
        parts: list[tuple[Numbers, Distances]],
        damaged: list[int],
    ) -> tuple[Numbers, Distances]:
        """Return the nearest of what was measured and of the rows beyond the index."""
        if index.row_end < self.row_limit:
            nearest = self._top(query, wanted.count)
            for part in parts:
                nearest.offer_measured(*part)
            damaged += self._offer_from(nearest, index.row_end)
            return nearest.result()
        return parts[0] if len(parts) == 1 else merged(parts, wanted.count)

    def _allowed_of(self, index: Index, rows: Numbers) -> Numbers:
        """Return those of the rows of the index that may be found."""
        places = index.places_of(rows)
        if self._allowed is not None:
            places = places[self._allowed[places]]
        return index.places.rows_at(places)

    def _measuring(self, index: Index, query: npt.NDArray[np.float32], wanted: Aim) -> Measuring:
        asked = Question(query, self.schema.metric, wanted.count)
        return Measuring(self.view, self.schema.vector_type, index.located(self.view), asked)

    # --- one by one ---

    def _top(self, query: npt.NDArray[np.float32], count: int) -> TopK:
        return TopK(query, self.schema.metric, self.schema.vector_type, count)

    def _offer_from(self, nearest: TopK, first_row: int) -> list[int]:
        """Offer every live row from `first_row` on that matches; return those that are damaged."""
        damaged: list[int] = []
        norms = needs_norms(self.schema.metric, self.schema.vector_type)
        for segment in self.view.row_segments:
            if segment.row_end > first_row:
                self._offer_segment(nearest, segment, first_row, damaged, norms=norms)
        for chunk, count in self.view.chunks(self.row_limit):
            if chunk.first_row + count > first_row:
                self._offer_chunk(nearest, chunk, first_row, count, damaged, norms=norms)
        return damaged

    def _offer_segment(
        self, nearest: TopK, segment: Segment, first_row: int, damaged: list[int], *, norms: bool
    ) -> None:
        total = segment.count_below(self.row_limit)
        begin = segment.count_below(first_row)
        if begin >= total:
            return
        matching = None if self.matching is None else self._mask(segment, total)
        step = max(1, _BLOCK_BYTES // self.schema.vector_bytes)
        for start in range(begin, total, step):
            end = min(start + step, total)
            live = live_mask(segment.ends[start:end], self.lsn) if segment.ended_count else None
            if matching is not None:
                asked = matching[start:end]
                live = asked.copy() if live is None else live & asked
                if not live.any():
                    continue
                if self._gather(nearest, segment, start, live, damaged):
                    continue
            bad = segment.unreadable_vectors(start, end)
            if len(bad):
                live = np.ones(end - start, dtype=np.bool_) if live is None else live
                damaged += segment.rows_at(bad[live[bad - start]]).tolist()
                live[bad - start] = False
                end = min(end, len(segment.vectors))
                live = live[: max(end - start, 0)]
            if end > start:
                lengths = segment.norms(start, end) if norms else None
                numbers = segment.row_numbers
                numbers = None if numbers is None else numbers[start:end]
                first = segment.first_row + start
                nearest.offer(segment.vectors[start:end], first, live, lengths, numbers)
                self._measured += end - start if live is None else int(np.count_nonzero(live))

    def _gather(
        self, nearest: TopK, segment: Segment, start: int, live: Flags, damaged: list[int]
    ) -> bool:
        """Offer few rows of a block by themselves, so that no others are read and verified."""
        alive = np.flatnonzero(live)
        if len(alive) * 16 > len(live):
            return False
        ordinals = alive + start
        bad = segment.unreadable_rows(ordinals)
        if len(bad):
            damaged += segment.rows_at(bad).tolist()
            ordinals = np.setdiff1d(ordinals, bad)
        numbers = segment.rows_at(ordinals)
        nearest.offer(segment.vectors[ordinals], 0, None, None, numbers)
        self._measured += len(ordinals)
        return True

    def _offer_chunk(
        self,
        nearest: TopK,
        chunk: Chunk,
        first_row: int,
        count: int,
        damaged: list[int],
        *,
        norms: bool,
    ) -> None:
        begin = max(0, first_row - chunk.first_row)
        live = live_mask(chunk.ends[begin:count], self.lsn)
        if self.matching is not None:
            live &= self._mask(chunk, count)[begin:]
        for memtable in self.view.memtables:
            for row in memtable.lost_vectors:
                at = row - chunk.first_row - begin
                if 0 <= at < count - begin and live[at]:
                    damaged.append(row)
                    live[at] = False
        lengths = chunk.norms(count)[begin:] if norms else None
        nearest.offer(chunk.vectors[begin:count], chunk.first_row + begin, live, lengths)
        self._measured += int(np.count_nonzero(live))

    # --- telling ---

    def _with_untold(self, damaged: list[int]) -> list[int]:
        """Return damaged rows, with those of which it cannot be told whether they match."""
        if self.matching is None:
            return sorted(set(damaged))
        untold = {row for row in self.matching.damaged if row < self.row_limit}
        ends = {row: self.view.end_of(row) for row in untold}
        return sorted({*damaged, *(row for row, end in ends.items() if not 0 < end <= self.lsn)})

    def _start(self) -> None:
        if self.now_ns is not None:
            self._seconds, self._mark_ns = {}, self.now_ns()

    def lap(self, stage: str) -> None:
        """Count the time since the last stage to this one."""
        if self.now_ns is not None:
            now = self.now_ns()
            self._seconds[stage] = self._seconds.get(stage, 0.0) + (now - self._mark_ns) / 1e9
            self._mark_ns = now

    def _found(  # what was found, and how
        self,
        nearest: tuple[Numbers, Distances],
        damaged: list[int],
        plan: str,
        why: str,
        reranked: int = 0,
        probes: int = 0,
        recall: float = 1.0,
    ) -> Found:
        self.lap("measure")
        self._explain(plan, why, reranked, probes, recall)
        return Found(*nearest, self._with_untold(damaged))

    def _explain(self, plan: str, why: str, reranked: int, probes: int, recall: float) -> None:
        if self.now_ns is None:
            return
        index = self.index
        live = self.view.count(self.lsn, self.row_limit)
        self.explained = Explained(
            plan, why, live, self._matching_rows(live), 0 if index is None else index.row_end,
            self._measured, reranked, 0 if index is None else index.codes.lists, probes, recall,
            self._seconds,
        )  # fmt: skip

    def _matching_rows(self, live: int) -> int:
        if self.matching is None:
            return live
        return sum(
            int(
                np.count_nonzero(
                    self._mask(source, count) & live_mask(source.ends[:count], self.lsn)
                )
            )
            for source, count in self.view.sources(self.row_limit)
        )
