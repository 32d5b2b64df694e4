"""`dvecdb insert`: a file of records into a collection, batch by durable batch.

Every batch is whole or not there. Whatever stops an insert, the error says how many rows are in
already and how to go on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from dvecdb.cli.exit_codes import OK
from dvecdb.cli.options import Mode
from dvecdb.cli.output import print_json, progress_bar, say, visible
from dvecdb.cli.reading.rows import RowError
from dvecdb.cli.reading.source import find_format, open_source
from dvecdb.clock import NANOSECONDS_PER_SECOND, SystemClock
from dvecdb.errors import (
    Code,
    DvecdbError,
    HandleError,
    InvalidRequestError,
    NotFoundError,
    OutcomeUnknownError,
    ServerError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import dvecdb
    from dvecdb.cli.options import Format
    from dvecdb.cli.reading.rows import Layout, Reader, Rows
    from dvecdb.cli.target import Target
    from dvecdb.records import Commit

_UNCERTAIN = (HandleError, OutcomeUnknownError, ServerError, UnavailableError)
_ITEM = re.compile(r"item (\d+)(?=[,:])")


@dataclass(frozen=True, slots=True)
class Creation:
    """The collection to make if there is none."""

    dimension: int
    metric: str
    vector_type: str


@dataclass(frozen=True, slots=True)
class Source:
    """The file to insert and how to read it; its layout has no dimension yet."""

    path: Path
    kind: Format | None
    layout: Layout
    ids: Path | None = None


@dataclass(frozen=True, slots=True)
class Manner:
    """How rows are written."""

    mode: Mode
    actor: str | None
    reason: str | None


@dataclass(slots=True)
class Progress:
    """What is in already."""

    skipped: int
    rows: int = 0
    batches: int = 0
    first_lsn: int | None = None
    last_lsn: int | None = None

    def add(self, commit: Commit, rows: int) -> None:
        """Count a batch that is durable."""
        self.rows += rows
        self.batches += 1
        self.first_lsn = self.first_lsn or int(commit.lsn)
        self.last_lsn = int(commit.lsn)

    def how_to_go_on(self, *, is_certain: bool) -> str:
        """Return what to say when it stops here; `is_certain`: the next batch is not there."""
        rest = "nothing of the rest" if is_certain else "the batch after them perhaps"
        return (
            f"{self.rows} rows of this run are in, {rest}; go on with "
            f"--skip-rows {self.skipped + self.rows}"
        )


def insert_file(
    target: Target,
    name: str,
    source: Source,
    manner: Manner,
    creation: Creation | None,
    *,
    as_json: bool,
) -> int:
    """Insert a file; return the exit code.

    Raises:
        DvecdbError: with `file`, `rows_written` and `skip_rows` in its details.
        OSError, UsageError: the file cannot be read.
    """
    kind = find_format(source.path, source.kind)
    clock = SystemClock()
    start = clock.monotonic_ns()
    progress = Progress(source.layout.skip_rows)
    shown = source.path.name if str(source.path) != "-" else "stdin"
    with target.open(write=True, create=creation is not None) as database:
        collection = _find(database, name, creation)
        layout = replace(source.layout, dimension=collection.schema.dimension)
        try:
            with open_source(source.path, kind, layout, source.ids) as reader:
                write = _writer(collection, manner, shown)
                _insert(reader, write, progress, shown, quiet=as_json)
        except RowError as error:
            _stop(located(error, shown), shown, progress)
        except KeyboardInterrupt:
            typer.echo(f"interrupted: {progress.how_to_go_on(is_certain=False)}", err=True)
            raise
        except OSError as error:
            if not progress.rows:
                raise
            message = f"{shown}: {error.strerror or error}"
            _stop(InvalidRequestError(Code.INVALID_ARGUMENT, message), shown, progress)
    seconds = (clock.monotonic_ns() - start) / NANOSECONDS_PER_SECOND
    _report(name, shown, progress, seconds, as_json=as_json)
    return OK


def _find(database: dvecdb.Database, name: str, creation: Creation | None) -> dvecdb.Collection:
    try:
        collection = database.collection(name)
    except NotFoundError as error:
        if creation is None:
            error.message += ". --create --dimension N makes it"
            raise
        return database.create_collection(
            name,
            dimension=creation.dimension,
            metric=creation.metric,
            vector_type=creation.vector_type,
        )
    if creation is not None and collection.schema.dimension != creation.dimension:
        raise InvalidRequestError(
            Code.WRONG_DIMENSION,
            f"collection {name!r} exists with dimension {collection.schema.dimension}, not "
            f"{creation.dimension}",
        )
    return collection


def _writer(collection: dvecdb.Collection, manner: Manner, shown: str) -> Callable[[Rows], Commit]:
    call = collection.insert if manner.mode is Mode.INSERT else collection.upsert

    def write(rows: Rows) -> Commit:
        last = rows.first + len(rows.vectors)
        reason = manner.reason or f"{shown[:900]} rows {rows.first + 1} .. {last}"
        return call(
            ids=rows.ids, vectors=rows.vectors, metadata=rows.metadata, actor=manner.actor,
            reason=reason,
        )  # fmt: skip

    return write


def _insert(
    reader: Reader,
    write: Callable[[Rows], Commit],
    progress: Progress,
    shown: str,
    *,
    quiet: bool,
) -> None:
    with progress_bar(quiet=quiet) as advance:
        for rows in reader.batches():
            try:
                commit = write(rows)
            except DvecdbError as error:
                _stop(with_place(error, rows, shown), shown, progress)
            progress.add(commit, len(rows.vectors))
            advance(reader.done, reader.total)


# --- what stopped it -------------------------------------------------------------------------


def located(error: RowError, shown: str) -> InvalidRequestError:
    """Return the error of a row of the file `shown`, with its place."""
    where = f"{shown} {error.where}".rstrip()
    return InvalidRequestError(error.code, f"{where}: {error.message}", where=error.where)


def with_place(error: DvecdbError, rows: Rows, shown: str) -> DvecdbError:
    """Return the error of a batch with its items named as rows of the file."""
    item = error.details.get("item")
    if isinstance(item, int):
        where = rows.where(item)
        message = _ITEM.sub(lambda match: rows.where(int(match[1])), error.message)
        message = message if where in message else f"{where}: {message}"
        return _copy(error, f"{shown} {message}", where=where)
    last = len(rows.vectors) - 1
    where = f"{rows.where(0)} .. {rows.where(last)}" if last else rows.where(0)
    return _copy(error, f"{shown} {where}: {error.message}", where=where)


def _copy(error: DvecdbError, message: str, **details: object) -> DvecdbError:
    copy = type(error)(error.code, message, **{**error.details, **details})
    copy.__cause__ = error
    return copy


def _stop(error: DvecdbError, shown: str, progress: Progress) -> NoReturn:
    raise _copy(
        error,
        f"{error.message.rstrip('.')}. "
        f"{progress.how_to_go_on(is_certain=not isinstance(error, _UNCERTAIN))}",
        file=shown,
        rows_written=progress.rows,
        skip_rows=progress.skipped + progress.rows,
    )


def _report(name: str, shown: str, progress: Progress, seconds: float, *, as_json: bool) -> None:
    if as_json:
        summary: dict[str, Any] = {
            "collection": name,
            "file": shown,
            "rows": progress.rows,
            "skipped": progress.skipped,
            "batches": progress.batches,
            "first_lsn": progress.first_lsn,
            "last_lsn": progress.last_lsn,
            "seconds": round(seconds, 3),
        }
        print_json(summary)
        return
    rate = f", {progress.rows / seconds:,.0f} rows/s" if seconds >= 0.1 else ""
    lsns = f", LSN {progress.first_lsn} .. {progress.last_lsn}" if progress.batches else ""
    say(
        visible(
            f"inserted {progress.rows} rows of {shown} into {name} in {progress.batches} batches"
            f"{lsns}, {seconds:.1f} s{rate}"
        )
    )
