"""Whatever is wrong with a call gets one clear error with a stable code, and nothing is written."""

import datetime as dt
import os
import subprocess
import sys
import textwrap
import uuid

import numpy as np
import pytest

from dvecdb import Database, Settings
from dvecdb.clock import to_datetime
from dvecdb.errors import (
    Code,
    ConflictError,
    DirectoryError,
    DvecdbError,
    HandleError,
    InvalidRequestError,
    NotFoundError,
)
from dvecdb.formats.framing import digest
from dvecdb.testing.clocks import START_NS, ManualClock
from dvecdb.testing.disk import MemoryDisk

NAN = float("nan")
INFINITY = float("inf")
AWARE = to_datetime(START_NS)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture(params=[1, 2**20], ids=["bulk", "small"])
def database(clock, request):
    settings = Settings(
        metadata_bytes_max=100, batch_bytes_max=4096, ballast_bytes=0, bulk_bytes=request.param
    )
    with Database("d", files=MemoryDisk(), clock=clock, settings=settings, background=False) as db:
        yield db


@pytest.fixture
def books(database):
    """Three dimensions, two rows, one document, one used key."""
    books = database.create_collection("books", dimension=3)
    books.upsert(["a", "b"], [[1, 2, 3], [4, 5, 6]], [{"n": 1}, None])
    books.write(documents={("jobs", "cursor"): 7})
    books.upsert(["c"], [[7, 8, 9]], idempotency_key="used")
    return books


def everything(collection):
    snapshot = collection.snapshot()
    records = [
        (record.id, record.vector.tolist(), record.metadata, record.lsn)
        for record in snapshot.scan(with_vectors=True)
    ]
    return snapshot.lsn, records, snapshot.documents("jobs"), collection.stats().rows


def refused(call, code, *words, kind=InvalidRequestError):
    """Check the class, the code and what the message says; return the error."""
    with pytest.raises(DvecdbError) as caught:
        call()
    error = caught.value
    assert type(error) is kind, repr(error)
    assert error.code is code, str(error)
    for word in words:
        assert word in error.message, f"{word!r} is not in {error.message!r}"
    assert str(error) == f"{code}: {error.message}"
    return error


