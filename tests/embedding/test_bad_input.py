"""What is wrong with rows, jobs, sources and services: told by code and name, and nothing lost.

Bad rows become dead letters and hold up no other; a bad job, source or service is refused before
anything is written, or keeps everything that was.
"""

import json
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.e2e.serving import Server
from tests.embedding.lists import (
    COLLECTION,
    FLOW,
    HashEmbedder,
    ListSource,
    check_lists,
    counts_of,
    job_of,
    records,
    run_lists,
    vector_of,
)

import dvecdb
from dvecdb.embedding import parse_job, run
from dvecdb.embedding.care import check_job, estimate_job
from dvecdb.embedding.controls import Controls
from dvecdb.embedding.events import AttemptFailed, Buried, Paused
from dvecdb.embedding.identity import PROBE_TEXT, row_id
from dvecdb.embedding.local.models import open_model
from dvecdb.embedding.model import Answer, EmbedError, Reason
from dvecdb.errors import Code, ConflictError, DvecdbError, InvalidRequestError, UnavailableError
from dvecdb.testing.embedding_service import EmbeddingService
from dvecdb.testing.postgres import Postgres


@pytest.fixture
def database(tmp_path):
    with dvecdb.open(tmp_path / "data") as database:
        yield database


OPEN_SOURCE = "dvecdb.embedding.sources.opening.open_source"


def rows(count):
    return {n: (f"text {n}", {"n": n}, n) for n in range(1, count + 1)}


def letters(database):
    """Return key -> reason."""
    found = database.collection(COLLECTION).documents.list("dead_letters")
    return {letter["key"]: letter["reason"] for letter in found.values()}


def texts(database):
    """Return key -> vector bytes."""
    return {made["_embedded"]["key"]: vector for vector, made in records(database).values()}


def embed_file(database, source, embedder=None, **job):
    """Run a job over one real source; return its cursor."""
    job = parse_job(
        {"target": {"collection": COLLECTION}, "sources": {"s": source}, "flow": FLOW, **job}
    )
    embedder = embedder or HashEmbedder()
    with mock.patch("dvecdb.embedding.running.open_embedder", return_value=embedder):
        return run(job, database, environment={}).sources["s"]


# --- texts -------------------------------------------------------------------------------------


