"""Names of collections that others allowed and we do not. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from dvecdb.errors import InvalidRequestError
from dvecdb.records import check_name

if TYPE_CHECKING:
    from collections.abc import Collection

LENGTH_MAX: Final = 64
_UNUSABLE: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_NAMELESS: Final = "collection"
_LOCAL_STAMP: Final = re.compile(r"(.*)_(\d{8}_\d{6})", re.ASCII | re.DOTALL)
_SECONDS: Final = re.compile(r"(.*)_(\d{9,11})", re.ASCII | re.DOTALL)


def is_usable(name: str) -> bool:
    """Tell whether a collection of ours may have this name."""
    try:
        check_name(name)
    except InvalidRequestError:
        return False
    return True


def usable_name(name: str | None, taken: Collection[str] = ()) -> str:
    """Return the nearest name to `name` that a collection may have and that is free.

    taken: names in lower case. What cannot stand in a name becomes `-`; one that is empty,
    reserved or taken gets something behind it.
    """
    nearest = _UNUSABLE.sub("-", name or "").lstrip("_.-")[:LENGTH_MAX].rstrip("-")
    if not nearest:
        nearest = _NAMELESS
    elif not is_usable(nearest):  # reserved
        nearest = f"{nearest}-{_NAMELESS}"
    found, number = nearest, 1
    while found.lower() in taken:
        number += 1
        suffix = f"-{number}"
        found = nearest[: LENGTH_MAX - len(suffix)] + suffix
    return found


def split_stamp(name: str) -> tuple[str, str] | None:
    """Return name and stamp of a legacy trash entry or backup, `NAME_YYYYMMDD_HHMMSS`, or None."""
    match = _LOCAL_STAMP.fullmatch(name)
    return (match[1], match[2]) if match else None


def split_seconds(name: str) -> tuple[str, int] | None:
    """Return name and time of a legacy snapshot, `NAME_UNIXSECONDS`, or None."""
    match = _SECONDS.fullmatch(name)
    return (match[1], int(match[2])) if match else None
