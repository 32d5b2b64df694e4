"""The commands that read and write records and collections, on a directory and on a server."""

import io
import json
import re
import sys

import numpy as np
import pytest

import dvecdb
from dvecdb.cli import main as cli
from dvecdb.cli.exit_codes import BY_ERROR
from dvecdb.cli.show import index_text
from dvecdb.cli.values import parse_conditions
from dvecdb.errors import DvecdbError
from dvecdb.records import IndexStats

LINES = (
    b'{"id": "a", "vector": [1, 0, 0], "metadata": {"lang": "de", "year": 1999}}\n'
    b'{"id": "b", "vector": [0, 1, 0], "metadata": {"lang": "en"}}\n'
    b'{"id": "c", "vector": [1, 1, 0]}\n'
)


def with_docs(command):
    """Make the collection `docs` of three records."""
    command.says("create", "docs", "--dimension", 3, "--metric", "l2")
    command.says("insert", "docs", "-", stdin=LINES)
    return command


@pytest.fixture
def cmd(dvecdb_command):
    return with_docs(dvecdb_command)


@pytest.fixture
def here(dvecdb_here):
    return with_docs(dvecdb_here)


# --- collections -----------------------------------------------------------------------------


def test_a_collection_is_made_listed_shown_and_deleted(cmd):
    assert cmd.says("create", "more", "-d", 2, "--vector-type", "int8") == (
        "created more: 2 x int8, cosine\n"
    )
    listed = cmd.json("collections")["collections"]
    assert [(item["name"], item["count"]) for item in listed] == [("docs", 3), ("more", 0)]
    assert cmd.json("create", "third", "-d", 2)["metric"] == "cosine"
    info = cmd.says("info", "docs")
    assert re.search(r"^dimension +3$", info, re.MULTILINE)
    assert re.search(r"^last commit +upsert at 20.*Z$", info, re.MULTILINE)
    assert cmd.json("info", "docs")["last_commit"]["operation"] == "upsert"
    assert cmd.json("info", "more")["last_commit"] is None
    assert cmd.json("stats", "docs")["count"] == 3
    assert re.search(r"^records +3$", cmd.says("stats"), re.MULTILINE)
    assert len(cmd.json("stats")["collections"]) == 3
    assert "rows" in cmd.says("stats", "docs")
    said = cmd.says("delete", "docs", "--yes").splitlines()
    assert said[0] == "deleted docs (3 records); it is in the trash, whole"
    assert re.match(r"bring it back: dvecdb restore docs_\d{8}_\d{6} ", said[1])
    deleted = cmd.json("delete", "more", "--yes")
    assert (deleted["deleted"], deleted["records"]) == ("more", 0)
    assert deleted["entry"]["collection"] == "more"
    assert cmd.fails("info", "docs")[:2] == (3, "collection-not-found")


def test_history_tells_who_did_what_and_why(cmd):
    cmd.says("delete-vectors", "docs", "a", "zzz", "--yes", "--actor", "ann", "--reason", "old")
    table = cmd.says("history", "docs").splitlines()
    assert table[0].split() == ["LSN", "TIME", "OPERATION", "ROWS", "ENDED", "BY", "REASON"]
    assert table[1].split()[3:] == ["delete", "0", "1", "ann", "old"]
    assert table[2].split()[3:8] == ["upsert", "3", "0", "-", "stdin"]
    newest, *_ = cmd.json("history", "docs", "--limit", 1)["commits"]
    assert (newest["lsn"], newest["actor"], newest["ended"]) == (2, "ann", 1)
    assert [item["lsn"] for item in cmd.json("history", "docs", "--before", 2)["commits"]] == [1]
    assert cmd.says("history", "docs", "--before", 1) == "no commits\n"


# --- reading ---------------------------------------------------------------------------------


def test_records_are_shown_and_what_is_missing_is_an_exit_code(cmd):
    table = cmd.says("get", "docs", "a", "c").splitlines()
    assert table[0].split() == ["ID", "LSN", "METADATA", "VECTOR"]
    assert table[1].split(None, 3) == ["a", "1", '{"lang":"de","year":1999}', "[1, 0, 0]"]
    code, out, _ = cmd("get", "docs", "a", "nobody", "--no-vectors")
    assert code == 3
    assert "'nobody' does not exist" in out
    code, out, _ = cmd("get", "docs", "a", "nobody", "--json")
    first, second = json.loads(out)["records"]
    assert (code, first["vector"], second) == (3, [1.0, 0.0, 0.0], None)


