"""Everything the tour runs on: PostgreSQL with the records, two embedding services, dvecdb."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import dvecdb
from demo.programs import Program, Run, ask, is_running
from dvecdb.testing.postgres import Postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from demo.records import SecurityRecord
    from demo.signals import Signals

TABLE: Final = "cyber_incidents"
SOURCE: Final = "cyber"
EVERYTHING: Final = "incidents"
"""The collection of all rows, by the fast model."""
READABLE: Final = "incidents-minilm"
"""The collection of the first rows, by MiniLM."""
BATCH: Final = 50
CONCURRENCY: Final = 2

_SERVICE_READY: Final = re.compile(r"ready: (http://\S+)")
_SERVER_READY: Final = re.compile(r'"event":"server.started".*?"rest":"(http://[^"]+)"')
_COLUMNS: Final = (
    "id bigint PRIMARY KEY, reference text UNIQUE NOT NULL, kind text NOT NULL, "
    "title text NOT NULL, description text NOT NULL, severity text, year integer, url text, "
    "terms text NOT NULL"
)
_JOB: Final = r"""# Run by hand: dvecdb embed run {path}, with DATABASE_URL and DVECDB_URL set.
[target]
collection = "{collection}"

[embedder]
{embedder}

[sources.{source}]
{rows}
key = "id"
text = "{{title}}\n{{description}}"
metadata = ["reference", "kind", "title", "severity", "year", "terms"]

[flow]
batch = {batch}
concurrency = {concurrency}
retry_seconds = 0.5
retry_seconds_max = 2.0
"""


def text_of(record: SecurityRecord) -> str:
    """Return what is embedded of a record: what the jobs' template makes of its row."""
    return f"{record.title}\n{record.description}"


class Service:
    """`dvecdb embedding-service` with a model; it keeps its port. `paid`: texts, by their hash.

    A service forgets its figures when it ends, so `note` takes them down before. slow_ms: what
    each answer takes longer.
    """

    def __init__(self, model: str, directory: Path, signals: Signals) -> None:
        self._arguments = ["embedding-service", "--model", model, "--allow-faults"]
        log = directory / f"{model}.log"
        name = f"the embedding service ({model})"
        self.program = Program(name, self._arguments, log, signals)
        self.paid: Counter[str] = Counter()
        self.url = ""
        self.slow_ms = 0

    def begin(self) -> None:
        """Start it, as slow as it is to be from its first answer on."""
        slow = ["--faults", f"slow_ms={self.slow_ms}"] if self.slow_ms else []
        port = self.url.rpartition(":")[2] or "0"
        self.program.arguments = [*self._arguments, *slow, "--port", port]
        self.program.start()

    def start(self) -> None:
        """Start it, and wait until it answers. Raises `TourError`."""
        self.begin()
        self.wait()

    def wait(self) -> None:
        """Wait until it answers. Raises `TourError`."""
        self.url = self.program.await_line(_SERVICE_READY)[1]

    def fail(self) -> None:
        """Let every request fail from now on: 500."""
        ask(f"{self.url}/faults", {"errors": 1.0})

    def settle(self) -> None:
        """Wait until no request is under way."""
        while ask(f"{self.url}/health")["in_flight"]:
            time.sleep(0.01)

    def counts(self) -> Counter[str]:
        """Return how often each text was embedded since the tour began, by its hash."""
        return self.paid + Counter(ask(f"{self.url}/texts"))

    def note(self) -> None:
        """Take down its figures, before it is killed."""
        self.paid = self.counts()

    def embed(self, text: str) -> list[float]:
        """Return the vector of a text."""
        vector: list[float] = ask(f"{self.url}/embed", {"text": text})["embeddings"][0]
        return vector


@dataclass(frozen=True, slots=True)
class Addresses:
    """What a job needs to know. Has a password in it."""

    server: str
    database: str

    def environment(self) -> dict[str, str]:
        """Return them as the variables that dvecdb reads."""
        return {"DATABASE_URL": self.database, "DVECDB_URL": self.server}


