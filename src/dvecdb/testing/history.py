"""What a collection must hold at every LSN: the oracle of the crash and damage tests.

An `Action` is one write: it can be performed on a collection, and applied to a `State`, which is
all a reader can see at one LSN. A `History` is the state after every commit. `difference`
compares every bit of every row, every document and every idempotency receipt, not counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from dvecdb.records import Commit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    import numpy.typing as npt

    from dvecdb.engine.collection import Collection as EngineCollection
    from dvecdb.engine.snapshot import Snapshot
    from dvecdb.protection.collection import Collection
    from dvecdb.records import Json, Undone

RECEIPTS = "_idempotency"
"""The namespace of the receipts of idempotent writes."""
TAGS = "_tags"
"""The namespace of tags."""

Operation = Literal["upsert", "insert", "delete", "update", "write"]


class Row(NamedTuple):
    """One record: float32 bytes of its vector, its metadata, and the LSN that wrote it."""

    vector: bytes
    metadata: Json
    lsn: int


@dataclass(frozen=True, slots=True)
class State:
    """All that can be read at one LSN. Receipts are documents with `lsn` and `count`."""

    rows: Mapping[str, Row] = field(default_factory=dict)
    documents: Mapping[tuple[str, str], Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Action:
    """One write. `vectors` float32[len(ids), dimension], exact in the collection's type."""

    operation: Operation
    ids: tuple[str, ...] = ()
    vectors: npt.NDArray[np.float32] | None = None
    metadata: tuple[Json, ...] | None = None
    deletes: tuple[str, ...] = ()
    documents: Mapping[tuple[str, str], Json] = field(default_factory=dict)
    key: str | None = None

    def perform(self, collection: Collection) -> Commit:
        """Do it. Raises what the collection raises."""
        ids, metadata = list(self.ids), None if self.metadata is None else list(self.metadata)
        match self.operation:
            case "upsert":
                return collection.upsert(ids, self.vectors, metadata, idempotency_key=self.key)
            case "insert":
                return collection.insert(ids, self.vectors, metadata, idempotency_key=self.key)
            case "delete":
                return collection.delete(list(self.deletes), idempotency_key=self.key)
            case "update":
                return collection.update_metadata(ids, metadata or [], idempotency_key=self.key)
            case "write":
                parts = {"ids": ids, "vectors": self.vectors, "metadata": metadata}
                return collection.write(
                    upserts=parts if ids else None,
                    deletes=list(self.deletes),
                    documents=self.documents,
                    idempotency_key=self.key,
                )

    def apply(self, state: State, lsn: int) -> State:
        """Return the state after it was committed as `lsn`."""
        rows, documents = dict(state.rows), dict(state.documents)
        count = len(self.ids) + sum(record_id in rows for record_id in self.deletes)
        for index, record_id in enumerate(self.ids):
            metadata = None if self.metadata is None else self.metadata[index]
            if self.operation == "update":
                before = rows[record_id]
                merged = {**(before.metadata or {}), **(metadata or {})}
                rows[record_id] = Row(before.vector, merged, lsn)
            else:
                assert self.vectors is not None
                rows[record_id] = Row(self.vectors[index].tobytes(), metadata, lsn)
        for record_id in self.deletes:
            rows.pop(record_id, None)
        for name, value in self.documents.items():
            documents[name] = value
            if value is None:
                del documents[name]
        if self.key is not None:
            documents[RECEIPTS, self.key] = {"lsn": lsn, "count": count}
        return State(rows, documents)


@dataclass(frozen=True, slots=True)
class Undo:
    """Rows brought back to what they were at `to_lsn`: all, or those chosen by ids and filter."""

    to_lsn: int
    ids: tuple[str, ...] | None = None
    where: Mapping[str, Json] | None = None

    operation: ClassVar[str] = "undo"
    key: ClassVar[None] = None

    def perform(self, collection: Collection) -> Undone:
        """Do it. Raises what the collection raises."""
        ids = None if self.ids is None else list(self.ids)
        return collection.undo(to_lsn=self.to_lsn, ids=ids, where=self.where)

    def between(self, then: State, now: State, lsn: int) -> State:
        """Return the state after the rows of `now` were brought back to `then`, as `lsn`.

        Rows that say the same in both stay, and so do documents of ours.
        """
        rows, documents = dict(now.rows), dict(now.documents)
        for record_id in then.rows.keys() | now.rows.keys():
            before, after = then.rows.get(record_id), now.rows.get(record_id)
            is_same = before and after and before[:2] == after[:2]
            if is_same or not self._is_chosen(record_id, before, after):
                continue
            rows.pop(record_id, None)
            if before is not None:
                rows[record_id] = before._replace(lsn=lsn)
        if self.ids is None and self.where is None:
            ours = {name: value for name, value in now.documents.items() if name[0][0] == "_"}
            theirs = {name: value for name, value in then.documents.items() if name[0][0] != "_"}
            documents = {**ours, **theirs}
        return State(rows, documents)

    def _is_chosen(self, record_id: str, *rows: Row | None) -> bool:
        if self.ids is not None and record_id not in self.ids:
            return False
        if self.where is None:
            return True
        wanted = self.where.items()
        return any(wanted <= (row.metadata or {}).items() for row in rows if row is not None)


