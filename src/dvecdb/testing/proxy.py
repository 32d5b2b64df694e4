"""A TCP proxy on loopback that breaks exchanges on purpose: the network's part in a fault test."""

from __future__ import annotations

import contextlib
import socket
import threading
from enum import Enum
from typing import TYPE_CHECKING, Self

from dvecdb.client.exchange import AnswerReader

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

_PIECE_BYTES = 64 * 1024


class Fault(Enum):
    """What happens to one exchange."""

    NONE = "none"
    REFUSED = (
        "refused"  # the connection is closed when the request arrives: the server never saw it
    )
    HALF_REQUEST = "half request"  # the server gets half of the request, then nothing
    LOST_ANSWER = "lost answer"  # the server answered; the client sees a closed connection
    HALF_ANSWER = "half answer"  # the client gets half of the answer
    SILENCE = "silence"  # the server answered; the client hears nothing, ever


class Proxy:
    """Passes exchanges to a server, and breaks those that `faults` say, in order of arrival.

    `_lock` guards the faults to come. A connection carries exchanges until one is broken.
    """

    def __init__(self, port: int, faults: Iterable[Fault] = ()) -> None:
        self._target = port
        self._lock = threading.Lock()
        self._faults = list(faults)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.exchanges = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        """Return the proxy."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the listener and every connection."""
        for item in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)
            item.close()

    def plan(self, *faults: Fault) -> None:
        """Break the next exchanges like this; those after them pass."""
        with self._lock:
            self._faults = list(faults)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            server = socket.create_connection(("127.0.0.1", self._target))
            self._open.append(server)
            with server:
                while self._exchange(client, server):
                    pass

    def _exchange(self, client: socket.socket, server: socket.socket) -> bool:
        """Pass one exchange; return whether the connection goes on."""
        request = _read_request(client)
        if not request:
            return False
        with self._lock:
            fault = self._faults.pop(0) if self._faults else Fault.NONE
            self.exchanges += 1
        if fault is Fault.REFUSED:
            return False
        if fault is Fault.HALF_REQUEST:
            server.sendall(request[: len(request) // 2])
            return False
        server.sendall(request)
        answer = _read_answer(server)
        if fault is Fault.LOST_ANSWER:
            return False
        if fault is Fault.SILENCE:
            client.recv(1)  # until the client gives up
            return False
        client.sendall(answer if fault is Fault.NONE else answer[: len(answer) // 2])
        return fault is Fault.NONE


def _read_request(client: socket.socket) -> bytes:
    """Return one request with its body, as long as its Content-Length says; nothing at the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(_PIECE_BYTES)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    (length,) = [
        int(line.partition(b":")[2])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    ]
    parts, size = [data], len(body)
    while size < length:
        parts.append(client.recv(_PIECE_BYTES))
        if not parts[-1]:
            return b""
        size += len(parts[-1])
    return b"".join(parts)


def _read_answer(server: socket.socket) -> bytes:
    """Return one whole answer."""
    reader, parts = AnswerReader(), []
    while not reader.done:
        parts.append(server.recv(_PIECE_BYTES))
        reader.feed(parts[-1])
    return b"".join(parts)
