"""The ASGI application: routes a request, runs its operation in a thread, writes the answer.

On the event loop: routing, the key, reading the body. Then one hop to a thread, which decodes the
body, calls the engine and encodes the answer; nothing else ever waits. Reads and writes have
threads of their own, and the writes many, so that one sync can serve them all.

Every failure is an error body with the status of its code; what nobody foresaw is `server-error`,
with the request id and no traceback, which goes to the log.

Left in `scope["state"]` for whoever counts, logs and limits: `operation`, `principal`, `unhurried`.
Its `request_id` is used if there is one.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import structlog

from dvecdb.api.audit import AuditEntry
from dvecdb.api.auth import ANONYMOUS
from dvecdb.api.context import Answer, Context, Parts
from dvecdb.api.docs_page import docs_page
from dvecdb.api.endpoints import ENDPOINTS, Endpoint, Thread
from dvecdb.api.jobs import RUNNING_MAX, Jobs
from dvecdb.api.limits import UNHURRIED
from dvecdb.api.openapi import describe
from dvecdb.api.recovery_log import log_recovery
from dvecdb.api.requests import (
    answer_format,
    headers_of,
    read_body,
    read_query,
    write_options,
)
from dvecdb.api.routing import Routes
from dvecdb.api.status import APPLICATION_CODES, status_of
from dvecdb.api.subjects import subject_of
from dvecdb.api.threads import Threads
from dvecdb.errors import Code, DvecdbError, InvalidRequestError, ServerError
from dvecdb.telemetry import JOBS_RUNNING, Event
from dvecdb.wire.codec import DEPTH_MAX, Format, encode
from dvecdb.wire.envelope import enveloped, error_message, legacy_error_message

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope, Send

    from dvecdb.api.audit import Audit
    from dvecdb.api.auth import Guard, Principal
    from dvecdb.api.import_reports import ImportReports
    from dvecdb.api.metrics import Metrics
    from dvecdb.api.tasks import Tasks
    from dvecdb.clock import Clock
    from dvecdb.rescue.database import Database


_ACCEPTED: Final = 202  # a task was started: what it comes to is noted at its end
_log = structlog.get_logger("dvecdb.api")


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Settings of the application.

    legacy_errors: application errors of endpoints kept from before are answered with status 200.
    import_roots: directories that an import or a job may read, besides the data directory.
    jobs_max: embedding jobs at once; job_env: variables of `environment` that they may name.
    read_threads: as many as processors; beside the event loop, each more waits for the
    interpreter's lock: three on two processors answered a tenth fewer searches than two.
    """

    legacy_errors: bool = False
    import_roots: tuple[str, ...] = ()
    jobs_max: int = RUNNING_MAX
    job_env: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    read_threads: int = field(default_factory=lambda: max(2, min(8, os.cpu_count() or 1)))
    write_threads: int = 64


def make_app(
    database: Database,
    *,
    guard: Guard,
    audit: Audit,
    tasks: Tasks,
    imports: ImportReports,
    metrics: Metrics,
    clock: Clock,
    settings: ApiSettings | None = None,
) -> Api:
    """Return the application over an open database; the lifespan's end waits for its threads."""
    chosen = settings if settings is not None else ApiSettings()
    jobs = Jobs(chosen.jobs_max)
    metrics.watch(JOBS_RUNNING, "Embedding jobs that run in the server.", lambda: len(jobs))
    description = describe(ENDPOINTS, legacy_errors=chosen.legacy_errors)
    parts = Parts(
        database=database,
        guard=guard,
        audit=audit,
        tasks=tasks,
        imports=imports,
        import_roots=chosen.import_roots,
        jobs=jobs,
        job_env=chosen.job_env,
        environment=chosen.environment,
        metrics=metrics,
        clock=clock,
        started_ns=clock.monotonic_ns(),
        description=encode(description, Format.JSON),
        docs=docs_page(description).encode(),
    )
    return Api(parts, chosen)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer on its way out."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class _Call:
    """One request of an endpoint: what the thread needs of it."""

    __slots__ = ("address", "body", "context", "endpoint", "query_string")

    def __init__(
        self, endpoint: Endpoint, context: Context, query_string: bytes, address: str | None
    ) -> None:
        self.endpoint = endpoint
        self.context = context
        self.query_string = query_string
        self.address = address
        self.body = b""


