"""`dvecdb embed status`, `verify`, `pause`, `resume` and `stop`."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, Any, Final

from dvecdb.cli.embed_signals import tell
from dvecdb.cli.embed_watch import count_text
from dvecdb.cli.exit_codes import DAMAGE, OK
from dvecdb.cli.output import (
    confirm,
    print_facts,
    print_json,
    print_table,
    say,
    visible,
    working,
)
from dvecdb.embedding import care
from dvecdb.errors import AuthError, Code, ConflictError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dvecdb.cli.embed_job import Given
    from dvecdb.cli.embed_signals import Wish
    from dvecdb.cli.target import Target
    from dvecdb.embedding.report import Checked, SourceStatus, Status

_CHECKED: Final = ("missing", "stale", "damaged", "failed", "orphaned")
_SHOWN: Final = 10


# --- status ----------------------------------------------------------------------------------


def show_status(target: Target, collection: str, letters: int, *, as_json: bool) -> int:
    """Print what a collection says of its job; return the exit code. Raises `DvecdbError`."""
    with target.open() as database:
        status = care.status(database, collection)
    if as_json:
        print_json(status)
        return OK
    print_facts(
        [
            ("collection", status.collection),
            ("embedder", f"{status.model}, dimension {status.dimension}"),
            ("running", "no" if status.running is None else _runner(status.running)),
        ]
    )
    headings = ["SOURCE", "STATE", "ROWS", "EMBEDDED>", "COPIED>", "UNCHANGED>", "RELABELLED>",
                "SKIPPED>", "DEAD LETTERS>", "UPDATED"]  # fmt: skip
    if status.sources:
        print_table(headings, [_row(name, source) for name, source in status.sources.items()])
    _print_letters(status, letters)
    return OK


def _runner(running: Mapping[str, Any]) -> str:
    return f"process {running.get('pid')} on {running.get('host')}"


def _row(name: str, source: SourceStatus) -> tuple[object, ...]:
    cursor = source.cursor
    if cursor is None:
        return (name, "unreadable", "-", "-", "-", "-", "-", "-", source.dead_letters, "-")
    total = "" if cursor.total is None else f"/{cursor.total:,}"
    return (
        name, cursor.state, f"{cursor.cursor:,}{total}", f"{cursor.embedded:,}",
        f"{cursor.copied:,}", f"{cursor.unchanged:,}", f"{cursor.relabelled:,}",
        f"{cursor.skipped:,}", f"{source.dead_letters:,}",
        cursor.updated.replace("T", " ").replace("+00:00", "Z") or "-",
    )  # fmt: skip


def _print_letters(status: Status, limit: int) -> None:
    shown = status.dead_letters[:limit]
    if shown:
        print_table(
            ["DEAD LETTER", "SOURCE", "REASON", "TRIES>", "MESSAGE"],
            [
                (letter["key"], letter["source"], letter["reason"], letter.get("tries", 1),
                 letter["message"])
                for letter in shown
            ],
        )  # fmt: skip
    count = sum(source.dead_letters for source in status.sources.values())
    if count > len(shown) and limit:
        say(f"... {count - len(shown):,} more; --letters N or --json shows them")


# --- verify ----------------------------------------------------------------------------------


def verify_job(
    target: Target,
    given: Given,
    *,
    delete: bool,
    share_max: float,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Compare sources and records, and delete orphans if told to; return the exit code.

    Raises:
        DvecdbError: as `care.check_job` and `care.delete_missing`.
        UsageError: nobody can be asked.
    """
    deleted: dict[str, list[str]] = {}
    gone = 0
    with target.open(write=delete and not dry_run) as database:
        with working("every row is compared with its record", quiet=as_json):
            checked = care.check_job(given.job, database, resolve=given.resolve)
        if not as_json:
            _print_checked(checked)
        orphans = sum(one.counts["orphaned"] for one in checked.values())
        if delete and orphans and not dry_run:
            confirm(f"Delete {count_text(orphans, 'record')} whose row is gone?", yes=yes)
            deleted = care.delete_missing(
                given.job, database, share_max=share_max, resolve=given.resolve
            )
    is_sound = all(one.ok for one in checked.values())
    if deleted:
        gone = sum(map(len, deleted.values()))
        is_sound = all(_is_sound_without_orphans(one) for one in checked.values())
        is_sound = is_sound and gone >= orphans
    if as_json:
        print_json({"ok": is_sound, "sources": checked, "deleted": deleted})
    elif deleted:
        say(f"deleted {count_text(gone, 'record')} whose row is gone; 'dvecdb undo' brings back")
    elif delete and dry_run:
        say(f"--delete-missing would delete {count_text(orphans, 'record')}; nothing was deleted")
    if not as_json:
        say("sound" if is_sound else "not sound")
    return OK if is_sound else DAMAGE


