"""One legacy collection out of its file and its log: each id once, the newest content of it.

The file holds every version that was written and no deletions; the log holds both, but is behind
the file (newer servers) or was written before it (older ones). So: the file's records in the order
they were written; then what only the log has, or has newer; less what it deleted last.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec
import numpy as np

from dvecdb.reports import Doubt, Lost
from dvecdb.rescue.legacy.found import PREFIXED, RAW, TOO_MANY, Walked, turn
from dvecdb.rescue.legacy.layout import (
    HEAD_SIZE,
    PREFIX_SIZE,
    SIXTEEN,
    Marks,
    dimensions_in,
    u32,
    u64,
    used_size,
)
from dvecdb.rescue.legacy.metadata import MetadataReader, read_json_text
from dvecdb.rescue.legacy.plain import VectorsAt
from dvecdb.rescue.legacy.plausible import bits_apart, fills_holes
from dvecdb.rescue.legacy.stream import HOLE, Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from dvecdb.media.files import Mapped
    from dvecdb.reports import ImportReport
    from dvecdb.rescue.files import SourceFile
    from dvecdb.rescue.legacy.found import Found
    from dvecdb.rescue.legacy.log import Body, CollectionLog
    from dvecdb.rescue.salvage import Choice

RAW_KEY: Final = "_dvecdb_raw"
_LEARNED_MAX: Final = 128
_SAMPLE_BYTES_MAX: Final = 4096
_FLIPPED_BITS_MAX: Final = 2
_HOLES_MAX: Final = 8
_IDENTIFIER_BYTES: Final = 16


class Row(msgspec.Struct, gc=False):
    """A row to be: its content, and where its vector lies (in the log, or in the file)."""

    identifier: bytes
    vector: int
    json: bytes
    in_log: bool = False
    doubts: tuple[Doubt, ...] = ()
    zeros: tuple[str, ...] = ()


@dataclass(slots=True)
class LegacyCollection:
    """What is at hand of one collection. vectors, log_file: open files; log: of this collection."""

    vectors: SourceFile | None
    log_file: SourceFile | None
    log: CollectionLog | None
    log_is_complete: bool = False

    def dimensions(self) -> Counter[int]:
        """Return how often each dimension occurs, in the file or else in the log."""
        found: Counter[int] = Counter()
        if self.vectors is not None:
            found = dimensions_in(self.vectors.data, self.vectors.size)
        if not found and self.log is not None:
            for puts in self.log.puts.values():
                found.update(body.dimension for _, body in puts)
        return found


def read_rows(
    source: LegacyCollection,
    dimension: int,
    choice: Choice,
    report: ImportReport,
    progress: Callable[[int], None] | None,
) -> list[Row]:
    """Return the rows of a collection, and fill in the report but for what is `exact`."""
    vectors = source.vectors
    reader = MetadataReader(sum(file.size for file in (vectors, source.log_file) if file))
    walked = Walked()
    if vectors is not None:
        used = used_size(vectors.data, vectors.size)
        marks = Marks(vectors.data, vectors.size, dimension, used)
        reader.learn([*_samples(marks, used), *_log_samples(source, dimension)])
        walk = Walk(vectors.data, marks, used, reader, vectors.name)
        walked = walk.run(progress)
        report.bytes_used, report.bytes_good = used, walked.bytes_good
        report.lost += walked.lost
        report.unreadable += vectors.unreadable
    else:
        reader.learn(_log_samples(source, dimension))
    report.generation = _generation(walked)
    report.records_found = len(walked.records)
    rows = _Merge(source, dimension, choice, reader).rows(walked, report)
    _note_doubts(rows, report, keep_raw=choice.keep_raw)
    _note_given_up(report)
    report.imported = len(rows)
    return rows


def _samples(marks: Marks, used: int) -> list[bytes]:
    """Return untagged metadata of some records, from all over the file, to learn from."""
    data = marks.data
    found: list[bytes] = []
    step = max(1, used // _LEARNED_MAX)
    at = 0
    while at < used and len(found) < _LEARNED_MAX:
        start = marks.following(at)
        if start < 0:
            break
        begin = start + marks.vector_end + 1
        following = marks.following(begin)
        at = max(start + 1, begin, (at // step + 1) * step if used > step * 64 else 0)
        if following < 0 or begin > used or data[begin - 1] != 1:
            continue
        ends: tuple[int, ...] = (following, following - PREFIX_SIZE)
        if start >= PREFIX_SIZE and start + u32(data, start - PREFIX_SIZE)[0] == ends[1]:
            ends = ends[1:]  # its length says so
        for end in ends:
            region = bytes(data[begin:end])
            if 8 < len(region) <= _SAMPLE_BYTES_MAX and _may_be_untagged(data, start, region, end):
                found.append(region)
    return found


def _may_be_untagged(data: Mapped, start: int, region: bytes, end: int) -> bool:
    """Tell whether metadata is not JSON text, and ends at `end` if a length says where."""
    (size,) = u64(region, 0)
    if size == len(region) - 8:
        return False
    if start >= 4:
        (length,) = u32(data, start - 4)
        return bool(start + length == end or data[end : end + 8] == SIXTEEN)
    return bool(data[end : end + 8] == SIXTEEN)


def _log_samples(source: LegacyCollection, dimension: int) -> list[bytes]:
    if source.log is None or source.log_file is None:
        return []
    found: list[bytes] = []
    for puts in source.log.puts.values():
        for _, body in puts[:_LEARNED_MAX]:
            is_sample = 0 < body.end - body.begin <= _SAMPLE_BYTES_MAX and not body.is_json
            if is_sample and body.dimension == dimension:
                found.append(bytes(source.log_file.data[body.begin : body.end]))
        if len(found) >= _LEARNED_MAX:
            break
    return found


def _generation(walked: Walked) -> str | None:
    """Return the generations that a file's records are of, in the order they were written."""
    kinds = Counter(
        "A" if item.framing == RAW else {"json": "C", "untagged": "B"}.get(item.encoding, "")
        for item in walked.records
    )
    if "" in kinds and not {"B", "C"} & set(kinds):
        kinds["B/C"] = kinds[""]
    kinds.pop("", None)
    return "+".join(sorted(kinds)) or None


