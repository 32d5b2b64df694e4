"""The disk in memory: space, damage, paths, clocks, and what holds after any sequence of calls."""

import contextlib
import errno
import threading
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.crash import Data, Names, crash, kill, replay
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.faults import RottenFiles
from dvecdb.testing.volume import ROOT

BLOCK = 4096


def root(disk):
    return disk.open_root("/", create=False)


def refused(code, call, *arguments):
    with pytest.raises(OSError) as failed:
        call(*arguments)
    assert errno.errorcode[failed.value.errno] == errno.errorcode[code]


# --- space -----------------------------------------------------------------------------------


def test_reserving_more_than_there_is_changes_nothing():
    disk = MemoryDisk(capacity_bytes=10 * BLOCK)
    top = root(disk)
    file = disk.create(top, "a")
    assert disk.free_bytes(top) == 8 * BLOCK
    refused(errno.ENOSPC, disk.allocate, file, 0, 10 * BLOCK)
    assert disk.size(file) == 0
    assert disk.free_bytes(top) == 8 * BLOCK
    disk.allocate(file, 0, 9 * BLOCK)
    assert disk.free_bytes(top) == 0
    disk.write_at(file, [b"x" * 9 * BLOCK], 0)  # space that was reserved can be written


def test_a_write_on_a_full_disk_leaves_what_fits():
    disk = MemoryDisk(capacity_bytes=3 * BLOCK)
    file = disk.create(root(disk), "a")
    refused(errno.ENOSPC, disk.write_at, file, [b"x" * 3 * BLOCK], 100)
    assert disk.size(file) == 2 * BLOCK
    refused(errno.ENOSPC, disk.write_at, file, [b"x"], 2 * BLOCK)
    assert disk.size(file) == 2 * BLOCK


def test_a_full_disk_takes_no_new_file_and_lets_one_be_removed():
    disk = MemoryDisk(capacity_bytes=3 * BLOCK)
    top = root(disk)
    disk.close(disk.create(top, "a"))
    file = disk.create(top, "b")
    refused(errno.ENOSPC, disk.create, top, "c")
    refused(errno.ENOSPC, disk.make_directory, top, "d")
    disk.rename(top, "a", top, "z")
    disk.remove(top, "z")
    disk.remove(top, "b")
    assert disk.free_bytes(top) == BLOCK  # an open file keeps its space
    disk.close(file)
    assert disk.free_bytes(top) == 2 * BLOCK


def test_a_disk_may_fill_up_and_be_enlarged():
    disk = MemoryDisk()
    top = root(disk)
    file = disk.create(top, "a")
    disk.write_at(file, [bytes(5 * BLOCK)], 0)
    disk.capacity_bytes = 2 * BLOCK
    assert disk.free_bytes(top) == 0
    refused(errno.ENOSPC, disk.allocate, file, 5 * BLOCK, 1)
    disk.truncate(file, 3 * BLOCK)
    disk.capacity_bytes = 5 * BLOCK
    assert disk.free_bytes(top) == BLOCK


# --- paths, clocks, threads ------------------------------------------------------------------


def test_a_tree_comes_back_as_it_went_in():
    tree = {"a": b"1", "d": None, "d/b": b"2", "d/e": None}
    disk = MemoryDisk.from_tree(tree)
    assert disk.tree() == tree
    assert crash(disk, Random(0)).tree() == tree
    assert disk.log == []
    assert disk.read_path("d/b") == disk.read_path("/d/b") == b"2"
    refused(errno.ENOENT, disk.read_path, "d/none")


def test_times_come_from_the_clock():
    clock = ManualClock()
    disk = MemoryDisk(clock=clock)
    file = disk.create(root(disk), "a")
    assert disk.file_stat(file).modified_ns == clock.wall_ns()
    clock.advance(1.5)
    disk.write_at(file, [b"x"], 0)
    assert disk.file_stat(file).modified_ns == clock.wall_ns()


