"""The oracle: what a collection must hold, in plain dictionaries, and how to compare all of it.

A `State` is what readers see at one LSN. `respond` says what a write must answer and what it makes
of a state. A `CollectionModel` is the list of all states, one for each LSN, and at most one write
**in doubt**: its caller was told that the outcome is unknown, or the power went before any answer.
What is in doubt is wholly there or wholly absent, and `settle` fixes which at the first look.

Nothing here is fast, shares code with the engine, or knows how anything is stored.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from dvecdb.errors import Code
from dvecdb.records import Metric

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from dvecdb.engine.snapshot import Snapshot
    from dvecdb.protection.collection import Collection
    from dvecdb.records import Commit, Json, Metadata, Record, Schema
    from dvecdb.results import Hits


class Mismatch(AssertionError):  # noqa: N818  # the word tests are read with
    """The engine does not hold what it must. Raised by every check in here."""


@dataclass(frozen=True, slots=True)
class Row:
    """A live record. vector: its stored bytes; lsn: the commit that wrote it."""

    vector: bytes
    metadata: Metadata | None
    lsn: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a write returned."""

    lsn: int
    ids: tuple[str, ...]
    count: int


@dataclass(frozen=True, slots=True)
class Update:
    """A change of the metadata of one record."""

    id: str
    metadata: Metadata
    merge: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """One write, as its caller means it.

    ids: stored forms, repetitions included, or None to have them made; vectors: stored bytes;
    metadata: one per vector; content: equal for two writes that ask for the same.
    """

    ids: tuple[str, ...] | None = ()
    vectors: tuple[bytes, ...] = ()
    metadata: tuple[Metadata | None, ...] = ()
    is_insert: bool = False
    deletes: tuple[str, ...] = ()
    updates: tuple[Update, ...] = ()
    documents: tuple[tuple[tuple[str, str], Json], ...] = ()
    expect: tuple[tuple[tuple[str, str], Json], ...] = ()
    if_lsn: int | None = None
    key: str | None = None
    content: str = ""

    @property
    def touched(self) -> tuple[str, ...]:
        """Every id that is known before the write."""
        return (*(self.ids or ()), *self.deletes, *(update.id for update in self.updates))


@dataclass(frozen=True, slots=True)
class State:
    """What readers see at one LSN.

    rows: by id, in row order, which is the order in which they were written; receipts: content
    and answer by idempotency key; changed: for every id there ever was, the LSN that last wrote
    or deleted it; hlc: the time of the commit.
    """

    lsn: int
    hlc: int
    rows: Mapping[str, Row] = field(default_factory=dict)
    documents: Mapping[tuple[str, str], Json] = field(default_factory=dict)
    receipts: Mapping[str, tuple[str, Answer]] = field(default_factory=dict)
    changed: Mapping[str, int] = field(default_factory=dict)


def refusals(state: State, batch: Batch, horizon: int = 0) -> set[Code]:
    """Return the codes with which `batch` may be refused in `state`; empty if it must succeed.

    horizon: the oldest LSN that can be read; what was deleted by then has never been.
    """
    receipt = state.receipts.get(batch.key or "")
    if receipt is not None:
        return set() if receipt[0] == batch.content else {Code.IDEMPOTENCY_KEY_REUSED}
    found: set[Code] = set()
    if any(state.documents.get(name) != value for name, value in batch.expect):
        found.add(Code.CONDITION_FAILED)
    if batch.if_lsn is not None:
        absent = [text for text in batch.touched if text not in state.rows]
        changes = [state.changed[text] for text in batch.touched if text in state.rows]
        changes += [lsn for text in absent if (lsn := state.changed.get(text, 0)) > horizon]
        makes_ids = batch.ids is None
        untold = (absent or makes_ids) and 0 < batch.if_lsn < horizon
        if untold or max(changes, default=0) > batch.if_lsn:
            found.add(Code.CONDITION_FAILED)
    if batch.is_insert and any(text in state.rows for text in batch.ids or ()):
        found.add(Code.ID_EXISTS)
    if any(update.id not in state.rows for update in batch.updates):
        found.add(Code.ID_NOT_FOUND)
    return found


