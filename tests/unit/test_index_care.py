"""The index in all its states: due, made, failed, saved, lost, spoiled, waited for, in the way."""

import os
import shutil
import threading
import time
from uuid import UUID

import faiss
import msgspec
import numpy as np
import pytest

from dvecdb import Database, Settings
from dvecdb.engine import index_build, index_care, nearest
from dvecdb.engine.collection import Collection
from dvecdb.engine.indexer import Indexer
from dvecdb.errors import Code, DvecdbError, HandleError
from dvecdb.formats.index_file import decode_index, encode_index
from dvecdb.media.files import OsFiles
from dvecdb.testing.clocks import ManualClock

SETTINGS = {
    "index_rows_min": 300, "flush_bytes": 1 << 30, "bulk_bytes": 1 << 30, "ballast_bytes": 0,
    "low_water_bytes": 0, "guard_percent": 100, "settle_seconds": 0,
}  # fmt: skip
DIMENSION = 8


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(nearest, "_EXACT_BYTES", 0)
    monkeypatch.setattr(nearest, "_SCATTERED", 0)
    monkeypatch.setattr(index_care, "_STEP_BYTES", 1)
    monkeypatch.setattr(index_build, "_BASE_STEP", 100)


def open_at(path, *, background=False, read_only=False, **settings):
    return Database(
        str(path), background=background, read_only=read_only,
        settings=Settings(**{**SETTINGS, **settings}),
    )  # fmt: skip


def rows(count, seed=0, dimension=DIMENSION):
    return np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)


def names(count, first=0):
    return [f"id {number}" for number in range(first, first + count)]


def filled(database, count=400, name="docs", **schema):
    docs = database.create_collection(name, dimension=DIMENSION, **schema)
    docs.upsert(names(count), rows(count))
    return docs


def plan(docs, query=None, **options):
    query = rows(1, 99)[0] if query is None else query
    return docs.search(query, explain=True, **options).explained.plan


def codes_of(docs):
    return {finding.code for finding in docs.findings()}


def index_files(path, name="docs"):
    return sorted((path / "collections" / name / "derived").glob("*index-*"))


def check_exact_enough(docs, query=None, recall=0.9):
    query = rows(1, 98)[0] if query is None else query
    expected, found = docs.search(query, recall=1.0), docs.search(query)
    assert len(found) == len(expected)
    near = [hit for hit in found if hit.distance <= expected[-1].distance]
    assert len(near) >= recall * len(expected)


# --- when it is made ------------------------------------------------------------------------------


def test_it_is_made_from_the_bound_on_and_not_before(tmp_path):
    with open_at(tmp_path) as database:
        docs = filled(database, 299)
        assert (docs.wait_for_index(60).state, plan(docs)) == ("none", "exact")
        docs.upsert(["one more"], rows(1, 1))
        assert docs.stats().index.state == "ready"
        assert docs.stats().index.rows_done == 300
        assert plan(docs) == "index"


def pause(docs, clock):
    clock.advance(0.25)


def go_on_for_long(docs, clock):
    for number in range(21):
        assert docs.stats().index.rows_done == 0
        docs.upsert([f"more {number}"], rows(1, number))
        clock.advance(0.1)


def search(docs, clock):
    assert plan(docs) == "exact"


def wait(docs, clock):
    assert docs.wait_for_index(60).state == "ready"


@pytest.mark.parametrize("until", [pause, go_on_for_long, search, wait])
def test_who_writes_and_does_not_search_has_the_processors(tmp_path, until):
    clock = ManualClock()
    settings = Settings(**SETTINGS)
    with Database(str(tmp_path), settings=settings, clock=clock) as database:
        docs = filled(database)
        time.sleep(0.2)  # some looks of the thread
        assert (docs.stats().index.state, docs.stats().index.rows_done) == ("building", 0)
        until(docs, clock)
        for _ in range(600):
            if docs.stats().index.state == "ready":
                break
            time.sleep(0.1)
        assert docs.stats().index.rows_done >= 400
    with Database(str(tmp_path), settings=settings, clock=clock) as database:
        docs = database.collection("docs")
        docs.upsert(names(100, 400), rows(100, 1))
        time.sleep(0.2)
        assert docs.stats().index.rows_done == 0
        clock.advance(0.25)
        assert docs.wait_for_index(60).rows_done >= 500


