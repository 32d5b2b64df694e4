"""Power cuts while collections are deleted, brought back, copied, undone and done away with.

As `test_alice.py`, for whole collections: every disk that a power cut may leave holds the world
that was acknowledged last or a later one that was on its way, never something between; every
collection, trash entry and backup in it is whole, at every LSN; and nothing else is left lying.
"""

import os
import threading
from random import Random

import numpy as np
import pytest

from dvecdb.engine import compaction, fork, maintenance, reclaim
from dvecdb.protection import backups, trash
from dvecdb.settings import Settings
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.history import Action, Tag, Undo
from dvecdb.testing.judging_worlds import ProtectionSweep
from dvecdb.testing.operations import Mark, SyncDirectory
from dvecdb.testing.protecting import ProtectionRecorder

pytestmark = [pytest.mark.crash, pytest.mark.slow]

SOAK = bool(os.environ.get("DVECDB_SOAK"))
SCALE = 12 if SOAK else 1
SEED = Random().getrandbits(32) if SOAK else 20_231_114
STATES_MIN = 5_000
STATES_PER_KIND_MIN = 50
KILL_STRIDE = 149  # a kill is tried at every so many operations
DIMENSION = 4
HOUR = 3_600
TINY = Settings(
    bulk_bytes=24_000, flush_bytes=1 << 20, flush_commits=1_000, merge_bytes=1 << 20,
    merge_count=50, wal_reserve_bytes=1_024, wal_extend_bytes=1_024, ballast_bytes=0,
    low_water_bytes=0,
)  # fmt: skip
BULKY = Settings(
    bulk_bytes=160, flush_bytes=1 << 20, flush_commits=1_000, merge_bytes=1 << 20,
    merge_count=50, wal_reserve_bytes=1_024, wal_extend_bytes=1_024, ballast_bytes=0,
    low_water_bytes=0,
)  # fmt: skip
SHORT = Settings(
    bulk_bytes=24_000, flush_bytes=1 << 20, flush_commits=1_000, merge_bytes=1 << 20,
    merge_count=50, wal_reserve_bytes=1_024, wal_extend_bytes=1_024, ballast_bytes=0,
    low_water_bytes=0, trash_hours=2, backup_keep_last=0, backup_keep_days=0,
)  # fmt: skip
FORGETTING = Settings(
    bulk_bytes=24_000, flush_bytes=1 << 20, flush_commits=2, merge_bytes=1 << 20, merge_count=3,
    wal_reserve_bytes=1_024, wal_extend_bytes=1_024, ballast_bytes=0, low_water_bytes=0,
    history_hours=1,
)  # fmt: skip


def upsert(seed, ids, *, operation="upsert", **parts):
    """An action whose vectors and metadata are all its own."""
    vectors = np.random.default_rng(seed).standard_normal((len(ids), DIMENSION))
    metadata = tuple({"seed": seed, "n": n} if n % 3 else None for n in range(len(ids)))
    return Action(operation, tuple(ids), vectors.astype(np.float32), metadata, **parts)


def begin(recorder, seed, *, name="docs", flush=True):
    """Make a collection; some of it ends in a segment, some stays in memory."""
    collection = recorder.create(name, DIMENSION)
    recorder.write(name, upsert(seed + 1, ["a", "b", f"x{seed}"]))
    if flush:
        collection.flush()
    documents = {("job", "cursor"): {"page": seed}}
    write = upsert(seed + 2, ["b"], operation="write", deletes=("a",), documents=documents)
    recorder.write(name, write)
    return int(collection.stats().last_lsn)


def reopen(recorder):
    recorder.close()
    recorder.open("reopen")


# --- workloads -------------------------------------------------------------------------------


def deleting_and_restoring(recorder):
    recorder.open("open new")
    for turn in range(6):
        begin(recorder, turn * 10, flush=turn % 2 == 0)
        for number in range(5):
            entry = recorder.throw_away("docs", note=f"somebody {number}" if number % 3 else None)
            recorder.restore(entry, kind="restore")
            recorder.write("docs", upsert(turn * 10 + number, "ad"))
        entry = recorder.throw_away("docs", note="again" if turn % 2 else None)
        recorder.restore(entry, f"name-{turn}", kind="restore as another")
        for number in range(2):
            recorder.write(f"name-{turn}", upsert(turn * 10 + number, "ae"))
            entry = recorder.throw_away(f"name-{turn}")
            reopen(recorder)
            recorder.restore(entry, kind="restore after reopening")
        recorder.write(f"name-{turn}", upsert(turn * 10 + 7, "af"))
        recorder.throw_away(f"name-{turn}", note="for good")
        recorder.purge()
    recorder.close()