def test_search_takes_a_vector_a_file_or_a_record(cmd, tmp_path):
    (tmp_path / "query.json").write_text("[1, 0, 0]")
    np.save(tmp_path / "query.npy", np.array([[1, 0, 0]], np.float32))
    queries = [("[1,0,0]", b""), (tmp_path / "query.json", b""), (tmp_path / "query.npy", b""),
               ("-", b"[1, 0, 0]")]  # fmt: skip
    for query, stdin in queries:
        hits = cmd.json("search", "docs", query, stdin=stdin)["hits"]
        assert [hit["id"] for hit in hits] == ["a", "c", "b"]
    assert [hit["id"] for hit in cmd.json("search", "docs", "--like", "a")["hits"]] == ["c", "b"]
    table = cmd.says("search", "docs", "[1,0,0]", "-n", 1).splitlines()
    assert table[1].split() == ["a", "0", '{"lang":"de","year":1999}']
    assert cmd.fails("search", "docs", "--like", "nobody")[:2] == (3, "id-not-found")


def test_conditions_are_json_values_or_text(cmd):
    def ids(*conditions):
        parts = [part for text in conditions for part in ("--where", text)]
        return [hit["id"] for hit in cmd.json("search", "docs", "[1,0,0]", *parts)["hits"]]

    assert ids("lang=de") == ["a"]
    assert ids("year=1999") == ["a"]
    assert ids('year="1999"') == []
    assert ids("lang=de", "year=1999.0") == ["a"]
    assert ids("lang=de", "year=2000") == []
    assert cmd.says("count", "docs", "--where", "lang=en") == "1\n"
    tree = '{"must": [{"key": "lang", "match": {"any": ["en"]}}]}'
    assert cmd.says("count", "docs", "--where", tree) == "1\n"
    assert cmd.says("count", "docs", "--where", '{"lang": "en"}') == "1\n"
    bad = '{"must": [{"key": "lang", "like": "e"}]}'
    assert cmd.fails("count", "docs", "--where", bad)[:2] == (2, "invalid-filter")
    assert cmd.says("search", "docs", "[1,0,0]", "--where", "lang=fr") == "nothing found\n"
    assert parse_conditions(["a=b=c", "n=null", "t=true"]) == {"a": "b=c", "n": None, "t": True}


def test_the_past_is_read_by_lsn_and_by_time(cmd):
    cmd.says("delete-vectors", "docs", "a", "--yes")
    assert cmd.says("count", "docs") == "2\n"
    assert cmd.json("count", "docs", "--as-of", 1) == {"count": 3}
    assert cmd.json("get", "docs", "a", "--as-of", 1)["records"][0]["id"] == "a"
    assert cmd.json("search", "docs", "[1,0,0]", "--as-of", 1)["hits"][0]["id"] == "a"
    time = cmd.json("history", "docs")["commits"][0]["time"]
    assert cmd.json("count", "docs", "--as-of", time)["count"] in {2, 3}
    assert cmd.fails("count", "docs", "--as-of", 99)[:2] == (2, "as-of-unreadable")
    assert cmd.fails("count", "docs", "--as-of", "2020-01-01T00:00Z")[:2] == (2, "as-of-unreadable")
    for text in ("yesterday", "2026-11-24T12:00:00", "-1"):
        assert cmd.fails("count", "docs", f"--as-of={text}")[:2] == (2, "usage")


def test_what_is_stored_does_not_steer_the_terminal(cmd):
    evil = "\x1b[31mred\x07"
    line = json.dumps({"id": evil, "vector": [1, 2, 3], "metadata": {"x": evil}}).encode()
    cmd.says("insert", "docs", "-", stdin=line)
    shown = cmd.says("get", "docs", evil) + cmd.says("search", "docs", "[1,2,3]")
    shown += cmd("get", "docs", f"{evil}!")[1] + cmd("search", "docs", "--like", f"{evil}!")[2]
    assert "\x1b" not in shown
    assert "\x07" not in shown


# --- deleting --------------------------------------------------------------------------------


def test_records_are_deleted_by_id_or_by_a_file_of_ids(cmd, tmp_path):
    (tmp_path / "ids").write_text('a\n"b"\nnobody\n')
    answer = cmd.json("delete-vectors", "docs", "--ids", tmp_path / "ids", "--yes")
    assert answer == {"deleted": 2, "asked": 3, "lsn": 2}
    said = cmd.says("delete-vectors", "docs", "--ids", "-", "--yes", stdin=b"c\n")
    assert said == "deleted 1 of 1 records at LSN 3\n"


