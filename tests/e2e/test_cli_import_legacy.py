"""`dvecdb import` of damaged directories: into a directory, and streamed to a running server."""

import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import time
import uuid

import numpy as np
import pytest
from tests.e2e.serving import SOURCE, Server

import dvecdb
from dvecdb.cli import demo_legacy
from dvecdb.cli import main as cli
from dvecdb.cli.demo_legacy import SMALL

METADATA_BYTES_MAX = 64 * 1024


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """The directory of the demo, and what was written into it."""
    place = tmp_path_factory.mktemp("legacy") / "old"
    return place, demo_legacy.write_legacy(place, SMALL)


def survivors(written):
    return {
        name: (vector.tobytes(), value)
        for chunk in demo_legacy.survivors(SMALL, written)
        for name, vector, value in zip(chunk.ids, chunk.vectors, chunk.metadata, strict=True)
    }


def stored(cmd, name):
    with cmd.database() as database:
        return {
            record.id: (record.vector.tobytes(), record.metadata)
            for record in database.collection(name).scan(with_vectors=True)
        }


def names(cmd):
    with cmd.database() as database:
        return database.collections()


def record(vector, metadata=b"\0"):
    """Return a record of the old format, and its id. metadata: from its tag on."""
    identity = uuid.uuid4()
    head = struct.pack("<Q16sQ", 16, identity.bytes, len(vector))
    return str(identity), head + np.array(vector, "<f4").tobytes() + metadata


def text_metadata(text):
    data = text.encode()
    return struct.pack("<BQQ1sQ", 1, 1, 1, b"k", len(data)) + data


def legacy_file(place, *records):
    """Write a collection of the old format."""
    place.mkdir()
    (place / "vectors.bin").write_bytes(b"".join(records) + bytes(1024 * 1024))
    return place


def tree(place):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns)
            for path in place.rglob("*") if path.is_file()}  # fmt: skip


# --- wherever it goes ---


@pytest.mark.parametrize(
    "source", [["films"], ["films/vectors.bin"], [".", "--collection", "films"]]
)
def test_every_record_that_is_whole_comes_back_to_the_bit(dvecdb_command, broken, tmp_path, source):
    place, written = broken
    before = tree(place)
    report = dvecdb_command.json(
        "import", place / source[0], *source[1:], "--as", "new", "--report", tmp_path / "report"
    )
    assert (report["name"], report["imported"], report["generation"]) == ("new", 2_995, "A")
    assert (report["dimension"], report["replaced"]) == (96, None)
    assert [(item["start"], item["end"]) for item in report["lost"]] == [(written.torn_at, 2_555)]
    kept = json.loads((tmp_path / "report").read_text())
    assert (kept["imported"], kept["lost"]) == (report["imported"], report["lost"])
    assert names(dvecdb_command) == ["new"]
    assert stored(dvecdb_command, "new") == survivors(written)
    assert tree(place) == before


def test_what_is_imported_says_so_in_words(dvecdb_command, broken):
    out = dvecdb_command.says("import", broken[0] / "films", "--as", "new")
    first, *more = out.splitlines()
    assert first.startswith("imported 2,995 records of ")
    assert "(generation A, dimension 96, metric cosine) as new in " in first
    assert any("  lost: vectors.bin bytes 2,191 .. 2,555: " in line for line in more)
    assert any("1 in doubt, ambiguous: " in line for line in more)


def test_a_dimension_that_the_bytes_contradict_is_refused(dvecdb_command, broken):
    code, name, message = dvecdb_command.fails("import", broken[0], "--as", "new", "-d", 128)
    assert (code, name) == (2, "source-contradicts")
    assert "96" in message
    assert names(dvecdb_command) == []


def test_a_metric_is_taken_where_the_files_have_none(dvecdb_command, broken):
    report = dvecdb_command.json("import", broken[0], "--as", "new", "--metric", "manhattan")
    assert report["metric"] == "manhattan"
    with dvecdb_command.database() as database:
        assert database.collection("new").schema.metric == "manhattan"


