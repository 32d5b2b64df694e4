"""What every benchmark shares: options, rounds, fresh directories, child processes, the table.

A figure is the median of its rounds; a round measures the engine and the limit or peer it is
compared with one right after the other, in alternating order. Garbage is collected before a clock
starts and collected as usual while it runs: users pay for it too.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

PIECE_BYTES = 6 * 1024 * 1024
MEMORY_FACTOR = 4  # log, segments and memtables hold the rows about as often


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. `directory` is on the disk to be measured."""

    rows: int
    rounds: int
    data: Path | None
    directory: Path


@dataclass(slots=True)
class Measure:
    """One line of the table: its values by round. `ok` is None where there is no target."""

    name: str
    unit: str
    values: list[float]
    target: str = ""
    ok: bool | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The figure."""
        return statistics.median(self.values)

    def against(self, *, at_least: float | None = None, at_most: float | None = None) -> Measure:
        """Return this measure with its target."""
        limits = []
        self.ok = True
        if at_least is not None:
            limits.append(f">= {at_least:g}")
            self.ok = self.median >= at_least
        if at_most is not None:
            limits.append(f"<= {at_most:g}")
            self.ok = self.ok and self.median <= at_most
        self.target = " and ".join(limits)
        return self

    def line(self) -> str:
        """Return the line of the table."""
        spread = f"({min(self.values):.4g} .. {max(self.values):.4g})"
        value = f"{self.median:.4g} {self.unit} {spread}"
        verdict = {True: "ok", False: "MISSED", None: ""}[self.ok]
        notes = ", ".join(f"{key} {_short(item)}" for key, item in self.notes.items())
        return f"{self.name:34} | {value:36} | {self.target:10} | {verdict:6} | {notes}"

    def as_json(self) -> dict[str, Any]:
        """Return everything known about this measure."""
        known = {"min": min(self.values), "median": self.median, "max": max(self.values)}
        return {**asdict(self), **known}


def _short(item: object) -> str:
    return f"{item:.4g}" if isinstance(item, float) else str(item)


def cpu_wait() -> float:
    """Return the seconds the main thread has stood ready while no processor was free.

    A ratio against something that only waits for the disk is not fair while this grows.
    """
    try:
        return int(Path("/proc/self/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except OSError:
        return 0.0


def timed(call: Callable[[], object]) -> float:
    """Return how many seconds `call` takes."""
    gc.collect()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def costed(call: Callable[[], object]) -> tuple[float, float, float]:
    """Return the seconds `call` takes, its CPU seconds, and those it waited for a processor."""
    gc.collect()
    used, waited = time.process_time(), cpu_wait()
    start = time.perf_counter()
    call()
    took = time.perf_counter() - start
    return took, time.process_time() - used, cpu_wait() - waited


def alternate(
    rounds: int, first: Callable[[], float], second: Callable[[], float]
) -> list[tuple[float, float]]:
    """Return what both give, by round; which one goes first alternates."""
    pairs = []
    for number in range(rounds):
        if number % 2:
            other = second()
            pairs.append((first(), other))
        else:
            pairs.append((first(), second()))
    return pairs


@contextlib.contextmanager
def fresh(options: Options, memory_bytes: int = 0) -> Iterator[Path]:
    """Give a new directory that is removed afterwards; the disk is quiet when it begins.

    memory_bytes: about what the round will fill, page cache included. That much is touched and
    given back before, or the first round to use a page pays for a virtual machine getting it.
    """
    path = Path(tempfile.mkdtemp(prefix="round-", dir=options.directory))
    try:
        os.sync()
        touched = np.ones(memory_bytes, np.uint8)
        del touched
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def plain_write(options: Options, rows: npt.NDArray[np.generic]) -> float:
    """Return the seconds to write the bytes of `rows` into a new file and sync it once."""
    raw = memoryview(rows).cast("B")
    with fresh(options, MEMORY_FACTOR * rows.nbytes) as path:

        def write() -> None:
            file = os.open(path / "plain", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            for start in range(0, len(raw), PIECE_BYTES):
                piece = raw[start : start + PIECE_BYTES]
                while piece:
                    piece = piece[os.write(file, piece) :]
            os.fdatasync(file)
            os.close(file)

        return timed(write)


def child(task: str, *, killed: bool = False, **arguments: Any) -> dict[str, Any]:
    """Run a task of `benchmarks.child` in a new process and return its answer."""
    command = [sys.executable, "-m", "benchmarks.child", task, json.dumps(arguments)]
    root = Path(__file__).resolve().parent.parent
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != (-9 if killed else 0):
        raise RuntimeError(f"{task} ended with {done.returncode}")
    return json.loads(done.stdout) if done.stdout else {}


def report(measures: Sequence[Measure]) -> None:
    """Print lines of the table as they come."""
    for measure in measures:
        print(measure.line(), flush=True)
