"""Records in files: every format there and back to the bit, every mistake named, nothing halved."""

import base64
import builtins
import io
import json
import os
import pty
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dvecdb
from dvecdb.cli import main as cli
from dvecdb.errors import Code, OutcomeUnknownError
from dvecdb.records import canonical_id

SOURCE = Path(__file__).parents[2] / "src"
FORMATS = ["jsonl", "csv", "npy", "npz", "parquet"]


@pytest.fixture
def cmd(dvecdb_command):
    """The command on a directory or server with the empty collection `docs` of 3 dimensions."""
    dvecdb_command.says("create", "docs", "-d", 3)
    return dvecdb_command


@pytest.fixture
def here(dvecdb_here):
    """The same on a directory."""
    dvecdb_here.says("create", "docs", "-d", 3)
    return dvecdb_here


def rows(count, first=0, **more):
    """Return lines of JSON."""
    return b"".join(
        json.dumps({"id": f"id {number}", "vector": [number, 1, 2], **more}).encode() + b"\n"
        for number in range(first, first + count)
    )


def stored(cmd, name="docs"):
    """Return what a collection holds, in order."""
    with cmd.database() as database:
        return [
            (record.id, record.vector.tobytes(), record.metadata)
            for record in database.collection(name).scan(with_vectors=True)
        ]


# --- there and back --------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@st.composite
def collections(draw):
    dimension = draw(st.integers(1, 4))
    vectors = st.lists(floats, min_size=dimension, max_size=dimension)
    metadata = st.none() | st.dictionaries(st.text(), json_values, max_size=3)
    found = draw(st.lists(st.tuples(ids, vectors, metadata), max_size=8,
                          unique_by=lambda row: canonical_id(row[0])))  # fmt: skip
    return dimension, found


def there_and_back(cmd, kind, place):
    """Write collections to files and back and compare every bit."""
    file = place / f"rows.{kind}"
    beside = ["--ids", place / "rows.ids.jsonl"] if kind == "npy" else []

    def contents(docs):
        return [
            (record.id, record.vector.tobytes(), repr(record.metadata))
            for record in docs.scan(with_vectors=True)
        ]

    @settings(max_examples=25 if not os.environ.get("DVECDB_SOAK") else 2_000)
    @given(collections(), st.integers(1, 5))
    def check(found, batch_rows):
        dimension, records = found
        if kind == "npz":
            records = [row for row in records if not row[0].endswith("\0")]
        with cmd.database() as database:
            docs = database.create_collection("one", dimension=dimension)
            if records:
                texts, vectors, metadata = zip(*records, strict=True)
                docs.upsert(list(texts), np.array(vectors, np.float32), list(metadata))
            before = contents(docs)
        cmd.says("export", "one", file, "--overwrite")
        cmd.says("insert", "two", file, "--create", "-d", dimension, "--batch-rows", batch_rows,
                 *beside)  # fmt: skip
        with cmd.database() as database:
            assert contents(database.collection("two")) == before
            for name in ("one", "two"):
                database.delete_collection(name)

    check()


@pytest.mark.parametrize("kind", FORMATS[1:])
def test_what_export_writes_insert_reads_back_to_the_bit(dvecdb_here, tmp_path, kind):
    there_and_back(dvecdb_here, kind, tmp_path)


def test_lines_of_json_do_so_through_a_server_too(dvecdb_command, tmp_path):
    there_and_back(dvecdb_command, "jsonl", tmp_path)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_pipe_carries_a_collection_to_another(cmd, kind):
    cmd.says("insert", "docs", "-", stdin=rows(5, metadata={"a": [1, 'x,\n"y"']}))
    code, data, error = cmd.raw("export", "docs", "-", "--format", kind, *cmd.options)
    assert (code, error) == (0, b"")
    cmd.says("insert", "copy", "-", "--format", kind, "--create", "-d", 3, stdin=data)
    assert stored(cmd, "copy") == stored(cmd)


