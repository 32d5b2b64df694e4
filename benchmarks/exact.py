"""Exact search through `TopK` against plain numpy over a float32 array held in memory.

    python benchmarks/exact.py [--data embeddings.npz] [--rows 78796] [--rounds 7]

Every round runs all pairs once, interleaved; the table shows medians. numpy gets its norms for
nothing, as `TopK` does. Both answers are compared: rows must agree where distances do not tie.
Data: an npz with mean, base, base_scale, query and query_scale (int8 codes of real embeddings),
filled up with noisy mixtures of near rows; without one, low-rank mixtures. Never uniform noise,
on which every row is equally far and no bound can exclude anything.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dvecdb.records import Metric, VectorType
from dvecdb.search.distance import TopK, needs_norms, row_norms

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Array = npt.NDArray[Any]

BLOCK_BYTES = 4 * 1024 * 1024


def main() -> int:
    """Run and print the table. Returns 1 if an answer is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--rows", type=int, default=78_796)
    parser.add_argument("--dimension", type=int, default=1536, help="of synthetic data")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--limit", type=int, default=10)
    parser.add_argument("--metric", type=Metric, default=None)
    options = parser.parse_args()
    rng = np.random.default_rng(11)
    base, queries = _load(options.data, rng) if options.data else _synthesize(options, rng)
    base = _fill(base, options.rows, rng)
    wrong = 0
    print(
        f"{len(base)} x {base.shape[1]}, limit {options.limit}, medians of {options.rounds} in ms"
    )
    print(
        f"{'metric':12} {'numpy f32':>10} " + " ".join(f"{item:>9} {'x':>5}" for item in VectorType)
    )
    stored = {kind: _store(base, kind) for kind in VectorType}
    for metric in Metric if options.metric is None else [options.metric]:
        wrong += _compare(metric, stored, queries, options.rounds, options.limit)
    return 1 if wrong else 0


def _load(path: Path, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return float32 rows of length 1 and float32 queries."""
    del rng
    with np.load(path) as data:
        base = data["mean"] + data["base"] * data["base_scale"][:, None]
        queries = data["mean"] + data["query"] * data["query_scale"][:, None]
    return _unit(base), _unit(queries)


def _synthesize(options: argparse.Namespace, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return rows and queries around 200 centres in a subspace, with a common mean."""
    rank, dimension, count = 48, options.dimension, 20_500
    decay = 1.0 / np.sqrt(np.arange(1, rank + 1))
    centres = rng.standard_normal((200, rank)) * decay
    points = centres[rng.integers(0, 200, count)] + 0.6 * rng.standard_normal((count, rank)) * decay
    rows = points @ rng.standard_normal((rank, dimension)) + 1.5 * rng.standard_normal(dimension)
    rows += 0.3 * rng.standard_normal(rows.shape)
    unit = _unit(rows)
    return unit[500:], unit[:500]


def _fill(base: Array, count: int, rng: np.random.Generator) -> Array:
    """Return `count` rows: those of `base`, then noisy mixtures of neighbouring ones."""
    if count <= len(base):
        return np.ascontiguousarray(base[:count])
    order = np.argsort(base @ base[0])
    rows = np.empty((count, base.shape[1]), np.float32)
    rows[: len(base)] = base
    for start in range(len(base), count, 4096):
        size = min(4096, count - start)
        first = rng.integers(0, len(base) - 8, size)
        share = rng.random((size, 1), dtype=np.float32)
        mixed = share * base[order[first]] + (1 - share) * base[order[first + rng.integers(1, 8)]]
        noise = rng.standard_normal(mixed.shape, dtype=np.float32)
        rows[start : start + size] = _unit(mixed + noise * (0.3 / np.sqrt(base.shape[1])))
    return rows


def _unit(rows: Array) -> Array:
    rows = rows.astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def _store(base: Array, kind: VectorType) -> Array:
    if kind is VectorType.INT8:
        return np.rint(base * (127.0 / np.abs(base).max())).astype(np.int8)
    return base.astype(kind.dtype)


def _compare(
    metric: Metric, stored: dict[VectorType, Array], queries: Array, rounds: int, limit: int
) -> int:
    base = stored[VectorType.FLOAT32]
    scale = 127.0 / np.abs(base).max()
    reference = _numpy_search(base, metric, limit)
    searches = {kind: _block_search(rows, metric, kind, limit) for kind, rows in stored.items()}
    times: dict[str, list[float]] = {"numpy": [], **{kind: [] for kind in searches}}
    wrong = 0
    for round_ in range(rounds + 1):
        query = queries[round_]
        expected, took = _timed(reference, query)
        times["numpy"].append(took)
        for kind, search in searches.items():
            scaled = query * np.float32(scale) if kind is VectorType.INT8 else query
            found, took = _timed(search, scaled)
            times[kind].append(took)
            if kind is VectorType.FLOAT32:
                wrong += set(found[0].tolist()) != set(expected[0].tolist())
    medians = {name: statistics.median(values[1:]) * 1e3 for name, values in times.items()}
    cells = " ".join(
        f"{medians[kind]:9.2f} {medians[kind] / medians['numpy']:5.2f}" for kind in searches
    )
    note = f"  {wrong} answers differ from numpy's float32" if wrong else ""
    print(f"{metric:12} {medians['numpy']:10.2f} {cells}{note}")
    sys.stdout.flush()
    return wrong


def _timed(search: Callable[[Array], tuple[Array, Array]], query: Array) -> tuple[Any, float]:
    start = time.perf_counter()
    answer = search(query)
    return answer, time.perf_counter() - start


def _numpy_search(
    base: Array, metric: Metric, limit: int
) -> Callable[[Array], tuple[Array, Array]]:
    norms = np.linalg.norm(base, axis=1)
    squares = norms * norms

    def search(query: Array) -> tuple[Array, Array]:
        if metric is Metric.COSINE:
            distances = 1.0 - (base @ query) / (norms * np.linalg.norm(query))
        elif metric is Metric.EUCLIDEAN:
            distances = np.sqrt(np.maximum(squares - 2.0 * (base @ query) + query @ query, 0.0))
        elif metric is Metric.MANHATTAN:
            distances = np.abs(base - query).sum(axis=1)
        else:
            distances = -(base @ query)
        nearest = np.argpartition(distances, limit)[:limit]
        nearest = nearest[np.argsort(distances[nearest])]
        return nearest, distances[nearest]

    return search


def _block_search(
    rows: Array, metric: Metric, kind: VectorType, limit: int
) -> Callable[[Array], tuple[Array, Array]]:
    size = BLOCK_BYTES // (rows.itemsize * rows.shape[1])
    starts = range(0, len(rows), size)
    blocks = [rows[start : start + size] for start in starts]
    norms = [row_norms(block) if needs_norms(metric, kind) else None for block in blocks]

    def search(query: Array) -> tuple[Array, Array]:
        nearest = TopK(query, metric, kind, limit)
        for start, block, lengths in zip(starts, blocks, norms, strict=True):
            nearest.offer(block, start, None, lengths)
        return nearest.result()

    return search


if __name__ == "__main__":
    raise SystemExit(main())
