"""`dvecdb rescue scan` and `dvecdb upgrade`; and what commands say to a legacy directory."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.model.legacy_directories import OldDirectory, digest

import dvecdb
from dvecdb.errors import DirectoryError

SOURCE = Path(__file__).parents[2] / "src"
SOAK = "DVECDB_SOAK" in os.environ
KILLS = 100 if SOAK else 12


@pytest.fixture
def old(tmp_path):
    """A legacy directory with one of each; names that are usable and one that is not."""
    made = OldDirectory("C1", seed=4)
    for name in ("docs", "my films", "gone", "logged"):
        made.collection(name)
    made.backup("docs")
    made.drop("gone")
    made.lose("logged")
    made.write_to(tmp_path / "old")
    return tmp_path / "old"


def test_scan_prints_a_table_and_the_command_that_brings_back(dvecdb_here, old):
    code, out, error = dvecdb_here.raw("rescue", "scan", old)
    lines = out.decode().splitlines()
    assert (code, error) == (0, b"")
    assert lines[0].split() == ["PATH", "KIND", "GENERATION", "NAME", "DIMENSION", "ROWS",
                                "RECORDS", "USED", "GOOD", "LOST"]  # fmt: skip
    kinds = [line.split()[1] for line in lines[1:6]]
    assert sorted(kinds[:2]) == ["backup", "deleted"]
    assert any("100.00 %" in line for line in lines)
    assert any(line.startswith("bring one back: dvecdb import ") for line in lines)


def test_scan_as_json_says_the_same_for_programs(dvecdb_here, old):
    code, out, error = dvecdb_here.raw("rescue", "scan", old, "--json")
    assert (code, error) == (0, b"")
    entries = json.loads(out)["entries"]
    found = {(entry["kind"], entry["name"]): entry for entry in entries}
    assert found.keys() >= {("collection", "docs"), ("collection", "my films"),
                            ("deleted", "gone"), ("backup", "docs"), ("log", "logged")}  # fmt: skip
    films = found["collection", "my films"]
    assert (films["generation"], films["rows"], films["good"]) == ("C", 7, 1.0)
    assert films["import_as"] == [str(old), "--as", "my-films", "--collection", "my films"]


def test_scan_of_nothing_has_the_exit_code_of_what_is_not_found(dvecdb_here, tmp_path):
    assert dvecdb_here.raw("rescue", "scan", tmp_path)[0] == 3
    code, _, error = dvecdb_here.raw("rescue", "scan", tmp_path / "none")
    assert code == 3
    assert error.startswith(b"error: source-not-found: ")


def test_upgrade_brings_all_over_and_says_so(dvecdb_here, old, tmp_path):
    before = digest(old)
    report = tmp_path / "report.json"
    planned = dvecdb_here.says("upgrade", old, "--timezone", "UTC", "--dry-run")
    assert "nothing was written" in planned
    assert not dvecdb_here.data.exists()
    out = dvecdb_here.says("upgrade", old, "--timezone", "UTC", "--report", report)
    assert "my films: 'my films' cannot be a name here; it is my-films" in out
    assert out.splitlines()[-1].endswith(f"{old} is as it was")
    assert digest(old) == before
    written = json.loads(report.read_text())
    assert {item["outcome"] for item in written["items"]} == {"imported", "left"}
    assert written["timezone"] == "UTC"
    with dvecdb_here.database() as database:
        assert database.collections() == ["docs", "logged", "my-films"]
    again = dvecdb_here.json("upgrade", old, "--timezone", "UTC")
    assert {item["outcome"] for item in again["items"]} == {"present", "left"}


def test_upgrade_says_by_its_exit_code_that_something_did_not_come_over(dvecdb_here, old):
    (old / "docs" / "vectors.bin").write_bytes(os.urandom(4000))
    (old / "docs" / "metadata.json").unlink()
    (old / "wal").unlink()
    code, out, _ = dvecdb_here("upgrade", old, "--timezone", "UTC")
    assert code == 1
    assert "1 failed" in out
    with dvecdb_here.database() as database:
        database.create_collection("docs", dimension=3)
        assert "my-films" in database.collections()


def test_upgrade_wants_to_know_where_to(dvecdb_here, old, monkeypatch, tmp_path):
    code, _, error = dvecdb_here.raw("upgrade", old)
    assert (code, error.split(b":")[1]) == (2, b" usage")
    assert dvecdb_here.fails("upgrade", old, "--report", tmp_path / "no" / "report")[0] == 2
    assert dvecdb_here.fails("upgrade", old, "--timezone", "Mars")[:2] == (2, "invalid-argument")
    assert dvecdb_here.fails("upgrade", tmp_path / "none")[:2] == (3, "source-not-found")
    monkeypatch.setenv("DVECDB_DATA_DIR", str(tmp_path / "there"))
    assert dvecdb_here.raw("upgrade", old)[0] == 0
    assert (tmp_path / "there" / "collections" / "docs").is_dir()


# --- legacy directories are refused ----------------------------------------------------------

SHAPES = {
    "collection": ("docs/vectors.bin",),
    "log only": ("wal",),
    "deleted only": (".deleted/docs_20251029_074542/vectors.bin",),
    "backup only": (".backups/docs_20251029_074542/vectors.bin",),
    "no name": ("vectors.bin", "index.bin"),
    "nested": ("a/b/vectors.bin",),
    "named collections": ("collections/vectors.bin", "wal"),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("read_only", [False, True])
def test_no_legacy_directory_is_opened_or_written_to(tmp_path, shape, read_only):
    old = tmp_path / "old dir"
    for name in SHAPES[shape]:
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        (old / name).write_bytes(bytes(64))
    before = digest(old)
    with pytest.raises(DirectoryError) as error:
        dvecdb.open(old, read_only=read_only)
    assert error.value.code == "legacy-directory"
    assert f"dvecdb upgrade '{old}' --data-dir NEW" in error.value.message
    assert digest(old) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["collections"], ["create", "x", "--dimension", "3"], ["delete", "docs", "--yes"],
        ["verify"], ["findings"], ["trash", "list"], ["backup", "list"], ["keys", "list"],
        ["keys", "create", "ann", "--scope", "read"], ["serve"], ["stats"], ["count", "docs"],
        ["restore", "gone"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_every_command_leads_to_the_upgrade(dvecdb_here, old, arguments):
    before = digest(old)
    code, out, error = dvecdb_here.raw(*arguments, "--data-dir", old)
    assert (code, out) == (2, b""), error
    assert error.startswith(b"error: legacy-directory: "), error
    assert f"dvecdb upgrade {old} --data-dir NEW".encode() in error
    assert digest(old) == before


def test_a_directory_of_ours_with_legacy_ones_below_it_is_still_ours(tmp_path, old):
    dvecdb.open(tmp_path / "data").close()
    old.rename(tmp_path / "data" / "old")
    dvecdb.open(tmp_path / "data").close()


# --- killed ----------------------------------------------------------------------------------


def entries_in(new):
    """Return how many collections, trash entries and backups there are, unfinished ones too."""
    return sum(
        len(list((new / name).glob("*"))) for name in ("collections", ".deleted", ".backups")
    )


def check_sound(new):
    if not (new / "collections").is_dir():
        return
    with dvecdb.open(new, read_only=True) as database:
        assert database.findings() == []
        assert {database.collection(name).count() for name in database.collections()} <= {30}
        assert {item.rows for item in (*database.trash(), *database.backups())} <= {30}


@pytest.mark.crash
@pytest.mark.slow
def test_an_upgrade_killed_again_and_again_comes_to_its_end(tmp_path):
    made = OldDirectory("C1", seed=9)
    for number in range(12):
        made.collection(f"c{number}", 30, 64)
    for number in range(0, 12, 3):
        made.backup(f"c{number}")
    made.drop("c11")
    made.write_to(tmp_path / "old")
    before, total = digest(tmp_path / "old"), 11 + 4 + 1
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    chance, killed, life = random.Random(int(os.environ.get("DVECDB_SEED", "5"))), 0, 0

    def start(new):
        command = [sys.executable, "-m", "dvecdb", "upgrade", str(tmp_path / "old"), "--data-dir",
                   str(new), "--timezone", "UTC", "--json"]  # fmt: skip
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    for _ in range(KILLS):
        new = tmp_path / f"new{life}"
        aim = chance.randint(entries_in(new), total) if new.exists() else chance.randint(0, total)
        process = start(new)
        while process.poll() is None and entries_in(new) < aim:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        check_sound(new)
        life += entries_in(new) == total  # it came to its end: begin anew
    assert killed >= KILLS // 2
    process = start(new := tmp_path / f"new{life}")
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    outcomes = [item["outcome"] for item in json.loads(said)["items"]]
    assert outcomes.count("imported") + outcomes.count("present") == total
    assert outcomes.count("left") == 1  # what the log has of the deleted one
    with dvecdb.open(new) as database:
        assert len(database.collections()) == 11
        assert (len(database.trash()), len(database.backups())) == (1, 4)
    assert list(new.rglob(".partial-*")) == []
    assert digest(tmp_path / "old") == before
