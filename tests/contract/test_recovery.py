"""Recovery through every door: embedded, over HTTP and by asyncio the same calls do the same."""

import datetime as dt
import inspect
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tests.contract.doors import SETTINGS
from tests.contract.test_database import refused
from tests.unit.test_engine_input import everything

import dvecdb
from dvecdb import Settings
from dvecdb.api.limits import Limits
from dvecdb.client.aio import AsyncCollection, AsyncDatabase
from dvecdb.client.collection import RemoteCollection
from dvecdb.client.connection import RemoteDatabase
from dvecdb.clock import to_datetime
from dvecdb.errors import (
    Code,
    ConflictError,
    DamagedDataError,
    HandleError,
    InvalidRequestError,
    NotFoundError,
)
from dvecdb.protection.collection import Collection
from dvecdb.records import Backup, HardDeleted, Restored, TrashEntry, Undone
from dvecdb.rescue.database import Database
from dvecdb.testing.clocks import START_NS
from dvecdb.testing.serving import serving

HOUR = 3600
DATABASE_CALLS = [
    "trash", "backups", "restore", "preview", "verify_backup", "delete_backup", "hard_delete",
    "purge", "trust_clock", "delete_collection",
]  # fmt: skip
COLLECTION_CALLS = [
    "delete", "undo", "clone", "backup", "backups", "protect", "is_protected", "tag", "untag",
    "tags", "configure", "write",
]  # fmt: skip


@pytest.fixture
def books(database):
    """Two dimensions, three rows, one document; LSN 2."""
    books = database.create_collection("books", dimension=2, metric="euclidean")
    books.upsert(["a", "b", "c"], [[1, 0], [2, 0], [3, 0]], [{"n": 1}, {"n": 2}, None])
    books.write(documents={("jobs", "cursor"): 7})
    return books


def contents(collection):
    """Return vectors and metadata by id."""
    records = collection.scan(with_vectors=True)
    return {record.id: (record.vector.tolist(), record.metadata) for record in records}


def spoil(books):
    """Three bad commits after LSN 2: a changed, b deleted, d new."""
    books.upsert(["a"], [[9, 9]])
    books.delete(["b"])
    books.upsert(["d"], [[8, 8]], [{"n": 2}])


# --- signatures ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "others", "calls"),
    [
        (Database, (RemoteDatabase, AsyncDatabase), DATABASE_CALLS),
        (Collection, (RemoteCollection, AsyncCollection), COLLECTION_CALLS),
    ],
)
def test_the_same_calls_take_the_same_arguments(mine, others, calls):
    for name in calls:
        expected = list(inspect.signature(getattr(mine, name)).parameters.values())[1:]
        for other in others:
            found = list(inspect.signature(getattr(other, name)).parameters.values())[1:]
            assert [(item.name, item.kind, item.default) for item in found] == [
                (item.name, item.kind, item.default) for item in expected
            ], (other, name)
            assert getattr(other, name).__doc__


# --- the trash -------------------------------------------------------------------------------


def test_what_is_deleted_is_in_the_trash_and_comes_back(door, books):
    database, before = door.database, contents(books)
    door.clock.advance(60)
    database.delete_collection("books", actor="Zoë", reason="tidy: 100 %")
    door.clock.advance(HOUR)
    (entry,) = database.trash()
    assert isinstance(entry, TrashEntry)
    assert [entry] == door.engine.trash()
    assert (entry.collection, entry.actor, entry.reason, entry.rows) == (
        "books", "Zoë", "tidy: 100 %", 3,
    )  # fmt: skip
    assert (entry.name, entry.age_hours) == ("books_20231114_221420", 1.0)
    assert entry.path == os.path.join(os.path.abspath(door.path), ".deleted", entry.name)
    assert entry.deleted == to_datetime(START_NS + 60 * 10**9)
    assert entry.expires == entry.deleted + dt.timedelta(hours=24)
    refused(books.count, Code.COLLECTION_DELETED, HandleError)
    made = database.restore(entry.path)
    assert made == Restored("books", entry.name, 2, 3, 0, 0)
    assert isinstance(made, Restored)
    assert database.trash() == []
    assert contents(database.collection("books")) == before
    assert database.collection("books").history(9)[0].lsn == 2


