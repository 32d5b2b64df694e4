"""Whatever the kind, the page sizes and the restarts: every row once, in order, as it was put."""

import contextlib
import csv
import itertools
import json
import sqlite3

import msgspec
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dvecdb.embedding.job import SourceSpec
from dvecdb.embedding.sources.opening import open_source
from dvecdb.testing.postgres import Postgres

KINDS = ("postgresql", "sqlite", "jsonl", "csv", "parquet")
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
INT_KEYS = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-20, 20), unique=True)
TEXT_KEYS = st.lists(TEXT.filter(bool), unique=True)
PAIR_KEYS = st.lists(st.tuples(st.integers(-2, 2), TEXT.filter(bool)), unique=True)
SPEC = {"text": "{title}\n{body}", "metadata": ("severity", "title as t")}


@pytest.fixture(scope="module")
def server():
    with Postgres() as running:
        yield running


@st.composite
def tables(draw, of_text):
    """Keys (of one or two columns) and rows (title, body, severity)."""
    keys = draw(of_text)
    body = st.tuples(st.none() | TEXT, st.none() | TEXT, st.none() | st.integers(-9, 9))
    return [(key, *draw(body)) for key in keys]


def columns_of(rows):
    """Return the columns of the key, and the rows flat."""
    flat = [(*(row[0] if isinstance(row[0], tuple) else (row[0],)), *row[1:]) for row in rows]
    return ("a", "b")[: len(flat[0]) - 3] if flat else ("a",), flat


def key_types(flat, width, of_int, of_text):
    return [of_int if flat and isinstance(flat[0][at], int) else of_text for at in range(width)]


def make(kind, directory, server, rows):
    """Store rows; return how to open the source, and its rows in the order expected."""
    key, flat = columns_of(rows)
    names = [*key, "title", "body", "severity"]
    path = directory / f"rows.{kind}"
    place = {"path": str(path)}
    ordered = rows
    if kind in {"postgresql", "sqlite"}:
        ordered = sorted(rows)
        primary = f"PRIMARY KEY ({', '.join(key)})"
    if kind == "postgresql":
        place = {"table": "paged"}
        types = key_types(flat, len(key), "bigint", "text")
        with psycopg.connect(server.dsn) as connection:
            connection.execute("DROP TABLE IF EXISTS paged")
            fields = ", ".join(f"{one} {type}" for one, type in zip(key, types, strict=True))
            connection.execute(
                f"CREATE TABLE paged ({fields}, title text, body text, severity int, {primary})"
            )
            with connection.cursor().copy("COPY paged FROM STDIN") as copy:
                for row in flat:
                    copy.write_row(row)
    elif kind == "sqlite":
        place |= {"kind": "sqlite", "table": "paged"}
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP TABLE IF EXISTS paged")
            types = key_types(flat, len(key), "INTEGER", "TEXT")
            fields = ", ".join(f"{one} {type}" for one, type in zip(key, types, strict=True))
            connection.execute(f"CREATE TABLE paged ({fields}, title, body, severity, {primary})")
            marks = ", ".join("?" for _ in names)
            connection.executemany(f"INSERT INTO paged VALUES ({marks})", flat)
            connection.commit()
    elif kind == "jsonl":
        lines = [json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in flat]
        path.write_text("".join(lines))
    elif kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            writer.writerows([names, *flat])
    else:
        types = key_types(flat, len(key), pa.int64(), pa.string())
        types += [pa.string(), pa.string(), pa.int64()]
        table = pa.table({
            name: pa.array([row[at] for row in flat], type)
            for at, (name, type) in enumerate(zip(names, types, strict=True))
        })  # fmt: skip
        pq.write_table(table, path, row_group_size=3)
    environment = {} if server is None else {"DATABASE_URL": server.dsn}
    spec = SourceSpec(key=", ".join(key), **SPEC, **place)
    return (lambda: open_source("s", spec, environment)), ordered


def expected_of(kind, rows):
    for key, title, body, severity in rows:
        name = msgspec.json.encode([str(part) for part in key]).decode() if isinstance(
            key, tuple) else str(key)  # fmt: skip
        is_blank = not ((title or "").strip() or (body or "").strip())
        if is_blank:
            yield name, None, {}
        elif kind == "csv":
            number = "" if severity is None else str(severity)
            yield name, f"{title or ''}\n{body or ''}", {"severity": number, "t": title or ""}
        else:
            yield name, f"{title or ''}\n{body or ''}", {"severity": severity, "t": title}


