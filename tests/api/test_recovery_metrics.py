"""Figures of trash, backups and history: what could be brought back, and until when."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

import dvecdb
from dvecdb import telemetry
from dvecdb.api.metrics import Metrics
from dvecdb.api.recovery_metrics import OTHERS, backup_families, trash_families
from dvecdb.clock import SystemClock
from dvecdb.records import Backup, Lsn, TrashEntry

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ENTRY = TrashEntry(
    name="docs_20261124_110000", path="/data/.deleted/docs_20261124_110000", collection="docs",
    uuid=None, deleted=NOW - HOUR, age_hours=1.0, expires=NOW + 23 * HOUR, actor=None, reason=None,
    rows=3, size_bytes=1000,
)  # fmt: skip
BACKUP = Backup(
    name="docs_20261124_110000", path="/data/.backups/docs_20261124_110000", collection="docs",
    uuid="u", created=NOW - HOUR, lsn=Lsn(4), rows=3, size_bytes=1000, own_bytes=10, reason=None,
    actor=None, automatic=False, independent=False, verified=None, ok=None,
)  # fmt: skip


def figures(families):
    """Return every sample as (name, labels) -> value."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def scrape(database, clock=None):
    metrics = Metrics(clock=clock or SystemClock())
    return figures(text_string_to_metric_families(metrics.render(database).decode()))


def test_an_empty_trash_has_figures_too():
    assert figures(trash_families([], NOW)) == {
        (telemetry.TRASH_ENTRIES,): 0,
        (telemetry.TRASH_BYTES,): 0,
        (telemetry.TRASH_OLDEST_AGE,): 0,
        (telemetry.TRASH_EXPIRING,): 0,
    }


def test_the_trash_is_summed_up_and_what_goes_soon_is_counted():
    entries = [
        ENTRY,
        replace(ENTRY, deleted=NOW - 20 * HOUR, expires=NOW + 6 * HOUR),
        replace(ENTRY, deleted=NOW - 30 * HOUR, expires=NOW - 6 * HOUR, size_bytes=None),
        replace(ENTRY, expires=NOW + 6 * HOUR + timedelta(seconds=1)),
    ]
    found = figures(trash_families(entries, NOW))
    assert found[telemetry.TRASH_ENTRIES,] == 4
    assert found[telemetry.TRASH_BYTES,] == 3000
    assert found[telemetry.TRASH_OLDEST_AGE,] == 30 * 3600
    assert found[telemetry.TRASH_EXPIRING,] == 2


def test_a_clock_that_went_back_makes_no_negative_age():
    entry = replace(ENTRY, deleted=NOW + HOUR)
    assert figures(trash_families([entry], NOW))[telemetry.TRASH_OLDEST_AGE,] == 0


def test_backups_are_told_by_collection_and_a_collection_without_one_shows():
    backups = [
        BACKUP,
        replace(BACKUP, created=NOW - 5 * HOUR, own_bytes=20, verified=NOW, ok=True),
        replace(BACKUP, created=NOW - 9 * HOUR, own_bytes=30, verified=NOW, ok=True),
        replace(BACKUP, collection="gone", created=NOW - 2 * HOUR, verified=NOW, ok=False),
    ]
    found = figures(backup_families(["docs", "films"], backups, NOW, 100))
    assert found[telemetry.BACKUPS, "docs"] == 3
    assert found[telemetry.BACKUPS, "films"] == 0
    assert found[telemetry.BACKUPS, "gone"] == 1
    assert found[telemetry.BACKUP_OWN_BYTES, "docs"] == 60
    assert found[telemetry.BACKUP_AGE, "docs"] == 3600
    assert found[telemetry.BACKUP_VERIFIED_AGE, "docs"] == 5 * 3600
    assert found[telemetry.BACKUPS_DAMAGED, "docs"] == 0
    assert found[telemetry.BACKUPS_DAMAGED, "gone"] == 1
    assert (telemetry.BACKUP_AGE, "films") not in found
    assert (telemetry.BACKUP_VERIFIED_AGE, "gone") not in found


def test_backups_beyond_the_maximum_of_collections_are_added_up():
    backups = [replace(BACKUP, collection=name) for name in ("a", "b", "c")]
    found = figures(backup_families([], backups, NOW, 1))
    assert found[telemetry.BACKUPS, "a"] == 1
    assert found[telemetry.BACKUPS, OTHERS] == 2
    assert (telemetry.BACKUPS, "b") not in found


def test_a_scrape_shows_what_was_deleted_and_backed_up(tmp_path):
    with dvecdb.open(tmp_path / "data") as database:
        docs = database.create_collection("docs", dimension=2)
        docs.upsert(["a", "b"], np.ones((2, 2)))
        made = docs.backup()
        assert scrape(database)[telemetry.BACKUPS, "docs"] == 1
        assert (telemetry.BACKUP_VERIFIED_AGE, "docs") not in scrape(database)
        database.verify_backup(made.name)
        assert 0 <= scrape(database)[telemetry.BACKUP_VERIFIED_AGE, "docs"] < 60
        assert scrape(database)[telemetry.TRASH_ENTRIES,] == 0
        database.delete_collection("docs")
        found = scrape(database)
        assert found[telemetry.TRASH_ENTRIES,] == 1
        assert found[telemetry.TRASH_BYTES,] > 0
        assert 0 <= found[telemetry.TRASH_OLDEST_AGE,] < 60
        assert found[telemetry.BACKUPS, "docs"] == 1


def test_the_lag_of_the_horizon_is_the_age_of_the_oldest_state(tmp_path):
    with dvecdb.open(tmp_path / "data") as database:
        docs = database.create_collection("docs", dimension=2)
        assert (telemetry.HORIZON_LAG, "docs") not in scrape(database)
        docs.upsert(["a"], np.ones((1, 2)))
        assert 0 <= scrape(database)[telemetry.HORIZON_LAG, "docs"] < 60


def test_what_cannot_be_looked_at_is_left_out_and_the_rest_is_shown(tmp_path):
    with dvecdb.open(tmp_path / "data") as database:
        trash = tmp_path / "data" / ".deleted"
        trash.rmdir()
        trash.touch()
        found = scrape(database)
        assert (telemetry.TRASH_ENTRIES,) not in found
        assert found[telemetry.COLLECTIONS,] == 0
