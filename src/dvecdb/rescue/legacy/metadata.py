"""From stored metadata to JSON, with the evidence of the whole collection.

Most records are read by `fast`: every key is one whose kind the others have settled, and the bytes
end where they should. All others go through `untagged.Readings`.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from dvecdb.rescue.legacy.effort import Budget, TooMuchError
from dvecdb.rescue.legacy.evidence import (
    ARRAY,
    BOOL,
    FLOAT,
    INT,
    NULL,
    OBJECT,
    TEXT,
    ZERO,
    Evidence,
    Fixed,
    Path,
)
from dvecdb.rescue.legacy.untagged import (
    CLEAR_MARGIN,
    Node,
    Reading,
    number_at,
    rank,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dvecdb.reports import DoubtKind

_u64: Final = struct.Struct("<Q").unpack_from
_f64: Final = struct.Struct("<d").unpack_from
_encode: Final = msgspec.json.Encoder().encode
_decode_object: Final = msgspec.json.Decoder(dict[str, Any]).decode

_ROUNDS: Final = (24, 48, 128)
_SUPPORT_MIN: Final = 8
_SMALL_MAX: Final = 8
_FAST_KEY_BYTES_MAX: Final = 255

FastKeys = dict[bytes, tuple[str, int, Any]]
_UNMARKED: Final = frozenset({NULL, ARRAY, OBJECT})
_EXACT_INT_MAX: Final = 1 << 53


@dataclass(slots=True)
class Decoded:
    """Metadata as JSON bytes. end: where it ended; zeros: keys of values that may be 0 or ""."""

    end: int
    json: bytes
    doubt: DoubtKind | None = None
    zeros: list[str] = field(default_factory=list)
    cost: float = 0.0


def read_json_text(data: bytes | memoryview) -> bytes | None:
    """Return the JSON object in `data`, encoded anew, or None if there is none."""
    try:
        return _encode(_decode_object(data))
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None


class MetadataReader:
    """Reads the untagged metadata of one collection. size: of its file and its log, in bytes."""

    def __init__(self, size: int) -> None:
        self.evidence = Evidence()
        self.budget = Budget(size)
        self.keys: FastKeys = {}

    def learn(self, samples: Iterable[bytes]) -> None:
        """Learn keys and kinds from the metadata of some records, whose ends are known."""
        wanted = list(samples)
        for some in _ROUNDS:  # the first ones cost most: nothing is known yet
            following = Evidence()
            for number, data in enumerate(wanted[:some]):
                self.budget.next_record()
                best = self._best_ending_at(data, len(data))
                if best is None:
                    wanted[number] = b""
                    continue
                seen: list[tuple[Path, int]] = []
                _kinds_of(best, (), seen)
                following.add(seen)
            wanted = [data for data in wanted if data]
            self.evidence = following
        self.keys = _fast_keys(self.evidence.fixed())

    def _best_ending_at(self, data: bytes, end: int) -> Node | None:
        found = self._rank(data, lambda at: 0.0 if at == end else math.inf)
        return found[0].node if found else None

    def _rank(self, data: bytes, cost_of_end: Callable[[int], float]) -> list[Reading]:
        """Return the readings of `data`, likeliest first; none if there is no end of them."""
        effort = self.budget.effort(len(data))
        try:
            found = rank(data, self.evidence, cost_of_end, effort)
        except TooMuchError:
            found = []
        self.budget.note(effort, len(data), found=bool(found))
        return found

    def fast(self, data: bytes) -> bytes | None:
        """Return the JSON of metadata in which nothing is in question, or None."""
        if not self.keys:
            return None
        try:
            found, end = _fast_map(data, 0, self.keys)
        except (KeyError, struct.error, UnicodeDecodeError, IndexError, _DoubtError):
            return None
        return _encode(found) if end == len(data) else None

    def read(self, data: bytes, cost_of_end: Callable[[int], float]) -> Decoded | None:
        """Return the likeliest reading of the map at the start of `data`, or None.

        cost_of_end: what it costs that it ends at an offset; `inf`: it cannot.
        """
        ranked = self._rank(data, cost_of_end)
        if not ranked:
            return None
        best = ranked[0]
        value = _Value(self.evidence)
        content = value.of(best.node)
        rivals = [
            other
            for other in ranked[1:]
            if other.cost - best.cost < CLEAR_MARGIN
            and _Value(self.evidence).of(other.node) != content
        ]
        is_open = bool(rivals) or value.is_odd or not self._is_supported(best.node)
        return Decoded(
            best.end, _encode(content), "ambiguous" if is_open else None, value.zeros, best.cost
        )

    def _is_supported(self, node: Node, above: Path = ()) -> bool:
        """Tell whether enough records agree on everything in a reading that nothing marks.

        Without that, readings with nulls, arrays and objects confirm themselves.
        """
        for path, part in node.parts(above):
            counts = self.evidence.kinds.get(path)
            count = counts[part.kind] if counts is not None else 0
            if counts is not None and not count and part.kind != ZERO:
                return False  # nobody else has that there
            if (part.kind in _UNMARKED or _is_odd(part)) and count < _SUPPORT_MIN:
                return False
            if not self._is_supported(part, path):
                return False
        return True


class _DoubtError(Exception):
    """The fast way does not read this."""


def _fast_map(data: bytes, at: int, fixed: FastKeys) -> tuple[dict[str, Any], int]:
    """Read a map whose keys hold one kind each; return it and where it ends.

    The inner loop of every import: a key is looked up with its length before it, so that one look
    checks both.
    """
    number = _u64
    (count,) = number(data, at)
    at += 8
    found: dict[str, Any] = {}
    for _ in range(count):
        end = at + 8 + data[at]
        name, kind, inner = fixed[data[at:end]]
        if kind == TEXT:
            at = end + 8
            end = at + number(data, end)[0]
            found[name] = data[at:end].decode()
            at = end
        elif kind == INT:
            (found[name],) = number(data, end)
            if found[name] >= _EXACT_INT_MAX:
                found[name], _ = _fast_value(data, end, kind)
            at = end + 8
        elif kind == OBJECT:
            found[name], at = _fast_map(data, end, inner)
        elif kind == ARRAY:
            found[name], at = _fast_items(data, end, inner)
        else:
            found[name], at = _fast_value(data, end, kind)
    if len(found) != count or at > len(data):
        raise _DoubtError
    return found, at


def _fast_items(data: bytes, at: int, kind: int) -> tuple[list[Any], int]:
    (count,) = _u64(data, at)
    at += 8
    if count > len(data):
        raise _DoubtError
    items: list[Any] = []
    if kind == TEXT:
        for _ in range(count):
            end = at + 8 + _u64(data, at)[0]
            items.append(data[at + 8 : end].decode())
            at = end
        return items, at
    for _ in range(count):
        item, at = _fast_value(data, at, kind)
        items.append(item)
    return items, at


def _fast_value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind == TEXT:
        end = at + 8 + _u64(data, at)[0]
        return data[at + 8 : end].decode(), end
    if kind == BOOL:
        if data[at] > 1:
            raise _DoubtError
        return data[at] == 1, at + 1
    (number,) = _u64(data, at)
    if number < _EXACT_INT_MAX:
        return (0.0 if not number and kind == FLOAT else number), at + 8
    (real,) = _f64(data, at)
    if 1e-18 <= real <= 1e18:
        return real, at + 8
    value, is_odd = number_at(data, at)
    if is_odd:
        raise _DoubtError
    return value, at + 8


def _fast_keys(fixed: Fixed) -> FastKeys:
    """Return what the fast way looks up: name, kind and what is inside, by stored key."""
    found: FastKeys = {}
    for key, kind in fixed.items():
        if len(key) > _FAST_KEY_BYTES_MAX:
            continue
        name, stored = key.decode(), len(key).to_bytes(8, "little") + key
        if isinstance(kind, int):
            found[stored] = (name, kind, None)
        elif isinstance(kind, tuple):
            found[stored] = (name, ARRAY, kind[0])
        else:
            found[stored] = (name, OBJECT, _fast_keys(kind))
    return found


def _is_odd(node: Node) -> bool:
    """Tell whether a value is as well something else: a count of nulls, or flags in a text."""
    value = node.value
    if isinstance(value, str):
        return not value.isprintable() and any(ord(letter) < 9 for letter in value)
    return node.kind == INT and isinstance(value, int) and 0 < value <= _SMALL_MAX


class _Value:
    """Makes JSON values of nodes, and notes what was in question."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self.zeros: list[str] = []
        self.is_odd = False

    def of(self, node: Node, at: Path = ()) -> Any:
        """Return the value of a node. at: its path."""
        kind = node.kind
        if kind == OBJECT:
            return {path[-1].decode(): self.of(part, path) for path, part in node.parts(at)}
        if kind == ARRAY:
            return [self.of(part, path) for path, part in node.parts(at)]
        if kind == ZERO:
            return self._zero(at)
        self.is_odd = self.is_odd or node.is_odd
        return node.value

    def _zero(self, path: Path) -> Any:
        kind, is_sure = self._evidence.zero_kind(path)
        if not is_sure:
            self.zeros.append(shown(path))
        return {INT: 0, FLOAT: 0.0, TEXT: "", ARRAY: [], OBJECT: {}}[kind]


def shown(path: Path) -> str:
    """Return a path as people write it."""
    text = ".".join(part.decode(errors="replace") for part in path)
    return text.replace(".[]", "[]")


def _kinds_of(node: Node, above: Path, seen: list[tuple[Path, int]]) -> None:
    """Collect path and kind of everything below a node."""
    for path, part in node.parts(above):
        seen.append((path, part.kind))
        _kinds_of(part, path, seen)
