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
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from dvecdb.clock import to_datetime
from dvecdb.telemetry import Event

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from typing import TextIO

    from structlog.typing import EventDict, WrappedLogger

    from dvecdb.api.limits import Answered
    from dvecdb.clock import Clock
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
_encode = msgspec.json.Encoder().encode


class LineWriter:
    """Writes lines to a stream from a thread. `dropped`: lines that found no room.

    It writes some at a time: a wake-up for each would cost the requests more than the lines do.
    """

    def __init__(self, stream: TextIO, lines_max: int = LINES_MAX) -> None:
        self.dropped = 0
        self.stream = stream
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
            self.stream.write("\n".join(lines) + "\n")
            self.stream.flush()
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
    level = _level(settings)
    writer = LineWriter(stream)
    ending: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
        if _is_json(settings, stream)
        else [structlog.dev.ConsoleRenderer(colors=stream.isatty())]
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


def _level(settings: ServerSettings) -> int:
    return logging.getLevelNamesMapping()[settings.log_level.upper()]


def _is_json(settings: ServerSettings, stream: TextIO) -> bool:
    return settings.log_format == "json" or (settings.log_format == "auto" and not stream.isatty())


class _RequestLine(msgspec.Struct, frozen=True):
    """The line of one answered request, in JSON as `start_logging` would have it written."""

    timestamp: datetime
    level: str
    event: str
    request_id: str
    method: str
    path: str
    status: int
    duration_seconds: float
    body_bytes: int
    operation: str | None
    key_name: str | None
    client: str | None
    code: str | None


def request_log(
    settings: ServerSettings, writer: LineWriter, clock: Clock
) -> Callable[[Answered], None]:
    """Return what writes the line of an answered request.

    There is one for every request: in JSON it does without the chain of the other events, which
    took a fifth of what a small request costs the event loop.
    """
    if _level(settings) > logging.INFO:
        return lambda _: None
    if not _is_json(settings, writer.stream):
        return lambda answered: _say_request(_line(answered, clock))
    return lambda answered: writer.write(_encode(_line(answered, clock)).decode())


def _line(answered: Answered, clock: Clock) -> _RequestLine:
    return _RequestLine(
        to_datetime(clock.wall_ns()), "info", Event.REQUEST, answered.request_id, answered.method,
        answered.path, answered.status, round(answered.seconds, 6), answered.body_bytes,
        answered.operation, answered.principal, answered.client, answered.code,
    )  # fmt: skip


def _say_request(line: _RequestLine) -> None:
    facts = msgspec.structs.asdict(line)
    for name in ("timestamp", "level", "event"):
        del facts[name]
    structlog.get_logger("dvecdb.api").info(Event.REQUEST, **facts)


def _blank_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for name in _SECRETS.intersection(event):
        event[name] = _BLANK
    return event


def _json(event: MutableMapping[str, Any], **_: object) -> str:
    first = {name: event.pop(name, None) for name in ("timestamp", "level", "event")}
    return msgspec.json.encode({**first, **event}, enc_hook=str).decode()
