"""What one damaged byte may cost: the rows that a file holds at an offset.

Read from an undamaged directory: `Radius.rows(path, offset)` are the row numbers that damage at
that offset may take, and no others. Heads, control data and tails are there twice, JSON files are
spare: damage in them takes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from dvecdb.formats import segment_file as sf
from dvecdb.formats.batch import batch_tag, decode_batch
from dvecdb.formats.columns import METADATA_BLOCK_BYTES, block_rows, offsets_of
from dvecdb.formats.framing import decode_sections
from dvecdb.formats.wal_record import Kind, scan

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from dvecdb.formats.wal_record import Found

_NOTHING: Final = frozenset[int]()


class Radius:
    """The blast radius of every byte of one collection. `tree`: path to bytes, undamaged."""

    def __init__(self, tree: Mapping[str, bytes | None]) -> None:
        self.ids: dict[int, str] = {}
        """Row number to id."""
        self._segments: dict[str, _SegmentRows] = {}
        self._logs: dict[str, list[tuple[int, int, frozenset[int]]]] = {}
        for path, data in tree.items():
            if data is None or ".deleted" in path:
                continue
            if path.endswith(sf.RECORDS_NAME):
                directory = path.rpartition("/")[0]
                first_row = int(directory.rpartition("/")[2].partition("-")[0])
                self._segments[directory] = _SegmentRows(data, first_row)
                self.ids.update(self._segments[directory].ids)
            elif path.endswith(".wal"):
                self._logs[path] = self._read_log(data)

    def rows(self, path: str, offset: int) -> frozenset[int]:
        """Return the rows that damage at `offset` of `path` may take."""
        directory, _, name = path.rpartition("/")
        if directory in self._segments:
            rows = self._segments[directory]
            return rows.by_vector(offset) if name == sf.VECTORS_NAME else rows.by_record(offset)
        for start, end, taken in self._logs.get(path, ()):
            if start <= offset < end:
                return taken
        return _NOTHING

    def all_rows(self, path: str) -> frozenset[int]:
        """Return the rows that `path` holds anything of."""
        directory = path.rpartition("/")[0]
        if directory in self._segments:
            return frozenset(self._segments[directory].ids)
        return _NOTHING.union(*(taken for _, _, taken in self._logs.get(path, ())))

    def _read_log(self, data: bytes) -> list[tuple[int, int, frozenset[int]]]:
        spans = []
        for found in scan(data).records:
            if found.head.kind is Kind.BATCH:
                spans += self._read_batch(data, found)
        return spans

    def _read_batch(self, data: bytes, found: Found) -> list[tuple[int, int, frozenset[int]]]:
        head = found.head
        assert found.control is not None
        start = found.offset + head.data_offset
        view = memoryview(data)[start : start + head.data_size]
        batch = decode_batch(found.control, view, batch_tag(head.tag, head.lsn))
        if batch.bulk is not None:
            return []
        self.ids.update(enumerate(batch.ids, batch.first_row))
        spans = []
        step = block_rows(batch.vector_bytes) if batch.vector_bytes else 1
        for first in range(0, batch.row_count, step):
            end = min(first + step, batch.row_count)
            rows = frozenset(range(batch.first_row + first, batch.first_row + end))
            size = batch.vector_bytes
            spans.append((start + first * size, start + end * size, rows))
        if batch.metadata:
            lengths = np.array([len(item) for item in batch.metadata], np.uint32)
            cuts = offsets_of(lengths).astype(np.int64)
            start += len(batch.vectors)
            for first in range(0, int(cuts[-1]), METADATA_BLOCK_BYTES):
                end = min(first + METADATA_BLOCK_BYTES, int(cuts[-1]))
                touched = np.flatnonzero((cuts[:-1] < end) & (cuts[1:] > first))
                rows = frozenset((touched + batch.first_row).tolist())
                spans.append((start + first, start + end, rows))
        return spans


class _SegmentRows:
    """Where the rows of one segment lie."""

    def __init__(self, records: bytes, first_row: int) -> None:
        self.head = sf.decode_head(records[: sf.HEAD_SIZE])
        control = records[sf.HEAD_SIZE : sf.HEAD_SIZE + self.head.control_size]
        sections = decode_sections(control)
        self.descriptor = sf.decode_descriptor(sections[sf.DESCRIPTOR])
        self.numbers = np.arange(first_row, first_row + self.descriptor.rows)
        if self.head.required_features & sf.FEATURE_ROW_NUMBERS:
            self.numbers = np.frombuffer(sections.get(sf.ROW_NUMBERS, b""), np.int64)
        self.body = records[self.head.body_offset : self.head.body_offset + self.head.body_size]
        spans = self.descriptor.columns.get("ids")
        starts, ends = self._cuts("ids")
        base = spans.offset if spans is not None else 0
        bounds = zip((starts + base).tolist(), (ends + base).tolist(), strict=True)
        self.ids = {
            number: self.body[start:end].decode()
            for number, (start, end) in zip(self.numbers.tolist(), bounds, strict=False)
        }

    def _cuts(self, name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        span = self.descriptor.columns.get(name + "_offsets")
        if span is None:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        raw = self.body[span.offset : span.offset + span.size]
        table = np.frombuffer(raw, np.uint64).astype(np.int64)
        return table[:-1], table[1:]

    def by_vector(self, offset: int) -> frozenset[int]:
        block = offset // (self.descriptor.block_rows * self.descriptor.vector_bytes)
        first = block * self.descriptor.block_rows
        end = min(first + self.descriptor.block_rows, self.descriptor.rows)
        return frozenset(self.numbers[first:end].tolist())

    def by_record(self, offset: int) -> frozenset[int]:
        inside = offset - self.head.body_offset
        if not 0 <= inside < self.head.body_size:
            return _NOTHING
        first = inside // sf.PAGE_BYTES * sf.PAGE_BYTES
        end = first + sf.PAGE_BYTES
        taken: set[int] = set()
        for name in ("ids", "metadata"):
            starts, ends = self._cuts(name)
            if not len(starts):
                continue
            ordinals = np.arange(len(starts))
            table = self.descriptor.columns[name + "_offsets"].offset + ordinals * 8
            base = self.descriptor.columns[name].offset
            touched = (table < end) & (table + 16 > first)
            touched |= (starts + base < end) & (ends + base > first) & (ends > starts)
            taken.update(self.numbers[ordinals[touched]].tolist())
        return frozenset(taken)
