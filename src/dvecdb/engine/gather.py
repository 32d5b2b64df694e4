"""Many rows of a view at once, by row number, as they are stored: for undo and for copies."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dvecdb.engine.rows import damaged_rows, live_mask
from dvecdb.engine.segment import Segment, UnreadableError
from dvecdb.errors import DamagedDataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from dvecdb.engine.matching import Matching
    from dvecdb.engine.memtable import Chunk, Memtable
    from dvecdb.engine.rows import View
    from dvecdb.records import Schema

    Rows = npt.NDArray[np.int64]


_BEGINNING: Final = 8  # components
_COMPARE_BYTES: Final = 8 * 1024 * 1024


def live_rows(view: View, lsn: int, row_limit: int) -> Rows:
    """Return every row that is live at `lsn`, rising: int64[n]."""
    found: list[Rows] = []
    for segment in view.row_segments:
        count = segment.count_below(row_limit)
        if count:
            found.append(segment.rows_at(np.flatnonzero(live_mask(segment.ends[:count], lsn))))
    for chunk, count in view.chunks(row_limit):
        found.append(np.flatnonzero(live_mask(chunk.ends[:count], lsn)) + chunk.first_row)
    return np.sort(np.concatenate(found)) if found else np.zeros(0, np.int64)


def _parts(view: View, rows: Rows) -> Iterator[tuple[Segment | tuple[Memtable, Chunk], Rows]]:
    """Yield what holds some of `rows`, which exist and rise, and their positions in `rows`."""
    stored = np.ones(len(rows), dtype=np.bool_)
    for memtable in view.memtables:
        for chunk in memtable.chunks:
            start, end = np.searchsorted(rows, [chunk.first_row, chunk.first_row + chunk.used])
            if start < end:
                stored[start:end] = False
                yield (memtable, chunk), np.arange(start, end)
    outside = np.flatnonzero(stored)
    for segment, found in view.by_segment(rows[outside]) if len(outside) else ():
        yield segment, outside[found]


def ids_of(view: View, rows: Rows) -> list[str]:
    """Return the ids of rows that exist, in their order, which rises.

    Raises:
        DamagedDataError: `damaged-data`.
    """
    texts: list[str] = [""] * len(rows)
    for holder, positions in _parts(view, rows):
        if isinstance(holder, Segment):
            try:
                found = holder.ids(holder.ordinals_of(rows[positions]))
            except UnreadableError as error:
                damaged = holder.rows_at(np.array(error.ordinals)).tolist()
                named = [f"row {row}" for row in damaged]
                raise damaged_rows(named, "stored ids are damaged") from None
        else:
            chunk = holder[1]
            found = [chunk.ids[number] for number in (rows[positions] - chunk.first_row).tolist()]
        first, last = int(positions[0]), int(positions[-1])
        if last - first + 1 == len(positions):
            texts[first : last + 1] = found
        else:
            for position, text in zip(positions.tolist(), found, strict=True):
                texts[position] = text
    return texts


def metadata_of(view: View, rows: Rows) -> list[bytes]:
    """Return the metadata JSON of rows that exist, b"" for none.

    Raises:
        DamagedDataError: `damaged-data`, names the ids.
    """
    values: list[bytes] = [b""] * len(rows)
    for holder, positions in _parts(view, rows):
        own = rows[positions]
        if isinstance(holder, Segment):
            try:
                found = holder.metadata(holder.ordinals_of(own))
            except UnreadableError as error:
                _refuse(view, holder.rows_at(np.array(error.ordinals)).tolist(), "metadata")
                raise
        else:
            memtable, chunk = holder
            _refuse(view, sorted(memtable.lost_metadata.intersection(own.tolist())), "metadata")
            found = [chunk.metadata[number] for number in (own - chunk.first_row).tolist()]
        for position, value in zip(positions.tolist(), found, strict=True):
            values[position] = value
    return values


def vectors_of(view: View, rows: Rows, schema: Schema) -> npt.NDArray[Any]:
    """Return the vectors of rows that exist, as stored: schema.vector_type [n, dimension].

    A view of what is mapped where the rows lie one after the other in one segment.

    Raises:
        DamagedDataError: `damaged-data`, names the ids.
    """
    parts = list(_parts(view, rows))
    vectors: npt.NDArray[Any] | None = None
    for holder, positions in parts:
        own = rows[positions]
        if isinstance(holder, Segment):
            ordinals = holder.ordinals_of(own)
            bad = holder.unreadable_rows(ordinals)
            _refuse(view, holder.rows_at(bad).tolist(), "vectors")
            first, last = int(ordinals[0]), int(ordinals[-1])
            dense = last - first + 1 == len(ordinals)
            found = holder.vectors[first : last + 1] if dense else holder.vectors[ordinals]
        else:
            memtable, chunk = holder
            _refuse(view, sorted(memtable.lost_vectors.intersection(own.tolist())), "vectors")
            found = chunk.vectors[own - chunk.first_row]
        if len(parts) == 1:
            return found
        if vectors is None:
            vectors = np.empty((len(rows), schema.dimension), schema.vector_type.dtype)
        vectors[positions] = found
    return vectors if vectors is not None else np.empty(
        (0, schema.dimension), schema.vector_type.dtype
    )  # fmt: skip


def same_rows(view: View, first: Rows, second: Rows, schema: Schema) -> npt.NDArray[np.bool_]:
    """Return which rows hold the same, pair by pair: bool[n]. `first` rises.

    What cannot be read is not the same as anything.
    """
    found = np.zeros(len(first), dtype=np.bool_)
    order = np.argsort(second)
    one, other = _beginnings(view, first), _beginnings(view, second[order])
    if one.shape != other.shape:
        return found
    likely = np.flatnonzero((one == other[np.argsort(order)]).all(axis=1))
    step = max(1, _COMPARE_BYTES // schema.vector_bytes)
    for start in range(0, len(likely), step):
        part = likely[start : start + step]
        with contextlib.suppress(DamagedDataError):
            found[part] = _compare(view, first[part], second[part], schema)
    return found


def _beginnings(view: View, rows: Rows) -> npt.NDArray[Any]:
    """Return the first components of rows, which rise; unverified: to tell what differs."""
    found: list[npt.NDArray[Any]] = []
    order: list[Rows] = []
    for holder, positions in _parts(view, rows):
        if isinstance(holder, Segment):
            vectors, ordinals = holder.vectors, holder.ordinals_of(rows[positions])
            ordinals = np.minimum(ordinals, max(len(vectors) - 1, 0))  # cut short: damaged
        else:
            vectors, ordinals = holder[1].vectors, rows[positions] - holder[1].first_row
        if not len(vectors):
            return np.zeros((len(rows), 0))
        found.append(vectors[ordinals, :_BEGINNING].view(np.uint8))
        order.append(positions)
    if not found:
        return np.zeros((len(rows), 0))
    return np.concatenate(found)[np.argsort(np.concatenate(order))]


def _compare(view: View, first: Rows, second: Rows, schema: Schema) -> npt.NDArray[np.bool_]:
    order = np.argsort(second)
    inverse = np.argsort(order)
    other = vectors_of(view, second[order], schema)[inverse].view(np.uint8)  # bits: -0.0 is not 0.0
    same = np.asarray((vectors_of(view, first, schema).view(np.uint8) == other).all(axis=1))
    mine, theirs = metadata_of(view, first), metadata_of(view, second[order])
    for index, place in enumerate(inverse.tolist()):
        same[index] = same[index] and mine[index] == theirs[place]
    return same


def _refuse(view: View, rows: list[int], what: str) -> None:
    if rows:
        raise damaged_rows(ids_of(view, np.array(rows, np.int64)), f"stored {what} are damaged")


def matches_of(view: View, rows: Rows, matching: Matching) -> npt.NDArray[np.bool_]:
    """Return which of the rows, which exist and rise, match a filter: bool[n]."""
    found = np.zeros(len(rows), dtype=np.bool_)
    for holder, positions in _parts(view, rows):
        own = rows[positions]
        if isinstance(holder, Segment):
            found[positions] = matching.select(holder, holder.ordinals_of(own))
        else:
            found[positions] = matching.select(holder[1], own - holder[1].first_row)
    return found
