"""docs/operations/running.md says of every setting what the code says."""

import ast
import dataclasses
import inspect
import re
from itertools import pairwise
from pathlib import Path

from dvecdb import settings
from dvecdb.node.settings import ServerSettings, rules
from dvecdb.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "operations" / "running.md"


def shown(value):
    """Return a default as the page shows it."""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def table():
    """Return the lines that the table has to have."""
    defaults = {item.name: item.default for item in dataclasses.fields(ServerSettings)}
    return [
        f"| `{name}` | {shown(defaults[name])} | {rule.unit} | {rule.why} |"
        for name, rule in rules().items()
    ]


def test_the_table_of_settings_is_that_of_the_code():
    lines = re.findall(r"^\| `\w+` \| .* \| .* \| .* \|$", PAGE.read_text(), re.MULTILINE)
    assert lines == table(), "\n".join(["the table should be:", *table()])


def engine_table():
    """Return the lines about the engine's settings, with the sentences of the code."""
    (body,) = [
        node.body
        for node in ast.parse(inspect.getsource(settings)).body
        if isinstance(node, ast.ClassDef) and node.name == "Settings"
    ]
    said = {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    return [
        f"| `engine.{item.name}` | {item.default} | {said[item.name]} |"
        for item in dataclasses.fields(Settings)
    ]


def test_the_table_of_engine_settings_is_that_of_the_code():
    lines = re.findall(r"^\| `engine\.\w+` \| .* \| .* \|$", PAGE.read_text(), re.MULTILINE)
    assert lines == engine_table(), "\n".join(["the table should be:", *engine_table()])
