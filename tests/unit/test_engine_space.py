"""Regressions on full disks, found by the machine in tests/model."""

from random import Random

import pytest

from dvecdb import Database, Settings
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.crash import Data, Names, crash
from dvecdb.testing.disk import MemoryDisk

SETTINGS = Settings(
    flush_commits=1, merge_bytes=1, merge_count=2, memtables_max=1, wal_reserve_bytes=16_384,
    wal_extend_bytes=1, ballast_bytes=0, low_water_bytes=0, idle_marker_ms=0,
)  # fmt: skip


def open_on(disk):
    return Database("d", files=disk, settings=SETTINGS, clock=ManualClock(), background=False)


def fill(disk, blocks):
    disk.capacity_bytes = (disk._used_blocks + blocks) * 4096


@pytest.mark.crash
@pytest.mark.parametrize("names", Names)
def test_log_that_found_no_room_voids_no_later_commit(names):
    disk = MemoryDisk()
    books = open_on(disk).create_collection("books", dimension=1)
    fill(disk, 3)  # a new log can be created, but gets no space
    for number in range(4):
        books.write(documents={("jobs", "cursor"): number})
    assert [finding.code for finding in books.findings()] == ["waiting-for-space"]
    for seed in range(20):
        left = crash(disk, Random(seed), data=Data.ALL, names=names)
        with open_on(left) as database:
            snapshot = database.collection("books").snapshot()
            assert (snapshot.lsn, snapshot.document("jobs", "cursor")) == (4, 3)


def test_flush_goes_on_once_there_is_space():
    disk = MemoryDisk()
    with open_on(disk) as database:
        books = database.create_collection("books", dimension=1)
        fill(disk, 3)
        for number in range(4):
            books.write(documents={("jobs", "cursor"): number})
        assert books.stats().flushed_lsn == 0
        disk.capacity_bytes = None
        books.write(documents={("jobs", "cursor"): 4})
        assert books.stats().flushed_lsn == 5


def test_collection_can_be_deleted_with_no_byte_to_spare():
    disk = MemoryDisk()
    with open_on(disk) as database:
        database.create_collection("books", dimension=1).upsert(["a"], [[1]])
        fill(disk, 0)
        database.delete_collection("books")
        assert database.collections() == []
    disk.capacity_bytes = None
    with open_on(disk) as database:
        assert database.collections() == []
        assert [path for path in disk.tree() if path.endswith("books_20231114_221320")]
