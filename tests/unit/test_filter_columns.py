"""A filter over columns finds the rows that it finds one by one, however the rows are held."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.filter_cases import FILTERS, IDS, METADATA

from dvecdb import Database, Settings
from dvecdb.engine import row_columns
from dvecdb.search import columns as columns_module
from dvecdb.search.columns import COLUMNS_MAX, NESTED, Block, Columns
from dvecdb.search.filters import FIELDS_MAX, parse_filter
from dvecdb.search.selection import column_keys, select
from dvecdb.testing.disk import MemoryDisk

ROWS = st.lists(METADATA, max_size=12)


def encoded(rows):
    return [b"" if row is None else msgspec.json.encode(row) for row in rows]


def columns_over(values):
    return Columns(lambda start, end: values[start:end])


def selected(where, columns, ids):
    def having(condition):
        return np.array([one in condition.ids for one in ids], dtype=np.bool_)

    return select(where, columns, having).tolist()


@given(ROWS, st.lists(FILTERS, min_size=1, max_size=3), st.data())
def test_columns_find_what_the_definition_finds_however_the_rows_came(rows, wheres, data):
    columns = columns_over(encoded(rows))
    while True:
        for given_where in wheres:
            where = parse_filter(given_where)
            if where is not None:
                known = list(zip(rows, IDS, strict=False))[: columns.rows]
                expected = [where.matches(row, one) for row, one in known]
                assert selected(where, columns, IDS) == expected
        if columns.rows == len(rows):
            break
        columns.extend(data.draw(st.integers(columns.rows + 1, len(rows))))


@given(st.lists(METADATA, min_size=1, max_size=12), FILTERS)
def test_many_rows_are_read_as_few_are(rows, given_where):
    where = parse_filter(given_where)
    if where is None:
        return
    many = rows * (columns_module._STRUCT_ROWS // len(rows) + 1)
    ids = [IDS[index % len(IDS)] for index in range(len(many))]
    columns = columns_over(encoded(many))
    columns.extend(len(many))
    found = selected(where, columns, ids)
    assert found == [where.matches(row, one) for row, one in zip(many, ids, strict=True)]


@given(ROWS, st.lists(FILTERS, min_size=1, max_size=3), st.data())
def test_a_collection_finds_what_the_definition_finds(rows, wheres, data):
    disk, settings = MemoryDisk(), Settings(ballast_bytes=0)
    options = {"files": disk, "settings": settings, "background": False}
    with Database("d", **options) as database:
        books = database.create_collection("books", dimension=1, metric="euclidean")
        for index, metadata in enumerate(rows):
            books.upsert([IDS[index]], [[index]], [metadata])
            action = data.draw(st.sampled_from(["nothing", "flush", "ask"]))
            if action == "flush":
                books.flush()
            elif action == "ask":
                for where in wheres:
                    books.count(where=where)
        gone = data.draw(st.sets(st.sampled_from(IDS), max_size=3))
        books.delete(sorted(gone))
        left = {one: row for one, row in zip(IDS, rows, strict=False) if one not in gone}
        _check(books, left, wheres)
        if rows:
            before = books.snapshot(as_of=len(rows))
            everything = dict(zip(IDS, rows, strict=False))
            assert before.ids(where=wheres[0]) == _meant(everything, wheres[0])
    with Database("d", **options) as database:
        _check(database.collection("books"), left, wheres)


def _meant(rows, where):
    parsed = parse_filter(where)
    return [one for one, row in rows.items() if parsed is None or parsed.matches(row, one)]


def _check(books, rows, wheres):
    for where in wheres:
        expected = _meant(rows, where)
        assert [hit.id for hit in books.search([0], limit=20, where=where)] == expected
        assert books.count(where=where) == len(expected)
        assert [record.id for record in books.scroll(where=where).records] == expected
        assert [record.id for record in books.scan(where=where)] == expected
        found = books.get(IDS, where=where)
        assert [record.id for record in found if record is not None] == expected
        pages, after = [], None
        while True:
            page = books.scroll(where=where, limit=2, after=after)
            pages += [record.id for record in page.records]
            after = page.next
            if after is None:
                break
        assert pages == expected


@pytest.fixture
def books():
    settings = Settings(ballast_bytes=0)
    with Database("d", files=MemoryDisk(), settings=settings, background=False) as database:
        yield database.create_collection("books", dimension=1, metric="euclidean")


def test_what_has_an_id_is_found_in_each_state(books):
    books.upsert(["a", "b"], [[1], [2]])
    books.flush()
    books.upsert(["a"], [[3]])
    books.flush()
    where = {"must": [{"has_id": ["a"]}]}
    for as_of, distance in ((None, 3.0), (1, 1.0), (None, 3.0)):
        hits = books.search([0], where=where, as_of=as_of)
        assert [(hit.id, hit.distance) for hit in hits] == [("a", distance)]
        assert books.snapshot(as_of=as_of).count(where=where) == 1


def test_pages_of_one_segment_go_on_where_they_ended(books):
    books.upsert(IDS, [[1]] * len(IDS), [{"late": index > 5} for index in range(len(IDS))])
    books.delete(["7"])
    for _ in range(2):  # in memory, then in a segment
        after, found = None, []
        while True:
            page = books.scroll(where={"late": True}, limit=2, after=after)
            found += [record.id for record in page.records]
            after = page.next
            if after is None:
                break
        assert found == ["6", "8", "9", "10", "11"]
        assert [hit.id for hit in books.search([1], where={"late": True})] == found
        books.flush()


def test_the_mask_of_a_segment_is_kept(books, monkeypatch):
    books.upsert(IDS, [[1]] * len(IDS), [{"n": index} for index in range(len(IDS))])
    books.flush()
    where = {"must": [{"key": "n", "range": {"lt": 5}}]}
    assert books.count(where=where) == 5
    books.delete(["0"])
    monkeypatch.setattr(row_columns, "select", None)
    assert books.count(where=where) == 4
    (segment,) = books._store.view.row_segments
    monkeypatch.undo()
    for number in range(2 * row_columns.MASKS_MAX):
        assert books.count(where={"n": number + 1}) == (number + 1 < len(IDS))
    assert len(segment.row_columns._masks) == row_columns.MASKS_MAX


@given(ROWS)
def test_the_values_of_a_path_are_given_with_their_rows(rows):
    columns = columns_over(encoded(rows))
    for end in range(0, len(rows) + 1, 5):
        columns.extend(end)
    columns.extend(len(rows))
    found = [[] for _ in rows]
    for start, column in columns.values_of(("a",)):
        owners = range(column.rows) if column.owners is None else column.owners.tolist()
        for owner, code in zip(owners, column.codes.tolist(), strict=True):
            if code >= 0:
                found[start + owner].append(column.distinct[code])
    for row, values in zip(rows, found, strict=True):
        value = (row or {}).get("a", [])
        expected = value if isinstance(value, list) else [value]
        assert len(values) == len(expected)
        for one, true in zip(values, expected, strict=True):
            if isinstance(true, list | dict):
                assert one is NESTED
            else:
                assert one == true
                assert isinstance(one, bool) == isinstance(true, bool)


def test_a_block_keeps_no_more_columns_than_it_may():
    block = Block(lambda start, end: [b'{"a":1}'] * (end - start), 0, 3)
    for number in range(2 * COLUMNS_MAX):
        where = parse_filter({"must": [{"key": f"a{number}", "exists": True}]})
        block.columns(column_keys(where))
    assert len(block._columns) == COLUMNS_MAX


def test_the_columns_of_the_widest_filter_are_all_kept():
    many = {"must": [{"key": f"a{number}", "exists": False} for number in range(FIELDS_MAX)]}
    columns = columns_over([b'{"b":1}'] * 3)
    columns.extend(3)
    where = parse_filter(many)
    assert selected(where, columns, IDS) == [True] * 3
    assert all(block.has(column_keys(where)) for block in columns.blocks)


def test_rows_that_come_one_by_one_are_read_a_few_times_each():
    read = []

    def values(start, end):
        read.append(end - start)
        return [b'{"a":1}'] * (end - start)

    columns = Columns(values)
    where = parse_filter({"a": 1})
    for rows in range(1, 1001):
        columns.extend(rows)
        assert sum(selected(where, columns, IDS)) == rows
    assert sum(read) < 1000 * 12
    assert len(columns.blocks) < 12


@pytest.mark.parametrize("characters", [0, 8 * 1024 * 1024])
def test_words_are_found_with_and_without_an_index(monkeypatch, characters):
    monkeypatch.setattr(columns_module, "INDEXED_CHARACTERS", characters)
    rows = [{"t": "Ein HAUS am See"}, {"t": ["see", "haus"]}, {"t": "Hausboot am See"}, {"t": 5}]
    columns = columns_over(encoded(rows))
    columns.extend(len(rows))
    where = parse_filter({"must": [{"key": "t", "match": {"text": "haus, see!"}}]})
    assert selected(where, columns, IDS) == [True, False, False, False]
