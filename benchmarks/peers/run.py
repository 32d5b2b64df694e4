"""The course of a run: fill each system, choose efforts, then rounds in turn, restarts, copies.

Only one system works at a time. The processes of all stay alive between their rounds, so that a
figure of one and a figure of another are seconds apart, not an hour.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.peers.effort import ENOUGH, choose, climb
from benchmarks.peers.memory import disk_bytes
from benchmarks.peers.process import PeerError, Process, UnsupportedError
from benchmarks.peers.results import CLIENTS, FILTER_LEVEL, LEVELS, Cell, Point, Result, Round
from benchmarks.peers.workload import FILTERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.peers.adapter import Effort
    from benchmarks.peers.registry import Entry
    from benchmarks.peers.workload import Workload

FILL_SECONDS_MAX = 7_200
CALL_SECONDS_MAX = 900
ROUND_SECONDS_MAX = 5.0
TUNE_SECONDS_MAX = 6.0


@dataclass(slots=True)
class Measured:
    """A system that takes part, while it does."""

    result: Result
    directory: Path
    process: Process | None = None
    expected: tuple[int, Effort, list[int]] | None = None  # a query, an effort, the answer
    failed: bool = False

    @property
    def data(self) -> str:
        """Where its files are."""
        return str(self.directory / "data")


class Run:
    """All systems, and what is known about them."""

    def __init__(
        self,
        workload: Workload,
        directory: Path,
        entries: list[Entry],
        *,
        rounds: int,
        seconds: float,
    ) -> None:
        """`seconds`: what a round takes at least."""
        self.workload, self.directory = workload, directory
        self.rounds, self.seconds = rounds, seconds
        self.results = [Result(entry) for entry in entries]
        self.systems = []
        for result in self.results:
            if result.entry.installed:
                self.systems.append(Measured(result, directory / result.name))
            else:
                result.status = "not installed"
        workload.save(directory)

    def everything(self, keep: Callable[[], None]) -> None:
        """Measure; `keep` is called whenever there are more figures in `results`."""
        try:
            self._each("filling", self._fill)
            self._each("choosing efforts of", self._choose)
            for number in range(self.rounds):
                self._measure_in_turn(number)
                keep()
            self._each("closing", self._close)
            for _ in range(self.rounds):
                self._each("restarting", self._restart)
            for _ in range(self.rounds):
                self._each("copying", self._copy)
            keep()
        finally:
            for system in self.systems:
                if system.process is not None:
                    system.process.kill()

    def _each(self, what: str, task: Any) -> None:
        for system in self._alive():
            with self._guarded(system):
                print(f"{time.strftime('%H:%M:%S')} {what} {system.result.name}", flush=True)
                task(system)

    def _alive(self) -> list[Measured]:
        return [system for system in self.systems if not system.failed]

    @contextlib.contextmanager
    def _guarded(self, system: Measured) -> Iterator[None]:
        """Keep the failure of a system from the others: it is reported and takes part no more."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # it is in the report, and an hour is not lost
            system.failed = True
            what = str(error) if isinstance(error, PeerError) else repr(error)
            system.result.status, system.result.error = "failed", what
            print(f"{system.result.name} failed: {error}", flush=True)
            if system.process is not None:
                system.process.kill()

    def _start(self, system: Measured) -> Process:
        system.process = Process(system.result.entry, self.directory)
        loaded = system.process.ask("load", seconds=CALL_SECONDS_MAX)
        system.result.durability = loaded["durability"]
        system.result.copied_closed = loaded["copied_closed"]
        system.result.import_seconds = loaded["seconds"]
        return system.process

    # --- filling and efforts ---

    def _fill(self, system: Measured) -> None:
        system.directory.mkdir(mode=0o755)
        process = self._start(system)
        filled = process.ask("fill", seconds=FILL_SECONDS_MAX, path=system.data)
        state = process.ask("state", seconds=CALL_SECONDS_MAX)
        result = system.result
        result.durable, result.searchable = filled["durable"], filled["searchable"]
        result.versions = state["versions"] | result.entry.versions()
        result.memory, result.disk = state["memory"], disk_bytes(system.directory)

    def _choose(self, system: Measured) -> None:
        assert system.process is not None
        ladders = system.process.ask("ladders", seconds=CALL_SECONDS_MAX)["ladders"]
        for below in (None, *FILTERS):
            try:
                climbed = climb(
                    ladders,
                    lambda effort, at=below: self._tune(system, effort, at),
                    ENOUGH if below is None else FILTER_LEVEL,
                )
            except UnsupportedError as error:
                system.result.not_supported.append(f"filter: {error}")
                break
            system.result.points += [point for points in climbed for point in points]
            levels = LEVELS if below is None else (FILTER_LEVEL,)
            for level in levels:
                point, reached = choose(climbed, level)
                for clients in CLIENTS if below is None else (1,):
                    cell = Cell(level, below, clients, point.effort, reached)
                    system.result.cells.append(cell)

    def _tune(self, system: Measured, effort: Effort, below: int | None) -> Point:
        assert system.process is not None
        answer = system.process.ask(
            "round",
            seconds=CALL_SECONDS_MAX,
            what="tune",
            effort=effort,
            below=below,
            clients=1,
            at_least=0.0,
            at_most=TUNE_SECONDS_MAX,
        )
        recall = self.workload.recall("tune", below, answer["answers"])
        return Point(below, effort, recall, answer["qps"])

    # --- rounds ---

    def _measure_in_turn(self, number: int) -> None:
        """Take turns by figure: who goes first changes with every round."""
        keys = dict.fromkeys(cell.key for item in self.results for cell in item.cells)
        print(f"{time.strftime('%H:%M:%S')} round {number + 1}", flush=True)
        for key in keys:
            alive = self._alive()
            first = number % max(1, len(alive))
            for system in alive[first:] + alive[:first]:
                with self._guarded(system):
                    self._measure(system, key, number)

    def _measure(self, system: Measured, key: tuple[float, int | None, int], number: int) -> None:
        cell = next((item for item in system.result.cells if item.key == key), None)
        if cell is None:
            return
        same = self._same(system, cell)
        if same is not None and len(same.rounds) > number:
            cell.rounds.append(same.rounds[number])
            return
        assert system.process is not None
        answer = system.process.ask(
            "round",
            seconds=CALL_SECONDS_MAX,
            what="measure",
            effort=cell.effort,
            below=cell.below,
            clients=cell.clients,
            at_least=self.seconds,
            at_most=ROUND_SECONDS_MAX,
        )
        recall = self.workload.recall("measure", cell.below, answer["answers"])
        figures = {name: answer[name] for name in ("qps", "p50_ms", "p99_ms", "searches")}
        cell.rounds.append(Round(recall=recall, **figures))
        if cell.below is None and cell.clients == 1:
            self._expect(system, cell.effort, answer["answers"])

    def _same(self, system: Measured, cell: Cell) -> Cell | None:
        """Return another figure that the same rounds stand for: both levels need one effort."""
        for item in system.result.cells:
            if item is not cell and (item.effort, item.below, item.clients) == (
                cell.effort,
                cell.below,
                cell.clients,
            ):
                return item
        return None

    def _expect(self, system: Measured, effort: Effort, answers: dict[str, list[int]]) -> None:
        """Choose what a new process must answer: all of it right, or else what this one says."""
        for position, numbers in answers.items():
            right = self.workload.recall("measure", None, {position: numbers}) == 1.0
            if system.expected is None or right:
                system.expected = int(position), effort, numbers
            if right:
                break

    # --- restarts and copies ---

    def _close(self, system: Measured) -> None:
        """Close it as a new process will ask it: some systems keep the effort on the disk."""
        assert system.process is not None
        assert system.expected is not None
        query, effort, _ = system.expected
        system.process.ask("answer", seconds=CALL_SECONDS_MAX, query=query, effort=effort)
        system.process.ask("close", seconds=CALL_SECONDS_MAX)
        system.process.end()
        system.result.disk_closed = disk_bytes(system.directory)

    def _restart(self, system: Measured) -> None:
        assert system.expected is not None
        query, effort, expected = system.expected
        start = time.perf_counter()
        process = self._start(system)
        process.ask("open", seconds=CALL_SECONDS_MAX, path=system.data)
        answer = process.ask("answer", seconds=CALL_SECONDS_MAX, query=query, effort=effort)
        system.result.restarts.append(time.perf_counter() - start)
        system.result.restarts_correct.append(
            set(answer["answer"]) == set(expected)
            or self.workload.recall("measure", None, {str(query): answer["answer"]}) == 1.0
        )
        state = process.ask("state", seconds=CALL_SECONDS_MAX)
        system.result.memory_restarted = state["memory"]
        process.ask("close", seconds=CALL_SECONDS_MAX)
        process.end()

    def _copy(self, system: Measured) -> None:
        process = self._start(system)
        process.ask("open", seconds=CALL_SECONDS_MAX, path=system.data)
        process.ask("state", seconds=CALL_SECONDS_MAX)  # which says what has to be ended
        target = system.directory / "copy"
        copied = process.ask("copy", seconds=CALL_SECONDS_MAX, target=str(target))
        system.result.copies.append(copied["seconds"])
        process.ask("close", seconds=CALL_SECONDS_MAX)
        process.end()
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
