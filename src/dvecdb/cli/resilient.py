r"""What `generate_embeddings_resilient.py` does: a job over PostgreSQL, with the log of old.

Environment: FASTAPI_URL, DATABASE_URL, DVECDB_URL, DVECDB_API_KEY, DVECDB_COLLECTION. A TOML says
which tables; without one, those that could be are listed.

    collection = "incidents"

    [cyber]
    table = "cyber_incidents"
    key = "id"
    text = "{title}\n{description}"
    metadata = ["severity"]
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec

import dvecdb
from dvecdb.cli.embed_run import exit_code_of
from dvecdb.cli.embed_signals import obeying
from dvecdb.cli.embed_watch import count_text
from dvecdb.cli.exit_codes import BY_ERROR, DAMAGE, INTERRUPTED, UNFINISHED, USAGE
from dvecdb.cli.output import say
from dvecdb.cli.resilient_log import Checkpoint, Journal, Narrator
from dvecdb.clock import SystemClock
from dvecdb.embedding import parse_job, parse_toml, run
from dvecdb.errors import Code, DvecdbError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dvecdb.embedding.job import Job
    from dvecdb.embedding.sources.candidates import Candidate

FASTAPI_URL: Final = "http://localhost:8000"
DVECDB_URL: Final = "http://localhost:3030"
COLLECTION: Final = "incidents"
CHECKPOINT: Final = "embedding_checkpoint.json"
PAGE: Final = 50
FLOW: Final[Mapping[str, Any]] = {
    "page": PAGE, "batch": 10, "concurrency": 1, "ahead": 0, "attempts": 5, "retry_seconds": 5.0,
    "jitter": 0.05,
}  # fmt: skip
"""Batches of 50, a checkpoint every 10 records, a first wait of 5 seconds."""
_SECTIONS: Final = ("embedder", "flow", "text")
_SHOWN: Final = 20
_METADATA_TYPES: Final = re.compile(
    r"character varying|bpchar|text|boolean|smallint|integer|bigint|date|timestamp|uuid"
)


def main(script: str) -> NoReturn:
    """Run the script's command line and end the process."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a letter is no error
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    sys.exit(generate(Path(script), sys.argv[1:], os.environ))


