"""What is at a path, and which parts of a collection are there. Opens directories, reads names."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, Literal

from dvecdb.engine.storage import unreadable
from dvecdb.errors import Code, InvalidRequestError, NotFoundError
from dvecdb.formats import names
from dvecdb.formats import segment_file as sf
from dvecdb.formats.framing import FormatError
from dvecdb.formats.manifest_file import decode_backup_file, decode_deletion_file
from dvecdb.media.files import absolute_paths
from dvecdb.reports import Unreadable

if TYPE_CHECKING:
    from dvecdb.media.files import Dir, File, Files

OwnKind = Literal["data-directory", "collection", "segment", "log"]

_PIECE_BYTES: Final = 1024 * 1024
_LOG_MAGIC: Final = b"dvWL"
_WITH_COLLECTIONS: Final = (names.COLLECTIONS, names.TRASH, names.BACKUPS)


@dataclass(slots=True)
class Part:
    """Files or directories that lie together and count. label: what stands before their names."""

    directory: Dir
    label: str
    found: list[str]

    def path(self, name: str) -> str:
        """Return what a file is called in reports: its path below the source."""
        return f"{self.label}/{name}" if self.label else name


@dataclass(slots=True)
class Place:
    """The parts of one collection that are there; None for those that are not.

    unreadable: what the system refused. `close` gives all directories back.
    """

    files: Files
    name: str | None = None
    root: Part | None = None
    manifests: Part | None = None
    wal: Part | None = None
    segments: Part | None = None
    notes: list[str] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    _opened: list[Dir] = field(default_factory=list)

    def close(self) -> None:
        """Close every directory."""
        opened, self._opened = self._opened, []
        for directory in opened:
            with contextlib.suppress(OSError):
                self.files.close_directory(directory)

    def keep(self, directory: Dir) -> Dir:
        """Close `directory` with the rest."""
        self._opened.append(directory)
        return directory

    def refused(self, file: str, error: OSError) -> None:
        """Note what the system does not give."""
        self.unreadable.append(Unreadable(file, error.strerror or repr(error)))

    def read(self, part: Part, name: str) -> bytes:
        """Return a file, with zeros where the system does not give it. Raises `OSError`."""
        file = self.files.open(part.directory, name)
        try:
            data, refused = read_around(self.files, file)
        finally:
            self.files.close(file)
        for start, end, why in refused:
            self.unreadable.append(Unreadable(part.path(name), f"bytes {start} .. {end}: {why}"))
        return data


def read_around(files: Files, file: File) -> tuple[bytes, list[tuple[int, int, str]]]:
    """Return all of a file, zeros where a piece cannot be read, and those ranges and why."""
    size = files.size(file)
    try:
        return files.read_at(file, size, 0), []
    except OSError:
        pass
    data = bytearray(size)
    refused = []
    for start in range(0, size, _PIECE_BYTES):
        end = min(start + _PIECE_BYTES, size)
        try:
            piece = files.read_at(file, end - start, start)
            data[start : start + len(piece)] = piece
        except OSError as error:
            refused.append((start, end, error.strerror or repr(error)))
    return bytes(data), refused


def _absolute(path: str) -> PurePath:
    return PurePath(absolute_paths(path)[0])


# --- recognising -----------------------------------------------------------------------------


def recognise(files: Files, path: str) -> OwnKind | None:
    """Return what of ours is at `path`, a directory or a file; None if nothing is. Raises nothing.

    Names decide, not contents: what is damaged is ours all the same.
    """
    try:
        top = files.open_root(path, create=False)
    except NotADirectoryError:
        return _recognise_file(files, path)
    except OSError:
        return None
    try:
        return _recognise_directory(files, top, _absolute(path).name)
    except OSError:
        return None
    finally:
        files.close_directory(top)


def _recognise_directory(files: Files, top: Dir, name: str) -> OwnKind | None:
    found = files.list_names(top)
    if sf.RECORDS_NAME in found or names.parse_segment_name(name) is not None:
        return "segment"
    if _is_collection(files, top, found):
        return "collection"
    if any(names.parse_wal_name(child) is not None for child in found):
        return "log"
    for parent in _WITH_COLLECTIONS:
        if parent in found and _holds_collections(files, top, parent):
            return "data-directory"
    return None


def _is_collection(files: Files, top: Dir, found: list[str]) -> bool:
    if any(names.parse_segment_name(child) is not None for child in found):
        return True
    parts = (
        (names.MANIFESTS, names.parse_manifest_name),
        (names.SEGMENTS, names.parse_segment_name),
        (names.WAL, names.parse_wal_name),
    )
    for child, parse in parts:
        if child in found and any(parse(name) is not None for name in _names_in(files, top, child)):
            return True
    return names.COLLECTION_FILE in found


def _holds_collections(files: Files, top: Dir, parent: str) -> bool:
    try:
        above = files.open_directory(top, parent)
    except OSError:
        return False
    try:
        return any(_is_collection_at(files, above, name) for name in files.list_names(above))
    finally:
        files.close_directory(above)


def _is_collection_at(files: Files, above: Dir, name: str) -> bool:
    try:
        directory = files.open_directory(above, name)
    except OSError:
        return False
    try:
        return _is_collection(files, directory, files.list_names(directory))
    except OSError:
        return False
    finally:
        files.close_directory(directory)


def _names_in(files: Files, parent: Dir, name: str) -> list[str]:
    try:
        directory = files.open_directory(parent, name)
    except OSError:
        return []
    try:
        return files.list_names(directory)
    except OSError:
        return []
    finally:
        files.close_directory(directory)


def _recognise_file(files: Files, path: str) -> OwnKind | None:
    parent, name = _absolute(path).parent, _absolute(path).name
    try:
        directory = files.open_root(str(parent), create=False)
    except OSError:
        return None
    try:
        if name in {sf.RECORDS_NAME, sf.VECTORS_NAME}:
            is_segment = sf.RECORDS_NAME in files.list_names(directory)
            is_segment |= names.parse_segment_name(parent.name) is not None
            return "segment" if is_segment else None
        if names.parse_wal_name(name) is not None or _begins(files, directory, name, _LOG_MAGIC):
            return "log"
    except OSError:
        return None
    finally:
        files.close_directory(directory)
    return None


def _begins(files: Files, directory: Dir, name: str, magic: bytes) -> bool:
    file = files.open(directory, name)
    try:
        return files.read_at(file, len(magic), 0) == magic
    finally:
        files.close(file)


# --- locating --------------------------------------------------------------------------------


def locate(files: Files, path: str, collection: str | None) -> Place:
    """Return the parts of the collection at `path`; of a data directory, those of `collection`.

    Raises:
        NotFoundError: `source-not-found`.
        InvalidRequestError: `source-unclear`, there are several collections.
        DirectoryError: `directory-unreadable`.
    """
    kind = recognise(files, path)
    place = Place(files)
    try:
        if kind == "data-directory":
            _locate_in_data(place, path, collection)
        elif kind == "segment":
            _locate_segment(place, path)
        elif kind == "log":
            _locate_log(place, path)
        else:
            top = place.keep(files.open_root(path, create=False))
            _locate_collection(place, top, _absolute(path).name)
    except BaseException as error:
        place.close()
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise NotFoundError(
                Code.SOURCE_NOT_FOUND, f"{path}: there is nothing of ours", path=path
            ) from error
        if isinstance(error, OSError):
            raise unreadable(path, error) from error
        raise
    return place


def _locate_in_data(place: Place, path: str, collection: str | None) -> None:
    files = place.files
    top = place.keep(files.open_root(path, create=False))
    known: list[tuple[str, str]] = []
    for parent in _WITH_COLLECTIONS:
        children = _names_in(files, top, parent)
        known += [(parent, name) for name in children if not name.startswith(names.PARTIAL)]
    chosen = [item for item in known if item[1] == collection]
    if collection is None:
        chosen = [item for item in known if item[0] == names.COLLECTIONS] or known
    if collection is not None and not chosen:
        raise NotFoundError(
            Code.SOURCE_NOT_FOUND,
            f"{path} has no collection {collection!r}; it has {[name for _, name in known]}",
            path=path,
            collections=[name for _, name in known],
        )
    if len(chosen) != 1:
        raise InvalidRequestError(
            Code.SOURCE_UNCLEAR,
            f"{path} is a data directory; name the collection, one of "
            f"{[name for _, name in chosen]}",
            path=path,
            collections=[name for _, name in chosen],
        )
    ((parent, name),) = chosen
    above = place.keep(files.open_directory(top, parent))
    _locate_collection(place, place.keep(files.open_directory(above, name)), name)


def _locate_collection(place: Place, top: Dir, name: str) -> None:
    files = place.files
    found = files.list_names(top)
    place.root = Part(top, "", found)
    place.name = _collection_name(place, name)
    place.manifests = _part(place, top, names.MANIFESTS, found)
    place.wal = _part(place, top, names.WAL, found)
    place.segments = _part(place, top, names.SEGMENTS, found)
    if place.segments is None:
        own = [child for child in found if names.parse_segment_name(child) is not None]
        if own:
            place.segments = Part(top, "", own)
    if place.segments is not None:
        place.segments.found = [
            child for child in place.segments.found if not child.startswith(names.PARTIAL)
        ]
    if names.QUARANTINE in found and _names_in(files, top, names.QUARANTINE):
        place.notes.append(
            "quarantine/ holds bytes that an earlier recovery cut off; they were not used"
        )


def _part(place: Place, top: Dir, name: str, found: list[str]) -> Part | None:
    if name not in found:
        return None
    try:
        directory = place.keep(place.files.open_directory(top, name))
        return Part(directory, name, place.files.list_names(directory))
    except OSError as error:
        place.refused(name, error)
        return None


def _collection_name(place: Place, directory_name: str) -> str:
    """Return what the collection was called, as its files or the name of its directory say."""
    assert place.root is not None
    readers = ((names.DELETION_FILE, decode_deletion_file), (names.BACKUP_FILE, decode_backup_file))
    for name, decode in readers:
        if name in place.root.found:
            with contextlib.suppress(OSError, FormatError):
                return decode(place.read(place.root, name)).name
    stamped = names.parse_stamped_name(directory_name)
    return stamped[0] if stamped is not None else directory_name


def _locate_segment(place: Place, path: str) -> None:
    directory = _absolute(path)
    if directory.name in {sf.RECORDS_NAME, sf.VECTORS_NAME}:
        directory = directory.parent
    above = place.keep(place.files.open_root(str(directory.parent), create=False))
    place.segments = Part(above, "", [directory.name])
    place.notes.append("a segment alone: what later commits replaced or deleted is not known")


def _locate_log(place: Place, path: str) -> None:
    try:
        top = place.keep(place.files.open_root(path, create=False))
        found = place.files.list_names(top)
    except NotADirectoryError:
        parent, name = str(_absolute(path).parent), _absolute(path).name
        top, found = place.keep(place.files.open_root(parent, create=False)), [name]
    place.wal = Part(top, "", found)
    place.notes.append("logs alone: rows in segments are not here")
