"""What a run does with rows, whatever happens: nothing lost or paid twice, and true counts."""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from tests.embedding.lists import (
    COLLECTION,
    HashEmbedder,
    ListSource,
    check_lists,
    counts_of,
    delete_lists,
    job_of,
    records,
    run_lists,
    vector_of,
)

import dvecdb
from dvecdb.embedding.controls import Controls
from dvecdb.embedding.events import Buried, Committed, Paused, RetryStarted
from dvecdb.embedding.identity import row_id
from dvecdb.embedding.model import Reason
from dvecdb.engine.collection import Collection
from dvecdb.errors import Code, InvalidRequestError, UnavailableError


@pytest.fixture
def database(tmp_path):
    with dvecdb.open(tmp_path / "data") as database:
        yield database


def rows(count, start=1):
    return {n: (f"text {n}", {"n": n}, n) for n in range(start, start + count)}


def assert_equal(database, source):
    found = records(database)
    expected = {
        row_id("list", str(key)): vector_of(text).tobytes()
        for key, (text, _, _) in source.rows.items()
    }
    assert {id: vector for id, (vector, _) in found.items()} == expected


def test_a_run_embeds_every_row_once_and_the_next_one_none(database):
    source, embedder = ListSource(rows(23)), HashEmbedder()
    report = run_lists(database, source, embedder)
    assert report.state == "done"
    assert report.sources["list"].embedded == report.sources["list"].cursor == 23
    assert_equal(database, source)
    again = run_lists(database, source, embedder)
    assert again.sources["list"].unchanged == 23
    assert set(embedder.paid.values()) == {1}
    assert len(embedder.paid) == 23
    assert again.spent.texts == 0


# --- what is paid for once ---------------------------------------------------------------------


def test_a_text_that_many_rows_have_is_paid_for_once(database):
    source, embedder = ListSource(rows(30)), HashEmbedder()
    for key in source.rows:
        source.rows[key] = (f"text {key % 4}", {"n": key}, 0)
    cursor = run_lists(database, source, embedder, job_of(concurrency=3)).sources["list"]
    assert (cursor.embedded, cursor.copied) == (4, 26)
    assert set(embedder.paid.values()) == {1}
    assert_equal(database, source)


def test_exactly_the_changed_rows_are_embedded_and_deletions_wait_to_be_told(database):
    source, embedder = ListSource(rows(400)), HashEmbedder()
    run_lists(database, source, embedder)
    embedder.paid.clear()
    for key in range(7, 400, 20):  # 5 %
        source.rows[key] = (f"changed {key}", {"n": key}, 0)
    gone = [row_id("list", str(key)) for key in (100, 200, 300, 400)]  # 1 %
    for key in (100, 200, 300, 400):
        del source.rows[key]
    cursor = run_lists(database, source, embedder).sources["list"]
    assert sorted(embedder.paid) == sorted(f"changed {key}" for key in range(7, 400, 20))
    assert (cursor.embedded, cursor.unchanged, cursor.cursor) == (20, 376, 396)
    assert delete_lists(database, source, dry_run=True) == sorted(gone)
    assert set(gone) <= records(database).keys()
    assert check_lists(database, source).counts["orphaned"] == 4
    assert delete_lists(database, source) == sorted(gone)
    assert_equal(database, source)
    assert check_lists(database, source).ok


def test_swapped_texts_cost_nothing_though_each_overwrites_the_other(database):
    """The first row has taken the place of the second one's text before that is looked for."""
    source, embedder = ListSource(rows(20)), HashEmbedder()
    job = job_of(ahead=0, page=1)
    run_lists(database, source, embedder, job)
    source.rows[1], source.rows[20] = source.rows[20], source.rows[1]
    cursor = run_lists(database, source, embedder, job).sources["list"]
    assert (cursor.embedded, cursor.copied) == (0, 2)
    assert_equal(database, source)


def test_a_collection_in_the_trash_gives_its_vectors_to_the_next_one(database):
    source, embedder = ListSource(rows(20)), HashEmbedder()
    run_lists(database, source, embedder)
    database.delete_collection(COLLECTION)
    cursor = run_lists(database, source, embedder).sources["list"]
    assert (cursor.embedded, cursor.copied) == (0, 20)
    assert_equal(database, source)


