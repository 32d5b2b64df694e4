"""From a checked write and the stored state to one batch: conditions, rows to end, new versions.

Pure reading: it decides, the store acts. It sees the state after every batch before it, synced or
not, so the batches of one group commit are resolved in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from dvecdb.engine.rows import View, damaged_rows
from dvecdb.engine.segment import UnreadableError
from dvecdb.engine.writes import IDEMPOTENCY_NAMESPACE, Write
from dvecdb.errors import Code, ConflictError, NotFoundError
from dvecdb.formats.columns import DocumentEntry
from dvecdb.formats.json_value import encode_metadata
from dvecdb.records import Commit, Lsn

if TYPE_CHECKING:
    from dvecdb.records import Schema
    from dvecdb.settings import Settings

_SHOWN_IDS = 10
_NO_ROWS = np.zeros(0, dtype=np.uint64)


class State(msgspec.Struct, frozen=True):
    """The state a write is resolved against: a view and an LSN, published or not."""

    view: View
    lsn: int
    row_limit: int


class Resolved(msgspec.Struct):
    """What a write comes to.

    vectors: [rows, dimension] or None for no rows of its own; ends: uint64 rows to end, sorted;
    answer: what the caller gets if there is nothing to write.
    """

    vectors: npt.NDArray[np.generic] | None
    ids: list[str]
    metadata: list[bytes] | None
    ends: npt.NDArray[np.uint64]
    documents: list[DocumentEntry]
    count: int
    answer: Commit | None = None


def resolve(write: Write, state: State, schema: Schema, settings: Settings) -> Resolved:
    """Return what `write` comes to in `state`.

    Raises:
        ConflictError: `id-exists`, `condition-failed`, `idempotency-key-reused`,
            `confirmation-needed`.
        NotFoundError: `id-not-found`, of an update.
        DamagedDataError: `damaged-data`, whether an id exists cannot be told.
    """
    replay = _replay(write, state)
    if replay is not None:
        return Resolved(None, [], None, _NO_ROWS, [], 0, answer=replay)
    _check_expected(write, state)
    touched = write.touched_ids
    rows = state.view.find(touched, state.lsn, state.row_limit) if touched else []
    if write.mode == "insert":
        _refuse_existing(write, rows)
    if write.if_lsn is not None:
        _check_unchanged(touched, rows, write.if_lsn, state)
    resolved = Resolved(
        vectors=write.vectors,
        ids=write.ids,
        metadata=write.metadata,
        ends=_sorted_rows(rows),
        documents=write.documents,
        count=len(write.ids),
    )
    first = len(write.ids)
    hit = rows[first : first + len(write.deletes)]
    if len(hit) > settings.guard_rows and not write.confirm:
        _check_guard(sum(row >= 0 for row in hit), state, settings)
    resolved.count += sum(row >= 0 for row in hit)
    if write.updates:
        update_rows = rows[first + len(write.deletes) :]
        _add_updates(resolved, write, update_rows, state, schema, settings.metadata_bytes_max)
    if not resolved.ids and not len(resolved.ends) and not write.documents and write.key is None:
        resolved.answer = Commit(Lsn(state.lsn), [], 0)
    elif write.key is not None:
        receipt = msgspec.json.encode(
            {"digest": write.digest, "lsn": state.lsn + 1, "count": resolved.count}
        )
        resolved.documents = [*write.documents, (IDEMPOTENCY_NAMESPACE, write.key, receipt)]
    return resolved


def _check_guard(hit: int, state: State, settings: Settings) -> None:
    """Refuse to delete most of a collection at once, unless somebody confirmed that."""
    total = state.view.count(state.lsn, state.row_limit)
    if hit > settings.guard_rows and hit * 100 > settings.guard_percent * total:
        raise ConflictError(
            Code.CONFIRMATION_NEEDED,
            f"this deletes {hit} of {total} rows, more than {settings.guard_percent} % of them; "
            "nothing was deleted. If that is meant, say so with confirm",
            rows=hit,
            total=total,
        )


def _sorted_rows(rows: list[int]) -> npt.NDArray[np.uint64]:
    """Return the rows that exist, rising."""
    existing = [row for row in rows if row >= 0]
    return np.array(sorted(existing), dtype=np.uint64) if existing else _NO_ROWS


def _replay(write: Write, state: State) -> Commit | None:
    if write.key is None:
        return None
    stored = state.view.document(IDEMPOTENCY_NAMESPACE, write.key, state.lsn)
    if stored is None:
        return None
    receipt: dict[str, Any] = msgspec.json.decode(stored)
    if receipt["digest"] != write.digest:
        raise ConflictError(
            Code.IDEMPOTENCY_KEY_REUSED,
            f"idempotency key {write.key!r} was used at LSN {receipt['lsn']} for another write; "
            "use a new key for new content",
            key=write.key,
            lsn=receipt["lsn"],
        )
    ids = write.answer_ids or [update.id for update in write.updates]
    return Commit(Lsn(receipt["lsn"]), ids, receipt["count"])


def _check_expected(write: Write, state: State) -> None:
    for namespace, key, expected in write.expect:
        stored = state.view.document(namespace, key, state.lsn)
        found = None if stored is None else msgspec.json.decode(stored)
        if found != expected:
            raise ConflictError(
                Code.CONDITION_FAILED,
                f"document {namespace}/{key}: expected {expected!r:.200}, found {found!r:.200}; "
                "read it again and retry",
                namespace=namespace,
                key=key,
                expected=expected,
                found=found,
            )


def _refuse_existing(write: Write, rows: list[int]) -> None:
    existing = [record_id for record_id, row in zip(write.ids, rows, strict=False) if row >= 0]
    if existing:
        shown = ", ".join(map(repr, existing[:_SHOWN_IDS]))
        raise ConflictError(
            Code.ID_EXISTS,
            f"{len(existing)} of {len(write.ids)} ids exist already: {shown}; nothing was "
            "inserted. Use upsert to replace them",
            ids=existing[:1000],
        )


def _check_unchanged(touched: list[str], rows: list[int], if_lsn: int, state: State) -> None:
    """Refuse if any touched id was written or deleted after `if_lsn`.

    What was deleted by the horizon has never been. So 0 asks whether an id is new as far as can be
    read, and another LSN below the horizon asks what cannot be told.
    """
    horizon = state.view.manifest.horizon_lsn
    live = np.array([row for row in rows if row >= 0], dtype=np.int64)
    born = dict(zip(live.tolist(), state.view.born(live).tolist(), strict=True))
    for record_id, row in zip(touched, rows, strict=True):
        if row >= 0:
            changed = born[row]
        else:
            versions = state.view.versions(record_id, state.row_limit)
            ends = [state.view.end_of(version) for version in versions]
            changed = max((end for end in ends if end > horizon), default=0)
            if 0 < if_lsn < horizon:
                changed = max(changed, horizon)
        if changed > if_lsn:
            was = "may have been" if changed == horizon else "was"
            raise ConflictError(
                Code.CONDITION_FAILED,
                f"id {record_id!r} {was} changed at LSN {changed}, after LSN {if_lsn}; "
                "read it again and retry",
                id=record_id,
                expected=if_lsn,
                found=changed,
            )


def _add_updates(
    resolved: Resolved,
    write: Write,
    rows: list[int],
    state: State,
    schema: Schema,
    metadata_bytes_max: int,
) -> None:
    """Turn metadata updates into new rows with the vectors of the old ones."""
    missing = [update.id for update, row in zip(write.updates, rows, strict=True) if row < 0]
    if missing:
        raise NotFoundError(
            Code.ID_NOT_FOUND,
            f"{len(missing)} of {len(write.updates)} ids do not exist: "
            f"{', '.join(map(repr, missing[:_SHOWN_IDS]))}; nothing was updated",
            ids=missing[:1000],
        )
    vectors = np.empty((len(rows), schema.dimension), schema.vector_type.dtype)
    metadata: list[bytes] = []
    for index, (update, row) in enumerate(zip(write.updates, rows, strict=True)):
        vectors[index], before = stored_row(state.view, row, update.id)
        merged = update.metadata
        if update.mode == "merge":
            merged = {**(msgspec.json.decode(before) if before else {}), **update.metadata}
        metadata.append(encode_metadata(merged, index, metadata_bytes_max))
    own = resolved.metadata or [b""] * len(resolved.ids)
    resolved.metadata = own + metadata
    resolved.ids = resolved.ids + [update.id for update in write.updates]
    if resolved.vectors is not None:
        vectors = np.concatenate([resolved.vectors, vectors])
    resolved.vectors = vectors
    resolved.count += len(rows)


def stored_row(view: View, row: int, record_id: str) -> tuple[npt.NDArray[np.generic], bytes]:
    """Return the stored vector and metadata JSON of a row.

    Raises:
        DamagedDataError: `damaged-data`.
    """
    memtable = view.in_memory(row)
    if memtable is not None:
        if row in memtable.lost_vectors or row in memtable.lost_metadata:
            raise damaged_rows([record_id], "the stored record is damaged")
        chunk = memtable.chunk_of(row)
        position = row - chunk.first_row
        return chunk.vectors[position], chunk.metadata[position]
    segment = view.segment_of(row)
    ordinals = np.array([segment.ordinal_of(row)])
    try:
        metadata = segment.metadata(ordinals)[0]
    except UnreadableError:
        raise damaged_rows([record_id], "the stored metadata is damaged") from None
    if len(segment.unreadable_rows(ordinals)):
        raise damaged_rows([record_id], "the stored vector is damaged")
    return segment.vectors[ordinals[0]], metadata
