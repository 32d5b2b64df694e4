"""Which collections, trash entries and backups there are: the oracle of whole data directories.

A collection is told by its lineage, which its manifests carry: a restore from the trash keeps it,
a clone and a restore from a backup begin a new one. Two backups, or a collection and a trash entry,
may belong to one lineage; a living lineage is in one place only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from dvecdb.formats import names
from dvecdb.formats.framing import FormatError
from dvecdb.formats.manifest_file import decode_manifest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from dvecdb.rescue.database import Database
    from dvecdb.testing.disk import MemoryDisk


class Entry(NamedTuple):
    """A collection in the trash: what it was called, and who threw it away, and why."""

    lineage: str
    collection: str
    actor: str | None
    reason: str | None


class Copy(NamedTuple):
    """A backup: of which lineage, and what it says about itself."""

    lineage: str
    collection: str
    lsn: int
    reason: str | None
    automatic: bool


@dataclass(frozen=True, slots=True)
class World:
    """What is there: lineage by name of the living, trash entries and backups by name."""

    living: Mapping[str, str] = field(default_factory=dict)
    trash: Mapping[str, Entry] = field(default_factory=dict)
    backups: Mapping[str, Copy] = field(default_factory=dict)

    def add(
        self,
        *,
        living: Mapping[str, str] | None = None,
        trash: Mapping[str, Entry] | None = None,
        backups: Mapping[str, Copy] | None = None,
    ) -> World:
        """Return the world with more in it."""
        return World(
            {**self.living, **(living or {})},
            {**self.trash, **(trash or {})},
            {**self.backups, **(backups or {})},
        )

    def without(
        self,
        *,
        living: Collection[str] = (),
        trash: Collection[str] = (),
        backups: Collection[str] = (),
    ) -> World:
        """Return the world with less in it. Raises KeyError for what is not there."""
        left = {name: dict(getattr(self, name)) for name in ("living", "trash", "backups")}
        for name, gone in (("living", living), ("trash", trash), ("backups", backups)):
            for item in gone:
                del left[name][item]
        return World(**left)

    def difference(self, found: World, *, is_settled: bool) -> str | None:
        """Return what of `found` is not as here, or None.

        is_settled: unless so, a deletion may not have written down yet who and why.
        """
        if not is_settled:
            found = replace(found, trash={
                name: self.trash.get(name, entry) if _is_nameless(entry) else entry
                for name, entry in found.trash.items()
            })  # fmt: skip
        for what in ("living", "trash", "backups"):
            wanted, held = getattr(self, what), getattr(found, what)
            for name in wanted.keys() | held.keys():
                if wanted.get(name) != held.get(name):
                    return f"{what} {name}: expected {wanted.get(name)}, found {held.get(name)}"
        return None

    @property
    def lineages(self) -> set[str]:
        """Every lineage that is there in any form."""
        thrown = {item.lineage for item in self.trash.values()}
        copied = {item.lineage for item in self.backups.values()}
        return thrown | copied | set(self.living.values())


def _is_nameless(entry: Entry) -> bool:
    return entry.actor is None and entry.reason is None


def observe(database: Database, disk: MemoryDisk) -> World:
    """Return what `database`, which is open on `disk`, shows. Collections set aside are missing."""
    found = lineages(disk)
    return World(
        {name: found.get((names.COLLECTIONS, name), "?") for name in database.collections()},
        {
            item.name: Entry(
                found.get((names.TRASH, item.name), "?"), item.collection, item.actor, item.reason
            )
            for item in database.trash()
        },
        {
            item.name: Copy(
                found.get((names.BACKUPS, item.name), "?"),
                item.collection,
                item.lsn,
                item.reason,
                item.automatic,
            )
            for item in database.backups()
        },
    )


def lineages(disk: MemoryDisk) -> dict[tuple[str, str], str]:
    """Return the lineage of every collection on a disk by (directory above, name)."""
    found: dict[tuple[str, str], str] = {}
    for path, data in disk.tree().items():
        above, name, child, file, *_ = (*path.strip("/").split("/")[1:], *[""] * 4)
        if data and child == names.MANIFESTS and names.parse_manifest_name(file) is not None:
            try:
                found[above, name] = decode_manifest(data).manifest.lineage
            except FormatError:
                continue
    return found


def leaks(disk: MemoryDisk, world: World) -> list[str]:
    """Return what lies on a disk and belongs to nobody, when nothing is open on it."""
    known = {
        names.COLLECTIONS: world.living.keys(),
        names.TRASH: world.trash.keys(),
        names.BACKUPS: world.backups.keys(),
    }
    found: list[str] = []
    for path, data in disk.tree().items():
        parts = path.strip("/").split("/")
        is_partial = any(part.startswith(names.PARTIAL) for part in parts)
        is_place = len(parts) == 3 and data is None and parts[1] in known
        if is_partial or (is_place and parts[2] not in known[parts[1]]):
            found.append(path)
    return found
