"""Embedding jobs over HTTP: what is run, what may be read and named, and what is told of it."""

import json
import os
import sqlite3
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.api.test_recovery import audited, refused
from tests.api.test_server import bearer, ended

from dvecdb.api.job_request import JobRequest
from dvecdb.embedding import report as reports
from dvecdb.embedding.job import Job
from dvecdb.embedding.lease import Lease
from dvecdb.embedding.progress import Cursor
from dvecdb.media.processes import start_of
from dvecdb.wire import jobs as messages

JOBS = "/jobs"
ROWS = 20
LOCAL = {"kind": "local", "model": "fake", "dimensions": 8}
NOBODY = {"kind": "service", "url": "http://127.0.0.1:9/", "dimensions": 8}
"""A service that is never there, so a job with it waits."""


class Service(ThreadingHTTPServer):
    """A service of vectors that can be away. asked: how many texts it embedded."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answering)
        self.away, self.asked = False, 0
        self.embedder = {**NOBODY, "url": f"http://127.0.0.1:{self.server_port}", "model": "m"}
        self._thread = threading.Thread(target=self.serve_forever, args=[0.05])
        self._thread.start()

    def end(self):
        self.shutdown()
        self._thread.join()
        self.server_close()


class Answering(BaseHTTPRequestHandler):
    """Answers a request with the length of each text, over and over."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        vectors = [[len(text), *range(7)] for text in body["texts"]]
        self.server.asked += len(vectors)
        answer = json.dumps({"embeddings": vectors}).encode()
        self.send_response(503 if self.server.away else 200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def text_of(number):
    return f"incident {number}"


def write_rows(path, numbers=range(ROWS)):
    lines = [json.dumps({"id": n, "title": text_of(n), "year": 2000 + n}) for n in numbers]
    Path(path).write_text("\n".join(lines) + "\n")


def asked(collection="docs", path="rows.jsonl", embedder=LOCAL, source=None, **others):
    rows = {"key": "id", "text": "title", "metadata": ["year"], "path": path, **(source or {})}
    return {
        "target": {"collection": collection},
        "sources": {"cyber": {name: value for name, value in rows.items() if value is not None}},
        "embedder": embedder,
        "flow": {"retry_seconds": 0.05, "retry_seconds_max": 0.1},
        **others,
    }


def started(server, body, query=""):
    """Start a job; return its task as it began."""
    answer = server("POST", JOBS + query, body)
    assert answer.status == 202, answer.body
    task = answer.data["task"]
    assert answer.headers["location"] == f"/tasks/{task['id']}"
    return task


def done(server, body, query=""):
    """Run a job; return its task at the end."""
    return finished(server, started(server, body, query)["id"])


def finished(server, task_id):
    server.tasks.wait(task_id)
    return ended(server, task_id)


def until(holds, seconds=20):
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.01)
    return found


def held(server, collection="docs"):
    return server("GET", f"/collections/{collection}/count").data["count"]


def everything(server):
    """Return all that the server says and keeps beside the collections, as text."""
    said = [server("GET", path).body for path in ("/tasks", "/audit", "/jobs", "/findings")]
    root = Path(server.path) / ".server"
    kept = [path.read_bytes() for path in root.rglob("*") if path.is_file()]
    return b"\n".join([*said, *kept]).decode(errors="replace")


@pytest.fixture
def place(server):
    """The server with a file of rows in its data directory."""
    write_rows(Path(server.path) / "rows.jsonl")
    return server


@pytest.fixture
def service():
    service = Service()
    yield service
    service.end()


@pytest.fixture
def waiting(place, service):
    """A job that waits for its service, of a collection that an earlier run made."""
    body = asked(embedder=service.embedder)
    assert done(place, body)["state"] == "done"
    write_rows(Path(place.path) / "rows.jsonl", range(100, 100 + ROWS))
    service.away = True
    place.job, place.waiting = body, started(place, body)
    until(lambda: place("GET", f"{JOBS}/docs").data["running"])
    yield place
    place.tasks.stop_apart()


# --- what is run -----------------------------------------------------------------------------


