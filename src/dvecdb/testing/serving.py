"""A real server for tests and benchmarks: the application on a free loopback port, in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn

from dvecdb.api.app import ApiSettings, make_app
from dvecdb.api.audit import Audit
from dvecdb.api.auth import Guard
from dvecdb.api.import_reports import ImportReports
from dvecdb.api.limits import LimitedApp, Limits
from dvecdb.api.metrics import Metrics
from dvecdb.api.server_directory import make_server_directory
from dvecdb.api.tasks import Tasks
from dvecdb.clock import SystemClock
from dvecdb.formats import names
from dvecdb.media.files import OsFiles
from dvecdb.rescue.database import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dvecdb.api.keys import KeyStore
    from dvecdb.api.limits import App

_START_SECONDS = 30.0


@dataclass(slots=True)
class Served:
    """A server that runs. `database`: what it serves, for white-box looks."""

    url: str
    port: int
    database: Database


@contextlib.contextmanager
def serving(
    path: str,
    *,
    keys: KeyStore | None = None,
    limits: Limits | None = None,
    port: int = 0,
    wrap: Callable[[App], App] = lambda app: app,
    tls: tuple[str, str] | None = None,
    import_roots: tuple[str, ...] = (),
    **database_options: Any,
) -> Iterator[Served]:
    """Serve the data directory at `path` until the context ends; the database is closed then.

    port: 0 for a free one; wrap: around the application, inside the limits; tls: files of a
    certificate and its key; import_roots: what imports may read; database_options: of `Database`.
    """
    files = OsFiles()
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(Database(path, **database_options))
        audit = Audit(files, make_server_directory(files, path, names.AUDIT))
        stack.callback(audit.close)
        tasks = Tasks(files, make_server_directory(files, path, names.TASKS))
        stack.callback(tasks.close)
        imports = ImportReports(files, make_server_directory(files, path, names.IMPORTS))
        stack.callback(imports.close)
        app = make_app(
            database,
            guard=Guard(keys),
            audit=audit,
            tasks=tasks,
            imports=imports,
            metrics=Metrics(path),
            clock=SystemClock(),
            settings=ApiSettings(import_roots=import_roots),
        )
        wrapped = wrap(app)

        async def route(scope: Any, receive: Any, send: Any) -> None:
            await (wrapped if scope["type"] == "http" else app)(scope, receive, send)

        limited = LimitedApp(route, limits if limits is not None else Limits())
        bound = stack.enter_context(_bind(port))
        stack.enter_context(_listening(limited, bound, tls))
        port = bound.getsockname()[1]
        yield Served(f"{'http' if tls is None else 'https'}://127.0.0.1:{port}", port, database)


def _bind(port: int) -> socket.socket:
    """Return a bound socket. Its protocol is named: asyncio sends at once on such sockets only."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound


@contextlib.contextmanager
def _listening(app: Any, bound: socket.socket, tls: tuple[str, str] | None) -> Iterator[None]:
    """Run uvicorn on a bound socket, in a thread with an event loop of its own."""
    started = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started.set()

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    certificate, key = tls if tls is not None else (None, None)
    server = Server(
        uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            ssl_certfile=certificate,
            ssl_keyfile=key,
            timeout_graceful_shutdown=5,
        )
    )

    def serve() -> None:
        with asyncio.Runner() as runner:
            runner.run(server.serve([bound]))

    thread = threading.Thread(target=serve, name="server", daemon=True)
    thread.start()
    assert started.wait(_START_SECONDS), "the server did not start"
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()
