"""Searches through an index while others write, delete and flush: every hit is right."""

import threading
import time

import numpy as np
import pytest

from dvecdb import Database, Settings
from dvecdb.engine import index, index_build, index_care, nearest
from dvecdb.records import Metric
from dvecdb.search import ivf
from dvecdb.search.exact import exact_distances

DIMENSION, IDS, SECONDS = 12, 1_500, 2.0
SETTINGS = Settings(
    index_rows_min=300, flush_bytes=60_000, flush_commits=40, merge_bytes=1 << 20, merge_count=2,
    ballast_bytes=0, low_water_bytes=0, idle_marker_ms=1, history_hours=0, guard_percent=100,
)  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(nearest, "_EXACT_BYTES", 0)
    monkeypatch.setattr(nearest, "_SCATTERED", 0)
    monkeypatch.setattr(index_care, "_STEP_BYTES", 1)
    monkeypatch.setattr(index_build, "_BASE_STEP", 200)
    monkeypatch.setattr(ivf, "ROWS_PER_LIST", 200)


def vector(number, version):
    return np.random.default_rng((number, version)).standard_normal(DIMENSION).astype(np.float32)


class Crowd:
    """Threads at work on one collection until the time is up or one of them fails."""

    def __init__(self, docs):
        self.docs = docs
        self.until = time.monotonic() + SECONDS
        self.error = None
        self.searches = self.through = 0
        self.count = threading.Lock()

    def run(self):
        works = [self.search, self.search, self.write, self.delete, self.flush]
        threads = [
            threading.Thread(target=self._repeat, args=(work, number))
            for number, work in enumerate(works)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a thread hangs"
        if self.error is not None:
            raise self.error

    def _repeat(self, work, number):
        rng = np.random.default_rng(number)
        try:
            while self.error is None and time.monotonic() < self.until:
                work(rng)
        except BaseException as error:  # noqa: BLE001  # raised again by the test
            self.error = error

    def write(self, rng):
        numbers = rng.choice(IDS, 40, replace=False).tolist()
        version = int(rng.integers(1 << 30))
        self.docs.upsert(
            [f"id {number}" for number in numbers],
            [vector(number, version) for number in numbers],
            [{"number": number, "version": version} for number in numbers],
        )

    def delete(self, rng):
        self.docs.delete([f"id {number}" for number in rng.choice(IDS, 5).tolist()])

    def flush(self, rng):
        self.docs.flush()
        time.sleep(0.05)

    def search(self, rng):
        snapshot = self.docs.snapshot()
        for _ in range(3):
            query = rng.standard_normal(DIMENSION).astype(np.float32)
            hits = snapshot.search(query, with_vectors=True, explain=True)
            with self.count:
                self.searches += 1
                self.through += hits.explained.plan == "index"
            assert len(hits) == 10
            order = [hit.distance for hit in hits]
            assert order == sorted(order)
            assert len({hit.id for hit in hits}) == 10
            for hit, record in zip(hits, snapshot.get([hit.id for hit in hits]), strict=True):
                expected = vector(hit.metadata["number"], hit.metadata["version"])
                assert hit.id == f"id {hit.metadata['number']}"
                assert hit.vector.tobytes() == expected.tobytes()
                assert record is not None, f"{hit.id} is not live"
                assert record.metadata == hit.metadata
                measured = exact_distances(expected[None], query, Metric.EUCLIDEAN)
                assert hit.distance == measured[0]
            exact = snapshot.search(query, recall=1.0)
            assert exact[-1].distance <= hits[-1].distance


def crowd_of(path):
    with Database(str(path), settings=SETTINGS) as database:
        docs = database.create_collection("docs", dimension=DIMENSION, metric="euclidean")
        first = list(range(IDS))
        docs.upsert(
            [f"id {number}" for number in first],
            [vector(number, 0) for number in first],
            [{"number": number, "version": 0} for number in first],
        )
        assert docs.wait_for_index(60).state == "ready"
        crowd = Crowd(docs)
        crowd.run()
        assert database.findings() == []
        assert docs.wait_for_index(60).state == "ready"
        return crowd


def test_many_at_work_find_only_what_is_there(tmp_path):
    crowd = crowd_of(tmp_path / "data")
    print(f"{crowd.searches} searches, {crowd.through} through the index")
    assert crowd.through > 20


def test_rows_that_are_found_after_their_end_are_noticed(tmp_path, monkeypatch):
    def never_ended(self, view, lsn, row_limit):
        return index.LiveRows(lsn, self.places.rows, None, None)

    monkeypatch.setattr(index.Index, "live", never_ended)
    with pytest.raises((AssertionError, IndexError, ValueError)):
        crowd_of(tmp_path / "data")
