"""The edge for vectors: whatever the user passes becomes an array of ours, or is refused by name.

Taken: arrays of any float or integer type and memory order, and sequences of numbers or of such
arrays. The result is always a fresh C-ordered copy, so the user may change theirs afterwards.
Refused, never repaired: wrong shapes, NaN and infinities, and for each stored type

    float32   values beyond its range (1e39)
    float16   values that round beyond 65,504
    int8      fractions, and values outside -128 .. 127

A fast test that can only fail for a reason comes first, chunk by chunk while the chunk is in the
processor's cache; the search for the item and position to name runs only when it fails.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np

from dvecdb.errors import Code, InvalidRequestError
from dvecdb.records import VectorType
from dvecdb.search.kernels import all_finite, copy_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from dvecdb.records import Schema

    Allocate = Callable[[tuple[int, int], np.dtype[Any]], npt.NDArray[Any]]

CHUNK_ELEMENTS: Final = 128 * 1024
_KINDS: Final = "fiu"
_LIMITS: Final = {
    VectorType.FLOAT32: "values within -3.4e38 .. 3.4e38",
    VectorType.FLOAT16: "values within -65504 .. 65504",
    VectorType.INT8: "whole numbers within -128 .. 127",
}
_HALF_EXPONENT: Final = np.uint16(0x7C00)


class VectorSource:
    """The user's vectors: their shape is checked at once, their values when they are converted."""

    __slots__ = ("_schema", "_source")

    def __init__(self, vectors: object, schema: Schema) -> None:
        """Take [n, dimension] numbers.

        Raises:
            InvalidRequestError: `wrong-dimension`, names the item; `invalid-argument`.
        """
        self._schema = schema
        self._source = _as_numbers(vectors, schema.dimension, single=False)

    def __len__(self) -> int:
        """Return the number of vectors."""
        return len(self._source)

    @property
    def stored_bytes(self) -> int:
        """Size of all vectors as stored."""
        return len(self._source) * self._schema.vector_bytes

    def convert(self, allocate: Allocate = np.empty) -> npt.NDArray[Any]:
        """Return the vectors as stored: schema.vector_type [n, dimension], C order, a copy.

        allocate: makes the array from shape and type.

        Raises:
            InvalidRequestError: `not-finite` or `vector-out-of-range`, names item and position.
        """
        rows = allocate(self._source.shape, self._schema.vector_type.dtype)
        self._convert_into(rows, 0)
        return rows

    def pieces(self, rows_per_piece: int) -> Iterator[npt.NDArray[Any]]:
        """Yield the vectors as stored, `rows_per_piece` at a time, for a reader of bounded memory.

        A piece may be overwritten once the one after the next is asked for.

        Raises:
            InvalidRequestError: as `convert`, at the piece that holds the value.
        """
        count = min(rows_per_piece, len(self._source))
        buffers = [
            np.empty((count, self._schema.dimension), self._schema.vector_type.dtype)
            for _ in range(2)
        ]
        for number, start in enumerate(range(0, len(self._source), max(1, count))):
            piece = buffers[number % 2][: len(self._source) - start]
            self._convert_into(piece, start)
            yield piece

    def _convert_into(self, rows: npt.NDArray[Any], first: int) -> None:
        kind, step = self._schema.vector_type, max(1, CHUNK_ELEMENTS // self._schema.dimension)
        for start in range(0, len(rows), step):
            target, part = rows, self._source
            if len(rows) > step or len(rows) < len(part):
                target = rows[start : start + step]
                part = part[first + start : first + start + len(target)]
            if not _convert(part, target, kind):
                _refuse_values(part, kind, first + start, "item {}, ")


def check_vectors(vectors: object, schema: Schema) -> npt.NDArray[Any]:
    """Return `vectors` as stored: schema.vector_type [n, schema.dimension], C order, a copy.

    Raises:
        InvalidRequestError: `wrong-dimension`, `not-finite` or `vector-out-of-range`, each naming
            the item; `invalid-argument`, not numbers.
    """
    return VectorSource(vectors, schema).convert()


def check_query(query: object, dimension: int) -> npt.NDArray[np.float32]:
    """Return `query` as float32[dimension], a copy.

    Raises:
        InvalidRequestError: `wrong-dimension`, `not-finite`, `vector-out-of-range` (beyond
            float32) or `invalid-argument`.
    """
    source = _as_numbers(query, dimension, single=True)
    target = np.empty(dimension, np.float32)
    if not _convert(source, target, VectorType.FLOAT32):
        _refuse_values(source.reshape(1, dimension), VectorType.FLOAT32, 0, "query, ")
    return target


def _as_numbers(vectors: object, dimension: int, *, single: bool) -> npt.NDArray[Any]:
    """Return an array of numbers of the right shape, perhaps the user's own."""
    if isinstance(vectors, np.ma.MaskedArray):
        _refuse("masked arrays have values without meaning; fill or drop them first")
    if isinstance(vectors, np.ndarray):
        source = np.asarray(vectors)
    else:
        source = _from_sequence(vectors, dimension, single=single)
    if source.dtype.kind not in _KINDS:
        _refuse(f"expected an array of real numbers, found type {source.dtype}")
    if source.ndim != (1 if single else 2) or source.shape[-1] != dimension:
        _refuse_shape(source.shape, dimension, single=single)
    return source


def _from_sequence(vectors: object, dimension: int, *, single: bool) -> npt.NDArray[Any]:
    if isinstance(vectors, (str, bytes, dict, set, frozenset)) or not hasattr(vectors, "__len__"):
        expected = "a sequence of numbers" if single else "a sequence of vectors"
        _refuse(f"expected {expected} or an array, found a {type(vectors).__name__}")
    try:
        source = np.asarray(vectors)
    except (ValueError, TypeError) as error:
        _refuse_ragged(vectors, dimension, single=single)
        text = f"not an array of numbers: {error}"
        raise InvalidRequestError(Code.INVALID_ARGUMENT, text) from error
    if source.dtype.kind not in _KINDS:
        _refuse_items(vectors, single=single)
    if source.shape == (0,) and not single:
        return source.reshape(0, dimension)
    return source


def _convert(source: npt.NDArray[Any], target: npt.NDArray[Any], kind: VectorType) -> bool:
    """Copy `source` into `target`, same shape; return whether every value could be stored."""
    if source.dtype == target.dtype:
        copy_rows(source, target)
    else:
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            np.copyto(target, source, casting="unsafe")
    if kind is VectorType.INT8:
        # A value that is no int8 cannot equal the int8 it became, whichever that is.
        return source.dtype == target.dtype or bool((target == source).all())
    if kind is VectorType.FLOAT16:
        bits = target.view(np.uint16) & _HALF_EXPONENT
        return not target.size or int(bits.max()) < int(_HALF_EXPONENT)
    return all_finite(target)


def _refuse_values(source: npt.NDArray[Any], kind: VectorType, start: int, label: str) -> NoReturn:
    """Name the first value of `source` that cannot be stored; rows count from `start`."""
    target = np.empty(source.shape, kind.dtype)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        np.copyto(target, source, casting="unsafe")
        bad = (target != source) if kind is VectorType.INT8 else ~np.isfinite(target)
    if not bad.any():
        _refuse("the array changed while it was read; pass a copy")
    row, position = (int(index) for index in np.argwhere(bad)[0])
    value = source[row, position]
    value = int(value) if source.dtype.kind in "iu" else float(value)
    where = f"{label.format(start + row)}position {position}"
    item = {"item": start + row} if "{}" in label else {}
    if not math.isfinite(value):
        raise InvalidRequestError(
            Code.NOT_FINITE,
            f"{where}: expected a finite number, found {value}",
            **item,
            position=position,
            found=str(value),
        )
    raise InvalidRequestError(
        Code.VECTOR_OUT_OF_RANGE,
        f"{where}: {kind} holds {_LIMITS[kind]}, found {value!r}",
        **item,
        position=position,
        found=value,
    )


def _refuse_shape(shape: tuple[int, ...], dimension: int, *, single: bool) -> NoReturn:
    expected_axes = 1 if single else 2
    expected = f"{dimension} numbers" if single else f"vectors of {dimension} numbers"
    if len(shape) == expected_axes:
        found = str(shape[-1])
    else:
        found = f"an array of shape {shape}"
        if not single and len(shape) == 1:
            found += "; put a single vector into a list"
    item = {} if single or len(shape) != expected_axes else {"item": 0}
    raise InvalidRequestError(
        Code.WRONG_DIMENSION,
        f"{'item 0: ' if item else ''}expected {expected}, found {found}",
        **item,
        expected=dimension,
        found=shape[-1] if len(shape) == expected_axes else list(shape),
    )


def _refuse_ragged(vectors: Any, dimension: int, *, single: bool) -> None:
    """Name the first vector of the wrong length, if that is what is wrong."""
    if single:
        return
    for index, vector in enumerate(vectors):
        if not hasattr(vector, "__len__") or isinstance(vector, (str, bytes)):
            _refuse(f"item {index}: expected a vector, found a {type(vector).__name__}", item=index)
        if len(vector) != dimension:
            raise InvalidRequestError(
                Code.WRONG_DIMENSION,
                f"item {index}: expected {dimension} numbers, found {len(vector)}",
                item=index,
                expected=dimension,
                found=len(vector),
            )


def _refuse_items(vectors: Any, *, single: bool) -> None:
    """Name the first item that is not a number we take, if one can be found."""
    rows = [vectors] if single else vectors
    for index, vector in enumerate(rows):
        where = "query, " if single else f"item {index}, "
        item = {} if single else {"item": index}
        if not hasattr(vector, "__len__") or isinstance(vector, (str, bytes)):
            _refuse(f"item {index}: expected a vector, found a {type(vector).__name__}", **item)
        for position, value in enumerate(vector):
            if not isinstance(value, (int, float, np.integer, np.floating)) or value is True:
                found = f"a {type(value).__name__}"
            elif isinstance(value, int) and not -(2**63) <= value < 2**64:
                found = "an integer beyond 64 bits"
            else:
                continue
            text = f"{where}position {position}: expected a number, found {found}"
            _refuse(text, **item, position=position)


def _refuse(message: str, **details: object) -> NoReturn:
    raise InvalidRequestError(Code.INVALID_ARGUMENT, message, **details)
