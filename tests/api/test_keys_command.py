"""`dvecdb keys`: output, exit codes, errors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dvecdb.api.keys import KeyStore
from dvecdb.api.server_directory import find_server_directory
from dvecdb.cli import main as cli
from dvecdb.formats import names
from dvecdb.media.files import OsFiles

SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture
def run(capsys, tmp_path):
    """Run `dvecdb keys` on a directory; return exit code, stdout and stderr."""

    def command(*arguments, data_dir=tmp_path / "data"):
        code = cli.run(["keys", *map(str, arguments), "--data-dir", str(data_dir)])
        return code, *capsys.readouterr()

    return command


@pytest.fixture
def run_json(run):
    def command(*arguments):
        code, out, _ = run(*arguments, "--json")
        return code, json.loads(out)

    return command


def found(tmp_path, token):
    files = OsFiles()
    store = KeyStore(files, find_server_directory(files, str(tmp_path / "data"), names.KEYS))
    store.refresh()
    try:
        return store.find(token)
    finally:
        store.close()


def test_a_key_is_made_shown_once_and_works(run, tmp_path):
    code, out, _ = run(
        *("create", "ingest", "--scope", "read", "--scope", "WRITE"),
        *("--collections", "docs*", "--collections", "codes", "--expires-days", 2),
    )
    assert code == 0
    first, note, token = out.splitlines()
    assert first.endswith("): read, write on collections docs*, codes")
    assert "only now" in note
    key = found(tmp_path, token)
    assert (key.name, sorted(key.scopes), key.patterns) == (
        "ingest", ["read", "write"], ("docs*", "codes"),
    )  # fmt: skip
    assert key.expires_ns - key.created_ns == pytest.approx(2 * 86_400e9, rel=0.01)
    assert token[17:] not in run("list")[1]


def test_keys_as_json(run_json):
    code, made = run_json("create", "ops", "--scope", "admin")
    assert code == 0
    assert made["token"].startswith(f"dvk_{made['id']}_")
    code, listed = run_json("list")
    assert code == 0
    assert listed == {"keys": [{k: v for k, v in made.items() if k != "token"}], "findings": []}
    code, revoked = run_json("revoke", made["id"])
    assert (code, revoked["state"], revoked["name"]) == (0, "revoked", "ops")
    assert run_json("list")[1]["keys"] == [revoked]


@pytest.mark.parametrize("arguments", [
    ("create", "a b", "--scope", "read"), ("create", "ok", "--scope", "wri"),
    ("create", "ok", "--scope", "read", "--collections", "a/b"), ("create", "ok"),
    ("create", "--scope", "read"), ("create", "ok", "--scope", "read", "--expires-days", "0"),
    ("revoke", "nobody"), ("revoke",), ("frobnicate",), ("list",),
])  # fmt: skip
def test_wrong_usage_is_one_line_and_exit_code_2(run, tmp_path, arguments):
    code, out, errors = run(*arguments)
    assert (code, out) == (2, "")
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert not (tmp_path / "data" / ".server" / "keys" / "ok.json").exists()


def test_a_directory_without_keys_has_none(run, tmp_path):
    (tmp_path / "data").mkdir()
    assert run("list") == (0, "no keys\n", "")
    assert run("revoke", "x")[2].startswith("error: key-not-found:")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_foreign_directory_is_left_alone(run, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    code, _, errors = run("create", "a", "--scope", "read", data_dir=tmp_path)
    assert (code, errors.split(": ")[1]) == (2, "not-a-data-directory")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_key_is_named_and_can_be_revoked(run, run_json, tmp_path):
    _, made = run_json("create", "one", "--scope", "read")
    path = tmp_path / "data" / ".server" / "keys" / f"{made['id']}.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"read", b"admi"))
    code, out, _ = run("list")
    assert code == 1
    assert out.startswith(f"key-damaged: keys/{made['id']}.json")
    assert run("revoke", made["id"])[:2] == (0, f"- ({made['id']}): revoked\n")


def test_help_and_other_commands_do_not_load_the_server():
    program = (
        "import sys; from dvecdb.cli import main; main.run(['keys', '--help']); "
        "sys.exit('dvecdb.api.keys' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(SOURCE)}, capture_output=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
