"""A legacy data directory is not served and not written to: it is upgraded into a new one."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from dvecdb.errors import Code, DirectoryError
from dvecdb.formats import names
from dvecdb.rescue.walk import find_in, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dvecdb.media.files import Dir, Files

_DEPTH: Final = 2  # .deleted/NAME_STAMP


def refuse_legacy(files: Files, root: Dir, path: str, present: Sequence[str]) -> None:
    """Refuse the directory open as `root` if an old d-vecDB server wrote it.

    present: the names in it. With a LOCK among them it is ours, whatever else lies there.

    Raises:
        DirectoryError: `legacy-directory`, names the command that upgrades it.
    """
    if not present or names.LOCK in present or not _is_legacy(files, root, path):
        return
    shown = printable(path)
    command = f"dvecdb upgrade {shlex.quote(shown)} --data-dir NEW"
    raise DirectoryError(
        Code.LEGACY_DIRECTORY,
        f"{shown} was written by an old d-vecDB server; it is neither served nor written to, and "
        f"nothing was changed. '{command}' brings all that it holds into a new data directory",
        path=shown,
        command=command,
    )


def _is_legacy(files: Files, root: Dir, path: str) -> bool:
    found = find_in(files, root, path, depth_max=_DEPTH)
    return any(log.data_dir == path for log in found.logs) or any(
        not item.own and not item.stray for item in found.collections
    )
