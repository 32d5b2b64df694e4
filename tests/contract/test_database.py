"""One interface, whether the database is opened or connected to: every call, every refusal."""

import datetime as dt
import threading
import uuid

import numpy as np
import pytest
from tests.unit.test_engine_input import (
    BAD_COLLECTIONS,
    BAD_READS,
    BAD_WRITES,
    CONFLICTS,
    ROW,
    everything,
)

from dvecdb.clock import to_datetime
from dvecdb.errors import (
    Code,
    ConflictError,
    DamagedDataError,
    DvecdbError,
    HandleError,
    InvalidRequestError,
    NotFoundError,
)
from dvecdb.records import Metric, Schema, VectorType
from dvecdb.testing.clocks import START_NS

ODD_IDS = [
    "a/b", "..", ".", "a%2Fb", "%", "?x=1&y#z", " ", "ü", "日本語", "🦀", "\n", "\r\nx: y", "a b",
    "null", "\u202e", "x" * 256, "\\", '"', "\x7f", "+",
]  # fmt: skip


def refused(call, code, kind=None):
    with pytest.raises(DvecdbError) as caught:
        call()
    assert caught.value.code is code, caught.value
    assert kind is None or type(caught.value) is kind
    assert caught.value.message
    return caught.value


@pytest.fixture
def books(database):
    """Three dimensions, two rows, one document, one used key."""
    books = database.create_collection("books", dimension=3, metric="euclidean")
    books.upsert(["a", "b"], [[1, 2, 3], [4, 5, 6]], [{"n": 1}, None])
    books.write(documents={("jobs", "cursor"): 7})
    books.upsert(["c"], [[7, 8, 9]], idempotency_key="used")
    return books


# --- collections -----------------------------------------------------------------------------


def test_collections_are_created_found_listed_and_deleted(database):
    assert database.collections() == []
    made = database.create_collection("b", dimension=2, metric="L2", vector_type="INT8")
    assert (made.name, made.schema) == ("b", Schema(2, Metric.EUCLIDEAN, VectorType.INT8))
    database.create_collection("A.1-x_", dimension=65_536)
    assert database.collections() == ["A.1-x_", "b"]
    found = database.collection("b")
    assert (found.name, found.schema) == (made.name, made.schema)
    assert database.delete_collection("b", actor="Zoë", reason="tidy: 100 %") is None
    assert database.collections() == ["A.1-x_"]
    for handle in (made, found):
        refused(handle.count, Code.COLLECTION_DELETED, HandleError)
        refused(lambda one=handle: one.upsert(["x"], [[1, 2]]), Code.COLLECTION_DELETED)


@pytest.mark.parametrize("what", BAD_COLLECTIONS)
def test_bad_collection_is_refused(shared, what):
    database = shared.database
    changes, code, _ = BAD_COLLECTIONS[what]
    given = {"name": "new", "dimension": 2, **changes}
    refused(lambda: database.create_collection(**given), code, InvalidRequestError)
    assert database.collections() == ["books"]


def test_existing_and_missing_collections_are_named(database, books):
    for name in ("books", "BOOKS"):
        error = refused(
            lambda one=name: database.create_collection(one, dimension=3),
            Code.COLLECTION_EXISTS, ConflictError,
        )  # fmt: skip
        assert error.details["name"] == "books"
    for call in (database.collection, database.delete_collection):
        for name in ("book", "b" * 64):
            error = refused(lambda one=name: call(one), Code.COLLECTION_NOT_FOUND, NotFoundError)  # noqa: B023
            assert error.details["name"] == name


def test_a_closed_database_says_so(database, books):
    database.close()
    for call in (database.collections, books.count, lambda: books.delete(["a"])):
        refused(call, Code.HANDLE_CLOSED, HandleError)
    database.close()


# --- writes ----------------------------------------------------------------------------------


