"""Trash, backups and undo of the embedded database: what goes when, and what never goes."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from dvecdb import Database, Settings
from dvecdb.errors import Code, DvecdbError
from dvecdb.testing.clocks import ManualClock

HOUR = 3_600
SMALL = Settings(guard_rows=10, bulk_bytes=40_000, ballast_bytes=0, low_water_bytes=0)


class Place:
    """A data directory with a clock that is moved by hand."""

    def __init__(self, path, settings=SMALL):
        self.path, self.settings, self.clock = path, settings, ManualClock()
        self.db = None
        self.open()

    def open(self):
        self.db = Database(
            str(self.path), clock=self.clock, settings=self.settings, background=False
        )
        return self.db

    def reopen(self):
        self.db.close()
        return self.open()

    def fill(self, name="docs", rows=40):
        docs = self.db.create_collection(name, dimension=4)
        self.upsert(docs, range(rows), 1)
        return docs

    def upsert(self, docs, numbers, seed):
        numbers = list(numbers)
        vectors = np.random.default_rng(seed).random((len(numbers), 4), np.float32)
        metadata = [{"n": number, "half": number % 2} for number in numbers]
        return docs.upsert([f"id-{number}" for number in numbers], vectors, metadata)

    def settle(self, hours=1.0):
        self.clock.advance(hours * HOUR)


@pytest.fixture
def place(tmp_path):
    found = Place(tmp_path / "data")
    yield found
    found.db.close()


def rows_of(collection, as_of=None):
    return {
        record.id: (record.vector.tobytes(), record.metadata)
        for record in collection.scan(with_vectors=True, as_of=as_of)
    }


def refused(code, call, *arguments, **options):
    with pytest.raises(DvecdbError) as caught:
        call(*arguments, **options)
    assert caught.value.code is code
    return caught.value


# --- the trash ---


def test_an_entry_expires_when_its_time_is_up_and_not_before(place):
    place.fill()
    place.settle()
    place.db.delete_collection("docs", actor="ann", reason="old")
    entry = place.db.trash()[0]
    assert (entry.collection, entry.actor, entry.reason, entry.rows) == ("docs", "ann", "old", 40)
    place.settle(23.9)
    assert place.db.tend() == []
    place.settle(0.2)
    assert place.db.tend() == [entry.name]
    assert place.db.trash() == []
    refused(Code.TRASH_ENTRY_NOT_FOUND, place.db.restore, entry.name)


def test_a_collection_may_have_its_own_time_in_the_trash(place):
    docs = place.fill()
    docs.configure({"trash_hours": 100})
    place.db.delete_collection("docs")
    place.settle(99)
    assert place.db.tend() == []
    place.settle(1)
    assert [name[:5] for name in place.db.tend()] == ["docs_"]


@pytest.mark.parametrize("value", [-1, 1.5, "24", True, 10**9])
def test_hours_that_cannot_be_are_refused(place, value):
    docs = place.fill()
    refused(Code.INVALID_ARGUMENT, docs.configure, {"trash_hours": value})
    refused(Code.INVALID_ARGUMENT, docs.configure, {"protection": {"deletion": False}})
    assert place.db.backups() == []


def test_purge_takes_what_is_older_and_says_so_before(place):
    for name in "abc":
        place.fill(name, 3)
        place.settle()
        place.db.delete_collection(name)
    oldest = [item.name for item in reversed(place.db.trash())]
    place.settle(0.5)
    assert place.db.purge(1.5, dry_run=True) == oldest[:2]
    assert len(place.db.trash()) == 3
    assert place.db.purge(1.5) == oldest[:2]
    assert place.db.purge() == []
    assert place.db.purge(names=[oldest[2]]) == [oldest[2]]
    refused(Code.TRASH_ENTRY_NOT_FOUND, place.db.purge, names=["a_20200101_000000"])
    for bad in (-1, "x", float("nan"), None):
        refused(Code.INVALID_ARGUMENT, place.db.purge, bad)


def test_a_clock_that_jumped_purges_nothing_by_age(place):
    place.fill()
    place.db.delete_collection("docs")
    place.settle()
    place.clock.set_wall(place.clock.wall_ns() + 400 * 24 * HOUR * 10**9)
    assert place.db.tend() == []
    refused(Code.CLOCK_JUMPED, place.db.purge, 24)
    assert [item.code for item in place.db.findings()] == ["clock-jumped"]
    assert len(place.db.trash()) == 1
    place.db.trust_clock()
    assert place.db.findings() == []
    assert len(place.db.tend()) == 1


def test_a_budget_lets_the_oldest_go_early(tmp_path):
    place = Place(tmp_path / "data", Settings(ballast_bytes=0, trash_bytes_max=1))
    for name in "ab":
        place.fill(name, 3)
        place.db.delete_collection(name)
        place.settle()
    place.clock.advance(1)
    place.db.create_collection("c", dimension=1)
    place.db.delete_collection("c")
    gone = place.db.tend()
    assert [name[0] for name in gone] == ["a", "b"]
    assert [item.collection for item in place.db.trash()] == ["c"]
    place.db.close()


def test_a_restore_in_the_same_process_goes_on_where_it_was(place):
    docs = place.fill()
    held = docs.snapshot()
    before, lsn = rows_of(docs), docs.stats().last_lsn
    place.db.delete_collection("docs")
    refused(Code.COLLECTION_DELETED, docs.count)
    assert held.count() == 40
    made = place.db.restore(place.db.trash()[0].path)
    again = place.db.collection("docs")
    assert (made.lsn, made.rows, made.rows_rewritten) == (lsn, 40, 0)
    assert rows_of(again) == before
    assert place.upsert(again, [1], 9).lsn == lsn + 1
    place.reopen()
    assert place.db.findings() == []
    assert place.db.collection("docs").stats().last_lsn == lsn + 1
    assert not list(place.path.rglob("deletion.json"))


def test_five_deleted_collections_all_come_back(place):
    kept = {name: rows_of(place.fill(name, 5)) for name in "abcdef"}
    for name in kept:
        place.db.delete_collection(name)
    for entry in place.db.trash():
        place.db.restore(entry.name)
    assert {name: rows_of(place.db.collection(name)) for name in kept} == kept
    refused(Code.COLLECTION_NOT_FOUND, place.db.collection, "g")


def test_a_restore_never_overwrites(place):
    before = rows_of(place.fill())
    place.db.delete_collection("docs")
    entry = place.db.trash()[0].name
    place.fill(rows=3)
    error = refused(Code.COLLECTION_EXISTS, place.db.restore, entry)
    assert "new_name" in error.message
    refused(Code.COLLECTION_EXISTS, place.db.restore, entry, "DOCS")
    refused(Code.INVALID_NAME, place.db.restore, entry, "deleted")
    place.db.restore(entry, "old")
    assert rows_of(place.db.collection("old")) == before
    assert place.db.collection("docs").count() == 3


def test_what_was_put_into_the_trash_by_hand_is_not_mistaken_for_what_is_held_open(place):
    place.fill()
    place.db.delete_collection("docs")
    entry = Path(place.db.trash()[0].path)
    other = place.fill("other", 7)
    place.db.delete_collection("other")
    shutil.rmtree(entry)
    (place.path / ".deleted" / place.db.trash()[0].name).rename(entry)
    made = place.db.restore(str(entry), "docs")
    assert made.rows == 7
    refused(Code.COLLECTION_DELETED, other.count)


def test_links_are_not_followed(place, tmp_path):
    place.fill()
    place.db.delete_collection("docs")
    entry = Path(place.db.trash()[0].path)
    place.reopen()
    outside = tmp_path / "outside"
    entry.rename(outside)
    entry.symlink_to(outside)
    refused(Code.TRASH_ENTRY_NOT_FOUND, place.db.restore, entry.name)
    refused(Code.TRASH_ENTRY_NOT_FOUND, place.db.preview, str(entry))
    assert place.db.purge(0) == []
    assert (outside / "collection.json").exists()


# --- protection and the guard ---


def test_protection_holds_until_it_is_lifted(place):
    docs = place.fill()
    docs.protect()
    place.reopen()
    docs = place.db.collection("docs")
    refused(Code.COLLECTION_PROTECTED, place.db.delete_collection, "docs")
    refused(Code.COLLECTION_PROTECTED, place.db.hard_delete, "docs")
    refused(Code.COLLECTION_PROTECTED, place.db.hard_delete, "docs", backup=True)
    assert place.db.backups() == []
    docs.undo(to_lsn=1)
    refused(Code.COLLECTION_PROTECTED, place.db.delete_collection, "docs")
    assert docs.count() == 40
    docs.protect(deletion=False)
    place.db.delete_collection("docs")


def test_a_large_deletion_is_confirmed_and_backed_up(place):
    docs = place.fill()
    ids = [f"id-{number}" for number in range(21)]
    error = refused(Code.CONFIRMATION_NEEDED, docs.delete, ids)
    assert error.details == {"rows": 21, "total": 40}
    refused(Code.CONFIRMATION_NEEDED, docs.write, deletes=ids)
    assert docs.count() == 40
    assert docs.delete(ids[:20]).count == 20
    assert place.db.backups() == []
    assert docs.delete([f"id-{n}" for n in range(20, 40)], confirm=True).count == 20
    found = place.db.backups()
    assert [(item.automatic, item.rows) for item in found] == [(True, 20)]


def test_a_deletion_by_filter_takes_what_matches(place):
    docs = place.fill()
    assert docs.delete(where={"half": 1}).count == 20
    assert {record.metadata["half"] for record in docs.scan()} == {0}
    assert docs.delete(where={"half": 1}).count == 0
    refused(Code.CONFIRMATION_NEEDED, docs.delete, where={"half": 0})
    refused(Code.INVALID_ARGUMENT, docs.delete)
    refused(Code.INVALID_ARGUMENT, docs.delete, ["a"], where={"half": 0})
    assert docs.delete(where={"half": 0}, confirm=True).count == 20


# --- undo ---


def test_undo_brings_back_all_or_some_and_can_be_undone(place):
    docs = place.fill()
    docs.write(documents={("job", "cursor"): 1})
    good, lsn = rows_of(docs), docs.stats().last_lsn
    bad = place.upsert(docs, range(30, 60), 2)
    docs.delete(["id-0", "id-1"])
    docs.write(documents={("job", "cursor"): 2, ("job", "new"): 3})
    worse = rows_of(docs)
    assert docs.undo(to_lsn=lsn, dry_run=True).restored == 12
    assert rows_of(docs) == worse
    assert place.db.backups() == []
    some = docs.undo(before=bad.lsn, ids=["id-0", "id-31", "id-55", "nobody"])
    assert (some.restored, some.removed, some.documents) == (2, 1, 0)
    assert docs.documents.get("job", "cursor") == 2
    halves = docs.undo(to_lsn=lsn, where={"half": 1})
    assert (halves.restored, halves.removed) == (5, 9)
    rest = docs.undo(to_lsn=lsn)
    assert (rest.restored, rest.removed, rest.documents) == (5, 10, 2)
    assert rows_of(docs) == good
    assert docs.documents.list("job") == {"cursor": 1}
    nothing = docs.undo(to_lsn=lsn)
    assert (nothing.restored, nothing.backup, nothing.lsn) == (0, None, rest.lsn)
    docs.undo(before=some.lsn)
    assert rows_of(docs) == worse
    assert rows_of(docs, as_of=rest.lsn) == good
    assert docs.history(1)[0].operation == "undo"


def test_undo_refuses_what_cannot_be_read(place):
    docs = place.fill()
    last = docs.stats().last_lsn
    refused(Code.AS_OF_UNREADABLE, docs.undo, to_lsn=last + 1)
    refused(Code.AS_OF_UNREADABLE, docs.undo, before=last + 2)
    for bad in ({}, {"to_lsn": 1, "before": 1}, {"before": 0}, {"before": "1"}):
        refused(Code.INVALID_ARGUMENT, docs.undo, **bad)
    refused(Code.INVALID_ARGUMENT, docs.undo, to_lsn=0, where="x")
    assert place.db.backups() == []


def test_the_same_undo_with_the_same_key_is_one(place):
    docs = place.fill()
    bad = place.upsert(docs, range(40), 2)
    first = docs.undo(before=bad.lsn, idempotency_key="once")
    assert docs.undo(before=bad.lsn, idempotency_key="once").lsn == first.lsn
    assert len(place.db.backups()) == 1
    refused(Code.IDEMPOTENCY_KEY_REUSED, docs.undo, to_lsn=bad.lsn, idempotency_key="once")


# --- backups ---


def test_automatic_backups_are_kept_by_the_rule_and_others_for_ever(place):
    docs = place.fill()
    kept = docs.backup(reason="before the migration")
    for number in range(9):
        place.settle(24)
        place.upsert(docs, [number], number)
        docs.undo(to_lsn=1)
    assert len(place.db.backups()) == 10
    place.settle()
    assert len(place.db.tend()) == 2  # of 7 days and more, and not among the last 7
    place.settle(30 * 24)
    assert place.db.tend() == []
    left = place.db.backups("docs")
    assert len(left) == 8
    assert left[-1].name == kept.name
    place.db.hard_delete("docs", include_backups=True)
    assert place.db.backups() == []


def test_a_backup_is_verified_and_damage_in_it_is_found(place):
    docs = place.fill()
    docs.flush()
    made = docs.backup(independent=True)
    assert (made.verified, made.ok) == (None, None)
    assert place.db.verify_backup(made.name).ok
    place.settle()
    assert place.db.verify_backup(made.name).ok
    found = place.db.backups()[0]
    assert found.ok
    assert found.verified.timestamp() == place.clock.wall_ns() / 1e9
    assert len(list(Path(found.path).glob("verified-*"))) == 1
    (vectors,) = Path(found.path).rglob("vectors.bin")
    data = bytearray(vectors.read_bytes())
    data[100] ^= 4
    vectors.chmod(0o644)
    vectors.write_bytes(data)
    assert not place.db.verify_backup(made.name).ok
    assert place.db.backups()[0].ok is False
    place.db.delete_collection("docs")
    refused(Code.BACKUP_DAMAGED, place.db.restore, made.name, verify="full")
    assert place.db.collections() == []
    place.db.restore(made.name, verify="full", allow_damage=True)
    back = place.db.collection("docs")
    assert back.count() == 40
    refused(Code.DAMAGED_DATA, back.get, ["id-1"])
    vectors.unlink()
    error = refused(Code.BACKUP_DAMAGED, place.db.restore, made.name, "x")
    assert "vectors.bin: missing" in error.message


def test_both_flags_of_a_hard_delete_contradict_each_other(place):
    place.fill()
    refused(Code.INVALID_ARGUMENT, place.db.hard_delete, "docs", include_backups=True, backup=True)
    gone = place.db.hard_delete("docs", backup=True)
    assert gone.backups == [item.name for item in place.db.backups()]
    assert not list((place.path / ".deleted").iterdir())
    place.db.restore(gone.backups[0])
    assert place.db.collection("docs").count() == 40


def test_tags_name_states(place):
    docs = place.fill()
    place.upsert(docs, [1], 5)
    assert docs.tag("first", 1) == 1
    assert docs.tag("now") == 3
    assert docs.tag("first", 1) == 1
    refused(Code.CONDITION_FAILED, docs.tag, "first", 2)
    refused(Code.AS_OF_UNREADABLE, docs.tag, "never", 99)
    refused(Code.INVALID_ARGUMENT, docs.tag, "")
    assert docs.tags() == {"first": 1, "now": 3}
    docs.untag("now")
    refused(Code.ID_NOT_FOUND, docs.untag, "now")
    assert docs.tags() == {"first": 1}


# --- damage ---


def test_a_collection_that_does_not_open_can_be_deleted_and_is_not_purged_by_that(place):
    place.fill(rows=40)
    place.fill("other", 3)
    place.db.close()
    shutil.rmtree(place.path / "collections" / "docs" / "manifests")
    place.open()
    refused(Code.COLLECTION_DAMAGED, place.db.collection, "docs")
    place.db.delete_collection("docs", actor="ann")
    assert place.db.findings() == []
    entry = place.db.trash()[0]
    assert (entry.collection, entry.actor, entry.rows, entry.uuid) == ("docs", "ann", None, None)
    refused(Code.BACKUP_DAMAGED, place.db.restore, entry.name)
    assert [item.name for item in place.db.trash()] == [entry.name]
    place.fill(rows=2)
    assert place.db.collections() == ["docs", "other"]


def test_a_collection_that_does_not_open_can_be_deleted_for_good(place):
    place.fill()
    place.db.close()
    shutil.rmtree(place.path / "collections" / "docs" / "manifests")
    place.open()
    assert place.db.hard_delete("docs").freed_bytes > 1000
    assert place.db.findings() == []
    assert not list((place.path / ".deleted").iterdir())
    assert not list((place.path / "collections").iterdir())


def test_what_is_known_of_damage_comes_back_with_a_collection(place):
    docs = place.fill()
    docs.flush()
    (vectors,) = (place.path / "collections" / "docs").rglob("vectors.bin")
    vectors.chmod(0o644)
    data = bytearray(vectors.read_bytes())
    data[0] ^= 1
    vectors.write_bytes(data)
    place.reopen()
    refused(Code.DAMAGED_DATA, place.db.collection("docs").get, ["id-0"])
    known = place.db.findings()
    assert [item.code for item in known] == ["block-damaged"]
    place.db.delete_collection("docs")
    assert place.db.findings() == []
    place.db.restore(place.db.trash()[0].name)
    assert place.db.findings() == known


def test_what_is_held_open_in_the_trash_is_let_go_of_after_a_while(place):
    before = rows_of(place.fill())
    place.db.delete_collection("docs")
    assert len(place.db._parking._parked) == 1
    place.clock.advance(599)
    place.db._tend_all()
    assert len(place.db._parking._parked) == 1
    place.clock.advance(1)
    place.db._tend_all()
    assert len(place.db._parking._parked) == 0
    place.db.restore(place.db.trash()[0].name)
    assert rows_of(place.db.collection("docs")) == before
