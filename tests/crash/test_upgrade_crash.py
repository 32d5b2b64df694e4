"""Power cuts during an upgrade: what is there is whole, what was done stays, and a rerun ends it.

Every disk that a power cut may leave is opened. Each collection, trash entry and backup in it holds
all of its rows, those that the upgrade was done with are there, and nothing half-made is left. On
some of the disks the upgrade is run again; it has to end as if nothing had happened.
"""

import os
from random import Random

import pytest
from tests.model.legacy_directories import OldDirectory

from dvecdb.errors import DvecdbError
from dvecdb.rescue.target import UpgradeTarget
from dvecdb.rescue.upgrade import upgrade
from dvecdb.settings import Settings
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.crash import enumerate_states, sync_after_rename
from dvecdb.testing.disk import MemoryDisk

pytestmark = [pytest.mark.crash, pytest.mark.slow]

SOAK = "DVECDB_SOAK" in os.environ
PER_OPERATION = 40 if SOAK else 10
RERUN_STRIDE = 3 if SOAK else 20
STATES_MIN = 150
PATH = "/data"
ROWS = 6
TINY = Settings(
    wal_reserve_bytes=1_024, wal_extend_bytes=1_024, ballast_bytes=0, low_water_bytes=0,
)  # fmt: skip
COMPLETE = {
    "collections/docs", "collections/logged", "collections/my-notes", ".deleted/gone",
    ".backups/docs", ".backups/docs snapshot",
}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    old = OldDirectory("C1", seed=1)
    for name in ("docs", "my notes", "gone", "logged"):
        old.collection(name, ROWS, 3)
    old.backup("docs")
    old.snapshot("docs")
    old.drop("gone")
    old.lose("logged")
    path = tmp_path_factory.mktemp("old") / "data"
    old.write_to(path)
    return str(path)


def bring(source, disk, progress=None):
    return upgrade(
        source, PATH, timezone="UTC", settings=TINY, files=disk, clock=ManualClock(),
        progress=progress,
    )  # fmt: skip


def there(disk):
    """Return what a disk holds, after recovery; every one of it has all its rows."""
    found = set()
    with UpgradeTarget(
        PATH, files=disk, settings=TINY, clock=ManualClock(), background=False
    ) as target:
        assert target.findings() == []
        for name in target.collections():
            assert target.collection(name).count() == ROWS
            found.add(f"collections/{name}")
        for item in target.trash():
            with target.preview(f".deleted/{item.name}") as preview:
                assert preview.count() == item.rows == ROWS
            found.add(f".deleted/{item.collection}")
        for item in target.backups():
            assert target.verify_backup(item.name).ok
            assert item.rows == ROWS
            kind = " snapshot" if item.reason.startswith("snapshot") else ""
            found.add(f".backups/{item.collection}{kind}")
    left = [path for path in disk.tree() if ".partial-" in path]
    assert left == []
    return found


def recorded(source):
    """Run an upgrade; return its disk, and what was there by how many bytes were done."""
    disk, acknowledged = MemoryDisk(), {0: set()}

    def progress(done, total):
        if done not in acknowledged:  # nothing is being written now
            acknowledged[done] = there(disk.clone())
            disk.mark(done)

    report = bring(source, disk, progress)
    assert report.count("imported") == len(COMPLETE)
    return disk, acknowledged


def test_every_power_cut_leaves_whole_collections_and_a_rerun_ends_it(source):
    disk, acknowledged = recorded(source)
    assert there(disk.clone()) == COMPLETE == acknowledged[max(acknowledged)]
    assert len({len(found) for found in acknowledged.values()}) == len(COMPLETE) + 1
    states = reruns = 0
    for state in enumerate_states(
        disk.log, MemoryDisk(), per_operation=PER_OPERATION, rng=Random(7)
    ):
        states += 1
        found = there(state.disk.clone())
        assert acknowledged[max(state.marks, default=0)] <= found <= COMPLETE, state.style
        if states % RERUN_STRIDE == 0:
            reruns += 1
            again = bring(source, state.disk)
            assert again.count("imported") + again.count("present") == len(COMPLETE)
            assert again.count("present") == len(found)
            assert there(state.disk) == COMPLETE
    print(f"{states} disks, {reruns} reruns")
    assert states >= STATES_MIN
    assert reruns


def test_a_rename_before_the_sync_is_caught(source):
    """The control: if files were synced after they get their names, something is not whole."""
    disk, _ = recorded(source)
    late = sync_after_rename(disk.log, delay=40)
    wrong = 0
    for state in enumerate_states(late, MemoryDisk(), per_operation=4, rng=Random(7)):
        try:
            there(state.disk)
        except (AssertionError, DvecdbError, OSError):
            wrong += 1
    assert wrong