def test_it_is_never_made_or_used_where_it_is_not_wanted(tmp_path):
    with open_at(tmp_path) as database:
        filled(database).flush()
        database.collection("docs").wait_for_index()
        assert index_files(tmp_path)
    with open_at(tmp_path, index_rows_min=0) as database:
        docs = database.collection("docs")
        docs.upsert(names(100, 400), rows(100, 1))
        assert (docs.wait_for_index(60).state, plan(docs)) == ("none", "exact")


def test_dead_rows_do_not_count(tmp_path):
    with open_at(tmp_path) as database:
        docs = database.create_collection("docs", dimension=DIMENSION)
        for seed in range(4):
            docs.upsert(names(200), rows(200, seed))
        assert docs.wait_for_index(60).state == "none"
        docs.upsert(names(200, 200), rows(200, 9))
        assert docs.stats().index.state == "ready"


def test_dead_rows_take_no_places_of_live_ones_where_they_lie_nearest(tmp_path):
    with open_at(tmp_path) as database:
        docs, query = filled(database), rows(1, 5)[0]
        near = [hit.id for hit in docs.search(query, limit=70, recall=1.0)]
        docs.delete(near)
        assert plan(docs, query) == "index"
        check_exact_enough(docs, query)


def test_a_collection_that_is_rewritten_all_the_time_is_not_indexed_anew_all_the_time(
    tmp_path, monkeypatch
):
    built, build = [], index_care.build

    def noted(*arguments):
        built.append(1)
        return build(*arguments)

    monkeypatch.setattr(index_care, "build", noted)
    with open_at(tmp_path, history_hours=0, flush_bytes=4_000, merge_bytes=1 << 20) as database:
        docs = filled(database)
        for seed in range(40):
            docs.upsert(names(100, 100 * (seed % 4)), rows(100, seed))
        assert docs.stats().rows == 4_400
        assert 2 <= len(built) <= 16
        assert docs.stats().index.rows_done == 4_400
        check_exact_enough(docs)


def test_rows_kept_for_history_do_not_make_it_anew_at_every_step(tmp_path, monkeypatch):
    built, build = [], index_care.build
    monkeypatch.setattr(index_care, "build", lambda *one: built.append(1) or build(*one))
    with open_at(tmp_path) as database:
        docs = filled(database)
        docs.upsert(names(400), rows(400, 1))
        docs.delete(names(90))
        for seed in range(6):
            docs.upsert(names(70, 1_000), rows(70, seed))
        assert len(built) == 1
        assert codes_of(docs) == set()
        check_exact_enough(docs)


def test_rows_in_memory_join_the_base_and_are_saved_once_they_are_flushed(tmp_path):
    with open_at(tmp_path) as database:
        docs = filled(database)
        assert index_files(tmp_path) == []
        docs.flush()
        assert docs.wait_for_index().state == "ready"
        assert len(index_files(tmp_path)) == 1
    with open_at(tmp_path) as database:
        docs = database.collection("docs")
        assert docs.stats().index.rows_done == 400
        assert plan(docs) == "index"


def test_one_that_grew_fourfold_is_made_anew_and_replaces_the_file(tmp_path):
    with open_at(tmp_path) as database:
        docs = filled(database)
        docs.flush()
        docs.wait_for_index()
        first = index_files(tmp_path)
        trained = docs._store.index.trained_rows
        docs.upsert(names(1_300, 400), rows(1_300, 5))
        docs.flush()
        docs.wait_for_index()
        assert docs._store.index.trained_rows > trained
        assert len(index_files(tmp_path)) == 1
        assert index_files(tmp_path) != first


