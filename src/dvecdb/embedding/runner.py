"""Runs a job: reads, decides, embeds, commits. One thread decides; others wait for vectors.

    read a page ──> settle what the database has ──> send what it lacks ──> commit, with the cursor
         ^                                                                        │
         └────────────────────────── until the source has no more ───────────────┘

Batches are committed as their vectors arrive, in any order, and the cursor moves behind the rows
that are durable from the front. So a kill costs the requests under way and nothing else: rows
behind the cursor that were committed are found by their content hash.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from dvecdb.embedding.caller import Interrupted
from dvecdb.embedding.events import Buried, Committed, PageRead, RetryStarted, SourceDone
from dvecdb.embedding.model import EmbedError
from dvecdb.embedding.outbox import (
    COMMIT_ROWS,
    ROW_CODES,
    Outbox,
    attempt_hash,
    metadata_bytes,
    said_of,
)
from dvecdb.embedding.pending import Outcome, Pending, Window, bury, prepare
from dvecdb.embedding.progress import DEAD_LETTERS, JOBS, DeadLetter, plain
from dvecdb.errors import Code, DvecdbError, InvalidRequestError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dvecdb.embedding.model import Source, SourceRow
    from dvecdb.embedding.progress import Cursor
    from dvecdb.embedding.session import Session
    from dvecdb.records import Json

_TICK_SECONDS: Final = 0.5
_CURSOR_SECONDS: Final = 1.0  # how often a cursor is written that only passed unchanged rows
_LASTING_REASONS: Final = frozenset({"empty", "row", "too-long", *ROW_CODES})
"""Of dead letters that no embedder will change."""
_KEY_LENGTH: Final = 1_000
_MESSAGE_LENGTH: Final = 2_000

Result = list[Any]  # of each text a vector or an EmbedError


class SourceRun:
    """One source of a job, from its cursor to its end. only: ids, where just those are tried."""

    def __init__(
        self, session: Session, name: str, source: Source, cursor: Cursor, pool: ThreadPoolExecutor
    ) -> None:
        self._session = session
        self._name = name
        self._source = source
        self._pool = pool
        self.cursor = cursor
        self._begin(cursor.position)

    def _begin(self, position: Json, only: frozenset[str] | None = None) -> None:
        self._window = Window()
        self._outbox = Outbox()
        self._passed: list[Pending] = []  # rows that needed no write, behind which the cursor may
        self._read_to = position
        self._rows_read = self.cursor.cursor if only is None else 0
        self._pages = self._rows_read // self._session.job.flow.page
        self._at_end = False
        self._only = only
        self._unseen = set(only or ())
        self._unsent: list[Pending] = []
        self._following: dict[str, list[Pending]] = {}  # rows by a hash that is being embedded
        self._under_way: dict[Future[Result], list[Pending]] = {}
        self._written_ns = self._session.waiting.now_ns()

    def run(self) -> None:
        """Bring the source to its end.

        Raises:
            Stopped, BudgetReached: everything that was answered is committed.
            DvecdbError: likewise; what neither waiting nor leaving out a row can cure.
        """
        self._pass()
        if self.cursor.since is None:  # every row was seen: those that were not buried are gone
            own = self._session.letters_of(self._name).items()
            self._forget([id for id, letter in own if letter.run != self.cursor.run])
        own = self._session.letters_of(self._name).items()
        self.retry(frozenset(id for id, of in own if of.reason not in _LASTING_REASONS))
        self._write([], "done")
        self._session.watch(SourceDone(self._name, self.cursor))

    def retry(self, ids: frozenset[str]) -> None:
        """Try the dead letters of these ids once more. Raises as `run`."""
        if not ids:
            return
        self._session.watch(RetryStarted(self._name, len(ids)))
        self._begin(None, ids)
        self._pass()
        self._forget(list(self._unseen))

    def _pass(self) -> None:
        """Go through the rows once; commit what was answered, whatever happens."""
        try:
            while True:
                if self._session.may_go_on():
                    self._read()
                    self._send()
                if not self._under_way and self._at_end and not self._unsent:
                    break
                self._collect()
                if self._is_due():
                    self._commit()
            self._commit()
        except BaseException:
            self._session.send_no_more()
            with contextlib.suppress(DvecdbError, Interrupted):  # the first reason is to be told
                self._keep_answers()
            raise

    def _keep_answers(self) -> None:
        """Wait for the requests under way and commit their answers: they are paid for."""
        wait(self._under_way)
        for future, batch in self._under_way.items():
            self._answered(batch, _outcome(future)[0])
        self._under_way = {}
        self._commit()

    # --- reading ---

    def _read(self) -> None:
        """Read on until there is enough to send, or enough has been read ahead."""
        caller = self._session.caller
        enough = caller.batch_max() * caller.concurrency()
        while len(self._unsent) < enough and self._has_room():
            rows = self._read_page(self._session.job.flow.page)
            if rows is None:
                return
            if not rows:
                self._at_end = True
                return
            self._read_to = rows[-1].position
            self._take(rows)
            if not self._unsent and self._is_cursor_old():
                return

    def _has_room(self) -> bool:
        """Return whether the next page may be read."""
        flow = self._session.job.flow
        if self._at_end or self._outbox.is_full:
            return False
        if flow.ahead == 0:
            return not (len(self._window) or len(self._outbox) or self._passed)
        return not len(self._window) or len(self._window) + flow.page <= flow.ahead

    def _read_page(self, limit: int) -> Sequence[SourceRow] | None:
        """Return the next rows; None if the source is away while requests are under way."""
        since = None if self._only is not None else self.cursor.since

        def read() -> Sequence[SourceRow]:
            return self._source.read(self._read_to, limit, since)

        if self._under_way or len(self._outbox):
            try:
                return self._session.ask_source(read)
            except UnavailableError:
                return None
        return self._session.reach_source(read)

    def _take(self, rows: Sequence[SourceRow]) -> None:
        session = self._session
        pending = [prepare(self._name, row, session.job.text, session.identity) for row in rows]
        if self._only is not None:
            pending = [row for row in pending if row.id in self._only]
            self._unseen.difference_update(row.id for row in pending)
            self._at_end = not self._unseen
        else:
            first = self._rows_read + 1
            self._rows_read += len(rows)
            self._pages += 1
            session.watch(
                PageRead(self._name, self._pages, first, self._rows_read, self.cursor.total)
            )
        self._window.extend(pending)
        session.stored.settle([row for row in pending if row.outcome is None])
        for row in pending:
            if row.outcome is None:
                self._bury_refused(row)
        session.stored.copy([row for row in pending if row.outcome is None])
        for row in pending:
            if row.outcome is None:
                self._queue(row)
            else:
                self._settled(row)
        self._move()

    def _bury_refused(self, row: Pending) -> None:
        """Bury a row that the database is known to refuse, before its text is paid for."""
        letter, limit = self._session.letters.get(row.id), self._session.metadata_bytes_max
        if letter is not None and letter.content_hash and self._only is None:
            row.is_refused = letter.content_hash == attempt_hash(row)
            if row.is_refused:
                bury(row, letter.reason, letter.message)
        if limit is not None and not row.is_refused:
            size = metadata_bytes(row)
            row.is_refused = size > limit
            if row.is_refused:
                what = f"metadata of {size} bytes, at most {limit} are allowed"
                bury(row, Code.METADATA_TOO_LARGE.value, what)

    def _queue(self, row: Pending) -> None:
        """Have a text embedded, unless it is being embedded for another row."""
        following = self._following.get(row.content_hash)
        if following is None:
            self._following[row.content_hash] = []
            self._unsent.append(row)
        else:
            following.append(row)

    # --- embedding ---

    def _send(self) -> None:
        caller = self._session.caller
        while self._unsent and len(self._under_way) < caller.concurrency():
            size = caller.batch_max()
            if len(self._unsent) < size and self._under_way and self._has_room():
                return
            batch, texts = self._next_batch(size)
            self._under_way[self._pool.submit(self._session.embed, texts)] = batch

    def _next_batch(self, size: int) -> tuple[list[Pending], list[str]]:
        """Return the next rows and their texts, the parts of a row together."""
        texts: list[str] = []
        count = 0
        for row in self._unsent:
            if texts and len(texts) + len(row.parts) > size:
                break
            texts.extend(row.parts)
            count += 1
        batch, self._unsent = self._unsent[:count], self._unsent[count:]
        return batch, texts

    def _collect(self) -> None:
        """Take in what has been answered, or wait a moment for it.

        Raises: what a request ended with, after everything else that has been answered is taken in.
        """
        if not self._under_way:
            if not self._session.may_go_on():
                self._session.waiting.pause(_TICK_SECONDS)
            return
        done, _ = wait(self._under_way, _TICK_SECONDS, FIRST_COMPLETED)
        failure: BaseException | None = None
        for future in done:
            results, error = _outcome(future)
            self._answered(self._under_way.pop(future), results)
            failure = failure or error
        if failure is not None:
            raise failure

    def _answered(self, batch: Sequence[Pending], results: Result) -> None:
        """Settle the rows whose results are there: all, unless the call was interrupted."""
        start = 0
        for row in batch:
            own = results[start : start + len(row.parts)]
            start += len(row.parts)
            if len(own) < len(row.parts):
                return
            followers = self._following.pop(row.content_hash)
            error = next((one for one in own if isinstance(one, EmbedError)), None)
            vector = None if error is not None else _joined(row.parts, own)
            for index, one in enumerate([row, *followers]):
                if error is not None:
                    bury(one, error.reason, error.message)
                else:
                    one.vector = vector
                    one.outcome = Outcome.COPIED if index else Outcome.EMBEDDED
                self._settled(one)

    # --- committing ---

    def _settled(self, row: Pending) -> None:
        """Note what became of a row. Rows that need no write are durable as they are."""
        assert row.outcome is not None
        if row.problem is not None:
            self._session.watch(Buried(self._name, row.row.key, *row.problem))
        if row.vector is None and row.problem is None and row.id not in self._session.letters:
            row.durable = True
        else:
            self._outbox.put(row)

    def _move(self) -> None:
        """Let go of the rows at the front that are durable."""
        front = self._window.front()
        self._window.drop(len(front))
        if self._only is None:
            self._passed += front

    def _is_due(self) -> bool:
        """Return whether it is time for a commit."""
        is_held_up = self._session.job.flow.ahead == 0 and bool(self._passed)
        return bool(len(self._outbox)) or self._is_cursor_old() or is_held_up

    def _is_cursor_old(self) -> bool:
        age_ns = self._session.waiting.now_ns() - self._written_ns
        return bool(self._passed) and age_ns > _CURSOR_SECONDS * 1e9

    def _commit(self) -> None:
        """Write what is settled, and the cursor behind it, in batches. Durable on return."""
        while len(self._outbox):
            self._write(self._outbox.first())
        if self._passed:
            self._write([])

    def _write(self, rows: Sequence[Pending], state: str | None = None) -> None:
        """Write these rows, the first of the outbox, and the cursor, in one batch.

        If the database refuses one of them it is buried instead, and nothing is written yet.
        """
        session, before = self._session, self.cursor
        front = self._window.front(rows)
        after = self._after(before, rows, front, state or before.state)
        letters = {row.id: self._letter(row) for row in rows
                   if row.problem is not None or row.id in session.letters}  # fmt: skip
        kept = [row for row in rows if row.vector is not None]
        try:
            session.target.commit(
                {(JOBS, self._name): (plain(before), plain(after))},
                ids=[row.id for row in kept],
                vectors=np.stack([_vector(row) for row in kept]) if kept else None,
                metadata=[row.metadata for row in kept],
                extra={(DEAD_LETTERS, id): plain(letter) for id, letter in letters.items()},
                reason=f"{self._name}: rows to {after.cursor}",
            )
        except InvalidRequestError as error:
            self._lay_aside(error, rows)
            return
        for row in rows:
            row.durable = True
        self.cursor = session.cursors[self._name] = after
        session.note_letters(letters)
        session.stored.remember(kept)
        self._outbox.drop(len(rows))
        self._window.drop(len(front))
        self._passed = []
        self._written_ns = session.waiting.now_ns()
        session.watch(Committed(self._name, after, session.spent()))

    def _after(
        self, before: Cursor, rows: Sequence[Pending], front: Sequence[Pending], state: str
    ) -> Cursor:
        """Return the cursor once `rows` are written, and with them `front` is durable."""
        counts: Counter[str] = Counter()
        changes: dict[str, Any] = {}
        if self._only is None:
            passed = [*self._passed, *front]
            counts.update(_name(row) for row in passed)
            if passed:
                changes.update(cursor=before.cursor + len(passed), position=passed[-1].row.position)
        else:  # rows that this run has counted as failed; others are not its own
            own = [row for row in rows if self._is_of_this_run(row)]
            counts.update(_name(row) for row in own)
            counts["failed"] -= len(own)
        changes |= {name: max(getattr(before, name) + number, 0) for name, number in counts.items()}
        sequence, now = before.sequence + 1, self._session.now()
        return msgspec.structs.replace(
            before, state=state, sequence=sequence, updated=now, **changes
        )

    def _is_of_this_run(self, row: Pending) -> bool:
        letter = self._session.letters.get(row.id)
        return letter is not None and letter.run == self.cursor.run

    def _letter(self, row: Pending) -> DeadLetter | None:
        """Return the dead letter of a row, None if it is none any more."""
        if row.problem is None:
            return None
        reason, message = row.problem
        before = self._session.letters.get(row.id)
        run, tries = self.cursor.run, 1
        if before is not None:
            tries = before.tries + (not self._is_of_this_run(row))
            if self._only is not None:
                run = before.run  # which counts it
        return DeadLetter(
            self._name,
            row.row.key[:_KEY_LENGTH],
            reason,
            message[:_MESSAGE_LENGTH],
            tries,
            self._session.now(),
            run,
            attempt_hash(row) if row.is_refused else "",
        )

    def _lay_aside(self, error: InvalidRequestError, rows: Sequence[Pending]) -> None:
        """Bury the row for which a commit was refused. Raises the error if it is none's fault."""
        row = self._outbox.blame(error, rows)
        if row is None:
            return
        row.is_refused = True
        bury(row, error.code.value, said_of(error))
        limit = error.details.get("limit")
        if error.code is Code.METADATA_TOO_LARGE and isinstance(limit, int):
            self._session.metadata_bytes_max = limit
        self._session.watch(Buried(self._name, row.row.key, error.code.value, said_of(error)))

    def _forget(self, gone: Sequence[str]) -> None:
        """Drop the dead letters of rows that are not there any more."""
        for start in range(0, len(gone), COMMIT_ROWS):
            some = dict.fromkeys(gone[start : start + COMMIT_ROWS])
            self._session.target.commit(
                {},
                extra={(DEAD_LETTERS, id): None for id in some},
                reason=f"{self._name}: rows of dead letters are gone",
            )
            self._session.note_letters(some)


