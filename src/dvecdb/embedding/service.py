"""A small embedding service over one model: an ASGI application.

    POST /embed           {"texts": [...]} or {"text": "..."}
                          -> {"embeddings": [[...]], "model", "dimension", "tokens"}
    POST /v1/embeddings   as OpenAI's: input, model, dimensions, encoding_format
    GET  /health          what it is and what it has done
    GET, POST /faults     what goes wrong; only if that was allowed
    GET  /texts           how often each text was embedded, by its hash; only together with faults

Errors are `{"error": {"message", "type", "code"}}` everywhere. An address that begins with `/v1`
speaks as OpenAI's does as far as embeddings go: `model` may be left out, but another model than
the one that is served is refused, and so are dimensions that it has not. `/health` needs no key.

The event loop reads and decides; the model, and the writing of its vectors, have threads.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
import numpy as np
import xxhash
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from dvecdb.embedding.model import EmbedError, Reason
from dvecdb.embedding.service_faults import Fault, FaultPlan, Faults, parse_faults
from dvecdb.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    import numpy.typing as npt
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from dvecdb.embedding.model import Embedder

    F32 = npt.NDArray[np.float32]

SERVICE: Final = "dvecdb-embedding-service"
"""What /health says it is."""
JSON: Final = "application/json"
_PROBE: Final = "What is the dimension of this text?"


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What a request may ask for. threads: requests that the model works on at a time."""

    texts_max: int = 256
    body_bytes_max: int = 8 * 2**20
    threads: int = 1


class EmbedRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `/embed`: one of `texts` and `text`; what else is said has to be true."""

    texts: list[str] | None = None
    text: str | None = None
    model: str | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None


class OpenAiRequest(msgspec.Struct, frozen=True):
    """The body of `/v1/embeddings`. Fields that change no vector, like `user`, are passed over."""

    input: str | list[str]
    model: str | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] = "float"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Texts to embed, and how the answer is to look."""

    texts: list[str]
    is_openai: bool
    is_base64: bool = False


