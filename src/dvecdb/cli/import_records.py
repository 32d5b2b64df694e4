"""`dvecdb import` of a file of records: a new collection, there whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from dvecdb.cli.importing import into_target, report_import
from dvecdb.cli.insert import located, with_place
from dvecdb.cli.reading.rows import RowError
from dvecdb.cli.reading.source import find_format, open_source
from dvecdb.cli.staging import refuse_taken, staged
from dvecdb.errors import Code, DvecdbError, InvalidRequestError
from dvecdb.records import Schema, parse_metric, parse_vector_type
from dvecdb.reports import Imported, ImportReport

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import dvecdb
    from dvecdb.cli.importing import Aim
    from dvecdb.cli.insert import Source
    from dvecdb.cli.reading.rows import Reader, Rows
    from dvecdb.cli.target import Target
    from dvecdb.records import Metric, VectorType
    from dvecdb.rescue.salvage import Progress


@dataclass(frozen=True, slots=True)
class Kind:
    """What the vectors are taken for."""

    metric: Metric
    vector_type: VectorType

    @classmethod
    def parse(cls, metric: str | None, vector_type: str) -> Kind:
        """Return the kind that options name. Raises `InvalidRequestError`, `invalid-argument`."""
        return cls(parse_metric(metric or "cosine"), parse_vector_type(vector_type))


def import_records(
    target: Target, source: Source, kind: Kind, aim: Aim, *, report: Path | None, as_json: bool
) -> int:
    """Make a collection of a file of records; return the exit code.

    Raises:
        InvalidRequestError: whichever row is wrong, or there is none to tell the dimension.
        DvecdbError: as `staging` raises; OSError, UsageError: the file cannot be read.
    """

    def run(progress: Progress) -> Imported:
        def fill(database: dvecdb.Database) -> Imported:
            return _fill(database, source, kind, aim, progress)

        return into_target(target, fill, fill)

    return report_import(run, source.path, report, as_json=as_json)


def _fill(
    database: dvecdb.Database, source: Source, kind: Kind, aim: Aim, progress: Progress
) -> Imported:
    refuse_taken(database, aim.name, replace=aim.replace)
    found, shown = find_format(source.path, source.kind), _shown(source)
    try:
        with open_source(source.path, found, source.layout, source.ids) as reader:
            batches = reader.batches()
            first = next(batches, None)
            schema = Schema(_dimension(first, source, shown), kind.metric, kind.vector_type)
            every = chain([first] if first is not None else [], batches)
            with staged(database, aim.name, schema, aim.note(source.path)) as staging:
                rows = _insert(staging.collection, every, reader, shown, progress)
                count = staging.collection.count()
                replaced, notes = staging.finish(replace=aim.replace), staging.notes
    except RowError as error:
        raise located(error, shown) from None
    report = ImportReport(
        source=str(source.path), kind=str(found), dimension=schema.dimension,
        metric=str(schema.metric), records_found=rows, imported=count, exact=count,
        superseded=rows - count, notes=notes,
    )  # fmt: skip
    return Imported(aim.name, report, replaced)


def _shown(source: Source) -> str:
    return source.path.name if str(source.path) != "-" else "stdin"


def _dimension(first: Rows | None, source: Source, shown: str) -> int:
    if first is not None:
        return int(first.vectors.shape[1])
    if not source.layout.dimension:
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT,
            f"{shown} has no rows, so the dimension cannot be told; --dimension N makes an empty "
            "collection",
        )
    return source.layout.dimension


def _insert(
    collection: dvecdb.Collection,
    batches: Iterable[Rows] | Iterator[Rows],
    reader: Reader,
    shown: str,
    progress: Progress,
) -> int:
    """Write the batches; return the number of rows."""
    count = 0
    for rows in batches:
        last = rows.first + len(rows.vectors)
        try:
            collection.upsert(
                ids=rows.ids, vectors=rows.vectors, metadata=rows.metadata,
                reason=f"{shown[:900]} rows {rows.first + 1} .. {last}",
            )  # fmt: skip
        except DvecdbError as error:
            raise with_place(error, rows, shown) from error
        count += len(rows.vectors)
        if reader.total is not None:
            progress(reader.done, reader.total)
    return count
