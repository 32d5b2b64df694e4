"""One job at a time, every commit once: leases, unclear outcomes, and a collection that changes."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest
from tests.embedding.lists import (
    COLLECTION,
    HashEmbedder,
    ListSource,
    Stopping,
    counts_of,
    job_of,
    records,
    run_lists,
    vector_of,
)

import dvecdb
from dvecdb.embedding.care import status, wish
from dvecdb.embedding.controls import Controls
from dvecdb.embedding.events import AttemptFailed, Committed, Noted, Reconnected
from dvecdb.embedding.identity import PROBE_TEXT, row_id
from dvecdb.embedding.lease import Lease, is_free
from dvecdb.embedding.progress import read_cursor
from dvecdb.engine.collection import Collection
from dvecdb.errors import (
    Code,
    ConflictError,
    DiskFullError,
    DvecdbError,
    HandleError,
    InvalidRequestError,
    NotFoundError,
    OutcomeUnknownError,
    ServerError,
    UnavailableError,
)

LEASE = ("embedding", "lease")


@pytest.fixture
def database(tmp_path):
    with dvecdb.open(tmp_path / "data") as database:
        yield database


def rows(count):
    return {n: (f"text {n}", {"n": n}, n) for n in range(1, count + 1)}


def documents(database, name=COLLECTION):
    return database.collection(name).documents


def write_documents(database, values):
    database.collection(COLLECTION).write(documents=values)


def assert_equal(database, source, name=COLLECTION):
    expected = {
        row_id("list", str(key)): vector_of(text).tobytes()
        for key, (text, _, _) in source.rows.items()
    }
    assert {id: vector for id, (vector, _) in records(database, name).items()} == expected


# --- who runs ----------------------------------------------------------------------------------


def test_a_second_job_is_refused_at_once_and_the_first_one_is_unharmed(database):
    source, embedder = ListSource(rows(30)), HashEmbedder()
    embedder.gate = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run_lists, database, source, embedder)
        assert embedder.arrived.acquire(timeout=30)
        before = documents(database).get(*LEASE)
        with pytest.raises(ConflictError) as caught:
            run_lists(database, ListSource(rows(30)), HashEmbedder())
        assert documents(database).get(*LEASE) == before
        embedder.gate.set()
        assert first.result(30).state == "done"
    assert caught.value.code is Code.JOB_RUNNING
    assert str(before["pid"]) in caught.value.message
    assert set(embedder.paid.values()) == {1}
    assert_equal(database, source)
    assert documents(database).get(*LEASE) is None


def leave_a_lease(database, **changes):
    lease = {**Lease.of_this_process("an older run").to_json(), **changes}
    write_documents(database, {LEASE: lease})
    return lease


def test_a_lease_of_this_process_that_nobody_renews_is_free_again(database):
    """As an undo, a restore or a clone brings it back, in a server that runs for months."""
    source, embedder = ListSource(rows(5)), HashEmbedder()
    run_lists(database, source, embedder)
    leave_a_lease(database, at_ns=1)
    assert status(database, COLLECTION).running is None
    with pytest.raises(NotFoundError) as caught:
        wish(database, COLLECTION, "stop")
    assert caught.value.code is Code.JOB_NOT_FOUND
    assert run_lists(database, source, embedder).state == "done"


@pytest.mark.parametrize("lease", ["text", 7, {}, {"host": None}, {"at_ns": "soon"}])
def test_a_document_that_is_no_lease_holds_nobody_up_for_ever(database, lease, monkeypatch):
    monkeypatch.setattr("dvecdb.embedding.target.LEASE_SECONDS", 1)
    source, embedder = ListSource(rows(5)), HashEmbedder()
    run_lists(database, source, embedder)
    write_documents(database, {LEASE: lease})
    assert run_lists(database, source, embedder).state == "done"


def test_a_lease_of_another_machine_is_watched_before_it_is_taken(database, monkeypatch):
    monkeypatch.setattr("dvecdb.embedding.target.LEASE_SECONDS", 2)
    source, embedder = ListSource(rows(5)), HashEmbedder()
    run_lists(database, source, embedder)
    lease = leave_a_lease(database, host="elsewhere")
    assert run_lists(database, source, embedder).state == "done"
    leave_a_lease(database, host="elsewhere")
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(run_lists, database, source, embedder)
        for renewed in range(1, 100):
            write_documents(database, {LEASE: {**lease, "renewed": renewed}})
            if wait([second], 0.2).done:
                break
        with pytest.raises(ConflictError) as caught:
            second.result(30)
    assert caught.value.code is Code.JOB_RUNNING
    assert "elsewhere" in caught.value.message


def test_a_lease_that_is_given_back_while_it_is_watched_is_taken(database, monkeypatch):
    monkeypatch.setattr("dvecdb.embedding.target.LEASE_SECONDS", 20)
    source, embedder = ListSource(rows(5)), HashEmbedder()
    run_lists(database, source, embedder)
    leave_a_lease(database, host="elsewhere")
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(run_lists, database, source, embedder)
        write_documents(database, {LEASE: None})
        assert second.result(15).state == "done"


def test_leases_are_compared_by_the_time_of_their_own_machine():
    lease = Lease.of_this_process("me", at_ns=10**12).to_json()
    assert not is_free(lease, 10**12)
    assert not is_free(lease, 10**12 + 29 * 10**9)
    assert is_free(lease, 10**12 + 31 * 10**9)
    assert is_free(lease, 10**12 - 1)  # of a boot before this one
    assert not is_free({**lease, "host": "elsewhere"}, 10**13)


def test_a_job_that_lost_its_lease_writes_nothing_more(database):
    source, embedder, taken = ListSource(rows(30)), HashEmbedder(), []

    def take(event):
        if isinstance(event, Committed) and not taken:
            taken.append(records(database))
            leave_a_lease(database, owner="somebody else")

    with pytest.raises(ConflictError) as caught:
        run_lists(database, source, embedder, job_of(concurrency=1), watch=take)
    assert caught.value.code is Code.JOB_RUNNING
    assert records(database) == taken[0]
    assert documents(database).get(*LEASE)["owner"] == "somebody else"


def test_a_begin_that_fails_gives_its_lease_back(database, monkeypatch):
    source, embedder = ListSource(rows(5)), HashEmbedder()
    real = Collection.write

    def write(self, **parts):
        if parts["reason"] == "pin the embedder":
            raise ServerError(Code.SERVER_ERROR, "told to break")
        return real(self, **parts)

    with monkeypatch.context() as patch:
        patch.setattr(Collection, "write", write)
        with pytest.raises(ServerError):
            run_lists(database, source, embedder)
    assert documents(database).get(*LEASE) is None
    assert run_lists(database, source, embedder).state == "done"


# --- unclear outcomes --------------------------------------------------------------------------

SERVER = {"request_id": "r1"}
AWAY = [
    UnavailableError(Code.UNREACHABLE, "away"),
    UnavailableError(Code.DEADLINE_EXCEEDED, "late"),
    UnavailableError(Code.TOO_MANY_REQUESTS, "busy"),
    DiskFullError(Code.DISK_FULL, "full"),
    HandleError(Code.HANDLE_CLOSED, "about to start again", **SERVER),
    OutcomeUnknownError(Code.OUTCOME_UNKNOWN, "unclear", **SERVER),
]


@pytest.mark.parametrize("is_done", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize("error", AWAY, ids=lambda error: error.code)
def test_every_commit_may_have_no_answer_and_happens_once(database, monkeypatch, error, is_done):
    source, embedder, events = ListSource(rows(20)), HashEmbedder(), []
    real, failed = Collection.write, set()

    def write(self, **parts):
        key = repr(parts["documents"])
        if key in failed:
            return real(self, **parts)
        failed.add(key)
        if is_done:
            real(self, **parts)
        raise error

    monkeypatch.setattr(Collection, "write", write)
    report = run_lists(database, source, embedder, watch=events.append)
    cursor = report.sources["list"]
    assert (report.state, cursor.embedded, cursor.cursor) == ("done", 20, 20)
    assert cursor == stored_cursor(database)
    assert set(embedder.paid.values()) == {1}
    assert_equal(database, source)
    assert documents(database).get(*LEASE) is None
    assert len(failed) > 5
    if not is_done:
        said = [event for event in events if isinstance(event, AttemptFailed)]
        assert {(event.what, event.reason) for event in said} == {("database", error.code)}
        assert any(isinstance(event, Reconnected) for event in events)


def stored_cursor(database):
    return read_cursor(documents(database).get("jobs", "list"))


@pytest.mark.parametrize(
    "error",
    [
        HandleError(Code.HANDLE_CLOSED, "this handle is closed"),
        OutcomeUnknownError(Code.OUTCOME_UNKNOWN, "open it again"),
        UnavailableError(Code.CANCELLED, "never mind"),
    ],
    ids=lambda error: error.code,
)
def test_what_no_waiting_cures_in_this_process_ends_the_run(database, monkeypatch, error):
    source, embedder = ListSource(rows(5)), HashEmbedder()
    run_lists(database, source, embedder)
    source.rows[6] = ("text 6", {}, 0)

    def write(self, **parts):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Collection, "write", write)
        with pytest.raises(DvecdbError) as caught:
            run_lists(database, source, embedder)
    assert caught.value is error


def test_a_database_that_stays_away_is_given_up_when_told(database, monkeypatch):
    source, embedder = ListSource(rows(5)), HashEmbedder()
    run_lists(database, source, embedder)
    source.rows[6] = ("text 6", {}, 0)

    def write(self, **parts):
        raise UnavailableError(Code.UNREACHABLE, "away")

    with monkeypatch.context() as patch:
        patch.setattr(Collection, "write", write)
        with pytest.raises(UnavailableError) as caught:
            run_lists(database, source, embedder, job_of(give_up_seconds=0.05))
    assert caught.value.code is Code.UNREACHABLE
    run_lists(database, source, embedder)
    assert_equal(database, source)


# --- a collection that changes under the job ----------------------------------------------------


def run_and(database, source, embedder, act, *, at=3):
    """Run and do something at the n-th commit; return the error."""
    left = [at]

    def watch(event):
        if isinstance(event, Committed):
            left[0] -= 1
            if left[0] == 0:
                act()

    with pytest.raises(DvecdbError) as caught:
        run_lists(database, source, embedder, job_of(concurrency=1), watch=watch)
    return caught.value


def test_an_undo_under_a_job_ends_it_and_the_next_run_repairs_everything(database):
    source, embedder = ListSource(rows(30)), HashEmbedder()
    collection = None

    def undo():
        nonlocal collection
        collection = database.collection(COLLECTION)
        collection.undo(to_lsn=collection.snapshot().lsn - 2)

    error = run_and(database, source, embedder, undo)
    assert error.code is Code.CONDITION_FAILED
    assert "undone or restored" in error.message
    report = run_lists(database, source, embedder)
    cursor = report.sources["list"]
    assert (report.state, cursor.cursor, counts_of(cursor)) == ("done", 30, 30)
    assert_equal(database, source)


@pytest.mark.parametrize("back", [2, 4, 6, 8])
def test_after_an_undo_to_the_middle_of_a_run_the_next_one_goes_on_there(database, back):
    source, embedder = ListSource(rows(30)), HashEmbedder()
    run_lists(database, source, embedder, job_of(concurrency=1))
    collection = database.collection(COLLECTION)
    collection.undo(to_lsn=collection.snapshot().lsn - back)
    left = collection.count()
    embedder.paid.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dvecdb.embedding.lease.LEASE_SECONDS", 0.0)  # that it came back with
        cursor = run_lists(database, source, embedder).sources["list"]
    assert (cursor.cursor, counts_of(cursor)) == (30, 30)
    assert len(embedder.paid) == 30 - left
    assert_equal(database, source)


def test_records_that_somebody_deleted_come_back_with_the_next_run(database):
    source, embedder = ListSource(rows(10)), HashEmbedder()
    run_lists(database, source, embedder)
    database.collection(COLLECTION).delete([row_id("list", "3"), row_id("list", "8")])
    assert run_lists(database, source, embedder).sources["list"].embedded == 2
    assert_equal(database, source)


def test_a_collection_deleted_under_a_job_ends_it_and_the_next_run_makes_it_anew(database):
    source, embedder = ListSource(rows(30)), HashEmbedder()
    error = run_and(database, source, embedder, lambda: database.delete_collection(COLLECTION))
    assert error.code is Code.COLLECTION_DELETED
    run_lists(database, source, embedder)
    assert_equal(database, source)
    assert max(embedder.paid.values()) <= 2  # what was under way when it went
    assert sum(embedder.paid.values()) <= 30 + 3


def test_a_clone_has_all_that_a_job_needs_to_go_on(database):
    source, embedder = ListSource(rows(30)), HashEmbedder()
    controls = Controls()

    def clone(event):
        if isinstance(event, Committed) and event.cursor.cursor == 12:
            database.collection(COLLECTION).clone("other")

    run_lists(database, source, embedder, job_of(concurrency=1), watch=clone, controls=controls)
    assert_equal(database, source)
    embedder.paid.clear()
    job = job_of(target={"collection": "other"})
    with pytest.raises(ConflictError) as caught:  # its lease came along, and may be a true one
        run_lists(database, source, embedder, job)
    assert caught.value.code is Code.JOB_RUNNING
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dvecdb.embedding.lease.LEASE_SECONDS", 0.0)
        cursor = run_lists(database, source, embedder, job).sources["list"]
    assert (cursor.cursor, counts_of(cursor), len(embedder.paid)) == (30, 30, 18)
    assert_equal(database, source, "other")


# --- what a collection can hold -----------------------------------------------------------------


def whole(text):
    return np.round(vector_of(text) * 100) + 0.0  # no minus zero


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_vectors_that_a_collection_cannot_hold_are_refused_before_it_is_made(database, kind):
    source, embedder = ListSource(rows(5)), HashEmbedder()
    if kind == "float16":
        embedder.special[PROBE_TEXT] = vector_of(PROBE_TEXT) * 1e6
    with pytest.raises(InvalidRequestError) as caught:
        run_lists(database, source, embedder, job_of(target={"vector_type": kind}))
    assert caught.value.code is Code.VECTOR_OUT_OF_RANGE
    assert kind in caught.value.message
    assert database.collections() == []
    assert not embedder.paid


@pytest.mark.parametrize("kind", ["int8", "float16", "float32"])
def test_every_vector_type_is_filled_copied_and_found_again(database, kind):
    source, embedder = ListSource(rows(10)), HashEmbedder()
    for key in (4, 9):
        source.rows[key] = ("text 1", {"n": key}, 0)
    embedder.special = {f"text {n}": whole(f"text {n}") for n in range(1, 11)}
    embedder.special[PROBE_TEXT] = whole(PROBE_TEXT)
    job = job_of(target={"vector_type": kind})
    run_lists(database, source, embedder, job)
    for id, (vector, made) in records(database).items():
        text = source.rows[int(made["_embedded"]["key"])][0]
        assert vector == whole(text).astype(np.float32).tobytes(), id
    for key, (text, _, _) in source.rows.items():
        source.rows[key] = (text, {"n": -key}, 0)
    assert run_lists(database, source, embedder, job).sources["list"].relabelled == 10
    assert set(embedder.paid.values()) == {1}


def test_a_collection_of_another_dimension_is_refused_and_keeps_its_rows(database):
    collection = database.create_collection(COLLECTION, dimension=5)
    collection.upsert(["mine"], np.ones((1, 5)))
    source, embedder = ListSource(rows(5)), HashEmbedder()
    with pytest.raises(ConflictError) as caught:
        run_lists(database, source, embedder)
    assert caught.value.code is Code.EMBEDDER_MISMATCH
    assert caught.value.details["expected"] == 5
    assert collection.count() == 1
    assert not embedder.paid


def test_a_collection_that_has_rows_of_its_own_keeps_them(database):
    collection = database.create_collection(COLLECTION, dimension=8)
    collection.upsert(["mine"], np.ones((1, 8)), [{"mine": True}])
    source, embedder = ListSource(rows(5)), HashEmbedder()
    run_lists(database, source, embedder)
    assert collection.count() == 6
    assert collection.get(["mine"])[0].metadata == {"mine": True}


@pytest.mark.parametrize("pin", ["text", {}, {"model": "hash", "probe": "no base64!"}])
def test_a_pin_that_cannot_be_read_is_refused(database, pin):
    source, embedder = ListSource(rows(5)), HashEmbedder()
    run_lists(database, source, embedder)
    write_documents(database, {("embedding", "embedder"): pin})
    with pytest.raises(ConflictError) as caught:
        run_lists(database, source, embedder)
    assert caught.value.code is Code.EMBEDDER_MISMATCH


def test_documents_of_a_stranger_are_no_dead_letters_and_no_cursors(database):
    source, embedder = ListSource(rows(5)), HashEmbedder()
    run_lists(database, source, embedder)
    write_documents(
        database, {("dead_letters", "x"): "mine", ("jobs", "list"): [1], ("jobs", "x"): {"a": 1}}
    )
    cursor = run_lists(database, source, embedder).sources["list"]
    assert cursor.unchanged == 5
    assert documents(database).get("dead_letters", "x") == "mine"


def test_stopping_and_noting_is_all_that_a_lost_release_does(database, monkeypatch):
    source, embedder, events = ListSource(rows(5)), HashEmbedder(), []
    real = Collection.write

    def write(self, **parts):
        if parts["reason"] == "a job ends":
            raise ServerError(Code.SERVER_ERROR, "told to break")
        return real(self, **parts)

    monkeypatch.setattr(Collection, "write", write)
    assert run_lists(database, source, embedder, watch=events.append).state == "done"
    assert any(isinstance(event, Noted) and "lease" in event.message for event in events)


def test_a_run_stopped_at_any_commit_leaves_its_lease_free(database):
    source, embedder = ListSource(rows(30)), HashEmbedder()
    for at in range(1, 6):
        controls = Controls()
        run_lists(database, source, embedder, watch=Stopping(controls, at), controls=controls)
        assert documents(database).get(*LEASE) is None
    run_lists(database, source, embedder)
    assert set(embedder.paid.values()) == {1}
    assert_equal(database, source)