def test_a_commit_says_what_was_written(database):
    books = database.create_collection("books", dimension=2)
    commit = books.upsert(["a", "b", "a"], [[1, 0], [0, 1], [1, 1]])
    assert (commit.lsn, commit.ids, commit.count) == (1, ["a", "b", "a"], 2)
    assert books.get(["a"])[0].vector.tolist() == [1, 1]
    made = books.insert(None, [[1, 0], [0, 1]])
    assert (made.lsn, made.count, len(set(made.ids))) == (2, 2, 2)
    assert all(str(uuid.UUID(item)) == item for item in made.ids)
    changed = books.update_metadata(["a", "b"], [{"n": 1}, {"n": 2}])
    assert (changed.lsn, changed.ids, changed.count) == (3, ["a", "b"], 2)
    gone = books.delete(["a", "nothing", "a"])
    assert (gone.lsn, gone.ids, gone.count) == (4, [], 1)
    assert books.count() == 3


def test_ids_of_uuid_form_are_kept_in_one_form(database):
    books = database.create_collection("books", dimension=1)
    one = uuid.UUID(int=7)
    assert books.upsert([one.hex.upper()], [[1]]).ids == [str(one)]
    assert books.get([f"{{{one}}}", one.urn])[0].id == str(one)
    assert books.delete([one.hex]).count == 1


def test_any_text_is_an_id(database):
    books = database.create_collection("books", dimension=1)
    numbers = [[index] for index in range(len(ODD_IDS))]
    assert books.upsert(ODD_IDS, numbers).ids == ODD_IDS
    found = books.get(ODD_IDS)
    assert [(item.id, item.vector.tolist()) for item in found] == list(
        zip(ODD_IDS, [[float(n[0])] for n in numbers], strict=True)
    )
    assert [item.id for item in books.scan()] == ODD_IDS
    assert books.update_metadata(ODD_IDS, [{"id": one} for one in ODD_IDS]).count == len(ODD_IDS)
    for one in ODD_IDS:
        assert [hit.id for hit in books.search([0], where={"id": one})] == [one]
    assert books.delete(ODD_IDS).count == len(ODD_IDS)


