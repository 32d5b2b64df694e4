"""Jobs that a server runs, through both clients; and the same job run here, with any database."""

import inspect
import json
import threading
from pathlib import Path

import pytest
from tests.contract.test_database import refused

from dvecdb import embedding
from dvecdb.client.aio import AsyncDatabase
from dvecdb.client.connection import RemoteDatabase
from dvecdb.errors import (
    Code,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from dvecdb.rescue.database import Database
from dvecdb.wire.jobs import JobAnswer, JobEstimate, JobReport, JobSummary

CALLS = ("run_job", "start_job", "estimate_job", "job", "jobs", "pause_job", "resume_job",
         "stop_job")  # fmt: skip
ROWS = 30


@pytest.fixture(params=["connect", "connect_async"])
def kind(request):
    return request.param


def asked(path="rows.jsonl", **flow):
    return {
        "target": {"collection": "docs"},
        "sources": {"cyber": {"path": path, "key": "id", "text": "{title}"}},
        "embedder": {"kind": "local", "model": "fake", "dimensions": 8},
        "flow": flow,
    }


@pytest.fixture
def job(door):
    """A job over a file in the data directory."""
    lines = [json.dumps({"id": n, "title": f"row {n}"}) for n in range(ROWS)]
    (Path(door.path) / "rows.jsonl").write_text("\n".join(lines))
    return asked()


def test_both_clients_have_the_same_calls():
    for name in CALLS:
        mine, other = getattr(RemoteDatabase, name), getattr(AsyncDatabase, name)
        assert inspect.signature(mine).parameters == inspect.signature(other).parameters
        assert mine.__doc__ == other.__doc__
        assert mine.__doc__
        assert not hasattr(Database, name)  # which is below jobs: `embedding.run` takes it


def test_a_job_is_run_by_the_server_and_waited_for(door, job):
    seen = []
    report = door.database.run_job(
        job, progress=lambda done, total: seen.append((done, total)), actor="ann", reason="new"
    )
    assert isinstance(report, JobReport)
    assert (report.state, report.collection, report.dead_letters) == ("done", "docs", 0)
    assert report.sources["cyber"].embedded == ROWS
    assert all(0 <= done <= total == ROWS for done, total in seen)
    assert door.database.collection("docs").count() == ROWS
    again = door.database.run_job(embedding.parse_job(job), full=True)
    assert again.sources["cyber"].unchanged == ROWS
    assert door.database.run_job(job, only_failed=True).state == "done"


def test_a_job_run_here_and_one_run_there_are_the_same_job(door, job):
    here = embedding.parse_job({**job, "sources": {"cyber": {
        **job["sources"]["cyber"], "path": str(Path(door.path) / "rows.jsonl")}}})  # fmt: skip
    if door.kind == "connect":
        assert embedding.run(here, door.database).sources["cyber"].embedded == ROWS
    else:
        assert embedding.run(here, door.engine).sources["cyber"].embedded == ROWS
    assert door.database.run_job(job).sources["cyber"].unchanged == ROWS


def test_what_a_run_would_do_is_counted(door, job):
    found = door.database.estimate_job(job)
    assert isinstance(found["cyber"], JobEstimate)
    assert (found["cyber"].rows, found["cyber"].texts) == (ROWS, ROWS)
    assert door.database.collections() == []


def test_a_job_is_looked_at_paused_and_stopped(door, job):
    database = door.database
    away = {**job, "embedder": {"url": "http://127.0.0.1:9/"}}
    task = database.start_job(away)
    found = database.job("docs")
    assert isinstance(found, JobAnswer)
    assert (found.state, found.task.id, found.dead_letters) == ("running", task, [])
    database.pause_job("docs")
    (found,) = database.jobs()
    assert isinstance(found, JobSummary)
    assert (found.collection, found.state) == ("docs", "paused")
    refused(lambda: database.run_job(job), Code.JOB_RUNNING, ConflictError)
    database.resume_job("docs")
    assert database.job("docs").state == "running"
    database.stop_job("docs")


def test_what_goes_wrong_is_the_same_error_as_here(door, job):
    database = door.database
    refused(lambda: database.job("docs"), Code.COLLECTION_NOT_FOUND, NotFoundError)
    database.create_collection("docs", dimension=8)
    for call in (database.job, database.pause_job, database.resume_job, database.stop_job):
        refused(lambda call=call: call("docs"), Code.JOB_NOT_FOUND, NotFoundError)
    bad = asked("/etc/passwd.jsonl")
    error = refused(lambda: database.run_job(bad), Code.SOURCE_NOT_ALLOWED, InvalidRequestError)
    assert error.details["flag"] == "--import-root /etc"
    missing = asked("nothing.jsonl")
    refused(lambda: database.run_job(missing), Code.SOURCE_REFUSED, InvalidRequestError)
    refused(lambda: database.estimate_job(missing), Code.SOURCE_REFUSED, InvalidRequestError)
    refused(lambda: database.run_job({}), Code.INVALID_BODY, InvalidRequestError)
    refused(lambda: database.run_job(7), Code.INVALID_ARGUMENT, InvalidRequestError)
    refused(lambda: database.job(7), Code.INVALID_ARGUMENT, InvalidRequestError)
    unknown = {**job, "flow": {"batches": 7}}
    refused(lambda: database.run_job(unknown), Code.UNKNOWN_FIELD, InvalidRequestError)


def test_a_job_that_somebody_stops_before_it_began_is_an_error(door, job):
    away = {**job, "embedder": {"url": "http://127.0.0.1:9/"}}

    def stop():
        while True:
            try:
                return door.database.stop_job("docs")
            except NotFoundError:
                continue

    stopping = threading.Thread(target=stop)
    stopping.start()
    refused(lambda: door.database.run_job(away), Code.CANCELLED, UnavailableError)
    stopping.join()