def _is_sound_without_orphans(one: Checked) -> bool:
    return one.good == one.rows


def _print_checked(checked: Mapping[str, Checked]) -> None:
    print_table(
        ["SOURCE", "ROWS>", "GOOD>", *(f"{what.upper()}>" for what in _CHECKED)],
        [
            (name, f"{one.rows:,}", f"{one.good:,}", *(f"{one.counts[w]:,}" for w in _CHECKED))
            for name, one in checked.items()
        ],
    )
    for name, one in checked.items():
        for what in _CHECKED:
            if one.counts[what]:
                shown = ", ".join(one.listed[what][:_SHOWN])
                more = one.counts[what] - _SHOWN
                rest = f" and {more:,} more (--json)" if more > 0 else ""
                say(visible(f"{name}, {what}: {shown}{rest}"))


# --- a run elsewhere -------------------------------------------------------------------------


def wish(target: Target, collection: str, want: Wish, *, as_json: bool) -> int:
    """Tell the run of a collection what is wanted of it; return the exit code.

    Through a server it is written down for the run, which looks every other second. The run of a
    data directory is a process of this machine, and gets a signal.

    Raises:
        NotFoundError: `collection-not-found`; `job-not-found`, nobody runs a job there.
        ConflictError: `job-running`, by a process that no signal of ours reaches.
        AuthError: `forbidden`, by a process of another user.
    """
    with target.open(write=target.url is not None) as database:
        if target.url is not None:
            running: Mapping[str, Any] = care.wish(database, collection, want)
        else:
            running = _signal(care.status(database, collection), want)
    if as_json:
        print_json({"collection": collection, "want": want, "running": running})
    else:
        asked = {"pause": "pause", "resume": "go on", "stop": "stop"}[want]
        say(visible(f"{_runner(running)} was asked to {asked}; 'dvecdb embed status' shows it"))
    return OK


def _signal(status: Status, want: Wish) -> Mapping[str, Any]:
    running: Mapping[str, Any] = status.running or {}
    where = f"collection {status.collection!r}"
    if not running:
        raise _nobody(where)
    if running.get("host") != platform.node():
        raise ConflictError(
            Code.JOB_RUNNING,
            f"{_runner(running)} runs the job of {where}; this is {platform.node()}, from where "
            "no signal reaches it. Say it there",
        )
    if not running.get("takes_signals"):
        raise ConflictError(
            Code.JOB_RUNNING,
            f"{_runner(running)} runs the job of {where} and takes no signals: it is a server, "
            "which is told through --url, or a program of its own",
        )
    pid, started = int(running["pid"]), int(running["started"])
    try:
        is_told = tell(pid, started, want)
    except PermissionError as error:
        raise AuthError(
            Code.FORBIDDEN,
            f"process {pid} runs the job of {where} as another user than {os.getuid()}; say it as "
            "that one",
        ) from error
    if not is_told:
        raise _nobody(where)
    return running


def _nobody(where: str) -> NotFoundError:
    return NotFoundError(Code.JOB_NOT_FOUND, f"nobody runs a job on {where}")