def test_a_manual_clock_stands_still_advances_and_jumps():
    clock = ManualClock(wall_ns=1_000, monotonic_ns=5)
    clock.advance(2)
    assert (clock.wall_ns(), clock.monotonic_ns()) == (2_000_001_000, 2_000_000_005)
    clock.set_wall(7)
    assert (clock.wall_ns(), clock.monotonic_ns()) == (7, 2_000_000_005)


def test_other_threads_go_on_while_a_sync_takes_its_time():
    started, finish = threading.Event(), threading.Event()
    disk = MemoryDisk()
    file = disk.create(root(disk), "a")

    def delay():
        started.set()
        assert finish.wait(10)

    disk.on_sync = delay
    thread = threading.Thread(target=disk.sync, args=[file])
    thread.start()
    assert started.wait(10)
    disk.write_at(file, [b"x"], 0)
    assert disk.read_at(file, 1, 0) == b"x"
    finish.set()
    thread.join()


def test_nothing_is_recorded_when_recording_is_off():
    disk = MemoryDisk(record=False)
    disk.create(root(disk), "a")
    disk.mark(1)
    assert disk.log_position == 0


# --- damage ----------------------------------------------------------------------------------


def test_damage_is_seen_by_reads_and_new_maps_and_survives_crashes():
    disk = MemoryDisk.from_tree({"a": b"0123456789", "b": b"abcdefghij"})
    rot = RottenFiles(disk)
    file = disk.open(root(disk), "a")
    before = disk.map(file, 10)
    rot.flip("a", 0)
    rot.zero("a", 2, 2)
    rot.swap("a", 8, "b", 0, 2)
    rot.truncate("b", 3)
    damaged = b"11\0\x0045" + b"67ab"
    assert disk.read_at(file, 10, 0) == bytes(disk.map(file, 10)) == damaged
    assert bytes(before) == b"0123456789"
    for after in (kill(disk), crash(disk, Random(1))):
        assert after.tree() == {"a": damaged, "b": b"89c"}


def test_a_lost_write_is_undone():
    disk = MemoryDisk.from_tree({"a": b"old old"})
    rot = RottenFiles(disk)
    older = rot.read("a", 0, 3)
    rot.restore("a", 0, b"new")
    rot.restore("a", 0, older)
    assert disk.read_path("a") == b"old old"


def test_damage_stays_in_the_file():
    rot = RottenFiles(MemoryDisk.from_tree({"a": b"123"}))
    with pytest.raises(AssertionError):
        rot.flip("a", 3)
    with pytest.raises(AssertionError):
        rot.zero("a", 2, 2)


# --- any sequence of calls -------------------------------------------------------------------

NAME_CALLS = "create create make rename rename link remove remove_directory sync_directory"
FILE_CALLS = "write write write allocate truncate sync fail_sync close"
CALLS = st.lists(
    st.tuples(
        st.sampled_from(f"{NAME_CALLS} {FILE_CALLS}".split()),
        st.integers(0, 2**16),
    ),
    max_size=60,
)


