"""Tables of a PostgreSQL database that could be sources: a stable key, and text to embed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dvecdb.embedding.sources.postgresql_catalog import find_relation, quoted
from dvecdb.embedding.sources.postgresql_connection import PostgresConnection

if TYPE_CHECKING:
    from dvecdb.embedding.sources.postgresql_catalog import Relation

_TABLES: Final = """
SELECT n.nspname::text, c.relname::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
  AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
  AND has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE')
ORDER BY c.reltuples DESC, 1, 2 LIMIT $1::bigint"""
_TEXT_TYPES: Final = frozenset({"text", "character varying", "bpchar", "citext"})
_CHANGED_TYPES: Final = frozenset({"timestamp with time zone", "timestamp without time zone"})
_CHANGED_NAMES: Final = ("updated", "modified", "changed")
TABLES_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Candidate:
    """A table that could be a source.

    table: as `SourceSpec.table` takes it; key: as `SourceSpec.key` takes it; texts: columns of
    text that are not the key, in the table's order; columns: all of them, with their types; rows:
    an estimate, None if PostgreSQL has none yet; changed_since: a timestamp that is called as if
    it grew with each change.
    """

    table: str
    key: str
    texts: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    rows: int | None
    changed_since: str | None


def candidates(dsn: str, what: str = "candidates") -> list[Candidate]:
    """Return the tables that could be sources, the largest first.

    what: begins every message.

    Raises:
        InvalidRequestError: `extra-missing`, `source-refused`.
        UnavailableError: `source-unreachable`.
    """
    connection = PostgresConnection(dsn, what)
    try:
        tables, _ = connection.query(_TABLES, [TABLES_MAX])
        found = []
        for schema, name in tables:
            relation = find_relation(connection, f"{quoted(schema)}.{quoted(name)}")
            candidate = None if relation is None else candidate_of(relation)
            if candidate is not None:
                found.append(candidate)
        return found
    finally:
        connection.close()


def candidate_of(relation: Relation) -> Candidate | None:
    """Return a table as a source, None without a stable key or a text. Pure."""
    keys = [names for names in relation.key_columns() if not any("," in name for name in names)]
    if not (relation.is_table and keys):
        return None
    key = keys[0]
    texts = tuple(
        column.name
        for column in relation.columns
        if column.type in _TEXT_TYPES and column.name not in key
    )
    if not texts:
        return None
    changed = [
        column.name
        for column in relation.columns
        if column.type in _CHANGED_TYPES
        and any(part in column.name.lower() for part in _CHANGED_NAMES)
    ]
    schema = "" if relation.schema == "public" else f"{_written(relation.schema)}."
    return Candidate(
        f"{schema}{_written(relation.name)}",
        ", ".join(key),
        texts,
        tuple((column.name, column.type) for column in relation.columns),
        relation.rows,
        changed[0] if changed else None,
    )


def _written(name: str) -> str:
    """Return a name as a job has it: quoted only if it has a dot or a quote in it."""
    return quoted(name) if "." in name or '"' in name or name != name.strip() else name
