"""Where the rows of an index lie in memory, so that candidates are measured there, all at once.

Of one view: its segments do not change. A row of one is known here once its block was verified, a
row in memory at once or when it is asked for; what is found damaged later makes all be looked up
anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np

from dvecdb.search.compiled import compiled
from dvecdb.search.scattered import Scattered

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dvecdb.engine.memtable import Chunk
    from dvecdb.engine.row_range import RowRange
    from dvecdb.engine.rows import View
    from dvecdb.engine.segment import Segment
    from dvecdb.search.compiled import Nearest, Question, Scan

    Flags = npt.NDArray[np.bool_]
    Numbers = npt.NDArray[np.int64]


class Located:
    """Rows of segments and memtables by their places in an index. For any number of threads."""

    __slots__ = ("_places", "_rows", "_seen")

    def __init__(self, places: RowRange, rows: Scattered, seen: Sequence[int]) -> None:
        """See `of`."""
        self._places = places
        self._rows = rows
        self._seen = seen

    @classmethod
    def of(cls, view: View, places: RowRange) -> Self | None:
        """Return where the rows of a view lie that may be served; None if that is of no use."""
        sources: list[Segment | Chunk] = [*view.row_segments, *_chunks(view)]
        functions = compiled()
        if functions is None or not sources:
            return None
        rows = Scattered(functions, sources[0].vectors.dtype, places.rows)
        found = cls(places, rows, _seen(view))
        for source in sources:
            found.put(source, source.served_rows())
        return found

    def with_places(self, places: RowRange) -> Self:
        """Return the same for an index with more rows, whose places follow after those of this."""
        return type(self)(places, self._rows.with_places(places.rows), self._seen)

    def is_current(self, view: View) -> bool:
        """Whether no block of a segment was found damaged since."""
        return self._seen == _seen(view)

    def nearest(self, asked: Question, numbers: Numbers) -> Nearest:
        """Return the nearest of rows of the index, and which are not known here: by row number."""
        return self._by_number(self._rows.nearest(asked, self._places.ordinals_of(numbers)))

    def search(self, asked: Question, scan: Scan, allowed: Flags | None, wanted: int) -> Nearest:
        """Return the same of the first `wanted` candidates that are allowed: bool by place."""
        return self._by_number(self._rows.search(asked, scan, allowed, wanted))

    def _by_number(self, found: Nearest) -> Nearest:
        rows_at = self._places.rows_at
        return found._replace(places=rows_at(found.places), unknown=rows_at(found.unknown))

    def learn(self, segment: Segment, ordinals: Numbers) -> None:
        """Know the rows in the blocks of some that were just read, where nothing is damaged."""
        size = segment.descriptor.block_rows
        for block in np.unique(ordinals // size).tolist():
            start, end = block * size, min((block + 1) * size, segment.rows)
            if not len(segment.unreadable_vectors(start, end)):
                self.put(segment, np.arange(start, end))

    def learn_chunk(self, chunk: Chunk) -> None:
        """Know the rows of a chunk."""
        self.put(chunk, np.arange(chunk.count_below(self._places.row_end)))

    def learn_chunks(self, view: View) -> None:
        """Know the rows in memory."""
        for chunk in _chunks(view):
            self.learn_chunk(chunk)

    def put(self, source: Segment | Chunk, ordinals: Numbers) -> None:
        """Know rows of a source that may be served."""
        places = self._places.ordinals_of(source.rows_at(ordinals))
        held = (places >= 0) & (places < self._places.rows)
        if held.any():
            self._rows.put(places[held], source.vectors, ordinals[held])


def _chunks(view: View) -> list[Chunk]:
    """Return the chunks whose rows can be served, all of them."""
    return [c for memtable in view.memtables if not memtable.lost_vectors for c in memtable.chunks]


def _seen(view: View) -> list[int]:
    return [segment.blocks_lost for segment in view.row_segments]
