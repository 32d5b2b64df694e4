"""The commands about whole collections. What they do is in `show`."""

from __future__ import annotations

from typing import Annotated

import typer

from dvecdb.cli.app import COLLECTIONS, app
from dvecdb.cli.options import (
    Actor,
    ApiKey,
    Collection,
    DataDir,
    Json,
    Metric,
    Reason,
    Url,
    VectorType,
    Yes,
)

# ruff: noqa: PLC0415  # commands import what they need when they run


@app.command(rich_help_panel=COLLECTIONS)
def collections(
    url: Url = None, api_key: ApiKey = None, data_dir: DataDir = None, as_json: Json = False
) -> None:
    """List the collections. Exit code 1 if one had to be set aside."""
    from dvecdb.cli.show import list_collections
    from dvecdb.cli.target import find_target

    raise typer.Exit(list_collections(find_target(url, api_key, data_dir), as_json=as_json))


@app.command(rich_help_panel=COLLECTIONS)
def create(
    collection: Collection,
    *,
    dimension: Annotated[
        int, typer.Option("--dimension", "-d", help="Numbers in a vector.", show_default=False)
    ],
    metric: Metric = "cosine",
    vector_type: VectorType = "float32",
    url: Url = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make a collection, and the data directory if there is none."""
    from dvecdb.cli.show import create_collection
    from dvecdb.cli.target import find_target

    target = find_target(url, api_key, data_dir)
    raise typer.Exit(
        create_collection(target, collection, dimension, metric, vector_type, as_json=as_json)
    )


@app.command(rich_help_panel=COLLECTIONS)
def info(
    collection: Collection,
    *,
    url: Url = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show what a collection is and what was done to it last."""
    from dvecdb.cli.show import show_collection
    from dvecdb.cli.target import find_target

    target = find_target(url, api_key, data_dir)
    raise typer.Exit(show_collection(target, collection, as_json=as_json))


@app.command(rich_help_panel=COLLECTIONS)
def stats(
    collection: Annotated[
        str | None, typer.Argument(metavar="[COLLECTION]", help="Default: all together.")
    ] = None,
    *,
    url: Url = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show the figures of one collection or of all."""
    from dvecdb.cli.show import show_stats
    from dvecdb.cli.target import find_target

    target = find_target(url, api_key, data_dir)
    raise typer.Exit(show_stats(target, collection, as_json=as_json))


@app.command(rich_help_panel=COLLECTIONS)
def history(
    collection: Collection,
    *,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=10_000, help="Commits at most.")
    ] = 20,
    before: Annotated[
        int | None, typer.Option(min=0, metavar="LSN", help="Only commits before this LSN.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the commits of a collection, newest first: when, what, how much, who, why."""
    from dvecdb.cli.show import show_history
    from dvecdb.cli.target import find_target

    target = find_target(url, api_key, data_dir)
    raise typer.Exit(show_history(target, collection, limit=limit, before=before, as_json=as_json))


@app.command(rich_help_panel=COLLECTIONS)
def delete(
    collection: Collection,
    *,
    yes: Yes = False,
    actor: Actor = None,
    reason: Reason = None,
    url: Url = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Delete a collection: it goes to the trash, whole. Asks on a terminal, else needs --yes."""
    from dvecdb.cli.show import delete_collection
    from dvecdb.cli.target import find_target

    target = find_target(url, api_key, data_dir)
    raise typer.Exit(
        delete_collection(target, collection, yes=yes, actor=actor, reason=reason, as_json=as_json)
    )
