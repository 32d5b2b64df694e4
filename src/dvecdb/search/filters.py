"""From the JSON of a filter to its tree, once. What is wrong is named by its path in the filter.

Limits: trees in trees 32 deep, 1,000 conditions on 64 fields, 10,000 values in all lists together.
A null where a part of a tree may be is as if the part were not there, as clients send it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np

from dvecdb.errors import Code, InvalidRequestError
from dvecdb.records import canonical_ids
from dvecdb.search.conditions import (
    AnyOf,
    Equals,
    Except,
    Exists,
    Filter,
    HasId,
    HasWords,
    IsEmpty,
    IsNull,
    Range,
    Tree,
    date_of,
    json_key,
    same_json,
    words_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from dvecdb.records import Json
    from dvecdb.search.conditions import Condition, Path

__all__ = ["Filter", "parse_filter", "same_json"]

DEPTH_MAX: Final = 32
"""Trees inside each other."""
CONDITIONS_MAX: Final = 1_000
"""Conditions of a filter, trees inside it counted too."""
FIELDS_MAX: Final = 64
"""Fields that a filter may look at: each becomes a column of all rows, in memory."""
VALUES_MAX: Final = 10_000
"""Values of all `any`, `except` and `has_id` lists of a filter together."""
VALUE_DEPTH_MAX: Final = 64
"""Lists and objects inside each other in a value of an equality map."""
_TREE: Final = ("must", "should", "must_not", "min_should")
_OPERATORS: Final = ("match", "range", "exists", "is_null", "is_empty")
_BOUNDS: Final = ("gt", "gte", "lt", "lte")
_PART: Final = re.compile(r'(?:"([^"]+)"|([^".\[\]][^.\[\]]*))(?:\[\])?(?:\.(?!$)|$)')
_SHOWN: Final = 80


def parse_filter(where: object) -> Filter | None:
    """Return the filter of an equality map or a tree, None for all records.

    Raises:
        InvalidRequestError: `invalid-argument`, not a map with text keys; `invalid-filter`,
            details: path, where in the filter.
    """
    if where is None:
        return None
    if not isinstance(where, Mapping) or not all(isinstance(name, str) for name in where):
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT,
            "where: expected a map of metadata fields to the values they must have, or a tree of "
            f"must, should, must_not and min_should, found {where!r:.80}",
        )
    tree = _Parser().tree(where, "where", 1) if _is_tree(where) else _equality_map(where)
    return None if tree.asks_nothing else Filter(tree)


def _is_tree(where: Mapping[str, object]) -> bool:
    return where.keys() <= set(_TREE) and any(
        isinstance(value, Mapping | list) for value in where.values()
    )


def _equality_map(where: Mapping[str, Any]) -> Tree:
    if len(where) > FIELDS_MAX:
        _refuse_fields("where")
    conditions = []
    for name, given in where.items():
        value = _plain(given, f"where.{name}", VALUE_DEPTH_MAX)
        conditions.append(Equals(name, value, json_key(value)))
    return Tree(must=tuple(conditions))


def _plain(value: Any, path: str, depth_left: int) -> Json:
    """Return a value of an equality map, which has to be JSON."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping | list):
        if not depth_left:
            _fail(path, f"at most {VALUE_DEPTH_MAX} lists and objects may be inside each other")
        if isinstance(value, list):
            return [
                _plain(inner, f"{path}[{index}]", depth_left - 1)
                for index, inner in enumerate(value)
            ]
        if not all(isinstance(name, str) for name in value):
            _refuse(path, "text as keys", value)
        return {
            name: _plain(inner, f"{path}.{name}", depth_left - 1) for name, inner in value.items()
        }
    return None if value is None else _scalar(value, path, "a JSON value")


def _scalar(value: Any, path: str, expected: str) -> Json:
    """Return a text, a finite number or a truth value."""
    if not isinstance(value, str | int | float):
        _refuse(path, expected, value)
    if isinstance(value, float) and not math.isfinite(value):
        _refuse(path, "a finite number", value)
    return value