def sqlite_of(path, values):
    """Make a table of texts numbered from 1."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, text, note)")
        connection.executemany("INSERT INTO t VALUES (?, ?, ?)",
                               [(n, *one) for n, one in enumerate(values, 1)])  # fmt: skip
    connection.close()
    return {"path": str(path), "table": "t", "key": "id", "text": "text", "metadata": ["note"]}


def jsonl_of(path, values):
    lines = [json.dumps({"id": n, "text": text, "note": note})
             for n, (text, note) in enumerate(values, 1)]  # fmt: skip
    path.write_text("\n".join(lines))
    return {"path": str(path), "key": "id", "text": "text", "metadata": ["note"]}


@pytest.mark.parametrize("empty", ["dead-letter", "skip"])
@pytest.mark.parametrize("make", [sqlite_of, jsonl_of], ids=["sqlite", "jsonl"])
def test_rows_without_text_are_dead_letters_or_passed_over(database, tmp_path, make, empty):
    source = make(
        tmp_path / f"rows.{'db' if make is sqlite_of else 'jsonl'}",
        [("one", 1), (None, 2), ("", 3), (" \n\t", 4), ("five", 5)],
    )
    if make is sqlite_of:
        source["kind"] = "sqlite"
    cursor = embed_file(database, source, text={"empty": empty})
    count = cursor.failed if empty == "dead-letter" else cursor.skipped
    assert (cursor.embedded, count, counts_of(cursor), cursor.cursor) == (2, 3, 5, 5)
    assert letters(database) == (dict.fromkeys("234", "empty") if empty == "dead-letter" else {})
    assert texts(database).keys() == {"1", "5"}


def test_a_row_that_lost_its_text_keeps_its_record_and_verify_says_so(database):
    source, embedder = ListSource(rows(3)), HashEmbedder()
    job = job_of(text={"empty": "skip"})
    run_lists(database, source, embedder, job)
    source.rows[2] = (None, {}, 0)
    cursor = run_lists(database, source, embedder, job).sources["list"]
    assert (cursor.skipped, cursor.unchanged) == (1, 2)
    assert texts(database).keys() == {"1", "2", "3"}
    checked = check_lists(database, source, job)
    assert (checked.ok, checked.listed["stale"]) == (False, ["2"])


def test_long_texts_are_cut_split_or_refused_as_told(database):
    long = " ".join(f"word{n}" for n in range(40))
    for too_long in ("truncate", "split", "dead-letter"):
        source, embedder = ListSource({1: ("short", {}, 0), 2: (long, {}, 0)}), HashEmbedder()
        job = job_of(text={"too_long": too_long, "length_max": 100})
        cursor = run_lists(database, source, embedder, job).sources["list"]
        longest = max(map(len, embedder.paid))
        assert longest <= 100
        if too_long == "dead-letter":
            assert (cursor.embedded, cursor.failed) == (1, 1)
            assert letters(database) == {"2": "too-long"}
            assert "at most 100" in str(
                database.collection(COLLECTION).documents.list("dead_letters")
            )
        else:
            assert cursor.embedded == 2
            vector = np.frombuffer(texts(database)["2"], np.float32)
            assert np.isfinite(vector).all()
            whole = vector.tobytes() == vector_of(long[:100]).tobytes()
            assert whole == (too_long == "truncate")
        database.delete_collection(COLLECTION)
        database.purge(0)


@pytest.mark.parametrize("too_long", ["truncate", "split"])
@pytest.mark.parametrize("text", [" " * 50 + "x", "\n" * 200, "x" + " " * 50])
def test_a_long_text_of_blanks_is_sent_to_nobody(database, too_long, text):
    source, embedder = ListSource({1: ("one", {}, 0), 2: (text, {}, 0)}), HashEmbedder()
    job = job_of(text={"too_long": too_long, "length_max": 10})
    cursor = run_lists(database, source, embedder, job).sources["list"]
    assert all(sent.strip() for sent in embedder.paid)
    assert counts_of(cursor) == 2
    assert cursor.embedded + cursor.failed == 2


def test_parts_of_a_text_that_are_refused_make_the_row_a_dead_letter(database):
    source, embedder = ListSource({1: ("aaaa bbbb cccc", {}, 0), 2: ("x", {}, 0)}), HashEmbedder()
    embedder.refuses = {"bbbb "}
    job = job_of(text={"too_long": "split", "length_max": 5})
    cursor = run_lists(database, source, embedder, job).sources["list"]
    assert (cursor.embedded, cursor.failed) == (1, 1)
    assert letters(database) == {"1": "refused"}


def test_bytes_that_are_no_text_are_dead_letters_of_their_rows(database, tmp_path):
    lines = tmp_path / "rows.jsonl"
    lines.write_bytes(
        b'{"id": 1, "text": "one"}\n{"id": 2, "text": "tw\xff"}\n'
        b'{"id": 3, "text": "NUL \\u0000"}\n{"id": "\xfe", "text": "four"}\n'
        b'{"id": 5, "text": "\\ud800"}\n{"id": 6, "text": "six"}\nno json\n'
    )
    cursor = embed_file(database, {"path": str(lines), "key": "id", "text": "text"})
    assert (cursor.embedded, cursor.failed, cursor.cursor) == (2, 5, 7)
    assert set(letters(database).values()) == {"row"}
    assert {"2", "3", "5"} < letters(database).keys()
    database.delete_collection(COLLECTION)
    table = tmp_path / "rows.csv"
    table.write_bytes(b"id,text\n1,one\n2,tw\xff\n3,three\n4\n")
    cursor = embed_file(database, {"path": str(table), "key": "id", "text": "text"})
    assert (cursor.embedded + cursor.copied, cursor.failed, cursor.cursor) == (2, 2, 4)
    assert "2" in letters(database)


# --- keys --------------------------------------------------------------------------------------


def test_of_a_key_that_is_there_twice_the_first_row_counts(database, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"id": {n % 4}, "text": "text {n}"}}\n' for n in range(6)))
    cursor = embed_file(database, {"path": str(path), "key": "id", "text": "text"})
    assert (cursor.embedded, cursor.failed, cursor.cursor) == (4, 2, 6)
    expected = {str(n): vector_of(f"text {n}").tobytes() for n in range(4)}
    assert texts(database) == expected
    again = embed_file(database, {"path": str(path), "key": "id", "text": "text"})
    assert (again.embedded, again.unchanged) == (0, 4)


def test_a_source_that_gives_a_key_twice_in_a_page_breaks_nothing(database):
    class Twice(ListSource):
        def read(self, after, limit, since=None):
            found = super().read(after, limit, since)
            return [row for row in found for _ in range(2)]

    source, embedder = Twice(rows(12)), HashEmbedder()
    assert run_lists(database, source, embedder).state == "done"
    assert len(records(database)) == 12
    assert set(embedder.paid.values()) == {1}


def test_a_table_without_a_stable_key_is_refused_and_nothing_is_made(database, tmp_path):
    path = tmp_path / "rows.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (id INTEGER, text TEXT)")
        connection.execute("INSERT INTO t VALUES (1, 'one'), (1, 'two')")
    connection.close()
    embedder = HashEmbedder()
    with pytest.raises(InvalidRequestError) as caught:
        source = {"path": str(path), "table": "t", "kind": "sqlite", "key": "id", "text": "text"}
        embed_file(database, source, embedder)
    assert caught.value.code is Code.SOURCE_REFUSED
    assert "not stable" in caught.value.message
    assert database.collections() == []
    assert embedder.probes == 0


def test_two_sources_may_have_the_same_keys(database):
    left, right, embedder = ListSource(rows(9)), ListSource(rows(9)), HashEmbedder()
    right.rows = {key: (f"right {key}", {}, 0) for key in right.rows}
    right.rows[1] = ("text 1", {}, 0)
    report = run_lists(database, {"left": left, "right": right}, embedder)
    assert [report.sources[name].cursor for name in ("left", "right")] == [9, 9]
    found = records(database)
    for name, source in (("left", left), ("right", right)):
        for key, (text, _, _) in source.rows.items():
            assert found[row_id(name, str(key))][0] == vector_of(text).tobytes()
    assert set(embedder.paid.values()) == {1}
    again = run_lists(database, {"left": left, "right": right}, embedder)
    assert [cursor.unchanged for cursor in again.sources.values()] == [9, 9]


def test_a_key_that_becomes_text_names_the_same_rows(database, tmp_path):
    path, source = tmp_path / "rows.db", None
    for kind in ("INTEGER", "TEXT"):
        path.unlink(missing_ok=True)
        with sqlite3.connect(path) as connection:
            connection.execute(f"CREATE TABLE t (id {kind} PRIMARY KEY NOT NULL, text TEXT)")
            connection.executemany("INSERT INTO t VALUES (?, ?)",
                                   [(n, f"text {n}") for n in range(1, 13)])  # fmt: skip
        connection.close()
        source = {"path": str(path), "table": "t", "kind": "sqlite", "key": "id", "text": "text"}
        cursor = embed_file(database, source)
        assert cursor.cursor == counts_of(cursor) == 12
    assert cursor.unchanged == 12


def test_a_key_that_becomes_text_in_the_middle_of_a_run_loses_no_row(database, tmp_path):
    path, embedder = tmp_path / "rows.db", HashEmbedder()
    source = {"path": str(path), "table": "t", "kind": "sqlite", "key": "id", "text": "text"}
    for kind, flow in (("INTEGER", {"budget_requests": 2}), ("TEXT", {})):
        path.unlink(missing_ok=True)
        with sqlite3.connect(path) as connection:
            connection.execute(f"CREATE TABLE t (id {kind} PRIMARY KEY NOT NULL, text TEXT)")
            connection.executemany("INSERT INTO t VALUES (?, ?)",
                                   [(n, f"text {n}") for n in range(1, 13)])  # fmt: skip
        connection.close()
        embed_file(database, source, embedder, flow={**FLOW, "concurrency": 1, **flow})
    assert texts(database) == {str(n): vector_of(f"text {n}").tobytes() for n in range(1, 13)}
    assert set(embedder.paid.values()) == {1}


ODD_KEYS = [
    "é",
    "e\u0301",
    "\U0001f600",
    "x" * 5_000,
    " ",
    "a\tb",
    "'; --",
    '"',
    "\u202e",
    "\\",
    "0",
]


def test_keys_of_odd_shapes_are_keys(database, tmp_path):
    for make in ("sqlite", "jsonl"):
        path = tmp_path / f"rows.{make}"
        if make == "jsonl":
            path.write_text(
                "\n".join(json.dumps({"id": key, "text": key + "!"}) for key in ODD_KEYS)
            )
            source = {"path": str(path), "key": "id", "text": "text"}
        else:
            with sqlite3.connect(path) as connection:
                connection.execute("CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, text TEXT)")
                connection.executemany(
                    "INSERT INTO t VALUES (?, ?)", [(key, key + "!") for key in ODD_KEYS]
                )
            connection.close()
            source = {
                "path": str(path),
                "table": "t",
                "kind": "sqlite",
                "key": "id",
                "text": "text",
            }
        cursor = embed_file(database, source)
        assert (cursor.failed, cursor.cursor) == (0, len(ODD_KEYS)), make
        expected = {key: vector_of(key + "!").tobytes() for key in ODD_KEYS}
        assert texts(database) == expected
        cursor = embed_file(database, source)
        assert cursor.unchanged == len(ODD_KEYS)


def test_keys_that_no_document_could_hold_are_told_and_hold_up_nothing(database, tmp_path):
    path = tmp_path / "rows.db"
    keys = ["a\0b", "a", "huge" * 30_000, b"\xff\xfe".decode(errors="surrogateescape"), "z"]
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, text TEXT)")
        connection.executemany(
            "INSERT INTO t VALUES (CAST(? AS TEXT), ?)",
            [(key.encode(errors="surrogateescape"), f"text {n}") for n, key in enumerate(keys)],
        )
    connection.close()
    source = {"path": str(path), "table": "t", "kind": "sqlite", "key": "id", "text": "text"}
    cursor = embed_file(database, source)
    assert (cursor.embedded, cursor.failed, cursor.cursor) == (2, 3, 5)
    assert texts(database).keys() == {"a", "z"}
    assert all(len(key) <= 1_000 for key in letters(database))


# --- metadata ----------------------------------------------------------------------------------


@pytest.mark.parametrize("remote", [False, True], ids=["embedded", "server"])
def test_metadata_that_is_too_large_is_one_dead_letter_and_paid_for_once(database, remote, request):
    if remote:
        database = request.getfixturevalue("served")
    source, embedder, events = ListSource(rows(30)), HashEmbedder(), []
    source.rows[2] = ("text 2", {"n": "x" * 70_000}, 0)
    source.rows[14] = ("text 14", {"n": "x" * 70_000}, 0)
    report = run_lists(database, source, embedder, watch=events.append)
    cursor = report.sources["list"]
    assert (cursor.embedded, cursor.failed, cursor.cursor) == (28, 2, 30)
    assert letters(database) == dict.fromkeys(("2", "14"), "metadata-too-large")
    assert len(records(database)) == 28
    assert sum(isinstance(event, Buried) for event in events) == 2
    assert embedder.paid["text 14"] == 0  # the limit was known by then
    again = run_lists(database, source, embedder)
    assert again.sources["list"].failed == 2
    assert set(embedder.paid.values()) == {1}
    source.rows[2] = ("text 2", {"n": "small"}, 0)
    assert run_lists(database, source, embedder).sources["list"].embedded == 1
    assert letters(database) == {"14": "metadata-too-large"}


@pytest.fixture
def served(tmp_path):
    server = Server(tmp_path / "served", tmp_path / "server.log").wait()
    with dvecdb.connect(f"http://127.0.0.1:{server.port}") as database:
        yield database
    server.kill()


@pytest.mark.parametrize(
    "value", [{1: "number"}, ("tuple",), float("nan"), 2**70, object(), "\ud800"]
)
def test_metadata_that_is_no_json_is_one_dead_letter(database, value):
    source, embedder = ListSource(rows(7)), HashEmbedder()
    source.rows[4] = ("text 4", {"n": value}, 0)
    cursor = run_lists(database, source, embedder).sources["list"]
    assert counts_of(cursor) == cursor.cursor == 7
    if cursor.failed:
        assert letters(database) == {"4": "invalid-metadata"}
    again = run_lists(database, source, embedder).sources["list"]
    assert (again.unchanged, again.failed) == (cursor.embedded, cursor.failed)
    assert set(embedder.paid.values()) == {1}


@pytest.mark.parametrize(
    "entry",
    ["_embedded", " _embedded ", "note as _embedded", "note AS _embedded", "n  as  _embedded"],
)
def test_metadata_that_would_hide_what_a_record_was_made_of_is_refused(database, tmp_path, entry):
    source = {**jsonl_of(tmp_path / "rows.jsonl", [("one", 1)]), "metadata": [entry]}
    with pytest.raises(InvalidRequestError) as caught:
        embed_file(database, source)
    assert caught.value.code is Code.INVALID_JOB
    assert "_embedded" in caught.value.message
    job = parse_job({"target": {"collection": COLLECTION}, "sources": {"s": source}})
    for look in (check_job, estimate_job):
        with pytest.raises(DvecdbError):
            look(job, database, environment={})
    assert database.collections() == []


def test_a_column_of_that_name_may_be_renamed(database, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1, "text": "one", "_embedded": 7}')
    source = {"path": str(path), "key": "id", "text": "text", "metadata": ["_embedded as note"]}
    embed_file(database, source)
    ((_, metadata),) = records(database).values()
    assert metadata["note"] == 7
    assert metadata["_embedded"]["key"] == "1"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False,
    allow_infinity=False) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=30)
@given(st.lists(JSON, min_size=1, max_size=6))
def test_whatever_metadata_is_it_is_stored_as_it_is_and_unchanged_the_next_time(values):
    with tempfile.TemporaryDirectory() as directory, dvecdb.open(directory) as database:
        source = ListSource({n: (f"text {n}", {"v": one}, 0) for n, one in enumerate(values)})
        embedder = HashEmbedder()
        run_lists(database, source, embedder)
        stored = {made["_embedded"]["key"]: made["v"] for _, made in records(database).values()}
        assert stored == {str(n): one for n, one in enumerate(values)}
        cursor = run_lists(database, source, embedder).sources["list"]
        assert cursor.unchanged == len(values)


# --- vectors -----------------------------------------------------------------------------------


def test_a_vector_that_float16_cannot_hold_is_one_dead_letter_and_paid_for_once(database):
    source, embedder = ListSource(rows(20)), HashEmbedder()
    embedder.special["text 9"] = vector_of("text 9") * 1e6
    source.rows[15] = ("text 9", {}, 0)  # it follows the first, and cannot be held either
    job = job_of(target={"vector_type": "float16"})
    for _ in range(2):
        cursor = run_lists(database, source, embedder, job).sources["list"]
        assert (cursor.failed, counts_of(cursor)) == (2, 20)
        assert letters(database) == dict.fromkeys(("9", "15"), "vector-out-of-range")
        assert set(embedder.paid.values()) == {1}
    assert len(records(database)) == 18
    embedder.special.clear()
    run_lists(database, source, embedder, job, only_failed=True)
    assert not letters(database)
    assert len(records(database)) == 20


def test_a_row_that_is_not_whole_is_one_dead_letter_of_an_int8_collection(database):
    source, embedder = ListSource(rows(8)), HashEmbedder()
    embedder.special = {f"text {n}": np.round(vector_of(f"text {n}") * 50) for n in range(1, 9)}
    embedder.special[PROBE_TEXT] = np.round(vector_of(PROBE_TEXT) * 50)
    embedder.special["text 5"] = vector_of("text 5")
    job = job_of(target={"vector_type": "int8"})
    cursor = run_lists(database, source, embedder, job).sources["list"]
    assert (cursor.embedded, cursor.failed) == (7, 1)
    assert letters(database) == {"5": "vector-out-of-range"}


def test_a_vector_without_direction_is_one_dead_letter(database):
    source, embedder = ListSource(rows(8)), HashEmbedder()
    embedder.special["text 5"] = np.zeros(8, np.float32)
    cursor = run_lists(database, source, embedder).sources["list"]
    assert (cursor.embedded, cursor.failed) == (7, 1)
    assert letters(database) == {"5": "wrong-answer"}


# --- the embedder ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service():
    with EmbeddingService(dimensions=16) as service:
        yield service


def service_job(service, kind="openai", **more):
    embedder = {"kind": kind, "url": service.url, **more.pop("embedder", {})}
    if kind == "openai":
        embedder = {"model": "fake", "dimensions": 16, **embedder}
    flow = {"retry_seconds": 0.01, "retry_seconds_max": 0.05, "batch": 20, **more.pop("flow", {})}
    return parse_job(
        {
            "target": {"collection": COLLECTION},
            "sources": {"list": {"path": "no.jsonl", "key": "id", "text": "text"}},
            "embedder": embedder,
            "flow": flow,
        }
    )


def run_service(database, source, job, **options):
    with mock.patch(OPEN_SOURCE, return_value=source):
        return run(job, database, environment={}, **options)


def assert_fake(database, source):
    """Check that every row has the vector that an undisturbed run gives it."""
    model = open_model("fake", 16)
    expected = {
        str(key): model.embed([text]).vectors[0].tobytes()
        for key, (text, _, _) in source.rows.items()
    }
    assert texts(database) == expected


@pytest.mark.parametrize("kind", ["openai", "service"])
def test_a_service_that_fails_often_and_limits_in_bursts_gets_everything_done(
    database, service, kind
):
    source = ListSource(rows(400))
    service.set_faults(
        errors=0.3, timeouts=0.1, timeout_seconds=0.4, rate_limits=0.05, retry_after_seconds=0.05
    )
    job = service_job(service, kind, embedder={"timeout_seconds": 0.2}, flow={"concurrency": 4})
    try:
        report = run_service(database, source, job)
    finally:
        service.set_faults()
    cursor = report.sources["list"]
    assert (report.state, report.dead_letters, cursor.embedded) == ("done", 0, 400)
    assert_fake(database, source)


@pytest.mark.parametrize("fault", ["wrong_count", "wrong_dimension", "not_finite", "half",
                                   "not_json", "wrong_index"])  # fmt: skip
def test_answers_that_are_not_what_was_asked_for_are_never_stored(database, service, fault):
    source = ListSource(rows(60))
    run_service(database, source, service_job(service))  # pinned while the service was well
    source.rows |= {n: (f"more {n}", {}, 0) for n in range(61, 161)}
    service.set_faults(**{fault: 0.4})
    try:
        report = run_service(database, source, service_job(service, flow={"concurrency": 2}))
    finally:
        service.set_faults()
    assert (report.state, report.dead_letters) == ("done", 0)
    assert_fake(database, source)


@pytest.mark.parametrize("fault", ["wrong_count", "wrong_dimension", "not_finite"])
def test_a_service_that_never_answers_right_is_given_up_and_nothing_is_made(
    database, service, fault
):
    service.set_faults(**{fault: 1.0})
    job = service_job(service, flow={"give_up_seconds": 0.3, "attempts": 2})
    try:
        with pytest.raises(DvecdbError) as caught:
            run_service(database, ListSource(rows(5)), job)
    finally:
        service.set_faults()
    assert caught.value.code in {Code.EMBEDDER_UNREACHABLE, Code.EMBEDDER_REFUSED}
    assert database.collections() == []


def test_another_dimension_of_a_pinned_embedder_is_refused_at_once(database):
    source, embedder = ListSource(rows(5)), HashEmbedder()
    run_lists(database, source, embedder)
    before = records(database)
    source.rows[6] = ("text 6", {}, 0)
    other = HashEmbedder(dimension=9)
    with pytest.raises(ConflictError) as caught:
        run_lists(database, source, other, job_of(retry_seconds=30.0, retry_seconds_max=60.0))
    assert caught.value.code is Code.EMBEDDER_MISMATCH
    assert "8" in caught.value.message
    assert "9" in caught.value.message
    assert not other.paid
    assert records(database) == before
    assert run_lists(database, source, embedder).sources["list"].embedded == 1


def test_another_model_is_refused_without_asking_it(database):
    source = ListSource(rows(5))
    run_lists(database, source, HashEmbedder())
    other = HashEmbedder(model="other")
    with pytest.raises(ConflictError) as caught:
        run_lists(database, source, other)
    assert caught.value.code is Code.EMBEDDER_MISMATCH
    assert "other" in caught.value.message
    assert (other.probes, other.requests) == (0, 0)


def test_the_same_name_with_other_vectors_is_refused_before_a_text_is_paid_for(database):
    source, embedder = ListSource(rows(5)), HashEmbedder()
    run_lists(database, source, embedder)
    embedder.special[PROBE_TEXT] = vector_of("something else")
    unchanged = run_lists(database, source, embedder)  # nothing to embed: nobody is asked
    assert unchanged.sources["list"].unchanged == 5
    source.rows[6] = ("text 6", {}, 0)
    with pytest.raises(ConflictError) as caught:
        run_lists(database, source, embedder)
    assert caught.value.code is Code.EMBEDDER_MISMATCH
    assert embedder.paid["text 6"] == 0
    assert len(records(database)) == 5


def test_a_probe_that_is_not_finite_is_another_embedder(database):
    source, embedder = ListSource(rows(5)), HashEmbedder()
    run_lists(database, source, embedder)
    embedder.special[PROBE_TEXT] = np.full(8, np.nan, np.float32)
    source.rows[6] = ("text 6", {}, 0)
    with pytest.raises(ConflictError) as caught:
        run_lists(database, source, embedder)
    assert caught.value.code is Code.EMBEDDER_MISMATCH


def test_an_embedder_that_is_another_one_after_it_was_away_ends_the_run(database):
    """It is asked for the probe text whenever it is back, before it gets more texts."""
    source, embedder = ListSource(rows(40)), HashEmbedder()
    real, answered = embedder.embed, []

    def embed(wanted):
        if len(answered) == 3 and list(wanted) != [PROBE_TEXT]:
            embedder.special[PROBE_TEXT] = vector_of("something else")
            embedder.failures = [Reason.UNREACHABLE] * 50
        answered.append(wanted)
        return real(wanted)

    embedder.embed = embed
    with pytest.raises(ConflictError) as caught:
        run_lists(database, source, embedder, job_of(concurrency=1))
    assert caught.value.code is Code.EMBEDDER_MISMATCH
    assert len(records(database)) == len(embedder.paid) == 6


def test_an_embedder_of_an_empty_answer_to_the_probe_is_refused(database):
    class Nothing(HashEmbedder):
        def embed(self, wanted):
            return Answer(np.empty((0, 8), np.float32))

    with pytest.raises(DvecdbError) as caught:
        run_lists(database, ListSource(rows(3)), Nothing(), job_of(give_up_seconds=0.1))
    assert caught.value.code in {Code.EMBEDDER_UNREACHABLE, Code.EMBEDDER_REFUSED}
    assert database.collections() == []


def test_a_wrong_key_of_the_service_is_refused_and_not_shown(database):
    with EmbeddingService(dimensions=16, api_key="right") as service:
        job = service_job(service, embedder={"api_key_env": "KEY"})
        with (
            mock.patch(
                "dvecdb.embedding.sources.opening.open_source", return_value=ListSource(rows(3))
            ),
            pytest.raises(InvalidRequestError) as caught,
        ):
            run(job, database, environment={"KEY": "wrong-secret"})
    assert caught.value.code is Code.EMBEDDER_REFUSED
    assert "wrong-secret" not in str(caught.value) + repr(caught.value.details)
    assert database.collections() == []


# --- what is away ------------------------------------------------------------------------------


def test_a_source_away_at_the_start_is_waited_for(database):
    source, embedder, events = ListSource(rows(5)), HashEmbedder(), []
    source.failures = [UnavailableError(Code.SOURCE_UNREACHABLE, "away")] * 3
    assert run_lists(database, source, embedder, watch=events.append).state == "done"
    assert [event.attempt for event in events if isinstance(event, AttemptFailed)] == [1, 2, 3]


def test_a_source_that_stays_away_is_given_up_when_told_and_nothing_is_made(database):
    source, embedder = ListSource(rows(5)), HashEmbedder()
    source.failures = [UnavailableError(Code.SOURCE_UNREACHABLE, "away")] * 10_000
    with pytest.raises(UnavailableError) as caught:
        run_lists(database, source, embedder, job_of(give_up_seconds=0.05))
    assert caught.value.code is Code.SOURCE_UNREACHABLE
    assert database.collections() == []
    assert embedder.probes == 0


def test_a_database_away_at_the_start_is_waited_for_or_given_up(tmp_path):
    source, embedder = ListSource(rows(5)), HashEmbedder()
    with dvecdb.connect("http://127.0.0.1:9") as nobody:
        with pytest.raises(UnavailableError) as caught:
            run_lists(nobody, source, embedder, job_of(give_up_seconds=0.05))
        assert caught.value.code is Code.UNREACHABLE
        controls = Controls()

        def watch(event):
            controls.stop()

        with pytest.raises(UnavailableError) as caught:
            run_lists(nobody, source, embedder, watch=watch, controls=controls)
        assert caught.value.code is Code.CANCELLED
    assert embedder.probes == 0


def test_a_service_that_stays_away_is_given_up_with_everything_that_was_answered(database):
    source, embedder = ListSource(rows(40)), HashEmbedder()
    real, events = embedder.embed, []

    def embed(wanted):
        if len(embedder.paid) >= 9:
            embedder.failures = [Reason.UNREACHABLE]
            if list(wanted) == [PROBE_TEXT]:
                embedder.probes += 1
                raise EmbedError(Reason.UNREACHABLE, "away")
        return real(wanted)

    embedder.embed = embed
    with pytest.raises(UnavailableError) as caught:
        run_lists(database, source, embedder, job_of(give_up_seconds=0.05), watch=events.append)
    assert caught.value.code is Code.EMBEDDER_UNREACHABLE
    assert any(isinstance(event, Paused) for event in events)
    assert len(records(database)) == len(embedder.paid) >= 9
    embedder.embed, embedder.failures = real, []
    assert run_lists(database, source, embedder).state == "done"
    assert set(embedder.paid.values()) == {1}


def test_wrong_credentials_of_the_source_are_refused_and_nothing_is_made(database):
    postgres = Postgres()
    postgres.start()
    try:
        scheme, rest = postgres.dsn.split("://", 1)
        where = rest.partition("@")[2] or rest
        job = parse_job(
            {
                "target": {"collection": COLLECTION},
                "sources": {"s": {"table": "t", "key": "id", "text": "text"}},
            }
        )
        embedder = HashEmbedder()
        with (
            mock.patch("dvecdb.embedding.running.open_embedder", return_value=embedder),
            pytest.raises(InvalidRequestError) as caught,
        ):
            dsn = f"{scheme}://nobody:very-secret@{where}"
            run(job, database, environment={"DATABASE_URL": dsn})
    finally:
        postgres.close()
    assert caught.value.code is Code.SOURCE_REFUSED
    assert "very-secret" not in str(caught.value) + repr(caught.value.details)
    assert database.collections() == []
    assert embedder.probes == 0


# --- jobs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"colour": 1}, "colour"),
        ({"flow": {"batch": "many"}}, "flow.batch"),
        ({"flow": {"pages": 1}}, "pages"),
        ({"text": {"empty": "ignore"}}, "text.empty"),
        ({"sources": []}, "sources"),
        ({"sources": {"a/b": {"path": "x.csv", "key": "k", "text": "t"}}}, "sources"),
        ({"sources": {"s": {"path": "x.csv", "key": "k"}}}, "text"),
        (
            {"sources": {"s": {"path": "x.csv", "key": "k", "text": "t", "metadata": "m"}}},
            "metadata",
        ),
        ({"embedder": {"kind": "magic"}}, "embedder.kind"),
        ({"embedder": {"timeout_seconds": 0}}, "timeout_seconds"),
        ({"target": {"collection": 7}}, "collection"),
        ({"target": None}, "target"),
    ],
)
def test_a_job_with_a_field_that_is_unknown_or_wrong_names_it(changes, named):
    values = {
        "target": {"collection": COLLECTION},
        "sources": {"s": {"path": "x.csv", "key": "k", "text": "t"}},
        **changes,
    }
    with pytest.raises(InvalidRequestError) as caught:
        parse_job(values)
    assert caught.value.code is Code.INVALID_JOB
    assert named in caught.value.message


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ({"collection": "no/name"}, Code.INVALID_NAME),
        ({"metric": "taxicab"}, Code.INVALID_ARGUMENT),
        ({"vector_type": "float8"}, Code.INVALID_ARGUMENT),
    ],
)
def test_a_target_that_cannot_be_is_refused_before_a_text_is_paid_for(database, target, code):
    embedder = HashEmbedder()
    with pytest.raises(InvalidRequestError) as caught:
        run_lists(database, ListSource(rows(3)), embedder, job_of(target=target))
    assert caught.value.code is code
    assert database.collections() == []
    assert not embedder.paid


def test_a_definition_that_changes_in_the_middle_looks_at_every_row_again(database, tmp_path):
    source = jsonl_of(tmp_path / "rows.jsonl", [(f"text {n}", n) for n in range(1, 21)])
    embedder, flow = HashEmbedder(), {**FLOW, "concurrency": 1}
    embed_file(database, source, embedder, flow={**flow, "budget_requests": 2})
    other = {**source, "text": "{text}!"}
    cursor = embed_file(database, other, embedder, flow=flow)
    assert (cursor.cursor, counts_of(cursor), cursor.embedded) == (20, 20, 20)
    expected = {str(n): vector_of(f"text {n}!").tobytes() for n in range(1, 21)}
    assert texts(database) == expected
    cursor = embed_file(database, {**other, "metadata": []}, embedder, flow=flow)
    assert cursor.relabelled == 20
    assert set(embedder.paid.values()) == {1}


def test_two_jobs_with_other_sources_share_a_collection_one_after_the_other(database):
    left, right, embedder = ListSource(rows(5)), ListSource(rows(7)), HashEmbedder()
    run_lists(database, {"left": left}, embedder)
    run_lists(database, {"right": right}, embedder)
    assert len(records(database)) == 12
    with ThreadPoolExecutor(1) as pool:
        report = pool.submit(run_lists, database, {"left": left}, embedder).result(30)
    assert report.sources.keys() == {"left"}
    assert report.sources["left"].unchanged == 5
