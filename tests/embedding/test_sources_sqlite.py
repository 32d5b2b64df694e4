import contextlib
import sqlite3

import msgspec
import pytest

from dvecdb.embedding.job import SourceSpec
from dvecdb.embedding.sources import sqlite
from dvecdb.embedding.sources.sqlite import SqliteSource
from dvecdb.errors import Code, InvalidRequestError, UnavailableError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "odd name?#%.db"


def fill(path, *statements):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(*statement) if isinstance(statement, tuple) else (
                connection.executescript(statement)
            )
        connection.commit()


def source(path, **spec):
    spec = {"key": "id", "text": "title", **spec}
    if "query" not in spec:
        spec.setdefault("table", "t")
    return SqliteSource("cyber", SourceSpec(path=str(path), kind="sqlite", **spec), str(path))


def read_all(opened, size=1):
    rows, after = [], None
    while len(rows) < 1_000 and (page := opened.read(after, size)):
        rows += page
        after = msgspec.json.decode(msgspec.json.encode(page[-1].position))
    return rows


def refusal(opened):
    with contextlib.closing(opened), pytest.raises(InvalidRequestError) as caught:
        opened.check()
    assert caught.value.code is Code.SOURCE_REFUSED
    assert "source cyber" in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("CREATE TABLE t (id, title)", "no primary key"),
        ("CREATE TABLE t (id, n INTEGER PRIMARY KEY, title)", "of it: n"),
        ("CREATE TABLE t (id, n, title, UNIQUE (id, n))", "not stable"),
        ("CREATE TABLE t (id, title); CREATE UNIQUE INDEX i ON t (id) WHERE id > 0", "not stable"),
        ("CREATE TABLE t (id, title); CREATE UNIQUE INDEX i ON t (lower(id))", "not stable"),
        ("CREATE TABLE t (id TEXT PRIMARY KEY, title); INSERT INTO t VALUES (NULL, 'x')", "null"),
        ("CREATE TABLE t (id PRIMARY KEY, title); INSERT INTO t VALUES (1, 'x'), ('1', 'y')",
         "integer here and text there"),
        ("CREATE VIEW t AS SELECT 1 AS id, 'a' AS title UNION ALL SELECT 1, 'b'",
         "more than one row: 1 (2 rows)"),
        ("CREATE TABLE other (id INTEGER PRIMARY KEY)", "no table t"),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY, titel)", "no column 'title'"),
    ],
)  # fmt: skip
def test_a_key_that_is_not_stable_is_refused_and_says_why(table, expected, path):
    fill(path, table)
    assert expected in refusal(source(path))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELEC", "no such table"), ("SELECT 1 AS id", "no column 'title'"),
        ("SELECT 1 AS id, 'a' AS title; DROP TABLE t", "syntax error"),
        ("DELETE FROM t RETURNING *", "syntax error"), ("SELECT * FROM missing", "no such table"),
    ],
)  # fmt: skip
def test_a_query_that_cannot_be_read_is_refused(query, expected, path):
    fill(path, "CREATE TABLE t (id INTEGER PRIMARY KEY, title)")
    assert expected in refusal(source(path, query=query))


@pytest.mark.parametrize(
    "table",
    [
        "CREATE TABLE t (id INTEGER PRIMARY KEY, title)",
        "CREATE TABLE t (id INT PRIMARY KEY, title) WITHOUT ROWID",
        "CREATE TABLE t (ID TEXT UNIQUE, Title)",
        (
            "CREATE TABLE s (id, title); CREATE VIEW t AS SELECT * FROM s; "
            "CREATE TRIGGER i INSTEAD OF INSERT ON t BEGIN "
            "INSERT INTO s VALUES (new.id, new.title); END"
        ),
        "CREATE TABLE t (id TEXT COLLATE NOCASE PRIMARY KEY, title)",
    ],
)
def test_a_key_that_is_stable_is_taken(table, path):
    fill(path, table, "INSERT INTO t VALUES (2, 'b'), (1, 'a'), (3, 'c')")
    with contextlib.closing(source(path)) as opened:
        opened.check()
        assert [(row.key, row.text) for row in read_all(opened)] == [
            ("1", "a"), ("2", "b"), ("3", "c")
        ]  # fmt: skip


def test_keys_are_read_in_the_order_of_their_collation(path):
    fill(
        path,
        "CREATE TABLE t (id TEXT COLLATE NOCASE PRIMARY KEY, title)",
        "INSERT INTO t VALUES ('B', 'x'), ('a', 'x'), ('C', 'x'), ('ä', 'x'), ('', 'x')",
    )
    with contextlib.closing(source(path)) as opened:
        opened.check()
        rows = read_all(opened)
    assert [row.key for row in rows] == ["('')", "a", "B", "C", "ä"]
    assert rows[0].problem == "it has no key"


