"""What must, may and must not come back from a legacy directory: ground truth for its readers.

The truth is derived from the bytes: each append is compared with what lies in its place now. So it
holds after any damage, and after every way in which a server overwrites what it wrote.

    nothing differs        the record is required
    the length prefix      required: the structure tells
    marker or dimension    required between two whole records, else allowed
    tag or metadata        id and vector are required, the metadata counts as `damaged`
    the uuid or the vector allowed as it lies there: nothing in the file shows the damage
    anything else          lost; what is left of it has to be reported
"""

from __future__ import annotations

import struct
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from dvecdb.testing import legacy_bytes as lb
from dvecdb.testing.legacy_bytes import Op

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dvecdb.records import Json, Metadata
    from dvecdb.testing.legacy_writer import Append, LegacyServer, Logged, VectorFile, Version

Quality = Literal["exact", "zero-class", "ambiguous", "damaged"]
"""How metadata has to come back: equal; equal but for values of eight zero bytes; equal, or with
the same bytes and number for number, or flagged; equal, or a reading of what lies there, or
flagged."""

EVIDENCE_RECORDS_MIN: Final = 6
"""So many other records must share a key and its kind before a reading by them is demanded."""


@dataclass(frozen=True, slots=True)
class Content:
    """A version of a record as it may come back. stored: its metadata's bytes as they lie there."""

    vector: bytes
    metadata: Metadata | None
    quality: Quality = "exact"
    alternatives: tuple[Json, ...] = ()
    stored: bytes = b""
    json_text: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes `start` to `end` of a file."""

    file: str
    start: int
    end: int

    def overlaps(self, file: str, start: int, end: int) -> bool:
        """Return whether any byte is shared. Files are the same if one path ends with the other."""
        same = file.endswith(self.file) or self.file.endswith(file)
        return same and start < self.end and self.start < end


@dataclass(slots=True)
class Truth:
    """What one collection must give back.

    required: by id, the versions of which one must come; allowed: those that may; written: all
    that was ever inserted; deleted: ids that the log deletes for good; torn: what is left of lost
    records; whole: the records that are not lost.
    """

    dimension: int
    metric: str | None = None
    required: dict[str, list[Content]] = field(default_factory=dict)
    allowed: dict[str, list[Content]] = field(default_factory=dict)
    written: set[tuple[str, bytes]] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    torn: list[Span] = field(default_factory=list)
    whole: list[Span] = field(default_factory=list)
    logged: bool = False
    rotten: bool = False

    def allow(self, id: str, content: Content) -> None:
        """Let a version come back."""
        self.allowed.setdefault(id, []).append(content)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A version that a file still holds. order: of writing."""

    order: int
    offset: int
    seq: int
    content: Content


def truth(
    server: LegacyServer,
    path: str,
    *,
    use_log: bool = True,
    keep_deleted: bool = False,
    include_dropped: bool = False,
) -> Truth:
    """Return what the collection at `path`, or one of that name in the log alone, must give."""
    directory = server.directories.get(path)
    entries = [entry for entry in server.logged if entry.name == path] if use_log else []
    sizes = [entry.dimension for entry in entries if entry.op is Op.CREATE]
    result = Truth(directory.dimension if directory else sizes[-1], logged=bool(entries))
    kept: dict[str, list[_Kept]] = {}
    if directory is not None:
        kept = _from_file(directory.vectors, f"{path}/vectors.bin", result)
        result.metric = lb.METRICS[directory.metric] if directory.config else None
    log = _from_log(entries, server.log, result, include_dropped=include_dropped)
    for id in {*kept, *log}:
        _decide(result, id, kept.get(id, []), log.get(id, []), keep_deleted=keep_deleted)
    return result


# --- the file --------------------------------------------------------------------------------


