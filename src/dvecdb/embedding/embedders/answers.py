"""From the JSON of an embedder to vectors, and the one check that every answer passes.

Two forms are understood wherever vectors stand: lists of numbers, and base64 of little-endian
float32. What is not exactly what was asked for is refused whole: a part of a wrong answer is not
better than the rest of it.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec
import numpy as np

from dvecdb.embedding.model import EmbedError, Reason
from dvecdb.records import DIMENSION_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

BYTES_PER_NUMBER: Final = 32
"""Of a vector in JSON, generously: sign, 17 digits, exponent, comma, blanks."""
BYTES_BESIDE: Final = 1 << 20
"""What may stand around the vectors, besides the texts themselves."""
ANSWER_BYTES_MAX: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Expected:
    """What an answer must be: `texts` vectors of `dimension`, None if any. where: for messages."""

    texts: int
    dimension: int | None
    where: str

    def bytes_max(self, sent: int) -> int:
        """Return how long an answer may be to a request of `sent` bytes, which it may repeat."""
        numbers = self.texts * (self.dimension or DIMENSION_MAX)
        return min(numbers * BYTES_PER_NUMBER + BYTES_BESIDE + 2 * sent, ANSWER_BYTES_MAX)

    def wrong(self, found: str) -> NoReturn:
        """Refuse the answer.

        Raises:
            EmbedError: always, `wrong-answer`.
        """
        of = "" if self.dimension is None else f" of {self.dimension} dimensions"
        what = "1 vector" if self.texts == 1 else f"{self.texts} vectors"
        raise EmbedError(Reason.WRONG_ANSWER, f"{self.where}: expected {what}{of}, found {found}")


def decode(body: bytes, decoder: msgspec.json.Decoder[Any], expected: Expected) -> Any:
    """Return the JSON of an answer. Raises EmbedError: `wrong-answer`, it is none of that type."""
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if b"NaN" in body or b"Infinity" in body:
            expected.wrong("a number that is not finite")
        start = body[:80].decode("utf-8", "replace")
        expected.wrong(f"{len(body)} bytes that do not fit: {error}; they begin {start!r}")


def in_order(items: Sequence[Any], indexes: Sequence[object], expected: Expected) -> Sequence[Any]:
    """Return items in the order of their indexes; as they are if none has one.

    Raises:
        EmbedError: `wrong-answer`, the indexes are not each of 0 to n-1 once.
    """
    whole = range(len(items))
    if list(indexes) == list(whole) or all(index is None for index in indexes):
        return items
    if any(isinstance(index, bool) or not isinstance(index, int) for index in indexes) or sorted(
        indexes  # type: ignore[type-var]  # integers, after the look above
    ) != list(whole):
        shown = ", ".join(map(str, indexes[:10]))
        expected.wrong(f"vectors whose indexes are not each of 0 to {len(items) - 1}: {shown}, …")
    ordered: list[Any] = [None] * len(items)
    for index, item in zip(indexes, items, strict=True):
        ordered[index] = item  # type: ignore[call-overload]  # integers, after the look above
    return ordered


def vectors_of(rows: object, expected: Expected) -> npt.NDArray[np.float32]:
    """Return float32[n, dimension] of rows that are lists of numbers or base64 texts.

    Raises:
        EmbedError: `wrong-answer`: too few or many, of different or another dimension, not finite.
    """
    if not isinstance(rows, list):
        expected.wrong(f"{_shown(rows)} instead of a list")
    if len(rows) != expected.texts:
        expected.wrong(f"{len(rows)}")
    vectors = _from_base64(rows, expected) if _all(rows, str) else _from_lists(rows, expected)
    return checked(vectors, expected)


def checked(vectors: npt.NDArray[np.float32], expected: Expected) -> npt.NDArray[np.float32]:
    """Return the vectors if they are what was expected. Raises as `vectors_of`."""
    if vectors.ndim != 2 or len(vectors) != expected.texts:
        expected.wrong(f"an array of {' x '.join(map(str, vectors.shape))}")
    dimension = vectors.shape[1]
    if not 0 < dimension <= DIMENSION_MAX or dimension != (expected.dimension or dimension):
        expected.wrong(f"{dimension} dimensions")
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        expected.wrong(f"a value that is no finite float32, in vector {row}")
    return vectors


def _from_base64(rows: list[str], expected: Expected) -> npt.NDArray[np.float32]:
    try:
        parts = [binascii.a2b_base64(row, strict_mode=True) for row in rows]
    except ValueError as error:
        expected.wrong(f"a text that is no base64: {error}")
    sizes = set(map(len, parts))
    if len(sizes) != 1:
        expected.wrong(f"vectors of different lengths, {min(sizes)} to {max(sizes)} bytes")
    size = sizes.pop()
    if size % 4 or not size:
        expected.wrong(f"vectors of {size} bytes, which is no number of float32")
    flat = np.frombuffer(b"".join(parts), "<f4").astype(np.float32, copy=False)
    return flat.reshape(len(parts), size // 4)


def _from_lists(rows: list[Any], expected: Expected) -> npt.NDArray[np.float32]:
    if not _all(rows, list):
        odd = next(row for row in rows if not isinstance(row, list))
        expected.wrong(f"{_shown(odd)} in the place of a vector")
    sizes = set(map(len, rows))
    if len(sizes) != 1:
        expected.wrong(f"vectors of different dimensions, {min(sizes)} to {max(sizes)}")
    try:
        numbers = msgspec.convert(rows, list[list[float]])  # np.array takes texts for numbers
        with np.errstate(over="ignore"):
            return np.array(numbers, np.float32)
    except (msgspec.ValidationError, ValueError, OverflowError):
        expected.wrong("vectors with something in them that is no number")


def _all(rows: list[Any], kind: type) -> bool:
    return bool(rows) and all(isinstance(row, kind) for row in rows)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return f"an object with {', '.join(map(repr, list(value)[:8])) or 'nothing'}"
    return {str: "a text", bool: "a truth value", list: "a list", type(None): "null"}.get(
        type(value), "a number"
    )
