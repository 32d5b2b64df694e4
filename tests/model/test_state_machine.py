"""The engine against the oracle: any calls, any faults, any crashes, every row compared.

One machine drives the public API over a disk in memory and holds what was acknowledged in plain
dictionaries. It runs with inline maintenance (repeatable) and with the background thread. Then it
runs over disks and engines that are broken on purpose, and must notice.
"""

import contextlib
import errno
import gc
import uuid
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyStrategyDefinition
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dvecdb import Database, Settings
from dvecdb.clock import from_datetime, to_datetime
from dvecdb.engine import (
    index_build,
    index_care,
    nearest,
    recovery,
    resolve,
    rows,
    store,
    wal,
    writes,
)
from dvecdb.errors import Code, DirectoryError, DiskFullError, DvecdbError
from dvecdb.formats.wal_record import FILE_HEADER_SIZE, scan
from dvecdb.search import effort
from dvecdb.testing import strategies
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.crash import crash, kill, replay
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.faults import READING_CALLS, WRITING_CALLS, FailingFiles
from dvecdb.testing.model import (
    CollectionModel,
    Mismatch,
    State,
    check_history,
    check_rows,
    check_snapshot,
    expect,
    expect_equal,
    refusals,
)
from dvecdb.testing.operations import Sync, SyncDirectory
from dvecdb.testing.strategies import (
    Call,
    random_call,
    random_query,
    schemas,
    tiny_settings,
)

PATH = "data"
NAMES = ("a", "Books_20240101_000000")
SEEDS = st.integers(0, 2**32 - 1)

# What an orderly engine may say after a crash or an error. Anything else claims damage.
LEGAL_FINDINGS = {
    "torn",
    "possibly-acknowledged",
    "orphan-segment",
    "waiting-for-space",
    "writes-stopped",
    "fenced-records",
    "recovery-not-rewritten",
}

FINDINGS_OF_ROT = {"manifest-damaged", "manifest-from-log"}


@pytest.fixture(autouse=True)
def small_index(monkeypatch):
    """An index takes part whenever there is one, in steps of a row, and is as good as exact."""
    monkeypatch.setattr(nearest, "_EXACT_BYTES", 0)
    monkeypatch.setattr(nearest, "_SCATTERED", 0)
    monkeypatch.setattr(index_care, "_STEP_BYTES", 1)
    monkeypatch.setattr(index_care, "_STEP_ROWS_MIN", 1)
    monkeypatch.setattr(index_build, "_BASE_STEP", 1)
    monkeypatch.setattr(effort, "DEPTHS", (800,))


@pytest.fixture
def no_index(monkeypatch):
    """What is broken is found by runs that were found to find it; an index makes them others."""
    monkeypatch.setattr(strategies, "_with_index", lambda settings: settings)


def pick(data, items):
    """Return one of `items`, or None if there are none; draws the same in both cases."""
    number = data.draw(st.integers(0, 7))
    return items[number % len(items)] if items else None


class Held(NamedTuple):
    """A snapshot kept over later changes, and what it must show for ever."""

    snapshot: Any
    state: State
    model: CollectionModel


