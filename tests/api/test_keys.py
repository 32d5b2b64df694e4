"""API keys: made, found, revoked; on failing disks, after crashes, between processes."""

import errno
import itertools
import re
import subprocess
import sys
import threading
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.api import keys as keys_module
from dvecdb.api.auth import Scope
from dvecdb.api.keys import KeyStore
from dvecdb.api.server_directory import find_server_directory, make_server_directory
from dvecdb.errors import (
    AuthError,
    Code,
    DirectoryError,
    DiskFullError,
    DvecdbError,
    InvalidRequestError,
    NotFoundError,
)
from dvecdb.formats import names
from dvecdb.media.files import OsFiles
from dvecdb.rescue.database import Database
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.crash import Data, Names, crash, enumerate_states
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.faults import FailingFiles, RottenFiles

DAY = 86_400
KEYS = "/data/.server/keys"
SOURCE = Path(__file__).parents[2] / "src"


def store_on(files, clock=None, **options):
    directory = make_server_directory(files, "/data", names.KEYS)
    return KeyStore(files, directory, clock=clock or ManualClock(), **options)


def present(disk):
    directory = find_server_directory(disk, "/data", names.KEYS)
    if directory is None:
        return []
    found = disk.list_names(directory)
    disk.close_directory(directory)
    return found


def reason(store, token):
    with pytest.raises(AuthError) as caught:
        store.find(token)
    assert caught.value.code == Code.UNAUTHENTICATED
    return caught.value.details["reason"]


def code_of(call, *arguments, **options):
    with pytest.raises(DvecdbError) as caught:
        call(*arguments, **options)
    return caught.value.code


@pytest.fixture
def disk():
    return MemoryDisk()


@pytest.fixture
def store(disk):
    return store_on(disk)


# --- making and finding ----------------------------------------------------------------------


def test_a_new_key_is_found_by_its_token_and_by_no_other(store):
    one = store.create("one", [Scope.READ, Scope.WRITE], ["docs*", "codes"])
    two = store.create("two", [Scope.ADMIN])
    assert re.fullmatch(r"dvk_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", one.token)
    assert store.find(one.token) == one.key
    assert store.find(two.token) == two.key
    assert (one.key.scopes, one.key.patterns) == ({Scope.READ, Scope.WRITE}, ("docs*", "codes"))
    assert two.key.patterns == ("*",)
    mixed = one.token[:17] + two.token[17:]
    assert reason(store, mixed) == "unknown"


@given(st.integers(0, 59), st.characters(codec="utf-8"))
def test_a_token_with_one_character_changed_is_unknown(position, character):
    store = store_on(MemoryDisk(), random_bytes=Random(3).randbytes)
    token = store.create("one", [Scope.READ]).token
    changed = token[:position] + character + token[position + 1 :]
    if changed != token:
        assert reason(store, changed) == "unknown"


@given(st.text())
def test_any_text_is_unknown_and_nothing_else(text):
    assert reason(store_on(MemoryDisk()), text) == "unknown"


def test_the_secret_is_not_on_the_disk(disk, store):
    new = store.create("one", [Scope.READ])
    secret = new.token[17:]
    assert len(secret) == 43
    for name in present(disk):
        assert secret.encode() not in disk.read_path(f"{KEYS}/{name}")


def test_an_unknown_id_costs_as_much_as_a_wrong_secret(store, monkeypatch):
    token = store.create("one", [Scope.READ]).token
    hashed = []
    original = keys_module._sha256
    monkeypatch.setattr(
        keys_module, "_sha256", lambda salt, secret: hashed.append(1) or original(salt, secret)
    )
    wrong = "0" if token[4] != "0" else "1"
    for attempt in (token[:-1] + ("A" if token[-1] != "A" else "B"), f"dvk_{wrong}{token[5:]}"):
        hashed.clear()
        assert reason(store, attempt) == "unknown"
        assert hashed == [1]


def test_a_key_works_until_it_expires():
    clock = ManualClock()
    store = store_on(MemoryDisk(), clock)
    new = store.create("one", [Scope.READ], expires_ns=clock.wall_ns() + DAY * 10**9)
    clock.advance(DAY - 1)
    assert store.find(new.token).name == "one"
    clock.advance(1)
    assert reason(store, new.token) == "expired"
    assert [key.state(clock.wall_ns()) for key in store.all()] == ["expired"]


