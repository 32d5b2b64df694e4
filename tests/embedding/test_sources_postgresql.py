"""Against a real PostgreSQL: keys, types, rights, failures."""

import contextlib
import datetime as dt
import threading
import traceback

import msgspec
import psycopg
import pytest

from dvecdb.embedding.job import SourceSpec
from dvecdb.embedding.sources import postgresql, postgresql_connection
from dvecdb.embedding.sources.candidates import candidates
from dvecdb.embedding.sources.opening import open_source
from dvecdb.embedding.sources.postgresql import PostgresSource
from dvecdb.embedding.sources.postgresql_catalog import quoted_table
from dvecdb.errors import Code, DvecdbError, InvalidRequestError, UnavailableError
from dvecdb.testing.postgres import Postgres


@pytest.fixture(scope="module")
def server():
    with Postgres(password="correct horse".replace(" ", "-")) as running:
        yield running


@pytest.fixture
def database(server):
    """An empty schema and an open connection to it."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        connection.execute('DROP SCHEMA IF EXISTS "Other" CASCADE')
        yield connection


def source(server, dsn=None, statement_seconds=60.0, **spec):
    spec = {"key": "id", "text": "title", **spec}
    if "query" not in spec:
        spec.setdefault("table", "t")
    return PostgresSource(
        "cyber", SourceSpec(**spec), dsn or server.dsn, statement_seconds=statement_seconds
    )


def read_all(opened, size=1, after=None):
    rows = []
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


# --- keys ----------------------------------------------------------------------------------------

KEYS = {
    "smallint": ["-32768", "0", "7", "32767"],
    "bigint": ["-9223372036854775808", "0", "9223372036854775807"],
    "numeric": ["-1e40", "0.1000", "0.12345678901234567890123", "1e40", "NaN"],
    "real": ["-3.4e38", "0.1", "0.3", "1e-40", "Infinity"],
    "double precision": ["-Infinity", "0.1", "0.30000000000000004", "5e-324", "NaN"],
    "text": ["", " ", "A", "Z", "a", "ä", "z", "z ", "\U0001f512", "'; DROP TABLE t; --", "%s $1"],
    "varchar(5)": ["abcde", "abcdf", "é"],
    "char(3)": ["a", "ab", "abc", "b"],
    "uuid": ["00000000-0000-0000-0000-000000000001", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "date": ["0044-03-15 BC", "2025-10-29", "2025-10-30", "infinity"],
    "timestamp": ["2025-10-29 10:00:00", "2025-10-29 10:00:00.000001", "infinity"],
    "timestamptz": ["2025-10-26 00:30:00Z", "2025-10-26 01:30:00Z", "2025-10-26 01:30:00.5Z"],
    "time": ["00:00", "23:59:59.999999"],
    "interval": ["1 second", "1 day", "1 year 2 months"],
    "boolean": ["f", "t"],
    "bytea": ["\\x", "\\x00", "\\x61", "\\xff"],
    "inet": ["10.0.0.1", "10.0.0.0/8", "::1"],
    "mood": ["sad", "ok", "happy"],
    "int[]": ["{}", "{1,2}", "{1,3}"],
    'text COLLATE "pg_unicode_fast"': ["a", "ä", "A", "b", "Z", "ß", "ss", "-a"],
    "citext": ["a", "B", "c", "Ä", "z"],
    "int4range": ["empty", "[1,3)", "[1,)"],
}  # fmt: skip


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
@pytest.mark.parametrize("type", KEYS)
def test_a_key_of_any_type_is_a_position_that_reads_back(type, zone, server, database):
    database.execute("DROP TYPE IF EXISTS mood; CREATE EXTENSION IF NOT EXISTS citext")
    database.execute("CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')")
    database.execute(f"CREATE TABLE t (id {type} PRIMARY KEY, title text)")
    for value in KEYS[type]:
        database.execute("INSERT INTO t VALUES (%s, %s)", (value, f"text of {value}"))
    expected = database.execute("SELECT title FROM t ORDER BY id").fetchall()
    style = "datestyle = 'German, DMY'; ALTER ROLE postgres SET intervalstyle = 'sql_standard'"
    database.execute(
        f"ALTER ROLE postgres SET timezone = '{zone}'; ALTER ROLE postgres SET {style}"
    )
    try:
        with contextlib.closing(source(server)) as opened:
            opened.check()
            rows = read_all(opened)
            keys = [row.key for row in rows]
            assert list(opened.keys()) == keys
    finally:
        database.execute("ALTER ROLE postgres RESET ALL")
    found = [row.text for row in rows if row.problem is None]
    assert found == [title for (title,) in expected if type != "text" or title != "text of "]
    assert len(rows) == len(set(keys)) == len(KEYS[type])


def test_a_key_of_several_columns_is_read_in_their_order(server, database):
    database.execute('CREATE TABLE t (b text, "A" int, title text, PRIMARY KEY ("A", b))')
    database.execute(
        "INSERT INTO t SELECT b, a, a || b FROM generate_series(1, 3) a, unnest('{x,y}'::text[]) b"
    )
    with contextlib.closing(source(server, key="A, b")) as opened:
        opened.check()
        rows = read_all(opened)
    assert [row.text for row in rows] == ["1x", "1y", "2x", "2y", "3x", "3y"]
    assert rows[0].key == '["1","x"]'
    assert rows[0].position == ["1", "x"]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("CREATE TABLE t (id int, title text)", "no primary key"),
        ("CREATE TABLE t (id int, n int UNIQUE, title text)", "no primary key"),
        ("CREATE TABLE t (id int, n int PRIMARY KEY, title text)", "of it: n"),
        ("CREATE TABLE t (id int, a int, b int, title text, PRIMARY KEY (a, b))", "of it: a, b"),
        ("CREATE TABLE t (id int, title text); CREATE UNIQUE INDEX ON t (id) WHERE id > 0",
         "not stable"),
        ("CREATE TABLE t (id int, title text); CREATE UNIQUE INDEX ON t ((id + 1))", "not stable"),
        ("CREATE TABLE t (id int, n int, title text, UNIQUE (id, n))", "not stable"),
        ("CREATE TABLE t (id int UNIQUE, title text); INSERT INTO t VALUES (NULL, 'x')", "is null"),
        ("CREATE VIEW t AS SELECT 1 AS id, 'a' AS title UNION ALL SELECT 1, 'b'",
         "more than one row: 1 (2 rows)"),
        ("CREATE VIEW t AS SELECT NULL::int AS id, 'a' AS title", "is null"),
        (("CREATE TABLE t (id int PRIMARY KEY, title text); CREATE TABLE h () INHERITS (t);"
         "INSERT INTO t VALUES (1, 'a'); INSERT INTO h VALUES (1, 'b')"), "more than one row"),
        ("CREATE TABLE t (id point, title text)", "not stable"),
        ("CREATE VIEW t AS SELECT '{}'::json AS id, 'a' AS title", "json"),
        ("CREATE TABLE t (id int PRIMARY KEY, titel text)", "no column 'title'"),
        ('CREATE TABLE "T" (id int PRIMARY KEY, title text)', "no table t"),
    ],
)  # fmt: skip
def test_a_key_that_is_not_stable_is_refused_and_says_why(table, expected, server, database):
    database.execute(table)
    assert expected in refusal(source(server))


@pytest.mark.parametrize(
    "table",
    [
        "CREATE TABLE t (id int UNIQUE, title text); INSERT INTO t VALUES (1, 'x')",
        "CREATE TABLE t (id int UNIQUE NOT NULL, title text); INSERT INTO t VALUES (1, 'x')",
        (
            "CREATE TABLE t (id int, title text); CREATE UNIQUE INDEX ON t (id) INCLUDE (title);"
            "INSERT INTO t VALUES (1, 'x')"
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY, title text) PARTITION BY RANGE (id);"
            "CREATE TABLE p PARTITION OF t DEFAULT; INSERT INTO t VALUES (1, 'x')"
        ),
        "CREATE VIEW t AS SELECT 1 AS id, 'x'::text AS title",
        "CREATE MATERIALIZED VIEW t AS SELECT 1 AS id, 'x'::text AS title",
    ],
)
def test_a_key_that_is_stable_is_taken(table, server, database):
    database.execute(table)
    with contextlib.closing(source(server)) as opened:
        opened.check()
        assert [(row.key, row.text) for row in read_all(opened)] == [("1", "x")]


def test_names_are_taken_as_they_are_written(server, database):
    database.execute('CREATE SCHEMA "Other"')
    database.execute(
        'CREATE TABLE "Other"."my.T""able" ("Id %s" int PRIMARY KEY, "a $1 ""b""" text)'
    )
    database.execute('INSERT INTO "Other"."my.T""able" VALUES (1, \'x\'), (2, \'y\')')
    spec = {"table": 'Other."my.T""able"', "key": "Id %s", "text": '{a $1 "b"}%'}
    with contextlib.closing(source(server, **spec)) as opened:
        opened.check()
        assert [row.text for row in read_all(opened)] == ["x%", "y%"]


