"""dvecdb: an embedded vector database that cannot lose an acknowledged write.

with dvecdb.open("./data") as db:
    docs = db.create_collection("docs", dimension=384)
    docs.upsert(ids=["a"], vectors=vectors)  # durable when it returns
"""

from __future__ import annotations

import os

if not __debug__:
    raise RuntimeError(
        "dvecdb checks its invariants with assertions and refuses to run without them; "
        "start Python without -O and without PYTHONOPTIMIZE"
    )

from dvecdb import errors
from dvecdb.engine.collection import Collection
from dvecdb.engine.database import Database
from dvecdb.engine.snapshot import Snapshot
from dvecdb.records import (
    CollectionStats,
    Commit,
    Finding,
    Hit,
    Hits,
    Metric,
    Page,
    Record,
    VectorType,
    VerifyReport,
)
from dvecdb.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "Collection",
    "CollectionStats",
    "Commit",
    "Database",
    "Finding",
    "Hit",
    "Hits",
    "Metric",
    "Page",
    "Record",
    "Settings",
    "Snapshot",
    "VectorType",
    "VerifyReport",
    "errors",
    "open",
]


def open(  # the name users expect: dvecdb.open
    path: str | os.PathLike[str], *, read_only: bool = False, settings: Settings | None = None
) -> Database:
    """Open the data directory at `path`, creating it if it does not exist.

    On return every collection in it is at its newest durable state; a damaged one is set aside and
    named in `findings()`. With `read_only` it works beside a running writer and shows what is known
    to be synced; nothing is written then.

    Raises:
        DirectoryError: `directory-in-use`, `not-a-data-directory`, `format-too-new`,
            `directory-unreadable`.
        DiskFullError: `disk-full`.
    """
    return Database(os.fspath(path), read_only=read_only, settings=settings)
