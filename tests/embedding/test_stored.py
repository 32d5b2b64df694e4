"""What the database already has, also when a part of it is damaged or goes while it is read."""

import tracemalloc

import pytest
from tests.embedding.lists import (
    COLLECTION,
    HashEmbedder,
    ListSource,
    check_lists,
    job_of,
    records,
    run_lists,
    vector_of,
)

import dvecdb
from dvecdb.embedding.events import AttemptFailed, Noted
from dvecdb.embedding.identity import row_id
from dvecdb.embedding.texts import TextIndex
from dvecdb.engine.collection import Collection
from dvecdb.engine.snapshot import Snapshot
from dvecdb.errors import Code, DamagedDataError, NotFoundError, UnavailableError
from dvecdb.protection.database import Database


@pytest.fixture
def database(tmp_path):
    with dvecdb.open(tmp_path / "data") as database:
        yield database


def rows(count):
    return {n: (f"text {n}", {"n": n}, n) for n in range(1, count + 1)}


def assert_equal(database, source):
    expected = {
        row_id("list", str(key)): vector_of(text).tobytes()
        for key, (text, _, _) in source.rows.items()
    }
    assert {id: vector for id, (vector, _) in records(database).items()} == expected


def damage(monkeypatch, ids):
    """Let these records be damaged, until they are written again."""
    damaged, get, write = set(ids), Collection.get, Collection.write

    def damaged_get(self, wanted, **options):
        found = damaged.intersection(wanted)
        if found:
            raise DamagedDataError(Code.DAMAGED_DATA, "damaged", ids=sorted(found))
        return get(self, wanted, **options)

    def healing_write(self, **parts):
        damaged.difference_update((parts.get("upserts") or {}).get("ids", ()))
        return write(self, **parts)

    monkeypatch.setattr(Collection, "get", damaged_get)
    monkeypatch.setattr(Collection, "write", healing_write)
    return damaged


def test_a_damaged_record_is_embedded_again_and_holds_up_no_other(database, monkeypatch):
    source, embedder = ListSource(rows(12)), HashEmbedder()
    run_lists(database, source, embedder)
    damaged = damage(monkeypatch, [row_id("list", "4"), row_id("list", "11")])
    checked = check_lists(database, source)
    assert (checked.good, checked.counts["damaged"]) == (10, 2)
    assert checked.listed["damaged"] == ["4", "11"]
    cursor = run_lists(database, source, embedder).sources["list"]
    assert (cursor.embedded, cursor.unchanged) == (2, 10)
    assert not damaged
    assert check_lists(database, source).ok
    assert_equal(database, source)


def test_hashes_that_cannot_be_read_cost_their_texts_and_nothing_else(database, monkeypatch):
    source, embedder, events = ListSource(rows(12)), HashEmbedder(), []
    run_lists(database, source, embedder)
    source.rows[13] = ("text 1", {}, 0)
    source.rows[14] = ("text 12", {}, 0)
    scan = Snapshot.scan

    def damaged_scan(self, **options):
        for number, record in enumerate(scan(self, **options)):
            if number == 6:
                raise DamagedDataError(Code.DAMAGED_DATA, "damaged")
            yield record

    monkeypatch.setattr(Snapshot, "scan", damaged_scan)
    cursor = run_lists(database, source, embedder, watch=events.append).sources["list"]
    assert (cursor.copied, cursor.embedded, cursor.unchanged) == (1, 1, 12)
    assert any(isinstance(event, Noted) and "in part" in event.message for event in events)


@pytest.mark.parametrize("when", ["opened", "scanned", "read"])
def test_a_trash_entry_may_go_at_any_moment(database, monkeypatch, when):
    source, embedder = ListSource(rows(12)), HashEmbedder()
    run_lists(database, source, embedder)
    database.delete_collection(COLLECTION)
    gone = NotFoundError(Code.TRASH_ENTRY_NOT_FOUND, "purged meanwhile")
    preview = Database.preview

    def fails(*_, **__):
        raise gone

    def open_then_fail(self, path):
        found = preview(self, path)
        if when == "opened":
            found.close()
            raise gone
        monkeypatch.setattr(found, "scan" if when == "scanned" else "get", fails)
        return found

    monkeypatch.setattr(Database, "preview", open_then_fail)
    cursor = run_lists(database, source, embedder).sources["list"]
    assert (cursor.embedded, cursor.copied) == (12, 0)
    assert_equal(database, source)


