"""The command line, in this process and as a program: output, exit codes, errors."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.golden import make, trees

import dvecdb
from dvecdb.cli import main as cli
from dvecdb.formats.manifest_file import seal_json

SOURCE = Path(__file__).parents[2] / "src"
CODES_LOG = "collections/codes/wal/0000000001-0000000000000001.wal"


@pytest.fixture
def data(tmp_path):
    return trees.copy_of_golden(tmp_path / "data")


@pytest.fixture
def run(capsys):
    """Run a command in this process; return exit code, stdout and stderr."""

    def command(*arguments):
        code = cli.run(list(map(str, arguments)))
        return code, *capsys.readouterr()

    return command


def program(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run(
        [sys.executable, "-m", "dvecdb", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **options,
    )


def flip(path, offset):
    damaged = bytearray(path.read_bytes())
    damaged[offset] ^= 1
    path.write_bytes(damaged)


def flip_vectors(data):
    (path,) = data.glob("collections/docs/segments/*/vectors.bin")
    flip(path, 3)


# --- what it prints --------------------------------------------------------------------------


def test_version(run):
    assert run("version") == (0, f"dvecdb {dvecdb.__version__}\n", "")


def test_no_arguments_and_help_say_what_there_is_and_what_exit_codes_mean(run):
    for arguments in ([], ["--help"]):
        code, out, _ = run(*arguments)
        assert code == 0
        assert "Exit codes" in out
        for command in ("version", "dump", "demo", "verify", "findings", "collections"):
            assert command in out


def test_collections_are_listed(run, data):
    code, out, _ = run("collections", "--data-dir", data)
    assert code == 0
    assert out.splitlines()[2].split()[:6] == ["docs", "3", "4", "float32", "euclidean", "5"]
    code, out, _ = run("collections", "--data-dir", data, "--json")
    listed = json.loads(out)["collections"]
    assert [(item["name"], item["count"]) for item in listed] == [("codes", 2), ("docs", 3)]


def test_a_sound_directory_verifies_and_has_no_findings(run, data):
    before = trees.tree_bytes(data)
    code, out, _ = run("verify", "--data-dir", data)
    assert (code, out.splitlines()[-1]) == (0, "sound")
    code, out, _ = run("verify", "--data-dir", data, "--collection", "docs", "--json")
    assert code == 0
    assert [item["collection"] for item in json.loads(out)["collections"]] == ["docs"]
    assert run("findings", "--data-dir", data) == (0, "no findings\n", "")
    code, out, _ = run("findings", "--data-dir", data, "--json")
    assert (code, json.loads(out)) == (0, {"findings": []})
    assert trees.tree_bytes(data) == before


def test_dump_shows_any_file_as_text_and_as_json(run, data):
    for path in data.rglob("*"):
        if path.is_file():
            code, out, error = run("dump", path)
            assert (code, error) == (0, ""), path
            assert out.startswith("kind: ")
            code, out, _ = run("dump", path, "--json", "--vectors", 2)
            assert json.loads(out)["kind"]


def test_dump_shows_vectors_on_request(run, data):
    (path,) = data.glob("collections/docs/segments/*/vectors.bin")
    _, out, _ = run("dump", path, "--vectors", 1)
    assert "ordinal 0, vector 1, 0, 0.5, -2" in out


# --- damage: exit code 1 ---------------------------------------------------------------------


def test_damage_is_named_and_the_exit_code_is_1(run, data):
    flip_vectors(data)
    code, out, error = run("verify", "--data-dir", data)
    assert (code, error) == (1, "")
    assert "block-damaged" in out
    assert "lost: vectors of rows 0" in out
    code, out, _ = run("verify", "--data-dir", data, "--json")
    report = json.loads(out)
    assert (code, report["ok"]) == (1, False)
    assert run("verify", "--data-dir", data, "--collection", "codes")[0] == 0


def test_findings_of_opening_are_listed(run, data):
    flip(data / CODES_LOG, 0)
    code, out, _ = run("findings", "--data-dir", data)
    assert code == 1
    assert "codes: wal-header-damaged: " in out
    _, out, _ = run("findings", "--data-dir", data, "--json")
    assert [item["code"] for item in json.loads(out)["findings"]] == ["wal-header-damaged"]


def test_a_collection_that_is_set_aside_does_not_hide_the_others(run, data):
    shutil.rmtree(data / "collections" / "codes" / "manifests")
    code, out, _ = run("collections", "--data-dir", data)
    assert code == 1
    assert out.splitlines()[1].split()[:2] == ["docs", "3"]
    assert "codes: directory-missing" in out
    code, out, _ = run("verify", "--data-dir", data)
    assert code == 1
    assert "codes: directory-missing" in out
    code, out, _ = run("verify", "--data-dir", data, "--collection", "docs")
    assert code == 0
    code, _, error = run("verify", "--data-dir", data, "--collection", "codes")
    assert code == 1
    assert error.startswith("error: collection-damaged: ")


@pytest.mark.parametrize(
    ("pattern", "offset"),
    [
        (CODES_LOG, 0),
        (CODES_LOG, 1730),
        ("collections/docs/segments/*/records.bin", 5),
        ("collections/docs/segments/*/records.bin", 9000),
        ("collections/docs/segments/*/vectors.bin", 5),
        ("collections/docs/manifests/*2.json", 50),
        ("collections/docs/derived/*.idx", 70),
    ],
)
def test_dump_of_a_damaged_file_shows_what_it_can_and_exits_with_1(run, data, pattern, offset):
    (path,) = data.glob(pattern)
    flip(path, offset)
    code, out, error = run("dump", path)
    assert (code, error) == (1, "")
    assert "damaged" in out


# --- errors: exit code 2 ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nope"], "error: usage: "),
        (["dump"], "error: usage: "),
        (["dump", "LOCK", "--vectors", "-1"], "error: usage: "),
        (["verify"], "error: usage: "),
        (["dump", "missing.wal"], "error: file-unreadable: missing.wal: "),
        (["verify", "--data-dir", "missing"], "error: directory-unreadable: "),
        (["findings", "--data-dir", "."], "error: not-a-data-directory: "),
        (["demo", "--keep", "data"], "error: directory-unreadable: "),
    ],
)
def test_an_error_is_one_clear_line(run, data, monkeypatch, arguments, expected):
    monkeypatch.chdir(data.parent)
    (data.parent / "other").touch()
    code, out, error = run(*arguments)
    assert (code, out) == (2, "")
    assert error.startswith(expected)
    assert error.count("\n") == 1
    if "demo" not in arguments:
        code, out, _ = run(*arguments, "--json")
        assert code == 2
        assert json.loads(out)["error"]["code"] == expected.split(": ")[1]


def test_what_is_not_there_has_an_exit_code_of_its_own(run, data):
    code, out, error = run("verify", "--data-dir", data, "--collection", "x")
    assert (code, out) == (3, "")
    assert error.startswith("error: collection-not-found: ")


def test_a_directory_of_a_newer_version_is_refused(run, data):
    content = {"format_version": 2, "epoch": 1, "owner": "", "pid": 1, "host": ""}
    (data / "LOCK").write_bytes(seal_json(content))
    code, _, error = run("collections", "--data-dir", data)
    assert (code, error.startswith("error: format-too-new: ")) == (2, True)


def test_looking_works_beside_a_writer(run, data):
    with dvecdb.open(data) as database:
        database.collection("docs").upsert(ids=["live"], vectors=[[1, 2, 3, 4]])
        assert run("collections", "--data-dir", data)[0] == 0
        assert run("verify", "--data-dir", data)[0] == 0


# --- as a program ----------------------------------------------------------------------------


def test_the_program_answers_like_the_function(data):
    done = program("version")
    assert (done.returncode, done.stdout) == (0, f"dvecdb {dvecdb.__version__}\n")
    done = program("verify", "--data-dir", data / "missing")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: directory-unreadable: ")
    assert "Traceback" not in done.stderr


def test_a_reader_that_stops_reading_is_no_error(data):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "dvecdb", "dump", str(data / "LOCK")],
        env=environment,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_demo_tells_its_story_and_keeps_what_it_made(tmp_path):
    kept = tmp_path / "kept"
    done = program("demo", "--small", "--keep", kept)
    assert (done.returncode, done.stderr) == (0, "")
    assert "WRONG" not in done.stdout
    for told in (
        "3,000 written, 4 overwritten, 1 torn, at byte 2,191",
        "imported 2,995 in",
        "search 'lighthouse storm'",
        "deleted → trash: films_",
        "restored in",
        "a bad upsert",
        "all 2,995 bit-identical ✓",
        f"serve --data-dir {kept / 'data'}",
    ):
        assert told in done.stdout  # fmt: skip
    with dvecdb.open(kept / "data", read_only=True) as database:
        assert database.collection("films").count() == 2_995
    assert (kept / "old" / "films" / "vectors.bin").exists()


def test_a_demo_leaves_nothing_behind_unless_it_is_asked_to(tmp_path, monkeypatch, run):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, out, _ = run("demo", "--small", "--json")
    report = json.loads(out)
    assert (code, report["ok"]) == (0, True)
    assert all(step["ok"] is not False for step in report["steps"])
    assert sum(step["ok"] is True for step in report["steps"]) == 7
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_finds_something_wrong_fails(monkeypatch, run):
    from dvecdb.cli import demo_legacy

    honest = demo_legacy.survivors

    def one_bit_less(plan, written):
        for chunk in honest(plan, written):
            chunk.vectors.view("u4")[0, 0] ^= 1
            yield chunk

    monkeypatch.setattr(demo_legacy, "survivors", one_bit_less)
    code, out, _ = run("demo", "--small")
    assert code == 1
    assert "WRONG: imported 2,995" in out
    assert out.endswith("something is wrong: see above\n")


def test_a_demo_without_room_says_so_before_it_begins(monkeypatch, run, tmp_path):
    monkeypatch.setattr("shutil.disk_usage", lambda place: shutil._ntuple_diskusage(1, 1, 0))
    code, out, error = run("demo", "--small", "--keep", tmp_path / "new")
    assert (code, out) == (5, "")
    assert error.startswith("error: disk-full: ")


# What a run of the demo does not say again: times, stamps and places.
VARIES = re.compile(r"[\d.]+ (?:ms|s)\b|_\d{8}_\d{6}")


@pytest.mark.slow
def test_the_front_page_opens_with_what_the_demo_prints():
    page = (Path(__file__).parents[2] / "README.md").read_text()
    shown = page.split("$ dvecdb demo\n", 1)[1].split("```", 1)[0]
    done = program("demo")
    assert (done.returncode, done.stderr) == (0, "")
    assert VARIES.sub("...", done.stdout) == VARIES.sub("...", shown)


def test_every_golden_file_can_be_dumped_by_the_program():
    done = program("dump", make.FILES / "LOCK", "--json")
    assert json.loads(done.stdout)["pid"] == 4711
