"""Prometheus metrics of one server. Names: `telemetry`; labels are few and never taken from a path.

Requests are counted as they are answered. Everything else is read when somebody scrapes: a few
attributes of each collection, one question to the file system, and what lies in trash and backups.
"""

from __future__ import annotations

import bisect
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from dvecdb import telemetry
from dvecdb.api.recovery_metrics import OTHERS, recovery_families
from dvecdb.clock import SystemClock
from dvecdb.errors import DvecdbError
from dvecdb.media.files import OsFiles
from dvecdb.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from dvecdb.clock import Clock
    from dvecdb.media.files import Files
    from dvecdb.records import CollectionStats
    from dvecdb.reports import ImportReport
    from dvecdb.rescue.database import Database

    Reading = float | Mapping[str, float]

BUCKETS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0
)  # fmt: skip
"""Upper bounds in seconds: a get takes half a millisecond, the default deadline is a minute."""
COLLECTIONS_MAX: Final = 1_000
"""Collections with series of their own; the rest are added up under the label `(others)`."""

JOB_OUTCOMES: Final = ("done", "stopped", "budget", "interrupted", "failed")
"""How a run of an embedding job ends; interrupted: it was cancelled, or the server stopped."""
_NANOSECONDS: Final = 1_000_000_000

_log = structlog.get_logger("dvecdb.api")


