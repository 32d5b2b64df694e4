"""The commands about what others left behind. What they do is in `rescue`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dvecdb.cli.app import RECOVERY, app
from dvecdb.cli.options import DataDir, DryRun, Json

# ruff: noqa: PLC0415  # commands import what they need when they run

rescue = typer.Typer(
    name="rescue", help="Look for collections of d-vecDB and dvecdb that can be brought back.",
    rich_markup_mode=None, no_args_is_help=True,
)  # fmt: skip
app.add_typer(rescue, rich_help_panel=RECOVERY)

ReportFile = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="Write the whole report to FILE, as JSON."),
]


@rescue.command()
def scan(
    path: Annotated[Path, typer.Argument(help="A directory or file.", show_default=False)],
    as_json: Json = False,
) -> None:
    """List all collections at any depth, what each is and how much of it is good. Reads only."""
    from dvecdb.cli.rescue import scan_path

    raise typer.Exit(scan_path(path, as_json=as_json))


@app.command(rich_help_panel=RECOVERY)
def upgrade(
    old: Annotated[
        Path, typer.Argument(help="The data directory of the old server.", show_default=False)
    ],
    data_dir: DataDir = None,
    dry_run: DryRun = False,
    timezone: Annotated[
        str | None,
        typer.Option(
            "--timezone",
            metavar="TZ",
            help="Of the times in names of .deleted and .backups, like Europe/Paris. Default: this "
            "machine's.",
        ),
    ] = None,
    report: ReportFile = None,
    as_json: Json = False,
) -> None:
    """Bring all that an old d-vecDB server left into a new data directory. OLD is only read."""
    from dvecdb.cli.rescue import upgrade_directory

    raise typer.Exit(
        upgrade_directory(
            old, data_dir, dry_run=dry_run, timezone=timezone, report=report, as_json=as_json
        )
    )
