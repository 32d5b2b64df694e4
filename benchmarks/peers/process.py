"""The process of a system, seen from outside: asked over a pipe, ended by its id."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from benchmarks.peers.registry import Entry

ROOT = Path(__file__).resolve().parents[2]
LOG_LINES = 8
END_SECONDS = 60


class PeerError(Exception):
    """A system failed. It is left out from then on, and the report says why."""


class UnsupportedError(Exception):
    """A system has no such call; it goes on with the next."""


class Process:
    """A running `benchmarks.peers.worker`."""

    def __init__(self, entry: Entry, directory: Path) -> None:
        self.entry = entry
        self.served_by: list[psutil.Process] = []
        self.log = directory / f"{entry.name}.log"
        command = [sys.executable, "-m", "benchmarks.peers.worker", entry.name, str(directory)]
        with self.log.open("a", encoding="utf-8") as log:
            self.child = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def ask(self, task: str, *, seconds: float, **arguments: Any) -> dict[str, Any]:
        """Return the answer.

        Raises:
            PeerError: it failed, died or took longer than `seconds`; it has ended.
            UnsupportedError: it has no such call.
        """
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        request = json.dumps({"task": task, **arguments}) + "\n"
        try:
            self.child.stdin.write(request.encode())
            self.child.stdin.flush()
        except BrokenPipeError:
            raise self._failed(f"{task}: the process has ended") from None
        with selectors.DefaultSelector() as selector:
            selector.register(self.child.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                raise self._failed(f"{task}: no answer in {seconds:g} s")
        line = self.child.stdout.readline()
        if not line:
            status = self.child.wait()
            raise self._failed(f"{task}: the process ended with status {status}")
        answer: dict[str, Any] = json.loads(line)
        if "not_supported" in answer:
            raise UnsupportedError(answer["not_supported"])
        if "error" in answer:
            raise self._failed(f"{task}: {answer['error']}")
        self._remember(answer.get("pids", []))
        return answer

    def end(self) -> None:
        """Let it end by itself, or else make it and what it started."""
        assert self.child.stdin is not None
        self.child.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(END_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End it and every process that serves for it, by id."""
        started = [item for item in self.served_by if item.is_running()]
        if self.child.poll() is None:
            started.append(psutil.Process(self.child.pid))
        for process in started:
            for one in [*_children(process), process]:
                try:
                    one.kill()
                except psutil.NoSuchProcess:
                    continue
        self.child.wait()
        for stream in (self.child.stdin, self.child.stdout):
            if stream is not None and not stream.closed:
                stream.close()

    def _remember(self, pids: list[int]) -> None:
        for pid in pids:
            try:
                self.served_by.append(psutil.Process(pid))
            except psutil.NoSuchProcess:
                continue

    def _failed(self, what: str) -> PeerError:
        self.kill()
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return PeerError("\n".join([what, *lines[-LOG_LINES:]]))


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found


def environment() -> dict[str, str]:
    """Return this process's environment, with compiled modules kept and nothing sent anywhere."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"ANONYMIZED_TELEMETRY": "False", "CHROMA_OTEL_COLLECTION_ENDPOINT": ""}
