"""DATA_DIR/.server: what a server keeps beside the collections.

    DATA_DIR/.server/keys/     API keys: ID.json, ID.revoked.json
    DATA_DIR/.server/audit/    the audit log: NUMBER.jsonl
    DATA_DIR/.server/tasks/    tasks: ID.started.json, ID.ended.json

It may be there before the data directory is: keys are made before a server is started. Nothing in
it needs LOCK; keys come and go while a server runs.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from dvecdb.engine.storage import disk_full, is_disk_full, unreadable
from dvecdb.errors import Code, DirectoryError
from dvecdb.formats import names

if TYPE_CHECKING:
    from dvecdb.media.files import Dir, Files


def make_server_directory(files: Files, data_dir: str, name: str) -> Dir:
    """Return a handle of DATA_DIR/.server/NAME, made durable with all above it if missing.

    name: `names.KEYS`, `names.AUDIT` or `names.TASKS`. Whoever gets the handle closes it.

    Raises:
        DirectoryError: `not-a-data-directory`, `directory-unreadable`.
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
        DirectoryError: `not-a-data-directory`, `directory-unreadable`.
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
    present = [name for name in files.list_names(root) if name not in names.NOT_DATA]
    if present and names.COLLECTIONS not in present and names.LOCK not in present:
        raise DirectoryError(
            Code.NOT_A_DATA_DIRECTORY,
            f"{data_dir} is not a dvecdb data directory: it has neither {names.LOCK} nor "
            f"{names.COLLECTIONS}/, but {', '.join(present[:5])}. "
            "Choose another or an empty directory",
            path=data_dir,
        )
