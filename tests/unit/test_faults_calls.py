"""Calls that fail on purpose: which, when, how often, and with what effect."""

import errno
import itertools
import time
from random import Random

import pytest

from dvecdb.testing.crash import Data, Names, crash
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.faults import (
    FALLIBLE_CALLS,
    READING_CALLS,
    SPACE_CALLS,
    WRITING_CALLS,
    FailingFiles,
    InterposedFiles,
    SlowSync,
)


def swap_in(files):
    """Write a file as an engine does; returns nothing, raises what fails."""
    top = files.open_root("/", create=False)
    try:
        file = files.create(top, "new")
        try:
            files.write_at(file, [b"0123456789"], 0)
            files.sync(file)
        finally:
            files.close(file)
        files.rename(top, "new", top, "file")
        files.sync_directory(top)
    finally:
        files.close_directory(top)


def test_each_call_fails_once_until_the_loop_is_past_the_last():
    failed = []
    for k in itertools.count(1):
        disk = MemoryDisk()
        files = FailingFiles(disk, k)
        try:
            swap_in(files)
        except OSError:
            failed += files.failed
        else:
            assert files.calls < k
            assert files.failed == []
            break
        assert disk.handle_count == 0
    assert failed == ["open_root", "create", "write_at", "sync", "rename", "sync_directory"]


def test_a_failure_may_be_for_ever_and_of_some_calls_only():
    disk = MemoryDisk()
    top = disk.open_root("/", create=False)
    files = FailingFiles(disk, 2, error=errno.ENOSPC, once=False, operations=SPACE_CALLS)
    files.create(top, "a")
    for name in ("b", "c"):
        with pytest.raises(OSError) as failed:
            files.create(top, name)
        assert failed.value.errno == errno.ENOSPC
    files.sync_directory(top)
    assert disk.list_names(top) == ["a"]
    assert files.failed == ["create", "create"]


def test_a_call_may_take_effect_and_its_result_be_lost():
    disk = MemoryDisk()
    top = disk.open_root("/", create=False)
    for name, call in enumerate(("create", "open_lock")):
        files = FailingFiles(disk, 1, operations={call}, before=False)
        with pytest.raises(OSError):
            getattr(files, call)(top, str(name))
    assert disk.list_names(top) == ["0", "1"]
    assert disk.handle_count == 1


def test_a_close_that_fails_has_closed():
    disk = MemoryDisk()
    top = disk.open_root("/", create=False)
    files = FailingFiles(disk, 1, operations={"close"})
    with pytest.raises(OSError) as failed:
        files.close(files.create(top, "a"))
    assert failed.value.errno == errno.EIO
    assert disk.handle_count == 1


def test_a_write_that_fails_may_leave_a_part():
    disk = MemoryDisk()
    top = disk.open_root("/", create=False)
    files = FailingFiles(disk, 1, operations={"write_at"}, partial_bytes=5)
    file = files.create(top, "a")
    with pytest.raises(OSError):
        files.write_at(file, [b"012", b"3456"], 1)
    assert disk.read_path("a") == b"\x0001234"


@pytest.mark.parametrize("wrap", [lambda disk: disk, InterposedFiles])
def test_what_a_failed_sync_covered_is_not_saved_by_the_next(wrap):
    disk = MemoryDisk()
    top = disk.open_root("/", create=False)
    files = FailingFiles(wrap(disk), 1, operations={"sync"})
    file = files.create(top, "a")
    files.sync_directory(top)
    files.write_at(file, [b"x"], 0)
    with pytest.raises(OSError):
        files.sync(file)
    files.sync(file)
    assert disk.read_path("a") == b"x"
    assert crash(disk, Random(0), data=Data.ALL, names=Names.ALL).tree() == {"a": b""}


def test_a_sync_may_save_everything_and_fail_all_the_same():
    disk = MemoryDisk()
    top = disk.open_root("/", create=False)
    files = FailingFiles(disk, 1, operations={"sync"}, before=False)
    file = files.create(top, "a")
    files.sync_directory(top)
    files.write_at(file, [b"x"], 0)
    with pytest.raises(OSError):
        files.sync(file)
    assert crash(disk, Random(0), data=Data.NONE, names=Names.NONE).tree() == {"a": b"x"}


def test_a_slow_sync_is_slow_and_nothing_else_is(monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    disk = MemoryDisk()
    top = disk.open_root("/", create=False)
    files = SlowSync(disk, 0.02)
    file = files.create(top, "a")
    files.write_at(file, [b"x"], 0)
    assert files.read_at(file, 1, 0) == b"x"
    assert slept == []
    files.sync(file)
    files.sync_directory(top)
    assert slept == [0.02, 0.02]


def test_every_call_is_named_once():
    calls = {name for name in vars(InterposedFiles) if not name.startswith("_")}
    many = {"sync_together"}  # each sync of it is a call of its own
    assert calls - FALLIBLE_CALLS == {"close", "close_directory", "fail_sync"} | many
    assert calls >= FALLIBLE_CALLS
    assert not READING_CALLS & WRITING_CALLS
    assert SPACE_CALLS < WRITING_CALLS
