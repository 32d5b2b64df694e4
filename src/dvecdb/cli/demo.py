"""`dvecdb demo`: a broken database comes back, and then nothing that is done to it is for good.

Needs no network and no model: the vector of a text is the sum of the vectors of its words.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import xxhash

import dvecdb
from dvecdb.cli import demo_legacy as legacy
from dvecdb.cli.output import print_json, print_table, say, size_text
from dvecdb.clock import SystemClock
from dvecdb.errors import Code, DirectoryError, DiskFullError
from dvecdb.rescue.finding import scan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dvecdb.cli.demo_legacy import Plan, Written
    from dvecdb.records import Metadata
    from dvecdb.reports import ScanEntry

QUERY: Final = "lighthouse storm"
_SPOILED_ROWS: Final = 1_000
_ROOM_BYTES_PER_NUMBER: Final = 14  # three times the vectors, and something
_MILLISECOND_NS: Final = 1_000_000
_encode = msgspec.json.Encoder(order="deterministic").encode

Contents = tuple[int, int]  # number of records, and a sum over the bits of all of them


class Story:
    """Prints what happens, or keeps it for JSON, and remembers whether every check held."""

    def __init__(self, *, as_json: bool) -> None:
        self.good = True
        self.steps: list[dict[str, object]] = []
        self._as_json = as_json
        self._clock = SystemClock()

    def tell(self, text: str = "") -> None:
        """Print a line that checks nothing."""
        self._add(None, text, text)

    def check(self, holds: bool, text: str) -> None:
        """Print a line that claims something."""
        self._add(holds, text if holds else f"WRONG: {text}", text)
        self.good = self.good and holds

    def table(self, entries: Sequence[ScanEntry], root: Path) -> None:
        """Print what a scan found."""
        self.steps.append({"ok": None, "scan": entries})
        if not self._as_json:
            _print_scan(entries, root)

    def _add(self, holds: bool | None, line: str, text: str) -> None:
        if text:
            self.steps.append({"ok": holds, "text": text})
        if not self._as_json:
            say(line)

    def end(self) -> None:
        """Print the verdict: as JSON, or only if something is wrong."""
        if self._as_json:
            print_json({"ok": self.good, "steps": self.steps})
        elif not self.good:
            say("something is wrong: see above")

    def now_ns(self) -> int:
        """Return a time to measure with."""
        return self._clock.monotonic_ns()

    def since(self, start_ns: int) -> str:
        """Return the time since then as people read it."""
        passed = self.now_ns() - start_ns
        if passed < 1_000 * _MILLISECOND_NS:
            return f"{passed / _MILLISECOND_NS:.1f} ms"
        return f"{passed / (1_000 * _MILLISECOND_NS):.1f} s"


def run_demo(keep: Path | None, plan: Plan, *, as_json: bool = False) -> bool:
    """Tell the story; return whether every check held.

    Raises:
        DirectoryError: `directory-unreadable`, `keep` is not empty.
        DiskFullError: `disk-full`, there is no room for it.
    """
    with _workplace(keep, plan) as place:
        story = Story(as_json=as_json)
        old, new = place / "old", place / "data"
        written = _break(old, plan, story)
        with dvecdb.open(new) as database:
            contents = _rescue(database, old, plan, written, story)
            _search(database, plan, story)
            _delete_and_restore(database, story)
            _spoil_and_undo(database, contents, story)
        story.tell()
        if keep is not None:
            story.tell(f"kept: {old} and {new}")
        story.tell("Now yours:")
        for line in _next_commands(keep, new):
            story.tell(f"  {line}")
        story.end()
        return story.good


@contextlib.contextmanager
def _workplace(keep: Path | None, plan: Plan) -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        if keep is None:
            temporary = tempfile.TemporaryDirectory(prefix="dvecdb-demo-")
            place = Path(stack.enter_context(temporary))
        else:
            place = keep
            place.mkdir(parents=True, exist_ok=True)
        if any(place.iterdir()):
            raise DirectoryError(
                Code.DIRECTORY_UNREADABLE,
                f"{keep} is not empty; the demo wants a new or empty directory",
                path=str(keep),
            )
        needed = _ROOM_BYTES_PER_NUMBER * plan.rows * plan.dimension
        if shutil.disk_usage(place).free < needed:
            raise DiskFullError(
                Code.DISK_FULL,
                f"the demo needs {size_text(needed)} in {place}; --keep DIR takes another place, "
                "--small needs little",
                path=str(place),
            )
        yield place


# --- the steps -------------------------------------------------------------------------------


def _break(old: Path, plan: Plan, story: Story) -> Written:
    """Write the broken database, and show what a scan sees of it."""
    written = legacy.write_legacy(old, plan)
    story.tell(
        f"A d-vecDB database: {plan.rows:,} embeddings of {plan.dimension:,} numbers were written "
        f"to a file of {size_text(written.size_bytes)}."
    )
    story.tell(
        f"Its server was restarted, had forgotten them, and wrote the last {plan.late} over the "
        "first. The log is gone."
    )
    story.tell()
    entries = scan(str(old))
    story.table(entries, old)
    found = sum(entry.rows for entry in entries)
    story.check(
        found == written.whole,
        f"{plan.rows:,} written, {written.gone} overwritten, {plan.rows - written.gone - found} "
        f"torn, at byte {written.torn_at:,}",
    )
    story.tell()
    return written


def _rescue(
    database: dvecdb.Database, old: Path, plan: Plan, written: Written, story: Story
) -> Contents:
    """Import what is left, and compare every bit with what was written."""
    start = story.now_ns()
    done = database.import_legacy(str(old / legacy.COLLECTION), legacy.COLLECTION)
    passed = story.since(start)
    rows = (
        row
        for chunk in legacy.survivors(plan, written)
        for row in zip(chunk.ids, chunk.vectors, chunk.metadata, strict=True)
    )
    contents = _contents((name, vector.tobytes(), value) for name, vector, value in rows)
    story.check(
        done.report.imported == written.whole and _stored(database) == contents,
        f"imported {done.report.imported:,} in {passed}, every one that is whole: bit-identical ✓",
    )
    return contents


def _search(database: dvecdb.Database, plan: Plan, story: Story) -> None:
    (hit,) = database.collection(legacy.COLLECTION).search(legacy.query(plan, QUERY), limit=1)
    found = hit.metadata or {}
    title = str(found.get("title"))
    story.check(
        set(QUERY.split()) <= set(title.split()),
        f"search '{QUERY}': '{title}' ({found.get('year')}, {found.get('lang')}) at "
        f"{hit.distance:.3f}",
    )


def _delete_and_restore(database: dvecdb.Database, story: Story) -> None:
    database.delete_collection(legacy.COLLECTION, actor="demo", reason="the wrong window")
    entry = database.trash()[0].name
    story.check(not database.collections(), f"deleted → trash: {entry}")
    start = story.now_ns()
    restored = database.restore(entry)
    story.check(restored.rows > 0, f"restored in {story.since(start)}: {restored.rows:,} records")


def _spoil_and_undo(database: dvecdb.Database, contents: Contents, story: Story) -> None:
    films = database.collection(legacy.COLLECTION)
    before = films.stats().last_lsn
    ids = [record.id for record in films.scroll(limit=_SPOILED_ROWS).records]
    films.upsert(ids, np.zeros((len(ids), films.schema.dimension)), reason="a broken script")
    spoiled = _stored(database) != contents
    story.check(spoiled, f"a bad upsert: {len(ids):,} embeddings are zeros now")
    start = story.now_ns()
    undone = films.undo(to_lsn=before)
    passed = story.since(start)
    story.check(
        _stored(database) == contents,
        f"undone in {passed}: {undone.restored:,} records as before; all {contents[0]:,} "
        "bit-identical ✓",
    )


def _next_commands(keep: Path | None, new: Path) -> list[str]:
    data = new if keep is not None else "data"
    return [
        "dvecdb rescue scan /path/to/your/d-vecdb",
        f"dvecdb import /path/to/your/d-vecdb --collection NAME --as NAME --data-dir {data}",
        f"dvecdb serve --data-dir {data}",
    ]


# --- what is compared ------------------------------------------------------------------------


def _contents(rows: Iterable[tuple[str, bytes, Metadata | None]]) -> Contents:
    """Return the same for the same records, to the bit, in any order."""
    count = total = 0
    for name, vector, metadata in rows:
        digest = xxhash.xxh3_128(name.encode())
        digest.update(vector)
        digest.update(_encode(metadata))
        total += digest.intdigest()
        count += 1
    return count, total


def _stored(database: dvecdb.Database) -> Contents:
    records = database.collection(legacy.COLLECTION).scan(with_vectors=True)
    return _contents(
        (record.id, record.vector.tobytes(), record.metadata)
        for record in records
        if record.vector is not None
    )


def _print_scan(entries: Sequence[ScanEntry], root: Path) -> None:
    print_table(
        ["PATH", "KIND", "GENERATION", "DIMENSION>", "ROWS>", "USED>", "GOOD>", "LOST>"],
        [
            (Path(entry.path).relative_to(root), entry.kind, entry.generation or "-",
             entry.dimension or "-", f"{entry.rows:,}", size_text(entry.bytes_used),
             f"{100 * entry.good:.3f} %", entry.lost_ranges)
            for entry in entries
        ],
    )  # fmt: skip
