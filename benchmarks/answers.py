"""What is right, and how much of it was found: recall at 10, a row as near as the tenth counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dvecdb.records import Metric

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]
    Flags = npt.NDArray[np.bool_]

LIMIT = 10
BLOCK_ROWS = 4_096
SAME = 2e-6  # of the size of a score: rounding, as a share


class Right:
    """The right answers to some queries: rows no further than the tenth nearest of each."""

    def __init__(
        self,
        rows: Rows,
        queries: Rows,
        *,
        metric: Metric = Metric.COSINE,
        counts: Flags | None = None,
    ) -> None:
        """Measure all rows. counts: bool[n] or [q, n], those that may be found; None for all."""
        self._rows, self._queries, self._metric = rows, queries, metric
        whole = (len(queries), len(rows))
        self._counts = counts = None if counts is None else np.broadcast_to(counts, whole)
        matching = np.full(len(queries), len(rows)) if counts is None else counts.sum(axis=1)
        self._wanted = np.minimum(LIMIT, matching)
        best = np.full((len(queries), LIMIT), -np.inf, np.float32)
        for start, block in blocks(rows):
            found = scores(block, queries, metric)
            if counts is not None:
                found[~counts[:, start : start + len(block)]] = -np.inf
            best = np.partition(np.hstack([best, found]), -LIMIT, axis=1)[:, -LIMIT:]
        best.sort(axis=1)
        least = np.take_along_axis(best, LIMIT - self._wanted[:, None], 1)[:, 0]
        self._least = least - SAME * np.maximum(np.abs(least), 1e-3)

    def recall(self, answers: Mapping[int, Sequence[int]]) -> float:
        """Return the mean share that was found. answers: row numbers by position of the query.

        Raises:
            ValueError: an answer holds a row that may not be found.
        """
        shares = []
        for position, numbers in answers.items():
            found = np.unique(np.array(numbers, np.int64))
            if self._counts is not None and not self._counts[position, found].all():
                raise ValueError("an answer holds rows that do not match or are not there")
            query = self._queries[position : position + 1]
            near = scores(self._rows[found], query, self._metric)[0] >= self._least[position]
            wanted = int(self._wanted[position])
            shares.append(min(int(np.count_nonzero(near)), wanted) / wanted)
        return float(np.mean(shares))


def blocks(rows: Rows) -> Iterator[tuple[int, Rows]]:
    """Yield parts of the rows, each with the number of its first one."""
    for start in range(0, len(rows), BLOCK_ROWS):
        yield start, rows[start : start + BLOCK_ROWS]


def scores(rows: Rows, queries: Rows, metric: Metric) -> Rows:
    """Return float32[q, n], larger for nearer rows."""
    products = queries @ rows.T
    if metric is Metric.COSINE:
        return products / np.linalg.norm(rows, axis=1)
    if metric is Metric.EUCLIDEAN:
        return 2.0 * products - np.einsum("ij,ij->i", rows, rows)
    if metric is Metric.DOT_PRODUCT:
        return products
    raise ValueError(f"{metric} is not measured here")


def halves(queries: Rows) -> tuple[Rows, Rows]:
    """Return the queries that efforts are chosen by, and those that are measured."""
    return np.ascontiguousarray(queries[::2]), np.ascontiguousarray(queries[1::2])
