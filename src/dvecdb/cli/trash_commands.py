"""The commands about the trash and about backups. What they do is in `trash` and `backups`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dvecdb.cli.app import RECOVERY, app
from dvecdb.cli.on_target import on_target
from dvecdb.cli.options import Actor, Collection, DryRun, Ids, Reason, ShownRecords, Yes

if TYPE_CHECKING:
    from dvecdb.cli.target import Target

# ruff: noqa: PLC0415  # commands import what they need when they run

trash = typer.Typer(
    name="trash", help="Deleted collections: list, look inside, delete for good.",
    rich_markup_mode=None, no_args_is_help=True,
)  # fmt: skip
backup = typer.Typer(
    name="backup", help="Backups on the same machine: make, list, look inside, verify, delete.",
    rich_markup_mode=None, no_args_is_help=True,
)  # fmt: skip
app.add_typer(trash, rich_help_panel=RECOVERY)
app.add_typer(backup, rich_help_panel=RECOVERY)

Entry = Annotated[
    str, typer.Argument(metavar="ENTRY", help="A name of 'trash list'.", show_default=False)
]
Backup = Annotated[
    str, typer.Argument(metavar="BACKUP", help="A name of 'backup list'.", show_default=False)
]


@on_target("list", parent=trash)
def list_trash(target: Target, *, as_json: bool) -> int:
    """List the deleted collections, newest first, and when each goes."""
    from dvecdb.cli.trash import list_trash as run

    return run(target, as_json=as_json)


@on_target("show", parent=trash)
def show_trash(
    target: Target, entry: Entry, *, ids: Ids = None, records: ShownRecords = 0, as_json: bool
) -> int:
    """Show a deleted collection: what is known of it, and records in it."""
    from dvecdb.cli.trash import show_entry

    return show_entry(target, entry, ids or [], records, as_json=as_json)


@on_target("purge", parent=trash)
def purge_trash(
    target: Target,
    *,
    entries: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ENTRY]...", help="Only these, however old.", show_default=False),
    ] = None,
    older_than: Annotated[
        float, typer.Option(min=0, metavar="HOURS", help="Only what is older; 0: all.")
    ] = 24.0,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: bool,
) -> int:
    """Delete what is in the trash for good. Asks on a terminal, else needs --yes."""
    from dvecdb.cli.trash import purge_entries

    return purge_entries(target, entries, older_than, dry_run=dry_run, yes=yes, as_json=as_json)


@on_target("trust-clock", parent=trash)
def trust_clock(target: Target, *, as_json: bool) -> int:
    """Let a server take the clock for right after it has jumped, so that things expire again."""
    from dvecdb.cli.trash import trust_clock as run

    return run(target, as_json=as_json)


@on_target("create", parent=backup)
def create_backup(
    target: Target,
    collection: Collection,
    *,
    independent: Annotated[
        bool, typer.Option("--independent", help="Copy the data: share no disk block with it.")
    ] = False,
    actor: Actor = None,
    reason: Reason = None,
    as_json: bool,
) -> int:
    """Make a backup of the state now, while others write."""
    from dvecdb.cli.backups import create_backup as run

    return run(
        target, collection, independent=independent, actor=actor, reason=reason, as_json=as_json
    )


@on_target("list", parent=backup)
def list_backups(
    target: Target,
    *,
    collection: Annotated[
        str | None,
        typer.Argument(metavar="[COLLECTION]", help="Only of this one.", show_default=False),
    ] = None,
    as_json: bool,
) -> int:
    """List the backups, newest first. Exit code 1 if one of them is known to be damaged."""
    from dvecdb.cli.backups import list_backups as run

    return run(target, collection, as_json=as_json)


@on_target("show", parent=backup)
def show_backup(
    target: Target, name: Backup, *, ids: Ids = None, records: ShownRecords = 0, as_json: bool
) -> int:
    """Show a backup: what is known of it, and records in it."""
    from dvecdb.cli.backups import show_backup as run

    return run(target, name, ids or [], records, as_json=as_json)


@on_target("verify", parent=backup)
def verify_backup(target: Target, name: Backup, *, as_json: bool) -> int:
    """Read every byte of a backup and keep the result. Exit code 1 if it is damaged."""
    from dvecdb.cli.backups import verify_backup as run

    return run(target, name, as_json=as_json)


@on_target("rm", parent=backup)
def remove_backup(target: Target, name: Backup, *, yes: Yes = False, as_json: bool) -> int:
    """Delete a backup for good. Asks on a terminal, else needs --yes."""
    from dvecdb.cli.backups import remove_backup as run

    return run(target, name, yes=yes, as_json=as_json)