def _name(row: Pending) -> str:
    """Return the count of a cursor that a settled row belongs to."""
    assert row.outcome is not None
    return row.outcome.name.lower()


def _outcome(future: Future[Result]) -> tuple[Result, BaseException | None]:
    """Return the results of a call, and what it ended with if not all are there."""
    try:
        return future.result(), None
    except Interrupted as end:
        return end.done, end
    except Exception as error:  # noqa: BLE001  # told once the other answers are kept
        return [], error


def _vector(row: Pending) -> npt.NDArray[np.float32]:
    assert row.vector is not None
    return row.vector


def _joined(
    parts: Sequence[str], vectors: Sequence[npt.NDArray[np.float32]]
) -> npt.NDArray[np.float32]:
    """Return the mean of the vectors of a text's parts, weighted by their lengths.

    It gets the length that such vectors have on average, which for unit vectors is one.
    """
    if len(vectors) == 1:
        return vectors[0]
    lengths = np.array([len(part) for part in parts], np.float64)
    stacked = np.stack(vectors).astype(np.float64)
    weights = lengths / lengths.sum()
    mean = weights @ stacked
    size = weights @ np.linalg.norm(stacked, axis=1)
    longer = float(size) / max(float(np.linalg.norm(mean)), 1e-300)
    return np.asarray(mean * longer, np.float32)
