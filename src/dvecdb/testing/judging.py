"""Opening every disk that a crash of a recorded run may leave, and judging what is there.

A violation is one of

    lost         an acknowledged commit, or a collection, is not there or not to the bit
    half         an unacknowledged batch is there in part
    invented     something that nobody wrote
    refused      the directory does not open, or an answer raises
    false-alarm  a finding claims a loss, or damage, where there was only a crash
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import msgspec

from dvecdb.errors import DvecdbError
from dvecdb.testing.crash import enumerate_states
from dvecdb.testing.crash import replay as replay_log
from dvecdb.testing.history import check_reads
from dvecdb.testing.operations import Mark
from dvecdb.testing.recording import Committed, Expectation, Recorder, open_on

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from random import Random

    from dvecdb.engine.collection import Collection
    from dvecdb.records import Finding
    from dvecdb.rescue.database import Database
    from dvecdb.settings import Settings
    from dvecdb.testing.disk import MemoryDisk
    from dvecdb.testing.history import Action, History
    from dvecdb.testing.operations import Operation

NO_LOSS_CODES: Final = frozenset({"torn", "possibly-acknowledged", "orphan-segment"})
"""What a crash alone may leave to say. The first two name commits nobody was promised."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken."""

    kind: str
    message: str


def judge(
    database: Database, expected: Expectation, histories: Mapping[str, History], lsns_max: int = 4
) -> list[Violation]:
    """Compare all that an open database shows with what must and may be there."""
    wrong: list[Violation] = []
    found: set[str] = set()
    required: dict[str | None, int] = {}
    for name in database.collections():
        collection = database.collection(name)
        uuid = collection.stats().uuid
        found.add(uuid)
        promised = expected.required if expected.cut_after is None else expected.cut_after
        required[name] = promised.get(uuid, 0)
        if uuid not in expected.may_exist:
            wrong.append(Violation("invented", f"collection {name!r} ({uuid})"))
            continue
        least = expected.required.get(uuid, 0)
        most = expected.possible.get(uuid, least)
        wrong += judge_commits(collection, least, most, histories[uuid], lsns_max)
    wrong += [Violation("lost", f"collection {uuid}") for uuid in expected.must_exist - found]
    for finding in database.findings():
        if is_false_alarm(finding, required.get(finding.collection, 0)):
            wrong.append(Violation("false-alarm", f"{finding}"))
    return wrong


