"""`dvecdb dump`: any file of a data directory, for people or as JSON."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final

from dvecdb.cli.exit_codes import DAMAGE, OK
from dvecdb.cli.output import print_json, say
from dvecdb.formats.describe import companion, describe, text_lines

if TYPE_CHECKING:
    from pathlib import Path

    from dvecdb.formats.describe_values import Described, Value

# What `describe` calls damage, wherever it stands in its answer.
_BAD_KEYS: Final = frozenset({"damaged", "lost", "damaged_copies", "digest_found", "refused"})
_BAD_LISTS: Final = frozenset(
    {
        "damaged_bytes",
        "damaged_pages",
        "damaged_blocks",
        "damaged_lines",
        "damaged_vectors",
        "damaged_metadata",
        "lost_vectors",
        "lost_metadata",
    }
)
_COPIES: Final = frozenset({"head", "tail", "control_copy_1", "control_copy_2"})


def dump_file(file: Path, *, as_json: bool, vectors: int) -> int:
    """Print what is in `file`; return the exit code. Raises `OSError`."""
    beside: dict[str, memoryview] = {}
    other = companion(file.name)
    if other is not None and (file.parent / other).is_file():
        beside[other] = _view(file.parent / other)
    described = describe(_view(file), file.name, beside=beside, vectors=vectors)
    if as_json:
        print_json(described)
    else:
        say("\n".join(text_lines(described)))
    return DAMAGE if is_damaged(described) else OK


def _view(path: Path) -> memoryview:
    """Return the bytes of a file, mapped; it may be larger than memory."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def is_damaged(described: Described) -> bool:
    """Return whether a description tells of damage anywhere."""
    if described.get("kind") == "unknown" or described.get("digest") == "damaged":
        return True
    return any(_is_bad(key, value) for key, value in described.items())


def _is_bad(key: str, value: Value) -> bool:
    if key in _BAD_KEYS or (key == "header" and value == "damaged"):
        return True
    if key in _BAD_LISTS:
        return bool(value)
    if key in _COPIES:
        return bool(value != "good")
    if key == "records":
        return any(is_damaged(record) for record in value)
    if key in {"manifest", "vectors_file"}:
        return is_damaged(value)
    return (key == "chained" and not value) or (key == "whole" and not value)