def test_a_trash_entry_is_not_skipped_because_the_server_is_away_for_a_moment(
    database, monkeypatch
):
    source, embedder, events = ListSource(rows(12)), HashEmbedder(), []
    run_lists(database, source, embedder)
    database.delete_collection(COLLECTION)
    preview, failures = Database.preview, iter(range(2))

    def away(self, path):
        if next(failures, None) is not None:
            raise UnavailableError(Code.UNREACHABLE, "away")
        return preview(self, path)

    monkeypatch.setattr(Database, "preview", away)
    cursor = run_lists(database, source, embedder, watch=events.append).sources["list"]
    assert (cursor.embedded, cursor.copied) == (0, 12)
    assert sum(isinstance(event, AttemptFailed) for event in events) == 2


def test_trash_of_another_embedder_and_of_no_job_is_closed_and_not_used(database, monkeypatch):
    source, other = ListSource(rows(5)), HashEmbedder(model="other")
    run_lists(database, source, other)
    database.delete_collection(COLLECTION)
    database.create_collection(COLLECTION, dimension=8)
    database.delete_collection(COLLECTION)
    opened, preview = [], Database.preview

    def note(self, path):
        opened.append(preview(self, path))
        return opened[-1]

    monkeypatch.setattr(Database, "preview", note)
    embedder = HashEmbedder()
    assert run_lists(database, source, embedder).sources["list"].embedded == 5
    assert len(opened) == 2
    for one in opened:
        with pytest.raises(dvecdb.errors.HandleError):
            one.get(["x"])


def test_a_collection_without_history_pays_for_a_text_that_was_overwritten(tmp_path):
    from dvecdb.settings import Settings

    settings = Settings(history_hours=0)
    with dvecdb.open(tmp_path / "data", settings=settings) as database:
        source, embedder, job = ListSource(rows(20)), HashEmbedder(), job_of(ahead=0, page=1)
        run_lists(database, source, embedder, job)
        source.rows[1], source.rows[20] = source.rows[20], source.rows[1]
        cursor = run_lists(database, source, embedder, job).sources["list"]
        assert cursor.embedded + cursor.copied == 2
        assert_equal(database, source)


def test_the_index_of_known_texts_is_small():
    index, hashes = TextIndex(), [f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" + "0" * 16
                                  for number in range(70_000)]  # fmt: skip
    ids = [row_id("s", str(number)) for number in range(1_000)]
    tracemalloc.start()
    for number, content_hash in enumerate(hashes):
        index.add(content_hash, ids[number % 1_000])
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(index) == 70_000
    assert size < 70_000 * 25 + 65_536 * 300  # sorted, and those that are not yet
    assert index.find([hashes[77]]) == {hashes[77]: (ids[77], 0)}


def test_a_damaged_vector_is_embedded_again_by_a_full_run(database, monkeypatch):
    source, embedder = ListSource(rows(12)), HashEmbedder()
    run_lists(database, source, embedder)
    get, damaged = Collection.get, {row_id("list", "4")}

    def damaged_get(self, wanted, *, with_vectors=True, **options):
        if with_vectors and damaged.intersection(wanted):
            raise DamagedDataError(Code.DAMAGED_DATA, "damaged", ids=sorted(damaged))
        return get(self, wanted, with_vectors=with_vectors, **options)

    monkeypatch.setattr(Collection, "get", damaged_get)
    assert run_lists(database, source, embedder).sources["list"].unchanged == 12
    assert check_lists(database, source).counts["damaged"] == 1
    cursor = run_lists(database, source, embedder, full=True).sources["list"]
    assert (cursor.embedded, cursor.unchanged) == (1, 11)
    damaged.clear()
    assert check_lists(database, source).ok
