"""`dvecdb embed run`, `retry-failed` and `run --dry-run`."""

from __future__ import annotations

import contextlib
import tempfile
from typing import TYPE_CHECKING, Final

import msgspec
import typer

from dvecdb.cli.embed_signals import obeying
from dvecdb.cli.embed_watch import cost_text, count_text, money_text, watching
from dvecdb.cli.exit_codes import DAMAGE, INTERRUPTED, OK, UNFINISHED
from dvecdb.cli.output import print_json, print_table, say, visible
from dvecdb.embedding import estimate_job, run
from dvecdb.errors import Code, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import dvecdb
    from dvecdb.cli.embed_job import Given
    from dvecdb.cli.target import Target
    from dvecdb.embedding.report import Estimate, JobReport

_COUNTS: Final = ("embedded", "copied", "unchanged", "relabelled", "failed", "skipped")
_ESTIMATED: Final = ("rows", "unchanged", "relabelled", "copied", "failed", "skipped", "texts",
                     "tokens")  # fmt: skip


def run_job(
    target: Target,
    given: Given,
    *,
    full: bool = False,
    only_failed: bool = False,
    quiet: bool,
    as_json: bool,
) -> int:
    """Run a job; return the exit code.

    Raises:
        DvecdbError: as `dvecdb.embedding.run`.
    """
    with (
        target.open(write=True, create=True) as database,
        obeying() as controls,
        watching(quiet=quiet, as_json=as_json) as watch,
    ):
        try:
            report = run(
                given.job, database, watch=watch, controls=controls, resolve=given.resolve,
                full=full, only_failed=only_failed,
            )  # fmt: skip
        except UnavailableError as error:
            if error.code is not Code.CANCELLED:
                raise
            if as_json:
                print_json({"error": {"code": error.code, "message": error.message,
                                      "advice": error.advice, "details": {}}})  # fmt: skip
            typer.echo(f"error: {error.code}: {error.message}", err=True)
            return INTERRUPTED
    if as_json:
        print_json(report)
    else:
        _print_report(report)
    return exit_code_of(report)


def exit_code_of(report: JobReport) -> int:
    """Return the exit code of a run: stopped, budget used up, dead letters left, or all is well."""
    if report.state == "stopped":
        return INTERRUPTED
    if report.state == "budget":
        return UNFINISHED
    return DAMAGE if report.dead_letters else OK


def _print_report(report: JobReport) -> None:
    print_table(
        ["SOURCE", "STATE", "ROWS>", *(f"{name.upper()}>" for name in _COUNTS)],
        [
            (name, cursor.state, f"{cursor.cursor:,}",
             *(f"{getattr(cursor, count):,}" for count in _COUNTS))
            for name, cursor in report.sources.items()
        ],
    )  # fmt: skip
    spent = report.spent
    spent_text = cost_text(spent)
    cost = "" if spent_text is None else f", {spent_text}"
    say(
        visible(
            f"{report.collection}: {count_text(spent.texts, 'text')} embedded by {report.model} "
            f"in {count_text(spent.requests, 'request')}{cost}, in {spent.seconds:.1f} s"
        )
    )
    if report.state != "done":
        why = "stopped" if report.state == "stopped" else "the budget is used up"
        say(f"{why}; running it again goes on there")
    if report.dead_letters:
        say(
            f"{count_text(report.dead_letters, 'dead letter')}: 'dvecdb embed status' lists and "
            "'dvecdb embed retry-failed' tries again"
        )


# --- what it would cost ----------------------------------------------------------------------


def estimate(target: Target, given: Given, *, as_json: bool) -> int:
    """Say what a run would do; return the exit code. Raises `DvecdbError`."""
    with _looking(target) as database:
        found = estimate_job(given.job, database, resolve=given.resolve)
    total = _sum(list(found.values()))
    if as_json:
        print_json({"collection": given.job.target.collection, "sources": found, "total": total})
        return OK
    rows = [(visible(name), *_estimated(one)) for name, one in found.items()]
    if len(rows) > 1:
        rows.append(("all", *_estimated(total)))
    print_table(["SOURCE", *(f"{name.upper()}>" for name in _ESTIMATED), "COST>"], rows)
    cost = "" if total.money is None else f", cost {money_text(total.money)}"
    say(f"would embed {count_text(total.texts, 'text')}, about {total.tokens:,} tokens{cost}; "
        "nothing was sent or written")  # fmt: skip
    return OK


@contextlib.contextmanager
def _looking(target: Target) -> Iterator[dvecdb.Database]:
    """Open a target to look; a data directory that is not there yet is an empty one."""
    if target.data_dir is None or target.data_dir.exists():
        with target.open() as database:
            yield database
        return
    import dvecdb  # noqa: PLC0415  # only here

    with tempfile.TemporaryDirectory() as empty, dvecdb.open(empty) as database:
        yield database


def _sum(found: Sequence[Estimate]) -> Estimate:
    """Return the sum of estimates, at least one."""
    total = found[0]
    for one in found[1:]:
        money = None if one.money is None or total.money is None else one.money + total.money
        total = msgspec.structs.replace(
            total,
            money=money,
            **{name: getattr(total, name) + getattr(one, name) for name in _ESTIMATED},
        )
    return total


def _estimated(one: Estimate) -> list[str]:
    money = "-" if one.money is None else money_text(one.money)
    return [*(f"{getattr(one, name):,}" for name in _ESTIMATED), money]
