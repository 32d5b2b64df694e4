"""What makes a command of a function that works on a target: --url, --api-key, --data-dir, --json.

Every such command has these options; they are written down here and nowhere else.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Final, get_type_hints

import typer

from dvecdb.cli.app import app
from dvecdb.cli.options import ApiKey, DataDir, Json, Url

if TYPE_CHECKING:
    from collections.abc import Callable

_OPTIONS: Final = {"url": Url, "api_key": ApiKey, "data_dir": DataDir}


def on_target(
    name: str | None = None, *, group: str | None = None, parent: typer.Typer = app
) -> Callable[[Callable[..., int]], Callable[..., None]]:
    """Return what makes a command of `function(target, ..., as_json)`, which returns an exit code.

    name: of the command, default the function's; group: where the help of `app` lists it.
    """

    def decorate(function: Callable[..., int]) -> Callable[..., None]:
        hints = get_type_hints(function, localns={"Target": object}, include_extras=True)

        @functools.wraps(function)
        def run(url: str | None, api_key: str | None, data_dir: Any, **arguments: Any) -> None:
            from dvecdb.cli.target import find_target  # noqa: PLC0415  # lazy

            raise typer.Exit(function(find_target(url, api_key, data_dir), **arguments))

        del run.__annotations__, run.__wrapped__
        run.__signature__ = _signature(function, hints)  # type: ignore[attr-defined]
        parent.command(name, rich_help_panel=group)(run)
        return run

    return decorate


def _signature(function: Callable[..., int], hints: dict[str, Any]) -> inspect.Signature:
    """Return the parameters of `function` with the options of a target in place of the target."""
    own = [
        parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in {"target", "as_json"}
    ]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in _OPTIONS.items()
    ]
    as_json = inspect.Parameter(
        "as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json
    )
    return inspect.Signature([*own, *shared, as_json])
