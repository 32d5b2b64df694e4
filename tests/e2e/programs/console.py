"""A process with a data directory that does what it is told, one JSON line at a time.

    console.py DIRECTORY

Commands: {"do": NAME, ...}. Answers: {"ok": VALUE}, or {"error": CODE, "message": ..., "details":
...} for an error of ours. Rows are written with `vector_of(id, version)` and come back as versions.
"""

import json
import os
import sys

import ledger as book
import numpy as np

import dvecdb
from dvecdb.errors import DvecdbError

SETTINGS = dvecdb.Settings(**{**book.SETTINGS, "flush_commits": 10_000, "flush_bytes": 1 << 20})


class Console:
    """One open database."""

    def __init__(self, path):
        self.path = path
        self.database = None

    @property
    def collection(self):
        """The collection everything is about."""
        return self.database.collection(book.COLLECTION)

    def open(self, *, read_only=False):
        """Open the directory."""
        self.database = dvecdb.Database(self.path, read_only=read_only, settings=SETTINGS)
        if not read_only and not self.database.collections():
            self.database.create_collection(book.COLLECTION, dimension=book.DIMENSION)
        return os.getpid()

    def close(self):
        """Close it."""
        self.database.close()

    def upsert(self, ids, version):
        """Write rows; return the LSN."""
        vectors = np.stack([book.vector_of(i, version) for i in ids])
        metadata = [{"version": version}] * len(ids)
        return self.collection.upsert(ids=ids, vectors=vectors, metadata=metadata).lsn

    def delete(self, ids):
        """Delete rows; return how many there were."""
        return self.collection.delete(ids).count

    def get(self, ids):
        """Return the version of each row, None for those that do not exist."""
        versions = []
        for record_id, record in zip(ids, self.collection.get(ids), strict=True):
            versions.append(record and record.metadata["version"])
            if record:
                book.check_record(record, record_id, versions[-1], {"version": versions[-1]})
        return versions

    def count(self):
        """Return the number of rows."""
        return self.collection.count()

    def flush(self):
        """Write the memtable into a segment."""
        self.collection.flush()

    def create(self, name):
        """Create a collection."""
        self.database.create_collection(name, dimension=4)

    def drop(self, name):
        """Delete a collection."""
        self.database.delete_collection(name)

    def findings(self):
        """Return the codes of what is wrong."""
        return [finding.code for finding in self.database.findings()]


def answer(console, command):
    """Return the answer to one command."""
    try:
        return {"ok": getattr(console, command.pop("do"))(**command)}
    except DvecdbError as error:
        return {"error": error.code, "message": error.message, "details": dict(error.details)}


if __name__ == "__main__":
    console = Console(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(answer(console, json.loads(line))), flush=True)
