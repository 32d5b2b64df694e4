"""What systems in this process share, and what libraries lack to be compared with databases."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from benchmarks.peers.adapter import Effort, Metadata

    Rows = npt.NDArray[np.float32]


class Embedded:
    """A system in this process: threads share it, and its files are copied while it is closed."""

    copied_closed = True
    path: Path
    dimension: int
    effort: Effort
    below: int | None = None

    def sync(self) -> None:
        """Do nothing: `insert` promises it."""

    def index(self) -> None:
        """Do nothing: rows are indexed as they come."""

    def prepare(self, effort: Effort, below: int | None) -> None:
        """Remember it for `search`."""
        self.effort, self.below = effort, below

    def session(self) -> Shared:
        """Return a client that is this system: threads may share it."""
        return Shared(self)

    def search(self, query: Rows) -> Sequence[Metadata]:
        """Search at the effort that was prepared."""
        raise NotImplementedError

    def versions(self) -> dict[str, str]:
        """Return none: the distributions say it."""
        return {}

    def processes(self) -> list[int]:
        """Return none."""
        return []

    def copy(self, target: Path) -> None:
        """Copy the files."""
        copy_tree(self.path, target)

    def close(self) -> None:
        """Let go of everything."""


class Shared:
    """A client that is the system itself."""

    def __init__(self, system: Embedded) -> None:
        self.search = system.search

    def close(self) -> None:
        """Leave it to the others."""


class Library(Embedded):
    """An index without a database: metadata is its user's business, kept here.

    It stands in a list and, for the disk, in JSON lines. Nothing is durable before `sync`, which
    writes the index anew.
    """

    durability = "when the whole index is saved, once at the end"
    metadata: list[Metadata]

    def keep(self, path: Path, dimension: int) -> None:
        """Start an empty directory."""
        path.mkdir()
        self.path, self.dimension, self.metadata = path, dimension, []

    def write(self) -> None:
        """Put the metadata, and the index, which is saved already, on the disk."""
        with (self.path / "metadata").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(item) + "\n" for item in self.metadata)
        sync_tree(self.path)

    def read(self, path: Path, dimension: int) -> None:
        """Read the metadata."""
        self.path, self.dimension = path, dimension
        with (path / "metadata").open(encoding="utf-8") as file:
            self.metadata = [json.loads(line) for line in file]

    def shares(self) -> npt.NDArray[np.int64]:
        """Return `share` of every row."""
        return np.array([item["share"] for item in self.metadata])


def copy_tree(source: Path, target: Path) -> None:
    """Copy a directory; the copy is on the disk on return."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)
    sync_tree(target)


def sync_tree(path: Path) -> None:
    """Put a directory and everything in it on the disk."""
    for directory, _, names in os.walk(path):
        for name in [*names, "."]:
            entry = os.open(Path(directory) / name, os.O_RDONLY)
            try:
                os.fsync(entry)
            finally:
                os.close(entry)
