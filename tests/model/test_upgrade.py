"""An upgrade brings over everything that an old server left, once, and leaves the old as it was."""

import os
import shutil
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.model.legacy_directories import OldDirectory, digest, found_in

import dvecdb
from dvecdb.errors import DvecdbError
from dvecdb.rescue.naming import is_usable
from dvecdb.rescue.upgrade import upgrade
from dvecdb.testing.legacy_judge import judge

SOAK = "DVECDB_SOAK" in os.environ
NAMES = ["docs", "my notes", "a/b", "", "deleted", "Docs", "x" * 70, "ärzte", ".hidden", "wal2"]
PARENTS = {"collection": "collections", "log": "collections", "deleted": ".deleted",
           "backup": ".backups", "snapshot": ".backups"}  # fmt: skip


def content(database, item):
    """Open what an item became, wherever it is."""
    if PARENTS[item.kind] == "collections":
        return database.collection(item.name)
    return database.preview(f"{PARENTS[item.kind]}/{item.name}")


def check_whole(old, report, new):
    """Compare everything in `new` with what has to be there."""
    items = {item.path.removeprefix(report.source).lstrip("/"): item for item in report.items}
    logged = {item.was: item for item in report.items if item.kind == "log"}
    with dvecdb.open(new, read_only=True) as database:
        assert database.findings() == []
        for expected in old.expected:
            item = logged[expected.name] if expected.kind == "log" else items[expected.path]
            assert item.outcome in {"imported", "present"}, item
            assert (item.kind, item.was) == (expected.kind, expected.name)
            assert is_usable(item.name) or PARENTS[item.kind] != "collections"
            found = found_in(content(database, item), item.report)
            assert judge(old.truth(expected), found) == [], expected
        mine = [item for item in old.expected if PARENTS[item.kind] == "collections"]
        assert len(database.collections()) == len(mine)
        assert len(database.trash()) == sum(item.kind == "deleted" for item in old.expected)
        copies = sum(item.kind in {"backup", "snapshot"} for item in old.expected)
        assert len(database.backups()) == copies


@st.composite
def old_directories(draw):
    generation = draw(st.sampled_from(["A0", "A1", "A2", "A4", "B1", "C0", "C1"]))
    old = OldDirectory(generation, draw(st.integers(0, 1 << 20)))
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True)):
        old.collection(
            name, draw(st.integers(6, 12)), draw(st.sampled_from([3, 8])), batch=draw(st.booleans())
        )
        is_plain = name and "/" not in name  # the old server fails to move or copy others
        fate = draw(st.sampled_from(["keep", "delete-rows", "drop", "backup", "snapshot", "lose"]))
        if fate == "delete-rows":
            for id in old.ids[name][:2]:
                old.server.delete(name, id)
        elif fate == "drop" and old.server.generation.soft_delete and is_plain:
            old.drop(name)
        elif fate == "backup" and is_plain:
            old.backup(name)
        elif fate == "snapshot" and is_plain:
            old.snapshot(name)
        elif fate == "lose" and name:
            old.lose(name)
    return old


