"""Find what a directory tree holds of d-vecDB, in any version, and of ours: by names and headers.

A legacy collection may lie at any depth, for its name is a path; one with an empty name lies in the
data directory itself. Links are not followed, nothing is written, and what cannot be looked into is
named. Own collections are not descended into: their segments have files called vectors.bin too.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

from dvecdb.errors import Code, NotFoundError
from dvecdb.formats import names
from dvecdb.formats.segment_file import RECORDS_NAME
from dvecdb.media.files import OsFiles, absolute_paths
from dvecdb.records import DIMENSION_MAX
from dvecdb.reports import Unreadable
from dvecdb.rescue.legacy.layout import SIXTEEN
from dvecdb.rescue.legacy.names import INDEX, LOG, SNAPSHOTS, VECTORS
from dvecdb.rescue.naming import split_seconds, split_stamp

if TYPE_CHECKING:
    from dvecdb.media.files import Dir, Files, Stat


DEPTH_MAX: Final = 64
"""Directories below one another that are looked into; each keeps one open."""
ENTRIES_MAX: Final = 2_000_000
"""Names that are looked at."""
UNREADABLE_MAX: Final = 100
"""What cannot be looked into and is named; the rest is counted."""

Kind = Literal["collection", "deleted", "backup", "snapshot"]
_ZONES: Final[dict[str, Kind]] = {
    names.TRASH: "deleted", names.BACKUPS: "backup", SNAPSHOTS: "snapshot",
}  # fmt: skip
_HEADER_BYTES: Final = 36


@dataclass(frozen=True, slots=True)
class Found:
    """A collection that was found.

    path: of its directory, or of its file where only that belongs to it. own: it is dvecdb's.
    name: as its directory says, without a stamp. stamp: what stood behind the name, local time
    or Unix seconds. data_dir: the legacy data directory that it belongs to, if there is a log.
    stray: a copy that some program left beside. size_bytes: of its vectors.
    """

    path: str
    kind: Kind
    own: bool = False
    name: str | None = None
    stamp: str | None = None
    data_dir: str | None = None
    stray: bool = False
    size_bytes: int = 0

    @property
    def is_live(self) -> bool:
        """Tell whether the server of a data directory served it under its name."""
        return self.kind == "collection" and not self.own and not self.stray


@dataclass(frozen=True, slots=True)
class LogFound:
    """A log of a legacy data directory. path: of the file; data_dir: the directory it lies in."""

    path: str
    data_dir: str
    size_bytes: int


@dataclass(slots=True)
class Findings:
    """What a tree holds, in the order of its paths. is_cut: there is more than was looked at."""

    collections: list[Found] = field(default_factory=list)
    logs: list[LogFound] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    unreadable_more: int = 0
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the walk is. parts: names since the data directory, or since the zone in it."""

    path: str
    depth: int = 0
    data_dir: str | None = None
    zone: Kind = "collection"
    parts: tuple[str, ...] = ()

    def below(self, name: str) -> _Place:
        place = replace(
            self, path=f"{self.path.rstrip('/')}/{name}", depth=self.depth + 1,
            parts=(*self.parts, name),
        )  # fmt: skip
        zone = _ZONES.get(name)
        if zone is None or self.zone != "collection":
            return place
        return replace(place, zone=zone, parts=())


def find(path: str, *, files: Files | None = None) -> Findings:
    """Look for collections at `path` and below it. Nothing is written.

    path: a directory, or a file of vectors.

    Raises:
        NotFoundError: `source-not-found`, there is nothing at `path`.
    """
    walk = _Walk(files if files is not None else OsFiles(), DEPTH_MAX)
    walk.begin(absolute_paths(path)[0], path)
    return walk.findings


def find_in(files: Files, root: Dir, path: str, *, depth_max: int) -> Findings:
    """Return what an open directory holds, down to `depth_max` below it. Raises nothing."""
    walk = _Walk(files, depth_max)
    walk.visit(root, _Place(path))
    return walk.findings


