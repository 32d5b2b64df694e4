"""Recording what an engine was asked, promised and did, so that crashes can be judged.

A `Recorder` drives a `Database` on a `MemoryDisk`. It notes in the disk's log what was
acknowledged, and beside it what was begun and under which name (`phase`). For any crash state
`expectation` then says what must be there, what may be there, and nothing else:

    begun <= position < acknowledged    all of it, or nothing
    acknowledged                        there, to the bit, at every LSN
    never begun                         not there
"""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from dvecdb.rescue.database import Database
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.history import History

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from dvecdb.clock import Clock
    from dvecdb.protection.collection import Collection
    from dvecdb.records import Commit
    from dvecdb.settings import Settings
    from dvecdb.testing.disk import MemoryDisk
    from dvecdb.testing.history import Action, Tag, Undo

PATH: Final = "/data"


def seeded_uuids(seed: int) -> Callable[[], UUID]:
    """Return a source of uuids that is the same in every run."""
    rng = random.Random(seed)
    return lambda: UUID(int=rng.getrandbits(128), version=4)


def open_on(
    disk: MemoryDisk,
    settings: Settings,
    *,
    seed: int = 0,
    read_only: bool = False,
    clock: Clock | None = None,
) -> Database:
    """Open the data directory on `disk` without background work."""
    return Database(
        PATH, files=disk, clock=clock or ManualClock(), settings=settings,
        new_uuid=seeded_uuids(seed), background=False, read_only=read_only,
    )  # fmt: skip


class Committed(NamedTuple):
    """Acknowledged: this LSN of the collection with this uuid, or of the lineage with it."""

    uuid: str
    lsn: int


class Counted(NamedTuple):
    """Acknowledged: the `number`-th creation or deletion of a collection."""

    number: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """A write: when it began, and what it became."""

    begun: int
    uuid: str
    lsn: int
    action: Action | Tag | Undo


@dataclass(frozen=True, slots=True)
class Passage:
    """A creation (or deletion) of a collection: when it began and of which uuid."""

    begun: int
    uuid: str
    name: str
    is_creation: bool


@dataclass(frozen=True, slots=True)
class Expectation:
    """What must and what may be found. By collection uuid."""

    must_exist: frozenset[str]
    may_exist: frozenset[str]
    trashed: frozenset[str]  # must be in the trash
    created: frozenset[str]  # must be in one of both
    required: Mapping[str, int]  # LSN promised
    possible: Mapping[str, int]  # newest LSN that was begun
    cut_after: Mapping[str, int] | None = None  # LSN promised at an earlier crash; `required`


@dataclass(slots=True)
class Recorder:
    """Drives a database and notes what it was asked and what it promised."""

    disk: MemoryDisk
    settings: Settings
    image: MemoryDisk = field(init=False)
    attempts: list[Attempt] = field(default_factory=list)
    passages: list[Passage] = field(default_factory=list)
    spans: list[tuple[str, int, int]] = field(default_factory=list)
    seed: int = 0
    clock: ManualClock = field(default_factory=ManualClock)
    _database: Database | None = None

    def __post_init__(self) -> None:
        """Remember the disk as it is before everything."""
        self.image = self.disk.clone()

    @contextlib.contextmanager
    def phase(self, kind: str) -> Iterator[None]:
        """Say what is going on; the innermost name counts."""
        start = self.disk.log_position
        try:
            yield
        finally:
            self.spans.append((kind, start, self.disk.log_position))

    def kind_at(self, position: int) -> str:
        """Return what was going on in the operation before `position`."""
        around = [(end - start, kind) for kind, start, end in self.spans if start < position <= end]
        return min(around)[1] if around else "between"

    # --- driving ---

    def open(self, kind: str = "open") -> Database:
        """Open the data directory."""
        self.seed += 1
        with self.phase(kind):
            self._database = open_on(self.disk, self.settings, seed=self.seed, clock=self.clock)
        return self._database

    @property
    def database(self) -> Database:
        """The open database."""
        assert self._database is not None
        return self._database

    def close(self) -> None:
        """Close in order."""
        with self.phase("close"):
            self.database.close()

    def create(self, name: str, dimension: int) -> Collection:
        """Create a collection."""
        begun = self.disk.log_position
        with self.phase("create_collection"):
            collection = self.database.create_collection(name, dimension=dimension)
        self._passed(Passage(begun, collection.stats().uuid, name, is_creation=True))
        return collection

    def delete(self, name: str) -> None:
        """Delete a collection."""
        begun, uuid = self.disk.log_position, self.database.collection(name).stats().uuid
        with self.phase("delete_collection"):
            self.database.delete_collection(name)
        self._passed(Passage(begun, uuid, name, is_creation=False))

    def recover(self, late: Action) -> dict[str, int]:
        """Open after a crash, write `late` to every collection and close.

        Returns the last LSN that was served at first, by uuid. What was served is promised.
        """
        database = self.open("recovery")
        served = {}
        for name in database.collections():
            stats = database.collection(name).stats()
            served[stats.uuid] = int(stats.last_lsn)
        for uuid, lsn in served.items():
            self.disk.mark(Committed(uuid, lsn))
        for name in database.collections():
            self.write(name, late, "after recovery")
        self.close()
        return served

    def _passed(self, passage: Passage) -> None:
        self.passages.append(passage)
        self.disk.mark(Counted(len(self.passages)))

    def write(self, name: str, action: Action | Tag, kind: str | None = None) -> Commit:
        """Perform a write and note its acknowledgement. Safe for threads."""
        collection = self.database.collection(name)
        begun, uuid = self.disk.log_position, self._identity(name)
        with self.phase(kind or action.operation):
            commit = action.perform(collection)
        self.disk.mark(Committed(uuid, commit.lsn))
        self.attempts.append(Attempt(begun, uuid, commit.lsn, action))
        return commit

    def _identity(self, name: str) -> str:
        """Return what tells this collection's commits from those of others."""
        return self.database.collection(name).stats().uuid

    # --- judging ---

    def histories(self) -> dict[str, History]:
        """Return the history of every collection by uuid, all attempts included."""
        found = {passage.uuid: History() for passage in self.passages if passage.is_creation}
        for attempt in sorted(self.attempts, key=lambda item: item.lsn):
            found[attempt.uuid].commit(attempt.action, attempt.lsn)
        return found

    def expectation(self, position: int, marks: Sequence[object]) -> Expectation:
        """Return what must hold of a crash at `position` after `marks`."""
        required: dict[str, int] = {}
        counted = 0
        for mark in marks:
            match mark:
                case Committed(uuid, lsn):
                    required[uuid] = max(required.get(uuid, 0), lsn)
                case Counted(number):
                    counted = number
        possible: dict[str, int] = {}
        for attempt in self.attempts:
            if attempt.begun < position:
                possible[attempt.uuid] = max(possible.get(attempt.uuid, 0), attempt.lsn)
        known, begun = self.passages[:counted], self.passages[counted:]
        created = {item.uuid for item in known if item.is_creation}
        trashed = {item.uuid for item in known if not item.is_creation}
        begun = [item for item in begun if item.begun < position]
        must = created - trashed - {item.uuid for item in begun}
        may = created - trashed | {item.uuid for item in begun if item.is_creation}
        return Expectation(
            frozenset(must), frozenset(may), frozenset(trashed), frozenset(created),
            required, possible,
        )  # fmt: skip
