"""Reading a segment: verified on first touch, then served from the map.

A block (of vectors) or page (of the record columns) is read once by `read_at`, compared with its
checksum, and from then on served from the memory map. Damage is remembered, reported as a finding,
and never served: callers ask `unreadable_vectors` first, or get `Unreadable`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar, cast

import numpy as np

from dvecdb.engine.block_norms import BlockNorms
from dvecdb.engine.row_range import RowRange, runs_of
from dvecdb.engine.storage import close_quietly
from dvecdb.formats import segment_file as sf
from dvecdb.formats.columns import decode_texts
from dvecdb.formats.framing import FormatError, block_checksum, decode_sections, digest, tag_of
from dvecdb.formats.segment_bounds import bound_commits, bound_rows, row_numbers
from dvecdb.records import Finding, VectorType

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from dvecdb.engine.row_columns import RowColumns
    from dvecdb.formats.manifest_file import SegmentEntry
    from dvecdb.media.files import Dir, File, Files

_N = TypeVar("_N", bound=np.generic)
_FEW: Final = 64  # rows read at a time, below which numpy costs more than it gives
_READ_BYTES: Final = 4 * 1024 * 1024
_UNKNOWN, _GOOD, _DAMAGED = 0, 1, 2


class SegmentLostError(Exception):
    """Both copies of a segment's control data are damaged: what it changed is not known."""


class UnreadableError(Exception):
    """Record columns of some rows are damaged. `ordinals` are the rows asked for and affected."""

    def __init__(self, ordinals: list[int]) -> None:
        super().__init__(f"{len(ordinals)} rows")
        self.ordinals = ordinals