def respond(state: State, batch: Batch, wall_ns: int, made: Sequence[str]) -> tuple[State, Answer]:
    """Return the state after a write that is not refused, and its answer.

    made: the ids the engine made, if the batch left that to it.
    """
    receipt = state.receipts.get(batch.key or "")
    if receipt is not None:
        return state, receipt[1]
    lsn = state.lsn + 1
    rows, changed = dict(state.rows), dict(state.changed)
    ids = tuple(made) if batch.ids is None else batch.ids
    last = dict(zip(ids, zip(batch.vectors, batch.metadata, strict=True), strict=True))
    kept = sorted(last, key=lambda text: len(ids) - ids[::-1].index(text))
    answer_ids = ids or tuple(update.id for update in batch.updates)
    gone = [text for text in dict.fromkeys(batch.deletes) if text in rows]
    count = len(last) + len(gone) + len(batch.updates)
    for text in (*kept, *gone):
        rows.pop(text, None)
        changed[text] = lsn
    rows |= {text: Row(*last[text], lsn) for text in kept}
    for update in batch.updates:
        before = rows.pop(update.id)
        merged = {**(before.metadata or {}), **update.metadata} if update.merge else update.metadata
        rows[update.id] = Row(before.vector, merged, lsn)
        changed[update.id] = lsn
    if not count and not batch.documents and batch.key is None:
        return state, Answer(state.lsn, (), 0)
    documents = {**state.documents, **dict(batch.documents)}
    documents = {name: value for name, value in documents.items() if value is not None}
    answer = Answer(lsn, answer_ids, count)
    receipts = dict(state.receipts)
    if batch.key is not None:
        receipts[batch.key] = (batch.content, answer)
    hlc = max(state.hlc + 1, wall_ns)
    return State(lsn, hlc, rows, documents, receipts, changed), answer


@dataclass(slots=True)
class CollectionModel:
    """All states of a collection by LSN, and the write in doubt with the time it was made at.

    horizon: the oldest state that was seen to be readable; is_unproven: the newest state was in
    doubt, and was shown with the warning that a power cut may take it; is_cut: power was cut since
    anything was shown.
    """

    schema: Schema
    states: list[State]
    doubt: tuple[Batch, int] | None = None
    horizon: int = 0
    is_unproven: bool = False
    is_cut: bool = False

    @property
    def now(self) -> State:
        """The newest state that was acknowledged or seen."""
        return self.states[-1]

    def acknowledge(self, batch: Batch, commit: Commit, wall_ns: int) -> None:
        """Take over a write that succeeded, and check its answer."""
        expect(self.doubt is None, "a write was acknowledged after one of unknown outcome")
        state, answer = respond(self.now, batch, wall_ns, commit.ids)
        found = Answer(commit.lsn, tuple(commit.ids), commit.count)
        expect(found == answer, f"answered {found}, expected {answer}")
        if batch.ids is None and state is not self.now:
            check_made(commit.ids, len(batch.vectors), self.now)
        if state is not self.now:
            self.states.append(state)

    def doubtful(self, batch: Batch, wall_ns: int) -> None:
        """Note a write whose outcome nobody knows."""
        expect(self.doubt is None, "a second write of unknown outcome; writes must have stopped")
        if not refusals(self.now, batch) and batch.key not in self.now.receipts:
            self.doubt = batch, wall_ns

    def cut_power(self) -> None:
        """Note that power was cut: what is shown from here on is on the disk."""
        self.is_cut = True

    def settle(self, snapshot: Snapshot, *, is_proven: bool = True) -> None:
        """Decide by `snapshot` whether the write in doubt is there; check that all else is.

        is_proven: it is shown without a warning that it may not be on the disk. With one, it may be
        gone after the next power cut: that write alone, once, and nothing that was acknowledged.
        """
        if self.doubt is not None and snapshot.lsn > self.now.lsn:
            batch, wall_ns = self.doubt
            made: list[str] = []
            if batch.ids is None:
                made = [record.id for record in snapshot.scan()][-len(batch.vectors) :]
                check_made(made, len(batch.vectors), self.now)
            self.states.append(respond(self.now, batch, wall_ns, made)[0])
            self.is_unproven = True
        elif self.is_unproven and self.is_cut and snapshot.lsn == self.now.lsn - 1:
            self.states.pop()
        self.is_unproven = self.is_unproven and not is_proven and not self.is_cut
        self.doubt, self.is_cut = None, False
        expect_equal("last LSN", snapshot.lsn, self.now.lsn)

    def at(self, hlc: int) -> State:
        """Return the newest state that is not after a time."""
        return [state for state in self.states if state.hlc <= hlc][-1]

    def fork(self) -> CollectionModel:
        """Return an independent copy."""
        return replace(self, states=self.states.copy())


