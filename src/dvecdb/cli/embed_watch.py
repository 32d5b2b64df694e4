"""How a running job shows itself: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import typer

from dvecdb.cli.output import duration_text, say, time_text, visible
from dvecdb.clock import NANOSECONDS_PER_SECOND, SystemClock, to_datetime
from dvecdb.embedding import events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dvecdb.clock import Clock
    from dvecdb.embedding.progress import Cursor
    from dvecdb.embedding.report import Spent

_LINE_SECONDS: Final = 2.0
_PACE_SECONDS: Final = 30.0
_BURIED_SHOWN: Final = 20


class Pace:
    """How fast a source goes: over the last half minute."""

    def __init__(self, now_ns: int, rows: int) -> None:
        self._samples = deque([(now_ns, rows)])

    def note(self, now_ns: int, rows: int) -> None:
        """Take in how far it is."""
        self._samples.append((now_ns, rows))
        while len(self._samples) > 2 and now_ns - self._samples[1][0] > _PACE_SECONDS * 1e9:
            self._samples.popleft()

    @property
    def rows_per_second(self) -> float | None:
        """The rate, None if it cannot be told yet."""
        (began_ns, first), (now_ns, last) = self._samples[0], self._samples[-1]
        seconds = (now_ns - began_ns) / NANOSECONDS_PER_SECOND
        return (last - first) / seconds if seconds > 0.05 and last > first else None

    def left(self, total: int | None) -> str | None:
        """Return how long the rest will take, for people; None if that cannot be told."""
        rate = self.rows_per_second
        if total is None or rate is None:
            return None
        return duration_text(max(0, total - self._samples[-1][1]) / rate)


def money_text(money: float) -> str:
    """Return an amount of money, with what counts of a small one."""
    if money >= 0.1 or not money:
        return f"{money:,.2f}"
    return f"{money:.{1 - math.floor(math.log10(money))}f}"


def count_text(count: int, what: str) -> str:
    """Return a count of things: `1 row`, `2 rows`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def cost_text(spent: Spent | None) -> str | None:
    """Return what a run cost so far; None if it cost nothing."""
    if spent is None or not spent.requests:
        return None
    money = "" if spent.money is None else f", cost {money_text(spent.money)}"
    return f"{spent.tokens:,} tokens{money}"


def rows_text(cursor: int, total: int | None) -> str:
    """Return how far a source is."""
    if total is None:
        return f"{cursor:,} rows"
    share = f" ({100 * cursor / total:.1f} %)" if total else ""
    return f"{cursor:,}/{total:,} rows{share}"


def event_text(event: object) -> str | None:
    """Return what a person is told about an event, None if it is only progress."""
    match event:
        case events.AttemptFailed():
            tries = "" if event.attempt is None else f", attempt {event.attempt}"
            tries += "" if event.attempts is None else f" of {event.attempts}"
            wait = f"again in {event.wait_seconds:.1f} s"
            return f"the {event.what} failed{tries}: {event.message}; {wait}"
        case events.Reconnected():
            return f"the {event.what} answers again"
        case events.Paused():
            return f"paused: {event.why}"
        case events.Resumed():
            return "goes on"
        case events.Split():
            return f"a request of {event.texts} texts is halved: {event.message}"
        case events.SourceStarted():
            total = "rows" if event.total is None else f"{event.total:,} rows"
            where = f"goes on behind row {event.cursor:,}" if event.resumed else "from the first"
            return f"{event.source}: {total}, {where}"
        case events.Buried():
            return f"{event.source}: row {event.key} is a dead letter: {event.message}"
        case events.RetryStarted():
            return f"{event.source}: tries {count_text(event.rows, 'dead letter')} once more"
        case events.Noted():
            return event.message
    return None


