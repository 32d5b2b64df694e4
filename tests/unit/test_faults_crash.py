"""The crash model: what was synced is there, what was not may be, and lying disks are caught."""

import errno
import itertools
import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.testing.crash import (
    Data,
    Names,
    crash,
    enumerate_states,
    kill,
    replay,
    sync_after_rename,
)
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.operations import Rename, Sync

SEEDS = range(300)


def root(disk):
    return disk.open_root("/", create=False)


def put(disk, name, data, *, sync=True):
    file = disk.create(root(disk), name)
    disk.write_at(file, [data], 0)
    if sync:
        disk.sync(file)
    return file


def outcomes(disk, **style):
    """Every tree that a few hundred power cuts leave, and how often."""
    found = {}
    for seed in SEEDS:
        tree = crash(disk, Random(seed), **style).tree()
        key = tuple(sorted(tree.items()))
        found[key] = found.get(key, 0) + 1
    return [dict(key) for key in found]


# --- files -----------------------------------------------------------------------------------


def test_what_was_synced_survives_every_power_cut():
    disk = MemoryDisk()
    put(disk, "a", b"x" * 3000)
    disk.sync_directory(root(disk))
    assert outcomes(disk) == [{"a": b"x" * 3000}]


def test_bytes_without_a_sync_survive_whole_in_part_or_not_at_all():
    disk = MemoryDisk()
    file = put(disk, "a", b"")
    disk.sync_directory(root(disk))
    disk.write_at(file, [b"1" * 512 * 4], 0)
    found = {tree["a"] for tree in outcomes(disk)}
    assert {b"", b"1" * 2048, bytes(2048)} <= found
    assert b"1" * 512 in found  # a prefix
    assert bytes(512) + b"1" * 1536 in found  # a sector missing in front
    assert all(
        set(data[i : i + 512]) in ({0}, {49})
        for data in found
        for i in range(0, 2048, 512)
        if data[i:]
    )


def test_a_rewritten_sector_is_old_or_new_and_never_mixed():
    disk = MemoryDisk()
    file = put(disk, "a", b"o" * 1024)
    disk.sync_directory(root(disk))
    disk.write_at(file, [b"n" * 1000], 12)
    found = {tree["a"] for tree in outcomes(disk)}
    first_old, first_new = b"o" * 512, b"o" * 12 + b"n" * 500
    second_old, second_new = b"o" * 512, b"n" * 500 + b"o" * 12
    assert found == {
        one + two for one in (first_old, first_new) for two in (second_old, second_new)
    }


def test_a_sector_never_shows_a_later_write_without_the_earlier_ones_in_it():
    disk = MemoryDisk()
    file = put(disk, "a", bytes(512))
    disk.sync_directory(root(disk))
    disk.write_at(file, [b"1" * 100], 0)
    disk.write_at(file, [b"2" * 100], 100)
    found = {tree["a"][:200] for tree in outcomes(disk)}
    assert found == {bytes(200), b"1" * 100 + bytes(100), b"1" * 100 + b"2" * 100}


def test_reserved_space_reads_as_zeros_or_is_not_there():
    disk = MemoryDisk()
    file = put(disk, "a", b"abc")
    disk.sync_directory(root(disk))
    disk.allocate(file, 0, 5000)
    assert {tree["a"] for tree in outcomes(disk)} == {b"abc", b"abc" + bytes(4997)}


def test_a_cut_without_a_sync_may_not_have_happened():
    disk = MemoryDisk()
    file = put(disk, "a", b"x" * 1000)
    disk.sync_directory(root(disk))
    disk.truncate(file, 10)
    assert {len(tree["a"]) for tree in outcomes(disk)} == {10, 1000}


def test_a_sync_does_not_cover_what_is_written_while_it_runs():
    disk = MemoryDisk()
    file = put(disk, "a", b"old")
    disk.sync_directory(root(disk))
    disk.write_at(file, [b"new"], 0)
    disk.on_sync = lambda: disk.write_at(file, [b"late"], 100)
    disk.sync(file)
    none = crash(disk, Random(0), data=Data.NONE, names=Names.NONE)
    assert none.tree() == {"a": b"new"}