@pytest.mark.slow
@settings(
    max_examples=300 if SOAK else 25, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(old_directories())
def test_everything_an_old_server_left_comes_over_once(tmp_path_factory, old):
    top = tmp_path_factory.mktemp("upgrade")
    source, new = top / "old", str(top / "new")
    old.write_to(source)
    before = digest(source)
    planned = upgrade(str(source), new, dry_run=True, timezone="UTC")
    assert not os.path.exists(new)
    done = upgrade(str(source), new, timezone="UTC")
    check_whole(old, done, new)
    assert digest(source) == before
    names = {item.path + (item.was or ""): (item.name, item.report) for item in planned.items}
    for item in done.items:
        name, report = names[item.path + (item.was or "")]
        assert report == item.report
        assert name == item.name or item.kind not in {"collection", "log"}
    again = upgrade(str(source), new, timezone="UTC")
    assert {item.outcome for item in again.items} <= {"present", "left"}
    assert [item.report for item in again.items] == [item.report for item in done.items]
    check_whole(old, again, new)
    shutil.rmtree(top)


@pytest.fixture
def old(tmp_path):
    """A directory with one of each, written."""
    made = OldDirectory("C1", seed=4)
    for name in ("docs", "films", "gone", "logged"):
        made.collection(name)
    made.backup("docs")
    made.snapshot("films")
    made.drop("gone")
    made.lose("logged")
    made.write_to(tmp_path / "old")
    return made


def test_times_in_names_are_local_times_of_the_zone(tmp_path, old):
    path = next(item.path for item in old.expected if item.kind == "deleted")
    local = datetime.strptime(path[-15:], "%Y%m%d_%H%M%S").replace(tzinfo=ZoneInfo("Asia/Tokyo"))
    upgrade(str(tmp_path / "old"), str(tmp_path / "new"), timezone="Asia/Tokyo")
    with dvecdb.open(tmp_path / "new") as database:
        (entry,) = database.trash()
        assert entry.deleted == local.astimezone(UTC)
        assert entry.name == "gone_" + local.astimezone(UTC).strftime("%Y%m%d_%H%M%S")
        left = entry.expires - datetime.now(UTC)
        assert timedelta(days=29) < left < timedelta(days=31)
        taken = {item.reason.split()[0]: item.created for item in database.backups()}
        seconds = int(next(item.path for item in old.expected if item.kind == "snapshot")[-10:])
        assert taken["snapshot"] == datetime.fromtimestamp(seconds, UTC)
        assert all(database.verify_backup(item.name).ok for item in database.backups())
        restored = database.restore(entry.name)
        assert restored.name == "gone"
        assert database.collection("gone").count() == 7


def test_nothing_of_the_old_time_expires_at_once(tmp_path, old):
    upgrade(str(tmp_path / "old"), str(tmp_path / "new"))
    with dvecdb.open(tmp_path / "new") as database:
        database._clock_watch.may_expire = lambda: True
        assert database.tend() == []
        assert (len(database.trash()), len(database.backups())) == (1, 2)


def test_what_has_a_name_that_is_taken_by_another_is_not_touched(tmp_path, old):
    with dvecdb.open(tmp_path / "new") as database:
        database.create_collection("docs", dimension=2)
    report = upgrade(str(tmp_path / "old"), str(tmp_path / "new"))
    (item,) = [item for item in report.items if item.outcome == "conflict"]
    assert (item.was, item.import_as[-3:-1]) == ("docs", ["docs-2", "--collection"])
    assert report.count("imported") == 5
    with dvecdb.open(tmp_path / "new") as database:
        assert database.collection("docs").count() == 0
        database.import_legacy(item.import_as[0], item.import_as[2], collection="docs")
        assert database.collection("docs-2").count() == 7


def test_what_changed_since_is_not_taken_for_what_is_there(tmp_path, old):
    upgrade(str(tmp_path / "old"), str(tmp_path / "new"))
    old.server.insert("docs", *old.rows(1, 4)[0])
    old.write_to(tmp_path / "old")
    report = upgrade(str(tmp_path / "old"), str(tmp_path / "new"))
    assert {item.was for item in report.items if item.outcome == "conflict"} >= {"docs"}
    assert report.count("imported") + report.count("present") < len(report.items)


def test_what_was_moved_or_restored_meanwhile_does_not_come_again(tmp_path, old):
    upgrade(str(tmp_path / "old"), str(tmp_path / "new"))
    with dvecdb.open(tmp_path / "new") as database:
        database.delete_collection("docs")
        database.restore(next(item.name for item in database.trash() if item.collection == "gone"))
    report = upgrade(str(tmp_path / "old"), str(tmp_path / "new"))
    assert {item.outcome for item in report.items if item.kind != "log"} == {"present"}


def test_a_damaged_collection_does_not_stop_the_others(tmp_path, old):
    garbage = os.urandom(5000)
    (tmp_path / "old" / "films" / "vectors.bin").write_bytes(garbage)
    report = upgrade(str(tmp_path / "old"), str(tmp_path / "new"))
    outcomes = {item.was: item.outcome for item in report.items if item.kind == "collection"}
    assert outcomes["docs"] == "imported"
    assert outcomes["films"] == "imported"  # from the log
    assert (tmp_path / "old" / "films" / "vectors.bin").read_bytes() == garbage


def test_what_cannot_be_told_is_a_failure_and_not_an_empty_collection(tmp_path):
    (tmp_path / "old" / "noise").mkdir(parents=True)
    (tmp_path / "old" / "noise" / "vectors.bin").write_bytes(os.urandom(5000))
    report = upgrade(str(tmp_path / "old"), str(tmp_path / "new"))
    (item,) = report.items
    assert (item.outcome, item.report.bytes_used) == ("failed", item.report.lost[0].end)
    assert "nothing-recoverable" in item.why


def test_an_empty_collection_comes_over_if_it_says_what_it_is(tmp_path):
    made = OldDirectory("C1")
    made.server.create("told", 5, "Manhattan")
    made.server.create("untold", 5)
    made.server.directories["untold"].config = None
    made.server.log.clear()
    made.write_to(tmp_path / "old")
    report = upgrade(str(tmp_path / "old"), str(tmp_path / "new"))
    outcomes = {item.was: item.outcome for item in report.items}
    assert outcomes == {"told": "imported", "untold": "empty"}
    with dvecdb.open(tmp_path / "new") as database:
        schema = database.collection("told").schema
        assert (schema.dimension, schema.metric) == (5, "manhattan")


@pytest.mark.parametrize("where", ["old", "old/new", "link/new"])
def test_the_new_directory_is_not_in_the_old(tmp_path, old, where):
    os.symlink(tmp_path / "old", tmp_path / "link")
    before = digest(tmp_path / "old")
    with pytest.raises(DvecdbError) as error:
        upgrade(str(tmp_path / "old"), str(tmp_path / where))
    assert error.value.code == "invalid-argument"
    assert digest(tmp_path / "old") == before


def test_what_cannot_be_upgraded_is_said(tmp_path, old):
    new = str(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    dvecdb.open(tmp_path / "ours").close()
    for source, code in (("none", "source-not-found"), ("empty", "source-not-found"),
                         ("ours", "source-not-found")):  # fmt: skip
        with pytest.raises(DvecdbError) as error:
            upgrade(str(tmp_path / source), new)
        assert error.value.code == code
    with pytest.raises(DvecdbError) as error:
        upgrade(str(tmp_path / "old"), new, timezone="Mars/Olympus")
    assert error.value.code == "invalid-argument"
    assert not os.path.exists(new)
    with dvecdb.open(new), pytest.raises(DvecdbError) as error:
        upgrade(str(tmp_path / "old"), new)
    assert error.value.code == "directory-in-use"
    with pytest.raises(DvecdbError) as error:
        upgrade(str(tmp_path / "ours"), str(tmp_path / "old"))
    assert error.value.code == "source-not-found"
    shutil.copytree(tmp_path / "old", tmp_path / "other")
    with pytest.raises(DvecdbError) as error:
        upgrade(str(tmp_path / "old"), str(tmp_path / "other"))
    assert error.value.code == "legacy-directory"