def test_a_state_of_the_past_is_not_searched_by_an_index_that_lacks_its_rows(tmp_path, monkeypatch):
    """A compaction and a new index come between two looks at the state that is asked for."""
    clock = ManualClock()
    settings = Settings(**{**SETTINGS, "history_hours": 1, "merge_count": 2})
    with Database(str(tmp_path), background=False, clock=clock, settings=settings) as database:
        docs = filled(database)
        docs.flush()
        past = docs.snapshot().lsn
        expected = [hit.id for hit in docs.search(rows(1, 9)[0], recall=1.0)]
        resolve = Collection._resolve

        def slowly(collection, *arguments):
            found = resolve(collection, *arguments)
            if docs.stats().rows == 400:
                for seed in range(1, 6):
                    docs.upsert(names(250), rows(250, seed))
                    docs.flush()
                    clock.advance(2 * 3_600)
                docs.flush()
                docs.wait_for_index()
            return found

        monkeypatch.setattr(Collection, "_resolve", slowly)
        snapshot = docs.snapshot(as_of=past)
        assert docs._store.index.places.row_numbers is not None
        assert docs.stats().horizon_lsn > past
        assert [hit.id for hit in snapshot.search(rows(1, 9)[0], recall=1.0)] == expected
        assert [hit.id for hit in snapshot.search(rows(1, 9)[0])] == expected


# --- who waits ------------------------------------------------------------------------------------


def waited(docs):
    started = time.monotonic()
    found = docs.wait_for_index(30)
    assert time.monotonic() - started < 10
    return found


def test_who_holds_maintenance_up_is_not_waited_for(tmp_path):
    with open_at(tmp_path) as database:
        docs = filled(database)
        docs.flush()
        step = threading.Thread(target=index_care.tend_index, args=(docs._store,), daemon=True)
        with docs._store.maintenance_lock:
            step.start()
            docs.tag("now")  # a commit, after which there is a look at the index
        step.join(60)
        assert not step.is_alive()
        docs.wait_for_index(60)
        assert index_files(tmp_path)


def test_its_file_takes_no_room_that_records_may_need(tmp_path, monkeypatch):
    with open_at(tmp_path) as database:
        monkeypatch.setattr(OsFiles, "free_bytes", lambda *_: 1_000)
        docs = filled(database)
        docs.flush()
        assert (docs.wait_for_index(60).state, index_files(tmp_path)) == ("ready", [])
        monkeypatch.undo()
        docs.wait_for_index(60)
        assert index_files(tmp_path)


def test_waiting_ends_in_every_state(tmp_path, monkeypatch):
    with open_at(tmp_path) as database:
        filled(database).flush()
        waited(database.collection("docs"))
    for path in index_files(tmp_path):
        path.unlink()
    with open_at(tmp_path, read_only=True) as database:
        assert waited(database.collection("docs")).state == "none"
    with open_at(tmp_path) as database:  # nobody wrote, and there is no thread to do it
        assert waited(database.collection("docs")).state == "ready"
    with open_at(tmp_path) as database:
        docs = database.collection("docs")
        docs._store.stop_writes(HandleError(Code.FENCED, "a test"))
        assert waited(docs).state == "ready"
    with open_at(tmp_path, background=True) as database:
        docs = database.collection("docs")
        docs.upsert(names(100, 400), rows(100, 1))
        assert waited(docs).rows_done == 500
        monkeypatch.setattr(index_care, "grow", refuse)
        docs.upsert(names(100, 500), rows(100, 2))
        assert waited(docs).rows_to_do == 100
    with pytest.raises(HandleError):
        docs.wait_for_index()


def test_who_waits_is_told_when_the_database_closes(tmp_path, monkeypatch):
    held, told = threading.Event(), []

    def slow(view, schema, row_limit, tick):
        while not held.wait(0.01):
            tick(0)

    monkeypatch.setattr(index_care, "build", slow)
    database = open_at(tmp_path, background=True)
    docs = filled(database)

    def wait():
        with pytest.raises(HandleError) as caught:
            docs.wait_for_index(60)
        told.append(caught.value.code)

    thread = threading.Thread(target=wait)
    thread.start()
    while not docs._store.indexing.progress.is_building:
        time.sleep(0.01)
    database.close()  # gives up what is being made
    thread.join(10)
    assert told == [Code.HANDLE_CLOSED]


