"""Opening a file of records by its format."""

from __future__ import annotations

import contextlib
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from dvecdb.cli.app import UsageError
from dvecdb.cli.options import Format
from dvecdb.cli.reading.pipe import interruptible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dvecdb.cli.reading.rows import Layout, Reader

_SUFFIXES = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".csv": Format.CSV,
    ".npy": Format.NPY,
    ".npz": Format.NPZ,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
}
STREAMS = frozenset({Format.JSONL, Format.CSV})  # what can go through a pipe


def holds_records(path: Path, given: Format | None) -> bool:
    """Return whether this is meant to be a file of records, by its name or because it is said."""
    return (
        given is not None
        or str(path) == "-"
        or (path.suffix.lower() in _SUFFIXES and not path.is_dir())
    )


def find_format(path: Path, given: Format | None) -> Format:
    """Return the format of a file; `-` is a pipe.

    Raises:
        UsageError: it cannot be told, or does not go through a pipe.
    """
    if str(path) == "-":
        found = given or Format.JSONL
        if found not in STREAMS:
            raise UsageError(f"{found} does not go through a pipe; give a file, or jsonl or csv")
        return found
    guessed = given or _SUFFIXES.get(path.suffix.lower())
    if guessed is None:
        raise UsageError(f"{path}: the name does not tell the format; --format {'|'.join(Format)}")
    return guessed


@contextlib.contextmanager
def open_source(
    path: Path, kind: Format, layout: Layout, ids: Path | None = None
) -> Iterator[Reader]:
    """Open a file of records, or stdin for `-`.

    Raises:
        RowError: it is not of this format, or does not fit.
        OSError, UsageError, InvalidRequestError: it cannot be read.
    """
    if ids is not None and kind is not Format.NPY:
        raise UsageError("--ids goes with a .npy file; other formats hold their ids")
    with contextlib.ExitStack() as opened:
        if str(path) == "-":
            stdin = opened.enter_context(interruptible(sys.stdin.buffer))
            yield _reader(stdin, kind, layout, None, None, opened)
            return
        file = opened.enter_context(path.open("rb"))
        total = path.stat()
        size = total.st_size if stat.S_ISREG(total.st_mode) else None
        beside = opened.enter_context(ids.open("rb")) if ids is not None else None
        yield _reader(file, kind, layout, size, beside, opened)


def _reader(
    file: BinaryIO,
    kind: Format,
    layout: Layout,
    size: int | None,
    beside: BinaryIO | None,
    opened: contextlib.ExitStack,
) -> Reader:
    # Each reader imports what it needs, and only what is asked for.
    if kind is Format.JSONL:
        from dvecdb.cli.reading.jsonl import JsonLines  # noqa: PLC0415

        return JsonLines(file, layout, size)
    if kind is Format.CSV:
        from dvecdb.cli.reading.csv_file import CsvFile  # noqa: PLC0415

        return CsvFile(file, layout, size)
    if kind is Format.PARQUET:
        from dvecdb.cli.reading.parquet import ParquetFile  # noqa: PLC0415

        return ParquetFile(file, layout, opened)
    from dvecdb.cli.reading.arrays import NpyFile, NpzFile  # noqa: PLC0415

    if kind is Format.NPY:
        return NpyFile(file, layout, beside)
    return NpzFile(file, layout, opened)
