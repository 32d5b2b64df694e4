"""Rows that lie here and there in memory, and the nearest of them: no copy, one call for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from dvecdb.search.compiled import address_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from dvecdb.search.compiled import Compiled, Nearest, Question, Scan

    Rows = npt.NDArray[Any]
    Numbers = npt.NDArray[np.int64]

_NONE: Final = np.zeros(0, np.int64)


class Scattered:
    """Rows of arrays [n, d] of one type, by place. Those that were `put` are known.

    The arrays must stay as they are. Any number of threads may ask while one puts more.
    """

    __slots__ = ("_addresses", "_arrays", "_compiled", "_dtype")

    def __init__(  # of what, and what is known of them
        self,
        compiled: Compiled,
        dtype: np.dtype[Any],
        places: int,
        arrays: Iterable[Rows] = (),
        known: Numbers = _NONE,
    ) -> None:
        """Take the type of all rows and the number of places. arrays, known: see `with_places`."""
        self._compiled, self._dtype = compiled, dtype
        self._arrays = list(arrays)  # kept in memory, as nothing else here does
        self._addresses = np.zeros(places, np.int64)  # 0: not known
        self._addresses[: len(known)] = known

    def with_places(self, places: int) -> Self:
        """Return the same rows among more places; rows put in one of them are not in the other."""
        return type(self)(self._compiled, self._dtype, places, self._arrays, self._addresses)

    def put(self, places: Numbers, array: Rows, ordinals: Numbers) -> None:
        """Make rows of an array known, which is in C order."""
        assert array.dtype == self._dtype
        assert array.flags.c_contiguous
        if not any(array is held for held in self._arrays):
            self._arrays.append(array)
        self._addresses[places] = address_of(array) + ordinals * array.strides[0]

    def nearest(self, asked: Question, places: Numbers) -> Nearest:
        """Return the nearest of the rows at places, int64[n]; those below 0 are none."""
        return self._compiled.nearest(self._addresses, self._dtype, asked, places)

    def search(
        self, asked: Question, scan: Scan, allowed: npt.NDArray[np.bool_] | None, wanted: int
    ) -> Nearest:
        """Return the nearest of the first `wanted` candidates that are allowed: bool by place."""
        return self._compiled.search(self._addresses, self._dtype, asked, scan, allowed, wanted)
