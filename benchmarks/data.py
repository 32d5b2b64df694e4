"""The rows that are measured: real embeddings filled up with mixtures, or low-rank mixtures.

Never uniform noise: there every row is equally far from a query, checksums and caches see nothing
they would see in use, and no bound of a search can exclude anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]

NEIGHBOURS = 8
_STEP = 2048


def embeddings(path: Path | None, count: int, dimension: int = 1536) -> tuple[Rows, Rows]:
    """Return float32 rows of length 1 and queries of the same kind.

    path: an npz with mean, base, base_scale, query and query_scale: int8 codes of embeddings.
    """
    rng = np.random.default_rng(11)
    if path is None:
        base, queries = _synthesize(min(count, 20_000), dimension, rng)
    else:
        with np.load(path) as data:
            base = _unit(data["mean"] + data["base"] * data["base_scale"][:, None])
            queries = _unit(data["mean"] + data["query"] * data["query_scale"][:, None])
    return _fill(base, count, rng), queries


def ids_of(count: int) -> list[str]:
    """Return the ids of `count` rows."""
    return [f"row-{number:07}" for number in range(count)]


def small_rows(count: int, dimension: int) -> Rows:
    """Return `count` rows of few dimensions around 200 centres."""
    rng = np.random.default_rng(12)
    centres = rng.standard_normal((200, dimension), dtype=np.float32)
    noise = rng.standard_normal((count, dimension), dtype=np.float32)
    return centres[rng.integers(0, 200, count)] + np.float32(0.4) * noise


def _synthesize(count: int, dimension: int, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Return rows and 500 queries around 200 centres in a subspace, with a common mean."""
    rank, total = 48, count + 500
    decay = 1.0 / np.sqrt(np.arange(1, rank + 1))
    centres = rng.standard_normal((200, rank)) * decay
    points = centres[rng.integers(0, 200, total)] + 0.6 * rng.standard_normal((total, rank)) * decay
    rows = points @ rng.standard_normal((rank, dimension)) + 1.5 * rng.standard_normal(dimension)
    rows += 0.3 * rng.standard_normal(rows.shape)
    unit = _unit(rows)
    return unit[500:], unit[:500]


def _fill(base: Rows, count: int, rng: np.random.Generator) -> Rows:
    """Return `count` rows: those of `base`, then noisy convex mixtures of near neighbours."""
    if count <= len(base):
        return np.ascontiguousarray(base[:count])
    near = _neighbours(base, rng)
    rows = np.empty((count, base.shape[1]), np.float32)
    rows[: len(base)] = base
    for start in range(len(base), count, _STEP):
        size = min(_STEP, count - start)
        first = rng.integers(0, len(base), size)
        second = near[first, rng.integers(0, NEIGHBOURS, size)]
        share = rng.random((size, 1), dtype=np.float32)
        mixed = share * base[first] + (1 - share) * base[second]
        noise = rng.standard_normal(mixed.shape, dtype=np.float32)
        rows[start : start + size] = _unit(mixed + noise * np.float32(0.3 / base.shape[1] ** 0.5))
    return rows


def _neighbours(base: Rows, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return about the nearest rows of each row, by a random projection: int64[n, NEIGHBOURS]."""
    centred = base - base.mean(axis=0)
    short = _unit(centred @ rng.standard_normal((base.shape[1], 96), dtype=np.float32))
    near = np.empty((len(base), NEIGHBOURS), np.int64)
    for start in range(0, len(base), _STEP):
        products = short[start : start + _STEP] @ short.T
        products[np.arange(len(products)), np.arange(start, start + len(products))] = -2
        near[start : start + _STEP] = np.argpartition(products, -NEIGHBOURS, axis=1)[
            :, -NEIGHBOURS:
        ]
    return near


def _unit(rows: npt.NDArray[np.floating]) -> Rows:
    rows = rows.astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows
