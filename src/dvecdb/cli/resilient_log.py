"""The log of `generate_embeddings_resilient.py`: the lines that its users know, and its checkpoint.

The checkpoint file says the same as the log, for people and scripts that look at it. Where a run
goes on, the database alone decides.
"""

from __future__ import annotations

import json
import math
import re
import threading
from typing import TYPE_CHECKING, Final

from dvecdb.cli.output import say, visible
from dvecdb.clock import to_datetime
from dvecdb.embedding import events
from dvecdb.embedding.model import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from dvecdb.clock import Clock

_OTHERS: Final[Mapping[str, str]] = {"source": "PostgreSQL", "database": "dvecdb"}
_STATUS: Final = re.compile(r"\banswered (\d{3})\b")
_WORDS: Final = (
    (re.compile(r"timed out|timeout|in time|did not (answer|finish)", re.IGNORECASE),
     "Connection timeout"),
    (re.compile(r"refused", re.IGNORECASE), "Connection refused"),
    (re.compile(r"reset|broken pipe|closed", re.IGNORECASE), "Connection lost"),
)  # fmt: skip


class Journal:
    """Writes lines: `[2025-10-29 10:00:00] INFO: ...`, in local time."""

    def __init__(self, clock: Clock, write: Callable[[str], None] = say) -> None:
        self._clock = clock
        self._write = write

    def tell(self, text: str) -> None:
        """Write a line about what goes as it should."""
        self._line("INFO", text)

    def warn(self, text: str) -> None:
        """Write a line about what does not."""
        self._line("WARNING", text)

    def fail(self, text: str) -> None:
        """Write a line about what ends the run."""
        self._line("ERROR", text)

    def _line(self, level: str, text: str) -> None:
        now = to_datetime(self._clock.wall_ns()).astimezone()
        self._write(f"[{now:%Y-%m-%d %H:%M:%S}] {level}: {visible(text)}")


class Checkpoint:
    """A JSON file: of each source, how many records are done."""

    def __init__(self, path: Path, sources: Iterable[str], journal: Journal) -> None:
        self.counts: dict[str, int] = {}
        self._path = path
        self._journal = journal
        self._is_written = True
        self._load(set(sources))

    def _load(self, sources: set[str]) -> None:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            self.counts = {name: int(found[name]) for name in sources & found.keys()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, AttributeError, TypeError) as error:
            self._journal.warn(f"{self._path} cannot be read and is ignored: {error}")

    def save(self) -> None:
        """Replace the file, as a whole. The run does not need it: a failure is told once."""
        beside = self._path.with_name(self._path.name + ".partial")
        try:
            beside.write_text(str(self) + "\n", encoding="utf-8")
            beside.replace(self._path)
        except OSError as error:
            if self._is_written:
                self._journal.warn(f"The checkpoint file cannot be written: {error}")
            self._is_written = False
        else:
            self._is_written = True

    def __str__(self) -> str:
        """Return its content."""
        return json.dumps(self.counts)


def reason_words(event: events.AttemptFailed) -> str:
    """Return why a try failed, in a few words."""
    status = _STATUS.search(event.message)
    if status is not None:
        words = f"HTTP {status[1]}"
    elif event.reason == Reason.TIMEOUT:
        words = "Connection timeout"
    elif event.reason == Reason.WRONG_ANSWER:
        words = event.message
    else:
        found = (said for pattern, said in _WORDS if pattern.search(event.message))
        words = next(found, event.message)
    where = _OTHERS.get(event.what)
    return words if where is None else f"{words} ({where})"


class Narrator:
    """Is told the events of a run, in any thread, and writes the lines. page: rows of a batch."""

    def __init__(self, journal: Journal, checkpoint: Checkpoint, page: int) -> None:
        self._journal = journal
        self._checkpoint = checkpoint
        self._page = page
        self._lock = threading.Lock()
        self._is_connected = False
        self._last = 0
        self._batch_said = True

    def __call__(self, event: object) -> None:
        """Take in an event."""
        with self._lock:
            if isinstance(event, events.Committed):
                self._committed(event)
            elif isinstance(event, events.PageRead):
                self._fetched(event)
            elif isinstance(event, events.AttemptFailed):
                self._failed(event)
            else:
                self._other(event)

    def _other(self, event: object) -> None:
        journal = self._journal
        match event:
            case events.SourceReached() if not self._is_connected:
                self._is_connected = True
                journal.tell("✅ Connected to PostgreSQL")
            case events.SourceStarted():
                self._started(event)
            case events.Reconnected():
                journal.tell("✅ Reconnected successfully")
            case events.Paused():
                journal.warn(f"Paused: {event.why}")
            case events.Resumed():
                journal.tell("✅ Going on")
            case events.Split():
                journal.warn(f"A request of {event.texts} texts is halved: {event.message}")
            case events.Buried():
                journal.warn(f"Record {event.key} has no vector: {event.message}")
            case events.RetryStarted():
                journal.tell(
                    f"Trying {event.rows} {event.source} records without a vector once more"
                )
            case events.SourceDone():
                cursor = event.cursor
                journal.tell(
                    f"✅ Finished {event.source} incidents: {cursor.cursor} processed, "
                    f"{cursor.embedded} embedded, {cursor.failed} failed"
                )
            case events.Noted():
                journal.tell(event.message)

    def _started(self, event: events.SourceStarted) -> None:
        journal, counts = self._journal, self._checkpoint.counts
        self._last, self._batch_said = event.cursor, True
        journal.tell(f"Processing {event.source} incidents")
        said = counts.get(event.source)
        if said is not None and said != event.before:
            journal.warn(
                f"The checkpoint file says {said} {event.source} records, the database "
                f"{event.before}: the database is right"
            )
        if event.resumed:
            journal.tell(f"Resuming from record #{event.cursor}")
        elif event.before:
            journal.tell("Comparing every record with its vector; unchanged ones cost nothing")
        counts[event.source] = event.cursor

    def _fetched(self, event: events.PageRead) -> None:
        self._last, self._batch_said = event.last, False
        of = "" if event.total is None else f"/{math.ceil(event.total / self._page)}"
        self._journal.tell(
            f"[Batch {event.number}{of}] Fetching {event.source} records {event.first} to "
            f"{event.last}..."
        )

    def _committed(self, event: events.Committed) -> None:
        cursor = event.cursor
        self._checkpoint.counts[event.source] = cursor.cursor
        self._checkpoint.save()
        if cursor.cursor < self._last or self._batch_said:
            return
        self._batch_said = True
        done = f"{cursor.cursor}"
        if cursor.total:
            done += f"/{cursor.total} processed ({100 * cursor.cursor / cursor.total:.1f}%)"
        else:
            done += " processed"
        self._journal.tell(f"✅ Batch complete: {done}")
        self._journal.tell(f"Checkpoint saved: {self._checkpoint}")

    def _failed(self, event: events.AttemptFailed) -> None:
        number = "" if event.attempt is None else f" {event.attempt}"
        number += "" if event.attempts is None else f"/{event.attempts}"
        self._journal.warn(f"Attempt{number} failed: {reason_words(event)}")
        seconds = math.ceil(event.wait_seconds)
        self._journal.tell(f"Retrying in {seconds} second{'' if seconds == 1 else 's'}...")
