"""The file of an index while it is written and replaced: power cuts, kills and failing calls.

Derived: whatever happens to it, nothing else is touched, no finding speaks of loss, the collection
goes on, and the next opening leaves no half of it behind.
"""

import errno
import itertools
import os
from collections import Counter
from random import Random

import numpy as np
import pytest

from dvecdb.engine import index_build, index_care, nearest, recovery
from dvecdb.formats import names
from dvecdb.rescue.database import Database
from dvecdb.settings import Settings
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.crash import crash, replay
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.faults import FailingFiles
from dvecdb.testing.history import Action
from dvecdb.testing.judging import Sweep
from dvecdb.testing.recording import PATH, Recorder, open_on, seeded_uuids

pytestmark = [pytest.mark.crash, pytest.mark.slow]

SOAK = bool(os.environ.get("DVECDB_SOAK"))
SEED = Random().getrandbits(32) if SOAK else 7
DIMENSION = 4
DERIVED = f"{PATH}/collections/docs/derived/".lstrip("/")
SETTINGS = Settings(
    bulk_bytes=1 << 20, flush_bytes=1 << 20, flush_commits=2, merge_bytes=1 << 20, merge_count=3,
    wal_reserve_bytes=1_024, wal_extend_bytes=1_024, ballast_bytes=0, low_water_bytes=0,
    orphan_age_hours=0, index_rows_min=20,
)  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(nearest, "_EXACT_BYTES", 0)
    monkeypatch.setattr(nearest, "_SCATTERED", 0)
    monkeypatch.setattr(index_care, "_STEP_BYTES", 1)
    monkeypatch.setattr(index_care, "_STEP_ROWS_MIN", 4)
    monkeypatch.setattr(index_build, "_BASE_STEP", 8)


def upsert(seed, ids):
    vectors = np.random.default_rng(seed).standard_normal((len(ids), DIMENSION))
    metadata = tuple({"seed": seed} if number % 2 else None for number in range(len(ids)))
    return Action("upsert", tuple(ids), vectors.astype(np.float32), metadata)


def work(recorder, rounds=7):
    """Writes by which an index is made, grows, is saved and replaced, made anew, and closed."""
    recorder.open()
    recorder.create("docs", DIMENSION)
    for number in range(rounds):
        ids = [f"id {(number * 17 + step) % 60}" for step in range(26)]
        recorder.write("docs", upsert(number, ids))
        recorder.write("docs", Action("delete", deletes=(ids[3], ids[7])))
        with recorder.phase("index"):
            recorder.database.collection("docs").wait_for_index(5)
    recorder.close()


def record():
    recorder = Recorder(MemoryDisk(), SETTINGS)
    work(recorder)
    assert recorder.disk.handle_count == 0
    return recorder


def name_phases(monkeypatch):
    def named(recorder):
        save = getattr(index_care._save, "original", index_care._save)

        def saving(*arguments):
            with recorder.phase("index file"):
                return save(*arguments)

        saving.original = save
        monkeypatch.setattr(index_care, "_save", saving)

    return named


def is_sound(disk):
    """Open as any process would; say what is wrong with what the index left."""
    disk.record = False
    with open_on(disk, SETTINGS, seed=99) as database:
        if "docs" not in database.collections():
            return None
        docs = database.collection("docs")
        if {finding.code for finding in docs.findings()} & {"derived-damaged", "index-failed"}:
            return f"{docs.findings()}"
        files = [path for path in disk.tree() if path.lstrip("/").startswith(DERIVED)]
        left = [path for path in files if names.PARTIAL in path]
        if left or sum(path.endswith(".ivf") for path in files) > 1:
            return f"left behind: {files}"
        query = [1.0, 0.5, -1.0, 0.25]
        exact = docs.search(query, limit=3, recall=1.0)
        found = docs.search(query, limit=3)
        if [(hit.id, hit.distance) for hit in found] != [(hit.id, hit.distance) for hit in exact]:
            return f"found {found}, not {exact}"
    return None