@pytest.mark.parametrize("name", ["", "a.b.c", ".", "a.", ".a", 'a"b', '"a', "a..b", '""'])
def test_what_is_no_name_of_a_table_is_refused(name, server):
    with pytest.raises(ValueError):
        quoted_table(name)
    with pytest.raises(InvalidRequestError) as caught:
        source(server, table=name)
    assert caught.value.code is Code.INVALID_JOB


# --- queries -------------------------------------------------------------------------------------


def test_a_query_is_a_table_too(server, database):
    database.execute("CREATE TABLE t (id int PRIMARY KEY, title text)")
    database.execute("INSERT INTO t SELECT g, 'title ' || g FROM generate_series(1, 30) g")
    query = "SELECT id AS number, title || '%' AS words FROM t WHERE title LIKE '%1%' -- all;\n ; "
    with contextlib.closing(source(server, query=query, key="number", text="words")) as opened:
        opened.check()
        rows = read_all(opened, 5)
        assert opened.count() == len(rows) == 12
    assert rows[0].text == "title 1%"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELEC", "syntax error"),
        ("SELECT 1 AS id", "no column 'title'"),
        ("SELECT 1 AS id, 'a' AS title, 'b' AS title", "column 'title' twice"),
        ("SELECT n AS id, 'a' AS title FROM unnest('{1,1,2}'::int[]) n", "more than one row"),
        ("SELECT n AS id, 'a' AS title FROM unnest('{1,NULL}'::int[]) n", "is null"),
        ("SELECT 1 AS id, 'a' AS title; DROP TABLE t", "syntax error"),
        ("SELECT 1 AS id, 'a' AS title) AS x; DROP TABLE t; --", "syntax error"),
        ("DELETE FROM t RETURNING *", "syntax error"),
        ("WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x", "data-modifying"),
        ("SELECT id, evil() AS title FROM t", "read-only"),
        ("SELECT 1 AS id, set_config('transaction_read_only', 'off', true) AS title",
         "before any query"),
        ("SELECT 1 AS id, (1 / 0)::text AS title", "division"),
        ("SELECT 1 AS id, 'x'::int::text AS title", "invalid input"),
    ],
)  # fmt: skip
def test_a_query_that_cannot_be_read_is_refused_and_nothing_is_changed(
    query, expected, server, database
):
    database.execute("CREATE TABLE t (id int PRIMARY KEY, title text)")
    database.execute("INSERT INTO t VALUES (1, 'a')")
    database.execute(
        "CREATE FUNCTION evil() RETURNS text AS $$ DELETE FROM t RETURNING 'x' $$ LANGUAGE sql"
    )
    assert expected in refusal(source(server, query=query))
    assert database.execute("SELECT * FROM t").fetchall() == [(1, "a")]


