"""Segments of which not every row counts, against reads of the collection they were taken from."""

import contextlib
import threading
from dataclasses import replace
from random import Random
from uuid import UUID, uuid4

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb import Database, Settings
from dvecdb.clock import SystemClock
from dvecdb.engine.commits import read_commits
from dvecdb.engine.contents import gather
from dvecdb.engine.index import Indexing
from dvecdb.engine.lookup import load_runs
from dvecdb.engine.maintenance import tend
from dvecdb.engine.memtable import Memtable
from dvecdb.engine.rows import View
from dvecdb.engine.searching import Searching
from dvecdb.engine.segment import Segment
from dvecdb.engine.segment_writer import write_segment
from dvecdb.engine.snapshot import Snapshot
from dvecdb.engine.store import sorted_segments
from dvecdb.errors import Code, DvecdbError
from dvecdb.formats import segment_bounds
from dvecdb.formats import segment_file as sf
from dvecdb.records import Metric, Schema, VectorType
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.history import difference, read_state
from dvecdb.testing.strategies import random_call, random_query, schemas, tiny_settings

SPACES = ("jobs", "tags", "_idempotency", "absent")
SEEDS = st.integers(0, 2**32 - 1)
SMALL = Schema(3, Metric.EUCLIDEAN, VectorType.FLOAT32)


def written(seed, schema, settings, calls=40):
    """Return a collection of random commits, all of them in segments, and its database."""
    rng, clock = Random(seed), ManualClock()
    database = Database("d", files=MemoryDisk(), clock=clock, settings=settings, background=False)
    collection = database.create_collection(
        "books", dimension=schema.dimension, metric=schema.metric, vector_type=schema.vector_type
    )
    for _ in range(calls):
        clock.advance(rng.choice([1, 1, 1, 40_000]))
        make_call(collection, rng, schema)
    collection.flush()
    return database, collection


class Seen:
    """As much of a model's state as `random_call` looks at."""

    def __init__(self, snapshot):
        self.lsn = int(snapshot.lsn)
        self.rows = {record.id: record for record in snapshot.scan()}
        self.documents = {}


def make_call(collection, rng, schema):
    call = random_call(rng, schema, Seen(collection.snapshot()))
    with contextlib.suppress(DvecdbError):  # refused: a condition does not hold
        getattr(collection, call.method)(**call.arguments)


def bounded(entry, lsn, row_limit):
    """Return a manifest entry of what a segment held at `lsn`, or None for nothing."""
    if entry.first_lsn > lsn:
        return None
    if not entry.commits:
        return entry
    return msgspec.structs.replace(
        entry,
        row_end=max(entry.first_row, min(entry.row_end, row_limit)),
        last_lsn=min(entry.last_lsn, lsn),
        commits=min(entry.last_lsn, lsn) - entry.first_lsn + 1,
    )


def open_entries(store, entries, findings=None):
    """Return a view of nothing but these segments."""
    report = (findings if findings is not None else []).append
    files, parent = store.environment.files, store.directories.segments
    segments = [Segment(files, parent, entry, report, "books") for entry in entries]
    identity = UUID(store.manifest.collection_uuid), uuid4()
    row_end = max((segment.row_end for segment in segments), default=0)
    last = max((segment.last_lsn for segment in segments), default=0)
    memtables = [Memtable(store.schema, row_end, last + 1)]
    view = View(store.manifest, sorted_segments(segments), memtables, [])
    for segment in segments:
        rows = segment.ends_rows.astype("int64")
        for target, positions in view.by_segment(rows) if len(rows) else ():
            target.apply_ends(segment.ends_rows[positions], segment.ends_lsns[positions])
    runs = load_runs(files, store.directories.derived, view.row_segments, identity, report, "books")
    return View(view.manifest, view.segments, memtables, runs)


def check_same(found, expected, schema, rng):
    """Compare all that two snapshots of one LSN show."""
    wrong = difference(read_state(expected, SPACES), read_state(found, SPACES))
    assert wrong is None, f"as of {expected.lsn}: {wrong}"
    assert found.count() == expected.count()
    assert [r.id for r in found.scan()] == [r.id for r in expected.scan()]
    ids = sorted({"a", "b", "c", "d", "e", "nobody", *(r.id for r in expected.scan())})
    assert list(map(shown, found.get(ids))) == list(map(shown, expected.get(ids)))
    query = random_query(rng, schema)
    assert hits(found, query) == hits(expected, query)
    where = {"k": None}
    assert found.count(where=where) == expected.count(where=where)
    assert hits(found, query, where=where) == hits(expected, query, where=where)
    for space in SPACES:
        for key in ("a", "b", "é", "k1"):
            assert found.document(space, key) == expected.document(space, key)
    after, pages = None, []
    while True:
        page = found.scroll(limit=2, after=after)
        pages += [record.id for record in page.records]
        after = page.next
        if after is None:
            break
    assert pages == [record.id for record in expected.scan()]


