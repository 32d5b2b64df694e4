"""The history of a collection: what the commit columns and notes say about each batch.

Notes lie with the control data, which is stored twice: damaged rows cost no history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from dvecdb.clock import to_datetime
from dvecdb.engine.segment import Segment
from dvecdb.formats import segment_file as sf
from dvecdb.records import CommitInfo, Lsn

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dvecdb.engine.memtable import Memtable
    from dvecdb.engine.rows import View


class _Note(msgspec.Struct, frozen=True):
    """A commit note. Fields this version does not know are ignored."""

    op: str = "unknown"
    actor: str | None = None
    reason: str | None = None
    request_id: str | None = None


_decode_note = msgspec.json.Decoder(_Note).decode


def read_commits(view: View, first: int, last: int) -> list[CommitInfo]:
    """Return the commits `first` .. `last`, which must exist, newest first."""
    found: list[CommitInfo] = []
    while last >= first:
        holder = view.holder(last)
        start = max(first, holder.first_lsn)
        row_ends = [view.row_limit(start - 1), *_row_ends(holder, start, last)]
        columns = _segment_columns if isinstance(holder, Segment) else _memtable_columns
        hlcs, walls, notes = columns(holder, start, last)  # type: ignore[arg-type]  # by its type
        ended = _ended(holder, start, last)
        for index in range(last - start, -1, -1):
            note = _read_note(notes[index])
            found.append(
                CommitInfo(
                    lsn=Lsn(start + index),
                    time=to_datetime(walls[index]),
                    hlc=hlcs[index],
                    operation=note.op,
                    actor=note.actor,
                    reason=note.reason,
                    request_id=note.request_id,
                    rows=row_ends[index + 1] - row_ends[index],
                    ended=ended[index],
                )
            )
        last = start - 1
    return found


def commit_counts(
    view: View, first: int, last: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return how many rows the commits `first` .. `last` wrote and ended: int64[n] each."""
    row_ends = [view.row_limit(first - 1)]
    ended: list[int] = []
    while first <= last:
        holder = view.holder(first)
        end = min(last, holder.last_lsn)
        row_ends += _row_ends(holder, first, end)
        ended += _ended(holder, first, end)
        first = end + 1
    limits = np.array(row_ends, np.int64)
    return limits[1:] - limits[:-1], np.array(ended, np.int64)


def _read_note(note: bytes) -> _Note:
    try:
        return _decode_note(note)
    except msgspec.MsgspecError:  # whole, since it is checksummed, but of a newer writer
        return _Note()


def _row_ends(holder: Segment | Memtable, first: int, last: int) -> list[int]:
    start, end = first - holder.first_lsn, last + 1 - holder.first_lsn
    if isinstance(holder, Segment):
        return [int(value) for value in holder.commit_row_ends[start:end]]
    return holder.row_ends[start:end]


def _memtable_columns(
    memtable: Memtable, first: int, last: int
) -> tuple[Sequence[int], Sequence[int], Sequence[bytes]]:
    start, end = first - memtable.first_lsn, last + 1 - memtable.first_lsn
    return memtable.hlcs[start:end], memtable.walls[start:end], memtable.notes[start:end]


def _segment_columns(
    segment: Segment, first: int, last: int
) -> tuple[Sequence[int], Sequence[int], Sequence[bytes]]:
    start, end = first - segment.first_lsn, last + 1 - segment.first_lsn
    hlcs = segment.commit_hlcs[start:end].tolist()
    walls = segment.section(sf.COMMIT_WALLS, np.uint64)[start:end].tolist()
    sizes = segment.section(sf.NOTE_SIZES, np.uint32)
    bounds = [0, *np.cumsum(sizes, dtype=np.int64).tolist()]
    joined = segment.sections.get(sf.NOTES, b"")
    notes = [bytes(joined[bounds[index] : bounds[index + 1]]) for index in range(start, end)]
    return hlcs, walls, notes


def _ended(holder: Segment | Memtable, first: int, last: int) -> list[int]:
    """Return how many rows each of the commits ended."""
    counts = [0] * (last + 1 - first)
    if isinstance(holder, Segment):
        lsns = holder.ends_lsns
        inside = lsns[(lsns >= first) & (lsns <= last)].astype(np.int64) - first
        return [int(count) for count in np.bincount(inside, minlength=len(counts))]
    for lsn, rows in list(holder.ends):  # a writer may add to it
        if first <= lsn <= last:
            counts[lsn - first] = len(rows)
    return counts