@pytest.mark.parametrize("way", ["trash", "hard"])
def test_a_collection_goes_while_its_index_is_made(tmp_path, monkeypatch, way):
    seen, gone, build = threading.Event(), threading.Event(), index_care.build

    def slow(view, schema, row_limit, tick):
        seen.set()
        gone.wait(30)
        return build(view, schema, row_limit, tick)

    monkeypatch.setattr(index_care, "build", slow)
    with open_at(tmp_path, background=True) as database:
        filled(database)
        filled(database, name="other")
        assert seen.wait(30)
        if way == "trash":
            database.delete_collection("docs")
        else:
            database.hard_delete("docs")
            assert not (tmp_path / "collections" / "docs").exists()
        gone.set()
        assert database.collection("other").wait_for_index(30).state == "ready"
        if way == "trash":
            database.restore(database.trash()[0].name)
            docs = database.collection("docs")
            assert docs.wait_for_index(30).rows_done == 400
            check_exact_enough(docs)
        assert database.findings() == []


# --- what fails -----------------------------------------------------------------------------------


def refuse(*_):
    raise MemoryError("a test")


@pytest.mark.parametrize("background", [False, True])
def test_what_fails_is_named_tried_again_later_and_forgotten(tmp_path, monkeypatch, background):
    tries = []

    def failing(*_):
        tries.append(1)
        raise RuntimeError("a test")

    with open_at(tmp_path, background=background) as database:
        with monkeypatch.context() as broken:
            broken.setattr(index_care, "build", failing)
            docs = filled(database)
            assert waited(docs).state == "none"
            for number in range(20):
                docs.upsert([f"more {number}"], rows(1, number))
            waited(docs)
            assert tries == [1]
            assert codes_of(docs) == {"index-failed"}
            check_exact_enough(docs, recall=1.0)
        docs.upsert(names(200, 400), rows(200, 1))
        assert waited(docs).state == "ready"
        assert plan(docs) == "index"
        assert codes_of(docs) == set()


def test_a_growth_that_fails_leaves_the_rest_to_be_measured(tmp_path, monkeypatch):
    with open_at(tmp_path) as database:
        docs = filled(database)
        with monkeypatch.context() as broken:
            broken.setattr(index_care, "grow", refuse)
            docs.upsert(names(100, 400), rows(100, 1))
            assert codes_of(docs) == {"index-failed"}
            check_exact_enough(docs, rows(100, 1)[7])
            assert docs.search(rows(100, 1)[7], limit=1)[0].id == "id 407"
        docs.upsert(names(150, 500), rows(150, 2))
        assert docs.wait_for_index().rows_to_do == 0
        assert codes_of(docs) == set()


def test_the_thread_survives_whatever_is_raised_in_it(tmp_path, monkeypatch):
    with open_at(tmp_path, background=True) as database:
        for number, error in enumerate((ValueError, KeyError, MemoryError, AssertionError)):
            with monkeypatch.context() as broken:
                broken.setattr(
                    index_care, "_save", lambda *_, error=error: raising(error("a test"))
                )
                docs = filled(database, name=f"docs{number}")
                docs.flush()
                waited(docs)
                while "index-failed" not in codes_of(docs):
                    time.sleep(0.01)
        docs = filled(database, name="last")
        assert waited(docs).state == "ready"
        assert isinstance(database._indexer, Indexer)
        assert database._indexer._thread.is_alive()


def raising(error):
    raise error


def test_who_has_no_right_to_write_writes_no_index(tmp_path, monkeypatch):
    with open_at(tmp_path) as database:
        docs = filled(database)
        docs.flush()
        fenced = HandleError(Code.FENCED, "a test")
        monkeypatch.setattr(database._writer, "check", lambda: raising(fenced))
        assert not index_care.tend_index(docs._store)
        assert index_files(tmp_path) == []
        assert codes_of(docs) == set()  # the next write says so
        check_exact_enough(docs)


def test_the_threads_of_the_caller_are_as_they_were(tmp_path):
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        with open_at(tmp_path) as database:
            docs = filled(database)
            docs.search_batch(rows(9, 5))
            assert docs.stats().index.state == "ready"
            assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)