@dataclass(frozen=True, slots=True)
class Tag:
    """A state named, or with None no longer."""

    name: str
    lsn: int | None

    operation: ClassVar[str] = "tag"
    key: ClassVar[None] = None

    def perform(self, collection: Collection) -> Commit:
        """Do it; nobody else may write meanwhile. Raises what the collection raises."""
        if self.lsn is None:
            collection.untag(self.name)
        else:
            collection.tag(self.name, self.lsn)
        return Commit(collection.stats().last_lsn, [], 0)

    def apply(self, state: State, _lsn: int) -> State:
        """Return the state after it was committed."""
        documents = {**state.documents, (TAGS, self.name): {"lsn": self.lsn}}
        if self.lsn is None:
            del documents[TAGS, self.name]
        return State(state.rows, documents)


class History:
    """The state after every commit of one collection: `states[lsn]`."""

    def __init__(self, states: Iterable[State] = (State(),)) -> None:
        self.states = list(states)

    @property
    def last_lsn(self) -> int:
        """The newest LSN."""
        return len(self.states) - 1

    def commit(self, action: Action | Tag | Undo, lsn: int) -> None:
        """Add the next commit. One that changed nothing has the LSN before it."""
        if lsn <= self.last_lsn:
            receipt = self.states[lsn].documents.get((RECEIPTS, str(action.key)))
            unchanged = self._after(action, self.states[lsn], lsn) == self.states[lsn]
            assert unchanged or (receipt and receipt["lsn"] == lsn), f"commit {lsn} twice"
            return
        assert lsn == self.last_lsn + 1, f"commit {lsn} after {self.last_lsn}"
        self.states.append(self._after(action, self.states[-1], lsn))

    def _after(self, action: Action | Tag | Undo, state: State, lsn: int) -> State:
        if isinstance(action, Undo):
            return action.between(self.states[action.to_lsn], state, lsn)
        return action.apply(state, lsn)

    def until(self, lsn: int) -> History:
        """Return the history up to `lsn`."""
        return History(self.states[: lsn + 1])

    @property
    def ids(self) -> set[str]:
        """Every id that ever was."""
        return {record_id for state in self.states for record_id in state.rows}

    @property
    def namespaces(self) -> set[str]:
        """Every namespace that ever held a document."""
        return {name for state in self.states for name, _ in state.documents} | {RECEIPTS}


def read_state(snapshot: Snapshot, namespaces: Iterable[str]) -> State:
    """Return all that `snapshot` shows, by a scan."""
    rows: dict[str, Row] = {}
    for record in snapshot.scan(with_vectors=True):
        assert record.vector is not None
        assert record.id not in rows, f"{record.id!r} twice"
        rows[record.id] = Row(record.vector.tobytes(), record.metadata, record.lsn)
    documents = {
        (namespace, key): _without_digest(value) if namespace == RECEIPTS else value
        for namespace in namespaces
        for key, value in snapshot.documents(namespace).items()
    }
    return State(rows, documents)


def _without_digest(receipt: Json) -> Json:
    return {name: value for name, value in receipt.items() if name != "digest"}


def difference(expected: State, found: State) -> str | None:
    """Return what of `found` is not as `expected`, or None."""
    both: tuple[tuple[str, Mapping[Any, object], Mapping[Any, object]], ...] = (
        ("row", expected.rows, found.rows),
        ("document", expected.documents, found.documents),
    )
    for what, wanted, held in both:
        for name in wanted.keys() | held.keys():
            if name not in held:
                return f"{what} {name!r} is missing"
            if name not in wanted:
                return f"{what} {name!r} should not be there"
            if wanted[name] != held[name]:
                return f"{what} {name!r}: expected {wanted[name]!r:.120}, found {held[name]!r:.120}"
    return None


def check_reads(collection: EngineCollection, history: History, lsns: Iterable[int]) -> str | None:
    """Compare the states at `lsns` and, by every way to read, the newest; return what is wrong.

    The newest LSN of the collection must be that of `history`.
    """
    namespaces = history.namespaces
    for lsn in lsns:
        snapshot = collection.snapshot(as_of=lsn)
        wrong = difference(history.states[lsn], read_state(snapshot, namespaces))
        if wrong is not None:
            return f"as of {lsn}: {wrong}"
    newest, ids = history.states[-1], sorted(history.ids)
    if collection.count() != len(newest.rows):
        return f"count {collection.count()}, expected {len(newest.rows)}"
    for record_id, record in zip(ids, collection.get(ids), strict=True):
        expected = newest.rows.get(record_id)
        found = None
        if record is not None and record.vector is not None:
            found = Row(record.vector.tobytes(), record.metadata, record.lsn)
        if found != expected:
            return f"get {record_id!r}: expected {expected!r:.120}, found {found!r:.120}"
    if ids:
        hits = collection.search([1.0] * collection.schema.dimension, limit=len(ids))
        if {hit.id: hit.metadata for hit in hits} != {
            record_id: row.metadata for record_id, row in newest.rows.items()
        }:
            return "search finds other rows"
    return None
