"""The composition root of a server: opens every part in order, serves, closes in reverse.

    settings and certificate -> ports bound -> data directory (its lock, recovery) -> keys ->
    is the address safe -> audit log, tasks, metrics -> application -> listening

Whatever cannot be is one error, before anything is served. The parts are closed within
CLOSE_SECONDS; what was acknowledged is on disk before, so a part that takes longer loses nothing.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

import dvecdb
from dvecdb.api.app import Api, ApiSettings, make_app
from dvecdb.api.audit import Audit
from dvecdb.api.auth import ANONYMOUS, Guard
from dvecdb.api.import_reports import ImportReports
from dvecdb.api.keys import KeyStore
from dvecdb.api.limits import LimitedApp, Limits
from dvecdb.api.metrics import Metrics
from dvecdb.api.recovery_log import log_expired
from dvecdb.api.server_directory import make_server_directory
from dvecdb.api.tasks import Tasks
from dvecdb.clock import NANOSECONDS_PER_SECOND, SystemClock
from dvecdb.engine.storage import write_failed
from dvecdb.errors import Code, InvalidRequestError
from dvecdb.formats import names
from dvecdb.media.files import OsFiles
from dvecdb.node.logs import request_log, start_logging
from dvecdb.node.metrics_page import MetricsPage
from dvecdb.node.protocol import Connections
from dvecdb.node.server import Listener, run
from dvecdb.node.sockets import bind, check_tls, raise_handle_limit
from dvecdb.rescue.database import Database
from dvecdb.telemetry import (
    AUDIT_ERRORS,
    CONNECTIONS,
    CONNECTIONS_REFUSED,
    LOG_LINES_DROPPED,
    REQUESTS_IN_FLIGHT,
    TASKS,
    Event,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from dvecdb.api.auth import Principal
    from dvecdb.api.limits import Answered, App
    from dvecdb.node.logs import LineWriter
    from dvecdb.node.settings import ServerSettings

CLOSE_SECONDS: Final = 3.0
FINDINGS_SHOWN_MAX: Final = 20
"""Findings that get a log line at the start; all are at /findings."""
NO_OPERATION: Final = "none"
"""The operation in metrics of a request that never got as far as having one."""

_log = structlog.get_logger("dvecdb.node")


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a server is made of."""

    database: Database
    guard: Guard
    audit: Audit
    tasks: Tasks
    imports: ImportReports
    metrics: Metrics
    uses_keys: bool


def serve(settings: ServerSettings, *, exit_now: Callable[[int], None]) -> bool:
    """Serve until a signal; return whether everything came to its end (else leave at once).

    exit_now: ends the process without another word. Main thread only.

    Raises:
        DvecdbError: it could not start: `invalid-settings`, `unsafe-address`, `port-in-use`,
            `directory-in-use`, `not-a-data-directory`, `legacy-directory`, `directory-unreadable`,
            `format-too-new`.
    """
    writer = start_logging(settings)
    is_whole = False
    try:
        is_whole = _serve(settings, exit_now, writer)
    finally:
        is_logged = writer.close()
    return is_whole and is_logged


def _serve(settings: ServerSettings, exit_now: Callable[[int], None], writer: LineWriter) -> bool:
    with contextlib.ExitStack() as stack:  # what fails below closes what was opened
        check_tls(settings)
        _check_plaintext(settings)
        shared = Connections(
            header_timeout_seconds=settings.header_timeout_seconds,
            header_bytes_max=settings.header_bytes_max,
            connections_max=raise_handle_limit(settings.connections_max),
        )
        bound = {
            setting: stack.enter_context(bind(settings.host, port, setting))
            for setting, port in (
                ("rest_port", settings.rest_port),
                ("metrics_port", settings.metrics_port),
            )
        }
        parts = open_parts(settings, stack)
        log = request_log(settings, writer, SystemClock())
        limited = _limited(settings, parts, log, stack)
        _watch(parts, limited, shared)
        parts.metrics.watch(
            LOG_LINES_DROPPED, "Log lines that nobody took in time.", lambda: writer.dropped
        )
        listeners = _listeners(settings, parts, limited, shared, bound, stack)
        _announce(parts.database, listeners[0].url)
        stopping = _Stopping(parts.tasks, settings.shutdown_seconds)
        run(
            listeners,
            when_started=lambda: _say_started(settings, parts, listeners),
            when_stopping=stopping.begin,
            exit_now=exit_now,
        )
        stopping.wait()
        closed = _close(stack.pop_all())
    is_whole = closed and limited.in_flight == 0
    _log.info(Event.SERVER_STOPPED, abandoned=limited.in_flight, closed=closed)
    return is_whole


