"""Rows that were brought back, sent in batches: all of them, in any number of pieces."""

import math
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dvecdb
from dvecdb.cli import streaming
from dvecdb.cli.rescue_report import report_lines
from dvecdb.cli.staging import Note, staged
from dvecdb.errors import ConflictError
from dvecdb.records import Metric, Schema, VectorType
from dvecdb.reports import Doubt, ImportReport, Lost, Unreadable
from dvecdb.rescue.salvage import Salvage

NOTE = Note("ann", "a test")
floats = st.floats(width=32) | st.sampled_from([math.nan, math.inf, -0.0, 1e-45])
texts = st.none() | st.text(max_size=40)


class Rows(SimpleNamespace):
    """Vectors in memory, handed over as those in files are."""

    def pieces(self, rows_per_piece):
        for first in range(0, len(self.array), rows_per_piece):
            yield self.array[first : first + rows_per_piece]


def salvage_of(vectors, values, dtype="<f4", documents=None):
    array = np.array(vectors, dtype)
    kind = {"<f4": VectorType.FLOAT32, "i1": VectorType.INT8}[dtype]
    ids = [f"id-{number}" for number in range(len(vectors))]
    report = ImportReport(source="old", imported=len(ids), exact=len(ids))
    metadata = [b"" if value is None else msgspec.json.encode({"k": value}) for value in values]
    schema = Schema(array.shape[1], Metric.EUCLIDEAN, kind)
    return Salvage(schema, report, ids, metadata, Rows(array=array, stored_bytes=array.nbytes),
                   lambda: None, documents or {})  # fmt: skip


def stream(path, salvage, moves=None):
    """Stream into a new collection; return its records and its number of commits."""
    moves = [] if moves is None else moves
    with dvecdb.open(path) as database:
        name = f"docs-{len(database.collections())}"
        docs = database.create_collection(
            name, dimension=salvage.schema.dimension, metric="euclidean",
            vector_type=str(salvage.schema.vector_type),
        )  # fmt: skip
        streaming.stream_rows(docs, salvage, NOTE, lambda *at: moves.append(at))
        records = [(row.id, row.vector.tobytes(), row.metadata)
                   for row in docs.scan(with_vectors=True)]  # fmt: skip
        return records, docs.history(limit=1000)


@given(st.lists(st.tuples(st.tuples(floats, floats), texts), max_size=20), st.integers(1, 200))
def test_all_rows_arrive_to_the_bit_but_those_that_are_not_finite(tmp_path_factory, rows, size):
    vectors, values = [row[0] for row in rows], [row[1] for row in rows]
    salvage = salvage_of(vectors or np.zeros((0, 2)), values)
    place = tmp_path_factory.mktemp("streaming")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(streaming, "_BATCH_BYTES", size)
        records, _ = stream(place, salvage)
    whole = [number for number, vector in enumerate(vectors) if np.isfinite(vector).all()]
    assert records == [
        (f"id-{number}", np.array(vectors[number], "<f4").tobytes(),
         None if values[number] is None else {"k": values[number]})
        for number in whole
    ]  # fmt: skip
    report = salvage.report
    assert (report.imported, report.exact) == (len(whole), len(whole))
    lost = [f"id-{number}" for number in range(len(vectors)) if number not in whole]
    assert sorted(item.why.split()[3] for item in report.lost) == sorted(lost)


def test_batches_end_where_metadata_fill_them(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "_BATCH_BYTES", 100)
    moves = []
    _, commits = stream(tmp_path, salvage_of([[1], [2], [3], [4]], ["x" * 99] * 3 + [None]), moves)
    assert [commit.rows for commit in commits] == [1, 1, 1, 1]
    assert moves == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert {(commit.actor, commit.reason) for commit in commits} == {("ann", "a test")}


def test_whole_numbers_are_not_looked_at_for_infinities(tmp_path):
    records, _ = stream(tmp_path, salvage_of([[1, -128], [127, 0]], [None, None], "i1"))
    assert len(records) == 2


def test_documents_come_along_but_not_our_own(tmp_path):
    documents = {("jobs", "cursor"): 7, ("_config", "trash_hours"): 9}
    with dvecdb.open(tmp_path) as database:
        docs = database.create_collection("docs", dimension=1)
        salvage = salvage_of([[1]], [None], documents=documents)
        streaming.stream_rows(docs, salvage, NOTE, lambda *_: None)
        assert docs.documents.list("jobs") == {"cursor": 7}
        assert docs.documents.list("_config") == {}