DTYPES = ["f2", "f4", "f8", ">f4", ">f8", "i1", "i8", "u2", "longdouble"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vector_type", list(VectorType))
def test_arrays_of_any_type_and_order_are_taken(shared, dtype, vector_type):
    database = shared.database
    few = database.create_collection("few", dimension=3, vector_type=vector_type)
    plain = np.arange(12, dtype=dtype).reshape(4, 3)
    forms = {
        "C": plain,
        "F": np.asfortranarray(plain),
        "strided": np.repeat(np.repeat(plain, 2, axis=0), 3, axis=1)[::2, ::3],
        "reversed": np.ascontiguousarray(plain[::-1, ::-1])[::-1, ::-1],
        "lists": plain.tolist() if dtype != "longdouble" else plain.astype(float).tolist(),
        "rows": list(plain),
    }
    for name, vectors in forms.items():
        few.upsert([f"{name}{index}" for index in range(4)], vectors)
        records = few.get([f"{name}{index}" for index in range(4)])
        assert [item.vector.tolist() for item in records] == plain.astype(float).tolist()
        assert records[0].vector.dtype == np.float32
        records[0].vector[0] = 9  # theirs to change
        hits = few.search(vectors[2], limit=4, where=None)
        assert hits[0].distance == pytest.approx(0, abs=1e-6)
    database.delete_collection("few")


def test_every_float32_comes_back_as_it_was(database):
    few = database.create_collection("few", dimension=4, metric="euclidean")
    bits = np.array(
        [[1, 0x80000000, 0x007FFFFF, 0x00800000], [0x7F7FFFFF, 0xFF7FFFFF, 0x3F800001, 0]],
        np.uint32,
    )
    few.upsert(["x", "y"], bits.view(np.float32))
    found = [record.vector.view(np.uint32).tolist() for record in few.get(["x", "y"])]
    assert found == bits.tolist()


def test_metadata_comes_back_as_it_was(database):
    books = database.create_collection("books", dimension=1)
    values = [
        None, {}, {"": None}, {"a": {"b": [1, -1.5, 1e300, True, False, None, "ü🦀\n\0"]}},
        {"n": 2**63 - 1, "m": -(2**63), "u": 2**64 - 1, "f": 0.1, "z": -0.0, "i": 1.0},
    ]  # fmt: skip
    books.upsert(["0", "1", "2", "3", "4"], [[0]] * 5, values)
    found = [record.metadata for record in books.get(["0", "1", "2", "3", "4"])]
    assert found == values
    assert [repr(item) for item in found] == [repr(item) for item in values]


def test_a_batch_writes_rows_deletes_and_documents_at_once(database):
    books = database.create_collection("books", dimension=1)
    books.upsert(["a", "b"], [[1], [2]])
    commit = books.write(
        upserts={"ids": ["c"], "vectors": [[3]], "metadata": [{"n": 3}]},
        deletes=["a", "zz"],
        documents={("jobs", "cursor"): {"at": 3}, ("tags", "x/y"): "z"},
        expect={("jobs", "cursor"): None},
    )
    assert (commit.lsn, commit.ids, commit.count) == (2, ["c"], 2)
    assert [record.id for record in books.scan()] == ["b", "c"]
    assert books.documents.get("jobs", "cursor") == {"at": 3}
    books.write(inserts={"vectors": np.ones((2, 1))}, documents={("jobs", "cursor"): None})
    assert books.documents.get("jobs", "cursor") is None
    assert books.documents.list("jobs") == {}
    assert books.documents.list("tags") == {"x/y": "z"}
    assert books.count() == 4
    refused(
        lambda: books.write(upserts={"vectors": [[1]]}, inserts={"vectors": [[1]]}),
        Code.INVALID_ARGUMENT,
    )
    refused(lambda: books.write(inserts={"ids": ["c"], "vectors": [[1]]}), Code.ID_EXISTS)


def test_documents_have_any_names_and_values_and_a_past(database):
    books = database.create_collection("books", dimension=1)
    names = ["a/b", "..", ".", "%2F", "a b", "ü", "?", "#", "x" * 256]
    values = [0, "", [], {}, False, 1.5, [None], {"a": {"b": 1}}, "🦀"]
    for name, value in zip(names, values, strict=True):
        books.write(documents={(name, name): value})
    for number, (name, value) in enumerate(zip(names, values, strict=True), 1):
        assert books.documents.get(name, name) == value
        assert books.documents.list(name) == {name: value}
        assert books.documents.get(name, name, as_of=number - 1) is None
        assert books.documents.list(name, as_of=number - 1) == {}
        assert books.snapshot(as_of=number).document(name, name) == value
        assert books.snapshot(as_of=number).documents(name) == {name: value}
    assert books.documents.get("none", "such") is None


@pytest.mark.parametrize("what", BAD_WRITES)
def test_bad_write_is_refused_and_writes_nothing(shared, what):
    books, engine = shared.database.collection("books"), shared.engine.collection("books")
    before = everything(engine)
    refused(lambda: BAD_WRITES[what][0](books), BAD_WRITES[what][1], InvalidRequestError)
    assert everything(engine) == before


@pytest.mark.parametrize("what", CONFLICTS)
def test_conflict_is_refused_and_writes_nothing(shared, what):
    books, engine = shared.database.collection("books"), shared.engine.collection("books")
    before = everything(engine)
    error = refused(lambda: CONFLICTS[what][0](books), CONFLICTS[what][1], ConflictError)
    assert error.details
    assert everything(engine) == before


def test_updates_of_absent_ids_are_refused(books):
    error = refused(
        lambda: books.update_metadata(["a", "x"], [{}, {}]), Code.ID_NOT_FOUND, NotFoundError
    )
    assert error.details["ids"] == ["x"]


def test_metadata_is_merged_or_replaced(books):
    books.update_metadata(["a"], [{"m": [1]}])
    assert books.get(["a"])[0].metadata == {"n": 1, "m": [1]}
    books.update_metadata(["a"], [{"k": None}], mode="replace")
    assert books.get(["a"])[0].metadata == {"k": None}
    assert books.get(["a"])[0].vector.tolist() == [1, 2, 3]


@pytest.mark.parametrize("key", ["k", "ü/%\n 🦀", "x" * 256])
def test_one_key_writes_once_and_answers_the_same(books, key):
    first = books.upsert(None, [[1, 2, 3], [4, 5, 6]], idempotency_key=key)
    again = books.upsert(None, [[1, 2, 3], [4, 5, 6]], idempotency_key=key)
    assert (again.lsn, again.ids, again.count) == (first.lsn, first.ids, first.count)
    assert books.count() == 5
    refused(
        lambda: books.upsert(None, [[1, 2, 3]], idempotency_key=key), Code.IDEMPOTENCY_KEY_REUSED
    )
    deleted = books.delete(first.ids, idempotency_key=f"d{key}"[:256])
    books.upsert(["later"], [ROW])
    assert books.delete(first.ids, idempotency_key=f"d{key}"[:256]) == deleted


def test_the_history_says_who_wrote_what_and_why(door, books):
    books.insert(["n"], [ROW], actor="Zoë, 100 %", reason="a\nb", request_id="r-1")
    books.delete(["n"])
    found = books.history(2)
    assert [(item.operation, item.rows, item.ended) for item in found] == [
        ("delete", 0, 1), ("insert", 1, 0),
    ]  # fmt: skip
    assert (found[1].actor, found[1].reason, found[1].request_id) == ("Zoë, 100 %", "a\nb", "r-1")
    assert found[0].time == to_datetime(START_NS)
    assert [item.lsn for item in books.history(10, before=4)] == [3, 2, 1]
    assert books.history() == door.engine.collection("books").history()
    refused(lambda: books.history(0), Code.INVALID_ARGUMENT)


# --- reads -----------------------------------------------------------------------------------


def test_records_are_got_by_id_in_order(books):
    found = books.get(["b", "nothing", "a", "b"])
    assert [record and record.id for record in found] == ["b", None, "a", "b"]
    assert (found[2].metadata, found[2].lsn, found[0].metadata) == ({"n": 1}, 1, None)
    assert books.get(["a"], with_vectors=False)[0].vector is None
    assert books.get([]) == []


@pytest.mark.parametrize("metric", list(Metric))
def test_a_search_answers_as_the_engine_does(door, metric):
    generator = np.random.default_rng(5)
    vectors = generator.normal(size=(300, 8))
    few = door.database.create_collection("few", dimension=8, metric=metric)
    few.upsert([f"id-{n}" for n in range(300)], vectors, [{"n": n % 3} for n in range(300)])
    engine = door.engine.collection("few")
    for query in generator.normal(size=(3, 8)):
        for given in ({}, {"limit": 300}, {"where": {"n": 1}}, {"with_metadata": False}):
            hits, expected = few.search(query, **given), engine.search(query, **given)
            assert hits == expected
            assert hits.excluded == []
    assert len(few.search(vectors[0], where={"n": 1, "m": 2})) == 0


def test_filters_compare_json_values(books):
    books.upsert(["x", "y"], [ROW, ROW], [{"n": True, "s": "ü"}, {"n": [1, {"a": 2}]}])
    for where, ids in (
        ({"n": 1}, ["a"]), ({"n": 1.0}, ["a"]), ({"n": True}, ["x"]), ({"s": "ü"}, ["x"]),
        ({"n": [1.0, {"a": 2}]}, ["y"]), ({"n": None}, []), ({"m": None}, []),
        ({}, ["a", "b", "c", "x", "y"]),
    ):  # fmt: skip
        assert sorted(hit.id for hit in books.search(ROW, where=where)) == ids
        assert books.count(where=where) == len(ids)
        assert sorted(record.id for record in books.scroll(where=where).records) == ids
        assert books.snapshot().count(where=where) == len(ids)
    for bad in (["n"], {1: 2}, "n"):
        refused(lambda one=bad: books.search(ROW, where=one), Code.INVALID_ARGUMENT)


def test_a_filter_of_conditions_is_the_same_for_every_call(books):
    rows = [{"n": 5, "shop": {"tags": ["new", "red"]}}, {"n": 7, "day": "2024-05-01"}, None]
    books.upsert(["x", "y", "z"], [ROW, ROW, ROW], rows)
    everything = ["a", "b", "c", "x", "y", "z"]
    for where, ids in (
        ({"must": [{"key": "n", "range": {"gte": 5}}]}, ["x", "y"]),
        ({"must": {"key": "shop.tags", "match": {"any": ["red", "blue"]}}}, ["x"]),
        ({"must": [{"key": "day", "range": {"lt": "2024-05-01T00:00:01Z"}}]}, ["y"]),
        ({"must": [{"has_id": ["x", "z", "none"]}], "must_not": [{"is_empty": {"key": "n"}}]},
         ["x"]),
        ({"must_not": [{"has_id": ["x", "y", "z"]}]}, ["a", "b", "c"]),
        ({"must": []}, everything),
    ):  # fmt: skip
        assert sorted(hit.id for hit in books.search(ROW, where=where)) == ids
        assert books.count(where=where) == len(ids)
        assert sorted(record.id for record in books.scroll(where=where).records) == ids
        found = books.get(everything, where=where, with_vectors=False)
        assert [None if one is None else one.id for one in found] == [
            one if one in ids else None for one in everything
        ]
        assert [record.id for record in books.scan(where=where)] == ids
        snapshot = books.snapshot()
        assert [record.id for record in snapshot.scan(where=where)] == ids
        assert len([one for one in snapshot.get(everything, where=where) if one]) == len(ids)
    before = books.stats().last_lsn
    where = {"must": [{"key": "n", "range": {"gt": 5}}]}
    assert books.delete(where=where).count == 1
    assert books.count(where=where) == 0
    assert books.undo(to_lsn=before, where=where).restored == 1
    assert books.count(where=where) == 1


def test_a_bad_filter_is_refused_by_its_path(books):
    where = {"must": [{"key": "n", "range": {"gte": True}}]}
    for call in (
        lambda: books.search(ROW, where=where), lambda: books.count(where=where),
        lambda: books.scroll(where=where), lambda: books.get(["a"], where=where),
        lambda: list(books.scan(where=where)), lambda: books.delete(where=where),
        lambda: books.undo(to_lsn=1, where=where),
    ):  # fmt: skip
        error = refused(call, Code.INVALID_FILTER, InvalidRequestError)
        assert error.details["path"] == "where.must[0].range.gte"
        assert error.message == (
            "where.must[0].range.gte: expected a number or an ISO date, found true"
        )


@pytest.mark.parametrize("what", BAD_READS)
def test_bad_read_is_refused(shared, what):
    books = shared.database.collection("books")
    refused(lambda: BAD_READS[what][0](books), BAD_READS[what][1], InvalidRequestError)


def test_the_past_is_read_by_lsn_and_by_time(door, books):
    door.clock.advance(60)
    before = to_datetime(door.clock.wall_ns() - 1_000_000)
    books.delete(["a"])
    books.upsert(["b"], [[0, 0, 0]])
    for as_of in (3, before, before.astimezone(dt.timezone(dt.timedelta(hours=5, minutes=30)))):
        assert books.count(as_of=as_of) == 3
        assert books.get(["a"], as_of=as_of)[0].vector.tolist() == [1, 2, 3]
        assert [hit.id for hit in books.search([4, 5, 6], limit=1, as_of=as_of)] == ["b"]
        assert [record.id for record in books.scan(as_of=as_of)] == ["a", "b", "c"]
        assert [record.id for record in books.scroll(as_of=as_of).records] == ["a", "b", "c"]
        assert books.documents.get("jobs", "cursor", as_of=as_of) == 7
        assert books.snapshot(as_of=as_of).lsn == 3
    assert books.count(as_of=0) == 0
    assert books.count() == 2


def test_a_snapshot_stays_as_it_was(books):
    snapshot = books.snapshot()
    with snapshot as held:
        books.delete(["a", "c"])
        books.write(documents={("jobs", "cursor"): 8})
        assert (held.lsn, held.count()) == (3, 3)
        assert [record.id for record in held.scan(with_vectors=True)] == ["a", "b", "c"]
        assert held.get(["a"], with_vectors=False)[0].metadata == {"n": 1}
        assert [hit.id for hit in held.search([7, 8, 9], limit=2)] == ["c", "b"]
        page = held.scroll(limit=2)
        assert [record.id for record in page.records] == ["a", "b"]
        assert [record.id for record in held.scroll(limit=2, after=page.next).records] == ["c"]
        assert held.document("jobs", "cursor") == 7
        assert held.documents("jobs") == {"cursor": 7}
    assert books.snapshot().document("jobs", "cursor") == 8


def test_pages_hold_every_record_once(database):
    few = database.create_collection("few", dimension=2)
    few.upsert([f"{n}" for n in range(25)], np.ones((25, 2)))
    few.delete(["3", "24"])
    seen, after = [], None
    while True:
        page = few.scroll(limit=7, after=after, with_vectors=True)
        seen += [record.id for record in page.records]
        assert all(record.vector.tolist() == [1, 1] for record in page.records)
        if page.next is None:
            break
        after = page.next
    assert seen == [f"{n}" for n in range(24) if n != 3]


def test_a_scan_under_writes_is_of_one_state(database):
    few = database.create_collection("few", dimension=2)
    few.upsert([f"{n}" for n in range(2500)], np.zeros((2500, 2)), [{"n": 0}] * 2500)
    over = threading.Event()

    def write():
        number = 0
        while not over.is_set():
            number += 1
            ids = [f"{n}" for n in range(0, 2500, 100)]
            few.upsert(ids, np.full((25, 2), number), [{"n": number}] * 25)
            few.delete([f"{number}"])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            snapshot = few.snapshot()
            records = list(snapshot.scan(with_vectors=True))
            assert len(records) == snapshot.count() == len({record.id for record in records})
            changed = [r for r in records if int(r.id) % 100 == 0]
            assert len({record.metadata["n"] for record in changed}) <= 2
            assert all(record.lsn <= snapshot.lsn for record in records)
            assert all(record.vector[0] == record.metadata["n"] for record in records)
    finally:
        over.set()
        writer.join()


# --- care ------------------------------------------------------------------------------------


def test_figures_findings_and_verification_come_as_the_engine_gives_them(door, books):
    books.flush()
    engine = door.engine.collection("books")
    assert books.stats() == engine.stats()
    assert books.stats().segments == 1
    assert books.verify() == engine.verify()
    assert books.verify().ok
    assert books.findings() == door.database.findings() == []


def test_damage_is_refused_by_name_and_reported(kind, start, tmp_path):
    door = start()
    books = door.database.create_collection("books", dimension=1024)
    books.upsert(["a", "b", "c"], np.eye(3, 1024), [{"n": 1}, None, None])
    books.flush()
    (path,) = (tmp_path / "data").glob("collections/books/segments/*/vectors.bin")
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[4096 + 5] ^= 1  # in the row of b
    path.write_bytes(data)
    error = refused(lambda: books.search(np.ones(1024)), Code.DAMAGED_DATA, DamagedDataError)
    assert error.advice == "restore"
    assert "b" in error.details["ids"]
    hits = books.search(np.ones(1024), on_damage="exclude")
    assert "b" in hits.excluded
    assert {hit.id for hit in hits} | set(hits.excluded) == {"a", "b", "c"}
    refused(lambda: books.get(["b"]), Code.DAMAGED_DATA, DamagedDataError)
    assert books.get(["b"], with_vectors=False)[0].id == "b"
    report = books.verify()
    assert not report.ok
    assert report.findings == books.findings() == door.engine.collection("books").findings()
    assert door.database.findings() == books.findings()
    assert books.stats().findings == len(books.findings())