class _Stopping:
    """How embedding jobs end with the server: asked at the signal, with as long as requests have.

    What is under way then is committed; what is not answered in time is asked for again by the
    next run.
    """

    def __init__(self, tasks: Tasks, seconds: float) -> None:
        self._tasks = tasks
        self._clock = SystemClock()
        self._seconds = seconds
        self._end_ns: int | None = None

    def begin(self) -> None:
        """Ask the jobs to stop. Waits for nothing."""
        self._end_ns = self._clock.monotonic_ns() + int(self._seconds * NANOSECONDS_PER_SECOND)
        self._tasks.stop_apart()

    def wait(self) -> None:
        """Wait for their end, or until the time is up."""
        if self._end_ns is None:
            self.begin()
        assert self._end_ns is not None
        left_ns = self._end_ns - self._clock.monotonic_ns()
        self._tasks.wait_apart(max(0.0, left_ns / NANOSECONDS_PER_SECOND))


def open_parts(settings: ServerSettings, stack: contextlib.ExitStack) -> _Parts:
    """Open the data directory and what a server keeps in it; `stack` closes them.

    Raises:
        DvecdbError: as `serve`.
    """
    files, clock, path = OsFiles(), SystemClock(), settings.data_dir
    database = Database(path, settings=settings.engine, files=files, clock=clock)
    stack.callback(database.close)
    database.on_expired = log_expired
    keys = KeyStore(files, make_server_directory(files, path, names.KEYS), clock=clock)
    stack.callback(keys.close)
    uses_keys = bool(keys.all())
    _check_authentication(settings, uses_keys=uses_keys)
    keys.start()
    audit = Audit(files, make_server_directory(files, path, names.AUDIT), clock=clock)
    stack.callback(audit.close)
    tasks = Tasks(files, make_server_directory(files, path, names.TASKS), clock=clock)
    stack.callback(tasks.close)
    imports = ImportReports(files, make_server_directory(files, path, names.IMPORTS))
    stack.callback(imports.close)
    metrics = Metrics(
        path, engine=settings.engine, version=dvecdb.__version__, files=files, clock=clock
    )
    return _Parts(database, _FirstKeyGuard(keys), audit, tasks, imports, metrics, uses_keys)


class _FirstKeyGuard(Guard):
    """Everybody may do everything until there is a key; from then on, for ever, keys are asked for.

    Where that is not safe, the server has not started without one.
    """

    def __init__(self, keys: KeyStore) -> None:
        super().__init__(keys)
        self._store = keys
        self._has_keys = False

    def authenticate(self, headers: Mapping[str, str]) -> Principal:
        """Return who asks; see `Guard`."""
        self._has_keys = self._has_keys or self._store.holds_any()
        return super().authenticate(headers) if self._has_keys else ANONYMOUS


def _limited(
    settings: ServerSettings,
    parts: _Parts,
    log: Callable[[Answered], None],
    stack: contextlib.ExitStack,
) -> LimitedApp:
    clock = SystemClock()
    limits = Limits(
        body_bytes_max=settings.body_bytes_max,
        requests_in_flight_max=settings.requests_in_flight_max,
        request_timeout_seconds=settings.request_timeout_seconds,
        body_grace_seconds=settings.body_grace_seconds,
        body_rate_bytes_min=settings.body_rate_bytes_min,
    )
    app = make_app(
        parts.database,
        guard=parts.guard,
        audit=parts.audit,
        tasks=parts.tasks,
        imports=parts.imports,
        metrics=parts.metrics,
        settings=ApiSettings(
            legacy_errors=settings.legacy_errors,
            import_roots=settings.import_roots,
            jobs_max=settings.jobs_max,
            job_env=settings.job_env,
            environment=os.environ,
        ),
        clock=clock,
    )
    assert isinstance(app, Api)
    stack.callback(app.close)
    stack.callback(parts.tasks.stop)  # before: threads of the application wait for tasks

    def answered(request: Answered) -> None:
        parts.metrics.observe(request.operation or NO_OPERATION, request.status, request.seconds)
        log(request)

    return LimitedApp(app, limits, clock=clock, on_answered=answered)


def _watch(parts: _Parts, limited: LimitedApp, shared: Connections) -> None:
    metrics = parts.metrics
    metrics.watch(REQUESTS_IN_FLIGHT, "Requests being worked on.", lambda: limited.in_flight)
    metrics.watch(
        CONNECTIONS,
        "Open connections.",
        lambda: {"idle": len(shared.idle), "busy": shared.open_count - len(shared.idle)},
        label="state",
    )
    metrics.watch(
        CONNECTIONS_REFUSED,
        "Connections closed with an answer before there was a request.",
        lambda: dict(shared.refused),
        label="status",
    )
    metrics.watch(
        AUDIT_ERRORS, "Failures of the audit log.", lambda: parts.audit.figures().failures
    )
    metrics.watch(TASKS, "Tasks known.", lambda: _task_counts(parts.tasks), label="state")


