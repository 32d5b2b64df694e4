"""What the demo rescues: a directory as d-vecDB's server left it, and every bit that was in it.

    DIR/COLLECTION/vectors.bin   records end to end, then zeros up to a size that grew by doubling

The server is told to store `rows` records. Then it is started again, has forgotten the collection,
and writes `late` more from the beginning of the file: over the first ones. So one record is torn,
and some are gone. Its log is gone as well.

A record: u64 16, uuid; u64 dimension, float32 numbers; u8 1, u64 number of metadata entries, and
for each its key and value without a type. Everything follows from the numbers below.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    import numpy.typing as npt

COLLECTION: Final = "films"
_CHUNK_ROWS: Final = 2_048
_FIRST_BYTES: Final = 1024 * 1024
_NOISE: Final = np.float32(0.25)
_WORDS: Final = (
    "harbour", "storm", "lighthouse", "ferry", "night", "letter", "garden", "winter", "train",
    "city", "river", "ghost", "island", "summer", "bridge", "piano", "desert", "market", "queen",
    "thief", "mountain", "signal", "mirror", "orchard", "radio", "comet", "clockmaker", "sailor",
    "forest", "library", "festival", "border",
)  # fmt: skip
_LANGUAGES: Final = ("en", "de", "fr", "ja")
_TITLE_WORDS: Final = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is stored: `rows` records of `dimension` numbers, `late` of them after a restart."""

    rows: int
    late: int
    dimension: int


FULL: Final = Plan(rows=78_796, late=12, dimension=1_536)
SMALL: Final = Plan(rows=3_000, late=4, dimension=96)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some records in the order in which they were stored. vectors: float32[n, dimension]."""

    ids: list[str]
    vectors: npt.NDArray[np.float32]
    metadata: list[dict[str, str | int]]


@dataclass(frozen=True, slots=True)
class Written:
    """What was written. torn_at: the byte where half a record begins.

    gone: records of which no byte is left; whole: records that are there; first_whole: number of
    the oldest of them.
    """

    size_bytes: int
    torn_at: int
    gone: int
    whole: int
    first_whole: int


def words_of(plan: Plan) -> npt.NDArray[np.float32]:
    """Return the vector of each word: float32[words, dimension]."""
    generator = np.random.default_rng(plan.dimension)
    return generator.standard_normal((len(_WORDS), plan.dimension), dtype=np.float32)


def query(plan: Plan, text: str) -> npt.NDArray[np.float32]:
    """Return the vector of a text of known words: float32[dimension]."""
    chosen = [_WORDS.index(word) for word in text.split()]
    found: npt.NDArray[np.float32] = words_of(plan)[chosen].sum(axis=0)
    return found


def chunks(plan: Plan, first: int, last: int) -> Iterator[Chunk]:
    """Yield records number `first` to `last` (exclusive), some at a time."""
    words = words_of(plan)
    for start in range(first - first % _CHUNK_ROWS, last, _CHUNK_ROWS):
        chunk = _chunk(plan, words, start // _CHUNK_ROWS)
        for value in chunk.metadata[max(0, plan.rows - plan.late - start) :]:
            value["added"] = "after the restart"
        part = slice(max(0, first - start), min(_CHUNK_ROWS, last - start))
        yield Chunk(chunk.ids[part], chunk.vectors[part], chunk.metadata[part])


def _chunk(plan: Plan, words: npt.NDArray[np.float32], number: int) -> Chunk:
    generator = np.random.default_rng((plan.dimension, number))
    titles = generator.integers(0, len(_WORDS), (_CHUNK_ROWS, _TITLE_WORDS))
    vectors = generator.standard_normal((_CHUNK_ROWS, plan.dimension), dtype=np.float32)
    vectors *= _NOISE
    for column in titles.T:
        vectors += words[column]
    ids = [str(uuid.UUID(bytes=generator.bytes(16), version=4)) for _ in range(_CHUNK_ROWS)]
    years = generator.integers(1895, 2025, _CHUNK_ROWS).tolist()
    metadata: list[dict[str, str | int]] = [
        {
            "title": " ".join(_WORDS[word] for word in title),
            "year": year,
            "lang": _LANGUAGES[year % len(_LANGUAGES)],
        }
        for title, year in zip(titles.tolist(), years, strict=True)
    ]
    return Chunk(ids, vectors, metadata)


def write_legacy(directory: Path, plan: Plan) -> Written:
    """Write a broken data directory of the old server at `directory`, which does not exist."""
    place = directory / COLLECTION
    place.mkdir(parents=True)
    (place / "index.bin").write_bytes(bytes(_FIRST_BYTES))
    with (place / "vectors.bin").open("xb") as file:
        ends = _write(file, chunks(plan, 0, plan.rows - plan.late))
        size = _capacity(ends)
        file.truncate(size)
        file.seek(0)
        (*_, end) = _write(file, chunks(plan, plan.rows - plan.late, plan.rows))
    first_whole = next(number for number, at in enumerate([0, *ends]) if at >= end)
    is_torn = ends[first_whole - 1] > end
    return Written(
        size_bytes=size,
        torn_at=end,
        gone=first_whole - is_torn,
        whole=plan.rows - first_whole,
        first_whole=first_whole,
    )


def survivors(plan: Plan, written: Written) -> Iterator[Chunk]:
    """Yield the records that are whole in the file."""
    yield from chunks(plan, written.first_whole, plan.rows)


def _write(file: IO[bytes], records: Iterator[Chunk]) -> list[int]:
    """Write records where the file stands; return the position after each."""
    ends = []
    at = file.tell()
    for chunk in records:
        data = [
            _head(record_id, vector) + _metadata(value)
            for record_id, vector, value in zip(
                chunk.ids, chunk.vectors, chunk.metadata, strict=True
            )
        ]
        file.write(b"".join(data))
        for size in map(len, data):
            at += size
            ends.append(at)
    return ends


def _head(record_id: str, vector: npt.NDArray[np.float32]) -> bytes:
    identity = struct.pack("<Q16sQ", 16, uuid.UUID(record_id).bytes, len(vector))
    return identity + vector.astype("<f4").tobytes()


def _metadata(value: dict[str, str | int]) -> bytes:
    parts = [struct.pack("<BQ", 1, len(value))]
    for key, item in value.items():
        parts.append(_text(key))
        parts.append(_text(item) if isinstance(item, str) else struct.pack("<Q", int(item)))
    return b"".join(parts)


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _capacity(ends: list[int]) -> int:
    """Return the size to which a file grows that takes records up to these positions."""
    size = _FIRST_BYTES
    for end in ends:
        if end > size:
            size = 2 * end
    return size
