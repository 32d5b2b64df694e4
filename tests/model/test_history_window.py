"""The history window against the oracle: every readable state is exact, whatever was dropped.

Random commits, with the clock going on, over settings that flush and merge after a few rows. Every
state from the horizon on is compared in full, before and after compactions and restarts; states
below it are refused; and the horizon is never newer than the window, the bytes or a tag allow.
Then the same over engines that are broken on purpose.
"""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from dvecdb import Database, Settings
from dvecdb.clock import to_datetime
from dvecdb.engine import compaction, contents, horizon
from dvecdb.engine.row_range import RowRange
from dvecdb.errors import Code, DvecdbError
from dvecdb.formats import segment_file as sf
from dvecdb.records import Metric, Schema, VectorType
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.crash import crash, kill
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.model import (
    CollectionModel,
    State,
    check_rows,
    check_snapshot,
    expect,
    expect_equal,
    refusals,
)
from dvecdb.testing.strategies import random_call, random_query

HOUR = 3600
TINY = {
    "wal_reserve_bytes": 16_384, "wal_extend_bytes": 1, "ballast_bytes": 0, "low_water_bytes": 0,
    "idle_marker_ms": 0, "merge_count": 2, "history_hours": 1,
    "settle_seconds": 0,
}  # fmt: skip
CASES = {
    "small merges": Settings(
        bulk_bytes=10_000, flush_bytes=2_000, flush_commits=5, merge_bytes=60_000, **TINY
    ),
    "bulk rows that shrink": Settings(
        bulk_bytes=40, flush_bytes=2_000, flush_commits=3, merge_bytes=1_000_000, **TINY
    ),
    "bulk rows alone": Settings(
        bulk_bytes=40, flush_bytes=2_000, flush_commits=2, merge_bytes=1_000, **TINY
    ),
    "large neighbours": Settings(
        bulk_bytes=80, flush_bytes=100_000, flush_commits=3, merge_bytes=15_000, **TINY
    ),
    "no history": Settings(
        bulk_bytes=60, flush_bytes=1_000, flush_commits=4, merge_bytes=100_000,
        **{**TINY, "history_hours": 0},
    ),
    "few bytes": Settings(
        bulk_bytes=60, flush_bytes=1_000, flush_commits=4, merge_bytes=100_000,
        history_bytes_max=20_000, **{**TINY, "history_hours": 1000},
    ),
}  # fmt: skip
FEW = ("bulk rows alone", "large neighbours")  # many segments: it takes long
SCHEMAS = [
    Schema(3, Metric.EUCLIDEAN, VectorType.FLOAT32),
    Schema(2, Metric.COSINE, VectorType.INT8),
    Schema(5, Metric.DOT_PRODUCT, VectorType.FLOAT16),
]


