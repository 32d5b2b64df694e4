"""What neighbouring segments hold together, without what no readable state shows any more.

Rows that ended at or before the horizon go, and so do document versions that were superseded by
then, and ends of rows that are nowhere any more. The commits and all that came later stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from dvecdb.engine.new_segment import document_sections
from dvecdb.engine.rows import live_mask, segment_documents
from dvecdb.engine.segment import UnreadableError
from dvecdb.engine.segment_writer import ByteColumn, SegmentContent
from dvecdb.formats import segment_file as sf

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from dvecdb.engine.rows import View
    from dvecdb.engine.segment import Segment
    from dvecdb.formats.columns import DocumentEntry
    from dvecdb.formats.framing import Buffer

    Part = tuple[Segment, npt.NDArray[np.bool_]]

_BLOCK_BYTES: Final = 4 * 1024 * 1024
_COLUMN_ROWS: Final = 64 * 1024
_BY_COMMIT: Final = (
    sf.COMMIT_ROW_ENDS, sf.COMMIT_HLCS, sf.COMMIT_WALLS, sf.NOTE_SIZES, sf.NOTES,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gathered:
    """The content of a new segment for the range `rows`, and what was left out.

    parts: the old segments that hold rows, in row order, and which of their rows stay: bool[rows];
    dropped: the rows that go, rising; horizon: the oldest LSN whose state is whole without what was
    left out, 0 if that is nothing.
    """

    content: SegmentContent
    rows: range
    parts: list[Part]
    dropped: npt.NDArray[np.int64]
    horizon: int


def gather(segments: Sequence[Segment], view: View, horizon: int) -> Gathered:
    """Return what `segments`, neighbours of `view`, hold without what ended by `horizon`.

    Raises:
        UnreadableError: some of it is damaged; damaged segments are never rewritten.
    """
    for segment in segments:
        damaged = segment.unreadable_vectors(0, segment.rows) if segment.rows else ()
        if segment.damaged:
            raise UnreadableError(list(damaged))
    with_rows = sorted((item for item in segments if item.rows), key=lambda item: item.first_row)
    parts = [(segment, live_mask(segment.ends, horizon)) for segment in with_rows]
    needed = max((int(segment.ends[~mask].max(initial=0)) for segment, mask in parts), default=0)
    documents, superseded = documents_to_keep(segments, horizon)
    needed = max(needed, superseded)
    control: dict[int, Buffer] = {
        tag: b"".join(bytes(segment.sections.get(tag, b"")) for segment in segments)
        for tag in _BY_COMMIT
    }
    readable_from = max(needed, view.manifest.horizon_lsn)
    control.update(_ends_to_keep(segments, parts, view, readable_from))
    for tag in (sf.LOST_VECTORS, sf.LOST_METADATA):
        control[tag] = _lost(parts, tag)
    control.update(document_sections(documents))
    rows = _range(segments)
    count = sum(int(np.count_nonzero(mask)) for _, mask in parts)
    numbers = None if count == len(rows) else _row_numbers(parts)
    with_commits = [segment for segment in segments if segment.commits]
    content = SegmentContent(
        rows=count,
        vectors=_vectors(parts),
        ids=_column(parts, "ids"),
        metadata=_column(parts, "metadata"),
        first_lsn=(with_commits or segments)[0].first_lsn,
        commits=sum(segment.commits for segment in segments),
        control=control,
        row_numbers=numbers,
    )
    dropped = _row_numbers([(segment, ~mask) for segment, mask in parts])
    return Gathered(content, rows, parts, dropped, needed)


def _range(segments: Sequence[Segment]) -> range:
    with_range = [segment for segment in segments if segment.row_end > segment.first_row]
    if not with_range:
        return range(segments[0].first_row, segments[0].first_row)
    return range(
        min(segment.first_row for segment in with_range),
        max(segment.row_end for segment in with_range),
    )


def _row_numbers(parts: Sequence[Part]) -> npt.NDArray[np.int64]:
    numbers = [segment.rows_at(np.flatnonzero(mask)) for segment, mask in parts]
    return np.concatenate([np.zeros(0, np.int64), *numbers])


def _vectors(parts: Sequence[Part]) -> Iterator[Buffer]:
    """Yield the kept vectors in order; whole segments as they are, others block by block."""
    for segment, mask in parts:
        if mask.all():
            yield segment.vectors.data
            continue
        step = max(1, _BLOCK_BYTES // segment.descriptor.vector_bytes)
        for start in range(0, segment.rows, step):
            part = mask[start : start + step]
            if part.any():
                yield segment.vectors[start : start + step][part].data


def _column(parts: Sequence[Part], name: str) -> ByteColumn:
    lengths: list[npt.NDArray[np.uint32]] = [np.zeros(0, np.uint32)]
    buffers: list[Buffer] = []
    for segment, mask in parts:
        own, joined = segment.column(name)
        lengths.append(own[mask])
        if mask.all():
            buffers.append(joined)
            continue
        data, position = np.frombuffer(joined, np.uint8), 0
        for start in range(0, segment.rows, _COLUMN_ROWS):
            sizes = own[start : start + _COLUMN_ROWS]
            end = position + int(sizes.sum(dtype=np.int64))
            chosen = np.repeat(mask[start : start + _COLUMN_ROWS], sizes)
            buffers.append(data[position:end][chosen].data)
            position = end
    return ByteColumn(np.concatenate(lengths), buffers)


def _lost(parts: Sequence[Part], tag: int) -> bytes:
    """Return the new ordinals of rows that were lost in the log already."""
    ordinals: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
    first = 0
    for segment, mask in parts:
        own = segment.section(tag, np.uint32).astype(np.int64)
        places = np.cumsum(mask) - 1 + first
        ordinals.append(places[own[mask[own]]])
        first += int(np.count_nonzero(mask))
    return np.sort(np.concatenate(ordinals)).astype(np.uint32).tobytes()


def _ends_to_keep(
    segments: Sequence[Segment], parts: Sequence[Part], view: View, horizon: int
) -> dict[int, Buffer]:
    """Return the sections of the ends without those of rows that are nowhere any more.

    Ends from the horizon on stay whatever became of their rows: they are history that can be read.
    """
    rows = np.concatenate([segment.ends_rows for segment in segments]).astype(np.int64)
    lsns = np.concatenate([segment.ends_lsns for segment in segments])
    stays = lsns >= np.uint64(horizon)
    asked = np.flatnonzero(~stays)
    masks = {id(segment): mask for segment, mask in parts}
    for segment, found in view.by_segment(rows[asked]) if len(asked) else ():
        positions = asked[found]
        ordinals = segment.ordinals_of(rows[positions])
        held = (ordinals >= 0) & (ordinals < segment.rows)
        mask = masks.get(id(segment))
        if mask is not None:
            held[held] = mask[ordinals[held]]
        stays[positions] = held
    return {
        sf.ENDS_ROWS: rows[stays].astype(np.uint64).tobytes(),
        sf.ENDS_LSNS: lsns[stays].tobytes(),
    }


def documents_to_keep(
    segments: Sequence[Segment], horizon: int
) -> tuple[list[tuple[int, DocumentEntry]], int]:
    """Return the (LSN, document) versions that a state from `horizon` on shows.

    Also the LSN of the newest commit that superseded what was left out, 0 if nothing was.
    """
    versions: dict[tuple[str, str], list[tuple[int, DocumentEntry]]] = {}
    for segment in segments:
        for lsn, entry in segment_documents(segment):
            versions.setdefault((entry[0], entry[1]), []).append((lsn, entry))
    is_first = any(segment.commits and segment.first_lsn == 1 for segment in segments)
    kept: list[tuple[int, DocumentEntry]] = []
    needed = 0
    for own in versions.values():
        own.sort(key=lambda version: version[0])
        old = sum(lsn <= horizon for lsn, _ in own)
        first = max(old - 1, 0)  # the newest of the old ones is what the horizon shows
        if old and is_first and own[first][1][2] is None:
            first += 1  # it was removed, and nothing older knows it
        if first:
            needed = max(needed, own[min(first, old - 1)][0])
        kept += own[first:]
    return kept, needed
