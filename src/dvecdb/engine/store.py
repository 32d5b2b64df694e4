"""One collection's state and its write path.

validate (caller) -> queue -> resolve in order -> assign LSN and rows -> append to the log -> sync
-> check that the right to write still stands -> publish -> answer.

`commit_lock` guards everything that changes: log, memtables, ends, view. Readers take no lock:
they read `visible` first and `view` second, and the view then holds at least what is visible.
`files_lock` is held while files go or get a second name. Lock order: `maintenance_lock`,
`files_lock`, `commit_lock`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
import numpy as np

from dvecdb.engine.index import Indexing
from dvecdb.engine.lookup import insert_run
from dvecdb.engine.memtable import Memtable
from dvecdb.engine.resolve import State, resolve
from dvecdb.engine.rows import View
from dvecdb.engine.segment import SegmentLostError
from dvecdb.engine.storage import not_read_back, unclear, unexpected, write_failed
from dvecdb.engine.wal import Wal
from dvecdb.errors import (
    Code,
    DiskFullError,
    DvecdbError,
    HandleError,
    InvalidRequestError,
    OutcomeUnknownError,
)
from dvecdb.formats.batch import Batch, BulkReference, batch_tag, encode_batch
from dvecdb.formats.wal_record import FileHeader, Kind
from dvecdb.records import Commit, Epoch, Finding, Lsn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from dvecdb.clock import Clock
    from dvecdb.engine.findings import Findings
    from dvecdb.engine.index import Index
    from dvecdb.engine.lock import WriterLock
    from dvecdb.engine.lookup import Run
    from dvecdb.engine.resolve import Resolved
    from dvecdb.engine.segment import Segment
    from dvecdb.engine.writes import Write
    from dvecdb.formats.framing import Buffer
    from dvecdb.formats.manifest_file import Manifest
    from dvecdb.media.files import Dir, Files
    from dvecdb.records import Schema
    from dvecdb.settings import Settings


@dataclass(frozen=True, slots=True)
class Environment:
    """What every collection of a database shares. expiry_allowed: the clock can be believed."""

    files: Files
    clock: Clock
    settings: Settings
    findings: Findings
    new_uuid: Callable[[], UUID]
    lock: WriterLock | None
    expiry_allowed: Callable[[], bool] = lambda: True

    def check_right(self) -> None:
        """Make sure that this process still has the right to write.

        Before anything is acknowledged, and before a name appears or goes: a process that slept
        through a takeover must not touch what is another's now.

        Raises:
            HandleError: `fenced`.
        """
        if self.lock is not None:
            self.lock.check()


@dataclass(frozen=True, slots=True)
class Directories:
    """The open directories of a collection. All its I/O is relative to these."""

    root: Dir
    manifests: Dir
    wal: Dir
    segments: Dir
    derived: Dir
    quarantine: Dir


@dataclass(slots=True)
class Ticket:
    """A write waiting for its group's sync, and its outcome."""

    write: Write
    commit: Commit | None = None
    error: DvecdbError | None = None


@dataclass(frozen=True, slots=True)
class BulkSegment:
    """A segment written ahead of its commit: under `partial_name` until then."""

    partial_name: str
    uuid: UUID
    digest: str
    rows: int
    open_as: Callable[[int, int], Segment]
    rename_to: Callable[[int, int], str]
    run_at: Callable[[int], Run]


class Visible(msgspec.Struct, frozen=True):
    """The newest published state."""

    lsn: int
    row_limit: int
    hlc: int


