"""Recovery: delete and restore, backup beside writers, clone of the past, undo of everything.

Syncs are the disk's share: each is timed where it happens, and what a call takes beyond those it
is allowed is ours.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from typing import TYPE_CHECKING

from benchmarks.data import ids_of
from benchmarks.harness import MEMORY_FACTOR, Measure, Options, fresh, timed

from dvecdb import Database
from dvecdb.media.files import OsFiles
from dvecdb.testing.faults import InterposedFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import numpy.typing as npt

    from dvecdb import Collection

    Rows = npt.NDArray[np.float32]

BATCH = 1000
WRITERS = 4
FILE_SYNCS, DIRECTORY_SYNCS = 1, 2
BACKUP_SYNCS, BACKUP_SECONDS = 6, 0.010
SETTLE_SECONDS = 1.5


class TimedSyncs(InterposedFiles):
    """Files that note how long each sync of the thread that asks took."""

    def __init__(self) -> None:
        super().__init__(OsFiles())
        self._own = threading.local()
        self.together = 0  # syncs made at the same time as another one

    def _call(self, name, call, /, *arguments, **options):
        if name not in {"sync", "sync_directory"} or not hasattr(self._own, "seen"):
            return call(*arguments, **options)
        start = time.perf_counter()
        try:
            return call(*arguments, **options)
        finally:
            self._own.seen.append((name, time.perf_counter() - start))

    def sync_together(self, files, directories):
        start = time.perf_counter()
        self.inner.sync_together(files, directories)
        if hasattr(self._own, "seen"):
            self._own.seen.append(("sync_directory", time.perf_counter() - start))
            self.together += len(files) + len(directories) - 1

    def watch(self, call: Callable[[], object]) -> tuple[float, list[tuple[str, float]]]:
        """Return how long `call` took, and each sync in it."""
        self._own.seen = []
        start = time.perf_counter()
        call()
        took = time.perf_counter() - start
        seen = self._own.seen
        del self._own.seen
        return took, seen


def beyond(took: float, syncs: list[tuple[str, float]], files: int, directories: int) -> float:
    """Return the milliseconds of a call beyond so many syncs of files and of directories."""
    own = [seconds for name, seconds in syncs if name == "sync"][:files]
    names = [seconds for name, seconds in syncs if name == "sync_directory"][:directories]
    return (took - sum(own) - sum(names)) * 1e3


def _filled(path, rows: Rows, files: TimedSyncs) -> tuple[Database, Collection]:
    database = Database(str(path / "data"), files=files)
    docs = database.create_collection("docs", dimension=rows.shape[1])
    ids = ids_of(len(rows))
    for start in range(0, len(rows), BATCH):
        docs.upsert(ids[start : start + BATCH], rows[start : start + BATCH])
    docs.flush()
    return database, docs


def recovery(options: Options, rows: Rows) -> list[Measure]:
    """Every row of the table, on one collection after the other."""
    measures = [
        Measure("delete beyond its syncs", "ms", []),
        Measure("restore beyond its syncs", "ms", []),
        Measure("backup beside 4 writers", "ms", []),
        Measure("backup: 6 syncs + 10 ms, over it", "ms", []),
        Measure("backup: extra bytes", "%", []),
        Measure("clone of the past beyond syncs", "ms", []),
        Measure("undo of all rows", "s", []),
    ]
    for _ in range(options.rounds):
        with fresh(options, MEMORY_FACTOR * rows.nbytes) as path:
            files = TimedSyncs()
            database, docs = _filled(path, rows, files)
            with database:
                _delete_and_restore(database, files, measures)
                docs = database.collection("docs")
                _clone(database, docs, files, measures)
                _backup(database, docs, rows, files, path, measures)
                _undo(docs, rows, measures)
    for measure, limit in zip(measures, (1.0, 1.0, None, 0.0, 1.0, 100.0, 3.0), strict=True):
        if limit is not None:
            measure.against(at_most=limit)
    return measures


def _delete_and_restore(database: Database, files: TimedSyncs, measures: list[Measure]) -> None:
    os.sync()
    took, syncs = files.watch(lambda: database.delete_collection("docs"))
    measures[0].values.append(beyond(took, syncs, FILE_SYNCS, DIRECTORY_SYNCS))
    measures[0].notes = {"ms": took * 1e3, "syncs": _counts(syncs)}
    entry = database.trash()[0].path
    took, syncs = files.watch(lambda: database.restore(entry))
    measures[1].values.append(beyond(took, syncs, FILE_SYNCS, DIRECTORY_SYNCS))
    measures[1].notes = {"ms": took * 1e3, "syncs": _counts(syncs)}


def _counts(syncs: list[tuple[str, float]]) -> str:
    names = [name for name, _ in syncs]
    return f"{names.count('sync')} + {names.count('sync_directory')}"


def _clone(
    database: Database, docs: Collection, files: TimedSyncs, measures: list[Measure]
) -> None:
    lsn = docs.stats().last_lsn // 2
    made = []
    took, syncs = files.watch(lambda: made.append(docs.clone("past", as_of=lsn)))
    own = sum(seconds for _, seconds in syncs)
    measures[5].values.append((took - own) * 1e3)
    measures[5].notes = {
        "ms": took * 1e3, "syncs": _counts(syncs), "rewritten": made[0].rows_rewritten
    }  # fmt: skip
    database.hard_delete("past")


def _backup(
    database: Database,
    docs: Collection,
    rows: Rows,
    files: TimedSyncs,
    path,
    measures: list[Measure],
) -> None:
    before = _disk_bytes(path)
    with _writers(docs, rows) as ends:
        time.sleep(0.5)
        one = statistics.median(_plain_syncs(path, rows))
        made = []
        took, syncs = files.watch(lambda: made.append(docs.backup()))
    del ends
    backup = made[0]
    measures[2].values.append(took * 1e3)
    measures[2].notes = {
        "syncs": _counts(syncs), "beyond them ms": beyond(took, syncs, 1000, 1000),
        "one sync ms": one * 1e3,
    }  # fmt: skip
    measures[3].values.append((took - BACKUP_SYNCS * one - BACKUP_SECONDS) * 1e3)
    measures[4].values.append(100 * backup.own_bytes / before)
    with database.preview(backup.path) as old:
        now = docs.snapshot(as_of=backup.lsn)
        pairs = zip(now.scan(with_vectors=True), old.scan(with_vectors=True), strict=True)
        assert all(
            a.id == b.id and a.lsn == b.lsn and (a.vector == b.vector).all() for a, b in pairs
        )
    database.delete_backup(backup.name)


class _writers:  # noqa: N801  # reads as a statement
    """Four threads that write a row a call for as long as the block lasts."""

    def __init__(self, docs: Collection, rows: Rows) -> None:
        self._docs, self._rows = docs, rows
        self._going = True
        self._threads = [
            threading.Thread(target=self._write, args=(number,)) for number in range(WRITERS)
        ]

    def _write(self, number: int) -> None:
        count = 0
        while self._going:
            count += 1
            self._docs.upsert([f"w{number}-{count}"], self._rows[count % 1000][None])

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._going = False
        for thread in self._threads:
            thread.join()


def _plain_syncs(path, rows: Rows) -> Iterator[float]:
    """Yield what a synced append takes beside the writers."""
    file = os.open(path / "plain", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for _ in range(20):
        start = time.perf_counter()
        os.write(file, rows[0])
        os.fdatasync(file)
        yield time.perf_counter() - start
    os.close(file)


def _disk_bytes(path) -> int:
    seen = {}
    for above, _, names in os.walk(path):
        for name in names:
            found = os.stat(os.path.join(above, name))
            seen[found.st_ino] = found.st_blocks * 512
    return sum(seen.values())


def _undo(docs: Collection, rows: Rows, measures: list[Measure]) -> None:
    good = docs.stats().last_lsn
    ids = ids_of(len(rows))
    bad = docs.upsert(ids, rows[::-1])
    time.sleep(SETTLE_SECONDS)
    os.sync()
    measures[6].values.append(timed(lambda: docs.undo(before=bad.lsn)))
    for start in range(0, len(rows), BATCH):
        for number, record in enumerate(docs.get(ids[start : start + BATCH]), start):
            assert (record.vector == rows[number]).all()
    then = docs.get(ids[:10], as_of=bad.lsn)
    assert all((record.vector == rows[-1 - n]).all() for n, record in enumerate(then))
    measures[6].notes = {"good": good, "bad": bad.lsn}
