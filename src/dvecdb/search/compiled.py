"""What is compiled: the nearest of rows that lie here and there, and the codes of rows.

`nearest.c` and `codes.c` become a library when the package is built, with what else is compiled.
Where it was not, where the processor cannot run it, or where numpy does not measure as it does,
`compiled()` is None: numpy and faiss then do the same. No function needs the interpreter meanwhile.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from dvecdb.records import Metric, VectorType
from dvecdb.search.exact import exact_distances

if TYPE_CHECKING:
    import numpy.typing as npt

    Numbers = npt.NDArray[np.int64]
    Distances = npt.NDArray[np.float64]

LIBRARY: Final = f"{__file__.rpartition('/')[0]}/_compiled.so"
_METRICS: Final = (Metric.COSINE, Metric.EUCLIDEAN, Metric.MANHATTAN, Metric.DOT_PRODUCT)
_TYPES: Final = (VectorType.FLOAT32, VectorType.FLOAT16, VectorType.INT8)
_NUMBER_OF_METRIC: Final = {metric: number for number, metric in enumerate(_METRICS)}
_NUMBER_OF_TYPE: Final = {kind.dtype: number for number, kind in enumerate(_TYPES)}
_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64
_NEAREST: Final[Any] = [
    ctypes.c_int, ctypes.c_int, _POINTER, _NUMBER, _POINTER, _NUMBER, _POINTER, _POINTER, _NUMBER,
    _NUMBER, _POINTER, _POINTER,
]  # fmt: skip
_SEARCH: Final[Any] = [
    _POINTER, _POINTER, _NUMBER, _POINTER, _NUMBER, ctypes.c_double, _NUMBER, _POINTER, _POINTER,
    _POINTER, _POINTER, _POINTER, _NUMBER, _POINTER, ctypes.c_int, ctypes.c_int, _POINTER, _NUMBER,
    _POINTER, _POINTER, _NUMBER, _NUMBER, _POINTER, _POINTER,
]  # fmt: skip
_CODE: Final[Any] = [_POINTER, _NUMBER, _NUMBER, _POINTER, _NUMBER, _POINTER]
_start: Final[Any] = (ctypes.c_char * 0).from_buffer  # in a fifth of the time of `address_of`


@dataclass(frozen=True, slots=True)
class Scan:
    """How faiss looks for the candidates of one query.

    call: address of its `search`; indexes: int64[1 or 2], addresses of what it is of; the point
    that is looked for is the query divided by `divisor`, with zeros up to `components`; depth: how
    many are found in each; parameters: an object of faiss.
    """

    call: int
    indexes: Numbers
    components: int
    divisor: float
    depth: int
    parameters: Any


class Nearest(NamedTuple):
    """Places and distances, int64[m] and float64[m], by (distance, place), and int64[k] unknown.

    unknown: places of rows that have no address; candidates: how many rows were considered.
    """

    places: Numbers
    distances: Distances
    unknown: Numbers
    candidates: int


@dataclass(frozen=True, slots=True)
class Question:
    """What the nearest rows are wanted of: `limit` rows of a stored type, by a metric.

    query: float32[d] in C order, finite, not zero for cosine and dot product. Distances are those
    of `exact_distances`; rows that are not finite are left out.
    """

    query: npt.NDArray[np.float32]
    metric: Metric
    limit: int


class Compiled:
    """The functions of the library. addresses: int64, of rows in C order by place, 0 if unknown."""

    __slots__ = ("_code", "_nearest", "_search")

    def __init__(self, library: Any) -> None:
        self._code = library.dvecdb_code
        self._code.argtypes, self._code.restype = _CODE, None
        self._nearest, self._search = library.dvecdb_nearest, library.dvecdb_search
        self._nearest.argtypes, self._nearest.restype = _NEAREST, _NUMBER
        self._search.argtypes, self._search.restype = _SEARCH, _NUMBER

    def nearest(
        self, addresses: Numbers, dtype: np.dtype[Any], asked: Question, places: Numbers
    ) -> Nearest:
        """Return the nearest of the rows at places, int64[n]; those below 0 are none."""
        if not (places.flags.carray and places.dtype == np.int64):
            places = np.array(places, np.int64)
        count, query = len(places), asked.query
        hits, unknown = _room(asked, count)
        found = self._nearest(
            _NUMBER_OF_METRIC[asked.metric], _NUMBER_OF_TYPE[dtype], _start(addresses),
            len(addresses), _start(places), count, _start(query), _start(np.empty(len(query))),
            len(query), len(hits), _start(hits), _start(unknown),
        )  # fmt: skip
        return _nearest(hits, found, unknown, count)

    def search(  # where rows lie, of what type, to what, among which
        self,
        addresses: Numbers,
        dtype: np.dtype[Any],
        asked: Question,
        scan: Scan,
        allowed: npt.NDArray[np.bool_] | None,
        wanted: int,
    ) -> Nearest:
        """Return the nearest of the first `wanted` candidates that are allowed: bool by place."""
        query, room = asked.query, len(scan.indexes) * scan.depth
        hits, unknown = _room(asked, min(wanted, room))
        seem, places = np.empty(room, np.float32), np.empty((2, room), np.int64)
        point, wide = np.empty(scan.components, np.float32), np.empty(len(query))
        candidates = ctypes.c_int64()
        found = self._search(
            scan.call, _start(scan.indexes), len(scan.indexes), _start(point), scan.components,
            scan.divisor, scan.depth, int(scan.parameters.this), _start(seem), _start(places[0]),
            None if allowed is None else _start(allowed), _start(places[1]), min(wanted, room),
            ctypes.byref(candidates), _NUMBER_OF_METRIC[asked.metric], _NUMBER_OF_TYPE[dtype],
            _start(addresses), len(addresses), _start(query), _start(wide), len(query), len(hits),
            _start(hits), _start(unknown),
        )  # fmt: skip
        return _nearest(hits, found, unknown, candidates.value)

    def code(
        self, points: npt.NDArray[np.float32], centroids: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.uint8]:
        """Return the product codes of points [n, d], four bits each: uint8[n, m].

        centroids: float32[parts, 16, d / parts], d / parts 2 or 4. The first of two codes is in the
        low half of a byte.
        """
        parts, _, shared = centroids.shape
        assert shared in {2, 4}
        assert points.shape[1] == parts * shared
        halves = (centroids * centroids).sum(axis=2, keepdims=True) / 2
        table = np.concatenate([centroids, halves], axis=2)
        points = np.ascontiguousarray(points, np.float32)
        codes = np.empty((len(points), (parts + 1) // 2), np.uint8)
        if len(points):
            self._code(
                address_of(points), len(points), points.shape[1], _start(table), shared,
                _start(codes),
            )  # fmt: skip
        return codes


def _room(asked: Question, count: int) -> tuple[Distances, Numbers]:
    """Return room for what is found among so many rows."""
    hits = np.empty((max(1, min(asked.limit, count)), 2), np.float64)
    return hits, np.empty(count + 1, np.int64)


def _nearest(hits: Distances, found: int, unknown: Numbers, candidates: int) -> Nearest:
    nearest = hits[:found]
    strangers = unknown[1 : 1 + int(unknown[0])]
    return Nearest(nearest.view(np.int64)[:, 1], nearest[:, 0], strangers, candidates)


@cache
def library() -> ctypes.CDLL | None:
    """Return the library, with all that is compiled, None if it cannot be used here."""
    try:
        found = ctypes.CDLL(LIBRARY)
    except OSError:  # not there, or of another system
        return None
    return found if found.dvecdb_is_usable() else None


@cache
def compiled() -> Compiled | None:
    """Return the functions, None if they cannot be used here."""
    found = library()
    if found is None:
        return None
    functions = Compiled(found)
    return functions if _measures_as_defined(functions) else None


def address_of(array: npt.NDArray[Any]) -> int:
    """Return where an array begins in memory."""
    return int(array.__array_interface__["data"][0])


def _measures_as_defined(functions: Compiled) -> bool:
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
                asked = Question(waves[8], metric, 8)
                found = functions.nearest(addresses, rows.dtype, asked, places)
                expected = exact_distances(rows, waves[8], metric)[found.places]
                if len(found.places) < 8 or not np.array_equal(expected, found.distances):
                    return False
    return True
