"""From the bytes and headers of a request to typed values. Pure."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec

from dvecdb.errors import Code, InvalidRequestError
from dvecdb.wire.bodies import Nothing
from dvecdb.wire.codec import Format, convert, decode
from dvecdb.wire.numbers import read_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dvecdb.api.auth import Principal
    from dvecdb.api.endpoints import Endpoint
    from dvecdb.records import WriteOptions

_QUERY_FIELDS_MAX: Final = 100
_FORMATS: Final = {
    "application/json": Format.JSON,
    "application/msgpack": Format.MSGPACK,
    "application/x-msgpack": Format.MSGPACK,
    "application/vnd.msgpack": Format.MSGPACK,
    "application/octet-stream": Format.OCTETS,
}


def headers_of(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the headers by lower-case name; of a repeated one the last."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}


def answer_format(headers: Mapping[str, str]) -> Format:
    """Return how the answer is to be written: MessagePack if it is asked for by name."""
    return Format.MSGPACK if "msgpack" in headers.get("accept", "") else Format.JSON


def read_body(endpoint: Endpoint, headers: Mapping[str, str], body: bytes) -> Any:
    """Return the request of a body, None if the endpoint has none.

    No body at all is a request that sets nothing, if it may be one.

    Raises:
        InvalidRequestError: `unsupported-media-type`, `invalid-body`, `unknown-field`.
    """
    kind = endpoint.request
    if kind is None:
        return None
    content_type = headers.get("content-type", "")
    is_optional = endpoint.octets is None and not _required(kind)
    if not body and (is_optional or not (content_type or _required(kind))):
        return kind()
    media = content_type.partition(";")[0].strip().lower()
    form = _FORMATS.get(media)
    if form is None and media.startswith("application/") and media.endswith("+json"):
        form = Format.JSON
    if form is Format.OCTETS and endpoint.octets is not None:
        return kind(**{endpoint.octets: body})
    if form is None or form is Format.OCTETS:
        taken = ["application/json", "application/msgpack"]
        taken += ["application/octet-stream"] if endpoint.octets is not None else []
        raise InvalidRequestError(
            Code.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Type {content_type[:100]!r} is not taken here; "
            f"send one of {', '.join(taken)}",
            taken=taken,
        )
    request = read_request(kind, body) if form is Format.JSON else None
    return decode(body, kind, form) if request is None else request


@cache
def _required(kind: type[msgspec.Struct]) -> bool:
    """Return whether a request of this type needs any field."""
    return any(item.required for item in msgspec.structs.fields(kind))


def read_query(endpoint: Endpoint, query_string: bytes) -> Any:
    """Return the query struct of an endpoint, None if it takes no query.

    Raises:
        InvalidRequestError: `invalid-body`, `unknown-field`; not on endpoints kept from before.
    """
    kind = endpoint.query
    if not query_string:
        return None if kind is None else kind()
    if kind is None and endpoint.legacy:
        return None
    try:
        pairs = parse_qsl(
            query_string.decode("latin-1"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_QUERY_FIELDS_MAX,
        )
    except (UnicodeDecodeError, ValueError):
        raise InvalidRequestError(
            Code.INVALID_BODY,
            f"the query string is not UTF-8 or has more than {_QUERY_FIELDS_MAX} fields",
        ) from None
    return convert(dict(pairs), Nothing if kind is None else kind)


def write_options(
    headers: Mapping[str, str], principal: Principal, request_id: str
) -> WriteOptions:
    """Return what a write may carry in headers, percent-encoded where it is text.

    Raises:
        InvalidRequestError: `invalid-argument`.
    """
    options: WriteOptions = {"request_id": request_id}
    key = _text(headers, "idempotency-key")
    if key is not None:
        options["idempotency_key"] = key
    actor = _text(headers, "dvecdb-actor")
    if actor is None and principal.key_id is not None:
        actor = principal.name
    if actor is not None:
        options["actor"] = actor
    reason = _text(headers, "dvecdb-reason")
    if reason is not None:
        options["reason"] = reason
    if_lsn = headers.get("dvecdb-if-lsn")
    if if_lsn is not None:
        if not (if_lsn.isascii() and if_lsn.isdigit() and len(if_lsn) < 20):
            raise InvalidRequestError(
                Code.INVALID_ARGUMENT, f"Dvecdb-If-LSN: expected an LSN, found {if_lsn!r:.40}"
            )
        options["if_lsn"] = int(if_lsn)
    return options


def _text(headers: Mapping[str, str], name: str) -> str | None:
    value = headers.get(name)
    if not value:
        return None
    try:
        return unquote_to_bytes(value.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT, f"the header {name} is not percent-encoded UTF-8"
        ) from None
