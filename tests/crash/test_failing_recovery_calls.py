"""Every file call fails while collections are deleted, brought back, copied, undone and purged.

As `test_failing_calls.py`, for whole collections: an error with a stable code is reported; what is
there then, after reopening and after a power cut, is the world before, after, or on the way, all
of it whole; the same call then succeeds; and no handle leaks.
"""

import errno
import gc
import itertools
import os
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from dvecdb.errors import Code, DiskFullError, DvecdbError
from dvecdb.rescue.database import Database
from dvecdb.settings import Settings
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.crash import Data, Names, crash
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.faults import SPACE_CALLS, FailingFiles
from dvecdb.testing.history import Action, Undo
from dvecdb.testing.judging_worlds import judge_found
from dvecdb.testing.protecting import Prospect, ProtectionRecorder
from dvecdb.testing.recording import PATH, open_on, seeded_uuids
from dvecdb.testing.worlds import World, leaks, observe

pytestmark = [pytest.mark.crash, pytest.mark.slow]

SOAK = bool(os.environ.get("DVECDB_SOAK"))
DIMENSION = 4
DAY = 25 * 3_600
SETTINGS = Settings(
    bulk_bytes=24_000, flush_bytes=1 << 20, flush_commits=1_000, merge_bytes=1 << 20,
    merge_count=50, wal_reserve_bytes=1_024, wal_extend_bytes=1_024, ballast_bytes=8_192,
    low_water_bytes=0,
)  # fmt: skip
BULKY = replace(SETTINGS, bulk_bytes=64)
FAULTS = {
    "EIO once": {"error": errno.EIO},
    "EIO for ever": {"error": errno.EIO, "once": False},
    "EIO afterwards": {"error": errno.EIO, "before": False},
    "ENOSPC for ever": {"error": errno.ENOSPC, "once": False, "operations": SPACE_CALLS},
}
STRIDES = {"EIO once": 1, "ENOSPC for ever": 1}  # of the others every fifth call, but in a soak
OLD, COPY = "old_20231114_221320", "docs_20231114_221320"


def rows(seed, ids, **parts):
    vectors = np.random.default_rng(seed).standard_normal((len(ids), DIMENSION))
    metadata = tuple({"seed": seed} if number % 2 else None for number in range(len(ids)))
    return Action("upsert", tuple(ids), vectors.astype(np.float32), metadata, **parts)


def parked(database):
    if "docs" in database.collections():
        database.delete_collection("docs", actor="me", reason="me")
    (entry,) = (item.name for item in database.trash() if item.collection == "docs")
    database.restore(entry)


def record_parked(recorder):
    recorder.restore(recorder.throw_away("docs", note="me"), kind="restore")


def tend(database):
    database._clock.advance(DAY)
    database.tend()


def record_tend(recorder):
    recorder.advance(DAY)
    recorder.tend()


def docs(database):
    return database.collection("docs")


OPERATIONS = {
    "delete": (
        lambda db: db.delete_collection("docs", actor="me", reason="me"),
        lambda recorder: recorder.throw_away("docs", note="me"),
    ),
    "restore": (
        lambda db: db.restore(OLD), lambda recorder: recorder.restore(OLD, kind="restore"),
    ),
    "restore as another": (
        lambda db: db.restore(OLD, "new"),
        lambda recorder: recorder.restore(OLD, "new", kind="restore"),
    ),
    "delete and restore": (parked, record_parked),
    "restore backup": (
        lambda db: db.restore(COPY, "new", verify="full"),
        lambda recorder: recorder.restore(COPY, "new", kind="restore"),
    ),
    "backup": (
        lambda db: docs(db).backup("why"), lambda recorder: recorder.backup("docs", "why"),
    ),
    "independent backup": (
        lambda db: docs(db).backup("why", independent=True),
        lambda recorder: recorder.backup("docs", "why", independent=True),
    ),
    "delete backup": (
        lambda db: db.delete_backup(COPY), lambda recorder: recorder.delete_backup(COPY),
    ),
    "verify backup": (
        lambda db: db.verify_backup(COPY), lambda recorder: recorder.verify_backup(COPY),
    ),
    "undo": (
        lambda db: docs(db).undo(to_lsn=1), lambda recorder: recorder.undo("docs", Undo(1)),
    ),
    "bulk undo": (
        lambda db: docs(db).undo(to_lsn=1), lambda recorder: recorder.undo("docs", Undo(1)),
    ),
    "clone": (
        lambda db: docs(db).clone("new"), lambda recorder: recorder.clone("docs", "new", None),
    ),
    "clone of the past": (
        lambda db: docs(db).clone("new", as_of=2),
        lambda recorder: recorder.clone("docs", "new", 2),
    ),
    "purge": (lambda db: db.purge(0), lambda recorder: recorder.purge()),
    "hard-delete": (
        lambda db: db.hard_delete("docs", include_backups=True),
        lambda recorder: recorder.hard_delete("docs", "hard-delete", include_backups=True),
    ),
    "hard-delete with a backup first": (
        lambda db: db.hard_delete("docs", backup=True),
        lambda recorder: recorder.hard_delete("docs", "hard-delete", backup=True),
    ),
    "expiry": (tend, record_tend),
    "preview": (lambda db: look(db, OLD), lambda recorder: None),
}  # fmt: skip
"""What is called, and how a recorder does the same."""


def look(database, path):
    with database.preview(path) as preview:
        assert preview.count() == len(list(preview.scan(with_vectors=True)))


