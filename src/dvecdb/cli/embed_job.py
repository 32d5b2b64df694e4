"""From a job file and flags to a job. Flags go before the file; its paths are relative to it."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_type_hints

import msgspec
import typer

from dvecdb.cli.app import RECORDS, UsageError, app
from dvecdb.cli.on_target import on_target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dvecdb.embedding.job import Job

# ruff: noqa: PLC0415  # commands import what they need when they run

embed = typer.Typer(
    name="embed", help="Embedding jobs: rows of a source become vectors, each text paid for once.",
    rich_markup_mode=None, no_args_is_help=True,
)  # fmt: skip
app.add_typer(embed, rich_help_panel=RECORDS)

JobFile = Annotated[
    Path | None,
    typer.Argument(metavar="JOB.toml", help="The job. Flags override it.", show_default=False),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="SOURCE", help="Only this source. May be repeated."),
]


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag that sets a field of a job. kind: of its value."""

    section: Literal["target", "source", "embedder", "flow", "text"]
    field: str
    kind: Any
    help: str
    name: str = ""
    metavar: str | None = None

    @property
    def option(self) -> str:
        """The flag as it is typed."""
        return self.name or "--" + self.field.replace("_", "-")

    @property
    def annotation(self) -> Any:
        """The type of the parameter, for typer."""
        metavar = self.metavar or {int: "N", float: "X"}.get(self.kind)
        option = typer.Option(self.option, metavar=metavar, help=self.help, show_default=False)
        return Annotated[self.kind | None, option]


FLAGS: Final[Mapping[str, Flag]] = {
    "collection": Flag("target", "collection", str, "Where the vectors go.", metavar="NAME"),
    "metric": Flag("target", "metric", str, "Of a collection that is made: cosine, ..."),
    "vector_type": Flag("target", "vector_type", str, "Likewise: float32, float16 or int8."),
    "source_kind": Flag(
        "source", "kind", Literal["postgresql", "sqlite", "jsonl", "csv", "parquet"],
        "What the source is. Default: a path by its ending, else PostgreSQL.", "--kind",
    ),
    "table": Flag("source", "table", str, "Rows of a table.", metavar="TABLE"),
    "query": Flag("source", "query", str, "Rows of a SELECT.", metavar="SQL"),
    "path": Flag("source", "path", str, "Rows of a file.", metavar="FILE"),
    "key": Flag("source", "key", str, "Column that names a row, for ever.", metavar="COLUMN"),
    "template": Flag(
        "source", "text", str, r"What is embedded: a column, or '{title}\n{description}'.",
        "--text", "TEMPLATE",
    ),
    "metadata": Flag(
        "source", "metadata", list[str], "Column that becomes metadata. May be repeated.",
        metavar="COLUMN",
    ),
    "changed_since": Flag(
        "source", "changed_since", str, "Column that grows when a row changes.", metavar="COLUMN"
    ),
    "database_url_env": Flag(
        "source", "database_url_env", str, "Where the address is. [DATABASE_URL]", metavar="NAME"
    ),
    "embedder": Flag(
        "embedder", "kind", Literal["service", "openai", "local"],
        "Who makes the vectors. [service]", "--embedder",
    ),
    "embedder_url": Flag(
        "embedder", "url", str, "Its URL. [FASTAPI_URL]", "--embedder-url", "URL"
    ),
    "model": Flag("embedder", "model", str, "Its model.", metavar="NAME"),
    "dimensions": Flag("embedder", "dimensions", int, "Asked for, and checked."),
    "api_key_env": Flag(
        "embedder", "api_key_env", str, "Environment variable that holds its key.", metavar="NAME"
    ),
    "timeout": Flag("embedder", "timeout_seconds", float, "Seconds for an answer.", "--timeout"),
    "price": Flag(
        "embedder", "price_per_million_tokens", float, "Of a million tokens, to count money.",
        "--price",
    ),
    "batch": Flag("flow", "batch", int, "Texts of a request at most. [50]"),
    "page": Flag("flow", "page", int, "Rows read at a time. [1000]"),
    "concurrency": Flag("flow", "concurrency", int, "Requests at a time at most. [2]"),
    "requests_per_minute": Flag("flow", "requests_per_minute", int, "At most."),
    "tokens_per_minute": Flag("flow", "tokens_per_minute", int, "At most."),
    "budget_requests": Flag("flow", "budget_requests", int, "Stop before more requests."),
    "budget_tokens": Flag("flow", "budget_tokens", int, "Stop before more tokens."),
    "budget_money": Flag("flow", "budget_money", float, "Stop before more money; see --price."),
    "attempts": Flag("flow", "attempts", int, "Tries of a request that the service failed. [5]"),
    "give_up": Flag(
        "flow", "give_up_seconds", float, "Wait so long for what is away. [for ever]",
        "--give-up-seconds",
    ),
    "length_max": Flag("text", "length_max", int, "Characters of a text at most."),
    "too_long": Flag(
        "text", "too_long", Literal["truncate", "split", "dead-letter"], "What to do then."
    ),
    "empty": Flag(
        "text", "empty", Literal["dead-letter", "skip"], "What to do with rows without text."
    ),
}  # fmt: skip
"""By the name of the parameter."""

