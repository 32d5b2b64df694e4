"""Rows of an SQLite table or query, page after page in the order of a key.

The file is opened for reading only. Each page is a statement of its own, so a writer is held up
for no longer than that. A position is the key itself: SQLite compares a value with a column as it
sorts the column, whatever mixture of types there is.

The key of a table must be its INTEGER PRIMARY KEY, or be covered by another primary key or a
unique index. SQLite allows nulls in most of those, so nulls are looked for; for views and queries
keys that are there twice too.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from dvecdb.embedding.sources.positions import position_of, values_of
from dvecdb.embedding.sources.template import Projection, key_of, text_size
from dvecdb.errors import Code, InvalidRequestError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dvecdb.embedding.job import SourceSpec
    from dvecdb.embedding.model import SourceRow
    from dvecdb.records import Json

BUSY_SECONDS: Final = 10.0
PAGE_BYTES_MAX: Final = 32 * 1024 * 1024
_KEYS_PAGE: Final = 10_000
_ALIAS: Final = "source_row"
_PASSING: Final = frozenset({"SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_NOMEM",
                             "SQLITE_PROTOCOL", "SQLITE_CANTOPEN", "SQLITE_INTERRUPT",
                             "SQLITE_SCHEMA"})  # fmt: skip


class SqliteSource:
    """A `Source`. path: of an SQLite file; spec: with `table` or `query`."""

    def __init__(self, name: str, spec: SourceSpec, path: str) -> None:
        """Read the names; nothing is opened yet.

        Raises:
            InvalidRequestError: `invalid-job`.
        """
        self._what = f"source {name}"
        self._path = Path(path)
        self._projection = Projection(name, spec)
        if spec.table is None and spec.query is None:
            raise InvalidRequestError(
                Code.INVALID_JOB,
                f"{self._what}: {path} is an SQLite file; say which table or query of it",
            )
        self._table = spec.table
        query = (spec.query or "").strip().rstrip(";")
        self._from = f"(\n{query}\n)" if spec.table is None else _quoted(spec.table)
        self._connection: sqlite3.Connection | None = None
        self._is_checked = False
        self._row_bytes = 1
        self._given: Json = None  # the last position

    def check(self) -> None:
        """Refuse what can never work: file, table, columns, key. See the module.

        Raises:
            InvalidRequestError: `source-refused`.
            UnavailableError: `source-unreachable`, the file is locked or cannot be read now.
        """
        self._is_checked = False
        self._check_columns()
        kind = self._kind()
        if kind == "table":
            self._check_unique()
        else:
            self._check_twice()
        self._check_null()
        self._check_types()
        self.mark()
        self.read(None, 1)

    def count(self, since: Json = None) -> int | None:
        """Return how many rows there are now. Raises: `check`."""
        condition, parameters = self._since(since)
        statement = f"SELECT count(*) FROM {self._from} AS {_ALIAS} WHERE 1{condition}"  # noqa: S608
        return int(self._query(statement, parameters)[0][0])

    def mark(self) -> Json:
        """Return the greatest number or text of the `changed_since` column, or None.

        Raises: `check`.
        """
        name = self._projection.changed_since
        if name is None:
            return None
        column = f"{_ALIAS}.{_quoted(name)}"
        rows = self._query(
            f"SELECT max({column}) FROM {self._from} AS {_ALIAS} "  # noqa: S608  # quoted
            f"WHERE typeof({column}) <> 'blob' AND {column} < 9e999 OR typeof({column}) = 'text'"
        )
        return _as_mark(rows[0][0])

    def read(self, after: Json, limit: int, since: Json = None) -> Sequence[SourceRow]:
        """Return the next page. Rows whose `changed_since` is null are never too old.

        Fewer than `limit` rows are no sign of the end. Raises: `check`.
        """
        self._check_columns()
        projection = self._projection
        width = len(projection.key)
        limit = max(1, min(limit, PAGE_BYTES_MAX // self._row_bytes))
        values = _storable(values_of(after, width))
        if values is not None and after != self._given and not self._is_of_key(values):
            values = None  # of another run, and the table is another one since
        found = self._query(*self._select(projection.columns, values, limit, since))
        if not found and values is not None and not self._is_of_key(values):
            found = self._query(*self._select(projection.columns, None, limit, since))
        rows = [projection.keyed_row(cells) for cells in found]
        if rows:
            self._row_bytes = text_size(rows)
            self._given = rows[-1].position
        return rows

    def _is_of_key(self, values: Sequence[object]) -> bool:
        """Return whether the key is still of the types that a position has."""
        key = ", ".join(f"typeof({_ALIAS}.{_quoted(name)})" for name in self._projection.key)
        rows = self._query(f"SELECT {key} FROM {self._from} AS {_ALIAS} LIMIT 1")  # noqa: S608
        return all(
            (kind in ("integer", "real"), kind == "blob")
            == (isinstance(value, int | float), isinstance(value, bytes))
            for row in rows
            for kind, value in zip(row, values, strict=True)
        )

    def keys(self) -> Iterator[str]:
        """Yield every key, in pages. Raises: `check`."""
        self._check_columns()
        values: list[object] | None = None
        while True:
            rows = self._query(*self._select([], values, _KEYS_PAGE, None))
            for row in rows:
                yield key_of(row)[0]
            if not rows:
                return
            values = list(rows[-1])

    def close(self) -> None:
        """Close the file."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # --- statements ------------------------------------------------------------------------------

    def _select(
        self, columns: Sequence[str], values: list[object] | None, limit: int, since: Json
    ) -> tuple[str, list[object]]:
        key = [f"{_ALIAS}.{_quoted(name)}" for name in self._projection.key]
        wanted = [*key, *(f"{_ALIAS}.{_quoted(name)}" for name in columns)]
        where = " AND ".join(f"{one} IS NOT NULL" for one in key)
        parameters: list[object] = []
        if values is not None:
            places, parameters = _bound(values)
            where += f" AND ({', '.join(key)}) > ({', '.join(places)})"
        condition, more = self._since(since)
        statement = (
            f"SELECT {', '.join(wanted)} FROM {self._from} AS {_ALIAS} WHERE {where}{condition} "  # noqa: S608  # quoted
            f"ORDER BY {', '.join(key)} LIMIT ?"
        )
        return statement, [*parameters, *more, limit]

    def _since(self, since: Json) -> tuple[str, list[object]]:
        name = self._projection.changed_since
        if name is None or since is None:
            return "", []
        values = _storable(values_of([since], 1))
        if values is None:
            return "", []
        column = f"{_ALIAS}.{_quoted(name)}"
        (place,), parameters = _bound(values)
        return f" AND ({column} >= {place} OR {column} IS NULL)", parameters

    def _query(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a statement. Raises: `check`."""
        try:
            if self._connection is None:
                self._connection = self._open()
            return self._connection.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            self.close()
            self._explain(error)
        except BaseException:
            self.close()
            raise

    def _open(self) -> sqlite3.Connection:
        try:
            with self._path.open("rb"):  # SQLite's own message would not say why
                pass
        except OSError as error:
            self._refuse(f"{self._path} cannot be opened: {error.strerror}")
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=ro",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.text_factory = _text
        return connection

    def _explain(self, error: sqlite3.Error) -> NoReturn:
        name = getattr(error, "sqlite_errorname", "") or ""
        message = f"{self._what}: {self._path}: {error}"
        if any(name.startswith(passing) for passing in _PASSING):
            raise UnavailableError(Code.SOURCE_UNREACHABLE, message, sqlite=name) from None
        raise InvalidRequestError(Code.SOURCE_REFUSED, message, sqlite=name or None) from None

    # --- checks ----------------------------------------------------------------------------------

    def _kind(self) -> str:
        """Return what the rows come from: table, view or query."""
        if self._table is None:
            return "query"
        rows = self._query(
            "SELECT type FROM pragma_table_list(?) WHERE schema = 'main'", [self._table]
        )
        if not rows:
            tables = self._query(
                "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') "
                "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name LIMIT 20"
            )
            found = ", ".join(name for (name,) in tables) or "none"
            self._refuse(f"there is no table {self._table} in {self._path}; found {found}")
        return str(rows[0][0])

    def _check_columns(self) -> None:
        if self._is_checked:
            return
        self._kind()
        if self._table is not None:
            found = [name for (name,) in self._query(
                "SELECT name FROM pragma_table_xinfo(?)", [self._table])]  # fmt: skip
        else:
            found = self._described()
        # SQLite finds columns in any case, and takes an unknown name in quotes for a text.
        known = {name.casefold() for name in found}
        missing = [name for name in self._projection.needed if name.casefold() not in known]
        if missing:
            self._refuse(
                f"no column {', '.join(map(repr, missing))} in {self._table or 'the query'}; "
                f"found {', '.join(found)}"
            )
        self._is_checked = True

    def _described(self) -> list[str]:
        try:
            if self._connection is None:
                self._connection = self._open()
            statement = f"SELECT * FROM {self._from} AS {_ALIAS} LIMIT 0"  # noqa: S608
            with contextlib.closing(self._connection.execute(statement)) as cursor:
                return [column[0] for column in cursor.description]
        except sqlite3.Error as error:
            self.close()
            self._explain(error)

    def _check_unique(self) -> None:
        key = {name.casefold() for name in self._projection.key}
        choices = self._unique_keys()
        if any({name.casefold() for name in names} <= key for names in choices):
            return
        do = ("name one of these keys of it: " + "; ".join(map(", ".join, choices)) if choices
              else "give it a PRIMARY KEY or a unique index, or name a query whose key is "
              "unique")  # fmt: skip
        self._refuse(
            f"the key {', '.join(self._projection.key)} of {self._table} is not stable: no primary "
            f"key or unique index says that it names one row; {do}"
        )

    def _unique_keys(self) -> list[list[str]]:
        """Return the columns of the primary key and of each unique index over whole columns."""
        primary = self._query(
            "SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk", [self._table]
        )
        keys = [[name for (name,) in primary]] if primary else []
        for (index,) in self._query(
            'SELECT name FROM pragma_index_list(?) WHERE "unique" AND NOT partial', [self._table]
        ):
            names = [name for (name,) in self._query(
                "SELECT name FROM pragma_index_info(?) ORDER BY seqno", [index])]  # fmt: skip
            if None not in names and names not in keys:
                keys.append(names)
        return keys

    def _check_twice(self) -> None:
        key = ", ".join(f"{_ALIAS}.{_quoted(name)}" for name in self._projection.key)
        present = " AND ".join(f"{_ALIAS}.{_quoted(name)} IS NOT NULL"
                               for name in self._projection.key)  # fmt: skip
        rows = self._query(
            f"SELECT {key}, count(*) FROM {self._from} AS {_ALIAS} WHERE {present} "  # noqa: S608
            f"GROUP BY {key} HAVING count(*) > 1 LIMIT 3"
        )
        if rows:
            found = "; ".join(f"{', '.join(map(str, row[:-1]))} ({row[-1]} rows)" for row in rows)
            found = found.encode(errors="replace").decode()
            self._refuse(
                f"the key {', '.join(self._projection.key)} of {self._table or 'the query'} names "
                f"more than one row: {found}. Name columns that together are unique, "
                "or let the query have one row for each key"
            )

    def _check_null(self) -> None:
        nulls = " OR ".join(f"{_ALIAS}.{_quoted(name)} IS NULL" for name in self._projection.key)
        if self._query(f"SELECT 1 FROM {self._from} AS {_ALIAS} WHERE {nulls} LIMIT 1"):  # noqa: S608
            self._refuse(
                f"the key {', '.join(self._projection.key)} of {self._table or 'the query'} is "
                "null in some rows, which cannot be told apart then; fill it, or leave those rows "
                "out with a query"
            )

    def _check_types(self) -> None:
        """Refuse keys of mixed types: 1 and '1' would be two rows with one name."""
        for name in self._projection.key:
            column = f"{_ALIAS}.{_quoted(name)}"
            rows = self._query(
                f"SELECT DISTINCT typeof({column}) FROM {self._from} AS {_ALIAS} LIMIT 5"  # noqa: S608
            )
            if len(rows) > 1:
                kinds = " here and ".join(kind for (kind,) in rows)
                self._refuse(
                    f"the key {name} of {self._table or 'the query'} is {kinds} there; let it have "
                    "one type"
                )

    def _refuse(self, message: str) -> NoReturn:
        raise InvalidRequestError(Code.SOURCE_REFUSED, f"{self._what}: {message}")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode(errors="surrogateescape")


def _storable(values: list[object] | None) -> list[object] | None:
    """Return the values, or None if SQLite has no numbers like these."""
    if values is None or any(isinstance(one, int) and not -(2**63) <= one < 2**63
                             for one in values):  # fmt: skip
        return None
    return values


def _bound(values: Sequence[object]) -> tuple[list[str], list[object]]:
    """Return the places of values in a statement, and the values. Text that is no UTF-8 is cast."""
    places: list[str] = []
    parameters: list[object] = []
    for value in values:
        if isinstance(value, str) and not value.isascii():
            places.append("CAST(? AS TEXT)")
            parameters.append(value.encode(errors="surrogateescape"))
        else:
            places.append("?")
            parameters.append(value)
    return places, parameters


def _as_mark(value: object) -> Json:
    if value is None:
        return None
    (mark,) = position_of([value])
    return mark