ROW = [1.0, 2.0, 3.0]
# call, code, what the message must say
BAD_WRITES = {
    "short vector": (
        lambda c: c.upsert(["x", "y"], [ROW, [1.0, 2.0]]),
        Code.WRONG_DIMENSION, ["item 1", "expected 3", "found 2"],
    ),
    "short array": (
        lambda c: c.upsert(["x"], np.zeros((1, 4))), Code.WRONG_DIMENSION, ["3", "found 4"],
    ),
    "one vector alone": (
        lambda c: c.upsert(["x"], np.zeros(3)), Code.WRONG_DIMENSION, ["list"],
    ),
    "nan": (
        lambda c: c.upsert(["x", "y"], [ROW, [1.0, NAN, 3.0]]),
        Code.NOT_FINITE, ["item 1", "position 1", "nan"],
    ),
    "infinity": (
        lambda c: c.insert(["x", "y"], np.array([ROW, [1.0, 2.0, -INFINITY]])),
        Code.NOT_FINITE, ["item 1", "position 2", "-inf"],
    ),
    "beyond float32": (
        lambda c: c.upsert(["x"], [[1e39, 0, 0]]), Code.VECTOR_OUT_OF_RANGE, ["item 0", "1e+39"],
    ),
    "text as vectors": (
        lambda c: c.upsert(["x"], [["a", "b", "c"]]), Code.INVALID_ARGUMENT, ["item 0"],
    ),
    "no vectors": (lambda c: c.upsert(["x"]), Code.INVALID_ARGUMENT, ["vectors"]),
    "no vectors in a write": (
        lambda c: c.write(upserts={"ids": ["x"]}), Code.INVALID_ARGUMENT, ["vectors"],
    ),
    "unknown part of a write": (
        lambda c: c.write(upserts={"vectors": [ROW], "rows": 1}),
        Code.INVALID_ARGUMENT, ["rows", "ids, vectors, metadata"],
    ),
    "repeated id": (
        lambda c: c.insert(["x", "y", "x"], [ROW, ROW, ROW]),
        Code.DUPLICATE_ID, ["items 0 and 2", "'x'"],
    ),
    "repeated uuid in another spelling": (
        lambda c: c.insert([uuid.UUID(int=7).hex, str(uuid.UUID(int=7))], [ROW, ROW]),
        Code.DUPLICATE_ID, ["items 0 and 1"],
    ),
    "long id": (
        lambda c: c.upsert(["x", "y" * 257], [ROW, ROW]),
        Code.INVALID_ID, ["item 1", "1 to 256", "257"],
    ),
    "empty id": (
        lambda c: c.upsert(["x", ""], [ROW, ROW]), Code.INVALID_ID, ["item 1", "found 0"],
    ),
    "number as id": (
        lambda c: c.upsert(["x", 7], [ROW, ROW]), Code.INVALID_ID, ["item 1", "int"],
    ),
    "uuid as id": (
        lambda c: c.upsert([uuid.UUID(int=7)], [ROW]), Code.INVALID_ID, ["item 0", "UUID"],
    ),
    "none as id": (
        lambda c: c.upsert(["x", None], [ROW, ROW]), Code.INVALID_ID, ["item 1", "NoneType"],
    ),
    "surrogate in id": (
        lambda c: c.upsert(["\ud800"], [ROW]), Code.INVALID_ID, ["item 0", "surrogate"],
    ),
    "text as ids": (lambda c: c.delete("abc"), Code.INVALID_ARGUMENT, ["list of ids"]),
    "text as ids of an upsert": (
        lambda c: c.upsert("ab", [ROW, ROW]), Code.INVALID_ARGUMENT, ["list of ids"],
    ),
    "bad id in a delete": (lambda c: c.delete(["a", ""]), Code.INVALID_ID, ["item 1"]),
    "bad id in an update": (
        lambda c: c.update_metadata(["a", ""], [{}, {}]), Code.INVALID_ID, ["item 1"],
    ),
    "more ids than vectors": (
        lambda c: c.upsert(["x", "y"], [ROW]), Code.INVALID_ARGUMENT, ["2 ids", "1 vectors"],
    ),
    "fewer metadata than vectors": (
        lambda c: c.upsert(["x", "y"], [ROW, ROW], [{}]),
        Code.INVALID_ARGUMENT, ["1 metadata", "2 vectors"],
    ),
    "fewer metadata than ids": (
        lambda c: c.update_metadata(["a", "b"], [{}]),
        Code.INVALID_ARGUMENT, ["2 ids", "1 metadata"],
    ),
    "one object as metadata": (
        lambda c: c.upsert(["x"], [ROW], {"n": 1}), Code.INVALID_METADATA, ["list"],
    ),
    "list as metadata": (
        lambda c: c.upsert(["x", "y"], [ROW, ROW], [{}, [1]]),
        Code.INVALID_METADATA, ["item 1", "list"],
    ),
    "nan in metadata": (
        lambda c: c.upsert(["x", "y"], [ROW, ROW], [None, {"n": NAN}]),
        Code.INVALID_METADATA, ["item 1"],
    ),
    "tuple in metadata": (
        lambda c: c.upsert(["x"], [ROW], [{"n": (1, 2)}]), Code.INVALID_METADATA, ["item 0"],
    ),
    "number as key in metadata": (
        lambda c: c.upsert(["x"], [ROW], [{"n": {1: 2}}]), Code.INVALID_METADATA, ["item 0"],
    ),
    "date in metadata": (
        lambda c: c.upsert(["x"], [ROW], [{"n": AWARE}]), Code.INVALID_METADATA, ["item 0"],
    ),
    "bytes in metadata": (
        lambda c: c.upsert(["x"], [ROW], [{"n": b"1"}]), Code.INVALID_METADATA, ["item 0"],
    ),
    "array in metadata": (
        lambda c: c.upsert(["x"], [ROW], [{"n": np.zeros(2)}]), Code.INVALID_METADATA, ["item 0"],
    ),
    "numpy number in metadata": (
        lambda c: c.upsert(["x"], [ROW], [{"n": np.float64(1)}]),
        Code.INVALID_METADATA, ["item 0"],
    ),
    "surrogate in metadata": (
        lambda c: c.upsert(["x"], [ROW], [{"n": "\ud800"}]), Code.INVALID_METADATA, ["item 0"],
    ),
    "large metadata": (
        lambda c: c.upsert(["x", "y"], [ROW, ROW], [{}, {"n": "v" * 100}]),
        Code.METADATA_TOO_LARGE, ["item 1", "108", "100"],
    ),
    "large metadata in an update": (
        lambda c: c.update_metadata(["a", "b"], [{}, {"n": "v" * 100}]),
        Code.METADATA_TOO_LARGE, ["item 1", "108", "100"],
    ),
    "metadata that grows too large in a merge": (
        lambda c: c.update_metadata(["b", "a"], [{}, {"m": "v" * 90}]),
        Code.METADATA_TOO_LARGE, ["item 1", "100"],
    ),
    "no metadata in an update": (
        lambda c: c.update_metadata(["a"], [None]), Code.INVALID_METADATA, ["item 0"],
    ),
    "unknown mode": (
        lambda c: c.update_metadata(["a"], [{}], mode="patch"),
        Code.INVALID_ARGUMENT, ["'patch'", "merge or replace"],
    ),
    "id updated twice": (
        lambda c: c.update_metadata(["a", "a"], [{}, {}]), Code.DUPLICATE_ID, ["'a'"],
    ),
    "id written and deleted": (
        lambda c: c.write(upserts={"ids": ["a", "x"], "vectors": [ROW, ROW]}, deletes=["b", "a"]),
        Code.DUPLICATE_ID, ["'a'"],
    ),
    "large batch": (
        lambda c: c.upsert(None, np.zeros((342, 3), np.float32)),
        Code.BATCH_TOO_LARGE, ["4104", "4096"],
    ),
    "document without namespace": (
        lambda c: c.write(documents={"key": 1}), Code.INVALID_ARGUMENT, ["'key'", "pair"],
    ),
    "reserved namespace": (
        lambda c: c.write(documents={("_jobs", "a"): 1}), Code.INVALID_ARGUMENT, ["'_jobs'"],
    ),
    "document that is no json": (
        lambda c: c.write(documents={("jobs", "a"): {1, 2}}), Code.INVALID_ARGUMENT, ["jobs/a"],
    ),
    "negative condition": (
        lambda c: c.delete(["a"], if_lsn=-1), Code.INVALID_ARGUMENT, ["if_lsn", "-1"],
    ),
    "empty key": (
        lambda c: c.delete(["a"], idempotency_key=""), Code.INVALID_ARGUMENT, ["idempotency_key"],
    ),
    "number as actor": (
        lambda c: c.delete(["a"], actor=7), Code.INVALID_ARGUMENT, ["actor", "7"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_WRITES)
def test_bad_write_names_what_is_wrong_and_writes_nothing(books, what):
    call, code, words = BAD_WRITES[what]
    before = everything(books)
    refused(lambda: call(books), code, *words)
    assert everything(books) == before
    assert books.upsert(["later"], [ROW]).lsn == before[0] + 1


CONFLICTS = {
    "existing ids": (
        lambda c: c.insert(["x", "b", "a"], [ROW, ROW, ROW]),
        Code.ID_EXISTS, ["2 of 3", "'b', 'a'"],
    ),
    "another document": (
        lambda c: c.delete(["a"], expect={("jobs", "cursor"): 8}),
        Code.CONDITION_FAILED, ["jobs/cursor", "8", "7"],
    ),
    "a document that is absent": (
        lambda c: c.delete(["a"], expect={("jobs", "other"): 8}),
        Code.CONDITION_FAILED, ["jobs/other", "8", "None"],
    ),
    "a row written since": (
        lambda c: c.upsert(["a", "c"], [ROW, ROW], if_lsn=2),
        Code.CONDITION_FAILED, ["'c'", "LSN 3", "LSN 2"],
    ),
    "a key used for other rows": (
        lambda c: c.upsert(["c"], [[7, 8, 9.5]], idempotency_key="used"),
        Code.IDEMPOTENCY_KEY_REUSED, ["'used'", "LSN 3"],
    ),
    "a key used for another call": (
        lambda c: c.delete(["c"], idempotency_key="used"),
        Code.IDEMPOTENCY_KEY_REUSED, ["'used'", "LSN 3"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CONFLICTS)
def test_conflict_names_what_was_found_and_writes_nothing(books, what):
    call, code, words = CONFLICTS[what]
    before = everything(books)
    refused(lambda: call(books), code, *words, kind=ConflictError)
    assert everything(books) == before


def test_update_of_absent_ids_names_them_and_writes_nothing(books):
    before = everything(books)
    call = lambda: books.update_metadata(["a", "x", "y"], [{}, {}, {}])  # noqa: E731
    refused(call, Code.ID_NOT_FOUND, "2 of 3", "'x', 'y'", kind=NotFoundError)
    assert everything(books) == before


@pytest.mark.parametrize(
    ("vector_type", "vector", "code", "words"),
    [
        ("float16", [1, 65520, 3], Code.VECTOR_OUT_OF_RANGE, ["position 1", "65504", "65520"]),
        ("float16", [1, 2, -1e6], Code.VECTOR_OUT_OF_RANGE, ["position 2", "65504"]),
        ("int8", [1, 2, 0.5], Code.VECTOR_OUT_OF_RANGE, ["position 2", "whole", "0.5"]),
        ("int8", [128, 2, 3], Code.VECTOR_OUT_OF_RANGE, ["position 0", "127", "128"]),
        ("int8", [1, NAN, 3], Code.NOT_FINITE, ["position 1"]),
    ],
)
def test_value_that_cannot_be_stored_is_refused(database, vector_type, vector, code, words):
    few = database.create_collection("few", dimension=3, vector_type=vector_type)
    refused(lambda: few.upsert(["x", "y"], [[1, 2, 3], vector]), code, "item 1", *words)
    assert few.snapshot().lsn == 0


BAD_COLLECTIONS = {
    "empty name": ({"name": ""}, Code.INVALID_NAME, ["1 to 64"]),
    "long name": ({"name": "a" * 65}, Code.INVALID_NAME, ["1 to 64"]),
    "name with a slash": ({"name": "a/b"}, Code.INVALID_NAME, ["'a/b'"]),
    "hidden name": ({"name": ".a"}, Code.INVALID_NAME, ["'.a'"]),
    "parent": ({"name": ".."}, Code.INVALID_NAME, ["'..'"]),
    "name with a newline": ({"name": "a\n"}, Code.INVALID_NAME, ["letter or digit"]),
    "number as name": ({"name": 7}, Code.INVALID_NAME, ["7"]),
    "reserved name": ({"name": "Restore"}, Code.INVALID_NAME, ["'Restore'", "reserved"]),
    "no dimension": ({"dimension": 0}, Code.INVALID_ARGUMENT, ["dimension", "found 0"]),
    "large dimension": ({"dimension": 65_537}, Code.INVALID_ARGUMENT, ["65536", "65537"]),
    "fraction": ({"dimension": 2.0}, Code.INVALID_ARGUMENT, ["dimension", "2.0"]),
    "unknown metric": ({"metric": "hamming"}, Code.INVALID_ARGUMENT, ["'hamming'", "cosine"]),
    "unknown type": ({"vector_type": "int4"}, Code.INVALID_ARGUMENT, ["'int4'", "float32"]),
}


@pytest.mark.parametrize("what", BAD_COLLECTIONS)
def test_bad_collection_is_refused(database, what):
    changes, code, words = BAD_COLLECTIONS[what]
    arguments = {"name": "new", "dimension": 2, **changes}
    refused(lambda: database.create_collection(**arguments), code, *words)
    assert database.collections() == []


@pytest.mark.parametrize("name", ["books", "BOOKS"])
def test_existing_collection_is_never_replaced(database, books, name):
    before = everything(books)
    create = lambda: database.create_collection(name, dimension=3)  # noqa: E731
    refused(create, Code.COLLECTION_EXISTS, "'books'", kind=ConflictError)
    assert everything(books) == before
    assert database.collections() == ["books"]


def test_unknown_collection_says_which_there_are(database, books):
    call = lambda: database.collection("book")  # noqa: E731
    refused(call, Code.COLLECTION_NOT_FOUND, "'book'", "books", kind=NotFoundError)
    call = lambda: database.delete_collection("book")  # noqa: E731
    refused(call, Code.COLLECTION_NOT_FOUND, "'book'", "books", kind=NotFoundError)


BAD_READS = {
    "lsn to come": (lambda c: c.count(as_of=4), Code.AS_OF_UNREADABLE, ["4", "LSNs 0 to 3"]),
    "negative lsn": (lambda c: c.count(as_of=-1), Code.AS_OF_UNREADABLE, ["-1", "0 to 3"]),
    "true as lsn": (lambda c: c.count(as_of=True), Code.AS_OF_UNREADABLE, ["True", "0 to 3"]),
    "time to come": (
        lambda c: c.count(as_of=AWARE + dt.timedelta(seconds=1)),
        Code.AS_OF_UNREADABLE, ["2023-11-14T22:13:21", "from 2023-11-14T22:13:20"],
    ),
    "time before": (
        lambda c: c.count(as_of=AWARE - dt.timedelta(seconds=1)),
        Code.AS_OF_UNREADABLE, ["2023-11-14T22:13:19", "from 2023-11-14T22:13:20"],
    ),
    "time without zone": (
        lambda c: c.count(as_of=AWARE.replace(tzinfo=None)),
        Code.INVALID_ARGUMENT, ["time zone"],
    ),
    "no limit": (lambda c: c.search(ROW, limit=0), Code.INVALID_ARGUMENT, ["limit", "found 0"]),
    "large limit": (lambda c: c.search(ROW, limit=10_001), Code.INVALID_ARGUMENT, ["10000"]),
    "fraction as limit": (lambda c: c.scroll(limit=2.5), Code.INVALID_ARGUMENT, ["2.5"]),
    "negative position": (lambda c: c.scroll(after=-1), Code.INVALID_ARGUMENT, ["after", "-1"]),
    "short query": (lambda c: c.search([1, 2]), Code.WRONG_DIMENSION, ["3", "found 2"]),
    "nan in a query": (lambda c: c.search([1, NAN, 3]), Code.NOT_FINITE, ["position 1", "nan"]),
    "queries": (lambda c: c.search([ROW]), Code.WRONG_DIMENSION, ["3"]),
    "text as ids": (lambda c: c.get("abc"), Code.INVALID_ARGUMENT, ["list of ids"]),
    "bad id": (lambda c: c.get(["a", ""]), Code.INVALID_ID, ["item 1"]),
    "unknown damage mode": (
        lambda c: c.search(ROW, on_damage="ignore"), Code.INVALID_ARGUMENT, ["'ignore'"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_READS)
def test_bad_read_names_what_is_wrong(books, what):
    call, code, words = BAD_READS[what]
    refused(lambda: call(books), code, *words)


# --- handles -------------------------------------------------------------------------------------


def open_on(disk, **options):
    return Database("d", files=disk, clock=ManualClock(), background=False, **options)


def test_data_directory_in_use_names_the_process():
    disk = MemoryDisk()
    with open_on(disk):
        error = refused(lambda: open_on(disk), Code.DIRECTORY_IN_USE, str(os.getpid()),
                        kind=DirectoryError)  # fmt: skip
        assert error.details["pid"] == os.getpid()
    open_on(disk).close()


@pytest.mark.parametrize("read_only", [False, True])
def test_directory_of_someone_else_is_left_alone(read_only):
    disk = MemoryDisk.from_tree({"d/photos/cat.jpg": b"cat", "d/notes.txt": b"notes"})
    before = disk.tree()
    call = lambda: open_on(disk, read_only=read_only)  # noqa: E731
    refused(call, Code.NOT_A_DATA_DIRECTORY, "notes.txt", "photos", kind=DirectoryError)
    assert disk.tree() == before


def test_missing_directory_is_not_made_for_a_reader():
    disk = MemoryDisk()
    call = lambda: open_on(disk, read_only=True)  # noqa: E731
    refused(call, Code.DIRECTORY_UNREADABLE, "d", kind=DirectoryError)
    assert disk.tree() == {}


def sealed(content):
    """Return the content of a JSON file with the digest that belongs to its first line."""
    line, _, rest = content.partition(b"\n")
    return line + b"\nblake3:" + digest(line).hex().encode() + b"\n" if rest.strip() else content


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        (b'"format_version":1', b'"format_version":2'),
        (b'"required_features":0', b'"required_features":4'),
    ],
)
def test_newer_format_is_refused_and_left_alone(change, read_only):
    disk = MemoryDisk()
    open_on(disk).close()
    content = disk.read_path("d/LOCK")
    assert change[0] in content
    disk.damage("d/LOCK", sealed(content.replace(*change)))
    before = disk.tree()
    call = lambda: open_on(disk, read_only=read_only)  # noqa: E731
    refused(call, Code.FORMAT_TOO_NEW, kind=DirectoryError)
    assert disk.tree() == before


def test_closed_database_refuses_every_call():
    database = open_on(MemoryDisk())
    books = database.create_collection("books", dimension=1)
    books.upsert(["a"], [[1]])
    database.close()
    database.close()
    for call in (
        books.count,
        books.flush,
        books.stats,
        books.verify,
        books.snapshot,
        lambda: list(books.scan()),
        lambda: books.get(["a"]),
        lambda: books.search([1]),
        lambda: books.upsert(["a"], [[1]]),
        lambda: books.delete(["a"]),
        lambda: books.documents.get("jobs", "a"),
        lambda: database.create_collection("b", dimension=1),
        lambda: database.delete_collection("books"),
        lambda: database.collection("books"),
        database.collections,
        database.findings,
    ):
        refused(call, Code.HANDLE_CLOSED, "open it again", kind=HandleError)


def test_deleted_collection_refuses_every_call_of_its_handle(database, books):
    database.delete_collection("books")
    new = database.create_collection("books", dimension=3)
    for call in (books.count, books.flush, books.snapshot, lambda: books.upsert(["a"], [ROW])):
        refused(call, Code.COLLECTION_DELETED, "'books'", "trash", kind=HandleError)
    assert new.count() == 0


def test_read_only_database_refuses_every_write():
    disk = MemoryDisk()
    with open_on(disk) as database:
        database.create_collection("books", dimension=1).upsert(["a"], [[1]])
    before = disk.tree()
    with open_on(disk, read_only=True) as database:
        books = database.collection("books")
        for call in (
            lambda: books.upsert(["b"], [[1]]),
            lambda: books.insert(["b"], [[1]]),
            lambda: books.delete(["a"]),
            lambda: books.update_metadata(["a"], [{}]),
            lambda: books.write(documents={("jobs", "a"): 1}),
            books.flush,
            lambda: database.create_collection("b", dimension=1),
            lambda: database.delete_collection("books"),
        ):
            refused(call, Code.READ_ONLY, "read-only")
        assert books.count() == 1
    assert disk.tree() == before


def test_snapshot_stays_readable_after_its_database_was_closed():
    database = open_on(MemoryDisk())
    books = database.create_collection("books", dimension=1)
    books.upsert(["a"], [[1]], [{"n": 1}])
    books.flush()
    books.upsert(["b"], [[2]])
    snapshot = books.snapshot()
    database.close()
    assert [record.id for record in snapshot.scan(with_vectors=True)] == ["a", "b"]
    assert [hit.id for hit in snapshot.search([1])] == ["a", "b"]


FORKED = """
import os, sys
from dvecdb import Database
from dvecdb.errors import DvecdbError

database = Database(sys.argv[1])
books = database.create_collection("books", dimension=1)
books.upsert(["a"], [[1.0]])
child = os.fork()
if child == 0:
    codes = set()
    for call in (books.count, lambda: books.upsert(["b"], [[1.0]]), database.collections,
                 lambda: database.create_collection("c", dimension=1), books.flush):
        try:
            call()
        except DvecdbError as error:
            codes.add(str(error.code))
    database.close()  # must not close what the parent uses
    os._exit(0 if codes == {"forked-handle"} else 1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
books.upsert(["b"], [[2.0]])
try:
    Database(sys.argv[1])
except DvecdbError as error:
    assert error.code == "directory-in-use", error
else:
    raise AssertionError("the child gave the lock away")
database.close()
assert Database(sys.argv[1]).collection("books").count() == 2
"""


def test_forked_handle_is_refused_and_the_parent_goes_on(tmp_path):
    program = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c"]
    done = subprocess.run(
        [*program, textwrap.dedent(FORKED), str(tmp_path / "data")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
