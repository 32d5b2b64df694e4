"""The rows, the queries, and what the right answers are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.data import embeddings
from benchmarks.peers.adapter import LIMIT, SHARES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]

BLOCK_ROWS = 4_096
SAME = 1e-6  # rounding: a row as near as the last of the right answers is right as well
FILTERS = (10, 100, 500)  # `share` below these: 1, 10 and 50 % of the rows


@dataclass(frozen=True, slots=True)
class Workload:
    """Rows of length 1 and their `share`; the queries that efforts are chosen by, and the others.

    least: the smallest product of a row that is among the LIMIT nearest, by the kind of queries
    and the filter.
    """

    rows: Rows
    shares: npt.NDArray[np.int64]
    queries: Mapping[str, Rows]
    least: Mapping[tuple[str, int | None], Rows]

    def recall(self, what: str, below: int | None, answers: Mapping[str, Sequence[int]]) -> float:
        """Return the mean share of the nearest rows that the answers hold.

        answers: numbers of rows by the position of the query.

        Raises:
            ValueError: an answer holds a row that the filter excludes.
        """
        right = 0
        matching = len(self.shares) if below is None else int((self.shares < below).sum())
        wanted = min(LIMIT, matching)
        for position, numbers in answers.items():
            found = np.unique(np.array(numbers, np.int64))
            if below is not None and (self.shares[found] >= below).any():
                raise ValueError(f"an answer holds rows with share >= {below}")
            products = self.rows[found] @ self.queries[what][int(position)]
            near = int((products >= self.least[what, below][int(position)] - SAME).sum())
            right += min(near, wanted)
        return right / (wanted * len(answers))

    def save(self, directory: Path) -> None:
        """Write what the processes of the systems read."""
        np.save(directory / "rows.npy", self.rows)
        np.save(directory / "shares.npy", self.shares)
        for what, queries in self.queries.items():
            np.save(directory / f"{what}.npy", queries)


def make(path: Path | None, count: int, dimension: int) -> Workload:
    """Return `count` rows of `dimension`.

    Fewer dimensions than the data has are its last ones, made of length 1 again.
    """
    rows, queries = embeddings(path, count, dimension)
    if dimension > rows.shape[1]:
        raise ValueError(f"the data has {rows.shape[1]} dimensions, not {dimension}")
    rows, queries = (_unit(part[:, -dimension:]) for part in (rows, queries))
    shares = np.random.default_rng(13).integers(0, SHARES, count)
    halves = {
        "tune": np.ascontiguousarray(queries[::2]),
        "measure": np.ascontiguousarray(queries[1::2]),
    }
    least = {
        (what, below): _least(rows if below is None else rows[shares < below], half)
        for what, half in halves.items()
        for below in (None, *FILTERS)
    }
    return Workload(rows, shares, halves, least)


def _least(rows: Rows, queries: Rows) -> Rows:
    """Return the product of each query and the last of its LIMIT nearest rows, exactly."""
    best = np.full((len(queries), LIMIT), -np.inf, np.float32)
    for start in range(0, len(rows), BLOCK_ROWS):
        products = queries @ rows[start : start + BLOCK_ROWS].T
        best = np.partition(np.hstack([best, products]), -LIMIT, axis=1)[:, -LIMIT:]
    return best.min(axis=1)


def _unit(rows: Rows) -> Rows:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.ascontiguousarray(rows / lengths, dtype=np.float32)