def test_it_comes_back_under_another_name_and_never_over_an_existing_one(door, books):
    database = door.database
    database.delete_collection("books")
    (entry,) = database.trash()
    database.create_collection("books", dimension=1)
    error = refused(lambda: database.restore(entry.name), Code.COLLECTION_EXISTS, ConflictError)
    assert "new_name" in error.message
    made = database.restore(entry.name, "again", verify="full", actor="me", reason="why")
    assert (made.name, made.rows) == ("again", 3)
    assert database.collections() == ["again", "books"]


BAD_PATHS = [
    *("/etc/passwd", "..", ".", "books", ".deleted/..", "{root}/collections/books", "{path}/wal"),
    *("/other/.deleted/{name}", "{root}/.deleted/../.deleted/{name}"),
]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_paths_outside_are_refused(door, books, path):
    database = door.database
    database.delete_collection("books")
    (entry,) = database.trash()
    text = path.format(root=os.path.abspath(door.path), path=entry.path, name=entry.name)
    for call in (database.restore, database.preview):
        refused(lambda one=call: one(text), Code.PATH_NOT_ALLOWED, InvalidRequestError)
    assert database.trash() == [entry]


def test_what_is_not_there_is_not_found(database):
    gone = "books_20240101_000000"
    for path in (gone, f".deleted/{gone}"):
        refused(lambda one=path: database.restore(one), Code.TRASH_ENTRY_NOT_FOUND, NotFoundError)
    path = f".backups/{gone}"
    for call in (database.restore, database.preview):
        refused(lambda one=call: one(path), Code.BACKUP_NOT_FOUND, NotFoundError)
    for call in (database.verify_backup, database.delete_backup):
        refused(lambda one=call: one(gone), Code.BACKUP_NOT_FOUND, NotFoundError)
    refused(lambda: database.purge(names=[gone]), Code.TRASH_ENTRY_NOT_FOUND, NotFoundError)
    refused(lambda: database.hard_delete("none"), Code.COLLECTION_NOT_FOUND, NotFoundError)
    refused(lambda: database.restore(gone, verify="deep"), Code.INVALID_ARGUMENT)
    assert database.backups("none") == []


def test_the_trash_is_purged_by_age_and_by_name(door, books):
    database = door.database
    database.delete_collection("books")
    door.clock.advance(HOUR)
    database.create_collection("other", dimension=1)
    database.delete_collection("other")
    newer, older = [entry.name for entry in database.trash()]
    assert database.purge() == []
    assert database.purge(1.0, dry_run=True) == [older]
    assert len(database.trash()) == 2
    assert database.purge(1) == [older]
    assert database.purge(names=[newer], dry_run=True) == [newer]
    assert database.purge(names=[newer]) == [newer]
    assert database.trash() == []
    for bad in (-1, -0.001, float("nan"), float("inf"), "1", None, 1e9):
        refused(lambda one=bad: database.purge(one), Code.INVALID_ARGUMENT, InvalidRequestError)


def test_a_clock_that_jumped_purges_nothing_until_it_is_trusted(door, books):
    database = door.database
    database.delete_collection("books")
    door.clock.set_wall(door.clock.wall_ns() + 100 * HOUR * 10**9)
    refused(lambda: database.purge(24), Code.CLOCK_JUMPED, ConflictError)
    assert [finding.code for finding in database.findings()] == ["clock-jumped"]
    assert database.trust_clock() is None
    assert len(database.purge(24)) == 1


# --- previews --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["trash", "backup"])
@pytest.mark.parametrize("form", ["name", "path"])
def test_a_preview_is_read_as_a_collection(door, books, kind, form):
    database = door.database
    spoil(books)
    before = (contents(books), books.history(), books.stats().uuid)
    if kind == "backup":
        found = books.backup()
    else:
        database.delete_collection("books")
        (found,) = database.trash()
    with database.preview(getattr(found, form)) as preview:
        assert (preview.name, preview.schema.dimension) == ("books", 2)
        assert (contents(preview), preview.history(), preview.stats().uuid) == before
        assert preview.count() == 3
        assert preview.count(where={"n": 2}) == 1
        assert preview.count(as_of=2) == 3
        assert [hit.id for hit in preview.search([3, 0], limit=1)] == ["c"]
        assert [record and record.id for record in preview.get(["b", "c"])] == [None, "c"]
        assert preview.get(["b"], as_of=2)[0].metadata == {"n": 2}
        assert [record.id for record in preview.scroll(limit=2).records] == ["c", "a"]
        assert preview.documents.get("jobs", "cursor") == 7
        assert preview.documents.list("jobs") == {"cursor": 7}
        assert preview.snapshot(as_of=2).count() == 3
        refused(lambda: preview.search([1]), Code.WRONG_DIMENSION)
        refused(lambda: preview.count(as_of=99), Code.AS_OF_UNREADABLE)
    assert len(database.trash()) + len(database.backups()) == 1


