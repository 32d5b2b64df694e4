"""File work that several engine modules need: write a whole file durably, read one whole."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from dvecdb.clock import NANOSECONDS_PER_SECOND, stamp
from dvecdb.errors import (
    Code,
    DirectoryError,
    DiskFullError,
    DvecdbError,
    InvalidRequestError,
    OutcomeUnknownError,
)
from dvecdb.formats import names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dvecdb.media.files import Buffer, Dir, File, Files


def is_disk_full(error: OSError) -> bool:
    """Return whether `error` says that there is no room."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


def is_no_space(error: OSError | DvecdbError) -> bool:
    """Return whether an error, ours or the system's, says that there is no room."""
    return isinstance(error, DiskFullError) or (isinstance(error, OSError) and is_disk_full(error))


def disk_full(what: str, error: OSError | DvecdbError) -> DiskFullError:
    """Return the error for a write that was refused before anything was written."""
    found = error.strerror if isinstance(error, OSError) else error.message
    return DiskFullError(
        Code.DISK_FULL,
        f"{what}: no space left ({found}); nothing was written. "
        "Free space or delete rows or collections, then try again",
    )


def write_failed(what: str, error: OSError) -> DvecdbError:
    """Return the error for a step that failed before it had any effect that counts."""
    return disk_full(what, error) if is_disk_full(error) else unclear(what, error)


def unclear(what: str, error: OSError) -> OutcomeUnknownError:
    """Return the error for a step that failed when it may have taken effect."""
    return OutcomeUnknownError(
        Code.OUTCOME_UNKNOWN,
        f"{what}: the disk failed ({error.strerror}); whether it took effect shows after "
        "opening the data directory again",
        errno=error.errno,
    )


def unexpected(error: BaseException) -> OutcomeUnknownError:
    """Return the error for a write interrupted by something that is not ours to classify."""
    return OutcomeUnknownError(
        Code.OUTCOME_UNKNOWN,
        f"a write was interrupted ({error!r}); whether it survives is not known before the data "
        "directory is opened again",
    )


def not_read_back(error: Exception) -> OSError:
    """Return the error of the disk for what was written and cannot be read back."""
    return OSError(errno.EIO, f"written, and not readable: {error}")


def opened_full(name: str) -> DiskFullError:
    """Return the error for writes to a collection that found no room when it was opened."""
    return DiskFullError(
        Code.DISK_FULL,
        f"collection {name!r} was opened on a full disk, for reading only; nothing was written. "
        "Free space or delete collections, then open the data directory again",
        name=name,
    )


def read_only_error() -> InvalidRequestError:
    """Return the error for writes through a handle that only reads."""
    return InvalidRequestError(
        Code.READ_ONLY,
        "the data directory was opened read-only; open it without read_only to write",
    )


def unreadable(path: str, error: OSError) -> DirectoryError:
    """Return the error for a data directory that the system does not let us open."""
    return DirectoryError(
        Code.DIRECTORY_UNREADABLE,
        f"{path} cannot be opened: {error.strerror}",
        path=path,
        errno=error.errno,
    )


def check_ours(path: str, present: Sequence[str]) -> None:
    """Refuse to work in a directory that is somebody else's. present: the names in it.

    Raises:
        DirectoryError: `not-a-data-directory`.
    """
    found = [name for name in present if name not in names.NOT_DATA]
    if found and names.COLLECTIONS not in found and names.LOCK not in found:
        raise DirectoryError(
            Code.NOT_A_DATA_DIRECTORY,
            f"{path} is not a dvecdb data directory: it has neither {names.LOCK} nor "
            f"{names.COLLECTIONS}/, but {', '.join(found[:5])}. Choose another or an empty "
            "directory",
            path=path,
        )


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Tell it as an error of ours when the disk fails while something is only looked at.

    Raises:
        DirectoryError: `directory-unreadable`.
    """
    try:
        yield
    except OSError as error:
        raise unreadable(path, error) from error


def read_file(files: Files, directory: Dir, name: str) -> bytes:
    """Return all bytes of a file. Raises `OSError`."""
    file = files.open(directory, name)
    try:
        return files.read_at(file, files.size(file), 0)
    finally:
        files.close(file)


def write_file(
    files: Files,
    directory: Dir,
    name: str,
    buffers: Sequence[Buffer],
    *,
    sync_directory: bool = True,
) -> None:
    """Write a new file: partial name, sync, seal, rename without replacing, sync the directory.

    On return the file is durable (its name too, with `sync_directory`). Raises `OSError`; then
    the file is not there under `name`, unless only the last sync failed.
    """
    partial = names.PARTIAL + name
    with contextlib.suppress(FileNotFoundError):
        files.remove(directory, partial)  # left by a crash; nobody knows it
    file = files.create(directory, partial)
    try:
        files.write_at(file, buffers, 0)
        files.sync(file)
        files.seal(file)
    except OSError:
        close_quietly(files, file)
        with contextlib.suppress(OSError):
            files.remove(directory, partial)
        raise
    files.close(file)
    files.rename(directory, partial, directory, name)
    if sync_directory:
        files.sync_directory(directory)


def rename_stamped(
    files: Files,
    source: tuple[Dir, str],
    target: Dir,
    root: Dir,
    collection: str,
    moment: int,
    prefix: str = "",
) -> str:
    """Give a directory the first free name of a trash entry or backup from `moment` on.

    source: the directory it lies in, and its name there; prefix: stands before the name.
    Returns the name. Not durable. Raises `OSError`.
    """
    while True:
        name = prefix + entry_name(files, root, collection, moment)
        try:
            files.rename(*source, target, name)
        except FileExistsError:  # somebody was faster
            moment += NANOSECONDS_PER_SECOND
        else:
            return name


def entry_name(files: Files, root: Dir, collection: str, moment: int) -> str:
    """Return the first name for a trash entry or backup from `moment` on that neither has.

    Raises `OSError`.
    """
    while True:
        name = names.stamped_name(collection, stamp(moment))
        if not any(_holds(files, root, parent, name) for parent in (names.TRASH, names.BACKUPS)):
            return name
        moment += NANOSECONDS_PER_SECOND


def _holds(files: Files, root: Dir, parent: str, name: str) -> bool:
    try:
        directory = files.open_directory(root, parent)
    except FileNotFoundError:
        return False
    try:
        return files.stat(directory, name) is not None
    finally:
        files.close_directory(directory)


def close_quietly(files: Files, file: File) -> None:
    """Close a file whose fate no longer matters."""
    with contextlib.suppress(OSError):
        files.close(file)