SourceName = Annotated[
    str | None,
    typer.Option(
        "--source-name", metavar="NAME",
        help="Which source these flags are about. Default: the only one, or the table's name.",
    ),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Given:
    """A job as it was given. base: what its paths are relative to."""

    job: Job
    base: Path
    file: Path | None

    def resolve(self, path: str) -> str:
        """Return where a source's path is."""
        return str(self.base / path)

    def only(self, names: list[str] | None) -> Given:
        """Return it with only some of its sources.

        Raises:
            UsageError: it has no source of that name.
        """
        if not names:
            return self
        for name in names:
            if name not in self.job.sources:
                known = ", ".join(self.job.sources)
                raise UsageError(f"--only {name}: the job has no such source; it has {known}")
        sources = {name: spec for name, spec in self.job.sources.items() if name in names}
        return Given(msgspec.structs.replace(self.job, sources=sources), self.base, self.file)


def read_given(file: Path | None, source_name: str | None, flags: Mapping[str, Any]) -> Given:
    """Return the job of a file and flags (by `FLAGS`; None: not given).

    Raises:
        InvalidRequestError: `invalid-job`.
        UsageError: without a file, flags are missing.
        OSError: the file cannot be read.
    """
    from dvecdb.embedding.job import parse_job, parse_toml
    from dvecdb.errors import Code, InvalidRequestError

    given = {name: value for name, value in flags.items() if value is not None and value != []}
    values: dict[str, Any] = {}
    if file is None:
        _ask_for_flags(given)
    else:
        try:
            values = parse_toml(file.read_text(encoding="utf-8"), str(file))
        except UnicodeDecodeError as error:
            raise InvalidRequestError(
                Code.INVALID_JOB, f"{file} is no UTF-8 text: {error.reason} at byte {error.start}"
            ) from error
    for section in ("target", "embedder", "flow", "text"):
        _set(values, section, _of(section, given))
    _set_source(values, source_name, _of("source", given))
    try:
        job = parse_job(values)
    except InvalidRequestError as error:
        if file is not None:
            error.message = f"{file}: {error.message}"
        raise
    base = Path() if file is None else file.parent
    return Given(job, base, file)


def _ask_for_flags(given: Mapping[str, Any]) -> None:
    """Refuse a job without a file that lacks what every job has."""
    missing = [FLAGS[name].option for name in ("collection", "key", "template")
               if name not in given]  # fmt: skip
    if not {"table", "query", "path"} & given.keys():
        missing.append("one of --table, --query and --path")
    if missing:
        raise UsageError(f"give a JOB.toml, or flags; missing: {', '.join(missing)}")


def _of(section: str, given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        flag.field: given[name]
        for name, flag in FLAGS.items()
        if flag.section == section and name in given
    }


def _set(values: dict[str, Any], section: str, fields: Mapping[str, Any]) -> None:
    """Set fields of a section. What is no section stays: `parse_job` says so."""
    if fields and isinstance(found := values.setdefault(section, {}), dict):
        found.update(fields)


def _set_source(values: dict[str, Any], name: str | None, fields: dict[str, Any]) -> None:
    """Set the fields of the source that flags are about; make it if there is none.

    Raises:
        UsageError: it is not clear which.
    """
    sources = values.setdefault("sources", {})
    if not isinstance(sources, dict):
        return  # `parse_job` says so
    if not fields:
        if name is not None:
            raise UsageError("--source-name goes with flags of a source; --only picks one")
        return
    if name is None:
        if len(sources) > 1:
            known = ", ".join(sources)
            raise UsageError(f"--source-name says which source the flags are about: {known}")
        name = next(iter(sources), None) or _name_of(fields)
    source = sources.setdefault(name, {})
    if not isinstance(source, dict):
        return
    for one, other in (("table", "query"), ("query", "table")):
        if one in fields:
            source.pop(other, None)
    source.update(fields)
    if "text" in fields:  # as in TOML; a shell has no such letters
        source["text"] = fields["text"].replace(r"\n", "\n").replace(r"\t", "\t")


def _name_of(fields: Mapping[str, Any]) -> str:
    """Return a name for a source that has none: of its table or file."""
    found = fields.get("table", "").rpartition(".")[2] or Path(fields.get("path", "")).stem
    return re.sub(r"[^A-Za-z0-9_-]+", "-", found).strip("-_")[:64] or "rows"


# --- commands with a job ---------------------------------------------------------------------


def on_job(name: str) -> Callable[[Callable[..., int]], Callable[..., None]]:
    """Return what makes a command of `function(target, given, ..., as_json)`.

    It has the options of a target, a job file, and a flag for each of `FLAGS`.
    """

    def decorate(function: Callable[..., int]) -> Callable[..., None]:
        names = {"Target": object, "Given": object}
        hints = get_type_hints(function, localns=names, include_extras=True)

        def run(
            target: Any, file: Path | None, source_name: str | None, only: list[str] | None,
            *, as_json: bool, **arguments: Any,
        ) -> int:  # fmt: skip
            flags = {flag: arguments.pop(flag) for flag in FLAGS}
            given = read_given(file, source_name, flags).only(only)
            return function(target, given, **arguments, as_json=as_json)

        run.__name__, run.__doc__ = function.__name__, function.__doc__
        shared = {"only": Only, "source_name": SourceName}
        shared |= {flag: FLAGS[flag].annotation for flag in FLAGS}
        taken = {"target", "given", "as_json"}
        own = {
            parameter.name: parameter.default
            for parameter in inspect.signature(function).parameters.values()
            if parameter.name not in taken
        }
        parts = {"target": object, "file": JobFile, **{part: hints[part] for part in own}}
        parts |= {**shared, "as_json": bool}
        run.__annotations__ = parts
        run.__signature__ = inspect.Signature([  # type: ignore[attr-defined]  # typer reads it
            inspect.Parameter(
                part,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty
                if part in {"target", "as_json"}
                else own.get(part),
                annotation=kind,
            )
            for part, kind in parts.items()
        ])  # fmt: skip
        return on_target(name, parent=embed)(run)

    return decorate
