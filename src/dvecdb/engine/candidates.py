"""Measuring what an index found: where the rows lie if that is known, else by reading them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dvecdb.search.rerank import Candidates

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dvecdb.engine.located import Located
    from dvecdb.engine.rows import View
    from dvecdb.records import Schema

    Numbers = npt.NDArray[np.int64]
    Distances = npt.NDArray[np.float64]
    Query = npt.NDArray[np.float32]


def nearest_candidates(  # whose rows, which, to what
    view: View,
    schema: Schema,
    located: Located | None,
    query: Query,
    candidates: Numbers,
    limit: int,
    *,
    roughly: bool,
) -> tuple[Numbers, Distances, list[int]]:
    """Return the nearest of rows of an index, and those that are damaged.

    located: where rows lie; None if they are to be read. roughly: float32 can measure them all.
    """
    if located is None:
        return _read(view, schema, None, query, candidates, limit, roughly=roughly)
    rows, distances, unknown = located.nearest(candidates, query, schema.metric, limit)
    if not len(unknown):
        return rows, distances, []
    found = _read(view, schema, located, query, unknown, limit, roughly=roughly)
    return *merged([(rows, distances), found[:2]], limit), found[2]


def merged(parts: Sequence[tuple[Numbers, Distances]], limit: int) -> tuple[Numbers, Distances]:
    """Return the nearest of what was found apart, by (distance, row)."""
    rows, distances = map(np.concatenate, zip(*parts, strict=True))
    order = np.lexsort((rows, distances))[:limit]
    return rows[order], distances[order]


def _read(
    view: View,
    schema: Schema,
    located: Located | None,
    query: Query,
    candidates: Numbers,
    limit: int,
    *,
    roughly: bool,
) -> tuple[Numbers, Distances, list[int]]:
    damaged: list[int] = []
    candidates = np.sort(candidates)
    measured = Candidates(
        query, schema.metric, schema.vector_type.dtype, limit, len(candidates), roughly=roughly
    )
    stored = candidates
    if len(candidates) and int(candidates[-1]) >= view.memory_start():
        stored = _add_from_memory(view, located, candidates, measured, damaged)
    for segment, first, end in view.slices(stored):
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
        if located is not None:
            located.learn(segment, ordinals)
    return *measured.nearest(), damaged


def _add_from_memory(
    view: View,
    located: Located | None,
    candidates: Numbers,
    measured: Candidates,
    damaged: list[int],
) -> Numbers:
    """Add the candidates that are in memtables; return the others."""
    stored = np.ones(len(candidates), dtype=np.bool_)
    for memtable in view.memtables:
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
            elif located is not None:
                located.learn_chunk(chunk)
            measured.add(chunk.vectors, numbers - chunk.first_row, numbers)
    return candidates[stored]
