"""The part of the demo with a server: a child process that is killed while clients write."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import msgspec

import dvecdb
from dvecdb import clock
from dvecdb.cli import demo_writer as story
from dvecdb.errors import Code, DvecdbError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dvecdb.cli.demo import Report

_COLLECTION: Final = "served"
_BATCHES: Final = 12  # acknowledged before the server is killed
_START_SECONDS_MAX: Final = 30.0
_POLL_SECONDS: Final = 0.05


def serve_and_kill(place: Path, report: Report) -> None:
    """Write through a server, kill it, start it again, and compare what it has."""
    data, log = place / "served", place / "server.log"
    with _server(data, log) as (process, url):
        report.say(f"a server on {url}, started as 'dvecdb serve'; a client writes")
        writer = _Writer(url)
        writer.start()
        killed = writer.wait()
        process.kill()
        writer.join()
    acknowledged = writer.acknowledged
    report.check(
        killed,
        f"the server was killed (SIGKILL) under the client; acknowledged: {len(acknowledged)} "
        f"batches of {story.BATCH_ROWS} rows; the client saw: {writer.ended_by}",
    )
    with _server(data, log) as (_, url), dvecdb.connect(url) as database:
        served = database.collection(_COLLECTION)
        report.check(
            all(story.is_stored(served, batch, lsn) for batch, lsn in acknowledged.items()),
            f"started again, it has all {len(acknowledged) * story.BATCH_ROWS} of them, bit for "
            "bit, with their LSNs",
        )
        batch = len(acknowledged)
        for _ in range(2):
            _write(served, batch)
        report.check(
            served.count() == (batch + 1) * story.BATCH_ROWS
            and story.is_stored(served, batch, None),
            "the call in flight was made again, twice, with its idempotency key: it is there once",
        )


class _Writer(threading.Thread):
    """A client that writes until its server has gone."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.acknowledged: dict[int, int] = {}
        self.ended_by = "nothing"
        self._url = url
        self._enough = threading.Event()
        self._is_killed = False

    def wait(self) -> bool:
        """Wait until enough is acknowledged; return whether it is."""
        self._enough.wait(_START_SECONDS_MAX)
        return len(self.acknowledged) >= _BATCHES

    def run(self) -> None:
        """Write batch after batch."""
        try:
            with dvecdb.connect(self._url, attempts=1) as database:
                served = database.create_collection(_COLLECTION, dimension=story.DIMENSION)
                for batch in range(story.BATCHES_MAX):
                    self.acknowledged[batch] = _write(served, batch)
                    if len(self.acknowledged) == _BATCHES:
                        self._enough.set()
        except DvecdbError as error:
            self.ended_by = error.code
        finally:
            self._enough.set()


def _write(served: Any, batch: int) -> int:
    """Write a batch; return its LSN."""
    commit = served.insert(
        story.batch_ids(batch),
        story.batch_vectors(batch),
        story.batch_metadata(batch),
        idempotency_key=f"batch {batch}",
    )
    return int(commit.lsn)


@contextlib.contextmanager
def _server(data: Path, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run `dvecdb serve` on free ports as long as the context lasts."""
    command = [
        sys.executable, "-m", "dvecdb", "serve", "--data-dir", str(data), "--rest-port", "0",
        "--metrics-port", "0", "--log-format", "json",
    ]  # fmt: skip
    own = {name: value for name, value in os.environ.items() if not name.startswith("DVECDB_")}
    with (
        log.open("wb") as said,
        subprocess.Popen(command, env=own, stdout=said, stderr=said) as process,  # noqa: S603  # our own program
    ):
        try:
            yield process, _wait(process, log)
        finally:
            process.terminate()


def _wait(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the address of a server once it serves.

    Raises:
        UnavailableError: `unreachable`, it did not start.
    """
    for _ in range(round(_START_SECONDS_MAX / _POLL_SECONDS)):
        for line in log.read_bytes().splitlines():
            with contextlib.suppress(msgspec.MsgspecError):
                event = msgspec.json.decode(line, type=dict[str, Any])
                if event.get("event") == "server.started":
                    return str(event["rest"])
        if process.poll() is not None:
            break
        clock.sleep(_POLL_SECONDS)
    text = log.read_text(errors="replace")[-500:]
    raise UnavailableError(Code.UNREACHABLE, f"the server of the demo does not start: {text}")