def shown(record):
    if record is None:
        return None
    return record.id, record.vector.tobytes(), record.metadata, record.lsn


def hits(snapshot, query, **options):
    return [(hit.id, hit.distance, hit.metadata) for hit in snapshot.search(query, **options)]


def snapshot_of(view, schema, lsn, limit):
    return Snapshot(Searching(view, schema, lsn, limit, None, 1.0, Indexing(SystemClock())))


def check_bounds(collection, schema, rng):
    """Compare every past state with a view of segments cut to it."""
    store = collection._store
    for lsn in range(store.manifest.horizon_lsn, store.visible.lsn + 1):
        limit = store.view.row_limit(lsn)
        entries = [bounded(entry, lsn, limit) for entry in store.manifest.segments]
        findings = []
        view = open_entries(store, [entry for entry in entries if entry], findings)
        assert view._covered
        check_same(
            snapshot_of(view, schema, lsn, limit), collection.snapshot(as_of=lsn), schema, rng
        )
        found = read_commits(view, 1, lsn)
        assert found == read_commits(store.view, 1, lsn)
        for segment in view.segments:
            assert not segment.lacks_rows
            segment.verify()
            assert not segment.damaged
        assert findings == []


@given(SEEDS, schemas(), tiny_settings())
def test_a_bounded_entry_shows_what_the_collection_held_at_its_last_lsn(seed, schema, settings):
    database, collection = written(seed, schema, settings, calls=20)
    with database:
        check_bounds(collection, schema, Random(seed))


@given(SEEDS, schemas(), tiny_settings())
def test_what_bounded_segments_hold_can_be_merged(seed, schema, settings):
    database, collection = written(seed, schema, settings, calls=20)
    with database:
        store, rng = collection._store, Random(seed)
        lsn = rng.randint(store.manifest.horizon_lsn, store.visible.lsn)
        limit = store.view.row_limit(lsn)
        entries = [bounded(entry, lsn, limit) for entry in store.manifest.segments]
        segments = open_entries(store, [entry for entry in entries if entry]).segments
        segments = [segment for segment in segments if segment.commits]
        if segments and len(segments) == len([entry for entry in entries if entry]):
            merged = open_entries(store, [merge(store, segments)])
            check_same(
                snapshot_of(merged, schema, lsn, limit), collection.snapshot(as_of=lsn), schema, rng
            )


def merge(store, segments):
    """Write neighbouring segments as one; return its entry."""
    content = gather(segments, store.view, 0).content
    files, parent = store.environment.files, store.directories.segments
    uuid = UUID(store.manifest.collection_uuid)
    made = write_segment(files, parent, content, store.schema, uuid4(), uuid)
    return msgspec.structs.replace(
        segments[0].entry, directory=made.partial_name, uuid=made.uuid.hex, digest=made.digest,
        first_row=min(segment.first_row for segment in segments),
        row_end=max(segment.row_end for segment in segments),
        last_lsn=segments[-1].last_lsn, commits=content.commits,
        records_bytes=made.records_bytes, vectors_bytes=made.vectors_bytes,
    )  # fmt: skip


def test_lost_rows_beyond_a_bound_are_nobodys():
    ordinals = memoryview(np.array([1, 4, 5, 9], np.uint32).tobytes())
    sections = {sf.LOST_VECTORS: ordinals, sf.LOST_METADATA: ordinals, 99: memoryview(b"later")}
    cut = segment_bounds.bound_rows(sections, 5)
    assert np.frombuffer(cut[sf.LOST_VECTORS], np.uint32).tolist() == [1, 4]
    assert np.frombuffer(cut[sf.LOST_METADATA], np.uint32).tolist() == [1, 4]
    assert cut[99] == b"later"


def test_a_cut_that_is_not_made_is_noticed(monkeypatch):
    monkeypatch.setattr("dvecdb.engine.segment.bound_commits", lambda sections, *_: sections)
    settings = Settings(
        bulk_bytes=10_000, flush_bytes=1_000_000, flush_commits=1_000, ballast_bytes=0,
        low_water_bytes=0, idle_marker_ms=0,
    )  # fmt: skip
    with pytest.raises((AssertionError, IndexError)):
        for seed in range(50):
            database, collection = written(seed, SMALL, settings, calls=20)
            with database:
                check_bounds(collection, SMALL, Random(seed))


