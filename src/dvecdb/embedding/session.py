"""What the parts of a run share: the collection, the embedder, the clock, and what was done."""

from __future__ import annotations

import contextlib
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from dvecdb.clock import to_datetime
from dvecdb.embedding.caller import Caller, Stopped
from dvecdb.embedding.events import Noted, SourceStarted
from dvecdb.embedding.identity import PROBE_TEXT, Identity, refuse_other
from dvecdb.embedding.model import EmbedError, Reason
from dvecdb.embedding.progress import (
    CONTROL,
    DEAD_LETTERS,
    JOBS,
    DeadLetter,
    begin,
    definition_of,
    plain,
    read_cursor,
    read_letter,
)
from dvecdb.embedding.report import JobReport, Spent, State
from dvecdb.embedding.stored import Stored
from dvecdb.embedding.target import Target
from dvecdb.embedding.waiting import Waiting, is_away
from dvecdb.errors import Code, DvecdbError, InvalidRequestError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dvecdb.clock import Clock
    from dvecdb.embedding.controls import Controls
    from dvecdb.embedding.events import Watch
    from dvecdb.embedding.job import FlowSpec, Job
    from dvecdb.embedding.model import Embedder, Source
    from dvecdb.embedding.progress import Cursor
    from dvecdb.records import Json
    from dvecdb.rescue.database import Database

T = TypeVar("T")

_POLL_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 0.5


