"""The log of a legacy data directory: one file for all collections, in two framings.

The older is a u32 length and the payload; the newer has EF BE AD DE before the length, and a CRC-32
of the payload from byte 36 on. One file may hold the one and then the other. An entry that does not
check is left out, and the next one is looked for byte by byte.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dvecdb.records import DIMENSION_MAX
from dvecdb.reports import Lost
from dvecdb.rescue.legacy.layout import HEAD_SIZE, SIXTEEN, Marks, u32, u64
from dvecdb.rescue.legacy.metadata import read_json_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dvecdb.media.files import Mapped

_MAGIC: Final = b"\xef\xbe\xad\xde"
_BODY: Final = 40  # of a payload: where its operation's fields begin
_CHECKED: Final = 36  # of a payload: where its checksummed part begins
_OPERATIONS: Final = 5
_NAME_BYTES_MAX: Final = 4096
_WASTE_MIN: Final = 64 * 1024 * 1024
_WASTE_SHARE: Final = 4
CREATE, DROP, INSERT, BATCH, DELETE = range(_OPERATIONS)
_METRICS: Final = ("cosine", "euclidean", "dot_product", "manhattan")


class _BadEntryError(Exception):
    """An entry whose fields do not fit."""


@dataclass(slots=True, frozen=True)
class Body:
    """A record in the log. begin, end: of its metadata, which is JSON text or untagged."""

    identifier: bytes
    vector: int
    dimension: int
    begin: int
    end: int
    is_json: bool


@dataclass(slots=True)
class CollectionLog:
    """What the log says of one collection, in order.

    puts: records by id, of all of its lives, each with the number of that life; deleted: ids whose
    last word is a deletion; life: how often it was dropped; is_dropped: and not created again.
    """

    dimension: int | None = None
    metric: str | None = None
    creations: int = 0
    life: int = 0
    is_dropped: bool = False
    puts: dict[bytes, list[tuple[int, Body]]] = field(default_factory=dict)
    deleted: dict[bytes, None] = field(default_factory=dict)

    def put(self, body: Body) -> None:
        """Note that a record was written."""
        self.puts.setdefault(body.identifier, []).append((self.life, body))
        self.deleted.pop(body.identifier, None)
        self.is_dropped = False


@dataclass(slots=True)
class Log:
    """A log that was read: collections by name; framing: `v1`, `v2` or both."""

    collections: dict[str, CollectionLog] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)
    framings: list[str] = field(default_factory=list)
    entries: int = 0

    def of(self, name: str) -> CollectionLog:
        """Return what there is of a collection, made if need be."""
        return self.collections.setdefault(name, CollectionLog())


def read_log(data: Mapped, size: int, file: str) -> Log:
    """Read all entries that check. What takes too long to search through is lost, and named."""
    log, at, gap, waste = Log(), 0, -1, _Waste(_WASTE_MIN + _WASTE_SHARE * size)
    while at < size:
        found = _entry(data, size, at, waste)
        if found is None or _swallows(data, size, at, found, waste):
            gap = at if gap < 0 else gap
            at = _next_entry(data, size, at + 1, waste)
            continue
        framing, payload, end = found
        if gap >= 0:
            log.lost.append(_lost(data, file, gap, at))
            gap = -1
        try:
            _apply(log, data, payload, end)
        except _BadEntryError:
            if framing == "v1" and waste.left > 0:  # its length may be wrong: others may be in it
                waste.left -= end - at
                end = min(end, _next_entry(data, size, at + 1, waste))
            log.lost.append(Lost(file, at, end, "an entry of the log whose fields do not fit"))
        else:
            log.entries += 1
            if framing not in log.framings:
                log.framings.append(framing)
        at = end
    if gap >= 0:
        log.lost.append(_lost(data, file, gap, size))
    return log


@dataclass(slots=True)
class _Waste:
    """How many bytes may still be looked at for nothing, so that time stays in bounds."""

    left: int


def _lost(data: Mapped, file: str, start: int, end: int) -> Lost:
    if not bytes(data[start:end]).strip(b"\0"):
        return Lost(file, start, end, "zeros in the log")
    return Lost(file, start, end, "entries of the log that are damaged or cut off")


def _entry(data: Mapped, size: int, at: int, waste: _Waste) -> tuple[str, int, int] | None:
    """Return framing, start of the payload and end of the entry at `at`, or None."""
    for head, framing in ((8, "v2"), (4, "v1")):
        payload = at + head
        if payload + _BODY > size or data[payload : payload + 8] != SIXTEEN:
            continue
        end = payload + u32(data, payload - 4)[0]
        if not payload + _BODY <= end <= size:
            continue
        (checksum,) = u32(data, payload + 32)
        if u32(data, payload + _CHECKED)[0] >= _OPERATIONS:
            continue
        if framing == "v1":
            if checksum == 0 and data[at : at + 4] != _MAGIC:
                return framing, payload, end
        elif waste.left > 0:
            if zlib.crc32(data[payload + _CHECKED : end]) == checksum:
                return framing, payload, end  # whatever became of its magic
            waste.left -= end - payload
    return None


def _swallows(data: Mapped, size: int, at: int, found: tuple[str, int, int], waste: _Waste) -> bool:
    """Tell whether a length without a checksum reaches over entries that are whole."""
    framing, _, end = found
    if framing != "v1" or end == size or _entry(data, size, end, waste) is not None:
        return False
    if waste.left <= 0:
        return False
    waste.left -= end - at
    return _next_entry(data, end, at + 1, waste) < end


def _next_entry(data: Mapped, size: int, at: int, waste: _Waste) -> int:
    """Return where an entry may begin next, from `at` on, or the end."""
    hit = data.find(SIXTEEN, at + 4, size)
    while hit >= 0 and waste.left > 0:
        for head in (8, 4):
            if hit - head >= at and _entry(data, size, hit - head, waste) is not None:
                return hit - head
        hit = data.find(SIXTEEN, hit + 1, size)
    return size


class _Fields:
    """Takes the fields of an operation one after the other."""

    def __init__(self, data: Mapped, at: int, end: int) -> None:
        self.data = data
        self.at = at
        self.end = end

    def take(self, size: int) -> bytes:
        if size > self.end - self.at:
            raise _BadEntryError
        self.at += size
        return bytes(self.data[self.at - size : self.at])

    def number(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def text(self) -> str:
        size = self.number()
        if size > _NAME_BYTES_MAX:
            raise _BadEntryError
        try:
            return self.take(size).decode()
        except UnicodeDecodeError:
            raise _BadEntryError from None


def _apply(log: Log, data: Mapped, payload: int, end: int) -> None:
    (operation,) = u32(data, payload + _CHECKED)
    fields = _Fields(data, payload + _BODY, end)
    name = fields.text()
    if operation == CREATE:
        dimension, metric = fields.number(), int.from_bytes(fields.take(4), "little")
        found = log.of(name)
        found.dimension = dimension
        found.metric = _METRICS[metric] if metric < len(_METRICS) else None
        found.creations += 1
        found.is_dropped = False
    elif operation == DROP:
        found = log.of(name)
        found.life += 1
        found.is_dropped = True
    elif operation == DELETE:
        if fields.take(8) != SIXTEEN:
            raise _BadEntryError
        log.of(name).deleted[fields.take(16)] = None
    else:
        count = fields.number() if operation == BATCH else 1
        for body in list(_bodies(data, fields.at, end, count)):
            log.of(name).put(body)


def _bodies(data: Mapped, at: int, end: int, count: int) -> Iterator[Body]:
    """Yield `count` record bodies that fill the bytes up to `end`.

    Raises:
        _BadEntryError: they do not.
    """
    for number in range(count):
        if at + HEAD_SIZE > end or data[at : at + 8] != SIXTEEN:
            raise _BadEntryError
        (dimension,) = u64(data, at + 24)
        tag_at = at + HEAD_SIZE + 4 * dimension
        if dimension > DIMENSION_MAX or tag_at >= end or data[tag_at] > 1:
            raise _BadEntryError
        following, is_json = tag_at + 1, False
        if data[tag_at] == 1:
            following, is_json = _metadata_end(
                data, tag_at + 1, end, dimension, is_last=number == count - 1
            )
        yield Body(
            bytes(data[at + 8 : at + 24]), at + HEAD_SIZE, dimension, tag_at + 1, following, is_json
        )
        at = following
    if at != end:
        raise _BadEntryError


def _metadata_end(
    data: Mapped, begin: int, end: int, dimension: int, *, is_last: bool
) -> tuple[int, bool]:
    """Return where a body's metadata ends, and whether it is JSON text."""
    if begin + 8 > end:
        raise _BadEntryError
    text_end = begin + 8 + u64(data, begin)[0]
    if text_end <= end and (text_end == end or data[text_end : text_end + 8] == SIXTEEN):
        text = bytes(data[begin + 8 : text_end])
        if text[:1] == b"{" and read_json_text(text) is not None:
            return text_end, True
    if is_last:
        return end, False
    following = Marks(data, end, dimension).following(begin + 8)
    if following < 0:
        raise _BadEntryError
    return following, False