def generate(script: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the job that the script's TOML describes; return the exit code, as of `embed run`."""
    parser = argparse.ArgumentParser(script.name, description="Embed rows of PostgreSQL.")
    parser.add_argument(
        "toml", nargs="?", type=Path, default=script.with_suffix(".toml"),
        help="which tables to embed; default: %(default)s",
    )  # fmt: skip
    toml: Path = parser.parse_args(arguments).toml
    journal = Journal(SystemClock())
    try:
        if not toml.exists():
            return list_tables(toml, environment)
        return _generate(read_job(toml, environment), toml, environment, journal)
    except DvecdbError as error:
        journal.fail(f"{error.code}: {error.message}")
        cancelled = error.code is Code.CANCELLED
        return INTERRUPTED if cancelled else BY_ERROR[type(error)]
    except OSError as error:
        journal.fail(f"{error.filename or toml}: {error.strerror or error}")
        return USAGE


def _generate(job: Job, toml: Path, environment: Mapping[str, str], journal: Journal) -> int:
    journal.tell("Resilient Embedding Generation Started")
    checkpoint = Checkpoint(toml.with_name(CHECKPOINT), job.sources, journal)
    narrator = Narrator(journal, checkpoint, job.flow.page)
    url = environment.get("DVECDB_URL") or DVECDB_URL
    key = environment.get("DVECDB_API_KEY") or None
    with dvecdb.connect(url, api_key=key) as database, obeying() as controls:
        report = run(
            job, database,  # type: ignore[arg-type]  # a server's has its interface
            environment=environment, watch=narrator, controls=controls,
        )  # fmt: skip
    code = exit_code_of(report)
    if code == INTERRUPTED:
        journal.tell("Stopped; running it again goes on there")
    elif code == UNFINISHED:
        journal.tell("The budget is used up; running it again goes on there")
    else:
        journal.tell("Resilient Embedding Generation Completed")
    if code == DAMAGE:
        journal.warn(
            f"{count_text(report.dead_letters, 'dead letter')}: 'dvecdb embed status "
            f"{report.collection} --url {url}' says why"
        )
    return code


def read_job(toml: Path, environment: Mapping[str, str]) -> Job:
    """Return the job of a TOML: `collection`, `[embedder]`, `[flow]`, `[text]`, and its sources.

    Raises:
        InvalidRequestError: `invalid-job`.
        OSError: it cannot be read.
    """
    try:
        values = parse_toml(toml.read_text(encoding="utf-8"), str(toml))
    except UnicodeDecodeError as error:
        raise InvalidRequestError(Code.INVALID_JOB, f"{toml} is no UTF-8 text: {error}") from error
    collection = values.pop("collection", COLLECTION)
    given = {name: values.pop(name, {}) for name in _SECTIONS}
    for name, source in (*given.items(), *values.items()):
        if not isinstance(source, dict):
            raise InvalidRequestError(
                Code.INVALID_JOB,
                f"{toml}: {name} must be a table of its own, [{name}] with table, key and text",
            )
    url = environment.get("FASTAPI_URL") or FASTAPI_URL
    try:
        return parse_job(
            {
                "target": {"collection": environment.get("DVECDB_COLLECTION") or collection},
                "embedder": {"url": url, **given["embedder"]},
                "flow": {**FLOW, **given["flow"]},
                "text": given["text"],
                "sources": {name: {"kind": "postgresql", **one} for name, one in values.items()},
            }
        )
    except InvalidRequestError as error:
        error.message = f"{toml}: {error.message}"
        raise


# --- without a TOML --------------------------------------------------------------------------


def list_tables(toml: Path, environment: Mapping[str, str]) -> int:
    """Print the tables that could be sources, and a TOML to begin with; return the exit code.

    Raises:
        InvalidRequestError: `source-refused`, `extra-missing`.
        UnavailableError: `source-unreachable`.
    """
    dsn = environment.get("DATABASE_URL", "").strip()
    say(f"{toml} is not there; it says which tables to embed.")
    if not dsn:
        say("Set DATABASE_URL, postgresql://USER:PASSWORD@HOST:PORT/DATABASE, to see which can be.")
        return USAGE
    from dvecdb.embedding.sources.candidates import candidates  # noqa: PLC0415  # an extra

    found = candidates(dsn, "DATABASE_URL")
    if not found:
        say("The database of DATABASE_URL has no table with a stable key and a column of text.")
        return USAGE
    say(f"These can be; put what you need into {toml}:\n")
    say("\n".join(section(one) for one in found[:_SHOWN]).rstrip())
    if len(found) > _SHOWN:
        say(f"\n# and {len(found) - _SHOWN} smaller ones")
    return USAGE


def section(table: Candidate) -> str:
    r"""Return the part of a TOML that makes a table a source.

    name: `cyber_incidents` is `cyber`, as the log says `Processing cyber incidents`.
    """
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", table.table).strip("-_")
    name = re.sub(r"[_-]incidents$", "", name)[:64] or "incidents"
    text = "\n".join(f"{{{column}}}" for column in table.texts)
    others = [
        column
        for column, kind in table.columns
        if column not in table.texts and _METADATA_TYPES.match(kind)
    ]
    rows = "" if table.rows is None else f"  # about {table.rows:,} rows"
    lines = [
        f"[{name}]{rows}",
        f"table = {_quoted(table.table)}",
        f"key = {_quoted(table.key)}",
        f"text = {_quoted(text)}",
        f"metadata = [{', '.join(map(_quoted, others))}]",
    ]
    if table.changed_since is not None:
        lines.append(f"# changed_since = {_quoted(table.changed_since)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return a text as TOML has it; JSON's escapes are TOML's."""
    return msgspec.json.encode(text).decode()
