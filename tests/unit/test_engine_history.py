"""The history of a collection against a list of what was done to it."""

from dataclasses import replace
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb import CommitInfo, Database, Settings
from dvecdb.clock import to_datetime
from dvecdb.engine.rows import View
from dvecdb.errors import Code, InvalidRequestError
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.crash import crash
from dvecdb.testing.disk import MemoryDisk

SETTINGS = Settings(
    bulk_bytes=16 * 20, flush_commits=7, merge_count=2, wal_reserve_bytes=1024,
    wal_extend_bytes=1024, ballast_bytes=0, low_water_bytes=0,
)  # fmt: skip
IDS = [f"id {number}" for number in range(6)]
BULK = 20  # rows of 16 bytes: written as a segment of its own


class Books:
    """A collection on a disk in memory, and what its history has to be."""

    def __init__(self):
        self.disk, self.clock = MemoryDisk(), ManualClock()
        self.expected, self.live, self.rows = [], set(), 0
        self.open()
        self.database.create_collection("books", dimension=4)

    def open(self):
        self.database = Database(
            "d", files=self.disk, clock=self.clock, settings=SETTINGS, background=False
        )

    @property
    def collection(self):
        return self.database.collection("books")

    def did(self, operation, commit, *, upserts=(), deletes=(), notes=None, empty=False):
        """Note a commit that was made."""
        upserts, deletes = set(upserts), set(deletes)
        ended = len(self.live & (upserts | deletes))
        if commit.lsn == len(self.expected):
            assert (upserts, ended, empty) == (set(), 0, False)
            return
        assert commit.lsn == len(self.expected) + 1
        self.live = (self.live | upserts) - deletes
        notes = {"actor": None, "reason": None, "request_id": None, **(notes or {})}
        info = CommitInfo(
            lsn=commit.lsn, time=to_datetime(self.clock.wall_ns()), hlc=0, operation=operation,
            rows=len(upserts), ended=ended, **notes,
        )  # fmt: skip
        self.expected.append(info)

    def check(self):
        """Compare all of the history, and page through it."""
        found = self.collection.history()
        assert [replace(info, hlc=0) for info in found] == self.expected[::-1]
        hlcs = [info.hlc for info in found]
        assert hlcs == sorted(set(hlcs), reverse=True)
        pages, before = [], None
        while page := self.collection.history(limit=3, before=before):
            pages += page
            before = page[-1].lsn
        assert pages == found


def act(books, step, ids, notes):
    if step == "flush":
        books.collection.flush()
    elif step == "reopen":
        books.database.close()
        books.open()
    elif step == "crash":
        books.disk = crash(books.disk, Random(len(books.expected)))
        books.open()
    elif step in {"later", "earlier"}:
        books.clock.set_wall(books.clock.wall_ns() + (10**9 if step == "later" else -(10**9)))
    else:
        write(books, step, ids, notes)


def write(books, step, ids, notes):
    collection, vectors = books.collection, np.ones((len(ids), 4))
    if step == "upsert":
        books.did(step, collection.upsert(ids, vectors, **notes), upserts=ids, notes=notes)
    elif step == "insert":
        ids = [text for text in ids if text not in books.live]
        if ids:
            commit = collection.insert(ids, vectors[: len(ids)], **notes)
            books.did(step, commit, upserts=ids, notes=notes)
    elif step == "delete":
        books.did(step, collection.delete(ids, **notes), deletes=ids, notes=notes)
    elif step == "update":
        ids = sorted(set(ids) & books.live)
        if ids:
            commit = collection.update_metadata(ids, [{"n": 1}] * len(ids), **notes)
            books.did("update_metadata", commit, upserts=ids, notes=notes)
    elif step == "write":
        parts = {"ids": ids[:1], "vectors": vectors[:1]}
        documents = {("jobs", "cursor"): ids}
        commit = collection.write(upserts=parts, deletes=ids[1:], documents=documents, **notes)
        books.did(step, commit, upserts=ids[:1], deletes=ids[1:], notes=notes)
    elif step == "document":
        commit = collection.write(documents={("jobs", "cursor"): ids}, **notes)
        books.did("write", commit, notes=notes, empty=True)
    elif step == "bulk":
        ids = [f"bulk {number}" for number in range(BULK)] + ids
        commit = collection.upsert(ids, np.ones((len(ids), 4)), **notes)
        books.did("upsert", commit, upserts=ids, notes=notes)


STEPS = ("upsert", "insert", "delete", "update", "write", "document", "bulk", "flush", "reopen",
         "crash", "later", "earlier")  # fmt: skip
text = st.none() | st.sampled_from(["ann", "nightly job", "ünïcode"])
notes = st.fixed_dictionaries({"actor": text, "reason": text, "request_id": text})
steps = st.tuples(
    st.sampled_from(STEPS), st.lists(st.sampled_from(IDS), min_size=1, unique=True), notes
)


@given(st.lists(steps, max_size=30))
def test_history_tells_every_commit_as_it_was_whatever_happened_since(script):
    books = Books()
    for step in script:
        act(books, *step)
        books.check()
    for step in ("reopen", "flush", "crash"):
        act(books, step, [], {})
        books.check()


def some_books():
    books = Books()
    for number, step in enumerate(["upsert", "bulk", "delete", "write", "update", "document"] * 3):
        act(books, step, IDS[number % 3 : number % 3 + 3], {"actor": f"{number}"})
    return books


def test_compaction_keeps_the_history():
    books = some_books()
    for number in range(20):
        act(books, "upsert", IDS[:2], {"reason": f"{number}"})
        books.collection.flush()
    assert books.collection.stats().segments < 10
    books.check()


@pytest.mark.parametrize("suffix", ["vectors.bin", "records.bin", ".wal", ".idx"])
def test_damage_that_leaves_a_collection_open_costs_no_history(suffix):
    books = some_books()
    books.collection.flush()
    for _ in range(3):
        act(books, "upsert", IDS[:2], {})
    books.database.close()
    rng, opened = Random(4_711), 0
    paths = [path for path in books.disk.tree() if path.endswith(suffix)]
    sound = books.disk
    for _ in range(40):
        books.disk = sound.clone()
        path = rng.choice(paths)
        data = bytearray(books.disk.read_path(path))
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        books.disk.damage(path, bytes(data))
        books.open()
        if "books" in books.database.collections():
            opened += 1
            books.check()
            books.database.close()
    assert opened > 20


def test_a_write_that_changed_nothing_is_not_in_the_history():
    books = Books()
    books.collection.delete(["nobody"])
    assert books.collection.history() == []
    books.collection.upsert(["a"], [[1, 2, 3, 4]], idempotency_key="once")
    books.collection.upsert(["a"], [[1, 2, 3, 4]], idempotency_key="once")
    assert [info.lsn for info in books.collection.history()] == [1]


def test_history_never_reaches_below_the_horizon():
    books = some_books()
    store = books.collection._store
    manifest = msgspec.structs.replace(store.manifest, horizon_lsn=5)
    store.view = View(manifest, store.view.segments, store.view.memtables, store.view.runs)
    lsns = [info.lsn for info in books.collection.history()]
    assert lsns == list(range(len(books.expected), 4, -1))
    assert books.collection.history(before=5) == []


@pytest.mark.parametrize(
    "arguments",
    [{"limit": 0}, {"limit": 10_001}, {"limit": "1"}, {"before": -1}, {"before": 1.0}],
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(InvalidRequestError) as caught:
        Books().collection.history(**arguments)
    assert caught.value.code is Code.INVALID_ARGUMENT
