"""A filter over a collection means what it means over a list of dictionaries."""

import os

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.filter_cases import DATES, NUMBERS, TEXTS

from dvecdb import Database, Settings
from dvecdb.errors import Code, DamagedDataError, InvalidRequestError
from dvecdb.search.columns import Columns
from dvecdb.search.filters import parse_filter, same_json
from dvecdb.search.selection import select
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


def deep(levels):
    tree = {"must": []}
    for _ in range(levels - 1):
        tree = {"must": [tree]}
    return tree


def nested(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


def field(**operators):
    return {"must": [{"key": "a", **operators}]}


ONE = {"key": "a", "exists": True}
BAD_FILTERS = [
    ({"must": ["a"]}, "where.must[0]", "a condition, found 'a'"),
    ({"must": [{}]}, "where.must[0]", "expected a condition"),
    ({"must": {}}, "where.must", "expected a condition"),
    ({"must": [], "should": 1}, "where.should", "a list of conditions, found 1"),
    ({"should": [{"must": [], "x": 1}]}, "where.should[0]", "expected a condition"),
    ({"must": [{"key": "a"}]}, "where.must[0]", "found none"),
    (field(match={"value": 1}, range={"gt": 1}), "where.must[0]", "found match and range"),
    (field(like="x"), "where.must[0].like", "unknown; known are key, match"),
    (field(match=1), "where.must[0].match", "found 1"),
    (field(match={}), "where.must[0].match", "found none"),
    (field(match={"value": 1, "any": [1]}), "where.must[0].match", "found value and any"),
    (field(match={"is": 1}), "where.must[0].match.is", "unknown"),
    (field(match={"value": None}), "where.must[0].match.value", "is_null"),
    (field(match={"value": [1]}), "where.must[0].match.value", "found [1]"),
    (field(match={"value": float("nan")}), "where.must[0].match.value", "finite"),
    (field(match={"any": 1}), "where.must[0].match.any", "a list, found 1"),
    (field(match={"any": [1, None]}), "where.must[0].match.any[1]", "found null"),
    (field(match={"except": [{}]}), "where.must[0].match.except[0]", "found {}"),
    (field(match={"text": 1}), "where.must[0].match.text", "text with at least one word"),
    (field(match={"text": " -!"}), "where.must[0].match.text", "at least one word"),
    (field(range=5), "where.must[0].range", "found 5"),
    (field(range={}), "where.must[0].range", "at least one of gt, gte, lt and lte"),
    (field(range={"from": 5}), "where.must[0].range.from", "unknown; known are gt"),
    (field(range={"gte": True}), "where.must[0].range.gte", "a number or an ISO date, found true"),
    (field(range={"gte": "soon"}), "where.must[0].range.gte", "found 'soon'"),
    (field(range={"lt": float("inf")}), "where.must[0].range.lt", "finite"),
    (field(range={"gt": 1, "lt": "2024-01-01"}), "where.must[0].range.lt", "mixed"),
    (field(exists=1), "where.must[0].exists", "true or false, found 1"),
    (field(is_null="no"), "where.must[0].is_null", "true or false"),
    (field(is_empty={}), "where.must[0].is_empty", "true or false"),
    ({"must": [{"is_null": "a"}]}, "where.must[0].is_null", "found 'a'"),
    ({"must": [{"is_null": {"key": "a", "b": 1}}]}, "where.must[0].is_null.b", "unknown"),
    ({"must": [{"is_empty": {}}]}, "where.must[0].is_empty.key", "found null"),
    ({"must": [{"key": 3, "exists": True}]}, "where.must[0].key", "found 3"),
    ({"must": [{"key": "", "exists": True}]}, "where.must[0].key", "found ''"),
    ({"must": [{"key": "a..b", "exists": True}]}, "where.must[0].key", "dots"),
    ({"must": [{"key": "a.", "exists": True}]}, "where.must[0].key", "dots"),
    ({"must": [{"key": "a[0]", "exists": True}]}, "where.must[0].key", "positions are not"),
    ({"must": [{"has_id": "a"}]}, "where.must[0].has_id", "a list, found 'a'"),
    ({"must": [{"has_id": ["a", 7]}]}, "where.must[0].has_id[1]", "text"),
    ({"must": [{"has_id": [""]}]}, "where.must[0].has_id[0]", "0 characters"),
    ({"min_should": {"min_count": 1}}, "where.min_should.conditions", "found null"),
    ({"min_should": {"conditions": []}}, "where.min_should.min_count", "found null"),
    ({"min_should": {"conditions": [ONE], "min_count": -1}}, "where.min_should.min_count", "-1"),
    ({"min_should": {"conditions": [ONE], "min_count": True}}, "where.min_should.min_count", "tru"),
    ({"min_should": {"conditions": [1], "min_count": 1}}, "where.min_should.conditions[0]", "1"),
    ({"min_should": {"conditions": [], "min_count": 1, "x": 1}}, "where.min_should.x", "unknown"),
    ({"min_should": []}, "where.min_should", "found []"),
    (deep(33), "where" + ".must[0]" * 32, "at most 32 trees"),
    ({"must": [ONE] * 1001}, "where.must[1000]", "at most 1000 conditions"),
    (dict.fromkeys(map(str, range(65)), 1), "where", "at most 64 fields"),
    (
        {"must": [{"should": [{"is_null": {"key": str(one)}}]} for one in range(65)]},
        "where.must[64].should[0].is_null.key", "at most 64 fields",
    ),
    ({"must": [{"must": [ONE] * 500}, {"must": [ONE] * 499}]}, "where.must[1].must[498]", "1000"),
    (field(match={"any": ["x"] * 10_001}), "where.must[0].match.any", "at most 10000 values"),
    (
        {"must": [{"has_id": ["x"] * 6000}, {"key": "a", "match": {"except": [1] * 4001}}]},
        "where.must[1].match.except", "at most 10000 values",
    ),
    ({"a": float("nan")}, "where.a", "finite"),
    ({"a": {"b": [1, float("inf")]}}, "where.a.b[1]", "finite"),
    ({"a": (1, 2)}, "where.a", "a JSON value"),
    ({"a": {1: 2}}, "where.a", "text as keys"),
    ({"a": nested(65)}, "where.a" + "[0]" * 64, "at most 64"),
]  # fmt: skip
BAD_NAMES = [f"{number}: {row[1]:.40}" for number, row in enumerate(BAD_FILTERS)]


@pytest.mark.parametrize(
    ("where", "path", "said"),
    BAD_FILTERS,
    ids=BAD_NAMES,
)
def test_what_is_wrong_with_a_filter_is_named_by_its_path(where, path, said):
    with pytest.raises(InvalidRequestError) as caught:
        parse_filter(where)
    assert caught.value.code is Code.INVALID_FILTER
    assert caught.value.details == {"path": path}
    assert caught.value.message.startswith(f"{path}: ")
    assert said in caught.value.message
    assert len(caught.value.message) < 1000


def test_what_is_just_allowed_is_read():
    assert parse_filter(deep(32)).matches(None, "x")
    assert parse_filter({"must": [ONE] * 1000}).matches({"a": 1}, "x")
    values = field(match={"any": list(range(10_000))})
    assert parse_filter(values).matches({"a": 9_999}, "x")
    assert parse_filter({"a": nested(64)}).matches({"a": nested(64)}, "x")


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"must": 1}, {"must": 1}),
        ({"must": 1, "should": "x"}, {"must": 1.0, "should": "x"}),
        ({"must": [1], "lang": "de"}, {"must": [1], "lang": "de"}),
        ({"key": "a", "match": {"value": 1}}, {"key": "a", "match": {"value": 1}}),
        ({"a.b": 1}, {"a.b": 1}),
        ({"a": np.int64(1), "b": np.float64(2)}, {"a": 1, "b": 2}),
    ],
)
def test_a_map_that_only_looks_like_a_tree_is_an_equality_map(where, expected):
    assert parse_filter(where).matches(expected, "x")
    assert not parse_filter(where).matches({"a": {"b": 1}}, "x")


