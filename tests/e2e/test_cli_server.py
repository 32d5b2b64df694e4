"""The command beside a server: keys, servers that are not there, and the program as installed."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.serving import Server

from dvecdb.cli import main as cli

SOURCE = Path(__file__).parents[2] / "src"
LINES = b'{"id":"a","vector":[1,2,3]}\n{"id":"b","vector":[3,2,1],"metadata":{"n":1}}\n'


def key(data, capsys, name, *scopes):
    """Make a key and return it."""
    arguments = [part for scope in scopes for part in ("--scope", scope)]
    assert cli.run(["keys", "create", name, "--data-dir", str(data), *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["token"]


def test_a_server_wants_a_key_and_says_which_scope_is_missing(tmp_path, monkeypatch, capsys):
    data = tmp_path / "data"
    writer = key(data, capsys, "ann", "read", "write")
    reader = key(data, capsys, "bob", "read")
    server = Server(data, tmp_path / "log").wait()
    try:
        url = ["--url", f"http://127.0.0.1:{server.port}"]
        assert cli.run(["create", "docs", "-d", "3", *url]) == 6
        assert capsys.readouterr().err.startswith("error: unauthenticated: ")
        assert cli.run(["create", "docs", "-d", "3", *url, "--api-key", reader]) == 6
        error = capsys.readouterr().err
        assert error.startswith("error: forbidden: ")
        assert "write" in error
        monkeypatch.setenv("DVECDB_API_KEY", writer)
        assert cli.run(["create", "docs", "-d", "3", *url]) == 0
        rows = tmp_path / "rows.jsonl"
        rows.write_bytes(LINES)
        assert cli.run(["insert", "docs", str(rows), *url]) == 0
        capsys.readouterr()
        monkeypatch.setenv("DVECDB_API_KEY", reader)
        assert cli.run(["history", "docs", "--json", *url]) == 0
        (commit,) = json.loads(capsys.readouterr().out)["commits"]
        assert (commit["actor"], commit["reason"]) == ("ann", "rows.jsonl rows 1 .. 2")
        assert cli.run(["delete", "docs", "--yes", *url]) == 6
        assert reader not in capsys.readouterr().err
    finally:
        server.kill()


@pytest.mark.parametrize(
    "arguments", [["collections"], ["count", "docs"], ["create", "docs", "-d", "3"]]
)
def test_a_server_that_is_not_there_is_exit_code_5(capsys, arguments):
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert cli.run([*arguments, "--url", url]) == 5
        error = capsys.readouterr().err
        assert error.startswith("error: unreachable: ")
        assert (url.removeprefix("http://") in error, error.count("\n")) == (True, 1)


@pytest.mark.parametrize("url", ["localhost", "ftp://localhost", "http://", "http://x:y"])
def test_an_address_that_is_none_is_exit_code_2(capsys, url):
    assert cli.run(["collections", "--url", url]) == 2
    assert capsys.readouterr().err.startswith("error: invalid-argument: ")


# --- as installed ----------------------------------------------------------------------------


def program(*arguments, stdin=b"", **environment):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONWARNINGS": "error",
                   **environment}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "dvecdb", *map(str, arguments)], env=environment, input=stdin,
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("on_server", [False, True], ids=["directory", "server"])
def test_the_program_does_what_the_function_does(tmp_path, server, on_server):
    place = {"DVECDB_URL": f"http://127.0.0.1:{server.port}"} if on_server else {
        "DVECDB_DATA_DIR": str(tmp_path / "data")
    }  # fmt: skip
    try:
        assert program("create", "pipe", "-d", 3, **place)[0] == 0
        assert program("insert", "pipe", "-", stdin=LINES, **place)[0::2] == (0, b"")
        code, lines, error = program("export", "pipe", "-", **place)
        assert (code, error) == (0, b"")
        assert [json.loads(line)["id"] for line in lines.splitlines()] == ["a", "b"]
        code, out, error = program("search", "pipe", "[1,2,3]", "--json", **place)
        assert json.loads(out)["hits"][0]["id"] == "a"
        code, out, error = program("insert", "pipe", "-", stdin=b"x", **place)
        assert (code, out) == (2, b"")
        assert error.startswith(b"error: invalid-argument: stdin line 1: ")
        assert error.count(b"\n") == 1
        code, _, error = program("delete", "pipe", **place)
        assert (code, b"--yes" in error) == (2, True)
    finally:
        assert program("delete", "pipe", "--yes", **place)[0] == 0


def test_a_terminal_that_cannot_show_a_letter_is_no_error(tmp_path):
    place = {"DVECDB_DATA_DIR": str(tmp_path / "data"), "PYTHONIOENCODING": "ascii"}
    line = '{"id":"ü","vector":[1]}'.encode()
    assert program("insert", "x", "-", "--create", "-d", 1, stdin=line, **place)[0] == 0
    code, _, error = program("get", "x", "ü", "ö", **place)
    assert (code, error) == (3, b"")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell):
    code, out, _ = program("--show-completion", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert code == 2  # it wants to be told which
    code, out, _ = program(
        "--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"
    )
    assert (code, b"_DVECDB_COMPLETE" in out) == (0, True)
    code, out, _ = program(_DVECDB_COMPLETE="complete_bash", COMP_WORDS="dvecdb ex", COMP_CWORD="1")
    assert out.split() == [b"export"]
    code, out, _ = program(
        _DVECDB_COMPLETE="complete_bash", COMP_WORDS="dvecdb insert --batch", COMP_CWORD="2"
    )
    assert out.split() == [b"--batch-rows", b"--batch-mib"]