def backing_up(recorder):
    recorder.open("open new")
    for turn in range(4):
        begin(recorder, turn * 10, flush=turn % 2 == 0)
        first = recorder.backup("docs", f"number {turn}")
        recorder.write("docs", upsert(turn * 10 + 8, "ag"))
        if turn == 2:
            reopen(recorder)
        second = recorder.backup("docs", "copy", "independent backup", independent=True)
        if turn == 3:
            recorder.verify_backup(first)
        recorder.delete_backup(second)
        recorder.delete_backup(first)
        recorder.hard_delete("docs", "hard-delete")
    recorder.close()


def backing_up_while_writing(recorder):
    recorder.open("open new")
    for turn in range(6):
        begin(recorder, turn * 10)
        thread = threading.Thread(
            target=lambda: [recorder.write("docs", upsert(n, ["a", f"w{n}"])) for n in range(4)]
        )
        recorder.disk.on_sync = lambda: threading.Event().wait(0.0005)
        thread.start()
        kept = recorder.backup("docs", "while others write", "backup while writing")
        thread.join()
        recorder.disk.on_sync = None
        recorder.delete_backup(kept)
        recorder.hard_delete("docs", "hard-delete")
    recorder.close()


def restoring_backups(recorder):
    recorder.open("open new")
    for turn in range(3):
        begin(recorder, turn * 10)
        copy = recorder.backup("docs", "to restore", independent=turn == 1)
        recorder.write("docs", upsert(turn * 10 + 5, "ad"))
        recorder.restore(copy, f"new-{turn}", kind="restore backup as another")
        recorder.write(f"new-{turn}", upsert(turn * 10 + 6, "ae"))
        recorder.hard_delete("docs", "hard-delete")
        if turn == 2:
            reopen(recorder)
        recorder.restore(copy, kind="restore backup")
        recorder.write("docs", upsert(turn * 10 + 7, "af"))
        recorder.hard_delete(f"new-{turn}", "hard-delete")
        recorder.hard_delete("docs", "hard-delete with backups", include_backups=True)
    recorder.close()


def undoing(recorder):
    recorder.open("open new")
    for turn in range(2):
        last = begin(recorder, turn * 10, flush=turn != 1)
        recorder.write("docs", upsert(turn * 10 + 5, ["a", "c", "y1", "y2"]))
        recorder.undo("docs", Undo(last, ids=("a", "y1", "nobody")), "undo of some")
        recorder.undo("docs", Undo(last - 1, where={"seed": turn * 10 + 5}), "undo of some")
        for name in list(recorder.world.backups):
            recorder.delete_backup(name)
        recorder.undo("docs", Undo(last))
        recorder.undo("docs", Undo(turn % 2))
        recorder.hard_delete("docs", "hard-delete with backups", include_backups=True)
    recorder.close()


def undoing_much(recorder):
    recorder.open("open new")
    for turn in range(3):
        recorder.create("docs", DIMENSION)
        many = [f"bulk {number}" for number in range(12)]
        recorder.write("docs", upsert(turn * 10 + 1, many))
        recorder.write("docs", upsert(turn * 10 + 2, [*many, *(f"z{n}" for n in range(9))]))
        recorder.write("docs", Action("delete", deletes=("bulk 3",)))
        recorder.undo("docs", Undo(1), "bulk undo")
        if turn == 1:
            reopen(recorder)
        recorder.undo("docs", Undo(2), "bulk undo")
        recorder.hard_delete("docs", "hard-delete with backups", include_backups=True)
    recorder.close()


def cloning(recorder):
    recorder.open("open new")
    for turn in range(3):
        begin(recorder, turn * 10)
        recorder.write("docs", upsert(turn * 10 + 3, "bc"))
        recorder.database.collection("docs").flush()
        recorder.write("docs", upsert(turn * 10 + 4, "ac"))
        recorder.write("docs", upsert(turn * 10 + 5, "ad"))
        recorder.clone("docs", "now", None)
        recorder.clone("docs", "past", 2, "clone of the past")  # inside a segment
        recorder.clone("docs", "memory", 4, "clone of the past")
        recorder.write("past", upsert(turn * 10 + 6, "ae"))
        for name in ("docs", "memory", "now"):
            recorder.hard_delete(name, "hard-delete")
        recorder.undo("past", Undo(1), "undo of a clone")
        recorder.clone("past", "again", 2, "clone of a clone")
        if turn == 1:
            reopen(recorder)
        for name in ("past", "again"):
            recorder.hard_delete(name, "hard-delete with backups", include_backups=True)
    recorder.close()


