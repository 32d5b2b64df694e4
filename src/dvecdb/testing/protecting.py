"""Recording what deletes, brings back, copies and undoes whole collections.

A `ProtectionRecorder` notes the world (`worlds.py`) after every part of every operation. A crash
leaves the newest world that was acknowledged, or a later one whose operation had begun, and in it
every collection, trash entry and backup is whole: bit by bit what its history says, at every LSN.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from dvecdb.clock import NANOSECONDS_PER_SECOND
from dvecdb.testing.clocks import START_NS
from dvecdb.testing.history import History
from dvecdb.testing.recording import Attempt, Committed, Recorder
from dvecdb.testing.worlds import Copy, Entry, World, lineages

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dvecdb.protection.collection import Collection
    from dvecdb.records import Backup, Commit
    from dvecdb.testing.history import Action, Tag, Undo


class Reached(NamedTuple):
    """Acknowledged: the world with this number."""

    number: int


class Passed(NamedTuple):
    """The wall clock says this now, nanoseconds."""

    wall_ns: int


class Root(NamedTuple):
    """Where a lineage begins: at this LSN of another one, or of none."""

    origin: str | None
    lsn: int


class Step(NamedTuple):
    """An operation: when it began, and the number of the last world on its way."""

    begun: int
    last: int


@dataclass(frozen=True, slots=True)
class Prospect:
    """What may be found. By lineage, LSNs.

    worlds: the one that was acknowledged last, and those that were on their way.
    required, possible: the last commit at least, and at most; horizons: from where on every state
        must be readable. wall_ns: what the clock says.
    is_settled: everything in the first world was acknowledged.
    """

    worlds: Sequence[World]
    required: Mapping[str, int]
    possible: Mapping[str, int]
    horizons: Mapping[str, int]
    wall_ns: int
    is_settled: bool = True


@dataclass(slots=True)
class ProtectionRecorder(Recorder):
    """Drives a database and notes what is there after each step. One thread makes the steps."""

    worlds: list[World] = field(default_factory=lambda: [World()])
    steps: list[Step] = field(default_factory=list)
    roots: dict[str, Root] = field(default_factory=dict)
    times: dict[tuple[str, int], int] = field(default_factory=dict)

    @property
    def world(self) -> World:
        """What is there now."""
        return self.worlds[-1]

    @contextlib.contextmanager
    def _step(self, kind: str) -> Iterator[list[World]]:
        """Make a step; the block appends the worlds it passed through."""
        begun, passed = self.disk.log_position, list[World]()
        with self.phase(kind):
            yield passed
        self.worlds += passed
        self.steps.append(Step(begun, len(self.worlds) - 1))
        self.disk.mark(Reached(len(self.worlds) - 1))

    def _identity(self, name: str) -> str:
        return self.world.living[name]

    def write(self, name: str, action: Action | Tag, kind: str | None = None) -> Commit:
        """Perform a write and note its acknowledgement. Safe for threads."""
        commit = super(ProtectionRecorder, self).write(name, action, kind)
        self.times.setdefault((self.world.living[name], commit.lsn), self.clock.wall_ns())
        return commit

    def _begin(self, name: str, origin: str | None, lsn: int) -> dict[str, str]:
        """Note the lineage of a new collection and return it by name."""
        lineage = lineages(self.disk)["collections", name]
        self.roots[lineage] = Root(origin, lsn)
        before = [(number, at) for (of, number), at in self.times.items() if of == origin]
        self.times.update({(lineage, number): at for number, at in before if number <= lsn})
        return {name: lineage}

    def _copied(self, backups: Sequence[Backup]) -> dict[str, Copy]:
        """Return those of `backups` that are new."""
        found = lineages(self.disk)
        return {
            item.name: Copy(
                found[".backups", item.name],
                item.collection,
                item.lsn,
                item.reason,
                item.automatic,
            )
            for item in backups
            if item.name not in self.world.backups
        }

    # --- driving ---

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)
        self.disk.mark(Passed(self.clock.wall_ns()))

    def create(self, name: str, dimension: int) -> Collection:
        """Create a collection."""
        with self._step("create") as passed:
            collection = self.database.create_collection(name, dimension=dimension)
            passed.append(self.world.add(living=self._begin(name, None, 0)))
        return collection

    def throw_away(self, name: str, kind: str = "delete", *, note: str | None = None) -> str:
        """Move a collection to the trash; return the name of the entry. note: who and why."""
        before, lineage = set(self.world.trash), self.world.living[name]
        with self._step(kind) as passed:
            self.database.delete_collection(name, actor=note, reason=note)
            (entry,) = {item.name for item in self.database.trash()} - before
            gone = self.world.without(living=[name])
            passed.append(gone.add(trash={entry: Entry(lineage, name, note, note)}))
        return entry

    def restore(self, entry: str, new_name: str | None = None, *, kind: str) -> None:
        """Bring back from the trash or from a backup."""
        with self._step(kind) as passed:
            name = self.database.restore(entry, new_name).name
            thrown, copy = self.world.trash.get(entry), self.world.backups.get(entry)
            if thrown is not None:
                without = self.world.without(trash=[entry])
                passed.append(without.add(living={name: thrown.lineage}))
            else:
                assert copy is not None
                passed.append(self.world.add(living=self._begin(name, copy.lineage, copy.lsn)))

    def backup(
        self, name: str, reason: str, kind: str = "backup", *, independent: bool = False
    ) -> str:
        """Make a backup; return its name."""
        with self._step(kind) as passed:
            made = self.database.collection(name).backup(reason, independent=independent)
            passed.append(self.world.add(backups=self._copied([made])))
        return made.name

    def clone(self, name: str, new_name: str, as_of: int | None, kind: str = "clone") -> None:
        """Make a new collection of a state of another one."""
        with self._step(kind) as passed:
            made = self.database.collection(name).clone(new_name, as_of=as_of)
            origin = self.world.living[name]
            passed.append(self.world.add(living=self._begin(new_name, origin, made.lsn)))

    def undo(self, name: str, change: Undo, kind: str = "undo") -> None:
        """Bring rows back to what they were; there is a backup first."""
        begun, lineage = self.disk.log_position, self.world.living[name]
        with self._step(kind) as passed:
            undone = change.perform(self.database.collection(name))
            passed.append(self.world.add(backups=self._copied(self.database.backups())))
            self.disk.mark(Committed(lineage, undone.lsn))
        self.attempts.append(Attempt(begun, lineage, undone.lsn, change))
        self.times.setdefault((lineage, undone.lsn), self.clock.wall_ns())

    def purge(self, entries: Sequence[str] | None = None, kind: str = "purge") -> None:
        """Delete trash entries for good: these, or all."""
        with self._step(kind) as passed:
            self._gone(self.database.purge(0, names=entries), passed)

    def verify_backup(self, name: str) -> None:
        """Read all of a backup and note when that was."""
        with self.phase("verify backup"):
            assert self.database.verify_backup(name).ok

    def delete_backup(self, name: str) -> None:
        """Delete a backup for good."""
        with self._step("delete backup") as passed:
            self.database.delete_backup(name)
            passed.append(self.world.without(backups=[name]))

    def tend(self, kind: str = "expiry") -> list[str]:
        """Let expire what is due; return the names."""
        with self._step(kind) as passed:
            gone = self.database.tend()
            self._gone(gone, passed)
        return gone

    def _gone(self, gone: Sequence[str], passed: list[World]) -> None:
        """Pass through the worlds without each of `gone`, in order."""
        world = self.world
        for name in gone:
            is_thrown = name in world.trash
            world = world.without(**{"trash" if is_thrown else "backups": [name]})
            passed.append(world)

    def hard_delete(
        self, name: str, kind: str, *, include_backups: bool = False, backup: bool = False
    ) -> None:
        """Delete a collection for good."""
        with self._step(kind) as passed:
            doomed = [item.name for item in self.database.backups(name)]  # newest first, as it goes
            self.database.hard_delete(name, include_backups=include_backups, backup=backup)
            made = self._copied(self.database.backups())
            if made:
                passed.append(self.world.add(backups=made))
            passed.append((passed or [self.world])[-1].without(living=[name]))
            if include_backups:
                passed += [
                    passed[-1].without(backups=doomed[:count])
                    for count in range(1, len(doomed) + 1)
                ]

    # --- judging ---

    def histories(self) -> dict[str, History]:
        """Return the history of every lineage, all attempts included."""
        found: dict[str, History] = {}
        for lineage, root in self.roots.items():
            states = [] if root.origin is None else found[root.origin].states[: root.lsn + 1]
            found[lineage] = history = History(states) if states else History()
            own = [item for item in self.attempts if item.uuid == lineage]
            for attempt in sorted(own, key=lambda item: item.lsn):
                history.commit(attempt.action, attempt.lsn)
        return found

    def prospect(self, position: int, marks: Sequence[object]) -> Prospect:
        """Return what may be found after a crash at `position` after `marks`."""
        required = {lineage: root.lsn for lineage, root in self.roots.items()}
        possible, reached, wall_ns = dict(required), 0, START_NS
        for mark in marks:
            match mark:
                case Committed(lineage, lsn):
                    required[lineage] = max(required.get(lineage, 0), lsn)
                case Reached(number):
                    reached = number
                case Passed(now):
                    wall_ns = now
        for attempt in self.attempts:
            if attempt.begun < position:
                possible[attempt.uuid] = max(possible[attempt.uuid], attempt.lsn)
        begun = [step.last for step in self.steps if step.begun < position]
        worlds = self.worlds[reached : max(begun, default=0) + 1] or [self.worlds[reached]]
        return Prospect(worlds, required, possible, self._horizons(wall_ns), wall_ns)

    def _horizons(self, wall_ns: int) -> dict[str, int]:
        """Return the newest LSN of each lineage that is old enough to be the oldest readable."""
        hours, found = self.settings.history_hours, dict.fromkeys(self.roots, 0)
        for (lineage, lsn), at in self.times.items():
            if at <= wall_ns - hours * 3_600 * NANOSECONDS_PER_SECOND:
                found[lineage] = max(found[lineage], lsn)
        return found
