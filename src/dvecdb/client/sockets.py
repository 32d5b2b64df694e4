"""The blocking transport: a pool of sockets for any number of threads.

A thread takes an idle connection, or makes one, for the time of one exchange; an exchange that did
not end with a whole answer closes its connection. An idle connection on which anything arrived (the
server closed it) is not used again. A forked child begins with an empty pool of its own and never
touches its parent's connections.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
from typing import TYPE_CHECKING

from dvecdb.client.exchange import (
    RECEIVE_BYTES,
    Answer,
    AnswerReader,
    BadAnswerError,
    connect_failed,
    lost,
    request_pieces,
    timed_out,
    too_many,
)

if TYPE_CHECKING:
    from dvecdb.client.address import Address, Limits


class SocketPool:
    """Connections to one server."""

    def __init__(self, address: Address, limits: Limits) -> None:
        self._address = address
        self._limits = limits
        self._shared = _Shared(limits.connections_max)

    def exchange(self, head: bytes, body: bytes, *, fresh: bool = False) -> Answer:
        """Send a request and return its answer. `fresh`: on a connection of its own.

        Raises:
            ExchangeError: there is no answer.
        """
        shared = self._mine()
        if not shared.places.acquire(timeout=self._limits.timeout):
            raise too_many(self._limits)
        connection = None
        try:
            connection = None if fresh else shared.take()
            if connection is None:
                connection = self._connect()
            answer, is_reusable = _converse(connection, head, body, self._limits)
            if is_reusable:
                shared.give(connection)
                connection = None
            return answer
        finally:
            if connection is not None:
                connection.close()
            shared.places.release()

    def close(self) -> None:
        """Close the idle connections; one that is in use is closed when it is given back."""
        self._mine().close()

    def _mine(self) -> _Shared:
        shared = self._shared
        if shared.pid != os.getpid():
            shared = self._shared = _Shared(self._limits.connections_max)
        return shared

    def _connect(self) -> _Connection:
        address, limits = self._address, self._limits
        plain = None
        try:
            plain = socket.create_connection(
                (address.host, address.port), timeout=limits.connect_timeout
            )
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if address.tls is not None:
                plain = address.tls.wrap_socket(plain, server_hostname=address.host)
        except (OSError, ValueError) as error:
            if plain is not None:
                plain.close()
            raise connect_failed(error, limits) from error
        plain.settimeout(limits.timeout)
        return _Connection(plain)


class _Shared:
    """What the threads of one process share. `_lock` guards the list of idle connections."""

    def __init__(self, connections_max: int) -> None:
        self.pid = os.getpid()
        self.places = threading.BoundedSemaphore(connections_max)
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._is_closed = False

    def take(self) -> _Connection | None:
        """Return the connection that was used last, or None."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if not connection.has_input(0):
                return connection
            connection.close()

    def give(self, connection: _Connection) -> None:
        """Keep a connection for the next exchange."""
        with self._lock:
            if not self._is_closed:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close what is idle and keep nothing from now on."""
        with self._lock:
            idle, self._idle, self._is_closed = self._idle, [], True
        for connection in idle:
            connection.close()


class _Connection:
    """A socket, plain or TLS, and a poll of it."""

    def __init__(self, plain: socket.socket) -> None:
        self.socket = plain
        self._poll = select.poll()
        self._poll.register(plain, select.POLLIN)

    def has_input(self, milliseconds: int) -> bool:
        """Return whether anything can be read, an end included."""
        if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            return True
        return bool(self._poll.poll(milliseconds))

    def close(self) -> None:
        """Close the socket."""
        with contextlib.suppress(OSError):
            self.socket.close()


def _converse(
    connection: _Connection, head: bytes, body: bytes, limits: Limits
) -> tuple[Answer, bool]:
    """Return the answer and whether the connection may be used again."""
    reader, is_whole = AnswerReader(), True
    try:
        is_whole = _send(connection, head, body)
        while not reader.done:
            reader.feed(connection.socket.recv(RECEIVE_BYTES))
    except TimeoutError:
        raise timed_out(limits) from None
    except (OSError, BadAnswerError) as error:
        raise lost(error) from error
    return reader.answer(), reader.is_reusable and is_whole


def _send(connection: _Connection, head: bytes, body: bytes) -> bool:
    """Send a request; return False if the server answered, or closed, before it had all of it."""
    for number, piece in enumerate(request_pieces(head, body)):
        if number > 1 and connection.has_input(0):
            return False
        try:
            connection.socket.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            if not connection.has_input(0):
                raise
            return False  # it may have said why
    return True
