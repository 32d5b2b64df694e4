"""`generate_embeddings_resilient.py`, copied alone to another directory, as its users run it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.e2e.serving import Server
from tests.embedding.worlds import SOURCE

import dvecdb
from dvecdb.cli.resilient import read_job
from dvecdb.cli.resilient_log import Checkpoint, Journal, Narrator, reason_words
from dvecdb.embedding.events import AttemptFailed
from dvecdb.embedding.model import Reason
from dvecdb.errors import Code, InvalidRequestError
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.embedding_service import EmbeddingService
from dvecdb.testing.postgres import Postgres

SCRIPT = Path(__file__).parents[2] / "generate_embeddings_resilient.py"
TOML = """
[cyber]
table = "cyber_incidents"
key = "id"
text = "{title}\\n{description}"
metadata = ["severity"]
"""
LINE = re.compile(r"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\] (INFO|WARNING|ERROR): (.*)")


@pytest.fixture(scope="module")
def postgres():
    with Postgres() as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    place = tmp_path_factory.mktemp("server")
    started = Server(place / "data", place / "log").wait()
    yield started
    started.kill()


@pytest.fixture
def service():
    with EmbeddingService(dimensions=8) as started:
        yield started


def fill(dsn, rows):
    import psycopg

    with psycopg.connect(dsn) as connection:
        connection.execute("DROP TABLE IF EXISTS cyber_incidents")
        connection.execute(
            "CREATE TABLE cyber_incidents (id bigint PRIMARY KEY, title text, description text, "
            "severity varchar(10), raw bytea, updated_at timestamptz DEFAULT now())"
        )
        copy = "COPY cyber_incidents (id, title, description, severity) FROM STDIN"
        with connection.cursor().copy(copy) as rows_in:
            for n in range(1, rows + 1):
                rows_in.write_row((n, f"incident {n}", f"what happened on day {n}", "low"))


class Script:
    """The script alone in a directory, with everything it works with."""

    def __init__(self, path, server, postgres, service):
        self.path = path
        self.file = Path(shutil.copy(SCRIPT, path))
        self.toml = self.file.with_suffix(".toml")
        self.toml.write_text(TOML)
        self.checkpoint = path / "embedding_checkpoint.json"
        self.url = f"http://127.0.0.1:{server.port}"
        self.environment = {
            **os.environ, "PYTHONPATH": str(SOURCE), "PYTHONWARNINGS": "error",
            "DATABASE_URL": postgres.dsn, "DVECDB_URL": self.url, "FASTAPI_URL": service.url,
            "DVECDB_COLLECTION": path.name, "PYTHONIOENCODING": "utf-8", "TZ": "Asia/Tokyo",
        }  # fmt: skip
        self._started = []

    def start(self, *arguments):
        process = subprocess.Popen(
            [sys.executable, self.file.name, *arguments], cwd=self.path, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
        )  # fmt: skip
        self._started.append(process)
        return process

    def close(self):
        for process in self._started:
            process.kill()
            process.wait()
            process.stdout.close()

    def run(self, *arguments, code=0):
        """Run it to its end; return its lines."""
        process = self.start(*arguments)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == code, said
        return said.splitlines()

    def read_to(self, process, wanted, lines=None):
        """Read lines of a process up to one that ends with `wanted`; return them all."""
        lines = [] if lines is None else lines
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if line.rstrip("\n").endswith(wanted):
                return lines
        raise AssertionError(f"it ended without {wanted!r}: {lines[-10:]}")

    def kill_at(self, service, record):
        """Run it, and kill it when a number of records is durable; return its lines."""
        process = self.start()
        lines = self.read_to(process, f"records {record - 49} to {record}...")
        service.set_faults(slow_ms=700)
        self.read_to(process, f'Checkpoint saved: {{"cyber": {record}}}', lines)
        process.kill()
        process.communicate()
        service.set_faults()
        return lines


@pytest.fixture
def script(tmp_path, server, postgres, service):
    started = Script(tmp_path, server, postgres, service)
    yield started
    started.close()


def bare(lines):
    """Return level and text of lines, each of which has the form of a log line."""
    found = [LINE.fullmatch(line) for line in lines]
    assert None not in found, lines[found.index(None)]
    return [f"{match[2]}: {match[3]}" for match in found]


def in_order(wanted, lines):
    """Return the first of `wanted` that does not come after those before it, None if all do."""
    rest = iter(lines)
    return next((one for one in wanted if one not in rest), None)


def test_it_is_what_it_says_in_its_first_line_and_stands_alone(tmp_path):
    assert "Resilient embedding generation script" in SCRIPT.read_text().splitlines()[0]
    copy = shutil.copy(SCRIPT, tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(  # -S: without installed packages
        [sys.executable, "-S", copy], env=environment, cwd=tmp_path, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'dvecdb[postgres]'" in done.stderr
    assert "Traceback" not in done.stderr


def the_documented_run(script, service, rows, record, after):
    """Kill a run at a record, let the service fail once in the next; return the lines of that."""
    script.toml.write_text(TOML + "[embedder]\ntimeout_seconds = 2\n")
    first = bare(script.kill_at(service, record))
    assert first[:3] == [
        "INFO: Resilient Embedding Generation Started",
        "INFO: ✅ Connected to PostgreSQL",
        "INFO: Processing cyber incidents",
    ]
    assert f"INFO: [Batch 1/{-(-rows // 50)}] Fetching cyber records 1 to 50..." in first
    assert json.loads(script.checkpoint.read_text()) == {"cyber": record}
    process = script.start()
    lines = script.read_to(process, f'Checkpoint saved: {{"cyber": {after}}}')
    service.set_faults(timeouts=1.0, timeout_seconds=4)
    script.read_to(process, "Connection timeout", lines)
    service.set_faults()
    script.read_to(process, "✅ Reconnected successfully", lines)
    return process, lines


def the_documented_lines(rows, record, after):
    batches, batch = -(-rows // 50), record // 50 + 1
    return [
        "INFO: Resilient Embedding Generation Started",
        "INFO: ✅ Connected to PostgreSQL",
        "INFO: Processing cyber incidents",
        f"INFO: Resuming from record #{record}",
        f"INFO: [Batch {batch}/{batches}] Fetching cyber records {record + 1} to {after}...",
        f"INFO: ✅ Batch complete: {after}/{rows} processed ({100 * after / rows:.1f}%)",
        f'INFO: Checkpoint saved: {{"cyber": {after}}}',
        "WARNING: Attempt 1/5 failed: Connection timeout",
        "INFO: Retrying in 5 seconds...",
        "INFO: ✅ Reconnected successfully",
    ]


@pytest.mark.slow
def test_the_documented_run_line_by_line(script, service, postgres):
    fill(postgres.dsn, 21_000)
    process, lines = the_documented_run(script, service, 21_000, 350, 400)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    said = bare(lines)
    assert in_order(the_documented_lines(21_000, 350, 400), said) is None, said
    assert in_order(
        [
            "INFO: Resuming from record #350",
            "INFO: [Batch 8/420] Fetching cyber records 351 to 400...",
            "INFO: ✅ Batch complete: 400/21000 processed (1.9%)",
            'INFO: Checkpoint saved: {"cyber": 400}',
        ],
        said,
    ) is None  # fmt: skip
    assert bare(rest.splitlines())[-1] == "INFO: Stopped; running it again goes on there"


def test_a_killed_run_goes_on_fails_once_and_comes_to_its_end(script, service, postgres):
    fill(postgres.dsn, 229)
    process, lines = the_documented_run(script, service, 229, 100, 150)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    said = bare([*lines, *rest.splitlines()])
    end = [
        *the_documented_lines(229, 100, 150),
        "INFO: ✅ Batch complete: 229/229 processed (100.0%)",
        'INFO: Checkpoint saved: {"cyber": 229}',
        "INFO: ✅ Finished cyber incidents: 229 processed, 229 embedded, 0 failed",
        "INFO: Resilient Embedding Generation Completed",
    ]
    assert in_order(end, said) is None, said
    counts = service.texts()
    assert len(counts) == 229 + 1  # the probe
    with dvecdb.connect(script.url) as database:
        assert database.collection(script.path.name).count() == 229
    paid = service.health()["texts"]
    again = bare(script.run())
    assert "INFO: ✅ Finished cyber incidents: 229 processed, 0 embedded, 0 failed" in again
    assert service.health()["texts"] == paid
    assert not any("checkpoint file says" in line for line in again)


def test_there_is_a_checkpoint_every_ten_records_and_it_is_never_half_a_file(
    script, service, postgres
):
    fill(postgres.dsn, 120)
    service.set_faults(slow_ms=40)
    seen = []
    process = script.start()
    while process.poll() is None:
        if script.checkpoint.exists():
            seen.append(json.loads(script.checkpoint.read_text())["cyber"])
    process.communicate()
    distinct = sorted(set(seen))
    assert distinct[-1] == 120
    assert all(count % 10 == 0 for count in distinct)
    assert max(b - a for a, b in zip([0, *distinct], distinct, strict=False)) <= 20  # we may miss


@pytest.mark.parametrize("content", ['{"cyber": 90}', '{"cyber": 10, "other": 3}'])
def test_where_file_and_database_disagree_the_database_wins_and_the_log_says_so(
    script, service, postgres, content
):
    fill(postgres.dsn, 120)
    script.kill_at(service, 50)
    script.checkpoint.write_text(content)
    said = bare(script.run())
    file = json.loads(content)["cyber"]
    what = f"The checkpoint file says {file} cyber records, the database 50"
    assert in_order(
        [f"WARNING: {what}: the database is right", "INFO: Resuming from record #50"], said
    ) is None, said  # fmt: skip
    assert json.loads(script.checkpoint.read_text()) == {"cyber": 120}
    assert len(service.texts()) == 121


@pytest.mark.parametrize("content", ["{", "[1]", '{"cyber": "x"}', "", "null"])
def test_a_checkpoint_that_cannot_be_read_is_ignored(tmp_path, content):
    lines = []
    path = tmp_path / "embedding_checkpoint.json"
    path.write_text(content)
    checkpoint = Checkpoint(path, ["cyber"], Journal(ManualClock(), lines.append))
    assert checkpoint.counts == {}
    assert len(lines) == 1
    assert "ignored" in lines[0]
    checkpoint.counts["cyber"] = 10
    checkpoint.save()
    assert json.loads(path.read_text()) == {"cyber": 10}


def test_a_checkpoint_that_cannot_be_written_is_told_once_and_stops_nothing(tmp_path):
    lines = []
    journal = Journal(ManualClock(), lines.append)
    checkpoint = Checkpoint(tmp_path / "nowhere" / "file.json", ["cyber"], journal)
    for _ in range(3):
        checkpoint.save()
    assert len(lines) == 1
    assert "cannot be written" in lines[0]


def test_without_a_toml_it_lists_tables_with_one_to_begin_with(script, service, postgres):
    fill(postgres.dsn, 5)
    script.toml.unlink()
    lines = script.run(code=2)
    start = lines.index("[cyber]" if "[cyber]" in lines else lines[2])
    offered = "\n".join(lines[start:])
    assert 'table = "cyber_incidents"' in offered
    assert "raw" not in offered
    script.toml.write_text(offered)
    values = tomllib.loads(offered)
    assert values["cyber"]["key"] == "id"
    assert values["cyber"]["text"] == "{title}\n{description}\n{severity}"
    said = bare(script.run())
    assert "INFO: ✅ Finished cyber incidents: 5 processed, 5 embedded, 0 failed" in said


def test_without_a_toml_and_without_a_database_it_says_what_to_set(script):
    script.toml.unlink()
    del script.environment["DATABASE_URL"]
    lines = script.run(code=2)
    assert str(script.toml.name) in lines[0]
    assert "DATABASE_URL" in lines[1]


@pytest.mark.parametrize(
    ("toml", "named"),
    [("[cyber", "TOML"), ("cyber = 1", "cyber"), (TOML.replace("key", "keys"), "keys"),
     ('collection = "c"', "sources"), ("flow = 3", "flow")],
)  # fmt: skip
def test_a_toml_that_cannot_be_used_is_refused_by_name(tmp_path, toml, named):
    path = tmp_path / "tables.toml"
    path.write_text(toml)
    with pytest.raises(InvalidRequestError) as caught:
        read_job(path, {})
    assert caught.value.code is Code.INVALID_JOB
    assert str(path) in caught.value.message
    assert named in caught.value.message


def test_the_toml_and_the_environment_say_where_it_goes(tmp_path):
    path = tmp_path / "tables.toml"
    path.write_text('collection = "mine"\n' + TOML)
    job = read_job(path, {})
    assert (job.target.collection, job.embedder.url) == ("mine", "http://localhost:8000")
    assert (job.flow.page, job.flow.batch, job.flow.ahead, job.flow.attempts) == (50, 10, 0, 5)
    job = read_job(path, {"DVECDB_COLLECTION": "c", "FASTAPI_URL": "http://e:1"})
    assert (job.target.collection, job.embedder.url) == ("c", "http://e:1")
    assert job.sources["cyber"].kind == "postgresql"


def test_wrong_credentials_and_a_dead_letter_have_exit_codes_of_their_own(
    script, service, postgres
):
    fill(postgres.dsn, 20)
    service.set_faults(refuse_marker="day 7")
    said = bare(script.run(code=1))
    assert any("Record 7 has no vector" in line for line in said)
    assert "WARNING: 1 dead letter: 'dvecdb embed status" in said[-1]
    script.environment["DATABASE_URL"] = postgres.dsn.replace(postgres.password, "wrong")
    said = bare(script.run(code=2))
    assert said[-1].startswith("ERROR: source-refused: ")
    assert "wrong" not in said[-1]


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (("service", Reason.TIMEOUT, "it did not answer within 60 s"), "Connection timeout"),
        (("service", Reason.UNREACHABLE, "x: [Errno 111] Connection refused"),
         "Connection refused"),
        (("service", Reason.UNREACHABLE, "x: no connection in time"), "Connection timeout"),
        (("service", Reason.UNREACHABLE, "x: Connection reset by peer"), "Connection lost"),
        (("service", Reason.OVERLOADED, "http://x answered 503: busy"), "HTTP 503"),
        (("service", Reason.RATE_LIMITED, "http://x answered 429: later"), "HTTP 429"),
        (("service", Reason.WRONG_ANSWER, "49 vectors for 50 texts"), "49 vectors for 50 texts"),
        (("source", "source-unreachable", "connection refused"), "Connection refused (PostgreSQL)"),
        (("database", "unreachable", "it timed out"), "Connection timeout (dvecdb)"),
    ],
)  # fmt: skip
def test_failures_are_told_in_words_that_users_know(event, words):
    what, reason, message = event
    assert reason_words(AttemptFailed(what, reason, message, 1, 5, 5.0)) == words


def test_a_wait_that_uses_up_no_try_and_one_without_a_last_have_lines_too(tmp_path):
    lines = []
    journal = Journal(ManualClock(), lines.append)
    narrator = Narrator(journal, Checkpoint(tmp_path / "c.json", [], journal), 50)
    narrator(AttemptFailed("service", Reason.RATE_LIMITED, "x answered 429", None, None, 0.4))
    narrator(AttemptFailed("source", "source-unreachable", "refused", 3, None, 19.2))
    assert bare(lines) == [
        "WARNING: Attempt failed: HTTP 429",
        "INFO: Retrying in 1 second...",
        "WARNING: Attempt 3 failed: Connection refused (PostgreSQL)",
        "INFO: Retrying in 20 seconds...",
    ]


def test_the_example_in_the_script_is_a_job(tmp_path):
    text = SCRIPT.read_text()
    example = text[text.index('    collection = "incidents"') : text.index("It may be stopped")]
    path = tmp_path / "t.toml"
    path.write_text(re.sub(r"^    ", "", example, flags=re.MULTILINE))
    job = read_job(path, {})
    assert job.sources["cyber"].text == "{title}\n{description}"