def test_nothing_to_bring_back_is_exit_code_3_and_the_report(dvecdb_command, tmp_path):
    noise = legacy_file(tmp_path / "noise", b"\xa5" * 5_000)
    asked = ["import", noise, "--as", "new", "--report", tmp_path / "report"]
    code, out, error = dvecdb_command(*asked)
    assert (code, error.startswith("error: nothing-recoverable: ")) == (3, True)
    assert out.startswith(f"nothing of {noise} can be brought back\n")
    assert json.loads((tmp_path / "report").read_text())["imported"] == 0
    code, out, _ = dvecdb_command(*asked, "--json")
    found = json.loads(out)["error"]
    assert (code, found["code"]) == (3, "nothing-recoverable")
    assert found["details"]["report"]["source"] == str(noise)
    assert names(dvecdb_command) == []


def test_a_source_that_is_not_there_is_exit_code_3(dvecdb_command, tmp_path):
    code, name, _ = dvecdb_command.fails("import", tmp_path / "missing", "--as", "new")
    assert (code, name) == (3, "source-not-found")
    assert dvecdb_command.data is None or not dvecdb_command.data.exists()


def test_what_is_replaced_goes_to_the_trash_and_has_a_backup(dvecdb_command, broken):
    dvecdb_command.says("create", "new", "-d", 1)
    code, name, _ = dvecdb_command.fails("import", broken[0], "--as", "new")
    assert (code, name) == (4, "collection-exists")
    report = dvecdb_command.json("import", broken[0], "--as", "new", "--replace")
    assert dvecdb_command.json("count", "new")["count"] == 2_995
    (entry,) = dvecdb_command.json("trash", "list")["entries"]
    assert (entry["name"], entry["collection"]) == (report["replaced"], "new")
    assert len(dvecdb_command.json("backup", "list")["backups"]) == 1


def test_a_dry_run_reports_and_makes_nothing(dvecdb_command, broken):
    report = dvecdb_command.json("import", broken[0], "--as", "new", "--dry-run")
    assert (report["imported"], report["dimension"]) == (2_995, 96)
    out = dvecdb_command.says("import", broken[0], "--as", "new", "--dry-run")
    assert out.startswith("would import 2,995 records of ")


def test_what_a_process_has_open_is_no_source(dvecdb_command, tmp_path):
    live = tmp_path / "live"
    with dvecdb.open(live) as database:
        docs = database.create_collection("docs", dimension=1)
        docs.upsert(["a"], [[1]])
        for source in (live, live / "collections", live / "collections" / "docs"):
            code, name, _ = dvecdb_command.fails("import", source, "--as", "new")
            assert (code, name) == (4, "source-in-use"), source


# --- through a server ---


@pytest.fixture
def served(tmp_path, capfdbinary, monkeypatch):
    """A server of its own on a data directory, and the command on that directory."""
    started = Server(tmp_path / "data", tmp_path / "log").wait()
    yield started
    started.kill()


def run(capfdbinary, *arguments):
    """Return exit code, stdout and stderr of a command."""
    code = cli.run(list(map(str, arguments)))
    sys.stdout.flush()
    out, error = capfdbinary.readouterr()
    return code, out.decode(), error.decode()


def test_the_server_of_a_directory_is_found_by_its_lock(served, broken, capfdbinary):
    at = ["--data-dir", served.data]
    code, out, error = run(capfdbinary, "import", broken[0], "--as", "new", *at)
    assert (code, error) == (0, "")
    assert out.startswith("imported 2,995 records of ")
    served.stop()
    code, out, _ = run(capfdbinary, "collections", *at, "--json")
    assert [item["name"] for item in json.loads(out)["collections"]] == ["new"]
    with dvecdb.open(served.data, read_only=True) as database:
        assert database.collection("new").count() == 2_995
        assert database.trash() == []


def test_other_commands_name_the_server(served, capfdbinary):
    code, _, error = run(capfdbinary, "create", "docs", "-d", 1, "--data-dir", served.data)
    assert code == 2
    assert f"--url http://127.0.0.1:{served.port}" in error


def test_a_lock_of_another_machine_names_no_server(served, broken, capfdbinary, monkeypatch):
    monkeypatch.setattr("dvecdb.cli.target.socket.gethostname", lambda: "elsewhere")
    code, _, error = run(capfdbinary, "import", broken[0], "--as", "new", "--data-dir", served.data)
    assert (code, error.startswith("error: directory-in-use: ")) == (2, True)


def make_key(data, capfdbinary, *scopes):
    given = [part for scope in scopes for part in ("--scope", scope)]
    _, out, _ = run(capfdbinary, "keys", "create", "-".join(scopes), "--data-dir", data, *given,
                    "--json")  # fmt: skip
    return json.loads(out)["token"]