class _RefusalError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def response(self) -> Response:
        """Return it as it is sent."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, kind)
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        body = msgspec.json.encode({"error": error})
        return Response(body, self.status, self.headers, JSON)


def text_hash(text: str) -> str:
    """Return what `/texts` calls a text."""
    return xxhash.xxh3_64_hexdigest(text.encode())


def make_app(
    model: Embedder,
    faults: Faults | None = None,
    *,
    draw: Callable[[], float] = lambda: 0.0,
    allow_faults: bool = False,
    aliases: Sequence[str] = (),
    api_key: str | None = None,
    limits: ServiceLimits | None = None,
) -> Starlette:
    """Return the application over an open model, which it closes with its lifespan.

    draw: random numbers in [0, 1), for the shares of `faults`. allow_faults: they may be changed
    by request, and texts are counted one by one. aliases: what the model may be called as well.
    The model embeds one text here.

    Raises:
        EmbedError: it could not.
    """
    service = _Service(
        model,
        FaultPlan(faults if faults is not None else Faults(), draw),
        aliases=aliases,
        api_key=api_key,
        counts=Counter() if allow_faults else None,
        limits=limits if limits is not None else ServiceLimits(),
    )
    routes = [
        Route("/embed", service.answering(service.embed), methods=["POST"]),
        Route("/v1/embeddings", service.answering(service.openai), methods=["POST"]),
        Route("/health", service.health, methods=["GET"]),
    ]
    if allow_faults:
        routes += [
            Route("/faults", service.answering(service.show_faults), methods=["GET"]),
            Route("/faults", service.answering(service.change_faults), methods=["POST"]),
            Route("/texts", service.answering(service.show_texts), methods=["GET"]),
        ]

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        service.close()

    return Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error, Exception: _unforeseen},
    )


class _Service:
    """The endpoints and their figures. On the event loop, but for `_work`."""

    def __init__(
        self,
        model: Embedder,
        plan: FaultPlan,
        *,
        aliases: Sequence[str],
        api_key: str | None,
        counts: Counter[str] | None,
        limits: ServiceLimits,
    ) -> None:
        self._model = model
        self._name = model.model.removeprefix("local:")
        self._names = {None, self._name, model.model, *aliases}
        self._dimension = model.embed([_PROBE]).vectors.shape[1]
        self._plan = plan
        self._key = api_key
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.threads)
        self._threads = ThreadPoolExecutor(limits.threads, "dvecdb-model")
        self._counts = counts
        self._requests = 0
        self._texts = 0
        self._tokens = 0
        self._in_flight = 0
        self._in_flight_max = 0

    def close(self) -> None:
        """Close the model; what waits for it is given up."""
        self._model.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # --- endpoints ---

    async def embed(self, request: Request) -> Response:
        """Answer `POST /embed`."""
        asked = await self._read(request, EmbedRequest)
        if (asked.texts is None) == (asked.text is None):
            raise _RefusalError(400, 'give either "texts", a list, or "text"')
        self._refuse_other(asked)
        texts = asked.texts if asked.texts is not None else [asked.text or ""]
        return await self._answer(request, _Wanted(texts, is_openai=False))

    async def openai(self, request: Request) -> Response:
        """Answer `POST /v1/embeddings`."""
        asked = await self._read(request, OpenAiRequest)
        self._refuse_other(asked)
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        is_base64 = asked.encoding_format == "base64"
        wanted = _Wanted(texts, is_openai=True, is_base64=is_base64)
        return await self._answer(request, wanted)

    def _refuse_other(self, asked: EmbedRequest | OpenAiRequest) -> None:
        """Refuse what another model is asked for."""
        if asked.model not in self._names:
            raise _RefusalError(
                404, f"there is no model {asked.model!r} here; this is {self._name}",
                "model_not_found",
            )  # fmt: skip
        if asked.dimensions not in {None, self._dimension}:
            raise _RefusalError(
                400, f"{self._name} has {self._dimension} dimensions; asked for {asked.dimensions}"
            )

    async def health(self, _: Request) -> Response:
        """Say what this is and what it has done. texts: those that the model embedded, in all."""
        figures: dict[str, object] = {
            "status": "ok",
            "service": SERVICE,
            "model": self._name,
            "dimension": self._dimension,
            "texts": self._texts,
            "tokens": self._tokens,
            "requests": self._requests,
            "in_flight": self._in_flight,
            "in_flight_max": self._in_flight_max,
            "faults": self._plan.happened,
        }
        if self._counts is not None:
            figures["distinct_texts"] = len(self._counts)
        return _json(figures)

    async def show_faults(self, _: Request) -> Response:
        """Answer `GET /faults`."""
        return _json(self._plan.faults)

    async def change_faults(self, request: Request) -> Response:
        """Answer `POST /faults`: what it does not name goes wrong no more."""
        values = await self._read(request, dict[str, Any])
        try:
            self._plan.change(parse_faults(values))
        except InvalidRequestError as error:
            raise _RefusalError(400, error.message) from error
        return _json(self._plan.faults)

    async def show_texts(self, _: Request) -> Response:
        """Answer `GET /texts`."""
        return _json(self._counts)

    # --- one request ---

    def answering(
        self, endpoint: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return the endpoint with its key asked for and its errors answered."""

        async def answered(request: Request) -> Response:
            try:
                self._check_key(request)
                return await endpoint(request)
            except _RefusalError as error:
                return error.response()
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it

        return answered

    def _check_key(self, request: Request) -> None:
        if self._key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), self._key.encode())
        if scheme.lower() != "bearer" or not same:
            raise _RefusalError(
                401, "the API key is missing or wrong; send it as Authorization: Bearer KEY",
                "invalid_api_key", www_authenticate="Bearer",
            )  # fmt: skip

    async def _read(self, request: Request, kind: Any) -> Any:
        """Return the decoded body."""
        size, parts, size_max = 0, [], self._limits.body_bytes_max
        async for part in request.stream():
            size += len(part)
            if size > size_max:
                raise _RefusalError(
                    413, f"the body is larger than {size_max:,} bytes; send fewer texts",
                    "body_too_large",
                )  # fmt: skip  # what is still to come is passed over
            parts.append(part)
        try:
            return msgspec.json.decode(b"".join(parts), type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _RefusalError(400, f"the body cannot be used: {error}") from error

    async def _answer(self, request: Request, wanted: _Wanted) -> Response:
        self._requests += 1
        self._check_texts(wanted.texts)
        faults = self._plan.faults
        fault = self._plan.decide(wanted.texts, is_indexed=wanted.is_openai)
        self._in_flight += 1
        self._in_flight_max = max(self._in_flight_max, self._in_flight)
        try:
            _refuse(fault, faults)
            body = await self._in_turn(request, wanted, fault)
            delay = faults.slow_ms / 1_000
            delay += faults.timeout_seconds if fault is Fault.TIMEOUTS else 0
            if delay:
                await asyncio.sleep(delay)
        finally:
            self._in_flight -= 1
        if fault is Fault.NOT_JSON:
            return Response("<html><body>Service is starting</body></html>", 200, None, "text/html")
        return _HalfResponse(body) if fault is Fault.HALF else Response(body, media_type=JSON)

    async def _in_turn(self, request: Request, wanted: _Wanted, fault: Fault | None) -> bytes:
        """Return the body of an answer when the model is free; nobody waits for those who left."""
        has_waited = self._slots.locked()
        async with self._slots:
            if has_waited and await request.is_disconnected():
                raise ClientDisconnect
            loop = asyncio.get_running_loop()
            body, tokens = await loop.run_in_executor(self._threads, self._work, wanted, fault)
        self._texts += len(wanted.texts)
        self._tokens += tokens
        if self._counts is not None:
            self._counts.update(map(text_hash, wanted.texts))
        return body

    def _check_texts(self, texts: Sequence[str]) -> None:
        if not texts:
            raise _RefusalError(400, "there is no text to embed: the list is empty")
        if len(texts) > self._limits.texts_max:
            raise _RefusalError(
                413, f"too many texts: {len(texts):,}; a request may have at most "
                f"{self._limits.texts_max:,}", "too_many_texts",
            )  # fmt: skip
        for number, text in enumerate(texts):
            if not text:
                raise _RefusalError(400, f"text {number} is empty")

    # --- in a thread of the model ---

    def _work(self, wanted: _Wanted, fault: Fault | None) -> tuple[bytes, int]:
        """Return the body of an answer, and how many tokens were read."""
        try:
            answer = self._model.embed(wanted.texts)
        except EmbedError as error:
            status = 400 if error.reason is Reason.REFUSED else 503
            raise _RefusalError(status, error.message) from error
        vectors, tokens = _spoiled(answer.vectors, fault), answer.tokens or 0
        if wanted.is_openai:
            body = self._openai_body(vectors, fault, tokens, is_base64=wanted.is_base64)
        else:
            body = {
                "embeddings": vectors.tolist(),
                "model": self._name,
                "dimension": self._dimension,
                "tokens": tokens,
            }
        if fault is Fault.NOT_FINITE:  # which JSON has no word for, but many a service writes it
            return json.dumps(body).encode(), tokens
        return msgspec.json.encode(body), tokens

    def _openai_body(
        self, vectors: F32, fault: Fault | None, tokens: int, *, is_base64: bool
    ) -> dict[str, object]:
        shown: Sequence[object] = (
            [base64.b64encode(row).decode() for row in vectors.astype("<f4")]
            if is_base64
            else vectors.tolist()
        )
        data = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(shown)
        ]
        if fault is Fault.WRONG_INDEX:
            data[1]["index"] = 0
        return {
            "object": "list",
            "data": data[::-1] if fault is Fault.SHUFFLED else data,
            "model": self._name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }


