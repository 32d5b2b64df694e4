"""Where the rows of an index lie in memory, so that candidates are measured there, all at once.

Of one view: its segments do not change. A row of one is known here once its block was verified, a
row in memory once it was asked for; what is found damaged later makes all be looked up anew. Chunks
of memory that were begun later are not known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np

from dvecdb.search.scattered import Scattered

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dvecdb.engine.memtable import Chunk
    from dvecdb.engine.row_range import RowRange
    from dvecdb.engine.rows import View
    from dvecdb.engine.segment import Segment

    Numbers = npt.NDArray[np.int64]
    Flags = npt.NDArray[np.bool_]


class Located:
    """Rows of segments by their places in an index. For any number of threads.

    rows: None where they cannot be measured so: see `Scattered`.
    """

    __slots__ = ("_places", "_seen", "rows")

    def __init__(self, places: RowRange, rows: Scattered | None, seen: Sequence[int]) -> None:
        """See `of`."""
        self._places = places
        self._seen = seen
        self.rows = rows

    @classmethod
    def of(cls, view: View, places: RowRange) -> Self:
        """Return where the rows of a view lie, with what its segments know of them."""
        seen = _seen(view)
        sources: list[Segment | Chunk] = [*view.row_segments, *_chunks(view)]
        rows = Scattered.over([source.vectors for source in sources], places.rows)
        found = cls(places, rows, seen)
        for source in sources if rows is not None else ():
            found.put(source, *source.known_norms())
        return found

    def with_places(self, places: RowRange) -> Self:
        """Return the same for an index with more rows, whose places follow after those of this."""
        rows = None if self.rows is None else self.rows.with_places(places.rows)
        return type(self)(places, rows, self._seen)

    def is_current(self, view: View) -> bool:
        """Whether no block of a segment was found damaged since."""
        return self._seen == _seen(view)

    def places_of(self, numbers: Numbers) -> tuple[Numbers, Flags] | None:
        """Return the places of rows of the index and which are known, None if none is."""
        if self.rows is None:
            return None
        places = self._places.ordinals_of(numbers)
        known = self.rows.known(places)
        return (places, known) if known.any() else None

    def learn(self, segment: Segment, ordinals: Numbers) -> None:
        """Know the rows in the blocks of some that were just read, where nothing is damaged."""
        if self.rows is None or not len(ordinals) or not self.rows.has(segment.vectors):
            return
        size = segment.descriptor.block_rows
        for block in np.unique(ordinals // size).tolist():
            start, end = block * size, min((block + 1) * size, segment.rows)
            if not len(segment.unreadable_vectors(start, end)):
                self.put(segment, np.arange(start, end), segment.norms(start, end))

    def learn_chunk(self, chunk: Chunk) -> None:
        """Know the rows of a chunk."""
        if self.rows is None or not self.rows.has(chunk.vectors):
            return
        count = chunk.count_below(self._places.row_end)
        self.put(chunk, np.arange(count), chunk.norms(count))

    def put(
        self, source: Segment | Chunk, ordinals: Numbers, lengths: npt.NDArray[np.float32]
    ) -> None:
        """Know rows of a source that may be served, and how long they are."""
        if self.rows is None or not self.rows.has(source.vectors):
            return
        places = self._places.ordinals_of(source.rows_at(ordinals))
        held = (places >= 0) & (places < self._places.rows)
        if held.any():
            self.rows.put(places[held], source.vectors, ordinals[held], lengths[held])


def _chunks(view: View) -> list[Chunk]:
    """Return the chunks whose rows can be served, all of them."""
    return [c for memtable in view.memtables if not memtable.lost_vectors for c in memtable.chunks]


def _seen(view: View) -> list[int]:
    return [segment.blocks_lost for segment in view.row_segments]