# --- the file -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(index_care, "_STEP_BYTES", 1)
    patch.setattr(index_build, "_BASE_STEP", 100)
    path = tmp_path_factory.mktemp("saved") / "data"
    with open_at(path) as database:
        for name in ("docs", "other"):
            docs = filled(database, name=name)
            docs.flush()
            docs.wait_for_index()
            docs.upsert(names(20, 400), rows(20, 7))
    patch.undo()
    return path


def changed(data, **parts):
    """An index file with other fields, and a checksum that fits."""
    stored = decode_index(memoryview(data))
    header = {key: value for key, value in parts.items() if key in stored.header.__struct_fields__}
    outer = {key: value for key, value in parts.items() if key not in header}
    stored = type(stored)(
        **{name: getattr(stored, name) for name in stored.__slots__}
        | outer
        | {"header": msgspec.structs.replace(stored.header, **header)}
    )
    return b"".join(map(bytes, encode_index(stored)))


SPOILED = {
    "empty": lambda data: b"",
    "cut in its head": lambda data: data[:40],
    "cut in its codes": lambda data: data[:-200],
    "cut by a byte": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "zeros": lambda data: bytes(len(data)),
    "no efforts": lambda data: changed(data, efforts=[]),
    "codes of nothing": lambda data: changed(data, codes=np.zeros(64, np.uint8)),
    "codes cut": lambda data: changed(data, codes=decode_index(memoryview(data)).codes[:500]),
    "other components": lambda data: changed(data, metric="dot_product"),
    "more rows than it says": lambda data: changed(data, row_end=500),
}
STRANGE = {  # sound, and not of this collection
    "of another collection": lambda data: changed(data, collection_uuid=UUID(int=5)),
    "of another lineage": lambda data: changed(data, lineage=UUID(int=5)),
    "of another dimension": lambda data: changed(data, dimension=9),
    "of a later horizon": lambda data: changed(data, horizon_lsn=1),
    "of another type": lambda data: changed(data, vector_type="int8"),
}
SPOILED["other components"] = lambda data: changed(
    data, codes=faiss.serialize_index(faiss.index_factory(9, "IVF4,SQ8"))
)


def look_at(path, expected):
    for read_only in (True, False):
        with open_at(path, read_only=read_only) as database:
            docs = database.collection("docs")
            assert codes_of(docs) == expected
            assert docs.count() == 420
            assert docs.search(rows(20, 7)[3], limit=1)[0].id == "id 403"
            check_exact_enough(docs)
            if not read_only:
                assert docs.wait_for_index().state == "ready"
                assert plan(docs) == "index"
                check_exact_enough(docs)
            assert docs.verify().ok == (not expected)
    with open_at(path) as database:
        assert database.findings() == []
        assert plan(database.collection("docs")) == "index"


@pytest.mark.parametrize("how", [*SPOILED, *STRANGE])
def test_a_spoiled_or_strange_file_is_made_again(saved, tmp_path, how):
    path = tmp_path / "data"
    shutil.copytree(saved, path)
    (file,) = index_files(path)
    data = file.read_bytes()
    file.unlink()
    file.write_bytes((SPOILED | STRANGE)[how](data))
    look_at(path, {"derived-damaged"} if how in SPOILED else set())


def test_a_flipped_bit_anywhere_in_it_is_noticed(saved, tmp_path):
    path = tmp_path / "data"
    shutil.copytree(saved, path)
    (file,) = index_files(path)
    data, random = file.read_bytes(), np.random.default_rng(1)
    offsets = {*range(64), *random.integers(64, len(data), 60), len(data) - 8, len(data) - 1}
    file.chmod(0o600)
    for offset in sorted(offsets):
        flipped = bytearray(data)
        flipped[offset] ^= 1 << int(random.integers(8))
        file.write_bytes(flipped)
        with open_at(path, read_only=True) as database:
            assert codes_of(database.collection("docs")) == {"derived-damaged"}
            assert database.collection("docs").stats().index.state == "none"
    file.write_bytes(data)
    with open_at(path, read_only=True) as database:
        assert database.findings() == []
        assert database.collection("docs").stats().index.rows_done == 400


def test_the_file_of_another_collection_is_not_used(saved, tmp_path):
    path = tmp_path / "data"
    shutil.copytree(saved, path)
    (file,), (other,) = index_files(path), index_files(path, "other")
    file.unlink()
    shutil.copy(other, file)
    look_at(path, set())


