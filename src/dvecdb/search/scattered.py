"""Rows that lie here and there in memory, measured in one call: no copy, no call for each array.

faiss multiplies pairs of vectors that are named by number, `base + number * d`. A row is named as
some **pieces** in a row: as long as they can be so that every row of every array begins at a
multiple of their length from the lowest array. Files in memory, and large arrays of our own, begin
at pages; with 1536 float32 a row, pieces have 512.
"""

from __future__ import annotations

import math
from ctypes import c_char
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from dvecdb.records import Metric
from dvecdb.search.kernels import faiss_library

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Float32s = npt.NDArray[np.float32]
    Numbers = npt.NDArray[np.int64]

_PAGE_BYTES: Final = 4096
_PIECES_MAX: Final = 8
"""Rows of more pieces are not worth it: each costs a little."""
METRICS: Final = frozenset({Metric.COSINE, Metric.EUCLIDEAN, Metric.DOT_PRODUCT})


class Scattered:
    """Rows of several float32 arrays [n, d], by place. Those that were `put` are known.

    The arrays must stay as they are. Any number of threads may ask while one puts more.
    """

    __slots__ = ("_arrays", "_first", "_lengths", "_lowest", "_steps", "_window")

    def __init__(
        self, arrays: Sequence[Float32s], piece: int, first: Numbers, lengths: Float32s
    ) -> None:
        """See `over`. piece: numbers in a piece; first: that of each row, -1 if it is not known."""
        self._arrays = arrays  # kept in memory, as nothing else here does
        addresses = [_address(array) for array in arrays]
        self._lowest = min(addresses)
        highest = max(start + array.nbytes for start, array in zip(addresses, arrays, strict=True))
        memory: Any = (c_char * (highest - self._lowest)).from_address(self._lowest)
        # Only pieces of rows that were put are looked at: what lies between arrays is not ours.
        self._window = np.frombuffer(memory, np.float32).reshape(-1, piece)
        self._steps = np.arange(arrays[0].shape[1] // piece)
        self._first, self._lengths = first, lengths

    @classmethod
    def over(cls, arrays: Sequence[npt.NDArray[Any]], places: int) -> Self | None:
        """Return rows of those arrays that begin at a page, none known yet.

        None where there are none such, or pieces would be too small.
        """
        held = [array for array in arrays if array.size and not _address(array) % _PAGE_BYTES]
        if not held or any(a.dtype != np.float32 or not a.flags.c_contiguous for a in held):
            return None
        row_bytes = held[0].shape[1] * 4
        piece_bytes = math.gcd(row_bytes, _PAGE_BYTES)
        if row_bytes > piece_bytes * _PIECES_MAX:
            return None
        first, lengths = np.full(places, -1, np.int64), np.zeros(places, np.float32)
        return cls(held, piece_bytes // 4, first, lengths)

    def with_places(self, places: int) -> Self:
        """Return the same rows among more places; rows put in one of them are not in the other."""
        more = places - len(self._first)
        first = np.concatenate([self._first, np.full(more, -1, np.int64)])
        lengths = np.concatenate([self._lengths, np.zeros(more, np.float32)])
        return type(self)(self._arrays, self._window.shape[1], first, lengths)

    def has(self, array: npt.NDArray[Any]) -> bool:
        """Return whether rows of this array can be put."""
        return any(array is held for held in self._arrays)

    def put(
        self, places: Numbers, array: npt.NDArray[Any], ordinals: Numbers, lengths: Float32s
    ) -> None:
        """Make rows known: where they lie in one of the arrays, and how long they are."""
        width = self._window.shape[1] * 4
        first = (_address(array) - self._lowest) // width
        self._lengths[places] = lengths
        self._first[places] = first + ordinals * len(self._steps)  # last: it says all is there

    def known(self, places: Numbers) -> npt.NDArray[np.bool_]:
        """Return which rows are known; none is at a place below 0."""
        return np.asarray((places >= 0) & (self._first[places] >= 0))

    def lengths(self, places: Numbers) -> Float32s:
        """Return the lengths of known rows: float32[n]."""
        return self._lengths[places]

    def products(self, query: Float32s, places: Numbers) -> Float32s:
        """Return the dot products of known rows with float32[1, d]: float32[n]."""
        return self._measure(faiss_library().pairwise_indexed_inner_product, query, places)

    def squared_distances(self, query: Float32s, places: Numbers) -> Float32s:
        """Return the squared L2 distances of known rows from float32[1, d]: float32[n]."""
        return self._measure(faiss_library().pairwise_indexed_L2sqr, query, places)

    def rows(self, places: Numbers) -> Float32s:
        """Return known rows: float32[n, d]."""
        found: Float32s = self._window.take(self._pieces(places), axis=0)
        return found.reshape(len(places), -1)

    def _pieces(self, places: Numbers) -> Numbers:
        pieces: Numbers = self._first[places][:, None] + self._steps
        return pieces.ravel()

    def _measure(self, pairwise: Any, query: Float32s, places: Numbers) -> Float32s:
        pieces, pointer = self._pieces(places), faiss_library().swig_ptr
        found = np.empty((len(places), len(self._steps)), np.float32)
        of_query = np.empty(found.shape, np.int64)
        of_query[:] = self._steps
        pairwise(
            self._window.shape[1], found.size, pointer(query), pointer(of_query),
            pointer(self._window), pointer(pieces), pointer(found),
        )  # fmt: skip
        return np.asarray(np.add.reduce(found, axis=1))


def _address(array: npt.NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