@pytest.mark.parametrize("where", [None, {}, {"must": []}, {"should": [], "must_not": None}])
def test_a_filter_that_asks_for_nothing_is_none(where):
    assert parse_filter(where) is None


ID = "6e0a4dae-2b0b-4a4c-9c1d-0123456789ab"
NOTHING_MISSING = {"n": 1, "s": "1", "t": True, "z": None, "e": [], "l": [1, "x", None, [2]],
                   "o": {"p": [{"q": 1}, {"q": [2, 3]}, 5]}, "d": "2024-05-01", "a.b": 7,
                   "big": 2**53 + 1}  # fmt: skip
MEANINGS = [
    ({"key": "n", "match": {"value": 1.0}}, True),
    ({"key": "n", "match": {"value": "1"}}, False),
    ({"key": "s", "match": {"value": 1}}, False),
    ({"key": "t", "match": {"value": 1}}, False),
    ({"key": "t", "match": {"value": True}}, True),
    ({"key": "l", "match": {"value": "x"}}, True),
    ({"key": "l", "match": {"value": 2}}, False),
    ({"key": "o.p.q", "match": {"value": 3}}, True),
    ({"key": "o.p[].q[]", "match": {"value": 3}}, True),
    ({"key": '"a.b"', "match": {"value": 7}}, True),
    ({"key": "a.b", "match": {"value": 7}}, False),
    ({"key": "n", "match": {"any": []}}, False),
    ({"key": "n", "match": {"any": ["1", 2, 1]}}, True),
    ({"key": "n", "match": {"except": [1]}}, False),
    ({"key": "n", "match": {"except": []}}, True),
    ({"key": "l", "match": {"except": [1]}}, True),
    ({"key": "z", "match": {"except": [1]}}, False),
    ({"key": "e", "match": {"except": [1]}}, False),
    ({"key": "none", "match": {"except": [1]}}, False),
    ({"key": "o", "match": {"except": [1]}}, True),
    ({"key": "big", "match": {"value": 2**53}}, False),
    ({"key": "big", "range": {"gt": 2**53}}, True),
    ({"key": "big", "range": {"gt": float(2**53), "lt": 2**53 + 2}}, True),
    ({"key": "t", "range": {"gte": 0}}, False),
    ({"key": "s", "range": {"gte": 0}}, False),
    ({"key": "l", "range": {"gte": 0, "lt": 2}}, True),
    ({"key": "d", "range": {"gte": "2024-05-01", "lt": "2024-05-01T00:00:01"}}, True),
    ({"key": "d", "range": {"lt": "2024-05-01T01:00:00+02:00"}}, False),
    ({"key": "d", "range": {"gt": "2024-05-01T01:00:00+02:00"}}, True),
    ({"key": "s", "range": {"gte": "2024-05-01"}}, False),
    ({"key": "s", "range": {"lt": "2024-05-01"}}, False),
    ({"key": "z", "exists": True}, True),
    ({"key": "e", "exists": True}, True),
    ({"key": "none", "exists": True}, False),
    ({"key": "none", "exists": False}, True),
    ({"key": "o.p.q", "exists": True}, True),
    ({"key": "o.r", "exists": True}, False),
    ({"is_null": {"key": "z"}}, True),
    ({"key": "l", "is_null": True}, True),
    ({"is_null": {"key": "none"}}, False),
    ({"key": "none", "is_null": False}, True),
    ({"is_empty": {"key": "none"}}, True),
    ({"is_empty": {"key": "z"}}, True),
    ({"is_empty": {"key": "e"}}, True),
    ({"is_empty": {"key": "l"}}, False),
    ({"has_id": ["6E0A4DAE-2B0B-4A4C-9C1D-0123456789AB"]}, True),
    ({"has_id": []}, False),
    ({"should": [{"key": "n", "match": {"value": 5}}, {"key": "t", "exists": True}]}, True),
    ({"should": [{"key": "n", "match": {"value": 5}}]}, False),
    ({"must_not": {"key": "n", "match": {"value": 5}}}, True),
    ({"min_should": {"conditions": [ONE, {"key": "n", "exists": True}], "min_count": 2}}, False),
    ({"min_should": {"conditions": [ONE, {"key": "n", "exists": True}], "min_count": 1}}, True),
    ({"min_should": {"conditions": [], "min_count": 0}}, True),
]