class _HalfResponse(Response):
    """Promises a whole body and sends half of it. The server then closes the connection."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body, media_type=JSON)

    async def __call__(
        self,
        scope: Scope,  # noqa: ARG002  # of ASGI
        receive: Receive,  # noqa: ARG002  # of ASGI
        send: Send,
    ) -> None:
        """Send it."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        half = self.body[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})


def _refuse(fault: Fault | None, faults: Faults) -> None:
    """Raise what takes the place of an answer, if something does."""
    if fault is Fault.ERRORS:
        raise _RefusalError(faults.fail_status, "the service was told to fail", "told_to_fail")
    if fault is Fault.REFUSED:
        raise _RefusalError(400, "a text contains what the service was told to refuse")
    if fault is Fault.RATE_LIMITS:
        raise _RefusalError(
            429, "too many requests; come back later", "rate_limit_exceeded",
            retry_after=f"{faults.retry_after_seconds:g}",
        )  # fmt: skip


def _spoiled(vectors: F32, fault: Fault | None) -> F32:
    """Return the vectors with what is to be wrong with them."""
    if fault is Fault.WRONG_COUNT:
        return vectors[:-1]
    if fault is Fault.WRONG_DIMENSION:
        return vectors[:, :-1]
    if fault is Fault.NOT_FINITE:
        vectors = vectors.copy()
        vectors[-1, 0] = np.nan
    return vectors


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type=JSON)


async def _http_error(_: Request, error: Exception) -> Response:
    """Answer an unknown path or a wrong method."""
    assert isinstance(error, HTTPException)
    return _RefusalError(error.status_code, error.detail, **(error.headers or {})).response()


async def _unforeseen(_: Request, error: Exception) -> Response:
    """Answer an error that nobody foresaw; the server then logs it."""
    return _RefusalError(500, f"the service failed: {type(error).__name__}").response()