def test_what_destroys_needs_a_yes_where_nobody_can_be_asked(cmd):
    for arguments in (["delete", "docs"], ["delete-vectors", "docs", "a"]):
        code, name, message = cmd.fails(*arguments)
        assert (code, name) == (2, "usage")
        assert "--yes" in message
    assert cmd.says("count", "docs") == "3\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 130, 3), ("", 130, 3), ("y", 0, 2)])
def test_what_destroys_asks_on_a_terminal(cmd, monkeypatch, answer, code, left):
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", Terminal(f"{answer}\n"))
        arguments = ["delete-vectors", "docs", "a", *map(str, cmd.options)]
        assert cli.run(arguments) == code
    assert cmd.says("count", "docs") == f"{left}\n"


# --- which target ----------------------------------------------------------------------------


def test_the_target_comes_from_options_or_else_from_the_environment(here, monkeypatch):
    cmd, data = here, here.data
    code, _, error = cmd.raw("count", "docs")
    assert (code, error.startswith(b"error: usage: give a server")) == (2, True)
    monkeypatch.setenv("DVECDB_DATA_DIR", str(data))
    assert cmd.raw("count", "docs") == (0, b"3\n", b"")
    monkeypatch.setenv("DVECDB_URL", "http://localhost:1")
    code, _, error = cmd.raw("count", "docs")
    assert (code, b"both are given" in error) == (2, True)
    assert cmd.raw("count", "docs", "--data-dir", data) == (0, b"3\n", b"")
    code, _, error = cmd.raw("count", "docs", "--data-dir", data, "--url", "http://localhost:1")
    assert (code, b"both are given" in error) == (2, True)


def test_only_create_makes_a_data_directory(dvecdb_here, tmp_path):
    missing = tmp_path / "missing"
    for arguments in (
        ["insert", "docs", "-"], ["delete", "docs", "--yes"], ["count", "docs"],
        ["delete-vectors", "docs", "a", "--yes"],
    ):  # fmt: skip
        code, _, error = dvecdb_here.raw(*arguments, "--data-dir", missing)
        assert (code, error.startswith(b"error: directory-unreadable: ")) == (2, True)
        assert not missing.exists()


def test_writing_beside_a_writer_is_refused_and_says_how_to_do_it(here):
    with dvecdb.open(here.data):
        assert here.says("count", "docs") == "3\n"
        code, name, message = here.fails("insert", "docs", "-", stdin=LINES)
    assert (code, name) == (2, "directory-in-use")
    assert "--url" in message


