"""A job, its service, its source and its database are killed: nothing is lost, nothing paid twice.

PostgreSQL, the embedding service, `dvecdb serve` and the job are processes, and are killed with
SIGKILL. CI takes few rows and kills; `make soak` takes 21,000 rows and 50 kills.
"""

import os
import random
import time

import pytest
from tests.e2e.serving import Server
from tests.embedding.worlds import (
    COLLECTION,
    DIMENSION,
    Runner,
    contents,
    fill_postgres,
    job_of,
    source,
    text_of,
)

import dvecdb
from dvecdb.embedding.identity import PROBE_TEXT, Identity, Made, row_id
from dvecdb.embedding.local.models import open_model
from dvecdb.embedding.service import text_hash
from dvecdb.testing.embedding_service import EmbeddingService
from dvecdb.testing.postgres import Postgres

pytestmark = [pytest.mark.crash, pytest.mark.slow]

SOAK = bool(os.environ.get("DVECDB_SOAK"))
ROWS = 21_000 if SOAK else 2_000
JOB_KILLS = 50 if SOAK else 6
OTHER_KILLS = 10 if SOAK else 2
BATCH = 50
SECONDS_A_BATCH = 0.015  # about, with a service that takes 10 ms


class World:
    """Everything that a job needs, alive."""

    def __init__(self, directory):
        self.directory = directory
        self.postgres = Postgres()
        self.postgres.start()
        fill_postgres(self.postgres.dsn, ROWS)
        self.service = EmbeddingService(dimensions=DIMENSION)
        self.server = None
        self.start_server()
        job = job_of(self.service.url, {"cyber": source(table="incidents")}, batch=BATCH)
        self.job = job
        self.runner = self.run_of(job)

    def start_server(self):
        port = () if self.server is None else ("--rest-port", self.server.port)
        data, log = self.directory / "data", self.directory / "server.log"
        self.server = Server(data, log, *port).wait()

    def run_of(self, job, **environment):
        given = {"DATABASE_URL": self.postgres.dsn, **environment}
        return Runner(self.directory, job, f"http://127.0.0.1:{self.server.port}", given)

    def paid(self):
        """Return how many texts the service embedded, without probes."""
        return sum(self.service.texts().values()) - self.service.texts().get(
            text_hash(PROBE_TEXT), 0
        )

    def records(self):
        with dvecdb.connect(f"http://127.0.0.1:{self.server.port}") as database:
            return contents(database.collection(COLLECTION))

    def close(self):
        self.server.kill()
        self.service.kill()
        self.postgres.close()


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()


def expected():
    """Return what an undisturbed run leaves."""
    model = open_model("fake", DIMENSION)
    identity = Identity(f"openai:fake@{DIMENSION}", model.embed([PROBE_TEXT]).vectors[0])
    texts = [text_of(n) for n in range(1, ROWS + 1)]
    vectors = model.embed(texts).vectors
    found = {}
    for n, text, vector in zip(range(1, ROWS + 1), texts, vectors, strict=True):
        made = Made("cyber", str(n), identity.content_hash([text]))
        metadata = made.into({"severity": ("low", "high")[n % 2]})
        found[row_id("cyber", str(n))] = (vector.tobytes(), metadata)
    return found


def settled(report):
    cursor = report["sources"]["cyber"]
    return report["state"] == "done" and cursor["state"] == "done" and cursor["cursor"] == ROWS


def kill_until_done(runner, rng, kills):
    """Start the job and kill it, `kills` times; then let it end. Returns the kills that hit."""
    share = 2 * (ROWS / BATCH) * SECONDS_A_BATCH / kills
    hit = sum(runner.kill_after(rng.random() * share) for _ in range(kills))
    return hit, runner.finish()


def test_a_killed_job_loses_nothing_and_pays_for_no_more_than_was_under_way(world):
    world.service.set_faults(slow_ms=10)
    hit, report = kill_until_done(world.runner, random.Random(5), JOB_KILLS)
    assert settled(report)
    assert hit > JOB_KILLS // 2, "the kills came too late to say anything"
    assert world.records() == expected()
    assert ROWS <= world.paid() <= ROWS + BATCH * hit


def test_with_several_requests_at_a_time_a_kill_costs_those_under_way(world):
    world.service.set_faults(slow_ms=10)
    job = {**world.job, "flow": {**world.job["flow"], "concurrency": 4}}
    hit, report = kill_until_done(world.run_of(job), random.Random(6), JOB_KILLS)
    assert settled(report)
    assert world.records() == expected()
    assert world.paid() <= ROWS + 4 * BATCH * hit


@pytest.mark.parametrize("what", ["service", "postgres", "server"])
def test_whatever_is_killed_beside_the_job_it_waits_and_goes_on(world, what):
    world.service.set_faults(slow_ms=20)
    paid, rng = 0, random.Random(7)
    process = world.runner.start()
    process.stdout.readline()
    for _ in range(OTHER_KILLS):
        time.sleep(rng.random() * (ROWS / BATCH) * 0.02 / OTHER_KILLS)
        if what == "service":
            paid += world.paid()  # its figures end with it
            world.service.kill()
            time.sleep(0.2)
            world.service.start()
            world.service.set_faults(slow_ms=20)
        elif what == "postgres":
            world.postgres.kill()
            time.sleep(0.2)
            world.postgres.start()
        else:
            world.server.kill()
            time.sleep(0.2)
            world.start_server()
    world.service.set_faults()
    assert settled(world.runner.finish(process))
    assert world.records() == expected()
    assert paid + world.paid() <= ROWS + BATCH * (OTHER_KILLS if what == "service" else 0)


def test_a_job_that_writes_its_cursor_first_is_caught(world):
    """The negative control: the kills above do find a job that loses what it was paid for."""
    world.service.set_faults(slow_ms=10)
    broken = world.run_of(world.job, DVECDB_TEST_BREAK="cursor-first")
    kill_until_done(broken, random.Random(8), JOB_KILLS)
    assert world.records() != expected()


def test_the_second_run_over_unchanged_rows_pays_nothing(world):
    assert settled(world.runner.finish())
    before = world.service.health()["texts"]
    report = world.runner.finish()
    assert settled(report)
    assert report["sources"]["cyber"]["unchanged"] == ROWS
    assert world.service.health()["texts"] == before
