"""What databases and files hold as JSON values, as text to embed, and as keys. Pure.

    database                          metadata                      in a text
    text, whole number, true, JSON    the same                      the same; JSON compact
    float                             the same; NaN, infinity: null the shortest that reads back
    decimal                           int without a fraction, else  as the database prints it
                                      float; text if that rounds
    date, time, timestamp             ISO 8601 text                 the same
    bytes                             base64 text                   the same
    uuid, interval, range, address    text                          the same
    array                             list                          JSON

Text with bytes that are no UTF-8 is carried with those bytes as lone surrogates (as Python's
`surrogateescape` does), so that it comes as far as the row it spoils.
"""

from __future__ import annotations

import base64
import math
import uuid
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from dvecdb.records import Json

PLAIN: Final = frozenset({str, int, bool, type(None)})
"""Types that are JSON values and need no look."""
_encode = msgspec.json.Encoder().encode
_DIGITS_MAX: Final = 400  # of a decimal; a float has at most 309 before the point


class UnfitError(Exception):
    """A value that JSON, or a text, cannot hold. The message says why."""


def to_json(value: object) -> Json:
    """Return a value as JSON.

    Raises:
        UnfitError: nothing says how.
    """
    if type(value) in PLAIN:
        return value
    match value:
        case float():
            return value if math.isfinite(value) else None
        case list() | tuple():
            return [to_json(one) for one in value]
        case dict():
            return {_name(name): to_json(one) for name, one in value.items()}
        case Decimal():
            return number_of(str(value))
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return f"PT{value.total_seconds():f}".rstrip("0").rstrip(".") + "S"
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode("ascii")
        case uuid.UUID():
            return str(value)
        case str():
            return str(value)
        case bool() | int():
            return int(value)
    raise UnfitError(f"a value of type {type(value).__name__} has no form in JSON")


def _name(name: object) -> str:
    if isinstance(name, str):
        return name
    raise UnfitError(f"an object with the name {name!r:.40}, which is not text")


def number_of(text: str) -> Json:
    """Return a decimal number as int or float if that keeps every digit, else as text.

    NaN and infinity: None.
    """
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    if not number.is_finite():
        return None
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    if len(text) > _DIGITS_MAX or abs(exponent) > _DIGITS_MAX:
        return text
    if exponent >= 0:
        return int(number)
    nearest = float(number)
    return nearest if Decimal(repr(nearest)) == number else text


def iso_of(text: str) -> str:
    """Return a date or timestamp of a database in ISO 8601: `2025-10-29T10:00:00+00:00`.

    What is not of that form, like `infinity`, stays as it is.
    """
    if len(text) > 10 and text[10] == " " and text[4] == text[7] == "-":
        text = f"{text[:10]}T{text[11:]}"
        if len(text) > 21 and text[-3] in "+-":
            text += ":00"
    return text


def to_text(value: object) -> str:
    """Return a value as it stands in a text to embed. None: empty.

    Raises:
        UnfitError: nothing says how.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, Decimal):
        is_short = value.is_finite() and abs(value.adjusted()) < _DIGITS_MAX
        return format(value, "f") if is_short else str(value)
    if isinstance(value, float):
        return repr(value)
    found = to_json(value)
    if isinstance(found, str):
        return found
    try:
        return _encode(found).decode()
    except UnicodeEncodeError:
        raise UnfitError("text inside it is no UTF-8") from None


def key_of(value: object) -> str:
    """Return a key as text: text as it is, a number in digits, a date in ISO 8601.

    Raises:
        UnfitError: it is null or empty, a list, an object, NaN, or text with a NUL or that is
            no UTF-8.
    """
    if type(value) is int:
        return str(value)
    if value is None or value == "":
        raise UnfitError("it has no key")
    if isinstance(value, list | dict | tuple) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        raise UnfitError(f"its key {value!r:.60} cannot name a row")
    found = to_text(value)
    problem = text_problem(found)
    if problem is not None:
        raise UnfitError(f"its key {found!r:.60} has {problem}")
    return found


def keys_of(values: tuple[object, ...] | list[object]) -> str:
    """Return the key made of one or several columns; several: a JSON list of texts.

    Raises:
        UnfitError: see `key_of`.
    """
    if len(values) == 1:
        return key_of(values[0])
    return _encode([key_of(value) for value in values]).decode()


def text_problem(text: str) -> str | None:
    """Return what keeps a text from being embedded, None if nothing does."""
    if "\0" in text:
        return "a NUL character"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return f"bytes or characters that are no UTF-8, at character {error.start}"
    return None