def test_numpy_and_pandas_find_their_way_in_an_export(cmd, tmp_path):
    cmd.says("insert", "docs", "-", stdin=rows(3) + rows(1, 3, metadata={"x": 1}))
    for kind in FORMATS:
        cmd.says("export", "docs", tmp_path / f"x.{kind}")
    expected = np.array([[number, 1, 2] for number in range(4)], np.float32)
    names = [f"id {number}" for number in range(4)]
    with np.load(tmp_path / "x.npz") as found:
        assert found["ids"].tolist() == names
        assert (found["vectors"] == expected).all()
        assert found["metadata.jsonl"] == b'null\nnull\nnull\n{"x":1}\n'
    assert (np.load(tmp_path / "x.npy") == expected).all()
    labels = (tmp_path / "x.ids.jsonl").read_text().splitlines()
    assert json.loads(labels[3]) == {"id": "id 3", "metadata": {"x": 1}}
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.column("id").to_pylist() == names
    assert table.column("vector").to_pylist() == expected.tolist()
    assert table.column("metadata").to_pylist()[2:] == [None, '{"x":1}']
    assert (tmp_path / "x.csv").read_text().splitlines()[:2] == [
        "id,vector,metadata", 'id 0,"[0.0,1.0,2.0]",'
    ]  # fmt: skip


# --- what files may look like ----------------------------------------------------------------


def base64_of(*numbers):
    return base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()


@pytest.mark.parametrize(
    ("kind", "text", "options", "metadata"),
    [
        ("jsonl", '\n{"id":7,"vector":[1,2,3]}\r\n\n', [], None),
        ("jsonl", '\ufeff{"id":"7","vector":[1,2,3],"metadata":null}', [], None),
        ("jsonl", f'{{"id":"7","vector":"{base64_of(1, 2, 3)}"}}', [], None),
        ("jsonl", '{"id":"7","embedding":[1,2,3]}', ["--vector-field", "embedding"], None),
        ("jsonl", '{"_id":"7","values":[1,2,3],"payload":{"a":1}}',
         ["--id-field", "_id", "--vector-field", "values", "--metadata-field", "payload"],
         {"a": 1}),
        ("jsonl", '{"id":"7","vector":[1,2,3],"a":[1]}', ["--others", "metadata"], {"a": [1]}),
        ("jsonl", '{"id":"7","vector":[1,2,3],"a":1}', ["--others", "ignore"], None),
        ("csv", 'id,vector\n7,"[1,2,3]"\n', [], None),
        ("csv", f"id,vector\r\n7,{base64_of(1, 2, 3)}\r\n", [], None),
        ("csv", "vector_0,vector_1,vector_2,id\n1,2.0,3e0,7\n", [], None),
        ("csv", "id,v2,v1,v3\n\n7,2,1,3\n", ["--vector-field", "v"], None),
        ("csv", 'id,vector,metadata\n7,"[1,2,3]","{""a"":1}"\n', [], {"a": 1}),
        ("csv", 'id,vector,a,b\n7,"[1,2,3]",x,\n', ["--others", "metadata"], {"a": "x"}),
        ("csv", 'id,vector,a\n7,"[1,2,3]",x\n', ["--others", "ignore"], None),
    ],
)  # fmt: skip
def test_rows_may_be_spelled_in_many_ways(cmd, tmp_path, kind, text, options, metadata):
    (tmp_path / f"x.{kind}").write_text(text)
    cmd.says("insert", "docs", tmp_path / f"x.{kind}", *options)
    assert stored(cmd) == [("7", np.array([1, 2, 3], np.float32).tobytes(), metadata)]


def test_arrays_may_come_with_ids_in_many_ways(cmd, tmp_path):
    vectors = np.array([[1, 2, 3], [4, 5, 6]], np.int16)
    np.save(tmp_path / "v.npy", vectors)
    np.save(tmp_path / "ids.npy", np.array(["a", "bb"]))
    (tmp_path / "ids.txt").write_text('a\n"b\\u0062"\n')
    (tmp_path / "ids.jsonl").write_text('{"id":"a"}\n{"id":"bb","metadata":{"x":1}}')
    for beside, metadata in (("ids.npy", None), ("ids.txt", None), ("ids.jsonl", {"x": 1})):
        cmd.says("insert", "docs", tmp_path / "v.npy", "--ids", tmp_path / beside)
        found = stored(cmd)
        assert [(row[0], row[2]) for row in found] == [("a", None), ("bb", metadata)]
    assert found[1][1] == vectors[1].astype(np.float32).tobytes()
    np.savez(tmp_path / "v.npz", vectors=vectors, ids=["c", "d"], metadata=["", '{"x": 2}'])
    cmd.says("insert", "docs", tmp_path / "v.npz", "--skip-rows", 1)
    assert stored(cmd)[2][0::2] == ("d", {"x": 2})
    cmd.says("insert", "docs", tmp_path / "v.npy")
    assert cmd.says("count", "docs") == "5\n"


