"""DATA_DIR/.server: what a server keeps beside the collections.

    DATA_DIR/.server/keys/     API keys: ID.json, ID.revoked.json
    DATA_DIR/.server/audit/    the audit log: NUMBER.jsonl
    DATA_DIR/.server/tasks/    tasks: ID.started.json, ID.ended.json
    DATA_DIR/.server/imports/  reports of imports: ID.json

It may be there before the data directory is: keys are made before a server is started. Nothing in
it needs LOCK; keys come and go while a server runs.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from typing import TYPE_CHECKING

from dvecdb.engine.storage import check_ours, disk_full, is_disk_full, unreadable
from dvecdb.formats import names
from dvecdb.rescue.refusal import refuse_legacy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dvecdb.media.files import Dir, Files


def make_server_directory(files: Files, data_dir: str, name: str) -> Dir:
    """Return a handle of DATA_DIR/.server/NAME, made durable with all above it if missing.

    name: `names.KEYS`, `AUDIT`, `TASKS` or `IMPORTS`. Whoever gets the handle closes it.

    Raises:
        DirectoryError: `not-a-data-directory`, `legacy-directory`, `directory-unreadable`.
        DiskFullError: `disk-full`.
    """
    opened: list[Dir] = []
    try:
        opened.append(files.open_root(data_dir, create=True))
        _check_ours(files, opened[0], data_dir)
        for child in (names.SERVER, name):
            with contextlib.suppress(FileExistsError):
                files.make_directory(opened[-1], child)
            files.sync_directory(opened[-1])
            opened.append(files.open_directory(opened[-1], child))
        return opened.pop()
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(f"making {data_dir}/{names.SERVER}/{name}", error) from error
        raise unreadable(data_dir, error) from error
    finally:
        for directory in opened:
            files.close_directory(directory)


def find_server_directory(files: Files, data_dir: str, name: str) -> Dir | None:
    """Return a handle of DATA_DIR/.server/NAME, or None if a server never was here.

    Raises:
        DirectoryError: `not-a-data-directory`, `legacy-directory`, `directory-unreadable`.
    """
    opened: list[Dir] = []
    try:
        opened.append(files.open_root(data_dir, create=False))
        _check_ours(files, opened[0], data_dir)
        for child in (names.SERVER, name):
            if files.stat(opened[-1], child) is None:
                return None
            opened.append(files.open_directory(opened[-1], child))
        return opened.pop()
    except OSError as error:
        raise unreadable(data_dir, error) from error
    finally:
        for directory in opened:
            files.close_directory(directory)


def _check_ours(files: Files, root: Dir, data_dir: str) -> None:
    """Refuse to put anything into a directory that is somebody else's."""
    present = files.list_names(root)
    refuse_legacy(files, root, data_dir, present)
    check_ours(data_dir, present)


class HeldDirectory:
    """A directory that several threads use; it is closed when nobody does any more.

    `_lock` guards whether it is open: a task may go on after the server let go of it.
    """

    def __init__(self, files: Files, directory: Dir) -> None:
        self._files, self._directory = files, directory
        self._lock = threading.Lock()
        self._users = 0
        self._is_closed = False

    @contextlib.contextmanager
    def open(self) -> Iterator[Dir]:
        """Keep it open meanwhile. Raises `OSError` if it is closed."""
        with self._lock:
            if self._is_closed and not self._users:
                raise OSError(errno.EBADF, "the server is stopping")
            self._users += 1
        try:
            yield self._directory
        finally:
            with self._lock:
                self._users -= 1
                self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._is_closed and not self._users:
            self._files.close_directory(self._directory)

    def close(self) -> None:
        """Close it, once nobody uses it."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._close_if_unused()
