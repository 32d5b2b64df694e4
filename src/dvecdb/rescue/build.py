"""From what was saved to the files of a collection: segments, one manifest, collection.json.

Rows go straight from the source into segments, a piece at a time. Each segment is one commit, so
the history of the new collection begins with the import. All is synced before it gets its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from dvecdb.engine.lifecycle import write_empty
from dvecdb.engine.manifest import check_coverage, schema_entry
from dvecdb.engine.new_segment import document_sections
from dvecdb.engine.segment_writer import ByteColumn, SegmentContent, write_segment
from dvecdb.engine.storage import write_file
from dvecdb.errors import Code
from dvecdb.formats import names
from dvecdb.formats import segment_file as sf
from dvecdb.formats.columns import block_rows, encode_texts
from dvecdb.formats.json_value import encode_json
from dvecdb.formats.manifest_file import CollectionFile, Manifest, SegmentEntry, seal_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    import numpy.typing as npt

    from dvecdb.engine.store import Environment
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
        salvage, environment = self._salvage, self._environment
        if not salvage.ids and not salvage.documents:
            return write_empty(salvage.schema, environment, self._epoch, directory)
        files, now = environment.files, environment.clock.wall_ns()
        for child in names.COLLECTION_DIRECTORIES:
            files.make_directory(directory, child)
        collection_uuid = environment.new_uuid()
        segments = files.open_directory(directory, names.SEGMENTS)
        try:
            entries = self._write_segments(segments, collection_uuid, now)
            files.sync_directory(segments)
        finally:
            files.close_directory(segments)
        manifest = Manifest(
            generation=1,
            epoch=int(self._epoch),
            collection_uuid=str(collection_uuid),
            lineage=str(environment.new_uuid()),
            reason="import",
            created_ns=now,
            schema=schema_entry(salvage.schema),
            segments=entries,
            flushed_lsn=len(entries),
            flushed_hash=0,
            row_end=len(salvage.ids),
            hlc=now + len(entries),
        )
        check_coverage(manifest)
        manifests = files.open_directory(directory, names.MANIFESTS)
        try:
            write_file(files, manifests, names.manifest_name(1), [seal_json(manifest)])
        finally:
            files.close_directory(manifests)
        created = CollectionFile(uuid=str(collection_uuid), created_ns=now, schema=manifest.schema)
        write_file(files, directory, names.COLLECTION_FILE, [seal_json(created)])
        return now

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
            name = names.segment_name(first, lsn, written.uuid.hex)
            environment.files.rename(parent, written.partial_name, parent, name)
            entries.append(
                SegmentEntry(
                    directory=name,
                    uuid=written.uuid.hex,
                    digest=written.digest,
                    first_row=first,
                    row_end=last,
                    first_lsn=lsn,
                    last_lsn=lsn,
                    commits=1,
                    records_bytes=written.records_bytes,
                    vectors_bytes=written.vectors_bytes,
                )
            )
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
