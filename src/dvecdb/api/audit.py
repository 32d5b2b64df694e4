"""The audit log: every mutating and recovery call, and every refused one, as a line of JSON.

A call is noted once it is known how it ended. `record` puts the line into a queue and returns; a
thread writes it at once and syncs at most every second, so a killed process loses what it did not
hand over yet and a power cut up to a second. A destructive call waits for the sync before it is
answered.

If the disk is full or fails, calls go on. What could not be written waits in memory, is tried again
after 1 to 30 s, and beyond a bound is dropped; the log then has an entry that says how many are
missing. All of it is counted and a finding, for health.

The files are in `audit_files`. Nothing of vectors, metadata or secrets is ever in an entry.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from dvecdb.api.audit_files import AuditFiles, read_page
from dvecdb.clock import NANOSECONDS_PER_SECOND, SystemClock, to_datetime
from dvecdb.engine.storage import unreadable
from dvecdb.formats import names
from dvecdb.formats.server_file import encode_line
from dvecdb.records import Finding, check_whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from dvecdb.clock import Clock
    from dvecdb.media.files import Dir, Files

MIB: Final = 1024 * 1024
WAITING_MAX: Final = 20_000
"""Entries in memory that are not synced; more are dropped."""
PAGE_MAX: Final = 1_000
TEXT_LENGTH_MAX: Final = 1_024
"""Characters of a field; what is longer is cut, for names and reasons come from anybody."""
SYNC_SECONDS: Final = 1.0
DURABLE_WAIT_SECONDS: Final = 10.0
"""Longest wait of a destructive call, and of close, for a disk that does not answer."""
_RETRY_SECONDS_MAX: Final = 30.0
LOST: Final = "audit.lost"
"""The operation of an entry that says how many entries are missing before it, in `rows`."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One call.

    `when` is set by `Audit.record` (RFC 3339, UTC). `key` is the key's name, `method` that of HTTP,
    `operation` the endpoint's; `rows` how many the call wrote or deleted. `status` and `code` say
    how it ended: an HTTP status, and an error code or None.
    """

    when: str = ""
    key: str | None = None
    address: str | None = None
    method: str
    operation: str
    collection: str | None = None
    rows: int | None = None
    lsn: int | None = None
    status: int
    code: str | None = None
    request_id: str | None = None
    actor: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Entries, newest first; `next` goes into the next call's `before`, None at the end.

    `damaged` names what could not be read between them.
    """

    entries: list[AuditEntry]
    next: str | None
    damaged: list[str]


@dataclass(frozen=True, slots=True)
class AuditFigures:
    """Counts since the start.

    waiting: entries that are in memory and not known to be durable; lost: dropped for ever;
    failures: attempts to write or sync that failed.
    """

    recorded: int
    waiting: int
    lost: int
    failures: int