class _Merge:
    """Puts the records of a file and of its log together."""

    def __init__(
        self, source: LegacyCollection, dimension: int, choice: Choice, reader: MetadataReader
    ) -> None:
        self._source = source
        self._dimension = dimension
        self._choice = choice
        self._reader = reader
        self._size = 4 * dimension
        self._unclear: list[int] = []

    def rows(self, walked: Walked, report: ImportReport) -> list[Row]:
        records, self._unclear = walked.records, walked.unclear
        if any(item.run or item.framing == PREFIXED for item in records):
            records = sorted(records, key=turn)  # and else in the order of the file
        keys = self._identifiers(records)
        log = self._source.log if self._choice.use_log else None
        is_logged = log is not None and (log.puts or log.deleted)
        if not is_logged and len(set(keys)) == len(keys):
            return [_row_of(key, item) for key, item in zip(keys, records, strict=True)]
        by_id = self._by_id(keys, records)
        if log is None or not is_logged:
            rows = [self._unless_holed(key, versions) for key, versions in by_id.items()]
        else:
            rows = self._with_log(by_id, log, report)
        report.superseded = report.records_found - len(by_id)
        return rows

    @staticmethod
    def _by_id(keys: list[bytes], records: list[Found]) -> dict[bytes, list[Found]]:
        """Return the versions of each id, oldest first, in the order of their last ones."""
        by_id: dict[bytes, list[Found]] = {}
        for key, item in zip(keys, records, strict=True):
            versions = by_id.pop(key, [])
            versions.append(item)
            by_id[key] = versions
        return by_id

    def _identifiers(self, records: list[Found]) -> list[bytes]:
        if not records:
            return []
        assert self._source.vectors is not None
        stored = np.frombuffer(self._source.vectors.data, np.uint8)
        size = _IDENTIFIER_BYTES
        begins = np.fromiter((item.vector for item in records), np.int64, len(records)) - 24
        joined = stored[begins[:, None] + np.arange(size)].tobytes()
        return [joined[at : at + size] for at in range(0, len(joined), size)]

    def _with_log(
        self, by_id: dict[bytes, list[Found]], log: CollectionLog, report: ImportReport
    ) -> list[Row]:
        rows: list[Row] = []
        for key in [*by_id, *(key for key in log.puts if key not in by_id)]:
            puts = [item for item in log.puts.get(key, ()) if item[1].dimension == self._dimension]
            row, is_after = self._newest(key, by_id.get(key, []), puts, log, report)
            if row is None:
                continue
            if key in log.deleted and not is_after:
                report.deleted_by_log.append(str(UUID(bytes=key)))
                if not self._choice.keep_deleted:
                    continue
            rows.append(row)
        return rows

    def _newest(
        self,
        key: bytes,
        versions: list[Found],
        puts: list[tuple[int, Body]],
        log: CollectionLog,
        report: ImportReport,
    ) -> tuple[Row | None, bool]:
        """Return the newest content of an id, and whether it was written after the log's end."""
        usable = [body for life, body in puts if life == log.life or self._choice.include_dropped]
        if not versions:
            return (self._row_of_body(key, usable[-1]) if usable else None), False
        newest = self._unless_holed(key, versions)
        if not puts:
            return newest, False
        logged = [self._row_of_body(key, body) for _, body in puts]
        last = logged[-1]
        vector, last_vector = self._vector(newest), self._vector(last)
        if self._same(newest, last):
            self._note_swallowed(versions[-1], puts[-1][1], report)
            return _surer(newest, last), False
        is_open = not self._source.log_is_complete and key not in log.deleted
        if is_open and self._is_before(versions, last):
            return newest, True
        is_flipped = bits_apart(vector, last_vector) in range(1, _FLIPPED_BITS_MAX + 1)
        if is_flipped or fills_holes(vector, last_vector):
            text = "its vector in the file is damaged, or a version before; the log's was taken"
            file = report.source
            doubt = Doubt(file=file, offset=versions[-1].start, why="repaired", text=text)
            last.doubts = (*last.doubts, doubt)
            return last, False
        is_logged = any(self._same(newest, other) for other in logged[:-1])
        if is_logged or self._source.log_is_complete:
            return (last if usable else newest), False
        return newest, True

    def _is_before(self, versions: list[Found], logged: Row) -> bool:
        """Tell whether the file has what the log has last, and went on after it.

        Only servers that put no length before records are sure not to have replayed their log
        behind, or over, what they had written.
        """
        newest = versions[-1]
        return newest.framing == RAW and any(
            item.framing == RAW
            and item.run == newest.run
            and self._same(_row_of(logged.identifier, item), logged)
            for item in versions[:-1]
        )

    def _note_swallowed(self, found: Found, body: Body, report: ImportReport) -> None:
        """Name what was read as a record's metadata, and is not, as the log shows."""
        vectors = self._source.vectors
        begin = found.vector + self._size + 1
        end = begin + body.end - body.begin
        is_comparable = not body.is_json and found.encoding == "untagged"
        if vectors is not None and is_comparable and found.end > end:
            why = "the rest of an older record whose beginning was overwritten"
            report.lost.append(Lost(vectors.name, end, found.end, why))

    def _unless_holed(self, key: bytes, versions: list[Found]) -> Row:
        """Return the newest version, or the one before if it is that with a hole in its vector."""
        newest = _row_of(key, versions[-1])
        if len(versions) > 1 and any(doubt.why == "damaged" for doubt in newest.doubts):
            before = _row_of(key, versions[-2])
            if fills_holes(self._vector(newest), self._vector(before)):
                return before
        begin, end = min(item.start for item in versions), versions[-1].start
        if any(begin < at < end for at in self._unclear):
            file = self._source.vectors.name if self._source.vectors is not None else ""
            text = "which of its versions is the newest: bytes between them may begin an older run"
            newest.doubts += (Doubt(file=file, offset=end, why="ambiguous", text=text),)
        return newest

    def _same(self, one: Row, other: Row) -> bool:
        if self._vector(one) != self._vector(other):
            return False
        if one.json == other.json or one.doubts or other.doubts or one.zeros or other.zeros:
            return True
        return bool(_value(one.json) == _value(other.json))

    def _vector(self, row: Row) -> bytes:
        file = self._source.log_file if row.in_log else self._source.vectors
        assert file is not None
        return bytes(file.data[row.vector : row.vector + self._size])

    def _row_of_body(self, key: bytes, body: Body) -> Row:
        """Return the row of a record in the log; its metadata ends where the log says."""
        file = self._source.log_file
        assert file is not None
        region = bytes(file.data[body.begin : body.end])
        if not region:
            return Row(key, body.vector, b"", in_log=True)
        if body.is_json:
            json = read_json_text(region[8:])
            return Row(key, body.vector, json or b"", in_log=True)
        fast = self._reader.fast(region)
        if fast is not None:
            return Row(key, body.vector, fast, in_log=True)
        size = len(region)
        self._reader.budget.next_record()
        decoded = self._reader.read(region, lambda at: 0.0 if at == size else float("inf"))
        place = {"file": file.name, "offset": body.begin, "raw": region.hex()}
        if decoded is None:
            text = TOO_MANY if self._reader.budget.gave_up else "its metadata cannot be read"
            doubt = Doubt(why="metadata-lost", text=text, **place)  # type: ignore[arg-type]
            return Row(key, body.vector, b"", in_log=True, doubts=(doubt,))
        doubts: tuple[Doubt, ...] = ()
        if decoded.doubt is not None:
            text = "its metadata has several readings; the likeliest was taken"
            doubts = (Doubt(why=decoded.doubt, text=text, **place),)  # type: ignore[arg-type]
        return Row(
            key, body.vector, decoded.json, in_log=True, doubts=doubts, zeros=tuple(decoded.zeros)
        )