class Store:
    """The engine of one open collection. `open_store` in `recovery` makes it."""

    def __init__(  # the parts of a collection, all made elsewhere
        self,
        name: str,
        environment: Environment,
        directories: Directories,
        schema: Schema,
        view: View,
        visible: Visible,
        *,
        record_hash: int,
        epoch: Epoch,
    ) -> None:
        """Take over parts that recovery made. `record_hash` is that of the newest batch record."""
        self.name = name
        self.environment = environment
        self.directories = directories
        self.schema = schema
        self.epoch = epoch
        self.view = view
        self.visible = visible
        self.commit_lock = threading.RLock()
        self.maintenance_lock = threading.RLock()
        self.files_lock = threading.RLock()
        self.wal: Wal | None = None
        self.previous_manifest: Manifest | None = None
        self.manifest_digest, self.generation_floor = "", 0
        self.manifest_bytes = b""
        self.manifest_unknown: dict[str, object] = {}
        self.stopped: DvecdbError | None = None
        self.stopped_before: DvecdbError | None = None  # it was deleted
        self.came_back = False  # from the trash, and that it was there is not durably forgotten
        self.space_wanted = False
        self.last_commit_ns = self.created_ns = 0
        self._pending = visible
        self._record_hash = record_hash
        self.syncs = 0
        self.index: Index | None = None
        self.indexing = Indexing(environment.clock)

    # --- state ---

    @property
    def manifest(self) -> Manifest:
        """The installed manifest."""
        return self.view.manifest

    @property
    def active(self) -> Memtable:
        """The memtable that takes writes."""
        return self.view.memtables[-1]

    def report(self, finding: Finding) -> None:
        """Keep a finding about this collection."""
        self.environment.findings.add(finding)

    def stop_writes(self, error: DvecdbError) -> None:
        """Latch the collection read-only until it is opened again."""
        if self.stopped is None:
            self.stopped = error
            self.report(Finding("writes-stopped", self.name, self.name, error.message))

    def check_writable(self) -> None:
        """Refuse writes after a failure.

        Raises:
            OutcomeUnknownError: `writes-stopped`, nothing of this write was written.
            HandleError: the handle is fenced off or its collection gone.
        """
        if self.stopped is None:
            return
        if isinstance(self.stopped, (HandleError, InvalidRequestError, DiskFullError)):
            raise self.stopped
        raise OutcomeUnknownError(
            Code.WRITES_STOPPED,
            f"collection {self.name!r} takes no writes since: {self.stopped.message} "
            "Nothing of this write was written. Open the data directory again",
        )

    def next_hlc(self) -> int:
        """Return the next hybrid logical time."""
        return max(self._pending.hlc + 1, self.environment.clock.wall_ns())

    # --- commit ---

    def commit(self, tickets: Sequence[Ticket]) -> None:
        """Commit a group of writes with one sync; set each ticket's outcome. Raises nothing."""
        with self.commit_lock:
            staged: list[Ticket] = []
            buffers: list[Buffer] = []
            size = 0
            answered: list[Ticket] = []
            try:
                for ticket in tickets:
                    try:
                        self.check_writable()
                        added = self._stage(ticket, buffers, size)
                    except DvecdbError as error:
                        ticket.error = error
                        if isinstance(error, OutcomeUnknownError) and self.stopped is None:
                            raise
                        continue
                    size += added
                    (staged if added else answered).append(ticket)
                if staged:
                    self._write_out(buffers, size)
                elif self.stopped is None and self._pending.lsn != self.visible.lsn:
                    raise AssertionError("pending commits outlived their group")
            except DvecdbError as error:
                self._fail([*staged, *answered], error)
            except BaseException as error:
                self._fail(tickets, unexpected(error))
                raise

    def _fail(self, tickets: Sequence[Ticket], error: DvecdbError) -> None:
        """Stop writes; nobody in the group knows whether its write survives."""
        self.stop_writes(error)
        for ticket in tickets:
            ticket.commit, ticket.error = None, error

    def _stage(self, ticket: Ticket, buffers: list[Buffer], offset: int) -> int:
        """Resolve one write and add it to the group, unseen by readers; return its bytes."""
        state = State(self.view, self._pending.lsn, self._pending.row_limit)
        settings = self.environment.settings
        resolved = resolve(ticket.write, state, self.schema, settings)
        if resolved.answer is not None:
            ticket.commit = resolved.answer
            return 0
        batch = self._batch(ticket.write, resolved)
        encoded, size = self._encode(batch, offset, may_use_reserve=not resolved.ids)
        buffers += encoded
        active = self.active
        if resolved.ids:
            assert resolved.vectors is not None
            active.add_rows(resolved.vectors, resolved.ids, resolved.metadata)
        self._add_commit(active, batch)
        ticket.commit = Commit(
            Lsn(self._pending.lsn), ticket.write.answer_ids or resolved.ids, resolved.count
        )
        return size

    def _batch(self, write: Write, resolved: Resolved) -> Batch:
        vectors: Buffer = b""
        if resolved.vectors is not None and resolved.vectors.size:
            vectors = memoryview(resolved.vectors.data).cast("B")
        return Batch(
            first_row=self._pending.row_limit,
            row_count=len(resolved.ids),
            vector_bytes=self.schema.vector_bytes,
            wall_ns=self.environment.clock.wall_ns(),
            ids=resolved.ids,
            vectors=vectors,
            metadata=resolved.metadata,
            ends=resolved.ends,
            note=write.note,
            documents=resolved.documents,
        )

    def _encode(
        self, batch: Batch, offset: int, *, may_use_reserve: bool
    ) -> tuple[list[Buffer], int]:
        """Return the log record of the next commit; from here on it counts as pending."""
        assert self.wal is not None
        lsn = self._pending.lsn + 1
        control, data, data_size = encode_batch(batch, batch_tag(self.wal.tag, lsn))
        bound = offset + data_size + 2 * len(control) + 512
        self.wal.reserve(bound, may_use_reserve=may_use_reserve)
        hlc = self.next_hlc()
        encoded, size = self.wal.encode(Kind.BATCH, lsn, hlc, control, data, data_size)
        self._record_hash = self.wal.previous
        self._pending = Visible(lsn, batch.first_row + batch.row_count, hlc)
        return encoded, size

    def _add_commit(self, memtable: Memtable, batch: Batch) -> None:
        """Add the pending commit's note, documents and ends to memory."""
        if len(batch.ends):
            apply_ends(self.view, batch.ends, self._pending.lsn)
        memtable.add_commit(
            row_end=self._pending.row_limit,
            hlc=self._pending.hlc,
            wall_ns=batch.wall_ns,
            note=batch.note,
            record_hash=self._record_hash,
            ends=batch.ends,
            documents=batch.documents,
        )

    def _write_out(self, buffers: Sequence[Buffer], size: int) -> None:
        """Append, sync, check the right to write, publish."""
        assert self.wal is not None
        self.wal.append(buffers, size, self._pending.lsn)
        self.wal.sync()
        self.syncs += 1
        self.environment.check_right()
        self.last_commit_ns = self.environment.clock.monotonic_ns()
        self.visible = self._pending

    def commit_bulk(self, ticket: Ticket, bulk: BulkSegment) -> None:
        """Commit a segment written ahead: one log record names it. Raises `DvecdbError`.

        The rows become live with their LSN; the memtable is frozen before and after it, so that
        row and commit order of the segments stays that of the log.
        """
        with self.commit_lock:
            self.check_writable()
            state = State(self.view, self._pending.lsn, self._pending.row_limit)
            resolved = resolve(ticket.write, state, self.schema, self.environment.settings)
            if resolved.answer is not None:
                ticket.commit = resolved.answer
                return
            batch = self._batch(ticket.write, resolved)
            batch.ids, batch.vectors, batch.metadata = [], b"", None
            assert self.wal is not None
            try:
                self.wal.reserve(64 * 1024 + 32 * len(batch.ends), may_use_reserve=False)
                first_row, lsn = self._pending.row_limit, self._pending.lsn + 1
                try:
                    directory = bulk.rename_to(first_row, lsn)
                    segment = bulk.open_as(first_row, lsn)
                except OSError as error:
                    raise write_failed("naming a bulk segment", error) from error
                except SegmentLostError as error:
                    raise unclear("reading back a bulk segment", not_read_back(error)) from error
                batch.bulk = BulkReference(bulk.uuid.hex, bulk.digest, directory)
                batch.row_count = bulk.rows
                buffers, size = self._encode(batch, 0, may_use_reserve=False)
                self._write_bulk(batch, segment, bulk.run_at(first_row), buffers, size)
            except DiskFullError:
                raise
            except DvecdbError as error:
                self.stop_writes(error)
                raise
            except BaseException as error:
                self.stop_writes(unexpected(error))
                raise
            ticket.commit = Commit(Lsn(lsn), ticket.write.answer_ids, resolved.count)

    def _write_bulk(
        self, batch: Batch, segment: Segment, run: Run, buffers: Sequence[Buffer], size: int
    ) -> None:
        lsn, row_limit = self._pending.lsn, self._pending.row_limit
        own = Memtable(self.schema, row_limit, lsn)
        after = Memtable(self.schema, row_limit, lsn + 1)
        view = with_bulk(self.view, segment, run, own, after)
        self.view = view
        self._add_commit(own, batch)
        self._write_out(buffers, size)

    # --- memtables and logs ---

    def freeze(self) -> None:
        """Start a new memtable and a new log, so that the ones before can be flushed.

        Raises:
            OSError: no new log could be made; nothing has changed.
            OutcomeUnknownError: the old log failed; writes have stopped.
        """
        with self.commit_lock:
            self.rotate()
            after = Memtable(self.schema, self.visible.row_limit, self.visible.lsn + 1)
            memtables = [item for item in self.view.memtables if item.row_ends]
            self.view = View(self.manifest, self.view.segments, [*memtables, after], self.view.runs)

    def rotate(self) -> None:
        """Start a new log if there are commits in this one, and seal it: it never changes again.

        Under the commit lock. Raises as `freeze`.
        """
        self.check_writable()
        assert self.wal is not None
        if self.wal.last_lsn < self.wal.first_lsn:  # it is new, and its name is taken
            return
        old, self.wal = self.wal, self.new_wal()
        try:
            old.seal(self.next_hlc(), continued=True)
        except OutcomeUnknownError as error:
            old.close()
            self.stop_writes(error)
            raise

    def new_wal(self) -> Wal:
        """Return a new, durable, empty log that continues after what is visible."""
        environment, manifest = self.environment, self.manifest
        header = FileHeader(
            file_uuid=environment.new_uuid(),
            collection_uuid=UUID(manifest.collection_uuid),
            lineage=UUID(manifest.lineage),
            epoch=self.epoch,
            first_lsn=Lsn(self.visible.lsn + 1),
            previous=self._record_hash,
            created_ns=environment.clock.wall_ns(),
        )
        return Wal(
            environment.files,
            self.directories.wal,
            header,
            environment.settings,
            self.manifest_bytes,
            self.next_hlc(),
        )

    def mark_idle(self) -> None:
        """Record durably how far the log is synced, once after the last commit."""
        with self.commit_lock:
            wal = self.wal
            if wal is None or wal.marked or self.stopped is not None:
                return
            try:
                wal.mark(self.next_hlc())
            except DvecdbError as error:
                self.stop_writes(error)

    def close(self, *, seal: bool) -> None:
        """Seal the log if nothing failed; close all files."""
        with self.maintenance_lock, self.commit_lock:
            wal, self.wal = self.wal, None
            if wal is not None:
                if seal and self.stopped is None and not wal.failed:
                    try:
                        wal.seal(self.next_hlc())
                    except DvecdbError as error:
                        self.stop_writes(error)
                        wal.close()
                else:
                    wal.close()
            self.stopped = HandleError(  # the reason before it may hold on to open segments
                Code.HANDLE_CLOSED, f"collection {self.name!r} is closed; open it again"
            )
            # Segments close themselves when the last snapshot that reads them has gone.
            self.view = View(self.manifest, [], [Memtable(self.schema, 0, 1)], [])
            self.index = None
            for directory in (
                self.directories.manifests,
                self.directories.wal,
                self.directories.segments,
                self.directories.derived,
                self.directories.quarantine,
                self.directories.root,
            ):
                self.environment.files.close_directory(directory)


def apply_ends(view: View, rows: npt.NDArray[np.uint64], lsn: int) -> None:
    """Record that `rows` end at `lsn`, wherever they are. Under the commit lock only."""
    remaining = rows
    for memtable in view.memtables:
        if memtable.chunks:
            inside = (remaining >= memtable.first_row) & (remaining < memtable.row_end)
            if inside.any():
                memtable.apply_ends(remaining[inside], lsn)
                remaining = remaining[~inside]
    if len(remaining):
        for segment, positions in view.by_segment(remaining.astype(np.int64)):
            segment.apply_ends(remaining[positions], lsn)


def with_bulk(view: View, segment: Segment, run: Run, own: Memtable, after: Memtable) -> View:
    """Return `view` with a bulk segment, the memtable of its commit and a new active one."""
    memtables = [item for item in view.memtables if item.row_ends]
    return View(
        view.manifest,
        sorted_segments([*view.segments, segment]),
        [*memtables, own, after],
        insert_run(view.runs, run),
    )


def sorted_segments(segments: Sequence[Segment]) -> list[Segment]:
    """Return segments in row order; those without rows by their commits."""
    return sorted(segments, key=lambda item: (item.last_lsn, item.commits > 0, item.first_row))