class Audit:
    """The audit log of a data directory. `directory`: a handle of DATA_DIR/.server/audit.

    The handle belongs to the log from now on. `_wake` guards the queue and the counters; `_work`
    guards the files, and is never taken while `_wake` is held. Without `background` there is no
    thread: `record` writes, and syncs when a second has passed.
    """

    def __init__(
        self,
        files: Files,
        directory: Dir,
        *,
        clock: Clock | None = None,
        file_bytes_max: int = 16 * MIB,
        total_bytes_max: int = 256 * MIB,
        background: bool = True,
    ) -> None:
        """Look at what is there.

        Raises:
            DirectoryError: `directory-unreadable`.
        """
        self._files, self._directory = files, directory
        self._clock = clock if clock is not None else SystemClock()
        self._log = AuditFiles(files, directory, self._clock, file_bytes_max, total_bytes_max)
        self._wake = threading.Condition()
        self._work = threading.Lock()
        self._queue: list[bytes] = []
        self._recorded = self._accepted = self._written = self._synced = self._tried = 0
        self._wanted = 0  # up to which entry somebody waits for a sync
        self._lost = self._lost_unsaid = self._failures = self._failures_in_a_row = 0
        self._failing: str | None = None
        self._synced_ns = self._clock.monotonic_ns()
        self._is_closing = self._is_over = False
        try:
            self._torn = self._log.begin()
        except OSError as error:
            raise unreadable("the directory of the audit log", error) from error
        self._thread: threading.Thread | None = None
        if background:
            self._thread = threading.Thread(target=self._run, name="dvecdb-audit", daemon=True)
            self._thread.start()

    # --- for requests ---

    def record(self, entry: AuditEntry, *, durable: bool = False) -> bool:
        """Append an entry; return whether it is synced. Never raises.

        Does not touch the disk, unless `durable`, which destructive calls use before they are
        answered: that waits for the sync or for its failure, so not on the event loop.
        """
        line = encode_line(_clean(entry, self._clock.wall_ns()))
        with self._wake:
            self._recorded += 1
            if self._is_closing or self._is_over or self._accepted - self._synced >= WAITING_MAX:
                self._lost += 1
                self._lost_unsaid += 1
                return False
            self._queue.append(line)
            self._accepted += 1
            number = self._accepted
            if durable:
                self._wanted = number
            self._wake.notify_all()
        if self._thread is None:
            self._step()
        elif durable:
            self._wait_for(lambda: self._tried >= number)
        return self._synced >= number

    def _wait_for(self, check: Callable[[], bool]) -> None:
        with self._wake:
            self._wake.wait_for(lambda: check() or self._is_over, DURABLE_WAIT_SECONDS)

    # --- the thread ---

    def _run(self) -> None:
        try:
            while True:
                with self._wake:
                    is_time_up = not self._wake.wait_for(self._has_work, self._pause_seconds())
                    is_last = self._is_closing
                self._step(sync=is_last or is_time_up)
                if is_last:
                    return
        finally:
            with self._wake:
                self._is_over = True
                if not self._is_closing:
                    self._failing = "the thread that writes it has ended"
                self._wake.notify_all()

    def _has_work(self) -> bool:
        if self._is_closing or self._wanted > self._tried:
            return True
        return bool(self._queue) and self._failing is None

    def _pause_seconds(self) -> float | None:
        if self._failing is not None:
            return min(2.0 ** min(self._failures_in_a_row - 1, 10), _RETRY_SECONDS_MAX)
        return SYNC_SECONDS if self._accepted > self._synced else None

    def _step(self, *, sync: bool = False) -> None:
        """Write what is queued, and sync if somebody waits for it or a second has passed."""
        with self._work:
            with self._wake:
                lines, self._queue = self._queue, []
                lost, self._lost_unsaid = self._lost_unsaid, 0
                upto = self._accepted
                now = self._clock.monotonic_ns()
                is_due = now - self._synced_ns >= SYNC_SECONDS * NANOSECONDS_PER_SECOND
                sync = sync or is_due or self._wanted > self._synced or self._failing is not None
            if lost:
                lines.append(encode_line(self._lost_entry(lost)))
            failed: OSError | None = None
            try:
                self._log.append(lines)
                if sync:
                    self._log.sync()
            except OSError as error:
                failed = error
            with self._wake:
                self._tried = upto
                if failed is not None:
                    self._failures += 1
                    self._failures_in_a_row += 1
                    self._failing = failed.strerror or str(failed)
                else:
                    self._written = upto
                    if sync:
                        self._failing, self._failures_in_a_row = None, 0
                        self._synced, self._synced_ns = upto, now
                self._wake.notify_all()

    def _lost_entry(self, lost: int) -> AuditEntry:
        text = f"{lost} entries before this one could not be kept: the disk was full or failed"
        entry = AuditEntry(method="-", operation=LOST, rows=lost, status=507, reason=text)
        return _clean(entry, self._clock.wall_ns())

    # --- reading ---

    def read(self, limit: int = 100, before: str | None = None) -> AuditPage:
        """Return the newest `limit` entries, or those before `before`, the `next` of a page.

        Raises:
            InvalidRequestError: `invalid-argument`.
            DirectoryError: `directory-unreadable`.
        """
        check_whole("limit", limit, 1, PAGE_MAX)
        self._hand_over()
        try:
            values, cursor, damaged = read_page(self._log.lines(before), limit)
        except OSError as error:
            raise unreadable("the directory of the audit log", error) from error
        entries: list[AuditEntry] = []
        for value in values:
            try:
                entries.append(msgspec.convert(value, AuditEntry))
            except msgspec.ValidationError as error:
                damaged.append(f"a line is no entry: {error}")
        return AuditPage(entries, cursor, damaged)

    def _hand_over(self) -> None:
        """Wait until what was recorded so far can be read, unless the disk fails."""
        upto = self._accepted
        self._wait_for(lambda: self._written >= upto or self._failing is not None)

    def figures(self) -> AuditFigures:
        """Return counts for metrics."""
        with self._wake:
            waiting = self._accepted - self._synced
            return AuditFigures(self._recorded, waiting, self._lost, self._failures)

    def findings(self) -> list[Finding]:
        """Return what is wrong with the log, for health.

        `audit-failing`: it cannot be written now; `audit-lost`: entries were dropped since the
        start; `audit-torn`: the last line before this start was cut.
        """
        with self._wake:
            failing, lost, waiting = self._failing, self._lost, self._accepted - self._synced
        found: list[Finding] = []
        if failing is not None:
            text = f"the audit log cannot be written ({failing}); {waiting} entries wait in memory"
            found.append(_finding("audit-failing", text))
        if lost:
            text = f"{lost} entries of the audit log were lost: the disk was full or failed"
            found.append(_finding("audit-lost", text, lost=f"{lost} entries"))
        if self._torn is not None:
            found.append(_finding("audit-torn", self._torn))
        return found

    def close(self) -> None:
        """Write and sync what waits, and close the files. Later entries are lost and counted."""
        with self._wake:
            if self._is_closing:
                return
            self._is_closing = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join(DURABLE_WAIT_SECONDS)
            if self._thread.is_alive():
                return  # the disk does not answer: its files stay open until the process ends
        else:
            self._step(sync=True)
            self._is_over = True
        try:
            self._log.finish()
        except OSError as error:
            self._failing = error.strerror
        self._files.close_directory(self._directory)


def _clean(entry: AuditEntry, now_ns: int) -> AuditEntry:
    """Return `entry` with its time, texts of bounded length, and nothing that has no UTF-8."""
    when = to_datetime(now_ns).isoformat(timespec="microseconds").replace("+00:00", "Z")
    changes: dict[str, object] = {"when": when}
    for name in AuditEntry.__struct_fields__:
        value = getattr(entry, name)
        if isinstance(value, str) and name != "when":
            changes[name] = value[:TEXT_LENGTH_MAX].encode(errors="replace").decode()
    return msgspec.structs.replace(entry, **changes)


def _finding(code: str, message: str, lost: str | None = None) -> Finding:
    return Finding(code, None, f"{names.SERVER}/{names.AUDIT}", message, lost)