# --- values --------------------------------------------------------------------------------------


def test_values_become_metadata_in_one_form_whatever_the_server_prefers(server, database):
    columns = {
        "n": ("numeric(10,2)", "12.50", 12.5), "whole": ("numeric", "12", 12),
        "exact": ("numeric", "0.12345678901234567890", "0.12345678901234567890"),
        "f": ("float8", "NaN", None), "r": ("real", "0.1", 0.1), "b": ("bool", "t", True),
        "at": ("timestamptz", "2025-10-29 10:00:00+02", "2025-10-29T08:00:00+00:00"),
        "local": ("timestamp", "2025-10-29 10:00:00.5", "2025-10-29T10:00:00.5"),
        "late": ("timestamptz", "infinity", "infinity"), "day": ("date", "0044-03-15 BC",
                                                                  "0044-03-15 BC"),
        "u": ("uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
              "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        "raw": ("bytea", "\\x616263", "YWJj"), "j": ("jsonb", '{"a": [1, 2.5, null]}',
                                                      {"a": [1, 2.5, None]}),
        "odd": ("json", '{"a": NaN}'.replace("NaN", "1e400"), {"a": None}),
        "list": ("text[]", '{a,NULL,"b c"}', ["a", None, "b c"]),
        "grid": ("int[]", "{{1,2},{3,4}}", [[1, 2], [3, 4]]),
        "moments": ("timestamp[]", '{"2025-10-29 10:00:00",NULL}', ["2025-10-29T10:00:00", None]),
        "prices": ("numeric[]", "{1.5,NaN}", [1.5, None]),
        "span": ("interval", "1 day 02:00", "P1DT2H"), "ip": ("inet", "10.0.0.1", "10.0.0.1"),
        "range": ("int4range", "[1,5)", "[1,5)"), "null": ("int", None, None),
        "big": ("bigint", "9223372036854775807", 9223372036854775807),
        "letter": ('"char"', "x", "x"), "fixed": ("char(3)", "a", "a  "),
        "words": ("text", "Zürich \U0001f512", "Zürich \U0001f512"),
    }  # fmt: skip
    fields = ", ".join(f'"{name}" {type}' for name, (type, _, _) in columns.items())
    database.execute(f"CREATE TABLE t (id int PRIMARY KEY, title text, {fields})")
    marks = ", ".join("%s" for _ in columns)
    database.execute(
        f"INSERT INTO t VALUES (1, 'x', {marks})", [given for _, given, _ in columns.values()]
    )
    database.execute("ALTER ROLE postgres SET datestyle = 'German, DMY'")
    database.execute("ALTER ROLE postgres SET timezone = 'America/New_York'")
    database.execute("ALTER ROLE postgres SET bytea_output = 'escape'")
    try:
        with contextlib.closing(source(server, metadata=tuple(columns))) as opened:
            opened.check()
            (row,) = read_all(opened)
    finally:
        database.execute("ALTER ROLE postgres RESET ALL")
    expected = {name: value for name, (_, _, value) in columns.items()}
    assert row.metadata == expected
    assert [type(one) for one in row.metadata.values()] == list(map(type, expected.values()))
    text = "{n}|{exact}|{f}|{at}|{j}|{list}|{null}|{raw}|{b}"
    with contextlib.closing(source(server, text=text)) as opened:
        (row,) = read_all(opened)
    assert row.text == (
        '12.50|0.12345678901234567890|nan|2025-10-29T08:00:00+00:00|{"a":[1,2.5,null]}|'
        '["a",null,"b c"]||YWJj|true'
    )


