"""Opening a collection: newest valid manifest, its segments, then the log on top of them.

Nothing is said to be durable that is not: every replayed log is synced, and after anything but an
orderly close what was replayed is first written into a new segment, since a page that failed to be
written may look fine in the page cache. Only then is there a new log, whose first LSN claims all
that came before it. What is cut from the end of a log goes to quarantine.

`replay` decides what of the logs counts; it reads nothing but bytes handed to it.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgspec
import numpy as np

from dvecdb.engine.flush import flush_oldest
from dvecdb.engine.index_care import load_index
from dvecdb.engine.lookup import insert_run, load_runs, make_run
from dvecdb.engine.manifest import schema_of
from dvecdb.engine.memtable import Memtable
from dvecdb.engine.quarantine import known_findings, quarantine_tail, tail_finding
from dvecdb.engine.reclaim import drop_index_files, drop_partials
from dvecdb.engine.replay import Cut, LogFile, Replay, SetAsideError, newest_manifest
from dvecdb.engine.rows import View
from dvecdb.engine.segment import Segment, SegmentLostError, UnreadableError
from dvecdb.engine.storage import read_file
from dvecdb.engine.store import Directories, Store, Visible, apply_ends, sorted_segments
from dvecdb.errors import DiskFullError, DvecdbError
from dvecdb.formats import names
from dvecdb.formats.framing import FormatError
from dvecdb.formats.lookup_file import hash_ids
from dvecdb.formats.manifest_file import SegmentEntry, decode_manifest, seal_json
from dvecdb.records import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dvecdb.engine.findings import Findings
    from dvecdb.engine.store import Environment
    from dvecdb.formats.batch import Batch
    from dvecdb.formats.manifest_file import DecodedManifest
    from dvecdb.media.files import Dir, Files
    from dvecdb.records import Epoch, Schema

_LOGS_BEFORE_FLUSH: Final = 8


class Access(Enum):
    """What an open is for."""

    WRITE = auto()
    NEW = auto()  # just made, under its partial name: there is no log yet
    READ = auto()
    READ_ON_FULL_DISK = auto()  # by the writer, which finds no room to write
    READ_BESIDE_WRITER = auto()  # only what is known to be synced


def open_directories(files: Files, root: Dir, *, read_only: bool) -> Directories:
    """Open a collection's directories; make the ones that are derived if they are gone."""
    opened: list[Dir] = []
    try:
        for name in names.COLLECTION_DIRECTORIES:
            opened.append(  # noqa: PERF401  # those before a failure are closed
                _open_directory(files, root, name, read_only=read_only)
            )
    except BaseException:
        for directory in opened:
            files.close_directory(directory)
        raise
    return Directories(root, *opened)


def _open_directory(files: Files, root: Dir, name: str, *, read_only: bool) -> Dir:
    try:
        return files.open_directory(root, name)
    except FileNotFoundError:
        if name in {names.MANIFESTS, names.WAL}:  # never empty; others may be, and copies drop them
            raise SetAsideError("directory-missing", name, f"{name}/ is missing") from None
        if read_only:  # nothing of it is needed; an empty stand-in is never written to
            return files.open_directory(root, names.MANIFESTS)
        files.make_directory(root, name)
        files.sync_directory(root)
        return files.open_directory(root, name)


def open_store(
    name: str,
    environment: Environment,
    root: Dir,
    epoch: Epoch,
    access: Access,
    *,
    copied_to: int | None = None,
) -> Store:
    """Open the collection in `root` and bring it to its newest provable state.

    copied_to: it is a backup that ends with this LSN.

    Raises:
        SetAsideError: truth is damaged in a way that leaves the current state unknown.
        DiskFullError: there is no room to write what was replayed; nothing that counts has changed.
        OSError, DvecdbError: as the disk says.
    """
    recovery = _Recovery(name, environment, root, epoch, access, copied_to)
    try:
        return recovery.run()
    except BaseException:
        recovery.abandon()
        raise


