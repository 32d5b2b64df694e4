import contextlib
import datetime as dt
import decimal
import json
import os
import subprocess
import sys

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dvecdb.embedding.job import SourceSpec
from dvecdb.embedding.sources import csv_file, files, lines
from dvecdb.embedding.sources.opening import kind_of, open_source
from dvecdb.errors import Code, InvalidRequestError, UnavailableError

KINDS = ("jsonl", "csv", "parquet")


def source(path, **spec):
    return open_source("cyber", SourceSpec(**{"key": "id", "text": "title", **spec},
                                           path=str(path)), {})  # fmt: skip


def write(path, rows):
    """Store rows of id and title, by the ending of the path."""
    if path.suffix == ".parquet":
        columns = {"id": [one for one, _ in rows], "title": [one for _, one in rows]}
        pq.write_table(pa.table(columns), path, row_group_size=3)
    elif path.suffix == ".csv":
        path.write_text("".join(f'"{a}","{b}"\n' for a, b in [("id", "title"), *rows]))
    else:
        lines = [json.dumps({"id": a, "title": b}, ensure_ascii=False) + "\n" for a, b in rows]
        path.write_text("".join(lines))


def read_all(opened, size=2, after=None):
    rows = []
    while len(rows) < 10_000 and (page := opened.read(after, size)):
        rows += page
        after = msgspec.json.decode(msgspec.json.encode(page[-1].position))
    return rows


def refusal(opened):
    with contextlib.closing(opened), pytest.raises(InvalidRequestError) as caught:
        opened.check()
    assert caught.value.code is Code.SOURCE_REFUSED
    assert "source cyber" in caught.value.message
    return caught.value.message


def pairs(rows):
    return [(row.key, row.text) for row in rows]


