"""`dvecdb import` of files of records: a new collection at once, whole or not at all."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dvecdb
from dvecdb.cli import main as cli

FORMATS = ["jsonl", "csv", "npy", "npz", "parquet"]
VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3) / 7
IDS = ["a", "b", "c", "d"]
METADATA = [{"n": 1}, None, {"text": 'x,"y"'}, {}]


@pytest.fixture
def files(tmp_path, capfdbinary):
    """The same four records in every format, and the ids beside the .npy."""
    with dvecdb.open(tmp_path / "source") as database:
        database.create_collection("docs", dimension=3).upsert(IDS, VECTORS, METADATA)
    for kind in FORMATS:
        place = ["docs", f"{tmp_path / 'rows'}.{kind}", "--data-dir", f"{tmp_path / 'source'}"]
        assert cli.run(["export", *place]) == 0
    capfdbinary.readouterr()
    return tmp_path


def arguments(files, kind):
    """Return what names the file of a format."""
    beside = ["--ids", files / "rows.ids.jsonl"] if kind == "npy" else []
    return [files / f"rows.{kind}", *beside]


def stored(cmd, name):
    with cmd.database() as database:
        return [
            (record.id, record.vector.tobytes(), record.metadata)
            for record in database.collection(name).scan(with_vectors=True)
        ]


def names(cmd):
    with cmd.database() as database:
        return database.collections()


@pytest.mark.parametrize("kind", FORMATS)
def test_import_makes_a_collection_of_every_format_without_being_told_the_dimension(
    dvecdb_command, files, kind
):
    report = dvecdb_command.json("import", *arguments(files, kind), "--as", "new")
    assert (report["name"], report["imported"], report["exact"]) == ("new", 4, 4)
    assert (report["kind"], report["dimension"], report["metric"]) == (kind, 3, "cosine")
    assert names(dvecdb_command) == ["new"]
    assert stored(dvecdb_command, "new") == [
        (text, vector.tobytes(), metadata)
        for text, vector, metadata in zip(IDS, VECTORS, METADATA, strict=True)
    ]


def test_metric_and_type_are_taken_from_the_options(dvecdb_command, tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1, 2], [3, 4]]))
    out = dvecdb_command.says("import", tmp_path / "x.npy", "--as", "x", "--metric", "l2",
                              "--vector-type", "int8", "--dimension", 2)  # fmt: skip
    assert out.startswith(f"imported 2 records of {tmp_path / 'x.npy'} (dimension 2, ")
    with dvecdb_command.database() as database:
        schema = database.collection("x").schema
        assert (schema.dimension, schema.metric, schema.vector_type) == (2, "euclidean", "int8")


def test_a_pipe_is_imported_too(dvecdb_command):
    lines = b'{"id":"a","vector":[1,2]}\n{"id":"a","vector":[3,4]}\n'
    report = dvecdb_command.json("import", "-", "--as", "piped", stdin=lines)
    assert (report["records_found"], report["imported"], report["superseded"]) == (2, 1, 1)


@pytest.mark.parametrize(
    ("lines", "code", "place"),
    [
        (b'{"id":"a","vector":[1,2]}\n{"id":"b","vector":[1,2,3]}\n', "wrong-dimension", "line 2"),
        (b'{"id":"a","vector":[]}\n', "wrong-dimension", "line 1"),
        (b'{"id":"a","vector":[1,1e39]}\n', "vector-out-of-range", "line 1"),
        (b'{"id":"a","vector":[1]}\nx\n', "invalid-argument", "line 2"),
        (b"", "invalid-argument", "--dimension"),
    ],
)  # fmt: skip
def test_a_bad_row_leaves_nothing_behind(dvecdb_command, lines, code, place):
    exit_code, name, message = dvecdb_command.fails("import", "-", "--as", "new", stdin=lines)
    assert (exit_code, name) == (2, code)
    assert place in message
    assert names(dvecdb_command) == []


def test_a_dimension_that_the_rows_contradict_is_refused(dvecdb_command, files):
    for kind in FORMATS:
        exit_code, name, message = dvecdb_command.fails(
            "import", *arguments(files, kind), "--as", "new", "-d", 4
        )
        assert (exit_code, name) == (2, "wrong-dimension"), kind
        assert "found 3" in message
        assert names(dvecdb_command) == []


def test_parquet_without_a_fixed_length_tells_its_dimension_by_the_first_row(dvecdb_here, tmp_path):
    def write(rows):
        pq.write_table(pa.table({"id": IDS[: len(rows)], "vector": rows}), tmp_path / "x.parquet")
        return ["import", tmp_path / "x.parquet", "--as", "x", "--replace"]

    assert dvecdb_here.json(*write([[1.0, 2.0], [3.0, 4.0]]))["dimension"] == 2
    assert dvecdb_here.fails(*write([[1.0, 2.0], [3.0]]))[1] == "wrong-dimension"
    assert dvecdb_here.fails(*write([[], [3.0]]))[1] == "wrong-dimension"
    assert dvecdb_here.fails(*write([None, [3.0]]))[1] == "invalid-argument"
    assert dvecdb_here.fails(*write(pa.array(["x", "y"])))[1] == "invalid-argument"
    assert len(stored(dvecdb_here, "x")) == 2


def test_an_empty_file_makes_an_empty_collection_of_the_dimension_that_is_said(dvecdb_command):
    report = dvecdb_command.json("import", "-", "--as", "none", "-d", 3, stdin=b"")
    assert (report["imported"], report["dimension"]) == (0, 3)


# --- a name that is taken ---


def test_a_collection_that_exists_is_not_touched(dvecdb_command, files):
    dvecdb_command.says("import", files / "rows.npz", "--as", "docs")
    before = stored(dvecdb_command, "docs")
    for name in ("docs", "DOCS"):
        exit_code, code, message = dvecdb_command.fails("import", "-", "--as", name, stdin=b"")
        assert (exit_code, code) == (4, "collection-exists")
        assert "--replace" in message
    assert stored(dvecdb_command, "docs") == before
    assert names(dvecdb_command) == ["docs"]


def test_what_is_replaced_goes_to_the_trash_and_has_a_backup(dvecdb_command, files):
    dvecdb_command.says("import", files / "rows.npz", "--as", "docs")
    before = stored(dvecdb_command, "docs")
    line = b'{"id":"z","vector":[1]}\n'
    report = dvecdb_command.json(
        "import", "-", "--as", "docs", "--replace", "--reason", "better", stdin=line
    )
    assert names(dvecdb_command) == ["docs"]
    assert [row[0] for row in stored(dvecdb_command, "docs")] == ["z"]
    (backup,) = dvecdb_command.json("backup", "list")["backups"]
    assert (backup["collection"], backup["reason"]) == ("docs", "before better")
    dvecdb_command.says("restore", report["replaced"], "--new-name", "old")
    assert stored(dvecdb_command, "old") == before


def test_what_is_protected_is_not_replaced(dvecdb_command, files):
    dvecdb_command.says("import", files / "rows.npz", "--as", "docs")
    dvecdb_command.says("protect", "docs")
    exit_code, code, _ = dvecdb_command.fails(
        "import", "-", "--as", "docs", "--replace", stdin=b'{"vector":[1]}'
    )
    assert (exit_code, code) == (4, "collection-protected")
    assert names(dvecdb_command) == ["docs"]
    assert len(stored(dvecdb_command, "docs")) == 4


# --- the report ---


def test_the_report_is_a_file_of_what_json_prints(dvecdb_here, files):
    place = files / "report.json"
    place.write_text("older")
    printed = dvecdb_here.json("import", files / "rows.csv", "--as", "new", "--report", place)
    written = json.loads(place.read_text())
    assert {key: printed[key] for key in written if key != "name"} == {
        key: value for key, value in written.items() if key != "name"
    }
    assert [item for item in os.listdir(files) if "partial" in item] == []


@pytest.mark.parametrize("place", ["missing/report.json", "."])
def test_a_report_that_cannot_be_written_is_said_before_any_work(dvecdb_here, files, place):
    exit_code, _, _ = dvecdb_here.fails(
        "import", files / "rows.csv", "--as", "new", "--report", files / place
    )
    assert exit_code == 2
    assert not dvecdb_here.data.exists()


@pytest.mark.parametrize(
    "more",
    [
        ["rows.csv", "--keep-raw"],
        ["rows.csv", "--collection", "docs"],
        ["rows.csv", "--ids", "rows.ids.jsonl"],
        ["source", "--ids", "rows.ids.jsonl"],
        ["rows.csv", "--format", "npy"],
        ["rows.csv", "--metric", "x"],
        ["rows.csv", "--vector-type", "x"],
        ["missing.csv"],
    ],
)
def test_options_that_do_not_fit_are_refused(dvecdb_here, files, monkeypatch, more):
    monkeypatch.chdir(files)
    exit_code, _, _ = dvecdb_here.fails("import", *more, "--as", "new")
    assert exit_code == 2
    if dvecdb_here.data.exists():
        assert names(dvecdb_here) == []
