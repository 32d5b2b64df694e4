"""`dvecdb embed`: what it says, what it leaves behind, and what it exits with."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.e2e.serving import Server
from tests.embedding.worlds import SOURCE

import dvecdb
from dvecdb.cli import main as cli
from dvecdb.cli.app import UsageError
from dvecdb.cli.embed_job import FLAGS, read_given
from dvecdb.cli.embed_signals import tell
from dvecdb.cli.embed_watch import Bar, Lines
from dvecdb.embedding.events import AttemptFailed, Buried, Committed, SourceDone, SourceStarted
from dvecdb.embedding.job import parse_job
from dvecdb.embedding.progress import Cursor
from dvecdb.embedding.report import Spent
from dvecdb.media.processes import start_of
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.embedding_service import EmbeddingService

JOB = """
[target]
collection = "incidents"

[embedder]
kind = "local"
model = "fake"
dimensions = 16

[sources.cyber]
path = "rows.jsonl"
key = "id"
text = "{title}"
metadata = ["severity"]
"""
SERVICE = 'kind = "local"\nmodel = "fake"\ndimensions = 16'
FIVE = ("missing", "stale", "damaged", "failed", "orphaned")


def write_rows(path, numbers, word="incident"):
    rows = [{"id": n, "title": f"{word} {n}", "severity": ("low", "high")[n % 2]} for n in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Place:
    """A directory with a job file, rows and a data directory, and the command in this process."""

    def __init__(self, path, captured):
        self.path, self.job, self.rows = path, path / "job.toml", path / "rows.jsonl"
        self.data = path / "data"
        self.target = ["--data-dir", self.data]
        self._captured = captured
        self.job.write_text(JOB)
        write_rows(self.rows, range(1, 101))

    def with_service(self, url, **flow):
        """Let a service embed, in batches of ten."""
        flow = {"batch": 10, "retry_seconds": 0.05, "retry_seconds_max": 0.2, **flow}
        lines = "".join(f"{name} = {value}\n" for name, value in flow.items())
        job = JOB.replace(SERVICE, f'url = "{url}"') + f"\n[flow]\n{lines}"
        self.job.write_text(job)

    def __call__(self, *arguments):
        """Return exit code, stdout and stderr of `dvecdb embed ...`."""
        self._captured.readouterr()
        code = cli.run(["embed", *map(str, arguments), *map(str, self.target)])
        out, error = self._captured.readouterr()
        return code, out, error

    def json(self, *arguments, code=0):
        """Return the JSON document of a command that exits with `code`."""
        found, out, error = self(*arguments, "--json")
        assert found == code, (out, error)
        return json.loads(out)

    def run(self, *arguments, code=0):
        return self.json("run", self.job, "--quiet", *arguments, code=code)

    def fails(self, *arguments):
        """Return exit code, error code and message of a command that must fail."""
        code, out, error = self(*arguments)
        assert code != 0, out
        _, name, message = error.splitlines()[-1].split(": ", 2)
        return code, name, message

    @contextlib.contextmanager
    def process(self, *arguments):
        """Run `embed run` as a process of its own."""
        log = self.path / "log"
        log.touch()
        with log.open("ab") as file:
            command = ["embed", "run", self.job, *self.target, *arguments]
            process = subprocess.Popen(
                [sys.executable, "-m", "dvecdb", *map(str, command)],
                env={**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONWARNINGS": "error",
                     "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def said(self):
        return (self.path / "log").read_text()


@pytest.fixture
def place(tmp_path, monkeypatch, capfd):
    for name in ("DVECDB_URL", "DVECDB_API_KEY", "DVECDB_DATA_DIR", "FASTAPI_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return Place(tmp_path, capfd)


@pytest.fixture
def service():
    with EmbeddingService(dimensions=16) as started:
        yield started


@pytest.fixture(params=["directory", "server"])
def anywhere(request, place, tmp_path):
    """The same on a data directory and on a server."""
    if request.param == "directory":
        yield place
        return
    server = Server(place.data, tmp_path / "server.log").wait()
    place.target = ["--url", f"http://127.0.0.1:{server.port}"]
    yield place
    server.kill()


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)


# --- a job -----------------------------------------------------------------------------------


def test_a_job_file_is_embedded_and_a_second_run_pays_for_nothing(anywhere):
    first = anywhere.run()
    assert (first["state"], first["spent"]["texts"], first["dead_letters"]) == ("done", 100, 0)
    second = anywhere.run()
    assert second["spent"]["texts"] == 0
    assert second["sources"]["cyber"]["unchanged"] == 100
    assert anywhere.json("verify", anywhere.job)["ok"] is True


def test_flags_alone_make_a_job(place):
    report = place.json(
        "run", "--collection", "notes", "--path", place.rows, "--key", "id",
        "--text", r"{title}\n{severity}", "--metadata", "severity", "--metadata", "id as number",
        "--embedder", "local", "--model", "fake", "--dimensions", 8, "--batch", 7, "--quiet",
    )  # fmt: skip
    assert report["collection"] == "notes"
    assert list(report["sources"]) == ["rows"]
    assert report["spent"]["requests"] == 1 + -(-100 // 7)  # the probe
    with dvecdb.open(place.data, read_only=True) as database:
        notes = database.collection("notes")
        assert notes.schema.dimension == 8
        metadata = next(notes.scan()).metadata
        assert {"severity", "number"} <= metadata.keys()


def test_flags_go_before_the_file_and_paths_are_relative_to_it(place, monkeypatch, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    report = place.run("--collection", "others", "--source-name", "cyber", "--text", "severity")
    assert report["collection"] == "others"
    assert report["spent"]["texts"] == 2  # low and high


_VALUES = {
    str: st.text("abc", min_size=1, max_size=3),
    int: st.integers(1, 60),
    float: st.floats(0.1, 100),
}


@st.composite
def flag_values(draw):
    names = draw(st.sets(st.sampled_from(sorted(FLAGS)), max_size=8))
    names -= {"path", "query", "table"}
    found = {}
    for name in names:
        kind = FLAGS[name].kind
        if kind in _VALUES:
            found[name] = draw(_VALUES[kind])
        elif kind == list[str]:
            found[name] = draw(st.lists(_VALUES[str], min_size=1, max_size=2, unique=True))
        else:
            found[name] = draw(st.sampled_from(kind.__args__))
    return found


@given(flag_values())
def test_a_flag_is_the_field_of_the_file(tmp_path_factory, flags):
    values = {
        "target": {"collection": "incidents"},
        "sources": {"cyber": {"path": "rows.jsonl", "key": "id", "text": "{title}"}},
        "embedder": {}, "flow": {}, "text": {},
    }  # fmt: skip
    path = tmp_path_factory.mktemp("job") / "job.toml"
    path.write_text('[target]\ncollection="incidents"\n[sources.cyber]\npath="rows.jsonl"\n'
                    'key="id"\ntext="{title}"\n')  # fmt: skip
    for name, value in flags.items():
        flag = FLAGS[name]
        part = values["sources"]["cyber"] if flag.section == "source" else values[flag.section]
        part[flag.field] = value
    assert read_given(path, None, flags).job == parse_job(values)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"table": "t"}, {"kind": "sqlite", "table": "t", "query": None}),
     ({"query": "SELECT 1"}, {"kind": "sqlite", "table": None, "query": "SELECT 1"})],
)  # fmt: skip
def test_another_table_takes_the_place_of_a_query(tmp_path, flags, expected):
    path = tmp_path / "job.toml"
    path.write_text('[target]\ncollection="c"\n[sources.s]\npath="rows.db"\nkind="sqlite"\n'
                    'table="old"\nkey="id"\ntext="{title}"\n')  # fmt: skip
    source = read_given(path, None, flags).job.sources["s"]
    assert {name: getattr(source, name) for name in expected} == expected
    assert source.path == "rows.db"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run"], "--collection, --key, --text, one of --table, --query and --path"),
        (["run", "--collection", "c", "--table", "t", "--key", "k"], "--text"),
        (["verify", "JOB", "--dry-run"], "--delete-missing"),
        (["run", "JOB", "--only", "physical"], "cyber"),
        (["run", "JOB", "--source-name", "cyber"], "--only"),
        (["run", "TWO", "--key", "k"], "--source-name"),
    ],
)
def test_wrong_usage_says_what_is_missing(place, arguments, named):
    two = place.path / "two.toml"
    two.write_text(JOB + JOB[JOB.index("[sources") :].replace("cyber", "physical"))
    files = {"JOB": place.job, "TWO": two}
    code, name, message = place.fails(*(files.get(one, one) for one in arguments))
    assert (code, name) == (2, "usage")
    assert named in message
    assert not place.data.exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"[target", "TOML"),
        (b'[target]\ncollection="\xff"', "UTF-8"),
        (JOB.replace("[embedder]", "[embedder]\ncolour = 1").encode(), "colour"),
        (b'flow = 7\n[target]\ncollection = "c"', "flow"),
        (b'sources = 7\n[target]\ncollection = "c"', "sources"),
    ],
)
def test_a_job_file_that_cannot_be_used_is_named(place, content, named):
    place.job.write_bytes(content)
    code, name, message = place.fails("run", place.job, "--batch", 3, "--key", "id")
    assert (code, name) == (2, "invalid-job")
    assert str(place.job) in message
    assert named in message


def test_only_one_source_of_several_is_run(place):
    two = JOB + JOB[JOB.index("[sources") :].replace("cyber", "physical")
    place.job.write_text(two)
    assert list(place.run("--only", "physical")["sources"]) == ["physical"]


# --- what it costs ---------------------------------------------------------------------------


def test_a_dry_run_counts_texts_and_cost_and_leaves_nothing_behind(place):
    write_rows(place.rows, [*range(1, 101), *range(1001, 1011)])
    with place.rows.open("a") as file:
        file.write(json.dumps({"id": 9999, "title": None, "severity": "low"}) + "\n")
    found = place.json("run", place.job, "--dry-run", "--price", 2)
    assert not place.data.exists()
    total = found["total"]
    assert (total["rows"], total["texts"], total["failed"]) == (111, 110, 1)
    assert total["money"] == pytest.approx(total["tokens"] * 2 / 1e6)
    code, out, _ = place("run", place.job, "--dry-run")
    assert code == 0
    assert "would embed 110 texts" in out
    place.run(code=1)
    assert place.json("run", place.job, "--dry-run")["total"]["texts"] == 0


def test_a_budget_stops_a_run_with_a_code_of_its_own_and_the_next_goes_on(place, service):
    place.with_service(service.url)
    report = place.run("--budget-requests", 4, code=9)
    assert report["state"] == "budget"
    assert report["spent"]["requests"] == 4 + 1  # the probe, which no budget holds back
    code, out, _ = place("run", place.job, "--budget-requests", 3)
    assert code == 9
    assert "the budget is used up; running it again goes on there" in out
    assert place.run()["sources"]["cyber"]["cursor"] == 100
    probes = 3
    assert service.health()["texts"] <= 100 + probes


# --- dead letters ----------------------------------------------------------------------------


def test_dead_letters_are_listed_change_the_exit_code_and_can_be_tried_again(place, service):
    place.with_service(service.url)
    service.set_faults(refuse_marker="incident 42")
    code, out, _ = place("run", place.job)
    assert code == 1
    assert "cyber: row 42 is a dead letter: " in out
    assert "1 dead letter: 'dvecdb embed status' lists" in out
    status = place.json("status", "incidents")
    assert status["sources"]["cyber"]["dead_letters"] == 1
    assert status["dead_letters"][0]["key"] == "42"
    code, out, _ = place("status", "incidents")
    assert code == 0
    assert re.search(r"^42 +cyber +refused", out, re.MULTILINE)
    assert place.json("verify", place.job, code=1)["sources"]["cyber"]["counts"]["failed"] == 1
    assert place.json("retry-failed", place.job, "-q", code=1)["dead_letters"] == 1
    service.set_faults()
    before = service.health()["texts"]
    report = place.json("retry-failed", place.job, "-q")
    assert report["dead_letters"] == 0
    assert service.health()["texts"] == before + 2  # the probe, and the text
    cursor = report["sources"]["cyber"]
    assert (cursor["state"], cursor["cursor"], cursor["embedded"]) == ("done", 100, 100)
    assert place.json("verify", place.job)["ok"] is True


# --- verify ----------------------------------------------------------------------------------


def test_verify_finds_what_differs_and_deletes_orphans_only_when_told(anywhere):
    place = anywhere
    place.run()
    rows = [json.loads(line) for line in place.rows.read_text().splitlines()]
    rows[0]["title"] = "another"
    kept = [*rows[:95], {"id": 500, "title": "new", "severity": "low"}]
    place.rows.write_text("".join(json.dumps(row) + "\n" for row in kept))
    found = place.json("verify", place.job, code=1)
    counts = found["sources"]["cyber"]["counts"]
    assert [counts[name] for name in FIVE] == [1, 1, 0, 0, 5]
    assert found["ok"] is False
    place.run()
    code, out, _ = place("verify", place.job, "--delete-missing", "--dry-run")
    assert code == 1
    assert "would delete 5 records" in out
    code, name, _ = place.fails("verify", place.job, "--delete-missing")
    assert (code, name) == (2, "usage")  # nobody to ask
    code, name, message = place.fails(
        "verify", place.job, "--delete-missing", "--yes", "--max-share", "0.01"
    )
    assert (code, name) == (4, "confirmation-needed")
    assert "--max-share" in message
    assert "--confirm" not in message
    assert place.json("verify", place.job, code=1)["sources"]["cyber"]["counts"]["orphaned"] == 5
    done = place.json("verify", place.job, "--delete-missing", "--yes")
    assert len(done["deleted"]["cyber"]) == 5
    assert place.json("verify", place.job)["sources"]["cyber"]["good"] == 96


def test_verify_of_a_collection_without_a_job_says_so(place):
    with dvecdb.open(place.data) as database:
        database.create_collection("incidents", dimension=16)
    for command in (["verify", place.job], ["status", "incidents"], ["stop", "incidents"]):
        code, name, _ = place.fails(*command)
        assert (code, name) == (3, "job-not-found")


# --- signals and wishes ----------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_run_once_everything_under_way_is_committed(anywhere, service, number):
    place = anywhere
    place.with_service(service.url, concurrency=1)
    service.set_faults(slow_ms=100)
    with place.process() as process:
        until(lambda: service.health()["texts"] > 30)
        process.send_signal(number)
        assert process.wait(30) == 130, place.said()
    assert "stopped; running it again goes on there" in place.said()
    status = place.json("status", "incidents")
    assert status["running"] is None
    done = status["sources"]["cyber"]["cursor"]["cursor"]
    assert 0 < done < 100
    service.set_faults()
    place.run()
    counts = service.texts()
    assert sum(count > 1 for count in counts.values()) <= 1  # the probe
    assert place.json("verify", place.job)["ok"] is True


def test_a_run_that_waits_for_its_service_is_stopped_before_it_begins(place):
    place.with_service("http://127.0.0.1:9")
    with place.process("--json") as process:
        until(lambda: "the service failed, attempt 1 of 5: " in place.said())
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
    assert "error: cancelled: " in place.said()
    assert '"code": "cancelled"' in place.said()
    with dvecdb.open(place.data, read_only=True) as database:
        assert database.collections() == []


def test_a_second_interrupt_ends_it_at_once_and_the_next_run_goes_on(place, service):
    place.with_service(service.url, concurrency=1)
    service.set_faults(slow_ms=100)
    with place.process() as process:
        until(lambda: service.health()["texts"] > 30)
        service.set_faults(slow_ms=60_000)
        before = service.health()["requests"]
        until(lambda: service.health()["requests"] > before)  # which hangs
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130
    assert "aborted" in place.said()
    service.restart()
    assert place.run()["sources"]["cyber"]["cursor"] == 100
    assert place.json("verify", place.job)["ok"] is True


def test_a_run_is_paused_goes_on_and_is_stopped_by_another_process(anywhere, service):
    place = anywhere
    place.with_service(service.url, concurrency=1)
    service.set_faults(slow_ms=50)
    write_rows(place.rows, range(1, 3_001))
    with place.process() as process:
        until(lambda: service.health()["texts"] > 20)
        told = place.json("pause", "incidents")
        assert told["running"]["pid"] == process.pid
        until(lambda: "paused" in place.said())
        until(lambda: service.health()["in_flight"] == 0)
        paused_at = service.health()["texts"]
        assert place.json("status", "incidents")["running"]["pid"] == process.pid
        assert service.health()["texts"] == paused_at
        assert process.poll() is None
        code, out, _ = place("resume", "incidents")
        assert code == 0
        assert "was asked to go on" in out
        until(lambda: service.health()["texts"] > paused_at)
        place.json("stop", "incidents")
        assert process.wait(30) == 130, place.said()
    for want in ("pause", "resume", "stop"):
        code, name, _ = place.fails(want, "incidents")
        assert (code, name) == (3, "job-not-found")


def test_a_program_that_takes_no_signals_gets_none(place, service, tmp_path):
    place.with_service(service.url)
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, tomllib, dvecdb\nfrom dvecdb.embedding import parse_job, run\n"
        "job = parse_job(tomllib.loads(open('job.toml').read()))\n"
        "with dvecdb.open('data') as database: run(job, database)\n"
    )
    service.set_faults(slow_ms=500)
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    process = subprocess.Popen([sys.executable, program], cwd=tmp_path, env=environment)
    try:
        until(lambda: service.health()["texts"] > 10)
        for want in ("pause", "resume", "stop"):
            code, name, message = place.fails(want, "incidents")
            assert (code, name) == (4, "job-running")
            assert str(process.pid) in message
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_a_signal_reaches_only_the_process_that_is_meant():
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        started = start_of(sleeper.pid)
        assert not tell(sleeper.pid, started - 1, "stop")
        assert sleeper.poll() is None
        assert tell(sleeper.pid, started, "stop")
        assert sleeper.wait(10) == -signal.SIGTERM
        assert not tell(sleeper.pid, started, "stop")
    finally:
        sleeper.kill()
        sleeper.communicate()


def test_a_second_job_on_a_collection_is_refused(anywhere, service):
    place = anywhere
    place.with_service(service.url, concurrency=1)
    service.set_faults(slow_ms=200)
    with place.process():
        until(lambda: service.health()["texts"] > 20)
        code, name, _ = place.fails("run", place.job)
        on_server = place.target[0] == "--url"
        assert (code, name) == ((4, "job-running") if on_server else (2, "directory-in-use"))


def test_handlers_are_gone_after_a_run_and_another_thread_may_run_one(place):
    before = {number: signal.getsignal(number) for number in (2, 10, 12, 15)}
    codes = []
    place.run()
    assert {number: signal.getsignal(number) for number in before} == before
    target = list(map(str, place.target))
    thread = threading.Thread(
        target=lambda: codes.append(cli.run(["embed", "run", str(place.job), *target]))
    )
    thread.start()
    thread.join()
    assert codes == [0]


# --- how it shows itself ---------------------------------------------------------------------


def spent(requests=1):
    return Spent(requests, 10, 1_000, 0.25, 1.0, 0.0)


def test_off_a_terminal_there_is_a_line_every_two_seconds_and_one_for_what_matters():
    clock, lines = ManualClock(), []
    watch = Lines(lines.append, clock)
    cursor = Cursor("run", "definition", total=1_000)
    watch(SourceStarted("cyber", 1_000, 0, resumed=False))
    for count in range(10, 210, 10):
        clock.advance(0.5)
        moved = Cursor("run", "definition", total=1_000, cursor=count, embedded=count)
        watch(Committed("cyber", moved, spent()))
    watch(AttemptFailed("service", "timeout", "it did not answer", 1, 5, 4.87))
    for key in range(50):
        watch(Buried("cyber", str(key), "refused", "never"))
    watch(SourceDone("cyber", cursor))
    texts = [line.split("Z  ", 1)[1] for line in lines]
    progress = [text for text in texts if "rows/s" in text and "done" not in text]
    assert len(progress) == 5  # in ten seconds
    assert progress[-1] == (
        "cyber: 200/1,000 rows (20.0 %), 200 embedded, 20 rows/s, 1,000 tokens, cost 0.25, 40 s "
        "left"
    )
    assert "the service failed, attempt 1 of 5: it did not answer; again in 4.9 s" in texts
    assert sum("is a dead letter" in text for text in texts) == 20
    assert sum("more dead letters" in text for text in texts) == 1


def test_on_a_terminal_there_is_a_bar_with_rate_and_cost(place, service):
    place.with_service(service.url)
    service.set_faults(slow_ms=100)
    leader, follower = pty.openpty()
    command = ["embed", "run", place.job, *place.target, "--price", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dvecdb", *map(str, command)],
        env={**os.environ, "PYTHONPATH": str(SOURCE), "TERM": "xterm", "COLUMNS": "160"},
        stdout=subprocess.PIPE, stderr=follower,
    )  # fmt: skip
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):  # how the other end closes
        while part := os.read(leader, 65_536):
            shown += part
    os.close(leader)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert b"cyber" in out
    text = shown.decode(errors="replace")
    assert re.search(r"\d+/100 rows", text)
    assert "rows/s" in text
    assert "tokens, cost 0.0" in text
    assert re.search(r"\d+ s left", text)


def test_beside_json_the_lines_go_to_stderr(place):
    code, out, error = place("run", place.job, "--json")
    assert code == 0
    assert json.loads(out)["state"] == "done"
    assert "cyber: 100 rows, from the first" in error
    assert place("run", place.job, "--json", "--quiet")[2] == ""


def test_dead_letters_that_are_tried_alone_move_no_bar_and_have_no_rate():
    class Progress:
        def __getattr__(self, name):
            raise AssertionError(name)

    moved = Committed("cyber", Cursor("run", "definition", total=9, cursor=9, failed=1), spent())
    Bar(Progress(), ManualClock())(moved)
    clock, lines = ManualClock(), []
    watch = Lines(lines.append, clock)
    clock.advance(3)
    watch(moved)
    assert lines[0].endswith(
        "cyber: 9/9 rows (100.0 %), 0 embedded, 1 failed, 1,000 tokens, cost 0.25"
    )


def test_every_flag_is_in_the_page():
    page = (Path(__file__).parents[2] / "docs" / "embedding.md").read_text()
    assert [flag.option for flag in FLAGS.values() if f"`{flag.option}`" not in page] == []


def test_source_name_without_a_file_names_the_source(tmp_path):
    flags = {"collection": "c", "table": "public.cyber incidents", "key": "id", "template": "t"}
    assert list(read_given(None, None, flags).job.sources) == ["cyber-incidents"]
    assert list(read_given(None, "mine", flags).job.sources) == ["mine"]
    with pytest.raises(UsageError):
        read_given(None, None, {})
