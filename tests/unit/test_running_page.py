"""docs/operations/running.md says of every setting what the code says."""

import dataclasses
import re
from pathlib import Path

from dvecdb.node.settings import ServerSettings, rules

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
