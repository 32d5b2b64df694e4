"""sqlite-vec: exact, in SQLite, each commit synced."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import sqlite_vec
from benchmarks.peers.adapter import LIMIT
from benchmarks.peers.embedded import Embedded

try:
    import pysqlite3 as sqlite3  # Python may be built without the loading of extensions
except ImportError:
    import sqlite3

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from benchmarks.peers.adapter import Metadata

    Rows = npt.NDArray[np.float32]

TABLE = """CREATE VIRTUAL TABLE docs USING vec0(
    number INTEGER PRIMARY KEY, share INTEGER, +lang TEXT,
    embedding float[{dimension}] distance_metric=cosine)"""
SEARCH = "SELECT number, lang, share FROM docs WHERE embedding MATCH ? AND k = ?"
INSERT = "INSERT INTO docs(number, share, lang, embedding) VALUES (?, ?, ?, ?)"


class SqliteVec(Embedded):
    """One virtual table; a connection a client."""

    durability = "each batch, at COMMIT: journal_mode=WAL, synchronous=FULL"
    copied_closed = False
    ladders = ([{}],)

    def connect(self) -> Any:
        connection = sqlite3.connect(self.path, check_same_thread=False)
        connection.enable_load_extension(True)
        sqlite_vec.load(connection)
        connection.enable_load_extension(False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def create(self, path: Path, dimension: int, rows: int) -> None:
        self.open(path, dimension)
        self.writer.execute(TABLE.format(dimension=dimension))

    def open(self, path: Path, dimension: int) -> None:
        self.path = path
        self.writer = self.connect()

    def insert(self, first: int, vectors: Rows, metadata: list[Metadata]) -> None:
        with self.writer:
            self.writer.executemany(
                INSERT,
                [
                    (item["number"], item["share"], item["lang"], vector.tobytes())
                    for item, vector in zip(metadata, vectors, strict=True)
                ],
            )

    def session(self) -> Client:
        return Client(self.connect(), self.below)

    def copy(self, target: Path) -> None:
        """Make an online backup."""
        with contextlib.closing(sqlite3.connect(target)) as connection:
            self.writer.backup(connection)
        file = os.open(target, os.O_RDONLY)
        os.fsync(file)
        os.close(file)

    def close(self) -> None:
        self.writer.close()


class Client:
    """A connection."""

    def __init__(self, connection: Any, below: int | None) -> None:
        self.connection, self.below = connection, below

    def search(self, query: Rows) -> list[Metadata]:
        if self.below is None:
            found = self.connection.execute(SEARCH, (query.tobytes(), LIMIT))
        else:
            asked = (query.tobytes(), LIMIT, self.below)
            found = self.connection.execute(f"{SEARCH} AND share < ?", asked)
        return [dict(zip(("number", "lang", "share"), row, strict=True)) for row in found]

    def close(self) -> None:
        self.connection.close()


def system() -> SqliteVec:
    """Return the adapter."""
    return SqliteVec()