def test_a_job_is_run_and_its_report_is_the_result_of_the_task(place):
    task = started(place, asked())
    assert (task["kind"], task["collection"]) == ("embed", "docs")
    task = finished(place, task["id"])
    assert (task["state"], task["done"], task["total"], task["unit"]) == (
        "done",
        ROWS,
        ROWS,
        "rows",
    )
    report = task["result"]
    assert (report["state"], report["collection"], report["dead_letters"]) == ("done", "docs", 0)
    assert report["spent"]["texts"] == ROWS
    assert report["sources"]["cyber"]["cursor"] == ROWS
    assert held(place) == ROWS
    again = done(place, asked())["result"]
    assert (again["spent"]["texts"], again["sources"]["cyber"]["unchanged"]) == (0, ROWS)
    assert held(place) == ROWS


def test_an_sqlite_file_is_a_source_too(place):
    path = Path(place.path) / "rows.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, title TEXT, year INTEGER)")
        database.executemany("INSERT INTO t VALUES (?, ?, 7)", [(n, text_of(n)) for n in range(5)])
    database.close()
    for place_in_it in ({"table": "t"}, {"query": "SELECT * FROM t"}):
        body = asked(path="rows.db", source={"kind": "sqlite", **place_in_it})
        assert done(place, body)["state"] == "done"
    assert held(place) == 5


def test_full_and_only_failed_are_passed_on(place):
    path = Path(place.path) / "rows.jsonl"
    path.write_text('{"id": 1, "title": "a"}\n{"id": 2, "title": ""}\n')
    body = asked(source={"metadata": None})
    assert done(place, body)["result"]["dead_letters"] == 1
    (letter,) = place("GET", f"{JOBS}/docs").data["dead_letters"]
    assert (letter["source"], letter["key"], letter["reason"])[:2] == ("cyber", "2")
    path.write_text('{"id": 1, "title": "a"}\n{"id": 2, "title": "b"}\n')
    result = done(place, {**body, "only_failed": True})["result"]
    assert result["dead_letters"] == 0
    result = done(place, {**body, "full": True})["result"]
    assert result["sources"]["cyber"]["unchanged"] == 2


def test_a_dry_run_counts_and_makes_nothing(place):
    task = done(place, asked(), "?dry_run=true")
    assert task["state"] == "done"
    assert task["result"]["cyber"]["texts"] == ROWS
    assert place("GET", "/collections").data == []
    assert place("GET", JOBS).data == {"jobs": []}
    done(place, asked())
    assert done(place, asked(), "?dry_run=true")["result"]["cyber"]["unchanged"] == ROWS


def test_what_fails_is_the_error_of_the_task_and_the_place_is_free_again(place):
    for _ in range(3):
        task = done(place, asked(source={"text": "nothing"}))
        assert (task["state"], task["error"]["code"]) == ("failed", "source-refused")
    assert done(place, asked())["state"] == "done"
    task = done(place, asked(embedder={**LOCAL, "dimensions": 9}))
    assert (task["state"], task["error"]["code"]) == ("failed", "embedder-mismatch")