def _from_file(vectors: VectorFile, name: str, result: Truth) -> dict[str, list[_Kept]]:
    data, appends = bytes(vectors.data), vectors.appends
    result.written |= {(append.version.id, append.version.vector) for append in appends}
    damage = {append.order: _damaged_fields(append, data) for append in appends}
    intact = [append for append in appends if not damage[append.order]]
    covered = {one.order for one in appends for other in appends if _is_over(other, one)}
    result.rotten = any(fields and order not in covered for order, fields in damage.items())
    starts = {append.offset for append in intact} | {len(data)}
    ends = {append.end for append in intact} | {0}
    kinds = _key_kinds(append.version for append in intact if not append.generation.json_text)
    kept: dict[str, list[_Kept]] = {}
    for append in sorted(appends, key=lambda append: append.order):
        damaged = damage[append.order]
        followed = append.end in starts
        content = _content(append, data, damaged, followed=followed, kinds=kinds)
        between = followed and append.end < len(data) and append.offset in ends
        span = Span(name, append.offset, min(append.end, len(data)))
        version = append.version
        if (
            damaged <= {"prefix"}
            or damaged <= {"tag", "metadata"}
            or (len(damaged) == 1 and damaged <= {"marker", "dimension"} and between)
        ):
            found = _Kept(append.order, append.offset, version.seq, content)
            kept.setdefault(version.id, []).append(found)
            result.whole.append(span)
        elif damaged in ({"uuid"}, {"vector"}):
            result.allow(*_disguised(append, data, content))
        elif not damaged & {"uuid", "vector"}:
            result.allow(version.id, content)
        if damaged & {"uuid", "vector"} and len(damaged) > 1:
            result.torn += _left_of(append, data, appends, name)
    return kept


def _damaged_fields(append: Append, data: bytes) -> set[str]:
    there = data[append.offset : append.end]
    if there == append.stored:
        return set()
    return {
        name
        for name, (start, end) in append.fields.items()
        if there[start:end] != append.stored[start:end]
    }


def _is_over(other: Append, append: Append) -> bool:
    later = other.order > append.order
    return later and other.offset < append.end and append.offset < other.end


def _disguised(append: Append, data: bytes, content: Content) -> tuple[str, Content]:
    start, end = append.fields["uuid"]
    id_bytes = data[append.offset + start : append.offset + end]
    start, end = append.fields["vector"]
    vector = data[append.offset + start : append.offset + end]
    changed = Content(vector, content.metadata, content.quality, (), content.stored)
    return str(uuid.UUID(bytes=id_bytes)), changed


def _left_of(append: Append, data: bytes, appends: Iterable[Append], name: str) -> list[Span]:
    """Return what is left of a torn record between those over it, but for zeros."""
    left, start, end = [], append.offset, min(append.end, len(data))
    later = [other for other in appends if other.order > append.order]
    for other in sorted(later, key=lambda other: other.offset):
        if other.end > start and other.offset < end:
            left.append((start, other.offset))
            start = other.end
    left.append((start, end))
    return [Span(name, low, high) for low, high in left if data[low:high].strip(b"\0")]


def _content(
    append: Append,
    data: bytes,
    damaged: set[str],
    *,
    followed: bool,
    kinds: Mapping[tuple[str, str], int],
) -> Content:
    version, json_text = append.version, append.generation.json_text
    tag = append.fields["tag"][0]
    stored = data[append.offset + tag + 1 : append.end]
    quality: Quality
    if damaged & {"tag", "metadata"}:
        quality = "damaged"
    elif not version.metadata and not followed:
        quality = "ambiguous"  # what an older record left behind it may look like metadata
    elif json_text or not version.metadata:
        quality = "exact"
    elif not followed or append.end == len(data):
        # Where it ends is known from what follows: at the end of the data, zeros do.
        last = _last(version.metadata)
        certain = followed and not (last is None or last is False or is_zero(last))
        quality = untagged_quality(version.metadata, kinds) if certain else "ambiguous"
    else:
        quality = untagged_quality(version.metadata, kinds)
    return Content(version.vector, version.metadata, quality, (), stored, json_text)


def _last(metadata: Metadata) -> Json:
    return list(metadata.values())[-1]


# --- metadata --------------------------------------------------------------------------------


def is_zero(value: Json) -> bool:
    """Return whether a value is stored as eight zero bytes."""
    if isinstance(value, float):
        return struct.pack("<d", value) == bytes(8)
    return value is not None and not isinstance(value, bool) and value in ("", 0, [], {})


def kind_of(value: Json) -> str | None:
    """Return the kind of a value that bytes and context tell for sure, None if they do not."""
    if is_zero(value):
        return "zero"
    if value is None or isinstance(value, list | dict):
        return None
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if abs(value) < 2**53 else None
    if isinstance(value, float):
        return "float" if 1e-18 <= abs(value) <= 1e18 else None
    visible = value.translate({9: None, 10: None, 13: None})
    return "string" if visible.isprintable() else None