class Walk:
    """Turns numbers into calls on a disk; what the disk refuses is skipped."""

    def __init__(self, disk):
        self.disk = disk
        self.directories = [root(disk)]
        self.files = []

    def run(self, calls, failing=True):
        for call, number in calls:
            if call == "fail_sync" and not failing:
                continue
            with contextlib.suppress(OSError):
                self.step(call, Random(number))

    def step(self, call, rng):
        disk, one, two = self.disk, rng.choice(self.directories), rng.choice(self.directories)
        name, other = rng.choice("abcd"), rng.choice("abcd")
        if call == "create":
            self.files.append(disk.create(one, name))
        elif call == "make":
            disk.make_directory(one, name)
            self.directories.append(disk.open_directory(one, name))
        elif call in {"rename", "link"}:
            getattr(disk, call)(one, name, two, other)
        elif call in {"remove", "remove_directory"}:
            getattr(disk, call)(one, name)
        elif call == "sync_directory":
            disk.sync_directory(one)
        elif self.files:
            self.change(call, rng.choice(self.files), rng)

    def change(self, call, file, rng):
        if call == "write":
            self.disk.write_at(file, [rng.randbytes(rng.randint(1, 1500))], rng.randint(0, 1500))
        elif call == "allocate":
            self.disk.allocate(file, rng.randint(0, 3000), 100)
        elif call == "truncate":
            self.disk.truncate(file, rng.randint(0, 3000))
        else:
            getattr(self.disk, call)(file)
            if call == "close":
                self.files.remove(file)

    def close_everything(self):
        for file in self.files:
            self.disk.close(file)
        for directory in self.directories:
            self.disk.close_directory(directory)
        self.files, self.directories = [], []

    def sync_everything(self):
        for file in self.files:
            self.disk.sync(file)
        pending = ["/"]
        while pending:
            path = pending.pop()
            directory = self.disk.open_root(path, create=False)
            for name in self.disk.list_names(directory):
                if self.disk.stat(directory, name).is_directory:
                    pending.append(f"{path}{name}/")
                else:
                    file = self.disk.open(directory, name)
                    self.disk.sync(file)
                    self.disk.close(file)
            self.disk.sync_directory(directory)
            self.disk.close_directory(directory)


@given(CALLS, st.integers(0, 2**32))
def test_what_was_synced_survives_whatever_came_before_and_after(calls, seed):
    walk = Walk(MemoryDisk())
    walk.run(calls, failing=False)
    walk.sync_everything()
    tree = walk.disk.tree()
    assert walk.disk.volume.is_settled
    assert crash(walk.disk, Random(seed)).tree() == tree
    top = root(walk.disk)
    file = walk.disk.create(top, "new")
    walk.disk.write_at(file, [b"n" * 2000], 0)
    left = crash(walk.disk, Random(seed)).tree()
    assert {path: data for path, data in left.items() if path != "new"} == tree


@given(CALLS)
def test_keeping_all_keeps_what_is_visible(calls):
    walk = Walk(MemoryDisk())
    walk.run(calls, failing=False)
    kept = crash(walk.disk, Random(0), data=Data.ALL, names=Names.ALL)
    assert kept.tree() == walk.disk.tree()
    assert kept.volume.digest() == walk.disk.volume.digest()


@given(CALLS, CALLS, st.integers(0, 2**32), st.booleans())
def test_a_crashed_disk_is_whole_and_goes_on(calls, more, seed, split):
    walk = Walk(MemoryDisk(split_renames=split))
    walk.run(calls)
    for names in Names:
        left = crash(kill(walk.disk), Random(seed), names=names)
        assert left.volume.is_settled
        tree = left.tree()
        assert {path.rpartition("/")[0] for path in tree} - {""} <= tree.keys()
        again = Walk(left)
        again.run(more)
        again.sync_everything()
        assert crash(left, Random(seed)).tree().keys() == left.tree().keys()
    assert walk.disk.tree() == kill(walk.disk).tree()


@given(CALLS)
def test_a_log_says_everything(calls):
    disk = MemoryDisk()
    image = disk.clone()
    Walk(disk).run(calls)
    again = replay(image, disk.log)
    for data, names in ((Data.ALL, Names.ALL), (Data.NONE, Names.NONE)):
        expected = crash(disk, Random(0), data=data, names=names)
        assert crash(again, Random(0), data=data, names=names).tree() == expected.tree()


@given(CALLS)
def test_space_is_given_back_and_nothing_is_kept_for_ever(calls):
    disk = MemoryDisk(capacity_bytes=2**30)
    walk = Walk(disk)
    walk.run(calls)
    walk.close_everything()
    assert disk.handle_count == 0
    after = kill(disk)
    assert disk.free_bytes(root(disk)) == after.free_bytes(root(after))
    for _ in range(2):  # a directory first, then what it named
        walk.sync_everything()
    assert set(disk.volume.nodes) == {ROOT} | {disk.volume.find(path) for path in disk.tree()}
