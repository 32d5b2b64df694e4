"""`vectordb-server` takes what the old server took, and says what it does not understand."""

import pytest

from dvecdb.cli import legacy_server as cli
from dvecdb.errors import Code, InvalidRequestError
from dvecdb.node.legacy_server import from_flags, from_yaml, parser

FILE = """\
host: 127.0.0.1
grpc_port: 9190
rest_port: 8180
metrics_port: 9191
data_dir: /tmp/old
max_connections: 1000
request_timeout: 30
enable_logging: true
log_level: warn
enable_cors: false
"""


def flags(*arguments, environment=None):
    return from_flags(parser("0").parse_args(arguments), environment or {}).settings


def test_the_old_defaults_hold():
    settings = flags()
    assert (settings.host, settings.rest_port, settings.grpc_port, settings.metrics_port) == (
        "127.0.0.1", 8080, 9090, 9091,
    )  # fmt: skip
    assert (settings.data_dir, settings.log_level) == ("./data", "info")


def test_the_old_flags_are_understood():
    settings = flags(
        "-d", "/x", "--host", "::1", "--grpc-port=1", "--rest-port", "2", "--metrics-port", "3",
        "--log-level", "trace",
    )  # fmt: skip
    assert (settings.data_dir, settings.host, settings.log_level) == ("/x", "::1", "debug")
    assert (settings.grpc_port, settings.rest_port, settings.metrics_port) == (1, 2, 3)


def test_the_environment_sets_what_the_old_flags_cannot():
    settings = flags(environment={"DVECDB_BODY_BYTES_MAX": "2048", "DVECDB_REST_PORT": "4"})
    assert (settings.body_bytes_max, settings.rest_port) == (2048, 4)
    assert flags("--rest-port", "5", environment={"DVECDB_REST_PORT": "4"}).rest_port == 5


def test_an_old_file_is_understood():
    loaded, unknown = from_yaml(FILE + "extra: 1\n", "old.yaml", {})
    settings = loaded.settings
    assert (settings.rest_port, settings.grpc_port, settings.metrics_port) == (8180, 9190, 9191)
    assert (settings.data_dir, settings.log_level, settings.cors_origins) == (
        "/tmp/old", "warning", (),
    )  # fmt: skip
    assert (settings.connections_max, settings.request_timeout_seconds) == (1000, 30)
    assert unknown == ["extra"]
    assert loaded.origins["rest_port"] == "old.yaml"
    silent, _ = from_yaml(FILE.replace("logging: true", "logging: false"), "old.yaml", {})
    assert silent.settings.log_level == "error"
    open_to_all, _ = from_yaml(FILE.replace("cors: false", "cors: true"), "old.yaml", {})
    assert open_to_all.settings.cors_origins == ("*",)


@pytest.mark.parametrize("line", FILE.splitlines())
def test_every_field_of_the_old_file_is_required(line):
    with pytest.raises(InvalidRequestError) as caught:
        from_yaml(FILE.replace(line + "\n", ""), "old.yaml", {})
    assert caught.value.code == Code.INVALID_SETTINGS
    assert line.split(":")[0] in caught.value.message


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rest_port: 8180", "rest_port: 9190", "must differ"),
        ("rest_port: 8180", "rest_port: '8180'", "rest_port: expected int"),
        ("max_connections: 1000", "max_connections: 0", "max_connections: must be above 0"),
        ("request_timeout: 30", "request_timeout: 0", "request_timeout: must be above 0"),
        ("log_level: warn", "log_level: loud", "trace, debug"),
        ("host: 127.0.0.1", "host: [", "old.yaml:"),
        (FILE, "- 1\n", "expected a mapping"),
    ],
)
def test_what_the_old_file_cannot_say_is_refused(old, new, words):
    with pytest.raises(InvalidRequestError) as caught:
        from_yaml(FILE.replace(old, new), "old.yaml", {})
    assert caught.value.code == Code.INVALID_SETTINGS
    assert words in caught.value.message


def test_with_a_file_every_other_flag_is_ignored(tmp_path, monkeypatch):
    path = tmp_path / "old.yaml"
    path.write_text(FILE)
    started = []
    monkeypatch.setattr(cli, "run_server", lambda settings: started.append(settings) or 0)
    assert cli.run(["-c", str(path), "--rest-port", "1", "-d", "/elsewhere"]) == 0
    assert (started[0].rest_port, started[0].data_dir) == (8180, "/tmp/old")


def test_a_missing_file_is_one_line(tmp_path, capsys):
    assert cli.run(["-c", str(tmp_path / "none.yaml")]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: file-unreadable:")
    assert errors.count("\n") == 1


def test_an_unknown_flag_and_version_and_help_end_it(capsys):
    for arguments, exit_code in ((["--nope"], 2), (["-V"], 0), (["-h"], 0)):
        with pytest.raises(SystemExit) as caught:
            cli.run(arguments)
        assert caught.value.code == exit_code
    assert "vectordb-server" in capsys.readouterr().out
