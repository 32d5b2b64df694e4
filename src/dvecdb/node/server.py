"""Serving: listeners on bound sockets, and how they stop.

running --first signal--> stopping: no new connections; what was accepted is answered, idle
                          connections close, what is not done after `shutdown_seconds` gets 503
stopping ---------------> stopped: listeners and connections are closed
any ------second signal-> the process ends at once; everything acknowledged is on disk
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from typing import TYPE_CHECKING, Any, Final

import structlog
import uvicorn
import uvloop

from dvecdb.node.protocol import Connections, LimitedProtocol
from dvecdb.node.sockets import close_to_new, port_in_use
from dvecdb.telemetry import Event

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

    from dvecdb.api.limits import App
    from dvecdb.node.settings import ServerSettings

BACKLOG: Final = 2_048
"""Connections that the system keeps for us until we accept them."""
ANSWER_SECONDS: Final = 0.5
"""For the answers to requests that were given up at the end."""
_LOOKS: Final = 10
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_log = structlog.get_logger("dvecdb.node")


class Listener(uvicorn.Server):
    """One bound socket and the application behind it."""

    def __init__(
        self,
        app: App,
        bound: socket.socket,
        shared: Connections,
        settings: ServerSettings,
        *,
        setting: str,
    ) -> None:
        self._bound = bound
        self._shared = shared
        self._setting = setting
        protocol: Any = functools.partial(LimitedProtocol, shared=shared)
        seconds: Any = settings.shutdown_seconds  # a float serves as well as its int
        keep_alive: Any = settings.keep_alive_seconds
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=keep_alive,
                timeout_graceful_shutdown=seconds,
                ssl_certfile=settings.tls_cert,
                ssl_keyfile=settings.tls_key,
            )
        )

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._bound.getsockname()[:2]
        scheme = "https" if self.config.is_ssl else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: `run` has them."""
        yield

    async def listen(self, when_started: Callable[[], None]) -> None:
        """Serve until told to stop, then until everything accepted is answered.

        Raises:
            DirectoryError: `port-in-use`, another process was faster.
        """
        address = self._bound.getsockname()
        try:
            self._bound.listen(BACKLOG)
        except OSError as error:
            raise port_in_use(address[0], address[1], self._setting) from error
        self._when_started = when_started
        await self.serve([self._bound])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept, and say so."""
        await super().startup(sockets)
        self._when_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, answer what was accepted, close."""
        self._shared.is_stopping = True
        late = self._bound.dup()
        close_to_new(late)  # who came between the last look and the end would be cut off
        for server in self.servers:
            server.close()
        await self._accept_last(late)
        await super().shutdown(sockets)
        if self.server_state.tasks:
            await asyncio.wait(list(self.server_state.tasks), timeout=ANSWER_SECONDS)
        await self._drop_connections()

    async def _drop_connections(self) -> None:
        """Let the last answers go out; whoever does not take them is cut off."""
        connections: Any = self.server_state.connections
        for _ in range(_LOOKS):
            if not connections:
                return
            await asyncio.sleep(ANSWER_SECONDS / _LOOKS)
        for connection in list(connections):
            connection.transport.abort()
        await asyncio.sleep(ANSWER_SECONDS / _LOOKS)

    async def _accept_last(self, late: socket.socket) -> None:
        """Take the connections that the system had accepted for us already."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = late.accept()
            except OSError:  # there is none left
                break
            with contextlib.suppress(OSError):
                await loop.connect_accepted_socket(
                    self._new_protocol, connection, ssl=self.config.ssl
                )
        late.close()

    def _new_protocol(self) -> asyncio.Protocol:
        return LimitedProtocol(self.config, self.server_state, {}, shared=self._shared)


def run(
    listeners: Sequence[Listener],
    *,
    when_started: Callable[[], None],
    when_stopping: Callable[[], None],
    exit_now: Callable[[int], None],
) -> None:
    """Serve until a signal; return when everything accepted is answered. Main thread only.

    The first listener stops first: the others (metrics) still answer while it does.
    when_stopping: is called at the signal, and may not wait.
    exit_now: ends the process without another word, for the second signal.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(listeners, when_started, when_stopping, exit_now))


async def _run(
    listeners: Sequence[Listener],
    when_started: Callable[[], None],
    when_stopping: Callable[[], None],
    exit_now: Callable[[int], None],
) -> None:
    loop = asyncio.get_running_loop()
    waiting = len(listeners)

    def started() -> None:
        nonlocal waiting
        waiting -= 1
        if not waiting:
            when_started()

    def stop(number: int) -> None:
        if listeners[0].should_exit:
            exit_now(128 + number)
        _log.info(Event.SERVER_STOPPING, signal=signal.Signals(number).name)
        listeners[0].should_exit = True
        when_stopping()

    for number in SIGNALS:
        loop.add_signal_handler(number, stop, int(number))
    tasks = [asyncio.ensure_future(listener.listen(started)) for listener in listeners]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for listener in listeners:
            listener.should_exit = True
        for task in done:
            task.result()
    finally:
        for listener in listeners:
            listener.should_exit = True
        await asyncio.gather(*tasks, return_exceptions=True)
