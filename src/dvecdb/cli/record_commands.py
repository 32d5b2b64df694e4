"""The commands about records. What they do is in `insert`, `records`, `searches`, `export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dvecdb.cli.app import RECORDS, UsageError
from dvecdb.cli.on_target import on_target
from dvecdb.cli.options import (
    Actor,
    AsOf,
    BatchMib,
    BatchRows,
    Collection,
    Condition,
    Confirm,
    FileFormat,
    Ids,
    IdsFile,
    Metric,
    Mode,
    OtherFields,
    Others,
    Reason,
    SkipRows,
    VectorField,
    VectorType,
    Yes,
)

if TYPE_CHECKING:
    from dvecdb.cli.target import Target
    from dvecdb.results import SearchOptions

# ruff: noqa: PLC0415  # commands import what they need when they run


Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most.")]
Offset = Annotated[
    int, typer.Option("--offset", min=0, max=10_000, metavar="N", help="Pass over the N nearest.")
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", metavar="DISTANCE", help="None that is further away."),
]
Recall = Annotated[
    float | None,
    typer.Option(
        "--recall", metavar="SHARE", help="Of the true nearest, 0 to 1; 1 measures every record."
    ),
]
Effort = Annotated[
    int | None, typer.Option("--ef", metavar="N", help="The effort instead of it, 1 to 1000.")
]
GroupBy = Annotated[
    str | None,
    typer.Option("--group-by", metavar="FIELD", help="Groups of records that share its value."),
]
GroupSize = Annotated[
    int | None,
    typer.Option(
        "--group-size", min=1, max=10_000, metavar="N", help="Records of a group; default: 3."
    ),
]


@on_target(group=RECORDS)
def insert(
    target: Target,
    collection: Collection,
    *,
    file: Annotated[
        Path, typer.Argument(metavar="FILE|-", help="The file; - reads stdin.", show_default=False)
    ],
    kind: FileFormat = None,
    mode: Annotated[
        Mode, typer.Option(help="upsert replaces ids that exist; insert refuses them.")
    ] = Mode.UPSERT,
    ids: IdsFile = None,
    create: Annotated[
        bool, typer.Option("--create", help="Make the collection if there is none.")
    ] = False,
    dimension: Annotated[
        int | None, typer.Option("--dimension", "-d", help="Of the collection to make.")
    ] = None,
    metric: Metric = "cosine",
    vector_type: VectorType = "float32",
    skip_rows: SkipRows = 0,
    batch_rows: BatchRows = 10_000,
    batch_mib: BatchMib = 16,
    id_field: Annotated[str, typer.Option(help="Name of the id.")] = "id",
    vector_field: VectorField = "vector",
    metadata_field: Annotated[str, typer.Option(help="Name of the metadata.")] = "metadata",
    others: OtherFields = Others.REFUSE,
    actor: Actor = None,
    reason: Reason = None,
    as_json: bool,
) -> int:
    """Add the records of a file to a collection: jsonl, csv, npy, npz, parquet.

    Every batch is durable before the next begins, and whole or not there. When something stops it,
    the error says how many rows are in and how to go on.
    """
    from dvecdb.cli.insert import Creation, Manner, Source, insert_file
    from dvecdb.cli.reading.rows import Layout

    if create and dimension is None:
        raise UsageError("--create needs --dimension")
    if dimension is not None and not create:
        raise UsageError("--dimension goes with --create; a collection that exists has its own")
    layout = Layout(
        0, batch_rows, batch_mib * 1024 * 1024, skip_rows, id_field, vector_field, metadata_field,
        others,
    )  # fmt: skip
    creation = Creation(dimension, metric, vector_type) if dimension is not None else None
    manner, source = Manner(mode, actor, reason), Source(file, kind, layout, ids)
    return insert_file(target, collection, source, manner, creation, as_json=as_json)


@on_target(group=RECORDS)
def get(
    target: Target,
    collection: Collection,
    *,
    ids: Ids,
    vectors: Annotated[bool, typer.Option("--vectors/--no-vectors", help="With vectors.")] = True,
    as_of: AsOf = None,
    as_json: bool,
) -> int:
    """Show records by id. Exit code 3 if any of them does not exist."""
    from dvecdb.cli.records import get_records
    from dvecdb.cli.values import parse_as_of

    moment = parse_as_of(as_of)
    return get_records(
        target, collection, ids or [], as_of=moment, with_vectors=vectors, as_json=as_json
    )


@on_target(group=RECORDS)
def search(
    target: Target,
    collection: Collection,
    *,
    vector: Annotated[
        str | None,
        typer.Argument(
            metavar="[VECTOR]",
            help="A JSON list, a file that holds one, a .npy file, or - for stdin.",
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Instead of a vector: what is near this record."),
    ] = None,
    limit: Limit = 10,
    offset: Offset = 0,
    where: Condition = None,
    threshold: Threshold = None,
    recall: Recall = None,
    effort: Effort = None,
    as_of: AsOf = None,
    with_vectors: Annotated[bool, typer.Option("--with-vectors", help="Show vectors.")] = False,
    group_by: GroupBy = None,
    group_size: GroupSize = None,
    on_damage: Annotated[
        Literal["fail", "exclude"],
        typer.Option(help="What to do about records whose bytes are damaged."),
    ] = "fail",
    explain: Annotated[
        bool, typer.Option("--explain", help="Say how it was answered, and what took how long.")
    ] = False,
    as_json: bool,
) -> int:
    """Find the nearest records, nearest first, or with --group-by the nearest groups."""
    from dvecdb.cli.searches import Sought, search_groups, search_records
    from dvecdb.cli.values import parse_as_of, parse_conditions, parse_vector

    if (vector is None) == (like is None):
        raise UsageError("give a vector or --like ID, one of the two")
    if group_by is None and group_size is not None:
        raise UsageError("--group-size goes with --group-by")
    if group_by is not None and (explain or offset):
        raise UsageError("--explain and --offset are for searches without --group-by")
    query = parse_vector(vector) if vector is not None else None
    sought = Sought(query, like, parse_conditions(where), parse_as_of(as_of))
    options: SearchOptions = {
        "limit": limit, "offset": offset, "threshold": threshold, "recall": recall,
        "ef_search": effort, "with_vectors": with_vectors, "on_damage": on_damage,
        "explain": explain,
    }  # fmt: skip
    if group_by is None:
        return search_records(target, collection, sought, options, as_json=as_json)
    return search_groups(
        target, collection, sought, options, by=group_by, group_size=group_size or 3,
        as_json=as_json,
    )  # fmt: skip


@on_target(group=RECORDS)
def facet(
    target: Target,
    collection: Collection,
    *,
    field: Annotated[
        str, typer.Argument(metavar="FIELD", help="Its path in the metadata.", show_default=False)
    ],
    limit: Limit = 10,
    where: Condition = None,
    as_of: AsOf = None,
    as_json: bool,
) -> int:
    """Count the records by the values of a field, the commonest first."""
    from dvecdb.cli.searches import count_values
    from dvecdb.cli.values import parse_as_of, parse_conditions

    moment, conditions = parse_as_of(as_of), parse_conditions(where)
    return count_values(
        target, collection, field, limit=limit, where=conditions, as_of=moment, as_json=as_json
    )


@on_target("delete-vectors", group=RECORDS)
def delete_vectors(
    target: Target,
    collection: Collection,
    *,
    ids: Ids = None,
    file: Annotated[
        Path | None,
        typer.Option("--ids", metavar="FILE|-", help="Take the ids from a file, one a line."),
    ] = None,
    where: Condition = None,
    confirm: Confirm = False,
    yes: Yes = False,
    actor: Actor = None,
    reason: Reason = None,
    as_json: bool,
) -> int:
    """Delete records by id or by metadata, all or none. Asks on a terminal, else needs --yes.

    More than half of a large collection at once (settings guard_percent, guard_rows) also needs
    --confirm.
    """
    from dvecdb.cli.records import delete_records
    from dvecdb.cli.values import parse_conditions, read_ids

    if bool(ids) + (file is not None) + bool(where) != 1:
        raise UsageError("give ids, or a file with --ids, or --where, one of the three")
    named = list(ids) if ids else read_ids(file) if file is not None else None
    return delete_records(
        target, collection, named, parse_conditions(where), confirmed=confirm, yes=yes,
        actor=actor, reason=reason, as_json=as_json,
    )  # fmt: skip


@on_target(group=RECORDS)
def export(
    target: Target,
    collection: Collection,
    *,
    file: Annotated[
        Path, typer.Argument(metavar="FILE|-", help="The file; - is stdout.", show_default=False)
    ],
    kind: FileFormat = None,
    as_of: AsOf = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: bool,
) -> int:
    """Write one consistent state of a collection to a file: jsonl, csv, npy, npz, parquet.

    The file is there whole or not at all, and insert reads it back to the bit. Beside FILE.npy,
    ids and metadata go into FILE.ids.jsonl.
    """
    from dvecdb.cli.export import export_collection
    from dvecdb.cli.values import parse_as_of

    moment = parse_as_of(as_of)
    return export_collection(
        target, collection, file, kind, as_of=moment, overwrite=overwrite, as_json=as_json
    )


@on_target(group=RECORDS)
def count(
    target: Target,
    collection: Collection,
    *,
    where: Condition = None,
    as_of: AsOf = None,
    as_json: bool,
) -> int:
    """Count the records of a collection."""
    from dvecdb.cli.records import count_records
    from dvecdb.cli.values import parse_as_of, parse_conditions

    moment, conditions = parse_as_of(as_of), parse_conditions(where)
    return count_records(target, collection, where=conditions, as_of=moment, as_json=as_json)
