"""Our own directories of every shape, with what they hold at every LSN; and who judges a rescue."""

import re
from dataclasses import dataclass, field

import msgspec
import numpy as np

from dvecdb.errors import Code, NotFoundError
from dvecdb.rescue.own.reading import read_own
from dvecdb.rescue.salvage import Choice
from dvecdb.settings import Settings
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.history import Action, History
from dvecdb.testing.recording import Recorder

DIMENSION = 1_024  # 16 vectors in a block
DOCS = "/data/collections/docs"
TRUTH = ("records.bin", "vectors.bin", ".wal", ".json")
PARTS = {
    "flush_bytes": 1 << 24, "flush_commits": 1_000, "merge_bytes": 1 << 24,
    "wal_reserve_bytes": 1_024, "wal_extend_bytes": 1_024, "ballast_bytes": 0,
    "low_water_bytes": 0, "bulk_bytes": 120_000,
}  # fmt: skip
APART = Settings(merge_count=50, **PARTS)
MERGING = Settings(merge_count=2, **PARTS)
FORGETTING = Settings(
    merge_count=2,
    history_hours=0,
    compact_dead_percent=1,
    settle_seconds=0,
    **{**PARTS, "merge_bytes": 20_000},
)


def rows(seed, ids, **parts):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((len(ids), DIMENSION)).astype(np.float32)
    metadata = tuple(
        {"seed": seed, "text": rng.bytes(100).hex()} if number % 5 else None
        for number in range(len(ids))
    )
    return Action("upsert", tuple(ids), vectors, metadata, **parts)


def named(word, count):
    return [f"{word} {number}" for number in range(count)]


def write_story(recorder, collection):
    """Write, flush, write in bulk, replace, delete and leave some in the log."""
    recorder.write("docs", rows(1, named("old", 19)))
    recorder.write("docs", rows(2, named("more", 6), key="second"))
    collection.flush()
    recorder.write("docs", rows(3, [*named("bulk", 33), "old 3"]))
    recorder.write("docs", Action("delete", deletes=("old 1", "bulk 2")))
    recorder.write("docs", Action("write", documents={("job", "cursor"): {"page": 1}}))
    collection.flush()
    recorder.write("docs", rows(4, [*named("new", 17), "old 5"]))
    recorder.write("docs", Action("delete", deletes=("new 1", "more 2")))
    recorder.write("docs", Action("write", documents={("job", "cursor"): {"page": 2}}))
    recorder.write("docs", rows(5, ["last", "old 7"]))


@dataclass
class Made:
    """A data directory as a tree, and the history of its collection `docs`."""

    tree: dict[str, bytes | None]
    history: History
    path: str = DOCS
    flushed: int = 0

    @property
    def last(self):
        return self.history.last_lsn

    def truth(self):
        """Return the files whose damage can cost something, below `path`."""
        return sorted(
            name
            for name, data in self.tree.items()
            if data and name.startswith(self.path.strip("/") + "/") and name.endswith(TRUTH)
        )

    def disk(self):
        return MemoryDisk.from_tree(self.tree)

    def without(self, *parts):
        """Return the same without all paths that hold one of `parts`."""
        kept = {
            name: data
            for name, data in self.tree.items()
            if not any(part in name + "/" for part in parts)
        }
        return Made(kept, self.history, self.path, self.flushed)

    def changed(self, name, data):
        """Return the same with other bytes in one file."""
        return Made({**self.tree, name: data}, self.history, self.path, self.flushed)


def make(settings=APART, *, closed=True, story=write_story):
    """Write the story and return what lies on the disk."""
    recorder = Recorder(MemoryDisk(), settings)
    recorder.open()
    collection = recorder.create("docs", DIMENSION)
    story(recorder, collection)
    flushed = 0
    if "docs" in recorder.database.collections():
        flushed = recorder.database.collection("docs").stats().flushed_lsn
    if closed:
        recorder.close()
    (history,) = recorder.histories().values()
    return Made(recorder.disk.clone().tree(), history, flushed=flushed)


def make_merged(settings=MERGING):
    """Write the story with compaction after each flush; what was merged stays beside it."""

    def story(recorder, collection):
        write_story(recorder, collection)
        for number in range(3):
            recorder.write("docs", rows(10 + number, [*named("x", 5), f"y {number}"]))
            recorder.write("docs", Action("delete", deletes=(f"new {number + 3}", "x 1")))
            recorder.clock.advance(60.0)
            collection.flush()
        recorder.write("docs", rows(20, ["at the end", "x 2"]))

    return make(settings, story=story)


