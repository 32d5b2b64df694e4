"""A collection as users see it: writes that are durable when they return, reads at any LSN."""

from __future__ import annotations

import os
from datetime import datetime
from typing import TYPE_CHECKING, Any, Unpack
from uuid import UUID

from dvecdb.clock import from_datetime, to_datetime
from dvecdb.engine.bulk import commit_bulk
from dvecdb.engine.commits import read_commits
from dvecdb.engine.documents import Documents
from dvecdb.engine.group import GroupCommit
from dvecdb.engine.index_care import index_stats, wait_for_index
from dvecdb.engine.maintenance import maintain, needs_freeze
from dvecdb.engine.reads import Reads
from dvecdb.engine.searching import Searching
from dvecdb.engine.snapshot import Snapshot
from dvecdb.engine.verify import verify_store
from dvecdb.engine.writes import CONFIG_NAMESPACE, Update, WriteChecker
from dvecdb.errors import Code, DiskFullError, HandleError, InvalidRequestError
from dvecdb.records import (
    LIMIT_MAX,
    CollectionStats,
    CommitInfo,
    Epoch,
    Finding,
    Lsn,
    Options,
    VerifyReport,
    check_whole,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dvecdb.engine.index import Index
    from dvecdb.engine.rows import View
    from dvecdb.engine.store import Store
    from dvecdb.engine.writes import Write
    from dvecdb.records import (
        AsOf,
        Commit,
        IndexStats,
        Json,
        Metadata,
        Schema,
        UpdateMode,
        WriteOptions,
    )


class Collection(Reads):
    """An open collection. Safe to use from any number of threads.

    Every write returns a `Commit` and is durable then. Every write may carry `if_lsn` (refused if
    any id it touches was changed after that LSN), `expect` (documents that must have these values),
    `idempotency_key` (the same call again answers the same and writes nothing), and `actor`,
    `reason` and `request_id` for the commit note.
    """

    def __init__(
        self, store: Store, after_commit: Callable[[Store], None], check_open: Callable[[], None]
    ) -> None:
        settings = store.environment.settings
        self._store = store
        self._check_database = check_open
        self._after_commit = after_commit
        self._pid = os.getpid()
        self._gone: HandleError | None = None
        self._group = GroupCommit(store.commit, settings)
        uuid = UUID(store.manifest.collection_uuid)
        self._checker = WriteChecker(store.schema, settings, uuid, store.environment.new_uuid)
        self.documents = Documents(self)

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._store.name

    @property
    def schema(self) -> Schema:
        """Dimension, metric and vector type."""
        return self._store.schema

    # --- writes ---

    def upsert(
        self,
        ids: Sequence[str] | None = None,
        vectors: Any = None,
        metadata: Sequence[Metadata | None] | None = None,
        **options: Unpack[WriteOptions],
    ) -> Commit:
        """Write records, replacing those whose ids exist. Durable on return.

        vectors: [n, dimension], an array of any float type or lists; ids: n texts, or None to have
        UUIDs made; metadata: n JSON objects or None. A repeated id: the last one wins.

        Raises:
            InvalidRequestError, ConflictError, DiskFullError, OutcomeUnknownError, HandleError.
        """
        return self._write(
            "upsert", options, ids=ids, vectors=_required(vectors), metadata=metadata
        )

    def insert(
        self,
        ids: Sequence[str] | None = None,
        vectors: Any = None,
        metadata: Sequence[Metadata | None] | None = None,
        **options: Unpack[WriteOptions],
    ) -> Commit:
        """Write new records; if any id exists nothing is written. Durable on return.

        Raises:
            ConflictError: `id-exists`, names them. Others as `upsert`.
        """
        return self._write(
            "insert", options, ids=ids, vectors=_required(vectors), metadata=metadata, mode="insert"
        )

    def delete(
        self,
        ids: Sequence[str],
        **options: Unpack[WriteOptions],
    ) -> Commit:
        """Delete records; `Commit.count` says how many existed. Durable on return.

        Works on a full disk. They stay readable with `as_of` inside the history window.
        """
        return self._write("delete", options, deletes=_id_list(ids))

    def update_metadata(
        self,
        ids: Sequence[str],
        metadata: Sequence[Metadata],
        *,
        mode: UpdateMode = "merge",
        **options: Unpack[WriteOptions],
    ) -> Commit:
        """Change the metadata of existing records and leave their vectors. Durable on return.

        mode: `merge` sets the given top-level keys, `replace` replaces the whole object.

        Raises:
            NotFoundError: `id-not-found`; nothing was updated.
        """
        texts, values = _id_list(ids), list(metadata)
        if len(texts) != len(values):
            raise InvalidRequestError(
                Code.INVALID_ARGUMENT,
                f"{len(texts)} ids for {len(values)} metadata; pass one per id",
            )
        updates = [Update(text, value, mode) for text, value in zip(texts, values, strict=True)]
        return self._write("update_metadata", options, updates=updates)

    def write(
        self,
        *,
        upserts: Mapping[str, Any] | None = None,
        inserts: Mapping[str, Any] | None = None,
        deletes: Sequence[str] = (),
        documents: Mapping[tuple[str, str], Json] | None = None,
        **options: Unpack[WriteOptions],
    ) -> Commit:
        """Write one atomic batch of upserts or inserts, deletes and documents. Durable on return.

        upserts, inserts: a mapping with `vectors` and, if wanted, `ids` and `metadata`, as `upsert`
        takes them; only one of them. documents: values by (namespace, key), None removing one.
        """
        if upserts is not None and inserts is not None:
            raise InvalidRequestError(
                Code.INVALID_ARGUMENT, "pass upserts or inserts, not both; split the batch"
            )
        rows, mode = (upserts, "upsert") if inserts is None else (inserts, "insert")
        parts = dict(rows or {})
        unknown = set(parts) - {"ids", "vectors", "metadata"}
        if unknown:
            raise InvalidRequestError(
                Code.INVALID_ARGUMENT,
                f"{mode}s: unknown {', '.join(sorted(map(str, unknown)))}; "
                "expected ids, vectors, metadata",
            )
        if rows is not None:
            _required(parts.get("vectors"))
        return self._write(
            "write",
            options,
            ids=parts.get("ids"),
            vectors=parts.get("vectors"),
            metadata=parts.get("metadata"),
            mode=mode,
            deletes=_id_list(deletes),
            documents=documents,
        )

    def configure(self, values: Mapping[str, Json], **options: Unpack[WriteOptions]) -> Commit:
        """Keep settings of the collection as documents of the namespace `_config`. Durable."""
        documents = {(CONFIG_NAMESPACE, key): value for key, value in values.items()}
        return self._write("configure", options, documents=documents, reserved=True)

    def _write(
        self, operation: str, options: WriteOptions, *, digest: str | None = None, **parts: Any
    ) -> Commit:
        """Check and commit. digest: of the request, if that is not what the parts say."""
        self._enter()
        self._store.check_writable()
        write = self._checker.check(operation, Options(**options), **parts)
        if write.key is not None and digest is not None:
            write.digest = digest
        return self._submit(write)

    def _submit(self, write: Write) -> Commit:
        """Commit a checked write."""
        settings = self._store.environment.settings
        self._make_room(write)
        if write.size_bytes >= settings.bulk_bytes and not write.updates:
            commit = commit_bulk(self._store, write)
        else:
            commit = self._group.submit(write)
        self._after_commit(self._store)
        return commit

    def _make_room(self, write: Write) -> None:
        """Wait while too much waits for a flush; refuse inserts on a nearly full disk."""
        store, settings = self._store, self._store.environment.settings
        while len(store.view.memtables) > settings.memtables_max or (
            needs_freeze(store) and store.active.size_bytes > 2 * settings.flush_bytes
        ):
            maintain(store)
            store.check_writable()
            if store.space_wanted:
                if not write.ids:
                    return
                raise DiskFullError(
                    Code.DISK_FULL,
                    "the memtables are full and cannot be flushed: no space left; nothing was "
                    "written. Free space or delete rows or collections, then try again",
                )
        wal = store.wal
        if (
            write.ids
            and settings.low_water_bytes
            and wal is not None
            and wal.must_grow(write.size_bytes)
        ):
            free = store.environment.files.free_bytes(store.directories.root)
            if free < settings.low_water_bytes + write.size_bytes:
                raise DiskFullError(
                    Code.DISK_FULL,
                    f"{free} bytes are free, inserts need {settings.low_water_bytes} beside their "
                    "own (low_water_bytes); nothing was written. Deletes still work",
                    free_bytes=free,
                )

    # --- reads ---

    def snapshot(self, *, as_of: AsOf | None = None) -> Snapshot:
        """Return a consistent read view: of now, of an LSN, or of an aware datetime.

        Raises:
            InvalidRequestError: `as-of-unreadable`, says what is readable.
        """
        self._enter()
        visible = self._store.visible  # first: the view is then at least as new
        index = self._store.index  # before the view too: it lacks rows that a compaction dropped
        view = self._store.view
        self._enter()  # again: of a database that closes it is empty
        if as_of is None:
            return self._snapshot(view, visible.lsn, visible.row_limit, index)
        lsn = self._resolve(view, as_of, visible.lsn, visible.hlc)
        return self._snapshot(view, lsn, view.row_limit(lsn), index)

    def _snapshot(self, view: View, lsn: int, row_limit: int, index: Index | None) -> Snapshot:
        store = self._store
        recall = store.environment.settings.index_recall_permille / 1_000
        return Snapshot(
            Searching(view, store.schema, lsn, row_limit, index, recall, store.indexing)
        )

    def _resolve(self, view: View, as_of: AsOf, last_lsn: int, hlc: int) -> int:
        """Return the LSN that is meant; its rows are in `view`, whose horizon is that of its rows.

        Raises:
            InvalidRequestError: `as-of-unreadable`.
        """
        horizon = view.manifest.horizon_lsn
        if isinstance(as_of, datetime):
            moment = from_datetime(as_of)
            latest = max(hlc, self._store.environment.clock.wall_ns())
            lsn = view.lsn_at(moment, last_lsn)
            if moment > latest or lsn < horizon or (lsn == 0 and moment < self._store.created_ns):
                raise InvalidRequestError(
                    Code.AS_OF_UNREADABLE,
                    f"as_of {as_of.isoformat()}: readable are times from "
                    f"{to_datetime(self._readable_ns(view)).isoformat()} to "
                    f"{to_datetime(latest).isoformat()}",
                )
            return lsn
        if type(as_of) is not int or not horizon <= as_of <= last_lsn:
            raise InvalidRequestError(
                Code.AS_OF_UNREADABLE,
                f"as_of {as_of!r}: readable are LSNs {horizon} to {last_lsn}, and times inside "
                "that window",
                first=horizon,
                last=last_lsn,
            )
        return as_of

    def _readable_ns(self, view: View) -> int:
        """Return the oldest readable time: of the horizon's commit, in whole microseconds."""
        horizon = view.manifest.horizon_lsn
        return view.hlc(horizon) + 999 if horizon else self._store.created_ns

    def history(self, limit: int = 100, before: int | None = None) -> list[CommitInfo]:
        """Return up to `limit` commits, newest first; `before` is an LSN, itself not included.

        Reaches back to the horizon. The LSN of the last one is the `before` of the next call.

        Raises:
            InvalidRequestError: `invalid-argument`.
        """
        self._enter()
        check_whole("limit", limit, 1, LIMIT_MAX)
        last = int(self._store.visible.lsn)  # first: the view is then at least as new
        view = self._store.view
        self._enter()  # again: of a database that closes it is empty
        if before is not None:
            last = min(check_whole("before", before, 0, 2**63) - 1, last)
        first = max(1, int(view.manifest.horizon_lsn), last - limit + 1)
        return read_commits(view, first, last)

    # --- care ---

    def stats(self) -> CollectionStats:
        """Return the collection's figures."""
        self._enter()
        store = self._store
        visible, view = store.visible, store.view
        return CollectionStats(
            name=store.name,
            uuid=store.manifest.collection_uuid,
            schema=store.schema,
            count=view.count(visible.lsn, visible.row_limit),
            rows=visible.row_limit,
            last_lsn=Lsn(visible.lsn),
            flushed_lsn=Lsn(view.manifest.flushed_lsn),
            horizon_lsn=Lsn(view.manifest.horizon_lsn),
            epoch=Epoch(int(store.epoch)),
            segments=len(view.segments),
            segment_bytes=sum(s.entry.vectors_bytes + s.entry.records_bytes for s in view.segments),
            memtable_rows=sum(memtable.rows for memtable in view.memtables),
            memtable_bytes=sum(memtable.size_bytes for memtable in view.memtables),
            wal_bytes=store.wal.size if store.wal is not None else 0,
            syncs=store.syncs,
            findings=len(self.findings()),
            index=index_stats(store),
        )

    def findings(self) -> list[Finding]:
        """Return what is damaged or doubtful in this collection."""
        self._enter()
        return self._store.environment.findings.all(self._store.name)

    def verify(self) -> VerifyReport:
        """Read and check every stored byte that counts; damage becomes findings."""
        self._enter()
        blocks, size = verify_store(self._store)
        findings = self.findings()
        return VerifyReport(self.name, not findings, blocks, size, findings)

    def flush(self) -> None:
        """Write everything in memory into segments and do the maintenance that is due."""
        self._enter()
        self._store.check_writable()
        maintain(self._store, force_flush=True)
        self._store.check_writable()

    def wait_for_index(self, timeout_seconds: float = 600.0) -> IndexStats:
        """Wait until the index covers what was written before this call, or none is due.

        Return its figures, also where the time was up before.
        """
        self._enter()
        self._store.indexing.is_missed = True
        self._after_commit(self._store)  # without a thread of its own this does what is due
        return wait_for_index(self._store, timeout_seconds, self._enter)

    def leave(self, error: HandleError | None) -> None:
        """Make every further call on this handle raise `error`; None takes that back."""
        self._gone = error

    def _enter(self) -> None:
        if self._pid != os.getpid():
            raise HandleError(
                Code.FORKED_HANDLE,
                "this handle was opened before a fork; open the data directory again in the child",
            )
        if self._gone is not None:
            raise self._gone
        self._check_database()


def _required(vectors: Any) -> Any:
    if vectors is None:
        raise InvalidRequestError(Code.INVALID_ARGUMENT, "vectors are missing; pass [n, dimension]")
    return vectors


def _id_list(ids: Sequence[str]) -> list[str]:
    if isinstance(ids, (str, bytes)):
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT, f"ids: expected a list of ids, found {ids!r:.80}"
        )
    return list(ids)
