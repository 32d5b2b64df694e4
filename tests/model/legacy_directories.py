"""Legacy data directories with collections of every kind in them, and what has to come of each."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np

from dvecdb.testing.legacy_bytes import vector_bytes
from dvecdb.testing.legacy_judge import Found
from dvecdb.testing.legacy_truth import truth
from dvecdb.testing.legacy_writer import LegacyServer


@dataclass
class Expected:
    """A collection by its path in the old directory; kind: as reports call it."""

    path: str
    kind: str
    name: str


class OldDirectory:
    """Plays a server and keeps what an upgrade has to bring over."""

    def __init__(self, generation, seed=0, *, flush_bytes=0):
        self.server = LegacyServer(generation, seed=seed, flush_bytes=flush_bytes)
        self.rng = np.random.default_rng(seed)
        self.expected = []
        self.ids = {}

    def rows(self, count, dimension):
        return [
            (
                str(self.server.random_id()),
                vector_bytes(self.rng.standard_normal(dimension).astype(np.float32).tolist()),
                {"title": f"row {number}", "page": number + 1} if number % 3 else None,
            )
            for number in range(count)
        ]

    def collection(self, name, count=7, dimension=4, *, batch=False, metric="Euclidean"):
        self.server.create(name, dimension, metric)
        rows = self.rows(count, dimension)
        if batch:
            self.server.insert_batch(name, rows)
        else:
            for row in rows:
                self.server.insert(name, *row)
        self.ids[name] = [row[0] for row in rows]
        self.expected.append(Expected(name, "collection", name))

    def forget(self, name):
        self.expected = [item for item in self.expected if item.path != name]

    def drop(self, name):
        """Delete a collection softly: it is in `.deleted` then."""
        self.forget(name)
        self.expected.append(Expected(self.server.drop(name), "deleted", name))

    def backup(self, name):
        self.expected.append(Expected(self.server.backup(name), "backup", name))

    def snapshot(self, name):
        self.expected.append(Expected(self.server.snapshot(name), "snapshot", name))

    def lose(self, name):
        """Take a collection's directory away: only the log knows it."""
        self.forget(name)
        del self.server.directories[name]
        self.expected.append(Expected(name, "log", name))

    def write_to(self, path, *, zeros=600):
        self.server.write_to(path, zeros=zeros)

    def truth(self, expected):
        return truth(self.server, expected.path)


def found_in(collection, report):
    """Return what a collection, or a preview of one, holds, as the judge takes it."""
    records = list(collection.scan(with_vectors=True))
    return Found(
        [record.id for record in records],
        [np.asarray(record.vector, "<f4").tobytes() for record in records],
        [b"" if record.metadata is None else msgspec.json.encode(record.metadata)
         for record in records],
        report,
        report.dimension,
        report.metric,
    )  # fmt: skip


def digest(path):
    """Return what lies below a path: kind, time of change and hash of each name."""
    found = {}
    for item in sorted(Path(path).rglob("*")):
        about = item.lstat()
        content = item.read_bytes() if item.is_file() else b""
        found[str(item.relative_to(path))] = (
            about.st_mode, about.st_mtime_ns, sha256(content).hexdigest()
        )  # fmt: skip
    return found