def test_a_key_needs_the_scopes_for_it(tmp_path, broken, capfdbinary, monkeypatch):
    data = tmp_path / "data"
    writer = make_key(data, capfdbinary, "read", "write")
    restorer = make_key(data, capfdbinary, "read", "write", "restore")
    admin = make_key(data, capfdbinary, "admin")
    server = Server(data, tmp_path / "log").wait()
    try:
        asked = ["import", broken[0], "--as", "new", "--data-dir", data]
        code, _, error = run(capfdbinary, *asked)
        assert (code, error.split(":")[1]) == (6, " unauthenticated")
        code, _, error = run(capfdbinary, *asked, "--api-key", writer)
        assert (code, error.split(":")[1]) == (6, " forbidden")
        assert "restore" in error
        monkeypatch.setenv("DVECDB_API_KEY", restorer)
        assert run(capfdbinary, *asked, "--actor", "ann")[0] == 0
        with dvecdb.connect(f"http://127.0.0.1:{server.port}", api_key=admin) as database:
            assert database.collections() == ["new"]
            assert database.collection("new").count() == 2_995
            assert {item.collection[:14] for item in database.trash()} == {"new.importing-"}
    finally:
        server.kill()


def test_what_a_server_does_not_take_is_left_out_and_named(served, tmp_path, capfdbinary):
    good, first = record([1, 2, 3])
    bad, second = record([1, float("nan"), 3], text_metadata("x"))
    long, third = record([4, 5, 6], text_metadata("x" * (METADATA_BYTES_MAX + 1)))
    source = legacy_file(tmp_path / "docs", first, second, third)
    url = f"http://127.0.0.1:{served.port}"
    code, out, _ = run(capfdbinary, "import", source, "--as", "new", "--url", url, "--json")
    report = json.loads(out)
    assert (code, report["imported"], report["exact"]) == (0, 2, 1)
    assert [bad in item["why"] for item in report["lost"]] == [True]
    assert [(item["id"], item["why"]) for item in report["doubtful"]] == [(long, "metadata-lost")]
    with dvecdb.connect(url) as database:
        rows = database.collection("new").get([good, bad, long])
    assert [row and (row.vector.tolist(), row.metadata) for row in rows] == [
        ([1, 2, 3], None), None, ([4, 5, 6], None),
    ]  # fmt: skip


@pytest.mark.crash
def test_a_killed_import_shows_nothing_under_its_name_and_can_be_done_again(
    served, broken, capfdbinary
):
    url = f"http://127.0.0.1:{served.port}"
    program = [sys.executable, "-m", "dvecdb", "import", "-", "--as", "new", "--url", url]
    environment = {"PYTHONPATH": str(SOURCE), "PATH": "/usr/bin:/bin"}
    line = b'{"vector":[' + b",".join([b"0.5"] * 512) + b"]}\n"
    with subprocess.Popen(program, stdin=subprocess.PIPE, env=environment) as process:
        process.stdin.write(line * 12_000)  # more than a batch, and then it waits for more
        process.stdin.flush()
        with dvecdb.connect(url) as database:
            end = time.monotonic() + 60
            while not (made := database.collections()) or not database.collection(made[0]).count():
                assert time.monotonic() < end
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
            (left,) = database.collections()
            assert left.startswith("new.importing-")
            code, out, _ = run(capfdbinary, "import", broken[0], "--as", "new", "--url", url)
            assert code == 0
            assert f"dvecdb hard-delete {left}" in out
            assert database.collections() == ["new", left]
            database.hard_delete(left)


