"""`dvecdb export`: one consistent state of a collection into a file.

A file is written under a partial name, synced and renamed: it is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import sys
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from dvecdb.cli.exit_codes import OK
from dvecdb.cli.options import Format
from dvecdb.cli.output import drop_output, print_json, say, size_text
from dvecdb.cli.reading.source import find_format
from dvecdb.cli.writing.files import make_writer
from dvecdb.clock import NANOSECONDS_PER_SECOND, SystemClock
from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    import dvecdb
    from dvecdb.cli.target import Target
    from dvecdb.cli.writing.files import Writer

_BLOCK_BYTES: Final = 8 * 1024 * 1024


def export_collection(
    target: Target,
    name: str,
    path: Path,
    kind: Format | None,
    *,
    as_of: int | datetime | None,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Write a collection to a file, or to stdout for `-`; return the exit code.

    Raises:
        InvalidRequestError: `invalid-argument`, the file exists.
        DvecdbError: as reading raises; there is no file then.
        OSError: the file cannot be written.
    """
    kind = find_format(path, kind)
    clock = SystemClock()
    start = clock.monotonic_ns()
    with target.open() as database:
        collection = database.collection(name)
        snapshot = collection.snapshot(as_of=as_of)
        count, dimension = snapshot.count(), collection.schema.dimension
        if str(path) == "-":
            try:
                _write(snapshot, kind, sys.stdout.buffer, None, count, dimension)
                sys.stdout.buffer.flush()
            except BrokenPipeError:
                drop_output()
            return OK
        paths = [path, *([labels_path(path)] if kind is Format.NPY else [])]
        with _partial_files(paths, overwrite=overwrite) as files:
            labels = files[1] if len(files) > 1 else None
            _write(snapshot, kind, files[0], labels, count, dimension)
    size = sum(item.stat().st_size for item in paths)
    seconds = (clock.monotonic_ns() - start) / NANOSECONDS_PER_SECOND
    if as_json:
        print_json(
            {
                "collection": name,
                "files": [str(item) for item in paths],
                "rows": count,
                "lsn": snapshot.lsn,
                "size_bytes": size,
                "seconds": round(seconds, 3),
            }
        )
    else:
        beside = f" (ids in {paths[1]})" if len(paths) > 1 else ""
        say(
            f"exported {count} rows of {name} as of LSN {snapshot.lsn} to {path}{beside}, "
            f"{size_text(size)}, {seconds:.1f} s"
        )
    return OK


def labels_path(path: Path) -> Path:
    """Return the name of the file of ids beside a .npy file."""
    return path.with_name(f"{path.stem}.ids.jsonl")


def _write(
    snapshot: dvecdb.Snapshot,
    kind: Format,
    file: IO[bytes],
    labels: IO[bytes] | None,
    count: int,
    dimension: int,
) -> None:
    with contextlib.closing(make_writer(kind, file, labels, count, dimension)) as writer:
        _write_all(snapshot, writer, count, dimension)


def _write_all(snapshot: dvecdb.Snapshot, writer: Writer, count: int, dimension: int) -> None:
    rows = max(1, min(4096, _BLOCK_BYTES // (4 * dimension)))
    records = snapshot.scan(with_vectors=True)
    written = 0
    while block := list(islice(records, rows)):
        writer.write(block)
        written += len(block)
    assert written == count, f"{written} records in a state of {count}"
    writer.finish()


@contextlib.contextmanager
def _partial_files(paths: list[Path], *, overwrite: bool) -> Iterator[list[IO[bytes]]]:
    """Open files under partial names; at the end of the context they get their own, durably."""
    for path in paths:
        if path.exists() and not overwrite:
            raise _exists(path)
    partial = [path.with_name(f".partial-{path.name}-{os.getpid()}") for path in paths]
    opened: list[IO[bytes]] = []
    try:
        opened = [item.open("wb") for item in partial]
        yield opened
        for file in opened:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        for source, path in reversed(list(zip(partial, paths, strict=True))):
            _rename(source, path, overwrite=overwrite)
        directory = os.open(paths[0].parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        for file in opened:
            file.close()
        for item in partial:
            item.unlink(missing_ok=True)


def _rename(source: Path, path: Path, *, overwrite: bool) -> None:
    if overwrite:
        source.rename(path)
        return
    try:
        path.hardlink_to(source)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:  # a file system without links
        source.rename(path)


def _exists(path: Path) -> InvalidRequestError:
    return InvalidRequestError(
        Code.INVALID_ARGUMENT, f"{path} exists; --overwrite replaces it", path=str(path)
    )
