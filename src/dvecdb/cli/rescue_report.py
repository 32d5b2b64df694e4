"""Reports of what was brought back: as text for people, as a file for later."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from dvecdb.cli.output import visible
from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from dvecdb.reports import Doubt, ImportReport

_SHOWN_MAX: Final = 10
_IDS_SHOWN_MAX: Final = 3


@contextlib.contextmanager
def report_file(path: Path | None) -> Iterator[Callable[[object], None]]:
    """Yield what writes a report as JSON to `path`, replacing it; None: it goes nowhere.

    The file is made, under a partial name, before any work is done, and renamed when it is synced.

    Raises:
        InvalidRequestError: `invalid-argument`, it is a directory.
        OSError: the file cannot be written.
    """
    if path is None:
        yield lambda _report: None
        return
    if path.is_dir():
        message = f"{path} is a directory; --report wants the name of a file"
        raise InvalidRequestError(Code.INVALID_ARGUMENT, message, path=str(path))
    partial = path.with_name(f".partial-{path.name}-{os.getpid()}")
    with partial.open("wb") as file:
        try:

            def write(report: object) -> None:
                text = msgspec.json.format(msgspec.json.encode(report), indent=2)
                file.write(text + b"\n")
                file.flush()
                os.fsync(file.fileno())
                partial.rename(path)

            yield write
        finally:
            partial.unlink(missing_ok=True)


def report_lines(report: ImportReport) -> list[str]:
    """Return what people want to know of a report, below its first line."""
    lines = []
    if report.superseded:
        lines.append(f"{report.superseded:,} older versions of an id: the newest one counts")
    if report.deleted_by_log:
        shown = _some(report.deleted_by_log, _IDS_SHOWN_MAX)
        lines.append(f"{len(report.deleted_by_log):,} ids deleted by the log: {shown}")
    if report.dropped_by_log:
        lines.append(f"dropped by the log: {_some(report.dropped_by_log, _IDS_SHOWN_MAX)}")
    lines += _doubt_lines(report.doubtful)
    lines += _cut(
        [f"lost: {item.file} bytes {item.start:,} .. {item.end:,}: {item.why}"
         for item in report.lost]
    )  # fmt: skip
    lines += _cut([f"unreadable: {item.file}: {item.why}" for item in report.unreadable])
    lines += [f"note: {text}" for text in report.notes]
    return [visible(f"  {line}") for line in lines]


def _doubt_lines(doubts: Sequence[Doubt]) -> list[str]:
    rows: Counter[str] = Counter()
    first: dict[str, Doubt] = {}
    for doubt in doubts:
        rows[doubt.why] += doubt.rows
        first.setdefault(doubt.why, doubt)
    lines = []
    for why, count in rows.most_common():
        example = first[why]
        subject = f"{example.id}: " if example.id is not None else ""
        like = "like " if len(doubts) > 1 and example.id is not None else ""
        lines.append(f"{count:,} in doubt, {why}: {like}{subject}{example.text}")
    return lines


def _cut(lines: list[str]) -> list[str]:
    more = len(lines) - _SHOWN_MAX
    return (
        lines if more <= 0 else [*lines[:_SHOWN_MAX], f"and {more:,} more; --report FILE has all"]
    )


def _some(names: Sequence[str], count: int) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def source_text(report: ImportReport) -> str:
    """Return what a source is: its generation, dimension and metric."""
    parts: Mapping[str, Any] = {
        "generation": report.generation, "dimension": report.dimension, "metric": report.metric
    }  # fmt: skip
    return ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)
