"""HTTP/1.1 on one connection: uvicorn's protocol, with an end to everything a client can draw out.

    nothing is sent           closed without a word after `keep_alive_seconds`
    headers are not finished  408 after `header_timeout_seconds` from their first byte
    headers, trailers or other bytes that are no body, beyond `header_bytes_max`      431
    more connections than `connections_max`    the longest idle one is closed, else 503
    an answer read slower than `WRITE_RATE_BYTES_MIN`  dropped
    closed before the body was read            a short linger, so that the answer arrives
    a wish for another protocol                ignored, as HTTP allows; uvicorn would lose the body

It overrides methods of uvicorn that are not public: pyproject.toml pins the minor version, and
tests/unit/test_protocol.py says which names it depends on.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from dvecdb.api.limits import ABORT
from dvecdb.errors import Code, DvecdbError, InvalidRequestError, UnavailableError
from dvecdb.wire.envelope import error_message

if TYPE_CHECKING:
    import asyncio

    from uvicorn.config import Config
    from uvicorn.server import ServerState

WRITE_RATE_BYTES_MIN: Final = 1024
WRITE_LOOK_SECONDS: Final = 30.0
"""An answer that waits for its client is looked at so often: it must have got less by the rate."""
LINGER_SECONDS: Final = 2.0
LINGER_BYTES_MAX: Final = 1024 * 1024
"""Read and thrown away after a refusal; a close with unread bytes could destroy the answer."""
GRACE_SECONDS: Final = 0.2
"""At shutdown an idle connection is read this long: what was sent before is answered."""
_UPGRADE: Final = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


@dataclass(slots=True)
class Connections:
    """What the connections of one listener share. `idle`: the longest idle comes first.

    `refused`: answers that were given here, by status.
    """

    header_timeout_seconds: float = 10.0
    header_bytes_max: int = 32 * 1024
    connections_max: int = 8_192
    is_stopping: bool = False
    open_count: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    idle: dict[LimitedProtocol, None] = field(default_factory=dict)


class _Transport:
    """The transport as uvicorn sees it: closing it early lingers."""

    def __init__(self, inner: asyncio.Transport, protocol: LimitedProtocol) -> None:
        self._inner = inner
        self._protocol = protocol
        self.is_lingering = False
        self.write = inner.write
        self.abort = inner.abort
        self.get_extra_info = inner.get_extra_info
        self.pause_reading = inner.pause_reading
        self.resume_reading = inner.resume_reading
        self.get_write_buffer_size = inner.get_write_buffer_size

    def is_closing(self) -> bool:
        """Return whether nothing more is read or written for uvicorn."""
        return self.is_lingering or self._inner.is_closing()

    def close(self) -> None:
        """Close after what was written has gone out; first linger if more was on its way in."""
        if self.is_closing():
            return
        if self._protocol.is_body_pending():
            self.is_lingering = True
            if self._inner.can_write_eof():
                self._inner.write_eof()
            self._inner.resume_reading()
            self._protocol.linger()
        else:
            self.close_now()

    def close_now(self) -> None:
        """Close after what was written has gone out."""
        self._inner.close()
        self._protocol.watch_writes()


class LimitedProtocol(HttpToolsProtocol):
    """One connection. `_in_head`: between the first byte of a request and the end of its headers.

    `_quiet_bytes`: received since the last sign of a request getting on.
    """

    transport: _Transport  # type: ignore[assignment]  # a part of it is all that uvicorn uses

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        shared: Connections,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.shared = shared
        self._head_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._unsent_bytes = 0
        self._has_progress = False
        self._quiet_bytes = 0
        self._is_refused = False

    # --- the connection ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, idle; make room for it if there are too many."""
        super().connection_made(_Transport(transport, self))  # type: ignore[arg-type]
        shared = self.shared
        shared.open_count += 1
        if len(self.connections) > shared.connections_max:
            if not shared.idle:
                self._refuse(503, _too_many_connections(shared.connections_max))
                return
            next(iter(shared.idle)).leave()
        self._become_idle(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything."""
        self.shared.open_count -= 1
        self.shared.idle.pop(self, None)
        for timer in (self._head_timer, self._linger_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def _become_idle(self, seconds: float) -> None:
        self.shared.idle[self] = None
        self._unset_keepalive_if_required()
        if self.shared.is_stopping:
            seconds = GRACE_SECONDS
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def leave(self) -> None:
        """Close, being idle."""
        self.shared.idle.pop(self, None)
        self.transport.close_now()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection whose time is over."""
        self.timeout_keep_alive_task = None
        self.leave()

    def shutdown(self) -> None:
        """Finish what was asked or is arriving, then close; an idle one in GRACE_SECONDS."""
        if self in self.shared.idle:
            self._become_idle(GRACE_SECONDS)
        elif self._is_answering():
            super().shutdown()

    # --- bytes in ---

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless it is thrown away."""
        if self._is_refused or self.transport.is_lingering:
            self._quiet_bytes += len(data)
            if self._quiet_bytes > LINGER_BYTES_MAX:
                self.transport.close_now()
            return
        self.shared.idle.pop(self, None)
        self._has_progress = False
        if (b"pgrade:" in data or b"PGRADE:" in data) and not self._is_answering():
            data = _without_upgrade(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        self._quiet_bytes = 0 if self._has_progress else self._quiet_bytes + len(data)
        if self._quiet_bytes > self.shared.header_bytes_max:
            self._refuse(431, _headers_too_large(self.shared.header_bytes_max))
        elif self._head_timer is None and not self._is_answering():
            seconds = self.shared.header_timeout_seconds
            self._head_timer = self.loop.call_later(seconds, self._head_late)

    def _is_answering(self) -> bool:
        cycle: Any = self.cycle  # None before the first request, whatever its annotation says
        return cycle is not None and not cycle.response_complete

    def _head_late(self) -> None:
        self._head_timer = None
        self._refuse(
            408,
            UnavailableError(
                Code.REQUEST_TIMEOUT,
                f"the headers were not complete within {self.shared.header_timeout_seconds:g} s; "
                "nothing was done",
            ),
        )

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        self._has_progress = True
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: self.transport.abort}  # type: ignore[dict-item]  # a call

    def on_headers_complete(self) -> None:
        """Hand the request to the application, unless its headers are too large."""
        self._has_progress = True
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self._is_refused:
            return
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.shared.header_bytes_max:
            self._refuse(431, _headers_too_large(self.shared.header_bytes_max))
            return
        super().on_headers_complete()
        if self.shared.is_stopping:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._has_progress = True
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        self._has_progress = True
        if not self._is_refused:
            super().on_message_complete()

    # --- bytes out ---

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None:
            self.shared.idle[self] = None

    def pause_writing(self) -> None:
        """Note that the client does not read as fast as we answer."""
        super().pause_writing()
        self.watch_writes()

    def watch_writes(self) -> None:
        """Drop the connection when what is to be sent does not get less."""
        if self._stall_timer is None and self.transport.get_write_buffer_size():
            self._unsent_bytes = self.transport.get_write_buffer_size()
            self._stall_timer = self.loop.call_later(WRITE_LOOK_SECONDS, self._look_at_writes)

    def _look_at_writes(self) -> None:
        self._stall_timer = None
        taken = self._unsent_bytes - self.transport.get_write_buffer_size()
        if taken < min(self._unsent_bytes, WRITE_RATE_BYTES_MIN * WRITE_LOOK_SECONDS):
            self.transport.abort()
        else:
            self.watch_writes()

    # --- refusing ---

    def is_body_pending(self) -> bool:
        """Return whether the client may still be sending what we do not want."""
        cycle: Any = self.cycle
        return self._is_refused or (cycle is not None and cycle.more_body)

    def linger(self) -> None:
        """Throw away what comes for a moment, then close."""
        self._quiet_bytes = 0
        self._linger_timer = self.loop.call_later(LINGER_SECONDS, self.transport.close_now)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(400, InvalidRequestError(Code.INVALID_ARGUMENT, f"{msg} It is not HTTP/1.1"))

    def _refuse(self, status: int, error: DvecdbError) -> None:
        """Answer without the application, and close."""
        if self._is_refused:
            return
        self._is_refused = True
        self.shared.refused[str(status)] += 1
        if self._is_answering():
            self.transport.abort()  # an answer is on its way, and another cannot come between
            return
        body = error_message(error)
        lines = [STATUS_LINE[status], b"content-type: application/json\r\n"]
        lines += [b"content-length: %d\r\nconnection: close\r\n" % len(body)]
        lines += [b"%s: %s\r\n" % item for item in self.server_state.default_headers]
        self.transport.write(b"".join([*lines, b"\r\n", body]))
        self.transport.close()


def _without_upgrade(data: bytes) -> bytes:
    """Return the data with the first head's wish for another protocol under a name of no meaning.

    Clients that would rather speak HTTP/2 send it with a body, which the parser then would not see.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    return b"".join((_UPGRADE.sub(b"\r\nx-upgrade:", head), end, rest))


def _headers_too_large(limit: int) -> InvalidRequestError:
    return InvalidRequestError(
        Code.HEADERS_TOO_LARGE,
        f"request line and headers may have {limit} bytes, found more; nothing was done",
        header_bytes_max=limit,
    )


def _too_many_connections(limit: int) -> UnavailableError:
    return UnavailableError(
        Code.TOO_MANY_REQUESTS,
        f"{limit} connections are open and none is idle; nothing was done. Try again later",
        connections_max=limit,
    )
