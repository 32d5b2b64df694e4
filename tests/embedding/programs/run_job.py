"""Runs a job from a JSON file against a server or a directory; prints the report, or the error."""

import json
import os
import sys
import time
from pathlib import Path

import dvecdb
from dvecdb.embedding import parse_job, run
from dvecdb.embedding.events import AttemptFailed, Noted, Paused, Resumed, SourceStarted
from dvecdb.errors import DvecdbError


def watch(event):
    if isinstance(event, SourceStarted):
        print("begun", flush=True)
    if isinstance(event, AttemptFailed | Noted | Paused | Resumed):
        print(event, file=sys.stderr, flush=True)


def write_cursor_first():
    """Break the job: the cursor is durable before its rows."""
    from dvecdb.embedding.target import Target

    commit = Target.commit

    def broken(self, documents, *, ids=(), vectors=None, metadata=(), **options):
        commit(self, documents, **options)
        if len(ids):
            time.sleep(0.1)
            rows = {"ids": ids, "vectors": vectors, "metadata": metadata}
            self.collection.write(upserts=rows)

    Target.commit = broken


def main(path, target):
    if os.environ.get("DVECDB_TEST_BREAK") == "cursor-first":
        write_cursor_first()
    job = parse_job(json.loads(Path(path).read_text()))
    database = dvecdb.connect(target) if target.startswith("http") else dvecdb.open(target)
    with database:
        try:
            report = run(job, database, watch=watch)
        except DvecdbError as error:
            print(json.dumps({"error": error.code, "message": error.message}))
            return 1
    import msgspec

    print(msgspec.json.encode(report).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