class _Parser:
    """Reads one filter. Counts what it has read of what is limited."""

    def __init__(self) -> None:
        self._conditions = 0
        self._values = 0
        self._fields: set[Path] = set()

    # --- trees ---

    def tree(self, given: Mapping[str, Any], path: str, depth: int) -> Tree:
        """Return the tree of an object at `path`, `depth` trees down."""
        if depth > DEPTH_MAX:
            _fail(path, f"at most {DEPTH_MAX} trees may be inside each other")
        _only(given, path, _TREE)
        counted: tuple[Condition, ...] = ()
        least = None
        if given.get("min_should") is not None:
            counted, least = self._min_should(given["min_should"], f"{path}.min_should", depth)
        must, should, must_not = (
            self._conditions_of(given.get(name), f"{path}.{name}", depth)
            for name in ("must", "should", "must_not")
        )
        return Tree(must, should, must_not, counted, least)

    def _min_should(self, given: Any, path: str, depth: int) -> tuple[tuple[Condition, ...], int]:
        inner = _object(given, path, "conditions and min_count")
        _only(inner, path, ("conditions", "min_count"))
        least = inner.get("min_count")
        if not isinstance(least, int) or isinstance(least, bool) or least < 0:
            _refuse(f"{path}.min_count", "a whole number from 0 on", least)
        if inner.get("conditions") is None:
            _refuse(f"{path}.conditions", "a list of conditions", None)
        return self._conditions_of(inner["conditions"], f"{path}.conditions", depth), least

    def _conditions_of(self, given: Any, path: str, depth: int) -> tuple[Condition, ...]:
        if given is None:
            return ()
        if isinstance(given, Mapping):
            return (self._condition(given, path, depth),)
        if not isinstance(given, list):
            _refuse(path, "a list of conditions", given)
        return tuple(
            self._condition(one, f"{path}[{index}]", depth) for index, one in enumerate(given)
        )

    def _condition(self, given: Any, path: str, depth: int) -> Condition:
        self._conditions += 1
        if self._conditions > CONDITIONS_MAX:
            _fail(path, f"at most {CONDITIONS_MAX} conditions are allowed in a filter")
        one = _object(given, path, "a condition")
        found = [name for name, value in one.items() if value is not None]
        if "key" in one:
            return self._field(one, path)
        if len(found) == 1 and found[0] in {"has_id", "is_null", "is_empty"}:
            inside = f"{path}.{found[0]}"
            if found[0] == "has_id":
                return self._has_id(one["has_id"], inside)
            inner = _object(one[found[0]], inside, "an object with a key")
            _only(inner, inside, ("key",))
            where = self._path(inner.get("key"), f"{inside}.key")
            return IsNull(where) if found[0] == "is_null" else IsEmpty(where)
        if not one or not one.keys() <= set(_TREE):
            expected = "a condition: key and an operator, has_id, is_null, is_empty, or a tree"
            _refuse(path, expected, one)
        return self.tree(one, path, depth + 1)

    # --- conditions on a field ---

    def _field(self, one: Mapping[str, Any], path: str) -> Condition:
        _only(one, path, ("key", *_OPERATORS))
        where = self._path(one["key"], f"{path}.key")
        found = [name for name in _OPERATORS if one.get(name) is not None]
        if len(found) != 1:
            shown = " and ".join(found) or "none"
            _fail(path, f"expected one of {', '.join(_OPERATORS)}, found {shown}")
        operator, value = found[0], one[found[0]]
        inside = f"{path}.{operator}"
        if operator == "match":
            return self._match(where, value, inside)
        if operator == "range":
            return _range(where, value, inside)
        if not isinstance(value, bool):
            _refuse(inside, "true or false", value)
        kinds: dict[str, Callable[[Path], Condition]] = {
            "exists": Exists, "is_null": IsNull, "is_empty": IsEmpty,
        }  # fmt: skip
        condition = kinds[operator](where)
        return condition if value else Tree(must_not=(condition,))

    def _match(self, where: Path, given: Any, path: str) -> Condition:
        inner = _object(given, path, "an object with value, any, except or text")
        _only(inner, path, ("value", "any", "except", "text"))
        found = [name for name, value in inner.items() if value is not None]
        if not found and "value" in inner:
            found = ["value"]  # null, which is refused by name
        if len(found) != 1:
            shown = " and ".join(found) or "none"
            _fail(path, f"expected one of value, any, except and text, found {shown}")
        name, value = found[0], inner[found[0]]
        inside = f"{path}.{name}"
        if name == "value":
            scalar = _scalar(
                value, inside, "text, a number, true or false (for null there is is_null)"
            )
            return AnyOf(where, (scalar,), frozenset({json_key(scalar)}))
        if name == "text":
            words = words_of(value) if isinstance(value, str) else set()
            if not words:
                _refuse(inside, "text with at least one word", value)
            return HasWords(where, frozenset(words))
        values = self._list(value, inside)
        scalars = tuple(
            _scalar(one, f"{inside}[{index}]", "text, a number, true or false")
            for index, one in enumerate(values)
        )
        keys = frozenset(map(json_key, scalars))
        return AnyOf(where, scalars, keys) if name == "any" else Except(where, scalars, keys)

    def _path(self, given: Any, path: str) -> Path:
        where = parse_path(given, path)
        self._fields.add(where)
        if len(self._fields) > FIELDS_MAX:
            _refuse_fields(path)
        return where

    def _has_id(self, given: Any, path: str) -> HasId:
        try:
            return HasId(frozenset(canonical_ids(self._list(given, path))))
        except InvalidRequestError as error:
            if error.code is not Code.INVALID_ID:
                raise
            where = f"{path}[{error.details.get('item', 0)}]"
            _fail(where, error.message.partition(": ")[2])

    def _list(self, given: Any, path: str) -> list[Any]:
        if not isinstance(given, list):
            _refuse(path, "a list", given)
        self._values += len(given)
        if self._values > VALUES_MAX:
            _fail(path, f"at most {VALUES_MAX} values are allowed in the lists of a filter")
        return given