@pytest.mark.parametrize(("condition", "holds"), MEANINGS)
def test_what_a_condition_means(condition, holds):
    where = parse_filter({"must": [condition]})
    assert where.matches(NOTHING_MISSING, ID) is holds
    for others in ([], [{}], [{"e": [1], "n": "1", "z": []}] * 200):
        rows = [msgspec.json.encode(row) for row in [*others, NOTHING_MISSING]]
        columns = Columns(lambda start, end, rows=rows: rows[start:end], len(rows))
        found = select(where, columns, lambda has, rows=rows: np.array([ID in has.ids] * len(rows)))
        assert bool(found[-1]) is holds


@pytest.mark.parametrize("values", [NUMBERS, DATES])
def test_a_range_means_what_the_definition_says_for_every_bound(values):
    rows = [{"a": value} for value in [*NUMBERS, *TEXTS, True, None]]
    encoded = [msgspec.json.encode(row) for row in rows]
    columns = Columns(lambda start, end: encoded[start:end], len(rows))
    for operator in ("gt", "gte", "lt", "lte"):
        for value in values:
            where = parse_filter({"must": [{"key": "a", "range": {operator: value}}]})
            expected = [where.matches(row, "") for row in rows]
            assert select(where, columns, lambda _: None).tolist() == expected


def test_filters_of_one_form_are_equal():
    def same(first, second):
        one, other = parse_filter({"must": [first]}), parse_filter({"must": [second]})
        assert one != other or hash(one) == hash(other)
        return one == other

    assert same({"key": "a", "match": {"value": 1}}, {"key": "a[]", "match": {"any": [1.0]}})
    assert not same({"key": "a", "match": {"value": 1}}, {"key": "a", "match": {"value": True}})
    assert not same({"key": "a", "match": {"any": [1]}}, {"key": "a", "match": {"except": [1]}})
    assert not same({"key": "a", "exists": True}, {"key": "a", "is_null": True})
    numbers, dates = {"gte": 0}, {"gte": "1970-01-01"}
    assert not same({"key": "a", "range": numbers}, {"key": "a", "range": dates})


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
        # without its metadata, the row would match this one
        no_other = {"must_not": [{"key": "n", "match": {"value": 0}}]}
        hits = books.search([0], where=no_other, on_damage="exclude")
        assert [hit.id for hit in hits] == [f"{i}" for i in (1, 3, 5) if f"{i}" not in named]
        assert hits.excluded == named
        with pytest.raises(DamagedDataError) as caught:
            books.scroll(where=no_other)
        assert caught.value.details["ids"] == named
        with pytest.raises(DamagedDataError):
            list(books.scan(where=no_other))
        with pytest.raises(DamagedDataError):
            books.delete(where=no_other)