def test_rounded_vectors_in_the_trash_are_not_taken_for_exact_ones(database):
    source, embedder = ListSource(rows(5)), HashEmbedder()
    run_lists(database, source, embedder, job_of(target={"vector_type": "float16"}))
    rounded = records(database)
    database.delete_collection(COLLECTION)
    run_lists(database, source, embedder)
    assert_equal(database, source)
    database.delete_collection(COLLECTION)
    embedder.paid.clear()
    run_lists(database, source, embedder, job_of(target={"vector_type": "float16"}))
    assert not embedder.paid
    assert records(database) == rounded


def test_metadata_that_changed_is_written_without_paying_in_commits_of_bounded_size(
    database, monkeypatch
):
    monkeypatch.setattr("dvecdb.embedding.outbox.COMMIT_ROWS", 7)
    source, embedder = ListSource(rows(50)), HashEmbedder()
    run_lists(database, source, embedder)
    for key, (text, _, _) in source.rows.items():
        source.rows[key] = (text, {"n": -key}, 0)
    events = []
    report = run_lists(database, source, embedder, watch=events.append)
    assert report.sources["list"].relabelled == 50
    assert report.spent.texts == 0
    assert {made["n"] for _, made in records(database).values()} == set(range(-50, 0))
    cursors = [event.cursor.cursor for event in events if isinstance(event, Committed)]
    assert max(b - a for a, b in pairwise([0, *cursors])) <= 7


# --- what is read -------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 4])
def test_without_reading_ahead_a_page_is_read_when_all_before_it_is_durable(database, concurrency):
    source, embedder = ListSource(rows(23)), HashEmbedder()
    job = job_of(ahead=0, concurrency=concurrency)
    seen = []

    def look():
        if COLLECTION in database.collections():
            seen.append(database.collection(COLLECTION).count())

    source.before_read = look
    run_lists(database, source, embedder, job)
    assert seen == [0, 5, 10, 15, 20, 23]
    events = []
    run_lists(database, source, embedder, job, watch=events.append)
    cursors = [event.cursor.cursor for event in events if isinstance(event, Committed)]
    assert cursors == [5, 10, 15, 20, 23, 23]  # unchanged rows have their checkpoints too


def test_unchanged_rows_are_passed_without_waiting(database):
    source, embedder = ListSource(rows(3_000)), HashEmbedder()
    run_lists(database, source, embedder, job_of(batch=500, page=500))
    began = time.perf_counter()
    report = run_lists(database, source, embedder, job_of(page=50, ahead=100))
    assert report.sources["list"].unchanged == 3_000
    assert time.perf_counter() - began < 10  # a second for each hundred rows would be 30


def test_rows_that_change_while_a_run_reads_are_those_of_the_next_one(database):
    source, embedder = ListSource(rows(20), keeps_changes=True), HashEmbedder()

    def change():
        source.before_read = lambda: None
        source.rows[1] = ("changed behind it", {}, 21)

    source.before_read = lambda: source.reads == 2 and change()
    report = run_lists(database, source, embedder, job_of(ahead=0))
    assert report.sources["list"].mark == 20  # taken before the first row was read
    cursor = run_lists(database, source, embedder).sources["list"]
    assert (cursor.embedded, cursor.cursor) == (1, 2)
    assert_equal(database, source)


def test_a_source_that_goes_away_is_waited_for_and_its_job_stays_its_own(database, monkeypatch):
    monkeypatch.setattr("dvecdb.embedding.target.RENEW_SECONDS", 0.0)
    source, embedder = ListSource(rows(20)), HashEmbedder()
    away = UnavailableError(Code.SOURCE_UNREACHABLE, "told to be away")
    leases = []

    def fail():
        if source.reads == 2 and len(leases) < 3:
            source.failures = [away]
            leases.append(database.collection(COLLECTION).documents.get("embedding", "lease"))

    source.before_read = fail
    job = job_of(ahead=0, retry_seconds=0.01)
    run_lists(database, source, embedder, job)
    assert_equal(database, source)
    assert [lease["renewed"] for lease in leases] == sorted({lease["renewed"] for lease in leases})