def test_ids_that_are_taken_are_not_taken_again(disk):
    fixed = iter([b"s" * 32, b"t" * 32, b"a" * 6, b"s" * 32, b"t" * 32, b"a" * 6, b"b" * 6])
    store = store_on(disk, random_bytes=lambda size: next(fixed))
    one, two = store.create("one", [Scope.READ]), store.create("two", [Scope.READ])
    assert (one.key.id, two.key.id) == ("61" * 6, "62" * 6)
    assert store.find(one.token).name == "one"


@pytest.mark.parametrize("arguments", [
    ("", [Scope.READ]), ("a b", [Scope.READ]), ("../x", [Scope.READ]), ("x" * 65, [Scope.READ]),
    ("a\nb", [Scope.READ]), ("anonymous", [Scope.READ]), ("0123456789ab", [Scope.READ]),
    ("ok", []), ("ok", [Scope.READ], []), ("ok", [Scope.READ], ["a/b"]), ("ok", [Scope.READ], [""]),
    ("ok", [Scope.READ], ["é*"]), ("ok", [Scope.READ], [f"c{n}" for n in range(101)]),
])  # fmt: skip
def test_what_makes_no_key_is_refused(disk, store, arguments):
    assert code_of(store.create, *arguments) == Code.INVALID_ARGUMENT
    assert present(disk) == []


def test_a_key_that_would_be_expired_is_refused(disk, store):
    assert code_of(store.create, "one", [Scope.READ], expires_ns=1) == Code.INVALID_ARGUMENT
    assert present(disk) == []


def test_a_name_is_free_again_once_its_key_is_revoked(store):
    first = store.create("one", [Scope.READ])
    with pytest.raises(InvalidRequestError, match="'one'"):
        store.create("one", [Scope.WRITE])
    store.revoke("one")
    second = store.create("one", [Scope.WRITE])
    assert reason(store, first.token) == "revoked"
    assert store.find(second.token).scopes == {Scope.WRITE}
    assert store.revoke("one").id == second.key.id


def test_there_is_a_limit_to_active_keys(store, monkeypatch):
    monkeypatch.setattr(keys_module, "KEYS_MAX", 2)
    store.create("a", [Scope.READ])
    store.create("b", [Scope.READ])
    assert code_of(store.create, "c", [Scope.READ]) == Code.INVALID_ARGUMENT
    store.revoke("a")
    store.create("c", [Scope.READ])


# --- revoking --------------------------------------------------------------------------------


@pytest.mark.parametrize("by_name", [True, False])
def test_a_revoked_key_stays_revoked(disk, by_name):
    store = store_on(disk)
    new = store.create("one", [Scope.READ])
    revoked = store.revoke("one" if by_name else new.key.id)
    assert revoked.revoked_ns is not None
    assert store.revoke(new.key.id) == revoked
    assert reason(store, new.token) == "revoked"
    again = store_on(disk.clone())
    again.refresh()
    assert reason(again, new.token) == "revoked"


def test_unknown_keys_cannot_be_revoked(store):
    store.create("one", [Scope.READ])
    for text in ("two", "000000000000", "", "../one"):
        with pytest.raises(NotFoundError) as caught:
            store.revoke(text)
        assert caught.value.code == Code.KEY_NOT_FOUND


def test_two_keys_of_one_name_are_revoked_by_id(disk):
    one = store_on(disk).create("same", [Scope.READ])
    # Another process that had not seen it made this one at the same moment.
    (name,) = present(disk)
    text = disk.read_path(f"{KEYS}/{name}")
    other = MemoryDisk()
    two = store_on(other).create("same", [Scope.READ])
    disk = MemoryDisk.from_tree({
        f"{KEYS}/{name}": text,
        f"{KEYS}/{two.key.id}.json": other.read_path(f"{KEYS}/{two.key.id}.json"),
    })  # fmt: skip
    store = store_on(disk)
    assert code_of(store.revoke, "same") == Code.INVALID_ARGUMENT
    store.revoke(one.key.id)
    assert store.revoke("same").id == two.key.id


def test_a_wrong_revocation_file_revokes(disk, store):
    new = store.create("one", [Scope.READ])
    store.revoke("one")
    path = f"{KEYS}/{new.key.id}.revoked.json"
    RottenFiles(disk).flip(path, 30)
    fresh = store_on(disk)
    fresh.refresh()
    assert reason(fresh, new.token) == "revoked"


# --- damage ----------------------------------------------------------------------------------