class Window:
    """A collection, what it must hold, and how far back it must be readable."""

    def __init__(self, seed, settings, schema, *, trusted=True):
        self.rng, self.settings, self.schema = Random(seed), settings, schema
        self.disk, self.clock = MemoryDisk(), ManualClock()
        self.trusted, self.tags, self.told, self.held = trusted, {}, {}, []
        self.horizon, self.dropped = 0, 0
        self.open()
        self.db.create_collection(
            "books",
            dimension=schema.dimension,
            metric=schema.metric,
            vector_type=schema.vector_type,
        )
        self.model = CollectionModel(schema, [State(0, self.clock.wall_ns())])

    def open(self):
        self.db = Database(
            "d", files=self.disk, clock=self.clock, settings=self.settings, background=False
        )
        if not self.trusted:
            object.__setattr__(self.db._environment, "expiry_allowed", lambda: False)

    @property
    def books(self):
        return self.db.collection("books")

    @property
    def view(self):
        return self.books._store.view

    # --- steps ---

    def step(self):
        self.clock.advance(self.rng.choice([0, 1, 60, 300, 900]))
        chosen = self.rng.random()
        if chosen < 0.93:
            self.write()
        elif chosen < 0.95:
            self.books.flush()
        elif chosen < 0.965:
            self.tag()
        elif chosen < 0.98:
            self.hold()
        else:
            self.restart()
        self.check_horizon()

    def write(self):
        call = random_call(self.rng, self.schema, self.model.now)
        wall_ns = self.clock.wall_ns()
        refused = refusals(self.model.now, call.batch, self.horizon)
        try:
            commit = getattr(self.books, call.method)(**call.arguments)
        except DvecdbError as error:
            later = refusals(self.model.now, call.batch, self.view.manifest.horizon_lsn)
            expect(error.code in refused | later, f"{call}: {error!r}")
        else:
            expect(not refused, f"{call} succeeded, expected {refused}")
            self.model.acknowledge(call.batch, commit, wall_ns)

    def tag(self):
        """Name a state by a document, as a tag is kept; or let go of all."""
        self.tags = {} if self.tags else {"mark": self.model.now.lsn}
        value = {"lsn": self.tags["mark"]} if self.tags else None
        wall_ns = self.clock.wall_ns()
        commit = self.books._write("tag", {}, documents={("_tags", "mark"): value}, reserved=True)
        now = self.model.now
        documents = {**now.documents, ("_tags", "mark"): value}
        documents = {name: kept for name, kept in documents.items() if kept is not None}
        expect_equal("LSN", int(commit.lsn), now.lsn + 1)
        hlc = max(now.hlc + 1, wall_ns)
        self.model.states.append(
            State(now.lsn + 1, hlc, now.rows, documents, now.receipts, now.changed)
        )

    def hold(self):
        state = self.rng.choice(self.model.states[self.horizon :])
        self.held = [*self.held[-2:], (self.books.snapshot(as_of=state.lsn), state)]

    def restart(self):
        self.held = []
        chosen = self.rng.random()
        if chosen < 0.5:
            self.db.close()
        else:
            how = kill(self.disk) if chosen < 0.75 else crash(self.disk, self.rng)
            self.db.close()
            self.disk = how
        self.open()

    # --- checks ---

    def check_horizon(self):
        found = self.view.manifest.horizon_lsn
        expect(found >= self.horizon, "the horizon went back")
        if found > self.horizon:
            expect(found <= self.allowed(), f"horizon {found}, allowed {self.allowed()}")
        self.horizon = found

    def allowed(self):
        """Return the newest LSN that may be the horizon now, by age and tags alone."""
        hours = self.settings.history_hours
        if self.settings.history_bytes_max < 10**6 or not hours:
            newest = self.model.now.lsn
        else:
            newest = self.model.at(max(self.clock.wall_ns() - hours * HOUR * 10**9,
                                       self.model.states[0].hlc)).lsn  # fmt: skip
        return min([newest, *self.tags.values()])

    def check(self, at_most=None):
        """Compare every state that can be read, or some of them, by every way to read."""
        states = self.model.states[self.horizon :]
        if at_most is not None:
            states = [states[0], *self.rng.sample(states, min(at_most, len(states))), states[-1]]
        for state in states:
            snapshot = self.books.snapshot(as_of=state.lsn)
            check_snapshot(snapshot, state, self.schema, random_query(self.rng, self.schema), 3)
        for lsn in {0, self.horizon - 1, self.rng.randint(0, self.horizon)}:
            if 0 <= lsn < self.horizon:
                self.refused(lsn)
        for snapshot, state in self.held:
            check_rows(snapshot, state, self.schema)
        self.check_history()
        held = sum(item.rows for item in self.view.row_segments)
        reached = sum(item.row_end - item.first_row for item in self.view.row_segments)
        self.dropped = reached - held
        expect(self.view._covered, "the lookup does not cover the rows")

    def refused(self, lsn):
        """Make sure that a state below the horizon is not read, by LSN or by time."""
        times = [to_datetime(self.model.states[lsn].hlc)]
        if self.model.states[lsn].hlc // 1000 >= self.model.states[self.horizon].hlc // 1000:
            times = []  # both are the same microsecond
        for as_of in (lsn, *times):
            try:
                self.books.snapshot(as_of=as_of)
            except DvecdbError as error:
                expect_equal("code", error.code, Code.AS_OF_UNREADABLE)
            else:
                expect(condition=False, message=f"as of {as_of}: not refused")

    def check_history(self):
        """What was told of a commit once is told for as long as it can be read."""
        commits = self.books.history(limit=10_000)
        lsns = [int(info.lsn) for info in commits]
        expect_equal("history", lsns, list(range(self.model.now.lsn, max(1, self.horizon) - 1, -1)))
        for info in commits:
            expect_equal(f"commit {info.lsn}", info, self.told.setdefault(info.lsn, info))