class Engine(RuleBasedStateMachine):
    """A data directory and what must be in it."""

    background = False
    idle_marker_ms = 0

    def make_disk(self) -> MemoryDisk:
        return MemoryDisk()

    @initialize(data=st.data())
    def start(self, data):
        gc.disable()  # space comes back when handles are closed, which must not depend on it
        self.settings: Settings = data.draw(tiny_settings(idle_marker_ms=self.idle_marker_ms))
        self.clock = ManualClock()
        numbers = Random(0)  # the engine must not do anything else the second time
        self.new_uuid = lambda: uuid.UUID(int=numbers.getrandbits(128), version=4)
        self.models: dict[str, CollectionModel] = {}
        self.unsure: dict[str, CollectionModel] = {}  # collections that may or may not exist
        self.keyed: dict[str, list[Call]] = {}
        self.held: list[Held] = []
        self.is_blind = False  # a read failed on purpose: reads may be refused until reopened
        self.may_rot = True  # no manifest was to be damaged yet
        self.is_rotten = False  # a manifest was damaged on purpose
        self.is_faulty = False  # a call failed on purpose since the directory was opened
        self.deletes_when_full = 0
        self.trashed = 0
        self.db: Database | None = None
        self.use(self.make_disk())
        self.open()
        self.create(NAMES[0], data.draw(schemas()))
        self.write(data, data.draw(st.integers(0, 6)))

    # --- the machine's own steps ---

    def use(self, disk: MemoryDisk) -> None:
        self.disk = disk
        self.files = FailingFiles(disk)

    def open(self) -> None:
        """Open without faults: must succeed, and everything must be there."""
        self.disarm()
        self.is_blind = self.is_faulty = False
        self.was_full = self.is_limited  # there may be no room for a log then
        tails = self.tails()
        self.db = self.new_database()
        self.observe()
        self.tails_are_named(tails)

    def new_database(self) -> Database:
        return Database(
            PATH,
            files=self.files,
            clock=self.clock,
            settings=self.settings,
            background=self.background,
            new_uuid=self.new_uuid,
        )

    def abandon(self) -> None:
        """Leave the process. What it still does to its own disk no longer matters."""
        self.disarm()
        if self.db is not None:
            codes = {finding.code for finding in self.db.findings()}
            expect(self.is_faulty or "index-failed" not in codes, "no index could be made")
            self.db.close()
        self.db, self.held = None, []

    def disarm(self) -> None:
        self.is_faulty |= bool(self.files.failed)
        self.is_blind |= bool(READING_CALLS & set(self.files.failed))
        self.files.fail_at = None

    @property
    def has_failed(self) -> bool:
        return self.is_faulty or bool(self.files.failed)

    @property
    def is_limited(self) -> bool:
        return self.disk.capacity_bytes is not None

    def observe(self) -> None:
        """Compare everything after an open, and settle what was in doubt."""
        found = self.db.collections()
        for finding in self.db.findings():
            legal = LEGAL_FINDINGS | (FINDINGS_OF_ROT if self.is_rotten else set())
            expect(finding.code in legal, f"{finding}")
            if finding.code in {"torn", "possibly-acknowledged"} and finding.collection in found:
                after = finding.details["after_lsn"]
                lsn = self.db.collection(finding.collection).snapshot().lsn
                expect(after <= lsn, f"{finding} at LSN {lsn}")
        for name, model in self.unsure.items():
            if name in found:
                self.models[name] = model
        self.unsure = {}
        expect_equal("collections", found, sorted(self.models))
        for name, model in self.models.items():
            collection = self.db.collection(name)
            expect_equal("schema", collection.schema, model.schema)
            model.settle(collection.snapshot(), is_proven=self.is_proven(name))
            query = [1.0] * model.schema.dimension
            check_snapshot(collection.snapshot(), model.now, model.schema, query, 3)
            check_history(collection, model)

    def is_proven(self, name: str) -> bool:
        """Return whether a collection is shown without the warning that a power cut may undo."""
        codes = {finding.code for finding in self.db.collection(name).findings()}
        return "recovery-not-rewritten" not in codes

    def tails(self) -> dict[str, tuple[str, Any]]:
        """Return for each collection its newest log and what is in it."""
        found = {}
        for path, content in self.disk.tree().items():
            parts = path.split("/")
            if parts[-2:-1] == ["wal"] and parts[1] == "collections" and content is not None:
                found[parts[2]] = parts[-1], scan(content)  # in order: the last one stays
        return found

    def tails_are_named(self, tails) -> None:
        """Whatever lay in a log after the newest commit must be named."""
        for name in self.models:
            if self.was_full or name not in tails:
                continue
            log, records = tails[name]
            lsn = self.models[name].now.lsn
            counted = [item.end for item in records.records if item.head.lsn <= lsn]
            if records.used_bytes > max(counted, default=FILE_HEADER_SIZE):
                findings = self.db.collection(name).findings()
                named = [item for item in findings if item.where.startswith(f"wal/{log} ")]
                expect(named, f"a tail of wal/{log} of {name} is not named")

    def attempt(self, action: Callable[[], Any], *allowed: Code) -> Any:
        """Return what `action` returns, or the code with which it failed, which must be allowed."""
        try:
            return action()
        except DvecdbError as error:
            codes = set(allowed)
            if self.has_failed:
                codes |= {Code.OUTCOME_UNKNOWN, Code.WRITES_STOPPED, Code.DISK_FULL}
            if self.has_failed and READING_CALLS & set(self.files.failed):
                codes |= {Code.DAMAGED_DATA, Code.FENCED}
            if self.is_limited or self.was_full:
                codes.add(Code.DISK_FULL)
            expect(error.code in codes, f"unexpected: {error!r} ({error})")
            return error.code

    def perform(self, name: str, call: Call) -> None:
        """Make a call; compare its answer, and note what it means."""
        model, wall_ns = self.models[name], self.clock.wall_ns()
        collection = self.db.collection(name)
        # It may be raised until the call is resolved.
        before = refusals(model.now, call.batch, collection.stats().horizon_lsn)
        newest = refusals(model.now, call.batch, self.allowed_horizon(model))
        found = self.attempt(
            lambda: getattr(collection, call.method)(**call.arguments), *before, *newest
        )
        if not isinstance(found, Code):
            refused = before & newest
            expect(not refused, f"{call} succeeded, expected {refused}")
            model.acknowledge(call.batch, found, wall_ns)
        elif found is Code.OUTCOME_UNKNOWN or (found is Code.FENCED and model.doubt is None):
            expect(self.has_failed, f"{call}: {found} without a fault")
            model.doubtful(call.batch, wall_ns)
        elif found is Code.WRITES_STOPPED:
            expect(self.has_failed, f"{call}: {found} without a fault")
        elif found is Code.DISK_FULL and not call.batch.vectors and not call.batch.updates:
            excused = self.has_failed or self.was_full or self.deletes_when_full > 8
            expect(excused, f"{call}: {found}")

    def allowed_horizon(self, model: CollectionModel) -> int:
        """Return the newest LSN below which the past may be gone."""
        hours = self.settings.history_hours
        if not hours:
            return model.now.lsn
        moment = self.clock.wall_ns() - hours * 3600 * 10**9
        return model.at(moment).lsn if moment >= model.states[0].hlc else 0

    def horizon(self, name: str) -> int:
        """Return the oldest readable LSN; the past before it must be old enough to be gone."""
        model, found = self.models[name], self.db.collection(name).stats().horizon_lsn
        if not self.is_rotten:  # of a damaged manifest the one before is taken, and its rows
            expect(found >= model.horizon, f"the horizon went back from {model.horizon} to {found}")
        if found > model.horizon:
            newest = self.allowed_horizon(model)
            expect(found <= newest, f"horizon {found}, but {newest} must be readable")
        model.horizon = found
        return found

    def create(self, name: str, schema) -> None:
        model = CollectionModel(schema, [State(0, self.clock.wall_ns())])
        found = self.attempt(
            lambda: self.db.create_collection(
                name,
                dimension=schema.dimension,
                metric=schema.metric,
                vector_type=schema.vector_type,
            )
        )
        if not isinstance(found, Code):
            self.models[name] = model
        elif found is Code.OUTCOME_UNKNOWN:
            self.unsure[name] = model
        self.keyed[name] = []

    def crash(self, disk: MemoryDisk, seed: int) -> MemoryDisk:
        """Return what a power cut leaves of the disk."""
        for model in (*self.models.values(), *self.unsure.values()):
            model.cut_power()
        return crash(disk, Random(seed))

    def remove(self, name: str) -> None:
        found = self.attempt(lambda: self.db.delete_collection(name, reason="a test"))
        if found is None:
            del self.models[name]
            self.trashed += 1
        elif found is Code.OUTCOME_UNKNOWN:
            self.unsure[name] = self.models.pop(name)
        else:
            expect(self.has_failed, f"delete_collection: {found}")

    def cut_during(self, action: Callable[[], None], seed: int) -> bool:
        """Run `action`, then go back to a disk that a power cut or a kill in its midst leaves.

        seed: where the cut is, and what it leaves.
        Return whether it was done by then. If not, the model is as it was before.
        """
        before = {name: model.fork() for name, model in self.models.items()}
        unsure = dict(self.unsure)
        with self.disk._lock:
            image, start = self.disk.clone(), self.disk.log_position
        disk = self.disk
        action()
        log = disk.log[start:]
        rng = Random(seed)
        position = rng.randint(0, len(log))
        self.abandon()
        is_done = position == len(log)
        if not is_done:
            self.models, self.unsure = before, unsure
        midst = replay(image, log, position)
        midst = self.crash(midst, rng.getrandbits(32)) if rng.random() < 0.5 else kill(midst)
        self.use(midst)
        return is_done

    # --- rules: writing ---

    # What is drawn never depends on what the engine did: a run can be repeated draw by draw even
    # where a thread, or a fault, made it take another way.

    def draw_name(self, data) -> str | None:
        return pick(data, sorted(self.models))

    def draw_call(self, data) -> tuple[str, Call | None]:
        name, seed = self.draw_name(data), data.draw(SEEDS)
        if name is None:
            return "", None
        model = self.models[name]
        call = random_call(Random(seed), model.schema, model.now)
        note(f"{name}: {call!r}")
        if call.batch.key is not None:
            self.keyed[name].append(call)
        if self.is_limited and not call.batch.vectors and not call.batch.updates:
            self.deletes_when_full += 1
        return name, call

    @rule(data=st.data(), count=st.integers(1, 6))
    def write(self, data, count):
        for _ in range(count):
            name, call = self.draw_call(data)
            if call is not None:
                self.perform(name, call)

    @rule(data=st.data(), count=st.integers(1, 6))
    def write_more(self, data, count):
        self.write(data, count)

    @rule(data=st.data(), count=st.integers(1, 6))
    def write_and_read(self, data, count):
        self.write(data, count)
        self.rows_are_those_acknowledged()

    @rule(data=st.data())
    def repeat(self, data):
        """Make a call with an idempotency key again: after errors, reopening and crashes too."""
        name = self.draw_name(data)
        call = pick(data, self.keyed.get(name, []))
        if call is not None:
            self.perform(name, call)

    @rule(data=st.data())
    def flush(self, data):
        name = self.draw_name(data)
        if name is not None:
            self.attempt(self.db.collection(name).flush)

    @rule(data=st.data())
    def create_collection(self, data):
        name = data.draw(st.sampled_from([*NAMES, NAMES[1].lower()]))
        schema = data.draw(schemas())
        taken = {other.lower() for other in [*self.models, *self.unsure]}
        if name.lower() not in taken:
            self.create(name, schema)
        elif name in self.models:
            found = self.attempt(
                lambda: self.db.create_collection(name, dimension=2), Code.COLLECTION_EXISTS
            )
            expect(isinstance(found, Code), f"{name} was created twice")

    @rule(data=st.data())
    def delete_collection(self, data):
        name, again = self.draw_name(data), data.draw(st.booleans())
        if name is None:
            return
        collection, schema = self.db.collection(name), self.models[name].schema
        self.remove(name)
        if name not in self.models and name not in self.unsure:
            with pytest.raises(DvecdbError) as caught:
                collection.count()
            expect_equal("code", caught.value.code, Code.COLLECTION_DELETED)
            if again:
                self.create(name, schema)

    # --- rules: reading ---

    @rule(data=st.data())
    def read(self, data):
        name, number, limit = self.draw_name(data), data.draw(SEEDS), data.draw(st.integers(1, 5))
        if name is None or self.is_blind:
            return
        model, collection = self.models[name], self.db.collection(name)
        horizon = self.horizon(name)
        state = model.states[horizon + number % (len(model.states) - horizon)]
        query = random_query(Random(number), model.schema)
        snapshot = self.attempt(lambda: collection.snapshot(as_of=state.lsn), Code.AS_OF_UNREADABLE)
        if isinstance(snapshot, Code):
            expect(self.horizon(name) > state.lsn, f"as of {state.lsn}: refused")
            return
        check_snapshot(snapshot, state, model.schema, query, limit)
        check_snapshot(collection.snapshot(), model.now, model.schema, query, limit)
        if len(self.held) < 4:
            self.held.append(Held(snapshot, state, model))

    @rule(data=st.data())
    def read_held(self, data):
        held, number = pick(data, self.held), data.draw(SEEDS)
        if held is None or self.is_blind:
            return
        query = random_query(Random(number), held.model.schema)
        check_snapshot(held.snapshot, held.state, held.model.schema, query, 2)

    @rule(data=st.data(), microseconds=st.integers(-3, 3))
    def read_at_time(self, data, microseconds):
        name, number = self.draw_name(data), data.draw(SEEDS)
        if name is None or self.is_blind:
            return
        model, collection = self.models[name], self.db.collection(name)
        near = model.states[number % len(model.states)].hlc + microseconds * 1000
        moment = to_datetime(near)
        nanoseconds = from_datetime(moment)
        latest = max(model.now.hlc, self.clock.wall_ns())
        before = model.states[self.horizon(name)].hlc
        found = self.attempt(lambda: collection.snapshot(as_of=moment), Code.AS_OF_UNREADABLE)
        after = model.states[self.horizon(name)].hlc
        if isinstance(found, Code):
            expect(not after <= nanoseconds <= latest, f"as of {moment}: refused")
        else:
            expect(before <= nanoseconds <= latest, f"as of {moment}: not refused")
            check_rows(found, model.at(nanoseconds), model.schema)

    @rule()
    def read_beside(self):
        """A read-only process beside the writer: any state that was synced, and no change."""
        with self.new_database_read_only() as reader:
            for name in reader.collections():
                model = self.models.get(name)
                if model is None:
                    continue
                snapshot = reader.collection(name).snapshot()
                expect(snapshot.lsn <= model.now.lsn, f"{name}: sees what is not synced")
                if not self.has_failed:
                    expect(snapshot.lsn >= model.now.lsn - 1, f"{name}: far behind")
                query = [1.0] * model.schema.dimension
                check_snapshot(snapshot, model.states[snapshot.lsn], model.schema, query, 2)
            missing = set(self.models) - set(reader.collections())
            expect(self.has_failed or not missing, f"{missing} cannot be read beside the writer")

    def new_database_read_only(self) -> Database:
        return Database(PATH, files=self.disk, clock=self.clock, settings=self.settings,
                        read_only=True)  # fmt: skip

    @rule(seconds=st.sampled_from([0.000_000_5, 0.001, 2.0, 100_000.0]))
    def pass_time(self, seconds):
        self.clock.advance(seconds)

    @rule(seconds=st.integers(1, 10))
    def set_clock_back(self, seconds):
        self.clock.set_wall(self.clock.wall_ns() - seconds * 10**9)

    # --- rules: going down and coming back ---

    @rule(look=st.booleans())
    def reopen(self, look):
        self.abandon()
        if look:
            before = self.disk.log_position
            with self.new_database_read_only() as reader:
                for name, model in self.models.items():
                    if name not in self.unsure and model.doubt is None:
                        check_history(reader.collection(name), model)
            changes = [
                operation
                for operation in self.disk.log[before:]
                if not isinstance(operation, Sync | SyncDirectory)
            ]
            expect_equal("changes by a reader", changes, [])
        self.open()

    @rule(seed=SEEDS)
    def cut_power(self, seed):
        disk = self.crash(self.disk, seed)
        self.abandon()
        self.use(disk)
        self.open()

    @rule()
    def kill_process(self):
        disk = kill(self.disk)
        self.abandon()
        self.use(disk)
        self.open()

    @rule(data=st.data(), cut=SEEDS)
    def cut_during_write(self, data, cut):
        name, call = self.draw_call(data)
        wall_ns = self.clock.wall_ns()
        if call is None:
            return
        is_done = self.cut_during(lambda: self.perform(name, call), cut)
        model = self.models[name]
        if not is_done and model.doubt is None:
            model.doubtful(call.batch, wall_ns)
        self.open()

    @rule(data=st.data(), cut=SEEDS)
    def cut_during_flush(self, data, cut):
        name = self.draw_name(data)
        if name is not None:
            collection = self.db.collection(name)
            self.cut_during(lambda: self.attempt(collection.flush), cut)
            self.open()

    @rule(data=st.data(), cut=SEEDS)
    def cut_during_removal(self, data, cut):
        name = self.draw_name(data)
        if name is None:
            return
        if not self.cut_during(lambda: self.remove(name), cut):
            self.unsure[name] = self.models.pop(name)
        self.open()

    @rule(data=st.data(), cut=SEEDS)
    def cut_during_creation(self, data, cut):
        taken = {other.lower() for other in [*self.models, *self.unsure]}
        schema, wall_ns = data.draw(schemas()), self.clock.wall_ns()
        for name in NAMES:
            if name.lower() not in taken:
                if not self.cut_during(lambda: self.create(name, schema), cut):  # noqa: B023
                    self.unsure[name] = CollectionModel(schema, [State(0, wall_ns)])
                self.open()
                return

    @rule(data=st.data(), close=st.booleans(), cuts=st.lists(SEEDS, min_size=1, max_size=2))
    def cut_during_recovery(self, data, close, cuts):
        disk = self.disk
        if not close:
            disk = self.crash(disk, data.draw(SEEDS)) if data.draw(st.booleans()) else kill(disk)
        self.abandon()
        self.use(kill(disk))
        for cut in cuts:
            self.cut_during(self.open, cut)
        self.open()

    # --- rules: faults ---

    @rule(
        within=st.integers(1, 12),
        error=st.sampled_from([errno.EIO, errno.ENOSPC]),
        once=st.booleans(),
        before=st.booleans(),
        partial_bytes=st.sampled_from([0, 1, 700]),
    )
    def fail_writing(self, within, error, once, before, partial_bytes):
        """Make the k-th of the next calls that change the disk fail, or all from there."""
        self.arm(WRITING_CALLS, within, error, once=once)
        self.files.before, self.files.partial_bytes = before, partial_bytes

    @precondition(lambda self: not self.background)
    @rule(within=st.integers(1, 12))
    def fail_reading(self, within):
        self.arm(READING_CALLS, within, errno.EIO, once=True)

    def arm(self, operations, within: int, error: int, *, once: bool) -> None:
        self.disarm()
        self.files.operations, self.files.error, self.files.once = operations, error, once
        self.files.before, self.files.partial_bytes = True, 0
        self.files.fail_at = self.files.calls + within

    @rule(
        within=st.integers(1, 60),
        error=st.sampled_from([errno.EIO, errno.ENOSPC]),
        once=st.booleans(),
        how=st.sampled_from(["close", "kill", "cut"]),
        seed=SEEDS,
        cut_after=st.booleans(),
    )
    def fail_recovery(self, within, error, once, how, seed, cut_after):
        """A call fails while the directory is opened; the next open finds everything."""
        rng, disk = Random(seed), self.disk
        if how != "close":
            disk = self.crash(disk, rng.getrandbits(32)) if how == "cut" else kill(disk)
        self.abandon()
        self.use(kill(disk))
        self.arm(READING_CALLS | WRITING_CALLS, within, error, once=once)
        with contextlib.suppress(DirectoryError, DiskFullError):
            self.db = self.new_database()
            self.settle_what_is_served()
        disk = self.disk
        if cut_after:
            disk = self.crash(disk, rng.getrandbits(32))
        self.abandon()
        self.use(kill(disk))
        self.open()

    def settle_what_is_served(self) -> None:
        """What a reader has seen must stay, also if the open that showed it had failing calls."""
        self.disarm()
        for name in self.db.collections():
            model = self.models.get(name) or self.unsure.get(name)
            expect(model is not None, f"{name} should not exist")
            self.models[name] = model
            self.unsure.pop(name, None)
            snapshot = self.db.collection(name).snapshot()
            model.settle(snapshot, is_proven=self.is_proven(name))
            if not self.is_blind:
                check_rows(self.db.collection(name).snapshot(), model.now, model.schema)

    @precondition(lambda self: self.may_rot)
    @rule(data=st.data())
    def damage_newest_manifest(self, data):
        """The newest manifest rots while the directory is closed. It costs nothing.

        Only a log has a copy of it, so not where there was no room for one.
        """
        name, self.may_rot = self.draw_name(data), False
        if name is None or not self.db.collection(name).stats().wal_bytes:
            return
        folder = f"{PATH}/collections/{name}/manifests/"
        self.abandon()
        path = max(path for path in self.disk.tree() if path.startswith(folder))
        self.disk.damage(path, self.disk.read_path(path)[:-100])
        self.is_rotten = True
        self.open()

    # --- rules: space ---

    @precondition(lambda self: not self.is_limited)
    @rule(blocks=st.integers(0, 12))
    def fill_disk(self, blocks):
        self.disk.capacity_bytes = (self.disk._used_blocks + blocks) * 4096
        self.deletes_when_full = 0

    @precondition(lambda self: self.is_limited)
    @rule()
    def free_space(self):
        self.disk.capacity_bytes = None

    # --- always ---

    @invariant()
    def rows_are_those_acknowledged(self):
        if getattr(self, "db", None) is None:
            return
        self.is_blind |= bool(READING_CALLS & set(self.files.failed))
        if self.is_blind:
            return
        armed, self.files.fail_at = self.files.fail_at, None
        calls_before = self.files.calls
        for name, model in self.models.items():
            check_rows(self.db.collection(name).snapshot(), model.now, model.schema)
        self.files.calls, self.files.fail_at = calls_before, armed

    def teardown(self):
        gc.enable()
        if getattr(self, "db", None) is not None:
            self.abandon()
            self.disk.capacity_bytes = None
            self.open()
            self.abandon()


