"""What one request may cost: pure ASGI, between the server's sockets and the application.

    refused before the application sees it   declared body too large 413, encoded body 415,
                                             too many requests in flight 429
    while the body is read                   too large 413, too slow 408
    afterwards                               deadline 503, or the connection is dropped if the
                                             answer had begun

An answer given before the body was read to its end closes the connection: the rest of the body is
not swallowed. A deadline ends the waiting, not the work: a call into the engine cannot be
cancelled, so it keeps its place among the requests in flight until it returns. There is none for
what the application calls `unhurried`.

The node puts `LimitedApp` around what `make_app` returns, and counts and logs every request once,
through `on_answered`; the application leaves `operation` and `principal` in `scope["state"]`.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from dvecdb.clock import SystemClock
from dvecdb.errors import Code, DvecdbError, InvalidRequestError, ServerError, UnavailableError
from dvecdb.telemetry import Event
from dvecdb.wire.envelope import error_message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from dvecdb.clock import Clock

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]
    Headers = list[tuple[bytes, bytes]]

ABORT: Final = "dvecdb.abort"
"""The ASGI extension of our protocol: a function that drops the connection at once."""

UNHURRIED: Final = "unhurried"
"""Key of `scope["state"]`: the application says that the deadline is not for this request."""

_SANE_ID: Final = re.compile(rb"[A-Za-z0-9_.-]{1,64}")
_NANOSECONDS: Final = 1_000_000_000

_log = structlog.get_logger("dvecdb.api")


@dataclass(frozen=True, slots=True)
class Limits:
    """Named maxima of the requests of one server."""

    body_bytes_max: int = 64 * 1024 * 1024
    requests_in_flight_max: int = 256
    request_timeout_seconds: float = 60.0
    body_grace_seconds: float = 10.0
    """A body has this long, plus what its size takes at the rate below."""
    body_rate_bytes_min: int = 16 * 1024
    bodies_max: int = 8
    """Bodies of the largest size that may be in memory together; more are answered 429."""
    retry_after_seconds: int = 1


@dataclass(frozen=True, slots=True)
class Answered:
    """One finished request, for the request log and the metrics.

    `operation`: what the application put into `scope["state"]["operation"]`, if it got that far;
    `principal`: likewise. `code`: of an answer that was given here. `status` 0: no answer, the
    client had gone.
    """

    request_id: str
    method: str
    path: str
    status: int
    seconds: float
    body_bytes: int
    operation: str | None
    principal: str | None
    client: str | None
    code: str | None


class LimitedApp:
    """Request ids, body limit, slow bodies, requests in flight, deadline; see the module.

    Sets `scope["state"]["request_id"]` and the header `X-Request-Id` of every answer. What the
    application does after an answer was given here goes nowhere. Event loop only.
    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        *,
        clock: Clock | None = None,
        on_answered: Callable[[Answered], None] | None = None,
    ) -> None:
        self.app = app
        self.limits = limits
        self.clock: Clock = clock if clock is not None else SystemClock()
        self.on_answered = on_answered
        self.in_flight = 0
        """Requests that the application works on, those past their deadline included."""
        self.body_bytes = 0
        """Their bodies, as far as they were read."""
        self._id_start = uuid.uuid4().hex[:16]
        self._requests = itertools.count(1)

    def next_id(self) -> str:
        """Return the id of a request: random but once, as each time would be a system call."""
        return f"{self._id_start}{next(self._requests):016x}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await _Request(self, scope, receive, send).serve()


class _AnsweredError(BaseException):
    """Leaves the application: the answer was given. Not an Exception, so that no net catches it."""


