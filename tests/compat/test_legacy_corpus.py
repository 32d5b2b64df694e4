"""Every case of the corpus of real and damaged d-vecDB files, judged row by row."""

import contextlib
import struct
import uuid

import numpy as np
import pytest
from tests.compat.legacy_corpus import CASES, CORPUS, expected, needs_corpus, original

from dvecdb.errors import Code, DvecdbError, NotFoundError
from dvecdb.testing import legacy_bytes as lb
from dvecdb.testing.legacy_judge import judge
from dvecdb.testing.legacy_reading import read
from dvecdb.testing.legacy_truth import Content, Span, Truth

pytestmark = [pytest.mark.compat, needs_corpus]

WITH_FILES = [case for case in CASES if not case.startswith("wal-")]
LOGS = [case for case in CASES if case.startswith("wal-")]
WITH_LOG = [case for case in WITH_FILES if (CORPUS / case / "data" / "wal").exists()]

QUALITIES = {
    "true": "exact",
    "by-schema": "exact",
    "zero-class": "zero-class",
    "ambiguous": "ambiguous",
    "best-effort": "ambiguous",
}


class Case:
    """One collection of a case: its file, and the truth about it."""

    def __init__(self, case, collection):
        self.about = expected(case)
        self.collection = collection
        self.path = f"{collection['path']}/vectors.bin"
        self.data = (CORPUS / case / "data" / self.path).read_bytes()
        archive = CORPUS / case / "expected.npz"
        self.arrays = np.load(archive)[collection["npz_key"]] if archive.exists() else []

    def vector(self, record):
        return np.asarray(self.arrays[record["row"]], "<f4").tobytes()

    def content(self, record):
        word = record["recoverable"]["metadata"]
        quality = QUALITIES.get("true" if word is True else word, "damaged")
        start, vector = record["offset"], self.vector(record)
        prefixed = struct.unpack_from("<Q", self.data.ljust(start + 8, b"\0"), start)[0] != 16
        fields = lb.fields_of(record["length"], len(vector) // 4, prefixed=prefixed)
        stored = self.data[start + fields["tag"][1] : start + record["length"]]
        if record["state"] == "damaged" and quality == "exact" and not stored.endswith(b"}"):
            # The case says that its bytes are whole, not how many readings they have.
            quality = "ambiguous"
        alternatives = tuple(record.get("metadata_alternatives", ()))
        return Content(vector, record["metadata"], quality, alternatives, stored, prefixed)

    def as_it_lies_there(self, record):
        """Return id and content of a record whose damage nothing shows."""
        content, start = self.content(record), record["offset"]
        prefixed = struct.unpack_from("<Q", self.data, start)[0] != 16
        fields = lb.fields_of(record["length"], len(content.vector) // 4, prefixed=prefixed)
        first, last = fields["uuid"]
        id = str(uuid.UUID(bytes=self.data[start + first : start + last]))
        first, last = fields["vector"]
        vector = self.data[start + first : start + last]
        return id, Content(vector, content.metadata, content.quality)

    def truth(self, live):
        """live: id -> seq. A record that only the log still has may come too."""
        records = self.collection["records"]
        metric = self.collection["distance_metric"]
        configured = any(name.endswith("metadata.json") for name in self.about["files"])
        result = Truth(self.collection["dimension"], metric if configured else None)
        for id, seq in live.items():
            result.required[id] = [self.content(records[seq])]
        for seq in self.collection.get("may_also_appear", []):
            result.allow(*self.as_it_lies_there(records[seq]))
        for record in records:
            if not len(self.arrays):
                continue
            result.written.add((record["id"], self.vector(record)))
            span = Span(self.path, record["offset"], record["offset"] + record["length"])
            if record["recoverable"]["vector"] is True and record["recoverable"]["id"] is True:
                result.whole.append(span)
            elif record["state"] in ("torn", "damaged") and record["recoverable"]["vector"] in (
                False,
                "partial",
            ):
                start = record.get("surviving_from", span.start)
                end = min(span.end, len(self.data))
                result.torn += [Span(self.path, start, end)] if start < end else []
        return result


def collections(case, tmp_path):
    data = original(case, tmp_path / "data")
    for collection in expected(case)["collections"]:
        yield data, Case(case, collection)


@pytest.mark.parametrize("case", WITH_FILES)
def test_a_file_alone_gives_all_that_can_be_recovered(case, tmp_path):
    for data, one in collections(case, tmp_path):
        found = read(data / one.collection["path"], one.collection["dimension"], use_log=False)
        assert judge(one.truth(one.collection["live"]), found) == []


@pytest.mark.parametrize("case", WITH_FILES)
def test_a_file_without_its_directory_gives_the_same(case, tmp_path):
    for data, one in collections(case, tmp_path):
        lone = tmp_path / f"lone-{one.collection['name']}.bin"
        (data / one.path).rename(lone)
        found = read(lone, one.collection["dimension"], use_log=False)
        truth = one.truth(one.collection["live"])
        truth.metric, truth.torn, truth.whole = None, [], []
        assert judge(truth, found) == []


@pytest.mark.parametrize("case", WITH_LOG)
def test_with_the_log_its_inserts_and_deletions_count(case, tmp_path):
    for data, one in collections(case, tmp_path):
        name = one.collection["name"]
        if one.collection["path"] != name:
            continue
        live = one.collection.get("live_after_wal_deletes", one.collection["live"])
        truth = one.truth(live)
        truth.logged = True
        records = one.collection["records"]
        union = expected(case).get("union_with_wal", {})
        for record in records:
            if record["id"] in union and record["id"] not in live:
                truth.required[record["id"]] = [one.content(record)]
            elif record["id"] not in live and record["id"] not in one.collection["live"]:
                truth.allow(record["id"], one.content(record))
        truth.metric = one.collection["distance_metric"] if truth.metric else None
        found = read(data, one.collection["dimension"], collection=name)
        assert judge(truth, found) == []
        deleted = set(one.collection.get("wal_deleted_ids", []))
        assert deleted - set(found.ids) <= set(found.report.deleted_by_log)
        kept = read(data, one.collection["dimension"], collection=name, keep_deleted=True)
        assert deleted <= set(kept.ids)


def state_of(case, name):
    about = expected(case)
    state = about["wal_state"][name]
    result = Truth(state["dimension"], state.get("distance_metric"), logged=True)
    for id, row in state["live"].items():
        vector = lb.vector_bytes(row["vector"])
        # Values of no type are judged by their bytes: the case names no class.
        quality = "exact" if "text" in case or row["metadata"] is None else "ambiguous"
        result.required[id] = [Content(vector, row["metadata"], quality)]
        result.written.add((id, vector))
    return result, state


@pytest.mark.parametrize("case", LOGS)
def test_a_log_alone_gives_its_collections_back(case, tmp_path):
    data = original(case, tmp_path / "data")
    for name in expected(case)["wal_state"]:
        truth, state = state_of(case, name)
        found = read(data, state["dimension"], collection=name)
        uncertain = set(state["unrecoverable_ids"])
        verdicts = judge(truth, found)
        assert [one for one in verdicts if one.id not in uncertain] == []
        assert set(state["deleted_ids"]) <= set(found.report.deleted_by_log)


@pytest.mark.parametrize("case", LOGS)
def test_what_the_log_dropped_comes_only_when_asked_for(case, tmp_path):
    data = original(case, tmp_path / "data")
    for name, rows in expected(case).get("wal_dropped_collections", {}).items():
        dimension = len(next(iter(rows.values())))
        without = read(data, dimension, collection=name)
        assert without.ids == []
        assert name in without.report.dropped_by_log
        found = read(data, dimension, collection=name, include_dropped=True)
        vectors = {id: lb.vector_bytes(values) for id, values in rows.items()}
        assert dict(zip(found.ids, found.vectors, strict=True)) == vectors


@pytest.mark.parametrize("case", WITH_FILES)
def test_a_wrong_dimension_or_metric_is_refused_with_what_the_bytes_say(case, tmp_path):
    for data, one in collections(case, tmp_path):
        if not one.collection["live"]:
            continue
        given = one.collection["dimension"] + 4
        with pytest.raises(DvecdbError) as raised:
            read(data / one.collection["path"], given, dimension=given)
        assert raised.value.code is Code.SOURCE_CONTRADICTS
        assert str(one.collection["dimension"]) in str(raised.value)


@pytest.mark.parametrize("case", CASES)
def test_reading_changes_nothing(case, tmp_path):
    data = original(case, tmp_path / "data")
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    about = expected(case)
    for name in [one["name"] for one in about["collections"]] or about["wal_state"]:
        # Some cases are only copies of a collection, which are found under other paths.
        with contextlib.suppress(NotFoundError):
            read(data, 8, collection=name)
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before
