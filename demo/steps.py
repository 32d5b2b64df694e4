"""The steps of the tour, in order. Each prints what it does and checks what it claims."""

from __future__ import annotations

import re
import textwrap
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import xxhash

from demo.ask import lines_of
from demo.records import credits_of_data, read_records
from demo.screen import Screen, Stopwatch, TourError
from demo.world import (
    BATCH,
    CONCURRENCY,
    EVERYTHING,
    READABLE,
    SOURCE,
    TABLE,
    World,
    pids,
    text_of,
)
from dvecdb.embedding.care import status
from dvecdb.embedding.identity import PROBE_TEXT
from dvecdb.embedding.service import text_hash
from dvecdb.errors import NotFoundError

if TYPE_CHECKING:
    from demo.programs import Run
    from demo.records import SecurityRecord

STEPS: Final = 8
QUESTIONS: Final = (
    "an AI agent deleted the database",
    "somebody encrypts all files and asks for money",
    "hiding malicious code inside an innocent picture",
)
_POLL_SECONDS: Final = 0.05
_SERVICE_DIES_AT: Final = 0.25
_JOB_DIES_AT: Final = 0.55
_DOWN_SECONDS: Final = 1.0
_MANY_ROWS: Final = 20_000
_EMBED_SECONDS: Final = 6.0
_WIDTH: Final = 80
_PROGRESS: Final = re.compile(r"^\w+: [\d,]+/[\d,]+ rows")
_TOKENS: Final = re.compile(r", [\d,]+ tokens")
_PROGRESS_SECONDS: Final = 3.5
_STAMP: Final = re.compile(r"^\S+ \S+  ")
_ATTEMPT: Final = re.compile(r"failed, attempt \d+(?: of \d+)?: ")

_encode = msgspec.json.Encoder(order="deterministic").encode


@dataclass(slots=True)
class Told:
    """What the steps learn, for those behind them and for the summary."""

    records: list[SecurityRecord] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)

    def note(self, name: str, value: str) -> None:
        """Take down a line of the summary."""
        self.facts.append((name, value))


