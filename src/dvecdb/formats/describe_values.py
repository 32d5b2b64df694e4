"""How single values are shown to people: times, hashes, samples of long lists, vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from dvecdb.clock import to_datetime
from dvecdb.records import VectorType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dvecdb.formats.framing import Buffer

Value = Any  # a JSON value: dict, list, str, int, float, bool or None
Described = dict[str, Value]

SHOWN: Final = 5


def utc(nanoseconds: int) -> str:
    """Return a time in UTC; one that no calendar has, as the number it is."""
    try:
        moment = to_datetime(nanoseconds)
    except OverflowError:
        return f"{nanoseconds} ns"
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"


def hexed(number: int) -> str:
    """Return a u64 in the form hashes and tags are shown in. JSON numbers would lose digits."""
    return f"{number:016x}"


def sample(items: Sequence[Value], shown: int = SHOWN) -> Described:
    """Return how many `items` there are, and the first few."""
    return {"count": len(items), "first": list(items[:shown])}


def json_value(data: Buffer) -> Value:
    """Return the JSON value in `data`, or its text if it is none."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return text_of(data)


def text_of(data: Buffer, length_max: int = 200) -> str:
    """Return the beginning of `data` as text, whatever it is."""
    return str(bytes(data[:length_max]), "utf-8", "backslashreplace")


def numbers(data: Buffer, dtype: type[np.generic]) -> list[int]:
    """Return the whole numbers in `data`; a rest that makes none is left out."""
    size = np.dtype(dtype).itemsize
    values: list[int] = np.frombuffer(data[: len(data) // size * size], dtype).tolist()
    return values


def vector_values(data: Buffer, vector_type: str | None) -> Value:
    """Return the components of a stored vector, or its bytes in hex if its type is not known."""
    try:
        dtype = VectorType(vector_type).dtype if vector_type is not None else None
    except ValueError:
        dtype = None
    if dtype is None or len(data) % dtype.itemsize:
        return bytes(data).hex()
    return np.frombuffer(data, dtype).astype(np.float64).tolist()
