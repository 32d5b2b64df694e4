"""A job over rows in a list and vectors from a hash: all real but the source and the service.

Everything that can go wrong can be made to, at a moment that the test chooses.
"""

import contextlib
import threading
from collections import Counter
from unittest import mock

import blake3
import numpy as np

from dvecdb.embedding.care import check_job, delete_missing
from dvecdb.embedding.events import Committed
from dvecdb.embedding.identity import PROBE_TEXT
from dvecdb.embedding.job import parse_job
from dvecdb.embedding.model import Answer, EmbedError, Reason, SourceRow
from dvecdb.embedding.running import run

COLLECTION = "things"
DIMENSION = 8


def vector_of(text, dimension=DIMENSION):
    """Return float32[dimension] of unit length."""
    seed = int.from_bytes(blake3.blake3(text.encode()).digest(8))
    vector = np.random.default_rng(seed).standard_normal(dimension)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class ListSource:
    """Rows in the order of their keys. rows: key -> (text, metadata, changed)."""

    def __init__(self, rows=None, *, keeps_changes=False):
        self.rows = dict(rows or {})
        self.keeps_changes = keeps_changes
        self.failures = []  # raised by the next calls
        self.reads = 0
        self.before_read = lambda: None

    def _fail(self):
        if self.failures:
            raise self.failures.pop(0)

    def check(self):
        self._fail()

    def count(self, since=None):
        self._fail()
        return len(self._rows(since))

    def mark(self):
        self._fail()
        if not self.keeps_changes:
            return None
        return max((changed for _, _, changed in self.rows.values()), default=None)

    def _rows(self, since):
        return [
            (key, row) for key, row in sorted(self.rows.items()) if since is None or row[2] >= since
        ]

    def read(self, after, limit, since=None):
        self.before_read()
        self._fail()
        self.reads += 1
        found = [(key, row) for key, row in self._rows(since) if after is None or key > after]
        return [self._row(key, *row) for key, row in found[:limit]]

    @staticmethod
    def _row(key, text, metadata, _changed):
        if text is None:
            return SourceRow(str(key), key, None, {}, "text is null", empty=True)
        return SourceRow(str(key), key, text, metadata)

    def keys(self):
        return iter([str(key) for key in sorted(self.rows)])

    def close(self):
        pass


class HashEmbedder:
    """Answers `vector_of`. paid: how often each text was answered; refuses: texts not taken."""

    def __init__(self, dimension=DIMENSION, model="hash"):
        self.model = model
        self.dimension = dimension
        self.paid = Counter()
        self.probes = 0
        self.requests = 0
        self.refuses = set()
        self.failures = []  # reasons of the next requests that are no probes
        self.special = {}  # text -> vector
        self.gate = None  # an event that every request waits for
        self.takes_seconds = 0.0  # so that several are under way
        self.arrived = threading.Semaphore(0)
        self._lock = threading.Lock()

    def embed(self, texts):
        if list(texts) == [PROBE_TEXT]:
            self.probes += 1
            return Answer(self._vectors(texts))
        self.arrived.release()
        if self.gate is not None:
            assert self.gate.wait(30)
        threading.Event().wait(self.takes_seconds)
        with self._lock:
            self.requests += 1
            if self.failures:
                raise EmbedError(self.failures.pop(0), "told to fail")
            if self.refuses.intersection(texts):
                raise EmbedError(Reason.REFUSED, "not this text")
            self.paid.update(texts)
        return Answer(self._vectors(texts), len(texts))

    def _vectors(self, texts):
        found = [self.special.get(text, vector_of(text, self.dimension)) for text in texts]
        return np.array(found, np.float32)

    def renew(self):
        pass

    def close(self):
        pass


FLOW = {"batch": 3, "page": 5, "retry_seconds": 0.001, "retry_seconds_max": 0.002, "attempts": 2}


def job_of(names=("list",), *, text=None, target=None, metadata=(), **flow):
    source = {"path": "no.jsonl", "key": "id", "text": "text", "metadata": metadata}
    return parse_job(
        {
            "target": {"collection": COLLECTION, **(target or {})},
            "sources": dict.fromkeys(names, source),
            "embedder": {"kind": "local", "model": "fake"},
            "text": text or {},
            "flow": {**FLOW, **flow},
        }
    )


@contextlib.contextmanager
def standing_in(sources, embedder=None):
    """Let jobs find these sources, by name, and this embedder."""

    def open_source(name, *_, **__):
        return sources[name]

    with (
        mock.patch("dvecdb.embedding.sources.opening.open_source", open_source),
        mock.patch("dvecdb.embedding.running.open_embedder", return_value=embedder),
    ):
        yield


def run_lists(database, sources, embedder, job=None, **options):
    """Run a job over sources by name, or one source."""
    if not isinstance(sources, dict):
        sources = {"list": sources}
    with standing_in(sources, embedder):
        return run(job or job_of(tuple(sources)), database, environment={}, **options)


def check_lists(database, source, job=None):
    with standing_in({"list": source}):
        return check_job(job or job_of(), database, environment={})["list"]


def delete_lists(database, source, job=None, **options):
    with standing_in({"list": source}):
        return delete_missing(job or job_of(), database, environment={}, **options)["list"]


def records(database, name=COLLECTION):
    """Return id -> (vector bytes, metadata)."""
    return {
        record.id: (np.asarray(record.vector).tobytes(), record.metadata)
        for record in database.collection(name).scan(with_vectors=True)
    }


class Stopping:
    """A `watch` that stops the job at its n-th commit, and keeps every event."""

    def __init__(self, controls, at):
        self._controls = controls
        self._left = at
        self.events = []

    def __call__(self, event):
        self.events.append(event)
        if isinstance(event, Committed):
            self._left -= 1
            if self._left == 0:
                self._controls.stop()


def counts_of(cursor):
    return (
        cursor.embedded
        + cursor.copied
        + cursor.unchanged
        + cursor.relabelled
        + cursor.failed
        + cursor.skipped
    )
