"""Embedding jobs: what they cost beyond the service and the databases, and what trouble costs.

PostgreSQL, the embedding service (instant, fake) and `dvecdb serve` are processes of their own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Measure, Options, fresh

import dvecdb
from dvecdb.embedding import parse_job, run, running
from dvecdb.embedding.sources import opening
from dvecdb.testing.embedding_service import EmbeddingService
from dvecdb.testing.postgres import Postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROWS = 21_000
MANY = 1_000_000
BATCH = 50
DIMENSION = 384
SERVICE_MS = 60  # what a request of the calm and of the rough run takes at least
ROUGH = {
    "errors": 0.3, "timeouts": 0.1, "timeout_seconds": 1.0,
    "rate_limits": 0.01, "rate_limit_burst": 5, "retry_after_seconds": 0.5,
}  # fmt: skip


def embedding(options: Options) -> list[Measure]:
    """Measure own cost, a run over unchanged rows, and a run through faults."""
    with ExitStack() as stack:
        postgres = stack.enter_context(Postgres())
        fill(postgres.dsn, ROWS)
        service = stack.enter_context(EmbeddingService(dimensions=DIMENSION))
        own, again, faults = [], [], []
        notes: dict[str, Any] = {}
        for _ in range(options.rounds):
            with fresh(options) as directory, serving(directory) as url:
                seconds, parts = alone(
                    job_of(service.url, "own", ahead=0, page=BATCH), url, postgres
                )
                own.append(1_000 * (seconds - sum(parts.values())) / ROWS)
                notes = {name: 1_000 * value / ROWS for name, value in parts.items()}
                service.set_faults()
                texts = service.health()["texts"]
                again.append(went(job_of(service.url, "own"), url, postgres)[0])
                assert service.health()["texts"] == texts, "the second run paid"
                service.set_faults(slow_ms=SERVICE_MS)
                calm = went(rough_job(service.url, "calm"), url, postgres)[0]
                service.set_faults(slow_ms=SERVICE_MS, **ROUGH)
                seconds, report = went(rough_job(service.url, "rough"), url, postgres)
                service.set_faults()
                faults.append(calm / (seconds - report.spent.waited_seconds))
        return [
            Measure("embed: own cost a row", "ms", own, notes=notes).against(at_most=0.2),
            Measure("embed: 21,000 rows unchanged", "s", again).against(at_most=10),
            Measure("embed: through faults / calm", "x", faults).against(at_least=0.5),
        ]


def embedding_memory(options: Options) -> list[Measure]:
    """Measure the memory of a job over a million rows, in a process of its own."""
    with fresh(options) as directory, serving(directory) as url:
        path = directory / "rows.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for number in range(MANY):
                file.write(f'{{"id": {number}, "title": "{text_of(number)}"}}\n')
        command = [sys.executable, "-m", "benchmarks.embedding", str(path), url]
        process = subprocess.Popen(command, cwd=Path(__file__).parents[1])
        before, seen = 0.0, []
        while process.poll() is None:
            seen.append(rss_anon(process.pid))
            time.sleep(0.5)
        assert process.returncode == 0
        before = seen[min(2, len(seen) - 1)]
        half = max(seen[: len(seen) // 2])
        return [
            Measure("embed: a million rows, RssAnon", "MB", [(max(seen) - before) / 1e6],
                    notes={"half way": (half - before) / 1e6}).against(at_most=200),
        ]  # fmt: skip


def rss_anon(pid: int) -> float:
    """Return the memory of a process in bytes, 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(found[1]) * 1024.0 if found else 0.0


def text_of(number: int) -> str:
    """Return a text of about the length of an incident's."""
    return f"incident {number}: " + "somebody did something to some system " * 6


def fill(dsn: str, rows: int) -> None:
    """Make the table `incidents`."""
    import psycopg

    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE incidents (id bigint PRIMARY KEY, title text, year int)")
        with connection.cursor().copy("COPY incidents FROM STDIN") as copy:
            for number in range(rows):
                copy.write_row((number, text_of(number), 2000 + number % 25))


