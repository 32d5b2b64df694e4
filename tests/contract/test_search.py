"""Searches by every door: what they may be asked for, and the same answers as the engine's."""

import inspect

import numpy as np
import pytest

from dvecdb import (
    AsyncCollection,
    Collection,
    Explained,
    FacetCount,
    Group,
    Hits,
    IndexStats,
    RemoteCollection,
    Snapshot,
)
from dvecdb.client.aio import AsyncSnapshot
from dvecdb.client.collection import RemoteSnapshot
from dvecdb.errors import Code, DvecdbError

DIMENSION = 1024  # with ROWS more than is measured one by one for being quicker
ROWS = 1_000
SEARCHES = ("search", "search_batch", "search_groups", "facet")


def plain(hits):
    """Return hits with their vectors as lists, and what was left out."""
    vectors = [None if hit.vector is None else hit.vector.tolist() for hit in hits]
    found = [(hit.id, hit.distance, hit.metadata) for hit in hits]
    return list(zip(found, vectors, strict=True)), getattr(hits, "excluded", [])


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(7).normal(size=(ROWS, DIMENSION)).astype(np.float32)


@pytest.fixture
def many(start, rows):
    """A door, and behind it a collection that has an index, from the door and from the engine."""
    door = start(index_rows_min=500)
    made = door.database.create_collection("many", dimension=DIMENSION)
    metadata = [{"n": number, "by": f"b{number % 7}"} for number in range(ROWS)]
    ids = [f"id-{number}" for number in range(ROWS)]
    for part in (slice(0, 100), slice(100, ROWS)):
        made.upsert(ids[part], rows[part], metadata[part])
    return made, door.engine.collection("many"), door.database


@pytest.mark.parametrize(
    ("mine", "others", "calls"),
    [
        (Collection, (RemoteCollection, AsyncCollection), (*SEARCHES, "wait_for_index")),
        (Snapshot, (RemoteSnapshot, AsyncSnapshot), SEARCHES),
    ],
)
def test_the_same_calls_take_the_same_arguments(mine, others, calls):
    for name in calls:
        expected = list(inspect.signature(getattr(mine, name)).parameters.values())[1:]
        for other in others:
            found = list(inspect.signature(getattr(other, name)).parameters.values())[1:]
            assert [(item.name, item.kind, item.default) for item in found] == [
                (item.name, item.kind, item.default) for item in expected
            ], (other, name)
            assert getattr(other, name).__doc__


def test_every_option_does_what_it_does_in_the_engine(many, rows):
    remote, engine, _ = many
    third = engine.search(rows[3], limit=3)[2].distance
    for options in (
        {}, {"limit": 25, "offset": 5}, {"threshold": third}, {"threshold": -1}, {"recall": 1.0},
        {"recall": 0.3}, {"recall": np.float64(0.9)}, {"ef_search": 1}, {"ef_search": 1000},
        {"with_vectors": True, "with_metadata": False}, {"on_damage": "exclude"},
        {"where": {"by": "b3"}, "with_vectors": True}, {"as_of": 1}, {"threshold": float("inf")},
    ):  # fmt: skip
        for query in (rows[3], rows[3].tolist(), rows[3].astype(np.float64)):
            found = remote.search(query, **options)
            assert isinstance(found, Hits)
            assert plain(found) == plain(engine.search(query, **options)), options
            assert found.explained is None
    assert len(remote.search(rows[3], threshold=third)) == 3
    nearest = remote.search(rows[3], limit=6, recall=1.0)
    assert remote.search(rows[3], limit=5, offset=1, recall=1.0) == nearest[1:]


def test_vectors_of_hits_are_float32_and_theirs_to_change(many, rows):
    remote, *_ = many
    (hit,) = remote.search(rows[5], limit=1, with_vectors=True)
    assert (hit.id, hit.vector.dtype, hit.vector.shape) == ("id-5", np.float32, (DIMENSION,))
    assert hit.vector.tobytes() == rows[5].tobytes()
    hit.vector[0] = 9
    (group, *_) = remote.search_groups(rows[5], "by", with_vectors=True)
    assert group.hits[0].vector.tobytes() == rows[5].tobytes()


