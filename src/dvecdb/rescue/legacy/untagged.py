"""Metadata without type tags: all readings of some bytes, the likeliest first.

A map is a u64 count, then keys (u64 length, UTF-8) and values. A value may be nothing (null), a
byte (bool), eight bytes (a number), a u64 length and text, or a u64 count and elements or entries.
Readings are found by dynamic programming over offsets: for each offset and number of entries read,
the few likeliest ways to get there. Every step is counted, see `effort`.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from dvecdb.rescue.legacy.evidence import (
    ARRAY,
    BOOL,
    FLOAT,
    INT,
    ITEM,
    NULL,
    OBJECT,
    TEXT,
    UNKNOWN,
    ZERO,
    Evidence,
    Path,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dvecdb.rescue.legacy.effort import Effort

_u64: Final = struct.Struct("<Q").unpack_from
_i64: Final = struct.Struct("<q").unpack_from
_f64: Final = struct.Struct("<d").unpack_from

_KEPT: Final = 3  # ways to get to a state
_DEPTH_MAX: Final = 12
_KEY_BYTES_MAX: Final = 1024
_COSTS: Final = (12.0, 24.0, 36.0, 48.0)  # of the dearest reading that is looked for, in turn
_LONG_COUNT: Final = 16
_LIKE_SHARE: Final = (
    0.1  # of a long array: of its cost, for an element that is like the one before it
)
_LIKE_COUNT: Final = 8  # and that all such elements together cost no more than so many
_LIKE: Final = {INT: INT, FLOAT: INT, ZERO: INT, TEXT: TEXT, OBJECT: OBJECT, ARRAY: ARRAY}
_EXACT_INT_MAX: Final = 1 << 53
_ODD_COST_MAX: Final = 30.0
_ODD_NUMBER: Final = 8.0
CLEAR_MARGIN: Final = 3.0
"""A second reading that costs so much more than the first is not one."""


class Node(msgspec.Struct, frozen=True, gc=False):
    """One value as it was read: kind and end.

    value: of a bool, number or text; is_odd: its bytes are as well another number; way: to its last
    entry or element.
    """

    kind: int
    end: int
    value: bool | int | float | str | None = None
    is_odd: bool = False
    way: Way | None = None

    def parts(self, path: Path) -> list[tuple[Path, Node]]:
        """Return its elements, or the values of its entries, with their evidence paths.

        path: of this node.
        """
        found: list[tuple[Path, Node]] = []
        way = self.way
        while way is not None:
            _, before, key, node = way
            if node is not None:
                found.append(((*path, key if self.kind == OBJECT else ITEM), node))
            way = before
        return found[::-1]


@dataclass(slots=True, frozen=True)
class Reading:
    """A way to read a map: where it ends, what it costs with that, and what it holds."""

    end: int
    cost: float
    node: Node


Way = tuple[float, "Way | None", bytes, "Node | None"]
"""A way to have read some entries or elements: its cost, the way before, the last key and value.

