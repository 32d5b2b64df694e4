"""Power cuts at every operation of every workload: what was acknowledged is there, to the bit.

A workload runs once on a recorded disk. Then every disk that a power cut may leave, before each
file operation, is opened and compared with what had been promised and begun by then; recovery
itself is recorded and cut off again. The negative controls break one rule each, and are caught.
"""

import os
import threading
from random import Random

import numpy as np
import pytest

from dvecdb.engine import maintenance, recovery, store
from dvecdb.engine.wal import Wal
from dvecdb.settings import Settings
from dvecdb.testing.crash import sync_after_rename
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.history import Action
from dvecdb.testing.judging import Sweep
from dvecdb.testing.recording import Recorder

pytestmark = [pytest.mark.crash, pytest.mark.slow]

SOAK = bool(os.environ.get("DVECDB_SOAK"))
SCALE = 12 if SOAK else 1
SEED = Random().getrandbits(32) if SOAK else 20_231_114
STATES_MIN = 5_000
STATES_PER_KIND_MIN = 50
KINDS = {
    "open new", "create_collection", "upsert", "insert", "delete", "update", "write", "idempotent",
    "group", "bulk", "freeze", "flush", "compaction", "lookup", "reclaim", "delete_collection",
    "close", "reopen", "recovery", "quarantine", "after recovery",
}  # fmt: skip
DIMENSION = 4
TINY = Settings(
    bulk_bytes=24_000, flush_bytes=1 << 20, flush_commits=1_000, merge_bytes=1 << 20,
    merge_count=3, wal_reserve_bytes=2_048, wal_extend_bytes=2_048, ballast_bytes=8_192,
    low_water_bytes=0,
)  # fmt: skip
FLUSHING = Settings(
    bulk_bytes=24_000, flush_bytes=1 << 20, flush_commits=2, merge_bytes=1 << 20, merge_count=3,
    wal_reserve_bytes=1_024, wal_extend_bytes=1_024, ballast_bytes=0, low_water_bytes=0,
    orphan_age_hours=0,
)  # fmt: skip