def run(case, commits, seed=0, every=100):
    """Make `commits` random steps and compare everything every so often; return the window."""
    window = Window(seed, CASES[case], SCHEMAS[seed % len(SCHEMAS)])
    for number in range(1, commits + 1):
        window.step()
        if number % every == 0:
            window.check(at_most=20)
            window.restart()
            window.check(at_most=20)
    window.check()
    window.restart()
    window.check()
    return window


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_state_of_the_window_is_exact_before_and_after_compactions(case):
    seed = list(CASES).index(case)
    window = run(case, 300 if case in FEW else 1_000, seed)
    assert window.horizon > 0
    assert window.dropped > 0


# --- what is broken must be noticed --------------------------------------------------------------

gather, documents_to_keep = contents.gather, contents.documents_to_keep


def drop_without_saying(segments, view, horizon):
    """Rows go, and the horizon stays where it was."""
    return replace(gather(segments, view, horizon), horizon=0)


def drop_one_commit_too_many(segments, view, horizon):
    """Rows of the next commit go as well, and the manifest does not tell."""
    gathered = gather(segments, view, horizon + 1)
    return replace(gathered, horizon=min(gathered.horizon, horizon))


def one_too_high(*arguments):
    return horizon.choose_horizon(*arguments) + 1


def ignore_tags(current, by_age, by_bytes, _tags):
    return horizon.choose_horizon(current, by_age, by_bytes, ())


def forget_ends(segments, parts, view, readable_from):
    """Ends of rows that are still there go with the others."""
    lsns = np.concatenate([segment.ends_lsns for segment in segments])
    ended = np.concatenate([segment.ends_rows for segment in segments])
    stays = lsns >= np.uint64(readable_from)
    return {sf.ENDS_ROWS: ended[stays].tobytes(), sf.ENDS_LSNS: lsns[stays].tobytes()}


def forget_the_newest_version(segments, horizon_lsn):
    kept, needed = documents_to_keep(segments, horizon_lsn)
    return [item for item in kept if item[0] > horizon_lsn], needed


def forget_removals(segments, horizon_lsn):
    """A document that was removed comes back from an older segment."""
    kept, needed = documents_to_keep(segments, horizon_lsn)
    return [item for item in kept if item[1][2] is not None], needed


def count_as_if_dense(self, row_limit):
    return max(0, min(self.rows, row_limit - self.first_row))


BROKEN = {
    "the horizon is not raised": (compaction, "gather", drop_without_saying),
    "visible rows are dropped": (compaction, "gather", drop_one_commit_too_many),
    "the horizon is one too high": (compaction, "choose_horizon", one_too_high),
    "tags hold nothing": (compaction, "choose_horizon", ignore_tags),
    "lookups keep dropped rows": (compaction, "without_rows", lambda runs, _: tuple(runs)),
    "ends of rows that are there are dropped": (contents, "_ends_to_keep", forget_ends),
    "the newest version goes too": (contents, "documents_to_keep", forget_the_newest_version),
    "removed documents come back": (contents, "documents_to_keep", forget_removals),
    "gaps do not count": (RowRange, "count_below", count_as_if_dense),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_window_is_noticed(what, monkeypatch):
    owner, name, broken = BROKEN[what]
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises((AssertionError, DvecdbError, IndexError, ValueError)):
        for seed, case in [(3, "large neighbours"), *enumerate(CASES)]:
            run(case, 200, seed, every=40)


def test_a_clock_that_is_not_trusted_drops_nothing():
    window = Window(1, CASES["small merges"], SCHEMAS[0], trusted=False)
    for _ in range(100):
        window.step()
    window.check()
    assert (window.horizon, window.dropped) == (0, 0)
