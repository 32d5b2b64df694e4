"""Which collections a legacy log knows."""

from __future__ import annotations

from dvecdb.rescue.files import SourceFiles
from dvecdb.rescue.legacy.log import read_log
from dvecdb.rescue.walk import base_name


def logged_collections(path: str) -> dict[str, bool]:
    """Return the names of the collections in a log, and whether the log deletes them in the end.

    A name comes in the order of its first mention, if there is anything of that collection.

    Raises:
        OSError: the log cannot be opened.
    """
    source = SourceFiles()
    try:
        file = source.open(path, base_name(path))
        log = read_log(file.data, file.size, file.name)
        return {
            name: found.is_dropped
            for name, found in log.collections.items()
            if found.puts or (found.creations and not found.is_dropped)
        }
    finally:
        source.close()