def _key_kinds(versions: Iterable[Version]) -> Counter[tuple[str, str]]:
    kinds: Counter[tuple[str, str]] = Counter()
    for version in versions:
        for key, value in (version.metadata or {}).items():
            kinds[key, kind_of(value) or "unclear"] += 1
    return kinds


def untagged_quality(metadata: Metadata, kinds: Mapping[tuple[str, str], int]) -> Quality:
    """Return how metadata without types must come back. kinds: key and kind to records with it."""
    found = {key: kind_of(value) for key, value in metadata.items()}
    for key, kind in found.items():
        if kind is None or not (key.isidentifier() and key.isascii()):
            return "ambiguous"
        if kinds.get((key, kind), 0) <= EVIDENCE_RECORDS_MIN:
            return "ambiguous"
        if any(other == key and name != kind for other, name in kinds if name != "zero"):
            return "ambiguous"
    return "zero-class" if "zero" in found.values() else "exact"


# --- the log ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Change:
    """What the log says of an id. content: None for a deletion; hidden: dropped since."""

    seq: int
    content: Content | None
    hidden: bool = False


def _from_log(
    entries: list[Logged], log: bytes | bytearray, result: Truth, *, include_dropped: bool
) -> dict[str, list[_Change]]:
    kinds = _key_kinds(version for entry in entries for version in entry.versions)
    changes: dict[str, list[_Change]] = {}
    broken = False
    for entry in entries:
        there = bytes(log[entry.start : entry.start + len(entry.stored)])
        skip = 4 if entry.log_version == 2 else 0
        whole = there[skip:] == entry.stored[skip:]
        broken |= not whole and entry.log_version == 1
        contents = [(v, _logged_content(entry, v, kinds)) for v in entry.versions]
        result.written |= {(version.id, version.vector) for version in entry.versions}
        if not whole or broken:
            for version, content in contents:
                result.allow(version.id, content)
            continue
        if entry.op is Op.CREATE:
            result.metric = lb.METRICS[entry.metric]
        if entry.op is Op.DROP and not include_dropped:
            for id, known in changes.items():
                changes[id] = [_Change(item.seq, item.content, hidden=True) for item in known]
        if entry.op is Op.DELETE:
            changes.setdefault(entry.id, []).append(_Change(entry.seq, None))
        for version, content in contents:
            changes.setdefault(version.id, []).append(_Change(version.seq, content))
    return changes


def _logged_content(
    entry: Logged, version: Version, kinds: Mapping[tuple[str, str], int]
) -> Content:
    stored = version.body[33 + len(version.vector) :]
    quality: Quality = "exact"
    if version.metadata and not entry.json_text:
        quality = untagged_quality(version.metadata, kinds)
    return Content(version.vector, version.metadata, quality, (), stored, entry.json_text)


def _decide(
    result: Truth, id: str, kept: list[_Kept], changes: list[_Change], *, keep_deleted: bool
) -> None:
    """Settle what must and may come back of one id."""
    logged = {change.seq: change for change in changes if change.content is not None}
    visible = {seq: change for seq, change in logged.items() if not change.hidden}
    versions = {item.seq: item.content for item in kept}
    if changes and changes[-1].content is None:
        result.deleted.add(id)
        if not keep_deleted:
            # A version that the log never had may be newer than its deletion.
            for seq, content in versions.items():
                if seq not in logged:
                    result.allow(id, content)
            return
    if not versions:
        found = [change.content for change in visible.values() if change.content is not None]
        if found and changes[-1].content is None:
            result.allow(id, found[-1])
        elif found:
            result.required[id] = found[-1:]
        return
    # That the records before a torn one are the newer ones shows only by that tear alone.
    by_offset = result.rotten or not result.torn
    physical = max(kept, key=lambda item: item.offset if by_offset else item.order)
    newest = max([*versions, *visible])
    acceptable = [versions.get(newest) or visible[newest].content]
    settled = newest in versions and newest in visible
    if physical.seq != newest and (not settled or physical.seq not in logged):
        acceptable.append(physical.content)
    if visible and not settled and max(visible) != newest and max(visible) not in versions:
        acceptable.append(visible[max(visible)].content)
    result.required[id] = [content for content in acceptable if content is not None]


def stored_string(text: bytes) -> bytes:
    """Return the text of a length and text that fit, b"" otherwise."""
    if len(text) < 8 or struct.unpack_from("<Q", text)[0] != len(text) - 8:
        return b""
    return text[8:]