class _Walk:
    def __init__(self, files: Files, depth_max: int) -> None:
        self._files = files
        self._depth_max = depth_max
        self._entries = 0
        self.findings = Findings()

    def begin(self, path: str, shown: str) -> None:
        try:
            root = self._files.open_root(path, create=False)
        except NotADirectoryError:
            self._file(path)
            return
        except FileNotFoundError as error:
            raise NotFoundError(
                Code.SOURCE_NOT_FOUND, f"{printable(shown)}: {error.strerror}", path=shown
            ) from error
        except OSError as error:
            self._unreadable(path, error)
            return
        try:
            self.visit(root, _beginning(path))
        finally:
            self._files.close_directory(root)

    def _file(self, path: str) -> None:
        above, _, name = path.rpartition("/")
        parent = self._files.open_root(above or "/", create=False)
        try:
            found = self._files.stat(parent, name)
            if found is None or found.is_special or found.is_directory:
                return
            if name == LOG:
                self.findings.logs.append(LogFound(path, above, found.size_bytes))
            else:
                self.findings.collections.append(
                    Found(path, "collection", name=base_name(above),
                          size_bytes=found.size_bytes)
                )  # fmt: skip
        finally:
            self._files.close_directory(parent)

    def visit(self, directory: Dir, place: _Place) -> None:
        try:
            listed = self._files.list_names(directory)
        except OSError as error:
            self._unreadable(place.path, error)
            return
        stats = self._stats(directory, listed, place)
        if self._take_own(directory, stats, place):
            return
        log = stats.get(LOG)
        if log is not None and _is_file(log):
            place = replace(place, data_dir=place.path, zone="collection", parts=())
            self.findings.logs.append(LogFound(place.below(LOG).path, place.path, log.size_bytes))
        self._take_vectors(directory, stats, place)
        is_ours = names.COLLECTIONS in stats and names.LOCK in stats
        for name, found in stats.items():
            if found.is_directory and not (is_ours and name == names.SERVER):
                self._descend(directory, name, place)

    def _descend(self, directory: Dir, name: str, place: _Place) -> None:
        below = place.below(name)
        if below.depth > self._depth_max:
            self.findings.is_cut = True
            return
        try:
            child = self._files.open_directory(directory, name)
        except FileNotFoundError:
            return  # gone meanwhile
        except OSError as error:
            self._unreadable(below.path, error)
            return
        try:
            self.visit(child, below)
        finally:
            self._files.close_directory(child)

    def _stats(self, directory: Dir, listed: list[str], place: _Place) -> dict[str, Stat]:
        stats: dict[str, Stat] = {}
        for name in listed:
            if self._entries >= ENTRIES_MAX:
                self.findings.is_cut = True
                break
            self._entries += 1
            try:
                found = self._files.stat(directory, name)
            except OSError as error:
                self._unreadable(place.below(name).path, error)
                continue
            if found is not None:
                stats[name] = found
        return stats

    # --- what a directory is ---

    def _take_own(self, directory: Dir, stats: dict[str, Stat], place: _Place) -> bool:
        """Note a collection or a lone segment of dvecdb; return whether it is one."""
        base = base_name(place.path)
        if place.depth and base.startswith(names.PARTIAL) and not _holds_file(stats, VECTORS):
            return True  # being written or deleted: of nobody
        is_segment = _holds_file(stats, RECORDS_NAME) and names.parse_segment_name(base) is not None
        if not is_segment and not self._is_own_collection(directory, stats):
            return False
        stamped = names.parse_stamped_name(base) if place.zone != "collection" else None
        kind = place.zone
        if names.BACKUP_FILE in stats:
            kind = "backup"
        elif names.DELETION_FILE in stats and stamped is not None:
            kind = "deleted"
        self.findings.collections.append(
            Found(
                place.path,
                kind,
                own=True,
                name=None if is_segment else base if stamped is None else stamped[0],
                stamp=None if stamped is None else stamped[1],
                size_bytes=self._size(directory, stats),
            )
        )
        return True

    def _is_own_collection(self, directory: Dir, stats: dict[str, Stat]) -> bool:
        if _holds_file(stats, names.COLLECTION_FILE) and not _holds_file(stats, VECTORS):
            return True
        return any(
            any(parse(name) is not None for name in self._names_in(directory, child))
            for child, parse in (
                (names.MANIFESTS, names.parse_manifest_name),
                (names.SEGMENTS, names.parse_segment_name),
                (names.WAL, names.parse_wal_name),
            )
            if child in stats and stats[child].is_directory
        )

    def _names_in(self, directory: Dir, name: str) -> list[str]:
        try:
            child = self._files.open_directory(directory, name)
        except OSError:
            return []
        try:
            return self._files.list_names(child)
        except OSError:
            return []
        finally:
            self._files.close_directory(child)

    def _size(self, directory: Dir, stats: dict[str, Stat]) -> int:
        """Return about how much is to be read of an own collection."""
        size = sum(item.size_bytes for item in stats.values() if _is_file(item))
        for name in (item for item, found in stats.items() if found.is_directory):
            try:
                child = self._files.open_directory(directory, name)
            except OSError:
                continue
            try:
                size += self._size(child, self._stats(child, self._names_in(directory, name),
                                                      _Place("")))  # fmt: skip
            finally:
                self._files.close_directory(child)
        return size

    def _take_vectors(self, directory: Dir, stats: dict[str, Stat], place: _Place) -> None:
        """Note the legacy collection whose directory this is, and copies of its vectors."""
        for name in (VECTORS, LOG):
            if name in stats and stats[name].is_special:
                self.findings.unreadable.append(
                    Unreadable(printable(place.below(name).path), "no file, or a link")
                )
        has_live = _holds_file(stats, VECTORS)
        if has_live:
            self.findings.collections.append(_legacy(place, stats[VECTORS].size_bytes))
        for name, found in stats.items():
            if not _is_file(found) or name in {VECTORS, INDEX}:
                continue
            is_copy = name.startswith(f"{VECTORS}.")
            if is_copy or (name.endswith(".bin") and self._looks_like_vectors(directory, name)):
                path = place.below(name).path
                item = replace(
                    _legacy(place, found.size_bytes), path=path, stray=has_live or not is_copy
                )
                if not is_copy and not has_live:
                    item = replace(item, name=name.removesuffix(".bin"))
                self.findings.collections.append(item)

    def _looks_like_vectors(self, directory: Dir, name: str) -> bool:
        try:
            file = self._files.open(directory, name)
        except OSError:
            return False
        try:
            return begins_with_record(self._files.read_at(file, _HEADER_BYTES, 0))
        except OSError:
            return False
        finally:
            self._files.close(file)

    def _unreadable(self, path: str, error: OSError) -> None:
        if len(self.findings.unreadable) < UNREADABLE_MAX:
            self.findings.unreadable.append(
                Unreadable(printable(path), error.strerror or str(error))
            )
        else:
            self.findings.unreadable_more += 1


