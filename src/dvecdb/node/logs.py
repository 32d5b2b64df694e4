"""Log lines of a server: JSON or for people, on stderr, written by a thread of their own.

A reader of the log that does not read costs lines, not requests: what does not fit into the queue
is dropped and counted. Never in a line: vectors, metadata, documents, keys; facts that are called
so are blanked whoever wrote them.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from dvecdb.telemetry import Event

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import TextIO

    from structlog.typing import EventDict, WrappedLogger

    from dvecdb.api.limits import Answered
    from dvecdb.node.settings import ServerSettings

LINES_MAX: Final = 10_000
"""Lines that wait to be written; more are dropped."""
GATHER_SECONDS: Final = 0.02
"""A line waits this long for others to be written with."""
CLOSE_SECONDS: Final = 0.5

_SECRETS: Final = frozenset(
    {"api_key", "authorization", "body", "data", "documents", "metadata", "payload", "query",
     "token", "vector", "vectors"}
)  # fmt: skip
_BLANK: Final = "(not logged)"


class LineWriter:
    """Writes lines to a stream from a thread. `dropped`: lines that found no room.

    It writes some at a time: a wake-up for each would cost the requests more than the lines do.
    """

    def __init__(self, stream: TextIO, lines_max: int = LINES_MAX) -> None:
        self.dropped = 0
        self._stream = stream
        self._lines_max = lines_max
        self._lines: deque[str] = deque()
        self._ready = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dvecdb-log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Queue a line; never waits. Any thread."""
        if len(self._lines) >= self._lines_max:
            self.dropped += 1
            return
        self._lines.append(line)
        if not self._ready.is_set():
            self._ready.set()

    def close(self) -> bool:
        """Write what waits, within CLOSE_SECONDS; return whether all of it was written."""
        self._closing.set()
        self._ready.set()
        self._thread.join(CLOSE_SECONDS)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._ready.wait()
            self._closing.wait(GATHER_SECONDS)
            self._ready.clear()
            self._write_all()
        self._write_all()

    def _write_all(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        if not lines:
            return
        try:
            self._stream.write("\n".join(lines) + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # the reader has gone, or the stream is closed
            self.dropped += len(lines)


class _Lines:
    """What structlog takes for the logger at the bottom."""

    def __init__(self, writer: LineWriter) -> None:
        self.msg = writer.write
        self.debug = self.info = self.warning = self.error = self.critical = writer.write
        self.exception = writer.write


class _FromStandardLibrary(logging.Handler):
    """Passes on what libraries log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Make an event of a record."""
        structlog.get_logger("dvecdb.library").log(
            record.levelno,
            Event.LIBRARY,
            logger=record.name,
            message=record.getMessage(),
            exc_info=record.exc_info,
        )


def start_logging(settings: ServerSettings, stream: TextIO | None = None) -> LineWriter:
    """Send every event of this process to `stream` (stderr), and return its writer to be closed."""
    stream = stream if stream is not None else sys.stderr
    is_terminal = stream.isatty()
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not is_terminal)
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    writer = LineWriter(stream)
    ending: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=is_terminal)]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _blank_secrets,
            *ending,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(writer),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for old in [item for item in root.handlers if isinstance(item, _FromStandardLibrary)]:
        root.removeHandler(old)
    root.addHandler(_FromStandardLibrary(max(level, logging.WARNING)))
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # its warnings are for clients
    return writer


def log_request(answered: Answered) -> None:
    """Write the line of one answered request."""
    structlog.get_logger("dvecdb.api").info(
        Event.REQUEST,
        request_id=answered.request_id,
        method=answered.method,
        path=answered.path,
        status=answered.status,
        duration_seconds=round(answered.seconds, 6),
        body_bytes=answered.body_bytes,
        operation=answered.operation,
        key_name=answered.principal,
        client=answered.client,
        code=answered.code,
    )


def _blank_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for name in _SECRETS.intersection(event):
        event[name] = _BLANK
    return event


def _json(event: MutableMapping[str, Any], **_: object) -> str:
    first = {name: event.pop(name, None) for name in ("timestamp", "level", "event")}
    return msgspec.json.encode({**first, **event}, enc_hook=str).decode()