def test_parquet_may_hold_lists_structs_and_other_columns(cmd, tmp_path):
    table = pa.table(
        {"id": [1, 2], "vector": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
         "metadata": [{"a": 1}, None], "tag": ["x", "y"]}
    )  # fmt: skip
    pq.write_table(table, tmp_path / "x.parquet")
    assert cmd.fails("insert", "docs", tmp_path / "x.parquet")[:2] == (2, "invalid-argument")
    cmd.says("insert", "docs", tmp_path / "x.parquet", "--others", "ignore", "--batch-rows", 1)
    assert [row[0::2] for row in stored(cmd)] == [("1", {"a": 1}), ("2", None)]
    cmd.says("insert", "docs", tmp_path / "x.parquet", "--others", "metadata", "--skip-rows", 1)
    assert stored(cmd)[1][2] == {"tag": "y"}


def test_without_pyarrow_the_error_names_the_extra(here, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr(builtins, "__import__", without)
    for arguments in (["insert", "docs", tmp_path / "x.parquet"],
                      ["export", "docs", tmp_path / "y.parquet"]):  # fmt: skip
        code, _, message = here.fails(*arguments)
        assert (code, "dvecdb[parquet]" in message) == (2, True)
    assert not (tmp_path / "y.parquet").exists()


# --- what stops an insert --------------------------------------------------------------------

GOOD = '{"id":"a","vector":[1,2,3]}\n'
CSV = "id,vector_0,vector_1,vector_2\n"
# file, text, code, what the message must say
BAD = {
    "no json": ("x.jsonl", GOOD + "nonsense\n", "invalid-argument", ["line 2", "JSON"]),
    "cut off": ("x.jsonl", GOOD + '{"id":"b","vec', "invalid-argument", ["line 2"]),
    "a list": ("x.jsonl", "[" + GOOD + "]", "invalid-argument", ["line 1", "a line, without"]),
    "no vector": ("x.jsonl", '{"id":"a"}', "invalid-argument", ["line 1", "vector"]),
    "other name": ("x.jsonl", '{"id":"a","values":[1,2,3]}', "invalid-argument",
                   ["line 1", "--vector-field values"]),
    "other field": ("x.jsonl", '{"id":"a","vector":[1,2,3],"x":1}', "invalid-argument",
                    ["line 1", "`x`", "--others"]),
    "null": ("x.jsonl", '{"id":"a","vector":[1,null,3]}', "invalid-argument",
             ["line 1", "Expected `float`", "null", "$.vector[1]"]),
    "short": ("x.jsonl", GOOD + '\n{"id":"b","vector":[1]}', "wrong-dimension",
              ["line 3", "expected 3", "found 1"]),
    "beyond float32": ("x.jsonl", GOOD + '{"id":"b","vector":[1,1e39,1]}', "vector-out-of-range",
                       ["line 2", "position 1", "1e+39"]),
    "bad base64": ("x.jsonl", '{"id":"a","vector":"!"}', "invalid-argument", ["line 1", "base64"]),
    "short base64": ("x.jsonl", f'{{"id":"a","vector":"{base64_of(1)}"}}', "wrong-dimension",
                     ["line 1", "found 1"]),
    "no id": ("x.jsonl", GOOD + '{"vector":[1,2,3]}', "invalid-id", ["line 2", "found None"]),
    "an id too many": ("x.jsonl", '{"vector":[1,2,3]}\n' + GOOD, "invalid-id", ["line 2", "'a'"]),
    "long id": ("x.jsonl", json.dumps({"id": "x" * 257, "vector": [1, 2, 3]}), "invalid-id",
                ["line 1", "257"]),
    "metadata": ("x.jsonl", '{"id":"a","vector":[1,2,3],"metadata":7}', "invalid-metadata",
                 ["line 1", "object"]),
    "big metadata": ("x.jsonl", json.dumps({"id": "a", "vector": [1, 2, 3],
                                            "metadata": {"x": "y" * 70_000}}),
                     "metadata-too-large", ["line 1", "65536"]),
    "not utf-8": ("x.jsonl", b'{"id":"\xff","vector":[1,2,3]}', "invalid-argument", ["line 1"]),
    "deep": ("x.jsonl", '{"id":"a","vector":[1,2,3],"metadata":' + '{"a":' * 5000 + "1"
             + "}" * 5001, "invalid-argument", ["line 1", "depth"]),
    "nan": ("x.csv", CSV + "a,1,2,3\nb,1,nan,3\n", "not-finite", ["line 3", "position 1", "nan"]),
    "no number": ("x.csv", CSV + "a,1,,3\n", "invalid-argument", ["line 2", "position 1", "''"]),
    "cells": ("x.csv", CSV + "a,1,2\n", "invalid-argument", ["line 2", "expected 4", "found 3"]),
    "empty csv": ("x.csv", "", "invalid-argument", ["line 1", "vector"]),
    "gap": ("x.csv", "id,vector_0,vector_2\n", "invalid-argument", ["line 1", "gap"]),
    "twice": ("x.csv", "id,vector,id\n", "invalid-argument", ["line 1", "'id'", "twice"]),
    "column": ("x.csv", "id,vector,x\n", "invalid-argument", ["line 1", "'x'", "--others"]),
    "csv id": ("x.csv", CSV + ",1,2,3\n", "invalid-id", ["line 2", "found 0"]),
    "open quote": ("x.csv", CSV + '"a,1,2,3\n', "invalid-argument", ["line 2", "CSV"]),
    "csv bytes": ("x.csv", CSV.encode() + b"\xff,1,2,3\n", "invalid-argument", ["UTF-8"]),
    "csv metadata": ("x.csv", 'id,vector,metadata\na,"[1,2,3]",[]\n', "invalid-metadata",
                     ["line 2", "object"]),
    "no npy": ("x.npy", "nonsense", "invalid-argument", ["numpy"]),
    "no npz": ("x.npz", "nonsense", "invalid-argument", [".npz"]),
    "no parquet": ("x.parquet", "nonsense", "invalid-argument", ["Parquet"]),
    "empty npy": ("x.npy", "", "invalid-argument", ["numpy"]),
    "empty npz": ("x.npz", "", "invalid-argument", [".npz"]),
    "empty parquet": ("x.parquet", "", "invalid-argument", ["Parquet"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_and_its_batch_is_not_there(cmd, tmp_path, case):
    name, text, code, words = BAD[case]
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    exit_code, found, message = cmd.fails("insert", "docs", tmp_path / name)
    assert (exit_code, found) == (2, code), message
    for word in [name, *words, "--skip-rows 0"]:
        assert word in message, message
    assert stored(cmd) == []


@pytest.mark.parametrize(
    ("array", "code", "words"),
    [
        (np.zeros((2, 4)), "wrong-dimension", ["3 numbers", "found 4"]),
        (np.zeros(3), "invalid-argument", ["shape"]),
        (np.array([["a", "b", "c"]]), "invalid-argument", ["<U1"]),
        (np.zeros((2, 3), order="F"), "invalid-argument", ["Fortran"]),
        (np.array([{}, {}]), "invalid-argument", ["objects"]),
        (np.array([[0, 1, 2], [0, np.inf, 2]]), "not-finite", ["row 2", "position 1"]),
        (np.array([[0, 1, 2], [0, 1, 1e39]]), "vector-out-of-range", ["row 2", "position 2"]),
    ],
)
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_a_bad_array_is_named(cmd, tmp_path, kind, array, code, words):
    file = tmp_path / f"x.{kind}"
    np.save(file, array) if kind == "npy" else np.savez(file, vectors=array)
    exit_code, found, message = cmd.fails("insert", "docs", file)
    assert (exit_code, found) == (2, code)
    for word in [file.name, *words]:
        assert word in message, message
    assert stored(cmd) == []


def test_ids_that_do_not_fit_their_array_are_named(cmd, tmp_path):
    np.save(tmp_path / "v.npy", np.zeros((2, 3)))
    np.save(tmp_path / "three.npy", np.array(["a", "b", "c"]))
    for name, text, words in (
        ("one.txt", "a\n", ["one.txt line 2", "found none"]),
        ("three.txt", "a\nb\nc\n", ["three.txt", "2 vectors"]),
        ("bad.jsonl", '{"id":"a"}\n{"name":"b"}\n', ["bad.jsonl line 2", "id"]),
        ("three.npy", None, ["three.npy", "2 texts"]),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        code, _, message = cmd.fails("insert", "docs", tmp_path / "v.npy", "--ids", tmp_path / name,
                                     "--batch-rows", 1)  # fmt: skip
        assert code == 2
        for word in words:
            assert word in message, message


def test_damaged_files_are_named(cmd, tmp_path):
    cmd.says("insert", "docs", "-", stdin=rows(2000))
    for kind in ("npy", "npz", "parquet"):
        file = tmp_path / f"x.{kind}"
        cmd.says("export", "docs", file)
        data = bytearray(file.read_bytes())
        if kind == "npy":
            del data[-10:]
        else:
            data[2000:2010] = bytes(b ^ 255 for b in data[2000:2010])
        file.write_bytes(data)
        code, _, message = cmd.fails("insert", "docs", file)
        assert (code, file.name in message) == (2, True)


def test_parquet_rows_that_do_not_fit_are_named(cmd, tmp_path):
    good = [1.0, 2.0, 3.0]
    for vectors, words in (
        ([good, [1.0]], ["row 2", "expected 3", "found 1"]),
        ([good, None], ["row 2", "no vector"]),
        ([good, [1.0, None, 2.0]], ["row 2", "number 1"]),
        ([good, [1.0, float("nan"), 2.0]], ["row 2", "position 1", "nan"]),
        (["x", "y"], ["expected lists of numbers"]),
    ):
        pq.write_table(pa.table({"id": ["a", "b"], "vector": vectors}), tmp_path / "x.parquet")
        code, _, message = cmd.fails("insert", "docs", tmp_path / "x.parquet")
        assert code == 2
        for word in words:
            assert word in message, message
    pq.write_table(pa.table({"id": ["a", None], "vector": [good, good]}), tmp_path / "x.parquet")
    assert "row 2" in cmd.fails("insert", "docs", tmp_path / "x.parquet")[2]
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "x.parquet")
    assert "no column 'vector'" in cmd.fails("insert", "docs", tmp_path / "x.parquet")[2]
    assert stored(cmd) == []


# --- going on --------------------------------------------------------------------------------


def test_an_insert_that_stopped_goes_on_where_it_says(cmd, tmp_path):
    good, bad = rows(10), rows(4) + b'{"id":"bad"}\n' + rows(5, 5)
    (tmp_path / "x.jsonl").write_bytes(bad)
    arguments = ["insert", "docs", tmp_path / "x.jsonl", "--batch-rows", 3]
    code, out, _ = cmd(*arguments, "--json")
    error = json.loads(out)["error"]
    assert (code, error["details"]["where"]) == (2, "line 5")
    assert error["details"]["rows_written"] == 3
    assert "3 rows of this run are in" in error["message"]
    assert cmd.says("count", "docs") == "3\n"
    (tmp_path / "x.jsonl").write_bytes(good)
    summary = cmd.json(*arguments, "--skip-rows", error["details"]["skip_rows"])
    assert (summary["rows"], summary["skipped"], summary["batches"]) == (7, 3, 3)
    assert (summary["first_lsn"], summary["last_lsn"]) == (2, 4)
    assert [row[0] for row in stored(cmd)] == [f"id {number}" for number in range(10)]
    assert cmd.json("history", "docs")["commits"][0]["reason"] == "x.jsonl rows 10 .. 10"


def test_insert_mode_refuses_what_exists_and_upsert_replaces_it(cmd):
    cmd.says("insert", "docs", "-", stdin=rows(3))
    arguments = ["insert", "docs", "-", "--mode", "insert", "--batch-rows", 2]
    code, name, message = cmd.fails(*arguments, stdin=rows(6, 1))
    assert (code, name) == (4, "id-exists")
    for word in ("line 1 .. line 2", "'id 1'", "--skip-rows 0"):
        assert word in message
    code, name, message = cmd.fails(*arguments, stdin=rows(2, 8) + rows(2, 2))
    assert ("line 3 .. line 4" in message, "--skip-rows 2" in message) == (True, True)
    cmd.says("insert", "docs", "-", stdin=rows(3))
    assert cmd.says("count", "docs") == "5\n"


def test_a_collection_is_made_on_demand_and_its_dimension_is_checked(cmd):
    code, name, message = cmd.fails("insert", "other", "-", stdin=rows(1))
    assert (code, name, "--create" in message) == (3, "collection-not-found", True)
    arguments = ["insert", "other", "-", "--create", "-d", 3, "--metric", "dot"]
    cmd.says(*arguments, stdin=rows(1))
    cmd.says(*arguments, stdin=rows(2))
    assert cmd.json("stats", "other")["schema"]["metric"] == "dot_product"
    code, name, _ = cmd.fails("insert", "other", "-", "--create", "-d", 4, stdin=rows(1))
    assert (code, name) == (2, "wrong-dimension")


def test_batches_are_bounded_by_bytes_too(cmd):
    data = rows(40, metadata={"x": "y" * 60_000})
    assert cmd.json("insert", "docs", "-", "--batch-mib", 1, stdin=data)["batches"] == 3
    assert cmd.json("insert", "docs", "-", stdin=b"\n\n") == {
        "collection": "docs", "file": "stdin", "rows": 0, "skipped": 0, "batches": 0,
        "first_lsn": None, "last_lsn": None, "seconds": pytest.approx(0, abs=60),
    }  # fmt: skip


@pytest.mark.crash
def test_a_killed_insert_leaves_whole_batches_and_goes_on(here, tmp_path):
    data = tmp_path / "data"
    command = [sys.executable, "-m", "dvecdb", "insert", "docs", "-", "--batch-rows", "100",
               "--data-dir", str(data)]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as process:
        for first in range(0, 200_000, 5_000):
            process.stdin.write(rows(5_000, first))
            if list(data.glob("collections/docs/wal/*2-*.wal")):
                break
        process.send_signal(signal.SIGKILL)
        process.stdin.close()
    with dvecdb.open(data) as database:
        count = database.collection("docs").count()
    assert count % 100 == 0
    here.says("insert", "docs", "-", "--skip-rows", count, stdin=rows(count + 1_000))
    assert [row[0] for row in stored(here)] == [f"id {number}" for number in range(count + 1_000)]


def test_an_interrupted_insert_says_how_to_go_on(cmd, monkeypatch, capfdbinary):
    class Interrupted(io.BytesIO):
        def read(self, size=-1):
            block = super().read(size)
            if not block:
                raise KeyboardInterrupt
            return block

    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", io.TextIOWrapper(Interrupted(rows(5))))
        arguments = ["insert", "docs", "-", "--batch-rows", "2", *map(str, cmd.options)]
        assert cli.run(arguments) == 130
    error = capfdbinary.readouterr().err.decode()
    assert (error.startswith("interrupted: 4 rows"), error.endswith("--skip-rows 4\n")) == (
        True, True
    )  # fmt: skip
    assert cmd.says("count", "docs") == "4\n"


def test_an_insert_never_claims_what_it_does_not_know(here, monkeypatch):
    upsert, calls = dvecdb.Collection.upsert, []

    def breaks(self, *arguments, **options):
        calls.append(options)
        if len(calls) == 2:
            raise OutcomeUnknownError(Code.OUTCOME_UNKNOWN, "the disk failed.")
        return upsert(self, *arguments, **options)

    monkeypatch.setattr(dvecdb.Collection, "upsert", breaks)
    code, name, message = here.fails("insert", "docs", "-", "--batch-rows", 2, stdin=rows(4))
    assert (code, name) == (7, "outcome-unknown")
    assert "2 rows of this run are in, the batch after them perhaps; " in message
    assert message.endswith("--skip-rows 2")


def test_a_file_that_cannot_be_read_on_says_how_to_go_on(here, monkeypatch):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            block = super().read(size)
            if not block:
                raise OSError(5, "Input/output error")
            return block

    with monkeypatch.context() as patched:
        patched.setattr(io, "BytesIO", Broken)
        code, name, message = here.fails("insert", "docs", "-", "--batch-rows", 2, stdin=rows(5))
    assert (code, name) == (2, "invalid-argument")
    assert ("Input/output error" in message, message.endswith("--skip-rows 4")) == (True, True)


def test_a_progress_bar_is_shown_on_a_terminal_only(here, tmp_path):
    (tmp_path / "x.jsonl").write_bytes(rows(1000))
    command = [sys.executable, "-m", "dvecdb", "insert", "docs", str(tmp_path / "x.jsonl"),
               "--data-dir", str(tmp_path / "data")]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "TERM": "xterm"}
    ours, theirs = pty.openpty()
    subprocess.run(command, env=environment, stderr=theirs, stdout=subprocess.PIPE, check=True)
    os.close(theirs)
    try:
        assert b"%" in os.read(ours, 100_000)
    finally:
        os.close(ours)
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert done.stderr == b""


# --- export ----------------------------------------------------------------------------------


def test_an_export_is_one_state_there_whole_or_not_at_all(cmd, tmp_path):
    cmd.says("insert", "docs", "-", stdin=rows(3))
    cmd.says("delete-vectors", "docs", "id 0", "--yes")
    file = tmp_path / "x.jsonl"
    summary = cmd.json("export", "docs", file, "--as-of", 1)
    assert (summary["rows"], summary["lsn"], summary["files"]) == (3, 1, [str(file)])
    assert summary["size_bytes"] == file.stat().st_size
    code, _, message = cmd.fails("export", "docs", file)
    assert (code, "--overwrite" in message) == (2, True)
    assert len(file.read_text().splitlines()) == 3
    assert cmd.says("export", "docs", file, "--overwrite").startswith("exported 2 rows of docs")
    assert len(file.read_text().splitlines()) == 2
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_of_damaged_records_leaves_no_file(here, tmp_path, kind):
    here.says("insert", "docs", "-", stdin=rows(3))
    with dvecdb.open(here.data) as database:
        database.collection("docs").flush()
    (path,) = tmp_path.glob("data/collections/docs/segments/*/vectors.bin")
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.unlink()
    path.write_bytes(data)
    code, name, _ = here.fails("export", "docs", tmp_path / f"x.{kind}")
    assert (code, name) == (1, "damaged-data")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_id_that_a_npz_cannot_hold_is_refused(cmd, tmp_path):
    cmd.says("insert", "docs", "-", stdin=b'{"id":"a\\u0000","vector":[1,2,3]}')
    code, name, _ = cmd.fails("export", "docs", tmp_path / "x.npz")
    assert (code, name) == (2, "invalid-id")
    assert not (tmp_path / "x.npz").exists()


def test_an_empty_collection_is_exported_too(cmd, tmp_path):
    for kind in FORMATS:
        cmd.says("export", "docs", tmp_path / f"x.{kind}")
        beside = ["--ids", tmp_path / "x.ids.jsonl"] if kind == "npy" else []
        cmd.says("insert", "docs", tmp_path / f"x.{kind}", *beside)
    assert stored(cmd) == []
    assert zipfile.ZipFile(tmp_path / "x.npz").testzip() is None


def test_a_reader_that_stops_reading_ends_an_export_quietly(here, tmp_path):
    here.says("insert", "docs", "-", stdin=rows(5_000))
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(
        [sys.executable, "-m", "dvecdb", "export", "docs", "-", "--data-dir",
         str(tmp_path / "data")],
        env=environment, stdout=writer, stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