def _surer(one: Row, other: Row) -> Row:
    """Return that of two rows of the same content which is in less doubt."""
    if one.doubts and not other.doubts:
        return other
    if one.zeros and not other.zeros and not other.doubts:
        return other
    return one


def _value(json: bytes) -> Any:
    return msgspec.json.decode(json) if json else None


def _row_of(key: bytes, found: Found) -> Row:
    return Row(key, found.vector, found.json, doubts=found.doubts, zeros=found.zeros)


def _note_doubts(rows: list[Row], report: ImportReport, *, keep_raw: bool) -> None:
    """Put the doubts of all rows into the report, and the raw bytes into the rows if wanted."""
    zero_rows: dict[str, list[Row]] = defaultdict(list)
    in_doubt = 0
    _drop_usual_zeros(rows)
    for row in rows:
        if not (row.doubts or row.zeros):
            continue
        in_doubt += 1
        for doubt in row.doubts:
            report.doubtful.append(
                msgspec.structs.replace(doubt, id=str(UUID(bytes=row.identifier)))
            )
            if keep_raw and doubt.raw:
                value = _value(row.json) or {}
                row.json = msgspec.json.encode({**value, RAW_KEY: doubt.raw})
        for key in set(row.zeros):
            zero_rows[key].append(row)
    for key, found in zero_rows.items():
        report.doubtful.append(_zero_doubt(key, found, report))
    report.exact = len(rows) - in_doubt