# --- rows that were dropped -----------------------------------------------------------------------

WINDOW = Settings(
    bulk_bytes=4_000, flush_bytes=1_000_000, flush_commits=1_000, merge_bytes=1, history_hours=1,
    ballast_bytes=0, low_water_bytes=0, idle_marker_ms=0,
)  # fmt: skip
COUNT = 5_000


def shrunk(keep=lambda number: number % 3 == 0, disk=None):
    """Return a collection of one bulk batch of which most rows were deleted, and dropped."""
    clock, disk = ManualClock(), disk or MemoryDisk()
    database = Database("d", files=disk, clock=clock, settings=WINDOW, background=False)
    books = database.create_collection("books", dimension=16, metric="euclidean")
    vectors = np.random.default_rng(7).normal(size=(COUNT, 16)).astype(np.float32)
    ids = [f"id {number}" for number in range(COUNT)]
    books.upsert(ids, vectors, [{"n": number} for number in range(COUNT)])
    books.delete([text for number, text in enumerate(ids) if not keep(number)], confirm=True)
    books.flush()
    return database, books, vectors, clock, disk


def size_of(books):
    return sum(item.entry.vectors_bytes for item in books._store.view.segments)


def test_rows_past_the_window_go_and_everything_else_reads_as_before():
    database, books, vectors, clock, disk = shrunk()
    before = [(hit.id, hit.distance, hit.metadata) for hit in books.search(vectors[5], limit=50)]
    scanned = [shown(record) for record in books.scan(with_vectors=True)]
    held, size = books.snapshot(as_of=1), size_of(books)
    clock.advance(3601)
    books.upsert(["new"], [[9.0] * 16])
    books.delete(["new"])
    books.flush()
    assert size_of(books) < 0.4 * size
    (sparse,) = [item for item in books._store.view.segments if item.row_numbers is not None]
    assert (sparse.rows, sparse.row_end - sparse.first_row) == (-(-COUNT // 3), COUNT)
    assert held.count() == COUNT
    assert held.get(["id 1"])[0].vector.tobytes() == vectors[1].tobytes()
    for _ in range(2):
        books = database.collection("books")
        assert books.stats().horizon_lsn == 2
        assert books.get(["id 1", "id 4998"])[0] is None
        after = books.search(vectors[5], limit=50)
        assert [(hit.id, hit.distance, hit.metadata) for hit in after] == before
        assert [shown(record) for record in books.scan(with_vectors=True)] == scanned
        assert books.count(where={"n": 4998}) == 1
        assert books.verify().ok
        database.close()
        database = Database("d", files=disk, clock=clock, settings=WINDOW, background=False)
    database.close()


def test_a_bulk_segment_may_lose_all_its_rows():
    database, books, vectors, clock, disk = shrunk(keep=lambda _: False)
    clock.advance(3601)
    books.upsert(["id 1"], vectors[:1])
    books.flush()
    assert size_of(books) == 64
    for _ in range(2):
        books = database.collection("books")
        assert [record.id for record in books.scan()] == ["id 1"]
        assert [record.id if record else None for record in books.get(["id 2", "id 1"])] == [
            None, "id 1",
        ]  # fmt: skip
        assert books.search(vectors[0], limit=3)[0].id == "id 1"
        database.close()
        database = Database("d", files=disk, clock=clock, settings=WINDOW, background=False)
    database.close()


def test_damage_in_a_segment_with_gaps_names_its_rows_and_is_never_rewritten():
    database, books, vectors, clock, disk = shrunk()
    clock.advance(3601)
    books.upsert(["new"], [[9.0] * 16])
    books.flush()
    (sparse,) = [item for item in books._store.view.segments if item.row_numbers is not None]
    path = f"d/collections/books/segments/{sparse.entry.directory}/vectors.bin"
    database.close()
    data = bytearray(disk.read_path(path))
    data[-1] ^= 1
    disk.damage(path, bytes(data))
    with Database("d", files=disk, clock=clock, settings=WINDOW, background=False) as database:
        books = database.collection("books")
        assert books.get(["id 0"])[0].vector.tobytes() == vectors[0].tobytes()
        with pytest.raises(DvecdbError) as caught:
            books.get(["id 4998"])
        assert caught.value.code is Code.DAMAGED_DATA
        hits = books.search(vectors[4998], limit=3, on_damage="exclude")
        assert "id 4998" in hits.excluded
        assert "id 1" not in hits.excluded
        (finding,) = [item for item in books.findings() if item.code == "block-damaged"]
        assert finding.lost is not None
        assert finding.lost.endswith(".. 4998")
        books.delete([f"id {number}" for number in range(0, 3000, 3)], confirm=True)
        clock.advance(7200)
        books.flush()
        assert sparse.entry in books._store.manifest.segments


def test_an_lsn_behind_the_horizon_is_no_condition_that_can_be_told():
    database, books, vectors, clock, _ = shrunk()
    with database:
        clock.advance(3601)
        for number in range(5):
            books.upsert(["other"], [[float(number)] * 16])
        books.flush()
        assert books.stats().horizon_lsn == 2
        with pytest.raises(DvecdbError) as caught:
            books.upsert(["id 1"], vectors[:1], if_lsn=1)
        assert caught.value.code is Code.CONDITION_FAILED
        books.upsert(["id 1"], vectors[:1], if_lsn=0)  # as new as can be told
        books.upsert(["id 2"], vectors[:1], if_lsn=2)
        with pytest.raises(DvecdbError) as caught:
            books.upsert(["id 0"], vectors[:1], if_lsn=0)
        assert caught.value.code is Code.CONDITION_FAILED


def test_time_alone_makes_the_background_let_go():
    database, books, _, clock, _ = shrunk()
    with database:
        size = size_of(books)
        tend(books._store)
        assert size_of(books) == size
        clock.advance(3601)
        tend(books._store)
        assert size_of(books) < 0.4 * size
        books.delete([f"id {number}" for number in range(0, COUNT, 3)], confirm=True)
        clock.advance(3601)
        tend(books._store)  # that delete was in memory only
        assert (size_of(books), books.count()) == (0, 0)


def test_a_collection_may_have_its_own_window():
    database, books, _, clock, _ = shrunk()
    with database:
        size = size_of(books)
        books.configure({"history_hours": 3})
        clock.advance(3601)
        tend(books._store)
        assert size_of(books) == size
        clock.advance(2 * 3600)
        tend(books._store)
        assert size_of(books) < 0.4 * size


def test_a_reader_that_looked_just_before_reads_right_and_one_after_is_refused(monkeypatch):
    database, books, vectors, clock, _ = shrunk()
    with database:
        clock.advance(3601)
        resolve = type(books)._resolve

        def late(self, *arguments):
            monkeypatch.undo()
            lsn = resolve(self, *arguments)
            tend(self._store)  # the horizon is raised between the look and the read
            return lsn

        monkeypatch.setattr(type(books), "_resolve", late)
        snapshot = books.snapshot(as_of=1)
        assert books.stats().horizon_lsn == 2
        assert snapshot.count() == COUNT
        assert snapshot.get(["id 1"])[0].vector.tobytes() == vectors[1].tobytes()
        with pytest.raises(DvecdbError) as caught:
            books.snapshot(as_of=1)
        assert caught.value.code is Code.AS_OF_UNREADABLE


def test_the_background_thread_lets_go_as_time_passes():
    clock, disk = ManualClock(), MemoryDisk()
    database = Database("d", files=disk, clock=clock, settings=replace(WINDOW, tend_seconds=1))
    with database:
        books = database.create_collection("books", dimension=16)
        books.upsert([f"id {number}" for number in range(COUNT)], np.ones((COUNT, 16)))
        books.delete([f"id {number}" for number in range(COUNT)], confirm=True)
        clock.advance(3601)
        deadline = threading.Event()
        for _ in range(100):
            if not size_of(books):
                break
            deadline.wait(0.1)
        assert size_of(books) == 0


@pytest.mark.parametrize("dense", [True, False])
def test_ends_of_rows_that_are_not_there_are_ignored(dense):
    database, books, _, clock, _ = shrunk()
    with database:
        if not dense:
            clock.advance(3601)
            tend(books._store)
        (segment,) = books._store.view.row_segments
        before = segment.ends.copy(), segment.ended_count
        segment.apply_ends(np.array([0, COUNT + 5, 3], np.uint64), np.array([8, 9, 8], np.uint64))
        changed = np.flatnonzero(segment.ends != before[0])
        assert segment.rows_at(changed).tolist() == [0, 3]
        assert segment.ended_count == before[1] + 2
