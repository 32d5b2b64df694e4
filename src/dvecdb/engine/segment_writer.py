"""Writing a segment: vectors.bin, then records.bin, both synced, under a partial directory name.

The caller renames the directory to its final name and makes that durable. Checksums are computed
by a second thread while the first one writes, since both leave Python's lock.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from dvecdb.engine.storage import close_quietly
from dvecdb.formats import names
from dvecdb.formats import segment_file as sf
from dvecdb.formats.columns import block_checksums, block_rows, offsets_of
from dvecdb.formats.framing import (
    FormatError,
    block_checksum,
    digest,
    encode_sections,
    padded,
    padding,
    tag_of,
)
from dvecdb.formats.manifest_file import SegmentEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from uuid import UUID

    import numpy.typing as npt

    from dvecdb.media.files import Buffer, Dir, File, Files
    from dvecdb.records import Schema

_PIECE_BYTES: Final = sf.CHUNK_BYTES
_SYNC_BYTES: Final = 64 * 1024 * 1024


@dataclass(slots=True)
class ByteColumn:
    """n byte strings: their lengths (uint32[n]) and the buffers that hold them, joined."""

    lengths: npt.NDArray[np.uint32]
    buffers: Sequence[Buffer]


@dataclass(slots=True)
class SegmentContent:
    """All that goes into a segment.

    vectors: buffers of whole rows, in order; control: the sections of the commits (ends, notes,
    documents) as `formats.segment_file` numbers them, descriptor and checksums excluded;
    row_numbers: those of the rows if some of their range are left out, else None.
    """

    rows: int
    vectors: Iterable[Buffer]
    ids: ByteColumn
    metadata: ByteColumn
    first_lsn: int
    commits: int
    control: Mapping[int, Buffer] = field(default_factory=dict)
    row_numbers: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class WrittenSegment:
    """A segment on disk, under `partial_name` until the caller renames it."""

    partial_name: str
    uuid: UUID
    digest: str
    records_bytes: int
    vectors_bytes: int

    def entry(self, rows: range, first_lsn: int, commits: int) -> SegmentEntry:
        """Return its manifest entry, whose `directory` is the name it is to get.

        rows: the range it covers; commits: 0 for rows alone, all of them born at `first_lsn`.
        """
        last_lsn = first_lsn + max(commits, 1) - 1
        return SegmentEntry(
            directory=names.segment_name(rows.start, last_lsn, self.uuid.hex),
            uuid=self.uuid.hex,
            digest=self.digest,
            first_row=rows.start,
            row_end=rows.stop,
            first_lsn=first_lsn,
            last_lsn=last_lsn,
            commits=commits,
            records_bytes=self.records_bytes,
            vectors_bytes=self.vectors_bytes,
        )


def write_segment(
    files: Files,
    parent: Dir,
    content: SegmentContent,
    schema: Schema,
    segment_uuid: UUID,
    collection_uuid: UUID,
) -> WrittenSegment:
    """Write a segment durably below `parent`, under a partial name. Raises `OSError`.

    On an error nothing is left behind but, at worst, a partial directory that reclaim removes.
    """
    partial = names.PARTIAL + segment_uuid.hex
    files.make_directory(parent, partial)
    directory = files.open_directory(parent, partial)
    try:
        vectors = _VectorsWriter(segment_uuid, schema)
        vectors_bytes = vectors.write(files, directory, content.vectors)
        if vectors_bytes != content.rows * schema.vector_bytes:
            raise FormatError(f"{vectors_bytes} bytes of vectors for {content.rows} rows")
        control_digest, records_bytes = _write_records(
            files, directory, content, schema, vectors, segment_uuid, collection_uuid
        )
        files.sync_directory(directory)
    except BaseException:
        remove_partial(files, parent, partial)
        raise
    finally:
        files.close_directory(directory)
    return WrittenSegment(partial, segment_uuid, control_digest, records_bytes, vectors_bytes)


def remove_partial(files: Files, parent: Dir, partial: str) -> None:
    """Remove a segment that was never committed, as far as the disk allows."""
    with contextlib.suppress(OSError):
        directory = files.open_directory(parent, partial)
        try:
            for name in files.list_names(directory):
                files.remove(directory, name)
        finally:
            files.close_directory(directory)
        files.remove_directory(parent, partial)


class _VectorsWriter:
    """Writes vectors.bin and collects its checksums and digests."""

    def __init__(self, segment_uuid: UUID, schema: Schema) -> None:
        self._tag = tag_of(segment_uuid)
        self._block_bytes = block_rows(schema.vector_bytes) * schema.vector_bytes
        self.block_checksums: list[int] = []
        self.digests: list[bytes] = []
        self._pools: list[ThreadPoolExecutor] = []
        self._summing: Future[None] | None = None
        self._writing: Future[None] | None = None
        self._syncing: Future[None] | None = None
        self._synced_to = 0

    def write(self, files: Files, directory: Dir, vectors: Iterable[Buffer]) -> int:
        file = files.create(directory, sf.VECTORS_NAME)
        total = 0
        try:
            for piece in _pieces(vectors, _PIECE_BYTES, self._block_bytes):
                if total == 0 and len(piece) < _PIECE_BYTES // 2:
                    self._sum(piece)  # small: a second thread costs more than it gives
                    files.write_at(file, [piece], 0)
                else:
                    self._write_piece(files, file, piece, total)
                total += len(piece)
            self._settle(self._summing, self._writing, self._syncing)
            if total:
                files.sync(file)
            files.seal(file)
        finally:
            for pool in self._pools:
                pool.shutdown()
            close_quietly(files, file)
        return total

    def _write_piece(self, files: Files, file: File, piece: memoryview, offset: int) -> None:
        """Write a piece while it is summed, the next one is made and those before are synced."""
        if not self._pools:
            works = ("sum", "write", "sync")
            self._pools = [ThreadPoolExecutor(1, f"dvecdb-{work}") for work in works]
        summing, writing, syncing = self._pools
        self._settle(self._summing, self._writing)
        if offset >= self._synced_to + _SYNC_BYTES:
            self._settle(self._syncing)
            self._syncing = syncing.submit(files.sync, file)
            self._synced_to = offset
        self._summing = summing.submit(self._sum, piece)
        self._writing = writing.submit(files.write_at, file, [piece], offset)

    @staticmethod
    def _settle(*works: Future[None] | None) -> None:
        for work in works:
            if work is not None:
                work.result()

    def _sum(self, piece: memoryview) -> None:
        tag, size = self._tag, self._block_bytes
        number = len(self.block_checksums)
        for start in range(0, len(piece), size):
            self.block_checksums.append(block_checksum(piece[start : start + size], tag, number))
            number += 1
        self.digests.append(digest(piece))


def _pieces(buffers: Iterable[Buffer], target: int, block_bytes: int) -> Iterator[memoryview]:
    """Yield the joined buffers cut into pieces of whole blocks, about `target` bytes each.

    A piece that lies within one buffer is a view of it; only pieces across buffers are copied.
    """
    size = max(1, target // block_bytes) * block_bytes
    pending = bytearray()
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        if pending:
            take = min(len(view), size - len(pending))
            pending += view[:take]
            view = view[take:]
            if len(pending) < size:
                continue
            yield memoryview(bytes(pending))
            pending = bytearray()
        while len(view) >= size:
            yield view[:size]
            view = view[size:]
        pending += view
    if pending:
        yield memoryview(bytes(pending))


def _write_records(  # one file, all of its parts
    files: Files,
    directory: Dir,
    content: SegmentContent,
    schema: Schema,
    vectors: _VectorsWriter,
    segment_uuid: UUID,
    collection_uuid: UUID,
) -> tuple[str, int]:
    columns, body = _layout_body(content)
    body_view = memoryview(body)
    tag = tag_of(segment_uuid)
    descriptor = sf.Descriptor(
        rows=content.rows,
        dimension=schema.dimension,
        vector_type=str(schema.vector_type),
        vector_bytes=schema.vector_bytes,
        block_rows=block_rows(schema.vector_bytes),
        first_lsn=content.first_lsn,
        commits=content.commits,
        columns=columns,
    )
    sections: dict[int, Buffer] = {sf.DESCRIPTOR: msgspec.json.encode(descriptor)}
    features = 0
    if content.row_numbers is not None:
        features, sections[sf.ROW_NUMBERS] = sf.FEATURE_ROW_NUMBERS, content.row_numbers.tobytes()
    sections.update({tag_: value for tag_, value in content.control.items() if len(value)})
    sections[sf.VECTOR_BLOCKS] = np.array(vectors.block_checksums, np.uint64).tobytes()
    sections[sf.BODY_PAGES] = np.array(
        block_checksums(body_view, sf.PAGE_BYTES, tag), np.uint64
    ).tobytes()
    sections[sf.VECTOR_DIGESTS] = b"".join(vectors.digests)
    sections[sf.BODY_DIGESTS] = b"".join(
        digest(body_view[start : start + sf.CHUNK_BYTES])
        for start in range(0, len(body), sf.CHUNK_BYTES)
    )
    control = encode_sections(sections)
    body_offset = sf.align_page(sf.HEAD_SIZE + padded(len(control)))
    head = sf.SegmentHead(
        segment_uuid=segment_uuid,
        collection_uuid=collection_uuid,
        control_size=len(control),
        control_checksum=sf.control_checksum(control, segment_uuid),
        body_offset=body_offset,
        body_size=len(body),
        vectors_size=content.rows * schema.vector_bytes,
        required_features=features,
    )
    first, last = sf.encode_head(head)
    gap = bytes(body_offset - sf.HEAD_SIZE - len(control))
    buffers: list[Buffer] = [first, control, gap, body_view, padding(len(body))]
    buffers += [control, padding(len(control)), last]
    file: File = files.create(directory, sf.RECORDS_NAME)
    try:
        files.write_at(file, buffers, 0)
        files.sync(file)
        files.seal(file)
    finally:
        close_quietly(files, file)
    return digest(control).hex(), head.file_size


def _layout_body(content: SegmentContent) -> tuple[dict[str, sf.Span], bytearray]:
    body = bytearray()
    columns: dict[str, sf.Span] = {}
    for name, column in (("ids", content.ids), ("metadata", content.metadata)):
        if not content.rows or not any(len(buffer) for buffer in column.buffers):
            continue
        offsets = offsets_of(column.lengths).tobytes()
        for part, buffers in ((name + "_offsets", [offsets]), (name, column.buffers)):
            body += bytes(sf.align_page(len(body)) - len(body))
            start = len(body)
            for buffer in buffers:
                body += buffer
            columns[part] = sf.Span(start, len(body) - start)
    return columns, body