def upsert(seed, ids, *, operation="upsert", text=0, **parts):
    """An action whose vectors and metadata are all its own."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((len(ids), DIMENSION)).astype(np.float32)
    metadata = [
        {"seed": seed, "n": number, "text": rng.bytes(text // 2).hex()} if number % 3 else None
        for number in range(len(ids))
    ]
    return Action(operation, tuple(ids), vectors, tuple(metadata), **parts)


# --- workloads -------------------------------------------------------------------------------


def every_write(recorder):
    recorder.open("open new")
    recorder.create("docs", DIMENSION)
    for seed in range(0, 72, 8):
        x, y = f"x{seed}", f"y{seed}"
        recorder.write("docs", upsert(seed + 1, "abcd", text=900))
        recorder.write("docs", upsert(seed + 2, [x, y, f"z{seed}"], operation="insert", text=900))
        gone = ("a", "nobody", *(f"long name {number} {'.' * 200}" for number in range(8)))
        recorder.write("docs", Action("delete", deletes=gone, key=f"gone {seed} {'k' * 240}"))
        recorder.write("docs", Action("delete", deletes=("d",), key=f"more {seed} {'k' * 240}"))
        changed = ({"new": "text " * 400}, {"seed": None, "more": ["item"] * 90})
        recorder.write("docs", Action("update", ("b", x), metadata=changed))
        both = {("job", "cursor"): {"page": seed}, ("job", "tag"): "x" * 1_700}
        write = upsert(seed + 3, ["b", y], operation="write", deletes=("c",), documents=both)
        recorder.write("docs", write)
        recorder.write("docs", Action("write", documents={("job", "tag"): None, ("job", "p"): 8}))
        once = upsert(seed + 4, "hi", key=f"once {seed}", text=2_000)
        first = recorder.write("docs", once, "idempotent")
        assert recorder.write("docs", once, "idempotent") == first
    recorder.close()


def bulk(recorder):
    recorder.open()
    recorder.create("docs", DIMENSION)
    recorder.write("docs", upsert(1, "abcd"))
    many = [f"bulk {number}" for number in range(24)]
    recorder.write("docs", upsert(2, [*many, "a"], key="import", text=1_600), "bulk")
    recorder.write("docs", Action("delete", deletes=("bulk 3", "b")))
    recorder.write("docs", upsert(3, [*many[:20], "b"], text=1_900), "bulk")
    recorder.database.collection("docs").flush()
    recorder.write("docs", upsert(4, "xy"))
    recorder.close()


def care(recorder):
    """Freeze, flush, compaction, lookup runs and reclaim, while rows end and documents change."""
    recorder.open()
    recorder.create("docs", DIMENSION)
    for number in range(14):
        ids = [f"id {(number * 5 + step) % 17}" for step in range(3)]
        documents = {("job", "cursor"): number, ("job", str(number % 4)): number or None}
        deletes = tuple({f"id {(number * 7) % 17}"} - set(ids)) if number % 2 else ()
        write = upsert(number, ids, operation="write", deletes=deletes, documents=documents)
        recorder.write("docs", write)
    recorder.close()


def coming_and_going(recorder):
    recorder.open("open new")
    for round_number in range(5):
        recorder.create("docs", DIMENSION)
        recorder.write("docs", upsert(round_number, "abc"))
        if round_number == 1:
            recorder.create("other", DIMENSION)
            recorder.write("other", upsert(9, "z"))
        recorder.delete("docs")
    recorder.close()


def closing_and_opening(recorder):
    for round_number in range(8):
        recorder.open("reopen" if round_number else "open new")
        if not round_number:
            recorder.create("docs", DIMENSION)
        recorder.write("docs", upsert(round_number, f"a{round_number}b"))
        recorder.close()


def groups(recorder):
    """Writers that queue while another one syncs, so that one sync answers them all."""
    recorder.open()
    recorder.create("docs", DIMENSION)
    group, go_on = recorder.database.collection("docs")._group, threading.Event()
    for round_number in range(3):
        go_on.clear()
        recorder.disk.on_sync = lambda: go_on.wait(10)
        threads = []
        for number in range(5):
            write = upsert(round_number * 10 + number, [f"{round_number} {number}", "x"], text=500)
            thread = threading.Thread(
                target=recorder.write, args=("docs", write), kwargs={"kind": "group"}
            )
            thread.start()
            threads.append(thread)
            while not group._leading or len(group._queue) < number:
                go_on.wait(0.001)
        recorder.disk.on_sync = None
        go_on.set()
        for thread in threads:
            thread.join()
    recorder.close()


def opening(recorder):
    recorder.open("open new")
    recorder.close()


WORKLOADS = {
    every_write: (TINY, 18, 23),
    bulk: (TINY, 12, 17),
    care: (FLUSHING, 7, 29),
    coming_and_going: (TINY, 16, 17),
    closing_and_opening: (TINY, 12, 13),
    groups: (TINY, 32, 7),
}
"""Settings, states tried at each operation, and every how many operations a kill is tried."""


def record(workload, monkeypatch, *, seed=0):
    settings = WORKLOADS[workload][0] if workload in WORKLOADS else TINY
    recorder = Recorder(MemoryDisk(), settings, seed=seed)
    name_phases(recorder, monkeypatch)
    workload(recorder)
    assert recorder.disk.handle_count == 0
    return recorder


def name_phases(recorder, monkeypatch):
    """Have the work inside the engine recorded under its own name."""
    for owner, name, kind in (
        (maintenance, "flush_oldest", "flush"),
        (maintenance, "compact", "compaction"),
        (maintenance, "tidy_runs", "lookup"),
        (maintenance, "reclaim", "reclaim"),
        (store.Store, "freeze", "freeze"),
        (recovery, "quarantine_tail", "quarantine"),
    ):
        found = getattr(owner, name)
        original = getattr(found, "original", found)

        def named(*arguments, _original=original, _kind=kind, **options):
            with recorder.phase(_kind):
                return _original(*arguments, **options)

        named.original = original
        monkeypatch.setattr(owner, name, named)


def sweep(monkeypatch, **shares):
    late = upsert(777, ["late", "a"], key="late", text=300)
    return Sweep(Random(SEED), late, lambda recorder: name_phases(recorder, monkeypatch), **shares)


# --- the tests -------------------------------------------------------------------------------


def test_no_power_cut_loses_halves_or_invents_anything(monkeypatch):
    whole = sweep(monkeypatch, again=0.002 * SCALE, again_cut=0.06 * SCALE)
    for workload, (_, per_operation, stride) in WORKLOADS.items():
        recorder = record(workload, monkeypatch)
        whole.explore(recorder, per_operation * SCALE, weak=SOAK)
        positions = range(1, len(recorder.disk.log), max(1, stride // SCALE))
        whole.explore_kills(recorder, positions)
        print(f"{workload.__name__}: {len(recorder.disk.log)} operations, {whole}")
    for seed in range(100, 1_000, 100):
        whole.explore(record(opening, monkeypatch, seed=seed), 40, weak=True)
    counts = whole.counts()
    print(f"seed {SEED}: {whole}")
    print(", ".join(f"{kind} {count}" for kind, count in counts.items()))
    assert whole.wrong == []
    assert {kind: counts[kind] for kind in KINDS if counts[kind] < STATES_PER_KIND_MIN} == {}
    assert whole.states >= STATES_MIN


def test_a_collection_created_by_a_killed_process_is_kept_or_gone_for_good(monkeypatch):
    """The next process serves what the kernel shows it; a power cut must not take it back."""
    recorder, kills = record(coming_and_going, monkeypatch), sweep(monkeypatch)
    passing = {"create_collection", "delete_collection"}
    log = recorder.disk.log
    positions = [at for at in range(1, len(log)) if recorder.kind_at(at) in passing]
    kills.explore_kills(recorder, positions[:: 1 if SOAK else 7])
    assert kills.wrong == []


# --- negative controls: each breaks one rule, and must be caught -------------------------------


def broken(monkeypatch, workload, *, log=None, **manners):
    """Sweep a recording as if the disk had these manners, and say what went wrong."""
    recorder, control = record(workload, monkeypatch), sweep(monkeypatch)
    image = recorder.image.clone()
    for name, value in manners.items():
        assert hasattr(image.volume, name)
        setattr(image.volume, name, value)
    if log is not None:
        recorder.disk.log = log(recorder.disk.log)
    control.explore(recorder, 6, image=image)
    print(control)
    return {violation.kind for _, violation in control.wrong}


@pytest.mark.parametrize("workload", [care, bulk, closing_and_opening])
def test_a_disk_that_ignores_syncs_is_caught(monkeypatch, workload):
    assert "lost" in broken(monkeypatch, workload, drops_syncs=True)


@pytest.mark.parametrize("workload", [care, bulk, coming_and_going])
def test_a_disk_that_ignores_directory_syncs_is_caught(monkeypatch, workload):
    assert "lost" in broken(monkeypatch, workload, drops_directory_syncs=True)


def test_renaming_before_syncing_is_caught(monkeypatch):
    def late(log):
        return sync_after_rename(log, delay=1)

    assert broken(monkeypatch, care, log=late) & {"lost", "false-alarm"}


def test_acknowledging_before_the_sync_is_caught(monkeypatch):
    def pretend(log):
        log.syncs += 1
        log.durable_lsn = log.last_lsn

    monkeypatch.setattr(Wal, "sync", pretend)
    assert "lost" in broken(monkeypatch, every_write)


def test_a_recovery_that_syncs_nothing_is_caught(monkeypatch):
    recorder = record(coming_and_going, monkeypatch)
    monkeypatch.setattr(MemoryDisk, "sync_directory", lambda disk, directory: None)
    control = sweep(monkeypatch)
    control.explore_kills(recorder, range(2, len(recorder.disk.log), 11))
    print(control)
    assert "lost" in {violation.kind for _, violation in control.wrong}
