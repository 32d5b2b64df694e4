"""A place in the order of a key, as a JSON value. Pure.

A position is the list of the key's values. Bytes, and text that is no UTF-8 (carried as lone
surrogates), are objects of base64: JSON has no form for them.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dvecdb.records import Json


def position_of(values: Iterable[object]) -> Json:
    """Return the position of a row with these values in its key."""
    return [_encoded(value) for value in values]


def values_of(position: Json, count: int) -> list[object] | None:
    """Return the values of a position; None if it is none of a key of `count` columns."""
    if not isinstance(position, list) or len(position) != count:
        return None
    try:
        return [_decoded(part) for part in position]
    except (ValueError, TypeError, KeyError, binascii.Error):
        return None


def _encoded(value: object) -> Json:
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raw = value.encode(errors="surrogateescape")
            return {"text": base64.b64encode(raw).decode("ascii")}
    return value


def _decoded(part: Json) -> object:
    if isinstance(part, dict):
        ((kind, text),) = part.items()
        raw = base64.b64decode(text, validate=True)
        if kind == "text":
            return raw.decode(errors="surrogateescape")
        if kind == "bytes":
            return raw
        raise ValueError(kind)
    if isinstance(part, list | bool) or part is None:
        raise TypeError(part)
    return part