# --- names -----------------------------------------------------------------------------------


def test_syncing_a_file_does_not_make_its_name_durable():
    disk = MemoryDisk()
    put(disk, "a", b"x")
    assert {} in outcomes(disk)
    disk.sync_directory(root(disk))
    assert outcomes(disk) == [{"a": b"x"}]


def test_a_name_may_survive_without_its_bytes():
    disk = MemoryDisk()
    put(disk, "a.partial", b"x" * 10, sync=False)
    disk.rename(root(disk), "a.partial", root(disk), "a")
    disk.sync_directory(root(disk))
    assert {"a": b""} in outcomes(disk)


def test_steps_of_one_directory_survive_in_order():
    disk = MemoryDisk()
    for name in "abc":
        put(disk, name, b"")
    assert {"".join(tree) for tree in outcomes(disk)} == {"", "a", "ab", "abc"}
    weak = {"".join(tree) for tree in outcomes(disk, names=Names.SUBSET)}
    assert weak == {"".join(names) for n in range(4) for names in itertools.combinations("abc", n)}


def test_directories_lose_their_steps_independently():
    disk = MemoryDisk()
    one = disk.open_root("/one", create=True)
    two = disk.open_root("/two", create=True)
    disk.create(one, "a")
    disk.create(two, "b")
    found = {frozenset(tree) & {"one/a", "two/b"} for tree in outcomes(disk)}
    assert found == {
        frozenset(),
        frozenset({"one/a"}),
        frozenset({"two/b"}),
        frozenset({"one/a", "two/b"}),
    }


def test_a_directory_whose_name_is_lost_takes_everything_along():
    disk = MemoryDisk()
    disk.make_directory(root(disk), "d")
    inside = disk.open_directory(root(disk), "d")
    file = disk.create(inside, "a")
    disk.sync(file)
    disk.sync_directory(inside)
    found = outcomes(disk)
    assert {} in found
    assert {"d": None, "d/a": b""} in found
    assert len(found) == 2


def moved(disk):
    one = disk.open_root("/one", create=True)
    two = disk.open_root("/two", create=True)
    disk.sync(disk.create(one, "a"))
    disk.sync_directory(one)
    disk.rename(one, "a", two, "b")
    return one, two


def test_a_rename_between_directories_happened_or_did_not():
    disk = MemoryDisk()
    _, two = moved(disk)
    assert {frozenset(tree) - {"one", "two"} for tree in outcomes(disk)} == {
        frozenset({"one/a"}),
        frozenset({"two/b"}),
    }
    disk.sync_directory(two)
    assert outcomes(disk) == [{"one": None, "two": None, "two/b": b""}]


def test_a_split_rename_needs_both_directories_synced():
    disk = MemoryDisk(split_renames=True)
    one, two = moved(disk)
    assert {frozenset(tree) - {"one", "two"} for tree in outcomes(disk)} == {
        frozenset(),
        frozenset({"one/a"}),
        frozenset({"two/b"}),
        frozenset({"one/a", "two/b"}),
    }
    disk.sync_directory(two)
    disk.sync_directory(one)
    assert outcomes(disk) == [{"one": None, "two": None, "two/b": b""}]


def test_a_renamed_directory_moves_its_subtree():
    disk = MemoryDisk.from_tree({"live/c/x": b"1", "trash": None})
    live = disk.open_root("/live", create=False)
    trash = disk.open_root("/trash", create=False)
    disk.rename(live, "c", trash, "c")
    assert {frozenset(tree) for tree in outcomes(disk)} == {
        frozenset({"live", "trash", "live/c", "live/c/x"}),
        frozenset({"live", "trash", "trash/c", "trash/c/x"}),
    }


def test_a_removed_name_may_come_back_with_its_bytes():
    disk = MemoryDisk.from_tree({"a": b"1"})
    disk.remove(root(disk), "a")
    found = outcomes(disk)
    assert {} in found
    assert {"a": b"1"} in found
    disk.sync_directory(root(disk))
    assert outcomes(disk) == [{}]
    assert len(disk.volume.nodes) == 1  # and is forgotten after the sync