class Segment(RowRange):
    """One open segment. Safe for any number of readers.

    `ends` is uint64[rows]: the LSN that ended each row, 0 for none. It is written only under the
    collection's commit lock, and only with LSNs that no reader sees yet.
    """

    def __init__(
        self,
        files: Files,
        parent: Dir,
        entry: SegmentEntry,
        report: Callable[[Finding], None],
        collection: str,
    ) -> None:
        """Open `entry` below the `segments` directory `parent`.

        Raises:
            SegmentLostError: neither copy of the control data can be read.
            OSError: as the disk says.
        """
        self.entry = entry
        self._files = files
        self._report = report
        self._collection = collection
        self._where = f"segments/{entry.directory}"
        self._open_files: list[File] = []
        directory = files.open_directory(parent, entry.directory)
        try:
            self._records_file = files.open(directory, sf.RECORDS_NAME)
            self._open_files.append(self._records_file)
            self._vectors_file = self._open_vectors(directory)
        except OSError:
            self.close()
            raise
        finally:
            files.close_directory(directory)
        self._load_control()
        self.ends: npt.NDArray[np.uint64] = np.zeros(self.rows, dtype=np.uint64)
        self.ended_count = 0
        self.row_columns: RowColumns | None = None  # made by the first filter
        self._map_body()
        self._map_vectors()

    def _open_vectors(self, directory: Dir) -> File | None:
        try:
            file = self._files.open(directory, sf.VECTORS_NAME)
        except FileNotFoundError:
            return None
        self._open_files.append(file)
        return file

    # --- control data ---

    def _load_control(self) -> None:
        size = self._files.size(self._records_file)
        copies = []
        for name, offset in (("head", 0), ("tail", size - sf.HEAD_SIZE)):
            try:
                head = sf.decode_head(self._read(sf.HEAD_SIZE, max(offset, 0)))
            except (FormatError, OSError):
                self._found("control-copy-damaged", f"{self._where}/{sf.RECORDS_NAME} {name}")
                continue
            if head.segment_uuid.hex == self.entry.uuid and head.file_size >= sf.HEAD_SIZE:
                copies.append(head)
        control = None
        for head in copies[:1]:
            for number, offset in ((1, sf.HEAD_SIZE), (2, head.second_control_offset)):
                data = self._try_read(head.control_size, offset)
                if (
                    len(data) == head.control_size
                    and sf.control_checksum(data, head.segment_uuid) == head.control_checksum
                    and (control is not None or digest(data).hex() == self.entry.digest)
                ):
                    control = data if control is None else control
                else:
                    where = f"{self._where}/{sf.RECORDS_NAME} control {number}"
                    self._found("control-copy-damaged", where)
        if control is None:
            self.close()
            raise SegmentLostError(self._where)
        self.head = copies[0]
        self.tag = tag_of(self.head.segment_uuid)
        sections = decode_sections(control)
        self.descriptor = sf.decode_descriptor(sections[sf.DESCRIPTOR])
        self.sections = self._bounded(sections)
        self.first_lsn, self.last_lsn = self.entry.first_lsn, self.entry.last_lsn
        self.commits = self.entry.commits
        self.commit_row_ends = self.section(sf.COMMIT_ROW_ENDS, np.uint64)
        self.commit_hlcs = self.section(sf.COMMIT_HLCS, np.uint64)
        self.ends_rows = self.section(sf.ENDS_ROWS, np.uint64)
        self.ends_lsns = self.section(sf.ENDS_LSNS, np.uint64)

    def _bounded(self, sections: dict[int, memoryview]) -> dict[int, memoryview]:
        """Return the sections without what lies beyond the entry's bounds."""
        entry, descriptor = self.entry, self.descriptor
        numbers = None
        if self.head.required_features & sf.FEATURE_ROW_NUMBERS:
            numbers = row_numbers(sections)
        self.set_range(entry.first_row, entry.row_end, descriptor.rows, numbers)
        if self.rows < descriptor.rows:
            sections = bound_rows(sections, self.rows)
        if entry.commits < descriptor.commits:
            sections = bound_commits(sections, entry.commits, entry.last_lsn)
        return sections

    def section(self, tag: int, dtype: type[_N]) -> npt.NDArray[_N]:
        """Return a section of the control data as an array; empty if absent."""
        return np.frombuffer(self.sections.get(tag, b""), dtype)

    # --- record columns ---

    def _map_body(self) -> None:
        head, size = self.head, self._files.size(self._records_file)
        end = min(size, head.body_offset + head.body_size)
        self._body = self._files.map(self._records_file, end)[head.body_offset :] if end else b""
        self._pages = self.section(sf.BODY_PAGES, np.uint64)
        self._page_states = np.zeros(len(self._pages), dtype=np.uint8)
        self._state_bytes = self._page_states.data
        self._lost_metadata = frozenset(self.section(sf.LOST_METADATA, np.uint32).tolist())
        self._has_metadata = self._column("metadata").size > 0
        self._tables = {name: self._table(name) for name in ("ids", "metadata")}

    def _column(self, name: str) -> sf.Span:
        return self.descriptor.columns.get(name, sf.Span(0, 0))

    def _table(self, name: str) -> tuple[int, memoryview, int]:
        """Return where a column begins, the offsets of its values, and where those begin."""
        span = self._column(name + "_offsets")
        stored = memoryview(self._body)[span.offset : span.offset + span.size]
        whole = stored[: len(stored) // 8 * 8].cast("Q")  # the file may be cut
        return self._column(name).offset, whole, span.offset

    def _verify_pages(self, pages: npt.NDArray[np.int64]) -> None:
        states = self._page_states
        todo = pages[states[pages] == _UNKNOWN]
        if not len(todo):
            return
        size = sf.PAGE_BYTES
        for run in runs_of(sorted(set(todo.tolist())), _READ_BYTES // size):
            data = self._try_read(
                min(len(run) * size, self.head.body_size - run[0] * size),
                self.head.body_offset + run[0] * size,
            )
            for index, page in enumerate(run):
                block = data[index * size : (index + 1) * size]
                good = block_checksum(block, self.tag, page) == int(self._pages[page])
                states[page] = _GOOD if good else _DAMAGED
                if not good:
                    where = f"{self._where}/{sf.RECORDS_NAME} page {page}"
                    self._found("page-damaged", where, "the records in it")

    def _bytes_damaged(
        self, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Return which of the body byte ranges touch a damaged page, verifying them first."""
        first = starts // sf.PAGE_BYTES
        last = np.maximum(ends - 1, starts) // sf.PAGE_BYTES
        last = np.minimum(last, len(self._pages) - 1)
        first = np.minimum(first, last)
        span = int((last - first).max(initial=0))
        damaged = np.zeros(len(starts), dtype=np.bool_)
        for step in range(span + 1):
            pages = np.minimum(first + step, last)
            self._verify_pages(pages)
            damaged |= self._page_states[pages] == _DAMAGED
        return damaged & (ends > starts)

    def _offsets(
        self, name: str, ordinals: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return start and end offsets of rows in a column of byte strings.

        Raises:
            UnreadableError: the offsets of some rows are damaged.
        """
        _, stored, first = self._tables[name]
        starts = first + ordinals * 8
        damaged = self._bytes_damaged(starts, starts + 16)
        if damaged.any():
            raise UnreadableError(ordinals[damaged].tolist())
        table = np.frombuffer(stored, np.uint64)
        return table[ordinals].astype(np.int64), table[ordinals + 1].astype(np.int64)

    def _values(self, name: str, ordinals: npt.NDArray[np.int64]) -> list[bytes]:
        span = self._column(name)
        if not span.size or not len(ordinals):
            return [b""] * len(ordinals)
        if len(ordinals) <= _FEW:
            known = [self._known(name, ordinal) for ordinal in ordinals.tolist()]
            if None not in known:
                return cast("list[bytes]", known)
        starts, ends = self._offsets(name, ordinals)
        damaged = self._bytes_damaged(starts + span.offset, ends + span.offset)
        if damaged.any():
            raise UnreadableError(ordinals[damaged].tolist())
        body, base = self._body, span.offset
        bounds = zip((starts + base).tolist(), (ends + base).tolist(), strict=True)
        return [bytes(body[start:end]) for start, end in bounds]

    def _known(self, name: str, ordinal: int) -> bytes | None:
        """Return a value if every page of it is known to be good: sooner than numpy begins."""
        first_value, table, first = self._tables[name]
        states, size = self._state_bytes, sf.PAGE_BYTES
        at = first + 8 * ordinal
        try:
            if states[at // size] != _GOOD or states[(at + 15) // size] != _GOOD:
                return None
            start, end = table[ordinal] + first_value, table[ordinal + 1] + first_value
            page, last = start // size, max(end - 1, start) // size
            while states[page] == _GOOD:
                if page == last:
                    return bytes(self._body[start:end])
                page += 1
        except IndexError:  # beyond the pages there are
            pass
        return None

    def known(self, ordinal: int, *, metadata: bool) -> tuple[bytes, bytes] | None:
        """Return id and metadata, b"" for none, of a row if both are known to be good."""
        value: bytes | None = b""
        if metadata and self._has_metadata:
            is_lost = self._lost_metadata and ordinal in self._lost_metadata
            value = None if is_lost else self._known("metadata", ordinal)
        text = None if value is None else self._known("ids", ordinal)
        return None if value is None or text is None else (text, value)

    def ids(self, ordinals: npt.NDArray[np.int64]) -> list[str]:
        """Return the ids of rows by ordinal.

        Raises:
            UnreadableError: some of them are damaged.
        """
        return [value.decode() for value in self._values("ids", ordinals)]

    def metadata(self, ordinals: npt.NDArray[np.int64]) -> list[bytes]:
        """Return the metadata JSON of rows by ordinal, b"" for none.

        Raises:
            UnreadableError: some of them are damaged.
        """
        if self._lost_metadata:
            lost = [number for number in ordinals.tolist() if number in self._lost_metadata]
            if lost:
                raise UnreadableError(lost)
        return self._values("metadata", ordinals)

    def column(self, name: str) -> tuple[npt.NDArray[np.uint32], memoryview]:
        """Return a whole byte-string column: lengths uint32[rows] and joined bytes, verified.

        Raises:
            UnreadableError: some of it is damaged.
        """
        span = self._column(name)
        if not span.size:
            return np.zeros(self.rows, np.uint32), memoryview(b"")
        everything = np.arange(self.rows, dtype=np.int64)
        starts, ends = self._offsets(name, everything)
        damaged = self._bytes_damaged(starts + span.offset, ends + span.offset)
        if damaged.any():
            raise UnreadableError(everything[damaged].tolist())
        joined = memoryview(self._body)[span.offset : span.offset + int(ends[-1])]
        return (ends - starts).astype(np.uint32), joined

    def all_ids(self) -> list[str]:
        """Return the ids of all rows.

        Raises:
            UnreadableError: some of them are damaged.
        """
        return decode_texts(*self.column("ids"))

    # --- vectors ---

    def _map_vectors(self) -> None:
        descriptor = self.descriptor
        self._block_rows = descriptor.block_rows
        # Blocks that lie wholly beyond the bounds are nobody's.
        self._blocks = self.section(sf.VECTOR_BLOCKS, np.uint64)[
            : -(-self.rows // self._block_rows)
        ]
        self._block_states = np.zeros(len(self._blocks), dtype=np.uint8)
        self._lost_vectors = self.section(sf.LOST_VECTORS, np.uint32).astype(np.int64)
        found = self._files.size(self._vectors_file) if self._vectors_file is not None else 0
        whole = min(found // descriptor.vector_bytes, descriptor.rows) if descriptor.rows else 0
        if whole < self.rows:
            self._block_states[whole // self._block_rows :] = _DAMAGED
            where = f"{self._where}/{sf.VECTORS_NAME}"
            self._found("file-cut-short", where, f"vectors of rows from ordinal {whole}")
        dtype = VectorType(descriptor.vector_type).dtype
        raw: memoryview = memoryview(b"")
        if whole and self._vectors_file is not None:
            raw = self._files.map(self._vectors_file, whole * descriptor.vector_bytes)
        stored = np.frombuffer(raw, dtype).reshape(whole, descriptor.dimension)
        self.vectors = stored[: self.rows]
        self._norms = BlockNorms(self.vectors, self._block_rows)
        self.blocks_lost = 0  # how often one was found damaged
        self._all_good = not len(self._blocks)

    def unreadable_vectors(self, start: int, end: int) -> npt.NDArray[np.int64]:
        """Verify rows start .. end - 1; return the ordinals among them that must not be served."""
        if self._all_good:
            return _NONE
        first, last = start // self._block_rows, (end - 1) // self._block_rows
        self._verify_blocks(np.arange(first, last + 1))
        states = self._block_states[first : last + 1]
        return self._unreadable(start, end, np.flatnonzero(states == _DAMAGED) + first)

    def unreadable_rows(self, ordinals: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Verify the vectors of scattered rows; return those that must not be served."""
        if self._all_good or not len(ordinals):
            return _NONE
        blocks = ordinals // self._block_rows
        self._verify_blocks(blocks)
        damaged: npt.NDArray[np.bool_] = self._block_states[blocks] == _DAMAGED
        if len(self._lost_vectors):
            damaged |= np.isin(ordinals, self._lost_vectors)
        return ordinals[damaged]

    def norms(self, start: int, end: int) -> npt.NDArray[np.float32]:
        """Return the L2 norms of rows verified before: float32[end - start]."""
        return self._norms.of(start, end)

    def served_rows(self) -> npt.NDArray[np.int64]:
        """Return the ordinals of rows that were verified and can be served."""
        good = np.repeat(self._block_states == _GOOD, self._block_rows)[: self.rows]
        good[self._lost_vectors[self._lost_vectors < self.rows]] = False
        return np.flatnonzero(good)

    def _unreadable(
        self, start: int, end: int, blocks: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        parts = [
            np.arange(b * self._block_rows, (b + 1) * self._block_rows) for b in blocks.tolist()
        ]
        rows = np.concatenate([*parts, self._lost_vectors]) if parts else self._lost_vectors
        rows = np.unique(rows)
        return rows[(rows >= start) & (rows < end)]

    def _verify_blocks(self, blocks: npt.NDArray[np.int64]) -> None:
        states = self._block_states
        todo = blocks[states[blocks] == _UNKNOWN]
        if not len(todo):
            return
        size = self._block_rows * self.descriptor.vector_bytes
        total = self.descriptor.rows * self.descriptor.vector_bytes  # of the file, not the entry
        for run in runs_of(sorted(set(todo.tolist())), max(1, _READ_BYTES // size)):
            start = run[0] * size
            data = memoryview(
                self._try_read(min(len(run) * size, total - start), start, vectors=True)
            )
            expected = self._blocks[run[0] : run[-1] + 1].tolist()
            for index, number in enumerate(run):
                block = data[index * size : (index + 1) * size]
                good = block_checksum(block, self.tag, number) == expected[index]
                states[number] = _GOOD if good else _DAMAGED
                if not good:
                    self.blocks_lost += 1
                    first = number * self._block_rows
                    last = min(first + self._block_rows, self.rows) - 1
                    first_row, last_row = self.rows_at(np.array([first, last])).tolist()
                    self._found(
                        "block-damaged",
                        f"{self._where}/{sf.VECTORS_NAME} block {number}",
                        f"vectors of rows {first_row} .. {last_row}",
                    )
        if not len(self._lost_vectors) and bool((states == _GOOD).all()):
            self._all_good = True

    # --- the rest ---

    def apply_ends(self, rows: npt.NDArray[np.uint64], lsns: npt.NDArray[np.uint64] | int) -> None:
        """Record ends of rows; of rows that are not here any more, or beyond the bound, nothing.

        Under the commit lock only.
        """
        ordinals = self.ordinals_of(rows.astype(np.int64))
        try:
            if self.row_numbers is None:
                self.ends[ordinals] = lsns
                self.ended_count += len(ordinals)
                return
        except IndexError:  # some are beyond; nothing was recorded
            pass
        held = (ordinals >= 0) & (ordinals < self.rows)
        self.ends[ordinals[held]] = lsns if isinstance(lsns, int) else lsns[held]
        self.ended_count += int(np.count_nonzero(held))

    def verify(self) -> tuple[int, int]:
        """Read everything; return blocks and bytes read. Damage becomes findings."""
        if len(self._blocks):
            self._block_states[self._block_states == _GOOD] = _UNKNOWN
            self._all_good = False
            self._verify_blocks(np.arange(len(self._blocks)))
        if len(self._pages):
            self._page_states[:] = _UNKNOWN
            self._verify_pages(np.arange(len(self._pages)))
        return len(self._blocks) + len(
            self._pages
        ), self.entry.vectors_bytes + self.entry.records_bytes

    @property
    def lacks_vectors(self) -> bool:
        """Whether vectors.bin was not there when the segment was opened."""
        return self._vectors_file is None

    @property
    def lacks_rows(self) -> bool:
        """Whether the file holds less than the manifest's entry says; more is allowed."""
        entry, descriptor = self.entry, self.descriptor
        wanted = entry.row_end - entry.first_row if self.row_numbers is None else self.rows
        return descriptor.rows < wanted or descriptor.commits < entry.commits

    @property
    def damaged(self) -> bool:
        """Whether any damage is known. A damaged segment is never rewritten or removed."""
        known = (self._block_states == _DAMAGED).any() or (self._page_states == _DAMAGED).any()
        return bool(known)

    def close(self) -> None:
        """Close the files; maps stay valid for readers that hold arrays of them."""
        open_files, self._open_files = self._open_files, []
        for file in open_files:
            close_quietly(self._files, file)

    def __del__(self) -> None:
        """Close the files when the last reader has gone."""
        self.close()

    def _read(self, size: int, offset: int) -> bytes:
        return self._files.read_at(self._records_file, size, offset)

    def _try_read(self, size: int, offset: int, *, vectors: bool = False) -> bytes:
        file = self._vectors_file if vectors else self._records_file
        if file is None:
            return b""
        try:
            return self._files.read_at(file, size, offset)
        except OSError as error:
            self._found("read-failed", self._where, f"{size} bytes at {offset}: {error.strerror}")
            return b""

    def _found(self, code: str, where: str, lost: str | None = None) -> None:
        message = f"{where}: {code.replace('-', ' ')}"
        self._report(Finding(code, self._collection, where, message, lost))


_NONE: Final = np.zeros(0, dtype=np.int64)
