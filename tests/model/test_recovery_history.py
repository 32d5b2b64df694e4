"""A long history of writes, undos, copies, deletions and restarts: every past state stays exact.

A thousand random commits at settings that flush and merge all the time, interleaved with clones,
undos, backups, restores and deletions. The oracle is one dictionary a commit; every state of every
collection is compared with it to the bit, along the way and at the end, before and after reopening.
"""

import os
from collections import Counter
from random import Random

import numpy as np
import pytest

from dvecdb.settings import Settings
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.history import Action, History, Tag, Undo, check_reads
from dvecdb.testing.recording import open_on

pytestmark = pytest.mark.slow

SOAK = bool(os.environ.get("DVECDB_SOAK"))
COMMITS = 1_000
SEEDS = range(1, 60) if SOAK else range(1, 4)
DIMENSION = 3
IDS = [f"id {number}" for number in range(24)]
COLORS = ("red", "green", "blue", None)
COLLECTIONS_MAX = 4
SETTINGS = Settings(
    bulk_bytes=120, flush_bytes=4_000, flush_commits=6, merge_bytes=200_000, merge_count=3,
    wal_reserve_bytes=1_024, wal_extend_bytes=1_024, ballast_bytes=0, low_water_bytes=0,
    history_hours=100_000, guard_rows=100_000,
)  # fmt: skip