# Whoever runs the tests in the background has SIGINT ignored, and so would their children.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from dvecdb.cli.main import main
main()
"""


def test_an_interrupted_import_leaves_nothing(served):
    url = f"http://127.0.0.1:{served.port}"
    program = [sys.executable, "-c", INTERRUPTIBLE, "import", "-", "--as", "new", "--url", url]
    environment = {"PYTHONPATH": str(SOURCE), "PATH": "/usr/bin:/bin"}
    line = b'{"vector":[' + b",".join([b"0.5"] * 512) + b"]}\n"
    with subprocess.Popen(program, stdin=subprocess.PIPE, env=environment) as process:
        process.stdin.write(line * 12_000)
        process.stdin.flush()
        with dvecdb.connect(url) as database:
            end = time.monotonic() + 60
            while not database.collections():
                assert time.monotonic() < end
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            assert database.collections() == []


def test_a_progress_bar_is_shown_on_a_terminal_only(broken, tmp_path):
    command = [sys.executable, "-m", "dvecdb", "import", str(broken[0]), "--replace", "--as", "new",
               "--data-dir", str(tmp_path / "data")]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "TERM": "xterm"}
    ours, theirs = pty.openpty()
    try:
        subprocess.run(command, env=environment, stderr=theirs, stdout=subprocess.PIPE, check=True)
        os.close(theirs)
        assert b"%" in os.read(ours, 100_000)
    finally:
        os.close(ours)
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert done.stderr == b""


# --- the log ---

CREATE, DROP, INSERT, _, DELETE = range(5)


def logged(operation, name, data=b""):
    """Return an entry of the log, in its first form."""
    text = name.encode()
    entry = struct.pack("<Q16sQIIQ", 16, uuid.uuid4().bytes, 1, 0, operation, len(text))
    payload = entry + text + data
    return struct.pack("<I", len(payload)) + payload


def created(name, dimension):
    return logged(CREATE, name, struct.pack("<QIIQQQQ", dimension, 1, 0, 16, 200, 50, 16))


@pytest.fixture
def with_log(tmp_path):
    """A data directory whose log deletes a row, has one more, and knows a dropped collection."""
    place = tmp_path / "old"
    place.mkdir()
    kept, first = record([1, 1])
    deleted, second = record([2, 2])
    added, third = record([3, 3])
    dropped, fourth = record([4, 4])
    legacy_file(place / "docs", first, second)
    name = struct.pack("<Q16s", 16, uuid.UUID(deleted).bytes)
    log = [
        created("docs", 2), logged(INSERT, "docs", first), logged(INSERT, "docs", second),
        logged(DELETE, "docs", name), logged(INSERT, "docs", third),
        created("gone", 2), logged(INSERT, "gone", fourth), logged(DROP, "gone"),
    ]  # fmt: skip
    (place / "wal").write_bytes(b"".join(log))
    return place, {"kept": kept, "deleted": deleted, "added": added, "dropped": dropped}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {"kept", "added"}),
        (["--keep-deleted"], {"kept", "deleted", "added"}),
        (["--no-wal"], {"kept", "deleted"}),
    ],
)
def test_options_say_how_much_of_the_log_counts(dvecdb_command, with_log, options, expected):
    place, ids = with_log
    report = dvecdb_command.json("import", place, "--collection", "docs", "--as", "new", *options)
    assert stored(dvecdb_command, "new").keys() == {ids[name] for name in expected}
    deletions = [] if "--no-wal" in options else [ids["deleted"]]
    assert report["deleted_by_log"] == deletions
    assert report["metric"] == ("cosine" if "--no-wal" in options else "euclidean")


def test_what_the_log_dropped_comes_back_only_if_it_is_asked_for(dvecdb_command, with_log):
    place, ids = with_log
    asked = ["import", place, "--collection", "gone", "--as", "new"]
    code, out, error = dvecdb_command(*asked)
    assert (code, error.split(": ")[1]) == (3, "nothing-recoverable")
    assert "--include-dropped" in out
    report = dvecdb_command.json(*asked, "--include-dropped")
    assert (report["generation"], report["dropped_by_log"]) == ("log", ["gone"])
    assert stored(dvecdb_command, "new").keys() == {ids["dropped"]}


# --- our own ---


def test_a_collection_of_ours_comes_back_from_its_directory(dvecdb_command, tmp_path):
    place = tmp_path / "ours"
    with dvecdb.open(place) as database:
        docs = database.create_collection("docs", dimension=2, metric="manhattan")
        docs.upsert(["a", "b"], [[1, 2], [3, 4]], [{"n": 1}, None])
        docs.write(documents={("jobs", "cursor"): 7})
        expected = {row.id: (row.vector.tobytes(), row.metadata)
                    for row in docs.scan(with_vectors=True)}  # fmt: skip
    shutil.rmtree(place / "collections" / "docs" / "manifests")
    report = dvecdb_command.json("import", place, "--collection", "docs", "--as", "new")
    assert (report["generation"], report["metric"]) == ("dvecdb", "manhattan")
    assert stored(dvecdb_command, "new") == expected
    with dvecdb_command.database() as database:
        assert database.collection("new").documents.get("jobs", "cursor") == 7
