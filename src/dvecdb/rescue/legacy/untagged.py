"""Metadata without type tags: all readings of some bytes, the likeliest first.

A map is a u64 count, then keys (u64 length, UTF-8) and values. A value may be nothing (null), a
byte (bool), eight bytes (a number), a u64 length and text, or a u64 count and elements or entries.
Readings are found by dynamic programming over offsets: for each offset and number of entries read,
the few likeliest ways to get there. So the work is bounded by the bytes, not by the readings.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dvecdb.rescue.legacy.evidence import (
    ARRAY,
    BOOL,
    FLOAT,
    INT,
    ITEM,
    NULL,
    OBJECT,
    TEXT,
    ZERO,
    Evidence,
    Path,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_u64: Final = struct.Struct("<Q").unpack_from
_i64: Final = struct.Struct("<q").unpack_from
_f64: Final = struct.Struct("<d").unpack_from

_KEPT: Final = 3  # ways to get to a state
_DEPTH_MAX: Final = 12
_KEY_BYTES_MAX: Final = 1024
_COSTS: Final = (6.0, 12.0, 24.0, 48.0)  # of the dearest reading that is looked for, in turn
_LONG_COUNT: Final = 16
_LIKE_SHARE: Final = (
    0.1  # of a long array: of its cost, for an element that is like the one before it
)
_LIKE_COUNT: Final = 8  # and that all such elements together cost no more than so many
_LIKE: Final = {INT: INT, FLOAT: INT, ZERO: INT, TEXT: TEXT, OBJECT: OBJECT, ARRAY: ARRAY}
_EXACT_INT_MAX: Final = 1 << 53
WORK_MAX: Final = 60_000
"""Values that are looked at for one record, for each limit of cost."""

CLEAR_MARGIN: Final = 3.0
"""A second reading that costs so much more than the first is not one."""


class TooMuchError(Exception):
    """The bytes have more readings than can be looked at."""


@dataclass(slots=True, frozen=True)
class Node:
    """One value as it was read: kind, end, its evidence path, and its parts.

    value: of a bool, number or text; is_odd: its bytes are as well another number.
    """

    kind: int
    end: int
    path: Path
    keys: tuple[bytes, ...] = ()
    parts: tuple[Node, ...] = ()
    value: bool | int | float | str | None = None
    is_odd: bool = False


@dataclass(slots=True)
class Effort:
    """What a search may cost, and what it did cost: values that were looked at."""

    limit: int = WORK_MAX
    done: int = 0


@dataclass(slots=True, frozen=True)
class Reading:
    """A way to read a map: where it ends, what it costs with that, and what it holds."""

    end: int
    cost: float
    node: Node


Way = tuple[float, tuple[bytes, ...], tuple[Node, ...]]  # cost, keys so far, values so far


class Readings:
    """The readings of one piece of bytes."""

    def __init__(self, data: bytes, evidence: Evidence, cost_max: float, work: int) -> None:
        self._data = data
        self._size = len(data)
        self._evidence = evidence
        self._cost_max = cost_max
        self.work = work
        self.floor = 0.0
        self._values: dict[tuple[int, Path], tuple[float, list[tuple[float, Node]]]] = {}

    def of_map(self) -> list[tuple[float, Node]]:
        """Return readings of the map at offset 0, wherever they end, with their costs.

        Raises:
            TooMuchError: there is no end of them.
        """
        return self._entries(0, (), 0, self._cost_max, is_sorted=False)

    def _entries(
        self, offset: int, path: Path, depth: int, left: float, *, is_sorted: bool
    ) -> list[tuple[float, Node]]:
        """Return the readings of a map at `offset` that cost no more than `left`.

        is_sorted: nested ones have sorted keys. Of the outermost map, `left` is what a reading may
        cost more than the cheapest way to have read as many entries: it may have many keys.
        """
        data, size = self._data, self._size
        if offset + 8 > size:
            return []
        (count,) = _u64(data, offset)
        if count > (size - offset - 8) // 8:
            return []
        states: dict[int, list[Way]] = {offset + 8: [(0.0, (), ())]}
        for _ in range(count):
            following: dict[int, list[Way]] = {}
            for at, ways in states.items():
                key = self._key(at)
                if key is None:
                    continue
                after = at + 8 + len(key)
                usable = [
                    way
                    for way in ways
                    if not way[1] or (way[1][-1] < key if is_sorted else key not in way[1])
                ]
                if not usable:
                    continue
                key_path = (*path, key)
                key_cost = self._evidence.key_cost(key_path)
                room = left - key_cost - usable[0][0]
                for cost, node in self._at(after, key_path, depth + 1, room):
                    for before, keys, nodes in usable:
                        total = before + key_cost + cost
                        if total <= left:
                            way = (total, (*keys, key), (*nodes, node))
                            following.setdefault(node.end, []).append(way)
            states = self._best(following)
            if not states:
                return []
            if depth == 0:
                self.floor = min(ways[0][0] for ways in states.values())
                left = self._cost_max + self.floor
        return [
            (cost, Node(OBJECT, end, path, keys, nodes))
            for end, ways in states.items()
            for cost, keys, nodes in ways
        ]

    def _key(self, offset: int) -> bytes | None:
        data, size = self._data, self._size
        if offset + 8 > size:
            return None
        (length,) = _u64(data, offset)
        if length > _KEY_BYTES_MAX or offset + 8 + length > size:
            return None
        key = data[offset + 8 : offset + 8 + length]
        return key if _is_text(key) else None

    def _elements(
        self, offset: int, path: Path, depth: int, left: float
    ) -> list[tuple[float, Node]]:
        """Return the readings of a non-empty array at `offset` that cost no more than `left`."""
        data, size = self._data, self._size
        (count,) = _u64(data, offset)
        if not 0 < count <= size - offset:  # so many nulls at most
            return []
        item_path = (*path, ITEM)
        like = min(_LIKE_SHARE, _LIKE_COUNT / count) if count >= _LONG_COUNT else 1.0
        if (1 + like * (count - 1)) * self._evidence.least_cost(item_path) > left:
            return []
        states: dict[int, list[Way]] = {offset + 8: [(0.0, (), ())]}
        for _ in range(count):
            following: dict[int, list[Way]] = {}
            for at, ways in states.items():
                for cost, node in self._at(at, item_path, depth + 1, left - ways[0][0]):
                    for before, keys, nodes in ways:
                        total = before + cost * (like if _are_alike(nodes, node) else 1.0)
                        if total <= left:
                            way = (total, keys, (*nodes, node))
                            following.setdefault(node.end, []).append(way)
            states = self._best(following)
            if not states:
                return []
        return [
            (cost, Node(ARRAY, end, path, (), nodes))
            for end, ways in states.items()
            for cost, _, nodes in ways
        ]

    def _at(self, offset: int, path: Path, depth: int, left: float) -> list[tuple[float, Node]]:
        """Return the readings of the value at `offset` that cost no more than `left`."""
        known = self._values.get((offset, path))
        if known is not None and known[0] >= left:
            found = known[1]
        else:
            found = [item for item in self._read(offset, path, depth, left) if item[0] <= left]
            self._values[offset, path] = (left, found)
        self.work -= 1 + len(found)
        if self.work < 0:
            raise TooMuchError
        return found

    @staticmethod
    def _best(states: dict[int, list[Way]]) -> dict[int, list[Way]]:
        """Keep the likeliest ways to each offset."""
        for at, ways in states.items():
            if len(ways) > 1:
                ways.sort(key=_cost_of)
                states[at] = ways[:_KEPT]
        return states

    def _read(
        self, offset: int, path: Path, depth: int, left: float
    ) -> Iterator[tuple[float, Node]]:
        data, size, cost_of = self._data, self._size, self._evidence.kind_cost
        yield cost_of(path, NULL) + 1.5, Node(NULL, offset, path)
        if offset < size and data[offset] < 2:
            value = data[offset] == 1
            yield cost_of(path, BOOL) + 0.5, Node(BOOL, offset + 1, path, value=value)
        if offset + 8 > size:
            return
        (number,) = _u64(data, offset)
        if number == 0:
            yield cost_of(path, ZERO), Node(ZERO, offset + 8, path)
            return
        kind, oddness = _number_kind(data, offset)
        exact, is_odd = number_at(data, offset)
        node = Node(kind, offset + 8, path, value=exact, is_odd=is_odd)
        yield cost_of(path, kind) + oddness, node
        end = offset + 8 + number
        if end <= size:
            text = data[offset + 8 : end]
            if _is_text(text):
                node = Node(TEXT, end, path, value=text.decode())
                yield cost_of(path, TEXT) + _text_cost(text), node
        if depth >= _DEPTH_MAX or number > size - offset:
            return
        own = cost_of(path, ARRAY)
        if own < left:
            for cost, node in self._elements(offset, path, depth, left - own):
                yield own + cost, node
        own = cost_of(path, OBJECT)
        if own < left:
            for cost, node in self._entries(offset, path, depth, left - own, is_sorted=True):
                yield own + cost, node


def rank(
    data: bytes, evidence: Evidence, cost_of_end: Callable[[int], float], effort: Effort
) -> list[Reading]:
    """Return the readings of the map at the start of `data` that are worth a look, likeliest first.

    cost_of_end: what it costs that one ends at an offset; `inf`: it cannot. All that cost less than
    `CLEAR_MARGIN` more than the first are among them. None: no likely reading.

    Raises:
        TooMuchError: there is no end of them.
    """
    found: list[Reading] = []
    for cost_max in _COSTS:
        readings = Readings(data, evidence, cost_max, effort.limit)
        try:
            found = [
                Reading(node.end, cost + cost_of_end(node.end), node)
                for cost, node in readings.of_map()
            ]
        finally:
            effort.done += effort.limit - readings.work
        found.sort(key=lambda item: item.cost)
        if found and found[0].cost - readings.floor + CLEAR_MARGIN <= cost_max:
            return [item for item in found if math.isfinite(item.cost)]
    return [item for item in found if math.isfinite(item.cost)]


def _are_alike(before: tuple[Node, ...], node: Node) -> bool:
    """Tell whether an element is of the kind of the one before it."""
    kind = _LIKE.get(node.kind)
    return kind is not None and bool(before) and _LIKE.get(before[-1].kind) == kind


def _cost_of(way: Way) -> float:
    return way[0]


def _is_text(value: bytes) -> bool:
    if value.isascii():
        return True
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _text_cost(value: bytes) -> float:
    """Return how unlike text some UTF-8 is: control characters are rare, most of all zeros."""
    if value.isascii() and value.decode().isprintable():
        return 0.0
    text = value.decode()
    odd = sum(1 for letter in text if not letter.isprintable() and letter not in "\n\r\t")
    return min(30.0, 3.0 * odd)


def _number_kind(data: bytes, offset: int) -> tuple[int, float]:
    """Return what eight bytes are that are not zero, and how odd a number that is."""
    (whole,) = _u64(data, offset)
    (signed,) = _i64(data, offset)
    if abs(signed) < _EXACT_INT_MAX:
        return INT, 0.02 * abs(signed).bit_length()
    (number,) = _f64(data, offset)
    if math.isfinite(number) and 1e-18 <= abs(number) <= 1e18:
        return FLOAT, 0.5
    if whole < 1 << 63 and 1e-300 < abs(number) < 1e-100:  # nanoseconds since 1970
        return INT, 4.0
    return INT, 8.0


def number_at(data: bytes, offset: int) -> tuple[int | float, bool]:
    """Return the number in eight bytes, and whether another reading is as likely.

    An integer beyond 2^63 may as well be negative, and some are doubles of no usual magnitude.
    """
    kind, oddness = _number_kind(data, offset)
    if kind == FLOAT:
        number: float = _f64(data, offset)[0]
        return number, False
    (signed,) = _i64(data, offset)
    if oddness >= 8.0:
        return int(_u64(data, offset)[0]), True
    return int(signed), False
