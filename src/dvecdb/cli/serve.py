"""`dvecdb serve`: flags to settings, settings to a running server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dvecdb.cli.exit_codes import OK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dvecdb.node.settings import ServerSettings
    from dvecdb.node.sources import Loaded

CONFIG_VARIABLE = "DVECDB_CONFIG"

Config = Annotated[
    Path | None,
    typer.Option("--config", help=f"A TOML file with settings. Also: {CONFIG_VARIABLE}."),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Any setting; 'dvecdb config show' lists them. Repeat."
    ),
]


def serve(  # noqa: PLR0917  # flags, which typer passes by name
    data_dir: Annotated[
        Path | None, typer.Option(help="The data directory; made if it is missing. [./data]")
    ] = None,
    config: Config = None,
    host: Annotated[str | None, typer.Option(help="IP address to listen on. [127.0.0.1]")] = None,
    rest_port: Annotated[int | None, typer.Option(help="0: a free one. [3030]")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="Not served yet. [9090]")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="0: a free one. [9091]")] = None,
    import_root: Annotated[
        list[Path] | None, typer.Option(help="A directory that imports may read. Repeat.")
    ] = None,
    jobs_max: Annotated[
        int | None, typer.Option(min=0, help="Embedding jobs run at once; 0: none. [2]")
    ] = None,
    job_env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="An environment variable that jobs may name. Repeat."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate chain.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM private key.")] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="An origin whose pages may call, or '*'. Repeat.")
    ] = None,
    allow_unauthenticated: Annotated[
        bool | None,
        typer.Option(
            "--allow-unauthenticated",
            help="Serve an address that is not loopback although there is no API key.",
        ),
    ] = None,
    allow_plaintext: Annotated[
        bool | None,
        typer.Option(
            "--allow-plaintext", help="Serve an address that is not loopback without TLS."
        ),
    ] = None,
    legacy_errors: Annotated[
        bool | None,
        typer.Option("--legacy-errors", help="Answer application errors with status 200."),
    ] = None,
    trash_hours: Annotated[
        int | None, typer.Option(min=0, help="How long what is deleted can be restored. [24]")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="auto, json or console.")] = None,
    assign: Assignments = None,
) -> None:
    """Serve a data directory over HTTP until SIGTERM or Ctrl-C. A second signal ends it at once."""
    flags = {
        "data_dir": data_dir, "host": host, "rest_port": rest_port, "grpc_port": grpc_port,
        "metrics_port": metrics_port, "import_roots": tuple(map(str, import_root or ())),
        "jobs_max": jobs_max, "job_env": tuple(job_env or ()),
        "tls_cert": tls_cert, "tls_key": tls_key, "cors_origins": tuple(cors_origin or ()),
        "allow_unauthenticated": allow_unauthenticated, "allow_plaintext": allow_plaintext,
        "legacy_errors": legacy_errors, "trash_hours": trash_hours, "log_level": log_level,
        "log_format": log_format,
    }  # fmt: skip
    raise typer.Exit(run_server(load_settings(config, flags, assign).settings))


def load_settings(
    config: Path | None, flags: Mapping[str, object], assignments: list[str] | None = None
) -> Loaded:
    """Return the settings of flags, environment and file.

    Raises:
        InvalidRequestError: `invalid-settings`.
        OSError: the file cannot be read.
    """
    from dvecdb.node.sources import load  # noqa: PLC0415  # lazy

    if config is None and os.environ.get(CONFIG_VARIABLE):
        config = Path(os.environ[CONFIG_VARIABLE])
    return load(
        toml=read_text(config) if config is not None else None,
        path=str(config),
        environment=os.environ,
        flags={
            name: str(value) if isinstance(value, Path) else value for name, value in flags.items()
        },
        assignments=assignments or (),
    )


def read_text(path: Path) -> str:
    """Return the text of a configuration file.

    Raises:
        InvalidRequestError: `invalid-settings`, it is not UTF-8.
        OSError: it cannot be read.
    """
    from dvecdb.node.settings import invalid  # noqa: PLC0415  # lazy

    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise invalid(f"{path}:{line}: not UTF-8", file=str(path)) from None


def run_server(
    settings: ServerSettings,
    exit_now: Callable[[int], None] = os._exit,
) -> int:
    """Serve until a signal; return the exit code.

    Raises:
        DvecdbError: it could not start.
    """
    from dvecdb.node.start import serve as serve_node  # noqa: PLC0415  # lazy

    is_whole = serve_node(settings, exit_now=exit_now)
    if not is_whole:  # a thread still works, or waits for a reader of the log; Python would wait
        exit_now(OK)
    return OK
