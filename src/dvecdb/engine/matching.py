"""Which rows of a view match a filter. The metadata of every asked row is read and decoded.

A row whose metadata is damaged may or may not match: it counts as one that does not, and is named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from dvecdb.engine.segment import Segment, UnreadableError

if TYPE_CHECKING:
    import numpy.typing as npt

    from dvecdb.engine.memtable import Chunk
    from dvecdb.engine.rows import View
    from dvecdb.search.filters import Filter

_decode = msgspec.json.Decoder().decode


class Matching:
    """A filter over the rows of a view. `damaged`: the rows that cannot be told."""

    def __init__(self, view: View, where: Filter) -> None:
        self._view = view
        self._where = where
        self._without_metadata = where.matches(None)
        self.damaged: list[int] = []

    def select(
        self, source: Segment | Chunk, ordinals: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Return which rows of a segment or chunk match, by ordinal: bool[n]."""
        if isinstance(source, Segment):
            return self._select_stored(source, ordinals)
        found = np.zeros(len(ordinals), dtype=np.bool_)
        lost = {row for memtable in self._view.memtables for row in memtable.lost_metadata}
        for index, ordinal in enumerate(ordinals.tolist()):
            row = source.first_row + ordinal
            if row in lost:
                self.damaged.append(row)
            else:
                found[index] = self._matches(source.metadata[ordinal])
        return found

    def mask(self, source: Segment | Chunk, count: int) -> npt.NDArray[np.bool_]:
        """Return which of the first `count` rows of a segment or chunk match: bool[count]."""
        return self.select(source, np.arange(count))

    def _select_stored(
        self, segment: Segment, ordinals: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        found = np.zeros(len(ordinals), dtype=np.bool_)
        readable = np.arange(len(ordinals))
        while len(readable):
            try:
                values = segment.metadata(ordinals[readable])
            except UnreadableError as error:
                self.damaged += segment.rows_at(np.array(error.ordinals)).tolist()
                readable = readable[~np.isin(ordinals[readable], error.ordinals)]
                continue
            found[readable] = [self._matches(value) for value in values]
            break
        return found

    def _matches(self, metadata: bytes) -> bool:
        return self._where.matches(_decode(metadata)) if metadata else self._without_metadata
