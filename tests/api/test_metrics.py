"""Metrics: counted once, summed up right, read from the database when they are asked for."""

import re
import threading

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import dvecdb
from dvecdb import telemetry
from dvecdb.api import metrics as module
from dvecdb.api.metrics import BUCKETS, Metrics
from dvecdb.testing.clocks import ManualClock


@pytest.fixture
def database(tmp_path):
    with dvecdb.open(tmp_path / "data") as opened:
        yield opened


def samples(metrics, database):
    """Return every sample as (name, labels without le) -> value; buckets by (name, le)."""
    found = {}
    for family in text_string_to_metric_families(metrics.render(database).decode()):
        for sample in family.samples:
            found[sample.name, *sorted(sample.labels.values())] = sample.value
    return found


def test_requests_are_counted_by_operation_and_status(database):
    metrics = Metrics()
    for status in (200, 200, 404):
        metrics.observe("search", status, 0.003)
    found = samples(metrics, database)
    assert found[telemetry.REQUESTS, "200", "search"] == 2
    assert found[telemetry.REQUESTS, "404", "search"] == 1
    assert found[f"{telemetry.REQUEST_DURATION}_count", "search"] == 3
    assert found[f"{telemetry.REQUEST_DURATION}_sum", "search"] == pytest.approx(0.009)


@pytest.mark.parametrize("seconds", [0.0, BUCKETS[0], BUCKETS[3], 0.0400001, BUCKETS[-1], 1000.0])
def test_a_duration_is_within_every_bound_that_it_does_not_exceed(database, seconds):
    metrics = Metrics()
    metrics.observe("get", 200, seconds)
    found = samples(metrics, database)
    for bound in BUCKETS:
        value = found[f"{telemetry.REQUEST_DURATION}_bucket", str(bound), "get"]
        assert value == (seconds <= bound)
    assert found[f"{telemetry.REQUEST_DURATION}_bucket", "+Inf", "get"] == 1


def test_threads_lose_no_count(database):
    metrics = Metrics()
    threads = [
        threading.Thread(target=lambda: [metrics.observe("get", 200, 0.1) for _ in range(2000)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert samples(metrics, database)[telemetry.REQUESTS, "200", "get"] == 16_000


def test_the_figures_of_collections_are_those_of_now(database, tmp_path):
    metrics = Metrics(str(tmp_path / "data"), version="1.2.3")
    docs = database.create_collection("docs", dimension=2)
    database.create_collection("films", dimension=2)
    docs.upsert(["a", "b", "c"], np.ones((3, 2)))
    docs.delete(["a"])
    found = samples(metrics, database)
    assert found[telemetry.COLLECTIONS,] == 2
    assert found[telemetry.ROWS, "docs"] == 2
    assert found[telemetry.ROWS_WRITTEN, "docs"] == 3
    assert found[telemetry.ROWS, "films"] == 0
    assert found[telemetry.SYNCS, "docs"] >= 2
    assert found[telemetry.WAL_BYTES, "docs"] > 0
    assert found[telemetry.DISK_FREE_BYTES,] > 0
    assert found[telemetry.COLLECTIONS_DAMAGED,] == 0
    assert found[telemetry.BUILD_INFO, "1.2.3"] == 1
    database.delete_collection("films")
    assert (telemetry.ROWS, "films") not in samples(metrics, database)


def test_how_far_the_index_is_is_shown(tmp_path):
    settings = dvecdb.Settings(index_rows_min=64, ballast_bytes=0)
    with dvecdb.open(tmp_path / "data", settings=settings) as database:
        docs = database.create_collection("docs", dimension=2)
        found = samples(Metrics(), database)
        assert found[telemetry.INDEX_ROWS_DONE, "docs"] == 0
        docs.upsert(None, np.random.default_rng(1).normal(size=(100, 2)))
        docs.wait_for_index()
        docs.upsert(["a"], [[1, 1]])
        found = samples(Metrics(), database)
    assert found[telemetry.INDEX_ROWS_DONE, "docs"] == 100
    assert found[telemetry.INDEX_ROWS_TO_DO, "docs"] == 1
    assert found[telemetry.INDEX_BYTES, "docs"] > 0


def test_a_collection_set_aside_is_counted_as_damaged(tmp_path):
    with dvecdb.open(tmp_path / "data") as database:
        database.create_collection("docs", dimension=2)
    for path in (tmp_path / "data" / "collections" / "docs" / "manifests").iterdir():
        path.unlink()
    for path in (tmp_path / "data" / "collections" / "docs" / "wal").iterdir():
        path.unlink()
    with dvecdb.open(tmp_path / "data") as database:
        found = samples(Metrics(), database)
    assert (found[telemetry.COLLECTIONS,], found[telemetry.COLLECTIONS_DAMAGED,]) == (0, 1)
    assert sum(value for key, value in found.items() if key[0] == telemetry.FINDINGS) >= 1


def test_collections_beyond_the_maximum_are_added_up(database, monkeypatch):
    monkeypatch.setattr(module, "COLLECTIONS_MAX", 1)
    for name in ("a", "b", "c"):
        database.create_collection(name, dimension=1).upsert([name], [[1.0]])
    found = samples(Metrics(), database)
    assert found[telemetry.ROWS, "a"] == 1
    assert found[telemetry.ROWS, "(others)"] == 2
    assert (telemetry.ROWS, "b") not in found


def test_figures_that_others_keep_are_read_at_each_scrape(database):
    metrics, tasks = Metrics(), {"running": 1}
    metrics.watch(telemetry.TASKS, "Tasks.", lambda: tasks, label="state")
    metrics.watch(telemetry.AUDIT_ERRORS, "Errors.", lambda: len(tasks))
    assert samples(metrics, database)[telemetry.TASKS, "running"] == 1
    tasks["done"] = 4
    found = samples(metrics, database)
    assert found[telemetry.TASKS, "done"] == 4
    assert found[telemetry.AUDIT_ERRORS,] == 2


def test_a_disk_that_does_not_answer_leaves_its_figure_out(database):
    found = samples(Metrics("/no/such/directory"), database)
    assert (telemetry.DISK_FREE_BYTES,) not in found
    assert (telemetry.UPTIME,) in found


def test_uptime_is_in_seconds(database):
    clock = ManualClock()
    metrics = Metrics(clock=clock)
    clock.advance(2.5)
    assert samples(metrics, database)[telemetry.UPTIME,] == 2.5


def test_names_say_what_they_count_and_in_what():
    names = {
        value for name, value in vars(telemetry).items() if name.isupper() and "_" in str(value)
    }
    assert len(names) > 15
    for name in names:
        assert re.fullmatch(r"dvecdb_[a-z_]+", name), name
        unit = name.rsplit("_", 1)[1]
        assert unit not in {"ms", "milliseconds", "kb", "mb", "count"}, name
