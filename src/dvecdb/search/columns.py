"""The metadata of many rows as columns, each built when it is first asked for.

A column holds the values of one path (`conditions.values_at`), or of one top-level field as a
whole. Its values are numbered: `distinct[code]` is the value, and rows hold codes. The numbers
come first, rising, so a range of numbers is a range of codes, compared exactly however big they
are; then texts, then all else, in no order:

    rows            1         2             3        4            5
    metadata        {"a": 7}  {"a": "x"}    {}       {"a": [7,3]} {"a": null}
    codes           1         2             (none)   1 0          3
    distinct        3, 7, "x", null

`Columns` are those of a run of rows that may grow at its end: it is cut into blocks, which are
merged as they grow, so each row is read again a few times at most. A column is never changed once
it was published; two readers may build the same one, and one of both is kept.

Not here: where the JSON comes from, and rows whose metadata cannot be read (they have none).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from dvecdb.search.conditions import (
    FALSE,
    TRUE,
    WORD,
    Tag,
    date_of,
    elements_of,
    json_key,
    words_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    import numpy.typing as npt

    from dvecdb.records import Json
    from dvecdb.search.conditions import Path

    Read = Callable[[int, int], Sequence[bytes]]
    Bools = npt.NDArray[np.bool_]
    Codes = npt.NDArray[np.int16] | npt.NDArray[np.int32]

COLUMNS_MAX: Final = 64
"""Columns kept of a block; the one that was built first goes first."""
INDEXED_CHARACTERS: Final = 8 * 1024 * 1024
"""Texts of a column up to which their words are kept; beyond, texts are read at each search."""
_STRUCT_ROWS: Final = 128  # below that, making a decoder costs more than it saves
_MISSING: Final = Tag("missing")
NESTED: Final = Tag("nested")
"""The value of a list in a list, or of an object, in a column of a path: nothing equals it."""
_DATELESS: Final = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True)
class PathKey:
    """Names the column of the values under a path."""

    path: Path


@dataclass(frozen=True, slots=True)
class FieldKey:
    """Names the column of a top-level field as a whole."""

    name: str


ColumnKey = PathKey | FieldKey


class Column:
    """The values of some rows, numbered. Immutable.

    codes: int32[values], or int16, -1 in a row without one; owners: int64[values], the row of each
    code, None if every row has exactly one; present: bool[rows], where the path leads somewhere,
    None: where there is a value; distinct: JSON values, `NESTED` for those that are not scalars;
    codes below `numbers` are numbers, rising, and from there below `texts` texts.
    """

    __slots__ = ("_dates", "_words", "codes", "distinct", "index", "numbers", "owners", "present",
                 "rows", "texts")  # fmt: skip

    def __init__(
        self,
        rows: int,
        values: Sequence[Hashable],
        owners: npt.NDArray[np.int64] | None,
        present: Bools | None,
        wholes: dict[Hashable, Json],
    ) -> None:
        """Give numbers to `values`, which are keys.

        wholes: what the keys of lists and objects stand for.
        """
        self.rows, self.owners, self.present = rows, owners, present
        kinds = dict.fromkeys(values)
        types = set(map(type, kinds))
        numbers = sorted(_of(kinds, {int, float}, types))
        texts = _of(kinds, {str}, types)
        others = _of(kinds, types - {int, float, str}, types)
        others = [key for key in others if key is not _MISSING]
        self.numbers, self.texts = len(numbers), len(numbers) + len(texts)
        ordered: list[Hashable] = [*numbers, *texts, *others]
        self.index: dict[Hashable, int] = {key: code for code, key in enumerate(ordered)}
        known = self.index if _MISSING not in kinds else {**self.index, _MISSING: -1}
        codes = np.fromiter(map(known.__getitem__, values), np.int32, len(values))
        few = len(ordered) < np.iinfo(np.int16).max
        self.codes: Codes = codes.astype(np.int16) if few else codes  # less to read
        self.distinct: list[Any] = ordered[: self.texts]
        self.distinct += [_value_of(key, wholes) for key in others]
        self._dates: npt.NDArray[np.int64] | None = None
        self._words: _Words | None = None

    # --- from codes to rows ---

    def rows_with(self, table: Bools) -> Bools:
        """Return which rows have a value whose code is true in bool[distinct]: bool[rows]."""
        return self._rows_where(np.append(table, False)[self.codes])  # the last one: of code -1

    def rows_between(self, first: int, end: int) -> Bools:
        """Return which rows have a value with a code from `first` to before `end`: bool[rows]."""
        if first >= end:
            return np.zeros(self.rows, dtype=np.bool_)
        if end - first == 1:
            return self._rows_where(self.codes == first)
        above = (self.codes - self.codes.dtype.type(first)).view(f"u{self.codes.dtype.itemsize}")
        return self._rows_where(above < end - first)  # those below wrapped round

    def rows_with_keys(self, keys: Iterable[Hashable]) -> Bools:
        """Return which rows have one of these values, given by `json_key`: bool[rows]."""
        codes = [code for key in keys if (code := self.index.get(key)) is not None]
        if len(codes) <= 1:
            return self.rows_between(codes[0], codes[0] + 1) if codes else self.rows_between(0, 0)
        return self.rows_with(self.table(codes))

    def rows_present(self) -> Bools:
        """Return where the path leads somewhere: bool[rows]."""
        return self.rows_between(0, len(self.distinct)) if self.present is None else self.present

    def table(self, codes: Sequence[int] | npt.NDArray[Any]) -> Bools:
        """Return bool[distinct] that is true for these codes."""
        found = np.zeros(len(self.distinct), dtype=np.bool_)
        found[codes] = True
        return found

    def _rows_where(self, hits: Bools) -> Bools:
        if self.owners is None:
            return hits
        found = np.zeros(self.rows, dtype=np.bool_)
        found[self.owners[hits]] = True
        return found

    # --- what is known about the texts ---

    def dates(self) -> npt.NDArray[np.int64]:
        """Return the times of the texts in microseconds, the lowest int64 for none: int64[texts].

        Texts begin at code `numbers`.
        """
        if self._dates is None:
            found = (date_of(text) for text in self.distinct[self.numbers : self.texts])
            self._dates = np.fromiter(
                (_DATELESS if date is None else date for date in found),
                np.int64,
                self.texts - self.numbers,
            )
        return self._dates

    def codes_with_words(self, words: frozenset[str]) -> npt.NDArray[np.int32]:
        """Return the codes of the texts that have all these words."""
        if self._words is None:
            texts = self.distinct[self.numbers : self.texts]
            if sum(map(len, texts)) > INDEXED_CHARACTERS:
                return self._read_for_words(words)
            self._words = _Words(texts, self.numbers)
        lists = sorted(map(self._words.codes_with, words), key=len)
        found = lists[0]
        for others in lists[1:]:
            found = found[self.table(others)[found]]
        return found

    def _read_for_words(self, words: frozenset[str]) -> npt.NDArray[np.int32]:
        found = [
            code
            for code in range(self.numbers, self.texts)
            if all(word in self.distinct[code].casefold() for word in words)
            and words <= words_of(self.distinct[code])
        ]
        return np.array(found, dtype=np.int32)


class _Words:
    """Which texts have a word. Immutable."""

    __slots__ = ("_bounds", "_codes", "_index")

    def __init__(self, texts: Sequence[str], first_code: int) -> None:
        found = list(map(WORD.findall, map(str.casefold, texts)))
        words: list[str] = list(chain.from_iterable(found))
        self._index = {word: number for number, word in enumerate(dict.fromkeys(words))}
        numbers = np.fromiter(map(self._index.__getitem__, words), np.int32, len(words))
        counts = np.fromiter(map(len, found), np.int64, len(found))
        order = np.argsort(numbers, kind="stable")
        codes = np.arange(first_code, first_code + len(texts), dtype=np.int32)
        self._codes = np.repeat(codes, counts)[order]
        self._bounds = np.searchsorted(numbers[order], np.arange(len(self._index) + 1))

    def codes_with(self, word: str) -> npt.NDArray[np.int32]:
        """Return the codes of the texts with a word, rising, one as often as it has it."""
        number = self._index.get(word)
        if number is None:
            return self._codes[:0]
        return self._codes[self._bounds[number] : self._bounds[number + 1]]


def _of(kinds: dict[Hashable, None], wanted: set[type], found: set[type]) -> list[Any]:
    """Return the keys of some types. found: all types there are."""
    if not wanted & found:
        return []
    return list(kinds) if found <= wanted else [key for key in kinds if type(key) in wanted]


def _value_of(key: Hashable, wholes: dict[Hashable, Json]) -> Json | Tag:
    if key is TRUE or key is FALSE:
        return key is TRUE
    return wholes.get(key, key)


# --- building ---


class Block:
    """Rows start .. end - 1 and the columns that were built of them. Safe for many readers."""

    __slots__ = ("_columns", "_read", "end", "start")

    def __init__(self, read: Read, start: int, end: int) -> None:
        self.start, self.end = start, end
        self._read = read
        self._columns: dict[ColumnKey, Column] = {}

    def columns(self, keys: Iterable[ColumnKey]) -> dict[ColumnKey, Column]:
        """Return columns, those that are not there yet built in one reading of the metadata."""
        known = self._columns
        found = {key: known.get(key) for key in keys}
        missing = [key for key, column in found.items() if column is None]
        if missing:
            built = self._build(missing)
            found.update(built)
            # Published whole: whoever reads at the same time has the one or the other.
            kept = list({**known, **built}.items())[-COLUMNS_MAX:]
            self._columns = dict(kept)
        return {key: column for key, column in found.items() if column is not None}

    def has(self, keys: Iterable[ColumnKey]) -> bool:
        """Tell whether these columns are built."""
        return all(key in self._columns for key in keys)

    def _build(self, keys: Sequence[ColumnKey]) -> dict[ColumnKey, Column]:
        names = list(dict.fromkeys(_top_name(key) for key in keys))
        fields = _read_fields(self._read(self.start, self.end), names)
        return {
            key: _field_column(fields[key.name])
            if isinstance(key, FieldKey)
            else _path_column(fields[key.path[0]], key.path[1:])
            for key in keys
        }


def _top_name(key: ColumnKey) -> str:
    return key.name if isinstance(key, FieldKey) else key.path[0]


def _read_fields(values: Sequence[bytes], names: Sequence[str]) -> dict[str, list[Any]]:
    """Return the values of top-level fields of every row, `_MISSING` where there is none."""
    plain = all(name.isprintable() and not set(name) & {"\\", '"'} for name in names)
    if len(values) < _STRUCT_ROWS or not plain:
        decode = msgspec.json.Decoder().decode
        rows = [decode(value) if value else {} for value in values]
        return {name: [row.get(name, _MISSING) for row in rows] for name in names}
    # A struct of the wanted fields skips all others without making values of them.
    attributes = [f"f{number}" for number in range(len(names))]
    row = msgspec.defstruct(
        "Row",
        [(attribute, Any, _MISSING) for attribute in attributes],
        rename=dict(zip(attributes, names, strict=True)),
        gc=False,
    )
    joined = b"".join((b"[", b",".join([value or b"{}" for value in values]), b"]"))
    found = msgspec.json.Decoder(list[row]).decode(joined)  # type: ignore[valid-type]
    return {
        name: [getattr(one, attribute) for one in found]
        for name, attribute in zip(names, attributes, strict=True)
    }


def _field_column(values: list[Any]) -> Column:
    """Return the column of whole values."""
    kinds = set(map(type, values))
    wholes: dict[Hashable, Json] = {}
    if kinds & {bool, list, dict}:
        keys = []
        for value in values:
            key = _whole_key(value)
            if isinstance(value, list | dict):
                wholes[key] = value
            keys.append(key)
        values = keys
    return Column(len(values), values, None, None, wholes)


def _whole_key(value: Any) -> Hashable:
    try:
        return json_key(value)
    except RecursionError:  # deeper than any filter may be, so it equals none
        return Tag(f"deep {id(value)}")


def _path_column(values: list[Any], rest: Path) -> Column:
    """Return the column of the values under a path whose first step is done."""
    rows = len(values)
    present: Bools | None = None
    for done, name in enumerate(rest):
        if list in set(map(type, values)):
            ends = [_follow(value, rest[done:]) for value in values]
            present = np.fromiter(map(bool, ends), np.bool_, rows)
            values = [[inner for end in found for inner in elements_of(end)] for found in ends]
            break
        values = [
            value.get(name, _MISSING) if type(value) is dict else _MISSING for value in values
        ]
    owners = None
    if list in set(map(type, values)):
        if present is None:
            present = np.fromiter((value is not _MISSING for value in values), np.bool_, rows)
        lists = [
            value if type(value) is list else [] if value is _MISSING else [value]
            for value in values
        ]
        owners = np.repeat(np.arange(rows), np.fromiter(map(len, lists), np.int64, rows))
        values = list(chain.from_iterable(lists))
    if set(map(type, values)) & {bool, list, dict}:
        values = list(map(_scalar_key, values))
    return Column(rows, values, owners, present, {})


def _follow(value: Json, rest: Path) -> list[Json]:
    """Return what the rest of a path leads to from a value, lists as they are."""
    found = [] if value is _MISSING else [value]
    for name in rest:
        inside = [element for one in found for element in elements_of(one)]
        found = [one[name] for one in inside if isinstance(one, dict) and name in one]
    return found


def _scalar_key(value: Any) -> Hashable:
    if isinstance(value, bool):
        return TRUE if value else FALSE
    return NESTED if isinstance(value, list | dict) else value


# --- runs of rows ---


class Columns:
    """The columns of a run of rows. Safe for many readers; `extend` too.

    read: returns the metadata JSON of rows `start` to before `end`, b"" for none. What it says of
    a row never changes.
    """

    __slots__ = ("_blocks", "_lock", "_read")

    def __init__(self, read: Read, rows: int = 0) -> None:
        """Begin with `rows` rows."""
        self._read = read
        self._lock = Lock()  # of blocks that are added; never held while anything is read
        self._blocks: tuple[Block, ...] = ()
        self.extend(rows)

    @property
    def rows(self) -> int:
        """Number of rows."""
        blocks = self._blocks
        return blocks[-1].end if blocks else 0

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The rows in order, cut into blocks."""
        return self._blocks

    def extend(self, rows: int) -> None:
        """Take in rows up to `rows` in all, which `read` has."""
        with self._lock:
            blocks = list(self._blocks)
            start = blocks[-1].end if blocks else 0
            if rows <= start:
                return
            while blocks and blocks[-1].end - blocks[-1].start <= 2 * (rows - start):
                start = blocks.pop().start
            self._blocks = (*blocks, Block(self._read, start, rows))

    def values_of(self, path: Path) -> Iterator[tuple[int, Column]]:
        """Yield the values under a path by block: its first row, and its column.

        `column.codes` and `column.owners` say which rows have which of `column.distinct`, rows
        counted from the block's first one. For groups and facets: scalars but null are what is
        neither None nor `NESTED` in `distinct`.
        """
        key = PathKey(path)
        for block in self._blocks:
            yield block.start, block.columns([key])[key]
