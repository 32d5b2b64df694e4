"""Jobs that a server process runs against a service process: stopped, killed, told from outside."""

import random
import sqlite3
import threading
import time
from functools import partial

import pytest
from tests.e2e.serving import Server

import dvecdb
from dvecdb import embedding
from dvecdb.embedding.identity import PROBE_TEXT
from dvecdb.embedding.service import text_hash
from dvecdb.testing.embedding_service import EmbeddingService

pytestmark = pytest.mark.slow

ROWS, DIMENSION, BATCH, CONCURRENCY = 2_000, 16, 20, 2
UNDER_WAY = BATCH * CONCURRENCY
KILLS = 5
JOBS = "/jobs"


def text_of(number):
    return f"incident {number}"


@pytest.fixture
def service(monkeypatch):
    with EmbeddingService(dimensions=DIMENSION, faults={"slow_ms": 20}) as service:
        monkeypatch.setenv("FASTAPI_URL", service.url)
        yield service


@pytest.fixture
def place(tmp_path, service):
    """How to start a server over the test's directory; a table of rows is below an import root."""
    running = []
    root = tmp_path / "roots"
    root.mkdir()
    with sqlite3.connect(root / "rows.db") as database:
        database.execute("CREATE TABLE incidents (id INTEGER PRIMARY KEY, title TEXT)")
        rows = [(number, text_of(number)) for number in range(ROWS)]
        database.executemany("INSERT INTO incidents VALUES (?, ?)", rows)
    database.close()

    def start(*arguments):
        running.append(Server(tmp_path / "data", tmp_path / "log", *arguments).wait())
        return running[-1]

    start.root = ("--import-root", str(root))
    start.path = str(root / "rows.db")
    yield start
    for server in running:
        server.kill()


def asked(place, collection="docs", **embedder):
    rows = {"kind": "sqlite", "path": place.path, "table": "incidents", "key": "id",
            "text": "title"}  # fmt: skip
    return {
        "target": {"collection": collection},
        "sources": {"incidents": rows},
        "embedder": embedder,
        "flow": {"batch": BATCH, "concurrency": CONCURRENCY, "retry_seconds": 0.05,
                 "retry_seconds_max": 0.2},
    }  # fmt: skip


def until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.02)
    return found


def started(server, body):
    status, answer = server.ask("POST", JOBS, body)
    assert status == 202, answer
    return answer["data"]["task"]["id"]


def task(server, task_id):
    return server.ask("GET", f"/tasks/{task_id}")[1]["data"]


def ended(server, task_id):
    """Wait for the end of a task; return it."""
    return until(lambda: (found := task(server, task_id))["ended"] and found, 120)


def held(server, collection="docs"):
    status, answer = server.ask("GET", f"/collections/{collection}/count")
    return answer["data"]["count"] if status == 200 else 0


def is_under_way(server):
    return 0 < held(server) < ROWS


def grows(server, task_id, before):
    """Return whether a job has written something; fail if it failed."""
    assert task(server, task_id)["state"] != "failed", task(server, task_id)["error"]
    return held(server) > before


def paid_twice(service):
    """Return how many texts were embedded more than once, by how often."""
    found = service.texts()
    found.pop(text_hash(PROBE_TEXT), None)
    return sum(count - 1 for count in found.values())


def is_whole(server, service):
    assert held(server) == ROWS
    missing = {text_hash(text_of(number)) for number in range(ROWS)} - service.texts().keys()
    assert not missing
    return True


def test_a_job_runs_beside_requests_and_pays_for_each_text_once(place, service):
    server = place(*place.root)
    began = started(server, asked(place))
    until(partial(grows, server, began, 0))
    assert is_under_way(server)
    seen = task(server, began)
    assert (seen["state"], seen["unit"], seen["total"]) == ("running", "rows", ROWS)
    assert until(lambda: task(server, began)["rate"]) > 0
    slowest = 0.0
    while task(server, began)["ended"] is None:
        begin = time.monotonic()
        assert server.ask("GET", "/collections/docs/scroll?limit=1")[0] == 200
        slowest = max(slowest, time.monotonic() - begin)
    assert slowest < 2
    found = ended(server, began)
    assert found["state"] == "done", found
    assert (found["done"], found["result"]["sources"]["incidents"]["embedded"]) == (ROWS, ROWS)
    assert is_whole(server, service)
    assert paid_twice(service) == 0
    assert until(lambda: server.events("job.ended"))[0]["outcome"] == "done"
    assert 'dvecdb_jobs_total{outcome="done"} 1.0' in server.metrics()
    before = service.health()["texts"]
    assert ended(server, started(server, asked(place)))["state"] == "done"
    assert service.health()["texts"] == before
    server.stop()


def test_a_server_that_stops_commits_what_is_under_way(place, service):
    server = place(*place.root)
    stops = 0
    for _ in range(3):
        began = started(server, asked(place))
        before = held(server)
        until(partial(grows, server, began, before))
        server.stop()
        server = place(*place.root)
        found = task(server, began)
        if found["state"] == "interrupted":
            stops += 1
            assert found["error"]["code"] == "cancelled"
            assert found["error"]["details"]["report"]["state"] == "stopped"
    assert stops, "every job was done before the server stopped"
    assert ended(server, started(server, asked(place)))["state"] == "done"
    assert is_whole(server, service)
    assert paid_twice(service) == 0


