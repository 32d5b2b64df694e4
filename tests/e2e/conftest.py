"""Programs that are run, stopped and killed for real, and what the machine offers for it."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.serving import Server

import dvecdb
from dvecdb.cli import main as cli

PROGRAMS = Path(__file__).with_name("programs")
SOURCE = Path(__file__).parents[2] / "src"
SOAK = "DVECDB_SOAK" in os.environ


class Programs:
    """Starts programs of this directory and leaves none behind. `log` takes what they say."""

    def __init__(self, directory):
        self.log = directory / "programs.log"
        self._running = []

    def start(self, name, *arguments, prefix=(), **options):
        """Start a program; its output goes to the log unless `options` say otherwise."""
        command = [*prefix, sys.executable, "-W", "error", str(PROGRAMS / name)]
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": ""}
        with self.log.open("ab") as log:
            options = {"stdout": log, "stderr": log, **options}
            process = subprocess.Popen([*command, *map(str, arguments)], env=environment, **options)
        self._running.append(process)
        return process

    def run(self, name, *arguments, timeout=60, **options):
        """Run a program to its end and return its exit code."""
        return self.start(name, *arguments, **options).wait(timeout)

    def console(self, directory, **options):
        """Start a process that does what it is told."""
        process = self.start(
            "console.py", directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options
        )
        return Console(process)

    @property
    def said(self):
        """The output so far."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def stop(self):
        """End what still runs."""
        for process in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


class Console:
    """The other end of programs/console.py."""

    def __init__(self, process):
        self._process = process
        self.pid = process.pid

    def send(self, do, **arguments):
        """Ask for something without waiting."""
        self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self._process.stdin.flush()

    def receive(self):
        """Return the next answer."""
        line = self._process.stdout.readline()
        assert line, "the console process ended"
        return json.loads(line)

    def ask(self, do, **arguments):
        """Return the answer to a command."""
        self.send(do, **arguments)
        return self.receive()

    def do(self, do, **arguments):
        """Return the result of a command that must succeed."""
        result = self.ask(do, **arguments)
        assert "ok" in result, result
        return result["ok"]

    def fails(self, do, **arguments):
        """Return the error code of a command that must fail."""
        result = self.ask(do, **arguments)
        assert "error" in result, (do, result)
        return result["error"]

    def signal(self, number):
        """Send a signal."""
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait()
        if number == signal.SIGSTOP:
            os.waitpid(self.pid, os.WUNTRACED)

    def end(self):
        """End the process without closing the database."""
        self._process.stdin.close()
        self._process.wait(30)


@pytest.fixture
def programs(tmp_path):
    started = Programs(tmp_path)
    yield started
    started.stop()


@pytest.fixture
def strace():
    """The command that traces; a tracer that may not trace is no tracer."""
    path = shutil.which("strace")
    if path is None:
        pytest.skip("strace is missing: the system calls are not checked")
    probe = subprocess.run([path, "-o", "/dev/null", "true"], check=False, capture_output=True)
    if probe.returncode:
        pytest.skip(f"strace may not trace here: {probe.stderr.decode(errors='replace')[-200:]}")
    return path


class Command:
    """The command `dvecdb` in this process, on a data directory or a server: see `options`."""

    def __init__(self, monkeypatch, captured, *, data=None, url=None):
        self.data, self.url = data, url
        self.options = ["--url", url] if data is None else ["--data-dir", data]
        self._monkeypatch = monkeypatch
        self._captured = captured
        for name in ("DVECDB_URL", "DVECDB_API_KEY", "DVECDB_DATA_DIR"):
            monkeypatch.delenv(name, raising=False)

    def database(self):
        """Return what the command works on, open."""
        return dvecdb.connect(self.url) if self.data is None else dvecdb.open(self.data)

    def raw(self, *arguments, stdin=b""):
        """Return exit code, stdout and stderr, both as bytes."""
        arguments = list(map(str, arguments))
        self._captured.readouterr()
        with self._monkeypatch.context() as patched:
            patched.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            code = cli.run(arguments)
        sys.stdout.flush()
        return code, *self._captured.readouterr()

    def __call__(self, *arguments, stdin=b""):
        """Return exit code, stdout and stderr of a command on the target."""
        code, out, error = self.raw(*arguments, *self.options, stdin=stdin)
        return code, out.decode(), error.decode()

    def says(self, *arguments, **options):
        """Return what a command prints that must succeed."""
        code, out, error = self(*arguments, **options)
        assert (code, error) == (0, ""), (arguments, error)
        return out

    def json(self, *arguments, **options):
        """Return the JSON document of a command that must succeed."""
        return json.loads(self.says(*arguments, "--json", **options))

    def fails(self, *arguments, **options):
        """Return exit code, error code and message of a command that must fail."""
        code, out, error = self(*arguments, **options)
        assert (code != 0, out) == (True, ""), (arguments, out)
        assert error.startswith("error: "), error
        assert error.count("\n") == 1, error
        _, name, message = error.rstrip("\n").split(": ", 2)
        return code, name, message


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A server for all tests; each finds it without collections."""
    place = tmp_path_factory.mktemp("server")
    started = Server(place / "data", place / "log").wait()
    yield started
    started.kill()


@pytest.fixture
def dvecdb_here(monkeypatch, capfdbinary, tmp_path):
    """The command on a data directory of its own."""
    return Command(monkeypatch, capfdbinary, data=tmp_path / "data")


@pytest.fixture(params=["directory", "server"])
def dvecdb_command(request, monkeypatch, capfdbinary, tmp_path):
    """The command on a data directory, and then the same on a server."""
    if request.param == "directory":
        yield Command(monkeypatch, capfdbinary, data=tmp_path / "data")
        return
    url = f"http://127.0.0.1:{request.getfixturevalue('server').port}"
    yield Command(monkeypatch, capfdbinary, url=url)
    with dvecdb.connect(url) as database:
        for name in database.collections():
            database.collection(name).protect(deletion=False)
            database.hard_delete(name)
        database.purge(0)
        for item in database.backups():
            database.delete_backup(item.name)
