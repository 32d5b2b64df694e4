"""`dvecdb config`: what a server would run with, and from where each value comes."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import typer

from dvecdb.cli.output import print_json, say
from dvecdb.cli.serve import Assignments, Config, load_settings

app = typer.Typer(
    name="config", help="Settings of a server: file < environment < flags.",
    rich_markup_mode=None, no_args_is_help=True,
)  # fmt: skip

Json = typer.Option(False, "--json", help="Print one JSON document.")


@app.command()
def check(config: Config = None, assign: Assignments = None, as_json: bool = Json) -> None:
    """Check the settings of the file, the environment and --set. Starts nothing."""
    loaded = load_settings(config, {}, assign)
    given = sum(origin != "default" for origin in loaded.origins.values())
    if as_json:
        print_json({"ok": True, "given": given})
    else:
        say(f"the settings are sound; {given} are not at their default")


@app.command()
def show(config: Config = None, assign: Assignments = None, as_json: bool = Json) -> None:
    """Show every setting, its value and where it comes from. Never a key."""
    from dvecdb.node.settings import rules  # noqa: PLC0415  # lazy

    loaded = load_settings(config, {}, assign)
    values: dict[str, Any] = {name: getattr(loaded.settings, name) for name in rules()}
    engine = dataclasses.asdict(loaded.settings.engine)
    values |= {f"engine.{name}": value for name, value in engine.items()}
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "value": list(value) if isinstance(value, tuple) else value,
            "origin": loaded.origins[name],
            "unit": rules()[name].unit if name in rules() else None,
        }
        for name, value in values.items()
    ]
    has_key = bool(os.environ.get("DVECDB_API_KEY"))
    if as_json:
        print_json({"settings": rows, "api_key": "set, not shown" if has_key else None})
        return
    width = max(len(row["name"]) for row in rows)
    shown = [(row, _text(row["value"])) for row in rows]
    value_width = min(24, max(len(text) for _, text in shown))
    for row, text in shown:
        say(f"{row['name']:<{width}}  {text:<{value_width}}  {row['origin']}")
    if has_key:
        say(f"{'(client) api_key':<{width}}  {'set, not shown':<{value_width}}  DVECDB_API_KEY")


def _text(value: Any) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, list) else str(value)