# --- comparing -----------------------------------------------------------------------------------


def expect(condition: object, message: str) -> None:
    """Raise `Mismatch` unless `condition` holds."""
    if not condition:
        raise Mismatch(message)


def expect_equal(what: str, found: object, expected: object) -> None:
    """Raise `Mismatch` unless both are equal and of one type."""
    if found != expected or type(found) is not type(expected):
        raise Mismatch(f"{what}: expected {expected!r:.500}, found {found!r:.500}")


def check_made(ids: Sequence[str], count: int, before: State) -> None:
    """Check ids that the engine made: as many as needed, distinct, new, canonical UUIDs."""
    expect_equal("number of made ids", len(set(ids)), count)
    for text in ids:
        expect_equal("made id", text, str(uuid.UUID(text)))
        expect(text not in before.changed, f"the made id {text} was in use before")


def check_record(record: Record, text: str, row: Row, schema: Schema) -> None:
    """Compare one record with its row."""
    expect_equal("id", record.id, text)
    expect_equal(f"metadata of {text!r}", record.metadata, row.metadata)
    expect_equal(f"LSN of {text!r}", record.lsn, row.lsn)
    if record.vector is not None:
        stored = np.frombuffer(row.vector, schema.vector_type.dtype).astype(np.float32)
        found = record.vector
        same = found.dtype == np.float32 and found.tobytes() == stored.tobytes()
        expect(same, f"vector of {text!r}: expected {stored}, found {found}")


def check_rows(snapshot: Snapshot, state: State, schema: Schema) -> None:
    """Compare every row in order, by scan and by pages, and the count."""
    expect_equal("LSN of the snapshot", int(snapshot.lsn), state.lsn)
    expect_equal("count", snapshot.count(), len(state.rows))
    records = list(snapshot.scan(with_vectors=True))
    expect_equal("ids in row order", [record.id for record in records], list(state.rows))
    for record, (text, row) in zip(records, state.rows.items(), strict=True):
        expect(record.vector is not None, f"no vector of {text!r}")
        check_record(record, text, row, schema)
    expect(all(record.vector is None for record in snapshot.scan()), "vectors not asked for")


def check_pages(snapshot: Snapshot, state: State, schema: Schema, limit: int) -> None:
    """Compare every row in order, page by page."""
    texts: list[str] = []
    after: int | None = None
    while True:
        page = snapshot.scroll(limit=limit, after=after, with_vectors=True)
        expect(len(page.records) <= limit, f"a page of {len(page.records)}, limit {limit}")
        for record in page.records:
            expect(record.id in state.rows, f"{record.id!r} should not exist")
            check_record(record, record.id, state.rows[record.id], schema)
        texts += [record.id for record in page.records]
        if page.next is None:
            break
        expect_equal("records of a page that is not the last", len(page.records), limit)
        after = page.next
    expect_equal("ids in pages", texts, list(state.rows))


