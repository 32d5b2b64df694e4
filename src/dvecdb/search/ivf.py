"""Candidates for nearest rows: a few coarse lists, and per row a code of about one bit a dimension.

An inverted file (k-means lists, of which a search probes some) over product codes: every few
components together get four bits, the nearest of 16 centroids (Jégou, Douze and Schmid, "Product
Quantization for Nearest Neighbor Search", TPAMI 2011). faiss scans them 32 rows at a time, by
lookups in registers. The fewer components a row has, the fewer share a code.

Codes tell near rows from far ones. They never answer: whoever asks measures the candidates exactly.
All four metrics go through squared Euclidean distance between **points**:

    cosine       rows and queries of length 1
    euclidean    as they are
    manhattan    as they are: rows near in one are near in the other
    dot_product  with one more component, sqrt(reach^2 - |row|^2), 0 for queries: then the largest
                 product is the nearest point (Bachrach et al., RecSys 2014)

and zeros behind, up to a multiple of the components that share a code.

A `Codes` is never changed once others can see it: faiss does not allow rows to be added while it
is searched. Growing returns another that shares the large part.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from ctypes import CDLL, PyDLL, c_void_p, cast
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from dvecdb.records import Metric
from dvecdb.search.compiled import Scan, compiled
from dvecdb.search.kernels import faiss_library, row_norms
from dvecdb.search.packing import put, put_chosen, take

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

    Points = npt.NDArray[np.float32]
    Numbers = npt.NDArray[np.int64]

_SHARED: Final = ((128, 1), (256, 2))
"""Dimensions up to which so many components share a code; beyond, it is `_SHARED_MOST`."""
_SHARED_MOST: Final = 4
ROWS_PER_LIST: Final = 1_000  # on average, at most
_ROWS_PER_LIST_MIN: Final = 500
_SHORT: Final = 512  # dimensions, up to which lists are cheap to make
LISTS_MAX: Final = 4_096
SAMPLE_PER_LIST: Final = 60
_ITERATIONS: Final = 10
LENGTH_MAX: Final = 1e15
"""Rows longer than this are beyond codes: squares of differences must stay within float32. (Where
they do not, faiss ends the process while it looks for lists, and loses rows that are added.)"""
_SEARCH_NAME: Final = "_ZNK5faiss16IndexIVFFastScan6searchElPKflPfPlPKNS_16SearchParametersE"
"""IndexIVFFastScan::search(idx_t, const float*, idx_t, float*, idx_t*, const SearchParameters*), as
C++ names it (Itanium C++ ABI): with other arguments it would have another name."""
_CENTROIDS: Final = 16  # of four bits
_CENTROID_ROWS: Final = 1_024  # of the sample, and
_CENTROID_ITERATIONS: Final = 4  # tell them well enough;
_CENTROID_ITERATIONS_SHORT: Final = 25  # of components by themselves, which cost little


@dataclass(frozen=True, slots=True)
class Space:
    """How the rows of a collection become points. reach: no row is longer, for dot products."""

    metric: Metric
    dimension: int
    reach: float = 0.0

    @property
    def shared(self) -> int:
        """How many components share a code."""
        return next((n for end, n in _SHARED if self.dimension <= end), _SHARED_MOST)

    @property
    def components(self) -> int:
        """The dimension of a point: a multiple of `shared`."""
        needed = self.dimension + (self.metric is Metric.DOT_PRODUCT)
        return needed + -needed % self.shared

    def takes(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which rows of a stored type [n, dimension], finite, can be points: bool[n]."""
        lengths = row_norms(rows)
        match self.metric:
            case Metric.COSINE:
                within = (lengths >= 1.0 / LENGTH_MAX) & (lengths <= LENGTH_MAX)
                return np.asarray(within | ~rows.any(axis=1))
            case Metric.DOT_PRODUCT:  # as a point within the reach it would seem far away
                return np.asarray(lengths <= np.float32(self.reach))
        return np.asarray(lengths <= LENGTH_MAX)

    def points(self, rows: npt.NDArray[Any]) -> Points:
        """Return rows that `takes` as points [n, components]."""
        vectors = np.ascontiguousarray(rows, np.float32)
        if self.metric is Metric.COSINE:
            lengths = row_norms(vectors)
            lengths[lengths == 0.0] = 1.0
            vectors = vectors / lengths[:, None]
        points = self._widened(vectors)
        if self.metric is Metric.DOT_PRODUCT:
            squares = row_norms(vectors).astype(np.float64) ** 2
            points[:, self.dimension] = np.sqrt(np.maximum(self.reach**2 - squares, 0.0))
        return points

    def _widened(self, vectors: Points) -> Points:
        """Return rows [n, dimension] with zeros behind: [n, components]."""
        if self.components == self.dimension:
            return vectors
        points = np.zeros((len(vectors), self.components), np.float32)
        points[:, : self.dimension] = vectors
        return points

    def query_points(self, queries: Points) -> Points:
        """Return queries [n, dimension], not zero, as points: float32[n, components]."""
        if self.metric is Metric.COSINE:
            return self.points(queries)
        if self.metric is Metric.DOT_PRODUCT:
            # Only the direction of a query counts; at the reach it lies among the points.
            lengths = row_norms(queries)
            lengths[lengths == 0.0] = 1.0
            return self._widened(queries * (np.float32(self.reach) / lengths)[:, None])
        return self._widened(np.ascontiguousarray(queries, np.float32))

    def divisor(self, length: float) -> float:
        """Return what a query of a length is divided by to be a point, with zeros behind."""
        match self.metric:
            case Metric.COSINE:
                return length or 1.0
            case Metric.DOT_PRODUCT:
                return (length or 1.0) / (self.reach or 1.0)
        return 1.0


