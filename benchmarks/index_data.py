"""Collections with an index: their rows, their metadata, and how they come to be."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.data import ids_of

import dvecdb
from dvecdb.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]

BATCH_ROWS = 1_000
SHARES = 1_000  # `share` is uniform below this: each value has a thousandth of the rows
READY_SECONDS = 900
LANGUAGES = ("ar", "de", "en", "ja", "pt")


def settings_for(count: int) -> Settings:
    """Return settings by which so many rows, 2 or more, have an index; by 0 none has one.

    They are the defaults, if there are enough rows.
    """
    return Settings(index_rows_min=min(Settings().index_rows_min, count // 2))


def shares_of(count: int) -> npt.NDArray[np.int64]:
    """Return the field `share` of each row."""
    return np.random.default_rng(13).integers(0, SHARES, count)


def metadata_of(count: int) -> list[dict[str, Any]]:
    """Return the metadata of each row."""
    return [
        {"number": number, "lang": LANGUAGES[number % len(LANGUAGES)], "share": share}
        for number, share in enumerate(shares_of(count).tolist())
    ]


def fill(
    docs: Any, rows: Rows, first: int = 0, metadata: list[dict[str, Any]] | None = None
) -> None:
    """Write rows, numbered from `first`, in batches, each durable when the next begins."""
    ids = ids_of(first + len(rows))[first:]
    for start in range(0, len(rows), BATCH_ROWS):
        part = slice(start, start + BATCH_ROWS)
        docs.upsert(ids[part], rows[part], None if metadata is None else metadata[part])


@contextlib.contextmanager
def filled(path: Path, rows: Rows, **schema: Any) -> Iterator[Any]:
    """Give an open collection of the rows, with metadata, all durable."""
    with dvecdb.open(path, settings=settings_for(len(rows))) as database:
        docs = database.create_collection("docs", dimension=rows.shape[1], **schema)
        fill(docs, rows, metadata=metadata_of(len(rows)))
        yield docs


@contextlib.contextmanager
def indexed(path: Path, rows: Rows, **schema: Any) -> Iterator[Any]:
    """Give an open collection of the rows, with metadata, whose index is ready."""
    with filled(path, rows, **schema) as docs:
        wait(docs)
        yield docs


def wait(docs: Any) -> None:
    """Wait until the index covers every row."""
    found = docs.wait_for_index(READY_SECONDS)
    if found.state != "ready":
        raise RuntimeError(f"the index is not ready but {found}")


def drop_index(path: Path) -> None:
    """Remove the index files of a closed data directory: the index must be made anew."""
    for file in path.glob("collections/*/derived/index-*.ivf"):
        file.unlink()


def clusters(count: int, dimension: int, seed: int, centres: int = 500) -> Rows:
    """Return rows around centres, both of low rank, with noise in every dimension."""
    shape = np.random.default_rng(21)
    rank = 32
    lift = shape.standard_normal((rank, dimension), dtype=np.float32)
    middle = shape.standard_normal((centres, rank), dtype=np.float32)
    rng = np.random.default_rng(seed)
    points = middle[rng.integers(0, centres, count)]
    points = points + np.float32(0.5) * rng.standard_normal((count, rank), dtype=np.float32)
    rows = points @ lift
    rows += np.float32(0.3) * rng.standard_normal(rows.shape, dtype=np.float32)
    return rows