@pytest.mark.parametrize(
    ("change", "status", "code", "word"),
    [
        ({"sources": {}}, 422, "invalid-body", "$.sources"),
        ({"sources": None}, 422, "invalid-body", "$.sources"),
        ({"target": {}}, 422, "invalid-body", "collection"),
        ({"target": {"collection": "../x"}}, 400, "invalid-name", "letter"),
        ({"target": {"collection": "x", "metric": "far"}}, 400, "invalid-argument", "cosine"),
        ({"target": {"collection": "x", "vector_type": "int4"}}, 400, "invalid-argument", "int8"),
        ({"flows": {}}, 400, "unknown-field", "'flow'"),
        ({"flow": {"batch": 0}}, 422, "invalid-body", "$.flow.batch"),
        ({"sources": {"a/b": {}}}, 422, "invalid-body", "$.sources"),
        ({"sources": {"a": {"key": "id", "text": "t"}}}, 422, "invalid-body", "table, query"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_done(place, change, status, code, word):
    found = place("POST", JOBS, {**asked(), **change})
    refused(found, status, code, word)
    assert place("GET", "/tasks").data == {"tasks": []}


def test_metadata_that_would_hide_what_a_record_is_made_of_is_refused(place):
    body = asked(source={"metadata": ["year as _embedded"]})
    refused(place("POST", JOBS, body), 400, "invalid-job", "_embedded")


# --- what may be read ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/etc/passwd", 403, "source-not-allowed"),
        ("../rows.jsonl", 403, "source-not-allowed"),
        ("{outside}/rows.jsonl", 403, "source-not-allowed"),
        ("{outside}/nothing.jsonl", 403, "source-not-allowed"),
        ("link.jsonl", 403, "source-not-allowed"),
        ("linked/rows.jsonl", 403, "source-not-allowed"),
        (".server/tasks/0000000001.started.json", 409, "source-in-use"),
        ("LOCK", 409, "source-in-use"),
        ("collections/books/MANIFEST", 409, "source-in-use"),
        ("a\0b", 400, "invalid-job"),
        ("x" * 5000, 400, "invalid-job"),
        ("", 400, "invalid-job"),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "sqlite"])
@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_a_path_outside_is_refused_whether_it_is_there_or_not(
    place, tmp_path, path, status, code, kind, query
):
    outside = tmp_path / "outside"
    outside.mkdir()
    write_rows(outside / "rows.jsonl")
    (Path(place.path) / "link.jsonl").symlink_to(outside / "rows.jsonl")
    (Path(place.path) / "linked").symlink_to(outside)
    place("POST", "/collections", {"name": "books", "dimension": 2})
    table = {"table": "t"} if kind == "sqlite" else {}
    body = asked(path=path.format(outside=outside), source={"kind": kind, **table})
    details = refused(place("POST", JOBS + query, body), status, code)
    if code == "source-not-allowed":
        assert details["flag"].startswith("--import-root ")
    assert place("GET", "/tasks").data == {"tasks": []}


def test_what_the_flag_names_may_be_read(start, tmp_path):
    outside = tmp_path / "out side"
    outside.mkdir()
    write_rows(outside / "rows.jsonl")
    server = start()
    body = asked(path=str(outside / "rows.jsonl"))
    details = refused(server("POST", JOBS, body), 403, "source-not-allowed", "'dvecdb embed run'")
    assert details["flag"] == f"--import-root '{outside}'"
    server.close()
    server = start(import_roots=(str(outside),))
    assert done(server, body)["state"] == "done"
    assert held(server) == ROWS
    (outside / "link.jsonl").symlink_to("/etc/passwd")
    refused(
        server("POST", JOBS, asked(path=str(outside / "link.jsonl"))), 403, "source-not-allowed"
    )


SECRETS = {
    "DATABASE_URL": "postgresql://joe:hunter22@127.0.0.1:9/db",
    "FASTAPI_URL": "http://127.0.0.1:9/",
    "DVECDB_JOB_KEY": "sk-job-secret",
    "AWS_SECRET_ACCESS_KEY": "aws-secret",
    "OPENAI_API_KEY": "sk-openai",
}
HERE = {"embedder": {"kind": "local", "model": "fake"}}


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("api_key_env", "AWS_SECRET_ACCESS_KEY"),
        ("api_key_env", "OPENAI_API_KEY"),
        ("api_key_env", "NOT_THERE"),
        ("api_key_env", "DATABASE_URL"),
        ("api_key_env", "FASTAPI_URL"),
        ("api_key_env", "HTTPS_PROXY"),
        ("api_key_env", ""),
        ("url_env", "AWS_SECRET_ACCESS_KEY"),
        ("url_env", "DATABASE_URL"),
        ("database_url_env", "AWS_SECRET_ACCESS_KEY"),
        ("database_url_env", "FASTAPI_URL"),
        ("database_url_env", "dvecdb_job_key"),
    ],
)
def test_a_variable_that_is_not_for_jobs_is_refused_whether_it_is_set_or_not(start, field, name):
    server = start(environment=SECRETS)
    if field == "database_url_env":
        body = asked(path=None, source={"table": "t", field: name})
    else:
        url = {"url": "http://127.0.0.1:9/"} if field == "api_key_env" else {}
        body = asked(embedder={"kind": "service", **url, field: name})
        write_rows(Path(server.path) / "rows.jsonl")
    for query in ("", "?dry_run=true"):
        found = server("POST", JOBS + query, body)
        details = refused(found, 403, "source-not-allowed", "DVECDB_JOB_")
        assert details["variable"] == name
        assert details["flag"].startswith("--job-env ")
        assert not [one for one in SECRETS.values() if one in found.body.decode()]
    assert server("GET", "/tasks").data == {"tasks": []}


