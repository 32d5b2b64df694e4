"""A job with everything real around it: PostgreSQL or SQLite, an embedding service, a server."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).parents[2] / "src"
PROGRAM = Path(__file__).with_name("programs") / "run_job.py"
DIMENSION = 16
COLLECTION = "incidents"


def text_of(number):
    return f"incident {number}: somebody did something on day {number * 7919 % 100_003}"


def fill_sqlite(path, rows, start=1):
    """Make a table `incidents` of rows numbered from `start`."""
    with sqlite3.connect(path) as database:
        database.execute(
            "CREATE TABLE IF NOT EXISTS incidents "
            "(id INTEGER PRIMARY KEY NOT NULL, title TEXT, severity TEXT)"
        )
        database.executemany(
            "INSERT INTO incidents VALUES (?, ?, ?)",
            [(n, text_of(n), ("low", "high")[n % 2]) for n in range(start, start + rows)],
        )
    database.close()


def fill_postgres(dsn, rows):
    """Make a table `incidents` in PostgreSQL."""
    import psycopg

    with psycopg.connect(dsn) as connection:
        connection.execute(
            "CREATE TABLE incidents (id bigint PRIMARY KEY, title text, severity text)"
        )
        with connection.cursor().copy("COPY incidents FROM STDIN") as copy:
            for n in range(1, rows + 1):
                copy.write_row((n, text_of(n), ("low", "high")[n % 2]))


def source(**place):
    return {"key": "id", "text": "{title}", "metadata": ["severity"], **place}


def job_of(service_url, sources, **flow):
    """Return a job of few lines, as JSON."""
    fast = {"retry_seconds": 0.05, "retry_seconds_max": 0.2, "concurrency": 1}
    return {
        "target": {"collection": COLLECTION},
        "embedder": {
            "kind": "openai",
            "url": service_url,
            "model": "fake",
            "dimensions": DIMENSION,
        },
        "sources": sources,
        "flow": {**fast, **flow},
    }


class Runner:
    """Starts the job in a process of its own, as often as it takes."""

    def __init__(self, directory, job, target, environment=None):
        self.directory = Path(directory)
        self.target = target
        self.path = self.directory / "job.json"
        self.path.write_text(json.dumps(job))
        self.log = self.directory / "job.log"
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(SOURCE),
            "PYTHONWARNINGS": "error",
            **(environment or {}),
        }

    def start(self):
        """Return the process; its report goes to `stdout`."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(PROGRAM), str(self.path), str(self.target)],
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def finish(self, process=None, seconds=240):
        """Wait for the end; return what it printed."""
        process = process or self.start()
        out, _ = process.communicate(timeout=seconds)
        report = out.splitlines()[-1:]
        assert report not in ([], [b"begun"]), self.log.read_text()[-3000:]
        return json.loads(report[0])

    def kill_after(self, seconds):
        """Kill it so long after it began with its source; return whether it was still at it."""
        process = self.start()
        process.stdout.readline()
        time.sleep(seconds)
        running = process.poll() is None
        process.kill()
        process.communicate()
        return running


def contents(collection):
    """Return every record: id -> (vector bytes, metadata)."""
    return {
        record.id: (np.asarray(record.vector).tobytes(), record.metadata)
        for record in collection.scan(with_vectors=True)
    }
