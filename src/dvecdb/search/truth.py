"""The nearest rows of some queries among all rows, block by block, by float32: to tune an index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dvecdb.records import Metric
from dvecdb.search.kernels import pair_distances

if TYPE_CHECKING:
    import numpy.typing as npt

    from dvecdb.search.ivf import Numbers, Points, Space


class Near(NamedTuple):
    """Rows that may be near queries: positions of queries and row numbers int64[n], scores."""

    queries: Numbers
    numbers: Numbers
    scores: Points


class Truth:
    """Collects the nearest rows of `queries`, which are rows themselves and do not count."""

    def __init__(
        self, space: Space, numbers: Numbers, queries: Points, *, skip: int, count: int
    ) -> None:
        """Look for `count` rows a query after the `skip` nearest. queries: float32[q, d]."""
        self.queries = queries
        self._space = space
        self._own = numbers
        self._skip = skip
        self._kept = skip + count + 1  # one more, to know which are nearer than any other
        self._points = space.query_points(queries)
        self._best = np.full((len(queries), self._kept), np.inf, np.float32)
        self._rows = np.full((len(queries), self._kept), -1, np.int64)

    def near(self, numbers: Numbers, points: Points, vectors: npt.NDArray[Any]) -> Near:
        """Return which of some rows may be near a query, for `offer`. Others may do it meanwhile.

        numbers: int64[n], rising; then their points and stored vectors.
        """
        if not len(numbers) or not len(self.queries):
            return Near(numbers[:0], numbers[:0], points[:0, 0])
        scores = self._scores(points, vectors)
        at = np.searchsorted(numbers, self._own)
        at[at == len(numbers)] = 0
        own = np.flatnonzero(numbers[at] == self._own)
        scores[own, at[own]] = np.inf
        limits = self._best[:, -1:]
        if scores.shape[1] > self._kept and not np.isfinite(limits).all():  # at first all would be
            limits = np.partition(scores, self._kept - 1, axis=1)[:, self._kept - 1 : self._kept]
        queries, columns = np.nonzero(scores <= limits)  # soon few are nearer
        return Near(queries, numbers[columns], scores[queries, columns])

    def offer(self, near: Near) -> None:
        """Consider rows."""
        if not len(near.queries):
            return
        own = np.repeat(np.arange(len(self._best)), self._kept)
        queries = np.concatenate([own, near.queries])
        numbers = np.concatenate([self._rows.ravel(), near.numbers])
        scores = np.concatenate([self._best.ravel(), near.scores])
        order = np.lexsort((scores, queries))
        starts = np.searchsorted(queries[order], np.arange(len(self._best)))
        kept = order[starts[:, None] + np.arange(self._kept)]
        self._best, self._rows = scores[kept], numbers[kept]

    def _scores(self, points: Points, vectors: npt.NDArray[Any]) -> Points:
        """Return what sorts as the distances do: float32[q, n]."""
        if self._space.metric is Metric.MANHATTAN:
            return pair_distances(self.queries, vectors.astype(np.float32), manhattan=True)
        return pair_distances(self._points, points, manhattan=False)

    def nearest(self) -> Numbers:
        """Return the rows looked for: int64[q, count].

        -1 where there are fewer, or where others are as near, so that any of them would do.
        """
        rows = self._rows.copy()
        rows[~(self._best < self._best[:, -1:])] = -1
        return rows[:, self._skip : -1]