# --- processes and failing syncs -------------------------------------------------------------


def test_a_killed_process_leaves_all_it_wrote_and_no_handle_or_lock():
    disk = MemoryDisk()
    lock = disk.open_lock(root(disk), "LOCK")
    assert disk.try_lock(lock)
    put(disk, "a", b"x", sync=False)
    after = kill(disk)
    assert after.tree() == {"LOCK": b"", "a": b"x"}
    assert after.try_lock(after.open_lock(root(after), "LOCK"))
    with pytest.raises(OSError) as failed:
        after.size(lock + 1_000)
    assert failed.value.errno == errno.EBADF


def test_what_a_killed_process_did_not_sync_may_still_vanish():
    disk = MemoryDisk()
    put(disk, "a", b"x", sync=False)
    after = kill(disk)
    assert {} in outcomes(after)
    file = after.open(root(after), "a")
    after.sync(file)
    assert {} in outcomes(after)
    after.sync_directory(root(after))
    assert outcomes(after) == [{"a": b"x"}]


def test_a_killed_disk_is_not_reached_by_the_process_that_lives_on():
    disk = MemoryDisk()
    file = put(disk, "a", b"x")
    after = kill(disk)
    disk.write_at(file, [b"zombie"], 0)
    disk.create(root(disk), "b")
    assert after.tree() == {"a": b"x"}


def test_a_sync_after_a_failed_sync_succeeds_and_saves_nothing():
    disk = MemoryDisk()
    file = put(disk, "a", b"old")
    disk.sync_directory(root(disk))
    disk.write_at(file, [b"new"], 0)
    disk.fail_sync(file)
    assert disk.read_path("a") == b"new"
    disk.sync(file)
    found = {tree["a"] for tree in outcomes(disk)}
    assert found == {b"old", b"new"}
    assert {tree["a"] for tree in outcomes(kill(disk), data=Data.ALL)} == {b"old"}


def test_bytes_lost_by_a_failed_sync_are_saved_by_writing_them_again():
    disk = MemoryDisk()
    file = put(disk, "a", b"old")
    disk.sync_directory(root(disk))
    disk.write_at(file, [b"new"], 0)
    disk.fail_sync(file)
    disk.write_at(file, [b"NEW"], 0)
    disk.sync(file)
    assert outcomes(disk) == [{"a": b"NEW"}]


# --- controls --------------------------------------------------------------------------------


def acknowledged_rows(disk):
    """A toy log: write, sync, acknowledge; then a file swapped in by rename."""
    top = root(disk)
    log = disk.create(top, "log")
    disk.sync_directory(top)
    for row in range(5):
        disk.write_at(log, [bytes([65 + row]) * 700], row * 700)
        disk.sync(log)
        disk.mark(row)
    partial = disk.create(top, "new")
    disk.write_at(partial, [b"m" * 600], 0)
    disk.sync(partial)
    disk.rename(top, "new", top, "manifest")
    disk.sync_directory(top)
    disk.mark("manifest")


def broken_promises(disk_or_log, image, weak=False):
    broken = []
    for state in enumerate_states(disk_or_log, image, per_operation=30, rng=Random(5), weak=weak):
        tree = state.disk.tree()
        log = tree.get("log", b"")
        for mark in state.marks:
            if mark == "manifest":
                kept = tree.get("manifest") == b"m" * 600
            else:
                kept = log[mark * 700 : mark * 700 + 700] == bytes([65 + mark]) * 700
            if not kept:
                broken.append((state.position, mark))
        if tree.get("manifest", b"m" * 600) != b"m" * 600:
            broken.append((state.position, "torn manifest"))
    return broken


@pytest.mark.parametrize("weak", [False, True])
def test_an_engine_that_syncs_in_order_keeps_every_promise(weak):
    disk = MemoryDisk()
    image = disk.clone()
    acknowledged_rows(disk)
    assert broken_promises(disk.log, image, weak) == []