@dataclass(slots=True)
class Tour:
    """What every step works with.

    readable_rows: those that MiniLM embeds. lines: of a job; failures: its lines that were not
    shown; shown: when it last told how far it was.
    """

    world: World
    screen: Screen
    told: Told
    rows: int | None
    readable_rows: int
    lines: list[str] = field(default_factory=list)
    failures: int = 0
    shown: float = 0.0

    def run(self) -> None:
        """Go through all steps. Raises `TourError`, `DvecdbError`, `OSError`."""
        for step in (self.records, self.programs, self.embed, self.account, self.again,
                     self.search, self.bring_back, self.verify):  # fmt: skip
            step()

    # --- 1, 2: what there is ---

    def records(self) -> None:
        """Start PostgreSQL and fill it."""
        self.screen.step("PostgreSQL, and real security records in it")
        with Stopwatch() as starting:
            postgres = self.world.start_postgres()
        self.screen.say(f"   PostgreSQL on port {postgres.port}, in {starting.seconds:.1f} s")
        records = self.told.records
        records += read_records(self.rows)
        with Stopwatch() as filling:
            self.world.fill(records)
        kinds = Counter(record.kind for record in records).most_common()
        self.screen.say(
            f"   table {TABLE}: " + ", ".join(f"{kind} {count:,}" for kind, count in kinds[:5])
            + (", and more" if len(kinds) > 5 else "")
        )  # fmt: skip
        self.screen.say()
        for line in credits_of_data():
            self.screen.say(f"   {line}")
        self.screen.say()
        wanted = len(records) if self.rows is None else self.rows
        self.screen.check(
            _count(self.world.addresses.database) == len(records) == wanted,
            f"{len(records):,} rows, in {filling.seconds:.1f} s",
        )
        self.told.note("rows", f"{len(records):,} security records in PostgreSQL")

    def programs(self) -> None:
        """Start the embedding services and dvecdb."""
        self.screen.step("two embedding services and dvecdb, each a process of its own")
        self.world.fast.slow_ms = _slow_ms(len(self.told.records))
        self.world.start_services()
        self.world.write_jobs(self.readable_rows)
        for name, pid in pids(self.world).items():
            self.screen.say(f"   {name:<32} process {pid}")
        self.screen.say()
        self.screen.say("   fake hashes words, at once; minilm is a real model, all-MiniLM-L6-v2.")
        if self.world.fast.slow_ms:
            self.screen.say(
                f"   So few rows would be over too soon: fake waits {self.world.fast.slow_ms} ms."
            )
        with self.world.connect() as database:
            is_empty = not database.collections()
        self.screen.check(
            is_empty, f"dvecdb answers at {self.world.addresses.server}, and is empty"
        )

    # --- 3, 4, 5: a job through failures ---

    def embed(self) -> None:
        """Run the job over all rows, and hurt it."""
        world, screen = self.world, self.screen
        rows = len(self.told.records)
        screen.step(f"dvecdb embed run: {rows:,} rows, and what happens to them")
        with Stopwatch() as whole:
            run = self._start()
            self._await_rows(run, _SERVICE_DIES_AT)
            self._break_service()
            before = self._await_rows(run, _JOB_DIES_AT)
            screen.say(f"   >> kill -9 of the job, process {run.pid}")
            run.kill()
            world.fast.settle()
            run = self._start()
            report = run.finish()
        cursor = report["sources"][SOURCE]
        screen.say()
        behind = _resumed_behind(self.lines)
        screen.check(behind >= before > 0, f"it went on behind row {behind:,}, not at the first")
        screen.check(
            report["state"] == "done" and cursor["cursor"] == rows and not report["dead_letters"],
            f"all {rows:,} rows are done, no dead letters, in {whole.seconds:.1f} s",
        )
        self.told.note("embedded", f"in {whole.seconds:.1f} s, with a service that failed, and was "
                                   "killed, and a job that was killed")  # fmt: skip

    def _start(self) -> Run:
        self.lines.clear()
        return self.world.embed("run", EVERYTHING, self._tell)

    def _tell(self, line: str) -> None:
        """Show a line of a job; of attempts that failed in the same way only the first."""
        text = _TOKENS.sub("", _STAMP.sub("", line))
        text = text.replace(f"{self.world.fast.url}/v1/embeddings", "it").replace("it: ", "")
        kind = _ATTEMPT.sub("failed: ", text).partition("; again in")[0]
        is_known = kind != text and any(kind in one for one in self.lines)
        self.lines.append(kind if kind != text else text)
        if is_known:
            self.failures += 1
            return
        if self.failures and kind == text:
            self.screen.say(f"   | ... {self.failures} more attempts that failed")
            self.failures = 0
        if _PROGRESS.search(text) and not self._is_time():
            return
        for part in textwrap.wrap(text, _WIDTH, subsequent_indent="    "):
            self.screen.say(f"   | {part}")

    def _is_time(self) -> bool:
        """Return whether the last line about progress is old enough for the next one."""
        now = time.monotonic()
        is_time = now - self.shown >= _PROGRESS_SECONDS
        self.shown = now if is_time else self.shown
        return is_time

    def _await_rows(self, run: Run, share: float) -> int:
        """Wait until a share of the rows is durable; return how many are."""
        wanted = share * len(self.told.records)
        with self.world.connect() as database:
            while run.pid is not None:
                done = _durable_rows(database)
                if done >= len(self.told.records):
                    break
                if done >= wanted:
                    return done
                time.sleep(_POLL_SECONDS)
        raise TourError(f"the job ended before {share:.0%} of the rows; too few rows for this tour")

    def _break_service(self) -> None:
        """Let the service fail, kill it, start it again."""
        fast = self.world.fast
        self.screen.say("   >> the embedding service answers 500 from now on")
        fast.fail()
        fast.settle()
        fast.note()
        time.sleep(_DOWN_SECONDS)
        self.screen.say(f"   >> kill -9 of the embedding service, process {fast.program.pid}")
        fast.program.kill()
        time.sleep(_DOWN_SECONDS)
        self.screen.say("   >> the embedding service is started again")
        fast.start()

    def account(self) -> None:
        """Compare what the service was asked for with what there is."""
        self.screen.step("who paid for what: the embedding service's own count")
        counts = self.world.fast.counts()
        del counts[text_hash(PROBE_TEXT)]
        wanted = {text_hash(text_of(record)) for record in self.told.records}
        paid, twice = counts.total(), counts.total() - len(counts)
        under_way = CONCURRENCY * BATCH
        self.screen.say(f"   rows                {len(self.told.records):>8,}")
        self.screen.say(f"   different texts     {len(wanted):>8,}   equal texts are paid for once")
        self.screen.say(f"   texts embedded      {paid:>8,}   in all, over both starts of the job")
        self.screen.say(f"   of them twice       {twice:>8,}   under way when the job was killed")
        self.screen.say()
        self.screen.check(set(counts) == wanted, "every text was embedded, and nothing else")
        self.screen.check(
            twice <= under_way and max(counts.values()) <= 2,
            "nothing that was durable was paid for twice; under way at the kill were "
            f"{twice} (at most {CONCURRENCY} x {BATCH})",
        )
        self.told.note(
            "paid for", f"{paid:,} texts, of them {twice} twice (under way at a kill -9)"
        )

    def again(self) -> None:
        """Run the job again over unchanged rows."""
        rows = len(self.told.records)
        self.screen.step("the same job once more: nothing changed, nothing is paid for")
        before = self.world.fast.counts()
        run = self._start()
        with Stopwatch() as whole:
            report = run.finish()
        unchanged = report["sources"][SOURCE]["unchanged"]
        texts = self.world.fast.counts().total() - before.total()
        self.screen.check(
            texts == report["spent"]["texts"] == 0 and unchanged == rows,
            f"{unchanged:,} rows looked at, {texts} texts embedded, in {whole.seconds:.1f} s",
        )
        self.told.note("second run", f"0 texts embedded, in {whole.seconds:.1f} s")

    # --- 6: searching ---

    def search(self) -> None:
        """Let a real model embed some rows, and ask in words."""
        world, screen = self.world, self.screen
        rows = self.readable_rows
        screen.step(
            f"a real model, all-MiniLM-L6-v2, over the first {rows:,} rows; search in words"
        )
        self.lines.clear()
        with Stopwatch() as whole:
            report = world.embed("run", READABLE, self._tell).finish()
        done = report["sources"][SOURCE]["cursor"]
        screen.check(
            done == rows == report["spent"]["texts"], f"{rows:,} texts, each embedded once"
        )
        self.told.note("MiniLM", f"{rows:,} rows in {whole.seconds:.1f} s: "
                                 f"{rows / whole.seconds:,.0f} texts/s")  # fmt: skip
        with world.connect() as database:
            collection = database.collection(READABLE)
            records = list(collection.scan(with_vectors=True))
            vectors = np.array([record.vector for record in records])
            are_nearest = True
            for question in QUESTIONS:
                vector = np.array(world.minilm.embed(question), np.float32)
                hits = collection.search(vector, limit=3)
                screen.say(f"\n   {question}?")
                for line in lines_of(hits):
                    screen.say(f"      {line}")
                nearest = _nearest(vectors, vector, len(hits))
                are_nearest &= np.allclose([hit.distance for hit in hits], nearest, atol=1e-4)
        screen.say()
        screen.check(are_nearest, f"the nearest of all {len(records):,} vectors, computed here too")

    # --- 7, 8: what is gone comes back ---

    def bring_back(self) -> None:
        """Delete the collection, restore it."""
        screen = self.screen
        screen.step(f"somebody deletes {EVERYTHING}; it comes back")
        with self.world.connect() as database:
            before = _contents(database)
            database.delete_collection(EVERYTHING, actor="tour", reason="the wrong window")
            entry = database.trash()[0].name
            screen.check(
                EVERYTHING not in database.collections(), f"deleted; in the trash: {entry}"
            )
            with Stopwatch() as restoring:
                restored = database.restore(entry)
            screen.check(
                restored.rows == before[0] == len(self.told.records),
                f"restored in {1_000 * restoring.seconds:.0f} ms: {restored.rows:,} records",
            )
            is_same = _contents(database) == before
            screen.check(is_same, "every id, vector and metadata as before, to the bit")
        milliseconds = f"{1_000 * restoring.seconds:.0f} ms"
        self.told.note("restored", f"{restored.rows:,} records in {milliseconds}, bit-identical")

    def verify(self) -> None:
        """Compare every row with its vector."""
        rows = len(self.told.records)
        self.screen.step("dvecdb embed verify: every row of PostgreSQL against its vector")
        with Stopwatch() as whole:
            found = self.world.embed("verify", EVERYTHING, self._tell).finish()
        checked = found["sources"][SOURCE]
        bad = {name: count for name, count in checked["counts"].items() if count}
        self.screen.check(
            found["ok"] and checked["good"] == checked["rows"] == rows and not bad,
            f"{checked['good']:,} of {rows:,} rows have their vector; nothing is missing, stale or "
            f"left over, in {whole.seconds:.1f} s",
        )
        self.told.note("verified", f"{checked['good']:,} of {rows:,} rows have their vector")