@given(st.data())
def test_a_flipped_bit_in_a_key_makes_it_unknown_and_is_said(data):
    disk = MemoryDisk()
    store = store_on(disk, random_bytes=Random(1).randbytes)
    new, other = store.create("one", [Scope.READ]), store.create("two", [Scope.READ])
    path = f"{KEYS}/{new.key.id}.json"
    offset = data.draw(st.integers(0, len(disk.read_path(path)) - 1))
    RottenFiles(disk).flip(path, offset, data.draw(st.integers(0, 7)))
    fresh = store_on(disk)
    fresh.refresh()
    assert reason(fresh, new.token) == "unknown"
    assert fresh.find(other.token).name == "two"
    (finding,) = fresh.findings()
    assert finding.code == "key-damaged"
    assert new.key.id in finding.message
    fresh.revoke(new.key.id)  # its id is enough


def test_the_file_of_one_key_under_the_name_of_another_is_damage(disk, store):
    new = store.create("one", [Scope.READ])
    data = disk.read_path(f"{KEYS}/{new.key.id}.json")
    moved = store_on(MemoryDisk.from_tree({f"{KEYS}/{'0' * 12}.json": data}))
    moved.refresh()
    assert [finding.code for finding in moved.findings()] == ["key-damaged"]
    assert reason(moved, new.token) == "unknown"


def test_a_directory_that_cannot_be_listed_keeps_what_was_known(disk):
    files = FailingFiles(disk, operations={"list_names"}, once=False)
    store = store_on(files)
    new = store.create("one", [Scope.READ])
    files.fail_at = 1
    store.refresh()
    store.refresh()
    assert [finding.code for finding in store.findings()] == ["keys-unreadable"]
    assert store.find(new.token).name == "one"
    assert store.holds_any()
    with pytest.raises(DirectoryError):
        store.all()
    files.fail_at = None
    store.refresh()
    assert store.findings() == []


def test_whether_there_is_a_key_is_known_from_the_last_look(disk):
    files = FailingFiles(disk, operations={"list_names"}, once=False)
    store = store_on(files)
    store.refresh()
    files.fail_at = 1
    assert not store.holds_any()  # no file is read
    store.refresh()
    with pytest.raises(DirectoryError):
        store.holds_any()
    files.fail_at = None
    store_on(disk).create("one", [Scope.READ])
    assert store.holds_any()


# --- failing disks, power cuts ---------------------------------------------------------------


def usable(disk, token):
    store = store_on(disk)
    store.refresh()
    try:
        return store.find(token).name
    except AuthError as error:
        return error.details["reason"]


