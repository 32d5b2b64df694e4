"""Looking at a job, comparing, cleaning up: true to what a run does, and harmless."""

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.embedding.lists import (
    COLLECTION,
    HashEmbedder,
    ListSource,
    check_lists,
    counts_of,
    delete_lists,
    job_of,
    records,
    run_lists,
    standing_in,
    vector_of,
)

import dvecdb
from dvecdb.embedding.care import delete_missing, estimate_job, status, wish
from dvecdb.embedding.events import Paused, Resumed
from dvecdb.embedding.identity import Made, row_id
from dvecdb.errors import Code, ConflictError, NotFoundError


@pytest.fixture
def database(tmp_path):
    with dvecdb.open(tmp_path / "data") as database:
        yield database


def rows(count):
    return {n: (f"text {n}", {"n": n}, n) for n in range(1, count + 1)}


def estimate_lists(database, source, job=None):
    with standing_in({"list": source}):
        return estimate_job(job or job_of(), database, environment={})["list"]


def lsn_of(database):
    return database.collection(COLLECTION).snapshot().lsn


# --- what a run would do ------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    before=st.dictionaries(st.integers(1, 12), st.sampled_from([*"abcd", None]), max_size=10),
    after=st.dictionaries(st.integers(1, 12), st.sampled_from([*"abcdefg", None]), max_size=12),
    empty=st.sampled_from(["skip", "dead-letter"]),
)
def test_an_estimate_is_what_the_run_then_does(before, after, empty):
    with tempfile.TemporaryDirectory() as directory, dvecdb.open(directory) as database:
        job, embedder = job_of(text={"empty": empty}, page=4, ahead=4), HashEmbedder()
        run_lists(database, ListSource({k: (t, {}, 0) for k, t in before.items()}), embedder, job)
        source = ListSource({key: (text, {"k": key % 2}, 0) for key, text in after.items()})
        database.collection(COLLECTION).flush()
        lsn = lsn_of(database)
        found = estimate_lists(database, source, job)
        assert lsn_of(database) == lsn
        cursor = run_lists(database, source, embedder, job).sources["list"]
        assert (found.rows, found.texts) == (cursor.cursor, cursor.embedded)
        for name in ("unchanged", "relabelled", "copied", "failed", "skipped"):
            assert getattr(found, name) == getattr(cursor, name), name


def test_an_estimate_of_a_collection_that_is_not_there_makes_none(database):
    found = estimate_lists(database, ListSource(rows(7)))
    assert (found.rows, found.texts) == (7, 7)
    assert database.collections() == []


# --- whether all is as it should be -------------------------------------------------------------


def test_verify_tells_missing_stale_orphaned_and_failed_apart(database):
    source, embedder = ListSource(rows(20)), HashEmbedder()
    embedder.refuses = {"text 20"}
    run_lists(database, source, embedder)
    collection = database.collection(COLLECTION)
    collection.delete([row_id("list", "1"), row_id("list", "2")])
    source.rows[3] = ("changed", {"n": 3}, 0)
    source.rows[4] = ("text 4", {"n": "changed"}, 0)
    source.rows[5] = (None, {}, 0)
    del source.rows[6]
    lsn = lsn_of(database)
    checked = check_lists(database, source)
    assert lsn_of(database) == lsn
    assert not checked.ok
    assert checked.counts == {"missing": 2, "stale": 2, "damaged": 0, "failed": 2, "orphaned": 1}
    assert checked.listed["missing"] == ["1", "2"]
    assert checked.listed["stale"] == ["3", "4"]
    assert checked.listed["failed"] == ["5", "20"]
    assert checked.listed["orphaned"] == [row_id("list", "6")]
    assert checked.good == checked.rows - 6 == 13


def test_records_of_somebody_else_are_neither_orphans_nor_in_the_way(database):
    source, embedder = ListSource(rows(10)), HashEmbedder()
    run_lists(database, source, embedder)
    collection = database.collection(COLLECTION)
    copied = Made("list", "3", "ab" * 16).into({})
    vectors = np.stack([vector_of(text) for text in "abc"])
    ids = ["mine", "not a uuid", row_id("other", "3")]
    collection.upsert(ids, vectors, [{}, copied, Made("other", "3", "ab" * 16).into({})])
    assert check_lists(database, source).ok
    assert delete_lists(database, source) == []
    assert set(ids) <= records(database).keys()


# --- deleting what is gone ----------------------------------------------------------------------