def test_a_database_that_takes_any_bytes_for_text_gives_problems_and_no_failure(server, database):
    database.execute("DROP DATABASE IF EXISTS raw")
    database.execute(
        "CREATE DATABASE raw ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE_PROVIDER libc "
        "LOCALE 'C'"
    )
    dsn = server.dsn_of("raw")
    with psycopg.connect(dsn, autocommit=True, client_encoding="SQL_ASCII") as raw:
        raw.execute("CREATE TABLE t (id text PRIMARY KEY, title text, j json)")
        raw.execute(
            b"INSERT INTO t VALUES ('a', 'gut \xc3\xa4', '{}'), ('b', 'schlecht \xe4', '{}'), "
            b"('c', 'x', '\"\\ud800\"'), ('d\xe4', 'x', '{}'), ('e', 'last', '{}')"
        )
    with contextlib.closing(source(server, dsn, metadata=("j",))) as opened:
        opened.check()
        rows = read_all(opened)
        assert list(opened.keys()) == [row.key for row in rows]
    assert [row.text for row in rows] == ["gut ä", None, None, None, "last"]
    assert rows[1].problem.startswith("title: ")
    assert rows[2].problem.startswith("j: ")
    assert "its key" in rows[3].problem
    assert len({row.key for row in rows}) == 5