class _Recovery:
    """One recovery, step by step."""

    def __init__(
        self,
        name: str,
        environment: Environment,
        root: Dir,
        epoch: Epoch,
        access: Access,
        copied_to: int | None,
    ) -> None:
        self._name = name
        self._copied_to = copied_to
        self._environment = environment
        self._files = environment.files
        self._epoch = epoch
        self._access = access
        # Segments report through this. It does not know them, so they close when nobody reads.
        self._report = partial(_report, environment.findings, name)
        self._read_only = access not in {Access.WRITE, Access.NEW}
        self._directories = open_directories(self._files, root, read_only=self._read_only)

    def run(self) -> Store:
        logs = self._read_logs()
        decoded = self._manifest(logs)
        manifest = decoded.manifest
        try:
            schema = schema_of(manifest.schema)
        except ValueError as error:
            raise SetAsideError("schema-unknown", names.MANIFESTS, f"schema: {error}") from error
        segments = [self._segment(entry) for entry in manifest.segments]
        view = View(manifest, sorted_segments(segments), [], [])
        for segment in segments:
            if len(segment.ends_rows):
                for target, positions in view.by_segment(segment.ends_rows.astype(np.int64)):
                    target.apply_ends(segment.ends_rows[positions], segment.ends_lsns[positions])
        identity = (UUID(manifest.collection_uuid), UUID(manifest.lineage))
        derived = self._directories.derived
        runs = load_runs(
            self._files, derived, view.row_segments, identity, self._report, self._name
        )
        memtable = Memtable(schema, manifest.row_end, manifest.flushed_lsn + 1)
        self._view = View(manifest, view.segments, [memtable], runs)
        self._identity = identity
        visible = Visible(manifest.flushed_lsn, manifest.row_end, manifest.hlc)
        replay = Replay(
            logs,
            manifest,
            writer_alive=self._access is Access.READ_BESIDE_WRITER,
            is_new=self._access is Access.NEW,
            is_copy=self._copied_to is not None,
        )
        for lsn, batch, record_hash, hlc in replay:
            if batch.bulk is not None and not self._can_open(batch, lsn):
                replay.refuse(f"bulk segment {batch.bulk.directory} is missing or damaged")
                continue
            self._apply(lsn, batch, record_hash, hlc, schema)
            visible = Visible(lsn, batch.first_row + batch.row_count, hlc)
        for finding in replay.findings:
            self._report(finding)
        self._check_copy(visible.lsn)
        store = Store(
            self._name, self._environment, self._directories, schema, self._view, visible,
            record_hash=replay.last_hash, epoch=self._epoch,
        )  # fmt: skip
        store.manifest_unknown = decoded.unknown
        store.manifest_digest = decoded.digest
        store.manifest_bytes = seal_json(manifest, decoded.unknown)
        if self._environment.settings.index_rows_min:
            store.index = load_index(
                self._files, derived, schema, manifest, self._report, self._name
            )
        self._findings_before()
        if not self._read_only:
            self._take_over(store, replay, logs)
        elif self._access is not Access.READ_BESIDE_WRITER:
            self._look_on(store, replay, logs)
        return store

    def _look_on(self, store: Store, replay: Replay, logs: Sequence[LogFile]) -> None:
        """Name what a reader has to know."""
        if replay.cut is not None:
            self._report(tail_finding(replay.cut))
        with contextlib.suppress(OSError):  # read-only media: what is there, is there
            self._sync_logs(logs)
        if self._access is Access.READ_ON_FULL_DISK and not replay.sealed:
            self._not_rewritten(store)

    def _check_copy(self, lsn: int) -> None:
        if self._copied_to not in {None, lsn}:
            message = f"it ends with commit {lsn}, not {self._copied_to}"
            raise SetAsideError("backup-incomplete", names.BACKUP_FILE, message)

    def abandon(self) -> None:
        """Close what was opened, but for the collection's own directory."""
        opened = self._directories
        for directory in (
            opened.manifests, opened.wal, opened.segments, opened.derived, opened.quarantine
        ):  # fmt: skip
            self._files.close_directory(directory)

    def _findings_before(self) -> None:
        for finding in known_findings(self._files, self._directories.quarantine):
            self._report(finding)

    # --- reading ---

    def _read_logs(self) -> list[LogFile]:
        directory = self._directories.wal
        found = sorted(
            (parsed, name)
            for name in self._files.list_names(directory)
            if (parsed := names.parse_wal_name(name)) is not None
        )
        return [
            LogFile(name, epoch, first_lsn, partial(read_file, self._files, directory, name))
            for (epoch, first_lsn), name in found
        ]

    def _manifest(self, logs: Sequence[LogFile]) -> DecodedManifest:
        """Return the newest valid manifest, from its file or from the log."""
        directory = self._directories.manifests
        generations = sorted(
            (
                generation
                for name in self._files.list_names(directory)
                if (generation := names.parse_manifest_name(name)) is not None
            ),
            reverse=True,
        )
        damaged: list[int] = []
        stored: DecodedManifest | None = None
        for generation in generations:
            name = names.manifest_name(generation)
            try:
                stored = decode_manifest(read_file(self._files, directory, name))
                break
            except FileNotFoundError as error:  # beside a writer: its successors are there now
                raise SetAsideError("changed-meanwhile", name, f"{name} is gone") from error
            except (FormatError, OSError) as error:
                damaged.append(generation)
                where = f"{names.MANIFESTS}/{name}"
                self._report(Finding("manifest-damaged", self._name, where, f"{where}: {error}"))
        copy = newest_manifest(logs[-1:] if stored and not damaged else logs)
        if copy is not None and (
            stored is None or copy.manifest.generation > stored.manifest.generation
        ):
            name = names.manifest_name(copy.manifest.generation)
            if (
                copy.manifest.generation not in generations
                and self._files.stat(directory, name) is not None
            ):  # beside a writer: it came after the names were listed
                raise SetAsideError("changed-meanwhile", name, f"{name} came meanwhile")
            where = f"{names.MANIFESTS}/{name}"
            self._report(
                Finding(
                    "manifest-from-log",
                    self._name,
                    where,
                    f"{where}: taken from its copy in the log",
                )
            )
            stored = copy
        if stored is None:
            raise SetAsideError("manifest-lost", names.MANIFESTS, "no manifest can be read")
        self._generations = generations
        return stored

    def _segment(self, entry: SegmentEntry) -> Segment:
        where = f"{names.SEGMENTS}/{entry.directory}"
        try:
            segment = Segment(
                self._files, self._directories.segments, entry, self._report, self._name
            )
        except (SegmentLostError, FileNotFoundError) as error:
            raise SetAsideError(
                "segment-lost", where, f"{where} cannot be read ({error!r})"
            ) from error
        if self._access is Access.READ_BESIDE_WRITER and segment.lacks_vectors:
            raise SetAsideError("changed-meanwhile", where, f"{where} is going")
        if segment.lacks_rows:
            raise SetAsideError("segment-lost", where, f"{where} has fewer rows than it should")
        for tag, what in (("lost_vectors", "vectors"), ("lost_metadata", "metadata")):
            ordinals = getattr(segment, "_" + tag)
            if len(ordinals):
                rows = sorted(segment.rows_at(np.array(list(ordinals), dtype=np.int64)).tolist())
                self._report(
                    Finding(
                        "rows-lost",
                        self._name,
                        f"{where} {what}",
                        f"{where}: {what} of {len(rows)} rows were lost",
                        f"{what} of rows {rows[:20]}",
                    )
                )
        return segment

    # --- applying ---

    def _can_open(self, batch: Batch, lsn: int) -> bool:
        assert batch.bulk is not None
        try:
            self._bulk = Segment(
                self._files,
                self._directories.segments,
                bulk_entry(batch, lsn),
                self._report,
                self._name,
            )
        except (SegmentLostError, OSError):
            return False
        self._bulk.entry = msgspec.structs.replace(
            self._bulk.entry, records_bytes=self._bulk.head.file_size
        )
        return self._bulk.descriptor.rows == batch.row_count

    def _apply(self, lsn: int, batch: Batch, record_hash: int, hlc: int, schema: Schema) -> None:
        """Apply one replayed batch to memory, as the store did when it was written."""
        if batch.bulk is not None:
            row_end = batch.first_row + batch.row_count
            own, after = Memtable(schema, row_end, lsn), Memtable(schema, row_end, lsn + 1)
            segment = self._bulk
            runs = self._view.runs
            with contextlib.suppress(UnreadableError):
                run = make_run(*self._identity, segment.first_row, hash_ids(segment.all_ids()))
                runs = insert_run(runs, run)
            memtables = [item for item in self._view.memtables if item.row_ends]
            self._view = View(
                self._view.manifest,
                sorted_segments([*self._view.segments, segment]),
                [*memtables, own, after],
                runs,
            )
            memtable = own
        else:
            memtable = self._view.memtables[-1]
            if batch.row_count:
                dtype = schema.vector_type.dtype
                vectors = np.frombuffer(batch.vectors, dtype).reshape(
                    batch.row_count, schema.dimension
                )
                memtable.add_rows(vectors, batch.ids, batch.metadata)
                memtable.lost_vectors.update(
                    batch.first_row + number for number in batch.lost_vectors
                )
                memtable.lost_metadata.update(
                    batch.first_row + number for number in batch.lost_metadata
                )
        if len(batch.ends):
            apply_ends(self._view, batch.ends, lsn)
        memtable.add_commit(
            row_end=batch.first_row + batch.row_count,
            hlc=hlc,
            wall_ns=batch.wall_ns,
            note=batch.note,
            record_hash=record_hash,
            ends=batch.ends,
            documents=batch.documents,
        )

    # --- taking over ---

    def _take_over(self, store: Store, replay: Replay, logs: Sequence[LogFile]) -> None:
        """Make what is served durable and open a new log for this epoch."""
        files, directories = self._files, self._directories
        for directory in (
            directories.manifests,
            directories.segments,
            directories.derived,
            directories.quarantine,
        ):
            drop_partials(files, directory)
        with contextlib.suppress(OSError):  # one that covers more than there is would fit again
            drop_index_files(store)
        if replay.cut is not None:
            self._keep_tail(replay.cut)
        self._sync_logs(logs)
        files.sync_directory(directories.manifests)  # a killed writer may not have come to it
        self._previous_manifest(store)
        store.generation_floor = max(self._generations, default=0)
        self._rewrite(store, replay, logs)
        if store.stopped is None:
            store.wal = store.new_wal()

    def _rewrite(self, store: Store, replay: Replay, logs: Sequence[LogFile]) -> None:
        """Write what was replayed into segments. Where that fails, writes stop.

        Only a log that was closed in order proves its commits. They can wait for room.

        Raises:
            DiskFullError: there is no room for commits that nothing else proves.
        """
        if (
            not replay.sealed
            or self._copied_to is not None
            or replay.findings
            or sum(log.was_read for log in logs) >= _LOGS_BEFORE_FLUSH
        ):
            with store.commit_lock:
                memtables = [item for item in store.view.memtables if item.row_ends]
                after = Memtable(store.schema, store.visible.row_limit, store.visible.lsn + 1)
                store.view = View(
                    store.manifest, store.view.segments, [*memtables, after], store.view.runs
                )
        try:
            while flush_oldest(store):
                pass
        except DiskFullError as error:
            if not replay.sealed:
                raise
            store.space_wanted = True
            where = self._name
            self._report(Finding("waiting-for-space", self._name, where, error.message))
        except DvecdbError as error:
            store.stop_writes(error)
            if not replay.sealed:
                self._not_rewritten(store)

    def _not_rewritten(self, store: Store) -> None:
        """Report that commits are shown of which nothing proves that they are on the disk."""
        last, proven = store.visible.lsn, store.manifest.flushed_lsn
        if last > proven:
            self._report(
                Finding(
                    "recovery-not-rewritten",
                    self._name,
                    self._name,
                    f"{self._name}: its log was not closed in order, and commits {proven + 1} .. "
                    f"{last} could not be written anew. A commit among them whose write had ended "
                    "with outcome-unknown may not survive a power cut until there is room and the "
                    "data directory is opened again",
                )
            )

    def _sync_logs(self, logs: Sequence[LogFile]) -> None:
        """Make what was replayed durable: a killed writer may not have synced it."""
        files, directory = self._files, self._directories.wal
        for log in logs:
            if log.was_read:
                file = files.open(directory, log.name)
                try:
                    files.sync(file)
                finally:
                    files.close(file)
        files.sync_directory(directory)

    def _keep_tail(self, cut: Cut) -> None:
        self._report(quarantine_tail(self._files, self._directories.quarantine, cut))

    def _previous_manifest(self, store: Store) -> None:
        """Load the manifest before the installed one: the second root of reclaim."""
        directory = self._directories.manifests
        for generation in self._generations:
            if generation < store.manifest.generation:
                with contextlib.suppress(FormatError, OSError, DvecdbError):
                    data = read_file(self._files, directory, names.manifest_name(generation))
                    store.previous_manifest = decode_manifest(data).manifest
                    return


def bulk_entry(batch: Batch, lsn: int) -> SegmentEntry:
    """Return the manifest entry of a bulk batch's segment, as far as the log knows it."""
    assert batch.bulk is not None
    return SegmentEntry(
        directory=batch.bulk.directory,
        uuid=batch.bulk.uuid,
        digest=batch.bulk.digest,
        first_row=batch.first_row,
        row_end=batch.first_row + batch.row_count,
        first_lsn=lsn,
        last_lsn=lsn,
        commits=0,
        records_bytes=0,
        vectors_bytes=batch.row_count * batch.vector_bytes,
    )


def _report(findings: Findings, collection: str, finding: Finding) -> None:
    """Keep a finding about a collection."""
    findings.add(replace(finding, collection=collection))
