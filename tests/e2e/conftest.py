"""Programs that are run, stopped and killed for real, and what the machine offers for it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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
