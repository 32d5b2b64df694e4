"""Processes of the tour: each started once more whenever it was killed, and stopped by its pid."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from typing import TYPE_CHECKING, Any, Final

from demo.screen import TourError

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from demo.signals import Signals

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.02
DVECDB: Final = (sys.executable, "-m", "dvecdb")


class Program:
    """A `dvecdb` command as a process in a session of its own: a Ctrl-C does not reach it.

    log: takes what it says, stderr and stdout. pids: of all its lives.
    """

    def __init__(self, name: str, arguments: Sequence[str], log: Path, signals: Signals) -> None:
        self.name = name
        self.arguments = list(arguments)
        self.pids: list[int] = []
        self._log = log
        self._signals = signals
        self._process: subprocess.Popen[bytes] | None = None
        self._from = 0

    @property
    def pid(self) -> int | None:
        """The process, None if it does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def said(self) -> str:
        """What it said since it was started last."""
        with self._log.open("rb") as log:
            log.seek(self._from)
            return log.read().decode(errors="replace")

    def start(self) -> None:
        """Start it."""
        with self._signals.held(), self._log.open("ab") as log:
            self._from = log.seek(0, os.SEEK_END)
            self._process = subprocess.Popen(
                [*DVECDB, *self.arguments], env=_environment(),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
            self.pids.append(self._process.pid)

    def await_line(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """Wait until it has said something; return that.

        Raises:
            TourError: it ended instead, or took too long.
        """
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            is_running = self.pid is not None  # before its words: it may speak and end
            found = pattern.search(self.said)
            if found is not None:
                return found
            if not is_running:
                break
            time.sleep(_POLL_SECONDS)
        last = " | ".join(self.said.splitlines()[-3:]) or "it said nothing"
        raise TourError(f"{self.name} did not start: {last}")

    def kill(self) -> None:
        """End it at once: kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in an orderly way, or after a while at once."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        with self._signals.held():
            process.send_signal(how)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Run:
    """A `dvecdb` command that ends by itself. tell: gets each line of its stderr, at once.

    Its stdout is one JSON document.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        signals: Signals,
        tell: Callable[[str], None],
    ) -> None:
        self._tell = tell
        self._out = b""
        self._name = " ".join(["dvecdb", *arguments[:2]])
        with signals.held():
            self._process = subprocess.Popen(
                [*DVECDB, *arguments], env={**_environment(), **environment},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
            self._threads = [threading.Thread(target=one) for one in (self._read, self._collect)]
            for thread in self._threads:
                thread.start()

    @property
    def started(self) -> int:
        """The process, also when it has ended."""
        return self._process.pid

    @property
    def pid(self) -> int | None:
        """The process, None once it has ended."""
        return None if self._process.poll() is not None else self._process.pid

    def finish(self) -> Any:
        """Wait for its end; return what it printed.

        Raises:
            TourError: it failed.
        """
        code = self._process.wait()
        self._close()
        if code != 0:
            raise TourError(f"'{self._name}' ended with exit code {code}")
        return json.loads(self._out)

    def kill(self) -> None:
        """End it at once, if it still runs: kill -9."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._tell(line.decode(errors="replace").rstrip("\n"))

    def _collect(self) -> None:
        assert self._process.stdout is not None
        self._out = self._process.stdout.read()

    def _close(self) -> None:
        process = self._process
        for thread in self._threads:
            thread.join()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _environment() -> dict[str, str]:
    """Return an environment in which nothing but the tour tells dvecdb what to do.

    onnxruntime, which runs MiniLM, would report to its makers.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DVECDB_")}
    return {**kept, "ORT_DISABLE_TELEMETRY": "1"}


def is_running(pid: int) -> bool:
    """Return whether there is such a process, whoever's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def ask(url: str, body: object = None) -> Any:
    """Return the JSON answer to GET, or to POST of a body. For addresses of this machine.

    Raises:
        OSError: there is none, or it is an error.
    """
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.closing(opener.open(request, timeout=60)) as answer:
        return json.load(answer)
