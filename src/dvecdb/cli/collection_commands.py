"""The commands about whole collections. What they do is in `show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dvecdb.cli.app import COLLECTIONS
from dvecdb.cli.on_target import on_target
from dvecdb.cli.options import (
    Actor,
    Collection,
    Metric,
    Reason,
    VectorType,
    Yes,
)

if TYPE_CHECKING:
    from dvecdb.cli.target import Target

# ruff: noqa: PLC0415  # commands import what they need when they run


@on_target(group=COLLECTIONS)
def collections(
    target: Target,
    *,
    as_json: bool,
) -> int:
    """List the collections. Exit code 1 if one had to be set aside."""
    from dvecdb.cli.show import list_collections

    return list_collections(target, as_json=as_json)


@on_target(group=COLLECTIONS)
def create(
    target: Target,
    collection: Collection,
    *,
    dimension: Annotated[
        int, typer.Option("--dimension", "-d", help="Numbers in a vector.", show_default=False)
    ],
    metric: Metric = "cosine",
    vector_type: VectorType = "float32",
    as_json: bool,
) -> int:
    """Make a collection, and the data directory if there is none."""
    from dvecdb.cli.show import create_collection

    return create_collection(target, collection, dimension, metric, vector_type, as_json=as_json)


@on_target(group=COLLECTIONS)
def info(
    target: Target,
    collection: Collection,
    *,
    as_json: bool,
) -> int:
    """Show what a collection is and what was done to it last."""
    from dvecdb.cli.show import show_collection

    return show_collection(target, collection, as_json=as_json)


@on_target(group=COLLECTIONS)
def stats(
    target: Target,
    collection: Annotated[
        str | None, typer.Argument(metavar="[COLLECTION]", help="Default: all together.")
    ] = None,
    *,
    as_json: bool,
) -> int:
    """Show the figures of one collection or of all."""
    from dvecdb.cli.show import show_stats

    return show_stats(target, collection, as_json=as_json)


@on_target(group=COLLECTIONS)
def history(
    target: Target,
    collection: Collection,
    *,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=10_000, help="Commits at most.")
    ] = 20,
    before: Annotated[
        int | None, typer.Option(min=0, metavar="LSN", help="Only commits before this LSN.")
    ] = None,
    as_json: bool,
) -> int:
    """List the commits of a collection, newest first: when, what, how much, who, why."""
    from dvecdb.cli.show import show_history

    return show_history(target, collection, limit=limit, before=before, as_json=as_json)


@on_target(group=COLLECTIONS)
def delete(
    target: Target,
    collection: Collection,
    *,
    yes: Yes = False,
    actor: Actor = None,
    reason: Reason = None,
    as_json: bool,
) -> int:
    """Delete a collection: it goes to the trash, whole. Asks on a terminal, else needs --yes."""
    from dvecdb.cli.show import delete_collection

    return delete_collection(
        target, collection, yes=yes, actor=actor, reason=reason, as_json=as_json
    )
