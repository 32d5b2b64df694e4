"""The commands that bring back, undo and protect. What they do is in `recovery`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dvecdb.cli.app import RECOVERY, app
from dvecdb.cli.on_target import on_target
from dvecdb.cli.options import (
    Actor,
    AllowDamage,
    AsOf,
    Collection,
    Condition,
    DryRun,
    IdOptions,
    NewName,
    Reason,
    Tag,
    Verify,
    Yes,
)

if TYPE_CHECKING:
    from dvecdb.cli.target import Target

# ruff: noqa: PLC0415  # commands import what they need when they run

tag = typer.Typer(
    name="tag", help="Name a state of a collection, and keep it readable.",
    rich_markup_mode=None, no_args_is_help=True,
)  # fmt: skip
app.add_typer(tag, rich_help_panel=RECOVERY)


@on_target(group=RECOVERY)
def restore(
    target: Target,
    entry: Annotated[
        str,
        typer.Argument(
            metavar="ENTRY",
            help="A name of 'trash list' or 'backup list', or its path.",
            show_default=False,
        ),
    ],
    *,
    new_name: NewName = None,
    verify: Verify = "quick",
    allow_damage: AllowDamage = False,
    actor: Actor = None,
    reason: Reason = None,
    as_json: bool,
) -> int:
    """Bring back a collection from the trash or a backup. Never over one that exists."""
    from dvecdb.cli.recovery import restore_entry

    return restore_entry(
        target, entry, new_name, verify=verify, allow_damage=allow_damage, actor=actor,
        reason=reason, as_json=as_json,
    )  # fmt: skip


@on_target("hard-delete", group=RECOVERY)
def hard_delete(
    target: Target,
    collection: Collection,
    *,
    include_backups: Annotated[
        bool, typer.Option("--include-backups", help="Its backups go too.")
    ] = False,
    backup: Annotated[bool, typer.Option("--backup", help="Make a backup first.")] = False,
    yes: Yes = False,
    actor: Actor = None,
    reason: Reason = None,
    as_json: bool,
) -> int:
    """Delete a collection for good and free its space. Asks on a terminal, else needs --yes."""
    from dvecdb.cli.recovery import hard_delete_collection

    return hard_delete_collection(
        target, collection, include_backups=include_backups, backup=backup, yes=yes, actor=actor,
        reason=reason, as_json=as_json,
    )  # fmt: skip


@on_target(group=RECOVERY)
def protect(
    target: Target,
    collection: Collection,
    *,
    lift: Annotated[bool, typer.Option("--lift", help="Allow deletion again.")] = False,
    actor: Actor = None,
    reason: Reason = None,
    as_json: bool,
) -> int:
    """Refuse to delete a collection until that is lifted."""
    from dvecdb.cli.recovery import protect_collection

    return protect_collection(
        target, collection, lift=lift, actor=actor, reason=reason, as_json=as_json
    )


@on_target(group=RECOVERY)
def undo(
    target: Target,
    collection: Collection,
    *,
    to_lsn: Annotated[
        int | None, typer.Option(min=0, metavar="LSN", help="To the state after this commit.")
    ] = None,
    to_time: Annotated[
        str | None, typer.Option(metavar="TIME", help="To the state then, like 2026-11-24T12:00Z.")
    ] = None,
    before: Annotated[
        int | None, typer.Option(min=1, metavar="LSN", help="To the state before this commit.")
    ] = None,
    ids: IdOptions = None,
    where: Condition = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    actor: Actor = None,
    reason: Reason = None,
    as_json: bool,
) -> int:
    """Bring rows back to an earlier state, as a new commit. Makes a backup before.

    All rows, or those of --id, or those that match --where. 'history' shows the commits. Asks on a
    terminal and says what would change, else needs --yes.
    """
    from dvecdb.cli.app import UsageError
    from dvecdb.cli.recovery import undo_commits
    from dvecdb.cli.values import parse_conditions, parse_time

    if sum(item is not None for item in (to_lsn, to_time, before)) != 1:
        raise UsageError("give --to-lsn, --to-time or --before, one of the three")
    moment = parse_time(to_time, "--to-time") if to_time is not None else None
    return undo_commits(
        target, collection, to_lsn=to_lsn, to_time=moment, before=before, ids=ids,
        where=parse_conditions(where), dry_run=dry_run, yes=yes, actor=actor, reason=reason,
        as_json=as_json,
    )  # fmt: skip


@on_target(group=RECOVERY)
def clone(
    target: Target,
    collection: Collection,
    new_name: Annotated[
        str, typer.Argument(metavar="NEW_NAME", help="Of the new one.", show_default=False)
    ],
    *,
    as_of: AsOf = None,
    actor: Actor = None,
    reason: Reason = None,
    as_json: bool,
) -> int:
    """Make a collection of another one's state, now or earlier. They share disk blocks."""
    from dvecdb.cli.recovery import clone_collection
    from dvecdb.cli.values import parse_as_of

    return clone_collection(
        target, collection, new_name, as_of=parse_as_of(as_of), actor=actor, reason=reason,
        as_json=as_json,
    )  # fmt: skip


@on_target(group=RECOVERY)
def configure(
    target: Target,
    collection: Collection,
    *,
    trash_hours: Annotated[
        str | None,
        typer.Option(metavar="N|default", help="It stays in the trash so long when deleted."),
    ] = None,
    history_hours: Annotated[
        str | None,
        typer.Option(metavar="N|default", help="Replaced and deleted rows stay readable so long."),
    ] = None,
    as_json: bool,
) -> int:
    """Set how long what is deleted of one collection is kept; without options, show it."""
    from dvecdb.cli.recovery import configure_collection
    from dvecdb.cli.values import parse_hours

    given = {"trash_hours": trash_hours, "history_hours": history_hours}
    changes = {name: parse_hours(text, name) for name, text in given.items() if text is not None}
    return configure_collection(target, collection, changes, as_json=as_json)


@on_target("add", parent=tag)
def add_tag(
    target: Target,
    collection: Collection,
    name: Tag,
    *,
    lsn: Annotated[
        int | None, typer.Option(min=0, metavar="LSN", help="Which state. Default: the newest.")
    ] = None,
    as_json: bool,
) -> int:
    """Name a state, and keep it readable until the tag is removed."""
    from dvecdb.cli.recovery import add_tag as run

    return run(target, collection, name, lsn, as_json=as_json)


@on_target("list", parent=tag)
def list_tags(target: Target, collection: Collection, *, as_json: bool) -> int:
    """List the tags of a collection."""
    from dvecdb.cli.recovery import list_tags as run

    return run(target, collection, as_json=as_json)


@on_target("rm", parent=tag)
def remove_tag(target: Target, collection: Collection, name: Tag, *, as_json: bool) -> int:
    """Let go of a tag; its state then lasts as long as the history window."""
    from dvecdb.cli.recovery import remove_tag as run

    return run(target, collection, name, as_json=as_json)