def follow(open_one, sizes, restarts):
    """Read all pages; where `restarts` says so, with a source that knows only the position."""
    source, after, rows = open_one(), None, []
    source.check()
    try:
        for size, restart in zip(itertools.cycle(sizes), itertools.cycle(restarts)):
            if restart:
                source.close()
                source = open_one()
                after = msgspec.json.decode(msgspec.json.encode(after))
            page = source.read(after, size)
            assert len(page) <= size
            if not page:
                return rows, source.count(), list(source.keys())
            rows += page
            after = page[-1].position
            assert len(rows) < 1_000, "it goes round"
    finally:
        source.close()


@pytest.mark.parametrize("keys", [INT_KEYS, TEXT_KEYS, PAIR_KEYS], ids=["int", "text", "pair"])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_pages_and_any_restarts_give_every_row_once_in_order(
    kind, keys, server, tmp_path, data
):
    rows = data.draw(tables(keys))
    open_one, ordered = make(kind, tmp_path, server, rows)
    sizes = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))
    restarts = data.draw(st.lists(st.booleans(), min_size=1, max_size=5))
    found, count, names = follow(open_one, sizes, restarts)
    expected = list(expected_of(kind, ordered))
    assert [(row.key, row.text, row.metadata) for row in found] == expected
    assert (count, names) == (len(expected), [name for name, _, _ in expected])
    assert all((row.text is None) == (row.problem is not None) for row in found)


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(
    st.sets(st.integers(0, 40)),
    st.lists(st.tuples(st.sampled_from(["insert", "delete"]), st.integers(0, 40))),
    st.integers(1, 5),
)
def test_rows_that_stay_are_read_once_whatever_comes_and_goes_meanwhile(
    kind, server, tmp_path, start, changes, size
):
    open_one, _ = make(kind, tmp_path, server, [(key, "T", None, None) for key in sorted(start)])
    here = connect(kind, tmp_path, server)
    source, after, seen = open_one(), None, []
    now, always, ever = set(start), set(start), set(start)
    with contextlib.closing(here), contextlib.closing(source):
        while page := source.read(after, size):
            seen += [int(row.key) for row in page]
            after = page[-1].position
            for what, key in changes[:3]:
                if what == "insert" and key not in now:
                    here.execute(f"INSERT INTO paged (a, title) VALUES ({key}, 'T')")
                    now.add(key)
                    ever.add(key)
                elif what == "delete":
                    here.execute(f"DELETE FROM paged WHERE a = {key}")
                    now.discard(key)
                    always.discard(key)
            changes = changes[3:]
            here.commit()
    assert seen == sorted(set(seen))
    assert always <= set(seen) <= ever


def connect(kind, directory, server):
    if kind == "postgresql":
        return psycopg.connect(server.dsn)
    return sqlite3.connect(directory / "rows.sqlite")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", [5, "x", [], [None], [[]], {"a": 1}, ["x"], [1, 2, 3, 4, 5],
                                   [2**80], [1.5, "no"], [-1, -1, -1, "", ""], [10**9, "0"],
                                   [{"bytes": "AA=="}], [{"text": "5A=="}],
                                   [10**12, 5, 5, "ef46db3751d8e999", "x"]])  # fmt: skip
def test_a_position_that_does_not_fit_starts_from_the_front(kind, after, server, tmp_path):
    open_one, _ = make(kind, tmp_path, server, [(key, "T", None, None) for key in range(3)])
    with contextlib.closing(open_one()) as source:
        found = [row.key for row in source.read(after, 10)]
    assert found == ["0", "1", "2"]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_changed_since_a_mark_are_read_and_so_are_those_without_a_time(
    kind, server, tmp_path
):
    rows = [(key, "T", None, None if key == 3 else key) for key in range(6)]
    make(kind, tmp_path, server, rows)
    spec = {"key": "a", "text": "title", "changed_since": "severity"}
    place = {"table": "paged"} if kind in {"postgresql", "sqlite"} else {}
    if kind != "postgresql":
        place |= {"path": str(tmp_path / f"rows.{kind}"), "kind": kind}
    source = open_source("s", SourceSpec(**spec, **place), {"DATABASE_URL": server.dsn})
    with contextlib.closing(source):
        source.check()
        mark = msgspec.json.decode(msgspec.json.encode(source.mark()))
        assert str(mark) == "5"
        since = "4" if isinstance(mark, str) else 4
        found = [row.key for row in source.read(None, 10, since)]
        # A CSV value is text, and an empty one is less than any other.
        assert found == (["4", "5"] if kind == "csv" else ["3", "4", "5"])
        assert source.count(since) == len(found)
        assert [row.key for row in source.read(None, 10, mark)] == [*found[:-2], "5"]
        assert len(source.read(None, 10, {"no": "mark"})) == 6
        assert len(list(source.keys())) == 6
