"""Making an index of a view's rows, and growing one; tuning on rows of the collection itself.

Nothing here holds a lock or changes anything shared: rows are read from a view that stays, and
what comes out is published by whoever asked. Long work calls `tick` with the rows done so far,
which may raise to end it.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from dvecdb.engine.index import Index
from dvecdb.engine.located import Located
from dvecdb.engine.row_range import RowRange
from dvecdb.engine.segment import Segment
from dvecdb.records import Metric
from dvecdb.search.effort import TUNED_LIMIT, Cost, tune
from dvecdb.search.ivf import (
    LENGTH_MAX,
    SAMPLE_PER_LIST,
    Codes,
    Space,
    lists_for,
    threads_used,
    use_threads,
)
from dvecdb.search.kernels import row_norms
from dvecdb.search.truth import Truth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    import numpy.typing as npt

    from dvecdb.engine.memtable import Chunk
    from dvecdb.engine.rows import View
    from dvecdb.records import Schema
    from dvecdb.search.ivf import Coded
    from dvecdb.search.truth import Near

    Numbers = npt.NDArray[np.int64]
    Part = tuple[Segment | Chunk, Numbers]
    Tick = Callable[[int], None]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

GROWTH: Final = 4
"""Times as many rows as its lists were made for, and an index is made anew, come what may."""
QUIET_GROWTH: Final = 1.5
"""The same, as soon as nobody writes."""
_TAIL_SHARE: Final = 128
"""A tail of this part of the rows is moved into the base as soon as nobody writes."""
_APART_MIN: Final = 1_000
"""Rows that may always be measured beside the candidates without making a difference."""
_BLOCK_BYTES: Final = 8 * 1024 * 1024
_SAMPLE_BYTES_MAX: Final = 96 * 1024 * 1024
_BASE_STEP: Final = 8_192
"""New rows in segments from which they go into the base of an index, if they are a tenth of it."""
_QUERIES: Final = 100
_QUERIES_MANHATTAN: Final = 32  # to measure all rows by sums of differences is slow
_NEAREST_LEFT_OUT: Final = 5
"""Of the nearest rows of a tuning query so many do not count: near duplicates are found by any
effort, and what users ask for is not in the collection."""


class Rows:
    """The rows of a view by number, without those that cannot be read."""

    def __init__(self, view: View, schema: Schema, first: int, end: int) -> None:
        """Take the held rows `first` .. `end` - 1."""
        self._schema = schema
        self.unreadable: list[int] = []
        self._dtype = schema.vector_type.dtype
        self._lost = [row for memtable in view.memtables for row in memtable.lost_vectors]
        found = ((source, source.count_below(first), stop) for source, stop in view.sources(end))
        self._sources = sorted(
            (item for item in found if item[1] < item[2]), key=lambda item: item[0].first_row
        )
        self.count = sum(stop - start for _, start, stop in self._sources)

    def numbers(self) -> Numbers:
        """Return the numbers of all of them, rising: int64[count]."""
        parts = [source.rows_at(np.arange(start, stop)) for source, start, stop in self._sources]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def parts(self) -> Iterator[Part]:
        """Yield what to read, block by block."""
        step = max(1, _BLOCK_BYTES // self._schema.vector_bytes)
        for source, first, last in self._sources:
            for start in range(first, last, step):
                yield source, np.arange(start, min(start + step, last))

    def read(self, part: Part) -> tuple[Numbers, npt.NDArray[Any]]:
        """Return row numbers and stored vectors, verified and finite. Others may read meanwhile."""
        source, ordinals = part
        if isinstance(source, Segment):
            bad = source.unreadable_rows(ordinals)
        else:
            bad = ordinals[np.isin(source.rows_at(ordinals), self._lost)]
        if len(bad):
            self.unreadable += source.rows_at(bad).tolist()
            ordinals = np.setdiff1d(ordinals, bad)
        whole = len(ordinals) and int(ordinals[-1]) - int(ordinals[0]) + 1 == len(ordinals)
        picked = slice(int(ordinals[0]), int(ordinals[-1]) + 1) if whole else ordinals
        numbers, rows = source.rows_at(ordinals), source.vectors[picked]
        if rows.dtype.kind == "f":
            finite = np.isfinite(rows).all(axis=1)
            if not finite.all():
                return numbers[finite], rows[finite]
        return numbers, rows

    def spread(self, count: int, offset: float) -> tuple[Numbers, npt.NDArray[Any]]:
        """Return about so many readable rows from evenly over the range, with their numbers.

        offset: 0 .. 1, where between two steps they lie. result: int64[n], stored type [n, d].
        """
        wanted = np.unique(((np.arange(count) + offset) * self.count / count).astype(np.int64))
        wanted = wanted[wanted < self.count]
        asked: list[Part] = []
        passed = 0
        for source, start, stop in self._sources:
            inside = wanted[(wanted >= passed) & (wanted < passed + stop - start)]
            whole = np.array_split(inside - passed + start, max(1, len(inside) // 256))
            asked += [(source, ordinals) for ordinals in whole if len(ordinals)]
            passed += stop - start
        nothing = (np.zeros(0, np.int64), np.zeros((0, self._schema.dimension), self._dtype))
        found = [nothing, *in_order(self.read, asked, threads_used())]
        numbers, rows = zip(*found, strict=True)
        return np.concatenate(numbers), np.concatenate(rows)


def build(view: View, schema: Schema, row_limit: int, tick: Tick) -> Index:
    """Return a new index of the rows below `row_limit`, tuned. Takes seconds.

    Its base are the rows in segments, its tail those in memory.
    """
    stored = _stored_end(view, row_limit)
    rows = Rows(view, schema, 0, row_limit)
    space = Space(schema.metric, schema.dimension, _reach(schema, rows, tick))
    codes = _train(space, schema, rows)
    places = _more_places(None, rows, row_limit)
    truth = _truth(space, schema, rows, places)
    based = Rows(view, schema, 0, stored)
    builder = _Adding(codes, places, tick)
    codes = codes.with_base(builder.add(based, truth))
    rest = Rows(view, schema, stored, row_limit)
    codes = codes.with_tail(builder.add(rest, truth))
    cost = Cost(codes.count, codes.lists)
    points = space.query_points(truth.queries)
    curve = tune(codes, points, truth.nearest(), cost)
    zeros, apart = builder.without_code(based, rest)
    if len(apart) > _APART_MIN + rows.count // 2:
        raise ValueError(f"{len(apart)} of {rows.count} rows are damaged or too long for an index")
    return Index(codes, curve, places, stored, rows.count, zeros, apart, len(apart))


def grow(
    index: Index, view: View, schema: Schema, row_limit: int, tick: Tick, *, settle: bool = False
) -> Index:
    """Return `index` with the rows up to `row_limit`: in the tail, or in the base if many.

    settle: those that are in no segment yet go into the base as well, if the tail is worth it.
    """
    stored = _stored_end(view, row_limit)
    more = Rows(view, schema, index.row_end, row_limit)
    places = _more_places(index.places, more, row_limit)
    builder = _Adding(index.codes, places, tick)
    codes = index.codes.with_tail(builder.add(more))
    base_end, name = index.base_end, index.name
    if settle and is_tail_long(index, row_limit):
        base_end, name = row_limit, None
    elif is_base_behind(index, stored):
        base_end, name = stored, None
    if base_end != index.base_end:
        codes = codes.with_tail_moved(places.count_below(base_end))
    zeros, apart = builder.without_code(more)
    grown = Index(
        codes, index.curve, places, base_end, index.trained_rows,
        np.union1d(index.zeros, zeros), np.union1d(index.apart, apart), index.apart_before, name,
    )  # fmt: skip
    grown.filters = index.filters.grown(codes, same_base=base_end == index.base_end)
    located = index.known_located(view)
    if located is not None:
        located = located.with_places(places)
    elif index.is_searched:  # beside writers a search has no time for it
        located = Located.of(view, places)
    if located is not None:
        located.learn_chunks(view)
        grown.keep_located(view, located)
    return grown


def has_outgrown(index: Index, view: View, row_limit: int) -> bool:
    """Return whether a new index would serve much better than this one with more rows.

    Rows count that are still held, live or not: those replaced lately are in a new index as well.
    """
    known = index.places.rows
    if known + row_limit - index.row_end >= GROWTH * max(index.trained_rows, 1):
        return True
    if len(index.apart) - index.apart_before > max(_APART_MIN, known // 100):
        return True
    return 2 * sum(count for _, count in view.sources(index.row_end)) < known


def is_stale(index: Index) -> bool:
    """Return whether lists made for its rows of today would be worth making in a quiet moment."""
    return index.places.rows >= QUIET_GROWTH * max(index.trained_rows, 1)


def is_tail_long(index: Index, row_limit: int) -> bool:
    """Return whether so many rows are in the tail that searches would be sooner without one."""
    return (row_limit - index.base_end) * _TAIL_SHARE > index.base_end


def is_base_behind(index: Index, stored: int) -> bool:
    """Return whether so many rows are in segments that the shared part should take them in."""
    behind = stored - index.base_end
    return behind > 0 and (not index.base_end or behind >= max(_BASE_STEP, index.base_end // 10))


def _more_places(before: RowRange | None, rows: Rows, row_end: int) -> RowRange:
    """Return the places of the rows before and of more, which follow, up to `row_end`."""
    places = RowRange()
    held = rows.count + (0 if before is None else before.rows)
    if held == row_end:
        places.set_range(0, row_end, held, None)
        return places
    numbers = [rows.numbers()]
    if before is not None:
        numbers.insert(0, before.rows_at(np.arange(before.rows)))
    places.set_range(0, row_end, held, np.concatenate(numbers))
    return places


def _stored_end(view: View, row_limit: int) -> int:
    """Return the number up to which rows lie in segments, but for what a flush is about to put."""
    return min(max((segment.row_end for segment in view.row_segments), default=0), row_limit)


class _Adding:
    """Rows on their way into the codes. Those that would only be in the way are set apart."""

    def __init__(self, codes: Codes, places: RowRange, tick: Tick) -> None:
        self._codes = codes
        self._places = places
        self._tick = tick
        self._done = 0
        self._zeros = [np.zeros(0, np.int64)]
        self._apart = [np.zeros(0, np.int64)]

    def add(self, rows: Rows, truth: Truth | None = None) -> Iterator[Coded]:
        """Yield places with codes; show the rows to `truth` on the way."""
        work = partial(self._code, rows, truth)
        for count, coded, near in in_order(work, rows.parts(), threads_used()):
            if truth is not None and near is not None:
                truth.offer(near)
            yield coded
            self._done += count
            self._tick(self._done)

    def _code(self, rows: Rows, truth: Truth | None, part: Part) -> tuple[int, Coded, Near | None]:
        """Return how many rows were read, and what comes of them. By several threads at a time."""
        space = self._codes.space
        numbers, vectors = rows.read(part)
        count = len(numbers)
        taken = space.takes(vectors)
        if not taken.all():
            self._apart.append(numbers[~taken])
            numbers, vectors = numbers[taken], vectors[taken]
        points, places = space.points(vectors), self._places.ordinals_of(numbers)
        near = None if truth is None else truth.near(places, points, vectors)
        if space.metric is Metric.COSINE:  # a zero row is as far from every query
            zero = ~points.any(axis=1)
            if zero.any():
                self._zeros.append(numbers[zero])
                places, points = places[~zero], np.ascontiguousarray(points[~zero])
        return count, self._codes.code(places, points), near

    def without_code(self, *sources: Rows) -> tuple[Numbers, Numbers]:
        """Return the rows that got no code, both rising: zeros, and those to be set apart."""
        unreadable = [np.array(rows.unreadable, np.int64) for rows in sources]
        return np.unique(np.concatenate(self._zeros)), np.unique(
            np.concatenate([*self._apart, *unreadable])
        )


def in_order(
    work: Callable[[_Item], _Result], items: Iterable[_Item], threads: int
) -> Iterator[_Result]:
    """Yield the result for each item, in order, of which some threads work out the next ones."""
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads, initializer=partial(use_threads, 1)) as pool:
        waiting: deque[Future[_Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _reach(schema: Schema, rows: Rows, tick: Tick) -> float:
    """Return the length, for dot products, that all but a few of the rows do not exceed.

    Those few are set apart: one row that is very long would make all others seem the same.
    """
    if schema.metric is not Metric.DOT_PRODUCT:
        return 0.0
    parts = [np.zeros(1, np.float32)]
    for _, vectors in map(rows.read, rows.parts()):
        lengths = row_norms(vectors)
        parts.append(lengths[lengths <= LENGTH_MAX])
        tick(0)
    every = np.concatenate(parts)
    few = min(_APART_MIN, len(every) // 1_000)
    return float(np.partition(every, len(every) - 1 - few)[len(every) - 1 - few]) or 1.0


def _train(space: Space, schema: Schema, rows: Rows) -> Codes:
    lists = lists_for(rows.count, schema.dimension)
    most = max(lists, _SAMPLE_BYTES_MAX // (4 * schema.dimension))
    _, sample = rows.spread(min(lists * SAMPLE_PER_LIST, most), 0.0)
    sample = sample[space.takes(sample)]
    if len(sample) < lists:  # nearly everything is damaged
        lists = max(1, len(sample))
        sample = sample if len(sample) else np.zeros((1, schema.dimension), np.float32)
    return Codes.train(space, space.points(sample), lists)


def _truth(space: Space, schema: Schema, rows: Rows, places: RowRange) -> Truth:
    count = _QUERIES_MANHATTAN if schema.metric is Metric.MANHATTAN else _QUERIES
    numbers, queries = rows.spread(count, 0.5)
    taken = space.takes(queries)
    own, queries = places.ordinals_of(numbers[taken]), queries[taken]
    return Truth(space, own, queries.astype(np.float32), skip=_NEAREST_LEFT_OUT, count=TUNED_LIMIT)
