"""One vectors.bin, from its first byte to its last record, whatever happened to it.

The walk goes from record to record: each has to end where the next begins, or where only zeros
follow. Where that does not hold it looks for the next marker. A marker inside a record that fits is
never a record: vectors and texts may hold anything.

Order: where a run of records ends within an older record, the file was begun anew from its head,
so what stands before is newer than what stands behind. Records with a length before them are newer
than those without. Each record has a `turn`; the last turn wins.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from dvecdb.reports import Doubt, Lost
from dvecdb.rescue.legacy import plausible
from dvecdb.rescue.legacy.found import (
    PREFIXED,
    RAW,
    TOO_MANY,
    Extent,
    Found,
    Walked,
    length_misfit,
    text_of,
)
from dvecdb.rescue.legacy.layout import (
    HEAD_SIZE,
    METADATA_BYTES_MAX,
    PREFIX_SIZE,
    Marks,
    cut_off,
    u32,
    u64,
)
from dvecdb.rescue.legacy.metadata import Decoded, MetadataReader, read_json_text
from dvecdb.rescue.legacy.plain import PlainRecords

if TYPE_CHECKING:
    from collections.abc import Callable

    from dvecdb.media.files import Mapped

_OPEN_BYTES_MAX: Final = 16 * 1024
_COST_HALF: Final = 4.0
_COST_OPEN: Final = 12.0
_LIKELY_COST_MAX: Final = 8.0
_BLANK_BYTES_MIN: Final = 32
HOLE: Final = "its vector has zeros as if a part of it was never written"


class Walk:
    """Walks through one file. file: its name in reports; used: where the zeros at the end begin."""

    def __init__(
        self, data: Mapped, marks: Marks, used: int, reader: MetadataReader, file: str
    ) -> None:
        self._data = data
        self._marks = marks
        self._size = marks.size
        self._used = used
        self._reader = reader
        self._file = file
        self._run = 0
        self._walked = Walked()
        self._plain = PlainRecords(data, marks, reader)

    def run(self, progress: Callable[[int], None] | None = None) -> Walked:
        """Walk to the end. progress: called with the bytes done, now and then."""
        at = 0
        while at < self._used:
            at = self._take_plain(at)
            if at >= self._used:
                break
            found = self._record(at, is_expected=True)
            if found is None:
                at = self._resume(at)
                continue
            self._take(found)
            at = found.end
            if progress is not None:
                progress(at)
        return self._walked

    def _take_plain(self, at: int) -> int:
        """Take records in which nothing is in question; return where that ends."""
        found, end = self._plain.take(at, self._used, self._run)
        self._walked.records += found
        self._walked.bytes_good += end - at
        return end

    def _take(self, found: Found) -> None:
        found.run = self._run
        self._walked.records.append(found)
        self._walked.bytes_good += found.end - found.start
        if any(item.why == "metadata-lost" for item in found.doubts):
            begin = found.vector + self._marks.vector_end - HEAD_SIZE + 1
            why = "damaged metadata, and what else may have been there"
            if begin < found.end:
                self._walked.bytes_good -= found.end - begin
                self._walked.lost.append(Lost(self._file, begin, found.end, why))

    # --- one record ---

    def _record(self, at: int, *, is_expected: bool) -> Found | None:
        """Return the record that begins at `at`, or None.

        is_expected: the one before it ended here, so that what is left of its marker will do.
        """
        marks = self._marks
        if marks.is_whole(at):
            return self._body(at, at, RAW, None)
        if marks.is_whole(at + PREFIX_SIZE):
            found = self._body(at, at + PREFIX_SIZE, PREFIXED, None)
            if found is None or not self._follows_raw(at) or length_misfit(self._data, found) < 2:
                return found
            return None  # four bytes of an older record, not a length
        if is_expected:
            for body, framing in ((at, RAW), (at + PREFIX_SIZE, PREFIXED)):
                if marks.is_half(body) and not plausible.is_in_hole(self._data, body):
                    found = self._body(at, body, framing, "a field of its head was put right")
                    if found is not None:
                        return found
        return None

    def _follows_raw(self, at: int) -> bool:
        """Tell whether the record that ended at `at` had no length before it."""
        records = self._walked.records
        return bool(records) and records[-1].end == at and records[-1].framing == RAW

    def _body(self, start: int, body: int, framing: str, repair: str | None) -> Found | None:
        """Return the record whose body begins at `body`; repair: it has half a marker only."""
        data, marks = self._data, self._marks
        self._reader.budget.next_record()
        tag_at = body + marks.vector_end
        if tag_at > self._size:
            return None
        if tag_at == self._size:  # cut off behind the vector
            text = "the file ends where its metadata may have begun"
            doubt = Doubt(file=self._file, offset=start, why="metadata-lost", text=text)
            return Found(start, body + HEAD_SIZE, tag_at, b"", framing, doubts=(doubt,))
        length = u32(data, start)[0] if framing == PREFIXED else 0
        extent = self._extent(start, tag_at, data[tag_at], framing, length)
        if extent is None or self._is_padded(body, tag_at, extent):
            return None
        if repair is not None and not (
            extent.is_closed
            and self._is_followed(extent.end)
            and extent.why != "metadata-lost"
            and not self._has_marker(body, tag_at)
        ):
            return None
        why, text = extent.why, extent.text
        if repair is not None and why is None:
            why, text = "repaired", repair
        doubts: tuple[Doubt, ...] = ()
        if plausible.may_have_hole(data, body + HEAD_SIZE, tag_at):
            doubts = (Doubt(file=self._file, offset=start, why="damaged", text=HOLE),)
        if why is not None:
            raw = data[extent.raw[0] : extent.raw[1]].hex() if extent.raw is not None else None
            doubts += (Doubt(file=self._file, offset=start, why=why, text=text, raw=raw),)
        return Found(
            start, body + HEAD_SIZE, extent.end, extent.json, framing, extent.encoding,
            doubts=doubts, zeros=tuple(extent.zeros), open_cost=extent.open_cost,
        )  # fmt: skip

    def _is_padded(self, body: int, tag_at: int, extent: Extent) -> bool:
        """Tell whether the record runs into zeros that were never written, or were lost."""
        if self._data[tag_at] != 0 or self._data[tag_at - 2 : tag_at] != bytes(2):
            return False
        if self._is_followed(extent.end) and extent.end < self._used:
            return False
        begin = plausible.zeros_begin(self._data, body + HEAD_SIZE, tag_at)
        if extent.end < self._used:  # zeros, and then something that is no record
            return tag_at - begin >= 2  # a number that ends so is as good as none
        page = -(-begin // 4096) * 4096
        return page - begin < 4 and page < tag_at

    def _is_followed(self, end: int) -> bool:
        """Tell whether a record, or nothing but zeros, begins at `end`."""
        return end >= self._used or self._marks.starts_record(end)

    # --- where its metadata ends ---

    def _extent(
        self, start: int, tag_at: int, tag: int, framing: str, length: int
    ) -> Extent | None:
        if framing == PREFIXED:
            return self._prefixed_extent(start, tag_at, tag, length)
        if tag == 0:
            return self._untold(tag_at, Extent(tag_at + 1, b""))
        if tag == 1:
            found = self._untagged(tag_at + 1)
            return found if found is not None else self._metadata_lost(tag_at, None)
        return self._wrong_tag(tag_at, tag)

    def _untold(self, tag_at: int, plain: Extent) -> Extent:
        """Return a record without metadata, unless metadata follows a damaged tag."""
        if self._is_followed(plain.end):
            return plain
        found = self._exact_untagged(tag_at + 1)
        if found is not None and found.json != b"{}":
            found.why, found.text = "repaired", "the tag said that there is no metadata"
            found.raw = (tag_at, found.end)
            return found
        plain.is_closed = False
        return plain

    def _wrong_tag(self, tag_at: int, tag: int) -> Extent | None:
        """Return the extent of a record whose tag is neither 0 nor 1."""
        text = f"the tag was {tag}, not 0 or 1"
        found = self._exact_untagged(tag_at + 1) or text_of(self._data, self._size, tag_at)
        if found is None and self._is_followed(tag_at + 1):
            found = Extent(tag_at + 1, b"")
        if found is None:
            return self._metadata_lost(tag_at, None)
        found.why, found.text, found.raw = found.why or "repaired", text, (tag_at, found.end)
        return found

    def _prefixed_extent(self, start: int, tag_at: int, tag: int, length: int) -> Extent | None:
        """Return the extent of a record that says how long it is."""
        end = start + PREFIX_SIZE + length
        is_possible, likely_end = tag_at < end <= self._size, None
        if tag == 0 and end == tag_at + 1:
            return Extent(end, b"")
        if tag == 1 and is_possible:
            found = self._told(tag_at, end)
            if found is not None and found.why is not None and not self._is_length(end):
                other = self._exact_untagged(tag_at + 1)
                if other is not None and other.why is None:
                    other.why, other.text = "repaired", f"its length said {length}"
                    return other
            if found is not None:
                return found
        if is_possible and self._is_followed(end) and not self._has_marker(tag_at, end):
            found = self._told(tag_at, end)
            if found is not None:
                found.why, found.text = found.why or "repaired", f"the tag was {tag}, not 1"
                found.raw = (tag_at, end)
                return found
            likely_end = end
        if likely_end is not None and self._is_length(likely_end):
            return self._metadata_lost(tag_at, likely_end)
        if tag == 0 and self._is_followed(tag_at + 1):
            found = Extent(tag_at + 1, b"")
        else:
            found = text_of(self._data, self._size, tag_at) or self._exact_untagged(tag_at + 1)
        if found is None:
            return self._metadata_lost(tag_at, likely_end)
        if found.why is None:
            found.why, found.text = "repaired", f"its length said {length}"
        return found

    def _has_marker(self, start: int, end: int) -> bool:
        """Tell whether a whole marker lies between."""
        return 0 <= self._marks.following(start + 1, end) < end

    def _told(self, tag_at: int, end: int) -> Extent | None:
        """Return metadata, of either kind, that fills the bytes up to `end`."""
        data = self._data
        size = u64(data, tag_at + 1)[0] if end - tag_at >= 9 else -1  # it may end the file
        if size == end - tag_at - 9 and plausible.is_braced(self._data, tag_at + 9, end):
            with memoryview(data) as view:  # it may reach to the end of the file
                json = read_json_text(view[tag_at + 9 : end])
            if json is not None:
                return Extent(end, json, "json")
        return self._ends_at(tag_at + 1, end)

    def _ends_at(self, begin: int, end: int) -> Extent | None:
        """Return untagged metadata that fills the bytes from `begin` to `end`."""
        if not 8 <= end - begin <= METADATA_BYTES_MAX:
            return None
        region = bytes(self._data[begin:end])
        json = self._reader.fast(region)
        if json is not None:
            return Extent(end, json, "untagged")
        size = end - begin
        decoded = self._reader.read(region, lambda at: 0.0 if at == size else math.inf)
        return None if decoded is None else self._extent_of(begin, decoded)

    def _extent_of(self, begin: int, decoded: Decoded) -> Extent:
        end = begin + decoded.end
        extent = Extent(end, decoded.json, "untagged", zeros=decoded.zeros)
        if decoded.doubt is not None:
            extent.why, extent.raw = decoded.doubt, (begin, end)
            extent.text = "its metadata has several readings; the likeliest was taken"
        elif decoded.zeros:
            extent.raw = (begin, end)
        return extent

    def _exact_untagged(self, begin: int) -> Extent | None:
        """Return untagged metadata that ends where a record begins, or the file's content."""
        bodies = self._marks.bodies_after(begin)
        for body in bodies[:2]:
            read = (self._ends_at(begin, end) for end in self._ends_before(body))
            found = [item for item in read if item is not None]
            if found:
                return min(found, key=lambda item: item.why is not None)
            if not self._is_imitation(body):
                return None  # nothing goes on behind a record
        return None if bodies else self._last(begin)

    def _ends_before(self, body: int) -> list[int]:
        """Return where the record before one with its body at `body` may end, likeliest first."""
        if body < PREFIX_SIZE:
            return [body]
        records = self._walked.records
        is_told = self._is_length(body - PREFIX_SIZE)
        if is_told or (records and records[-1].framing == PREFIXED):
            return [body - PREFIX_SIZE, body]
        return [body, body - PREFIX_SIZE]

    def _is_length(self, at: int) -> bool:
        """Tell whether the length of a record may be at `at`, and the record behind it."""
        if not self._marks.is_whole(at + PREFIX_SIZE):
            return False
        return bool(0 < u32(self._data, at)[0] - self._marks.vector_end <= METADATA_BYTES_MAX)

    def _untagged(self, begin: int) -> Extent | None:
        """Return untagged metadata of a record without a length.

        It ends where the next record begins. If it does not, that one's marker may be damaged, or
        an older record's rest may follow, whose head was overwritten; then it ends where the
        bytes make sense.
        """
        nearest = self._marks.following(begin + 8)
        if nearest < 0:
            return self._last(begin)
        for end in self._ends_before(nearest):
            if 8 <= end - begin <= METADATA_BYTES_MAX:
                json = self._reader.fast(bytes(self._data[begin:end]))
                if json is not None:
                    return Extent(end, json, "untagged")
        return self._beyond(begin, nearest) or self._likeliest(begin, nearest)

    def _beyond(self, begin: int, nearest: int) -> Extent | None:
        """Return untagged metadata that goes on behind what only looks like a record."""
        further = self._marks.bodies_after(nearest)
        for body in further:
            for end in self._ends_before(body):
                json = self._reader.fast(bytes(self._data[begin:end]))
                if json is not None:
                    return Extent(end, json, "untagged")
        if not self._is_imitation(nearest):
            return None
        for body in further:
            found = self._ends_at(begin, body)
            if found is not None:
                return found
        return None if further else self._last(begin)

    def _is_imitation(self, body: int) -> bool:
        """Tell whether a marker is more likely text, or anything else, than a record's.

        Its tag does not tell: that may be what is damaged.
        """
        if body + self._marks.vector_end >= self._size:
            return False  # the last one, cut off
        size = self._marks.vector_end - HEAD_SIZE
        return not plausible.is_likely_vector(self._data, body + HEAD_SIZE, size)

    def _last(self, begin: int) -> Extent | None:
        """Return the metadata of the last record: zeros may belong to it, or not."""
        limit = min(self._used + 64, self._size, begin + METADATA_BYTES_MAX)
        least = max(self._used - begin, 0)
        decoded = self._reader.read(
            bytes(self._data[begin:limit]),
            lambda at: 0.02 * (at - least) if at >= least else math.inf,
        )
        return None if decoded is None else self._extent_of(begin, decoded)

    def _likeliest(self, begin: int, nearest: int) -> Extent | None:
        """Return the likeliest metadata between `begin` and the next whole marker."""
        if nearest - begin > _OPEN_BYTES_MAX + self._marks.vector_end:
            return None
        costs = {end - begin: 0.0 for end in self._ends_before(nearest)}
        for half in self._marks.halves(begin + 8, nearest):
            for end in (half, half - PREFIX_SIZE):
                costs.setdefault(end - begin, _COST_HALF)
        decoded = self._reader.read(
            bytes(self._data[begin:nearest]), lambda at: costs.get(at, _COST_OPEN)
        )
        if decoded is None:
            return None
        extent = self._extent_of(begin, decoded)
        if decoded.end not in costs:
            extent.is_closed, extent.open_cost = False, decoded.cost - _COST_OPEN
            extent.why = extent.why or "ambiguous"
            extent.text = "its metadata was read to where it makes sense; no record follows there"
            extent.raw = (begin, nearest)
        return extent

    def _metadata_lost(self, tag_at: int, end: int | None) -> Extent | None:
        """Return the extent of a record of which only id and vector can be told."""
        is_closed = True
        if end is None:
            following = self._marks.following(tag_at + 1)
            if following >= 0 and following - tag_at <= METADATA_BYTES_MAX:
                end = self._ends_before(following)[0]
            else:
                end, is_closed = max(self._used, tag_at + 1), False
        text, raw_end = "its metadata is damaged or cut off", min(end, tag_at + _OPEN_BYTES_MAX)
        if self._reader.budget.gave_up:
            text, raw_end = TOO_MANY, min(end, tag_at + METADATA_BYTES_MAX)
        return Extent(
            end, b"", "", "metadata-lost", text, is_closed=is_closed, raw=(tag_at, raw_end)
        )

    # --- going on after something that is no record ---

    def _resume(self, at: int) -> int:
        """Note what is lost at `at`; return where the next record begins, or the end."""
        marks, begin = self._marks, at + 1
        while True:
            body = marks.following(begin)
            if body < 0:
                return self._end_lost(at)
            found = self._credible(at, body)
            if found is not None:
                self._lose(at, found.start)
                return found.start
            begin = body + 1

    def _credible(self, at: int, body: int) -> Found | None:
        """Return the record with its body at `body`, with a length before it or without."""
        found = [
            item
            for start in (body - PREFIX_SIZE, body)
            if start >= at
            and (item := self._record(start, is_expected=False)) is not None
            and self._is_credible(item)
        ]
        return min(found, key=lambda item: (self._misfit(item), len(item.doubts)), default=None)

    def _misfit(self, found: Found) -> int:
        """Return how ill the length before a record fits, as `length_misfit`.

        None at all fits only where the next one has one.
        """
        is_none = found.framing == PREFIXED and not u32(self._data, found.start)[0]
        if is_none and found.end < self._used and not self._is_length(found.end):
            return 2
        return length_misfit(self._data, found)

    def _is_credible(self, found: Found) -> bool:
        """Tell whether a record that no other led to is one."""
        lost = any(item.why == "metadata-lost" for item in found.doubts)
        is_likely = plausible.is_likely_vector(
            self._data, found.vector, self._marks.vector_end - HEAD_SIZE
        )
        if self._is_followed(found.end):
            return is_likely or not lost
        return is_likely and not lost

    def _lose(self, start: int, end: int) -> None:
        piece = bytes(self._data[start : min(end, start + METADATA_BYTES_MAX)])
        has_beginning = self._has_beginning(start)
        if plausible.is_hole(piece, has_beginning=has_beginning) or self._is_blank(piece):
            why = "zeros where records were: pages that never reached the disk"
        elif self._is_torn(start, end):
            why = "the rest of an older record whose beginning was overwritten"
            self._run += 1
        else:
            why = "damaged: no record can be told here"
        self._walked.lost.append(Lost(self._file, start, end, why))

    def _has_beginning(self, start: int) -> bool:
        """Tell whether half a marker, or a whole one, is where a record would have it."""
        return self._marks.is_half(start) or self._marks.is_half(start + PREFIX_SIZE)

    def _is_blank(self, piece: bytes) -> bool:
        """Tell whether something begins with more zeros than records of this file have."""
        records, size = self._walked.records, self._marks.vector_end - HEAD_SIZE
        if not records or not piece.startswith(bytes(_BLANK_BYTES_MIN)):
            return False
        vector = records[-1].vector
        return not plausible.may_have_hole(self._data, vector, vector + size)

    def _is_torn(self, start: int, end: int) -> bool:
        """Tell whether a whole run ended at `start`, inside an older record that ends at `end`."""
        records = self._walked.records
        if not records or records[-1].end != start or records[-1].encoding == "json":
            return False  # what wrote JSON text never began a file anew
        lost = any(doubt.why in {"repaired", "metadata-lost"} for doubt in records[-1].doubts)
        if lost or records[-1].open_cost > _LIKELY_COST_MAX:
            return False
        largest = max(item.end - item.start for item in records[-64:])
        if records[-1].doubts and end - records[-1].start <= largest:
            self._walked.unclear.append(start)
            return False  # all of it may be one record, which was not read to its end
        return end - start < largest + _OPEN_BYTES_MAX and not self._has_beginning(start)

    def _end_lost(self, at: int) -> int:
        """Note what is lost from `at` to the end of the content."""
        end = self._size if self._used == self._size else self._used
        why = cut_off(self._marks, at, end) or "damaged: no record can be told here"
        self._walked.lost.append(Lost(self._file, at, max(end, at + 1), why))
        return self._size