def lists_for(rows: int, dimension: int) -> int:
    """Return the number of lists for so many rows: a power of two.

    They grow with the square root of the rows at first: more lists find as much in fewer rows,
    and take longer to make the longer the rows are.
    """
    share = 0.35 if dimension <= _SHORT else 0.25
    wanted = max(1.0, rows / ROWS_PER_LIST, min(share * rows**0.5, rows / _ROWS_PER_LIST_MIN))
    return int(min(LISTS_MAX, 2 ** round(np.log2(wanted))))


class Coded(NamedTuple):
    """Rows on their way into an index: numbers and lists int64[n], codes uint8[n, m]."""

    numbers: Numbers
    lists: Numbers
    codes: npt.NDArray[np.uint8]


class Codes:
    """The codes of `count` rows: immutable. `base` is large and shared, `tail` small or None."""

    __slots__ = ("_addresses", "_base", "_empty", "_parts", "_tail", "count", "lists", "space")

    def __init__(self, space: Space, empty: Any, base: Any, tail: Any = None) -> None:
        """Take faiss indexes: a trained one without rows, and such with rows. See `train`."""
        self.space = space
        self.lists = int(empty.nlist)
        self._empty = empty
        self._base = base
        self._tail = tail
        self._parts = [part for part in (base, tail) if part is not None and part.ntotal]
        self._addresses = np.array([int(part.this) for part in self._parts], np.int64)
        self.count = sum(int(part.ntotal) for part in self._parts)

    @classmethod
    def train(cls, space: Space, sample: Points, lists: int) -> Codes:
        """Return codes of no rows, with lists around the centres of `sample`: points [n, d]."""
        faiss = faiss_library()
        clustering = faiss.Clustering(space.components, lists)
        clustering.niter, clustering.seed = _ITERATIONS, 1
        clustering.min_points_per_centroid = 1
        clustering.max_points_per_centroid = 4 * SAMPLE_PER_LIST
        quantizer = faiss.IndexFlatL2(space.components)
        clustering.train(sample, quantizer)
        codes_each = space.components // space.shared
        empty = faiss.IndexIVFPQFastScan(quantizer, space.components, lists, codes_each, 4)
        quantizer.this.disown()
        empty.own_fields = True
        alone = space.shared == 1
        # What lies beyond the centre of its list says more of a row, and takes a table of lookups a
        # list: worth it where those are small.
        empty.by_residual = alone
        empty.use_precomputed_table = -1  # none, which would be as large as the lists
        empty.pq.cp.niter = _CENTROID_ITERATIONS_SHORT if alone else _CENTROID_ITERATIONS
        empty.pq.cp.min_points_per_centroid = 1
        times = -(-_CENTROIDS // len(sample))
        empty.train(np.tile(sample[:: -(-len(sample) // _CENTROID_ROWS)], (times, 1)))
        return cls(space, _quick_to_code(empty), faiss.clone_index(empty))

    @property
    def size_bytes(self) -> int:
        """The bytes they take in memory, about."""
        return self.bytes_of(self.count)

    def bytes_of(self, rows: int) -> int:
        """Return the bytes that so many rows take in lists like these, about."""
        each = int(self._base.code_size) + 8
        return rows * each + self.lists * self.space.components * 4

    def code(self, numbers: Numbers, points: Points) -> Coded:
        """Return rows with their codes: numbers int64[n], points float32[n, components].

        By as many threads as `use_threads` of the caller's allows; others may do it meanwhile.
        """
        if not len(points):
            return Coded(numbers, numbers, np.zeros((0, self._empty.code_size), np.uint8))
        functions = compiled()
        if functions is not None and not self._empty.by_residual:
            lists = self._empty.quantizer.assign(points, 1).ravel()
            return Coded(numbers, lists, functions.code(points, self._centroids()))
        stored = self._empty.sa_encode(points)
        width = stored.shape[1] - self._empty.code_size  # bytes of the number of the list
        lists = np.zeros((len(points), 8), np.uint8)
        lists[:, :width] = stored[:, :width]
        return Coded(numbers, lists.view("<i8").ravel(), stored[:, width:])

    def _centroids(self) -> Points:
        """Return the centroids: float32[parts, 16, components that share a code]."""
        found = faiss_library().vector_to_array(self._empty.pq.centroids)
        return np.asarray(found.reshape(-1, _CENTROIDS, self.space.shared))

    def with_base(self, coded: Iterable[Coded]) -> Codes:
        """Return codes of the base and of more rows, without a tail."""
        base = faiss_library().clone_index(self._base)
        _add(base, coded)
        return Codes(self.space, self._empty, base)

    def with_tail(self, coded: Iterable[Coded]) -> Codes:
        """Return these codes with more rows in the tail, after those in there."""
        tail = faiss_library().clone_index(self._empty if self._tail is None else self._tail)
        _add(tail, coded)
        return Codes(self.space, self._empty, self._base, tail if tail.ntotal else None)

    def with_tail_moved(self, end: int) -> Codes:
        """Return these codes with the tail below `end` in the base: copied, not coded anew."""
        faiss = faiss_library()
        if self._tail is None:
            return self
        lists, codes, numbers = take(self._tail)
        base, tail = faiss.clone_index(self._base), faiss.clone_index(self._empty)
        for part, moved in ((base, numbers < end), (tail, numbers >= end)):
            put(part, lists[moved], codes[moved], numbers[moved])
        return Codes(self.space, self._empty, base, tail if tail.ntotal else None)

    def narrowed(self, chosen: npt.NDArray[np.bool_]) -> Codes:
        """Return codes of some rows of the base, bool[numbers], and of all of the tail."""
        base = faiss_library().clone_index(self._empty)
        put_chosen(base, self._base, chosen)
        return Codes(self.space, self._empty, base, self._tail)

    def with_tail_of(self, other: Codes) -> Codes:
        """Return codes of the rows of this base and of another's tail, with the same lists."""
        return Codes(self.space, self._empty, self._base, other._tail)

    def search(
        self, points: Points, probes: int, depth: int, allowed: npt.NDArray[np.uint8] | None = None
    ) -> tuple[Numbers, Points]:
        """Return the row numbers of the best candidates, best first, and how far they seem.

        points: float32[n, components] in C order; probes: lists looked into, per part; allowed: a
        bit a row number, low bit first, of the rows that may be found. result: int64[n, m] with -1
        where there were no more, float32[n, m], m `depth` or twice that.
        """
        parameters = _parameters_for(min(probes, self.lists), allowed)
        found = [_search(part, points, depth, parameters) for part in self._parts]
        if len(found) == 1:
            return found[0]
        if not found:
            nothing = np.empty((len(points), 0))
            return nothing.astype(np.int64), nothing.astype(np.float32)
        numbers = np.concatenate([item[0] for item in found], axis=1)
        distances = np.concatenate([item[1] for item in found], axis=1)
        distances[numbers < 0] = np.inf
        order = np.argsort(distances, axis=1, kind="stable")
        if len(points) == 1:  # as `take_along_axis` does, in a tenth of its time
            return numbers[:, order[0]], distances[:, order[0]]
        return np.take_along_axis(numbers, order, 1), np.take_along_axis(distances, order, 1)

    def scan(
        self, length: float, probes: int, depth: int, allowed: npt.NDArray[np.uint8] | None = None
    ) -> Scan | None:
        """Return how `search` is done by addresses for a query of a length, None if it cannot be.

        length: at most `LENGTH_MAX`; the query itself is given where it is done.
        """
        call = _search_address()
        if call is None or not self._parts:
            return None
        parameters = _parameters_for(min(probes, self.lists), allowed)
        divisor = self.space.divisor(length)
        return Scan(call, self._addresses, self.space.components, divisor, depth, parameters)

    def base_bytes(self) -> npt.NDArray[np.uint8]:
        """Return the base in a form that `from_bytes` takes: uint8[n]."""
        stored: npt.NDArray[np.uint8] = faiss_library().serialize_index(self._base)
        return stored

    @classmethod
    def from_bytes(cls, space: Space, data: npt.NDArray[np.uint8]) -> Codes:
        """Return the codes of a stored base. The bytes must be known to be good.

        Raises:
            ValueError: they are of another shape.
        """
        faiss = faiss_library()
        try:
            base = faiss.deserialize_index(data)
        except RuntimeError as error:  # what faiss raises for all that it does not like
            raise ValueError(f"not an index that this faiss reads: {error}") from error
        if not isinstance(base, faiss.IndexIVFPQFastScan):
            raise ValueError("not an index of product codes")  # noqa: TRY004  # the file is wrong
        if (base.d, base.M * space.shared) != (space.components, space.components):
            raise ValueError(f"an index of {base.d} components, not {space.components}")
        empty = faiss.clone_index(base)
        empty.reset()
        return cls(space, _quick_to_code(faiss.clone_index(empty)), base)


def _quick_to_code(empty: Any) -> Any:
    """Let an index code with its centroids side by side, component by component; return it."""
    empty.pq.sync_transposed_centroids()
    return empty


def _add(index: Any, coded: Iterable[Coded]) -> None:
    parts = list(coded)  # a list of the index is filled once, not once a part
    if parts:
        lists, codes, numbers = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("lists", "codes", "numbers")
        )
        put(index, lists, codes, numbers)


def _search(part: Any, points: Points, depth: int, parameters: Any) -> tuple[Numbers, Points]:
    """Search one faiss index, without what its Python wrapper checks at every call."""
    faiss = faiss_library()
    numbers = np.empty((len(points), depth), np.int64)
    distances = np.empty((len(points), depth), np.float32)
    pointer = faiss.swig_ptr
    part.search_c(
        len(points), pointer(points), depth, pointer(distances), pointer(numbers), parameters
    )
    return numbers, distances


def _parameters_for(probes: int, allowed: npt.NDArray[np.uint8] | None) -> Any:
    """Return what a search of faiss is told; valid as long as `allowed` is there."""
    if allowed is None:
        return _every_row(probes)
    faiss, parameters = faiss_library(), _parameters(probes)
    parameters.sel = faiss.IDSelectorBitmap(allowed.size, faiss.swig_ptr(allowed))
    return parameters


def _parameters(probes: int) -> Any:
    parameters = faiss_library().IVFSearchParameters()
    parameters.nprobe = probes
    return parameters


_every_row = lru_cache(256)(_parameters)  # never changed, so searches may share it


def use_threads(count: int) -> None:
    """Let faiss calls of this thread use so many threads."""
    _openmp().omp_set_num_threads(count)


def threads_used() -> int:
    """Return how many threads faiss calls of this thread use."""
    return int(_openmp().omp_get_max_threads())


@cache
def _openmp() -> Any:
    """Return what sets the number of threads: the library that faiss uses, or faiss itself.

    faiss gives up the interpreter's lock even for this, and has to wait for it among others.
    """
    faiss = faiss_library()
    with suppress(AttributeError, OSError):
        library = PyDLL(_faiss_file())
        before = library.omp_get_max_threads()
        library.omp_set_num_threads(before + 1)
        is_same = faiss.omp_get_max_threads() == before + 1
        library.omp_set_num_threads(before)
        if is_same:
            return library
    return faiss


def _faiss_file() -> str:
    """Return the file of faiss's own library. Raises AttributeError if it is not where it was."""
    module = import_module(faiss_library().IndexFlatL2.__module__)
    return str(module._swigfaiss.__file__)  # noqa: SLF001


@cache
def _search_address() -> int | None:
    """Return where the `search` of an index begins in memory, None if that cannot be told."""
    with suppress(AttributeError, OSError):
        return cast(getattr(CDLL(_faiss_file()), _SEARCH_NAME), c_void_p).value
    return None


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Let faiss calls of this thread use so many threads inside; it may be a caller's."""
    before = threads_used()
    use_threads(count)
    try:
        yield
    finally:
        use_threads(before)