# --- what changed --------------------------------------------------------------------------------


def table_of_changes(database, type="timestamptz"):
    database.execute(f"CREATE TABLE t (id int PRIMARY KEY, title text, at {type})")


def test_a_mark_is_the_greatest_time_and_never_lies_in_the_future(server, database):
    table_of_changes(database)
    with contextlib.closing(source(server, changed_since="at")) as opened:
        opened.check()
        assert opened.mark() is None
        database.execute("INSERT INTO t VALUES (1, 'a', '2025-01-01'), (2, 'b', '2025-01-02')")
        mark = opened.mark()
        assert mark == "2025-01-02 00:00:00+00"
        database.execute("INSERT INTO t VALUES (3, 'c', NULL), (4, 'd', 'infinity')")
        assert opened.mark() == mark
        assert [row.key for row in opened.read(None, 9, mark)] == ["2", "3", "4"]
        assert opened.count(mark) == 3
        database.execute("INSERT INTO t VALUES (5, 'e', '2999-01-01')")
        found = dt.datetime.fromisoformat(opened.mark())
        assert found <= dt.datetime.now(dt.UTC)
        assert len(opened.read(None, 9, opened.mark())) == 3


def test_a_mark_leaves_room_for_transactions_that_still_run(server, database):
    table_of_changes(database)
    with psycopg.connect(server.dsn) as slow:
        slow.execute("INSERT INTO t VALUES (1, 'slow', now())")
        database.execute("INSERT INTO t VALUES (2, 'fast', clock_timestamp())")
        with contextlib.closing(source(server, changed_since="at")) as opened:
            assert [row.key for row in opened.read(None, 9)] == ["2"]
            mark = opened.mark()
            assert dt.datetime.fromisoformat(mark) <= slow.execute("SELECT now()").fetchone()[0]
            slow.commit()
            assert [row.key for row in opened.read(None, 9, mark)] == ["1", "2"]


@pytest.mark.parametrize(
    ("type", "values", "expected"),
    [
        ("bigint", ["1", "12", "9"], "12"), ("date", ["2025-01-01", "infinity"], "2025-01-01"),
        ("float8", ["1.5", "NaN", "Infinity"], "1.5"), ("text", ["a", "b"], "b"),
        ("timestamp", ["2025-01-01", "infinity"], "2025-01-01 00:00:00"),
        ("numeric", ["1.50", "NaN"], "1.50"),
    ],
)  # fmt: skip
def test_any_type_with_an_order_can_be_the_mark(type, values, expected, server, database):
    table_of_changes(database, type)
    for number, value in enumerate(values):
        database.execute("INSERT INTO t VALUES (%s, 'x', %s)", (number, value))
    with contextlib.closing(source(server, changed_since="at")) as opened:
        opened.check()
        assert opened.mark() == expected
        assert len(opened.read(None, 9, expected)) == opened.count(expected) <= len(values)