@dataclass(slots=True)
class _Durations:
    """Counts of one operation: `buckets[i]` within BUCKETS[i] and above the one before."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Watched:
    """A figure that somebody else keeps. `label` names the keys, if it is several."""

    name: str
    text: str
    read: Callable[[], Reading]
    label: str | None


class Metrics:
    """Counts requests as they are answered, and reads the database when it is scraped.

    `_lock` guards the counts; nothing is taken inside.
    """

    content_type: str = CONTENT_TYPE_LATEST
    """The Content-Type of what `render` returns."""

    def __init__(
        self,
        data_dir: str | None = None,
        *,
        engine: Settings | None = None,
        version: str = "",
        files: Files | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._data_dir = data_dir
        self._engine = engine if engine is not None else Settings()
        self._version = version
        self._files: Files = files if files is not None else OsFiles()
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._begun_ns = self._clock.monotonic_ns()
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._durations: dict[str, _Durations] = {}
        self._imports: Counter[str] = Counter()
        self._imported = Counter(dict.fromkeys(_IMPORT_FIGURES, 0))
        self._jobs: Counter[str] = Counter()
        self._job_texts = 0
        self._watched: list[_Watched] = []

    def observe(self, operation: str, status: int, seconds: float) -> None:
        """Count one answered request. `operation`: a name of the endpoint table, never a path.

        Called once for each request, by the node, from `LimitedApp.on_answered`; the application
        does not count by itself. Any thread; microseconds.
        """
        bucket = bisect.bisect_left(BUCKETS, seconds)
        with self._lock:
            self._requests[operation, status] += 1
            durations = self._durations.setdefault(operation, _Durations())
            durations.buckets[bucket] += 1
            durations.seconds += seconds

    def count_import(self, report: ImportReport | None) -> None:
        """Count an import that ended. report: of what it made; None: it failed. Any thread."""
        with self._lock:
            self._imports["failed" if report is None else "done"] += 1
            if report is not None:
                self._imported[telemetry.IMPORTED_ROWS] += report.imported
                self._imported[telemetry.IMPORT_DOUBTS] += report.imported - report.exact
                self._imported[telemetry.IMPORT_LOST_RANGES] += len(report.lost)

    def count_job(self, outcome: str) -> None:
        """Count a run of an embedding job that ended, one of `JOB_OUTCOMES`. Any thread."""
        with self._lock:
            self._jobs[outcome] += 1

    def count_job_texts(self, texts: int) -> None:
        """Count texts that jobs had embedded. Any thread."""
        with self._lock:
            self._job_texts += texts

    def watch(
        self, name: str, text: str, read: Callable[[], Reading], *, label: str | None = None
    ) -> None:
        """Show what `read` returns at each scrape; with `label`, a mapping from its values.

        name: of `telemetry`; one that ends in `_total` is a counter. `read` may not block.
        """
        self._watched.append(_Watched(name, text, read, label))

    def render(self, database: Database) -> bytes:
        """Return the Prometheus text. Milliseconds; it looks into trash and backups. Any thread."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Scrape(self, database))
        return generate_latest(registry)

    # --- families ---

    def families(self, database: Database) -> Iterator[Metric]:
        """Yield every family with its figures of now."""
        yield from self._request_families()
        for watched in self._watched:
            yield _watched_family(watched)
        yield from self._import_families()
        yield from self._job_families()
        yield from self._database_families(database)
        yield from self._disk_families()
        seconds = (self._clock.monotonic_ns() - self._begun_ns) / _NANOSECONDS
        yield _gauge(telemetry.UPTIME, "Time since the server began.", seconds)
        build = GaugeMetricFamily(
            telemetry.BUILD_INFO, "The version that runs.", labels=["version"]
        )
        build.add_metric([self._version], 1)
        yield build

    def _request_families(self) -> Iterator[Metric]:
        with self._lock:
            requests = dict(self._requests)
            durations = {
                name: (list(found.buckets), found.seconds)
                for name, found in self._durations.items()
            }
        counted = CounterMetricFamily(
            telemetry.REQUESTS, "Requests answered.", labels=["operation", "status"]
        )
        for (operation, status), count in sorted(requests.items()):
            counted.add_metric([operation, str(status)], count)
        yield counted
        timed = HistogramMetricFamily(
            telemetry.REQUEST_DURATION,
            "From the end of the headers to the end of the answer.",
            labels=["operation"],
        )
        for operation, (buckets, seconds) in sorted(durations.items()):
            timed.add_metric([operation], _cumulative(buckets), seconds)
        yield timed

    def _import_families(self) -> Iterator[Metric]:
        with self._lock:
            imports, figures = dict(self._imports), dict(self._imported)
        ended = CounterMetricFamily(telemetry.IMPORTS, "Imports that ended.", labels=["outcome"])
        for outcome in ("done", "failed"):
            ended.add_metric([outcome], imports.get(outcome, 0))
        yield ended
        for name, text in _IMPORT_FIGURES.items():
            yield CounterMetricFamily(name, text, value=figures[name])

    def _job_families(self) -> Iterator[Metric]:
        with self._lock:
            jobs, texts = dict(self._jobs), self._job_texts
        ended = CounterMetricFamily(
            telemetry.JOBS, "Runs of embedding jobs that ended.", labels=["outcome"]
        )
        for outcome in JOB_OUTCOMES:
            ended.add_metric([outcome], jobs.get(outcome, 0))
        yield ended
        text = "Texts that jobs had embedded."
        yield CounterMetricFamily(telemetry.JOB_TEXTS, text, value=texts)

    def _database_families(self, database: Database) -> Iterator[Metric]:
        stats = list(_stats(database))
        yield from recovery_families(database, stats, self._clock.wall_ns(), COLLECTIONS_MAX)
        yield _gauge(telemetry.COLLECTIONS, "Collections that are served.", len(stats))
        for name, text, read in _FIGURES:
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(name, text, labels=["collection"])
            for collection, value in _by_collection(stats, read).items():
                family.add_metric([collection], value)
            yield family
        served, findings = {item.name for item in stats}, database.findings()
        damaged = {finding.collection for finding in findings} - served - {None}
        yield _gauge(
            telemetry.COLLECTIONS_DAMAGED, "Collections set aside because of damage.", len(damaged)
        )
        found = GaugeMetricFamily(
            telemetry.FINDINGS, "Damage and doubts not yet settled.", labels=["code"]
        )
        for code, count in sorted(Counter(finding.code for finding in findings).items()):
            found.add_metric([code], count)
        yield found
        reserve = self._engine.ballast_bytes + len(stats) * self._engine.wal_reserve_bytes
        yield _gauge(
            telemetry.DISK_RESERVE_BYTES, "Kept for deletes and the trash on a full disk.", reserve
        )

    def _disk_families(self) -> Iterator[Metric]:
        if self._data_dir is None:
            return
        try:
            directory = self._files.open_root(self._data_dir, create=False)
            try:
                free = self._files.free_bytes(directory)
            finally:
                self._files.close_directory(directory)
        except OSError as error:
            _log.warning(telemetry.Event.METRICS_FAILED, what="disk", error=error.strerror)
            return
        yield _gauge(telemetry.DISK_FREE_BYTES, "What can still be written.", free)


