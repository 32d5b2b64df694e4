"""dvecdb: an embedded vector database that cannot lose an acknowledged write.

with dvecdb.open("./data") as db:
    docs = db.create_collection("docs", dimension=384)
    docs.upsert(ids=["a"], vectors=vectors)  # durable when it returns

with dvecdb.connect("http://127.0.0.1:3030", api_key="...") as db: ...  # the same, over HTTP
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if not __debug__:
    raise RuntimeError(
        "dvecdb checks its invariants with assertions and refuses to run without them; "
        "start Python without -O and without PYTHONOPTIMIZE"
    )

from dvecdb import errors
from dvecdb.engine.snapshot import Snapshot
from dvecdb.protection.collection import Collection
from dvecdb.protection.preview import Preview
from dvecdb.records import (
    Backup,
    CollectionStats,
    Commit,
    CommitInfo,
    Finding,
    HardDeleted,
    IndexStats,
    Metric,
    Page,
    Record,
    Restored,
    TrashEntry,
    Undone,
    VectorType,
    VerifyReport,
)
from dvecdb.rescue.database import Database
from dvecdb.results import Explained, FacetCount, Group, Hit, Hits
from dvecdb.settings import Settings

if TYPE_CHECKING:
    from dvecdb.client.aio import AsyncCollection, AsyncDatabase, connect_async
    from dvecdb.client.collection import RemoteCollection
    from dvecdb.client.connection import RemoteDatabase, connect

__version__ = "0.1.0"

__all__ = [
    "AsyncCollection",
    "AsyncDatabase",
    "Backup",
    "Collection",
    "CollectionStats",
    "Commit",
    "CommitInfo",
    "Database",
    "Explained",
    "FacetCount",
    "Finding",
    "Group",
    "HardDeleted",
    "Hit",
    "Hits",
    "IndexStats",
    "Metric",
    "Page",
    "Preview",
    "Record",
    "RemoteCollection",
    "RemoteDatabase",
    "Restored",
    "Settings",
    "Snapshot",
    "TrashEntry",
    "Undone",
    "VectorType",
    "VerifyReport",
    "connect",
    "connect_async",
    "errors",
    "open",
]

# Who opens a directory needs none of it: asyncio and TLS would cost 8 MB and a third of the start.
_IMPORTED_ON_USE = {
    "AsyncCollection": "dvecdb.client.aio",
    "AsyncDatabase": "dvecdb.client.aio",
    "RemoteCollection": "dvecdb.client.collection",
    "RemoteDatabase": "dvecdb.client.connection",
    "connect": "dvecdb.client.connection",
    "connect_async": "dvecdb.client.aio",
}


def __getattr__(name: str) -> Any:
    if name not in _IMPORTED_ON_USE:
        raise AttributeError(f"module 'dvecdb' has no attribute {name!r}")
    return getattr(importlib.import_module(_IMPORTED_ON_USE[name]), name)


def open(  # the name users expect: dvecdb.open
    path: str | os.PathLike[str], *, read_only: bool = False, settings: Settings | None = None
) -> Database:
    """Open the data directory at `path`, creating it if it does not exist.

    On return every collection in it is at its newest durable state; a damaged one is set aside and
    named in `findings()`. With `read_only` it works beside a running writer and shows what is known
    to be synced; nothing is written then.

    Raises:
        DirectoryError: `directory-in-use`, `not-a-data-directory`, `legacy-directory`,
            `format-too-new`, `directory-unreadable`.
        DiskFullError: `disk-full`.
    """
    return Database(os.fspath(path), read_only=read_only, settings=settings)