def _task_counts(tasks: Tasks) -> Mapping[str, float]:
    counts: dict[str, float] = {}
    for task in tasks.list():
        counts[task.state] = counts.get(task.state, 0) + 1
    return counts


def _listeners(
    settings: ServerSettings,
    parts: _Parts,
    limited: LimitedApp,
    shared: Connections,
    bound: Mapping[str, socket.socket],
    stack: contextlib.ExitStack,
) -> list[Listener]:
    page = MetricsPage(parts.metrics, parts.database)
    stack.callback(page.close)
    rest = Listener(
        _with_cors(limited, settings), bound["rest_port"], shared, settings, setting="rest_port"
    )
    metrics = Listener(
        page.app, bound["metrics_port"], Connections(), settings, setting="metrics_port"
    )
    return [rest, metrics]


def _with_cors(app: App, settings: ServerSettings) -> App:
    if not settings.cors_origins:
        return app
    from starlette.middleware.cors import CORSMiddleware  # noqa: PLC0415  # only if it is wanted

    return CORSMiddleware(
        app,
        allow_origins=settings.cors_origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["Dvecdb-LSN", "Location", "Retry-After", "X-Request-Id"],
    )


def _announce(database: Database, url: str) -> None:
    """Write into LOCK where this server is, so that the command line finds it.

    Raises:
        OutcomeUnknownError, DiskFullError: LOCK cannot be written, so nothing else could be.
    """
    try:
        database.announce(url)
    except OSError as error:
        raise write_failed("writing the address into LOCK", error) from error


def _close(stack: contextlib.ExitStack) -> bool:
    """Close the parts; return whether they were closed in time."""
    thread = threading.Thread(target=stack.close, name="dvecdb-close", daemon=True)
    thread.start()
    thread.join(CLOSE_SECONDS)
    return not thread.is_alive()


# --- what is checked before anything is served ----------------------------------------------


def _check_plaintext(settings: ServerSettings) -> None:
    if settings.is_loopback or settings.tls_cert is not None or settings.allow_plaintext:
        return
    raise InvalidRequestError(
        Code.UNSAFE_ADDRESS,
        f"{settings.host} is not loopback and there is no TLS, so that keys and data could be "
        "read on the way. Set tls_cert and tls_key, or say allow_plaintext if something in "
        "front of the server does it",
        host=settings.host,
    )


def _check_authentication(settings: ServerSettings, *, uses_keys: bool) -> None:
    if settings.is_loopback or uses_keys or settings.allow_unauthenticated:
        return
    raise InvalidRequestError(
        Code.UNSAFE_ADDRESS,
        f"{settings.host} is not loopback and there is no API key, so that everybody could do "
        f"everything. Make one with 'dvecdb keys create --data-dir {settings.data_dir}', or say "
        "allow_unauthenticated",
        host=settings.host,
    )


# --- what is said ---------------------------------------------------------------------------


def _say_started(settings: ServerSettings, parts: _Parts, listeners: list[Listener]) -> None:
    trash, backups = len(parts.database.trash()), len(parts.database.backups())
    roots = ", ".join(settings.import_roots) or "none"
    _log.info(
        Event.RECOVERY,
        message=f"recovery: soft delete {settings.engine.trash_hours} h, trash {trash}, "
        f"backups {backups}, import roots {roots}",
        trash_hours=settings.engine.trash_hours,
        trash=trash,
        backups=backups,
        import_roots=list(settings.import_roots),
    )
    findings = parts.database.findings()
    for finding in findings[:FINDINGS_SHOWN_MAX]:
        _log.warning(
            Event.FINDING,
            code=finding.code,
            collection=finding.collection,
            message=finding.message,
            lost=finding.lost,
        )
    _log.info(
        Event.SETTING_IGNORED,
        setting="grpc_port",
        message=f"gRPC is not served yet; port {settings.grpc_port} stays closed",
    )
    if not settings.is_loopback and not (parts.uses_keys and settings.tls_cert):
        _log.warning(
            Event.UNSAFE_ADDRESS,
            host=settings.host,
            keys=parts.uses_keys,
            tls=settings.tls_cert is not None,
        )
    _log.info(
        Event.SERVER_STARTED,
        version=dvecdb.__version__,
        rest=listeners[0].url,
        metrics=f"{listeners[1].url}/metrics",
        data_dir=settings.data_dir,
        collections=len(parts.database.collections()),
        findings=len(findings),
        keys=parts.uses_keys,
    )
