"""A filter over a collection means what it means over a list of dictionaries."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb import Database, Settings
from dvecdb.errors import Code, DamagedDataError, InvalidRequestError
from dvecdb.search.filters import parse_filter, same_json
from dvecdb.testing.disk import MemoryDisk

SCALARS = st.sampled_from([None, True, False, 0, 1, 1.0, 2, 0.5, "", "a", "1"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xy"), inner),
    max_leaves=3,
)
METADATA = st.none() | st.dictionaries(st.sampled_from(["a", "b"]), VALUES, max_size=2)
WHERE = st.dictionaries(st.sampled_from(["a", "b"]), VALUES, max_size=2)


def typed(value):
    """Return a form that Python compares as JSON values are compared."""
    if isinstance(value, list):
        return [typed(item) for item in value]
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    return (isinstance(value, bool), value)


def meant(metadata, where):
    return all(
        metadata is not None and name in metadata and typed(metadata[name]) == typed(value)
        for name, value in where.items()
    )


@given(VALUES, VALUES)
def test_json_values_are_equal_by_kind_and_value(first, second):
    assert same_json(first, second) == (typed(first) == typed(second))


@given(st.lists(METADATA, max_size=12), WHERE, st.data())
def test_a_filter_means_what_it_means_over_dictionaries(rows, where, data):
    settings = Settings(ballast_bytes=0)
    with Database("d", files=MemoryDisk(), settings=settings, background=False) as database:
        books = database.create_collection("books", dimension=1, metric="euclidean")
        for index, metadata in enumerate(rows):
            books.upsert([f"{index}"], [[index]], [metadata])
            if data.draw(st.booleans()):
                books.flush()
        gone = set(data.draw(st.lists(st.integers(0, 11), max_size=3)))
        books.delete([f"{index}" for index in gone])
        left = [index for index in range(len(rows)) if index not in gone]
        expected = [f"{index}" for index in left if meant(rows[index], where)]
        limit = data.draw(st.integers(1, 12))
        hits = books.search([0], limit=limit, where=where)
        assert [hit.id for hit in hits] == expected[:limit]
        assert [hit.distance for hit in hits] == [float(item) for item in expected[:limit]]
        assert books.count(where=where) == len(expected)
        found, after = [], None
        while True:
            page = books.scroll(limit=limit, after=after, where=where)
            found += [record.id for record in page.records]
            after = page.next
            if after is None:
                break
            assert len(page.records) == limit
        assert found == expected
        before = books.stats().last_lsn - 1 if gone & set(range(len(rows))) else None
        ids = [f"{i}" for i in range(len(rows)) if meant(rows[i], where)]
        if before is not None:
            assert books.count(where=where, as_of=before) == len(ids)


@pytest.mark.parametrize("where", [["a"], "a", 3, {1: 2}])
def test_what_is_no_map_is_refused(where):
    with pytest.raises(InvalidRequestError) as caught:
        parse_filter(where)
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_rows_that_may_or_may_not_match_are_named(tmp_path):
    with Database(str(tmp_path), settings=Settings(ballast_bytes=0)) as database:
        books = database.create_collection("books", dimension=1, metric="euclidean")
        fill = "x" * 9000  # more than a page, so that one damaged page is one damaged record
        rows = [{"n": index % 2, "mark": f"here{index}", "fill": fill} for index in range(6)]
        books.upsert([f"{index}" for index in range(6)], np.arange(6.0)[:, None], rows)
        books.flush()
    (path,) = tmp_path.glob("collections/books/segments/*/records.bin")
    data = bytearray(path.read_bytes())
    place = data.index(b"here3")
    data[place] ^= 1
    os.chmod(path, 0o600)
    path.write_bytes(data)
    with Database(str(tmp_path), settings=Settings(ballast_bytes=0)) as database:
        books = database.collection("books")
        calls = [
            lambda: books.search([0], where={"n": 0}),
            lambda: books.count(where={"n": 0}),
            lambda: books.scroll(where={"n": 0}),
        ]
        for call in calls:
            with pytest.raises(DamagedDataError) as caught:
                call()
            assert caught.value.code == Code.DAMAGED_DATA
            assert "3" in caught.value.details["ids"]
        named = caught.value.details["ids"]
        hits = books.search([0], where={"n": 0}, on_damage="exclude")
        assert [hit.id for hit in hits] == [f"{i}" for i in (0, 2, 4) if f"{i}" not in named]
        assert hits.excluded == named
        assert books.count() == 6