# --- backups ---------------------------------------------------------------------------------


def test_a_backup_is_made_listed_verified_restored_and_deleted(door, books):
    database, before = door.database, contents(books)
    made = books.backup("nightly: 100 %", actor="Zoë")
    assert isinstance(made, Backup)
    assert made == door.engine.backups()[0]
    assert (made.collection, made.rows, made.lsn, made.reason, made.actor) == (
        "books", 3, 2, "nightly: 100 %", "Zoë",
    )  # fmt: skip
    assert (made.automatic, made.independent, made.verified, made.ok) == (False, False, None, None)
    door.clock.advance(60)
    books.flush()
    alone = books.backup(independent=True)
    assert alone.independent
    assert alone.own_bytes == alone.size_bytes
    assert books.backups() == database.backups() == database.backups("books") == [alone, made]
    assert database.backups("other") == []
    report = database.verify_backup(made.name)
    assert (report.collection, report.ok, report.findings) == ("books", True, [])
    verified = database.backups()[1]
    assert (verified.ok, verified.verified) == (True, to_datetime(door.clock.wall_ns()))
    spoil(books)
    for path, verify in ((made.name, "quick"), (alone.path, "full")):
        copy = database.restore(path, f"copy-{verify}", verify=verify)
        assert (copy.source, copy.rows) == (Path(path).name, 3)
        assert contents(database.collection(copy.name)) == before
    assert database.delete_backup(made.name) is None
    assert [backup.name for backup in database.backups()] == [alone.name]


def test_a_damaged_backup_is_refused_and_named(door, books):
    database = door.database
    books.flush()
    made = books.backup(independent=True)
    (path,) = Path(made.path).glob("segments/*/vectors.bin")
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    error = refused(
        lambda: database.restore(made.name, "copy", verify="full"),
        Code.BACKUP_DAMAGED, DamagedDataError,
    )  # fmt: skip
    assert error.details["problems"]
    assert error.advice == "restore"
    report = database.verify_backup(made.name)
    assert not report.ok
    assert report.findings
    assert database.collections() == ["books"]
    made = database.restore(made.name, "copy", verify="full", allow_damage=True)
    assert made.rows == 3
    refused(lambda: database.collection("copy").get(["a"]), Code.DAMAGED_DATA, DamagedDataError)


def test_what_is_removed_by_hand_is_not_listed(door, books):
    made = books.backup()
    door.database.delete_collection("books")
    (entry,) = door.database.trash()
    shutil.rmtree(entry.path)
    shutil.rmtree(made.path)
    assert door.database.trash() == door.database.backups() == []


def test_a_hard_delete_is_for_good_and_names_the_backups(door, books):
    database = door.database
    made = books.backup()
    refused(
        lambda: database.hard_delete("books", include_backups=True, backup=True),
        Code.INVALID_ARGUMENT, InvalidRequestError,
    )  # fmt: skip
    gone = database.hard_delete("books", actor="me", reason="why")
    assert isinstance(gone, HardDeleted)
    assert (gone.name, gone.backups) == ("books", [made.name])
    assert database.trash() == []
    database.restore(made.name)
    door.clock.advance(60)
    gone = database.hard_delete("books", backup=True)
    assert len(gone.backups) == 2
    database.restore(gone.backups[0])
    gone = database.hard_delete("books", include_backups=True)
    assert gone.backups == database.backups() == []
    assert gone.freed_bytes > 0


# --- one collection --------------------------------------------------------------------------


def test_a_protected_collection_stays(door, books):
    assert books.is_protected() is False
    commit = books.protect(actor="me", reason="precious")
    assert (commit.lsn, books.is_protected()) == (3, True)
    assert books.history(1)[0].actor == "me"
    for call in (door.database.delete_collection, door.database.hard_delete):
        error = refused(lambda one=call: one("books"), Code.COLLECTION_PROTECTED, ConflictError)
        assert error.details["name"] == "books"
    assert books.protect(deletion=False).lsn == 4
    assert not books.is_protected()
    door.database.delete_collection("books")


