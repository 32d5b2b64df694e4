"""From a path to what can be saved of it: which reader takes it."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from dvecdb.errors import Code, NotFoundError
from dvecdb.media.files import OsFiles, absolute_paths
from dvecdb.rescue.files import SourceFiles
from dvecdb.rescue.legacy import names as legacy_names
from dvecdb.rescue.legacy.directory import (
    Place,
    choose,
    place_of_directory,
    places_in,
    read_place,
)
from dvecdb.rescue.own.places import recognise
from dvecdb.rescue.own.reading import read_own

if TYPE_CHECKING:
    from dvecdb.rescue.salvage import Choice, Progress, Salvage


def read_source(path: str, choice: Choice, *, progress: Progress | None = None) -> Salvage:
    """Read a collection directory, a single vectors.bin, a log or a data directory, of any kind.

    Nothing is written. progress: called with bytes done and in all.

    Raises:
        NotFoundError: `source-not-found`, or `nothing-recoverable` with the report in its details.
        InvalidRequestError: `source-unclear`, it holds several collections, which are named;
            `source-contradicts`, dimension or metric are not what the bytes say.
        DirectoryError: `directory-unreadable`, none of it can be read.
    """
    own_files = OsFiles()
    if recognise(own_files, path) is not None:
        return read_own(own_files, path, choice, progress)
    files = SourceFiles()
    try:
        return read_place(files, _find(files, path, choice), path, choice, progress)
    except BaseException:
        files.close()
        raise


def _find(files: SourceFiles, path: str, choice: Choice) -> Place:
    """Return the legacy collection that a path and a choice name."""
    whole = absolute_paths(path)[0]
    if files.has_file(whole):
        directory, base = posixpath.split(whole)
        if base == legacy_names.VECTORS:
            return place_of_directory(files, directory)
        if base == legacy_names.LOG:
            return choose([item for item in places_in(files, directory) if item.log], path, choice)
        return Place(name=choice.collection or base, vectors=whole)
    if not files.is_directory(whole):
        raise NotFoundError(
            Code.SOURCE_NOT_FOUND, f"{path}: there is no such file or directory", path=path
        )
    if choice.collection is None and files.has_file(posixpath.join(whole, legacy_names.VECTORS)):
        return place_of_directory(files, whole)
    return choose(places_in(files, whole), path, choice)
