"""What was measured: every round of every system, and the figures made of them."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.peers.registry import OWN, Entry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.peers.adapter import Effort

LEVELS = (0.95, 0.99)
FILTER_LEVEL = 0.95
CLIENTS = (1, 8)


@dataclass(slots=True)
class Point:
    """One effort, on the queries that efforts are chosen by."""

    below: int | None
    effort: Effort
    recall: float
    qps: float


@dataclass(slots=True)
class Round:
    """Some clients, for about a second."""

    qps: float
    p50_ms: float
    p99_ms: float
    recall: float
    searches: int


@dataclass(slots=True)
class Cell:
    """One figure of a system: the level asked for, the effort chosen for it, its rounds.

    reached: whether any effort reached the level when efforts were chosen; if none did, the
    rounds are of the one that came nearest.
    """

    level: float
    below: int | None
    clients: int
    effort: Effort
    reached: bool
    rounds: list[Round] = field(default_factory=list)

    @property
    def key(self) -> tuple[float, int | None, int]:
        """What makes it comparable with that of another system."""
        return self.level, self.below, self.clients

    def median(self, name: str) -> float:
        """Return the median of a field of the rounds."""
        return statistics.median(getattr(item, name) for item in self.rounds)


@dataclass(slots=True)
class Result:
    """One system. Sizes in bytes, times in seconds; `status` is measured, failed, not installed."""

    entry: Entry
    status: str = "measured"
    error: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    durability: str = ""
    import_seconds: float | None = None
    durable: float | None = None
    searchable: float | None = None
    memory: int | None = None
    memory_restarted: int | None = None
    disk: int | None = None
    disk_closed: int | None = None
    not_supported: list[str] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    restarts: list[float] = field(default_factory=list)
    restarts_correct: list[bool] = field(default_factory=list)
    copies: list[float] = field(default_factory=list)
    copied_closed: bool | None = None

    @property
    def name(self) -> str:
        """The name of the system."""
        return self.entry.name

    def cell(self, key: tuple[float, int | None, int]) -> Cell | None:
        """Return the figure at that level, filter and number of clients, if it was measured."""
        return next((item for item in self.cells if item.key == key and item.rounds), None)

    def as_json(self, own: Result | None) -> dict[str, Any]:
        """Return everything known; ratios are those of `own` to this, round by round."""
        known = asdict(self)
        entry = known.pop("entry")
        known = {key: entry[key] for key in ("name", "title", "kind", "install")} | known
        known["restart"] = median(self.restarts)
        known["copy"] = median(self.copies)
        for cell, item in zip(self.cells, known["cells"], strict=True):
            item |= self._figures(cell, own)
        return known

    def _figures(self, cell: Cell, own: Result | None) -> dict[str, float]:
        if not cell.rounds:
            return {}
        figures = {name: cell.median(name) for name in ("qps", "p50_ms", "p99_ms", "recall")}
        other = own.cell(cell.key) if own is not None else None
        if other is not None:
            pairs = zip(other.rounds, cell.rounds, strict=False)
            figures["ratio"] = statistics.median(ours.qps / its.qps for ours, its in pairs)
        return figures


def median(values: Iterable[float]) -> float | None:
    """Return the median, or None of nothing."""
    known = list(values)
    return statistics.median(known) if known else None


def as_json(results: list[Result]) -> list[dict[str, Any]]:
    """Return everything known about all systems."""
    own = next((item for item in results if item.name == OWN), None)
    return [item.as_json(own) for item in results]