@pytest.mark.parametrize("how", ["to_lsn", "before", "to_time"])
def test_an_undo_is_a_commit_that_brings_the_earlier_state_back(door, books, how):
    before = contents(books)
    door.clock.advance(60)
    moment = to_datetime(door.clock.wall_ns())
    door.clock.advance(60)
    target = {"to_lsn": {"to_lsn": 2}, "before": {"before": 3}, "to_time": {"to_time": moment}}[how]
    spoil(books)
    books.write(documents={("jobs", "cursor"): 8})
    spoiled = contents(books)
    planned = books.undo(**target, dry_run=True)
    assert planned == Undone(6, 2, 2, 1, 1, dry_run=True, backup=None)
    assert contents(books) == spoiled
    done = books.undo(**target, actor="me", reason="bad import", idempotency_key="once")
    assert isinstance(done, Undone)
    assert (done.lsn, done.to_lsn, done.restored, done.removed, done.documents) == (7, 2, 2, 1, 1)
    assert contents(books) == before
    assert books.documents.get("jobs", "cursor") == 7
    assert [backup.name for backup in books.backups()] == [done.backup]
    assert books.history(1)[0].reason == "bad import"
    assert books.count(as_of=6) == 3
    books.upsert(["e"], [[1, 1]])
    assert books.undo(**target, idempotency_key="once").lsn == done.lsn
    assert books.count() == 4


def test_an_undo_of_some_rows_leaves_the_rest(books):
    spoil(books)
    done = books.undo(to_lsn=2, ids=["a", "zz"])
    assert (done.restored, done.removed, done.documents) == (1, 0, 0)
    assert sorted(contents(books)) == ["a", "c", "d"]
    done = books.undo(to_lsn=2, where={"n": 2})
    assert (done.restored, done.removed) == (1, 1)
    assert sorted(contents(books)) == ["a", "b", "c"]


BAD_UNDOS = {
    "nothing": ({}, Code.INVALID_ARGUMENT),
    "two": ({"to_lsn": 1, "before": 2}, Code.INVALID_ARGUMENT),
    "future": ({"to_lsn": 99}, Code.AS_OF_UNREADABLE),
    "negative": ({"to_lsn": -1}, Code.AS_OF_UNREADABLE),
    "before all": ({"before": 0}, Code.INVALID_ARGUMENT),
    "long ago": ({"to_time": dt.datetime(1999, 1, 1, tzinfo=dt.UTC)}, Code.AS_OF_UNREADABLE),
    "no zone": ({"to_time": dt.datetime(2023, 1, 1)}, Code.INVALID_ARGUMENT),  # noqa: DTZ001
    "bad filter": ({"to_lsn": 1, "where": ["n"]}, Code.INVALID_ARGUMENT),
    "bad ids": ({"to_lsn": 1, "ids": "a"}, Code.INVALID_ARGUMENT),
    "bad id": ({"to_lsn": 1, "ids": [""]}, Code.INVALID_ID),
}


@pytest.mark.parametrize("what", BAD_UNDOS)
def test_a_bad_undo_changes_nothing(door, books, what):
    given, code = BAD_UNDOS[what]
    before = everything(door.engine.collection("books"))
    refused(lambda: books.undo(**given), code, InvalidRequestError)
    assert everything(door.engine.collection("books")) == before
    assert door.database.backups() == []


def test_a_clone_is_of_a_state_and_goes_its_own_way(door, books):
    database, before = door.database, contents(books)
    spoil(books)
    made = books.clone("then", as_of=2, actor="me", reason="compare")
    assert isinstance(made, Restored)
    assert (made.name, made.source, made.rows) == ("then", "books", 3)
    assert contents(database.collection("then")) == before
    books.clone("now")
    database.collection("then").delete(["a"])
    assert contents(database.collection("now")) == contents(books)
    refused(lambda: books.clone("then"), Code.COLLECTION_EXISTS, ConflictError)
    refused(lambda: books.clone("a/b"), Code.INVALID_NAME, InvalidRequestError)
    refused(lambda: books.clone("x", as_of=99), Code.AS_OF_UNREADABLE, InvalidRequestError)
    assert database.collections() == ["books", "now", "then"]