class Api:
    """The ASGI application. Its threads end with the lifespan, or with `close`."""

    def __init__(self, parts: Parts, settings: ApiSettings) -> None:
        self._parts = parts
        self._settings = settings
        self._routes = Routes(ENDPOINTS)
        self._threads = {
            Thread.READ: Threads("dvecdb-read", settings.read_threads),
            Thread.WRITE: Threads("dvecdb-write", settings.write_threads),
        }

    def close(self) -> None:
        """Wait for the operations that run, and end the threads."""
        for threads in self._threads.values():
            threads.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                await asyncio.to_thread(self.close)
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope.setdefault("state", {})
        request_id = state.get("request_id") or state.setdefault("request_id", uuid.uuid4().hex)
        form = Format.JSON
        try:
            headers = headers_of(scope["headers"])
            form = answer_format(headers)
            endpoint, path = self._routes.find(scope["method"], _raw_path(scope))
            state["operation"] = endpoint.name
            state[UNHURRIED] = endpoint.unhurried
            call = self._admit(scope, endpoint, path, headers, request_id)
            if endpoint.request is not None:
                call.body = await _read(receive)
            if endpoint.thread is Thread.LOOP:
                reply = self._answer(call)
            else:
                reply = await self._threads[endpoint.thread].run(self._answer, call)
        except DvecdbError as error:
            reply = error_reply(error, form)
        except _GoneError:
            return
        reply.headers.append((b"x-request-id", request_id.encode()))
        reply.headers.append((b"content-length", str(len(reply.body)).encode()))
        await send(
            {"type": "http.response.start", "status": reply.status, "headers": reply.headers}
        )
        await send({"type": "http.response.body", "body": reply.body})

    def _admit(
        self,
        scope: Scope,
        endpoint: Endpoint,
        path: dict[str, str],
        headers: Mapping[str, str],
        request_id: str,
    ) -> _Call:
        """Return the call, if whoever makes it may.

        Raises:
            AuthError: `unauthenticated`, `forbidden`.
        """
        client = scope.get("client")
        address = client[0] if client else None
        principal: Principal | None = None
        try:
            if endpoint.scope is not None:
                guard = self._parts.guard
                principal = guard.authenticate(headers)
                scope["state"]["principal"] = principal.name
                if endpoint.asks_itself:
                    guard.require_scope(principal, endpoint.scope)
                else:
                    guard.require(principal, endpoint.scope, subject_of(path))
        except DvecdbError as error:
            if endpoint.mutates:
                self._record(endpoint, path, principal, address, request_id, error)
            raise
        context = Context(
            parts=self._parts,
            principal=principal if principal is not None else ANONYMOUS,
            request_id=request_id,
            path=path,
            query=None,
            headers=headers,
            form=answer_format(headers),
        )
        return _Call(endpoint, context, scope.get("query_string", b""), address)

    # --- in a thread ---

    def _answer(self, call: _Call) -> Reply:
        """Decode, call, encode."""
        endpoint, context = call.endpoint, call.context
        request: Any = None
        answer: Answer | None = None
        failure: DvecdbError | None = None
        try:
            context.query = read_query(endpoint, call.query_string)
            if endpoint.mutates:
                context.options = write_options(
                    context.headers, context.principal, context.request_id
                )
                context.note = partial(self._note, call)
            request = read_body(endpoint, context.headers, call.body)
            answer = endpoint.operation(context, request)
            reply = self._reply(endpoint, answer, context.form)
        except DvecdbError as error:
            failure = error
            reply = self._error_reply(endpoint, error, context.form)
        except RecursionError:
            failure = _too_deep()
            reply = error_reply(failure, context.form)
        except Exception:  # noqa: BLE001 - the last net: the client gets an answer whatever it was
            _log.exception(Event.REQUEST_FAILED, request_id=context.request_id)
            failure = unforeseen(context.request_id)
            reply = error_reply(failure, context.form)
        if endpoint.mutates:
            self._note(call, answer, failure, request)
        return reply

    def _note(
        self, call: _Call, answer: Answer | None, failure: DvecdbError | None, request: Any = None
    ) -> None:
        """Write what a call came to into the audit log, and into the log if it is of recovery."""
        context = call.context
        entry = self._record(
            call.endpoint, context.path, context.principal, call.address, context.request_id,
            failure, answer=answer, options=context.options,
            subject=context.subject or getattr(request, "name", None),
        )  # fmt: skip
        if failure is None and answer is not None and entry.status != _ACCEPTED:
            is_trial = any(getattr(item, "dry_run", False) for item in (request, answer.data))
            log_recovery(entry, context.path, answer.data, dry_run=is_trial)

    def _reply(self, endpoint: Endpoint, answer: Answer, form: Format) -> Reply:
        if endpoint.media is not None:
            body, media = answer.data, answer.media or endpoint.media
        else:
            media = str(form)
            body = (enveloped if endpoint.enveloped else encode)(answer.data, form)
        headers = [(b"content-type", media.encode())]
        if answer.lsn is not None:
            headers.append((b"dvecdb-lsn", str(answer.lsn).encode()))
        headers += [(name.encode(), value.encode()) for name, value in answer.headers.items()]
        return Reply(_status(answer), headers, body)

    def _error_reply(self, endpoint: Endpoint, error: DvecdbError, form: Format) -> Reply:
        is_plain = self._settings.legacy_errors and endpoint.legacy
        if is_plain and error.code in APPLICATION_CODES:
            headers = [(b"content-type", str(form).encode())]
            return Reply(200, headers, legacy_error_message(error, form))
        return error_reply(error, form)

    def _record(
        self,
        endpoint: Endpoint,
        path: Mapping[str, str],
        principal: Principal | None,
        address: str | None,
        request_id: str,
        failure: DvecdbError | None,
        *,
        answer: Answer | None = None,
        subject: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> AuditEntry:
        """Write a line of the audit log, and return it."""
        done = answer if failure is None else None
        given = options or {}
        entry = AuditEntry(
            key=principal.name if principal is not None else None,
            address=address,
            method=endpoint.method,
            operation=endpoint.name,
            collection=subject_of(path) or subject,
            rows=done.rows if done is not None else None,
            lsn=done.lsn if done is not None else None,
            status=_status(done) if failure is None else status_of(failure),
            code=None if failure is None else str(failure.code),
            request_id=request_id,
            actor=given.get("actor"),
            reason=given.get("reason"),
        )
        is_durable = endpoint.durable_audit and failure is None
        self._parts.audit.record(entry, durable=is_durable)
        return entry


def _status(answer: Answer | None) -> int:
    return 200 if answer is None or answer.status is None else answer.status


def error_reply(error: DvecdbError, form: Format) -> Reply:
    """Return the answer to a request that failed."""
    headers = [(b"content-type", str(form).encode())]
    if error.code == Code.UNAUTHENTICATED:
        headers.append((b"www-authenticate", b"Bearer"))
    elif error.code == Code.METHOD_NOT_ALLOWED:
        allowed = error.details.get("allowed", ())
        assert isinstance(allowed, list)
        headers.append((b"allow", ", ".join(allowed).encode()))
    elif error.code == Code.TOO_MANY_REQUESTS:
        headers.append((b"retry-after", b"1"))
    return Reply(status_of(error), headers, error_message(error, form))


def unforeseen(request_id: str) -> ServerError:
    """Return what the client is told about a failure that nobody foresaw."""
    return ServerError(
        Code.SERVER_ERROR,
        f"the server failed; its log says more under request id {request_id}",
        request_id=request_id,
    )


def _too_deep() -> InvalidRequestError:
    return InvalidRequestError(
        Code.INVALID_BODY,
        f"a value is nested too deeply; at most {DEPTH_MAX} levels of lists and objects are read",
        limit=DEPTH_MAX,
    )


def _raw_path(scope: Scope) -> bytes:
    raw: bytes | None = scope.get("raw_path")
    return quote(scope["path"]).encode() if raw is None else raw.partition(b"?")[0]


class _GoneError(Exception):
    """The client went away before its request was whole: it is not done."""


async def _read(receive: Receive) -> bytes:
    """Return the whole body. How much it may be and how long it may take, `limits` decides."""
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _GoneError
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
