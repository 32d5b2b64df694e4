"""Where the rows of an index lie in memory, so that candidates are measured there, all at once.

Of one view: its segments do not change. A row is known here once its block was verified and its
length is known; what is found damaged later makes all of it be looked up anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dvecdb.search.scattered import Scattered

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dvecdb.engine.row_range import RowRange
    from dvecdb.engine.segment import Segment

    Numbers = npt.NDArray[np.int64]
    Flags = npt.NDArray[np.bool_]


class Located:
    """Rows of segments by their places in an index. For any number of threads.

    rows: None where they cannot be measured so: see `Scattered`.
    """

    __slots__ = ("_places", "_seen_lost", "_segments", "rows")

    def __init__(self, segments: Sequence[Segment], places: RowRange) -> None:
        self._segments = segments
        self._places = places
        self._seen_lost = [segment.blocks_lost for segment in segments]
        self.rows = Scattered.over([segment.vectors for segment in segments], places.rows)
        for segment in segments if self.rows is not None else ():
            self._put(segment, *segment.known_norms())

    @property
    def is_current(self) -> bool:
        """Whether no block of a segment was found damaged since."""
        return [segment.blocks_lost for segment in self._segments] == self._seen_lost

    def places_of(self, numbers: Numbers) -> tuple[Numbers, Flags] | None:
        """Return the places of rows of the index and which are known, None if none is."""
        if self.rows is None:
            return None
        places = self._places.ordinals_of(numbers)
        known = self.rows.known(places)
        return (places, known) if known.any() else None

    def learn(self, segment: Segment, ordinals: Numbers) -> None:
        """Know the rows in the blocks of some that were just read, where nothing is damaged."""
        if self.rows is None or not len(ordinals):
            return
        size = segment.descriptor.block_rows
        for block in np.unique(ordinals // size).tolist():
            start, end = block * size, min((block + 1) * size, segment.rows)
            if not len(segment.unreadable_vectors(start, end)):
                self._put(segment, np.arange(start, end), segment.norms(start, end))

    def _put(self, segment: Segment, ordinals: Numbers, lengths: npt.NDArray[np.float32]) -> None:
        assert self.rows is not None
        places = self._places.ordinals_of(segment.rows_at(ordinals))
        held = (places >= 0) & (places < self._places.rows)
        if held.any():
            self.rows.put(places[held], segment.vectors, ordinals[held], lengths[held])
