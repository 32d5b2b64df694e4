"""Which rows are live, and where each of them can be read best. No I/O but through the holders."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from dvecdb.records import Schema
    from dvecdb.rescue.own.holders import Holder

    Rows = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]

_decode = msgspec.json.Decoder().decode


@dataclass(slots=True)
class Ends:
    """Rows that ended: by commits in segments, and by commits that only logs hold."""

    stored: Rows
    logged: Rows


@dataclass(slots=True)
class Dropped:
    """A range of rows of which all but `kept` ended long ago and are gone."""

    first: int
    end: int
    kept: Rows


@dataclass(slots=True)
class Chosen:
    """The rows of the newest state, rising, and where their parts lie.

    ids: None where no copy can be read; first: the best holder of each row, whatever of it can be
    read; holder, ordinal: where the vector lies, holder -1 if nowhere; metadata: None if lost.
    """

    rows: Rows
    ids: list[str | None]
    first: npt.NDArray[np.int64]
    holder: npt.NDArray[np.int64]
    ordinal: npt.NDArray[np.int64]
    metadata: list[bytes | None]
    superseded: int = 0
    deleted: list[str] = field(default_factory=list)


def choose(
    holders: Sequence[Holder], ends: Ends, dropped: Sequence[Dropped], *, keep_deleted: bool
) -> Chosen:
    """Return the live rows, each id once. `holders`: the best first."""
    every = np.unique(np.concatenate([np.zeros(0, np.int64), *(item.rows for item in holders)]))
    gone = np.isin(every, ends.stored)
    for part in dropped:
        gone |= (every >= part.first) & (every < part.end) & ~np.isin(every, part.kept)
    by_log = np.isin(every, ends.logged) & ~gone
    live = every[~gone & ~by_log]
    live_ids = ids_of(holders, live)
    newest = _newest(live_ids)
    ended = every[by_log]
    ended_ids = ids_of(holders, ended)
    known = set(live_ids)
    last = {text: place for place, text in enumerate(ended_ids) if text and text not in known}
    rows, ids = live[newest], [live_ids[place] for place in newest.tolist()]
    if keep_deleted and last:
        places = sorted(last.values())
        rows = np.concatenate([rows, ended[places]])
        ids += [ended_ids[place] for place in places]
        order = np.argsort(rows)
        rows, ids = rows[order], [ids[place] for place in order.tolist()]
    chosen = _locate(holders, rows, ids)
    chosen.superseded = len(every) - len(rows)
    chosen.deleted = sorted(str(text) for text in last)
    return chosen


def _newest(ids: Sequence[str | None]) -> Rows:
    """Return the places of the newest row of each id, and of every row without one, rising."""
    last = {text: place for place, text in enumerate(ids) if text is not None}
    places = [place for place, text in enumerate(ids) if text is None or last[text] == place]
    return np.array(places, dtype=np.int64)


def _held(holder: Holder, rows: Rows) -> tuple[Rows, Rows]:
    """Return the positions in `rows` that a holder has, and their ordinals in it."""
    if not len(holder.rows):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    found = np.minimum(np.searchsorted(holder.rows, rows), len(holder.rows) - 1)
    positions = np.flatnonzero(holder.rows[found] == rows)
    return positions, found[positions]


def ids_of(holders: Sequence[Holder], rows: Rows) -> list[str | None]:
    """Return the id of each row from the best copy of it that can be read."""
    ids: list[str | None] = [None] * len(rows)
    left = np.ones(len(rows), dtype=np.bool_)
    for holder in holders:
        positions, ordinals = _held(holder, rows)
        wanted = left[positions]
        positions, ordinals = positions[wanted], ordinals[wanted]
        if not len(positions):
            continue
        for position, text in zip(positions.tolist(), holder.ids(ordinals), strict=True):
            if text is not None:
                ids[position] = text
                left[position] = False
    return ids


def _locate(holders: Sequence[Holder], rows: Rows, ids: list[str | None]) -> Chosen:
    """Find the best copy of the vector and of the metadata of each row, which say its id too."""
    count = len(rows)
    chosen = Chosen(
        rows, ids, np.full(count, -1, np.int64), np.full(count, -1, np.int64),
        np.zeros(count, np.int64), [None] * count,
    )  # fmt: skip
    no_metadata = np.ones(count, dtype=np.bool_)
    for number, holder in enumerate(holders):
        positions, ordinals = _held(holder, rows)
        if not len(positions):
            continue
        is_first = chosen.first[positions] < 0
        chosen.first[positions[is_first]] = number
        wanted = (chosen.holder[positions] < 0) | no_metadata[positions]
        positions, ordinals, is_first = positions[wanted], ordinals[wanted], is_first[wanted]
        same = _says_the_same(holder, positions, ordinals, ids, is_first)
        positions, ordinals = positions[same], ordinals[same]
        vectors = (chosen.holder[positions] < 0) & ~holder.bad_vectors[ordinals]
        chosen.holder[positions[vectors]] = number
        chosen.ordinal[positions[vectors]] = ordinals[vectors]
        metadata = no_metadata[positions]
        positions, ordinals = positions[metadata], ordinals[metadata]
        if not len(positions):
            continue
        for position, value in zip(positions.tolist(), holder.metadata(ordinals), strict=True):
            if value is not None and _is_object(value):
                chosen.metadata[position] = value
                no_metadata[position] = False
    return chosen


def _is_object(value: bytes) -> bool:
    """Tell whether stored metadata is a JSON object, or none."""
    try:
        return not value or isinstance(_decode(value), dict)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False


def _says_the_same(
    holder: Holder, positions: Rows, ordinals: Rows, ids: Sequence[str | None], is_first: Mask
) -> Mask:
    """Return which copies are of the same row: of a copy that is not the best, the id decides."""
    same = is_first.copy()
    others = np.flatnonzero(~is_first)
    if len(others):
        texts = holder.ids(ordinals[others])
        for place, position, text in zip(
            others.tolist(), positions[others].tolist(), texts, strict=True
        ):
            same[place] = text is not None and text == ids[position]
    return same


@dataclass(slots=True)
class StoredVectors:
    """The vectors of chosen rows, in their order, read where they lie."""

    schema: Schema
    holders: Sequence[Holder]
    holder: npt.NDArray[np.int64]
    ordinal: npt.NDArray[np.int64]

    @property
    def stored_bytes(self) -> int:
        """Size of all of them as stored."""
        return len(self.holder) * self.schema.vector_bytes

    def pieces(self, rows_per_piece: int) -> Iterator[npt.NDArray[Any]]:
        """Yield them as stored, [n, dimension], `rows_per_piece` at a time but for the last.

        Raises:
            DirectoryError: `directory-unreadable`, a file cannot be read any more.
        """
        for start in range(0, len(self.holder), rows_per_piece):
            numbers = self.holder[start : start + rows_per_piece]
            ordinals = self.ordinal[start : start + rows_per_piece]
            if numbers[0] == numbers[-1] and (numbers == numbers[0]).all():
                yield self.holders[int(numbers[0])].vectors(ordinals)
                continue
            piece = np.empty((len(numbers), self.schema.dimension), self.schema.vector_type.dtype)
            for number in np.unique(numbers).tolist():
                own = np.flatnonzero(numbers == number)
                piece[own] = self.holders[number].vectors(ordinals[own])
            yield piece