class World:
    """All of it. Whatever was started is stopped when the context ends.

    directory: None for a temporary one. port: of dvecdb, 0 for a free one.
    """

    def __init__(self, directory: Path | None, port: int, signals: Signals) -> None:
        self.signals = signals
        self._given = directory
        self._port = port
        self._stack = contextlib.ExitStack()
        self._postgres: list[int] = []
        self._runs: list[Run] = []

    def __enter__(self) -> Self:
        try:
            self._lay_out()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop everything that runs, last started first; remove a temporary directory."""
        self.signals.ignore()
        self._stack.close()

    def _lay_out(self) -> None:
        with self.signals.held():
            if self._given is None:
                made = tempfile.TemporaryDirectory(
                    prefix="dvecdb-tour-", ignore_cleanup_errors=True
                )
                self.directory = Path(self._stack.enter_context(made))
                self.directory.chmod(0o711)  # under root, PostgreSQL runs as another user in it
            else:
                self.directory = self._given.absolute()
                self.directory.mkdir(parents=True, exist_ok=True)
        self.fast = Service("fake", self.directory, self.signals)
        self.minilm = Service("minilm", self.directory, self.signals)
        self.server = Program(
            "dvecdb serve",
            ["serve", "--data-dir", str(self.directory / "data"), "--rest-port", str(self._port),
             "--metrics-port", "0", "--grpc-port", "0", "--log-format", "json"],
            self.directory / "dvecdb.log", self.signals,
        )  # fmt: skip
        self.addresses = Addresses("", "")

    # --- starting ---

    def start_postgres(self) -> Postgres:
        """Start PostgreSQL; its database is empty. Raises `DvecdbError`."""
        with self.signals.held():
            postgres = Postgres(self._place_of_postgres())
            self._stack.enter_context(postgres)
            self._postgres += [postgres.pid] if postgres.pid is not None else []
        self.addresses = Addresses("", postgres.dsn)
        return postgres

    def _place_of_postgres(self) -> Path | None:
        """Return where its data goes: with ours, unless the user it runs as cannot get there."""
        if os.geteuid() == 0 and any(not one.stat().st_mode & 0o001 for one in self._parents()):
            return None
        return self.directory / "postgres"

    def _parents(self) -> Sequence[Path]:
        return (self.directory, *self.directory.parents)

    def fill(self, records: Sequence[SecurityRecord]) -> None:
        """Make the table and copy the records into it; they are numbered from 1."""
        import psycopg  # noqa: PLC0415  # looked for before

        with psycopg.connect(self.addresses.database) as connection:
            connection.execute(f"CREATE TABLE {TABLE} ({_COLUMNS})")
            with connection.cursor().copy(f"COPY {TABLE} FROM STDIN") as copy:
                for number, record in enumerate(records, 1):
                    copy.write_row((number, *record))

    def start_services(self) -> None:
        """Start both embedding services and dvecdb. Raises `TourError`."""
        for program, begin in (
            (self.fast.program, self.fast.begin),
            (self.minilm.program, self.minilm.begin),
            (self.server, self.server.start),
        ):
            self._stack.callback(program.stop)
            begin()
        self.fast.wait()
        self.minilm.wait()
        address = self.server.await_line(_SERVER_READY)[1]
        self.addresses = Addresses(address, self.addresses.database)

    def connect(self) -> Any:
        """Return the database, as a client of the server."""
        return dvecdb.connect(self.addresses.server)

    # --- jobs ---

    def write_jobs(self, readable_rows: int) -> None:
        """Write the two jobs, and the addresses for whoever goes on by hand."""
        columns = "id, reference, kind, title, description, severity, year, terms"
        fast = f'kind = "openai"\nurl = "{self.fast.url}/v1"\nmodel = "fake"'
        slow = f'kind = "service"\nurl = "{self.minilm.url}/embed"'
        query = f"SELECT {columns} FROM {TABLE} WHERE id <= {readable_rows}"
        self._write_job(EVERYTHING, fast, f'table = "{TABLE}"')
        self._write_job(READABLE, slow, f'query = "{query}"')
        given = {**self.addresses.environment(), "FASTAPI_URL": self.minilm.url}
        lines = [f"export {name}='{value}'\n" for name, value in given.items()]
        environment = self.directory / "environment"
        environment.touch(0o600)
        environment.write_text("".join(lines))

    def _write_job(self, collection: str, embedder: str, rows: str) -> None:
        path = self.job_file(collection)
        text = _JOB.format(
            path=path, collection=collection, embedder=embedder, source=SOURCE, rows=rows,
            batch=BATCH, concurrency=CONCURRENCY,
        )  # fmt: skip
        path.write_text(text)

    def job_file(self, collection: str) -> Path:
        """Return where the job of a collection is described."""
        return self.directory / f"{collection}.toml"

    def embed(self, command: str, collection: str, tell: Callable[[str], None]) -> Run:
        """Start `dvecdb embed COMMAND` on the job of a collection, as a process of its own."""
        arguments = ["embed", command, str(self.job_file(collection)), "--json"]
        with self.signals.held():
            run = Run(arguments, self.addresses.environment(), self.signals, tell)
            self._stack.callback(run.kill)
            self._runs.append(run)
        return run

    def left(self) -> list[int]:
        """Return the processes that still run, of all that were ever started."""
        programs = (self.server, self.fast.program, self.minilm.program)
        pids = [*self._postgres, *(pid for program in programs for pid in program.pids),
                *(run.started for run in self._runs)]  # fmt: skip
        return [pid for pid in pids if is_running(pid)]


def pids(world: World) -> dict[str, int | None]:
    """Return what runs, by name."""
    found = (world.server, world.fast.program, world.minilm.program)
    return {program.name: program.pid for program in found}
