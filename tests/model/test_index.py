"""Searches through an index against the oracle: any writes, flushes, compactions and restarts.

The index takes part from a few hundred rows on, and everything about it is small: its steps, its
lists, its base. A search of recall 1.0 equals the oracle. Any other finds nearly all of what it
should, nothing that is not live at its LSN, and every distance is that of the oracle, bit by bit.
Then the same over engines that are broken on purpose.
"""

from dataclasses import dataclass, field, replace
from random import Random

import numpy as np
import pytest

from dvecdb import Database, Settings
from dvecdb.engine import compaction, index, index_build, index_care, narrowed, nearest
from dvecdb.engine.matching import Matching
from dvecdb.engine.rows import live_mask
from dvecdb.records import Metric, Schema, VectorType
from dvecdb.search import ivf, packing, rerank, scattered
from dvecdb.search.exact import exact_distances
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.model import Mismatch, expect

SETTINGS = Settings(
    bulk_bytes=40_000, flush_bytes=30_000, flush_commits=12, merge_bytes=400_000, merge_count=2,
    wal_reserve_bytes=16_384, wal_extend_bytes=1, ballast_bytes=0, low_water_bytes=0,
    idle_marker_ms=0, history_hours=1, settle_seconds=0, guard_percent=100, index_rows_min=200,
)  # fmt: skip
IDS, STEPS, GROUPS = 900, 48, 6
DIMENSIONS = (1, 2, 8, 24, 128, 129, 130)
HOUR = 3_600
RECALL_MIN = 0.9
LOOK = index.Index._look


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(nearest, "_EXACT_BYTES", 0)
    monkeypatch.setattr(nearest, "_SCATTERED", 0)
    monkeypatch.setattr(index_care, "_STEP_BYTES", 1)
    monkeypatch.setattr(index_build, "_BASE_STEP", 100)
    monkeypatch.setattr(index, "_ASKED_BEFORE", 1)  # rows are read, too
    monkeypatch.setattr(ivf, "ROWS_PER_LIST", 60)
    monkeypatch.setattr(narrowed, "ASKED_MIN", 1)


