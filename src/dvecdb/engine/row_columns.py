"""The columns of what a segment or a chunk holds, kept with it: derived, in memory, never stored.

A segment never changes, so its masks are kept too. A chunk grows at its end, and its columns with
it, but never beyond the rows that a reader was told of: those of a commit that fails are replaced.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Final

import numpy as np

from dvecdb.engine.segment import Segment, UnreadableError
from dvecdb.search.columns import Columns
from dvecdb.search.selection import column_keys, has_ids, select

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from dvecdb.engine.memtable import Chunk
    from dvecdb.search.conditions import HasId
    from dvecdb.search.filters import Filter

    Bools = npt.NDArray[np.bool_]
    Ordinals = npt.NDArray[np.int64]

MASKS_MAX: Final = 16
"""Masks kept of a segment, those used last."""


class RowColumns:
    """The columns of one segment or chunk. Safe for many readers.

    lost: the ordinals of rows of a segment whose metadata cannot be read, int64[n], rising; known
    once it was read. They have no values in the columns.
    """

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.lost: Ordinals = np.zeros(0, dtype=np.int64)
        self._masks: OrderedDict[Filter, Bools] = OrderedDict()
        self._lock = Lock()  # of the masks

    def is_ready(self, where: Filter) -> bool:
        """Tell whether all columns that a filter looks at are built."""
        keys = column_keys(where)
        return all(block.has(keys) for block in self.columns.blocks)

    def mask(self, where: Filter, ids: Callable[[HasId], Bools], *, keep: bool) -> Bools:
        """Return which rows match: bool[rows], not to be written to.

        keep: the rows are all there will ever be, so the mask may be kept.
        """
        keep = keep and not has_ids(where.tree)
        if keep:
            with self._lock:
                known = self._masks.get(where)
                if known is not None:
                    self._masks.move_to_end(where)
                    return known
        found = select(where, self.columns, ids)
        found.setflags(write=False)
        if keep:
            with self._lock:
                self._masks[where] = found
                while len(self._masks) > MASKS_MAX:
                    self._masks.popitem(last=False)
        return found


def columns_of(source: Segment | Chunk, count: int) -> RowColumns:
    """Return the columns of a segment, or of at least the first `count` rows of a chunk."""
    found = source.row_columns  # two readers may both make one: one of them is kept
    if isinstance(source, Segment):
        if found is None:
            found = source.row_columns = _segment_columns(source)
        return found
    if found is None:
        metadata = source.metadata
        found = RowColumns(Columns(lambda start, end: metadata[start:end]))
        source.row_columns = found
    found.columns.extend(count)
    return found


def _segment_columns(segment: Segment) -> RowColumns:
    # The columns belong to the segment: were it theirs, its files would not close with the last
    # reader. Whoever has them read has the segment.
    owner = weakref.ref(segment)

    def read(start: int, end: int) -> list[bytes]:
        held = owner()
        assert held is not None
        values, lost = read_metadata(held, np.arange(start, end))
        if len(lost):
            found.lost = np.union1d(found.lost, lost)
        return values

    found = RowColumns(Columns(read, segment.rows))
    return found


def read_metadata(segment: Segment, ordinals: Ordinals) -> tuple[list[bytes], Ordinals]:
    """Return the metadata JSON of rows, b"" for none, and the ordinals of those it is lost of."""
    values = [b""] * len(ordinals)
    readable = np.arange(len(ordinals))
    lost: list[int] = []
    while len(readable):
        try:
            found = segment.metadata(ordinals[readable])
        except UnreadableError as error:
            lost += error.ordinals
            readable = readable[~np.isin(ordinals[readable], error.ordinals)]
            continue
        if not lost:
            return found, np.zeros(0, dtype=np.int64)
        for position, value in zip(readable.tolist(), found, strict=True):
            values[position] = value
        break
    return values, np.unique(np.array(lost, dtype=np.int64))