_IMPORT_FIGURES: Final[Mapping[str, str]] = {
    telemetry.IMPORTED_ROWS: "Records that imports brought back.",
    telemetry.IMPORT_DOUBTS: "Those of them that came back with a doubt.",
    telemetry.IMPORT_LOST_RANGES: "Ranges of bytes that imports could not bring back.",
}


class _Scrape:
    """What the registry collects from: the figures of one moment."""

    def __init__(self, metrics: Metrics, database: Database) -> None:
        self._metrics, self._database = metrics, database

    def collect(self) -> Iterable[Metric]:
        """Yield the families."""
        return self._metrics.families(self._database)


_FIGURES: Final[tuple[tuple[str, str, Callable[[CollectionStats], float]], ...]] = (
    (telemetry.ROWS, "Records now.", lambda item: item.count),
    (
        telemetry.ROWS_WRITTEN,
        "Rows of the log of rows, ended ones included.",
        lambda item: item.rows,
    ),
    (telemetry.SEGMENT_BYTES, "Size of the segments.", lambda item: item.segment_bytes),
    (
        telemetry.MEMTABLE_BYTES,
        "Records held in memory, waiting for a flush.",
        lambda item: item.memtable_bytes,
    ),
    (telemetry.WAL_BYTES, "Size of the log being written.", lambda item: item.wal_bytes),
    (telemetry.SYNCS, "Syncs of the log.", lambda item: item.syncs),
    (
        telemetry.INDEX_ROWS_DONE,
        "Rows that the index covers.",
        lambda item: item.index.rows_done,
    ),
    (
        telemetry.INDEX_ROWS_TO_DO,
        "Rows that searches measure one by one until the index covers them.",
        lambda item: item.index.rows_to_do,
    ),
    (telemetry.INDEX_BYTES, "Memory of the index, about.", lambda item: item.index.size_bytes),
)


def _stats(database: Database) -> Iterator[CollectionStats]:
    for name in database.collections():
        try:
            yield database.collection(name).stats()
        except DvecdbError:  # deleted meanwhile
            continue


def _by_collection(
    stats: list[CollectionStats], read: Callable[[CollectionStats], float]
) -> dict[str, float]:
    values = {item.name: read(item) for item in stats[:COLLECTIONS_MAX]}
    if len(stats) > COLLECTIONS_MAX:
        values[OTHERS] = sum(read(item) for item in stats[COLLECTIONS_MAX:])
    return values


def _watched_family(watched: _Watched) -> Metric:
    kind = CounterMetricFamily if watched.name.endswith("_total") else GaugeMetricFamily
    reading = watched.read()
    family = kind(watched.name, watched.text, labels=[watched.label] if watched.label else [])
    if isinstance(reading, int | float):
        family.add_metric([], reading)
    else:
        for value, figure in reading.items():
            family.add_metric([value], figure)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    total, result = 0, []
    for bound, count in zip([*map(str, BUCKETS), "+Inf"], buckets, strict=True):
        total += count
        result.append((bound, float(total)))
    return result
