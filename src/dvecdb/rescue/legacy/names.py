"""What the names in a legacy data directory say."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from dvecdb.records import Metric
from dvecdb.rescue.naming import split_seconds, split_stamp

VECTORS: Final = "vectors.bin"
INDEX: Final = "index.bin"
METADATA: Final = "metadata.json"
LOG: Final = "wal"
DELETED: Final = ".deleted"
BACKUPS: Final = ".backups"
SNAPSHOTS: Final = "snapshots"
_METRICS: Final = {
    "cosine": Metric.COSINE,
    "euclidean": Metric.EUCLIDEAN,
    "dotproduct": Metric.DOT_PRODUCT,
    "manhattan": Metric.MANHATTAN,
}


class Description(msgspec.Struct):
    """What metadata.json says of a collection, as far as it can be read."""

    name: str | None = None
    dimension: int | None = None
    distance_metric: str | None = None
    vector_type: str | None = None

    @property
    def metric(self) -> Metric | None:
        """The metric by our name."""
        return parse_legacy_metric(self.distance_metric)


def parse_legacy_metric(text: str | None) -> Metric | None:
    """Return a metric by its legacy name, or None."""
    return None if text is None else _METRICS.get(text.lower().replace("_", ""))


def read_description(data: bytes) -> Description | None:
    """Return what a metadata.json says, or None if it cannot be read; wrong fields are left out."""
    try:
        found: Any = msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    description = Description()
    for name, kind in (
        ("name", str), ("dimension", int), ("distance_metric", str), ("vector_type", str),
    ):  # fmt: skip
        value = found.get(name)
        if isinstance(value, kind) and not isinstance(value, bool):
            setattr(description, name, value)
    return description


def original_name(directory: str, parent: str) -> str:
    """Return the collection's name from that of its directory below `parent`."""
    taken: tuple[str, object] | None = None
    if parent in {DELETED, BACKUPS}:
        taken = split_stamp(directory)
    elif parent == SNAPSHOTS:
        taken = split_seconds(directory)
    return directory if taken is None else taken[0]