@dataclass
class World:
    """A collection and, for every LSN, what it must hold: rows by id, in the order of writing."""

    schema: Schema
    rng: Random
    disk: MemoryDisk = field(default_factory=MemoryDisk)
    clock: ManualClock = field(default_factory=ManualClock)
    states: dict[int, dict[str, tuple]] = field(default_factory=lambda: {0: {}})
    lsn: int = 0
    recalls: list[float] = field(default_factory=list)
    plans: list[str] = field(default_factory=list)
    held: list = field(default_factory=list)
    own_lists: int = 0

    def __post_init__(self):
        self.numbers = np.random.default_rng(self.rng.getrandbits(32))
        size = (12, self.schema.dimension)
        self.centres = self.numbers.standard_normal(size) * (1 if self.rng.random() < 0.5 else 4)
        self.open()
        self.docs = self.db.create_collection(
            "docs", dimension=self.schema.dimension, metric=self.schema.metric,
            vector_type=self.schema.vector_type,
        )  # fmt: skip

    def open(self):
        self.db = Database(
            "data", files=self.disk, clock=self.clock, settings=SETTINGS, background=False
        )

    def vectors(self, count):
        """Rows around the centres, some of them equal, zero, long or short."""
        near = self.centres[self.numbers.integers(12, size=count)]
        rows = near + 0.4 * self.numbers.standard_normal(near.shape)
        odd = self.rng.random()
        if odd < 0.2:
            rows[: count // 5] = 0
        elif odd < 0.4:
            rows[: count // 5] = rows[0]
        elif odd < 0.5 and self.schema.vector_type is VectorType.FLOAT32:
            rows[:1] *= 1e22
            rows[1:2] *= 1e-22
        if self.schema.vector_type is VectorType.INT8:
            rows = np.clip(np.rint(rows * 20), -128, 127)
        return rows.astype(self.schema.vector_type.dtype)

    def upsert(self):
        count = self.rng.choice([1, 20, 60, 130])
        ids = [f"id {number}" for number in self.rng.sample(range(IDS), count)]
        vectors = self.vectors(count)
        groups = [self.rng.randrange(GROUPS) for _ in ids]
        commit = self.docs.upsert(ids, vectors, [{"g": group} for group in groups])
        rows = dict(self.states[self.lsn])
        for text, vector, group in zip(ids, vectors, groups, strict=True):
            rows.pop(text, None)
            rows[text] = (vector, group)
        self.acknowledge(commit.lsn, rows)

    def delete(self):
        rows = dict(self.states[self.lsn])
        ids = self.rng.sample(sorted(rows), min(len(rows), self.rng.choice([1, 30, 150])))
        if ids:
            commit = self.docs.delete(ids)
            for text in ids:
                del rows[text]
            self.acknowledge(commit.lsn, rows)

    def acknowledge(self, lsn, rows):
        self.lsn = int(lsn)
        self.states[self.lsn] = rows
        self.clock.advance(60)

    def care(self):
        match self.rng.randrange(6):
            case 0:
                self.held = []
                self.db.close()
                self.open()
                self.docs = self.db.collection("docs")
            case 1:
                self.clock.advance(2 * HOUR)
                self.docs.flush()
            case 2 | 3:
                self.docs.flush()
            case 4:
                self.held = [*self.held[-3:], (self.docs.snapshot(), self.lsn)]
            case 5:
                index_care.tend_index(self.docs._store, renew=True)
        if self.rng.random() < 0.3:
            self.docs.wait_for_index(5)
        index_care._narrow(self.docs._store)

    def check(self):
        """Compare searches of now, of the past and of a held snapshot."""
        first = self.docs.stats().horizon_lsn
        past = self.rng.choice([lsn for lsn in self.states if lsn >= first])
        asked = [
            (self.docs.snapshot(), self.lsn),
            (self.docs.snapshot(as_of=past), past),
            *self.held[-1:],
        ]
        self.rng.shuffle(asked)
        for snapshot, lsn in [*asked, (self.docs.snapshot(), self.lsn)]:
            self.search(snapshot, lsn)
            self.check_live(snapshot._searching, lsn)
            self.check_own_lists(snapshot._searching)

    def check_live(self, state, lsn):
        """What an index remembers of an LSN is what the rows themselves say."""
        if state.index is None:
            return
        found = state.index.live(state.view, lsn, state.row_limit)
        fresh = LOOK(state.index, state.view, lsn, state.row_limit)
        expect(found.count == fresh.count, f"{found.count} rows are live at {lsn}")
        if fresh.mask is None:
            expect(found.mask is found.bits is None, "a mask of all rows")
        else:
            expect((found.mask == fresh.mask).all(), f"what is live at {lsn}")
            expect((found.bits == fresh.bits).all(), f"the bits of {lsn}")

    def check_own_lists(self, state):
        """Lists of a filter have every row of the base that a search may find through them."""
        if state.index is None:
            return
        base = packing.take(state.index.codes._base)[2]
        for where, own in state.index.filters._narrowed.items():
            allowed = np.zeros(state.index.places.rows, dtype=np.bool_)
            matching = Matching(state.view, where, state.lsn, state.row_limit)
            for source, count in state.view.sources(min(state.index.row_end, state.row_limit)):
                live = live_mask(source.ends[:count], state.lsn)
                state.index.put(allowed, source, matching.mask(source, count) & live)
            if own.covers((state.lsn, state.row_limit), allowed):
                held = np.isin(base[allowed[base]], packing.take(own.codes._base)[2])
                expect(bool(held.all()), f"lists of {where.tree} lack {(~held).sum()} rows")

    def search(self, snapshot, lsn):
        query = self.vectors(1)[0].astype(np.float32)
        if self.schema.vector_type is not VectorType.INT8:
            query = query + np.float32(0.01)
        where = {"g": self.rng.randrange(GROUPS)} if self.rng.random() < 0.4 else None
        limit = self.rng.choice([1, 10, 10, 10, 40])
        rows = {
            text: vector
            for text, (vector, group) in self.states[lsn].items()
            if where is None or group == where["g"]
        }
        ids = list(rows)
        stored = np.array(list(rows.values())).reshape(len(ids), self.schema.dimension)
        measured = exact_distances(stored, query, self.schema.metric)
        order = np.lexsort((np.arange(len(ids)), measured))[:limit]
        wanted = [(ids[number], measured[number]) for number in order.tolist()]
        exact = snapshot.search(query, limit=limit, where=where, recall=1.0)
        expect([(hit.id, hit.distance) for hit in exact] == wanted, f"exact at {lsn}")
        told = snapshot.search(query, limit=limit, where=where)  # in one call, where it can be
        hits = snapshot.search(query, limit=limit, where=where, explain=True)
        expect(told == hits, "explained, it is another answer")
        few = "matching rows are in the index" in hits.explained.why
        self.plans.append("few" if few else hits.explained.plan)
        self.own_lists += "lists of their own" in hits.explained.why
        places = {text: place for place, text in enumerate(ids)}
        found = []
        for hit in hits:
            expect(hit.id in places, f"{hit.id} is not live at {lsn}, or does not match")
            expect(hit.distance == measured[places[hit.id]], f"distance of {hit.id}")
            found.append((hit.distance, places[hit.id]))
        expect(found == sorted(set(found)), "not in order, or twice")
        expect(len(hits) == len(wanted), f"{len(hits)} hits of {len(wanted)}")
        if wanted and hits.explained.plan != "exact":
            farthest = wanted[-1][1]
            self.recalls.append(sum(hit.distance <= farthest for hit in hits) / len(wanted))

    def run(self):
        for step in range(STEPS):
            self.upsert() if step < 6 or self.rng.random() < 0.7 else self.delete()
            self.care()
            self.check()
        expect(not self.db.findings(), f"{self.db.findings()}")
        self.held = []
        self.db.close()


CASES = [
    Schema(DIMENSIONS[number % len(DIMENSIONS)], metric, vector_type)
    for number, (metric, vector_type) in enumerate(
        (metric, vector_type) for metric in Metric for vector_type in VectorType
    )
]


@pytest.mark.parametrize(
    "schema", CASES, ids=lambda case: f"{case.metric}-{case.vector_type}-{case.dimension}"
)
def test_any_history_is_searched_as_the_oracle_does(schema):
    world = World(schema, Random(f"{schema}"))
    world.run()
    plans = [plan for plan in world.plans if plan != "few"]  # those are measured, by its places
    through = [plan for plan in plans if plan != "exact"]
    print(f"{len(world.plans)} searches, {len(plans)} of many rows, {len(through)} by the index")
    print(f"recall {np.mean(world.recalls):.4f}")
    assert len(through) > len(plans) // 3
    assert "index, filtered" in through
    print(f"{world.own_lists} by lists of a filter")
    assert np.mean(world.recalls) >= RECALL_MIN


# --- controls: each breaks one rule, and must be caught ------------------------------------------


def unchanged(self, newest, view, lsn):
    """What ended since is forgotten."""
    return None if newest is None else replace(newest, lsn=lsn)


def from_any(self, view, lsn, row_limit):
    """The newest state is derived from whatever was asked for first."""
    if self._newest is None or lsn > self._newest.lsn:
        self._newest = self._advance(self._newest, view, lsn) or self._look(view, lsn, row_limit)
    if lsn == self._newest.lsn:
        return self._newest
    return self._look(view, lsn, row_limit)


def everything(self, view, lsn, row_limit):
    """All rows are alive, born or not."""
    return index.LiveRows(lsn, self.places.rows, None, None)


def in_half(rows, query, metric):
    """Distances are not measured in double precision."""
    with np.errstate(over="ignore"):
        return exact_distances(rows.astype(np.float16), query, metric)


def nothing(*_):
    """Rows that the index does not cover are not measured."""
    return []


def without_filter(self, made, prepare=nearest.Nearest._prepare):
    """Every live row matches."""
    matching, self.matching = self.matching, None
    prepare(self, made)
    self.matching = matching


def in_another_order(self, places, array, ordinals, put=scattered.Scattered.put):
    """Rows are measured where others lie."""
    put(self, places, array, ordinals[::-1])


def any_state(self, state, allowed):
    """Lists of a filter serve states that have other rows."""
    return True


def without_some(index, source, chosen, put=packing.put_chosen):
    """Lists of a filter lack rows."""
    put(index, source, chosen & (np.arange(len(chosen)) % 8 > 0))


BROKEN = {
    "lists lack rows": (ivf, "put_chosen", without_some),
    "lists serve any state": (narrowed.Narrowed, "covers", any_state),
    "rows lie elsewhere": (scattered.Scattered, "put", in_another_order),
    "the dead stay": (index.Index, "_advance", unchanged),
    "the newest lack rows": (index.Index, "live", from_any),
    "the unborn are there": (index.Index, "_look", everything),
    "distances are rough": (rerank, "exact_distances", in_half),
    "new rows are not measured": (nearest.Nearest, "_offer_from", nothing),
    "filters are forgotten": (nearest.Nearest, "_prepare", without_filter),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_search_is_noticed(what, monkeypatch):
    monkeypatch.setattr(*BROKEN[what])
    world = World(Schema(24, Metric.EUCLIDEAN, VectorType.FLOAT32), Random(what))
    with pytest.raises(Mismatch):
        world.run()


def test_compaction_drops_rows_of_the_index(monkeypatch):
    """The histories above are only worth something if rows do go."""
    dropped = []
    swap = compaction._swap

    def noted(store, picked, gathered):
        dropped.append(len(gathered.dropped) * (store.index is not None))
        swap(store, picked, gathered)

    monkeypatch.setattr(compaction, "_swap", noted)
    World(Schema(8, Metric.COSINE, VectorType.FLOAT32), Random("dropped")).run()
    assert sum(dropped) > 100