def test_a_mark_of_another_type_reads_everything(server, database):
    table_of_changes(database)
    database.execute("INSERT INTO t VALUES (1, 'a', '2025-01-01')")
    with contextlib.closing(source(server, changed_since="at")) as opened:
        assert len(opened.read(None, 9, "no time")) == opened.count("no time") == 1
        assert len(opened.read(["no number"], 9)) == 1


def test_a_column_without_an_order_is_no_mark(server, database):
    table_of_changes(database, "point")
    assert "max(point)" in refusal(source(server, changed_since="at"))


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("correct-horse", "wrong-horse"), "authentication"),
        (("postgres:correct", "nobody:correct"), "authentication"),
        (("/postgres?", "/missing?"), "does not exist"),
        (("correct-horse", "correct@horse"), "cannot be read"),
        (("correct-horse", "correct/horse"), "cannot be read"),
        (("correct-horse", "correct?horse"), "authentication"),
        (("correct-horse", "correct#horse"), "authentication"),
        (("postgresql://", "mysql://"), "cannot be read"),
        (("correct-horse", "correct%zzhorse"), "cannot be read"),
        (("?", "?sslmode=require&"), "SSL"),
    ],
)
def test_wrong_credentials_are_refused_and_never_shown(change, expected, server, database):
    database.execute("CREATE TABLE t (id int PRIMARY KEY, title text)")
    dsn = f"{server.dsn}?connect_timeout=9".replace(*change)
    with pytest.raises(DvecdbError) as caught:
        source(server, dsn).check()
    assert caught.value.code is Code.SOURCE_REFUSED
    assert expected in caught.value.message
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.details)
    lines = [line for line in shown.splitlines() if "horse" in line and "File" not in line]
    assert lines == []


def test_a_table_that_may_not_be_read_is_refused(server, database):
    database.execute("CREATE TABLE t (id int PRIMARY KEY, title text)")
    database.execute("DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN PASSWORD 'guest-word'")
    database.execute("GRANT USAGE ON SCHEMA public TO guest")
    dsn = server.dsn.replace("postgres:correct-horse", "guest:guest-word")
    assert "permission denied" in refusal(source(server, dsn))
    database.execute("ALTER ROLE guest NOLOGIN")
    assert "not permitted to log in" in refusal(source(server, dsn))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:5432"])
def test_a_server_that_is_not_there_is_unreachable(address):
    dsn = f"postgresql://u:secret-word@{address}/d"
    opened = source(None, dsn, changed_since="at")
    keys = opened.keys()
    for call in (opened.check, opened.count, lambda: opened.read(None, 1), opened.mark, keys.send):
        with pytest.raises(UnavailableError) as caught:
            call(None) if call == keys.send else call()
        assert caught.value.code is Code.SOURCE_UNREACHABLE
        assert "secret-word" not in str(caught.value)


def test_a_driver_in_the_scheme_is_passed_over(server, database):
    database.execute("CREATE TABLE t (id int PRIMARY KEY, title text)")
    dsn = server.dsn.replace("postgresql://", "postgresql+asyncpg://")
    with contextlib.closing(source(server, dsn)) as opened:
        opened.check()


def test_a_server_killed_between_pages_is_unreachable_until_it_is_back(database, server):
    database.execute("CREATE TABLE t (id int PRIMARY KEY, title text)")
    database.execute("INSERT INTO t SELECT g, 'x' FROM generate_series(1, 100) g")
    with contextlib.closing(source(server)) as opened:
        opened.check()
        rows = list(opened.read(None, 10))
        for again in range(1, 4):
            server.kill()
            for _ in range(2):
                with pytest.raises(UnavailableError) as caught:
                    opened.read(rows[-1].position, 10)
                assert caught.value.code is Code.SOURCE_UNREACHABLE
            server.start()
            rows += opened.read(rows[-1].position, 10)
            assert len(rows) == 10 * again + 10
        rows += read_all(opened, 10, rows[-1].position)
    assert [row.key for row in rows] == [str(number) for number in range(1, 101)]


