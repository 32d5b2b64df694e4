"""Every file call of every operation fails, with EIO and with ENOSPC, once and for ever.

The operation then succeeds or raises an error with a stable code. What was acknowledged is there
after reopening, and after a power cut; what failed is wholly there or not at all, and its
idempotency key settles which. A file whose sync failed is never synced again.
"""

import errno
import gc
import itertools
import os
from collections import Counter
from random import Random

import numpy as np
import pytest

from dvecdb.errors import Code, DiskFullError, DvecdbError, HandleError, OutcomeUnknownError
from dvecdb.rescue.database import Database
from dvecdb.settings import Settings
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.crash import Data, Names, crash
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.faults import FailingFiles, InterposedFiles
from dvecdb.testing.history import Action, History, check_reads
from dvecdb.testing.recording import PATH, Recorder, open_on, seeded_uuids

pytestmark = [pytest.mark.crash, pytest.mark.slow]

SOAK = bool(os.environ.get("DVECDB_SOAK"))
EVERY_CALL = {"EIO once", "ENOSPC for ever"}  # of the others every third, but in a soak
CALLS_MAX = 5_000  # of one operation: more is a loop that does not end
DIMENSION = 4
TINY = Settings(
    bulk_bytes=400, flush_bytes=1 << 20, flush_commits=1_000, merge_bytes=1 << 20, merge_count=50,
    wal_reserve_bytes=1_024, wal_extend_bytes=1_024, ballast_bytes=8_192, low_water_bytes=0,
    orphan_age_hours=0,
)  # fmt: skip
CARING = Settings(
    bulk_bytes=400, flush_bytes=1 << 20, flush_commits=2, merge_bytes=1 << 20, merge_count=2,
    wal_reserve_bytes=1_024, wal_extend_bytes=1_024, ballast_bytes=0, low_water_bytes=0,
    orphan_age_hours=0,
)  # fmt: skip


def rows(seed, ids, *, operation="upsert", **parts):
    vectors = np.random.default_rng(seed).standard_normal((len(ids), DIMENSION))
    metadata = tuple({"seed": seed} if number % 2 else None for number in range(len(ids)))
    return Action(operation, tuple(ids), vectors.astype(np.float32), metadata, **parts)


class CallLog(InterposedFiles):
    """Notes syncs that fail, refuses a second one, and refuses to go on for ever."""

    def __init__(self, inner):
        super().__init__(inner)
        self.calls = 0
        self.failed_syncs = set()
        self.second_syncs = []

    def _call(self, name, call, /, *arguments, **options):
        self.calls += 1
        assert self.calls < CALLS_MAX, "it does not end"
        if name == "sync" and arguments[0] in self.failed_syncs:
            self.second_syncs.append(arguments[0])
        try:
            return call(*arguments, **options)
        except OSError:
            if name == "sync":
                self.failed_syncs.add(arguments[0])
            raise


# --- where the operations start ----------------------------------------------------------------


def fill(recorder):
    recorder.open()
    recorder.create("docs", DIMENSION)
    recorder.write("docs", rows(1, "abcd"))
    recorder.database.collection("docs").flush()
    recorder.write("docs", rows(2, [f"bulk {number}" for number in range(26)]))
    recorder.write("docs", rows(3, "be", key="first"))
    recorder.database.collection("docs").flush()
    recorder.write("docs", Action("delete", deletes=("c", "bulk 4")))
    recorder.write("docs", Action("write", documents={("job", "cursor"): {"page": 3}}))


@pytest.fixture(scope="module")
def starts():
    """Disks to start from, and the history of their only collection."""
    closed, killed = (Recorder(MemoryDisk(), TINY) for _ in range(2))
    fill(closed)
    closed.close()
    fill(killed)
    histories = [next(iter(item.histories().values())) for item in (closed, killed)]
    return {
        "new": (MemoryDisk(), None),
        "closed": (closed.disk, histories[0]),
        "killed": (killed.disk.clone(), histories[1]),
    }