def _note_given_up(report: ImportReport) -> None:
    count = sum(doubt.text == TOO_MANY for doubt in report.doubtful)
    if count:
        report.notes.append(
            f"the metadata of {count:,} records has more readings than an import looks at; it is "
            "in the report as it was stored, and with --keep-raw in the rows"
        )


def _drop_usual_zeros(rows: list[Row]) -> None:
    """Take zeros in vectors for what they are where many vectors have them."""
    doubted = [row for row in rows if row.doubts]
    holed = [row for row in doubted if any(doubt.text == HOLE for doubt in row.doubts)]
    if len(holed) > max(_HOLES_MAX, len(rows) // 50):
        for row in holed:
            row.doubts = tuple(doubt for doubt in row.doubts if doubt.text != HOLE)


def _zero_doubt(key: str, rows: list[Row], report: ImportReport) -> Doubt:
    return Doubt(
        id=str(UUID(bytes=rows[0].identifier)),
        file=report.source,
        offset=rows[0].vector - HEAD_SIZE,
        why="zero-class",
        text=f'{key}: eight zero bytes, which are 0, 0.0, "", [] or {{}}; no other record tells',
        key=key,
        rows=len(rows),
    )


def id_texts(rows: list[Row]) -> list[str]:
    """Return the ids of rows as text."""
    if not rows:
        return []
    raw = np.frombuffer(b"".join(row.identifier for row in rows), np.uint8).reshape(-1, 16)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    hexadecimal = np.empty((len(rows), 32), np.uint8)
    hexadecimal[:, 0::2], hexadecimal[:, 1::2] = digits[raw >> 4], digits[raw & 15]
    text = np.full((len(rows), 36), ord("-"), np.uint8)
    for start, end, at in ((0, 8, 0), (8, 12, 9), (12, 16, 14), (16, 20, 19), (20, 32, 24)):
        text[:, at : at + end - start] = hexadecimal[:, start:end]
    joined = text.tobytes().decode()
    return [joined[at : at + 36] for at in range(0, len(joined), 36)]


class LegacyVectors:
    """The vectors of rows, from where they lie. Notes rows that are not finite in the report."""

    def __init__(
        self, source: LegacyCollection, rows: list[Row], dimension: int, report: ImportReport
    ) -> None:
        self._source = source
        self._rows = rows
        self._dimension = dimension
        self._report = report
        self._is_checked = False

    @property
    def stored_bytes(self) -> int:
        """Size of all of them as stored."""
        return len(self._rows) * 4 * self._dimension

    def pieces(self, rows_per_piece: int) -> Iterator[npt.NDArray[Any]]:
        """Yield them as float32[n, dimension], `rows_per_piece` at a time but for the last."""
        files = (self._source.vectors, self._source.log_file)
        vectors = VectorsAt(
            [None if file is None else file.data for file in files], self._dimension
        )
        count = len(self._rows)
        begins = np.fromiter((row.vector for row in self._rows), np.int64, count)
        numbers = np.fromiter((row.in_log for row in self._rows), np.int64, count)
        for first in range(0, count, rows_per_piece):
            some = slice(first, first + rows_per_piece)
            piece, is_finite = vectors.read(numbers[some], begins[some])
            if not (is_finite or self._is_checked):
                self._note_not_finite(piece, self._rows[some])
            yield piece
        self._is_checked = True

    def _note_not_finite(self, piece: npt.NDArray[np.float32], rows: list[Row]) -> None:
        for index in np.flatnonzero(~np.isfinite(piece).all(axis=1)).tolist():
            row, report = rows[index], self._report
            if not (row.doubts or row.zeros):
                report.exact -= 1
            report.doubtful.append(
                Doubt(
                    id=str(UUID(bytes=row.identifier)),
                    file=report.source,
                    offset=row.vector,
                    why="not-finite",
                    text="its vector has NaN or infinities; it is kept as it is",
                )
            )
