"""Vectors in JSON requests, read without a Python number for each of theirs.

A request is read as a **twin** of its type, whose vectors stay as they stand in the text; simdjson
(Langdale and Lemire, "Parsing Gigabytes of JSON per Second", VLDB Journal 2019) then makes an array
of each, in a third of the time. Whatever one of both does not take is not read here at all: the
ordinary way reads it, or says what is wrong and where.
"""

from __future__ import annotations

import threading
from functools import cache
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args, get_origin

import msgspec
import numpy as np
import simdjson

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Make = Callable[[Any], Any]

KEPT_BYTES: Final = 1024 * 1024
"""Texts up to this size are read by a parser that is kept, with memory in proportion."""
_VECTOR: Final = frozenset({list[float], bytes})
_MATRIX: Final = frozenset({list[list[float] | bytes], bytes})

_bytes_of = msgspec.json.Decoder(bytes).decode
_kept = threading.local()


class _Twin(NamedTuple):
    """decode: of a message, as the twin; make: what it was to be."""

    decode: Callable[[bytes], Any]
    make: Make


class _OtherError(Exception):
    """It is to be read in the ordinary way."""


def read_request(kind: type[msgspec.Struct], data: bytes) -> Any:
    """Return a request of JSON, its lists of numbers as float64[n]; None if it is not read here."""
    twin = _twin_of(kind)
    if twin is None:
        return None
    try:
        return twin.make(twin.decode(data))
    except (_OtherError, msgspec.MsgspecError, RuntimeError, ValueError, TypeError):
        return None


@cache
def _twin_of(kind: type[msgspec.Struct]) -> _Twin | None:
    twin, make = _twin(kind)
    return None if make is None else _Twin(msgspec.json.Decoder(twin).decode, make)


def _twin(kind: Any) -> tuple[Any, Make | None]:
    """Return the twin of a type and what makes the one of the other; None if there is no vector."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _twin_struct(kind)
    members = frozenset(get_args(kind)) - {NoneType}
    if members in {_VECTOR, _MATRIX}:
        return msgspec.Raw, _vector if members == _VECTOR else _matrix
    if get_origin(kind) is list:
        twin, make_one = _twin(get_args(kind)[0])
        if make_one is not None:
            return list[twin], lambda values: list(map(make_one, values))  # type: ignore[valid-type]
    elif len(members) == 1 and NoneType in get_args(kind):
        (one,) = members
        twin, make_one = _twin(one)
        if make_one is not None:
            return twin | None, lambda value: None if value is None else make_one(value)
    return kind, None


def _twin_struct(kind: type[msgspec.Struct]) -> tuple[Any, Make | None]:
    fields = msgspec.structs.fields(kind)
    twins = {field.name: _twin(field.type) for field in fields}
    makes = [(name, make) for name, (_, make) in twins.items() if make is not None]
    if not makes:
        return kind, None
    missing = msgspec.UNSET
    twin = msgspec.defstruct(
        kind.__name__,
        [
            (field.name, twins[field.name][0])
            if field.required
            else (field.name, twins[field.name][0] | msgspec.UnsetType, missing)
            for field in fields
        ],
        rename={field.name: field.encode_name for field in fields},
        forbid_unknown_fields=kind.__struct_config__.forbid_unknown_fields,
        kw_only=True,
    )
    names = [field.name for field in fields]

    def make(value: Any) -> Any:
        found = {name: item for name in names if (item := getattr(value, name)) is not missing}
        for name, make_one in makes:
            if name in found:
                found[name] = make_one(found[name])
        return kind(**found)

    return twin, make


# --- numbers ---


def _vector(raw: msgspec.Raw) -> npt.NDArray[np.float64] | bytes:
    """Return the numbers of a list, or the bytes of base64."""
    text = bytes(raw)
    if text[:1] == b'"':
        return _bytes_of(text)
    if text[:1] != b"[" or text.find(b"[", 1) > 0:  # lists in it would count as their numbers
        raise _OtherError
    return _array(_parsed(text))


def _matrix(raw: msgspec.Raw) -> list[npt.NDArray[np.float64]]:
    """Return the numbers of each list in a list."""
    text = bytes(raw)
    lists = _parsed(text)
    if not isinstance(lists, simdjson.Array) or text.count(b"[") != 1 + len(lists):
        raise _OtherError
    return [_array(one) for one in lists]


def _array(numbers: Any) -> npt.NDArray[np.float64]:
    if not isinstance(numbers, simdjson.Array):
        raise _OtherError
    return np.frombuffer(numbers.as_buffer(of_type="d"), np.float64)


def _parsed(text: bytes) -> Any:
    if len(text) > KEPT_BYTES:
        return simdjson.Parser().parse(text)
    parser = getattr(_kept, "parser", None)
    if parser is None:
        parser = _kept.parser = simdjson.Parser()
    return parser.parse(text)
