"""Rows of a PostgreSQL table or query, page after page in the order of a key.

A page is `WHERE key > last ORDER BY key LIMIT n`, in a read-only transaction of its own: it costs
the same wherever it is, nothing is held between pages, and rows that come and go meanwhile are
read or not, but never twice and never instead of others. A position is the key as PostgreSQL
prints it and reads it back: exact for every type, floats and timestamps too.

The key of a table must be covered by a primary key or a unique index. Views and queries promise
nothing, so `check` looks for keys that are null or there twice, in one query over all rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

from dvecdb.embedding.sources.positions import values_of
from dvecdb.embedding.sources.postgresql_catalog import (
    Column,
    Relation,
    find_relation,
    quoted,
    quoted_table,
)
from dvecdb.embedding.sources.postgresql_connection import (
    SCAN_SECONDS,
    STATEMENT_SECONDS,
    PostgresConnection,
)
from dvecdb.embedding.sources.template import Projection, key_of, text_size
from dvecdb.embedding.sources.values import iso_of
from dvecdb.errors import Code, DvecdbError, InvalidRequestError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dvecdb.embedding.job import SourceSpec
    from dvecdb.embedding.model import SourceRow
    from dvecdb.records import Json

PAGE_BYTES_MAX: Final = 32 * 1024 * 1024
"""A page has fewer rows than asked for if they are long: about so many characters of text."""
_KEYS_PAGE: Final = 10_000
_ALIAS: Final = "source_row"
_MOMENTS: Final = frozenset({1114, 1184})  # oid of timestamp, timestamptz
_MOMENT_ARRAYS: Final = frozenset({1115, 1185})
_OLDEST: Final = (
    "greatest((SELECT max(now() - xact_start) FROM pg_catalog.pg_stat_activity "
    "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'), interval '0')"
)


class PostgresSource:
    """A `Source`. dsn: see `PostgresConnection`."""

    def __init__(
        self,
        name: str,
        spec: SourceSpec,
        dsn: str,
        *,
        statement_seconds: float = STATEMENT_SECONDS,
    ) -> None:
        """Read the names; nothing is sent yet.

        Raises:
            InvalidRequestError: `invalid-job`, `extra-missing`, `source-refused`: no address.
        """
        self._what = f"source {name}"
        self._projection = Projection(name, spec)
        self._table = spec.table
        self._from = self._relation(spec)
        self._connection = PostgresConnection(dsn, self._what, statement_seconds=statement_seconds)
        self._types: dict[str, str] | None = None
        self._row_bytes = 1

    def check(self) -> None:
        """Refuse what can never work: columns, key, types, rights. See the module.

        Raises:
            InvalidRequestError: `source-refused`.
            UnavailableError: `source-unreachable`.
        """
        self._types = None
        relation = self._find()
        self._column_types(relation)
        nullable = set(self._projection.key)
        if relation is not None and relation.is_table:
            self._check_unique(relation)
            nullable = {column.name for column in relation.columns if column.nullable}
        else:
            self._check_twice()
        self._check_null([name for name in self._projection.key if name in nullable])
        self.mark()
        self.read(None, 1)

    def count(self, since: Json = None) -> int | None:
        """Return how many rows there are now, None if counting takes too long. Raises: `check`."""
        statement = f"SELECT count(*) FROM {self._from} AS {_ALIAS}"  # noqa: S608  # quoted
        condition, parameters = self._since(since, 2)
        try:
            rows = self._query(
                f"{statement} WHERE $1::boolean{condition}", [True, *parameters], SCAN_SECONDS
            )
        except UnavailableError as error:
            if error.details.get("sqlstate") == "57014":
                return None
            raise
        except InvalidRequestError as error:
            if self._readable_mark(since, error) == since:
                raise
            return self.count()
        return int(rows[0][0])

    def mark(self) -> Json:
        """Return the greatest value of `changed_since` as PostgreSQL prints it, or None.

        Never later than now (UTC), never infinite or NaN: one wrong row would hide all others. A
        transaction that still runs may have stamped its rows earlier than others that are already
        visible, so a timestamp is set back by the age of the oldest transaction that can be seen;
        other types have no such measure. Raises: `check`.
        """
        name = self._projection.changed_since
        if name is None:
            return None
        greatest = _greatest(f"{_ALIAS}.{quoted(name)}", self._column_types()[name])
        rows = self._scan(
            "the greatest value of changed_since; an index on that column finds it at once",
            f"SELECT ({greatest})::text FROM {self._from} AS {_ALIAS} WHERE $1::boolean",  # noqa: S608
            [True],
        )
        return rows[0][0]

    def read(self, after: Json, limit: int, since: Json = None) -> Sequence[SourceRow]:
        """Return the next page. Rows whose `changed_since` is null are never too old.

        Fewer than `limit` rows are no sign of the end. Raises: `check`.
        """
        limit = max(1, min(limit, PAGE_BYTES_MAX // self._row_bytes))
        values = values_of(after, len(self._projection.key))
        try:
            rows = self._page(values, limit, since)
        except InvalidRequestError as error:
            # Is it the position, or the mark, that cannot be read any more, or the data?
            known = self._readable(values, self._projection.key, error)
            still = self._readable_mark(since, error)
            if known == values and still == since:
                raise
            rows = self._page(known, limit, still)
        if rows:
            self._row_bytes = text_size(rows)
        return rows

    def keys(self) -> Iterator[str]:
        """Yield every key, in pages. Raises: `check`."""
        values: list[object] | None = None
        while True:
            statement, parameters = self._select([], values, _KEYS_PAGE, None)
            rows = self._query(statement, parameters)
            for row in rows:
                yield key_of(row)[0]
            if not rows:
                return
            values = list(rows[-1])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    # --- pages -----------------------------------------------------------------------------------

    def _page(self, values: list[object] | None, limit: int, since: Json) -> list[SourceRow]:
        projection = self._projection
        statement, parameters = self._select(projection.columns, values, limit, since)
        found, columns = self._connection.query(statement, parameters)
        found = _with_iso(found, [oid for _, oid in columns])
        return [projection.keyed_row(cells) for cells in found]

    def _select(
        self, columns: Sequence[str], values: list[object] | None, limit: int, since: Json
    ) -> tuple[str, list[object]]:
        """Return a page's statement and parameters. Its first columns are the key as text."""
        types = self._column_types()
        key = [f"{_ALIAS}.{quoted(name)}" for name in self._projection.key]
        wanted = [f"{one}::text" for one in key] + [f"{_ALIAS}.{quoted(one)}" for one in columns]
        parameters: list[object] = [limit]
        where = " AND ".join(f"{one} IS NOT NULL" for one in key)
        if values is not None:
            last = [f"${at}::{types[name]}" for at, name in enumerate(self._projection.key, 2)]
            parameters += map(str, values)
            where += f" AND ({', '.join(key)}) > ({', '.join(last)})"
        condition, more = self._since(since, len(parameters) + 1)
        statement = (
            f"SELECT {', '.join(wanted)} FROM {self._from} AS {_ALIAS} WHERE {where}{condition} "  # noqa: S608  # quoted
            f"ORDER BY {', '.join(key)} LIMIT $1::bigint"
        )
        return statement, parameters + more

    def _since(self, since: Json, number: int) -> tuple[str, list[object]]:
        name = self._projection.changed_since
        if name is None or not isinstance(since, str):
            return "", []
        column, type = f"{_ALIAS}.{quoted(name)}", self._column_types()[name]
        return f" AND ({column} >= ${number}::{type} OR {column} IS NULL)", [since]

    def _readable(
        self, values: list[object] | None, columns: Sequence[str], error: DvecdbError
    ) -> list[object] | None:
        """Return the values, or None if they cannot be read as the types of these columns.

        error: it raised the question; only one about values does.
        """
        state = str(error.details.get("sqlstate") or "")
        if values is None or not state.startswith("22"):
            return values
        types = self._column_types()
        casts = [f"${at}::{types[name]}" for at, name in enumerate(columns, 1)]
        try:
            self._query(f"SELECT {', '.join(casts)}", list(map(str, values)))
        except InvalidRequestError:
            return None
        return values

    def _readable_mark(self, since: Json, error: DvecdbError) -> Json:
        name = self._projection.changed_since
        if name is None or not isinstance(since, str):
            return since
        return None if self._readable([since], [name], error) is None else since

    def _query(
        self, statement: str, parameters: Sequence[object], seconds: float | None = None
    ) -> list[tuple[Any, ...]]:
        return self._connection.query(statement, parameters, seconds=seconds)[0]

    def _scan(
        self, sought: str, statement: str, parameters: Sequence[object]
    ) -> list[tuple[Any, ...]]:
        """Return the rows of a statement that may look at every row. Too slow: it is refused."""
        try:
            return self._query(statement, parameters, SCAN_SECONDS)
        except UnavailableError as error:
            if error.details.get("sqlstate") != "57014":
                raise
            self._refuse(f"it takes more than {SCAN_SECONDS:.0f} s to look for {sought}")

    # --- checks ----------------------------------------------------------------------------------

    def _relation(self, spec: SourceSpec) -> str:
        if spec.table is None:
            query = (spec.query or "").strip().rstrip(";")
            return f"(\n{query}\n)"
        try:
            return quoted_table(spec.table)
        except ValueError:
            raise InvalidRequestError(
                Code.INVALID_JOB,
                f"{self._what}: {spec.table!r} is no table; expected table or schema.table",
            ) from None

    def _find(self) -> Relation | None:
        """Return the table or view, None for a query."""
        if self._table is None:
            return None
        relation = find_relation(self._connection, self._from)
        if relation is None:
            self._refuse(
                f"there is no table {self._table} on {self._connection.where}, or it may not be "
                "seen; names are taken as they are written, upper and lower case too"
            )
        return relation

    def _column_types(self, relation: Relation | None = None) -> dict[str, str]:
        """Return the type of each column, as a cast takes it; refuse one that is not there."""
        if self._types is None:
            if relation is None:
                relation = self._find()
            columns = self._query_columns() if relation is None else relation.columns
            types = {column.name: column.type for column in columns}
            missing = [name for name in self._projection.needed if name not in types]
            if missing:
                self._refuse(
                    f"no column {', '.join(map(repr, missing))} in "
                    f"{self._table or 'the query'}; found {', '.join(types) or 'none'}"
                )
            self._types = types
        return self._types

    def _query_columns(self) -> list[Column]:
        _, columns = self._connection.query(
            f"SELECT * FROM {self._from} AS {_ALIAS} LIMIT $1::bigint",  # noqa: S608
            [0],
        )
        named = self._query(
            "SELECT pg_catalog.format_type(oid::bigint::oid, -1) "
            "FROM unnest($1::text::bigint[]) WITH ORDINALITY AS t(oid, place) ORDER BY place",
            ["{" + ",".join(str(oid) for _, oid in columns) + "}"],
        )
        names = [name for name, _ in columns]
        twice = [name for name in self._projection.needed if names.count(name) > 1]
        if twice:
            self._refuse(f"the query has the column {twice[0]!r} twice; rename one with AS")
        return [Column(name, type, nullable=True)
                for name, (type,) in zip(names, named, strict=True)]  # fmt: skip

    def _check_unique(self, relation: Relation) -> None:
        key = self._projection.key
        if any(set(names) <= set(key) for names in relation.unique):
            return
        choices = relation.key_columns()
        do = (
            "name one of these keys of it: " + "; ".join(map(", ".join, choices))
            if choices
            else "it has no primary key and no unique index without nulls: give it one, or name "
            "a query whose key is unique"
        )
        self._refuse(
            f"the key {', '.join(key)} of {self._table} is not stable: no primary key or unique "
            f"index says that it names one row, so rows could be read twice or not at all; {do}"
        )

    def _check_twice(self) -> None:
        key = ", ".join(f"{_ALIAS}.{quoted(name)}" for name in self._projection.key)
        shown = ", ".join(f"{_ALIAS}.{quoted(name)}::text" for name in self._projection.key)
        rows = self._scan(
            "keys that are there twice; name a table with a unique index, or a materialized view",
            f"SELECT {shown}, count(*) FROM {self._from} AS {_ALIAS} "  # noqa: S608
            f"GROUP BY {key} HAVING count(*) > 1 LIMIT $1::bigint",
            [3],
        )
        rows = [row for row in rows if None not in row]
        if rows:
            found = "; ".join(f"{', '.join(row[:-1])} ({row[-1]} rows)" for row in rows)
            self._refuse(
                f"the key {', '.join(self._projection.key)} of "
                f"{self._table or 'the query'} names more than one row: {found}. Name columns "
                "that together are unique, or let the query have one row for each key"
            )

    def _check_null(self, names: Sequence[str]) -> None:
        if not names:
            return
        nulls = " OR ".join(f"{_ALIAS}.{quoted(name)} IS NULL" for name in names)
        rows = self._scan(
            "keys that are null; declare the key NOT NULL",
            f"SELECT 1 FROM {self._from} AS {_ALIAS} WHERE {nulls} LIMIT $1::bigint",  # noqa: S608
            [1],
        )
        if rows:
            self._refuse(
                f"the key {', '.join(self._projection.key)} of {self._table or 'the query'} is "
                "null in some rows, which cannot be told apart then; fill it, or leave those rows "
                f"out with a query: ... WHERE {' IS NOT NULL AND '.join(names)} IS NOT NULL"
            )

    def _refuse(self, message: str) -> NoReturn:
        raise InvalidRequestError(
            Code.SOURCE_REFUSED, f"{self._what}: {message}", where=self._connection.where
        )