def test_a_server_killed_during_a_statement_is_unreachable(server):
    query = "SELECT 1 AS id, pg_sleep(60)::text AS title"
    with contextlib.closing(source(server, query=query)) as opened:

        def kill():
            with psycopg.connect(server.dsn, autocommit=True) as other:
                while not other.execute(
                    "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                ).fetchall():
                    pass
            server.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            with pytest.raises(UnavailableError) as caught:
                opened.read(None, 1)
        finally:
            killer.join()
            server.start()
        assert caught.value.code is Code.SOURCE_UNREACHABLE
        assert opened._query("SELECT $1::int", [1]) == [(1,)]


def test_a_connection_that_an_administrator_ends_is_made_again(server, database):
    database.execute("CREATE TABLE t (id int PRIMARY KEY, title text)")
    database.execute("INSERT INTO t VALUES (1, 'x')")
    with contextlib.closing(source(server)) as opened:
        opened.check()
        database.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE application_name = 'dvecdb embed'"
        )
        with pytest.raises(UnavailableError) as caught:
            opened.read(None, 1)
        assert caught.value.code is Code.SOURCE_UNREACHABLE
        assert len(opened.read(None, 1)) == 1


def test_a_statement_that_takes_too_long_is_ended(server):
    query = "SELECT 1 AS id, pg_sleep(60)::text AS title"
    with contextlib.closing(source(server, query=query, statement_seconds=0.2)) as opened:
        with pytest.raises(UnavailableError) as caught:
            opened.read(None, 1)
        assert caught.value.code is Code.SOURCE_UNREACHABLE
        assert "in time" in caught.value.message
        assert opened._query("SELECT $1::int", [1]) == [(1,)]


def test_a_look_at_every_row_that_takes_too_long_is_refused(server, database, monkeypatch):
    monkeypatch.setattr(postgresql, "SCAN_SECONDS", 0.2)
    query = "SELECT 1 AS id, 'x' AS title, pg_sleep(60)::text AS at"
    assert "keys that are there twice" in refusal(source(server, query=query))
    with contextlib.closing(source(server, query=query, changed_since="at")) as opened:
        assert opened.count() is None
        with pytest.raises(InvalidRequestError) as caught:
            opened.mark()
        assert caught.value.code is Code.SOURCE_REFUSED


def test_a_value_that_cannot_be_computed_is_refused_and_does_not_start_again_from_the_front(
    server, database
):
    database.execute("CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 5000) g")
    database.execute("ALTER TABLE t ADD PRIMARY KEY (id); ANALYZE t")
    query = "SELECT id, (6 / (3 - id))::text AS title FROM t"
    with contextlib.closing(source(server, query=query)) as opened:
        rows = opened.read(None, 2)
        assert [row.text for row in rows] == ["3", "6"]
        with pytest.raises(InvalidRequestError) as caught:
            opened.read(rows[-1].position, 1)
        assert caught.value.code is Code.SOURCE_REFUSED
        assert "division" in caught.value.message


def test_a_server_that_does_not_answer_is_given_up(server, database, monkeypatch):
    monkeypatch.setattr(postgresql_connection, "_GRACE_SECONDS", 0.2)
    database.execute("CREATE TABLE t (id int PRIMARY KEY, title text)")
    database.execute("INSERT INTO t VALUES (1, 'x')")
    dsn = f"{server.dsn}?connect_timeout=2"
    with contextlib.closing(source(server, dsn, statement_seconds=0.2)) as opened:
        opened.check()
        server.freeze()
        try:
            for _ in range(2):  # an open connection, then a new one
                with pytest.raises(UnavailableError) as caught:
                    opened.read(None, 1)
                assert caught.value.code is Code.SOURCE_UNREACHABLE
        finally:
            server.thaw()
        assert len(opened.read(None, 1)) == 1