def test_no_power_cut_at_its_file_does_anything_else(monkeypatch):
    late = upsert(777, ["late", "id 3"])
    sweep, named = Sweep(Random(SEED), late, name_phases(monkeypatch), again=0.002), []
    recorder = Recorder(MemoryDisk(), SETTINGS)
    name_phases(monkeypatch)(recorder)
    work(recorder)
    log = recorder.disk.log
    of_file = [at for at in range(1, len(log)) if recorder.kind_at(at) == "index file"]
    assert len(of_file) > 30
    sweep.explore(recorder, 8 if SOAK else 2)
    sweep.explore_kills(recorder, of_file[:: 1 if SOAK else 11])
    print(sweep, sweep.counts())
    assert sweep.wrong == []
    assert sweep.counts()["index file"] >= 40
    rng = Random(SEED)
    for position in of_file:
        disk = replay(recorder.image, log, position)
        named += [is_sound(crash(disk, rng)), is_sound(disk)]
    assert {what for what in named if what} == set()


def test_what_is_left_behind_is_noticed(monkeypatch):
    """The control: an opening that leaves partial files where they are."""
    recorder = record()
    monkeypatch.setattr(recovery, "drop_partials", lambda *_: None)
    found = []
    for position in range(1, len(recorder.disk.log)):
        disk = replay(recorder.image, recorder.disk.log, position)
        if any(names.PARTIAL + "index" in path for path in disk.tree()):
            found.append(is_sound(disk))
    assert any("left behind" in str(what) for what in found)


FAULTS = {
    "EIO once": {"error": errno.EIO},
    "EIO for ever": {"error": errno.EIO, "once": False},
    "ENOSPC once": {"error": errno.ENOSPC},
    "ENOSPC for ever": {"error": errno.ENOSPC, "once": False},
    "EIO afterwards": {"error": errno.EIO, "before": False},
}


@pytest.fixture(scope="module")
def unsaved():
    """A disk on which an index is due, and what must be there."""
    recorder = Recorder(MemoryDisk(), SETTINGS)
    work(recorder, 3)
    return recorder.disk


@pytest.mark.parametrize("fault", FAULTS)
def test_any_failing_call_costs_the_file_at_most(unsaved, fault):
    outcomes = Counter()
    for k in itertools.count(1):
        disk = unsaved.clone()
        disk.record = False
        files = FailingFiles(disk, **FAULTS[fault])
        database = Database(
            PATH, files=files, clock=ManualClock(), settings=SETTINGS,
            new_uuid=seeded_uuids(k), background=False,
        )  # fmt: skip
        docs = database.collection("docs")
        docs.upsert([f"more {number}" for number in range(30)], upsert(5, "x" * 30).vectors)
        docs.flush()
        before = {path: data for path, data in disk.tree().items() if DERIVED not in path}
        count, lsn = docs.count(), docs.snapshot().lsn
        docs.search([1.0] * 4, recall=1.0)  # verifies every block: no segment is read below
        files.calls, files.fail_at = 0, k
        index_care.tend_index(docs._store)
        has_failed = bool(files.failed)
        files.fail_at = None
        after = {path: data for path, data in disk.tree().items() if DERIVED not in path}
        codes = {finding.code for finding in docs.findings()}
        assert codes == set(), (k, fault, files.failed, docs.findings())
        assert after == before, (k, fault)
        assert (docs.count(), docs.snapshot().lsn) == (count, lsn)
        assert [hit.id for hit in docs.search([1.0] * 4)] == [
            hit.id for hit in docs.search([1.0] * 4, recall=1.0)
        ]
        docs.upsert(["go on"], [[1.0, 0.0, 0.0, 0.0]])
        outcomes["saved" if f"/{docs._store.index.name}" in str(list(disk.tree())) else "not"] += 1
        database.close()
        assert disk.handle_count == 0
        assert is_sound(disk) is None, (k, fault)
        if not has_failed:
            break
    print(fault, k, dict(outcomes))
    assert k > 8


def test_a_disk_that_is_full_keeps_the_index_in_memory(unsaved):
    disk = unsaved.clone()
    with open_on(disk, SETTINGS) as database:
        docs = database.collection("docs")
        docs.upsert([f"more {number}" for number in range(30)], upsert(5, "x" * 30).vectors)
        docs.flush()
        disk.capacity_bytes = disk._used_blocks * 4096
        assert docs.wait_for_index(5).rows_to_do == 0
        assert docs.search([1.0] * 4, explain=True).explained.plan == "index"
        assert docs.findings() == []
        disk.capacity_bytes = None
    assert is_sound(disk) is None
