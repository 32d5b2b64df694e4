"""What PostgreSQL knows of a table: its columns, and which of them name a row for ever."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dvecdb.embedding.sources.postgresql_connection import PostgresConnection

_PART: Final = re.compile(r'"((?:[^"]|"")+)"|([^."]+)')

_RELATION: Final = """
SELECT c.oid::bigint, c.relkind::text, n.nspname::text, c.relname::text,
       c.relkind = 'r' AND c.relhassubclass,
       CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint
            ELSE nullif(pg_catalog.pg_stat_get_live_tuples(c.oid), 0) END
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass($1::text)"""
_COLUMNS: Final = """
SELECT a.attname::text, pg_catalog.format_type(a.atttypid, -1), a.attnotnull
FROM pg_catalog.pg_attribute a
WHERE a.attrelid = $1::bigint::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""
_UNIQUE: Final = """
SELECT ARRAY(
    SELECT a.attname::text
    FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k(number, place)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
    ORDER BY k.place)
FROM pg_catalog.pg_index i
WHERE i.indrelid = $1::bigint::oid AND i.indisunique AND i.indisvalid
  AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY NOT i.indisprimary, i.indexrelid"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column. type: as a cast takes it; nullable: it may be null."""

    name: str
    type: str
    nullable: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """A table or view. unique: the columns of each unique index, that of the primary key first.

    is_table: its unique indexes speak for all its rows; not so for views and inherited tables.
    rows: an estimate, None if there is none.
    """

    schema: str
    name: str
    is_table: bool
    rows: int | None
    columns: tuple[Column, ...]
    unique: tuple[tuple[str, ...], ...]

    def key_columns(self) -> list[tuple[str, ...]]:
        """Return the keys that rows can be told apart by: unique and never null."""
        nullable = {column.name for column in self.columns if column.nullable}
        return [names for names in self.unique if not nullable & set(names)]


def quoted(name: str) -> str:
    """Return a name as SQL takes it literally."""
    return '"' + name.replace('"', '""') + '"'


def quoted_table(name: str) -> str:
    """Return `table` or `schema.table` quoted. A part with a dot in it comes in quotes.

    Raises:
        ValueError: it is no such name.
    """
    parts: list[str] = []
    at = 0
    while found := _PART.match(name, at):
        parts.append(found[1].replace('""', '"') if found[1] is not None else found[2].strip())
        at = found.end()
        if at == len(name):
            break
        if name[at] != ".":
            raise ValueError(name)
        at += 1
    if at != len(name) or not 1 <= len(parts) <= 2 or not all(parts) or name.endswith("."):
        raise ValueError(name)
    return ".".join(map(quoted, parts))


def find_relation(connection: PostgresConnection, table: str) -> Relation | None:
    """Return what is known of a table given in quotes (`quoted_table`), None if there is none.

    Raises as `PostgresConnection.query`.
    """
    rows, _ = connection.query(_RELATION, [table])
    if not rows:
        return None
    oid, kind, schema, name, has_heirs, estimate = rows[0]
    columns, _ = connection.query(_COLUMNS, [oid])
    unique, _ = connection.query(_UNIQUE, [oid])
    return Relation(
        schema,
        name,
        kind in ("r", "p") and not has_heirs,
        estimate,
        tuple(Column(column, type, not_null is not True) for column, type, not_null in columns),
        tuple(tuple(names) for (names,) in unique if names),
    )
