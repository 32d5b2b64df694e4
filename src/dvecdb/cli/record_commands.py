"""The commands about records. What they do is in `insert`, `records` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dvecdb.cli.app import RECORDS, UsageError, app
from dvecdb.cli.options import (
    Actor,
    ApiKey,
    AsOf,
    BatchMib,
    BatchRows,
    Collection,
    Condition,
    DataDir,
    FileFormat,
    Ids,
    IdsFile,
    Json,
    Metric,
    Mode,
    OtherFields,
    Others,
    Reason,
    SkipRows,
    Url,
    VectorField,
    VectorType,
    Yes,
)

# ruff: noqa: PLC0415  # commands import what they need when they run


@app.command(rich_help_panel=RECORDS)
def insert(
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
    url: Url = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Add the records of a file to a collection: jsonl, csv, npy, npz, parquet.

    Every batch is durable before the next begins, and whole or not there. When something stops it,
    the error says how many rows are in and how to go on.
    """
    from dvecdb.cli.insert import Creation, Manner, Source, insert_file
    from dvecdb.cli.reading.rows import Layout
    from dvecdb.cli.target import find_target

    if create and dimension is None:
        raise UsageError("--create needs --dimension")
    if dimension is not None and not create:
        raise UsageError("--dimension goes with --create; a collection that exists has its own")
    target = find_target(url, api_key, data_dir)
    layout = Layout(
        0, batch_rows, batch_mib * 1024 * 1024, skip_rows, id_field, vector_field, metadata_field,
        others,
    )  # fmt: skip
    creation = Creation(dimension, metric, vector_type) if dimension is not None else None
    manner, source = Manner(mode, actor, reason), Source(file, kind, layout, ids)
    raise typer.Exit(insert_file(target, collection, source, manner, creation, as_json=as_json))


@app.command(rich_help_panel=RECORDS)
def get(
    collection: Collection,
    *,
    ids: Ids,
    vectors: Annotated[bool, typer.Option("--vectors/--no-vectors", help="With vectors.")] = True,
    as_of: AsOf = None,
    url: Url = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show records by id. Exit code 3 if any of them does not exist."""
    from dvecdb.cli.records import get_records
    from dvecdb.cli.target import find_target
    from dvecdb.cli.values import parse_as_of

    moment = parse_as_of(as_of)
    target = find_target(url, api_key, data_dir)
    raise typer.Exit(
        get_records(
            target, collection, ids or [], as_of=moment, with_vectors=vectors, as_json=as_json
        )
    )


@app.command(rich_help_panel=RECORDS)
def search(
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
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=10_000, help="Records at most.")
    ] = 10,
    where: Condition = None,
    as_of: AsOf = None,
    on_damage: Annotated[
        Literal["fail", "exclude"],
        typer.Option(help="What to do about records whose bytes are damaged."),
    ] = "fail",
    url: Url = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Find the nearest records, exactly, nearest first."""
    from dvecdb.cli.records import search_records
    from dvecdb.cli.target import find_target
    from dvecdb.cli.values import parse_as_of, parse_conditions, parse_vector

    if (vector is None) == (like is None):
        raise UsageError("give a vector or --like ID, one of the two")
    moment, conditions = parse_as_of(as_of), parse_conditions(where)
    target = find_target(url, api_key, data_dir)
    query = parse_vector(vector) if vector is not None else None
    raise typer.Exit(
        search_records(
            target, collection, query, like=like, limit=limit, where=conditions, as_of=moment,
            on_damage=on_damage, as_json=as_json,
        )
    )  # fmt: skip


@app.command("delete-vectors", rich_help_panel=RECORDS)
def delete_vectors(
    collection: Collection,
    *,
    ids: Ids = None,
    file: Annotated[
        Path | None,
        typer.Option("--ids", metavar="FILE|-", help="Take the ids from a file, one a line."),
    ] = None,
    yes: Yes = False,
    actor: Actor = None,
    reason: Reason = None,
    url: Url = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Delete records by id, all or none. Asks on a terminal, else needs --yes."""
    from dvecdb.cli.records import delete_records
    from dvecdb.cli.target import find_target
    from dvecdb.cli.values import read_ids

    if bool(ids) == (file is not None):
        raise UsageError("give ids, or a file with --ids, one of the two")
    target = find_target(url, api_key, data_dir)
    named = list(ids) if ids else read_ids(file or Path("-"))
    raise typer.Exit(
        delete_records(
            target, collection, named, yes=yes, actor=actor, reason=reason, as_json=as_json
        )
    )


@app.command(rich_help_panel=RECORDS)
def export(
    collection: Collection,
    *,
    file: Annotated[
        Path, typer.Argument(metavar="FILE|-", help="The file; - is stdout.", show_default=False)
    ],
    kind: FileFormat = None,
    as_of: AsOf = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write one consistent state of a collection to a file: jsonl, csv, npy, npz, parquet.

    The file is there whole or not at all, and insert reads it back to the bit. Beside FILE.npy,
    ids and metadata go into FILE.ids.jsonl.
    """
    from dvecdb.cli.export import export_collection
    from dvecdb.cli.target import find_target
    from dvecdb.cli.values import parse_as_of

    moment = parse_as_of(as_of)
    target = find_target(url, api_key, data_dir)
    raise typer.Exit(
        export_collection(
            target, collection, file, kind, as_of=moment, overwrite=overwrite, as_json=as_json
        )
    )


@app.command(rich_help_panel=RECORDS)
def count(
    collection: Collection,
    *,
    where: Condition = None,
    as_of: AsOf = None,
    url: Url = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Count the records of a collection."""
    from dvecdb.cli.records import count_records
    from dvecdb.cli.target import find_target
    from dvecdb.cli.values import parse_as_of, parse_conditions

    moment, conditions = parse_as_of(as_of), parse_conditions(where)
    target = find_target(url, api_key, data_dir)
    raise typer.Exit(
        count_records(target, collection, where=conditions, as_of=moment, as_json=as_json)
    )