def job_of(url: str, collection: str, timeout_seconds: float = 30.0, **flow: Any) -> dict[str, Any]:
    """Return the job."""
    return {
        "target": {"collection": collection},
        "embedder": {
            "kind": "openai", "url": url, "model": "fake", "dimensions": DIMENSION,
            "timeout_seconds": timeout_seconds,
        },
        "sources": {
            "cyber": {
                "table": "incidents", "key": "id", "text": "{title}", "metadata": ["year"],
            },
        },
        "flow": {"batch": BATCH, "retry_seconds": 0.05, "concurrency": 1, **flow},
    }  # fmt: skip


def rough_job(url: str, collection: str) -> dict[str, Any]:
    """Return a job that expects trouble: it waits for three times as long as an answer takes."""
    timeout_seconds = 3 * SERVICE_MS / 1_000
    return job_of(url, collection, timeout_seconds, retry_seconds=0.2, concurrency=4)


def went(job: dict[str, Any], url: str, postgres: Postgres) -> tuple[float, Any]:
    """Return the seconds of a run, and its report."""
    began = time.perf_counter()
    with dvecdb.connect(url) as database:
        report = run(parse_job(job), database, environment={"DATABASE_URL": postgres.dsn})
    assert report.state == "done", report
    assert report.sources["cyber"].cursor == ROWS
    return time.perf_counter() - began, report


def alone(job: dict[str, Any], url: str, postgres: Postgres) -> tuple[float, dict[str, float]]:
    """Return the seconds of a run in which nothing overlaps, and those of others in it."""
    parts = dict.fromkeys(("service", "source", "database"), 0.0)

    def clocked(what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                parts[what] += time.perf_counter() - began

        return timed

    open_embedder, open_source = running.open_embedder, opening.open_source

    class Clocked:
        def __init__(self, inner: Any, **what: str) -> None:
            self._inner = inner
            for name, part in what.items():
                setattr(self, name, clocked(part, getattr(inner, name)))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    def watched_collection(collection: Any) -> Any:
        documents = Clocked(collection.documents, get="database", list="database")
        clock = Clocked(collection, get="database", write="database", scan="database")
        clock.documents = documents
        return clock

    try:
        running.open_embedder = lambda *a: Clocked(open_embedder(*a), embed="service")
        opening.open_source = lambda *a, **o: Clocked(open_source(*a, **o), read="source")
        began = time.perf_counter()
        with dvecdb.connect(url) as database:
            make, find = database.create_collection, database.collection
            database.create_collection = lambda *a, **o: watched_collection(make(*a, **o))
            database.collection = lambda *a, **o: watched_collection(find(*a, **o))
            run(parse_job(job), database, environment={"DATABASE_URL": postgres.dsn})
        return time.perf_counter() - began, parts
    finally:
        running.open_embedder, opening.open_source = open_embedder, open_source


@contextmanager
def serving(directory: Path) -> Iterator[str]:
    """Run a server while the context lasts; yield its address."""
    command = [
        sys.executable, "-m", "dvecdb", "serve", "--data-dir", str(directory / "data"),
        "--rest-port", "0", "--metrics-port", "0", "--grpc-port", "0", "--log-format", "json",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            found = re.search(rb'"rest": ?"(http[^"]+)"', line)
            if found:
                break
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield found[1].decode()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _million(path: str, url: str) -> None:
    """Embed the rows of a file with a model that costs nothing."""
    job = {
        "target": {"collection": "million"},
        "embedder": {"kind": "local", "model": "fake", "dimensions": 64},
        "sources": {"rows": {"path": path, "key": "id", "text": "{title}"}},
        "flow": {"batch": 200},
    }
    with dvecdb.connect(url) as database:
        report = run(parse_job(job), database, environment=os.environ)
    assert report.sources["rows"].cursor == MANY


if __name__ == "__main__":
    _million(*sys.argv[1:])