def test_bytes_that_are_no_text_are_problems_and_no_failure(path):
    fill(path, "CREATE TABLE t (id TEXT PRIMARY KEY, title, more)",
         (("INSERT INTO t VALUES ('a', CAST(x'e4' AS TEXT), 1), ('b', 'x', CAST(x'e4' AS TEXT)), "
          "(CAST(x'63e4' AS TEXT), 'x', 1), ('d' || char(0), 'x', 1), ('e', x'ff', x'00'), "
          "('f', 1.5, 9e999)"),))  # fmt: skip
    with contextlib.closing(source(path, metadata=("more",))) as opened:
        opened.check()
        rows = read_all(opened)
        assert [row.key for row in rows] == list(opened.keys())
        assert opened.count() == 6
    assert [row.problem and row.problem[:7] for row in rows] == [
        "title: ", "more: t", "its key", "its key", None, None
    ]  # fmt: skip
    assert (rows[4].text, rows[4].metadata) == ("/w==", {"more": "AA=="})
    assert (rows[5].text, rows[5].metadata) == ("1.5", {"more": None})
    assert len({row.key for row in rows}) == 6


def test_a_blob_can_be_the_key(path):
    fill(path, "CREATE TABLE t (id BLOB PRIMARY KEY, title)",
         "INSERT INTO t VALUES (x'ff', 'c'), (x'00', 'a'), (x'0001', 'b')")  # fmt: skip
    with contextlib.closing(source(path)) as opened:
        opened.check()
        rows = read_all(opened)
    assert [(row.key, row.text) for row in rows] == [("AA==", "a"), ("AAE=", "b"), ("/w==", "c")]


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100, None])
def test_what_is_no_database_is_refused(content, path):
    if content is not None:
        path.write_bytes(content)
    refusal(source(path))


def test_a_directory_is_refused(tmp_path):
    assert "cannot be opened" in refusal(source(tmp_path))


def test_a_file_that_is_locked_is_unreachable_until_it_is_not(path, monkeypatch):
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    fill(path, "CREATE TABLE t (id INTEGER PRIMARY KEY, title)", "INSERT INTO t VALUES (1, 'a')")
    with contextlib.closing(sqlite3.connect(path)) as writer, contextlib.closing(
        source(path)) as opened:  # fmt: skip
        opened.check()
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UnavailableError) as caught:
            opened.read(None, 1)
        assert caught.value.code is Code.SOURCE_UNREACHABLE
        writer.rollback()
        assert len(opened.read(None, 1)) == 1


def test_a_database_with_a_log_beside_it_is_read_while_it_is_written(path):
    with contextlib.closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode = wal")
        writer.executescript("CREATE TABLE t (id INTEGER PRIMARY KEY, title)")
        writer.execute("INSERT INTO t VALUES (1, 'a')")
        writer.commit()
        writer.execute("INSERT INTO t VALUES (2, 'b')")
        with contextlib.closing(source(path)) as opened:
            opened.check()
            assert [row.key for row in opened.read(None, 9)] == ["1"]
            writer.commit()
            assert [row.key for row in opened.read([1], 9)] == ["2"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [("(1), (12), (9)", 12), ("('2025-01-02'), ('2025-01-10'), (NULL)", "2025-01-10"),
     ("(1.5), (9e999)", 1.5), ("(NULL)", None)],
)  # fmt: skip
def test_a_mark_is_the_greatest_value(values, expected, path):
    fill(path, "CREATE TABLE t (at, id INTEGER PRIMARY KEY, title DEFAULT 'x')",
         f"INSERT INTO t (at) VALUES {values}")  # fmt: skip
    with contextlib.closing(source(path, changed_since="at")) as opened:
        opened.check()
        assert opened.mark() == expected
        assert opened.count(expected) == len(opened.read(None, 9, expected))


def test_nothing_can_be_written(path):
    fill(path, "CREATE TABLE t (id INTEGER PRIMARY KEY, title)")
    with contextlib.closing(source(path)) as opened:
        opened.check()
        with pytest.raises(InvalidRequestError):
            opened._query("INSERT INTO t VALUES (1, 'x')")


def test_a_file_without_a_table_or_query_is_refused(path):
    with pytest.raises(InvalidRequestError) as caught:
        SqliteSource("cyber", SourceSpec(key="id", text="t", path=str(path)), str(path))
    assert caught.value.code is Code.INVALID_JOB
