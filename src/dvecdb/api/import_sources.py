"""Which files of the machine an import through the server may read. Pure: it looks at text only.

    inside the data directory   all but what is in use: the collections that are served, what is
                                being made, `.server`, LOCK
    inside an import root       all
    anywhere else               nothing, whether it is there or not

Paths come without links, so that no link leads out; what is read opens no link below them. With a
file of a collection its directory is read, so that is what has to be allowed; the log of d-vecDB
lies beside the collection's directory, and is left alone if it is outside. A key for some
collections may read the trash entries and backups of those, and nothing else.
"""

from __future__ import annotations

import posixpath
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dvecdb.api.subjects import original_name
from dvecdb.errors import Code, ConflictError, InvalidRequestError
from dvecdb.formats import names
from dvecdb.rescue.legacy import names as legacy

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from dvecdb.wire.rescue import ImportRequest

_AREAS = frozenset({legacy.DELETED, legacy.BACKUPS, legacy.SNAPSHOTS})
_OURS = frozenset({names.LOCK, names.BALLAST, names.SERVER})


@dataclass(frozen=True, slots=True)
class Source:
    """What may be read.

    collection: whose files these are, None: nobody's in particular; directory: of the collection,
    if it is one; log_beside: the log beside that may be read too.
    """

    path: str
    collection: str | None
    directory: str
    log_beside: bool


def absolute(text: str, data_dir: str) -> str:
    """Return the path that a request means: a relative one is inside the data directory."""
    path = posixpath.normpath(posixpath.join(data_dir, text))
    return path[1:] if path.startswith("//") else path  # which POSIX keeps apart


def find_source(path: str, data_dir: str, roots: Sequence[str]) -> Source | None:
    """Return the source at `path`, or None if nobody allowed it. All of them without links."""
    directory = directory_of(path)
    inside = _below(path, data_dir)
    if not _is_below(directory, data_dir, *roots):
        return None
    beside = _log_beside(directory)
    return Source(
        path,
        None if inside is None else _owner(inside),
        directory,
        log_beside=all(_is_below(place, data_dir, *roots) for place in beside),
    )


def directory_of(path: str) -> str:
    """Return the directory of the collection whose file is named, or the path itself."""
    above, base = posixpath.split(path)
    return above if base in {legacy.VECTORS, legacy.LOG} else path


def _log_beside(directory: str) -> list[str]:
    """Return where the log of a collection, or of those in an area, may be."""
    above, base = posixpath.split(directory)
    further, area = posixpath.split(above)
    places = [further if area in _AREAS else above]
    return [*places, above] if base in _AREAS else places


def _is_below(path: str, *directories: str) -> bool:
    return any(_below(path, item) is not None for item in directories)


def _owner(parts: Sequence[str]) -> str | None:
    if len(parts) < 2:
        return None
    if parts[0] == names.COLLECTIONS:
        return parts[1]
    if parts[0] in {names.TRASH, names.BACKUPS} and names.parse_stamped_name(parts[1]) is not None:
        return original_name(parts[1])
    return None


def refuse_in_use(path: str, data_dir: str, live: Collection[str]) -> None:
    """Refuse what this server works with. live: the collections that it serves.

    Raises:
        ConflictError: `source-in-use`.
    """
    if posixpath.basename(path) == legacy.LOG:  # with it, all that it may be of is looked at
        path = posixpath.dirname(path)
    parts = _below(path, data_dir)
    what = None
    if _below(data_dir, path) is not None:
        what = "the data directory that is being served"
    elif parts == [names.COLLECTIONS]:
        what = "where the collections that are being served are"
    elif parts is not None and parts[0] in _OURS:
        what = "the server's own"
    elif parts is not None and any(part.startswith(names.PARTIAL) for part in parts):
        what = "being made or removed"
    elif parts is not None and parts[0] == names.COLLECTIONS and parts[1] in live:
        what = f"the collection {parts[1]!r}, which is being served"
    if what is not None:
        raise ConflictError(
            Code.SOURCE_IN_USE,
            f"{path:.300} is {what}; nothing was read. To copy a collection, clone it",
            path=path,
        )


def not_allowed(request: ImportRequest, path: str, data_dir: str) -> InvalidRequestError:
    """Return the refusal of a path outside, with what would allow it and what works without."""
    flag = f"--import-root {shlex.quote(directory_of(path))}"
    command = shlex.join(import_command(request, path, data_dir))
    return InvalidRequestError(
        Code.SOURCE_NOT_ALLOWED,
        f"{path:.300} is neither inside the data directory nor inside an import root; nothing was "
        f"read. Start the server with '{flag}', or run on its machine: {command}",
        path=path,
        flag=flag,
        command=command,
    )


def import_command(request: ImportRequest, path: str, data_dir: str) -> list[str]:
    """Return the arguments of the command that does the same."""
    name = request.collection_name
    command = ["dvecdb", "import", path, "--as", "NAME" if name is None else name]
    command += ["--data-dir", data_dir]
    for flag, value in (
        ("--collection", request.collection),
        ("--dimension", request.dimension),
        ("--metric", request.distance_metric),
    ):
        if value is not None:
            command += [flag, str(value)]
    for flag, given in (
        ("--no-wal", not request.use_log),
        ("--keep-deleted", request.keep_deleted),
        ("--include-dropped", request.include_dropped),
        ("--keep-raw", request.keep_raw),
        ("--replace", request.replace),
    ):
        if given:
            command.append(flag)
    return command


def _below(path: str, directory: str) -> list[str] | None:
    """Return the names that lead from a directory to a path, none if it is it, None: outside."""
    if path == directory:
        return []
    above = directory.rstrip("/") + "/"
    return path.removeprefix(above).split("/") if path.startswith(above) else None