def _range(where: Path, given: Any, path: str) -> Range:
    inner = _object(given, path, "an object with gt, gte, lt or lte")
    _only(inner, path, _BOUNDS)
    bounds: list[tuple[str, int | float]] = []
    kinds: set[bool] = set()
    for operator in _BOUNDS:
        value, inside = inner.get(operator), f"{path}.{operator}"
        if value is None:
            continue
        date = date_of(value)
        if date is None:
            if not isinstance(value, int | float) or isinstance(value, bool):
                _refuse(inside, "a number or an ISO date", value)
            _scalar(value, inside, "a number")
        kinds.add(date is not None)
        if len(kinds) > 1:
            _fail(inside, "numbers and dates are mixed in one range")
        bounds.append((operator, value if date is None else date))
    if not bounds:
        _fail(path, "expected at least one of gt, gte, lt and lte")
    return Range(where, tuple(bounds), dates=kinds == {True})


def parse_path(given: Any, path: str) -> Path:
    """Return the names of fields in a key like `shop.tags`, `cities[].name` or `"a.b".c`."""
    if not isinstance(given, str):
        _refuse(path, "text, the path of a field", given)
    parts: list[str] = []
    end = 0
    while end < len(given) or not parts:
        match = _PART.match(given, end)
        if match is None:
            _refuse(
                path,
                "names of fields with dots between them, in double quotes where a name has dots "
                "or brackets; name[] is allowed, positions are not",
                given,
            )
        parts.append(match[1] or match[2])
        end = match.end()
    return tuple(parts)


# --- refusals ---


def _object(given: Any, path: str, expected: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        _refuse(path, expected, given)
    return given


def _refuse_fields(path: str) -> NoReturn:
    _fail(path, f"at most {FIELDS_MAX} fields may be looked at by a filter")


def _only(given: Mapping[Any, Any], path: str, known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            _fail(f"{path}.{name}", f"unknown; known are {', '.join(known)}")


def _refuse(path: str, expected: str, value: object) -> NoReturn:
    _fail(path, f"expected {expected}, found {_shown(value)}")


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value!r:.{_SHOWN}}"


def _fail(path: str, message: str) -> NoReturn:
    raise InvalidRequestError(Code.INVALID_FILTER, f"{path}: {message}", path=path)
