"""The command `import`. What it does is in `importing`, and in `import_records` for files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dvecdb.cli.app import RECOVERY, UsageError
from dvecdb.cli.on_target import on_target
from dvecdb.cli.options import (
    Actor,
    DryRun,
    FileFormat,
    IdsFile,
    OtherFields,
    Others,
    Reason,
    VectorField,
    VectorType,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dvecdb.cli.target import Target

# ruff: noqa: PLC0415  # commands import what they need when they run

_BATCH_ROWS: Final = 10_000
_BATCH_BYTES: Final = 16 * 1024 * 1024

ImportSource = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="A collection directory, a vectors.bin, or a data directory (--collection), of "
        "d-vecDB or ours; or a file of records: jsonl, csv, npy, npz, parquet.",
        show_default=False,
    ),
]
Name = Annotated[
    str, typer.Option("--as", metavar="NAME", help="Name of the new one.", show_default=False)
]
WhichCollection = Annotated[
    str | None, typer.Option("--collection", metavar="C", help="Which one of a data directory.")
]
Dimension = Annotated[
    int | None,
    typer.Option("--dimension", "-d", min=1, help="Refused if the bytes say otherwise."),
]
GivenMetric = Annotated[
    str | None,
    typer.Option("--metric", help="Of the collection. Default: what the files say, or cosine."),
]
NoWal = Annotated[bool, typer.Option("--no-wal", help="Leave the log beside it alone.")]
KeepDeleted = Annotated[
    bool, typer.Option("--keep-deleted", help="Rows that the log deletes come too.")
]
IncludeDropped = Annotated[
    bool, typer.Option("--include-dropped", help="So does what it dropped with its collection.")
]
KeepRaw = Annotated[
    bool, typer.Option("--keep-raw", help="Keep doubtful metadata as stored, under _dvecdb_raw.")
]
Replace = Annotated[
    bool, typer.Option("--replace", help="What has the name goes to the trash, and is backed up.")
]
Report = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="Write the whole report as JSON.")
]
IdField = Annotated[str, typer.Option("--id-field", help="Name of the id.")]
MetadataField = Annotated[str, typer.Option("--metadata-field", help="Name of the metadata.")]


@on_target("import", group=RECOVERY)
def import_source(
    target: Target,
    *,
    source: ImportSource,
    name: Name,
    collection: WhichCollection = None,
    dimension: Dimension = None,
    metric: GivenMetric = None,
    no_wal: NoWal = False,
    keep_deleted: KeepDeleted = False,
    include_dropped: IncludeDropped = False,
    keep_raw: KeepRaw = False,
    replace: Replace = False,
    dry_run: DryRun = False,
    report: Report = None,
    vector_type: VectorType = "float32",
    kind: FileFormat = None,
    ids: IdsFile = None,
    id_field: IdField = "id",
    vector_field: VectorField = "vector",
    metadata_field: MetadataField = "metadata",
    others: OtherFields = Others.REFUSE,
    actor: Actor = None,
    reason: Reason = None,
    as_json: bool,
) -> int:
    """Make a collection of what d-vecDB left behind, damaged or not, or of a file of records.

    The source is only read. The collection is there whole or not at all. The report says what
    could not be brought back; exit code 3 if that is everything.
    """
    from dvecdb.cli import import_records, importing
    from dvecdb.cli.insert import Source
    from dvecdb.cli.reading.rows import Layout
    from dvecdb.cli.reading.source import holds_records
    from dvecdb.rescue.salvage import Choice

    aim = importing.Aim(name, replace, actor, reason)
    rescue = {
        "--collection": collection, "--no-wal": no_wal, "--keep-deleted": keep_deleted,
        "--include-dropped": include_dropped, "--keep-raw": keep_raw, "--dry-run": dry_run,
    }  # fmt: skip
    if holds_records(source, kind):
        _refuse(rescue, "what d-vecDB left behind, not a file of records")
        layout = Layout(
            dimension or 0, _BATCH_ROWS, _BATCH_BYTES, 0, id_field, vector_field, metadata_field,
            others,
        )  # fmt: skip
        wanted = import_records.Kind.parse(metric, vector_type)
        return import_records.import_records(
            target, Source(source, kind, layout, ids), wanted, aim, report=report, as_json=as_json
        )
    _refuse({"--ids": ids}, "a .npy file")
    choice = Choice(
        collection, dimension, metric, not no_wal, keep_deleted, include_dropped, keep_raw
    )
    if dry_run:
        return importing.examine_source(source, choice, report=report, as_json=as_json)
    return importing.import_source(target, source, choice, aim, report=report, as_json=as_json)


def _refuse(options: Mapping[str, object], what: str) -> None:
    """Refuse options that were given and go with something else."""
    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(f"{given[0]} goes with {what}")
