"""Compare what a reader brought back with the truth.

A verdict is one of

    missing         a required id is not there
    duplicate       an id is there twice
    wrong-vector    a required id has other bits
    wrong-metadata  other metadata than was written, and no doubt says so
    stale           a version that was replaced or deleted
    invented        a row that nobody wrote, and no doubt says so
    silent-loss     what is left of a lost record is in no report
    false-loss      a whole record is reported as lost
    miscounted      the report does not fit the rows
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from dvecdb.testing import legacy_bytes as lb
from dvecdb.testing.legacy_truth import is_zero, stored_string

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dvecdb.records import Json
    from dvecdb.reports import Doubt, ImportReport
    from dvecdb.rescue.salvage import Salvage
    from dvecdb.testing.legacy_truth import Content, Truth

FLOAT_TOLERANCE: Final = 1e-15
"""Relative: the old server's JSON parser stored some doubles one place off."""
RAW_KEY: Final = "_dvecdb_raw"
_ROWS_PER_PIECE: Final = 1024


@dataclass(frozen=True, slots=True)
class Verdict:
    """Something a reader did wrong. id: of the row, "" if it is about none."""

    kind: str
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a reader handed over: vectors as stored bytes, metadata as JSON bytes or b""."""

    ids: Sequence[str]
    vectors: Sequence[bytes]
    metadata: Sequence[bytes]
    report: ImportReport
    dimension: int
    metric: str | None = None


def taken(salvage: Salvage) -> Found:
    """Read all of a salvage and close it."""
    try:
        pieces = list(salvage.vectors.pieces(_ROWS_PER_PIECE))
        vectors = [row.tobytes() for piece in pieces for row in piece]
        schema = salvage.schema
        return Found(
            list(salvage.ids), vectors, list(salvage.metadata), salvage.report, schema.dimension,
            str(schema.metric),
        )  # fmt: skip
    finally:
        salvage.close()


def nothing(report: ImportReport, dimension: int) -> Found:
    """Return what an import that found no row has brought."""
    return Found([], [], [], report, dimension)


def judge(
    truth: Truth, found: Found, excused: Callable[[str, bytes], bool] | None = None
) -> list[Verdict]:
    """Return all that is wrong. excused: which rows that nobody wrote are there, as bytes."""
    verdicts = list(_counts(truth, found))
    flags = _Flags(found.report)
    missing = sorted(truth.required.keys() - set(found.ids))
    verdicts += [Verdict("missing", id, "is whole and did not come back") for id in missing]
    rows = zip(found.ids, found.vectors, found.metadata, strict=True)
    for id, vector, metadata in rows:
        verdicts += _judge_row(truth, flags, id, vector, metadata, excused)
    return verdicts + list(_judge_losses(truth, found.report))


def _judge_row(
    truth: Truth,
    flags: _Flags,
    id: str,
    vector: bytes,
    metadata: bytes,
    excused: Callable[[str, bytes], bool] | None,
) -> Iterator[Verdict]:
    contents = [*truth.required.get(id, []), *truth.allowed.get(id, [])]
    matching = [content for content in contents if content.vector == vector]
    if matching:
        value = msgspec.json.decode(metadata) if metadata else None
        reasons = [_wrong_metadata(value, content, id, flags) for content in matching]
        if all(reasons):
            yield Verdict("wrong-metadata", id, reasons[0] or "")
    elif excused is not None and excused(id, vector):
        return
    elif id in truth.required:
        yield Verdict("wrong-vector", id, "the bits are not those of the newest whole version")
    elif (id, vector) in truth.written:
        if not flags.about(id):
            yield Verdict("stale", id, "was deleted or replaced")
    elif not flags.about(id):
        yield Verdict("invented", id, "nobody wrote this id with this vector")


class _Flags:
    """The doubts of a report, by id, and the keys that have zeros of unknown kind."""

    def __init__(self, report: ImportReport) -> None:
        self._by_id: dict[str, list[Doubt]] = {}
        self._zero_keys: set[str] = set()
        for doubt in report.doubtful:
            if doubt.why == "zero-class" and doubt.key is not None:
                self._zero_keys.add(doubt.key)
            if doubt.id is not None:
                self._by_id.setdefault(doubt.id, []).append(doubt)

    def about(self, id: str) -> list[Doubt]:
        """Return what is said of one record."""
        return self._by_id.get(id, [])

    def zeros_under(self, key: str) -> bool:
        """Return whether zeros under a top-level key are said to be of unknown kind."""
        return any(known == key or known.startswith(f"{key}.") for known in self._zero_keys)


def _wrong_metadata(value: Json, content: Content, id: str, flags: _Flags) -> str | None:
    """Return what is wrong with the metadata of a row, None if nothing is."""
    value = _without_raw(value)
    true = content.metadata
    if same(value, true):
        return None
    if content.quality in ("exact", "zero-class") and not same(value, true, zeros=True):
        return f"{value!r} and not {true!r}"
    if content.quality == "exact":
        return f"{value!r} and not {true!r}, not even up to kinds of zero"
    if any(same(value, other) for other in content.alternatives) or flags.about(id):
        return None
    if same(value, true, zeros=True):
        unknown = [key for key in (true or {}) if not same((value or {})[key], (true or {})[key])]
        silent = [key for key in unknown if not flags.zeros_under(key)]
        return f"zeros under {silent} are of another kind, and nothing says so" if silent else None
    if content.quality == "ambiguous" and same(value, true, numbers=True):
        return None
    if content.quality == "damaged" and reads_as(value, content):
        return None
    return f"{value!r} and not {true!r}, and nothing says so"


def _without_raw(value: Json) -> Json:
    if isinstance(value, dict) and RAW_KEY in value:
        return {key: item for key, item in value.items() if key != RAW_KEY} or None
    return value


def same(found: Json, true: Json, *, zeros: bool = False, numbers: bool = False) -> bool:
    """Return whether two JSON values are equal, kinds included.

    zeros: 0, 0.0, "", [] and {} are the same; numbers: so are numbers of the same eight bytes.
    """
    if isinstance(found, dict) and isinstance(true, dict) and found and true:
        return found.keys() == true.keys() and all(
            same(found[key], true[key], zeros=zeros, numbers=numbers) for key in true
        )
    if isinstance(found, list) and isinstance(true, list) and found and true:
        pairs = list(zip(found, true, strict=False))
        return len(found) == len(true) and all(
            same(one, other, zeros=zeros, numbers=numbers) for one, other in pairs
        )
    if (zeros or numbers) and is_zero(found) and is_zero(true):
        return True
    if numbers and _is_number(found) and _is_number(true):
        return lb.encode_value(found) == lb.encode_value(true)
    if isinstance(found, float) and isinstance(true, float):
        return math.isclose(found, true, rel_tol=FLOAT_TOLERANCE, abs_tol=0.0)
    return type(found) is type(true) and bool(found == true)


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def reads_as(value: Json, content: Content) -> bool:
    """Return whether metadata is a true reading of the bytes that lie there."""
    if value is None:
        return not content.stored.strip(b"\0")
    if content.json_text:
        text = stored_string(content.stored)
        try:
            return bool(text) and same(value, msgspec.json.decode(text))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
    try:
        return isinstance(value, dict) and lb.encode_entries(value) == content.stored
    except (struct.error, TypeError):
        return False


def _counts(truth: Truth, found: Found) -> Iterator[Verdict]:
    report = found.report
    for id, count in Counter(found.ids).items():
        if count > 1:
            yield Verdict("duplicate", id, f"{count} times")
    if report.imported != len(found.ids):
        text = f"{report.imported} imported, but {len(found.ids)} rows"
        yield Verdict("miscounted", "", text)
    rows = set(found.ids)
    doubtful = {doubt.id for doubt in report.doubtful if doubt.id in rows}
    if report.exact > len(found.ids) - len(doubtful):
        text = f"{report.exact} exact of {len(found.ids)}, but doubts about {len(doubtful)}"
        yield Verdict("miscounted", "", text)
    if report.records_found < report.imported and not truth.logged:
        yield Verdict("miscounted", "", f"{report.records_found} found, {report.imported} imported")
    if found.ids and found.dimension != truth.dimension:
        yield Verdict("miscounted", "", f"dimension {found.dimension}, not {truth.dimension}")
    if found.ids and truth.metric and (found.metric or "").replace("_", "") != truth.metric.lower():
        yield Verdict("miscounted", "", f"metric {found.metric}, not {truth.metric}")


def _judge_losses(truth: Truth, report: ImportReport) -> Iterator[Verdict]:
    for span in truth.torn:
        told = any(span.overlaps(lost.file, lost.start, lost.end) for lost in report.lost)
        # What lies behind a record may have been taken for its metadata, with a doubt.
        before = [other.start for other in truth.whole if other.end == span.start]
        doubted = any(
            span.overlaps(doubt.file, doubt.offset, doubt.offset + 1) or doubt.offset in before
            for doubt in report.doubtful
        )
        if not told and not doubted:
            yield Verdict("silent-loss", "", f"{span} is in no report")
    for lost in report.lost:
        for span in truth.whole:
            if span.start >= lost.start and span.overlaps(lost.file, lost.start, lost.end):
                yield Verdict("false-loss", "", f"{lost} takes {span}")
                break