class Session:
    """One run."""

    def __init__(
        self,
        job: Job,
        database: Database,
        embedder: Embedder,
        controls: Controls,
        watch: Watch,
        clock: Clock,
    ) -> None:
        self.job = job
        self.watch = watch
        self.owner = uuid.uuid4().hex
        self.letters: dict[str, DeadLetter] = {}
        self.cursors: dict[str, Cursor] = {}
        self.metadata_bytes_max: int | None = None  # as far as the database has said it
        self._embedder = embedder
        self._controls = controls
        self._clock = clock
        self._began_ns = clock.monotonic_ns()
        self._identity: Identity | None = None
        self._reader = ThreadPoolExecutor(1, "source")
        self._probed = (0, 0)  # requests and tokens
        self._proven = False
        self._proving = threading.Lock()
        self._was_paused = False
        self._polled_ns = 0
        self._stored: Stored | None = None
        self.waiting = Waiting(job.flow, clock, controls.stopping, watch, draw)
        self.target = Target(database, job.target, self.waiting)
        self.caller = self._make_caller(job.flow, None)

    def _make_caller(self, flow: FlowSpec, dimension: int | None) -> Caller:
        return Caller(
            self._embedder, flow, probe=self._probe, watch=self.watch,
            stop=self._controls.stopping, clock=self._clock, random=draw,
            price=self.job.embedder.price_per_million_tokens, dimension=dimension,
        )  # fmt: skip

    @property
    def identity(self) -> Identity:
        """The embedder as the collection remembers it."""
        assert self._identity is not None
        return self._identity

    @property
    def stored(self) -> Stored:
        """What the database already has."""
        assert self._stored is not None
        return self._stored

    def now(self) -> str:
        """Return the time, for people."""
        return to_datetime(self._clock.wall_ns()).isoformat(timespec="seconds")

    # --- the embedder ---

    def begin(self) -> None:
        """Take the collection for the embedder. A pinned one is asked only when it is needed.

        Raises:
            ConflictError: `embedder-mismatch`, `job-running`.
            InvalidRequestError: `embedder-refused`.
        """
        self._identity = self.target.find()
        if self._identity is None:
            self._identity = self._look()
            self._proven = True
        else:
            claimed = Identity(self._embedder.model, self._identity.probe)
            refuse_other(self._identity, claimed, self.target.name)
        self.caller = self._make_caller(self.job.flow, self._identity.dimension)
        signals = self._controls.takes_signals
        self.target.attach(self._identity, self.owner, takes_signals=signals)
        documents = self.target.collection.documents
        stored = self.target.reach(lambda: documents.list(DEAD_LETTERS))
        self.note_letters({id: read_letter(value) for id, value in stored.items()})
        for name, value in self.target.reach(lambda: documents.list(JOBS)).items():
            cursor = read_cursor(value)
            if cursor is not None and name in self.job.sources:
                self.cursors[name] = cursor
        self._stored = Stored(self.target, self._identity, self.watch)

    def embed(self, texts: Sequence[str]) -> list[Any]:
        """Return what `Caller.embed` does; before the first text, see that the embedder is the one.

        In any thread but that of the run, which looks for wishes meanwhile.

        Raises:
            ConflictError: `embedder-mismatch`.
        """
        with self._proving:
            if not self._proven:
                refuse_other(self.identity, self._look(), self.target.name)
                self._proven = True
        return self.caller.embed(texts)

    def _look(self) -> Identity:
        """Ask for the vector of the probe text, which no budget counts."""
        unlimited = msgspec.structs.replace(
            self.job.flow, budget_requests=None, budget_tokens=None, budget_money=None
        )
        prober = self._make_caller(unlimited, None)
        found = prober.embed([PROBE_TEXT])[0]
        if isinstance(found, EmbedError):
            raise InvalidRequestError(
                Code.EMBEDDER_REFUSED,
                f"{self._embedder.model} does not embed the probe text: {found.message}. Nothing "
                "was written; check the embedder's address and model",
            )
        usage = prober.usage
        self._probed = (self._probed[0] + usage.requests, self._probed[1] + usage.tokens)
        return Identity(self._embedder.model, found)

    def _probe(self) -> None:
        """See whether the embedder is there again, and is the one it was."""
        answer = self._embedder.embed([PROBE_TEXT])
        if answer.vectors.ndim != 2 or len(answer.vectors) != 1:
            what = f"{self._embedder.model}: expected 1 vector, found {answer.vectors.shape}"
            raise EmbedError(Reason.WRONG_ANSWER, what)
        if self._identity is not None:
            found = Identity(self._embedder.model, answer.vectors[0])
            refuse_other(self._identity, found, self.target.name)

    # --- control ---

    def may_go_on(self) -> bool:
        """Renew the lease, look for wishes; return False while paused. Raises `Stopped`."""
        if self._controls.stopping.is_set():
            raise Stopped("somebody stopped the job")
        if self._stored is not None:  # the collection is taken
            self._poll()
            with contextlib.suppress(UnavailableError):  # what needs the database waits for it
                self.target.renew()
        paused = self._controls.is_paused
        if paused != self._was_paused:
            self._was_paused = paused
            (self.caller.pause if paused else self.caller.resume)()
        return not paused

    def _poll(self) -> None:
        """Do what the control document wants of this run."""
        now_ns = self.waiting.now_ns()
        if now_ns - self._polled_ns < _POLL_SECONDS * 1e9:
            return
        self._polled_ns = now_ns
        try:
            wish: Any = self.target.collection.documents.get(*CONTROL)
        except DvecdbError as error:
            if is_away(error):
                return
            raise
        if not isinstance(wish, dict) or wish.get("owner") != self.owner:
            return
        if wish.get("want") == "stop":
            self._controls.stop()
            raise Stopped("somebody stopped the job")
        if wish.get("want") == "pause":
            self._controls.pause()
        else:
            self._controls.resume()

    def send_no_more(self) -> None:
        """Let requests under way end, and none begin."""
        self._controls.stop()

    def close(self) -> None:
        """Give back what was opened, and the lease if that can be done now.

        The lease of a dead process is free anyway, and that of a living one after a while.
        """
        self._reader.shutdown()
        if self._stored is not None:
            self._stored.close()
        try:
            self.target.release()
        except (DvecdbError, Stopped):
            self.watch(Noted("the lease could not be given back; it expires by itself"))

    # --- dead letters ---

    def letters_of(self, source: str) -> dict[str, DeadLetter]:
        """Return the dead letters of a source by id."""
        return {id: letter for id, letter in self.letters.items() if letter.source == source}

    def note_letters(self, letters: Mapping[str, DeadLetter | None]) -> None:
        """Take in dead letters as they are stored; None: it is none any more."""
        for id, letter in letters.items():
            if letter is None:
                self.letters.pop(id, None)
            else:
                self.letters[id] = letter

    # --- sources ---

    def ask_source(self, call: Callable[[], T]) -> T:
        """Return what a call of a source returns. The lease is kept while it takes its time."""
        future = self._reader.submit(call)
        while not wait([future], _LOOK_SECONDS).done:
            self.may_go_on()
        return future.result()

    def reach_source(self, call: Callable[[], T]) -> T:
        """Return what a call of a source returns, waiting while that is away."""
        return self.waiting.reach("source", lambda: self.ask_source(call), between=self.may_go_on)

    def start(self, name: str, source: Source, *, full: bool, only_failed: bool = False) -> Cursor:
        """Return the cursor with which a source begins or goes on; it is durable.

        only_failed: it stays where it was.
        """
        stored: Json = self.target.document((JOBS, name))
        before = read_cursor(stored)
        if only_failed and before is not None:
            return before
        definition = definition_of(self.job.sources[name], self.job.text)
        cursor = begin(before, definition, self.owner, self.now(), full=full)
        if cursor is not before:
            mark = self.reach_source(source.mark)
            cursor = msgspec.structs.replace(cursor, mark=mark)
        total = self.reach_source(lambda: source.count(cursor.since))
        cursor = msgspec.structs.replace(cursor, total=total)
        if plain(cursor) != stored:
            changed = msgspec.structs.replace(cursor, sequence=cursor.sequence + 1)
            change = {(JOBS, name): (stored, plain(changed))}
            self.target.commit(change, reason=f"{name}: begins")
            cursor = changed
        self.cursors[name] = cursor
        done = 0 if before is None else before.cursor
        resumed = cursor.cursor > 0
        self.watch(SourceStarted(name, total, cursor.cursor, resumed=resumed, before=done))
        return cursor

    def spent(self) -> Spent:
        """Return what this run has asked of its embedder so far. Probe texts are no texts of it."""
        usage, probed = self.caller.usage, self._probed
        requests, tokens = usage.requests + probed[0], usage.tokens + probed[1]
        money = self.job.embedder.money(tokens)
        seconds = (self._clock.monotonic_ns() - self._began_ns) / 1e9
        return Spent(requests, usage.texts, tokens, money, seconds, usage.waited_seconds)

    def report(self, state: State) -> JobReport:
        """Return what was done."""
        letters = sum(letter.source in self.job.sources for letter in self.letters.values())
        return JobReport(
            self.target.name, self.identity.model, state, self.cursors, letters, self.spent()
        )


def draw() -> float:
    """Return a random number in [0, 1)."""
    return uuid.uuid4().int / 2**128
