"""What makes a row, a text and an embedder the same as before. Pure.

The id of a record is a UUID made of its source's name and the row's key, so a row is found again by
any later run. The **content hash** is one of the embedder and of the text as it was sent: equal
hashes mean equal vectors, so nothing with a known hash is paid for again. An embedder is pinned to
a collection with the vector of a fixed **probe text**: a service that quietly changed its model
answers another one.
"""

from __future__ import annotations

import base64
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import blake3
import numpy as np

from dvecdb.errors import Code, ConflictError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dvecdb.records import Json, Metadata

FIELD: Final = "_embedded"
"""The metadata field that says what a record was made of: source, key and content hash."""

PROBE_TEXT: Final = "The quick brown fox jumps over the lazy dog near the riverbank at dawn."
_ROWS: Final = uuid.UUID("6d1f8b52-2f0c-5d0e-9a53-0f3b1c7f5a11")
_HASH_BYTES: Final = 16
_NOISE_COSINE: Final = 0.999  # one model on other hardware, or quantised in another batch
_FORMAT: Final = 1


def row_id(source: str, key: str) -> str:
    """Return the id of a source's row: the same in every run."""
    return str(uuid.uuid5(_ROWS, f"{source}\0{key}"))


@dataclass(frozen=True, slots=True)
class Identity:
    """An embedder as a collection remembers it. probe: float32[dimension], of `PROBE_TEXT`."""

    model: str
    probe: npt.NDArray[np.float32]

    @property
    def dimension(self) -> int:
        """Length of its vectors."""
        return len(self.probe)

    def content_hash(self, parts: Sequence[str]) -> str:
        """Return the hash of a text as it is sent, in one part or several: 32 hex digits."""
        head = f"{_FORMAT}\0{self.model}\0{self.dimension}\0{len(parts)}"
        total = blake3.blake3(head.encode())
        for part in parts:
            encoded = part.encode()
            total.update(b"\0%d\0" % len(encoded))
            total.update(encoded)
        return total.digest(_HASH_BYTES).hex()

    def to_json(self) -> Json:
        """Return the document that pins it."""
        vector = np.ascontiguousarray(self.probe, "<f4").tobytes()
        return {
            "format": _FORMAT,
            "model": self.model,
            "dimension": self.dimension,
            "probe_text": PROBE_TEXT,
            "probe": base64.b64encode(vector).decode(),
        }

    @classmethod
    def from_json(cls, value: Json) -> Identity:
        """Return what `to_json` described.

        Raises:
            ConflictError: `embedder-mismatch`, it cannot be read.
        """
        try:
            probe = np.frombuffer(base64.b64decode(value["probe"], validate=True), "<f4")
            return cls(str(value["model"]), probe)
        except (TypeError, KeyError, ValueError) as error:
            raise ConflictError(
                Code.EMBEDDER_MISMATCH,
                "the document that pins the embedder cannot be read: it was changed, or comes from "
                f"another version ({error!r}). Nothing was written; use another collection, or "
                "bring the document back with an undo",
            ) from error


def refuse_other(pinned: Identity, found: Identity, collection: str) -> None:
    """Refuse an embedder whose vectors cannot be compared with those of a collection.

    Raises:
        ConflictError: `embedder-mismatch`, says in what they differ.
    """
    if pinned.model != found.model:
        what = f"{pinned.model} made its vectors, this is {found.model}"
    elif pinned.dimension != found.dimension:
        what = f"{pinned.model} answered {pinned.dimension} dimensions and now {found.dimension}"
    elif not _cosine(pinned.probe, found.probe) >= _NOISE_COSINE:  # nor NaN
        what = (
            f"{pinned.model} answers the probe text with another vector than before (cosine "
            f"{_cosine(pinned.probe, found.probe):.4f}): it is not the same model"
        )
    else:
        return
    raise ConflictError(
        Code.EMBEDDER_MISMATCH,
        f"collection {collection!r} is pinned to another embedder: {what}. Nothing was written; "
        "use that embedder, or another collection",
        collection=collection,
        expected=pinned.model,
        found=found.model,
    )


def _cosine(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> float:
    a, b = left.astype(np.float64), right.astype(np.float64)
    sizes = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(a @ b) / max(sizes, 1e-300)


@dataclass(frozen=True, slots=True)
class Made:
    """What a record says it was made of."""

    source: str
    key: str
    content_hash: str

    def into(self, metadata: Metadata) -> Metadata:
        """Return the metadata of the record."""
        own = {"source": self.source, "key": self.key, "hash": self.content_hash}
        return {**metadata, FIELD: own}


def made_of(metadata: Metadata | None) -> Made | None:
    """Return what a record was made of, None if it was not by a job."""
    value: Any = (metadata or {}).get(FIELD)
    if not isinstance(value, dict):
        return None
    source, key, content_hash = value.get("source"), value.get("key"), value.get("hash")
    if not (isinstance(source, str) and isinstance(key, str) and isinstance(content_hash, str)):
        return None
    return Made(source, key, content_hash)