def test_a_search_says_how_it_was_done(many, rows):
    remote, engine, _ = many
    for options, plan in (({"recall": 0.2}, "index"), ({"recall": 1.0}, "exact")):
        mine = remote.search(rows[0], explain=True, **options).explained
        its = engine.search(rows[0], explain=True, **options).explained
        assert isinstance(mine, Explained)
        assert mine.plan == plan
        for name in Explained.__slots__:
            if name != "seconds":
                assert getattr(mine, name) == getattr(its, name), name
        assert list(mine.seconds) == list(its.seconds)
    assert (mine.rows_live, mine.rows_measured, mine.recall_expected) == (ROWS, ROWS, 1.0)


def test_several_queries_are_answered_in_order(many, rows):
    remote, engine, _ = many
    for queries in (rows[:0], rows[:3], rows[20:60].tolist(), list(rows[:9])):
        for options in ({}, {"limit": 2, "where": {"by": "b1"}, "with_vectors": True}):
            found = remote.search_batch(queries, **options)
            assert [plain(hits) for hits in found] == [
                plain(engine.search(query, **options)) for query in queries
            ]
            assert all(isinstance(hits, Hits) for hits in found)
    (explained,) = remote.search_batch(rows[:1], explain=True, recall=0.2)
    assert explained.explained.plan == "index"
    assert len(remote.search_batch(np.repeat(rows[:1], 2_500, axis=0), limit=1)) == 2_500


def test_groups_and_facets_are_those_of_the_engine(many, rows):
    remote, engine, _ = many
    below = {"must": [{"key": "n", "range": {"lt": 50}}]}
    for options in ({}, {"limit": 2, "group_size": 1}, {"where": below}, {"as_of": 1}):
        found = remote.search_groups(rows[3], "by", **options)
        expected = engine.search_groups(rows[3], "by", **options)
        assert [(group.value, group.hits) for group in found] == [
            (group.value, group.hits) for group in expected
        ]
        assert all(isinstance(group, Group) for group in found)
    assert (found[0].value, found[0].hits[0].id) == ("b3", "id-3")
    assert remote.facet("by", limit=1) == [FacetCount("b0", 143)]
    for options in ({}, {"limit": 3}, {"where": {"by": "b2"}}, {"as_of": 1}):
        assert remote.facet("by", **options) == engine.facet("by", **options)
    assert remote.facet("nothing") == []


def test_a_snapshot_is_searched_as_it_was(many, rows):
    remote, engine, _ = many
    snapshot, then = remote.snapshot(), engine.snapshot()
    remote.delete([f"id-{number}" for number in range(300)])
    query = rows[3]
    options = {"limit": 4, "where": {"by": "b3"}, "with_vectors": True}
    assert plain(snapshot.search(query, **options)) == plain(then.search(query, **options))
    assert snapshot.search(query)[0].id == "id-3"
    (hits,) = snapshot.search_batch([query], offset=1, limit=2)
    assert plain(hits) == plain(then.search(query, offset=1, limit=2))
    groups = snapshot.search_groups(query, "by", group_size=2, where={"by": "b3"})
    assert [group.hits for group in groups] == [then.search(query, limit=2, where={"by": "b3"})]
    assert snapshot.facet("by", limit=1) == [FacetCount("b0", 143)]
    assert snapshot.facet("by", where={"n": 0}) == [FacetCount("b0", 1)]
    assert remote.facet("by", limit=1)[0].count == 100


def test_figures_of_the_index_are_waited_for(many):
    remote, engine, database = many
    found = remote.wait_for_index()
    assert isinstance(found, IndexStats)
    assert found == engine.wait_for_index() == remote.stats().index
    assert (found.state, found.rows_done, found.rows_to_do) == ("ready", ROWS, 0)
    assert found.lists > 0
    assert found.size_bytes > 0
    few = database.create_collection("few", dimension=2)
    assert few.wait_for_index(0) == few.wait_for_index(timeout_seconds=0.0) == IndexStats()