class Run:
    """A data directory and, by name, the history of what lives in it and of its backups."""

    def __init__(self, seed):
        self.rng, self.seed = Random(seed), seed
        self.disk, self.clock = MemoryDisk(record=False), ManualClock()
        self.counts, self.made, self.commits = Counter(), 0, 0
        self.histories, self.backups = {}, {}
        self.open()
        self.database.create_collection("docs", dimension=DIMENSION, metric="euclidean")
        self.histories["docs"] = History()

    def open(self):
        self.made = getattr(self, "made", 0) + 1
        self.database = open_on(
            self.disk, SETTINGS, seed=self.seed * 1_000 + self.made, clock=self.clock
        )

    def reopen(self):
        self.database.close()
        assert self.disk.handle_count == 0
        self.open()
        assert self.database.findings() == []

    # --- what may happen ---

    def write(self, name, history):
        rng = self.rng
        number = rng.choice((1, 1, 2, 3, 12))  # the last one goes straight into a segment
        ids = rng.sample(IDS, number)
        deletes = tuple(set(rng.sample(IDS, rng.randrange(4))) - set(ids))
        metadata = tuple(
            {"color": color, "n": self.commits} if (color := rng.choice(COLORS)) else None
            for _ in ids
        )
        vectors = np.array([[rng.gauss(0, 1) for _ in range(DIMENSION)] for _ in ids], np.float32)
        key = f"key {self.commits}" if rng.random() < 0.2 else None
        documents = {}
        if rng.random() < 0.3:
            documents[rng.choice("ab"), rng.choice("xyz")] = rng.choice((None, self.commits))
        kind = rng.random()
        if kind < 0.4:
            action = Action("upsert", tuple(ids), vectors, metadata, key=key)
        elif kind < 0.6 and deletes:
            action = Action("delete", deletes=deletes, key=key)
        else:
            parts = {"deletes": deletes, "documents": self._known(history, documents), "key": key}
            action = Action("write", tuple(ids), vectors, metadata, **parts)
        history.commit(action, action.perform(self.database.collection(name)).lsn)

    def _known(self, history, documents):
        """Leave out the deletion of documents that are not there."""
        there = history.states[-1].documents
        return {key: value for key, value in documents.items() if value is not None or key in there}

    def undo(self, name, history):
        then = self.rng.randint(max(0, history.last_lsn - 25), history.last_lsn)
        kind = self.rng.randrange(4)
        ids = tuple(self.rng.sample(IDS, 6)) if kind in {1, 3} else None
        where = {"color": self.rng.choice(COLORS[:3])} if kind in {2, 3} else None
        change = Undo(then, ids, where)
        before = history.last_lsn
        undone = change.perform(self.database.collection(name))
        history.commit(change, undone.lsn)
        if undone.backup is None:
            assert undone.lsn == before
        else:
            rows = history.states[-1].rows.values()
            assert undone.restored == sum(row.lsn == undone.lsn for row in rows)
            self.database.delete_backup(undone.backup)

    def tag(self, name, history):
        lsn = self.rng.randint(0, history.last_lsn)
        tag = Tag(f"tag {self.commits}", lsn)
        history.commit(tag, tag.perform(self.database.collection(name)).lsn)
        assert self.database.collection(name).tags()[tag.name] == lsn

    def clone(self, name, history):
        lsn = self.rng.choice((None, self.rng.randint(0, history.last_lsn)))
        made = self.database.collection(name).clone(self._new(), as_of=lsn)
        assert made.lsn == (history.last_lsn if lsn is None else lsn)
        self.histories[made.name] = history.until(made.lsn)

    def backup(self, name, history):
        independent = self.rng.random() < 0.3
        made = self.database.collection(name).backup("why", independent=independent)
        assert (made.lsn, made.rows) == (history.last_lsn, len(history.states[-1].rows))
        self.backups[made.name] = history.until(made.lsn)

    def restore(self, _name, _history):
        if not self.backups:
            return
        chosen = self.rng.choice(sorted(self.backups))
        with self.database.preview(chosen) as preview:
            self.check(preview, self.backups[chosen], 3)
        verify = self.rng.choice(("quick", "full"))
        made = self.database.restore(chosen, self._new(), verify=verify)
        self.histories[made.name] = self.backups[chosen].until(made.lsn)
        if self.rng.random() < 0.7:
            self.database.delete_backup(chosen)
            del self.backups[chosen]

    def delete_and_restore(self, name, history):
        self.database.delete_collection(name)
        (entry,) = self.database.trash()
        if self.rng.random() < 0.5:
            self.reopen()
        with self.database.preview(entry.name) as preview:
            self.check(preview, history, 3)
        new_name = self.rng.choice((None, self._new()))
        del self.histories[name]
        self.histories[self.database.restore(entry.name, new_name).name] = history

    def flush(self, name, _history):
        self.database.collection(name).flush()

    def _new(self):
        self.made += 1
        return f"copy-{self.made}"

    # --- judging ---

    def check(self, collection, history, number):
        """Compare the newest state and some of those before."""
        count = min(number, history.last_lsn + 1)
        lsns = self.rng.sample(range(history.last_lsn + 1), count)
        wrong = check_reads(collection, history, {history.last_lsn, *lsns})
        assert wrong is None, f"{collection.name}: {wrong}"

    def check_all(self, number):
        assert self.database.collections() == sorted(self.histories)
        for name, history in self.histories.items():
            collection = self.database.collection(name)
            assert collection.stats().last_lsn == history.last_lsn
            self.check(collection, history, number)

    def step(self):
        self.clock.advance(self.rng.choice((0.001, 1, 60)))
        name = self.rng.choice(sorted(self.histories))
        calls = {
            "write": 100, "undo": 6, "tag": 1, "flush": 1, "delete_and_restore": 1, "backup": 1,
            "clone": 1, "restore": 1,
        }  # fmt: skip
        call = self.rng.choices(list(calls), list(calls.values()))[0]
        history = self.histories[name]
        before = history.last_lsn
        getattr(self, call)(name, history)
        self.counts[call] += 1
        self.commits += history.last_lsn - before
        if self.rng.random() < 0.01:
            self.reopen()
        if self.rng.random() < 0.05:
            self.check_all(4)
        while len(self.histories) > COLLECTIONS_MAX:  # the youngest has the least of its own
            gone = self.rng.choice(sorted(set(self.histories) - {name}))
            self.database.hard_delete(gone)
            del self.histories[gone]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_state_of_a_long_history_reads_as_it_was_in_the_clones_as_well(seed):
    run = Run(seed)
    while run.commits < COMMITS:
        try:
            run.step()
        except BaseException as error:
            error.add_note(f"seed {seed}, after {run.commits} commits, {dict(run.counts)}")
            raise
    print(
        f"seed {seed}: {dict(run.counts)}, {[h.last_lsn for h in run.histories.values()]} commits"
    )
    assert min(run.counts[call] for call in ("undo", "clone", "restore", "backup")) >= 1
    run.check_all(COMMITS)
    run.reopen()
    run.check_all(COMMITS)
    for name, history in run.backups.items():
        with run.database.preview(name) as preview:
            run.check(preview, history, COMMITS)
    run.database.close()
    assert run.disk.handle_count == 0