def test_what_the_server_was_told_may_be_named(start):
    server = start(environment=SECRETS, job_env=("OPENAI_API_KEY",))
    write_rows(Path(server.path) / "rows.jsonl")
    for name in ("OPENAI_API_KEY", "DVECDB_JOB_KEY"):
        body = asked(name.lower(), embedder={**NOBODY, "api_key_env": name})
        assert started(server, body)
        assert server("POST", f"{JOBS}/{name.lower()}/stop").data == {"done": True}


def test_the_job_sees_what_it_names_and_nothing_else(start, monkeypatch):
    from dvecdb import embedding

    seen = {}

    def run(job, database, *, environment, **others):
        seen.update(environment)
        return reports.JobReport("docs", "m", "done", {}, 0, reports.Spent(0, 0, 0, None, 0.0, 0.0))

    monkeypatch.setattr(embedding, "run", run, raising=False)
    server = start(environment={**SECRETS, "no_proxy": "*"})
    body = asked(path=None, source={"table": "t"}, embedder={"api_key_env": "DVECDB_JOB_KEY"})
    assert done(server, body)["state"] == "done"
    assert set(seen) == {"DATABASE_URL", "FASTAPI_URL", "DVECDB_JOB_KEY", "no_proxy"}


def test_no_secret_is_told_or_kept(start, monkeypatch):
    from dvecdb import embedding
    from dvecdb.errors import Code, InvalidRequestError

    def run(job, database, *, environment, **others):
        said = f"{environment} hunter22 {job.embedder.headers}"
        raise InvalidRequestError(Code.SOURCE_REFUSED, said, said=[{"x": said}])

    monkeypatch.setattr(embedding, "run", run, raising=False)
    server = start(environment=SECRETS)
    embedder = {
        "url": "http://joe:url-secret@127.0.0.1:9/",
        "api_key_env": "DVECDB_JOB_KEY",
        "headers": {"x-token": "header-secret"},
    }
    task = done(server, asked(path=None, source={"table": "t"}, embedder=embedder))
    assert (task["state"], task["error"]["code"]) == ("failed", "source-refused")
    assert "***" in task["error"]["message"]
    found = everything(server)
    for secret in ("hunter22", "sk-job-secret", "header-secret", "url-secret"):
        assert secret not in found
    assert "source-refused" in found


# --- one job for each collection, and few ----------------------------------------------------


def test_a_second_job_on_a_collection_is_refused(waiting):
    details = refused(waiting("POST", JOBS, asked()), 409, "job-running", "/jobs/docs/stop")
    assert details == {"collection": "docs", "task": waiting.waiting["id"]}
    assert done(waiting, asked("other"))["state"] == "done"


def test_a_job_that_another_process_runs_is_refused_and_a_dead_one_is_not(place):
    done(place, asked())
    docs = place.database.collection("docs")
    own = Lease.of_this_process("x", at_ns=time.monotonic_ns()).to_json()
    docs.write(
        documents={
            ("embedding", "lease"): {**own, "pid": os.getppid(), "started": start_of(os.getppid())}
        }
    )
    refused(place("POST", JOBS, asked()), 409, "job-running", str(os.getppid()))
    assert place("GET", f"{JOBS}/docs").data["state"] == "running"
    docs.write(documents={("embedding", "lease"): {**own, "started": 1}})
    assert place("GET", f"{JOBS}/docs").data["state"] == "idle"
    assert done(place, asked())["state"] == "done"


def test_a_lease_that_a_run_of_this_server_left_is_in_nobodys_way(place):
    done(place, asked())
    own = Lease.of_this_process("x", at_ns=time.monotonic_ns()).to_json()
    place.database.collection("docs").write(documents={("embedding", "lease"): own})
    assert place("GET", f"{JOBS}/docs").data["state"] == "idle"
    refused(place("POST", f"{JOBS}/docs/pause"), 404, "job-not-found")
    assert done(place, asked())["state"] == "done"
    assert place.database.collection("docs").documents.get("embedding", "lease") is None