A plain tuple, for there are many.
"""
_START: Final[Way] = (0.0, None, b"", None)


class Readings:
    """The readings of one piece of bytes."""

    def __init__(self, data: bytes, evidence: Evidence, effort: Effort) -> None:
        self._data = data
        self._size = len(data)
        self._evidence = evidence
        self._effort = effort
        self._cost_max = 0.0
        self.floor = 0.0
        self._plain: dict[int, list[tuple[float, Node]]] = {}
        self._values: dict[tuple[int, Path], tuple[float, list[tuple[float, Node]]]] = {}
        self._keys: dict[bytes, int] = {}  # of the outermost map: where each was met first

    def of_map(self, cost_max: float) -> list[tuple[float, Node]]:
        """Return readings of the map at offset 0, wherever they end, with their costs.

        cost_max: of the dearest, above the cheapest way to have read as many entries.

        Raises:
            TooMuchError: there is no end of them.
        """
        self._cost_max = cost_max
        self._values.clear()
        self._keys.clear()
        return self._entries(0, (), 0, cost_max)

    def _entries(
        self, offset: int, path: Path, depth: int, left: float
    ) -> list[tuple[float, Node]]:
        """Return the readings of a map at `offset` that cost no more than `left`.

        Of the outermost map, `left` is what a reading may cost more than the cheapest way to have
        read as many entries: it may have many keys, in any order. Nested ones have sorted keys.
        """
        size, evidence = self._size, self._evidence
        if offset + 8 > size:
            return []
        (count,) = _u64(self._data, offset)
        if count > (size - offset - 8) // 8:
            return []
        least = evidence.least_entry_cost() if path == UNKNOWN else 0.0
        if count * least > left:
            return []
        states: dict[int, list[Way]] = {offset + 8: [_START]}
        for entries_left in range(count - 1, -1, -1):
            limit, end_max = left - entries_left * least, size - 8 * entries_left
            states = self._best(self._with_entry(states, path, depth, limit, end_max))
            if not states:
                return []
            if depth == 0:
                self.floor = min(ways[0][0] for ways in states.values())
                left = self._cost_max + self.floor
        return _built(OBJECT, states)

    def _with_entry(
        self, states: dict[int, list[Way]], path: Path, depth: int, limit: float, end_max: int
    ) -> dict[int, list[Way]]:
        """Return the ways to have read one more entry of a map, by where it ends."""
        following: dict[int, list[Way]] = {}
        for at, ways in states.items():
            key = self._key(at)
            if key is None:
                continue
            usable = self._usable(ways, at, key, depth)
            if not usable:
                continue
            key_path = (*path, key)
            key_cost = self._evidence.key_cost(key_path)
            room = limit - key_cost - usable[0][0]
            found = self._at(at + 8 + len(key), key_path, depth + 1, room)
            self._effort.spend(len(found) * len(usable))
            for cost, node in found:
                if node.end > end_max:
                    continue
                for way in usable:
                    total = way[0] + key_cost + cost
                    if total <= limit:
                        following.setdefault(node.end, []).append((total, way, key, node))
        return following

    def _usable(self, ways: list[Way], at: int, key: bytes, depth: int) -> list[Way]:
        """Return the ways that a key at `at` may go on from: no map has one twice."""
        if depth:
            return [way for way in ways if way[1] is None or way[2] < key]
        if self._keys.setdefault(key, at) == at:
            return ways  # it was met nowhere else
        return [way for way in ways if not self._has_key(way, key)]

    def _has_key(self, way: Way | None, key: bytes) -> bool:
        number = 0
        while way is not None and way[3] is not None:
            if way[2] == key:
                return True
            number += 1
            way = way[1]
        self._effort.spend(number >> 4)
        return False

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
        (count,) = _u64(self._data, offset)
        if not 0 < count <= self._size - offset:  # so many nulls at most
            return []
        item_path = (*path, ITEM)
        like = min(_LIKE_SHARE, _LIKE_COUNT / count) if count >= _LONG_COUNT else 1.0
        least = self._evidence.least_cost(item_path)
        if (1 + like * (count - 1)) * least > left:
            return []
        states: dict[int, list[Way]] = {offset + 8: [_START]}
        for elements_left in range(count - 1, -1, -1):
            following: dict[int, list[Way]] = {}
            limit = left - elements_left * like * least
            for at, ways in states.items():
                room = (limit if like == 1.0 else left) - ways[0][0]
                found = self._at(at, item_path, depth + 1, room)
                self._effort.spend(len(found) * len(ways))
                for cost, node in found:
                    kind = _LIKE.get(node.kind) if like < 1.0 else None
                    for way in ways:
                        before = way[3]
                        is_like = kind and before is not None and _LIKE.get(before.kind) == kind
                        total = way[0] + (cost * like if is_like else cost)
                        if total <= limit:
                            following.setdefault(node.end, []).append((total, way, b"", node))
            states = self._best(following)
            if not states:
                return []
        return _built(ARRAY, states)

    def _at(self, offset: int, path: Path, depth: int, left: float) -> list[tuple[float, Node]]:
        """Return the readings of the value at `offset` that cost no more than `left`."""
        if path not in self._evidence.kinds:
            path = UNKNOWN
        known = self._values.get((offset, path))
        if known is not None and known[0] >= left:
            found = known[1]
        else:
            found = [item for item in self._read(offset, path, depth, left) if item[0] <= left]
            self._values[offset, path] = (left, found)
        self._effort.spend(1)
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
        cost_of = self._evidence.kind_cost
        plain = self._plain.get(offset)
        if plain is None:
            plain = self._plain[offset] = self._plain_at(offset)
        for oddness, node in plain:
            yield cost_of(path, node.kind) + oddness, node
        if depth >= _DEPTH_MAX or offset + 8 > self._size:
            return
        (number,) = _u64(self._data, offset)
        if not 0 < number <= self._size - offset:
            return
        own = cost_of(path, ARRAY)
        if own < left:
            for cost, node in self._elements(offset, path, depth, left - own):
                yield own + cost, node
        own = cost_of(path, OBJECT)
        if own < left:
            for cost, node in self._entries(offset, path, depth, left - own):
                yield own + cost, node

    def _plain_at(self, offset: int) -> list[tuple[float, Node]]:
        """Return the readings of a value that has no parts, and how odd they are."""
        data, size = self._data, self._size
        found = [(1.5, Node(NULL, offset))]
        if offset < size and data[offset] < 2:
            found.append((0.5, Node(BOOL, offset + 1, value=data[offset] == 1)))
        if offset + 8 > size:
            return found
        (number,) = _u64(data, offset)
        if number == 0:
            found.append((0.0, Node(ZERO, offset + 8)))
            return found
        kind, oddness, exact = _number(data, offset)
        is_odd = oddness >= _ODD_NUMBER
        found.append((oddness, Node(kind, offset + 8, exact, is_odd)))
        end = offset + 8 + number
        if end <= size:
            self._effort.spend(number >> 5)
            text = data[offset + 8 : end]
            if _is_text(text):
                value = text.decode()
                found.append((_text_cost(value), Node(TEXT, end, value=value)))
        return found


def _built(kind: int, states: dict[int, list[Way]]) -> list[tuple[float, Node]]:
    """Return costs and nodes of ways to have read all entries or elements, by where they end."""
    return [(way[0], Node(kind, end, way=way)) for end, ways in states.items() for way in ways]


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
    readings = Readings(data, evidence, effort)
    for cost_max in _COSTS:
        found = [
            Reading(node.end, cost + cost_of_end(node.end), node)
            for cost, node in readings.of_map(cost_max)
        ]
        found.sort(key=lambda item: item.cost)
        if found and found[0].cost - readings.floor + CLEAR_MARGIN <= cost_max:
            return [item for item in found if math.isfinite(item.cost)]
    return [item for item in found if math.isfinite(item.cost)]


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


def _text_cost(text: str) -> float:
    """Return how unlike text something is: control characters are rare, most of all zeros."""
    if text.isprintable():
        return 0.0
    cost = 0.0
    for letter in text:
        if not letter.isprintable() and letter not in "\n\r\t":
            cost += 3.0
            if cost >= _ODD_COST_MAX:
                break
    return cost


def _number(data: bytes, offset: int) -> tuple[int, float, int | float]:
    """Return what eight bytes are that are not zero, how odd a number that is, and the number."""
    (signed,) = _i64(data, offset)
    if abs(signed) < _EXACT_INT_MAX:
        return INT, 0.02 * abs(signed).bit_length(), signed
    (number,) = _f64(data, offset)
    if 1e-18 <= abs(number) <= 1e18:
        return FLOAT, 0.5, number
    if signed >= 0 and 1e-300 < abs(number) < 1e-100:  # nanoseconds since 1970
        return INT, 4.0, signed
    return INT, _ODD_NUMBER, _u64(data, offset)[0]


def number_at(data: bytes, offset: int) -> tuple[int | float, bool]:
    """Return the number in eight bytes, and whether another reading is as likely.

    An integer beyond 2^63 may as well be negative, and some are doubles of no usual magnitude.
    """
    _, oddness, number = _number(data, offset)
    return number, oddness >= _ODD_NUMBER
