"""Any sequence of changes, runs, interruptions, undos and deletions, against a model.

After a run that looked at every row, each row that can be embedded has exactly its vector and its
metadata; nothing that was paid for is lost by a run that could write; no run pays for a text that
was stored when it began, or twice; the counts are those of the rows.
"""

import contextlib
import itertools
import os
import tempfile
from collections import Counter
from unittest import mock

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from tests.embedding.lists import (
    COLLECTION,
    HashEmbedder,
    ListSource,
    Stopping,
    counts_of,
    delete_lists,
    job_of,
    records,
    run_lists,
    vector_of,
)

import dvecdb
from dvecdb.embedding.controls import Controls
from dvecdb.embedding.identity import PROBE_TEXT, Identity, row_id
from dvecdb.embedding.model import Reason
from dvecdb.engine.collection import Collection
from dvecdb.errors import Code, ServerError, UnavailableError

KEYS = st.integers(1, 14)
TEXTS = st.integers(0, 200).map(str) | st.sampled_from([*"abcd", "bad", None])
OWN = "_embedded"


def settled_text(text):
    return text is not None and text != "bad"


class Job(RuleBasedStateMachine):
    """A collection, a source, an embedder, and what they should be."""

    def __init__(self):
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.database = dvecdb.open(self.directory.name)
        self.embedder = HashEmbedder()
        self.embedder.refuses = {"bad"}
        self.tick = 0
        self.ever = {}  # id -> every (text, metadata) that the row had
        self.lsns = []
        self.started = {}  # run -> the tick at which it began

    @initialize(
        since=st.booleans(),
        concurrency=st.sampled_from([1, 3]),
        ahead=st.sampled_from([0, 8, 50]),
        rows=st.lists(st.tuples(TEXTS, st.integers(0, 2)), min_size=10, max_size=14),
    )
    def begin(self, since, concurrency, ahead, rows):
        self.source = ListSource(keeps_changes=since)
        self.embedder.takes_seconds = 0.002 * (concurrency > 1)
        self.put(dict(enumerate(rows, 1)))
        self.job = job_of(concurrency=concurrency, ahead=ahead)

    def teardown(self):
        self.database.close()
        self.directory.cleanup()

    # --- the source ---

    @rule(rows=st.dictionaries(KEYS, st.tuples(TEXTS, st.integers(0, 2)), max_size=8))
    def put(self, rows):
        self.tick += 1
        for key, (text, severity) in rows.items():
            metadata = {"severity": severity}
            self.source.rows[key] = (text, metadata, self.tick)
            id = row_id("list", str(key))
            self.ever.setdefault(id, []).append((text, metadata))

    @rule(key=KEYS)
    def remove(self, key):
        self.source.rows.pop(key, None)

    # --- runs ---

    @rule()
    def run_to_the_end(self):
        self._complete(self._run())

    @rule(reasons=st.permutations([Reason.OVERLOADED, Reason.OVERLOADED, Reason.TOO_LARGE]))
    def run_with_a_failing_service(self, reasons):
        """A single text that is too large twice, also at the end, would be given up."""
        self.embedder.failures = list(reasons)
        report = self._run()
        self.embedder.failures = []
        self._complete(report)

    @rule(requests=st.integers(0, 3))
    def run_with_a_budget(self, requests):
        self._run(budget_requests=requests)

    @rule(at=st.integers(1, 4))
    def run_that_is_stopped(self, at):
        controls = Controls()
        self._run(controls=controls, watch=Stopping(controls, at))

    @rule(at=st.integers(1, 6), is_done=st.booleans())
    def run_whose_commit_has_no_answer(self, at, is_done):
        error = UnavailableError(Code.UNREACHABLE, "told to be away")
        self._complete(self._run(failing=(at, is_done, error)))

    @rule(at=st.integers(1, 6), is_done=st.booleans())
    def run_that_breaks_at_a_commit(self, at, is_done):
        error = ServerError(Code.SERVER_ERROR, "told to break")
        self._run(failing=(at, is_done, error))

    @rule()
    def retry_failed(self):
        if COLLECTION in self.database.collections():
            self._run(only_failed=True)

    # --- the collection ---

    @rule(number=st.integers(0, 30))
    def undo(self, number):
        if self.lsns and COLLECTION in self.database.collections():
            lsn = self.lsns[number % len(self.lsns)]
            self.database.collection(COLLECTION).undo(to_lsn=lsn)

    @rule(comes_back=st.booleans())
    def delete_the_collection(self, comes_back):
        if COLLECTION not in self.database.collections():
            return
        self.database.delete_collection(COLLECTION)
        if comes_back:
            self.database.restore(self.database.trash()[0].name)
        else:
            self.lsns = []

    @rule()
    def delete_missing(self):
        if self._is_pinned():
            delete_lists(self.database, self.source, self.job, share_max=1.0)
            kept = {row_id("list", str(key)) for key in self.source.rows}
            assert set(records(self.database)) <= kept

    # --- what must hold ---

    def _stored(self):
        """Return the texts that have a vector in the collection or in the trash."""
        found = set()
        places = [self.database.preview(entry.name) for entry in self.database.trash()]
        if COLLECTION in self.database.collections():
            places.append(self.database.collection(COLLECTION))
        for place in places:
            for record in place.scan():
                found.add(record.metadata[OWN]["hash"])
        for preview in places:
            if hasattr(preview, "close"):
                preview.close()
        return found

    def _run(self, *, failing=None, **options):
        flow = {name: options.pop(name) for name in list(options) if name.startswith("budget")}
        job = self.job
        if flow:
            job = msgspec.structs.replace(job, flow=msgspec.structs.replace(job.flow, **flow))
        self.is_resumed = self._cursor_state() == "running"
        known, paid = self._stored(), Counter(self.embedder.paid)
        report = None
        try:
            with breaking(failing):
                report = run_lists(self.database, self.source, self.embedder, job, **options)
        except ServerError:
            pass
        new = self.embedder.paid - paid
        assert all(times == 1 for times in new.values()), f"paid twice in one run: {new}"
        stored = self._stored()
        if report is not None:
            hashes = {self._hash(text) for text in new}
            assert not hashes & known, "paid for a text that was stored"
            assert hashes <= stored, "paid for, and lost"
            for cursor in report.sources.values():
                assert counts_of(cursor) == cursor.cursor
                assert min(cursor.embedded, cursor.failed, cursor.copied) >= 0
        if COLLECTION in self.database.collections():
            collection = self.database.collection(COLLECTION)
            self.lsns.append(collection.snapshot().lsn)
            cursor = collection.documents.get("jobs", "list")
            if cursor is not None:
                self.started.setdefault(cursor["run"], self.tick)
        return report

    def _is_pinned(self):
        if COLLECTION not in self.database.collections():
            return False
        documents = self.database.collection(COLLECTION).documents
        return documents.get("embedding", "embedder") is not None

    def _cursor_state(self):
        if COLLECTION not in self.database.collections():
            return None
        cursor = self.database.collection(COLLECTION).documents.get("jobs", "list")
        return cursor and cursor["state"]

    def _hash(self, text):
        return Identity("hash", vector_of(PROBE_TEXT)).content_hash((text,))

    def _complete(self, report):
        """Check everything after a run from the start to the end.

        One that was gone on with may have passed rows before they changed: it is run again.
        """
        assert report.state == "done"
        if self.is_resumed:
            self._check_rows(self.started[report.sources["list"].run])
            report = self._run()
        self._check_rows(self.tick)
        cursor = report.sources["list"]
        assert cursor.state == "done"
        if cursor.since is None:
            assert cursor.cursor == len(self.source.rows)
        letters = self.database.collection(COLLECTION).documents.list("dead_letters")
        if cursor.since is None:
            ids = {row_id("list", str(key)) for key in self.source.rows}
            assert set(letters) <= ids, "a dead letter of a row that is gone"

    def _check_rows(self, last):
        """Check the rows that have not changed since a tick."""
        found = records(self.database)
        letters = self.database.collection(COLLECTION).documents.list("dead_letters")
        for key, (text, metadata, changed) in self.source.rows.items():
            if changed > last:
                continue
            id = row_id("list", str(key))
            if settled_text(text):
                vector, kept = found[id]
                assert vector == vector_of(text).tobytes()
                assert kept == {**metadata, OWN: kept[OWN]}
                assert kept[OWN]["hash"] == self._hash(text)
            assert (id in letters) == (not settled_text(text))

    @invariant()
    def every_record_is_one_that_its_row_once_was(self):
        if not hasattr(self, "source") or COLLECTION not in self.database.collections():
            return
        for id, (vector, metadata) in records(self.database).items():
            own = metadata.pop(OWN)
            assert any(
                settled_text(text)
                and own["hash"] == self._hash(text)
                and vector == vector_of(text).tobytes()
                and metadata == other
                for text, other in self.ever[id]
            )


@contextlib.contextmanager
def breaking(failing):
    """Let the n-th commit raise an error, before or after it was done."""
    if failing is None:
        yield
        return
    at, is_done, error = failing
    real, calls = Collection.write, itertools.count(1)

    def write(self, **parts):
        if next(calls) != at:
            return real(self, **parts)
        if is_done:
            real(self, **parts)
        raise error

    with mock.patch.object(Collection, "write", write):
        yield


@pytest.mark.slow
def test_jobs_do_what_the_model_says(monkeypatch):
    monkeypatch.setattr("dvecdb.embedding.lease.LEASE_SECONDS", 0.0)  # an undo brings some back
    run_state_machine_as_test(
        Job,
        settings=settings(
            max_examples=1_000 if os.environ.get("DVECDB_SOAK") else 50,
            stateful_step_count=20,
            deadline=None,
            derandomize=not os.environ.get("DVECDB_SOAK"),
            suppress_health_check=list(HealthCheck),
        ),
    )