FAULTS = [
    {"error": errno.EIO}, {"error": errno.ENOSPC}, {"error": errno.EIO, "before": False},
    {"error": errno.EIO, "once": False}, {"error": errno.EIO, "partial_bytes": 7},
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_any_failing_call_leaves_the_whole_key_or_none(fault):
    start = MemoryDisk()
    store_on(start).create("before", [Scope.READ])
    for k in itertools.count(1):
        disk, rng = start.clone(), Random(k)
        files = FailingFiles(disk, **fault)
        store, new, error = store_on(files), None, None
        files.calls, files.fail_at = 0, k
        try:
            new = store.create("new", [Scope.READ])
        except DvecdbError as raised:
            error = raised
        store.close()
        assert disk.handle_count == 0
        keys = store_on(disk.clone()).all()
        assert {key.name for key in keys} >= {"before"}
        if new is not None:
            assert usable(disk.clone(), new.token) == "new"
            assert usable(crash(disk, rng, data=Data.NONE, names=Names.NONE), new.token) == "new"
        else:
            if fault.get("once", True):
                assert [key.name for key in keys] == ["before"]
                assert not [name for name in present(disk) if name.startswith(".partial")]
            assert isinstance(error, DiskFullError) == (fault["error"] == errno.ENOSPC) or (
                error.code == Code.DIRECTORY_UNREADABLE
            )
        if files.calls < k:
            break
    assert k > 10


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_any_failing_call_of_a_revocation_is_reported_and_repeating_it_settles_it(fault):
    start = MemoryDisk()
    new = store_on(start).create("one", [Scope.READ])
    for k in itertools.count(1):
        disk, rng = start.clone(), Random(k)
        files = FailingFiles(disk, **fault)
        store, done = store_on(files), False
        store.refresh()
        files.calls, files.fail_at = 0, k
        try:
            store.revoke("one")
            done = True
        except DvecdbError as error:
            if error.code == Code.DISK_FULL:
                assert usable(disk.clone(), new.token) == "one"
        store.close()
        if done:
            assert (
                usable(crash(disk, rng, data=Data.NONE, names=Names.NONE), new.token) == "revoked"
            )
        else:
            assert usable(disk.clone(), new.token) in {"one", "revoked"}
            store_on(disk).revoke(new.key.id)
            assert (
                usable(crash(disk, rng, data=Data.NONE, names=Names.NONE), new.token) == "revoked"
            )
        if files.calls < k:
            break
    assert k > 8


@pytest.mark.crash
@pytest.mark.parametrize("names_kept", Names)
def test_a_power_cut_leaves_whole_keys_and_whole_revocations(names_kept):
    disk = MemoryDisk()
    store_on(disk).create("before", [Scope.READ])
    position = disk.log_position
    store = store_on(disk)
    new = store.create("new", [Scope.READ])
    made = disk.log_position
    store.revoke("new")
    for state in enumerate_states(disk.log, MemoryDisk(), per_operation=3, rng=Random(4)):
        if state.position < position:
            continue
        found = usable(state.disk, new.token)
        assert found in {"new", "unknown", "revoked"}
        if state.position <= made:
            assert found != "revoked"
        if state.position == disk.log_position:
            assert found == "revoked"
        fresh = store_on(state.disk)
        assert "before" in [key.name for key in fresh.all()]
        assert fresh.findings() == []


def test_what_a_crash_left_half_written_goes_when_it_is_old():
    clock = ManualClock()
    disk = MemoryDisk(clock=clock)
    make_server_directory(disk, "/data", names.KEYS)
    directory = find_server_directory(disk, "/data", names.KEYS)
    disk.close(disk.create(directory, ".partial-0123456789ab.json"))
    store = store_on(disk, clock)
    store.start()
    store.close()
    assert len(present(disk)) == 1  # another process may be writing it
    clock.advance(3_601)
    store = store_on(disk, clock)
    store.start()
    store.close()
    assert present(disk) == []


# --- where they lie --------------------------------------------------------------------------


def test_keys_may_come_before_the_data_directory():
    disk = MemoryDisk()
    new = store_on(disk).create("one", [Scope.ADMIN])
    database = Database("/data", files=disk, clock=ManualClock(), background=False)
    with database:
        store = store_on(disk)  # a directory that is open for writing
        store.create("two", [Scope.READ])
        store.revoke("two")
        assert database.findings() == []
    with Database("/data", files=disk, clock=ManualClock(), background=False):
        pass
    assert usable(disk, new.token) == "one"


def test_somebody_elses_directory_gets_no_keys():
    disk = MemoryDisk.from_tree({"/data/thesis.tex": b"x"})
    for look in (make_server_directory, find_server_directory):
        assert code_of(look, disk, "/data", names.KEYS) == Code.NOT_A_DATA_DIRECTORY
    assert disk.handle_count == 0
    assert code_of(find_server_directory, disk, "/none", names.KEYS) == Code.DIRECTORY_UNREADABLE


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_any_failing_call_of_making_the_directory_is_reported(error):
    for k in itertools.count(1):
        disk = MemoryDisk()
        files = FailingFiles(disk, k, error=error)
        try:
            files.close_directory(make_server_directory(files, "/data", names.KEYS))
        except DvecdbError as raised:
            expected = Code.DISK_FULL if error == errno.ENOSPC else Code.DIRECTORY_UNREADABLE
            assert raised.code == expected  # noqa: PT017
        assert disk.handle_count == 0
        if files.calls < k:
            break
    assert k > 6


# --- two processes ---------------------------------------------------------------------------


def run_keys(data_dir, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "dvecdb", "keys", *arguments, "--data-dir", str(data_dir)],
        env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout


def test_a_running_server_notices_keys_that_another_process_makes_and_revokes(
    tmp_path, monkeypatch
):
    files = OsFiles()
    assert keys_module.LOOK_SECONDS <= 1  # so with the time a look takes, within 2 s
    monkeypatch.setattr(keys_module, "LOOK_SECONDS", 0.01)

    class Watched(KeyStore):
        def refresh(self):
            super().refresh()
            condition.set()

    condition = threading.Event()

    def wait_for(check):
        for _ in range(1_000):
            if check():
                return
            condition.clear()
            assert condition.wait(10)
        raise AssertionError("never noticed")

    store = Watched(files, make_server_directory(files, str(tmp_path), names.KEYS))
    store.start()
    try:
        token = run_keys(tmp_path, "create", "one", "--scope", "read").split()[-1]
        wait_for(lambda: usable_now(store, token) == "one")
        run_keys(tmp_path, "revoke", "one")
        wait_for(lambda: usable_now(store, token) == "revoked")
    finally:
        store.close()


def usable_now(store, token):
    try:
        return store.find(token).name
    except AuthError as error:
        return error.details["reason"]
