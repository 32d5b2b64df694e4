"""`dvecdb config` says what would be in force and from where, and shows no secret."""

import json

import pytest

from dvecdb.cli import main as cli


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "dvecdb.toml"
    path.write_text('rest_port = 3131\nimport_roots = ["/srv"]\n[engine]\nflush_bytes = 1\n')
    return path


def test_show_names_value_and_origin_of_every_setting(file, monkeypatch, capsys):
    monkeypatch.setenv("DVECDB_LEGACY_ERRORS", "yes")
    monkeypatch.setenv("DVECDB_API_KEY", "top-secret")
    arguments = ["config", "show", "--config", str(file), "--set", "log_level=debug"]
    assert cli.run([*arguments, "--json"]) == 0
    output = capsys.readouterr().out
    rows = {row["name"]: (row["value"], row["origin"]) for row in json.loads(output)["settings"]}
    assert rows["rest_port"] == (3131, f"{file}:1")
    assert rows["import_roots"] == (["/srv"], f"{file}:2")
    assert rows["engine.flush_bytes"] == (1, f"{file}:4")
    assert rows["legacy_errors"] == (True, "DVECDB_LEGACY_ERRORS")
    assert rows["log_level"] == ("debug", "--set log_level")
    assert rows["host"] == ("127.0.0.1", "default")
    assert cli.run(arguments) == 0
    text = capsys.readouterr().out
    assert "top-secret" not in output + text
    assert "set, not shown" in text


def test_the_file_may_be_named_by_the_environment(file, monkeypatch, capsys):
    monkeypatch.setenv("DVECDB_CONFIG", str(file))
    assert cli.run(["config", "check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "given": 3}


def test_check_finds_what_is_wrong_without_starting_anything(file, capsys):
    file.write_text("rest_port = 3131\nhots = '::1'\n")
    assert cli.run(["config", "check", "--config", str(file)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: invalid-settings:")
    assert f"{file}:2" in errors
    assert "'host'" in errors
    file.write_bytes(b"rest_port = 3131\nhost = '\xff'\n")
    assert cli.run(["config", "check", "--config", str(file)]) == 2
    assert f"{file}:2: not UTF-8" in capsys.readouterr().err
