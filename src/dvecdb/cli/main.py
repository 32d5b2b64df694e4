"""The command line: `dvecdb` or `python -m dvecdb`.

Exit codes:

    0  it worked, and what was looked at is sound
    1  damage was found, or a check failed
    2  wrong usage, or a file or data directory that cannot be used like this

An error is one line on stderr, `error: code: message`. With `--json`, stdout carries exactly one
JSON document, for errors too: `{"error": {"code", "message", "advice", "details"}}`.

Commands import what they need when they run, so that `--help` and `version` answer at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dvecdb.cli.exit_codes import DAMAGE, INTERRUPTED, OK, USAGE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# ClickException, wherever this version of typer keeps it.
_UsageError: Final[type[Exception]] = typer.BadParameter.__mro__[2]

DataDir = Annotated[
    Path, typer.Option("--data-dir", help="The data directory.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

app = typer.Typer(
    name="dvecdb",
    help="An embedded vector database that cannot lose an acknowledged write.",
    epilog="Exit codes: 0 sound; 1 damage found or a check failed; 2 wrong usage, or a file or "
    "data directory that cannot be used.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def version() -> None:
    """Print the version."""
    from dvecdb import __version__  # noqa: PLC0415  # lazy

    typer.echo(f"dvecdb {__version__}")


@app.command()
def dump(
    file: Annotated[Path, typer.Argument(help="A file of a data directory.", show_default=False)],
    as_json: Json = False,
    vectors: Annotated[
        int, typer.Option(min=0, help="Show the first N rows of each batch with their vectors.")
    ] = 0,
) -> None:
    """Print what is in a file: log, segment, manifest, lookup or LOCK. Exit code 1 if damaged."""
    from dvecdb.cli.dump import dump_file  # noqa: PLC0415  # lazy

    raise typer.Exit(dump_file(file, as_json=as_json, vectors=vectors))


@app.command()
def demo(
    keep: Annotated[
        Path | None,
        typer.Option(help="Work in this directory, which must be empty or new, and keep it."),
    ] = None,
) -> None:
    """Write, kill the writer, reopen and compare every row; all in a temporary directory."""
    from dvecdb.cli.demo import run_demo  # noqa: PLC0415  # lazy

    raise typer.Exit(OK if run_demo(keep) else DAMAGE)


@app.command()
def verify(
    data_dir: DataDir,
    collection: Annotated[str | None, typer.Option(help="Only this collection.")] = None,
    as_json: Json = False,
) -> None:
    """Read and check every stored byte. Writes nothing; works beside a running writer."""
    from dvecdb.cli.inspect import verify_directory  # noqa: PLC0415  # lazy

    raise typer.Exit(verify_directory(data_dir, collection, as_json=as_json))


@app.command()
def findings(data_dir: DataDir, as_json: Json = False) -> None:
    """List what is damaged or doubtful, as opening the directory shows it."""
    from dvecdb.cli.inspect import list_findings  # noqa: PLC0415  # lazy

    raise typer.Exit(list_findings(data_dir, as_json=as_json))


@app.command()
def collections(data_dir: DataDir, as_json: Json = False) -> None:
    """List the collections with their figures. Exit code 1 if one had to be set aside."""
    from dvecdb.cli.inspect import list_collections  # noqa: PLC0415  # lazy

    raise typer.Exit(list_collections(data_dir, as_json=as_json))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. Nothing that we know of ends in a traceback."""
    from dvecdb.errors import DamagedDataError, DvecdbError  # noqa: PLC0415  # lazy

    as_json = "--json" in arguments
    try:
        result = app(list(arguments) or ["--help"], prog_name="dvecdb", standalone_mode=False)
    except DvecdbError as error:
        code = DAMAGE if isinstance(error, DamagedDataError) else USAGE
        return _fail(
            error.code, error.message, code, as_json=as_json, advice=error.advice,
            details=error.details,
        )  # fmt: skip
    except _UsageError as error:
        message = getattr(error, "format_message", error.__str__)().rstrip(". ")
        return _fail("usage", f"{message}. Try 'dvecdb --help'", USAGE, as_json=as_json)
    except typer.Exit as error:
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail("file-unreadable", f"{where}{error.strerror}", USAGE, as_json=as_json)
    return result if isinstance(result, int) else OK


def _fail(
    code: str,
    message: str,
    exit_code: int,
    *,
    as_json: bool,
    advice: str = "fix-request",
    details: Mapping[str, object] | None = None,
) -> int:
    if as_json:
        from dvecdb.cli.output import print_json  # noqa: PLC0415  # lazy

        print_json(
            {
                "error": {
                    "code": code,
                    "message": message,
                    "advice": advice,
                    "details": dict(details or {}),
                }
            }
        )
    typer.echo(f"error: {code}: {' '.join(message.split())}", err=True)
    return exit_code


def main() -> None:
    """Run the command of this process's arguments."""
    sys.exit(run(sys.argv[1:]))
