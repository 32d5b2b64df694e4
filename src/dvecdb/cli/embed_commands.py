"""The commands of `embed`. What they do is in `embed_run` and `embed_care`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dvecdb.cli.app import UsageError
from dvecdb.cli.embed_job import embed, on_job
from dvecdb.cli.on_target import on_target
from dvecdb.cli.options import Collection, DryRun, Yes

if TYPE_CHECKING:
    from dvecdb.cli.embed_job import Given
    from dvecdb.cli.target import Target

# ruff: noqa: PLC0415  # commands import what they need when they run

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no log lines.")]
Full = Annotated[
    bool, typer.Option("--full", help="Every row from the first, whatever --changed-since says.")
]
DeleteMissing = Annotated[
    bool, typer.Option("--delete-missing", help="Delete the records whose row is gone.")
]
MaxShare = Annotated[
    float,
    typer.Option(
        "--max-share", min=0, max=1, metavar="X", help="Of a source's records, at most so many go."
    ),
]
Letters = Annotated[
    int, typer.Option("--letters", "-n", min=0, max=1_000, help="Show the first N dead letters.")
]


@on_job("run")
def run(
    target: Target,
    given: Given,
    *,
    full: Full = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    as_json: bool,
) -> int:
    """Embed what is new or has changed; go on where a run was stopped or killed.

    Exit codes: 0 every row has its vector; 1 some are dead letters; 9 the budget is used up; 130
    stopped. SIGTERM and Ctrl-C stop it once everything under way is committed, a second Ctrl-C at
    once; SIGUSR1 pauses it, SIGUSR2 lets it go on.
    """
    from dvecdb.cli.embed_run import estimate, run_job

    if dry_run:
        return estimate(target, given, as_json=as_json)
    return run_job(target, given, full=full, quiet=quiet, as_json=as_json)


@on_job("retry-failed")
def retry_failed(target: Target, given: Given, *, quiet: Quiet = False, as_json: bool) -> int:
    """Try the dead letters once more, and nothing else. Exit code 1 if some are left."""
    from dvecdb.cli.embed_run import run_job

    return run_job(target, given, only_failed=True, quiet=quiet, as_json=as_json)


@on_job("verify")
def verify(
    target: Target,
    given: Given,
    *,
    delete_missing: DeleteMissing = False,
    max_share: MaxShare = 0.1,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: bool,
) -> int:
    """Compare every row of the sources with its record, and read its vector.

    Exit code 1 if anything is missing, stale, damaged, a dead letter, or an orphan: a record whose
    row is gone. --delete-missing deletes orphans, if they are not more than --max-share of a
    source's records; asks on a terminal, else needs --yes. Deleted ones can be brought back for a
    while, with 'undo'.
    """
    from dvecdb.cli.embed_care import verify_job

    if dry_run and not delete_missing:
        raise UsageError("--dry-run goes with --delete-missing; without it nothing is changed")
    return verify_job(
        target, given, delete=delete_missing, share_max=max_share, dry_run=dry_run, yes=yes,
        as_json=as_json,
    )  # fmt: skip


@on_target("status", parent=embed)
def status(target: Target, collection: Collection, *, letters: Letters = 10, as_json: bool) -> int:
    """Show how far the job of a collection is, who runs it, and its dead letters."""
    from dvecdb.cli.embed_care import show_status

    return show_status(target, collection, letters, as_json=as_json)


@on_target("pause", parent=embed)
def pause(target: Target, collection: Collection, *, as_json: bool) -> int:
    """Let the job of a collection send nothing more until 'resume'. What is under way is kept."""
    from dvecdb.cli.embed_care import wish

    return wish(target, collection, "pause", as_json=as_json)


@on_target("resume", parent=embed)
def resume(target: Target, collection: Collection, *, as_json: bool) -> int:
    """Let the job of a collection go on after 'pause'."""
    from dvecdb.cli.embed_care import wish

    return wish(target, collection, "resume", as_json=as_json)


@on_target("stop", parent=embed)
def stop(target: Target, collection: Collection, *, as_json: bool) -> int:
    """Stop the job of a collection in order. Running it again goes on there."""
    from dvecdb.cli.embed_care import wish

    return wish(target, collection, "stop", as_json=as_json)