@pytest.fixture(scope="module")
def start():
    """A recorder of a closed directory: a collection, one in the trash, and a backup."""
    recorder = ProtectionRecorder(MemoryDisk(), SETTINGS)
    recorder.open()
    for name in ("old", "docs"):
        collection = recorder.create(name, DIMENSION)
        recorder.write(name, rows(1, "abcd"))
        recorder.write(name, rows(2, "be", key="k"))
        collection.flush()
        recorder.write(name, Action("delete", deletes=("c",)))
    recorder.throw_away("old", note="somebody")
    recorder.backup("docs", "before")
    recorder.write("docs", Action("write", documents={("job", "cursor"): {"page": 3}}))
    recorder.close()
    assert (set(recorder.world.trash), set(recorder.world.backups)) == ({OLD}, {COPY})
    return recorder


def settings_of(operation):
    return BULKY if operation == "bulk undo" else SETTINGS


def follow(start, operation):
    """Return a recorder that goes on where `start` ended and does the operation, unharmed."""
    recorder = ProtectionRecorder(
        start.disk.clone(), settings_of(operation), seed=50, worlds=[start.world],
        roots=dict(start.roots), attempts=list(start.attempts), times=dict(start.times),
    )  # fmt: skip
    recorder.open()
    OPERATIONS[operation][1](recorder)
    recorder.close()
    return recorder


class Case:
    """One operation with one failing call, and everything that must hold after it."""

    def __init__(self, start, reference, operation, fault, k):
        self.reference, self.operation, self.known = reference, operation, set(start.roots)
        self.disk = start.disk.clone()
        self.disk.record = False
        self.faults = FailingFiles(self.disk, **FAULTS[fault])
        self.clock, self.error = ManualClock(), None
        self.database = Database(
            PATH, files=self.faults, clock=self.clock, settings=settings_of(operation),
            new_uuid=seeded_uuids(k), background=False,
        )  # fmt: skip
        self.faults.calls, self.faults.fail_at = 0, k

    def run(self):
        try:
            OPERATIONS[self.operation][0](self.database)
        except DvecdbError as error:
            assert error.code in set(Code)  # noqa: PT017
            self.error = error
        has_failed, self.faults.fail_at = bool(self.faults.failed), None
        return has_failed

    def expected(self):
        """What may be there: after an error that says that nothing was done, not the end of it."""
        worlds = self.reference.worlds
        required = {lineage: root.lsn for lineage, root in self.reference.roots.items()}
        possible = dict(required)
        for attempt in self.reference.attempts:
            possible[attempt.uuid] = max(possible[attempt.uuid], attempt.lsn)
            if attempt.action.operation != "undo" or self.error is None:
                required[attempt.uuid] = possible[attempt.uuid]
        if self.error is None:
            worlds = worlds[-1:]
        elif (
            isinstance(self.error, DiskFullError)
            and len(worlds) > 1
            and "undo" not in self.operation
        ):
            worlds = worlds[:-1]
        horizons = dict.fromkeys(required, 0)
        return Prospect(worlds, required, possible, horizons, 0, is_settled=self.error is None)

    def same_lineages(self, world):
        """Return the world with the new lineages called as in the reference."""
        found = {}
        for what in ("living", "trash", "backups"):
            found[what] = {}
            for name, item in getattr(world, what).items():
                lineage = item if isinstance(item, str) else item.lineage
                for other in self.reference.worlds:
                    same = getattr(other, what).get(name)
                    if same is not None and lineage not in self.known:
                        renamed = same if isinstance(same, str) else same.lineage
                        item = renamed if isinstance(item, str) else item._replace(lineage=renamed)
                found[what][name] = item
        return World(**found)

    def close(self):
        self.database.close()
        if self.error is not None:  # what its frames hold is held
            self.error = self.error.with_traceback(None)
            self.error.__cause__ = self.error.__context__ = None
        if self.disk.handle_count:
            gc.collect()
        assert self.disk.handle_count == 0, "handles leak"

    def check_disks(self, rng):
        names, data = rng.choice((None, Names.NONE, Names.ALL)), rng.choice((None, Data.NONE))
        for disk in (self.disk.clone(), crash(self.disk, rng, data=data, names=names)):
            disk.record = False
            self._check_disk(disk)

    def _check_disk(self, disk):
        histories = self.reference.histories()
        clock = ManualClock(self.clock.wall_ns())
        with open_on(disk, settings_of(self.operation), seed=777, clock=clock) as database:
            world = self.same_lineages(observe(database, disk))
            wrong = judge_found(database, disk, world, self.expected(), histories)
            assert wrong == []
            last = self.reference.worlds[-1]
            is_done = last.difference(world, is_settled=False) is None
            is_gone = "docs" not in world.living and "hard" in self.operation
            if not is_gone and (not is_done or len(self.reference.worlds) == 1):
                OPERATIONS[self.operation][0](database)
                again = observe(database, disk)
                assert again.living.keys() == last.living.keys()
                assert len(again.trash) == len(last.trash)
            left = observe(database, disk)
        assert leaks(disk, left) == []


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_any_failing_call_is_reported_and_leaves_whole_collections(start, operation, fault):
    reference, outcomes, rng = follow(start, operation), Counter(), Random(5)
    for k in itertools.count(1, 1 if SOAK else STRIDES.get(fault, 5)):
        case = Case(start, reference, operation, fault, k)
        try:
            has_failed = case.run()
            assert has_failed or case.error is None
            case.close()
            case.check_disks(rng)
        except BaseException as error:
            where = f"{operation}, call {k}, {fault} ({case.faults.failed[:1]})"
            error.add_note(f"{where}; raised {case.error!r}")
            raise
        outcomes["done" if case.error is None else str(case.error.code)] += 1
        if not has_failed:
            break
    print(f"{operation}, {fault}: {case.faults.calls} calls, {dict(outcomes)}")
    assert outcomes["done"] > 0
