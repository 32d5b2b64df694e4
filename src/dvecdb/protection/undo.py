"""Bringing rows back to an earlier state, as an ordinary commit.

Rows never change, so two states differ by the rows that are live in only one of them. Those of the
earlier state are written again, as new rows; those of the newer one end. Both states, and all in
between, stay readable. Large amounts go straight from the segments they lie in into a new one.

What others write while an undo is prepared: it wins for the ids that it touches, and leaves others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import blake3
import msgspec
import numpy as np

from dvecdb.engine.gather import ids_of, live_rows, matches_of, metadata_of, same_rows, vectors_of
from dvecdb.engine.matching import Matching
from dvecdb.engine.rows import damaged_rows
from dvecdb.records import canonical_ids
from dvecdb.search.filters import parse_filter

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from dvecdb.engine.rows import View
    from dvecdb.engine.writes import Write
    from dvecdb.formats.columns import DocumentEntry
    from dvecdb.records import Json, Schema

    Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class State:
    """A state of a view: an LSN and the number of rows born by then."""

    lsn: int
    row_limit: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows are brought back: by id and by filter; None: all."""

    ids: Sequence[str] | None = None
    where: Mapping[str, Json] | None = None

    @property
    def is_all(self) -> bool:
        """Whether nothing was left out."""
        return self.ids is None and self.where is None


@dataclass(frozen=True, slots=True)
class Plan:
    """What an undo writes.

    rows: to be written again, int64[n], rising, and their ids; removed: ids without a successor.
    """

    rows: Rows
    ids: list[str]
    removed: list[str]
    documents: list[DocumentEntry]

    @property
    def is_empty(self) -> bool:
        """Whether both states are the same."""
        return not self.ids and not self.removed and not self.documents


def plan_undo(view: View, schema: Schema, then: State, now: State, selection: Selection) -> Plan:
    """Return what brings the state `now` back to `then`.

    Raises:
        InvalidRequestError: `invalid-id`, `invalid-argument`, `invalid-filter`.
        DamagedDataError: `damaged-data`, ids or metadata that are needed cannot be read.
    """
    live_then, live_now = live_rows(view, *_pair(then)), live_rows(view, *_pair(now))
    lost = np.setdiff1d(live_then, live_now, assume_unique=True)
    added = np.setdiff1d(live_now, live_then, assume_unique=True)
    lost_ids, added_ids = ids_of(view, lost), ids_of(view, added)
    if not selection.is_all:
        chosen = _choose(view, selection, (then, lost, lost_ids), (now, added, added_ids))
        kept = np.array([text in chosen for text in lost_ids], dtype=np.bool_)
        lost, lost_ids = lost[kept], [text for text in lost_ids if text in chosen]
        kept = np.array([text in chosen for text in added_ids], dtype=np.bool_)
        added, added_ids = added[kept], [text for text in added_ids if text in chosen]
    now_rows = dict(zip(added_ids, added.tolist(), strict=True))
    changed = _changed(view, schema, lost, np.array([now_rows.get(text, -1) for text in lost_ids]))
    returning = set(lost_ids)
    return Plan(
        rows=lost[changed],
        ids=[text for text, differs in zip(lost_ids, changed.tolist(), strict=True) if differs],
        removed=[text for text in added_ids if text not in returning],
        documents=_documents(view, then.lsn, now.lsn) if selection.is_all else [],
    )


def _changed(view: View, schema: Schema, lost: Rows, now: Rows) -> npt.NDArray[np.bool_]:
    """Return which of the lost rows differ from what their id holds now (-1: nothing): bool[n]."""
    changed = np.ones(len(lost), dtype=np.bool_)
    replaced = np.flatnonzero(now >= 0)
    changed[replaced] = ~same_rows(view, lost[replaced], now[replaced], schema)
    return changed


def _pair(state: State) -> tuple[int, int]:
    return state.lsn, state.row_limit


def _choose(
    view: View, selection: Selection, *sides: tuple[State, Rows, list[str]]
) -> Collection[str]:
    """Return the ids that are wanted: those whose row matches in one of the two states."""
    wanted = {text for *_, ids in sides for text in ids}
    if selection.ids is not None:
        wanted &= set(canonical_ids(list(selection.ids)))
    where = parse_filter(selection.where)
    if where is None:
        return wanted
    matches: set[str] = set()
    damaged: list[int] = []
    for state, rows, ids in sides:
        matching = Matching(view, where, *_pair(state))
        found = matches_of(view, rows, matching)
        matches.update(text for text, hit in zip(ids, found.tolist(), strict=True) if hit)
        damaged += matching.damaged
    if damaged:
        named = ids_of(view, np.unique(np.array(damaged, dtype=np.int64)))
        raise damaged_rows(named, "stored metadata is damaged, so these may or may not match")
    return wanted & matches


def _documents(view: View, then: int, now: int) -> list[DocumentEntry]:
    before, after = view.user_documents(then), view.user_documents(now)
    return [
        (*name, before.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


class StoredRows:
    """The vectors of stored rows, for a segment that is written of them: no copy in memory."""

    def __init__(self, view: View, rows: Rows, schema: Schema) -> None:
        self._view = view
        self._rows = rows
        self._schema = schema

    @property
    def stored_bytes(self) -> int:
        """Size of all of them as stored."""
        return len(self._rows) * self._schema.vector_bytes

    def pieces(self, rows_per_piece: int) -> Iterator[npt.NDArray[Any]]:
        """Yield them as stored, `rows_per_piece` at a time but for the last.

        Raises:
            DamagedDataError: `damaged-data`, names the ids.
        """
        for start in range(0, len(self._rows), rows_per_piece):
            yield vectors_of(self._view, self._rows[start : start + rows_per_piece], self._schema)


def fill(write: Write, plan: Plan, view: View, schema: Schema, bulk_bytes: int) -> None:
    """Put the rows of a plan into a write.

    Raises:
        DamagedDataError: `damaged-data`, names the ids.
    """
    write.ids = write.answer_ids = plan.ids
    if not plan.ids:
        return
    metadata = metadata_of(view, plan.rows)
    write.metadata = metadata if any(metadata) else None
    source = StoredRows(view, plan.rows, schema)
    if source.stored_bytes >= bulk_bytes:
        write.source = source
    else:
        write.vectors = vectors_of(view, plan.rows, schema).copy()
    write.size_bytes = source.stored_bytes + sum(map(len, metadata))


def where_digest(where: Mapping[str, Json]) -> str:
    """Return what tells two deletions by a filter with the same idempotency key apart."""
    return blake3.blake3(msgspec.msgpack.encode(("delete", dict(where)), enc_hook=repr)).hexdigest()


def request_digest(to_lsn: int, selection: Selection) -> str:
    """Return what tells two undo requests with the same idempotency key apart."""
    value = ("undo", to_lsn, selection.ids and list(selection.ids), selection.where)
    return blake3.blake3(msgspec.msgpack.encode(value)).hexdigest()
