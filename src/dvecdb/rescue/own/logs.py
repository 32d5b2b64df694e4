"""What each log holds, and what of it counts: the rules of recovery, but nothing is given up.

Recovery sets a collection aside when a commit is missing that was synced. Here what is left counts
all the same, and what may be wrong because of it is said by others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dvecdb.engine.wal import MANIFEST_SECTION
from dvecdb.formats import names
from dvecdb.formats.batch import batch_tag, decode_batch
from dvecdb.formats.framing import FormatError, decode_sections
from dvecdb.formats.manifest_file import decode_manifest
from dvecdb.formats.wal_record import FILE_HEADER_SIZE, Kind, scan
from dvecdb.reports import Lost
from dvecdb.rescue.own.segments import ROWS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dvecdb.formats.batch import Batch
    from dvecdb.formats.manifest_file import Manifest
    from dvecdb.formats.wal_record import FileHeader, Found, Scan
    from dvecdb.rescue.own.places import Part, Place

_MISSING_BYTES_MAX: Final = 1024 * 1024 * 1024


@dataclass(slots=True)
class Logged:
    """A batch as a log holds it, without its vectors: those begin at `vectors_offset`.

    batch: None if its control data is damaged in both copies. is_sound: whole and undamaged.
    """

    log: Log
    lsn: int
    offset: int
    size: int
    whole: bool
    batch: Batch | None
    vectors_offset: int
    is_sound: bool
    why: str = ""


@dataclass(slots=True)
class Log:
    """One log file. durable: the highest LSN that it knows to be synced."""

    part: Part
    name: str
    epoch: int
    first_lsn: int
    header: FileHeader | None
    durable: int
    size_bytes: int
    used_bytes: int
    good_bytes: int
    gaps: list[tuple[int, int]]
    logged: list[Logged] = field(default_factory=list)
    manifests: list[Manifest] = field(default_factory=list)

    @property
    def path(self) -> str:
        """What the file is called in reports."""
        return self.part.path(self.name)


@dataclass(slots=True)
class Accepted:
    """The batches that count, by LSN; what was cut off; commits that fenced writers added."""

    batches: list[Logged]
    lost: list[Lost]
    notes: list[str]


def read_logs(place: Place, done: Callable[[int], None]) -> list[Log]:
    """Read every log, oldest first. done: is told the bytes of each."""
    logs: list[Log] = []
    part = place.wal
    for name in part.found if part is not None else ():
        assert part is not None
        try:
            data = place.read(part, name)
        except OSError as error:
            if names.parse_wal_name(name) is not None:
                place.refused(part.path(name), error)
            continue
        log = _read_log(part, name, data)
        if log is not None:
            logs.append(log)
            done(len(data))
    return sorted(logs, key=lambda log: (log.epoch, log.first_lsn, log.name))


def _read_log(part: Part, name: str, data: bytes) -> Log | None:
    scanned = scan(data)
    identity = names.parse_wal_name(name)
    if scanned.header is not None:
        identity = identity or (int(scanned.header.epoch), int(scanned.header.first_lsn))
    batches = [record for record in scanned.records if record.head.kind is Kind.BATCH]
    if identity is None and batches:
        identity = int(batches[0].head.epoch), int(batches[0].head.lsn)
    if identity is None:
        return None
    log = Log(
        part,
        name,
        *identity,
        scanned.header,
        max([identity[1] - 1, *(int(record.head.durable_lsn) for record in scanned.records)]),
        len(data),
        max(scanned.used_bytes, min(len(data), FILE_HEADER_SIZE)),
        FILE_HEADER_SIZE if scanned.header is not None else 0,
        scanned.gaps,
    )
    _read_records(log, scanned, data)
    return log


def _read_records(log: Log, scanned: Scan, data: bytes) -> None:
    previous: Found | None = None
    for record in scanned.records:
        if record.head.kind is Kind.MANIFEST and record.control is not None:
            try:
                copy = decode_manifest(decode_sections(record.control)[MANIFEST_SECTION])
                log.manifests.append(copy.manifest)
            except (FormatError, KeyError):
                pass
        elif record.head.kind is Kind.BATCH:
            logged = _read_batch(log, record, data)
            if (
                previous is not None
                and previous.end == record.offset
                and record.head.previous != previous.hash
            ):
                logged.is_sound, logged.why = False, "does not continue the record before it"
            log.logged.append(logged)
            log.good_bytes += logged.size if logged.is_sound else 0
        if record.head.kind is not Kind.BATCH and record.whole:
            log.good_bytes += record.head.size
        previous = record


def _read_batch(log: Log, record: Found, data: bytes) -> Logged:
    """Return what a record holds; data that is cut off reads as zeros, which no checksum fits."""
    head, lsn = record.head, int(record.head.lsn)
    start = record.offset + head.data_offset
    logged = Logged(log, lsn, record.offset, head.size, record.whole, None, start, is_sound=False)
    if record.control is None:
        logged.why = "its control data is damaged in both copies"
        return logged
    body = memoryview(data)[start : start + head.data_size]
    missing = head.data_size - len(body)
    if missing > _MISSING_BYTES_MAX:
        logged.why = "cut short"
        return logged
    if missing:
        body = memoryview(bytes(body) + bytes(missing))
    try:
        batch = decode_batch(record.control, body, batch_tag(head.tag, lsn))
    except FormatError as error:
        logged.why = str(error)
        return logged
    if max(batch.first_row + batch.row_count, lsn) > ROWS_MAX:
        logged.why = "its rows cannot be"
        return logged
    batch.vectors = b""  # read again when they are wanted; a log may be large
    batch.ends = batch.ends.copy()
    logged.batch = batch
    logged.is_sound = not batch.lost_vectors and not batch.lost_metadata
    logged.why = "" if logged.is_sound else "some of its data is damaged"
    return logged


def void_from(logs: Sequence[Log]) -> list[int | None]:
    """Return for each log the LSN from which its records do not count: a later log began there."""
    found: list[int | None] = []
    for number in range(len(logs)):
        later = [log.first_lsn for log in logs[number + 1 :]]
        found.append(min(later, default=None))
    return found


def accept(logs: Sequence[Log], durable: int, has_bulk: Callable[[Batch], bool]) -> Accepted:
    """Decide which batches count.

    durable: the highest LSN known to be synced, of anything but these logs. Up to what is known to
    be synced every readable batch counts; after it those that follow without a gap and are sound.
    has_bulk: whether the segment is there that a batch names.
    """
    accepted = Accepted([], [], [])
    counted: dict[int, Logged] = {}
    for log, limit in zip(logs, void_from(logs), strict=True):
        durable = max(durable, log.durable)
        for logged in log.logged:
            if limit is None or logged.lsn < limit:
                counted.setdefault(logged.lsn, logged)
            elif logged.is_sound:
                accepted.notes.append(
                    f"{log.path}: records from commit {logged.lsn} on were written after another "
                    "process took over, or were cut off before; they do not count"
                )
                break
    for lsn in sorted(item for item in counted if item <= durable):
        if counted[lsn].batch is not None:
            accepted.batches.append(counted[lsn])
        else:
            _lose(accepted, counted[lsn], f"commit {lsn}: {counted[lsn].why}")
    _accept_tail(accepted, counted, durable, has_bulk)
    _lose_gaps(accepted, logs)
    return accepted


def _accept_tail(
    accepted: Accepted,
    counted: dict[int, Logged],
    durable: int,
    has_bulk: Callable[[Batch], bool],
) -> None:
    """Take what may not have been synced, up to the first commit that is not whole and sound."""
    lsn, is_open = durable + 1, True
    for number in sorted(item for item in counted if item > durable):
        logged = counted[number]
        batch = logged.batch
        bulk_is_there = batch is None or batch.bulk is None or has_bulk(batch)
        is_open = is_open and number == lsn and logged.is_sound and bulk_is_there
        if is_open:
            accepted.batches.append(logged)
            lsn += 1
            continue
        kind = "possibly acknowledged" if logged.whole else "torn"
        why = logged.why or "it does not follow the commits before it"
        _lose(accepted, logged, f"commit {number} was in flight at the end ({kind}): {why}")


def _lose(accepted: Accepted, logged: Logged, why: str) -> None:
    end = min(logged.offset + logged.size, logged.log.size_bytes)
    accepted.lost.append(Lost(logged.log.path, logged.offset, max(end, logged.offset), why))


def _lose_gaps(accepted: Accepted, logs: Sequence[Log]) -> None:
    for log in logs:
        for start, end in log.gaps:
            accepted.lost.append(Lost(log.path, start, end, "no record can be read here"))