def doing_away(recorder):
    recorder.open("open new")
    for turn in range(4):
        entries = []
        for number in range(3):
            begin(recorder, turn * 30 + number * 5, flush=number != 1)
            entries.append(recorder.throw_away("docs"))
        recorder.purge(entries[1:2])
        if turn == 1:
            reopen(recorder)
        recorder.purge()
        begin(recorder, turn * 30 + 20)
        recorder.backup("docs", "one")
        recorder.hard_delete("docs", "hard-delete with a backup first", backup=True)
        recorder.create("docs", DIMENSION)
        recorder.backup("docs", "three")
        recorder.hard_delete("docs", "hard-delete with backups", include_backups=True)
    recorder.close()


def expiring(recorder):
    for turn in range(3):
        recorder.open("reopen" if turn else "open new")
        for number in range(2):
            begin(recorder, turn * 20 + number * 5, name="more")
            recorder.throw_away("more")
        begin(recorder, turn * 20 + 10)
        recorder.undo("docs", Undo(1))  # leaves automatic backups
        recorder.undo("docs", Undo(2))
        recorder.advance(HOUR)
        recorder.throw_away("docs")
        assert len(recorder.tend()) == 1  # the older one of the two backups
        recorder.advance(HOUR * 1.5)
        assert len(recorder.tend()) == 2
        recorder.advance(HOUR)
        assert len(recorder.tend()) == 1
        assert len(recorder.tend()) == 1  # the last backup goes with its collection
        recorder.close()


def dropping_history(recorder):
    """Rows end, time passes, and compaction drops what left the window, but not what is tagged."""
    recorder.open("open new")
    recorder.create("docs", DIMENSION)
    collection = recorder.database.collection("docs")
    for number in range(24):
        recorder.advance(HOUR / 4)
        ids = [f"id {(number * 3 + step) % 7}" for step in range(3)]
        documents = {("job", "cursor"): number}
        deletes = (f"id {(number * 3 + 4) % 7}",) if number % 2 else ()
        write = upsert(number, ids, operation="write", deletes=deletes, documents=documents)
        lsn = recorder.write("docs", write).lsn
        if number == 9:
            recorder.write("docs", Tag("kept", lsn))
        if number == 15:
            recorder.write("docs", Tag("kept", None))
        if number == 18:
            reopen(recorder)
            collection = recorder.database.collection("docs")
    assert collection.stats().horizon_lsn > 12
    recorder.close()


WORKLOADS = {
    deleting_and_restoring: (TINY, 4, {
        "delete", "restore", "restore after reopening", "restore as another",
    }, 850),
    backing_up: (TINY, 4, {"backup", "independent backup", "delete backup"}, 500),
    backing_up_while_writing: (TINY, 4, {"backup while writing"}, 280),
    restoring_backups: (TINY, 4, {
        "restore backup", "restore backup as another", "hard-delete"
    }, 550),
    undoing: (TINY, 4, {"undo", "undo of some"}, 230),
    undoing_much: (BULKY, 4, {"bulk undo"}, 700),
    cloning: (TINY, 4, {
        "clone", "clone of the past", "clone of a clone", "undo of a clone"
    }, 800),
    doing_away: (TINY, 4, {
        "purge", "hard-delete with a backup first", "hard-delete with backups"
    }, 700),
    expiring: (SHORT, 4, {"expiry"}, 450),
    dropping_history: (FORGETTING, 4, {"horizon compaction"}, 300),
}  # fmt: skip
"""Settings, states tried at each operation, the kinds that count, and how many states come."""


def record(workload, monkeypatch, *, seed=0):
    settings = WORKLOADS[workload][0]
    recorder = ProtectionRecorder(MemoryDisk(), settings, seed=seed)
    name_phases(recorder, monkeypatch)
    workload(recorder)
    assert recorder.disk.handle_count == 0
    return recorder


def name_phases(recorder, monkeypatch):
    """Have the work inside the engine recorded under its own name."""
    original = getattr(maintenance.compact, "original", maintenance.compact)

    def named(store):
        with recorder.phase("horizon compaction"):
            return original(store)

    named.original = original
    monkeypatch.setattr(maintenance, "compact", named)


def sweep(monkeypatch, **shares):
    shares = {"minor": 1.0 if SOAK else 0.1, **shares}
    late = upsert(777, ["late", "a"], key="late")
    phases = lambda recorder: name_phases(recorder, monkeypatch)  # noqa: E731
    return ProtectionSweep(Random(SEED), late, phases, **shares)


