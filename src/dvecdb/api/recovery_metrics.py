"""Figures of trash, backups and history: what could be brought back now, and until when."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from dvecdb import telemetry
from dvecdb.clock import to_datetime
from dvecdb.errors import DvecdbError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from dvecdb.records import Backup, CollectionStats, TrashEntry
    from dvecdb.rescue.database import Database

OTHERS: Final = "(others)"
EXPIRING: Final = timedelta(hours=6)
"""What goes from the trash within this time is counted as expiring."""

_log = structlog.get_logger("dvecdb.api")


def recovery_families(
    database: Database, stats: Sequence[CollectionStats], now_ns: int, collections_max: int
) -> Iterator[Metric]:
    """Yield the families; what cannot be read now is left out, and logged."""
    now = to_datetime(now_ns)
    looks: Mapping[str, Callable[[], Iterable[Metric]]] = {
        "trash": lambda: trash_families(database.trash(), now),
        "backups": lambda: backup_families(
            [item.name for item in stats], database.backups(), now, collections_max
        ),
        "history": lambda: [_horizon_family(database, stats, now, collections_max)],
    }
    for what, look in looks.items():
        try:
            found = list(look())
        except (DvecdbError, OSError) as error:
            _log.warning(telemetry.Event.METRICS_FAILED, what=what, error=str(error))
            continue
        yield from found


def trash_families(entries: Sequence[TrashEntry], now: datetime) -> Iterator[Metric]:
    """Yield the figures of the trash."""
    sizes = sum(item.size_bytes or 0 for item in entries)
    oldest = max((_seconds(now - item.deleted) for item in entries), default=0.0)
    expiring = sum(item.expires - now <= EXPIRING for item in entries)
    for name, text, value in (
        (telemetry.TRASH_ENTRIES, "Deleted collections that can be restored.", len(entries)),
        (telemetry.TRASH_BYTES, "Size of the deleted collections.", sizes),
        (telemetry.TRASH_OLDEST_AGE, "Since the oldest of them was deleted.", oldest),
        (telemetry.TRASH_EXPIRING, "Those of them that go within six hours.", expiring),
    ):
        yield GaugeMetricFamily(name, text, value=value)


def backup_families(
    living: Sequence[str], backups: Sequence[Backup], now: datetime, collections_max: int
) -> Iterator[Metric]:
    """Yield the figures of the backups by collection. living: has a figure even with none."""
    by_collection: dict[str, list[Backup]] = {name: [] for name in living}
    for item in backups:
        by_collection.setdefault(item.collection, []).append(item)
    groups: dict[str, list[Backup]] = defaultdict(list)
    for number, (name, found) in enumerate(by_collection.items()):
        groups[name if number < collections_max else OTHERS] += found
    families = {
        name: GaugeMetricFamily(name, text, labels=["collection"])
        for name, text in (
            (telemetry.BACKUPS, "Backups on this machine."),
            (telemetry.BACKUPS_DAMAGED, "Backups that were found damaged when they were read."),
            (telemetry.BACKUP_OWN_BYTES, "What deleting the backups would free."),
            (telemetry.BACKUP_AGE, "Age of the newest backup."),
            (telemetry.BACKUP_VERIFIED_AGE, "Age of the newest backup that was read and sound."),
        )
    }
    for name, found in groups.items():
        figures = {
            telemetry.BACKUPS: float(len(found)),
            telemetry.BACKUPS_DAMAGED: float(sum(item.ok is False for item in found)),
            telemetry.BACKUP_OWN_BYTES: float(sum(item.own_bytes for item in found)),
            telemetry.BACKUP_AGE: _youngest(found, now),
            telemetry.BACKUP_VERIFIED_AGE: _youngest([item for item in found if item.ok], now),
        }
        for metric, value in figures.items():
            if value is not None:
                families[metric].add_metric([name], value)
    yield from families.values()


def _youngest(backups: Sequence[Backup], now: datetime) -> float | None:
    return min((_seconds(now - item.created) for item in backups), default=None)


def _horizon_family(
    database: Database, stats: Sequence[CollectionStats], now: datetime, collections_max: int
) -> Metric:
    """Return how far back each collection can be read; none for one without commits."""
    family = GaugeMetricFamily(
        telemetry.HORIZON_LAG, "Since the oldest state that can be read.", labels=["collection"]
    )
    for item in stats[:collections_max]:
        first = max(1, int(item.horizon_lsn))
        try:
            oldest = database.collection(item.name).history(limit=1, before=first + 1)
        except DvecdbError:  # deleted meanwhile
            continue
        for commit in oldest:
            family.add_metric([item.name], _seconds(now - commit.time))
    return family


def _seconds(age: timedelta) -> float:
    """Return an age; a clock that went back makes no negative ones."""
    return max(0.0, age.total_seconds())