# --- all formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_row_keeps_its_key_and_every_other_says_where_that_is(kind, tmp_path):
    path = tmp_path / f"rows.{kind}"
    write(path, [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4"), ("a", "5")])
    with contextlib.closing(source(path)) as opened:
        opened.check()
        assert opened.count() == 5
        rows = read_all(opened)
        assert rows == read_all(source(path), 1)
        assert [row.key for row in rows] == list(opened.keys())
    keys = ["a", "b", "a (duplicate 2)", "c", "a (duplicate 3)"]
    assert [row.key for row in rows] == keys
    assert [row.text for row in rows] == ["1", "2", None, "4", None]
    first = "row 1" if kind == "parquet" else f"line {1 + (kind == 'csv')}"
    third = "row 3" if kind == "parquet" else f"line {3 + (kind == 'csv')}"
    assert rows[2].problem.startswith(f"{third} has the key 'a' that {first} has already")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(keys=st.lists(st.sampled_from("abcdef")), size=st.integers(1, 4))
def test_every_row_of_a_file_is_given_once_under_a_key_of_its_own(kind, tmp_path, keys, size):
    path = tmp_path / f"rows.{kind}"
    write(path, [(key, str(number)) for number, key in enumerate(keys)])
    rows = read_all(source(path), size)
    assert len({row.key for row in rows}) == len(rows) == len(keys)
    firsts = {key: str(keys.index(key)) for key in keys}
    assert {row.key: row.text for row in rows if row.text is not None} == firsts


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_is_no_key_is_refused(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "DUPLICATES_MAX", 3)
    path = tmp_path / f"rows.{kind}"
    write(path, [("a", str(number)) for number in range(5)])
    assert "more than 3 rows have one that another row has, like 'a'" in refusal(source(path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_is_nowhere_is_refused(kind, tmp_path):
    path = tmp_path / f"rows.{kind}"
    write(path, [("a", "1")])
    for spec in ({"key": "nr"}, {"text": "{titel}"}, {"metadata": ("nix",)},
                 {"changed_since": "at"}):  # fmt: skip
        assert repr(next(iter(spec.values()))).strip("'(),{}") in refusal(source(path, **spec))


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_file_has_no_rows(kind, tmp_path):
    path = tmp_path / f"rows.{kind}"
    write(path, [])
    with contextlib.closing(source(path)) as opened:
        opened.check()
        assert (opened.count(), read_all(opened), list(opened.keys())) == (0, [], [])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after_restart", [False, True])
def test_a_file_that_is_replaced_is_read_from_the_front(kind, after_restart, tmp_path):
    path = tmp_path / f"rows.{kind}"
    write(path, [(f"old{number}", "x") for number in range(6)])
    opened = source(path)
    after = opened.read(None, 4)[-1].position
    write(tmp_path / f"new.{kind}", [("new", "y"), ("old1", "x"), ("new", "z")])
    os.replace(tmp_path / f"new.{kind}", path)
    if after_restart:
        opened.close()
        opened = source(path)
    with contextlib.closing(opened):
        rows = opened.read(after, 9)
    assert pairs(rows) == [("new", "y"), ("old1", "x"), ("new (duplicate 2)", None)]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("other", [0, 19])
def test_a_file_with_another_first_row_or_another_row_before_the_place_is_read_from_the_front(
    kind, other, tmp_path
):
    path = tmp_path / f"rows.{kind}"
    rows = [(f"{number:02}", "x" * 500) for number in range(30)]
    write(path, rows)
    with contextlib.closing(source(path)) as opened:
        after = opened.read(None, 20)[-1].position
        rows[other] = ("zz", "y" * 500)  # everything stays where it was
        write(path, rows)
        assert pairs(opened.read(after, 30)) == rows


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_file_that_only_grew_is_read_on(kind, tmp_path):
    path = tmp_path / f"rows.{kind}"
    write(path, [(str(number), "x" * 500) for number in range(30)])
    with contextlib.closing(source(path)) as opened:
        rows = list(opened.read(None, 20))
        with path.open("a") as file:
            more = '{"id": "30", "title": "y"}\n' if kind == "jsonl" else "30,y\n"
            file.write(more)
        rows += read_all(opened, 7, rows[-1].position)
        after = rows[-1].position
        assert opened.read(after, 9) == []
        with path.open("a") as file:
            file.write(more.replace("30", "31"))
        rows += opened.read(after, 9)
    assert [row.key for row in rows] == [str(number) for number in range(32)]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("finish", ["", "\n"])
def test_a_last_line_that_was_still_being_written_is_read_again(kind, finish, tmp_path):
    path = tmp_path / f"rows.{kind}"
    write(path, [("a", "1")])
    whole = '{"id": "b", "title": "2"}' if kind == "jsonl" else "b,2"
    with path.open("a") as file:
        file.write(whole[:-3] if kind == "jsonl" else "b")
    with contextlib.closing(source(path)) as opened:
        rows = opened.read(None, 9)
        assert rows[1].text is None
        assert opened.read(rows[-1].position, 9) == []
        with path.open("a") as file:
            file.write((whole[-3:] if kind == "jsonl" else ",2") + finish)
        assert pairs(opened.read(rows[-1].position, 9)) == [("a", "1"), ("b", "2")]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_last_line_without_an_end_can_get_one_later(kind, tmp_path):
    path = tmp_path / f"rows.{kind}"
    write(path, [("a", "1"), ("b", "2")])
    path.write_bytes(path.read_bytes()[:-1])
    with contextlib.closing(source(path)) as opened:
        after = opened.read(None, 9)[-1].position
        with path.open("a") as file:
            file.write("\n" + ('{"id": "c", "title": "3"}' if kind == "jsonl" else "c,3"))
        assert pairs(opened.read(after, 9)) == [("c", "3")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_cannot_be_opened_is_refused(kind, tmp_path):
    assert "No such file" in refusal(source(tmp_path / f"missing.{kind}"))
    (tmp_path / f"folder.{kind}").mkdir()
    assert "directory" in refusal(source(tmp_path / f"folder.{kind}"))


def test_a_disk_that_fails_is_unreachable(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    write(path, [("a", "1")])
    opened = source(path)

    def fail(self, after):
        raise OSError(5, "Input/output error")
        yield

    monkeypatch.setattr(lines.JsonLines, "read", fail)
    for call in (opened.check, lambda: opened.read(None, 1), lambda: list(opened.keys())):
        with pytest.raises(UnavailableError) as caught:
            call()
        assert caught.value.code is Code.SOURCE_UNREACHABLE


@pytest.mark.parametrize("kind", KINDS)
def test_pages_of_long_texts_are_shorter(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PAGE_BYTES_MAX", 1_000)
    path = tmp_path / f"rows.{kind}"
    write(path, [(str(number), "x" * 300) for number in range(20)])
    with contextlib.closing(source(path)) as opened:
        assert len(opened.read(None, 15)) == 4
        assert len(read_all(opened, 15)) == 20


def test_a_key_of_several_columns_is_one_key(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(
        json.dumps({"a": a, "b": b, "title": "x"}) + "\n"
        for a, b in [(1, "x"), (1, "y"), (2, "x"), (1, "x")]
    ))  # fmt: skip
    rows = read_all(source(path, key="a, b"))
    assert [row.key for row in rows] == [
        '["1","x"]', '["1","y"]', '["2","x"]', '["1","x"] (duplicate 2)'
    ]  # fmt: skip


# --- JSON lines ----------------------------------------------------------------------------------

ODD_LINES = [
    (b'{"id": 1, "title": "fine \xc3\xa4", "m": [1, null]}', "1", "fine ä"),
    (b'{"id": 2, "title": "bad \xe4"}', "2", "title: the text has"),
    (b'{"id": 3, "title": "x", "m": "\xe4"}', "3", "m: the value has"),
    (b'{"id": 4, "title": "\\ud800"}', "4", "title: the text has"),
    (b'{"id": 5, "title": "a\\u0000b"}', "5", "title: the text has a NUL"),
    (b'{"id": 6, "title": "\\ud83d\\ude00", "m": NaN}', "6", "\U0001f600"),
    (b'{"id": 7, "title": null}', "7", "nothing to embed: title is null or blank"),
    (b'{"id": 8}', "8", "nothing to embed: title is null or blank"),
    (b'{"id": 9, "title": ["a", 1]}', "9", '["a",1]'),
    (b'{"id": null, "title": "x"}', "(line 10)", "line 10: it has no key"),
    (b'{"title": "x"}', "(line 11)", "line 11: it has no key"),
    (b'{"id": {"a": 1}, "title": "x"}', "(line 12)", "line 12: its key"),
    (b'{"id": "\xe4", "title": "x"}', "(line 13)", "line 13: its key"),
    (b'{"id": 14, "title": "x"', "(line 14)", "line 14: not JSON"),
    (b"[1, 2]", "(line 15)", "line 15: no object but a list"),
    (b"null", "(line 16)", "line 16: no object but null"),
    (b"\xff\xfe\x00", "(line 17)", "line 17: not JSON"),
    (b'{"id": 18.5, "title": 1e400}', "18.5", None),
    (b"[" * 100_000, "(line 19)", "line 19: not JSON"),
    (b'{"id": 123456789012345678901234567890, "title": "x"}',
     "123456789012345678901234567890", "x"),
    (b'{"id": true, "title": true}', "true", "true"),
]  # fmt: skip


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("size", [1, 100])
def test_every_odd_line_is_a_row_with_a_problem_and_none_is_a_failure(end, size, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + end.join(line for line, _, _ in ODD_LINES))
    with contextlib.closing(source(path, metadata=("m",))) as opened:
        opened.check()
        rows = read_all(opened, size)
        assert opened.count() == len(rows) == len(ODD_LINES)
    for row, (_, key, expected) in zip(rows, ODD_LINES, strict=True):
        assert row.key == key
        assert (row.text is None) == (row.problem is not None)
        said = row.problem if row.text is None else row.text
        assert expected is None or said.startswith(expected), said
        said.encode()


def test_blank_lines_are_passed_over(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('\n\n{"id": 1, "title": "a"}\n   \n\r\n{"id": 2, "title": "b"}\n\n\n')
    assert pairs(read_all(source(path), 1)) == [("1", "a"), ("2", "b")]


def test_a_line_that_is_too_long_is_a_problem_and_the_next_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "RECORD_BYTES_MAX", 100)
    path = tmp_path / "rows.jsonl"
    write(path, [("a", "1"), ("b", "x" * 1_000), ("c", "3"), ("d", "y" * 50)])
    for size in (1, 9):
        rows = read_all(source(path), size)
        assert [row.key for row in rows] == ["a", "(line 2)", "c", "d"]
        assert rows[1].problem == "line 2: longer than 100 bytes"


def test_a_file_without_one_good_line_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('[\n"a",\n"b"\n]\n')
    assert "nothing in it can be read; line 1: " in refusal(source(path))


def test_marks_of_two_types_are_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1, "title": "a", "at": 5}\n{"id": 2, "title": "b", "at": "2025"}\n')
    assert "cannot be compared" in refusal(source(path, changed_since="at"))


@pytest.mark.slow
def test_a_million_rows_are_surveyed_and_read_in_little_memory(tmp_path):
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for start in range(0, 1_000_000, 10_000):
            file.write("".join(
                f'{{"id": "key-{number}", "title": "text {number}"}}\n'
                for number in range(start, start + 10_000)
            ))  # fmt: skip
    script = """
import sys
from dvecdb.embedding.job import SourceSpec
from dvecdb.embedding.sources.opening import open_source
def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024
spec = SourceSpec(key="id", text="title", path=sys.argv[1])
small = SourceSpec(key="id", text="title", path=sys.argv[2])
source = open_source("s", small, {})
source.check()
source.read(None, 1)
before = anonymous()
source = open_source("s", spec, {})
source.check()
most, count, after = anonymous(), 0, None
while rows := source.read(after, 1000):
    count, after = count + len(rows), rows[-1].position
    most = max(most, anonymous())
print(count, most - before)
"""
    write(tmp_path / "small.jsonl", [("a", "1")])
    run = subprocess.run(
        [sys.executable, "-c", script, path, tmp_path / "small.jsonl"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    count, megabytes = run.stdout.split()
    assert int(count) == 1_000_000
    assert float(megabytes) < 50


# --- CSV -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_separator_is_the_one_that_fits_the_header(separator, end, tmp_path):
    path = tmp_path / "rows.csv"
    rows = [["id", "title", "n"], ["1", '"a ""b"" \n, ; \t| c"', ""], [], ["2", "ä", "5"]]
    text = end.join(separator.join(row) for row in rows)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = read_all(source(path, metadata=("n",)), 1)
    assert pairs(found) == [("1", 'a "b" \n, ; \t| c'), ("2", "ä")]
    assert [row.metadata for row in found] == [{"n": ""}, {"n": "5"}]


def test_every_odd_record_is_a_row_with_a_problem(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b'id,title\n1,fine\n2\n3,a,b\n4,"a"b\n,no key\n6,bad \xe4\n7,a\0b\n8,last')
    with contextlib.closing(source(path)) as opened:
        opened.check()
        rows = read_all(opened, 1)
        assert rows == read_all(opened, 9)
    assert [row.key for row in rows] == [
        "1", "(line 3)", "(line 4)", "(line 5)", "(line 6)", "6", "7", "8"
    ]  # fmt: skip
    said = [row.problem for row in rows]
    assert said[0] is None
    assert said[1] == "line 3: 1 values, but the header has 2"
    assert said[2] == "line 4: 3 values, but the header has 2"
    assert said[3].startswith("line 5: not CSV: ")
    assert said[4] == "line 6: it has no key"
    assert said[5].startswith("title: the text has bytes")
    assert said[6].startswith("title: the text has a NUL")
    assert said[7] is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'id,title\n1,"open\n2,b\n3,c\n', "line 2: a quote that opens"),
        (b"id,title,title\n1,a,b\n", "'title' twice"),
        ("id,title\n1,a\n".encode("utf-16"), "UTF-16"),
        (b"nr,name\n1,a\n", "no column 'id', 'title'; its header has 'nr', 'name'"),
        (b"\n\n", "no column"),
    ],
)
def test_a_file_that_is_no_table_is_refused(content, expected, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    assert expected in refusal(source(path))


def test_a_value_that_is_too_long_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_file, "RECORD_BYTES_MAX", 100)
    path = tmp_path / "rows.csv"
    write(path, [("a", "1"), ("b", "x" * 90 + "\n" + "y" * 90), ("c", "3")])
    rows = read_all(source(path), 1)
    assert [row.key for row in rows if row.text is not None] == ["a", "c"]
    assert "field larger than field limit" in rows[1].problem


# --- Parquet -------------------------------------------------------------------------------------


def test_values_of_parquet_have_the_forms_of_a_database(tmp_path):
    path = tmp_path / "rows.parquet"
    moment = dt.datetime(2025, 10, 29, 10, tzinfo=dt.UTC)
    columns = {
        "id": pa.array([1]), "title": pa.array(["x"]).dictionary_encode(),
        "at": pa.array([moment], pa.timestamp("us", "Europe/Zurich")),
        "nanos": pa.array([1], pa.timestamp("ns")), "time": pa.array([1], pa.time64("ns")),
        "day": pa.array([dt.date(2025, 10, 29)]), "raw": pa.array([b"abc"]),
        "price": pa.array([decimal.Decimal("12.50")]), "f": pa.array([float("nan")]),
        "list": pa.array([["a", None]]), "struct": pa.array([{"a": 1, "b": moment}]),
        "null": pa.array([None], pa.null()), "flag": pa.array([True]),
    }  # fmt: skip
    pq.write_table(pa.table(columns), path)
    (row,) = read_all(source(path, metadata=tuple(columns)))
    assert row.metadata == {
        "id": 1, "title": "x", "at": "2025-10-29T10:00:00.000000Z",
        "nanos": "1970-01-01T00:00:00.000000001", "time": "00:00:00.000000001",
        "day": "2025-10-29", "raw": "YWJj", "price": 12.5, "f": None, "list": ["a", None],
        "struct": {"a": 1, "b": "2025-10-29T10:00:00+00:00"}, "null": None, "flag": True,
    }  # fmt: skip


def test_text_of_parquet_that_is_no_utf8_is_a_problem(tmp_path):
    path = tmp_path / "rows.parquet"
    raw = pa.array([b"fine", b"bad \xe4", None])
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"id": pa.array([1, 2, 3]), "title": text}), path)
    rows = read_all(source(path))
    assert [row.text for row in rows] == ["fine", None, None]
    assert rows[1].problem.startswith("title: the text has bytes")


@pytest.mark.parametrize("cut", [0, 5, 11, -1, -5, -100])
def test_what_is_no_parquet_file_is_refused(cut, tmp_path):
    path = tmp_path / "rows.parquet"
    write(path, [(str(number), "x") for number in range(9)])
    path.write_bytes(path.read_bytes()[:cut])
    assert "Parquet" in refusal(source(path))


def test_a_damaged_page_is_refused_and_not_passed_over(tmp_path):
    path = tmp_path / "rows.parquet"
    write(path, [(str(number), "x" * number) for number in range(9)])
    data = bytearray(path.read_bytes())
    data[4:400] = bytes(396)
    path.write_bytes(data)
    refusal(source(path))


# --- which kind ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"table": "t"}, "postgresql"), ({"query": "q"}, "postgresql"),
        ({"path": "a.jsonl"}, "jsonl"), ({"path": "A.NDJSON"}, "jsonl"), ({"path": "a.csv"}, "csv"),
        ({"path": "a.tsv"}, "csv"), ({"path": "a.parquet"}, "parquet"),
        ({"path": "a.db"}, "sqlite"), ({"path": "a.sqlite3"}, "sqlite"),
        ({"path": "a.txt", "kind": "csv"}, "csv"),
    ],
)  # fmt: skip
def test_the_kind_follows_from_what_is_given(spec, expected):
    assert kind_of("s", SourceSpec(key="id", text="t", **spec)) == expected