class _Request:
    """One request on its way; `started`: the application's answer; `refused`: ours."""

    def __init__(self, owner: LimitedApp, scope: Scope, receive: Receive, send: Send) -> None:
        self._owner = owner
        self._limits = owner.limits
        self._scope = scope
        self._receive = receive
        self._send = send
        self._begun_ns = owner.clock.monotonic_ns()
        self._declared: int | None = 0  # None: chunked
        self._encoding: bytes | None = None
        self._id = ""
        self._read_headers()
        self._id = self._id or owner.next_id()
        self._has_body = self._declared != 0  # and not yet read to its end
        self._body_bytes = 0
        self._status = 0
        self._started = False
        self._refused: DvecdbError | None = None
        self._refusing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._answered_ns = 0
        self._is_reported = False
        scope.setdefault("state", {})["request_id"] = self._id

    def _read_headers(self) -> None:
        is_chunked = False
        for name, value in self._scope["headers"]:
            if name == b"content-length":
                self._declared = int(value) if value.isdigit() else 0
            elif name == b"transfer-encoding":
                is_chunked = True
            elif name == b"content-encoding":
                self._encoding = value.strip().lower()
            elif name == b"x-request-id" and _SANE_ID.fullmatch(value):
                self._id = value.decode()
        if is_chunked:
            self._declared = None

    # --- serving ---

    async def serve(self) -> None:
        """Refuse it or let the application answer it, within the limits."""
        refusal = self._refusal()
        if refusal is not None:
            await self._refuse(*refusal)
            return
        self._owner.in_flight += 1
        try:
            self._arm()
            await self._owner.app(self._scope, self.receive, self.send)
        except _AnsweredError:
            pass
        except asyncio.CancelledError:
            if self._started or self._refused is not None:
                raise
            await self._refuse(503, _stopping())
        except Exception:  # noqa: BLE001  # the last net: whatever it was, the client gets an answer
            _log.exception(Event.REQUEST_FAILED, request_id=self._id)
            if self._started:
                self._drop()
            elif self._refused is None:
                await self._refuse(500, _unforeseen(self._id))
        finally:
            self._disarm()
            self._owner.in_flight -= 1
            self._owner.body_bytes -= self._body_bytes
            if self._refusing is not None:
                await self._refusing
            self._report()

    def _refusal(self) -> tuple[int, DvecdbError] | None:
        limits = self._limits
        if self._declared is not None and self._declared > limits.body_bytes_max:
            return 413, _too_large(self._declared, limits.body_bytes_max)
        if self._encoding not in {None, b"identity", b""}:
            return 415, InvalidRequestError(
                Code.UNSUPPORTED_MEDIA_TYPE,
                f"Content-Encoding {self._encoding!r} is not supported; send the body as it is",
            )
        if self._owner.in_flight >= limits.requests_in_flight_max and not self._is_probe():
            return 429, UnavailableError(
                Code.TOO_MANY_REQUESTS,
                f"{self._owner.in_flight} requests are in flight, which is the most this server "
                f"takes; nothing was done. Try again after {limits.retry_after_seconds} s",
                requests_in_flight_max=limits.requests_in_flight_max,
            )
        return None

    def _is_probe(self) -> bool:
        """Whether somebody asks if we live: a busy server that says no is killed for it."""
        path: str = self._scope["path"]
        return path in {"/health", "/ready"} or path.startswith("/health/")

    async def receive(self) -> Message:
        """Return the next part of the body, while it is small and fast enough."""
        if self._refused is not None:
            raise _AnsweredError
        message = await self._receive()
        if self._refused is not None:
            raise _AnsweredError
        if message["type"] == "http.request":
            await self._count(len(message.get("body", b"")))
            if not message.get("more_body", False) and self._has_body:
                self._has_body = False
                self._arm()
        return message

    async def _count(self, size_bytes: int) -> None:
        limits = self._limits
        self._body_bytes += size_bytes
        self._owner.body_bytes += size_bytes
        if self._body_bytes > limits.body_bytes_max:
            await self._refuse(413, _too_large(None, limits.body_bytes_max))
            raise _AnsweredError
        if self._owner.body_bytes > limits.bodies_max * limits.body_bytes_max:
            await self._refuse(429, _too_many_bytes(self._owner.body_bytes, limits))
            raise _AnsweredError

    async def send(self, message: Message) -> None:
        """Pass on a part of the application's answer, unless one was given."""
        if self._refused is not None:
            return
        if message["type"] == "http.response.start":
            self._started = True
            self._status = message["status"]
            message = {**message, "headers": self._headers(message.get("headers", ()))}
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._answered_ns = self._owner.clock.monotonic_ns()
            self._disarm()

    def _headers(self, given: Any) -> Headers:
        headers: Headers = [item for item in given if item[0].lower() != b"x-request-id"]
        headers.append((b"x-request-id", self._id.encode()))
        if self._has_body:
            headers.append((b"connection", b"close"))
        return headers

    # --- time ---

    def _arm(self) -> None:
        """Start the clock of what is next: the rest of the body, or the work."""
        self._disarm()
        loop = asyncio.get_running_loop()
        if self._has_body:
            self._timer = loop.call_later(self._limits.body_grace_seconds, self._look_at_body)
        else:
            self._timer = loop.call_later(self._limits.request_timeout_seconds, self._late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at_body(self) -> None:
        limits = self._limits
        seconds = (self._owner.clock.monotonic_ns() - self._begun_ns) / _NANOSECONDS
        allowed = limits.body_grace_seconds + self._body_bytes / limits.body_rate_bytes_min
        if seconds < allowed:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(allowed - seconds, 0.05), self._look_at_body)
            return
        self._give_up(
            408,
            UnavailableError(
                Code.REQUEST_TIMEOUT,
                f"{self._body_bytes} bytes of the body in {seconds:.1f} s; expected at least "
                f"{limits.body_rate_bytes_min} bytes/s after {limits.body_grace_seconds:g} s. "
                "Nothing was done",
                body_bytes=self._body_bytes,
            ),
        )

    def _late(self) -> None:
        if self._scope["state"].get(UNHURRIED):
            return
        seconds = self._limits.request_timeout_seconds
        self._give_up(
            503,
            UnavailableError(
                Code.DEADLINE_EXCEEDED,
                f"not done within {seconds:g} s. The work was not stopped: a write may still "
                "complete, and the same call with the same idempotency key settles it",
                request_timeout_seconds=seconds,
            ),
        )

    def _give_up(self, status: int, error: DvecdbError) -> None:
        self._timer = None
        if self._started:
            self._drop()
        elif self._refused is None:
            self._refusing = asyncio.get_running_loop().create_task(self._refuse(status, error))

    def _drop(self) -> None:
        """Drop the connection: the answer has begun and cannot be taken back."""
        abort = self._scope.get("extensions", {}).get(ABORT)
        if abort is not None:
            abort()

    # --- our answers ---

    async def _refuse(self, status: int, error: DvecdbError) -> None:
        self._refused, self._status = error, status
        self._disarm()
        body = error_message(error)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        if status == 429:
            headers.append((b"retry-after", str(self._limits.retry_after_seconds).encode()))
        await self._send(
            {"type": "http.response.start", "status": status, "headers": self._headers(headers)}
        )
        await self._send({"type": "http.response.body", "body": body})
        self._answered_ns = self._owner.clock.monotonic_ns()
        self._report()

    def _report(self) -> None:
        if self._owner.on_answered is None or self._is_reported:
            return
        self._is_reported = True
        state, client = self._scope["state"], self._scope.get("client")
        end_ns = self._answered_ns or self._owner.clock.monotonic_ns()
        self._owner.on_answered(
            Answered(
                request_id=self._id,
                method=self._scope["method"],
                path=self._scope["path"],
                status=self._status,
                seconds=(end_ns - self._begun_ns) / _NANOSECONDS,
                body_bytes=self._body_bytes,
                operation=state.get("operation"),
                principal=state.get("principal"),
                client=client[0] if client else None,
                code=self._refused.code if self._refused is not None else None,
            )
        )


def _too_large(declared: int | None, limit: int) -> InvalidRequestError:
    found = "more" if declared is None else f"{declared}"
    return InvalidRequestError(
        Code.BODY_TOO_LARGE,
        f"the body may have {limit} bytes, found {found}; nothing was done. "
        "Send several smaller batches",
        body_bytes_max=limit,
    )


def _too_many_bytes(found: int, limits: Limits) -> UnavailableError:
    return UnavailableError(
        Code.TOO_MANY_REQUESTS,
        f"the bodies of the requests in flight have {found} bytes together, which is more than "
        f"this server takes; nothing was done. Try again after {limits.retry_after_seconds} s",
    )


def _stopping() -> UnavailableError:
    return UnavailableError(
        Code.DEADLINE_EXCEEDED,
        "the server is stopping and could not finish this in time. A write may still complete: "
        "the same call with the same idempotency key settles it",
    )


def _unforeseen(request_id: str) -> ServerError:
    return ServerError(
        Code.SERVER_ERROR,
        f"the server failed; its log says more under request id {request_id}",
        request_id=request_id,
    )