class Lines:
    """Writes a line for each event that matters, and one every two seconds for progress."""

    def __init__(self, write: Callable[[str], None], clock: Clock) -> None:
        self._write = write
        self._clock = clock
        self._lock = threading.Lock()
        self._pace: Pace | None = None  # of a source that is gone through
        self._said_ns = clock.monotonic_ns()
        self._buried: dict[str, int] = {}

    def __call__(self, event: object) -> None:
        """Take in an event, in any thread."""
        with self._lock:
            self._take(event)

    def _take(self, event: object) -> None:
        now_ns = self._clock.monotonic_ns()
        if isinstance(event, events.SourceStarted):
            self._pace = Pace(now_ns, event.cursor)
            self._said_ns = now_ns
        elif isinstance(event, events.Committed | events.SourceDone):
            cursor = event.cursor
            spent = event.spent if isinstance(event, events.Committed) else None
            if self._pace is not None:
                self._pace.note(now_ns, cursor.cursor)
            is_done = isinstance(event, events.SourceDone)
            if is_done or now_ns - self._said_ns >= _LINE_SECONDS * NANOSECONDS_PER_SECOND:
                self._said_ns = now_ns
                self._say(self._progress(event.source, cursor, spent, is_done=is_done))
            return
        elif isinstance(event, events.Buried):
            self._bury(event)
            return
        text = event_text(event)
        if text is not None:
            self._say(text)

    def _bury(self, event: events.Buried) -> None:
        """Tell of the first dead letters of a source; the others are counted."""
        count = self._buried[event.source] = self._buried.get(event.source, 0) + 1
        if count <= _BURIED_SHOWN:
            self._say(event_text(event) or "")
        elif count == _BURIED_SHOWN + 1:
            self._say(f"{event.source}: more dead letters; 'dvecdb embed status' lists them")

    def _progress(self, source: str, cursor: Cursor, spent: Spent | None, *, is_done: bool) -> str:
        pace = self._pace
        rate = None if pace is None else pace.rows_per_second
        left = None if pace is None else pace.left(cursor.total)
        parts = [
            f"{cursor.embedded:,} embedded",
            f"{cursor.failed:,} failed" if cursor.failed else None,
            f"{rate:,.0f} rows/s" if rate is not None else None,
            cost_text(spent),
            f"{left} left" if left is not None and not is_done else None,
        ]
        done = "done, " if is_done else ""
        return f"{source}: {done}" + ", ".join(
            [rows_text(cursor.cursor, cursor.total), *(part for part in parts if part)]
        )

    def _say(self, text: str) -> None:
        now = time_text(to_datetime(self._clock.wall_ns()))
        self._write(f"{now}  {visible(text)}")


class Bar:
    """Moves a progress bar of rich, one for each source, and prints above it what matters."""

    def __init__(self, progress: Any, clock: Clock) -> None:
        self._progress = progress
        self._clock = clock
        self._lock = threading.Lock()
        self._tasks: dict[str, tuple[Any, Pace]] = {}

    def __call__(self, event: object) -> None:
        """Take in an event, in any thread."""
        with self._lock:
            if isinstance(event, events.SourceStarted):
                task = self._progress.add_task(
                    visible(event.source), total=event.total, completed=event.cursor, facts=""
                )
                self._tasks[event.source] = (task, Pace(self._clock.monotonic_ns(), event.cursor))
            elif isinstance(event, events.Committed):
                self._move(event)
            elif not isinstance(event, events.SourceDone):
                text = event_text(event)
                if text is not None:
                    self._progress.console.print(visible(text), markup=False)

    def _move(self, event: events.Committed) -> None:
        if event.source not in self._tasks:
            return  # only its dead letters are tried
        task, pace = self._tasks[event.source]
        cursor = event.cursor
        pace.note(self._clock.monotonic_ns(), cursor.cursor)
        rate, left = pace.rows_per_second, pace.left(cursor.total)
        facts = [
            rows_text(cursor.cursor, cursor.total),
            f"{rate:,.0f} rows/s" if rate is not None else None,
            cost_text(event.spent),
            f"{left} left" if left is not None else None,
        ]
        self._progress.update(
            task, completed=cursor.cursor, total=cursor.total,
            facts=", ".join(fact for fact in facts if fact),
        )  # fmt: skip


@contextlib.contextmanager
def watching(*, quiet: bool, as_json: bool) -> Iterator[Callable[[object], None]]:
    """Show a job while the context lasts; yield what is told its events.

    A bar on stderr if that is a terminal. Else lines: on stdout, or on stderr beside `--json`.
    """
    clock = SystemClock()
    if quiet:
        yield lambda _event: None
    elif sys.stderr.isatty():
        from rich import progress as rich_progress  # noqa: PLC0415  # slow to import
        from rich.console import Console  # noqa: PLC0415

        columns = (
            rich_progress.TextColumn("{task.description}", markup=False),
            rich_progress.BarColumn(bar_width=20),
            rich_progress.TextColumn("{task.fields[facts]}", markup=False),
        )
        console = Console(stderr=True, highlight=False)
        with rich_progress.Progress(*columns, console=console) as progress:
            yield Bar(progress, clock)
    else:
        yield Lines(_complain if as_json else say, clock)


def _complain(line: str) -> None:
    typer.echo(line, err=True)
