"""A filter over columns: which of many rows match, by comparing numbers.

The answer is that of `Filter.matches` for every row. Each condition becomes a mask; of the values
it looks at, every distinct one is looked at once.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import lru_cache
from typing import TYPE_CHECKING, assert_never

import numpy as np

from dvecdb.search.columns import FieldKey, PathKey
from dvecdb.search.conditions import (
    AnyOf,
    Equals,
    Except,
    Exists,
    HasId,
    HasWords,
    IsEmpty,
    IsNull,
    Range,
    Tree,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy.typing as npt

    from dvecdb.search.columns import Column, ColumnKey, Columns
    from dvecdb.search.conditions import Condition, Filter

    Bools = npt.NDArray[np.bool_]
    Ids = Callable[[HasId], Bools]


def select(where: Filter, columns: Columns, ids: Ids) -> Bools:
    """Return which rows match: bool[columns.rows].

    ids: says which rows have one of the ids of a condition, bool[at least columns.rows].
    """
    keys = column_keys(where)
    found = [
        _Selection(block.columns(keys), block.start, block.end, ids).tree(where.tree)
        for block in columns.blocks
    ]
    return found[0] if len(found) == 1 else np.concatenate([np.zeros(0, np.bool_), *found])


@lru_cache(16)  # a search asks it for each segment; filters may be large
def column_keys(where: Filter) -> tuple[ColumnKey, ...]:
    """Return the columns that a filter looks at, each once."""
    return tuple(dict.fromkeys(_keys(where.tree)))


def _keys(condition: Condition) -> Iterator[ColumnKey]:
    match condition:
        case Tree():
            for part in (condition.must, condition.should, condition.must_not, condition.counted):
                for inner in part:
                    yield from _keys(inner)
        case Equals(name):
            yield FieldKey(name)
        case HasId():
            return
        case _:
            yield PathKey(condition.path)


def has_ids(condition: Condition) -> list[HasId]:
    """Return every condition on ids in a tree."""
    if isinstance(condition, HasId):
        return [condition]
    if not isinstance(condition, Tree):
        return []
    parts = (condition.must, condition.should, condition.must_not, condition.counted)
    return [found for part in parts for inner in part for found in has_ids(inner)]


class _Selection:
    """A filter over the columns of one block."""

    def __init__(self, columns: Mapping[ColumnKey, Column], start: int, end: int, ids: Ids) -> None:
        self._columns = columns
        self._start, self._end = start, end
        self._rows = end - start
        self._ids = ids

    def tree(self, tree: Tree) -> Bools:
        """Return which rows a tree holds for: bool[rows]."""
        if len(tree.must) == 1 and not (tree.should or tree.must_not or tree.least is not None):
            return self._holds(tree.must[0])
        found = np.ones(self._rows, dtype=np.bool_)
        for condition in tree.must:
            found &= self._holds(condition)
        if tree.should:
            any_of = np.zeros(self._rows, dtype=np.bool_)
            for condition in tree.should:
                any_of |= self._holds(condition)
            found &= any_of
        for condition in tree.must_not:
            found &= ~self._holds(condition)
        if tree.least is not None:
            counts = np.zeros(self._rows, dtype=np.int32)
            for condition in tree.counted:
                counts += self._holds(condition)
            found &= counts >= min(tree.least, len(tree.counted) + 1)
        return found

    def _holds(self, condition: Condition) -> Bools:
        match condition:
            case Tree():
                return self.tree(condition)
            case HasId():
                return self._ids(condition)[self._start : self._end]
            case Equals(name, _, key):
                return self._columns[FieldKey(name)].rows_with_keys([key])
            case _:
                return _holds_in(self._columns[PathKey(condition.path)], condition)


def _holds_in(
    column: Column,
    condition: AnyOf | Except | HasWords | Range | Exists | IsNull | IsEmpty,
) -> Bools:
    match condition:
        case AnyOf():
            return column.rows_with_keys(condition.keys)
        case Except():
            table = np.ones(len(column.distinct), dtype=np.bool_)
            for key in (None, *condition.keys):
                if (code := column.index.get(key)) is not None:
                    table[code] = False
            return column.rows_with(table)
        case HasWords():
            return column.rows_with(column.table(column.codes_with_words(condition.words)))
        case Range():
            return _in_dates(column, condition) if condition.dates else _in_range(column, condition)
        case Exists():
            return column.rows_present()
        case IsNull():
            return column.rows_with_keys([None])
        case IsEmpty():
            return ~_holds_in(column, Except(condition.path, (), frozenset()))
        case _:
            assert_never(condition)


def _in_range(column: Column, condition: Range) -> Bools:
    """Return which rows have a number within bounds: their codes lie next to each other.

    Python compares, so exactly.
    """
    first, end = 0, column.numbers
    for operator, bound in condition.bounds:
        side = bisect_left if operator in {"gte", "lt"} else bisect_right
        place = side(column.distinct, bound, 0, column.numbers)
        first, end = (max(first, place), end) if operator[0] == "g" else (first, min(end, place))
    return column.rows_between(first, end)


def _in_dates(column: Column, condition: Range) -> Bools:
    dates = column.dates()
    inside = dates != np.iinfo(np.int64).min
    for operator, bound in condition.bounds:
        inside &= _COMPARE[operator](dates, bound)
    return column.rows_with(column.table(np.flatnonzero(inside) + column.numbers))


_COMPARE = {
    "gt": np.greater,
    "gte": np.greater_equal,
    "lt": np.less,
    "lte": np.less_equal,
}
