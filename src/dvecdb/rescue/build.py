"""From what was saved to the files of a collection: segments, one manifest, collection.json.

Rows go straight from the source into segments, a piece at a time. Each segment is one commit, so
the history of the new collection begins with the import. All is synced before it gets its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from dvecdb.engine.lifecycle import write_new
from dvecdb.engine.new_segment import document_sections
from dvecdb.engine.segment_writer import ByteColumn, SegmentContent, write_segment
from dvecdb.errors import Code
from dvecdb.formats import segment_file as sf
from dvecdb.formats.columns import block_rows, encode_texts
from dvecdb.formats.json_value import encode_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    import numpy.typing as npt

    from dvecdb.engine.store import Environment
    from dvecdb.formats.manifest_file import SegmentEntry
    from dvecdb.media.files import Buffer, Dir
    from dvecdb.records import Epoch
    from dvecdb.rescue.salvage import Progress, Salvage

_SEGMENT_BYTES_MAX: Final = 1 << 30
_encode = msgspec.json.Encoder().encode


class Building:
    """Writes one collection of a salvage. note: of its commits, for the history."""

    def __init__(
        self,
        salvage: Salvage,
        environment: Environment,
        epoch: Epoch,
        note: dict[str, str],
        progress: Progress | None = None,
    ) -> None:
        self._salvage = salvage
        self._environment = environment
        self._epoch = epoch
        self._note = note
        self._progress = progress

    def write(self, directory: Dir) -> int:
        """Write all files into an empty directory; return the time of creation. Raises `OSError`.

        All but the directory's own name is durable on return.
        """
        salvage = self._salvage
        is_empty = not salvage.ids and not salvage.documents
        return write_new(
            salvage.schema, self._environment, self._epoch, directory, reason="import",
            write_segments=None if is_empty else self._write_segments,
        )  # fmt: skip

    def _write_segments(self, parent: Dir, collection: UUID, now: int) -> list[SegmentEntry]:
        """Write the rows, a segment after the other, in one pass over the vectors."""
        salvage, environment = self._salvage, self._environment
        size, total = salvage.schema.vector_bytes, len(salvage.ids)
        in_block = block_rows(size)
        per_piece = max(1, sf.CHUNK_BYTES // (in_block * size)) * in_block
        per_segment = max(per_piece, _SEGMENT_BYTES_MAX // size // per_piece * per_piece)
        pieces = salvage.vectors.pieces(per_piece)
        entries: list[SegmentEntry] = []
        for first in range(0, max(total, 1), per_segment):
            last = min(first + per_segment, total)
            lsn = len(entries) + 1
            content = SegmentContent(
                rows=last - first,
                vectors=self._buffers(pieces, first, last),
                ids=ByteColumn(*_texts(salvage.ids[first:last])),
                metadata=_column(salvage.metadata[first:last]),
                first_lsn=lsn,
                commits=1,
                control=self._control(last, lsn, now),
            )
            written = write_segment(
                environment.files, parent, content, salvage.schema, environment.new_uuid(),
                collection,
            )  # fmt: skip
            entry = written.entry(range(first, last), lsn, 1)
            environment.files.rename(parent, written.partial_name, parent, entry.directory)
            entries.append(entry)
        return entries

    def _buffers(
        self, pieces: Iterator[npt.NDArray[np.generic]], first: int, last: int
    ) -> Iterator[Buffer]:
        """Yield the vectors of rows first .. last - 1, which begin and end with a piece."""
        total = self._salvage.vectors.stored_bytes
        size = self._salvage.schema.vector_bytes
        while first < last:
            piece = next(pieces)
            first += len(piece)
            yield piece.data
            if self._progress is not None:
                self._progress(first * size, total)

    def _control(self, row_end: int, lsn: int, now: int) -> dict[int, Buffer]:
        note = _encode(self._note)
        documents = [
            (1, (space, key, encode_json(value, f"document {space}/{key}", Code.INVALID_ARGUMENT)))
            for (space, key), value in self._salvage.documents.items()
        ]
        return {
            sf.COMMIT_ROW_ENDS: np.array([row_end], np.uint64).tobytes(),
            sf.COMMIT_HLCS: np.array([now + lsn], np.uint64).tobytes(),
            sf.COMMIT_WALLS: np.array([now], np.uint64).tobytes(),
            sf.NOTE_SIZES: np.array([len(note)], np.uint32).tobytes(),
            sf.NOTES: note,
            **(document_sections(documents) if lsn == 1 else {}),
        }


def _texts(ids: list[str]) -> tuple[npt.NDArray[np.uint32], list[bytes]]:
    lengths, joined = encode_texts(ids)
    return lengths, [joined]


def _column(values: list[bytes]) -> ByteColumn:
    sizes = np.fromiter(map(len, values), np.uint32, len(values))
    return ByteColumn(sizes, [b"".join(values)])
