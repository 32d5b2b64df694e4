"""Vectors without a model: words, hashed. Instant, for tests and for trying.

A bag of words by feature hashing: every word, and the beginning of every word, adds or takes away
something at a place that its hash names. So texts that share words are near each other, and texts
that mean the same in other words are not: it knows no meaning. A hash of the whole text is added,
so that two texts never have the same vector because they have the same words.

All of a request is hashed at once, byte by byte in arrays; there is no work per word in Python.
What is added up are small multiples of a power of two, so sums are exact, in whatever order, and a
vector is the same bit for bit on every machine and in whatever company.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import xxhash

from dvecdb.embedding.model import Answer, EmbedError, Reason
from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

DIMENSIONS: Final = 384
DIMENSIONS_MIN: Final = 2
DIMENSIONS_MAX: Final = 4_096
_BEGINNING: Final = 5
"""Bytes of a word that it shares with its other forms: inject, injected, injection."""
_WEIGHED: Final = 8
"""Longer words weigh more, up to here: they say more about what a text is about."""
_POWERS: Final = 1_024
"""Bytes behind this many of one word are hashed as if it began again."""
_OF_TEXT: Final = (4_096, 2_048)
"""A whole text changes a place by an odd number of 4,096ths, and one by an odd number of 2,048ths:
nothing can take these away, so no text has a vector of zeros."""

if TYPE_CHECKING:
    U8 = npt.NDArray[np.uint8]
    U64 = npt.NDArray[np.uint64]
    I64 = npt.NDArray[np.int64]
    F32 = npt.NDArray[np.float32]
    F64 = npt.NDArray[np.float64]


class FakeModel:
    """Hashed words. seed: another one gives vectors that have nothing to do with these."""

    def __init__(self, dimensions: int | None = None, *, seed: int = 0) -> None:
        self._dimensions = DIMENSIONS if dimensions is None else dimensions
        if not DIMENSIONS_MIN <= self._dimensions <= DIMENSIONS_MAX:
            raise InvalidRequestError(
                Code.INVALID_ARGUMENT,
                f"the fake model has {DIMENSIONS_MIN} to {DIMENSIONS_MAX:,} dimensions; asked for "
                f"{self._dimensions:,}",
            )
        self._seed = seed
        self._powers = _powers(_POWERS)
        self._values = _values()

    @property
    def model(self) -> str:
        """Return its name; with other dimensions, or another seed, it is another model."""
        seed = f"-seed-{self._seed}" if self._seed else ""
        return f"local:fake-{self._dimensions}{seed}"

    def embed(self, texts: Sequence[str]) -> Answer:
        """Return a vector of length 1 for each text, float32[n, dimensions]. Tokens are words.

        Raises:
            EmbedError: `refused`, a text is no Unicode.
        """
        try:
            encoded = [text.encode() for text in texts]
        except UnicodeEncodeError as error:
            raise EmbedError(Reason.REFUSED, f"a text is no Unicode: {error.reason}") from error
        rows, hashes, weights = self._words(encoded)
        tokens = len(rows) // 2  # each has its beginning as well
        own_rows, own_hashes, own_weights = self._wholes(encoded)
        hashes = np.concatenate((hashes, own_hashes))
        places = (hashes % np.uint64(self._dimensions)).astype(np.int64)
        signed = np.concatenate((weights, own_weights))
        signed[(hashes >> np.uint64(63)).astype(bool)] *= -1
        summed = np.bincount(
            np.concatenate((rows, own_rows)) * self._dimensions + places,
            weights=signed,
            minlength=len(encoded) * self._dimensions,
        )
        vectors = summed.astype(np.float64).reshape(len(encoded), self._dimensions)
        vectors /= np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
        return Answer(vectors.astype(np.float32), max(tokens, len(encoded)))

    def renew(self) -> None:
        """Do nothing: there are no connections."""

    def close(self) -> None:
        """Do nothing: there is nothing to give back."""

    def _words(self, encoded: Sequence[bytes]) -> tuple[I64, U64, F64]:
        """Return row, hash and weight of every word, then of every word's beginning.

        A word's hash is the sum of its bytes, each times a power of an odd number, mixed.
        """
        data = np.frombuffer(b"\0".join((b"", *encoded, b"")).lower(), np.uint8)
        values = self._values.take(data)  # 0 between words
        inside = values != 0
        edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
        starts, lengths = edges[::2], edges[1::2] - edges[::2]
        if not len(starts):
            return edges, edges.astype(np.uint64), edges.astype(np.float64)
        first = starts[0]
        spans = np.diff(starts, append=len(data))
        within = np.arange(first, len(data)) - np.repeat(starts, spans)
        parts = values[first:] * self._powers.take(within, mode="wrap")
        whole = np.add.reduceat(parts, starts - first)
        beginning = np.add.reduceat(parts * (within < _BEGINNING), starts - first)
        weights: F64 = np.minimum(lengths, _WEIGHED).astype(np.float64) / _WEIGHED
        ends = np.cumsum([len(text) + 1 for text in encoded])  # of each text, in `data`
        rows = np.searchsorted(ends, starts)
        return (
            np.concatenate((rows, rows)),
            np.concatenate((_mixed(whole, self._seed), _mixed(beginning, self._seed + 1))),
            np.concatenate((weights, weights)),
        )

    def _wholes(self, encoded: Sequence[bytes]) -> tuple[I64, U64, F64]:
        """Return row, hash and weight of what a whole text changes: a little, and never nothing."""
        digests = np.fromiter(
            (
                xxhash.xxh3_64_intdigest(text, seed=self._seed + number)
                for text in encoded
                for number in range(len(_OF_TEXT))
            ),
            np.uint64,
            len(encoded) * len(_OF_TEXT),
        )
        rows = np.repeat(np.arange(len(encoded)), len(_OF_TEXT))
        scales = np.tile(np.array(_OF_TEXT, np.int64), len(encoded))
        parts = scales // 4 + 2 * (digests >> np.uint64(40)).astype(np.int64) % (scales // 4) + 1
        weights: F64 = parts.astype(np.float64) / scales
        return rows, _mixed(digests, self._seed + 2), weights


def _powers(count: int) -> U64:
    """Return the first powers of an odd number, modulo 2**64."""
    factor, power, powers = 0x100000001B3, 1, []
    for _ in range(count):
        powers.append(power)
        power = power * factor % 2**64
    return np.array(powers, np.uint64)


def _values() -> U64:
    """Return what a byte counts for in a hash: nothing if it belongs to no word.

    Letters, digits and everything that is not ASCII do.
    """
    return np.array(
        [byte + 1 if byte >= 0x80 or chr(byte).isalnum() else 0 for byte in range(256)], np.uint64
    )


def _mixed(values: U64, seed: int) -> U64:
    """Return values whose bits all depend on all bits (the finaliser of SplitMix64)."""
    values = values + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
