"""Opening every disk that a crash of a `ProtectionRecorder`'s run may leave, and judging the world.

Violations are those of `judging.py`; `half` is also a world between two, and `leaked` is what lies
on the disk afterwards and belongs to nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.crash import enumerate_states
from dvecdb.testing.crash import replay as replay_log
from dvecdb.testing.judging import Sweep, Verdict, Violation, is_false_alarm, judge_commits
from dvecdb.testing.operations import Mark
from dvecdb.testing.protecting import Prospect, ProtectionRecorder, Reached, Root
from dvecdb.testing.recording import Committed, open_on
from dvecdb.testing.worlds import leaks, observe

if TYPE_CHECKING:
    from collections.abc import Collection as Group
    from collections.abc import Mapping, Sequence

    from dvecdb.rescue.database import Database
    from dvecdb.settings import Settings
    from dvecdb.testing.disk import MemoryDisk
    from dvecdb.testing.history import History
    from dvecdb.testing.operations import Operation
    from dvecdb.testing.worlds import World


def judge_prospect(
    disk: MemoryDisk,
    settings: Settings,
    expected: Prospect,
    histories: Mapping[str, History],
    whole: set[object] | None = None,
) -> Verdict:
    """Open the data directory on `disk`, judge all that is there, and close it again.

    whole: takes what trash entries and backups were found whole; the same is not read again.
    """
    verdict = Verdict()
    clock = ManualClock(expected.wall_ns)
    try:
        database = open_on(disk, settings, seed=disk.volume.inode_next, clock=clock)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is a violation
        verdict.wrong.append(Violation("refused", f"open: {error!r}"))
        return verdict
    try:
        world = observe(database, disk)
        verdict.codes = {finding.code for finding in database.findings()}
        verdict.wrong += judge_found(database, disk, world, expected, histories, whole)
        database.close()
        verdict.wrong += [Violation("leaked", path) for path in leaks(disk, world)]
    except Exception as error:  # noqa: BLE001
        verdict.wrong.append(Violation("refused", f"read: {error!r}"))
    return verdict


def judge_found(
    database: Database,
    disk: MemoryDisk,
    world: World,
    expected: Prospect,
    histories: Mapping[str, History],
    whole: set[object] | None = None,
) -> list[Violation]:
    """Judge a world that was found in an open database, and everything in it."""
    wrong = _judge_world(world, expected)
    if wrong:
        return wrong
    wrong += _judge_living(database, world, expected, histories)
    known = set[object]() if whole is None else whole
    return wrong + _judge_kept(database, disk, world, expected, histories, known)


def _judge_world(found: World, expected: Prospect) -> list[Violation]:
    wrong: list[str] = []
    for number, world in enumerate(expected.worlds):
        difference = world.difference(found, is_settled=expected.is_settled and not number)
        if difference is None:
            return []
        wrong.append(difference)
    kept = set.intersection(*(world.lineages for world in expected.worlds))
    kind = "lost" if kept - found.lineages else "half"
    return [Violation(kind, f"none of {len(wrong)} worlds: {'; '.join(wrong)}")]


def _judge_living(
    database: Database, world: World, expected: Prospect, histories: Mapping[str, History]
) -> list[Violation]:
    wrong: list[Violation] = []
    required: dict[str | None, int] = {}
    for name, lineage in world.living.items():
        least = required[name] = expected.required[lineage]
        most = expected.possible[lineage]
        collection = database.collection(name)
        horizon = collection.stats().horizon_lsn
        if horizon > expected.horizons[lineage]:
            wrong.append(Violation("lost", f"{name}: what is older than LSN {horizon}"))
        wrong += judge_commits(collection, least, most, histories[lineage], 2)
    for finding in database.findings():
        if is_false_alarm(finding, required.get(finding.collection, 0)):
            wrong.append(Violation("false-alarm", f"{finding}"))
    return wrong


def _judge_kept(
    database: Database,
    disk: MemoryDisk,
    world: World,
    expected: Prospect,
    histories: Mapping[str, History],
    whole: set[object],
) -> list[Violation]:
    """Judge trash entries and backups, but for those that are in `whole`."""
    wrong: list[Violation] = []
    places = [(".deleted", name, item.lineage, None) for name, item in world.trash.items()]
    copies = [(".backups", name, item.lineage, item.lsn) for name, item in world.backups.items()]
    tree = list(disk.tree().items())
    for parent, name, lineage, lsn in (*places, *copies):
        least = expected.required[lineage] if lsn is None else lsn
        most = expected.possible[lineage] if lsn is None else lsn
        path = f"data/{parent}/{name}/"
        below = [item for item in tree if item[0].startswith(path)]
        key = (parent, name, lineage, least, most, frozenset(below))
        if key in whole:
            continue
        with database.preview(f"{parent}/{name}") as preview:
            found = judge_commits(preview, least, most, histories[lineage], 2)
        wrong += [Violation(item.kind, f"{parent}/{name}: {item.message}") for item in found]
        if not found:
            whole.add(key)
    return wrong


@dataclass(slots=True)
class ProtectionSweep(Sweep):
    """Judges crash states of recordings by a `ProtectionRecorder`, and of recoveries from them.

    minor: share of the states between the operations in question that are judged.
    """

    minor: float = 1.0
    whole: set[object] = field(default_factory=set)

    def explore_worlds(
        self,
        recorder: ProtectionRecorder,
        per_operation: int,
        kinds: Group[str] = (),
        *,
        log: Sequence[Operation] | None = None,
        weak: bool = False,
    ) -> None:
        """Judge the crash states of a recording, or of `log` in its place. kinds: in question."""
        histories, rng = recorder.histories(), self.rng
        log = log or recorder.disk.log
        states = enumerate_states(
            log, recorder.image, per_operation=per_operation, rng=rng, weak=weak
        )
        for state in states:
            kind = recorder.kind_at(state.position)
            if kind not in kinds and rng.random() >= self.minor:
                continue
            self.count(kind, state.disk)
            expected = recorder.prospect(state.position, state.marks)
            before = state.disk.clone()
            verdict = self._judge(state.disk, recorder, expected, histories)
            where = f"{kind} at {state.position}, {state.style}"
            self.note(where, verdict)
            if not verdict.wrong and rng.random() < self.again:
                self.crash_world(before, recorder, expected, where)

    def explore_kills_of_worlds(
        self, recorder: ProtectionRecorder, positions: Sequence[int]
    ) -> None:
        """Kill the recorded process at `positions`, and crash the recoveries."""
        for position in positions:
            log = recorder.disk.log[:position]
            marks = [operation.value for operation in log if isinstance(operation, Mark)]
            disk = replay_log(recorder.image, log)
            expected = recorder.prospect(position, marks)
            where = f"killed in {recorder.kind_at(position)} at {position}"
            self.crash_world(disk, recorder, expected, where)

    def crash_world(
        self, disk: MemoryDisk, recorder: ProtectionRecorder, expected: Prospect, origin: str
    ) -> None:
        """Record a recovery and a write after it, and judge every crash state of that."""
        disk.record = True
        second = ProtectionRecorder(disk, recorder.settings, seed=disk.volume.inode_next)
        second.clock.set_wall(expected.wall_ns)
        self.name_phases(second)
        histories = recorder.histories()
        served = _recover(second, self, histories)
        for state in enumerate_states(disk.log, second.image, per_operation=4, rng=self.rng):
            kind = second.kind_at(state.position)
            self.count(kind, state.disk)
            if any(isinstance(mark, Reached) for mark in state.marks):
                own = second.prospect(state.position, state.marks)
                now = Prospect(
                    own.worlds,
                    {**expected.required, **own.required},
                    {**expected.possible, **own.possible},
                    expected.horizons,
                    expected.wall_ns,
                    is_settled=False,
                )
                verdict = self._judge(state.disk, second, now, served)
            else:
                verdict = self._judge(state.disk, second, expected, histories)
            self.note(f"{origin}; then {kind} at {state.position}, {state.style}", verdict)

    def _judge(
        self,
        disk: MemoryDisk,
        recorder: ProtectionRecorder,
        expected: Prospect,
        histories: Mapping[str, History],
    ) -> Verdict:
        return judge_prospect(disk, recorder.settings, expected, histories, self.whole)


def _recover(
    second: ProtectionRecorder, sweep: Sweep, histories: Mapping[str, History]
) -> dict[str, History]:
    """Open after a crash, write to every collection and close; return what must be there since.

    What was served is promised: the world, and every commit in it.
    """
    database = second.open("recovery")
    second.worlds = [observe(database, second.disk)]
    after = dict(histories)
    for name, lineage in second.world.living.items():
        lsn = int(database.collection(name).stats().last_lsn)
        after[lineage] = histories[lineage].until(lsn)
        second.disk.mark(Committed(lineage, lsn))
        second.roots[lineage] = Root(None, lsn)
    second.disk.mark(Reached(0))
    for name in second.world.living:
        second.write(name, sweep.late, "after recovery")
    second.close()
    for attempt in second.attempts:
        after[attempt.uuid].commit(attempt.action, attempt.lsn)
    return after
