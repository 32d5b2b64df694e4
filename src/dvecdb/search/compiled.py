"""The nearest of rows that lie here and there, by `nearest.c`: one call, without the interpreter.

Compiled when the package is built. Where it was not, where the processor cannot run it, or where
numpy does not measure as it does, `nearest_of` is None: rows are then read, and measured by numpy.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from dvecdb.records import Metric, VectorType
from dvecdb.search.exact import exact_distances

if TYPE_CHECKING:
    import numpy.typing as npt

    Numbers = npt.NDArray[np.int64]
    Distances = npt.NDArray[np.float64]

LIBRARY: Final = f"{__file__.rpartition('/')[0]}/_nearest.so"
_METRICS: Final = (Metric.COSINE, Metric.EUCLIDEAN, Metric.MANHATTAN, Metric.DOT_PRODUCT)
_TYPES: Final = (VectorType.FLOAT32, VectorType.FLOAT16, VectorType.INT8)
_NUMBER_OF_METRIC: Final = {metric: number for number, metric in enumerate(_METRICS)}
_NUMBER_OF_TYPE: Final = {kind.dtype: number for number, kind in enumerate(_TYPES)}
_SIGNATURE: Final[Any] = [
    ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64,
    ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_int64, ctypes.c_void_p,
    ctypes.c_void_p,
]  # fmt: skip


class NearestOf(Protocol):
    """The nearest of rows at some places, and the places that have no address."""

    def __call__(  # where rows lie, which, of what type, to what, how many
        self,
        addresses: Numbers,
        places: Numbers,
        dtype: np.dtype[Any],
        query: npt.NDArray[np.float32],
        metric: Metric,
        limit: int,
    ) -> tuple[Numbers, Distances, Numbers]:
        """Return places and distances by (distance, place), as `exact_distances` measures them.

        addresses: int64, of rows in C order, by place, 0 if it is not known; places: int64[n], rows
        that are not finite and places below 0 are left out; query: float32[d], not zero for cosine
        and dot product. result: int64[m], float64[m], m <= limit, int64[k].
        """


@cache
def nearest_of() -> NearestOf | None:
    """Return what finds the nearest rows, None if it cannot be used here."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:  # not there, or of another system
        return None
    if not library.dvecdb_is_usable():
        return None
    call = library.dvecdb_nearest
    call.argtypes, call.restype = _SIGNATURE, ctypes.c_int64
    start = (ctypes.c_char * 0).from_buffer  # of an array; in a fifth of the time of its address

    def found(  # as above
        addresses: Numbers,
        places: Numbers,
        dtype: np.dtype[Any],
        query: npt.NDArray[np.float32],
        metric: Metric,
        limit: int,
    ) -> tuple[Numbers, Distances, Numbers]:
        target, count = query.astype(np.float64), len(places)
        if not (places.flags.carray and places.dtype == np.int64):
            places = np.array(places, np.int64)
        squares = float(np.add.reduce(target * target)) if metric is Metric.COSINE else 0.0
        hits = np.empty((max(1, min(limit, count)), 2), np.float64)
        unknown = np.empty(count + 1, np.int64)
        number = call(
            _NUMBER_OF_METRIC[metric], _NUMBER_OF_TYPE[dtype], start(addresses), len(addresses),
            start(places), count, start(target), len(target), squares, len(hits), start(hits),
            start(unknown),
        )  # fmt: skip
        nearest = hits[:number]
        return nearest.view(np.int64)[:, 1], nearest[:, 0], unknown[1 : 1 + int(unknown[0])]

    return found if _measures_as_defined(found) else None


def address_of(array: npt.NDArray[Any]) -> int:
    """Return where an array begins in memory."""
    return int(array.__array_interface__["data"][0])


def _measures_as_defined(nearest: NearestOf) -> bool:
    """Tell whether it gives what `exact_distances` gives, to the last bit.

    numpy may come to sum in another order some day; a row has one distance, whoever measures it.
    """
    places = np.arange(8)
    for dimension in (7, 8, 131, 1000):
        waves = np.sin(np.arange(1.0, 9 * dimension + 1) ** 2).reshape(9, dimension).astype("f4")
        for kind in _TYPES:
            rows = (waves[:8] * (100 if kind is VectorType.INT8 else 1)).astype(kind.dtype)
            addresses = address_of(rows) + places * rows.strides[0]
            for metric in _METRICS:
                found, distances, _ = nearest(addresses, places, rows.dtype, waves[8], metric, 8)
                expected = exact_distances(rows, waves[8], metric)
                if not np.array_equal(expected[found], distances) or len(found) < len(rows):
                    return False
    return True