def check_get(snapshot: Snapshot, state: State, schema: Schema, absent: Sequence[str]) -> None:
    """Compare every record by id, in another order than stored, mixed with ids that are absent."""
    wanted = [*absent, *reversed(list(state.rows)), *state.changed]
    records = snapshot.get(wanted)
    expect_equal("records of a get", len(records), len(wanted))
    for text, record in zip(wanted, records, strict=True):
        row = state.rows.get(text)
        if row is None or record is None:
            expect(row is None, f"{text!r} is missing")
            expect(record is None, f"{text!r} should not exist")
        else:
            check_record(record, text, row, schema)


def check_documents(snapshot: Snapshot, state: State) -> None:
    """Compare every document, by namespace and one by one."""
    spaces: dict[str, dict[str, Json]] = {"absent": {}}
    for (space, key), value in state.documents.items():
        spaces.setdefault(space, {})[key] = value
        expect_equal(f"document {space}/{key}", snapshot.document(space, key), value)
    for space, values in spaces.items():
        expect_equal(f"documents of {space}", snapshot.documents(space), values)
        expect_equal("an absent document", snapshot.document(space, "absent"), None)


def check_search(
    snapshot: Snapshot, state: State, schema: Schema, query: Sequence[float], limit: int
) -> None:
    """Compare a search with measuring every row in float64, ties in row order."""
    hits = snapshot.search(list(query), limit=limit)
    texts = list(state.rows)
    distances = [
        distance(
            np.frombuffer(row.vector, schema.vector_type.dtype).astype(np.float64),
            np.asarray(query, np.float64),
            schema.metric,
        )
        for row in state.rows.values()
    ]
    expect_equal("hits", len(hits), min(limit, len(texts)))
    expect_equal("excluded", hits.excluded, [])
    found = dict(zip(texts, distances, strict=True))
    for hit, nearest in zip(hits, sorted(distances), strict=False):
        expect(hit.id in found, f"{hit.id!r} should not exist")
        expect(_close(hit.distance, found[hit.id]), f"distance of {hit.id!r}: {hit.distance}")
        expect(_close(hit.distance, nearest), f"{hit.id!r} is not among the nearest")
        expect_equal(f"metadata of {hit.id!r}", hit.metadata, state.rows[hit.id].metadata)
    _check_order(hits, texts)


def _check_order(hits: Hits, texts: Sequence[str]) -> None:
    order = [(hit.distance, texts.index(hit.id)) for hit in hits]
    expect(order == sorted(order), f"not in order of (distance, row): {order}")
    expect_equal("distinct hits", len(set(order)), len(order))


def distance(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64], metric: Metric) -> float:
    """Return the distance of two float64 vectors, by the book."""
    match metric:
        case Metric.EUCLIDEAN:
            return float(np.sqrt(((one - other) ** 2).sum()))
        case Metric.MANHATTAN:
            return float(np.abs(one - other).sum())
        case Metric.DOT_PRODUCT:
            return float(-(one * other).sum())
        case Metric.COSINE:
            norms = float(np.sqrt((one**2).sum()) * np.sqrt((other**2).sum()))
            return 1.0 - float((one * other).sum()) / norms if norms else 1.0


def _close(found: float, expected: float) -> bool:
    return abs(found - expected) <= 1e-9 * max(1.0, abs(expected))


def check_snapshot(
    snapshot: Snapshot, state: State, schema: Schema, query: Sequence[float], limit: int
) -> None:
    """Compare everything that can be read from a snapshot."""
    check_rows(snapshot, state, schema)
    check_pages(snapshot, state, schema, limit)
    check_get(snapshot, state, schema, ["absent", "\N{SNOWMAN}"])
    check_documents(snapshot, state)
    check_search(snapshot, state, schema, query, limit)


def check_history(collection: Collection, model: CollectionModel) -> None:
    """Compare the rows and documents of every LSN from the horizon on."""
    horizon = collection.stats().horizon_lsn
    for state in model.states[horizon:]:
        snapshot = collection.snapshot(as_of=state.lsn)
        check_rows(snapshot, state, model.schema)
        check_documents(snapshot, state)