def test_records_are_deleted_by_a_filter(books):
    commit = books.delete(where={"n": 2}, actor="me", idempotency_key="once")
    assert (commit.lsn, commit.ids, commit.count) == (3, [], 1)
    assert books.delete(where={"n": 2}, idempotency_key="once").count == 1
    assert sorted(contents(books)) == ["a", "c"]
    assert books.delete(where={"n": 77}).count == 0
    for given in ({}, {"ids": ["a"], "where": {}}, {"where": ["n"]}):
        refused(lambda one=given: books.delete(**one), Code.INVALID_ARGUMENT)
    assert sorted(contents(books)) == ["a", "c"]


def test_a_deletion_of_most_rows_is_confirmed_or_refused(start):
    door = start(guard_rows=2)
    books = door.database.create_collection("books", dimension=1)
    books.upsert([f"{n}" for n in range(5)], np.zeros((5, 1)), [{"n": 1}] * 5)
    ids = ["0", "1", "2"]
    for call in (
        lambda **given: books.delete(ids, **given),
        lambda **given: books.delete(where={"n": 1}, **given),
        lambda **given: books.write(deletes=ids, **given),
    ):
        error = refused(call, Code.CONFIRMATION_NEEDED, ConflictError)
        assert error.details["total"] == 5
        assert error.details["rows"] >= 3
        assert books.count() == 5
        assert call(confirm=True).count >= 3
        books.undo(to_lsn=1)
        door.clock.advance(60)
    assert all(backup.automatic for backup in books.backups())


def test_tags_name_states(books):
    assert books.tags() == {}
    assert books.tag("v1", actor="me") == 2
    assert books.tag("first/ü", 1) == 1
    assert books.tags() == {"first/ü": 1, "v1": 2}
    refused(lambda: books.tag("v1", 1), Code.CONDITION_FAILED, ConflictError)
    refused(lambda: books.tag("v2", 99), Code.AS_OF_UNREADABLE, InvalidRequestError)
    for bad in ("", "x" * 65):
        refused(lambda one=bad: books.tag(one), Code.INVALID_ARGUMENT, InvalidRequestError)
    assert books.untag("first/ü") is None
    refused(lambda: books.untag("first/ü"), Code.ID_NOT_FOUND, NotFoundError)
    assert books.tags() == {"v1": 2}


def test_a_collection_keeps_settings_of_its_own(door, books):
    assert books.configure({"trash_hours": 48}).lsn == 3
    for bad in ({"trash_hours": -1}, {"trash_hours": "1"}, {"history_hours": 1.5}):
        refused(lambda one=bad: books.configure(one), Code.INVALID_ARGUMENT, InvalidRequestError)
    door.database.delete_collection("books")
    (entry,) = door.database.trash()
    assert entry.expires == entry.deleted + dt.timedelta(hours=48)


# --- over the network ------------------------------------------------------------------------


def test_a_restore_that_outlasts_its_request_goes_on_and_is_whole(tmp_path):
    path, limits = str(tmp_path / "data"), Limits(request_timeout_seconds=0.2)
    with (
        serving(path, limits=limits, settings=Settings(**SETTINGS)) as served,
        dvecdb.connect(served.url, attempts=2) as database,
    ):
        books = database.create_collection("books", dimension=1)
        books.upsert(["a"], [[1]])
        database.delete_collection("books")
        (entry,) = database.trash()
        with served.database._lock:  # nothing is restored while this is held
            error = refused(lambda: database.restore(entry.name), Code.DEADLINE_EXCEEDED)
            assert "may or may not have been done" in error.message
            assert database.collections() == []
        end = time.monotonic() + 30
        while not database.collections():
            assert time.monotonic() < end
        assert database.collection("books").get(["a"])[0].vector.tolist() == [1]
        assert database.trash() == []


def test_a_long_restore_is_a_task_that_no_deadline_ends(tmp_path):
    path, limits = str(tmp_path / "data"), Limits(request_timeout_seconds=0.2)
    with (
        serving(path, limits=limits, settings=Settings(**SETTINGS)) as served,
        dvecdb.connect(served.url, attempts=1) as database,
    ):
        books = database.create_collection("books", dimension=1)
        books.upsert(["a"], [[1]])
        database.delete_collection("books")
        (entry,) = database.trash()
        made = []
        restoring = threading.Thread(
            target=lambda: made.append(database.restore(entry.name, verify="full"))
        )
        with served.database._lock:
            restoring.start()
            restoring.join(1)  # five times as long as a request may take
            assert made == []
        restoring.join()
        assert made == [Restored("books", entry.name, 1, 1, 0, 0)]
