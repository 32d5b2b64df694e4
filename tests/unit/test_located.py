"""Candidates are measured where they lie, and only as long as what lies there may be served."""

import gc
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dvecdb import Database, Settings
from dvecdb.engine import candidates, index, index_build, index_care, nearest
from dvecdb.engine.located import Located
from dvecdb.errors import Code, DvecdbError
from dvecdb.search import ivf

SOURCE = Path(__file__).parents[2] / "src"
DIMENSION = 1_024
COUNT = 400
SETTINGS = {
    "index_rows_min": 300, "flush_bytes": 1 << 30, "bulk_bytes": 1 << 30, "ballast_bytes": 0,
    "low_water_bytes": 0, "guard_percent": 100, "settle_seconds": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(nearest, "_EXACT_BYTES", 0)
    monkeypatch.setattr(nearest, "_SCATTERED", 0)
    monkeypatch.setattr(index_care, "_STEP_BYTES", 1)
    monkeypatch.setattr(index_build, "_BASE_STEP", 100)
    monkeypatch.setattr(index, "_ASKED_BEFORE", 0)


@pytest.fixture
def read_rows(monkeypatch):
    """The rows that were read to be measured."""
    asked_for, read = [], candidates.Measuring._read

    def counted(self, asked, **options):
        asked_for.extend(asked.tolist())
        return read(self, asked, **options)

    monkeypatch.setattr(candidates.Measuring, "_read", counted)
    return asked_for


def open_at(path, *, background=False, **settings):
    return Database(str(path), background=background, settings=Settings(**{**SETTINGS, **settings}))


def rows(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)


def names(count, first=0):
    return [f"id {number}" for number in range(first, first + count)]


def filled(database, *, flushed=True):
    docs = database.create_collection("docs", dimension=DIMENSION)
    docs.upsert(names(COUNT), rows(COUNT))
    if flushed:
        docs.flush()
    docs.wait_for_index()
    return docs


def check(docs, query=None):
    query = rows(1, 7)[0] if query is None else query
    plan = docs.search(query, recall=0.9, explain=True).explained.plan
    assert plan == "index"
    found, exact = docs.search(query, recall=0.9), docs.search(query, recall=1.0)
    distances = {hit.id: hit.distance for hit in docs.search(query, limit=COUNT, recall=1.0)}
    assert len(found) == len(exact)
    assert all(hit.distance == distances[hit.id] for hit in found)


def spoil(path, row):
    (file,) = (path / "collections" / "docs" / "segments").glob("*/vectors.bin")
    file.chmod(0o600)
    with file.open("r+b") as stream:
        stream.seek(row * 4 * DIMENSION)
        stream.write(b"\xff\x7f\x00\x01")


@pytest.mark.parametrize("flushed", [True, False])
def test_rows_are_read_once_and_measured_where_they_lie_from_then_on(tmp_path, read_rows, flushed):
    with open_at(tmp_path) as database:
        docs = filled(database, flushed=flushed)
        check(docs)
        assert bool(read_rows) == flushed  # rows in memory need no verification
        del read_rows[:]
        check(docs)
        assert read_rows == []


def test_rows_of_large_batches_are_measured_in_memory(tmp_path, read_rows):
    with open_at(tmp_path) as database:
        docs = database.create_collection("docs", dimension=DIMENSION)
        docs.upsert(names(1_000), rows(1_000))  # 4 MB: memory of its own
        docs.wait_for_index()
        check(docs)
        del read_rows[:]
        check(docs)
        assert read_rows == []
        docs.delete(["id 3"])
        docs.upsert(names(1_000, 1_000), rows(1_000, 1))
        docs.wait_for_index()
        check(docs, rows(1_000, 1)[5])
        docs.flush()
        check(docs, rows(1_000, 1)[5])


def test_after_a_flush_and_a_compaction_they_are_looked_for_anew(tmp_path):
    with open_at(tmp_path) as database:
        docs = filled(database)
        check(docs)
        held = docs.snapshot()
        docs.upsert(names(200, 100), rows(200, 3))
        docs.wait_for_index()
        check(docs)
        docs.flush()
        check(docs)
        expected = held.search(rows(1, 7)[0], recall=1.0)
        assert held.search(rows(1, 7)[0], recall=0.9)[0].id == expected[0].id
        del held
        gc.collect()
        assert len(docs._store.index._located) == 1  # of the view that is still there


@pytest.mark.parametrize("searched", [True, False])
def test_who_grows_an_index_finds_out_where_rows_lie_for_those_who_search(
    tmp_path, monkeypatch, read_rows, searched
):
    monkeypatch.setattr(index, "_ASKED_BEFORE", 100)
    with open_at(tmp_path) as database:
        docs = filled(database, flushed=False)
        if searched:
            check(docs)
        docs.upsert(names(100, COUNT), -rows(100, 3))
        docs.wait_for_index()
        store = docs._store
        assert bool(store.index.known_located(store.view)) == searched
        del read_rows[:]
        check(docs, -rows(100, 3)[5])
        assert bool(read_rows) != searched


def test_an_index_that_grew_knows_what_it_knew(tmp_path, read_rows):
    with open_at(tmp_path) as database:
        docs = filled(database)
        docs.search(rows(1, 7)[0], limit=COUNT // 2, recall=0.9)
        before = docs._store.index
        docs.upsert(names(100, COUNT), -rows(100, 3))
        docs.wait_for_index()
        assert docs._store.index is not before
        del read_rows[:]
        check(docs)
        assert all(row >= COUNT for row in read_rows)
        check(docs, -rows(100, 3)[4])


def test_it_is_found_out_for_what_is_asked_for_often(tmp_path, monkeypatch, read_rows):
    monkeypatch.setattr(index, "_ASKED_BEFORE", 3)
    with open_at(tmp_path) as database:
        docs = filled(database)
        for asked in range(6):
            del read_rows[:]
            docs.search(rows(1, 7)[0], recall=0.9)
            assert bool(read_rows) == (asked < 3)  # by then all blocks are verified


@pytest.mark.parametrize("row", [5, 350])
def test_what_is_found_damaged_later_is_not_served_where_it_lies(tmp_path, row):
    with open_at(tmp_path) as database:
        docs = filled(database)
        query = rows(COUNT)[row]
        assert docs.search(query, limit=1)[0].id == f"id {row}"
        spoil(tmp_path, row)
        docs.verify()
        with pytest.raises(DvecdbError) as caught:
            docs.search(query, limit=1)
        assert caught.value.code is Code.DAMAGED_DATA
        hits = docs.search(query, on_damage="exclude")
        assert f"id {row}" in hits.excluded
        assert not {hit.id for hit in hits} & set(hits.excluded)


def test_control_a_place_that_is_kept_serves_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(Located, "is_current", lambda *_: True)
    with open_at(tmp_path) as database:
        docs = filled(database)
        query = rows(COUNT)[5]
        docs.search(query, limit=1)
        spoil(tmp_path, 5)
        docs.verify()
        assert docs.search(query, limit=1)


# --- filters --------------------------------------------------------------------------------------


def test_the_rows_of_a_filter_are_those_of_the_state_it_is_asked_in(tmp_path, monkeypatch):
    with open_at(tmp_path) as database:
        docs = filled_with_metadata(database)
        before = docs.snapshot()
        query, where = rows(1, 7)[0], {"half": 1}
        first = docs.search(query, where=where, recall=0.9)
        with monkeypatch.context() as patched:
            patched.setattr(index.Index, "put", None)  # what was found out once is kept
            assert docs.search(query, where=where, recall=0.9) == first
        docs.delete([first[0].id])
        docs.update_metadata([first[1].id], [{"half": 0}])
        after = docs.search(query, where=where, recall=0.9)
        assert not {first[0].id, first[1].id} & {hit.id for hit in after}
        assert before.search(query, where=where, recall=0.9) == first
        assert docs.search(query, where=where, recall=0.9) == after


def test_few_filters_are_kept(tmp_path):
    with open_at(tmp_path) as database:
        docs = filled_with_metadata(database)
        for number in range(40):
            docs.search(rows(1, 7)[0], where={"half": number % 2, "n": number}, recall=0.9)
        assert 1 < len(docs._store.index._matching) <= 16


# --- candidates found and measured in one call ---------------------------------------------------

WHERE = [None, {"half": 1}, {"tenth": 3}, {"must": [{"key": "half", "match": {"value": 7}}]}]


def answers(docs, **options):
    queries = rows(12, 9)
    return [docs.search(query, where=where, **options) for query in queries for where in WHERE]


def filled_with_metadata(database, count=2_000):
    docs = database.create_collection("docs", dimension=DIMENSION)
    metadata = [{"half": number % 2, "tenth": number % 10} for number in range(count)]
    docs.upsert(names(count), rows(count), metadata)
    docs.flush()
    docs.wait_for_index()
    return docs


@pytest.fixture
def at_once(monkeypatch):
    """What was found in one call."""
    found, by = [], candidates.Measuring.by

    def noted(self, *args):
        found.append(by(self, *args))
        return found[-1]

    monkeypatch.setattr(candidates.Measuring, "by", noted)
    return found


@pytest.mark.parametrize("recall", [0.5, 0.9])
def test_what_is_found_in_one_call_is_what_is_found_in_several(tmp_path, at_once, recall):
    with open_at(tmp_path) as database:
        docs = filled_with_metadata(database)
        expected = answers(docs, recall=recall, explain=True)
        assert not at_once
        assert answers(docs, recall=recall) == expected
        assert sum(found is not None for found in at_once) >= len(expected) / 2
        docs.delete(names(300))
        expected = answers(docs, recall=recall, explain=True)
        del at_once[:]
        assert answers(docs, recall=recall) == expected
        assert sum(found is not None for found in at_once) >= len(expected) / 2


def test_another_faiss_takes_several_calls_and_a_tail_does_not(tmp_path, at_once, monkeypatch):
    with open_at(tmp_path) as database:
        docs = filled_with_metadata(database)
        expected = answers(docs, recall=0.9)
        assert at_once
        del at_once[:]
        with monkeypatch.context() as patched:
            patched.setattr(ivf, "_search_address", lambda: None)
            assert answers(docs, recall=0.9) == expected
        assert not at_once
        docs.upsert(names(100, 5_000), -rows(100))
        docs.wait_for_index()
        expected = answers(docs, recall=0.9, explain=True)
        assert not at_once
        assert answers(docs, recall=0.9) == expected
        assert at_once


INTERRUPTED = """
import os, signal, sys, threading, time
import numpy as np, dvecdb

class Wanted(Exception): ...
armed = False
def handle(*_):
    global armed
    if armed:
        armed = False
        raise Wanted
signal.signal(signal.SIGUSR1, handle)
with dvecdb.open(sys.argv[1], settings=dvecdb.Settings(index_rows_min=300)) as database:
    docs = database.collection("docs")
    docs.wait_for_index(60)
    query = np.ones(1024, np.float32)
    for _ in range(120):
        expected = docs.search(query, recall=0.5)
    ended = threading.Event()
    def interrupt():
        while not ended.wait(0.001):
            os.kill(os.getpid(), signal.SIGUSR1)
    thread = threading.Thread(target=interrupt)
    thread.start()
    for _ in range(300):
        try:
            while True:
                armed = True  # again, if what was raised met a finalizer and was ignored
                docs.search(query, recall=0.5)
        except Wanted:
            pass
    ended.set()
    thread.join()
    print(docs.search(query, recall=0.5) == expected)
"""


def test_a_signal_in_the_middle_of_a_search_ends_that_search_only(tmp_path):
    with open_at(tmp_path) as database:
        filled_with_metadata(database)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)],
        env={"PYTHONPATH": str(SOURCE), "PATH": "/usr/bin:/bin"},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_faiss_is_called_by_its_address_here():
    assert ivf._search_address() is not None


