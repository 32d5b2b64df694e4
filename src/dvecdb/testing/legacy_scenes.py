"""Legacy data directories with a story: one for each way in which they grow, tear and rot.

`SCENES` names them all; each returns a `Scene`, the same for the same seed. The metadata follows a
schema that a reader can learn, unless the scene is about metadata.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

from dvecdb.testing import legacy_damage as damage
from dvecdb.testing.legacy_bytes import Op, vector_bytes
from dvecdb.testing.legacy_truth import truth
from dvecdb.testing.legacy_writer import LegacyServer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from dvecdb.records import Metadata
    from dvecdb.testing.legacy_truth import Truth
    from dvecdb.testing.legacy_writer import VectorFile

NAME: Final = "notes"
_WORDS: Final = (
    "alpha",
    "Zürich",
    'quote"s',
    "path/to/a/file.txt",
    "数据",
    "tab\there",
    "launch 🚀",
)


@dataclass(slots=True)
class Scene:
    """A data directory and the collection in it that counts, by its path below."""

    server: LegacyServer
    path: str = NAME

    @property
    def vectors(self) -> VectorFile:
        """The collection's vectors.bin."""
        return self.server.directories[self.path].vectors

    def truth(self, *, use_log: bool = True, keep_deleted: bool = False) -> Truth:
        """Return what must come back."""
        return truth(self.server, self.path, use_log=use_log, keep_deleted=keep_deleted)

    def write_to(self, path: Path, *, zeros: int | None = 600) -> None:
        """Write the data directory. zeros: of those behind the data, None for all."""
        self.server.write_to(path, zeros=zeros)


class Actor:
    """Calls a server with rows of its own making."""

    def __init__(self, generation: str, seed: int, dimension: int, *, flush_bytes: int = 0) -> None:
        self.random = Random(seed)
        self.dimension = dimension
        self.server = LegacyServer(generation, seed=seed, flush_bytes=flush_bytes)
        self.server.create(NAME, dimension, "Euclidean")
        self.ids: list[str] = []

    def metadata(self) -> Metadata:
        """Return metadata of one schema, its keys in any order."""
        random = self.random
        entries = [
            ("title", f"Item {random.randrange(1, 10**6)}"),
            ("source", random.choice(_WORDS)),
            ("page", random.randrange(1, 500)),
            ("score", random.randrange(1, 10**6) / 1e4 + 1e-5),
            ("ok", random.random() < 0.5),
        ]
        random.shuffle(entries)
        return dict(entries)

    def vector(self) -> bytes:
        """Return a random vector."""
        return vector_bytes([self.random.gauss(0, 1) for _ in range(self.dimension)])

    def insert(self, count: int, *, metadata: bool = True, batch: bool = False) -> None:
        """Insert new records."""
        ids = [str(self.server.random_id()) for _ in range(count)]
        self.ids += ids
        rows = [(id, self.vector(), self.metadata() if metadata else None) for id in ids]
        if batch:
            self.server.insert_batch(NAME, rows)
        else:
            for row in rows:
                self.server.insert(NAME, *row)

    def update(self, number: int, *, metadata: bool = True) -> None:
        """Replace the record inserted as the `number`th."""
        new = self.metadata() if metadata else None
        self.server.update(NAME, self.ids[number], self.vector(), new)


def _plain(generation: str, seed: int, dimension: int) -> Scene:
    actor = Actor(generation, seed, dimension)
    actor.insert(6)
    actor.insert(3, metadata=False)
    actor.insert(6, batch=True)
    return Scene(actor.server)


def _updated(generation: str, seed: int, dimension: int) -> Scene:
    actor = Actor(generation, seed, dimension)
    actor.insert(12)
    actor.update(2)
    actor.server.delete(NAME, actor.ids[4])
    actor.server.delete(NAME, actor.ids[5])
    actor.insert(2)
    actor.update(5)
    return Scene(actor.server)


def _head_overwritten(generation: str, seed: int, dimension: int) -> Scene:
    actor = Actor(generation, seed, dimension)
    actor.insert(12)
    actor.server.restart(without_log=True)
    if NAME not in actor.server.open:
        actor.server.create(NAME, dimension, "Euclidean")
    actor.insert(3, metadata=False)
    actor.insert(1)
    return Scene(actor.server)


def _head_with_the_same_ids(generation: str, seed: int, dimension: int) -> Scene:
    """Embed again what was thought lost: the new version lies before the old one."""
    scene = _head_overwritten(generation, seed, dimension)
    actor = Actor(generation, seed + 1, dimension)
    old = scene.vectors.appends[9].version
    scene.server.insert(NAME, old.id, actor.vector(), actor.metadata())
    return scene


def _offset_20(seed: int, dimension: int) -> Scene:
    actor = Actor("A4", seed, dimension)
    actor.insert(14)
    actor.server.restart("C0", without_log=True)
    actor.insert(3)
    return Scene(actor.server)


def _replayed_over_head(generation: str, seed: int, dimension: int) -> Scene:
    actor = Actor(generation, seed, dimension)
    for number in range(14):
        actor.insert(1, metadata=number % 3 == 0)
    actor.server.restart()
    return Scene(actor.server)


def _replayed_behind(generation: str, seed: int, dimension: int) -> Scene:
    actor = Actor(generation, seed, dimension)
    actor.insert(8, metadata=False)
    actor.update(3, metadata=False)
    actor.server.restart()
    actor.server.restart()
    actor.insert(7)
    return Scene(actor.server)


def _b_then_c(seed: int, dimension: int) -> Scene:
    actor = Actor("B1", seed, dimension)
    actor.insert(9)
    actor.server.restart("C0")
    actor.insert(5)
    return Scene(actor.server)