class EngineInBackground(Engine):
    """The same with the maintenance thread."""

    background = True
    idle_marker_ms = 1


def budget(share: int, steps: int) -> settings:
    """Return the profile's settings with one `share`-th of its examples, `steps` long."""
    profile = settings()
    return settings(
        profile, max_examples=max(1, profile.max_examples // share), stateful_step_count=steps
    )


@pytest.mark.slow
@pytest.mark.crash
def test_engine_holds_what_it_acknowledged():
    run_state_machine_as_test(Engine, settings=budget(4, 30))


@pytest.mark.slow
@pytest.mark.crash
def test_engine_holds_what_it_acknowledged_with_its_thread():
    """A thread makes some runs go another way when repeated; that alone fails nothing."""
    with contextlib.suppress(FlakyStrategyDefinition):
        run_state_machine_as_test(EngineInBackground, settings=budget(15, 30))


# --- the machine must notice what is broken -------------------------------------------------------

CONTROL = settings(
    max_examples=1_000,  # it ends with the first one that notices
    stateful_step_count=25,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


class EngineOnLyingDisk(Engine):
    """A disk that says it synced a file, and did not."""

    def make_disk(self) -> MemoryDisk:
        return MemoryDisk(drop_syncs=True)


class EngineOnForgetfulDisk(Engine):
    """A disk that says it synced a directory, and did not."""

    def make_disk(self) -> MemoryDisk:
        return MemoryDisk(drop_directory_syncs=True)


@pytest.mark.usefixtures("no_index")
@pytest.mark.crash
@pytest.mark.parametrize("machine", [EngineOnLyingDisk, EngineOnForgetfulDisk])
def test_disk_that_lies_is_noticed(machine):
    with pytest.raises(Mismatch):
        run_state_machine_as_test(machine, settings=CONTROL)


def sync_nothing(log) -> None:
    log.syncs += 1
    log.durable_lsn = log.last_lsn


def refuse_nothing(*_) -> None:
    pass


def keep_the_first(write) -> None:
    """A repeated id: the first one wins."""
    first = {text: index for index, text in reversed(list(enumerate(write.ids)))}
    kept = sorted(first.values())
    write.vectors = write.vectors[kept]
    write.ids = [write.ids[index] for index in kept]
    if write.metadata is not None:
        write.metadata = [write.metadata[index] for index in kept]


def live_until_too_late(ends, lsn):
    """A row is still seen at the LSN that ended it."""
    return (ends - np.uint64(1)) >= np.uint64(max(lsn - 1, 0))


BROKEN = {
    "the log is not synced": (wal.Wal, "sync", sync_nothing),
    "replay ignores ends": (recovery, "apply_ends", refuse_nothing),
    "ends are not applied": (store, "apply_ends", refuse_nothing),
    "rows live one commit longer": (rows, "live_mask", live_until_too_late),
    "the first of repeated ids wins": (writes, "_settle_duplicates", keep_the_first),
    "keys are forgotten": (resolve, "_replay", refuse_nothing),
    "conditions are not checked": (resolve, "_check_expected", refuse_nothing),
    "inserts replace": (resolve, "_refuse_existing", refuse_nothing),
    "changed rows are overwritten": (resolve, "_check_unchanged", refuse_nothing),
    "cut tails are not named": (recovery._Recovery, "_keep_tail", refuse_nothing),
}


@pytest.mark.usefixtures("no_index")
@pytest.mark.crash
@pytest.mark.parametrize("what", BROKEN)
def test_broken_engine_is_noticed(what, monkeypatch):
    owner, name, broken = BROKEN[what]
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises((AssertionError, DvecdbError)):
        run_state_machine_as_test(Engine, settings=CONTROL)


def warn_and_not_rewrite(self, store, *_) -> None:
    """The warning is always given, and nothing is done."""
    self._not_rewritten(store)


@pytest.mark.usefixtures("no_index")
@pytest.mark.crash
def test_the_warning_excuses_no_loss_of_an_acknowledged_write(monkeypatch):
    monkeypatch.setattr(wal.Wal, "sync", sync_nothing)
    monkeypatch.setattr(recovery._Recovery, "_rewrite", warn_and_not_rewrite)
    with pytest.raises(Mismatch):
        run_state_machine_as_test(Engine, settings=CONTROL)
