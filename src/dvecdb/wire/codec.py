"""Message bytes to typed values and back, for both sides, with errors that say where.

    application/json         text; vectors as lists or base64
    application/msgpack      vectors as bytes

What cannot be read is `invalid-body`: malformed bytes with their position (the request is not a
message at all), or a value of the wrong type with its path (`$.vectors[3].data[7]`).
"""

from __future__ import annotations

import difflib
import re
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args, get_origin

import msgspec

from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dvecdb.records import Json

T = TypeVar("T")

DEPTH_MAX: Final = 64
"""Levels of lists and objects in a JSON value of a request: nobody's stack runs out."""
FILTER_DEPTH_MAX: Final = 80
"""Levels in a filter: room for every filter that is allowed, which says itself what is not."""

_UNKNOWN_FIELD: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)


class Format(StrEnum):
    """How a message is written, by its media type."""

    JSON = "application/json"
    MSGPACK = "application/msgpack"
    OCTETS = "application/octet-stream"


def _as_text(value: object) -> str:
    return str(value)


_encode_json = msgspec.json.Encoder(enc_hook=_as_text).encode
_encode_msgpack = msgspec.msgpack.Encoder(enc_hook=_as_text).encode


def encode(value: object, form: Format) -> bytes:
    """Return the message of `value`: structs, dataclasses, dicts, lists, numbers, text, bytes."""
    return _encode_msgpack(value) if form is Format.MSGPACK else _encode_json(value)


@cache
def _decode_call(kind: Any, form: Format) -> Callable[[bytes], Any]:
    codec = msgspec.msgpack if form is Format.MSGPACK else msgspec.json
    call: Callable[[bytes], Any] = codec.Decoder(kind).decode
    return call


def decode(data: bytes, kind: type[T], form: Format) -> T:
    """Return the message as a `kind`.

    Raises:
        InvalidRequestError: `invalid-body` (with `details.path` if it is well-formed, else
            `details.position` in bytes), `unknown-field`, `vector-out-of-range` (a number that no
            float can hold).
    """
    struct: Any = kind
    try:
        value: T = _decode_call(struct, form)(data)
    except msgspec.ValidationError as error:
        raise _wrong_type(str(error), kind) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _malformed(data, str(error), form) from None
    except RecursionError:
        raise _too_deep("the body") from None
    return value


def convert(values: Mapping[str, str], kind: type[T]) -> T:
    """Return the fields of a query string as a `kind`.

    Raises:
        InvalidRequestError: `invalid-body`, `unknown-field`.
    """
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _wrong_type(str(error), kind, "the query string") from None


def check_depth(value: Json, what: str, depth_max: int = DEPTH_MAX) -> Json:
    """Return a JSON value if it is not nested too deeply.

    Raises:
        InvalidRequestError: `invalid-body`.
    """
    level = [value]
    for _ in range(depth_max):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return value
    raise _too_deep(what, depth_max)


def check_filter(value: Json, what: str = "filter") -> Any:
    """Return the JSON of a filter if it is not nested too deeply; None is none.

    Raises:
        InvalidRequestError: `invalid-body`.
    """
    return None if value is None else check_depth(value, what, FILTER_DEPTH_MAX)


def known_fields(kind: Any) -> list[str]:
    """Return the names of every field of a struct and of the structs in it."""
    found: dict[str, None] = {}
    todo, seen = [kind], set()
    while todo:
        item = todo.pop()
        if isinstance(item, type) and issubclass(item, msgspec.Struct) and item not in seen:
            seen.add(item)
            for field in msgspec.structs.fields(item):
                found[field.encode_name] = None
                todo.append(field.type)
        elif get_origin(item) is not None or get_args(item):
            todo += get_args(item)
    return sorted(found)


def _wrong_type(message: str, kind: Any, what: str = "the body") -> InvalidRequestError:
    text, _, place = message.partition(" - at ")
    path = place.strip("`").replace("`", "") or "$"
    unknown = _UNKNOWN_FIELD.fullmatch(text)
    if unknown:
        known = known_fields(kind)
        near = difflib.get_close_matches(unknown[1], known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return InvalidRequestError(
            Code.UNKNOWN_FIELD,
            f"{what} has an unknown field {unknown[1]!r} at {path}; {hint}",
            field=unknown[1],
            nearest=near[0] if near else None,
            path=path,
        )
    if text == "Number out of range":
        return InvalidRequestError(
            Code.VECTOR_OUT_OF_RANGE,
            f"{what}: the number at {path} is beyond what a float can hold",
            path=path,
        )
    return InvalidRequestError(
        Code.INVALID_BODY, f"{what}: {text[:1].lower()}{text[1:]} at {path}", path=path
    )


def _malformed(data: bytes, message: str, form: Format) -> InvalidRequestError:
    found = re.search(r"\(byte (\d+)\)|position (\d+)", message)
    position = int(found[1] or found[2]) if found else len(data)
    text = re.sub(r"^\w+(?: data)? is malformed: | \(byte \d+\)$", "", message)
    if "truncated" in message:
        text = "it ends too early" if data else "it is empty"
    word = re.match(rb"-?(?:NaN|Infinity|inf|nan)", data[position : position + 9])
    if word and form is Format.JSON:
        text = f"{word[0].decode()} is no JSON; vectors hold finite numbers only"
    name = "MessagePack" if form is Format.MSGPACK else "JSON"
    return InvalidRequestError(
        Code.INVALID_BODY,
        f"the body is not {name}: {text}, at byte {position} of {len(data)}",
        position=position,
    )


def _too_deep(what: str, depth_max: int = DEPTH_MAX) -> InvalidRequestError:
    return InvalidRequestError(
        Code.INVALID_BODY,
        f"{what} is nested too deeply; at most {depth_max} levels of lists and objects are read",
        limit=depth_max,
    )