def test_an_engine_whose_syncs_are_dropped_is_caught():
    disk = MemoryDisk(drop_syncs=True)
    image = disk.clone()
    acknowledged_rows(disk)
    assert {mark for _, mark in broken_promises(disk.log, image)} >= {0, 4, "manifest"}


def test_an_engine_whose_directory_syncs_are_dropped_is_caught():
    disk = MemoryDisk(drop_directory_syncs=True)
    image = disk.clone()
    acknowledged_rows(disk)
    assert {mark for _, mark in broken_promises(disk.log, image)} >= {0, 4, "manifest"}


def test_an_engine_that_renames_before_it_syncs_is_caught():
    disk = MemoryDisk()
    image = disk.clone()
    acknowledged_rows(disk)
    late = sync_after_rename(disk.log)
    assert sorted(map(repr, late)) == sorted(map(repr, disk.log))
    at = next(index for index, operation in enumerate(late) if isinstance(operation, Rename))
    assert isinstance(late[at + 1], Sync)
    broken = broken_promises(late, image)
    assert {mark for _, mark in broken} == {"torn manifest"}
    later = sync_after_rename(disk.log, delay=2)
    assert later.index(late[at + 1]) == at + 3
    assert {mark for _, mark in broken_promises(later, image)} == {"torn manifest", "manifest"}


# --- the enumeration itself ------------------------------------------------------------------


def test_the_same_seed_gives_the_same_states_and_another_seed_others():
    disk = MemoryDisk()
    image = disk.clone()
    acknowledged_rows(disk)

    def states(seed):
        found = enumerate_states(disk.log, image, per_operation=20, rng=Random(seed))
        return [(state.position, state.marks, state.style, state.disk.tree()) for state in found]

    assert states(1) == states(1)
    assert states(1) != states(2)


def test_no_tree_is_yielded_twice_for_the_same_marks():
    disk = MemoryDisk()
    image = disk.clone()
    acknowledged_rows(disk)
    seen = set()
    positions = set()
    for state in enumerate_states(disk.log, image, per_operation=20, rng=Random(1)):
        key = (state.marks, tuple(sorted(state.disk.tree().items())))
        assert key not in seen
        seen.add(key)
        positions.add(state.position)
    assert positions >= {0, len(disk.log)}


def test_everything_on_a_crashed_disk_is_durable():
    disk = MemoryDisk()
    put(disk, "a", b"x" * 5000, sync=False)
    for seed in range(30):
        once = crash(disk, Random(seed))
        again = crash(once, Random(seed + 1))
        assert again.tree() == once.tree()


def test_a_replayed_log_gives_the_disk_it_was_recorded_on():
    disk = MemoryDisk()
    image = disk.clone()
    acknowledged_rows(disk)
    again = replay(image, disk.log)
    assert again.tree() == disk.tree()
    assert again.volume.digest() == disk.volume.digest()
    assert replay(image, disk.log, 1).tree() == {"log": b""}


@given(st.integers(0, 2**32), st.sampled_from(list(Data)), st.sampled_from(list(Names)))
def test_a_durable_file_is_left_alone_by_every_style(seed, data, names):
    disk = MemoryDisk.from_tree({"d/kept": b"k" * 700})
    put(disk, "a", b"x" * 5000, sync=False)
    left = crash(disk, Random(seed), data=data, names=names)
    assert left.read_path("d/kept") == b"k" * 700


def test_thousands_of_states_are_made_in_a_second():
    disk = MemoryDisk()
    image = disk.clone()
    top = disk.open_root("/collections/x", create=True)
    log = disk.create(top, "log")
    disk.allocate(log, 0, 9 * 1024 * 1024)
    for row in range(400):
        disk.write_at(log, [b"r" * 1_100], row * 1_100)
        if row % 4 == 3:
            disk.sync(log)
            disk.mark(row)
    started = time.perf_counter()
    found = sum(1 for _ in enumerate_states(disk.log, image, per_operation=16, rng=Random(1)))
    elapsed = time.perf_counter() - started
    print(f"{found} different states in {elapsed:.2f} s: {found / elapsed:,.0f}/s")
    assert found > 900
