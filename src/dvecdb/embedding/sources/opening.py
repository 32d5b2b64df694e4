"""From a `SourceSpec` to a `Source`: what kind it is, and where its rows are."""

from __future__ import annotations

import contextlib
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dvecdb.embedding.job import SourceSpec
    from dvecdb.embedding.model import Source

_ENDINGS: Final = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".jsonlines": "jsonl", ".csv": "csv", ".tsv": "csv",
    ".parquet": "parquet", ".pq": "parquet", ".db": "sqlite", ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
}  # fmt: skip


@contextlib.contextmanager
def open_sources(
    specs: Mapping[str, SourceSpec],
    environment: Mapping[str, str],
    resolve: Callable[[str], str] | None,
) -> Iterator[dict[str, Source]]:
    """Give the sources of a job by name, as `open_source` returns them, and close them."""
    with contextlib.ExitStack() as opened:
        sources: dict[str, Source] = {}
        for name, spec in specs.items():
            sources[name] = open_source(name, spec, environment, resolve=resolve)
            opened.callback(sources[name].close)
        yield sources


def open_source(
    name: str,
    spec: SourceSpec,
    environment: Mapping[str, str],
    *,
    resolve: Callable[[str], str] | None = None,
) -> Source:
    """Return a source; nothing is connected to or opened before its first call.

    environment: where `spec.database_url_env` is looked up. resolve: returns the path to open for
    one that a job names, or refuses it; whatever it raises goes on to the caller.

    Raises:
        InvalidRequestError: `invalid-job`: names that cannot be; `source-refused`: no database
            address, or no kind can be told; `extra-missing`.
    """
    kind = kind_of(name, spec)
    if kind == "postgresql":
        from dvecdb.embedding.sources.postgresql import PostgresSource  # noqa: PLC0415  # its extra

        if spec.path is not None:
            raise _invalid(name, "PostgreSQL has tables and queries, no path")
        return PostgresSource(name, spec, _dsn(name, spec, environment))
    if spec.path is None:
        raise _invalid(name, f"kind {kind!r} needs a path")
    path = spec.path if resolve is None else resolve(spec.path)
    if kind == "sqlite":
        from dvecdb.embedding.sources.sqlite import SqliteSource  # noqa: PLC0415  # only if used

        return SqliteSource(name, spec, path)
    if spec.table is not None or spec.query is not None:
        raise _invalid(name, f"a {kind} file has no table and takes no query")
    return _open_file(name, spec, path, kind)


def kind_of(name: str, spec: SourceSpec) -> str:
    """Return the kind of a source, as given or as its path ends.

    Raises:
        InvalidRequestError: `invalid-job`, a path with another ending and no kind.
    """
    if spec.kind is not None:
        return spec.kind
    if spec.path is None:
        return "postgresql"
    ending = PurePath(spec.path).suffix.lower()
    if ending not in _ENDINGS:
        raise _invalid(
            name,
            f"the ending of {spec.path!r} says nothing; give a kind (sqlite, jsonl, csv, parquet), "
            f"or one of the endings {' '.join(_ENDINGS)}",
        )
    return _ENDINGS[ending]


def _open_file(name: str, spec: SourceSpec, path: str, kind: str) -> Source:
    from dvecdb.embedding.sources.files import FileSource  # noqa: PLC0415  # only if used

    if kind == "csv":
        from dvecdb.embedding.sources.csv_file import CsvRecords  # noqa: PLC0415

        return FileSource(name, spec, path, CsvRecords)
    if kind == "parquet":
        from dvecdb.embedding.sources.parquet import ParquetRecords  # noqa: PLC0415

        return FileSource(name, spec, path, ParquetRecords)
    from dvecdb.embedding.sources.lines import JsonLines  # noqa: PLC0415

    return FileSource(name, spec, path, JsonLines)


def _dsn(name: str, spec: SourceSpec, environment: Mapping[str, str]) -> str:
    dsn = environment.get(spec.database_url_env, "")
    if not dsn.strip():
        raise InvalidRequestError(
            Code.SOURCE_REFUSED,
            f"source {name}: the environment variable {spec.database_url_env} is not set; expected "
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
        )
    return dsn


def _invalid(name: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(Code.INVALID_JOB, f"source {name}: {message}", source=name)
