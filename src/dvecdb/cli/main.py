"""The command line: `dvecdb` or `python -m dvecdb`. Exit codes: `exit_codes`, `docs/cli.md`.

An error is one line on stderr, `error: code: message`. With `--json`, stdout carries exactly one
JSON document, for errors too: `{"error": {"code", "message", "advice", "details"}}`.

Commands import what they need when they run, so that `--help` and `version` answer at once.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from dvecdb.cli import (
    care_commands,
    collection_commands,
    config,
    embed_commands,
    embedding_service,
    import_command,
    keys,
    record_commands,
    recovery_commands,
    rescue_commands,
    serve,
    trash_commands,
)
from dvecdb.cli.app import SERVER, CommandLineError, app
from dvecdb.cli.exit_codes import BY_ERROR, INTERRUPTED, OK, USAGE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "app", "care_commands", "collection_commands", "embed_commands", "import_command", "main",
    "record_commands", "recovery_commands", "rescue_commands", "run", "trash_commands",
]  # fmt: skip

app.command(rich_help_panel=SERVER)(serve.serve)
app.command(rich_help_panel=SERVER)(embedding_service.embedding_service)
app.add_typer(config.app, rich_help_panel=SERVER)
app.add_typer(keys.app, rich_help_panel=SERVER)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. Nothing that we know of ends in a traceback."""
    from dvecdb.errors import DvecdbError  # noqa: PLC0415  # lazy

    as_json = "--json" in arguments
    try:
        result = app(list(arguments) or ["--help"], prog_name="dvecdb", standalone_mode=False)
    except DvecdbError as error:
        from dvecdb.cli.next_steps import with_next_step  # noqa: PLC0415  # lazy

        return _fail(
            error.code, with_next_step(error), BY_ERROR[type(error)], as_json=as_json,
            advice=error.advice, details=error.details,
        )  # fmt: skip
    except CommandLineError as error:
        message = getattr(error, "format_message", error.__str__)().rstrip(". ")
        return _fail("usage", f"{message}. Try 'dvecdb --help'", USAGE, as_json=as_json)
    except typer.Exit as error:
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror or error}"
        return _fail("file-unreadable", message, USAGE, as_json=as_json)
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
    from dvecdb.cli.output import print_json, visible  # noqa: PLC0415  # lazy

    if as_json:
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
    typer.echo(f"error: {code}: {visible(' '.join(message.split()))}", err=True)
    return exit_code


def main() -> None:
    """Run the command of this process's arguments."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a letter is no error
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))