BAD_SEARCHES = {
    "no limit": ({"limit": 0}, ["limit", "1 to 10000", "found 0"]),
    "large limit": ({"limit": 10_001}, ["limit", "10001"]),
    "true as limit": ({"limit": True}, ["limit", "True"]),
    "negative offset": ({"offset": -1}, ["offset", "-1"]),
    "fraction as offset": ({"offset": 1.5}, ["offset", "1.5"]),
    "large offset": ({"offset": 10_001}, ["offset", "10001"]),
    "negative recall": ({"recall": -0.1}, ["recall", "0 to 1", "-0.1"]),
    "large recall": ({"recall": 1.01}, ["recall", "1.01"]),
    "no number as recall": ({"recall": float("nan")}, ["recall", "nan"]),
    "text as recall": ({"recall": "high"}, ["recall", "'high'"]),
    "no effort": ({"ef_search": 0}, ["ef_search", "1 to 1000", "found 0"]),
    "large effort": ({"ef_search": 1001}, ["ef_search", "1001"]),
    "two efforts": ({"ef_search": 10, "recall": 0.5}, ["recall or ef_search, not both"]),
    "text as threshold": ({"threshold": "0.5"}, ["threshold", "'0.5'"]),
    "no number as threshold": ({"threshold": float("nan")}, ["threshold", "nan"]),
    "unknown damage mode": ({"on_damage": "ignore"}, ["on_damage", "'ignore'"]),
}


@pytest.mark.parametrize("what", BAD_SEARCHES)
def test_bad_options_are_refused_by_every_search(shared, what):
    books = shared.database.collection("books")
    options, words = BAD_SEARCHES[what]
    for call in (
        lambda: books.search([1, 2, 3], **options),
        lambda: books.search_batch([[1, 2, 3]], **options),
        lambda: books.search_groups([1, 2, 3], "n", **options),
        lambda: books.snapshot().search([1, 2, 3], **options),
    ):
        with pytest.raises(DvecdbError) as caught:
            call()
        assert caught.value.code is Code.INVALID_ARGUMENT
        for word in words:
            assert word in caught.value.message


BAD_CALLS = {
    "short second query": (lambda c: c.search_batch([[1, 2, 3], [1, 2]]), Code.WRONG_DIMENSION),
    "nan in a query": (lambda c: c.search_batch([[1, 2, float("nan")]]), Code.NOT_FINITE),
    "batch of the future": (lambda c: c.search_batch([[1, 2, 3]], as_of=9), Code.AS_OF_UNREADABLE),
    "short query of groups": (lambda c: c.search_groups([1, 2], "n"), Code.WRONG_DIMENSION),
    "number as field": (lambda c: c.search_groups([1, 2, 3], 7), Code.INVALID_FILTER),
    "position in a field": (lambda c: c.search_groups([1, 2, 3], "a[0]"), Code.INVALID_FILTER),
    "groups of none": (
        lambda c: c.search_groups([1, 2, 3], "n", group_size=0), Code.INVALID_ARGUMENT,
    ),
    "empty field": (lambda c: c.facet(""), Code.INVALID_FILTER),
    "no field": (lambda c: c.facet(None), Code.INVALID_FILTER),
    "no values": (lambda c: c.facet("n", limit=0), Code.INVALID_ARGUMENT),
    "many values": (lambda c: c.facet("n", limit=10_001), Code.INVALID_ARGUMENT),
    "facet of the future": (lambda c: c.facet("n", as_of=9), Code.AS_OF_UNREADABLE),
    "bad filter of a facet": (lambda c: c.facet("n", where={"must": [1]}), Code.INVALID_FILTER),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_CALLS)
def test_bad_searches_of_several_are_refused(shared, what):
    call, code = BAD_CALLS[what]
    with pytest.raises(DvecdbError) as caught:
        call(shared.database.collection("books"))
    assert caught.value.code is code