def judge_commits(
    collection: Collection, required: int, possible: int, history: History, lsns_max: int = 4
) -> list[Violation]:
    """Compare a collection with its history. At least LSN `required` is there, at most `possible`.

    lsns_max: about how many states are read, beside the newest ones.
    """
    stats = collection.stats()
    last = stats.last_lsn
    if last < required:
        return [Violation("lost", f"{stats.name}: {last} of {required} commits")]
    if last > possible:
        return [Violation("invented", f"{stats.name}: commit {last} was never begun")]
    lsns = {last, required, *range(last, -1, -max(1, last // lsns_max))}
    readable = sorted((lsn for lsn in lsns if lsn >= stats.horizon_lsn), reverse=True)
    try:
        wrong = check_reads(collection, history.until(last), readable)
    except DvecdbError as error:
        wrong = str(error)
    if wrong is None:
        return []
    return [Violation("half" if last > required else "lost", f"{stats.name} at {last}: {wrong}")]


def is_false_alarm(finding: Finding, required: int) -> bool:
    """Return whether a finding claims damage or loss where there was only a crash."""
    if finding.code not in NO_LOSS_CODES:
        return True
    after = finding.details.get("after_lsn")
    return isinstance(after, int) and after < required


def trashed_uuids(disk: MemoryDisk) -> frozenset[str]:
    """Return the uuids of the collections in the trash of `disk`, by their collection.json."""
    found: set[str] = set()
    for path, data in disk.tree().items():
        parts = path.split("/")
        if data is not None and parts[-1] == "collection.json" and ".deleted" in parts:
            found.add(msgspec.json.decode(data.partition(b"\n")[0])["uuid"])
    return frozenset(found)


@dataclass(slots=True)
class Verdict:
    """What opening one disk showed. `codes` of findings; `commits`: last LSN by uuid."""

    wrong: list[Violation] = field(default_factory=list)
    codes: set[str] = field(default_factory=set)
    commits: dict[str, int] = field(default_factory=dict)


def judge_disk(
    disk: MemoryDisk, settings: Settings, expected: Expectation, histories: Mapping[str, History]
) -> Verdict:
    """Open the data directory on `disk`, judge all of it and close it again."""
    verdict = Verdict()
    try:
        database = open_on(disk, settings, seed=disk.volume.inode_next)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is a violation
        verdict.wrong.append(Violation("refused", f"open: {error!r}"))
        return verdict
    try:
        for name in database.collections():
            stats = database.collection(name).stats()
            verdict.commits[stats.uuid] = stats.last_lsn
        verdict.codes = {finding.code for finding in database.findings()}
        verdict.wrong += judge(database, expected, histories)
        database.close()
    except Exception as error:  # noqa: BLE001
        verdict.wrong.append(Violation("refused", f"read: {error!r}"))
    missing = expected.created - verdict.commits.keys() | expected.trashed
    if missing:
        gone = sorted(missing - trashed_uuids(disk))
        verdict.wrong += [Violation("lost", f"collection {uuid} is nowhere") for uuid in gone]
    return verdict


@dataclass(slots=True)
class Sweep:
    """Judges crash states of recordings, and of the recoveries from some of them.

    late: the write that is made after a recovery, on every collection.
    name_phases: called with the recorder of a recovery, to have its parts named.
    again: share of the states whose recovery is crashed as well; `again_cut` of those whose
        recovery cuts the end of a log.
    """

    rng: Random
    late: Action
    name_phases: Callable[[Recorder], object]
    again: float = 0.0
    again_cut: float = 0.0
    digests: dict[str, set[int]] = field(default_factory=dict)
    wrong: list[tuple[str, Violation]] = field(default_factory=list)

    @property
    def states(self) -> int:
        """The number of disks judged that differ in their content."""
        return len(set[int]().union(*self.digests.values()))

    def counts(self) -> Counter[str]:
        """Return the number of different disks by what was going on when the power went."""
        return Counter({kind: len(self.digests[kind]) for kind in sorted(self.digests)})

    def __str__(self) -> str:
        found = Counter(violation.kind for _, violation in self.wrong)
        for kind in ("lost", "half", "invented"):
            found[kind] += 0
        return ", ".join([f"states {self.states}", *(f"{kind} {n}" for kind, n in found.items())])

    def explore(
        self,
        recorder: Recorder,
        per_operation: int,
        *,
        log: Sequence[Operation] | None = None,
        image: MemoryDisk | None = None,
        weak: bool = False,
    ) -> None:
        """Judge the crash states of a recording, or of `log` from `image` in its place."""
        histories, rng = recorder.histories(), self.rng
        log, image = log or recorder.disk.log, image or recorder.image
        for state in enumerate_states(log, image, per_operation=per_operation, rng=rng, weak=weak):
            kind = recorder.kind_at(state.position)
            self.count(kind, state.disk)
            expected = recorder.expectation(state.position, state.marks)
            before = state.disk.clone()
            verdict = judge_disk(state.disk, recorder.settings, expected, histories)
            where = f"{kind} at {state.position}, {state.style}"
            self.note(where, verdict)
            share = self.again_cut if "torn" in verdict.codes else self.again
            if not verdict.wrong and rng.random() < share:
                self.crash_recovery(before, recorder, expected, where)

    def explore_kills(self, recorder: Recorder, positions: Sequence[int]) -> None:
        """Kill the recorded process at `positions`, and crash the recoveries."""
        for position in positions:
            log = recorder.disk.log[:position]
            marks = [operation.value for operation in log if isinstance(operation, Mark)]
            disk = replay_log(recorder.image, log)
            expected = recorder.expectation(position, marks)
            self.crash_recovery(disk, recorder, expected, f"killed at {position}")

    def crash_recovery(
        self, disk: MemoryDisk, recorder: Recorder, expected: Expectation, origin: str
    ) -> None:
        """Record a recovery and a write after it, and judge every crash state of that."""
        disk.record = True
        second = Recorder(disk, recorder.settings, seed=disk.volume.inode_next)
        self.name_phases(second)
        served = second.recover(self.late)
        histories = recorder.histories()
        after = {uuid: histories[uuid].until(lsn) for uuid, lsn in served.items()}
        for attempt in second.attempts:
            after[attempt.uuid].commit(attempt.action, attempt.lsn)
        known = frozenset(served)
        for state in enumerate_states(disk.log, second.image, per_operation=4, rng=self.rng):
            kind = second.kind_at(state.position)
            self.count(kind, state.disk)
            own = second.expectation(state.position, state.marks)
            if any(isinstance(mark, Committed) for mark in state.marks):
                now = replace(
                    expected, must_exist=known, may_exist=known, required=own.required,
                    possible={**served, **own.possible}, cut_after=expected.required,
                )  # fmt: skip
                verdict = judge_disk(state.disk, recorder.settings, now, after)
            else:
                verdict = judge_disk(state.disk, recorder.settings, expected, histories)
            self.note(f"{origin}; then {kind} at {state.position}, {state.style}", verdict)

    def count(self, kind: str, disk: MemoryDisk) -> None:
        """Count a disk."""
        self.digests.setdefault(kind, set()).add(disk.volume.digest())

    def note(self, where: str, verdict: Verdict) -> None:
        """Keep what was wrong, and where."""
        self.wrong += [(where, violation) for violation in verdict.wrong]