def test_every_class_of_error_has_an_exit_code():
    assert set(BY_ERROR) == set(DvecdbError.__subclasses__())


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "docs"],
        ["create", "docs", "-d", "0"],
        ["create", "a/b", "-d", "3"],
        ["create", "x", "-d", "3", "--metric", "x"],
        ["create", "x", "-d", "3", "--vector-type", "x"],
        ["get", "docs"],
        ["search", "docs"],
        ["search", "docs", "[1,2,3]", "--like", "a"],
        ["search", "docs", "[1,2]"],
        ["search", "docs", "[1,null,2]"],
        ["search", "docs", "[1,2,3]", "-n", "0"],
        ["search", "docs", "[1,2,3]", "--where", "x"],
        ["search", "docs", "[1,2,3]", "--where", '{"must": [}'],
        ["search", "docs", "[1,2,3]", "--where", '{"x": 1}', "--where", "y=1"],
        ["search", "docs", "[1,2,3]", "--where", "x=1", "--where", "x=2"],
        ["search", "docs", "missing.json"],
        ["search", "docs", "-"],
        ["delete-vectors", "docs", "--yes"],
        ["delete-vectors", "docs", "a", "--ids", "x", "--yes"],
        ["insert", "docs", "missing.jsonl"],
        ["insert", "docs", "x.txt"],
        ["insert", "docs", "-", "--format", "npz"],
        ["insert", "docs", "x.csv", "--ids", "y"],
        ["insert", "docs", "-", "--create"],
        ["insert", "docs", "-", "--dimension", "3"],
        ["insert", "docs", "-", "--create", "--dimension", "4"],
        ["insert", "docs", "-", "--batch-rows", "0"],
        ["history", "docs", "-n", "0"],
        ["export", "docs", "x.txt"],
        ["export", "docs", "-", "--format", "parquet"],
        ["export", "docs", "missing/x.jsonl"],
    ],
)
def test_wrong_arguments_are_one_clear_line_and_exit_code_2(cmd, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    code, _, message = cmd.fails(*arguments)
    assert code == 2
    assert len(message) > 20
    code, out, _ = cmd(*arguments, "--json")
    assert (code, set(json.loads(out)["error"])) == (2, {"code", "message", "advice", "details"})


# --- searching -------------------------------------------------------------------------------


def test_search_takes_effort_offset_threshold_and_shows_vectors(cmd):
    def ids(*options):
        found = cmd.json("search", "docs", "[1,0,0]", *options)
        assert list(found) == ["hits", "excluded"]
        return [hit["id"] for hit in found["hits"]]

    assert ids("--offset", 1) == ["c", "b"]
    assert ids("--threshold", 1) == ["a", "c"]
    assert ids("--recall", 1) == ids("--ef", 7) == ["a", "c", "b"]
    (hit,) = cmd.json("search", "docs", "[1,0,0]", "-n", 1)["hits"]
    assert list(hit) == ["id", "distance", "metadata"]
    (hit,) = cmd.json("search", "docs", "[1,0,0]", "-n", 1, "--with-vectors")["hits"]
    assert hit["vector"] == [1, 0, 0]
    table = cmd.says("search", "docs", "[1,0,0]", "--with-vectors").splitlines()
    assert table[0].split() == ["ID", "DISTANCE", "METADATA", "VECTOR"]
    assert table[2].endswith("[1, 1, 0]")
    like = cmd.json("search", "docs", "--like", "a", "--offset", 1, "-n", 1)["hits"]
    assert [hit["id"] for hit in like] == ["b"]
    for options in (["--ef", 0], ["--recall", 1.5], ["--ef", 5, "--recall", 1]):
        assert cmd.fails("search", "docs", "[1,0,0]", *options)[:2] == (2, "invalid-argument")
    for options in (["--offset", -1], ["--group-size", 1], ["--group-by", "n", "--explain"]):
        assert cmd.fails("search", "docs", "[1,0,0]", *options)[:2] == (2, "usage")


def test_a_plan_is_shown_below_the_hits(cmd):
    text = cmd.says("search", "docs", "[1,0,0]", "--where", "lang=de", "--explain")
    hits, plan = text.split("\n\n")
    assert hits.splitlines()[1].split()[0] == "a"
    facts = dict(re.split("  +", line, maxsplit=1) for line in plan.splitlines())
    assert (facts["plan"], facts["records"], facts["matching"]) == (
        "exact: there is no index", "3", "1",
    )  # fmt: skip
    assert (facts["measured"], facts["recall expected"]) == ("1 one by one", "1")
    assert re.fullmatch(r"\d+\.\d{3} ms", facts["time: measure"])
    assert cmd.json("search", "docs", "[1,0,0]", "--explain")["explain"]["plan"] == "exact"


def test_groups_and_facets_are_shown(cmd):
    cmd.says("insert", "docs", "-", stdin=b'{"id":"d","vector":[9,0,0],"metadata":{"lang":"en"}}\n')
    table = cmd.says("search", "docs", "[1,0,0]", "--group-by", "lang").splitlines()
    assert [line.split()[:2] for line in table] == [
        ["LANG", "ID"], ["de", "a"], ["en", "b"], ["d", "8"],
    ]  # fmt: skip
    found = cmd.json("search", "docs", "--like", "a", "--group-by", "lang", "--group-size", 1)
    assert [
        (group["value"], [hit["id"] for hit in group["hits"]]) for group in found["groups"]
    ] == [("en", ["b"])]
    assert cmd.says("search", "docs", "[1,0,0]", "--group-by", "no") == "nothing found\n"
    table = cmd.says("facet", "docs", "lang").splitlines()
    assert [line.split() for line in table] == [["LANG", "RECORDS"], ["en", "2"], ["de", "1"]]
    assert cmd.json("facet", "docs", "lang", "-n", 1, "--where", "lang=de") == {
        "values": [{"value": "de", "count": 1}]
    }
    assert cmd.json("facet", "docs", "lang", "--as-of", 1)["values"][0]["count"] == 1
    assert cmd.says("facet", "docs", "no") == "no record has a value in no\n"
    assert cmd.fails("facet", "docs", "a[0]")[:2] == (2, "invalid-filter")


def test_figures_say_how_far_the_index_is(cmd):
    assert re.search(
        r"^index +none: searches measure every", cmd.says("info", "docs"), re.MULTILINE
    )
    assert re.search(r"^index state +none$", cmd.says("stats", "docs"), re.MULTILINE)
    assert re.search(r"^to be indexed +0$", cmd.says("stats"), re.MULTILINE)
    assert cmd.json("info", "docs")["index"]["state"] == "none"
    building = IndexStats("building", 10, 20, 90.0, 4, 2048)
    assert index_text(building) == "building, 10 of 30 rows, about 90 s left, 4 lists, 2.0 KiB"
