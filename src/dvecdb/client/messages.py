"""Calls from a path and a typed message, and typed answers out of their envelopes. Pure."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast
from urllib.parse import urlencode

import msgspec

from dvecdb.client import arguments
from dvecdb.client.attempts import Call, Repeat
from dvecdb.wire.codec import Format, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from dvecdb.records import Options

T = TypeVar("T")
A = TypeVar("A")

BODY_HEADERS: Final = {"content-type": str(Format.MSGPACK)}
NO_HEADERS: Final[dict[str, str]] = {}


class _Envelope(msgspec.Struct, Generic[T], frozen=True):
    data: T


@cache
def _decoder(kind: Any) -> Callable[[bytes], Any]:
    decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(_Envelope[kind]).decode
    return decode


def _parser(kind: type[A], finish: Callable[[A], T]) -> Callable[[bytes], T]:
    decode = _decoder(cast("Hashable", kind))
    return lambda body: finish(decode(body).data)


def read(path: str, kind: type[A], finish: Callable[[A], T], **query: Any) -> Call[T]:
    """Return a GET. query: None is left out."""
    pairs = [(name, _query_text(value)) for name, value in query.items() if value is not None]
    if pairs:
        path = f"{path}?{urlencode(pairs)}"
    return Call("GET", path, NO_HEADERS, b"", _parser(kind, finish))


def _query_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    return value if isinstance(value, str) else str(msgspec.to_builtins(value))


def ask(path: str, request: object, kind: type[A], finish: Callable[[A], T]) -> Call[T]:
    """Return a POST that changes nothing."""
    body = encode(request, Format.MSGPACK)
    return Call("POST", path, BODY_HEADERS, body, _parser(kind, finish))


def send(
    method: str,
    path: str,
    request: object,
    headers: Mapping[str, str],
    kind: type[A],
    repeat: Repeat,
    *,
    finish: Callable[[A], T] = lambda answer: answer,  # type: ignore[assignment, return-value]
    key: str | None = None,
) -> Call[T]:
    """Return a call with a body that changes something. key: the idempotency key in `headers`."""
    body = encode(request, Format.MSGPACK)
    return Call(method, path, {**BODY_HEADERS, **headers}, body, _parser(kind, finish), repeat, key)


def change(
    path: str, request: object, options: Options, kind: type[A], finish: Callable[[A], T]
) -> Call[T]:
    """Return a POST that writes a commit."""
    headers, key = arguments.note_headers(options), options.idempotency_key
    return send("POST", path, request, headers, kind, Repeat.KEYED, finish=finish, key=key)