# --- judging ---------------------------------------------------------------------------------


@dataclass
class Verdict:
    """What a rescue came to. `wrong` is what must never be."""

    lsn: int = 0
    report: object = None
    found: dict = field(default_factory=dict)
    flagged: set = field(default_factory=set)
    lost: set = field(default_factory=set)
    documents: dict = field(default_factory=dict)
    wrong: list = field(default_factory=list)


def rescue(made, choice=None, path=None):
    """Read all of a rescue: (report, {id: (vector, metadata)}, documents)."""
    salvage = read_own(made.disk(), path or made.path, choice or Choice())
    try:
        pieces = [np.array(piece) for piece in salvage.vectors.pieces(7)]
        vectors = [row.tobytes() for piece in pieces for row in piece]
        assert len(vectors) == len(salvage.ids) == len(salvage.metadata)
        assert salvage.vectors.stored_bytes == sum(piece.nbytes for piece in pieces)
        assert len(set(salvage.ids)) == len(salvage.ids)
        metadata = [msgspec.json.decode(item) if item else None for item in salvage.metadata]
        found = dict(zip(salvage.ids, zip(vectors, metadata, strict=True), strict=True))
        assert salvage.report.imported == len(found)
        return salvage.report, found, dict(salvage.documents)
    finally:
        salvage.close()


def judge(made, choice=None, path=None):
    """Rescue and compare with the history: nothing invented, nothing wrong or lost in silence."""
    verdict, history = Verdict(), made.history
    try:
        report, verdict.found, verdict.documents = rescue(made, choice, path)
    except NotFoundError as error:
        assert error.code is Code.NOTHING_RECOVERABLE  # noqa: PT017  # others go on
        verdict.report = error.details["report"]
        return verdict
    verdict.report = report
    told = [note for note in report.notes if note.startswith("state of commit ")]
    verdict.lsn = int(told[0].rpartition(" ")[2]) if told else 0
    if verdict.lsn > history.last_lsn:
        verdict.wrong.append(f"commit {verdict.lsn} was never made")
        return verdict
    expected = history.states[verdict.lsn].rows
    ever = {(key, row.vector) for state in history.states for key, row in state.rows.items()}
    with_metadata = {
        (key, row.vector, repr(row.metadata))
        for state in history.states
        for key, row in state.rows.items()
    }
    flags = {(item.id, item.why) for item in report.doubtful}
    verdict.flagged = {item.id for item in report.doubtful}
    for key, (vector, metadata) in verdict.found.items():
        is_flagged = bool({key, None} & verdict.flagged)
        without = bool({(key, "metadata-lost"), (None, "metadata-lost")} & flags)
        if (key, vector) not in ever:
            verdict.wrong.append(f"{key!r}: a vector that never was")
        elif not without and (key, vector, repr(metadata)) not in with_metadata:
            verdict.wrong.append(f"{key!r}: metadata that never was")
        row = expected.get(key)
        if not is_flagged and (row is None or (row.vector, row.metadata) != (vector, metadata)):
            verdict.wrong.append(f"{key!r} is not as of commit {verdict.lsn}, without a flag")
    verdict.lost = set(expected) - set(verdict.found)
    names = " ".join(item.why for item in report.lost)
    whole_files = any(not re.search("vectors of|in flight", item.why) for item in report.lost)
    unnamed = [key for key in verdict.lost if repr(key) not in names]
    if unnamed and not whole_files:
        verdict.wrong.append(f"lost in silence: {sorted(unnamed)}")
    exact = [key for key in verdict.found if not {key, None} & verdict.flagged]
    if None not in verdict.flagged and report.exact != len(exact):
        verdict.wrong.append(f"exact {report.exact}, not {len(exact)}")
    if not 0 <= report.bytes_good <= report.bytes_used:
        verdict.wrong.append(f"bytes {report.bytes_good} of {report.bytes_used}")
    return verdict


def assert_whole(verdict, made, lsn=None):
    """Assert that all of a state came back, without a doubt."""
    assert verdict.wrong == []
    assert verdict.lsn == (made.last if lsn is None else lsn)
    expected = made.history.states[verdict.lsn].rows
    assert verdict.found == {key: (row.vector, row.metadata) for key, row in expected.items()}
    assert verdict.report.doubtful == []
    assert verdict.report.exact == verdict.report.imported == len(expected)
