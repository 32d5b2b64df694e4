"""Which rows of a view match a filter: by columns, or for a few rows by their metadata.

A row whose metadata is damaged may or may not match: it counts as one that does not, and is named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from dvecdb.engine.row_columns import columns_of, read_metadata
from dvecdb.engine.rows import live_mask
from dvecdb.engine.segment import Segment
from dvecdb.search.selection import has_ids

if TYPE_CHECKING:
    import numpy.typing as npt

    from dvecdb.engine.memtable import Chunk
    from dvecdb.engine.rows import View
    from dvecdb.search.conditions import HasId
    from dvecdb.search.filters import Filter

    Bools = npt.NDArray[np.bool_]
    Ordinals = npt.NDArray[np.int64]

_FEW: Final = 256  # rows, below which no column is built for them
_decode = msgspec.json.Decoder().decode


class Matching:
    """A filter over the rows of a view, at an LSN. One reader."""

    def __init__(self, view: View, where: Filter, lsn: int, row_limit: int) -> None:
        """Nothing is read yet. lsn, row_limit: of the state in which ids are looked up."""
        self._view = view
        self.where = where
        self._lsn, self._row_limit = lsn, row_limit
        self._by_id = bool(has_ids(where.tree))
        self._rows_of: dict[HasId, Ordinals] = {}
        lost = [row for memtable in view.memtables for row in memtable.lost_metadata]
        self._lost_rows: Ordinals = np.array(sorted(lost), dtype=np.int64)
        self._damaged: set[int] = set()

    @property
    def is_by_metadata(self) -> bool:
        """Whether it looks at nothing but metadata, so that it says the same at every LSN."""
        return not self._by_id

    @property
    def damaged(self) -> list[int]:
        """The live rows met so far that cannot be told, rising."""
        return sorted(self._damaged)

    def mask(self, source: Segment | Chunk, count: int) -> Bools:
        """Return which of the first `count` rows match, live or not: bool[count], read-only.

        Rows that cannot be told are false, and named if they are live.

        Raises:
            DamagedDataError: `damaged-data`, whether an id of the filter exists cannot be told.
        """
        found, lost = self._told(source, count)
        if len(lost):
            found = found.copy()
            found[lost] = False
            live = lost[live_mask(source.ends[lost], self._lsn)]
            self._damaged.update(source.rows_at(live).tolist())
        return found

    def whole_mask(self, source: Segment | Chunk, count: int) -> Bools | None:
        """Return the mask of the first `count` rows if all of them can be told, else None."""
        found, lost = self._told(source, count)
        return None if len(lost) else found

    def select(self, source: Segment | Chunk, ordinals: Ordinals) -> Bools:
        """Return which rows of a segment or chunk match, by ordinal: bool[n].

        Rows that cannot be told are false, and named.

        Raises:
            DamagedDataError: `damaged-data`, whether an id of the filter exists cannot be told.
        """
        if not len(ordinals):
            return np.zeros(0, dtype=np.bool_)
        if len(ordinals) <= _FEW and not self._by_id:
            kept = source.row_columns
            if kept is None or not kept.is_ready(self.where):
                return self._read_few(source, ordinals)
        mask, lost = self._told(source, int(ordinals.max()) + 1)
        found: Bools = mask[ordinals]
        if len(lost):
            untold = np.isin(ordinals, lost)
            found[untold] = False
            self._damaged.update(source.rows_at(ordinals[untold]).tolist())
        return found

    def _told(self, source: Segment | Chunk, count: int) -> tuple[Bools, Ordinals]:
        """Return which of the first `count` rows match, and the ordinals that cannot be told."""
        kept = columns_of(source, count)
        stored = isinstance(source, Segment)
        found = kept.mask(
            self.where, lambda one: self._with_ids(one, source, kept.columns.rows), keep=stored
        )
        lost = kept.lost if stored else self._lost_in(source)
        return found[:count], lost[lost < count] if len(lost) else lost

    def _lost_in(self, source: Segment | Chunk) -> Ordinals:
        lost = self._lost_rows - source.first_row
        return lost[lost >= 0]

    def _read_few(self, source: Segment | Chunk, ordinals: Ordinals) -> Bools:
        if isinstance(source, Segment):
            values, lost = read_metadata(source, ordinals)
        else:
            values = [source.metadata[ordinal] for ordinal in ordinals.tolist()]
            lost = self._lost_in(source)
        matches = self.where.matches
        found = np.fromiter(
            (matches(_decode(value) if value else None, "") for value in values),
            np.bool_,
            len(values),
        )
        if len(lost):
            untold = np.isin(ordinals, lost)
            found[untold] = False
            self._damaged.update(source.rows_at(ordinals[untold]).tolist())
        return found

    def _with_ids(self, condition: HasId, source: Segment | Chunk, count: int) -> Bools:
        """Return which rows of a source have one of the ids: bool[count]."""
        if condition not in self._rows_of:
            found = self._view.find(list(condition.ids), self._lsn, self._row_limit)
            self._rows_of[condition] = np.array(sorted(set(found) - {-1}), dtype=np.int64)
        rows = self._rows_of[condition]
        if isinstance(source, Segment):
            rows = rows[(rows >= source.first_row) & (rows < source.row_end)]
            ordinals = source.ordinals_of(rows)
        else:
            ordinals = rows - source.first_row
        mask = np.zeros(count, dtype=np.bool_)
        mask[ordinals[(ordinals >= 0) & (ordinals < count)]] = True
        return mask
