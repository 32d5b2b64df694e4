"""`dvecdb demo`: the promise, tried out on real files with a real SIGKILL. Needs no network."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

import dvecdb
from dvecdb.cli import demo_writer as story
from dvecdb.cli.demo_server import serve_and_kill
from dvecdb.cli.output import finding_lines, print_json, say, size_text
from dvecdb.clock import SystemClock
from dvecdb.errors import Code, DirectoryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_BATCHES: Final = 20  # acknowledged before the writer is killed
_SECONDS_MAX: Final = 60.0
_DELETED: Final = 2  # batches
_CUT: Final = frozenset({"torn", "possibly-acknowledged"})  # findings about what was in flight


class Report:
    """Prints one line per step, or keeps them for JSON, and remembers whether every check held."""

    def __init__(self, *, as_json: bool) -> None:
        self.good = True
        self.steps: list[dict[str, object]] = []
        self._as_json = as_json

    def say(self, text: str) -> None:
        """Print a line that checks nothing."""
        self._add(None, f"      {text}", text)

    def check(self, holds: bool, text: str) -> None:
        """Print a line that claims something."""
        self._add(holds, f"{'ok   ' if holds else 'WRONG'} {text}", text)
        self.good = self.good and holds

    def _add(self, holds: bool | None, line: str, text: str) -> None:
        self.steps.append({"ok": holds, "text": text})
        if not self._as_json:
            say(line)

    def end(self) -> None:
        """Print the verdict."""
        if self._as_json:
            print_json({"ok": self.good, "steps": self.steps})
        else:
            say("everything checked out" if self.good else "something is wrong: see above")


def run_demo(keep: Path | None, *, as_json: bool = False) -> bool:
    """Tell the story; return whether every check held.

    Raises:
        DirectoryError: `directory-unreadable`, `keep` is not empty.
    """
    with _workplace(keep) as place:
        report = Report(as_json=as_json)
        path = place / "data"
        acknowledged = _write_and_kill(path, report)
        with _timed("reopened", report), dvecdb.open(path) as database:
            films = _recovered(database, acknowledged, report)
            _past_and_search(films, acknowledged, report)
        _damage(path, place / "damaged", report)
        serve_and_kill(place, report)
        if keep is not None:
            report.say(f"kept: {path}; try 'dvecdb verify --data-dir {path}'")
        report.end()
        return report.good


@contextlib.contextmanager
def _workplace(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="dvecdb-demo-") as name:
            yield Path(name)
        return
    keep.mkdir(parents=True, exist_ok=True)
    if any(keep.iterdir()):
        raise DirectoryError(
            Code.DIRECTORY_UNREADABLE,
            f"{keep} is not empty; the demo wants a new or empty directory",
            path=str(keep),
        )
    yield keep


@contextlib.contextmanager
def _timed(what: str, report: Report) -> Iterator[None]:
    clock = SystemClock()
    start = clock.monotonic_ns()
    yield
    report.say(f"{what} and checked in {(clock.monotonic_ns() - start) / 1e9:.1f} s")


def _write_and_kill(path: Path, report: Report) -> Mapping[int, int]:
    """Start a writer, kill it while it writes; return the acknowledged LSN of each batch."""
    acknowledged: dict[int, int] = {}
    command = [sys.executable, "-m", "dvecdb.cli.demo_writer", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:  # noqa: S603  # our own module
        assert writer.stdout is not None
        for line in writer.stdout:
            _note(acknowledged, line)
            if len(acknowledged) == _BATCHES:
                writer.send_signal(signal.SIGKILL)
                break
        for line in writer.stdout.read().splitlines():  # said before the signal arrived
            _note(acknowledged, line)
        code = writer.wait(_SECONDS_MAX)
    rows = len(acknowledged) * story.BATCH_ROWS
    report.check(
        code == -signal.SIGKILL,
        f"a writer was killed (SIGKILL) while writing; acknowledged: {rows} rows of "
        f"{story.DIMENSION} float32 in {len(acknowledged)} batches, up to LSN "
        f"{max(acknowledged.values(), default=0)}",
    )
    return acknowledged


def _note(acknowledged: dict[int, int], line: str) -> None:
    batch, lsn = line.split()
    acknowledged[int(batch)] = int(lsn)


def _recovered(
    database: dvecdb.Database, acknowledged: Mapping[int, int], report: Report
) -> dvecdb.Collection:
    """Compare every row with what was written."""
    films = database.collection(story.COLLECTION)
    rows = 0
    equal = True
    for batch, lsn in acknowledged.items():
        equal = equal and story.is_stored(films, batch, lsn)
        rows += story.BATCH_ROWS
    report.check(equal, f"all {rows} acknowledged rows are there, bit for bit, with their LSNs")
    extra = max(acknowledged) + 1
    found = sum(record is not None for record in films.get(story.batch_ids(extra)))
    whole = found == 0 or (found == story.BATCH_ROWS and story.is_stored(films, extra, None))
    state = "all of it had reached the log" if found else "none of it is there"
    report.check(
        whole and films.count() == rows + found,
        f"the batch in flight was never acknowledged: {state}; no half batch, nothing else",
    )
    findings = database.findings()
    for finding in findings:
        report.say("; ".join(finding_lines(finding)))
    if not findings:
        report.say("findings: none, nothing had to be cut off")
    return films


def _past_and_search(
    films: dvecdb.Collection, acknowledged: Mapping[int, int], report: Report
) -> None:
    """Delete rows, read them as of before, search, and read everything once more."""
    before = films.stats().last_lsn
    gone = [text for batch in range(_DELETED) for text in story.batch_ids(batch)]
    commit = films.delete(gone, actor="demo", reason="to read them all the same")
    present = sum(record is not None for record in films.get(gone))
    report.check(
        commit.count == len(gone) and not present,
        f"deleted {commit.count} rows at LSN {commit.lsn}; now {films.count()} records",
    )
    then = films.get(gone, as_of=before)
    vectors = np.concatenate([story.batch_vectors(batch) for batch in range(_DELETED)])
    report.check(
        all(
            record is not None
            and record.vector is not None
            and record.vector.tobytes() == vector.tobytes()
            for record, vector in zip(then, vectors, strict=True)
        ),
        f"read as of LSN {before}, the deleted rows are all there, bit for bit",
    )
    wanted = max(acknowledged)
    query, name = story.batch_vectors(wanted)[7], story.batch_ids(wanted)[7]
    hits = films.search(query, limit=3)
    report.check(
        len(hits) == 3 and hits[0].id == name and hits[0].distance < 1e-6,
        f"search: {', '.join(f'{hit.id} at {hit.distance:.4f}' for hit in hits)}",
    )
    films.flush()
    verified, stats = films.verify(), films.stats()
    report.check(
        all(finding.code in _CUT for finding in verified.findings),
        f"verified {verified.blocks} blocks, {size_text(verified.size_bytes)}",
    )
    report.say(
        f"stats: {stats.count} records live, {stats.rows} rows ever written, LSN {stats.last_lsn}, "
        f"{stats.segments} segments, {size_text(stats.segment_bytes)}, epoch {stats.epoch}"
    )


def _damage(path: Path, copy: Path, report: Report) -> None:
    """Flip one bit in a copy and see that it is named, and that the rest still reads."""
    shutil.copytree(path, copy)
    target = max(
        copy.glob("collections/*/segments/*/vectors.bin"), key=lambda at: at.stat().st_size
    )
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    target.unlink()
    target.write_bytes(data)
    with dvecdb.open(copy, read_only=True) as database:
        verified = database.collection(story.COLLECTION).verify()
    shutil.rmtree(copy)
    named = [finding for finding in verified.findings if finding.code == "block-damaged"]
    report.check(
        len(named) == 1,
        f"one bit flipped in a copy of {size_text(len(data))}: "
        f"{named[0].lost if named else 'not noticed'} cannot be served, and nothing else",
    )
