"""The lengths of a segment's rows, found by blocks as they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dvecdb.search.distance import row_norms

if TYPE_CHECKING:
    import numpy.typing as npt


class BlockNorms:
    """L2 norms of rows [n, d]. For any number of threads: two may find the same."""

    __slots__ = ("_block_rows", "_known", "_norms", "_vectors")

    def __init__(self, vectors: npt.NDArray[Any], block_rows: int) -> None:
        self._vectors = vectors
        self._block_rows = block_rows
        self._norms = np.zeros(len(vectors), dtype=np.float32)
        self._known = np.zeros(-(-len(vectors) // block_rows), dtype=np.bool_)

    def of(self, start: int, end: int) -> npt.NDArray[np.float32]:
        """Return the norms of rows start .. end - 1: float32[end - start]."""
        first, last = start // self._block_rows, -(-end // self._block_rows)
        if not self._known[first:last].all():
            low, high = first * self._block_rows, last * self._block_rows
            with np.errstate(all="ignore"):  # damaged bytes may be any number; they are not served
                self._norms[low:high] = row_norms(self._vectors[low:high])
            self._known[first:last] = True
        return self._norms[start:end]