@pytest.mark.parametrize(
    "spec",
    [
        {"path": "a.txt"}, {"path": "a"}, {"path": "a.csv", "kind": "postgresql"},
        {"table": "t", "kind": "csv"}, {"path": "a.csv", "table": "t"},
        {"path": "a.jsonl", "text": "{"}, {"path": "a.db"},
    ],
)  # fmt: skip
def test_a_source_that_cannot_be_is_refused(spec):
    with pytest.raises(InvalidRequestError) as caught:
        open_source("s", SourceSpec(**{"key": "id", "text": "t", **spec}), {"DATABASE_URL": "x"})
    assert caught.value.code is Code.INVALID_JOB


def test_a_database_without_an_address_is_refused_by_the_name_of_its_variable():
    for environment in ({}, {"OTHER_URL": " "}):
        with pytest.raises(InvalidRequestError) as caught:
            spec = SourceSpec(key="id", text="t", table="t", database_url_env="OTHER_URL")
            open_source("s", spec, environment)
        assert caught.value.code is Code.SOURCE_REFUSED
        assert "OTHER_URL" in caught.value.message


def test_a_path_is_opened_as_it_is_resolved(tmp_path):
    write(tmp_path / "rows.jsonl", [("a", "1")])
    spec = SourceSpec(key="id", text="title", path="rows.jsonl")
    opened = open_source("s", spec, {}, resolve=lambda path: str(tmp_path / path))
    assert pairs(read_all(opened)) == [("a", "1")]

    def refuse(path):
        raise InvalidRequestError(Code.PATH_NOT_ALLOWED, path)

    for path in ("rows.jsonl", "rows.csv", "rows.parquet", "rows.db"):
        with pytest.raises(InvalidRequestError) as caught:
            spec = SourceSpec(key="id", text="t", path=path, table="t" if "db" in path else None)
            open_source("s", spec, {}, resolve=refuse)
        assert caught.value.code is Code.PATH_NOT_ALLOWED


@pytest.mark.parametrize(
    ("module", "spec"),
    [("psycopg", {"table": "t"}), ("pyarrow", {"path": "rows.parquet"})],
)
def test_a_package_that_is_missing_is_named_with_its_command(module, spec, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InvalidRequestError) as caught:
        open_source("s", SourceSpec(key="id", text="t", **spec), {"DATABASE_URL": "postgresql://"})
    assert caught.value.code is Code.EXTRA_MISSING
    assert "pip install 'dvecdb[" in caught.value.message
