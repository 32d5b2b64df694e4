"""Power cuts and failing calls during an import: all of the new collection is there, or none.

With `replace` the old collection is there until the new one is, or in the trash; its backup is
whole. Nothing half-made is left once the directory has been opened again.
"""

import errno
import gc
import itertools
import os
from collections import Counter
from random import Random

import numpy as np
import pytest
from tests.model.legacy_directories import OldDirectory

from dvecdb.errors import Code, DvecdbError
from dvecdb.rescue.database import Database
from dvecdb.settings import Settings
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.crash import crash, enumerate_states, sync_after_rename
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.faults import SPACE_CALLS, FailingFiles
from dvecdb.testing.recording import PATH, open_on, seeded_uuids

pytestmark = [pytest.mark.crash, pytest.mark.slow]

SOAK = "DVECDB_SOAK" in os.environ
PER_OPERATION = 300 if SOAK else 80
STATES_MIN = 200
ROWS, DIMENSION = 7, 3
TINY = Settings(
    wal_reserve_bytes=1_024, wal_extend_bytes=1_024, ballast_bytes=0, low_water_bytes=0,
)  # fmt: skip
FAULTS = {
    "EIO once": {"error": errno.EIO},
    "EIO for ever": {"error": errno.EIO, "once": False},
    "EIO afterwards": {"error": errno.EIO, "before": False},
    "ENOSPC for ever": {"error": errno.ENOSPC, "once": False, "operations": SPACE_CALLS},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    old = OldDirectory("A0", seed=3)
    old.collection("faces", ROWS, DIMENSION)
    path = tmp_path_factory.mktemp("old") / "data"
    old.write_to(path)
    return str(path / "faces")


@pytest.fixture(scope="module")
def content(source):
    """Every row of the source, by an import that nothing disturbs."""
    with open_on(MemoryDisk(), TINY) as database:
        database.import_legacy(source, "faces")
        return rows_of(database, "faces")


def rows_of(database, name):
    collection = database.collection(name)
    rows = [
        (record.id, record.vector.tobytes(), repr(record.metadata))
        for record in collection.scan(with_vectors=True)
    ]
    assert collection.verify().ok
    assert len(rows) == collection.count()
    return rows


def begin(database):
    docs = database.create_collection("docs", dimension=2)
    docs.upsert(ids=["a", "b"], vectors=[[1, 2], [3, 4]])
    return rows_of(database, "docs")


def judge(disk, content, old, *, imported, replaced):
    """Check what a disk holds; imported, replaced: whether these were acknowledged."""
    with open_on(disk, TINY, seed=9) as database:
        assert database.findings() == []
        names = set(database.collections())
        assert names <= {"docs", "new"}
        assert not imported or "new" in names
        if "new" in names:
            assert rows_of(database, "new") == content
        thrown = [item.name for item in database.trash()]
        if "docs" in names and rows_of(database, "docs") != old:
            assert rows_of(database, "docs") == content
            assert len(thrown) == 1
        else:
            assert not replaced
            assert ("docs" in names) is not bool(thrown)
        for name in thrown:
            with database.preview(f".deleted/{name}") as preview:
                assert preview.count() == len(old)
        for backup in database.backups():
            assert database.verify_backup(backup.name).ok
    assert [path for path in disk.tree() if ".partial-" in path] == []


def recorded(source):
    disk = MemoryDisk()
    database = open_on(disk, TINY)
    with database:
        old = begin(database)
        first = len(disk.log)
        database.import_legacy(source, "new")
        disk.mark("imported")
        database.import_legacy(source, "docs", replace=True)
        disk.mark("replaced")
    return disk, old, first


def states_of(log, first, rng, per_operation):
    for state in enumerate_states(log, MemoryDisk(), per_operation=per_operation, rng=rng):
        if state.position >= first:
            yield state


def test_every_power_cut_leaves_all_of_an_import_or_nothing(source, content):
    disk, old, first = recorded(source)
    states = 0
    for state in states_of(disk.log, first, Random(11), PER_OPERATION):
        states += 1
        judge(
            state.disk, content, old,
            imported="imported" in state.marks, replaced="replaced" in state.marks,
        )  # fmt: skip
    print(f"{states} disks")
    assert states >= STATES_MIN


def test_a_rename_before_the_sync_is_caught(source, content):
    disk, old, first = recorded(source)
    wrong = 0
    late = sync_after_rename(disk.log, delay=40)
    for state in states_of(late, first, Random(11), 4):
        try:
            judge(state.disk, content, old, imported=False, replaced=False)
        except (AssertionError, DvecdbError, OSError):
            wrong += 1
    assert wrong


def bring(database, source, name):
    return database.import_legacy(source, name, replace=name == "docs")


@pytest.mark.parametrize("name", ["new", "docs"])
@pytest.mark.parametrize("fault", FAULTS)
def test_any_failing_call_is_reported_and_leaves_all_or_nothing(source, content, name, fault):
    start = MemoryDisk()
    with open_on(start, TINY) as database:
        old = begin(database)
    outcomes, rng = Counter(), Random(5)
    for k in itertools.count(1):
        disk = start.clone()
        disk.record = False
        faults = FailingFiles(disk, **FAULTS[fault])
        database = Database(
            PATH, files=faults, clock=ManualClock(), settings=TINY, new_uuid=seeded_uuids(k),
            background=False,
        )  # fmt: skip
        faults.calls, faults.fail_at = 0, k
        code = None
        try:
            bring(database, source, name)
        except DvecdbError as error:
            code = error.code
        has_failed, faults.fail_at = bool(faults.failed), None
        database.close()
        gc.collect()
        assert disk.handle_count == 0, f"call {k}: handles leak"
        assert code is None or code in set(Code)
        is_done = code is None
        for after in (disk.clone(), crash(disk, rng)):
            after.record = False
            judge(
                after, content, old,
                imported=is_done and name == "new", replaced=is_done and name == "docs",
            )  # fmt: skip
        if not is_done:
            with open_on(disk, TINY, seed=70) as database:
                if name not in database.collections() or name == "docs":
                    bring(database, source, name)
                assert rows_of(database, name) == content
        outcomes[str(code or "done")] += 1
        if not has_failed:
            break
    print(f"{name}, {fault}: {faults.calls} calls, {dict(outcomes)}")
    assert outcomes["done"]


def test_an_import_is_the_same_bits_as_the_source(source, content):
    assert len(content) == ROWS
    vectors = np.frombuffer(b"".join(row[1] for row in content), np.float32)
    assert vectors.shape == (ROWS * DIMENSION,)