def test_no_more_jobs_run_at_once_than_the_server_may(start):
    server = start(jobs_max=1)
    write_rows(Path(server.path) / "rows.jsonl")
    task = started(server, asked(embedder=NOBODY))
    for query in ("", "?dry_run=true"):
        found = server("POST", JOBS + query, asked("other"))
        refused(found, 429, "too-many-requests", "jobs_max")
        assert found.headers["retry-after"]
    server("POST", f"/tasks/{task['id']}/cancel")
    finished(server, task["id"])
    assert done(server, asked("other"))["state"] == "done"


def test_a_server_may_run_none(start):
    server = start(jobs_max=0)
    refused(
        server("POST", JOBS, asked(path=None, source={"table": "t"})), 403, "forbidden", "jobs_max"
    )


def test_jobs_keep_no_other_task_waiting(start):
    server = start(jobs_max=3)
    write_rows(Path(server.path) / "rows.jsonl")
    for name in ("a", "b", "c"):
        started(server, asked(name, embedder=NOBODY))
    server("POST", "/collections", {"name": "books", "dimension": 2})
    task = server("POST", "/collections/books/verify", {"background": True}).data["task"]
    assert finished(server, task["id"])["state"] == "done"


# --- told to pause, go on and stop -----------------------------------------------------------


def test_a_job_is_listed_with_how_far_it_is(waiting):
    (job,) = waiting("GET", JOBS).data["jobs"]
    assert (job["collection"], job["state"], job["dimension"]) == ("docs", "running", 8)
    assert job["task"]["id"] == waiting.waiting["id"]
    assert job["sources"]["cyber"]["dead_letters"] == 0
    assert {**waiting("GET", f"{JOBS}/docs").data, "dead_letters": 0}.keys() == {
        *job, "dead_letters"}  # fmt: skip
    waiting("POST", f"/tasks/{job['task']['id']}/cancel")
    task = finished(waiting, job["task"]["id"])
    assert task["state"] == "cancelled"
    assert task["error"]["details"]["report"]["state"] == "stopped"
    (job,) = waiting("GET", JOBS).data["jobs"]
    assert (job["state"], job["task"]["state"], job["running"]) == ("idle", "cancelled", None)


def test_a_job_is_paused_resumed_and_stopped(waiting, service):
    for call, state in (("pause", "paused"), ("resume", "running"), ("pause", "paused")):
        assert waiting("POST", f"{JOBS}/docs/{call}").data == {"done": True}
        assert waiting("GET", f"{JOBS}/docs").data["state"] == state
    assert held(waiting) == ROWS
    assert waiting("POST", f"{JOBS}/docs/stop").data == {"done": True}
    task = finished(waiting, waiting.waiting["id"])
    assert (task["state"], task["result"]["state"]) == ("done", "stopped")
    refused(waiting("POST", f"{JOBS}/docs/stop"), 404, "job-not-found")
    service.away = False
    assert done(waiting, waiting.job)["state"] == "done"
    assert held(waiting) == 2 * ROWS


def test_a_service_that_comes_back_is_used_again(waiting, service):
    service.away = False
    task = finished(waiting, waiting.waiting["id"])
    assert (task["state"], held(waiting)) == ("done", 2 * ROWS)


def test_a_job_that_has_not_begun_is_shown_and_stopped_too(place):
    task = started(place, asked("new", embedder=NOBODY))
    found = place("GET", f"{JOBS}/new").data
    assert (found["state"], found["model"], found["task"]["id"]) == ("running", None, task["id"])
    place("POST", f"{JOBS}/new/stop")
    task = finished(place, task["id"])
    assert (task["state"], task["error"]["code"]) == ("failed", "cancelled")
    refused(place("GET", f"{JOBS}/new"), 404, "collection-not-found")