# --- dead letters -------------------------------------------------------------------------------


def letters(database):
    return database.collection(COLLECTION).documents.list("dead_letters")


def test_a_refused_text_is_a_dead_letter_that_goes_when_it_is_taken(database):
    source, embedder = ListSource(rows(10)), HashEmbedder()
    embedder.refuses = {"text 4"}
    report = run_lists(database, source, embedder)
    assert report.dead_letters == report.sources["list"].failed == 1
    (letter,) = letters(database).values()
    assert (letter["key"], letter["reason"], letter["tries"]) == ("4", "refused", 1)
    embedder.refuses = set()
    report = run_lists(database, source, embedder, only_failed=True)
    cursor = report.sources["list"]
    assert (cursor.state, cursor.embedded, cursor.failed, cursor.cursor) == ("done", 10, 0, 10)
    assert report.dead_letters == 0
    assert not letters(database)
    assert set(embedder.paid.values()) == {1}
    assert_equal(database, source)


def test_a_text_that_is_refused_for_a_while_is_embedded_at_the_end_of_the_same_run(database):
    source, embedder = ListSource(rows(10)), HashEmbedder()
    embedder.refuses = {"text 4"}

    def watch(event):
        if isinstance(event, RetryStarted):
            embedder.refuses = set()

    cursor = run_lists(database, source, embedder, watch=watch).sources["list"]
    assert (cursor.embedded, cursor.failed) == (10, 0)
    assert_equal(database, source)


def test_tries_are_counted_in_runs(database):
    source, embedder = ListSource(rows(3)), HashEmbedder()
    embedder.refuses = {"text 2"}
    for run in (1, 2, 3):
        run_lists(database, source, embedder)
        assert [letter["tries"] for letter in letters(database).values()] == [run]


def test_a_dead_letter_whose_row_is_gone_goes_too(database):
    source, embedder = ListSource(rows(5)), HashEmbedder()
    source.rows[2] = (None, {}, 0)
    embedder.refuses = {"text 3"}
    assert run_lists(database, source, embedder).dead_letters == 2
    del source.rows[2], source.rows[3]
    assert run_lists(database, source, embedder).dead_letters == 0
    assert not letters(database)


def test_a_letter_of_an_older_run_is_retried_and_the_counts_stay_those_of_this_one(database):
    source, embedder = ListSource(rows(6), keeps_changes=True), HashEmbedder()
    embedder.refuses = {"text 2"}
    run_lists(database, source, embedder)
    embedder.refuses = set()
    source.rows[7] = ("text 7", {}, 7)
    report = run_lists(database, source, embedder)
    cursor = report.sources["list"]
    assert (counts_of(cursor), cursor.cursor, cursor.failed) == (2, 2, 0)  # rows 6 and 7
    assert report.dead_letters == 0
    assert_equal(database, source)


# --- being stopped ------------------------------------------------------------------------------


