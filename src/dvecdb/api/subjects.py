"""Which collection a request is about: keys are for collections, and the audit log names them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dvecdb.formats.names import parse_stamped_name

if TYPE_CHECKING:
    from collections.abc import Mapping


def original_name(path: str) -> str:
    """Return the collection that a trash entry or backup is of, by its name or path.

    What is no such name is returned as it is: nothing but the engine's refusal comes of it.
    """
    last = path.rstrip("/").rpartition("/")[2]
    found = parse_stamped_name(last)
    return last if found is None else found[0]


def subject_of(path: Mapping[str, str]) -> str | None:
    """Return which collection the parameters of a path are about, None if about none."""
    entry = path.get("entry", path.get("backup"))
    return path.get("collection") if entry is None else original_name(entry)