def _greatest(column: str, type: str) -> str:
    """Return an expression for the greatest value of a column that a later run can go by."""
    finite = f"max({column}) FILTER (WHERE isfinite({column}))"
    if type.startswith("timestamp "):
        return f"CASE WHEN {finite} IS NOT NULL THEN least({finite}, now()::{type}) - {_OLDEST} END"
    if type == "date":
        return f"CASE WHEN {finite} IS NOT NULL THEN least({finite}, current_date) END"
    if type in ("real", "double precision", "numeric"):
        return f"max({column}) FILTER (WHERE {column} < 'infinity')"
    return f"max({column})"


def _with_iso(rows: list[tuple[Any, ...]], oids: list[int]) -> list[tuple[Any, ...]]:
    """Return the rows with timestamps in ISO 8601."""
    moments = [at for at, oid in enumerate(oids) if oid in _MOMENTS]
    arrays = [at for at, oid in enumerate(oids) if oid in _MOMENT_ARRAYS]
    if not (rows and (moments or arrays)):
        return rows
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
    for at in moments:
        columns[at] = [None if one is None else iso_of(one) for one in columns[at]]
    for at in arrays:
        columns[at] = [_iso_list(one) for one in columns[at]]
    return list(zip(*columns, strict=True))


def _iso_list(value: Any) -> Any:
    if isinstance(value, list):
        return [_iso_list(one) for one in value]
    return None if value is None else iso_of(value)
