"""The commands that bring back, undo and protect, on a directory and on a server."""

import json
import re
import shutil
import sys
from datetime import UTC, datetime

import numpy as np
import pytest
from tests.e2e.test_cli_records import Terminal, with_docs

from dvecdb.cli import main as cli
from dvecdb.cli.next_steps import NEXT_STEPS
from dvecdb.cli.output import duration_text
from dvecdb.errors import Code

BAD = (
    b'{"id": "a", "vector": [9, 9, 9], "metadata": {"lang": "garbage"}}\n'
    b'{"id": "d", "vector": [9, 9, 9], "metadata": {"lang": "garbage"}}\n'
)


@pytest.fixture
def cmd(dvecdb_command):
    return with_docs(dvecdb_command)


@pytest.fixture
def here(dvecdb_here):
    return with_docs(dvecdb_here)


def names(table):
    """Return the first column of a printed table."""
    return [line.split()[0] for line in table.splitlines()[1:]]


def column(table, heading):
    """Return a column of a printed table."""
    first, *rows = table.splitlines()
    start = first.index(heading)
    return [row[start:].split("  ")[0].strip() for row in rows]


def asked(cmd, monkeypatch, answer, *arguments):
    """Return the exit code of a command whose question is answered on a terminal."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", Terminal(f"{answer}\n"))
        return cli.run([*map(str, arguments), *map(str, cmd.options)])


# --- the trash -------------------------------------------------------------------------------


def test_a_deleted_collection_is_listed_looked_into_and_restored(cmd):
    entry = cmd.json("delete", "docs", "--yes", "--actor", "ann", "--reason", "old")["entry"]
    table = cmd.says("trash", "list")
    assert names(table) == [entry["name"]]
    assert column(table, "EXPIRES") == ["in 23 h"]
    assert table.splitlines()[1].split()[-2:] == ["ann", "old"]
    (listed,) = cmd.json("trash", "list")["entries"]
    assert (listed["collection"], listed["actor"], listed["rows"]) == ("docs", "ann", 3)
    shown = cmd.says("trash", "show", entry["name"], "b")
    assert re.search(r"^records +3$", shown, re.MULTILINE)
    assert re.search(r'^b +1 +\{"lang":"en"\}$', shown, re.MULTILINE)
    found = cmd.json("trash", "show", entry["name"], "--records", 2)
    assert (found["count"], len(found["records"])) == (3, 2)
    code, out, _ = cmd("trash", "show", entry["name"], "nobody")
    assert (code, "'nobody' does not exist in it" in out) == (3, True)
    restored = cmd.json("restore", entry["name"])
    assert (restored["name"], restored["rows"]) == ("docs", 3)
    assert cmd.says("count", "docs") == "3\n"
    assert cmd.says("trash", "list") == "the trash is empty\n"


def test_a_restore_takes_another_name_or_a_path_and_never_replaces(cmd):
    entry = cmd.json("delete", "docs", "--yes")["entry"]
    with_docs(cmd)
    code, name, message = cmd.fails("restore", entry["name"])
    assert (code, name) == (4, "collection-exists")
    assert "--new-name" in message
    said = cmd.says("restore", entry["path"], "--new-name", "again", "--verify", "full")
    assert said.startswith(f"restored again from {entry['name']}: 3 records, ")
    assert [item["name"] for item in cmd.json("collections")["collections"]] == ["again", "docs"]


@pytest.mark.parametrize(
    ("entry", "code", "name"),
    [
        ("docs_20260101_000000", 3, "trash-entry-not-found"),
        ("docs", 2, "path-not-allowed"),
        ("/etc/passwd", 2, "path-not-allowed"),
        ("../docs_20260101_000000", 2, "path-not-allowed"),
        (".deleted/../collections", 2, "path-not-allowed"),
    ],
)
def test_what_cannot_be_restored_is_one_error_that_leads_on(cmd, entry, code, name):
    found = cmd.fails("restore", entry)
    assert found[:2] == (code, name)
    assert "'dvecdb trash list'" in found[2]


def test_purging_takes_what_is_old_or_named_and_says_what_it_would_do(cmd, monkeypatch):
    first = cmd.json("delete", "docs", "--yes")["entry"]["name"]
    with_docs(cmd)
    second = cmd.json("delete", "docs", "--yes")["entry"]["name"]
    assert cmd.says("trash", "purge") == "nothing in the trash is older than 24 h\n"
    would = cmd.says("trash", "purge", "--older-than", 0, "--dry-run").splitlines()
    assert would == [f"would purge {first}", f"would purge {second}"]
    assert cmd.fails("trash", "purge", first)[:2] == (2, "usage")
    assert asked(cmd, monkeypatch, "n", "trash", "purge", first) == 130
    assert len(cmd.json("trash", "list")["entries"]) == 2
    assert asked(cmd, monkeypatch, "y", "trash", "purge", first) == 0
    assert cmd.json("trash", "purge", "--older-than", 0, "--yes")["purged"] == [second]
    assert cmd.says("trash", "purge", "--older-than", 0) == "the trash is empty\n"
    assert cmd.fails("trash", "purge", first, "--yes")[:2] == (3, "trash-entry-not-found")
    assert cmd.fails("trash", "purge", "--older-than", -1)[:2] == (2, "usage")
    assert cmd.fails("trash", "show", first)[:2] == (3, "trash-entry-not-found")


def test_a_server_trusts_the_clock_on_request(cmd):
    if cmd.url is None:
        code, name, message = cmd.fails("trash", "trust-clock")
        assert (code, name, "--url" in message) == (2, "usage", True)
        return
    assert cmd.says("trash", "trust-clock").startswith("the clock is taken for right")
    assert cmd.json("trash", "trust-clock") == {"trusted": True}


# --- backups ---------------------------------------------------------------------------------


def test_a_backup_is_made_listed_looked_into_verified_and_deleted(cmd, monkeypatch):
    made = cmd.json("backup", "create", "docs", "--actor", "ann", "--reason", "weekly")
    assert (made["rows"], made["lsn"], made["automatic"], made["ok"]) == (3, 1, False, None)
    name = made["name"]
    assert re.fullmatch(r"docs_\d{8}_\d{6}", name)
    said = cmd.says("backup", "create", "docs", "--independent")
    assert re.match(r"backed up docs at LSN 1 as \S+: 3 records, .*, a complete copy$", said)
    table = cmd.says("backup", "list", "docs")
    assert names(table)[1] == name
    assert column(table, "KIND") == ["asked for, a copy", "asked for"]
    assert column(table, "VERIFIED") == ["never", "never"]
    assert cmd.says("backup", "verify", name).startswith(f"{name}: ok, ")
    assert cmd.json("backup", "verify", name)["ok"] is True
    assert column(cmd.says("backup", "list"), "VERIFIED")[1].startswith("ok, ")
    assert cmd.says("backup", "list", "films") == "no backups of films\n"
    shown = cmd.says("backup", "show", name, "-n", 3)
    assert re.search(r"^LSN +1$", shown, re.MULTILINE)
    assert len(cmd.json("backup", "show", name, "-n", 3)["records"]) == 3
    assert cmd.json("restore", name, "--new-name", "again")["rows"] == 3
    assert asked(cmd, monkeypatch, "n", "backup", "rm", name) == 130
    assert cmd.fails("backup", "rm", name)[:2] == (2, "usage")
    assert cmd.says("backup", "rm", name, "--yes").startswith(f"deleted the backup {name}, ")
    for command in (["rm", name, "--yes"], ["verify", name], ["show", name]):
        code, error, message = cmd.fails("backup", *command)
        assert (code, error) == (3, "backup-not-found")
        assert "'dvecdb backup list'" in message


def test_a_damaged_backup_is_named_refused_and_what_is_whole_comes_back(here):
    name = here.json("backup", "create", "docs", "--independent")["name"]
    place = here.data / ".backups" / name
    (path,) = [item for item in place.rglob("*.wal") if item.stat().st_size]
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])
    code, out, error = here("backup", "verify", name)
    assert (code, error) == (1, "")
    assert out.startswith(f"{name}: DAMAGED, ")
    assert f"dvecdb restore {name} --allow-damage" in out
    code, out, _ = here("backup", "verify", name, "--json")
    assert (code, json.loads(out)["ok"]) == (1, False)
    code, out, _ = here("backup", "list")
    assert code == 1
    assert column(out, "VERIFIED")[0].startswith("DAMAGED, ")
    code, error, message = here.fails("restore", name, "--new-name", "again")
    assert (code, error) == (1, "backup-damaged")
    assert "--allow-damage" in message
    assert here.json("restore", name, "--new-name", "again", "--allow-damage")["rows"] == 3


# --- undo and clone --------------------------------------------------------------------------


def test_a_bad_import_is_undone_and_backed_up_before(cmd, monkeypatch):
    before = cmd.json("get", "docs", "a", "b", "c")["records"]
    cmd.says("insert", "docs", "-", stdin=BAD)
    plan = cmd.json("undo", "docs", "--before", 2, "--dry-run")
    assert (plan["restored"], plan["removed"], plan["to_lsn"], plan["dry_run"]) == (1, 1, 1, True)
    said = cmd.says("undo", "docs", "--before", 2, "--dry-run")
    assert said == "would bring docs back to LSN 1: 1 records restored, 1 removed\n"
    code, name, message = cmd.fails("undo", "docs", "--before", 2)
    assert (code, name) == (2, "usage")
    assert "1 records restored, 1 removed" in message
    assert asked(cmd, monkeypatch, "n", "undo", "docs", "--before", 2) == 130
    assert cmd.says("count", "docs") == "4\n"
    undone = cmd.json("undo", "docs", "--to-lsn", 1, "--yes", "--reason", "garbage")
    assert (undone["lsn"], undone["restored"], undone["removed"]) == (3, 1, 1)
    assert undone["backup"] in names(cmd.says("backup", "list", "docs"))
    after = cmd.json("get", "docs", "a", "b", "c")["records"]
    for old, new in zip(before, after, strict=True):
        assert (old["id"], old["vector"], old["metadata"]) == (
            new["id"], new["vector"], new["metadata"],
        )  # fmt: skip
    assert cmd.says("undo", "docs", "--to-lsn", 3) == (
        "nothing to undo: docs is as it was at LSN 3\n"
    )
    assert cmd.says("count", "docs", "--as-of", 2) == "4\n"


def test_an_undo_may_be_of_some_records_and_to_a_time(cmd):
    moment = datetime.now(UTC).isoformat()
    cmd.says("insert", "docs", "-", stdin=BAD)
    cmd.says("delete-vectors", "docs", "b", "--yes")
    undone = cmd.json("undo", "docs", "--to-time", moment, "--id", "b", "--yes")
    assert (undone["restored"], undone["removed"]) == (1, 0)
    undone = cmd.json("undo", "docs", "--to-lsn", 1, "--where", "lang=garbage", "--yes")
    assert (undone["restored"], undone["removed"]) == (1, 1)
    assert cmd.says("count", "docs") == "3\n"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ([], "usage"),
        (["--to-lsn", 1, "--before", 2], "usage"),
        (["--to-time", "yesterday"], "usage"),
        (["--to-time", "2026-11-24T12:00:00"], "usage"),
        (["--before", 0], "usage"),
        (["--to-lsn", 99], "as-of-unreadable"),
        (["--to-time", "2001-01-01T00:00:00Z"], "as-of-unreadable"),
    ],
)
def test_an_undo_to_a_state_that_is_none_is_refused(cmd, options, name):
    assert cmd.fails("undo", "docs", *options, "--yes")[:2] == (2, name)


def test_a_clone_is_a_collection_of_its_own_of_now_or_earlier(cmd):
    cmd.says("insert", "docs", "-", stdin=BAD)
    assert cmd.says("clone", "docs", "now").startswith("made now from docs: 4 records")
    assert cmd.json("clone", "docs", "before", "--as-of", 1)["rows"] == 3
    cmd.says("delete-vectors", "before", "a", "--yes")
    counts = {item["name"]: item["count"] for item in cmd.json("collections")["collections"]}
    assert counts == {"docs": 4, "now": 4, "before": 2}
    assert cmd.fails("clone", "docs", "now")[:2] == (4, "collection-exists")
    assert cmd.fails("clone", "docs", "more", "--as-of", 9)[:2] == (2, "as-of-unreadable")


# --- protection and hard delete --------------------------------------------------------------


def test_a_protected_collection_is_not_deleted_until_that_is_lifted(cmd):
    assert cmd.says("protect", "docs").startswith("docs is protected")
    assert re.search(r"^protected +yes", cmd.says("info", "docs"), re.MULTILINE)
    for command in ("delete", "hard-delete"):
        code, name, message = cmd.fails(command, "docs", "--yes")
        assert (code, name) == (4, "collection-protected")
        assert "dvecdb protect COLLECTION --lift" in message
    assert cmd.json("protect", "docs", "--lift") == {"name": "docs", "deletion": False}
    assert cmd.json("info", "docs")["is_protected"] is False
    cmd.says("delete", "docs", "--yes")


def test_a_hard_delete_asks_says_what_stays_and_frees_the_space(cmd, monkeypatch):
    name = cmd.json("backup", "create", "docs")["name"]
    assert cmd.fails("hard-delete", "docs")[:2] == (2, "usage")
    assert asked(cmd, monkeypatch, "n", "hard-delete", "docs") == 130
    assert cmd.says("count", "docs") == "3\n"
    said = cmd.says("hard-delete", "docs", "--yes").splitlines()
    assert re.match(r"deleted docs for good, .* freed$", said[0])
    assert said[1] == f"backups of it that are still there: {name}"
    assert cmd.says("trash", "list") == "the trash is empty\n"
    cmd.says("restore", name)
    done = cmd.json("hard-delete", "docs", "--include-backups", "--yes")
    assert (done["name"], done["backups"]) == ("docs", [])
    assert cmd.says("backup", "list") == "no backups\n"


def test_a_collection_that_was_set_aside_can_be_deleted(here):
    shutil.rmtree(here.data / "collections" / "docs" / "manifests")
    assert here("collections")[0] == 1
    assert here.fails("delete", "docs")[:2] == (2, "usage")
    assert here.says("delete", "docs", "--yes").startswith("deleted docs (damage); ")
    assert here.says("collections") == "no collections\n"
    (entry,) = here.json("trash", "list")["entries"]
    assert here.json("trash", "purge", entry["name"], "--yes")["purged"] == [entry["name"]]


def test_a_hard_delete_may_make_a_backup_first(cmd):
    (left,) = cmd.json("hard-delete", "docs", "--backup", "--yes")["backups"]
    assert cmd.json("restore", left)["rows"] == 3
    both = ["--backup", "--include-backups", "--yes"]
    assert cmd.fails("hard-delete", "docs", *both)[:2] == (2, "invalid-argument")
    assert cmd.fails("hard-delete", "films", "--yes")[:2] == (3, "collection-not-found")


# --- deleting much ---------------------------------------------------------------------------


def test_records_are_deleted_by_their_metadata(cmd):
    assert cmd.says("delete-vectors", "docs", "--where", "lang=de", "--yes") == (
        "deleted 1 of 1 records at LSN 2\n"
    )
    assert cmd.fails("delete-vectors", "docs", "--where", "lang=en")[:2] == (2, "usage")
    assert cmd.fails("delete-vectors", "docs", "b", "--where", "lang=en")[:2] == (2, "usage")
    assert cmd.json("delete-vectors", "docs", "--where", "lang=fr", "--yes")["deleted"] == 0


def test_most_of_a_large_collection_is_deleted_only_when_confirmed(cmd, tmp_path):
    np.save(tmp_path / "many.npy", np.ones((1_500, 3), np.float32))
    ids = [f"id-{number}" for number in range(1_500)]
    (tmp_path / "many.ids").write_text("".join(f"{text}\n" for text in ids))
    cmd.says("insert", "docs", tmp_path / "many.npy", "--ids", tmp_path / "many.ids")
    deletion = ["delete-vectors", "docs", "--ids", tmp_path / "many.ids", "--yes"]
    code, name, message = cmd.fails(*deletion)
    assert (code, name) == (4, "confirmation-needed")
    assert ("1500 of 1503" in message, "--confirm" in message) == (True, True)
    assert cmd.json(*deletion, "--confirm")["deleted"] == 1_500
    (backup,) = cmd.json("backup", "list")["backups"]
    assert (backup["automatic"], backup["rows"]) == (True, 1_503)


# --- tags and settings -----------------------------------------------------------------------


def test_a_state_has_a_name_until_it_is_removed(cmd):
    assert cmd.says("tag", "list", "docs") == "no tags\n"
    assert cmd.json("tag", "add", "docs", "good") == {"name": "good", "lsn": 1}
    cmd.says("insert", "docs", "-", stdin=BAD)
    assert cmd.says("tag", "add", "docs", "first", "--lsn", 1).startswith("first is LSN 1 of docs")
    assert cmd.says("tag", "list", "docs").split() == ["TAG", "LSN", "first", "1", "good", "1"]
    assert cmd.json("tag", "list", "docs") == {"tags": {"first": 1, "good": 1}}
    assert "good (LSN 1)" in cmd.says("info", "docs")
    assert cmd.says("tag", "rm", "docs", "good") == "removed the tag good\n"
    assert cmd.fails("tag", "rm", "docs", "good")[:2] == (3, "id-not-found")
    assert cmd.fails("tag", "add", "docs", "later", "--lsn", 99)[:2] == (2, "as-of-unreadable")


def test_a_collection_may_have_hours_of_its_own(cmd):
    assert cmd.json("configure", "docs") == {
        "name": "docs", "trash_hours": None, "history_hours": None,
    }  # fmt: skip
    said = cmd.says("configure", "docs", "--trash-hours", 100, "--history-hours", 48)
    assert said.split() == ["trash_hours", "100", "h", "history_hours", "48", "h"]
    cmd.says("configure", "docs", "--history-hours", "default")
    assert cmd.json("configure", "docs")["history_hours"] is None
    assert cmd.fails("configure", "docs", "--trash-hours", "long")[:2] == (2, "usage")
    cmd.says("delete", "docs", "--yes")
    assert column(cmd.says("trash", "list"), "EXPIRES") == ["in 4 d"]


# --- what people read ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (0, "0 s"), (119.9, "119 s"), (120, "2 min"), (7_199, "119 min"),
     (7_200, "2 h"), (86_400, "24 h"), (172_799, "47 h"), (172_800, "2 d"), (864_000, "10 d")],
)  # fmt: skip
def test_a_duration_is_one_number_that_says_enough(seconds, text):
    assert duration_text(seconds) == text


def test_every_next_step_names_a_command_that_exists(capsys):
    assert Code.COLLECTION_PROTECTED in NEXT_STEPS
    for step in NEXT_STEPS.values():
        for command in re.findall(r"'dvecdb ([^']+)'", step):
            words = [word for word in command.split() if word != "COLLECTION"]
            assert cli.run([*words, "--help"]) == 0
    capsys.readouterr()
