"""Regressions on full disks, found by the machine in tests/model."""

import errno
from dataclasses import replace
from random import Random

import pytest

from dvecdb import Database, Settings
from dvecdb.errors import DirectoryError, DiskFullError, OutcomeUnknownError
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.crash import Data, Names, crash, kill
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.faults import FailingFiles

SETTINGS = Settings(
    flush_commits=1, merge_bytes=1, merge_count=2, memtables_max=1, wal_reserve_bytes=16_384,
    wal_extend_bytes=1, ballast_bytes=0, low_water_bytes=0, idle_marker_ms=0,
)  # fmt: skip


def open_on(disk, settings=SETTINGS):
    return Database("d", files=disk, settings=settings, clock=ManualClock(), background=False)


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


# --- a commit whose sync failed, and no room to write it anew ------------------------------------

PATIENT = replace(SETTINGS, flush_commits=100, ballast_bytes=0)
CAREFUL = replace(PATIENT, ballast_bytes=128 * 1024)


def books_in_doubt(settings):
    """Return the disk of a killed process: commit 1 was acknowledged, the sync of 2 failed."""
    disk = MemoryDisk()
    files = FailingFiles(disk)
    books = open_on(files, settings).create_collection("books", dimension=1)
    books.upsert(["a"], [[1]])
    files.operations, files.error, files.fail_at = {"sync"}, errno.EIO, files.calls + 1
    with pytest.raises(OutcomeUnknownError):
        books.upsert(["b"], [[2]])
    return kill(disk)


def codes(books):
    return {finding.code for finding in books.findings()}


def check_after_a_cut(disk, lsns, settings):
    """After any power cut, and with room, one of `lsns` is the last, and the next write goes on."""
    found = set()
    for number in range(30):
        left = crash(disk, Random(number), data=Data.NONE if number == 0 else None)
        left.capacity_bytes = None
        with open_on(left, settings) as database:
            assert database.collections() == ["books"], database.findings()
            books = database.collection("books")
            assert "recovery-not-rewritten" not in codes(books)
            last = books.stats().last_lsn
            found.add(last)
            assert [record.id for record in books.snapshot().scan()] == ["a", "b"][:last]
            assert books.upsert(["c"], [[3]]).lsn == last + 1
    assert found == lsns


@pytest.mark.crash
@pytest.mark.parametrize("blocks", range(16))
def test_without_room_a_commit_whose_sync_failed_is_shown_with_a_warning(blocks):
    disk = books_in_doubt(PATIENT)
    fill(disk, blocks)
    with open_on(disk, PATIENT) as database:
        books = database.collection("books")
        assert books.snapshot().lsn == 2
        is_warned = "recovery-not-rewritten" in codes(books)
        assert is_warned or blocks > 5, "it cannot have been written anew"
        if is_warned:
            with pytest.raises(DiskFullError, match="open the data directory again"):
                books.delete(["a"])
        check_after_a_cut(disk, {1, 2} if is_warned else {2}, PATIENT)


@pytest.mark.crash
@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_the_ballast_is_room_to_write_anew_what_was_in_doubt(blocks):
    disk = books_in_doubt(CAREFUL)
    fill(disk, blocks)
    with open_on(disk, CAREFUL) as database:
        books = database.collection("books")
        assert books.snapshot().lsn == 2
        assert "recovery-not-rewritten" not in codes(books)
        check_after_a_cut(disk, {2}, CAREFUL)
        books.delete(["a"])


@pytest.mark.crash
def test_what_was_shown_with_a_warning_is_written_anew_once_there_is_room():
    disk = books_in_doubt(PATIENT)
    fill(disk, 1)
    with open_on(disk, PATIENT) as database:
        assert "recovery-not-rewritten" in codes(database.collection("books"))
        disk.capacity_bytes = None
        with pytest.raises(DiskFullError):
            database.collection("books").upsert(["c"], [[3]])
    with open_on(disk, PATIENT) as database:
        books = database.collection("books")
        assert (books.snapshot().lsn, codes(books)) == (2, set())
        check_after_a_cut(disk, {2}, PATIENT)
        assert books.upsert(["c"], [[3]]).lsn == 3


@pytest.mark.crash
@pytest.mark.parametrize("call", range(1, 40))
def test_where_writing_anew_fails_no_log_claims_what_was_in_doubt(call):
    disk = books_in_doubt(PATIENT)
    files = FailingFiles(disk)
    files.operations, files.error = {"sync", "sync_directory", "write_at", "rename"}, errno.EIO
    files.fail_at = call
    try:
        database = open_on(files, PATIENT)
    except DirectoryError:
        return
    if database.collections():
        books = database.collection("books")
        assert books.snapshot().lsn == 2
        is_warned = "recovery-not-rewritten" in codes(books)
        assert is_warned == ("writes-stopped" in codes(books))
        check_after_a_cut(disk, {1, 2} if is_warned else {2}, PATIENT)


def test_what_logs_closed_in_order_hold_waits_for_room():
    disk, waited = MemoryDisk(), 0
    for number in range(8):
        with open_on(disk, PATIENT) as database:
            if number == 0:
                database.create_collection("books", dimension=1)
            database.collection("books").upsert([str(number)], [[1]])
    for blocks in range(12):
        left = kill(disk)
        fill(left, blocks)
        with open_on(left, PATIENT) as database:
            books = database.collection("books")
            assert books.count() == 8
            assert "recovery-not-rewritten" not in codes(books)
            if codes(books) == {"waiting-for-space"}:
                waited += 1
                books.delete(["0"])
                assert books.stats().flushed_lsn == 0
                left.capacity_bytes = None
                books.delete(["1"])
                assert (books.stats().flushed_lsn, codes(books)) == (8, set())
    assert waited
