"""The commands that look for damage, look into files, and show what this is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dvecdb.cli.app import CARE, app
from dvecdb.cli.exit_codes import DAMAGE, OK
from dvecdb.cli.on_target import on_target
from dvecdb.cli.options import Json

if TYPE_CHECKING:
    from dvecdb.cli.target import Target

# ruff: noqa: PLC0415  # commands import what they need when they run


@on_target(group=CARE)
def verify(
    target: Target,
    *,
    collection: Annotated[str | None, typer.Option(help="Only this collection.")] = None,
    as_json: bool,
) -> int:
    """Read and check every stored byte. A directory is not written to, even beside a writer."""
    from dvecdb.cli.inspect import verify_collections

    return verify_collections(target, collection, as_json=as_json)


@on_target(group=CARE)
def findings(
    target: Target,
    *,
    as_json: bool,
) -> int:
    """List what is damaged or doubtful. Exit code 1 if there is anything."""
    from dvecdb.cli.inspect import list_findings

    return list_findings(target, as_json=as_json)


@app.command(rich_help_panel=CARE)
def dump(
    file: Annotated[Path, typer.Argument(help="A file of a data directory.", show_default=False)],
    as_json: Json = False,
    vectors: Annotated[
        int, typer.Option(min=0, help="Show the first N rows of each batch with their vectors.")
    ] = 0,
) -> None:
    """Print what is in a file: log, segment, manifest, lookup or LOCK. Exit code 1 if damaged."""
    from dvecdb.cli.dump import dump_file

    raise typer.Exit(dump_file(file, as_json=as_json, vectors=vectors))


@app.command(rich_help_panel=CARE)
def demo(
    keep: Annotated[
        Path | None,
        typer.Option(help="Work in this directory, which must be empty or new, and keep it."),
    ] = None,
    small: Annotated[bool, typer.Option("--small", help="A small database, in a second.")] = False,
    as_json: Json = False,
) -> None:
    """Rescue a broken d-vecDB database of 517 MiB, delete it, restore it, spoil it, undo that.

    All in a temporary directory, without network, in less than a minute; every bit is compared.
    """
    from dvecdb.cli.demo import run_demo
    from dvecdb.cli.demo_legacy import FULL, SMALL

    is_sound = run_demo(keep, SMALL if small else FULL, as_json=as_json)
    raise typer.Exit(OK if is_sound else DAMAGE)


@app.command(rich_help_panel=CARE)
def version(as_json: Json = False) -> None:
    """Print the version."""
    from dvecdb import __version__
    from dvecdb.cli.output import print_json

    if as_json:
        print_json({"version": __version__})
    else:
        typer.echo(f"dvecdb {__version__}")