def explained(whole):
    return [f"{where}: {violation}" for where, violation in whole.wrong[:8]]


# --- the tests -------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_power_cut_leaves_the_world_before_or_after_and_never_one_between(workload, monkeypatch):
    _, per_operation, kinds, states_min = WORKLOADS[workload]
    seed = list(WORKLOADS).index(workload) * 100  # so that no two of them leave the same disks
    recorder, whole = record(workload, monkeypatch, seed=seed), sweep(monkeypatch, again=0.01)
    whole.explore_worlds(recorder, per_operation * SCALE, kinds, weak=SOAK)
    stride = max(1, KILL_STRIDE // SCALE)
    whole.explore_kills_of_worlds(recorder, range(SEED % stride, len(recorder.disk.log), stride))
    counts = whole.counts()
    print(f"{workload.__name__}: {len(recorder.disk.log)} operations, seed {SEED}: {whole}")
    print(", ".join(f"{kind} {count}" for kind, count in counts.items()))
    assert whole.wrong == [], explained(whole)
    assert {kind: counts[kind] for kind in kinds if counts[kind] < STATES_PER_KIND_MIN} == {}
    assert whole.states >= states_min


def test_the_crash_states_are_enough():
    assert sum(states_min for *_, states_min in WORKLOADS.values()) >= STATES_MIN


# --- negative controls: each breaks one rule, and must be caught -------------------------------


def broken(monkeypatch, workload, *, unsynced=()):
    """Sweep a recording, as if no directory had been synced in some phases; say what went wrong."""
    recorder, control = record(workload, monkeypatch), sweep(monkeypatch)
    log = [
        Mark(None)
        if isinstance(operation, SyncDirectory) and recorder.kind_at(number + 1) in unsynced
        else operation
        for number, operation in enumerate(recorder.disk.log)
    ]
    control.explore_worlds(recorder, 6, WORKLOADS[workload][2] | {*unsynced}, log=log)
    print(control)
    return {violation.kind for _, violation in control.wrong}


@pytest.mark.parametrize(
    ("workload", "phase"),
    [
        (deleting_and_restoring, "delete"),
        (deleting_and_restoring, "restore"),
        (deleting_and_restoring, "restore as another"),
        (restoring_backups, "restore backup as another"),
        (cloning, "clone of the past"),
        (backing_up, "backup"),
        (doing_away, "hard-delete with backups"),
    ],
)
def test_a_rename_without_syncing_the_directories_is_caught(monkeypatch, workload, phase):
    assert broken(monkeypatch, workload, unsynced=[phase]) & {"half", "lost"}


def test_a_backup_that_is_named_before_its_links_are_durable_is_caught(monkeypatch):
    def sync(unsynced, files=(), directories=()):
        unsynced._files.sync_together(files, directories)
        unsynced.__exit__()

    monkeypatch.setattr(fork.UnsyncedDirectories, "sync", sync)
    assert broken(monkeypatch, backing_up) & {"half", "lost", "refused"}


def test_a_purge_that_removes_before_it_renames_is_caught(monkeypatch):
    monkeypatch.setattr(trash, "set_apart", lambda files, parent, name: name)
    assert broken(monkeypatch, doing_away) & {"half", "lost", "refused"}


def test_a_backup_whose_backup_json_is_written_first_is_caught(monkeypatch):
    make = backups.Backups._make

    def make_in_place(own, store, note):
        files, made = own._environment.files, make(own, store, note)
        name = made.name
        parent = files.open_directory(own._root, ".backups")
        files.rename(parent, name, parent, "aside")  # and again, in the wrong order
        files.make_directory(parent, name)
        files.sync_directory(parent)
        aside, directory = (files.open_directory(parent, item) for item in ("aside", name))
        files.rename(aside, "backup.json", directory, "backup.json")
        files.sync_directory(directory)
        for child in files.list_names(aside):
            files.rename(aside, child, directory, child)
        for item in (directory, aside):
            files.sync_directory(item)
            files.close_directory(item)
        reclaim.remove_tree(files, parent, "aside")
        files.sync_directory(parent)
        files.close_directory(parent)
        return made

    monkeypatch.setattr(backups.Backups, "_make", make_in_place)
    assert broken(monkeypatch, backing_up) & {"half", "lost", "refused"}


def test_a_compaction_that_forgets_what_the_window_holds_is_caught(monkeypatch):
    monkeypatch.setattr(compaction, "allowed_horizon", lambda store, last_lsn: last_lsn)
    assert "lost" in broken(monkeypatch, dropping_history)