def test_one_that_covers_more_rows_than_there_are_is_deleted(saved, tmp_path):
    path = tmp_path / "data"
    shutil.copytree(saved, path)
    (file,) = index_files(path)
    claim = file.with_name(file.name.replace("0000000400", "0000000900"))
    file.rename(claim)
    look_at(path, set())
    assert not claim.exists()


def test_a_file_that_vanishes_is_made_again(saved, tmp_path):
    path = tmp_path / "data"
    shutil.copytree(saved, path)
    shutil.rmtree(path / "collections" / "docs" / "derived")
    look_at(path, set())


def test_clones_and_backups_have_an_index_of_their_own(saved, tmp_path):
    path = tmp_path / "data"
    shutil.copytree(saved, path)
    with open_at(path) as database:
        docs = database.collection("docs")
        backup = docs.backup(reason="a test")
        docs.clone("copy")
        copy = database.collection("copy")
        assert not list((path / ".backups").rglob("*.ivf"))
        assert index_files(path, "copy") == []
        assert copy.wait_for_index().state == "ready"
        assert database.verify_backup(backup.name).ok
        check_exact_enough(copy)
        database.restore(backup.name, "restored")
        restored = database.collection("restored")
        restored.wait_for_index()
        assert plan(restored) == "index"
        check_exact_enough(restored)
        database.delete_collection("docs")
        database.purge(0)
        assert database.findings() == []


# --- what is in the rows --------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "manhattan", "dot_product"])
@pytest.mark.parametrize("dimension", [1, 8, 129])
@pytest.mark.parametrize("kind", ["equal", "zeros", "duplicates", "huge", "tiny", "some huge"])
def test_odd_rows_are_all_found(tmp_path, metric, dimension, kind):
    vectors = rows(600, 3, dimension)
    match kind:
        case "equal":
            vectors[:] = vectors[0]
        case "zeros":
            vectors[100:] = 0
        case "duplicates":
            vectors[100:] = vectors[7]
        case "huge":
            vectors *= np.float32(1e30)
        case "tiny":
            vectors *= np.float32(1e-30)
        case "some huge":
            vectors[::9] *= np.float32(1e30)
    with open_at(tmp_path) as database:
        docs = database.create_collection("docs", dimension=dimension, metric=metric)
        docs.upsert(names(600), vectors)
        docs.flush()
        docs.wait_for_index()
        expected = {"index-failed"} if kind == "huge" and metric != "cosine" else set()
        assert codes_of(docs) <= expected
        for query in (
            vectors[7],
            vectors[500],
            np.zeros(dimension, np.float32),
            rows(1, 4, dimension)[0],
        ):
            hits, exact = docs.search(query), docs.search(query, recall=1.0)
            assert len(hits) == len(exact) == 10
            assert hits[0].distance >= exact[0].distance
            if kind != "tiny":
                assert hits[0].distance == exact[0].distance


def test_rows_that_are_longer_than_those_before_are_found_by_their_product(tmp_path):
    with open_at(tmp_path) as database:
        docs = filled(database, 1_000, metric="dot_product")
        docs.upsert(names(80, 1_000), 30 * rows(80, 8))
        assert docs.wait_for_index().rows_to_do == 0
        for seed in range(20):
            check_exact_enough(docs, rows(1, 50 + seed)[0], recall=1.0)
        docs.flush()
        docs.wait_for_index()
    with open_at(tmp_path) as database:
        check_exact_enough(database.collection("docs"), recall=1.0)


# --- damage ---------------------------------------------------------------------------------------


def spoil_vectors(path, row, *, dimension=DIMENSION):
    (file,) = (path / "collections" / "docs" / "segments").glob("*/vectors.bin")
    file.chmod(0o600)
    data = bytearray(file.read_bytes())
    data[row * 4 * dimension] ^= 64
    file.write_bytes(data)


