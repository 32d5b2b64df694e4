"""Recovery on real file systems: full ones, two of them, other machines' files, and rm -rf.

Root mounts tmpfs and a small ext4; without root those tests are skipped, and say so.
"""

import json
import os
import shutil
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import dvecdb
from dvecdb.errors import Code, DvecdbError

MIB = 1024 * 1024
DIMENSION = 64
ROWS = 100
SETTINGS = dvecdb.Settings(
    flush_bytes=256 * 1024, merge_bytes=MIB, bulk_bytes=MIB, wal_reserve_bytes=64 * 1024,
    wal_extend_bytes=256 * 1024, ballast_bytes=512 * 1024, low_water_bytes=0, tend_seconds=0,
)  # fmt: skip

pytestmark = [pytest.mark.crash, pytest.mark.slow]


def mounted(command, path):
    """Mount something at `path`, or skip and say what is not tried."""
    if os.geteuid() != 0:
        pytest.skip(f"not root: {' '.join(command)} is not tried")
    path.mkdir(exist_ok=True)
    done = subprocess.run([*command, str(path)], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{' '.join(command)}: {done.stderr[-200:]}; not tried")
    return path


@pytest.fixture(params=["tmpfs", "ext4"])
def small(request, tmp_path):
    """A small file system of its own."""
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs"]
    if request.param == "ext4":
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(16 * MIB)
        made = shutil.which("mkfs.ext4") and subprocess.run(["mkfs.ext4", "-q", str(image)])  # noqa: PLW1510
        if not made or made.returncode:
            pytest.skip("no mkfs.ext4: no full ext4 is tried")
        command = ["mount", "-o", "loop", str(image)]
    path = mounted(command, tmp_path / request.param)
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def elsewhere(tmp_path):
    """Another file system."""
    path = mounted(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs"], tmp_path / "elsewhere")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def vectors_of(number):
    return np.random.default_rng(number).standard_normal((ROWS, DIMENSION)).astype(np.float32)


def write(collection, number):
    """Write a batch whose rows are all its own; a number may be written again."""
    ids = [f"{number % 1000}-{index}" for index in range(ROWS)]
    return collection.upsert(ids=ids, vectors=vectors_of(number), metadata=[{"n": number}] * ROWS)


def make(database, name, numbers):
    collection = database.create_collection(name, dimension=DIMENSION)
    for number in numbers:
        write(collection, number)
    return collection


def check(collection, numbers):
    """Compare every row to the bit."""
    found = {record.id: record for record in collection.scan(with_vectors=True)}
    wanted = {}
    for number in numbers:
        for index, vector in enumerate(vectors_of(number)):
            wanted[f"{number % 1000}-{index}"] = (vector.tobytes(), {"n": number})
    assert found.keys() == wanted.keys()
    for record_id, row in wanted.items():
        assert (found[record_id].vector.tobytes(), found[record_id].metadata) == row, record_id


def fill(database, path, collection):
    """Write until there is no room, and then take the rest of the disk; return the batches."""
    numbers = []
    with pytest.raises(DvecdbError) as refused:
        for number in range(100, 900):
            write(collection, number)
            numbers.append(number)
    assert refused.value.code == Code.DISK_FULL
    with suppress(OSError), (path / "padding").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return numbers


# --- full disks ------------------------------------------------------------------------------

REFUSED = {
    "backup": lambda db, docs: docs.backup(),
    "independent backup": lambda db, docs: docs.backup(independent=True),
    "clone": lambda db, docs: docs.clone("new"),
    "clone of the past": lambda db, docs: docs.clone("new", as_of=1),
    "undo": lambda db, docs: docs.undo(to_lsn=1),
    "restore backup": lambda db, docs: db.restore("kept_backup", "new"),
    "create": lambda db, docs: db.create_collection("new", dimension=2),
}


@pytest.mark.parametrize("operation", REFUSED)
def test_a_full_disk_refuses_by_name_and_loses_nothing(small, operation):
    path = small / "data"
    with dvecdb.open(path, settings=SETTINGS) as database:
        docs, kept = (make(database, name, [1, 2]) for name in ("docs", "kept"))
        backup = kept.backup()
        numbers = fill(database, small, docs)
        first, call = [1, 2], REFUSED[operation]
        if operation == "restore backup":
            call = lambda db, docs: db.restore(backup.name, "new")  # noqa: E731
        with pytest.raises(DvecdbError) as refused:
            for _ in range(200):  # what is tiny may fit in a corner that was left
                call(database, docs)
                if operation == "undo":  # a flush had left room for it: there is less each time
                    first, numbers = [1], fill(database, small, docs)
                if "new" in database.collections():
                    database.hard_delete("new")
                fill_corner(small)
        assert refused.value.code == Code.DISK_FULL, refused.value
        check(kept, [1, 2])
        check(docs, [*first, *numbers])
        assert "new" not in database.collections()
    with dvecdb.open(path, settings=SETTINGS) as database:
        assert database.collections() == ["docs", "kept"]
        check(database.collection("docs"), [*first, *numbers])
        with database.preview(backup.name) as preview:
            check(preview, [1, 2])
        assert not [name for name, _, _ in os.walk(path) if ".partial-" in name]


def fill_corner(path):
    with suppress(OSError), (path / "padding").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(512))


def test_deleting_purging_and_restoring_from_the_trash_work_on_a_full_disk(small):
    path = small / "data"
    with dvecdb.open(path, settings=SETTINGS) as database:
        names = ("a", "b", "c", "d", "docs")
        _, b, _, _, docs = (make(database, name, [1, 2]) for name in names)
        backup = b.backup("before it is full")
        database.delete_collection("c", actor="me", reason="earlier")
        (earlier,) = (item.name for item in database.trash())
        numbers = fill(database, small, docs)

        database.delete_collection("a", actor="me", reason="full")
        (entry,) = (item for item in database.trash() if item.collection == "a")
        database.restore(entry.name)
        check(database.collection("a"), [1, 2])
        assert database.restore(earlier, "again").rows == 2 * ROWS
        check(database.collection("again"), [1, 2])
        database.delete_backup(backup.name)
        fill_corner(small)

    with dvecdb.open(path, settings=SETTINGS) as database:  # another process, and still full
        fill_corner(small)
        database.delete_collection("b")
        (entry,) = (item for item in database.trash() if item.collection == "b")
    with dvecdb.open(path, settings=SETTINGS) as database:
        fill_corner(small)
        database.restore(entry.name)
        check(database.collection("b"), [1, 2])
        database.delete_collection("b")
        assert len(database.purge(0)) == 1
        assert database.hard_delete("d").freed_bytes > 0
        assert database.collections() == ["a", "again", "docs"]
        check(database.collection("docs"), [1, 2, *numbers])
    (small / "padding").unlink()
    with dvecdb.open(path, settings=SETTINGS) as database:
        write(database.collection("a"), 7)
        check(database.collection("a"), [1, 2, 7])
        check(database.collection("docs"), [1, 2, *numbers])
        assert database.trash() == []


# --- other file systems, other machines --------------------------------------------------------


def test_backups_on_another_file_system_are_copies_and_say_so(tmp_path, elsewhere):
    path = tmp_path / "data"
    with dvecdb.open(path, settings=SETTINGS) as database:
        docs = make(database, "docs", [1, 2, 3])
        docs.flush()
        write(docs, 4)
        (elsewhere / "backups").mkdir()
        (path / ".backups").symlink_to(elsewhere / "backups")  # fmt: skip
    with dvecdb.open(path, settings=SETTINGS) as database:
        pass
    (path / ".backups").unlink()
    (path / ".backups").mkdir()
    subprocess.run(["mount", "--bind", elsewhere / "backups", path / ".backups"], check=True)
    try:
        with dvecdb.open(path, settings=SETTINGS) as database:
            docs = database.collection("docs")
            made = docs.backup("to the other disk")
            assert made.independent
            assert made.own_bytes == made.size_bytes
            assert database.verify_backup(made.name).ok
            write(docs, 5)
            restored = database.restore(made.name, "restored")
            assert restored.copied_bytes > 0
            check(database.collection("restored"), [1, 2, 3, 4])
            check(docs, [1, 2, 3, 4, 5])
            database.delete_collection("docs")
            database.restore(made.name)
        with dvecdb.open(path, settings=SETTINGS) as database:
            check(database.collection("docs"), [1, 2, 3, 4])
            assert database.collection("docs").verify().ok
    finally:
        subprocess.run(["umount", "-l", path / ".backups"], check=True)


def test_an_archive_of_a_stopped_data_directory_opens_elsewhere(tmp_path):
    path = tmp_path / "data"
    with dvecdb.open(path, settings=SETTINGS) as database:
        docs = make(database, "docs", [1, 2])
        docs.flush()
        write(docs, 3)
        made = docs.backup("in the archive")
        make(database, "gone", [4])
        database.delete_collection("gone", actor="me", reason="in the archive too")
    subprocess.run(["tar", "-C", path, "-cf", tmp_path / "archive.tar", "."], check=True)
    (tmp_path / "other").mkdir()
    subprocess.run(["tar", "-C", tmp_path / "other", "-xf", tmp_path / "archive.tar"], check=True)
    with dvecdb.open(tmp_path / "other", settings=SETTINGS) as database:
        check(database.collection("docs"), [1, 2, 3])
        (entry,) = database.trash()
        assert (entry.actor, entry.reason) == ("me", "in the archive too")
        database.restore(entry.name)
        check(database.collection("gone"), [4])
        database.restore(made.name, "restored")
        check(database.collection("restored"), [1, 2, 3])
        assert database.findings() == []


def test_a_backup_that_is_moved_among_the_collections_by_hand_is_one(tmp_path):
    path = tmp_path / "data"
    with dvecdb.open(path, settings=SETTINGS) as database:
        docs = make(database, "docs", [1, 2])
        docs.flush()
        write(docs, 3)
        made = docs.backup()
        write(docs, 4)
    shutil.move(path / ".backups" / made.name, path / "collections" / "moved")
    for number in (5, 6):
        with dvecdb.open(path, settings=SETTINGS) as database:
            moved = database.collection("moved")
            check(moved, [1, 2, 3, *range(5, number)])
            write(moved, number)
            check(database.collection("docs"), [1, 2, 3, 4])
            assert (database.backups(), database.findings()) == ([], [])


def test_a_trash_entry_from_a_directory_with_a_higher_epoch_restores_and_stays(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for number in range(8):  # every opening raises the epoch
        with dvecdb.open(there, settings=SETTINGS) as database:
            make(database, "docs", [1]) if not number else write(
                database.collection("docs"), number + 1
            )
            if number == 7:
                database.delete_collection("docs", actor="me")
    with dvecdb.open(here, settings=SETTINGS) as database:
        make(database, "other", [1])
        (name,) = os.listdir(there / ".deleted")
        shutil.copytree(there / ".deleted" / name, here / ".deleted" / name)
        assert [item.actor for item in database.trash()] == ["me"]
        database.restore(name)
        check(database.collection("docs"), range(1, 9))
        write(database.collection("docs"), 20)
        write(database.collection("other"), 20)
    for number in (21, 22):
        with dvecdb.open(here, settings=SETTINGS) as database:
            assert database.findings() == []
            check(database.collection("docs"), [*range(1, 9), *range(20, number)])
            write(database.collection("docs"), number)
            check(database.collection("other"), [1, 20])


def test_backups_that_are_a_link_do_not_keep_the_collections_from_opening(tmp_path):
    """Links are not followed; another disk is mounted there."""
    path = tmp_path / "data"
    with dvecdb.open(path, settings=SETTINGS) as database:
        make(database, "docs", [1])
    (tmp_path / "elsewhere").mkdir()
    (path / ".backups").symlink_to(tmp_path / "elsewhere")
    with dvecdb.open(path, settings=SETTINGS) as database:
        check(database.collection("docs"), [1])
        for call in (database.backups, database.collection("docs").backup):
            with pytest.raises(DvecdbError) as refused:
                call()
            assert refused.value.code in {Code.DIRECTORY_UNREADABLE, Code.OUTCOME_UNKNOWN}
    assert os.listdir(tmp_path / "elsewhere") == []


# --- rm -rf under a running database -----------------------------------------------------------


def test_what_is_removed_by_hand_vanishes_from_the_lists(tmp_path):
    path = tmp_path / "data"
    with dvecdb.open(path, settings=SETTINGS) as database:
        docs = make(database, "docs", [1, 2])
        for name in ("a", "b", "c"):
            make(database, name, [1])
            database.delete_collection(name)
        backups = [docs.backup().name for _ in range(2)]
        entries = {item.collection: item.name for item in database.trash()}
        shutil.rmtree(path / ".deleted" / entries["a"])
        shutil.rmtree(path / ".backups" / backups[0])
        assert sorted(item.collection for item in database.trash()) == ["b", "c"]
        assert [item.name for item in database.backups()] == backups[1:]
        for call, code in (
            (lambda: database.restore(entries["a"]), Code.TRASH_ENTRY_NOT_FOUND),
            (lambda: database.restore(backups[0], "new"), Code.TRASH_ENTRY_NOT_FOUND),
            (lambda: database.restore(f".backups/{backups[0]}", "new"), Code.BACKUP_NOT_FOUND),
            (lambda: database.delete_backup(backups[0]), Code.BACKUP_NOT_FOUND),
            (lambda: database.purge(names=[entries["a"]]), Code.TRASH_ENTRY_NOT_FOUND),
        ):
            with pytest.raises(DvecdbError) as refused:
                call()
            assert refused.value.code == code
        shutil.rmtree(path / ".deleted")
        shutil.rmtree(path / ".backups")
        assert (database.trash(), database.backups(), database.purge(0)) == ([], [], [])
        database.tend()
        database.delete_collection("docs", reason="the next one works")
        assert [item.reason for item in database.trash()] == ["the next one works"]
        make(database, "docs", [3]).backup()
        assert len(database.backups()) == 1
    with dvecdb.open(path, settings=SETTINGS) as database:
        assert (database.collections(), len(database.trash())) == (["docs"], 1)
        check(database.collection("docs"), [3])
        database.restore(database.trash()[0].name, "first")
        check(database.collection("first"), [1, 2])


def test_a_trash_entry_that_was_cut_short_by_hand_is_listed_and_can_be_purged(tmp_path):
    path = tmp_path / "data"
    with dvecdb.open(path, settings=SETTINGS) as database:
        make(database, "docs", [1])
        database.delete_collection("docs")
    with dvecdb.open(path, settings=SETTINGS) as database:
        (entry,) = database.trash()
        shutil.rmtree(Path(entry.path) / "manifests")
        (Path(entry.path) / "deletion.json").unlink()
        assert [item.name for item in database.trash()] == [entry.name]
        with pytest.raises(DvecdbError) as refused:
            database.restore(entry.name)
        assert refused.value.code == Code.BACKUP_DAMAGED
        assert database.purge(0) == [entry.name]
        assert os.listdir(path / ".deleted") == []


# --- deleting under the feet of others ----------------------------------------------------------


def test_who_is_at_work_when_a_collection_goes_finishes_or_is_told(tmp_path):
    """And never gets an answer of the next collection of that name."""
    allowed = {Code.COLLECTION_DELETED, Code.COLLECTION_NOT_FOUND, Code.HANDLE_CLOSED}
    wrong, rounds = [], 25
    with dvecdb.open(tmp_path / "data", settings=SETTINGS) as database:
        done = threading.Event()
        current = [make(database, "docs", [0])]

        def work(number):
            while not done.is_set():
                collection = current[0]
                generation = collection.metadata_tag
                try:
                    hits = collection.search(np.ones(DIMENSION), limit=5)
                    found = {hit.metadata["n"] for hit in hits}
                    if found - {generation}:
                        wrong.append((generation, found))
                    if number % 2:
                        write(collection, generation)
                except DvecdbError as error:
                    if error.code not in allowed:
                        wrong.append(error)

        current[0].metadata_tag = 0
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for generation in range(1, rounds):
            database.delete_collection("docs")
            collection = make(database, "docs", [generation])
            collection.metadata_tag = generation
            current[0] = collection
        done.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        check(database.collection("docs"), [rounds - 1])
        entries = database.trash()
        assert len(entries) == rounds - 1
        for entry in entries:
            with database.preview(entry.name) as preview:
                assert {len({r.metadata["n"] for r in preview.scan()})} == {1}
        assert database.findings() == []


def test_what_deletion_json_says_is_readable(tmp_path):
    with dvecdb.open(tmp_path / "data", settings=SETTINGS) as database:
        make(database, "docs", [1])
        database.delete_collection("docs", actor="me", reason="why")
        (entry,) = database.trash()
        written = json.loads((Path(entry.path) / "deletion.json").read_bytes().split(b"\n")[0])
    assert (written["actor"], written["reason"], written["rows"]) == ("me", "why", ROWS)