# --- operations ----------------------------------------------------------------------------------

WRITES = {
    "upsert": rows(11, "ax", key="k"),
    "insert": rows(12, "xyz", operation="insert", key="k"),
    "bulk": rows(13, ["a", *(f"more {number}" for number in range(30))], key="k"),
    "delete": Action("delete", deletes=("a", "bulk 7"), key="k"),
    "update": Action("update", ("b", "bulk 9"), metadata=({"n": 1}, {"n": 2}), key="k"),
    "write": rows(
        14, "ay", operation="write", deletes=("d",), documents={("job", "x"): 1}, key="k"
    ),
}


def check_all(collection, history):
    last = collection.stats().last_lsn
    wrong = check_reads(collection, history.until(last), {last, max(last - 1, 0), last // 2})
    assert wrong is None, wrong


CARE = {
    "create": lambda db, history: db.create_collection("new", dimension=3),
    "delete_collection": lambda db, history: db.delete_collection("docs"),
    "flush": lambda db, history: db.collection("docs").flush(),
    "verify": lambda db, history: db.collection("docs").verify(),
    "read": lambda db, history: check_all(db.collection("docs"), history),
    "close": lambda db, history: db.close(),
}
OPENS = {"open new": "new", "open closed": "closed", "open killed": "killed"}
FAULTS = {
    "EIO once": {"error": errno.EIO},
    "EIO for ever": {"error": errno.EIO, "once": False},
    "ENOSPC once": {"error": errno.ENOSPC},
    "ENOSPC for ever": {"error": errno.ENOSPC, "once": False},
    "EIO afterwards": {"error": errno.EIO, "before": False},
}


class Case:
    """One operation with one failing call, and everything that must hold after it."""

    def __init__(self, starts, operation, fault, k, settings=TINY):
        start = OPENS.get(operation, "closed")
        disk, self.history = starts[start]
        self.disk = disk.clone()
        self.disk.record = False
        self.operation, self.settings, self.k = operation, settings, k
        self.action = WRITES.get(operation.removesuffix(" with care"))
        self.faults = FailingFiles(self.disk, **FAULTS[fault])
        self.files = CallLog(self.faults)
        self.database, self.error, self.commit = None, None, None
        self.may = [] if self.history is None else [self.history]
        self.name = f"{operation}, call {k}, {fault}"

    @property
    def has_failed(self):
        return bool(self.faults.failed)

    def arm(self):
        self.faults.calls, self.faults.fail_at = 0, self.k

    def open(self):
        self.database = Database(
            PATH, files=self.files, clock=ManualClock(), settings=self.settings,
            new_uuid=seeded_uuids(self.k), background=False,
        )  # fmt: skip

    def run(self):
        if self.operation in OPENS:
            self.arm()
            self._try(self.open)
            if not self.has_failed:
                self.faults.fail_at = None
            return
        self.open()
        self.arm()
        if self.action is not None:
            after = History(self.history.states)
            after.commit(self.action, after.last_lsn + 1)
            self.may.append(after)
            self._try(lambda: self.action.perform(self.database.collection("docs")))
        else:
            self._try(lambda: CARE[self.operation](self.database, self.history))
        if not self.has_failed:
            self.faults.fail_at = None

    def _try(self, call):
        try:
            self.commit = call()
        except DvecdbError as error:
            assert error.code in set(Code)  # noqa: PT017
            self.error = error
        if self.action is not None:
            if self.error is None:
                self.may = self.may[1:]
            elif not isinstance(self.error, OutcomeUnknownError | HandleError):
                self.may = self.may[:1]

    # --- afterwards ---

    def check_handle(self):
        """The same handle serves what was acknowledged, or says that it cannot."""
        if self.database is None or self.operation in {"close", "delete_collection", "open new"}:
            return
        if self.error is not None and self.action is not None:
            try:
                stats = self.database.collection("docs").stats()
                assert stats.last_lsn == self.history.last_lsn, "a failed write is visible"
            except DvecdbError:
                pass
        try:
            check_all(self.database.collection("docs"), self.may[-1])
        except DvecdbError:
            assert self.has_failed
        if not self.faults.once or self.action is None:
            return
        try:
            commit = rows(99, "q").perform(self.database.collection("docs"))
        except DvecdbError as error:
            stopped = error.code in {Code.WRITES_STOPPED, Code.FENCED}
            assert stopped or isinstance(error, DiskFullError), error  # noqa: PT017
            assert not isinstance(self.error, DiskFullError), "a full disk must not latch"
            return
        assert not isinstance(self.error, OutcomeUnknownError), "writes must have stopped"
        for number, history in enumerate(self.may):
            self.may[number] = History(history.states)
        (history,) = self.may
        history.commit(rows(99, "q"), commit.lsn)

    def close(self):
        if self.database is not None:
            self.database.close()
        if self.error is not None:  # what its frames hold is held
            self.error = self.error.with_traceback(None)
            self.error.__cause__ = self.error.__context__ = None
        if self.disk.handle_count:
            gc.collect()
        assert self.disk.handle_count == 0, "handles leak"
        assert self.files.second_syncs == [], "synced again after a failed sync"

    def check_disks(self, rng):
        """Reopen on healthy storage: the disk as it is, and what power cuts may leave."""
        names = rng.choice((None, Names.NONE, Names.ALL))
        data = rng.choice((None, Data.NONE))
        for disk in (self.disk.clone(), crash(self.disk, rng, data=data, names=names)):
            disk.record = False
            self._check_disk(disk)

    def _check_disk(self, disk):
        with open_on(disk, TINY, seed=7) as database:
            if self.operation == "delete_collection":
                gone = self.error is None
                assert database.collections() == ([] if gone else database.collections())
                if not database.collections():
                    return
            if self.history is None:
                assert database.collections() == []
                return
            assert "docs" in database.collections(), database.findings()
            if self.operation == "create" and self.error is None:
                assert "new" in database.collections()
            collection = database.collection("docs")
            found = {history.last_lsn: history for history in self.may}
            last = collection.stats().last_lsn
            assert last in found, f"commit {last}, expected {sorted(found)}"
            check_all(collection, found[last])
            if self.action is not None:
                self._settle(collection, History(found[last].states))

    def _settle(self, collection, history):
        """The same call with the same key tells what became of it, and changes nothing twice."""
        commit = self.action.perform(collection)
        if self.commit is not None:
            assert commit == self.commit
        history.commit(self.action, commit.lsn)
        check_all(collection, history)


def run_all(starts, operation, fault, settings=TINY):
    outcomes, rng = Counter(), Random(5)
    step = 1 if SOAK or fault in EVERY_CALL else 3
    for k in itertools.count(1, step):
        case = Case(starts, operation, fault, k, settings)
        try:
            case.run()
            if not case.has_failed:
                assert case.error is None
            case.check_handle()
            case.close()
            case.check_disks(rng)
        except BaseException as error:
            error.add_note(case.name + f" ({case.faults.failed[:1]}); raised {case.error!r}")
            raise
        outcomes["done" if case.error is None else str(case.error.code)] += 1
        if not case.has_failed:
            break
    print(f"{operation}, {fault}: {case.faults.calls} calls, {dict(outcomes)}")
    return outcomes


SETTINGS = {"upsert with care": CARING, "delete with care": CARING}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("operation", [*OPENS, *WRITES, *SETTINGS, *CARE])
def test_any_failing_call_is_reported_and_loses_nothing(starts, operation, fault):
    settings = SETTINGS.get(operation, CARING if operation == "flush" else TINY)
    assert run_all(starts, operation, fault, settings)["done"] > 0
