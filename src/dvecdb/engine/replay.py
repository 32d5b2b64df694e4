"""What of the logs counts: an ordered walk over records, with every doubt decided and named.

Let D be the highest LSN known to be synced (from the manifest, from the first LSN of the next
log, from the `durable_lsn` of any record in the file). Then

* at or below D, both copies of a batch's control data damaged, or a missing batch, means that the
  current state is unknown: the collection is set aside;
* at or below D, a damaged data block loses the rows in it, which are named, and nothing else;
* above D, the first record that is not whole and sound ends the log. It was not acknowledged, or
  only in the last moment before the crash: the cut is `torn` if its end is missing, and
  `possibly-acknowledged` if head and tail are there. What is cut goes to quarantine.

Records of an older epoch from the first LSN of a newer log on are void: their writer had lost the
right to write.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dvecdb.engine.wal import CONTINUED_SECTION, MANIFEST_SECTION
from dvecdb.formats.batch import batch_tag, decode_batch
from dvecdb.formats.framing import FormatError, decode_sections
from dvecdb.formats.manifest_file import decode_manifest
from dvecdb.formats.wal_record import FILE_HEADER_SIZE, Kind, scan
from dvecdb.records import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from dvecdb.formats.batch import Batch
    from dvecdb.formats.manifest_file import DecodedManifest, Manifest
    from dvecdb.formats.wal_record import Found, Scan

_FOREVER = 2**63


class SetAsideError(Exception):
    """The current state of a collection is unknown. It is set aside; the others serve."""

    def __init__(self, code: str, where: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.where = where
        self.message = message


@dataclass(slots=True)
class LogFile:
    """A log file, read when it is needed."""

    name: str
    epoch: int
    first_lsn: int
    read: Callable[[], bytes]
    was_read: bool = False
    _data: bytes | None = None
    _scan: Scan | None = None

    @property
    def data(self) -> bytes:
        """The bytes of the file."""
        if self._data is None:
            self._data = self.read()
            self.was_read = True
        return self._data

    @property
    def scan(self) -> Scan:
        """The records of the file."""
        if self._scan is None:
            self._scan = scan(self.data)
        return self._scan

    def release(self) -> None:
        """Forget the bytes; arrays made of them keep them as long as needed."""
        self._data = self._scan = None


@dataclass(frozen=True, slots=True)
class Cut:
    """The end of a log that does not count."""

    log: str
    offset: int
    data: bytes
    kind: str  # torn or possibly-acknowledged
    after_lsn: int


def newest_manifest(logs: Sequence[LogFile]) -> DecodedManifest | None:
    """Return the manifest of the highest generation among the copies in `logs`."""
    best: DecodedManifest | None = None
    for log in logs:
        for found in log.scan.records:
            if found.head.kind is not Kind.MANIFEST or found.control is None:
                continue
            try:
                copy = decode_manifest(decode_sections(found.control)[MANIFEST_SECTION])
            except (FormatError, KeyError):
                continue
            if best is None or copy.manifest.generation > best.manifest.generation:
                best = copy
    return best


def _synced(log: LogFile) -> int:
    """Return the highest LSN that the log itself says was synced, by its own writer.

    A later log says more, but not that nothing was torn: recovery takes a commit over of which
    one copy of the control data is missing, and leaves it in the old log as it is.
    """
    known = [int(record.head.durable_lsn) for record in log.scan.records]
    return max([*known, log.first_lsn - 1])


def _was_synced(record: Found, durable: int) -> bool:
    """Return whether `record` is known to have been synced whole, so that a bad copy is damage.

    Other kinds than batches are not: they carry the LSN of the batch before them, and are
    synced with the one after.
    """
    lsn = int(record.head.lsn)
    return lsn < durable or (lsn == durable and record.head.kind is Kind.BATCH)


def _is_continued(log: LogFile) -> bool:
    """Return whether `log` was sealed after the next one was durable."""
    newest = log.scan.records[-1:]
    return any(
        CONTINUED_SECTION in decode_sections(found.control)
        for found in newest
        if found.head.kind is Kind.SEAL and found.control is not None
    )


@dataclass(slots=True)
class Replay:
    """Iterate over (lsn, batch, record hash, hlc) of every batch after the manifest.

    Afterwards `last_hash` is the hash of the newest batch record, `cut` what was cut off, `sealed`
    whether the last log was closed in order, `findings` what was damaged or doubtful.

    Raises (while iterating):
        SetAsideError: the current state is unknown.
    """

    logs: Sequence[LogFile]
    manifest: Manifest
    writer_alive: bool = False
    is_new: bool = False
    is_copy: bool = False  # of sealed logs only: the one that went on is not part of it
    last_hash: int = 0
    cut: Cut | None = None
    sealed: bool = False
    findings: list[Finding] = field(default_factory=list)
    _expected: int = 0
    _refusals: list[str] = field(default_factory=list)

    def refuse(self, why: str) -> None:
        """Say that the batch just yielded cannot be applied."""
        self._refusals.append(why)

    def __iter__(self) -> Iterator[tuple[int, Batch, int, int]]:
        """Walk the logs."""
        flushed = self.manifest.flushed_lsn
        self._expected, self.last_hash = flushed + 1, self.manifest.flushed_hash
        self.sealed = self.is_new or self.is_copy
        if not self.logs and not self.sealed:
            raise SetAsideError("wal-missing", "wal", "there is no log; one is made at every open")
        if not self.is_copy:
            self._check_newest()
        for number, log in enumerate(self.logs):
            last = number + 1 == len(self.logs)
            void_from = _FOREVER if last else self.logs[number + 1].first_lsn
            if not last and void_from - 1 <= flushed:
                if log.epoch < self.logs[number + 1].epoch:
                    self._late(log, void_from)
                continue
            if log.first_lsn > self._expected:
                self._missing(log.name, self._expected, log.first_lsn - 1)
            yield from self._walk(log, void_from, last=last)
            if not last and self._expected < void_from:
                self._missing(log.name, self._expected, void_from - 1)
            log.release()

    def _late(self, log: LogFile, void_from: int) -> None:
        """Name what a writer that had lost its right added to a log that is flushed already."""
        for record in log.scan.records:
            if record.head.kind is Kind.BATCH and record.head.lsn >= void_from:
                self._void(record, f"wal/{log.name}")
                break
        log.release()

    def _check_newest(self) -> None:
        """Refuse to go on where the newest log is gone or empty and the one before says it was not.

        Otherwise the commits in it would be missing without a trace.
        """
        gone = [log for log in self.logs[-1:] if _is_continued(log)]
        emptied = [log for log in self.logs[-2:-1] if not self.logs[-1].scan.records]
        for log in gone or [log for log in emptied if _is_continued(log)]:
            where = f"wal/{log.name}"
            raise SetAsideError(
                "wal-missing", where, f"{where} was continued in a log that is gone or empty"
            )

    def _missing(self, where: str, first: int, last: int) -> None:
        raise SetAsideError(
            "wal-damaged", f"wal/{where}", f"commits {first} .. {last} are missing from the log"
        )

    def _walk(
        self, log: LogFile, void_from: int, *, last: bool
    ) -> Iterator[tuple[int, Batch, int, int]]:
        found_all = log.scan
        where = f"wal/{log.name}"
        synced = _synced(log)
        durable = max(self.manifest.flushed_lsn, 0 if last else void_from - 1, synced)
        if found_all.header is None and durable >= log.first_lsn:
            self._note(
                "wal-header-damaged", where, f"{where}: file header damaged; nothing is lost"
            )
        self._check_header(log, found_all, where)
        previous: Found | None = None
        for record in found_all.records:
            if record.head.kind is Kind.BATCH and record.head.lsn >= void_from:
                self._void(record, where)
                return
            reason = self._chain_broken(previous, record)
            if (
                reason is None
                and record.head.kind is Kind.BATCH
                and record.head.lsn >= self._expected
            ):
                reason = yield from self._batch(record, log, durable)
            if reason is not None:
                if self._expected >= void_from:
                    return  # beyond what this log counts for, and cut off by an earlier recovery
                if self._expected <= durable:
                    raise SetAsideError(
                        "wal-damaged", where, f"{where} at byte {record.offset}: {reason}"
                    )
                self._cut(log, record.offset, record, durable)
                return
            if _was_synced(record, synced):
                self._note_repairs(record, where)
            if record.head.kind is Kind.BATCH and record.head.lsn >= self._expected:
                self._expected, self.last_hash = record.head.lsn + 1, record.hash
            previous = record
        self._ending(log, previous, durable, last=last)

    def _batch(
        self, record: Found, log: LogFile, durable: int
    ) -> Generator[tuple[int, Batch, int, int], None, str | None]:
        """Yield a batch; return why it cannot count, or None."""
        head = record.head
        lsn = int(head.lsn)
        if lsn != self._expected:
            return f"expected commit {self._expected}, found {lsn}"
        if self.writer_alive and lsn > durable:
            return "not synced yet"
        if record.control is None:
            return f"control data of commit {lsn} is damaged in both copies"
        start = record.offset + head.data_offset
        data = memoryview(log.data)[start : start + head.data_size]
        try:
            batch = decode_batch(record.control, data, batch_tag(head.tag, lsn))
        except FormatError as error:
            return f"commit {lsn}: {error}"
        if lsn > durable and (batch.lost_vectors or batch.lost_metadata):
            return f"commit {lsn} is incomplete"
        yield lsn, batch, record.hash, int(head.hlc)
        if self._refusals:
            return self._refusals.pop()
        self._note_lost(batch, lsn, f"wal/{log.name}")
        return None

    def _check_header(self, log: LogFile, found: Scan, where: str) -> None:
        header = found.header
        if header is not None and (str(header.collection_uuid), str(header.lineage)) != (
            self.manifest.collection_uuid,
            self.manifest.lineage,
        ):
            raise SetAsideError("wal-foreign", where, f"{where} belongs to another collection")
        if (
            header is None
            or header.first_lsn != self._expected
            or log.first_lsn != header.first_lsn
        ):
            return
        if header.previous != self.last_hash:
            raise SetAsideError(
                "wal-damaged",
                where,
                f"{where} does not continue commit {self._expected - 1} as stored",
            )

    def _chain_broken(self, previous: Found | None, record: Found) -> str | None:
        if previous is None or previous.end != record.offset:
            return None
        if record.head.previous != previous.hash:
            return "does not continue the record before it"
        return None

    def _void(self, record: Found, where: str) -> None:
        if record.whole and record.control is not None:
            self._note(
                "fenced-records",
                f"{where} from commit {record.head.lsn}",
                f"{where}: records from commit {record.head.lsn} on were written after another "
                "process took over, or were cut off before; they do not count",
            )

    def _ending(self, log: LogFile, previous: Found | None, durable: int, *, last: bool) -> None:
        """Classify what follows or lies between the records of a log."""
        end = previous.end if previous is not None else FILE_HEADER_SIZE
        for start, stop in log.scan.gaps:
            if start < end:
                before = (int(r.head.lsn) for r in log.scan.records if r.offset < start)
                if max(before, default=log.first_lsn - 1) >= _synced(log):
                    continue  # torn by the crash: nothing after it is known to be synced
                where = f"wal/{log.name} bytes {start} .. {stop}"
                self._note("wal-bytes-damaged", where, f"{where}: damaged; no commit is lost by it")
            elif last:
                if self._expected <= durable:
                    self._missing(log.name, self._expected, durable)
                self._cut(log, start, None, durable)
                return
        if last:
            if self._expected <= durable:
                self._missing(log.name, self._expected, durable)
            self.sealed = previous is not None and previous.head.kind is Kind.SEAL

    def _cut(self, log: LogFile, offset: int, record: Found | None, durable: int) -> None:
        assert self._expected > durable
        used = log.scan.used_bytes
        whole = record is not None and record.whole
        kind = "possibly-acknowledged" if whole else "torn"
        self.cut = Cut(log.name, offset, log.data[offset:used], kind, self._expected - 1)

    def _note_repairs(self, record: Found, where: str) -> None:
        for copy in record.repaired:
            place = f"{where} byte {record.offset} {copy}"
            self._note("control-copy-damaged", place, f"{place}: damaged; the other copy is good")

    def _note_lost(self, batch: Batch, lsn: int, where: str) -> None:
        for what, ordinals in (("vectors", batch.lost_vectors), ("metadata", batch.lost_metadata)):
            if ordinals:
                ids = [batch.ids[number] for number in ordinals]
                place = f"{where} commit {lsn} {what}"
                self.findings.append(
                    Finding("rows-lost", None, place, f"{place}: {len(ids)} rows are damaged",
                            f"{what} of {', '.join(map(repr, ids[:20]))}", {"ids": ids})
                )  # fmt: skip

    def _note(self, code: str, where: str, message: str) -> None:
        self.findings.append(Finding(code, None, where, message))
