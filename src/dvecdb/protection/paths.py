"""What a request may name: an entry of `.deleted` or `.backups`, and nothing else.

Pure: it looks at text only. Whoever opens the entry does so relative to an open directory and
follows no link.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dvecdb.errors import Code, InvalidRequestError
from dvecdb.formats import names

if TYPE_CHECKING:
    from collections.abc import Iterable

ALLOWED = (names.TRASH, names.BACKUPS)


def parse_entry_path(text: object, roots: Iterable[str]) -> tuple[str | None, str]:
    """Return the directory (`.deleted`, `.backups`, None: either) and the name of an entry.

    roots: the absolute paths that the data directory is known by.

    Raises:
        InvalidRequestError: `path-not-allowed`, says what is.
    """
    if not isinstance(text, str) or not text or "\0" in text:
        raise _refused(text)
    parts = text.rstrip("/").split("/")
    if "." in parts or ".." in parts:
        raise _refused(text)
    if len(parts) == 1:
        directory, name = None, parts[0]
    else:
        above, name = "/".join(parts[:-1]), parts[-1]
        directory = next(
            (
                item
                for item in ALLOWED
                if above == item or any(above == f"{root}/{item}" for root in roots)
            ),
            None,
        )
        if directory is None:
            raise _refused(text)
    if names.parse_stamped_name(name) is None or name.startswith("."):
        raise _refused(text)
    return directory, name


def _refused(text: object) -> InvalidRequestError:
    return InvalidRequestError(
        Code.PATH_NOT_ALLOWED,
        f"{text!r:.300} names no trash entry and no backup; expected NAME_YYYYMMDD_HHMMSS, or the "
        f"path of such a directory inside {names.TRASH} or {names.BACKUPS} of the data directory, "
        "without links and `..`",
    )