# --- once nobody writes ---------------------------------------------------------------------------


def settled(docs):
    return index_care.tend_index(docs._store, renew=True)


def test_the_last_rows_are_taken_in_and_a_long_tail_is_moved(tmp_path, monkeypatch):
    with open_at(tmp_path) as database:
        docs = filled(database)
        name = docs._store.index.name
        docs.upsert(names(3, COUNT), rows(3, 1))
        assert not settled(docs)  # something was written just now
        monkeypatch.setattr(index_care, "_QUIET_SECONDS", 0)
        assert settled(docs)
        made = docs._store.index
        assert (made.row_end, made.base_end, made.name) == (COUNT + 3, COUNT, name)
        assert not settled(docs)
        docs.upsert(names(5, COUNT + 3), rows(5, 2))
        assert settled(docs)
        made = docs._store.index
        assert (made.row_end, made.base_end, made.name) == (COUNT + 8, COUNT + 8, None)
        assert not settled(docs)
        assert docs.search(rows(5, 2)[3], limit=1)[0].id == f"id {COUNT + 6}"
        docs.flush()
        docs.wait_for_index()
        assert docs._store.index.name not in {None, name}
    with open_at(tmp_path) as database:
        docs = database.collection("docs")
        assert docs.stats().index.rows_done == COUNT + 8


def test_a_growth_that_fails_is_not_tried_over_and_over(tmp_path, monkeypatch):
    monkeypatch.setattr(index_care, "_QUIET_SECONDS", 0)
    with open_at(tmp_path) as database:
        docs = filled(database)
        docs.upsert(names(5, COUNT), rows(5, 1))
        monkeypatch.setattr(index_care, "grow", None)
        assert not settled(docs)
        assert {finding.code for finding in docs.findings()} == {"index-failed"}
        assert not index_care.is_settling_wanted(docs._store)
        assert docs.search(rows(5, 1)[2], limit=1)[0].id == f"id {COUNT + 2}"


def test_the_thread_does_it(tmp_path):
    with open_at(tmp_path, background=True) as database:
        docs = filled(database)
        for first in (COUNT, COUNT + 3):
            docs.upsert(names(3, first), rows(3, first))
            until = time.monotonic() + 30
            while docs.stats().index.rows_to_do and time.monotonic() < until:
                time.sleep(0.05)
            assert docs.stats().index.rows_to_do == 0