def _zombie(seed: int, dimension: int) -> Scene:
    actor = Actor("A0", seed, dimension)
    actor.insert(6, metadata=False)
    actor.server.delete(NAME, actor.ids[1])
    actor.server.drop(NAME)
    actor.server.restart()
    return Scene(actor.server)


def _deleted(generation: str, seed: int, dimension: int) -> Scene:
    scene = _plain(generation, seed, dimension)
    path = scene.server.drop(NAME)
    assert path is not None
    return Scene(scene.server, path)


def _copied(seed: int, dimension: int, *, snapshot: bool) -> Scene:
    scene = _plain("C1", seed, dimension)
    path = scene.server.snapshot(NAME) if snapshot else scene.server.backup(NAME)
    return Scene(scene.server, path)


def _log_only(versions: tuple[str, ...], seed: int, dimension: int) -> Scene:
    """Nothing but the log is left of the collection."""
    actor = Actor(versions[0], seed, dimension)
    for version in versions:
        actor.server.generation = type(actor.server).generation_of(version)
        actor.insert(7)
        actor.insert(3, metadata=False, batch=True)
    actor.server.delete(NAME, actor.ids[0])
    del actor.server.directories[NAME]
    return Scene(actor.server)


def _log_cut(version: str, seed: int, dimension: int) -> Scene:
    scene = _log_only((version,), seed, dimension)
    batch = next(entry for entry in scene.server.logged if entry.op is Op.BATCH)
    damage.cut_log(scene.server, batch.start + 60)
    return scene


def _log_flipped(seed: int, dimension: int, *, magic: bool) -> Scene:
    scene = _log_only(("C0",), seed, dimension)
    damage.flip_log(scene.server, scene.server.logged[4], Random(seed), magic=magic)
    return scene


def _cut(generation: str, seed: int, dimension: int, field: str) -> Scene:
    scene = _plain(generation, seed, dimension)
    append = scene.vectors.appends[12]
    start, end = append.fields[field]
    damage.cut(scene.vectors, append.offset + Random(seed).randrange(start + 1, end))
    return scene


def _hole(generation: str, seed: int, dimension: int) -> Scene:
    scene = _plain(generation, seed, dimension)
    first, last = scene.vectors.appends[3], scene.vectors.appends[5]
    damage.zero_hole(scene.vectors, first.offset + 20, last.offset + 30)
    return scene


def _flipped(generation: str, seed: int, dimension: int, field: str) -> Scene:
    scene = _plain(generation, seed, dimension)
    # Between two records without metadata a length needs no metadata to tell.
    append = scene.vectors.appends[7 if field in ("marker", "dimension") else 4]
    if field == "metadata-length":
        assert damage.flip_metadata_length(scene.vectors, append, Random(seed))
    elif field == "prefix-high":
        assert damage.flip_high(scene.vectors, append)
    else:
        assert damage.flip(scene.vectors, append, field, Random(seed))
    return scene


def _scenes() -> dict[str, Callable[[int, int], Scene]]:
    scenes: dict[str, Callable[[int, int], Scene]] = {
        "a4-then-c0-offset-20": _offset_20,
        "b1-then-c0-mixed": _b_then_c,
        "a0-zombie": _zombie,
        "c1-backup": lambda seed, size: _copied(seed, size, snapshot=False),
        "c1-snapshot": lambda seed, size: _copied(seed, size, snapshot=True),
        "log-v1": lambda seed, size: _log_only(("A0",), seed, size),
        "log-v2-untagged": lambda seed, size: _log_only(("A2",), seed, size),
        "log-v2-text": lambda seed, size: _log_only(("C0",), seed, size),
        "log-v1-then-v2": lambda seed, size: _log_only(("A1", "A4"), seed, size),
        "log-v1-cut": lambda seed, size: _log_cut("A0", seed, size),
        "log-v2-cut": lambda seed, size: _log_cut("C0", seed, size),
        "log-v2-payload-flipped": lambda seed, size: _log_flipped(seed, size, magic=False),
        "log-v2-magic-flipped": lambda seed, size: _log_flipped(seed, size, magic=True),
    }
    for make, generations in (
        (_plain, ("A0", "A1", "A4", "B0", "C0")),
        (_updated, ("A0", "A2", "B1", "C0")),
        (_head_overwritten, ("A0", "A4", "B0")),
        (_head_with_the_same_ids, ("A0", "B0")),
        (_replayed_over_head, ("A4", "B0")),
        (_replayed_behind, ("B1", "C0")),
        (_deleted, ("A3", "C0")),
        (_hole, ("A1", "B1", "C0")),
    ):
        for version in generations:
            name = f"{version.lower()}-{make.__name__.strip('_').replace('_', '-')}"
            scenes[name] = _bound(make, version)
    for version in ("A1", "B0", "C0"):
        for field in ("vector", "metadata"):
            scenes[f"{version.lower()}-cut-in-{field}"] = _bound(_cut, version, field)
        for field in (*damage.FIELDS, "metadata-length", "prefix-high"):
            if version != "A1" or not field.startswith("prefix"):
                scenes[f"{version.lower()}-flipped-{field}"] = _bound(_flipped, version, field)
    return scenes


def _bound(make: Callable[..., Scene], generation: str, *more: str) -> Callable[[int, int], Scene]:
    return lambda seed, dimension: make(generation, seed, dimension, *more)


SCENES: Final[Mapping[str, Callable[[int, int], Scene]]] = _scenes()
"""By name: from a seed and a dimension to the scene."""
