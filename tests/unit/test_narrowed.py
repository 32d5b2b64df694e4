"""Filters that are asked for often get lists of their own, which find what the others find."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvecdb import Database, Settings
from dvecdb.engine import index_build, index_care, narrowed, nearest
from dvecdb.engine.narrowed import Filters, Narrowed
from dvecdb.records import Metric
from dvecdb.search.filters import parse_filter
from dvecdb.search.ivf import Codes, Space

DIMENSION = 24
COUNT = 1_500
SETTINGS = {
    "index_rows_min": 300, "flush_bytes": 1 << 30, "bulk_bytes": 1 << 30, "ballast_bytes": 0,
    "low_water_bytes": 0, "guard_percent": 100, "settle_seconds": 0,
}  # fmt: skip
WHERE = {"g": 1}
OWN = "the filter is asked for often: its rows have lists of their own"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(nearest, "_EXACT_BYTES", 0)
    monkeypatch.setattr(nearest, "_SCATTERED", 0)
    monkeypatch.setattr(index_care, "_STEP_BYTES", 1)
    monkeypatch.setattr(index_build, "_BASE_STEP", 10_000)
    monkeypatch.setattr(narrowed, "ASKED_MIN", 3)


def rows(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)


def open_at(path, *, background=False, **changed):
    return Database(str(path), background=background, settings=Settings(**{**SETTINGS, **changed}))


def filled(database, groups=4):
    docs = database.create_collection("docs", dimension=DIMENSION, metric="euclidean")
    metadata = [{"g": number % groups} for number in range(COUNT)]
    docs.upsert([f"id {number}" for number in range(COUNT)], rows(COUNT), metadata)
    docs.flush()
    docs.wait_for_index()
    return docs


def why(docs, where=WHERE, **options):
    query = rows(1, 7)[0]
    return docs.search(query, where=where, recall=0.9, explain=True, **options).explained.why


def ask_often(docs, where=WHERE):
    for _ in range(3):
        assert why(docs, where) != OWN
    index_care.tend_index(docs._store)


def check(docs, where=WHERE, **options):
    """What is found is live, matches, has its distance, and is nearly all that should be."""
    shares = []
    for query in rows(20, 5):
        exact = docs.search(query, limit=COUNT, where=where, recall=1.0, **options)
        distances = {hit.id: hit.distance for hit in exact}
        found = docs.search(query, where=where, recall=0.95, **options)
        assert len(found) == min(10, len(exact))
        assert all(distances[hit.id] == hit.distance for hit in found)
        shares.append(sum(hit.distance <= exact[len(found) - 1].distance for hit in found))
    assert np.mean(shares) >= 0.9 * min(10, len(exact))


# --- the codes ---


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.integers(0, 400), st.integers(0, 90))
def test_chosen_rows_are_found_with_the_tail_and_no_others(seed, share, base, tail):
    random = np.random.default_rng(seed)
    points = random.standard_normal((500, 16)).astype(np.float32)
    codes = Codes.train(Space(Metric.EUCLIDEAN, 16), points, 4)
    numbers = np.arange(base + tail)
    parts = [codes.code(part, points[part]) for part in (numbers[:base], numbers[base:])]
    codes = codes.with_base(parts[:1]).with_tail(parts[1:])
    chosen = random.random(base + tail) < share
    own = codes.narrowed(chosen)
    expected = set(numbers[(chosen & (numbers < base)) | (numbers >= base)].tolist())
    assert own.count == len(expected)
    found, seem = own.search(points[:1], 4, 500)
    kept = found[0] >= 0
    assert set(found[0][kept].tolist()) == expected
    of_all = dict(
        zip(*(part[0].tolist() for part in codes.search(points[:1], 4, 500)), strict=True)
    )
    assert all(of_all[row] == far for row, far in zip(found[0][kept], seem[0][kept], strict=True))


# --- how they are made and used ---


def test_a_filter_that_is_asked_for_often_is_searched_in_its_own_lists(tmp_path):
    with open_at(tmp_path) as database:
        docs = filled(database)
        ask_often(docs)
        assert why(docs) == OWN
        assert why(docs, {"g": 2}) != OWN
        assert why(docs, {"g": 1, "x": 2}) != OWN
        check(docs)


def test_they_last_while_rows_go_and_come(tmp_path):
    with open_at(tmp_path) as database:
        docs = filled(database)
        before = docs.snapshot().lsn
        ask_often(docs)
        docs.delete([f"id {number}" for number in range(1, COUNT, 8)])
        docs.upsert(["id 5", "id 6"], rows(2, 9), [{"g": 0}, {"g": 1}])
        more = [{"g": number % 4} for number in range(200)]
        docs.upsert([f"new {number}" for number in range(200)], rows(200, 4), more)
        docs.wait_for_index()  # in the tail now
        assert why(docs) == OWN
        check(docs)
        assert why(docs, as_of=before) == OWN
        check(docs, as_of=before)
        near = docs.search(rows(200, 4)[1], where=WHERE, limit=1, recall=0.9)
        assert near[0].id == "new 1"
        assert not [hit for hit in docs.search(rows(2, 9)[0], where=WHERE) if hit.id == "id 5"]


def test_how_often_a_filter_was_asked_for_is_known_when_the_index_has_grown(tmp_path):
    with open_at(tmp_path) as database:
        docs = filled(database)
        for number in range(3):
            assert why(docs) != OWN
            before = docs._store.index
            docs.upsert([f"new {number}-{n}" for n in range(80)], rows(80, 4), [{"g": 0}] * 80)
            docs.wait_for_index()
            assert docs._store.index is not before
        index_care.tend_index(docs._store)
        assert why(docs) == OWN
        check(docs)


def test_another_base_needs_others(tmp_path, monkeypatch):
    with open_at(tmp_path) as database:
        docs = filled(database)
        ask_often(docs)
        monkeypatch.setattr(index_build, "_BASE_STEP", 10)
        more = [{"g": number % 4} for number in range(400)]
        docs.upsert([f"new {number}" for number in range(400)], rows(400, 4), more)
        docs.flush()
        docs.wait_for_index()
        ask_often(docs)
        assert why(docs) == OWN
        check(docs)


def test_a_state_that_has_other_rows_is_searched_in_all_lists(tmp_path):
    with open_at(tmp_path) as database:
        docs = filled(database)
        ask_often(docs)
        index, where = docs._store.index, parse_filter(WHERE)
        own = index.filters._narrowed[where]
        lacking = own.outside.copy()
        lacking[1] = True  # as if it had been dropped when these were made
        index.filters.keep(where, Narrowed(own.codes, lacking, own.size_bytes))
        assert why(docs) != OWN
        docs.delete(["id 1"])
        assert why(docs) == OWN


@pytest.mark.parametrize(
    "where", [{"must": [{"has_id": [f"id {n}" for n in range(400)]}]}, {"must_not": []}, None]
)
def test_ids_and_what_nearly_all_rows_match_get_none(tmp_path, where):
    with open_at(tmp_path) as database:
        docs = filled(database)
        for _ in range(8):
            assert why(docs, where) != OWN
            index_care.tend_index(docs._store)
        assert docs._store.index.filters._narrowed == {}


def test_a_thread_makes_them(tmp_path):
    with open_at(tmp_path, background=True) as database:
        docs = filled(database)
        end = time.monotonic() + 20
        while why(docs) != OWN:
            assert time.monotonic() < end
            time.sleep(0.01)
        check(docs)


def test_rows_of_which_it_cannot_be_told_are_named_as_before(tmp_path):
    with open_at(tmp_path) as database:
        docs = filled(database)
        matching = index_care.Matching

        class Damaged(matching):
            damaged = (3,)

        index_care.Matching = Damaged
        try:
            ask_often(docs)
            assert why(docs) != OWN
        finally:
            index_care.Matching = matching


# --- which are kept ---


def narrow(count):
    return Narrowed(None, np.zeros(0, bool), count)


def filters_of(count):
    return [parse_filter({"g": number}) for number in range(count)]


def test_there_is_never_more_than_may_be():
    filters, wheres = Filters(), filters_of(5)
    for where in wheres:
        assert filters.make_room(40, 100)
        filters.keep(where, narrow(40))
    assert list(filters._narrowed) == wheres[-2:]
    assert not filters.make_room(101, 100)


def test_what_is_used_as_often_stays():
    filters, wheres = Filters(), filters_of(3)
    for where in wheres[:2]:
        filters.keep(where, narrow(40))
    for _ in range(narrowed.ASKED_MIN):
        assert filters.ask(wheres[0])
    assert filters.make_room(60, 100)
    assert list(filters._narrowed) == wheres[:1]
    for _ in range(narrowed.ASKED_MIN):
        filters.ask(wheres[0])
    assert not filters.make_room(61, 100)
    assert filters.make_room(100, 100)  # it was not used since
    assert not filters._narrowed


def test_counting_has_a_bound(monkeypatch):
    monkeypatch.setattr(narrowed, "_COUNTED_MAX", 5)
    monkeypatch.setattr(narrowed, "ASKED_MIN", 20)
    filters, (often, *others) = Filters(), filters_of(60)
    for number, where in enumerate(others):
        filters.ask(where)
        assert len(filters._asked) <= 5
        if number % 2:
            filters.ask(often)
    assert filters.wanted == often