@pytest.fixture
def blocks(tmp_path):
    """A collection of several blocks with an index; the path, and how many rows a block has."""
    dimension = 1_024
    with open_at(tmp_path) as database:
        docs = database.create_collection("docs", dimension=dimension)
        vectors = rows(400, 0, dimension)
        vectors[300:] = 0
        docs.upsert(names(400), vectors)
        docs.flush()
        docs.wait_for_index()
        (segment,) = docs._store.view.segments
        return tmp_path, vectors, segment._block_rows


def test_damage_after_the_index_was_made_is_noticed_where_it_might_be_served(blocks):
    path, vectors, block = blocks
    spoil_vectors(path, 5, dimension=1_024)
    with open_at(path) as database:
        docs = database.collection("docs")
        with pytest.raises(DvecdbError) as caught:
            docs.search(vectors[5], limit=1)
        assert caught.value.code is Code.DAMAGED_DATA
        assert "id 5" in caught.value.details["ids"]
        hits = docs.search(vectors[5], on_damage="exclude")
        assert "id 5" in hits.excluded
        assert not {hit.id for hit in hits} & set(hits.excluded)
        with pytest.raises(DvecdbError):  # all rows are measured, and this is one of them
            docs.search(vectors[350], limit=1, recall=1.0)
        assert len(docs.search(vectors[200], on_damage="exclude", recall=1.0).excluded) == block
        assert codes_of(docs) == {"block-damaged"}


def test_zero_rows_that_were_damaged_are_not_served(blocks):
    path, _, _ = blocks
    spoil_vectors(path, 399, dimension=1_024)
    query = np.zeros(1_024, np.float32)
    query[0] = 1e-6
    with open_at(path) as database:
        docs = database.collection("docs")
        with pytest.raises(DvecdbError):
            docs.search(query, limit=400, recall=1.0)
        for limit in (60, 90):
            hits = docs.search(
                query, limit=limit, on_damage="exclude", with_vectors=True, ef_search=1
            )
            assert len(hits) == limit
            assert all(np.abs(hit.vector).max() < 10 for hit in hits)
            assert not {hit.id for hit in hits} & set(hits.excluded)


@pytest.mark.parametrize("healed", [False, True])
def test_rows_that_were_damaged_before_are_named_until_they_can_be_read(blocks, healed):
    path, vectors, block = blocks
    for file in index_files(path):
        file.unlink()
    spoil_vectors(path, 5, dimension=1_024)
    with open_at(path) as database:
        docs = database.collection("docs")
        assert docs.wait_for_index().state == "ready"
        assert docs._store.index.apart.tolist() == list(range(block))
        assert index_files(path)
    if healed:  # it was the disk that failed for a moment
        spoil_vectors(path, 5, dimension=1_024)
    with open_at(path) as database:
        docs = database.collection("docs")
        if healed:
            assert docs.search(vectors[5], limit=1)[0].id == "id 5"
            return
        with pytest.raises(DvecdbError):
            docs.search(vectors[200], limit=1)
        hits = docs.search(vectors[200], limit=1, on_damage="exclude")
        assert hits[0].id == "id 200"
        assert len(hits.excluded) == block
        docs.delete(names(block))
        assert docs.search(vectors[200], limit=1)[0].id == "id 200"


def test_an_index_of_a_read_only_handle_is_that_of_its_writer(tmp_path):
    clock = ManualClock()
    with Database(
        str(tmp_path), background=False, clock=clock, settings=Settings(**SETTINGS)
    ) as database:
        docs = filled(database)
        docs.flush()
        docs.wait_for_index()
        with open_at(tmp_path, read_only=True) as reader:
            assert plan(reader.collection("docs")) == "index"
            assert reader.findings() == []
            docs.upsert(names(2_000, 400), rows(2_000, 1))
            docs.flush()
            docs.wait_for_index()
            check_exact_enough(reader.collection("docs"))


def test_children_of_a_process_that_has_an_index_can_open_and_search(tmp_path):
    with open_at(tmp_path) as database:
        docs = filled(database)
        docs.flush()
        docs.wait_for_index()
        child = os.fork()
        if not child:
            try:
                with open_at(tmp_path, read_only=True) as mine:
                    check_exact_enough(mine.collection("docs"))
                    os._exit(0)
            finally:
                os._exit(1)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(0.02)
        else:
            os.kill(child, 9)
        assert (done, status) == (child, 0)