def _beginning(path: str) -> _Place:
    """Return where a walk begins: it may begin inside a data directory."""
    above, _, base = path.rpartition("/")
    if base in _ZONES:
        return _Place(path, zone=_ZONES[base])
    zone = _ZONES.get(base_name(above), "collection")
    return _Place(path, zone=zone, parts=(base,))


def _legacy(place: _Place, size_bytes: int) -> Found:
    """Return the legacy collection whose directory a place is."""
    inside = "/".join(place.parts)
    name, stamp, kind = inside, None, place.zone
    if kind == "snapshot":
        taken = split_seconds(inside)
        if taken is None:  # a collection that is called snapshots/X
            name, kind = f"{SNAPSHOTS}/{inside}", "collection"
        else:
            name, stamp = taken[0], str(taken[1])
    elif kind != "collection":
        stamped = split_stamp(inside)
        if stamped is not None:
            name, stamp = stamped
    elif place.data_dir is None:
        name = base_name(place.path)
    return Found(
        place.path, kind, name=name, stamp=stamp, data_dir=place.data_dir, size_bytes=size_bytes
    )


def begins_with_record(data: bytes) -> bool:
    """Tell whether a file that begins with `data` (36 bytes) looks like legacy vectors."""
    for start in (0, 4):
        dimension = int.from_bytes(data[start + 24 : start + 32], "little")
        if data[start : start + 8] == SIXTEEN and 1 <= dimension <= DIMENSION_MAX:
            return True
    return False


def _is_file(found: Stat) -> bool:
    return not found.is_directory and not found.is_special


def _holds_file(stats: dict[str, Stat], name: str) -> bool:
    found = stats.get(name)
    return found is not None and _is_file(found)


def base_name(path: str) -> str:
    """Return the last part of a path."""
    return path.rstrip("/").rpartition("/")[2]


def printable(path: str) -> str:
    """Return a path as text that JSON can hold: bytes that are no UTF-8 are spelled out."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
