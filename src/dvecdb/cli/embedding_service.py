"""`dvecdb embedding-service`: a local model behind HTTP, until a signal."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from dvecdb.cli.exit_codes import OK
from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

    from starlette.types import ASGIApp

    from dvecdb.embedding.service_faults import Faults

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_STOP_SECONDS: Final = 1
"""For answers that are being made when it is told to stop."""
_KEEP_ALIVE_SECONDS: Final = 75
_BACKLOG: Final = 2_048


def embedding_service(  # noqa: PLR0917  # flags, which typer passes by name
    model: Annotated[
        Literal["fake", "minilm"],
        typer.Option(help="fake: hashed words, at once. minilm: all-MiniLM-L6-v2."),
    ] = "fake",
    host: Annotated[str, typer.Option(help="IP address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: a free one.")] = 8000,
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="Of the fake model. [384]", show_default=False)
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Ask for the key in this environment variable."),
    ] = None,
    texts_max: Annotated[int, typer.Option(min=1, help="Texts of one request at most.")] = 256,
    faults: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="What goes wrong, like errors=0.3. Repeat. docs/embedding.md"
        ),
    ] = None,
    allow_faults: Annotated[
        bool, typer.Option("--allow-faults", help="POST /faults changes what goes wrong.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of what goes wrong by chance.")] = 0,
) -> None:
    """Serve an embedding model over HTTP: /embed, /v1/embeddings, /health. For tests and trying."""
    from numpy.random import default_rng  # noqa: PLC0415  # lazy

    from dvecdb.embedding.local.models import open_model  # noqa: PLC0415  # lazy
    from dvecdb.embedding.service import ServiceLimits, make_app  # noqa: PLC0415  # lazy
    from dvecdb.node.sockets import bind, port_in_use  # noqa: PLC0415  # lazy

    key = _key(api_key_env, host)
    planned = _faults(faults or [])
    with contextlib.closing(bind(host, port, "--port")) as bound:
        try:
            bound.listen(_BACKLOG)
        except OSError as error:  # another process was faster
            raise port_in_use(host, port, "--port") from error
        opened = open_model(model, dimensions)
        app = make_app(
            opened,
            planned,
            draw=default_rng(seed).random,
            allow_faults=allow_faults,
            aliases=(model,),
            api_key=key,
            limits=ServiceLimits(texts_max=texts_max),
        )
        _serve(app, bound, opened.model.removeprefix("local:"))
    raise typer.Exit(OK)


def _key(name: str | None, host: str) -> str | None:
    """Return the API key to ask for.

    Raises:
        InvalidRequestError: `invalid-settings`, the variable is empty; `unsafe-address`, there is
            none and everybody could connect.
    """
    if name is None:
        if host in LOOPBACK:
            return None
        raise InvalidRequestError(
            Code.UNSAFE_ADDRESS,
            f"{host} is not loopback and no key is asked for, so that everybody could use it. "
            "Name an environment variable that holds one with --api-key-env",
            host=host,
        )
    key = os.environ.get(name)
    if not key:
        raise InvalidRequestError(
            Code.INVALID_SETTINGS, f"--api-key-env: the environment variable {name} is not set"
        )
    return key


def _faults(assignments: Sequence[str]) -> Faults:
    from dvecdb.embedding.service_faults import parse_faults  # noqa: PLC0415  # lazy

    for assignment in assignments:
        if "=" not in assignment:
            raise typer.BadParameter(
                f"{assignment!r} is no NAME=VALUE, like errors=0.3", param_hint="--faults"
            )
    return parse_faults(dict(one.split("=", 1) for one in assignments))


def _serve(app: ASGIApp, bound: socket.socket, title: str) -> None:
    """Serve until a signal, then until what is being answered is answered, or for a second."""
    import asyncio  # noqa: PLC0415  # lazy
    import logging  # noqa: PLC0415  # lazy

    import uvicorn  # noqa: PLC0415  # lazy
    import uvloop  # noqa: PLC0415  # lazy

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            typer.echo(f"Embedding service ready: {_url(bound)} ({title})")

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    async def run() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, int(number))
        await server.serve([bound])

    def stop(number: int) -> None:
        if server.should_exit:
            os._exit(128 + number)
        server.should_exit = True

    server = Server(
        uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
    )
    # Half an answer is only given on purpose.
    logging.getLogger("uvicorn.error").addFilter(lambda line: "without completing" not in line.msg)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def _url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