def test_a_row_that_was_in_doubt_is_counted_once(tmp_path):
    salvage = salvage_of([[math.inf], [1]], [None, "x" * 70_000])
    salvage.report.exact = 0
    salvage.report.doubtful = [
        Doubt(id="id-0", file="vectors.bin", offset=32, why="not-finite", text=""),
        Doubt(id="id-1", file="vectors.bin", offset=99, why="repaired", text=""),
    ]
    records, _ = stream(tmp_path, salvage)
    assert [row[0] for row in records] == ["id-1"]
    report = salvage.report
    assert (report.imported, report.exact) == (1, 0)
    assert [(item.file, item.start) for item in report.lost] == [("vectors.bin", 32)]
    assert [(item.id, item.why) for item in report.doubtful] == [
        ("id-1", "repaired"), ("id-1", "metadata-lost"),
    ]  # fmt: skip


# --- the collection that is being filled ---


def test_what_stops_inside_leaves_no_collection(tmp_path):
    schema = Schema(1, Metric.COSINE, VectorType.FLOAT32)
    with dvecdb.open(tmp_path) as database:
        with pytest.raises(ZeroDivisionError), staged(database, "docs", schema, NOTE) as staging:
            staging.collection.upsert(["a"], [[1]])
            raise ZeroDivisionError
        assert database.collections() == []
        assert database.trash() == []


def test_a_name_that_was_taken_meanwhile_stays_what_it_is(tmp_path):
    schema = Schema(1, Metric.COSINE, VectorType.FLOAT32)
    with dvecdb.open(tmp_path) as database:
        with pytest.raises(ConflictError), staged(database, "docs", schema, NOTE) as staging:
            database.create_collection("docs", dimension=7)
            staging.finish(replace=False)
        assert database.collections() == ["docs"]
        assert database.collection("docs").schema.dimension == 7


def test_what_was_replaced_comes_back_if_the_name_cannot_be_given(tmp_path):
    schema = Schema(1, Metric.COSINE, VectorType.FLOAT32)
    with dvecdb.open(tmp_path) as database:
        database.create_collection("docs", dimension=7).upsert(["a"], [[1] * 7])
        with pytest.raises(ZeroDivisionError), staged(database, "docs", schema, NOTE) as staging:
            staging._clone = lambda: 1 / 0
            staging.finish(replace=True)
        assert database.collections() == ["docs"]
        assert database.collection("docs").count() == 1
        assert database.trash() == []


def test_the_longest_name_can_be_filled(tmp_path):
    schema = Schema(1, Metric.COSINE, VectorType.FLOAT32)
    name = "n" * 64
    with dvecdb.open(tmp_path) as database:
        with staged(database, name, schema, NOTE) as staging:
            assert staging.finish(replace=False) is None
        assert database.collections() == [name]


# --- the report in words ---


def test_a_report_says_everything_once_and_not_too_much():
    report = ImportReport(
        source="old",
        superseded=1_200,
        deleted_by_log=["a", "b", "c", "d"],
        dropped_by_log=["docs"],
        doubtful=[
            Doubt(id="x", file="f", offset=1, why="repaired", text="its length said 9"),
            Doubt(file="f", offset=0, why="zero-class", text="0 or empty", key="k", rows=2_000),
        ],
        lost=[Lost("f", number, number + 1, "torn") for number in range(12)],
        unreadable=[Unreadable("wal\x1b", "no permission")],
        notes=["no log"],
    )
    lines = report_lines(report)
    assert lines[:5] == [
        "  1,200 older versions of an id: the newest one counts",
        "  4 ids deleted by the log: a, b, c, ...",
        "  dropped by the log: docs",
        "  2,000 in doubt, zero-class: 0 or empty",
        "  1 in doubt, repaired: like x: its length said 9",
    ]
    assert lines[5] == "  lost: f bytes 0 .. 1: torn"
    assert lines[15:] == [
        "  and 2 more; --report FILE has all",
        "  unreadable: wal\\x1b: no permission",
        "  note: no log",
    ]
    assert report_lines(ImportReport(source="old")) == []
