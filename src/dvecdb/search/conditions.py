"""Which records are meant: conditions on the metadata and on the id.

A filter is written in one of two ways (`docs/filters.md` is the page for users):

    {"lang": "de", "year": 2024}                      an equality map: every named top-level field
                                                      is there and has this value as a whole
    {"must": [{"key": "year", "range": {"gte": 2020}}],
     "must_not": [{"key": "tags", "match": {"any": ["draft"]}}]}         a tree of conditions

An object is a tree if it has no other keys than `must`, `should`, `must_not` and `min_should`, and
at least one of them holds an object or a list; anything else is an equality map.

Values are equal as JSON values: 1 equals 1.0, true does not equal 1, lists and objects are equal
as a whole. A field that is null equals null; a field that is missing equals nothing.

A condition looks at the values under a path, `shop.tags`: names of fields, one inside the other.
A list on the way, or at its end, stands for each of its elements; a list in a list is a value that
nothing equals. A condition holds if it holds for one of the values.

Here: the tree and what it means, one record at a time. How it is read: `filters`. How it is
answered for many rows at once: `columns` and `selection`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from dvecdb.records import Json, Metadata

WORD: Final = re.compile(r"\w+")
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - zones are subtracted by hand
_MICROSECOND: Final = 1_000_000

Path = tuple[str, ...]


class Tag:
    """Stands for a JSON value in a hash table where Python would take it for another one."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        """Make one that equals nothing but itself. name: for people who debug."""
        self.name = name


TRUE: Final = Tag("true")
FALSE: Final = Tag("false")


@dataclass(frozen=True, slots=True)
class Equals:
    """An entry of an equality map. name: of a top-level field, dots and all."""

    name: str
    value: Json = field(compare=False)
    key: Hashable

    def holds(self, metadata: Metadata, _: str) -> bool:
        """Return whether it is true of a record."""
        return self.name in metadata and same_json(metadata[self.name], self.value)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """A value is one of these scalars."""

    path: Path
    values: tuple[Json, ...] = field(compare=False)
    keys: frozenset[Hashable]

    def holds(self, metadata: Metadata, _: str) -> bool:
        """Return whether it is true of a record."""
        return any(
            same_json(found, value)
            for found in values_at(metadata, self.path)
            for value in self.values
        )


@dataclass(frozen=True, slots=True)
class Except:
    """A value is there, is not null, and is none of these scalars."""

    path: Path
    values: tuple[Json, ...] = field(compare=False)
    keys: frozenset[Hashable]

    def holds(self, metadata: Metadata, _: str) -> bool:
        """Return whether it is true of a record."""
        return any(
            found is not None and not any(same_json(found, value) for value in self.values)
            for found in values_at(metadata, self.path)
        )


@dataclass(frozen=True, slots=True)
class HasWords:
    """A text has all of these words."""

    path: Path
    words: frozenset[str]

    def holds(self, metadata: Metadata, _: str) -> bool:
        """Return whether it is true of a record."""
        return any(
            isinstance(found, str) and self.words <= words_of(found)
            for found in values_at(metadata, self.path)
        )


@dataclass(frozen=True, slots=True)
class Range:
    """A number, or with `dates` a text that is an ISO 8601 date, is within bounds.

    bounds: (operator, bound), the operator being gt, gte, lt or lte; microseconds for dates.
    """

    path: Path
    bounds: tuple[tuple[str, int | float], ...]
    dates: bool

    def holds(self, metadata: Metadata, _: str) -> bool:
        """Return whether it is true of a record."""
        for found in values_at(metadata, self.path):
            value = date_of(found) if self.dates else number_of(found)
            if value is not None and all(
                _COMPARE[operator](value, bound) for operator, bound in self.bounds
            ):
                return True
        return False


@dataclass(frozen=True, slots=True)
class Exists:
    """The path leads somewhere, were it to null or to an empty list."""

    path: Path

    def holds(self, metadata: Metadata, _: str) -> bool:
        """Return whether it is true of a record."""
        return bool(_ends_of(metadata, self.path))


@dataclass(frozen=True, slots=True)
class IsNull:
    """A value is null."""

    path: Path

    def holds(self, metadata: Metadata, _: str) -> bool:
        """Return whether it is true of a record."""
        return any(found is None for found in values_at(metadata, self.path))


@dataclass(frozen=True, slots=True)
class IsEmpty:
    """There is no value but null."""

    path: Path

    def holds(self, metadata: Metadata, _: str) -> bool:
        """Return whether it is true of a record."""
        return all(found is None for found in values_at(metadata, self.path))


@dataclass(frozen=True, slots=True)
class HasId:
    """The id of the record is one of these, which are in stored form."""

    ids: frozenset[str]

    def holds(self, _: Metadata, record_id: str) -> bool:
        """Return whether it is true of a record."""
        return record_id in self.ids


@dataclass(frozen=True, slots=True)
class Tree:
    """All of `must`, one of `should`, none of `must_not`, and `least` of `counted`.

    What is empty asks for nothing. least: None without a `min_should`.
    """

    must: tuple[Condition, ...] = ()
    should: tuple[Condition, ...] = ()
    must_not: tuple[Condition, ...] = ()
    counted: tuple[Condition, ...] = ()
    least: int | None = None

    def holds(self, metadata: Metadata, record_id: str) -> bool:
        """Return whether it is true of a record."""

        def count(conditions: Iterable[Condition]) -> int:
            return sum(one.holds(metadata, record_id) for one in conditions)

        return (
            count(self.must) == len(self.must)
            and (not self.should or count(self.should) > 0)
            and count(self.must_not) == 0
            and (self.least is None or count(self.counted) >= self.least)
        )

    @property
    def asks_nothing(self) -> bool:
        """Whether it holds for every record, plainly."""
        return not (self.must or self.should or self.must_not) and self.least is None


Condition = (
    Equals | AnyOf | Except | HasWords | Range | Exists | IsNull | IsEmpty | HasId | Tree
)  # fmt: skip


class Filter:
    """A filter that was read: immutable, and equal to one that means the same by its form."""

    __slots__ = ("_hash", "tree")

    def __init__(self, tree: Tree) -> None:
        """Take a tree. Its hash is computed once: lists of values may be long."""
        self.tree = tree
        self._hash = hash(tree)

    def __hash__(self) -> int:
        """Return the hash of the tree."""
        return self._hash

    def __eq__(self, other: object) -> bool:
        """Return whether both have the same tree."""
        return isinstance(other, Filter) and self._hash == other._hash and self.tree == other.tree

    def matches(self, metadata: Metadata | None, record_id: str) -> bool:
        """Return whether a record is meant, by the book. record_id: in stored form."""
        return self.tree.holds({} if metadata is None else metadata, record_id)


# --- values ---


def _ends_of(metadata: Mapping[str, Json], path: Path) -> list[Json]:
    """Return what a path leads to, lists as they are."""
    found: list[Json] = [metadata]
    for name in path:
        inside = [element for one in found for element in elements_of(one)]
        found = [one[name] for one in inside if isinstance(one, dict) and name in one]
    return found


def values_at(metadata: Mapping[str, Json], path: Path) -> list[Json]:
    """Return the values under a path: what it leads to, lists by their elements."""
    return [element for one in _ends_of(metadata, path) for element in elements_of(one)]


def elements_of(value: Json) -> list[Json]:
    """Return the elements of a list, or the value alone."""
    return value if isinstance(value, list) else [value]


def number_of(value: Json) -> int | float | None:
    """Return a number, None for anything else: true is no number."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def date_of(value: Json) -> int | None:
    """Return the time of an ISO 8601 date or date and time, None for anything else.

    Microseconds since 1970 UTC; what says no zone is UTC.
    """
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    offset = moment.utcoffset()
    since = moment.replace(tzinfo=None) - _EPOCH
    if offset is not None:
        since -= offset
    return (since.days * 86_400 + since.seconds) * _MICROSECOND + since.microseconds


def words_of(text: str) -> set[str]:
    """Return the words of a text: runs of letters, digits and underscores, case folded."""
    return set(WORD.findall(text.casefold()))


def same_json(first: Json, second: Json) -> bool:
    """Return whether two JSON values are equal: 1 is 1.0, true is not 1."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, list):
        return (
            isinstance(second, list)
            and len(first) == len(second)
            and all(map(same_json, first, second))
        )
    if isinstance(first, dict):
        return (
            isinstance(second, dict)
            and first.keys() == second.keys()
            and all(same_json(value, second[name]) for name, value in first.items())
        )
    return bool(first == second)


def json_key(value: Json) -> Hashable:
    """Return what tells JSON values apart in a hash table: equal where `same_json` says so."""
    if value is True:
        return TRUE
    if value is False:
        return FALSE
    if isinstance(value, list):
        return ("list", *map(json_key, value))
    if isinstance(value, dict):
        return ("object", frozenset((name, json_key(inner)) for name, inner in value.items()))
    return value  # type: ignore[no-any-return]


_COMPARE: Final = {
    "gt": lambda value, bound: value > bound,
    "gte": lambda value, bound: value >= bound,
    "lt": lambda value, bound: value < bound,
    "lte": lambda value, bound: value <= bound,
}
