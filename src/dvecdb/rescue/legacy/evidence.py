"""What the records of a collection say about its metadata: which keys, and what kinds of values.

Untagged metadata does not say what its values are, so one record alone often has several readings.
The others decide: a key that holds text everywhere holds text here. Costs are negative logarithms
of smoothed frequencies; smaller is likelier.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final

NULL, BOOL, INT, FLOAT, TEXT, ARRAY, OBJECT, ZERO = range(8)
"""Kinds of values. ZERO: eight zero bytes, which are 0, 0.0, "", [] or {}."""

ITEM: Final = b"[]"
"""Stands for the elements of an array in a path."""

Path = tuple[bytes, ...]
UNKNOWN: Final[Path] = (b"\xff",)
"""Stands for every path that no record has, for their values all cost the same. It is no text."""

Fixed = dict[bytes, "int | tuple[int] | Fixed"]
"""Kind by key: a number, one in a tuple for an array of such, or the keys of an object."""

_PRIOR: Final = {
    NULL: 0.1, BOOL: 0.5, INT: 1.0, FLOAT: 1.0, TEXT: 1.5, ARRAY: 0.25, OBJECT: 0.25, ZERO: 1.0,
}  # fmt: skip
_PRIOR_SUM: Final = sum(_PRIOR.values())
_ZERO_KINDS: Final = (INT, FLOAT, TEXT, ARRAY, OBJECT)
_FIXED_ROWS_MIN: Final = 16
_FIXED_KINDS: Final = frozenset({BOOL, INT, FLOAT, TEXT})
_KEY_LENGTH_USUAL: Final = 32
_KEY_COST: Final = 1.0
_KEPT_MAX: Final = 4096


@dataclass(slots=True)
class Evidence:
    """Counts of keys and kinds by path, from readings that are believed."""

    records: int = 0
    kinds: dict[Path, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    _costs: dict[tuple[Path, int], float] = field(default_factory=dict)
    _keys: dict[Path, float] = field(default_factory=dict)

    def add(self, seen: list[tuple[Path, int]]) -> None:
        """Count one record's keys and kinds."""
        self.records += 1
        for path, kind in seen:
            self.kinds[path][kind] += 1
        self._costs.clear()
        self._keys.clear()

    def kind_cost(self, path: Path, kind: int) -> float:
        """Return what it costs that the value at `path` is of a kind."""
        found = self._costs.get((path, kind))
        if found is None:
            found = self._costs[path, kind] = self._kind_cost(path, kind)
        return found

    def _kind_cost(self, path: Path, kind: int) -> float:
        counts = self.kinds.get(path)
        if counts is None:
            return -math.log(_PRIOR[kind] / _PRIOR_SUM)
        count = float(counts[kind])
        if kind == ZERO:
            count += 0.3 * sum(counts[item] for item in _ZERO_KINDS)
        elif kind in {INT, FLOAT}:  # what wrote one may well have written the other
            count += 0.1 * counts[INT if kind == FLOAT else FLOAT]
        return -math.log((count + 0.2 * _PRIOR[kind]) / (counts.total() + 0.2 * _PRIOR_SUM))

    def least_cost(self, path: Path) -> float:
        """Return the least that a value at `path` costs, whatever its kind."""
        return min(self.kind_cost(path, kind) for kind in _PRIOR)

    def least_entry_cost(self) -> float:
        """Return the least that a key and its value cost below a path that no record has."""
        return _KEY_COST + math.log1p(self.records) + self.least_cost(UNKNOWN)

    def key_cost(self, path: Path) -> float:
        """Return what it costs that a record has a key at `path`."""
        found = self._keys.get(path)
        if found is None:
            counts = self.kinds.get(path)
            seen = counts.total() if counts is not None else 0
            above = self.kinds.get(path[:-1]) if len(path) > 1 else None
            chances = above[OBJECT] if above is not None else self.records
            if seen:
                found = max(0.0, -math.log(seen / max(chances, seen)))
            else:
                found = _KEY_COST + math.log1p(chances) + _oddness(path[-1])
            if len(self._keys) >= _KEPT_MAX:
                self._keys.clear()  # damaged bytes hold no end of keys
            self._keys[path] = found
        return found

    def zero_kind(self, path: Path) -> tuple[int, bool]:
        """Return what eight zero bytes are at `path`, and whether other records leave no doubt."""
        counts = self.kinds.get(path)
        if counts is None:
            return INT, False
        known = [(counts[kind], kind) for kind in _ZERO_KINDS if counts[kind]]
        if not known:
            return INT, False
        best = max(known, key=lambda item: (item[0], -item[1]))
        return best[1], len(known) == 1

    def fixed(self, above: Path = ()) -> Fixed:
        """Return the keys below a path that hold one kind only, and which."""
        found: Fixed = {}
        for path, counts in self.kinds.items():
            if path[:-1] != above or path[-1] == ITEM or counts.total() < _FIXED_ROWS_MIN:
                continue
            kind = _only_kind(counts)
            if kind in _FIXED_KINDS:
                found[path[-1]] = kind
            elif kind == ARRAY:
                inner = _only_kind(self.kinds.get((*path, ITEM), Counter()))
                if inner in _FIXED_KINDS:
                    found[path[-1]] = (inner,)
            elif kind == OBJECT:
                found[path[-1]] = self.fixed(path)
        return found


def _only_kind(counts: Counter[int]) -> int:
    """Return the kind of all values that were seen, or -1 if there are several."""
    kinds = {kind for kind, count in counts.items() if count and kind != ZERO}
    if kinds == {INT, FLOAT}:
        return FLOAT
    return kinds.pop() if len(kinds) == 1 else -1


def _oddness(key: bytes) -> float:
    """Return how unlike a key some bytes are, apart from all evidence."""
    if not key:
        return 6.0
    text = key.decode()
    odd = sum(1 for letter in text if not (letter.isalnum() or letter in "_-. $@:/"))
    hidden = sum(1 for letter in text if not letter.isprintable())
    length = max(0, len(key) - _KEY_LENGTH_USUAL) * 0.1
    return 0.5 * odd + 4.0 * hidden + length
