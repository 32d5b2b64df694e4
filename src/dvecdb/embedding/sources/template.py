r"""From the columns of a row to the text, the metadata and the key of a `SourceRow`. Pure.

A text is one column, `description`, or a template, `{title}\n{description}`; `{{` and `}}` are
braces. A null column is empty in a template. If every column of it is null or blank, there is
nothing to embed, whatever stands around them: the row has no text, and a problem that begins with
`NOTHING`. Exactly the rows without text have a problem.

A key is one column or several, `country, number`. Metadata is columns, renamed or not:
`severity`, `published_at as published`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from dvecdb.embedding.model import SourceRow
from dvecdb.embedding.sources.positions import position_of
from dvecdb.embedding.sources.values import (
    PLAIN,
    UnfitError,
    keys_of,
    text_problem,
    to_json,
    to_text,
)
from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dvecdb.embedding.job import SourceSpec
    from dvecdb.records import Json, Metadata

NOTHING: Final = "nothing to embed"
"""How the problem of a row begins whose text is empty; every other problem is a defect."""
_BRACES: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_RENAMED: Final = re.compile(r"(.*\S)\s+as\s+(\S.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Template:
    """A text with columns in it. parts: literal text, or the position of a column."""

    parts: tuple[str | int, ...]
    columns: tuple[str, ...]

    def render(self, values: Sequence[str]) -> str:
        """Return the text; values: of `columns`."""
        return "".join([part if type(part) is str else values[part] for part in self.parts])  # type: ignore[index]  # the others are numbers


def parse_template(text: str) -> Template:
    """Return the template that `text` is: without any brace it names one column.

    Raises:
        ValueError: a lone brace, a column without a name, or no column at all.
    """
    if not re.search("[{}]", text):
        if not text.strip():
            raise ValueError("it names no column")
        return Template((0,), (text.strip(),))
    parts: list[str | int] = []
    columns: dict[str, int] = {}
    at = 0
    for found in _BRACES.finditer(text):
        literal, piece = text[at : found.start()], found.group()
        at = found.end()
        if piece in ("{{", "}}"):
            parts.append(literal + piece[0])
            continue
        column = (found.group(1) or "").strip()
        if not column:
            raise ValueError(
                f"{piece!r} at character {found.start()} is no column; write {{{{ and }}}} for "
                "braces"
            )
        parts.extend((literal, columns.setdefault(column, len(columns))))
    if not columns:
        raise ValueError("it has no column in braces, so every row would have the same text")
    parts.append(text[at:])
    return Template(tuple(part for part in parts if part != ""), tuple(columns))


class Projection:
    """What a source reads, and the row it makes of that.

    key: columns; columns: those that text and metadata need, each once, in the order in which
    `row` takes their values.
    """

    def __init__(self, name: str, spec: SourceSpec) -> None:
        """Read the column names of a source.

        Raises:
            InvalidRequestError: `invalid-job`.
        """
        self.name = name
        self.key = self._key(spec.key)
        try:
            self.template = parse_template(spec.text)
        except ValueError as error:
            raise self._invalid(f"its text {spec.text!r:.200} cannot be used: {error}") from None
        self._metadata_names = self._metadata(spec.metadata)
        self.changed_since = spec.changed_since
        self.columns = tuple(
            dict.fromkeys((*self.template.columns, *self._metadata_names.values()))
        )
        self._text_at = tuple(map(self.columns.index, self.template.columns))
        self._metadata_at = tuple((out, self.columns.index(column))
                                  for out, column in self._metadata_names.items())  # fmt: skip

    @property
    def needed(self) -> tuple[str, ...]:
        """Every column that must exist, each once."""
        extra = () if self.changed_since is None else (self.changed_since,)
        return tuple(dict.fromkeys((*self.key, *self.columns, *extra)))

    def _invalid(self, message: str) -> InvalidRequestError:
        return InvalidRequestError(
            Code.INVALID_JOB, f"source {self.name}: {message}", source=self.name
        )

    def _key(self, text: str) -> tuple[str, ...]:
        columns = tuple(part.strip() for part in text.split(","))
        if not all(columns) or len(set(columns)) != len(columns):
            raise self._invalid(f"its key {text!r} must be one column, or several: 'a, b'")
        return columns

    def _metadata(self, entries: Iterable[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for entry in entries:
            renamed = _RENAMED.fullmatch(entry.strip())
            column, out = renamed.groups() if renamed else (entry.strip(), entry.strip())
            if not column or out in found:
                what = f"has {out!r} twice" if out in found else "names an empty column"
                raise self._invalid(f"its metadata {what}; rename one: 'column as name'")
            found[out] = column
        return found

    def row(self, key: str, position: Json, cells: Sequence[object]) -> SourceRow:
        """Return the row. cells: the values of `columns`."""
        try:
            values = [
                cell if type(cell := cells[at]) is str else to_text(cell) for at in self._text_at
            ]
            text = values[0] if len(self.template.parts) == 1 else self.template.render(values)
            metadata: Metadata = {
                name: cell if type(cell := cells[at]) in PLAIN else to_json(cell)
                for name, at in self._metadata_at
            }
        except (UnfitError, RecursionError):
            return self._defect(key, position, cells)
        if not text or text.isspace() or not any(value.strip() for value in values):
            return refused(key, position, self._nothing(), empty=True)
        if text_problem(text) is not None or not _is_text(metadata):
            return self._defect(key, position, cells)
        return SourceRow(key, position, text, metadata)

    def keyed_row(self, cells: Sequence[object]) -> SourceRow:
        """Return the row whose cells begin with its key; they are its position."""
        width = len(self.key)
        position = position_of(cells[:width])
        key, problem = key_of(cells[:width])
        if problem is not None:
            return refused(key, position, problem)
        return self.row(key, position, cells[width:])

    def _nothing(self) -> str:
        columns = self.template.columns
        are = "is null or blank" if len(columns) == 1 else "are all null or blank"
        return f"{NOTHING}: {', '.join(columns)} {are}"

    def _defect(self, key: str, position: Json, cells: Sequence[object]) -> SourceRow:
        """Return a refused row whose problem names the column that spoils it."""
        for column, at in zip(self.template.columns, self._text_at, strict=True):
            problem = _reason(lambda at=at: text_problem(to_text(cells[at])))  # type: ignore[misc]  # bound at once
            if problem is not None:
                return refused(key, position, f"{column}: the text has {problem}")
        for name, at in self._metadata_at:
            problem = _reason(lambda at=at, name=name: _problem({name: to_json(cells[at])}))  # type: ignore[misc]  # bound at once
            if problem is not None:
                return refused(key, position, f"{self._metadata_names[name]}: {problem}")
        return refused(key, position, "the template itself is no UTF-8 text")


def key_of(values: Sequence[object]) -> tuple[str, str | None]:
    """Return the key of a row, and what is wrong with it; such a row has a key of its own too."""
    try:
        return keys_of(list(values)), None
    except UnfitError as error:
        return f"({', '.join(ascii(value) for value in values)})", str(error)


def text_size(rows: Sequence[SourceRow]) -> int:
    """Return the mean length of the texts of rows, of which there is one at least; at least 1."""
    return max(1, sum(len(row.text) for row in rows if row.text is not None) // len(rows))


def refused(key: str, position: Json, problem: str, *, empty: bool = False) -> SourceRow:
    """Return a row that cannot be used. empty: because there is nothing in it to embed."""
    return SourceRow(key, position, None, {}, problem, empty)


def _reason(look: Callable[[], str | None]) -> str | None:
    try:
        return look()
    except UnfitError as error:
        return str(error)
    except RecursionError:
        return "lists or objects too deep in one another"


def _is_text(metadata: Metadata) -> bool:
    for value in metadata.values():
        if (type(value) is str and not value.isascii()) or type(value) in (list, dict):
            return _problem(metadata) is None
    return True


def _problem(metadata: Metadata) -> str | None:
    try:
        msgspec.json.encode(metadata)
    except UnicodeEncodeError:
        return "the value has bytes or characters that are no UTF-8"
    except RecursionError:
        return "lists or objects too deep in one another"
    return None
