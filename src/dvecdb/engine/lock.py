"""The right to write a data directory: a lock file that is held for life and says who has it.

LOCK is never deleted or replaced by us. Its holder has an exclusive `flock` on it and has written
its epoch into it; both are checked after every sync, before anything is acknowledged. So a writer
that slept through a takeover finds another file, or another epoch, and fails.
"""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Final

import msgspec

from dvecdb.engine.storage import close_quietly
from dvecdb.errors import Code, DirectoryError, HandleError
from dvecdb.formats import names
from dvecdb.formats.framing import FORMAT_VERSION, FormatError
from dvecdb.formats.manifest_file import open_json, seal_json
from dvecdb.records import Epoch

if TYPE_CHECKING:
    from dvecdb.media.files import Dir, File, Files

_CONTENT_BYTES: Final = 512  # one sector
_ATTEMPTS: Final = 5
_PAUSE_SECONDS: Final = 0.01


class LockContent(msgspec.Struct, frozen=True, kw_only=True):
    """What LOCK says. `address`: where a server of this directory listens."""

    dvecdb: str = "data directory"
    format_version: int = FORMAT_VERSION
    required_features: int = 0
    epoch: int
    owner: str
    pid: int
    host: str
    address: str | None = None


class WriterLock:
    """The lock held by this process. Never shared with a forked child."""

    def __init__(self, files: Files, root: Dir, owner: str, *, epoch_min: int) -> None:
        """Take the lock with an epoch above the one in the file and at least `epoch_min`.

        Raises:
            DirectoryError: `directory-in-use` or `format-too-new`.
            OSError: as the disk says.
        """
        self._files = files
        self._root = root
        self._owner = owner
        self._address: str | None = None
        self._changing = threading.Lock()  # guards `epoch`, `_address` and `_content`
        self._file = files.open_lock(root, names.LOCK)
        try:
            content = read_content(files.read_at(self._file, _CONTENT_BYTES, 0))
            if not _take(files, self._file):
                raise _in_use(content)
            before = content.epoch if content is not None else 0
            self._write(Epoch(max(before + 1, epoch_min)))
            files.sync_directory(root)
            self._inode = files.file_stat(self._file).inode
        except BaseException:
            close_quietly(files, self._file)
            raise

    def _write(self, epoch: Epoch) -> None:
        content = LockContent(
            epoch=epoch, owner=self._owner, pid=os.getpid(), host=socket.gethostname(),
            address=self._address,
        )  # fmt: skip
        self._content = _encode(content)
        self._files.write_at(self._file, [self._content], 0)
        self._files.sync(self._file)
        self.epoch = epoch

    def raise_to(self, epoch_min: int) -> Epoch:
        """Raise the epoch to at least this, durably: what comes in from elsewhere may be newer.

        Raises:
            HandleError: `fenced`.
            OSError: as the disk says; then every further check may fail.
        """
        self.check()
        with self._changing:
            if self.epoch < epoch_min:
                self._write(Epoch(epoch_min))
            return self.epoch

    def announce(self, address: str) -> None:
        """Say where a server of this directory listens, for whoever finds it in use.

        Raises:
            HandleError: `fenced`.
            OSError: as the disk says; then every further check may fail.
        """
        self.check()
        with self._changing:
            self._address = address
            self._write(self.epoch)

    def check(self) -> None:
        """Make sure that nobody took over.

        Raises:
            HandleError: `fenced`; nothing may be acknowledged any more.
        """
        with self._changing:
            try:
                found = self._files.stat(self._root, names.LOCK)
                content = self._files.read_at(self._file, _CONTENT_BYTES, 0)
            except OSError as error:
                raise self._fenced(f"LOCK cannot be read ({error.strerror})") from error
            if found is None or found.inode != self._inode:
                raise self._fenced("LOCK was replaced")
            if content != self._content:
                raise self._fenced("another process wrote LOCK")

    def _fenced(self, why: str) -> HandleError:
        return HandleError(
            Code.FENCED,
            f"{why}: this process (epoch {self.epoch}) lost the right to write the data "
            "directory. The write was not acknowledged; open the directory again",
            epoch=int(self.epoch),
        )

    def release(self) -> None:
        """Close the lock file; the lock goes with the last copy of the handle."""
        close_quietly(self._files, self._file)


def _take(files: Files, file: File) -> bool:
    """Take the lock. A read-only opener holds it for an instant to see whether a writer lives."""
    for _ in range(_ATTEMPTS):
        if files.try_lock(file):
            return True
        threading.Event().wait(_PAUSE_SECONDS)
    return False


def look_at_lock(files: Files, root: Dir) -> tuple[Epoch, bool]:
    """Return the epoch in LOCK and whether a writer holds it. For read-only handles.

    Raises:
        DirectoryError: `format-too-new`.
        OSError: as the disk says.
    """
    if files.stat(root, names.LOCK) is None:
        return Epoch(0), False
    file = files.open(root, names.LOCK)
    try:
        content = read_content(files.read_at(file, _CONTENT_BYTES, 0))
        is_held = not files.try_lock(file)
    finally:
        files.close(file)
    if content is None:
        return Epoch(0), is_held
    return Epoch(content.epoch), is_held


def highest_epoch_of(files: Files, logs: Dir) -> int:
    """Return the highest epoch in the names of the log files in a directory; 0 if none."""
    found = (names.parse_wal_name(name) for name in files.list_names(logs))
    return max((parsed[0] for parsed in found if parsed), default=0)


def highest_epoch(files: Files, root: Dir) -> int:
    """Return the highest epoch in the names of log files: LOCK may be damaged or gone."""
    highest = 0
    try:
        parent = files.open_directory(root, names.COLLECTIONS)
    except FileNotFoundError:
        return 0
    try:
        for name in files.list_names(parent):
            for log in _log_names(files, parent, name):
                parsed = names.parse_wal_name(log)
                highest = max(highest, parsed[0] if parsed else 0)
    finally:
        files.close_directory(parent)
    return highest


def _log_names(files: Files, parent: Dir, collection: str) -> list[str]:
    opened: list[Dir] = []
    try:
        opened.append(files.open_directory(parent, collection))
        opened.append(files.open_directory(opened[0], names.WAL))
        return files.list_names(opened[1])
    except OSError:  # no collection, or one that recovery will set aside
        return []
    finally:
        for directory in opened:
            files.close_directory(directory)


def read_content(data: bytes) -> LockContent | None:
    """Return what LOCK says, or None if it is empty or damaged.

    Raises:
        DirectoryError: `format-too-new`.
    """
    try:
        return msgspec.convert(open_json(data.rstrip(b" \n\0") + b"\n")[0], LockContent)
    except (FormatError, msgspec.ValidationError):
        return None


def _encode(content: LockContent) -> bytes:
    sealed = seal_json(content)
    assert len(sealed) < _CONTENT_BYTES
    return sealed + b" " * (_CONTENT_BYTES - 1 - len(sealed)) + b"\n"


def _in_use(content: LockContent | None) -> DirectoryError:
    who = f"process {content.pid} on {content.host}" if content is not None else "another process"
    return DirectoryError(
        Code.DIRECTORY_IN_USE,
        f"the data directory is in use by {who}; stop it, use its address, or open with "
        "read_only=True",
        pid=content.pid if content is not None else None,
        host=content.host if content is not None else None,
        address=content.address if content is not None else None,
    )