def test_what_has_no_job_is_not_found(books):
    for method, call in (("GET", ""), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/stop")):
        refused(books(method, f"{JOBS}/books{call}"), 404, "job-not-found", "books")
        refused(books(method, f"{JOBS}/none{call}"), 404, "collection-not-found", "none")
    assert books("GET", JOBS).data == {"jobs": []}


def test_a_job_whose_collection_is_deleted_ends(waiting):
    began = time.monotonic()
    assert waiting("DELETE", "/collections/docs").status == 200
    assert time.monotonic() - began < 5
    task = finished(waiting, waiting.waiting["id"])
    assert (task["state"], task["error"]["code"]) == ("failed", "collection-deleted")
    (entry,) = waiting("GET", "/trash").data["entries"]
    assert waiting("POST", "/collections/restore", {"backup_path": entry["name"]}).status == 200
    assert waiting("POST", JOBS, waiting.job).status == 202


def test_a_server_that_stops_ends_its_jobs_and_they_go_on_later(waiting):
    waiting.tasks.stop_apart()
    refused(waiting("POST", JOBS, asked("other")), 503, "handle-closed")
    assert waiting.tasks.wait_apart(20)
    waiting.reopen()
    task = waiting("GET", f"/tasks/{waiting.waiting['id']}").data
    assert (task["state"], task["error"]["code"]) == ("interrupted", "cancelled")
    assert waiting("POST", JOBS, waiting.job).status == 202


# --- who may, and what is told ---------------------------------------------------------------


def test_starting_takes_an_admin_of_everything_and_stopping_a_writer(start):
    server = start(keys=True)
    write_rows(Path(server.path) / "rows.jsonl")
    admin = bearer(server, "admin", name="admin")
    some = bearer(server, "admin", patterns=("docs",), name="some")
    writer = bearer(server, "write", "read", patterns=("docs",), name="writer")
    other = bearer(server, "write", "read", patterns=("other",), name="other")
    for key in (some, writer, other, bearer(server, "write", "restore", name="w")):
        found = server("POST", JOBS, asked(), headers=key)
        assert (found.status, found.code) == (403, "forbidden")
    answer = server("POST", JOBS, asked(embedder=NOBODY), headers=admin)
    assert answer.status == 202
    assert [job["collection"] for job in server("GET", JOBS, headers=writer).data["jobs"]] == [
        "docs"
    ]
    assert server("GET", JOBS, headers=other).data == {"jobs": []}
    for method, call in (("GET", ""), ("POST", "/pause"), ("POST", "/stop")):
        assert server(method, f"{JOBS}/docs{call}", headers=other).code == "forbidden"
    assert server("POST", f"{JOBS}/docs/stop", headers=writer).status == 200
    assert server.tasks.get(answer.data["task"]["id"]).key == "admin"


def test_a_job_is_audited_when_it_is_taken_and_when_it_ends(place):
    place("POST", JOBS, asked(path="/etc/passwd"))
    done(place, asked())
    until(lambda: len(audited(place, "run_job")) == 3)
    refused_, taken, at_end = audited(place, "run_job")
    assert (refused_["status"], refused_["code"]) == (403, "source-not-allowed")
    assert (taken["status"], taken["collection"], taken["rows"]) == (202, "docs", None)
    assert (at_end["status"], at_end["collection"], at_end["rows"]) == (200, "docs", ROWS)
    assert at_end["lsn"] > 0
    done(place, asked(source={"text": "nothing"}))
    until(lambda: len(audited(place, "run_job")) == 5)
    assert audited(place, "run_job")[-1]["code"] == "source-refused"


def test_jobs_are_counted(place):
    done(place, asked())
    done(place, asked(source={"text": "nothing"}))
    found = place("GET", "/metrics").body.decode()
    assert 'dvecdb_jobs_total{outcome="done"} 1.0' in found
    assert 'dvecdb_jobs_total{outcome="failed"} 1.0' in found
    assert f"dvecdb_job_texts_total {ROWS}.0" in found
    assert "dvecdb_jobs_running 0.0" in found


def test_a_long_answer_of_the_wire_is_that_of_the_report():
    pairs = [
        (messages.JobReport, reports.JobReport),
        (messages.JobSpent, reports.Spent),
        (messages.JobEstimate, reports.Estimate),
        (messages.JobSource, reports.SourceStatus),
        (messages.JobCursor, Cursor),
    ]
    for wire, own in pairs:
        assert wire.__struct_fields__ == own.__struct_fields__
    assert JobRequest.__struct_fields__ == (*Job.__struct_fields__, "full", "only_failed")