@pytest.mark.parametrize("requests", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_budget_ends_a_run_with_everything_paid_for_stored(database, requests, concurrency):
    source, embedder = ListSource(rows(40)), HashEmbedder()
    job = job_of(concurrency=concurrency, budget_requests=requests)
    report = run_lists(database, source, embedder, job)
    assert report.state == "budget"
    assert embedder.requests == requests
    assert report.spent.requests == requests + 1  # the probe, which no budget counts
    assert len(records(database)) == len(embedder.paid)
    cursor = report.sources["list"]
    assert counts_of(cursor) == cursor.cursor
    assert run_lists(database, source, embedder).state == "done"
    assert set(embedder.paid.values()) == {1}
    assert_equal(database, source)


def test_a_stop_while_paused_ends_the_run_and_a_pause_sends_nothing(database):
    source, embedder, controls = ListSource(rows(40)), HashEmbedder(), Controls()
    paused = threading.Event()

    def watch(event):
        if isinstance(event, Committed) and event.cursor.cursor >= 6:
            controls.pause()
        if isinstance(event, Paused):
            paused.set()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(
            run_lists, database, source, embedder, job_of(concurrency=1), watch=watch,
            controls=controls,
        )  # fmt: skip
        assert paused.wait(30)
        sent = embedder.requests
        controls.stop()
        report = future.result(30)
    assert report.state == "stopped"
    assert embedder.requests == sent
    assert len(records(database)) == len(embedder.paid)


def test_a_paused_job_keeps_its_lease_and_goes_on(database, monkeypatch):
    monkeypatch.setattr("dvecdb.embedding.target.RENEW_SECONDS", 0.0)
    source, embedder, controls = ListSource(rows(20)), HashEmbedder(), Controls()
    controls.pause()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(run_lists, database, source, embedder, controls=controls)
        renewed = set()
        while len(renewed) < 3:
            assert not future.done()
            if COLLECTION in database.collections():
                lease = database.collection(COLLECTION).documents.get("embedding", "lease")
                renewed.add((lease or {}).get("renewed"))
        assert not embedder.paid
        controls.resume()
        assert future.result(30).state == "done"
    assert_equal(database, source)


def test_answers_under_way_are_kept_when_another_request_ends_the_run(database):
    """Forbidden for one request: the others that were answered are paid for, and stored."""
    source, embedder = ListSource(rows(40)), HashEmbedder()
    embedder.failures = [Reason.FORBIDDEN]
    with pytest.raises(InvalidRequestError) as caught:
        run_lists(database, source, embedder, job_of(concurrency=4))
    assert caught.value.code is Code.EMBEDDER_REFUSED
    assert len(records(database)) == len(embedder.paid)
    run_lists(database, source, embedder)
    assert set(embedder.paid.values()) == {1}
    assert_equal(database, source)


def test_a_defect_of_an_embedder_loses_no_answer_of_another_request(database):
    source, embedder = ListSource(rows(40)), HashEmbedder()
    real, calls = embedder._vectors, itertools.count()

    def vectors(texts):
        if next(calls) == 3:
            for text in texts:
                del embedder.paid[text]
            raise ZeroDivisionError
        return real(texts)

    embedder._vectors = vectors
    with pytest.raises(ZeroDivisionError):
        run_lists(database, source, embedder, job_of(concurrency=4))
    assert len(records(database)) == len(embedder.paid) > 0


def test_what_was_paid_for_is_written_when_the_database_is_away_at_the_moment_of_a_stop(
    database, monkeypatch
):
    source, embedder, controls = ListSource(rows(9)), HashEmbedder(), Controls()
    real, failures = Collection.write, iter(range(3))

    def write(self, **parts):
        if parts.get("upserts") is not None and next(failures, None) is not None:
            controls.stop()
            raise UnavailableError(Code.UNREACHABLE, "told to be away")
        return real(self, **parts)

    monkeypatch.setattr(Collection, "write", write)
    assert run_lists(database, source, embedder, controls=controls).state == "stopped"
    assert len(records(database)) == len(embedder.paid) > 0


def test_a_letter_of_an_older_run_that_is_refused_again_is_not_counted_by_this_one(database):
    source, embedder = ListSource(rows(6), keeps_changes=True), HashEmbedder()
    embedder.refuses = {"text 2"}
    run_lists(database, source, embedder)
    controls = Controls()

    def stop_in_the_retry(event):
        if isinstance(event, Buried):
            controls.stop()

    run_lists(database, source, embedder, watch=stop_in_the_retry, controls=controls)
    embedder.refuses = set()
    cursor = run_lists(database, source, embedder).sources["list"]
    assert (counts_of(cursor), cursor.cursor, cursor.failed) == (1, 1, 0)
    assert_equal(database, source)


def test_an_interrupt_from_the_keyboard_keeps_the_answers_and_waits_for_nobody(database):
    source, embedder = ListSource(rows(40)), HashEmbedder()

    def watch(event):
        if isinstance(event, Committed) and event.cursor.cursor >= 6:
            embedder.failures = [Reason.OVERLOADED] * 1_000  # which would take for ever
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_lists(database, source, embedder, job_of(concurrency=3, attempts=500), watch=watch)
    embedder.failures = []
    assert len(records(database)) == len(embedder.paid)
    assert run_lists(database, source, embedder).state == "done"
    assert set(embedder.paid.values()) == {1}
