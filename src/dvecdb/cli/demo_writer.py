"""The process that the demo kills: it writes batches and says what was acknowledged.

Every row follows from its number alone, so that the demo knows each bit of it without having seen
it written.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import numpy as np

import dvecdb

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

COLLECTION: Final = "films"
DIMENSION: Final = 384
BATCH_ROWS: Final = 250
BATCHES_MAX: Final = 400
_GENRES: Final = ("drama", "comedy", "western", "noir")


def batch_ids(batch: int) -> list[str]:
    """Return the ids of batch number `batch`."""
    return [f"film-{batch * BATCH_ROWS + number:06d}" for number in range(BATCH_ROWS)]


def batch_vectors(batch: int) -> npt.NDArray[np.float32]:
    """Return the vectors of batch number `batch`: float32[BATCH_ROWS, DIMENSION]."""
    generator = np.random.default_rng(batch)
    return generator.standard_normal((BATCH_ROWS, DIMENSION), dtype=np.float32)


def batch_metadata(batch: int) -> list[dict[str, object]]:
    """Return the metadata of batch number `batch`."""
    return [
        {"batch": batch, "genre": _GENRES[number % len(_GENRES)], "number": number}
        for number in range(BATCH_ROWS)
    ]


def is_stored(
    collection: dvecdb.Collection | dvecdb.RemoteCollection, batch: int, lsn: int | None
) -> bool:
    """Return whether a batch is there, bit for bit, written by `lsn` if that is known."""
    records = collection.get(batch_ids(batch))
    vectors, metadata = batch_vectors(batch), batch_metadata(batch)
    return all(
        record is not None
        and record.vector is not None
        and record.vector.tobytes() == vector.tobytes()
        and record.metadata == value
        and (lsn is None or record.lsn == lsn)
        for record, vector, value in zip(records, vectors, metadata, strict=True)
    )


def write_until_killed(path: str) -> None:
    """Write batch after batch; print `batch lsn` when each is acknowledged."""
    with dvecdb.open(path) as database:
        films = database.create_collection(COLLECTION, dimension=DIMENSION)
        vectors = batch_vectors(0)
        for batch in range(BATCHES_MAX):
            commit = films.upsert(batch_ids(batch), vectors, batch_metadata(batch))
            vectors = batch_vectors(batch + 1)  # ready, so that the signal finds a write under way
            sys.stdout.write(f"{batch} {commit.lsn}\n")
            sys.stdout.flush()


def main(arguments: Sequence[str]) -> None:
    """Write into the data directory that the only argument names."""
    (path,) = arguments
    write_until_killed(path)


if __name__ == "__main__":
    main(sys.argv[1:])
