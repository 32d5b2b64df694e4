"""What is shipped for running a server, read as text: units, images and what they start."""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import dvecdb
from dvecdb import telemetry
from dvecdb.cli import main as cli
from dvecdb.node.legacy_server import from_flags, parser
from dvecdb.node.sources import load

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNIT = (DEPLOY / "d-vecdb.service").read_text()
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def unit(key):
    return re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE)


def variables(text):
    return dict(re.findall(r"(DVECDB_\w+)[=:] ?\"?([\w./-]+)\"?", text))


def test_the_unit_starts_the_old_name_on_the_old_path_with_flags_that_work():
    (command,) = unit("ExecStart")
    binary, *arguments = shlex.split(command)
    assert binary == "/usr/local/bin/vectordb-server"
    environment = dict(line.split("=", 1) for line in unit("Environment"))
    settings = from_flags(parser("0").parse_args(arguments), environment).settings
    assert (settings.data_dir, settings.rest_port, settings.log_format) == ("/data", 3030, "json")
    assert settings.is_loopback


def test_the_unit_waits_for_the_drain_and_does_not_repeat_what_cannot_work():
    settings = load().settings
    assert int(unit("TimeoutStopSec")[0]) > settings.shutdown_seconds + 5
    assert unit("KillSignal") == ["SIGTERM"]
    assert unit("RestartPreventExitStatus") == ["2"]
    assert int(unit("LimitNOFILE")[0]) > settings.connections_max


def test_the_unit_is_hardened_and_hides_no_import_root():
    assert unit("User") == ["dvecdb"]
    assert unit("ProtectSystem") == ["strict"]
    assert unit("ReadWritePaths") == ["/data"]
    assert unit("NoNewPrivileges") == ["yes"]
    assert unit("CapabilityBoundingSet") == [""]
    assert unit("ProtectHome") == ["read-only"]
    assert unit("PrivateTmp") == ["no"]
    for hiding in ("InaccessiblePaths", "TemporaryFileSystem", "RootDirectory", "PrivateUsers"):
        assert unit(hiding) == []


def test_systemd_understands_the_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing: the unit is read as text only")
    path = tmp_path / "d-vecdb.service"
    path.write_text(UNIT.replace("/usr/local/bin/vectordb-server", shutil.which("true")))
    run = subprocess.run(
        ["systemd-analyze", "verify", str(path)], check=False, capture_output=True, text=True
    )
    about_us = [line for line in run.stderr.splitlines() if path.name in line]
    assert (run.returncode, about_us) == (0, []), run.stderr


def test_the_image_runs_as_nobody_special_and_asks_itself_whether_it_is_well():
    lines = [line.split(" ", 1) for line in DOCKERFILE.splitlines() if line[:1].isupper()]
    assert ["USER", "10001:10001"] in lines
    assert ["VOLUME", "/data"] in lines
    assert ["EXPOSE", "3030 9091"] in lines
    assert ["ENTRYPOINT", '["dvecdb"]'] in lines
    assert "HEALTHCHECK" in DOCKERFILE
    assert "/health/ready" in DOCKERFILE
    settings = load(environment=variables(DOCKERFILE.partition("ENV ")[2])).settings
    assert (settings.data_dir, settings.host, settings.rest_port) == ("/data", "0.0.0.0", 3030)
    assert not settings.allow_unauthenticated
    assert not settings.allow_plaintext


def test_the_image_is_built_from_files_that_are_there_for_a_python_that_we_support():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (version,) = set(re.findall(r"FROM python:(3\.\d+)", DOCKERFILE))
    assert project["requires-python"] == f">={version}"
    for line in re.findall(r"^COPY (?!--)(.*)$", DOCKERFILE, re.MULTILINE):
        for name in line.split()[:-1]:
            assert (ROOT / name).exists(), name


def test_the_compose_file_publishes_on_loopback_what_it_leaves_open():
    (service,) = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    settings = load(environment=service["environment"]).settings
    assert settings.allow_unauthenticated
    assert settings.allow_plaintext
    assert service["volumes"] == ["data:/data"]
    assert service["read_only"] is True
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).exists()
    assert int(service["stop_grace_period"].removesuffix("s")) > settings.shutdown_seconds + 5


# --- alerts and the cleanup timer --------------------------------------------------------------

RULES = yaml.safe_load((DEPLOY / "prometheus-rules.yaml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
METRICS = {value for name, value in vars(telemetry).items() if name.isupper() and "_" in str(value)}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_names_metrics_that_exist_and_says_what_to_do(alert):
    named = set(re.findall(r"\bdvecdb_\w+", alert["expr"]))
    assert named
    assert named <= METRICS
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert len(alert["annotations"]["summary"]) > 20
    for command in re.findall(r"'dvecdb ([^']+)'", alert["annotations"]["summary"]):
        assert cli.run([*command.split(), "--help"]) == 0


def test_what_recovery_measures_has_an_alert():
    named = set(re.findall(r"\bdvecdb_\w+", str(ALERTS)))
    assert {
        telemetry.TRASH_BYTES, telemetry.TRASH_OLDEST_AGE, telemetry.TRASH_EXPIRING,
        telemetry.BACKUPS, telemetry.BACKUPS_DAMAGED, telemetry.BACKUP_AGE,
        telemetry.BACKUP_VERIFIED_AGE, telemetry.HORIZON_LAG, telemetry.FINDINGS,
    } <= named  # fmt: skip


def test_prometheus_understands_the_rules():
    if shutil.which("promtool") is None:
        pytest.skip("promtool is missing: the rules are read as YAML only")
    rules = str(DEPLOY / "prometheus-rules.yaml")
    run = subprocess.run(
        ["promtool", "check", "rules", rules], check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def cleanup_commands():
    """Return the arguments that the timer and the cron line give to `dvecdb`."""
    service = (DEPLOY / "dvecdb-cleanup.service").read_text()
    (started,) = re.findall(r"^ExecStart=\S+/dvecdb (.*)$", service, re.MULTILINE)
    cron = (DEPLOY / "dvecdb-cleanup.cron").read_text()
    (line,) = [line for line in cron.splitlines() if line and not line.startswith("#")]
    assert re.match(r"\d+ \d+ \* \* \* root ", line)
    return [shlex.split(started), shlex.split(line.partition("/bin/dvecdb ")[2])]


def test_the_cleanup_of_timer_and_cron_is_a_command_that_works(tmp_path, capsys):
    dvecdb.open(tmp_path / "data").close()
    for arguments in cleanup_commands():
        assert "--yes" in arguments
        assert cli.run([*arguments, "--data-dir", str(tmp_path / "data")]) == 0
        assert "nothing in the trash is older than 24 h" in capsys.readouterr().out


def test_systemd_understands_the_timer(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing: the timer is read as text only")
    for name in ("dvecdb-cleanup.service", "dvecdb-cleanup.timer"):
        text = (DEPLOY / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/dvecdb/bin/dvecdb", shutil.which("true")))
    run = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "dvecdb-cleanup.timer")],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    about_us = [line for line in run.stderr.splitlines() if "dvecdb-cleanup" in line]
    assert (run.returncode, about_us) == (0, []), run.stderr
