"""How commands print: JSON documents, tables, sizes, findings, questions."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, Final

import msgspec
import typer

from dvecdb.cli.app import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    import numpy as np
    import numpy.typing as npt

    from dvecdb.records import Finding

_WIDE: Final = 100_000  # columns of a table that nobody looks at: nothing is cut or wrapped
_SHOWN_NUMBERS: Final = 6


def say(text: str) -> None:
    """Print a line. Once the reader of our output has gone, the rest goes nowhere."""
    try:
        typer.echo(text)
    except BrokenPipeError:
        drop_output()


def drop_output() -> None:
    """Let what is still printed go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def print_json(value: Any) -> None:
    """Print one JSON document, indented."""
    say(msgspec.json.format(msgspec.json.encode(value, enc_hook=_plain), indent=2).decode())


def _plain(value: Any) -> Any:
    """Return an array as a list, and what JSON does not know as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def compact_json(value: Any) -> str:
    """Return a JSON value on one line, "-" for none."""
    return "-" if value is None else msgspec.json.encode(value).decode()


def numbers_text(vector: npt.NDArray[np.float32] | None) -> str:
    """Return the first numbers of a vector as text."""
    assert vector is not None
    shown = ", ".join(f"{value:.6g}" for value in vector[:_SHOWN_NUMBERS].tolist())
    more = len(vector) - _SHOWN_NUMBERS
    return f"[{shown}, {more} more]" if more > 0 else f"[{shown}]"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their headings. Columns whose heading ends in `>` are right-aligned."""
    from rich.console import Console  # noqa: PLC0415  # slow to import
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    seen = sys.stdout.isatty()
    console = Console(no_color=not seen, width=None if seen else _WIDE, highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        right = column.endswith(">")
        table.add_column(column.rstrip(">"), justify="right" if right else "left", no_wrap=not seen)
    for row in rows:
        table.add_row(*(Text(visible(str(cell))) for cell in row))
    with console.capture() as captured:
        console.print(table)
    say("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one pair a line."""
    pairs = list(facts)
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        say(f"{name:<{width}}  {visible(str(value))}")


def visible(text: str) -> str:
    """Return `text` with control characters spelled out: stored texts do not steer a terminal."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def size_text(size_bytes: int) -> str:
    """Return a size as people read it."""
    amount, units = float(size_bytes), ("B", "KiB", "MiB", "GiB")
    for unit in units:
        if amount < 1024 or unit == units[-1]:
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def time_text(moment: datetime) -> str:
    """Return a time as people read it, to the second."""
    return moment.isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")


def duration_text(seconds: float) -> str:
    """Return a duration as people read it: one unit, rounded down."""
    for length, unit in ((2 * 86_400, "d"), (2 * 3_600, "h"), (2 * 60, "min")):
        if seconds >= length:
            return f"{int(seconds * 2 // length)} {unit}"
    return f"{max(0, int(seconds))} s"


@contextlib.contextmanager
def working(what: str, *, quiet: bool) -> Iterator[None]:
    """Say on stderr what is being done, while the context lasts, if anybody sees it."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # noqa: PLC0415  # slow to import

    with Console(stderr=True, highlight=False).status(visible(what)):
        yield


@contextlib.contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar on stderr while the context lasts, if anybody sees it.

    Yields what moves it: called with how much is done and how much there is, None if not known.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich import progress as rich_progress  # noqa: PLC0415  # slow to import
    from rich.console import Console  # noqa: PLC0415

    columns = (
        rich_progress.BarColumn(),
        rich_progress.TaskProgressColumn(),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def finding_lines(finding: Finding) -> list[str]:
    """Return the lines that show a finding."""
    lines = [visible(f"{finding.collection or '-'}: {finding.code}: {finding.message}")]
    if finding.lost:
        lines.append(visible(f"  lost: {finding.lost}"))
    return lines


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is destroyed, on a terminal; elsewhere `--yes` has to be given.

    Raises:
        UsageError: nobody can be asked.
        typer.Abort: the answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} There is nobody to ask: give --yes to do it")
    typer.confirm(question, abort=True, err=True)
