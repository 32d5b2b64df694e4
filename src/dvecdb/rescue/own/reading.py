"""Reading one of our own directories, whatever is left of it, as rows that can be written again."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from dvecdb.engine.rows import segment_documents
from dvecdb.engine.storage import unreadable
from dvecdb.errors import Code, NotFoundError
from dvecdb.reports import ImportReport, Lost, cap_lost
from dvecdb.rescue.own.account import Account
from dvecdb.rescue.own.coverage import Coverage
from dvecdb.rescue.own.evidence import (
    fill_in,
    find_schema,
    is_own,
    lacks,
    own_logs,
    read_stated,
    weigh,
)
from dvecdb.rescue.own.holders import BatchRows, SegmentRows, holds
from dvecdb.rescue.own.logs import read_logs
from dvecdb.rescue.own.places import locate
from dvecdb.rescue.own.rows import Dropped, Ends, StoredVectors, choose
from dvecdb.rescue.own.segments import examine_all
from dvecdb.rescue.salvage import Salvage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dvecdb.formats.columns import DocumentEntry
    from dvecdb.media.files import File, Files
    from dvecdb.records import Json, Schema
    from dvecdb.rescue.own.evidence import Evidence
    from dvecdb.rescue.own.holders import Holder
    from dvecdb.rescue.own.logs import Log
    from dvecdb.rescue.own.places import Place
    from dvecdb.rescue.own.segments import Opened, Unusable
    from dvecdb.rescue.salvage import Choice, Progress

KIND: Final = "dvecdb-collection"
GENERATION: Final = "dvecdb"


def read_own(files: Files, path: str, choice: Choice, progress: Progress | None = None) -> Salvage:
    """Read the newest provable state of a collection, trash entry, backup, segment or log of ours.

    path: one of these, or a data directory; then `choice.collection` names which. Nothing is
    written and no lock is taken. A row comes as it was in the newest commit that is proven by what
    is there; what cannot be proven for want of missing files comes with a doubt. progress: called
    with bytes done and in all.

    Raises:
        NotFoundError: `source-not-found`; `nothing-recoverable`, details hold the report.
        InvalidRequestError: `source-unclear`, `source-contradicts`.
        DirectoryError: `directory-unreadable`; `format-too-new`.
    """
    place = locate(files, path, choice.collection)
    report = ImportReport(source=path, kind=KIND, generation=GENERATION, name=place.name)
    reading = _Reading(files, place, choice, progress)
    try:
        return reading.run(report)
    except OSError as error:
        reading.close()
        raise unreadable(path, error) from error
    except BaseException:
        reading.close()
        raise


@dataclass(slots=True)
class _Reading:
    """One reading, step by step."""

    files: Files
    place: Place
    choice: Choice
    progress: Progress | None
    holders: list[Holder] = field(default_factory=list)
    opened: list[Opened] = field(default_factory=list)
    log_files: dict[str, File] = field(default_factory=dict)
    done_bytes: int = 0
    total_bytes: int = 0

    def run(self, report: ImportReport) -> Salvage:
        found, unusable = examine_all(self.place)
        self.total_bytes = sum(item.head.file_size + item.vectors_bytes for item in found)
        logs = self._read_logs()
        stated = read_stated(self.place, logs)
        logs = own_logs(self.place, logs, stated)
        schema, type_is_certain = find_schema(self.place, stated, found, logs, self.choice)
        if schema is None:
            raise self._nothing(report, unusable)
        evidence = weigh(self.place, stated, logs, found)
        evidence.unusable = unusable
        self.opened = evidence.opened
        best = len(evidence.opened)
        self._hold_segments(evidence, evidence.opened, schema)
        self._hold_batches(evidence, schema)
        if lacks(evidence, found):
            self._hold_segments(evidence, fill_in(self.place, evidence, found), schema)
        self._advance(self.total_bytes)
        facts = _Facts(evidence, best, self.place.notes)
        documents = facts.documents()
        chosen = choose(
            self.holders, facts.ends(), facts.dropped(), keep_deleted=self.choice.keep_deleted
        )
        account = Account(report, self.place, evidence, schema, self.holders, chosen)
        account.write(logs, facts.dropped(), type_is_certain=type_is_certain)
        cap_lost(report)
        keep = account.is_imported()
        if not keep.any() and (report.lost or not (evidence.coverage.last or stated.manifests)):
            raise self._nothing(report)
        places = np.flatnonzero(keep).tolist()
        return Salvage(
            schema=schema,
            report=report,
            ids=[str(chosen.ids[number]) for number in places],
            metadata=[chosen.metadata[number] or b"" for number in places],
            vectors=StoredVectors(schema, self.holders, chosen.holder[keep], chosen.ordinal[keep]),
            close=self.close,
            documents=documents,
        )

    def close(self) -> None:
        """Give every file and directory back."""
        for opened in self.opened:
            opened.segment.close()
        log_files, self.log_files = self.log_files, {}
        for file in log_files.values():
            with contextlib.suppress(OSError):
                self.files.close(file)
        self.place.close()

    def _read_logs(self) -> list[Log]:
        part = self.place.wal
        if not self.choice.use_log or part is None:
            return []
        for name in part.found:
            with contextlib.suppress(OSError):
                stat = self.files.stat(part.directory, name)
                self.total_bytes += stat.size_bytes if stat is not None else 0
        return read_logs(self.place, self._advance)

    def _advance(self, size_bytes: int) -> None:
        self.done_bytes = min(self.done_bytes + size_bytes, self.total_bytes)
        if self.progress is not None:
            self.progress(self.done_bytes, self.total_bytes)

    def _hold_segments(self, evidence: Evidence, opened: Sequence[Opened], schema: Schema) -> None:
        """Take the rows of segments, every byte of them read and verified."""
        for item in opened:
            is_shared = evidence.manifest is None and not is_own(item.found, evidence.stated)
            rows = SegmentRows(item, is_shared=is_shared)
            self._advance(item.found.head.file_size + item.found.vectors_bytes)
            if holds(rows, schema):
                self.holders.append(rows)
            else:
                where = item.found.part.path(item.found.name)
                self.place.notes.append(f"{where} holds vectors of another form; not used")

    def _hold_batches(self, evidence: Evidence, schema: Schema) -> None:
        """Take the rows that lie in logs."""
        for logged in reversed(evidence.accepted.batches):
            batch, log = logged.batch, logged.log
            if batch is None or batch.bulk is not None or not batch.row_count:
                continue
            if batch.vector_bytes != schema.vector_bytes:
                self.place.notes.append(
                    f"{log.path}: commit {logged.lsn} holds vectors of another form; not used"
                )
                continue
            if log.name not in self.log_files:
                self.log_files[log.name] = self.files.open(log.part.directory, log.name)
            self.holders.append(BatchRows(self.files, self.log_files[log.name], logged, schema))

    def _nothing(self, report: ImportReport, unusable: Sequence[Unusable] = ()) -> NotFoundError:
        """Return the error for a source of which nothing can be brought back."""
        if unusable:
            report.notes += self.place.notes
            report.unreadable += self.place.unreadable
            report.lost += [
                Lost(f"{item.part.path(item.name)}/{name}", 0, size, item.why)
                for item in unusable
                for name, size in item.sizes.items()
            ]
        cap_lost(report)
        return NotFoundError(
            Code.NOTHING_RECOVERABLE,
            f"{report.source}: nothing in it can be brought back; the report says what was found",
            report=msgspec.to_builtins(report),
        )


class _Facts:
    """What commits say, wherever they lie: ends of rows, documents, rows that are gone.

    What only fills in speaks for the commits that nothing better holds.
    """

    def __init__(self, evidence: Evidence, best: int, notes: list[str]) -> None:
        """best: how many of the opened segments are the best ones; notes: what is added to."""
        self._notes = notes
        self._evidence = evidence
        self._best = best
        self._stored = Coverage()
        for opened in evidence.opened:
            segment = opened.segment
            if segment.commits:
                self._stored.add(
                    segment.first_lsn, segment.first_row, segment.commit_row_ends.tolist()
                )

    def ends(self) -> Ends:
        """Return the rows that ended."""
        stored, logged = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for number, opened in enumerate(self._evidence.opened):
            rows, lsns = opened.segment.ends_rows, opened.segment.ends_lsns
            if number >= self._best:
                rows = rows[~self._evidence.proven.holds(lsns)]
            stored.append(rows.astype(np.int64))
        for item in self._evidence.accepted.batches:
            if item.batch is not None and len(item.batch.ends):
                kind = stored if item.lsn in self._stored else logged
                kind.append(item.batch.ends.astype(np.int64))
        return Ends(np.concatenate(stored), np.concatenate(logged))

    def dropped(self) -> list[Dropped]:
        """Return the ranges of which rows were dropped, long after they ended."""
        return [
            Dropped(segment.first_row, segment.row_end, segment.row_numbers)
            for segment in (opened.segment for opened in self._evidence.opened)
            if segment.row_numbers is not None
        ]

    def documents(self) -> dict[tuple[str, str], Json]:
        """Return the newest value of every document of the user's."""
        newest: dict[tuple[str, str], tuple[int, bytes | None]] = {}
        for lsn, (namespace, key, value) in self._versions():
            if not namespace.startswith("_") and lsn >= newest.get((namespace, key), (0, None))[0]:
                newest[namespace, key] = lsn, value
        found: dict[tuple[str, str], Json] = {}
        for name, (_, value) in sorted(newest.items()):
            with self._noting(f"document {name}"):
                if value is not None:
                    found[name] = msgspec.json.decode(value)
        return found

    @contextlib.contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        """Note what cannot be decoded although its checksum fits, and go on."""
        try:
            yield
        except (msgspec.MsgspecError, ValueError, IndexError, RecursionError) as error:
            self._notes.append(f"{what} makes no sense ({error})")

    def _versions(self) -> Iterator[tuple[int, DocumentEntry]]:
        for number, opened in enumerate(self._evidence.opened):
            stored: list[tuple[int, DocumentEntry]] = []
            with self._noting(f"{opened.found.part.path(opened.found.name)}: documents"):
                stored = list(segment_documents(opened.segment))
            for lsn, entry in stored:
                if number < self._best or lsn not in self._evidence.proven:
                    yield lsn, entry
        for item in self._evidence.accepted.batches:
            for entry in item.batch.documents if item.batch is not None else ():
                yield item.lsn, entry