# --- looking -------------------------------------------------------------------------------------


def _slow_ms(rows: int) -> int:
    """Return how much later the fast service is to answer, so that few rows take a while too."""
    waits = rows / BATCH / CONCURRENCY
    return int(1_000 * _EMBED_SECONDS / waits) if rows < _MANY_ROWS else 0


def _count(address: str) -> int:
    import psycopg  # noqa: PLC0415  # looked for before

    with psycopg.connect(address) as connection:
        (found,) = connection.execute(f"SELECT count(*) FROM {TABLE}").fetchone() or (0,)
        count: int = found
        return count


def _durable_rows(database: Any) -> int:
    """Return behind how many rows the job's cursor is."""
    try:
        source = status(database, EVERYTHING).sources.get(SOURCE)
    except NotFoundError:
        return 0
    return source.cursor.cursor if source is not None and source.cursor is not None else 0


def _resumed_behind(lines: list[str]) -> int:
    """Return behind which row a run says that it went on; 0, at the first."""
    for line in lines:
        found = re.search(r"goes on behind row ([\d,]+)", line)
        if found is not None:
            return int(found[1].replace(",", ""))
    return 0


def _nearest(vectors: Any, query: Any, limit: int) -> Any:
    """Return the smallest cosine distances, computed without dvecdb."""
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return np.sort(1 - (vectors.astype(np.float64) @ query) / lengths)[:limit]


def _contents(database: Any) -> tuple[int, int]:
    """Return the number of records and a sum over every bit of them, in any order."""
    count = total = 0
    for record in database.collection(EVERYTHING).scan(with_vectors=True):
        digest = xxhash.xxh3_128(record.id.encode())
        digest.update(record.vector.tobytes())
        digest.update(_encode(record.metadata))
        total += digest.intdigest()
        count += 1
    return count, total
