"""Vectors in messages.

    JSON       a list of numbers, or base64 text of little-endian float32
    MessagePack  a list of numbers, or bytes of little-endian float32
    octets     little-endian float32 and nothing else, row-major

A `Matrix` is a list of these, or the same bytes of n x dimension numbers. msgspec decodes base64 or
bytes into `bytes`, and numbers into `list[float]` (null and text are refused by path); those of
requests in JSON are arrays already, see `wire.numbers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

Vector = list[float] | bytes
Matrix = list[Vector] | bytes

FLOAT32 = np.dtype("<f4")


def vector_of(value: Vector | npt.NDArray[np.float64], where: str = "vector") -> npt.NDArray[Any]:
    """Return the vector of a message: float64[n] of a list, float32[n] of bytes (not a copy).

    An array is one that `wire.numbers` read already. Values are not checked: the engine refuses
    those that are not finite or out of range.

    Raises:
        InvalidRequestError: `wrong-dimension`, the bytes are no whole number of float32.
    """
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, list):
        return np.array(value, np.float64)
    if len(value) % FLOAT32.itemsize:
        raise InvalidRequestError(
            Code.WRONG_DIMENSION,
            f"{where}: {len(value)} bytes are no whole number of little-endian float32, "
            "which have 4 each",
            found_bytes=len(value),
        )
    return np.frombuffer(value, FLOAT32)


def matrix_of(value: Matrix, dimension: int) -> Sequence[Any] | npt.NDArray[np.float32]:
    """Return the vectors of a message as the engine takes them.

    One array float32[n, dimension] of bytes, or a sequence of lists and arrays whose lengths and
    values are not checked yet.

    Raises:
        InvalidRequestError: `wrong-dimension`, the bytes are no whole number of vectors.
    """
    if isinstance(value, list):
        if all(type(item) is list for item in value):
            return value
        return [vector_of(item, f"item {index}") for index, item in enumerate(value)]
    size = dimension * FLOAT32.itemsize
    if len(value) % size:
        raise InvalidRequestError(
            Code.WRONG_DIMENSION,
            f"vectors: {len(value)} bytes are no whole number of vectors of {dimension} "
            f"little-endian float32, which have {size} bytes each",
            expected=dimension,
            found_bytes=len(value),
        )
    return np.frombuffer(value, FLOAT32).reshape(-1, dimension)


def vector_bytes(vectors: object) -> bytes:
    """Return numbers of any shape as little-endian float32, row-major.

    Raises:
        InvalidRequestError: `invalid-argument`, not an array of numbers; `vector-out-of-range`,
            a finite number is none as float32.
    """
    try:
        source = np.asarray(vectors)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT, f"vectors are not an array of numbers: {error}"
        ) from error
    if source.dtype.kind not in "fiu":
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT, f"expected an array of real numbers, found type {source.dtype}"
        )
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        target = np.ascontiguousarray(source, FLOAT32)
    if source.dtype.kind != "f" or source.dtype.itemsize > FLOAT32.itemsize:
        beyond = np.isinf(target) & np.isfinite(source)
        if beyond.any():
            place = [int(index) for index in np.argwhere(beyond)[0]]
            item = {"item": place[0]} if len(place) == 2 else {}
            where = f"item {place[0]}, " if item else ""
            raise InvalidRequestError(
                Code.VECTOR_OUT_OF_RANGE,
                f"{where}position {place[-1]}: float32 holds values within -3.4e38 .. 3.4e38, "
                f"found {source[tuple(place)]!r}",
                **item,
                position=place[-1],
            )
    return target.tobytes()


def vectors_from(value: bytes, dimension: int) -> npt.NDArray[np.float32]:
    """Return float32[n, dimension], writable, of the bytes of an answer."""
    return np.frombuffer(bytearray(value), FLOAT32).reshape(-1, dimension)