def test_a_server_that_stops_waits_for_a_slow_answer_that_is_paid_for(place, service):
    server = place(*place.root)
    service.set_faults(slow_ms=4_500)
    began = started(server, asked(place))
    until(lambda: service.health()["texts"] >= UNDER_WAY)
    server.stop()
    service.set_faults()
    server = place(*place.root)
    assert task(server, began)["state"] == "interrupted"
    assert held(server) >= UNDER_WAY
    assert ended(server, started(server, asked(place)))["state"] == "done"
    assert is_whole(server, service)
    assert paid_twice(service) == 0


def test_a_service_that_does_not_answer_holds_no_server_that_stops(place, service):
    server = place(*place.root, "--set", "shutdown_seconds=1")
    assert ended(server, started(server, asked(place, "first")))["state"] == "done"
    service.set_faults(timeouts=1.0, timeout_seconds=60)
    began = started(server, {**asked(place), "text": {"length_max": 7}})
    until(lambda: service.health()["requests"] > ROWS // BATCH)
    begin = time.monotonic()
    server.stop()
    assert time.monotonic() - begin < 10
    service.set_faults()
    server = place(*place.root)
    assert task(server, began)["state"] == "interrupted"
    assert ended(server, started(server, asked(place)))["state"] == "done"


def test_a_server_that_is_killed_pays_again_for_what_was_under_way_and_for_no_more(place, service):
    server, draw, kills = place(*place.root), random.Random(6), 0
    for _ in range(KILLS):
        began = started(server, asked(place))
        until(partial(grows, server, began, held(server)))
        time.sleep(draw.uniform(0, 0.3))
        kills += task(server, began)["ended"] is None
        server.kill()
        server = place(*place.root)
        found = task(server, began)
        assert found["state"] in {"interrupted", "done"}, found
    assert kills, "every job was done before it was killed"
    assert ended(server, started(server, asked(place)))["state"] == "done"
    assert is_whole(server, service)
    assert paid_twice(service) <= kills * UNDER_WAY


def test_a_job_is_paused_resumed_and_stopped(place, service):
    server = place(*place.root)
    began = started(server, asked(place))
    until(partial(grows, server, began, 0))
    assert is_under_way(server)
    assert server.ask("POST", JOBS, asked(place))[1]["code"] == "job-running"
    assert server.ask("POST", f"{JOBS}/docs/pause")[0] == 200
    assert server.ask("GET", f"{JOBS}/docs")[1]["data"]["state"] == "paused"
    counts = [0, -1]
    until(lambda: counts.append(service.health()["texts"]) or counts[-1] == counts[-2], 10)
    time.sleep(1)
    assert service.health()["texts"] == counts[-1]
    assert server.ask("POST", f"{JOBS}/docs/resume")[0] == 200
    until(lambda: service.health()["texts"] > counts[-1])
    assert server.ask("POST", f"{JOBS}/docs/stop")[0] == 200
    found = ended(server, began)
    assert (found["state"], found["result"]["state"]) == ("done", "stopped")
    assert is_under_way(server)
    assert ended(server, started(server, asked(place)))["state"] == "done"
    assert is_whole(server, service)
    assert paid_twice(service) == 0


def test_a_collection_that_is_deleted_ends_its_job(place):
    server = place(*place.root)
    began = started(server, asked(place))
    until(partial(grows, server, began, 0))
    assert is_under_way(server)
    begin = time.monotonic()
    assert server.ask("DELETE", "/collections/docs")[0] == 200
    assert time.monotonic() - begin < 5
    found = ended(server, began)
    assert (found["state"], found["error"]["code"]) == ("failed", "collection-deleted")
    server.stop()


def test_a_job_of_another_process_is_shown_refused_and_stopped(place, service):
    server = place(*place.root)
    service.set_faults(slow_ms=200)
    reports = []

    def run():
        job = embedding.parse_job(asked(place, url=service.url))
        with dvecdb.connect(f"http://127.0.0.1:{server.port}") as database:
            reports.append(embedding.run(job, database))

    other = threading.Thread(target=run)
    other.start()
    until(lambda: is_under_way(server))
    status, answer = server.ask("POST", JOBS, asked(place))
    assert (status, answer["code"]) == (409, "job-running")
    (job,) = server.ask("GET", JOBS)[1]["data"]["jobs"]
    assert (job["collection"], job["state"], job["task"]) == ("docs", "running", None)
    assert server.ask("POST", f"{JOBS}/docs/stop")[0] == 200
    other.join(60)
    assert reports[0].state == "stopped"
    service.set_faults()
    assert ended(server, started(server, asked(place)))["state"] == "done"
    assert paid_twice(service) == 0


def test_what_is_not_allowed_names_the_flag_that_would_allow_it(place, service, monkeypatch):
    monkeypatch.setenv("DVECDB_JOB_KEY", "sk-of-jobs")
    monkeypatch.setenv("OTHER_KEY", "sk-of-others")
    server = place()
    status, answer = server.ask("POST", JOBS, asked(place))
    assert (status, answer["code"]) == (403, "source-not-allowed")
    flag = answer["details"]["flag"].split()
    server.stop()
    server = place(*flag)
    named = asked(place, url=service.url, api_key_env="OTHER_KEY")
    status, answer = server.ask("POST", JOBS, named)
    assert (status, answer["code"]) == (403, "source-not-allowed")
    server.stop()
    server = place(*flag, *answer["details"]["flag"].split())
    assert ended(server, started(server, named))["state"] == "done"
    other = asked(place, "other", url=service.url, api_key_env="DVECDB_JOB_KEY")
    assert ended(server, started(server, other))["state"] == "done"
    assert "sk-of" not in server.said
    server.stop()
    monkeypatch.setenv("DVECDB_JOB_ENV", "OTHER_KEY, MORE")
    server = place(*flag)
    assert ended(server, started(server, named))["state"] == "done"