def test_more_than_the_share_is_never_deleted_and_exactly_the_share_is(database):
    source, embedder = ListSource(rows(20)), HashEmbedder()
    run_lists(database, source, embedder)
    before = records(database)
    for key in (1, 2, 3):
        del source.rows[key]
    with pytest.raises(ConflictError) as caught:
        delete_lists(database, source)
    assert caught.value.code is Code.CONFIRMATION_NEEDED
    assert (caught.value.details["rows"], caught.value.details["total"]) == (3, 20)
    assert records(database) == before
    assert status(database, COLLECTION).running is None
    assert len(delete_lists(database, source, share_max=0.15)) == 3
    assert len(records(database)) == 17


def test_a_source_that_is_suddenly_empty_deletes_nothing(database):
    source, embedder = ListSource(rows(20)), HashEmbedder()
    run_lists(database, source, embedder)
    source.rows = {}
    with pytest.raises(ConflictError) as caught:
        delete_lists(database, source, share_max=0.99)
    assert caught.value.code is Code.CONFIRMATION_NEEDED
    assert len(records(database)) == 20


def test_one_source_over_its_share_keeps_the_rows_of_all(database):
    left, right, embedder = ListSource(rows(20)), ListSource(rows(20)), HashEmbedder()
    run_lists(database, {"left": left, "right": right}, embedder)
    del left.rows[1]
    right.rows = {1: right.rows[1]}
    with (
        standing_in({"left": left, "right": right}),
        pytest.raises(ConflictError) as caught,
    ):
        delete_missing(job_of(("left", "right")), database, environment={})
    assert caught.value.code is Code.CONFIRMATION_NEEDED
    assert len(records(database)) == 40


def test_what_was_deleted_is_gone_from_the_dead_letters_and_can_be_undone(database):
    source, embedder = ListSource(rows(20)), HashEmbedder()
    run_lists(database, source, embedder)
    source.rows[4] = (None, {}, 0)  # keeps its record, and is a dead letter
    run_lists(database, source, embedder)
    del source.rows[4], source.rows[5]
    gone = delete_lists(database, source)
    assert sorted(gone) == sorted([row_id("list", "4"), row_id("list", "5")])
    assert status(database, COLLECTION).dead_letters == []
    collection = database.collection(COLLECTION)
    collection.undo(to_lsn=collection.snapshot().lsn - 2)  # the deletion, and the lease
    assert set(gone) <= records(database).keys()


def test_nothing_is_deleted_while_a_job_runs(database):
    source, embedder = ListSource(rows(20)), HashEmbedder()
    run_lists(database, source, embedder)
    source.rows[21] = ("text 21", {}, 0)
    embedder = HashEmbedder()
    embedder.gate = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_lists, database, source, embedder)
        assert embedder.arrived.acquire(timeout=30)
        shorter = ListSource(rows(19))
        with pytest.raises(ConflictError) as caught:
            delete_lists(database, shorter)
        embedder.gate.set()
        assert running.result(30).state == "done"
    assert caught.value.code is Code.JOB_RUNNING
    assert len(records(database)) == 21


# --- speaking to a run --------------------------------------------------------------------------


def test_a_run_pauses_goes_on_and_stops_as_another_process_wishes(database, monkeypatch):
    monkeypatch.setattr("dvecdb.embedding.session._POLL_SECONDS", 0.01)
    source, embedder = ListSource(rows(60)), HashEmbedder()
    paused, resumed = threading.Event(), threading.Event()
    embedder.gate = threading.Event()

    def watch(event):
        if isinstance(event, Paused):
            paused.set()
        if isinstance(event, Resumed):
            resumed.set()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(run_lists, database, source, embedder, watch=watch)
        assert embedder.arrived.acquire(timeout=30)
        assert wish(database, COLLECTION, "pause")["owner"]
        assert paused.wait(30)
        wish(database, COLLECTION, "resume")
        assert resumed.wait(30)
        wish(database, COLLECTION, "stop")
        embedder.gate.set()
        report = future.result(30)
    assert report.state == "stopped"
    cursor = report.sources["list"]
    assert counts_of(cursor) == cursor.cursor
    assert len(records(database)) == len(embedder.paid) < 60
    with pytest.raises(NotFoundError) as caught:
        wish(database, COLLECTION, "stop")
    assert caught.value.code is Code.JOB_NOT_FOUND
    assert run_lists(database, source, embedder).state == "done"  # an old wish is nobody's
    assert set(embedder.paid.values()) == {1}


def test_a_collection_that_no_job_made_has_no_status(database):
    database.create_collection(COLLECTION, dimension=8)
    with pytest.raises(NotFoundError) as caught:
        status(database, COLLECTION)
    assert caught.value.code is Code.JOB_NOT_FOUND
    for call in (check_lists, delete_lists):
        with pytest.raises(NotFoundError) as caught:
            call(database, ListSource(rows(1)))
        assert caught.value.code is Code.JOB_NOT_FOUND