def test_a_table_dropped_on_the_way_is_refused(server, database):
    database.execute("CREATE TABLE t (id int PRIMARY KEY, title text)")
    with contextlib.closing(source(server)) as opened:
        opened.check()
        database.execute("DROP TABLE t")
        with pytest.raises(InvalidRequestError) as caught:
            opened.read(None, 1)
        assert caught.value.code is Code.SOURCE_REFUSED


def test_nothing_is_held_between_pages(server, database):
    database.execute("CREATE TABLE t (id int PRIMARY KEY, title text)")
    database.execute("INSERT INTO t SELECT g, 'x' FROM generate_series(1, 10) g")
    with contextlib.closing(source(server)) as opened:
        opened.check()
        opened.read(None, 3)
        next(opened.keys())
        found = database.execute(
            "SELECT state FROM pg_stat_activity WHERE application_name = 'dvecdb embed'"
        ).fetchall()
        assert found == [("idle",)]
        database.execute("SET lock_timeout = '2s'; ALTER TABLE t ADD COLUMN more int")


def test_pages_of_long_texts_are_shorter(server, database, monkeypatch):
    monkeypatch.setattr(postgresql, "PAGE_BYTES_MAX", 1_000)
    database.execute("CREATE TABLE t (id int PRIMARY KEY, title text)")
    database.execute("INSERT INTO t SELECT g, repeat('x', 300) FROM generate_series(1, 20) g")
    with contextlib.closing(source(server)) as opened:
        first = opened.read(None, 5)
        assert len(opened.read(first[-1].position, 5)) == 3
        assert len(read_all(opened, 5)) == 20


# --- candidates ----------------------------------------------------------------------------------


def test_candidates_are_the_tables_with_a_stable_key_and_a_text(server, database):
    database.execute(
        'CREATE SCHEMA "Other"; CREATE TABLE few (id int PRIMARY KEY, a text, b varchar(9));'
        "CREATE TABLE many (a int, b int, body text, updated_at timestamptz, PRIMARY KEY (b, a));"
        'CREATE TABLE "Other"."has.dot" (id uuid UNIQUE NOT NULL, name text);'
        "CREATE TABLE no_key (id int, a text); CREATE TABLE maybe (id int UNIQUE, a text);"
        "CREATE TABLE no_text (id int PRIMARY KEY, n int); CREATE TABLE named (a text PRIMARY KEY);"
        "CREATE VIEW seen AS SELECT * FROM few;"
        "INSERT INTO many SELECT g, g, 'x' FROM generate_series(1, 500) g; ANALYZE"
    )
    found = candidates(server.dsn)
    assert [(one.table, one.key, one.texts, one.rows, one.changed_since) for one in found] == [
        ("many", "b, a", ("body",), 500, "updated_at"),
        ('Other."has.dot"', "id", ("name",), 0, None),
        ("few", "id", ("a", "b"), 0, None),
    ]
    assert found[2].columns == (("id", "integer"), ("a", "text"), ("b", "character varying"))
    for one in found:
        spec = SourceSpec(key=one.key, text=one.texts[0], table=one.table)
        with contextlib.closing(open_source("s", spec, {"DATABASE_URL": server.dsn})) as opened:
            opened.check()


def test_the_server_of_tests_keeps_its_data_and_its_port():
    with Postgres() as one:
        port, directory = one.port, one.directory
        with psycopg.connect(one.dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE t (id int)")
            one.kill()
        assert one.pid is None
        one.start()
        one.stop()
        one.start()
        assert one.port == port
        with psycopg.connect(one.dsn) as connection:
            assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
    assert not directory.exists()
