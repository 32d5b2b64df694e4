"""Fork with an open database and report, as one JSON object, what parent and child can do.

forked.py DIRECTORY             the child tries everything and exits
forked.py DIRECTORY --outlive   the child lives on; prints its pid, and the parent ends
"""

import contextlib
import inspect
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np

import dvecdb
from dvecdb.errors import DvecdbError

# Arguments for every public method. A new method must be added here.
DATABASE_CALLS = {
    "announce": {"address": "http://127.0.0.1:3030"},
    "examine_legacy": {"source": "/nowhere"},
    "import_legacy": {"source": "/nowhere", "name": "more"},
    "backups": {},
    "delete_backup": {"name": "docs_20260102_030405"},
    "hard_delete": {"name": "docs"},
    "preview": {"path": "docs_20260102_030405"},
    "purge": {},
    "restore": {"path": "docs_20260102_030405"},
    "tend": {},
    "trash": {},
    "trust_clock": {},
    "verify_backup": {"name": "docs_20260102_030405"},
    "collection": {"name": "docs"},
    "collections": {},
    "create_collection": {"name": "more", "dimension": 2},
    "delete_collection": {"name": "docs"},
    "findings": {},
}
COLLECTION_CALLS = {
    "backup": {},
    "backups": {},
    "clone": {"new_name": "past"},
    "is_protected": {},
    "protect": {},
    "tag": {"name": "t"},
    "tags": {},
    "undo": {"to_lsn": 1},
    "untag": {"name": "t"},
    "configure": {"values": {"k": 1}},
    "count": {},
    "delete": {"ids": ["a"]},
    "findings": {},
    "flush": {},
    "get": {"ids": ["a"]},
    "history": {},
    "insert": {"ids": ["x"], "vectors": [[1, 2]]},
    "scan": {},
    "scroll": {},
    "search": {"query": [1, 2]},
    "search_batch": {"queries": [[1, 2]]},
    "search_groups": {"query": [1, 2], "by": "n"},
    "facet": {"by": "n"},
    "wait_for_index": {},
    "snapshot": {},
    "stats": {},
    "update_metadata": {"ids": ["a"], "metadata": [{}]},
    "upsert": {"ids": ["a"], "vectors": [[1, 2]]},
    "verify": {},
    "write": {"deletes": ["a"]},
}
DOCUMENTS_CALLS = {
    "get": {"namespace": "n", "key": "k"},
    "list": {"namespace": "n"},
}
# What is not for users, and close, which must do nothing.
NOT_TRIED = {"Database": {"close", "forked"}, "Collection": {"leave"}, "Documents": set()}


def outcome(call, **arguments):
    """Return the code of the error of a call, or `ok`."""
    try:
        call(**arguments)
    except DvecdbError as error:
        return error.code
    return "ok"


def try_everything(database, docs):
    """Return the outcome of every public method, by name."""
    found = {}
    for target, calls in (
        (database, DATABASE_CALLS),
        (docs, COLLECTION_CALLS),
        (docs.documents, DOCUMENTS_CALLS),
    ):
        kind = type(target).__name__
        public = {
            name
            for name, _ in inspect.getmembers(type(target), inspect.isfunction)
            if not name.startswith("_")
        }
        assert public - NOT_TRIED[kind] == calls.keys(), public ^ calls.keys()
        for name, arguments in calls.items():
            found[f"{kind}.{name}"] = outcome(getattr(target, name), **arguments)
    return found


def child(database, docs, snapshot, path):
    """Return what a forked child finds."""
    found = {"calls": try_everything(database, docs)}
    database.close()
    found["snapshot"] = [record.id for record in snapshot.scan()]
    until, found["read_only_count"] = time.monotonic() + 10, 0
    while found["read_only_count"] < 2 and time.monotonic() < until:  # the idle marker may wait
        with dvecdb.open(path, read_only=True) as own:
            found["read_only_count"] = own.collection("docs").count()
    found["open"] = outcome(dvecdb.open, path=path)
    return found


def in_child(work):
    """Return the result of `work` in a forked child."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            result = work()
        except Exception as error:  # noqa: BLE001  the parent reports whatever it was
            result = {"failed": repr(error)}
        os.write(writing, json.dumps(result).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        result = json.loads(pipe.read())
    os.waitpid(pid, 0)
    return result


@contextlib.contextmanager
def held(lock):
    """Have another thread hold a lock."""
    taken, done = threading.Event(), threading.Event()

    def hold():
        with lock:
            taken.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    yield
    done.set()
    thread.join()


def another_process(path):
    """Return the outcome of opening the directory in a process of its own."""
    code = "import sys, forked, dvecdb; print(forked.outcome(dvecdb.open, path=sys.argv[1]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, path]
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return run.stdout.strip()


def main(path):
    """Open, fork, report."""
    database = dvecdb.open(path)
    docs = database.create_collection("docs", dimension=2)
    docs.upsert(ids=["a", "b"], vectors=np.ones((2, 2)))
    if "--outlive" in sys.argv:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(writing, b"!")  # it runs, and has let go of the lock
            time.sleep(60)
            os._exit(0)
        os.read(reading, 1)
        print(json.dumps({"child": pid}), flush=True)
        os._exit(0)  # without closing: as if killed
    snapshot = docs.snapshot()
    with held(database._lock):  # a thread of the parent may be inside a call when it forks
        report = in_child(lambda: child(database, docs, snapshot, path))
    report["another"] = another_process(path)
    docs.upsert(ids=["c"], vectors=np.ones((1, 2)))
    docs.flush()
    report["count"] = docs.count()
    report["pid"] = os.getpid()
    database.close()
    report["another_after_close"] = another_process(path)
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
