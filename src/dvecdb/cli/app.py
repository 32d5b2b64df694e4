"""The program's table of commands, and what all of them share: groups in the help, usage errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from collections.abc import Sequence

RECORDS: Final = "Records"
COLLECTIONS: Final = "Collections"
RECOVERY: Final = "Recovery"
CARE: Final = "Care"
SERVER: Final = "Server"
_GROUPS: Final = (RECORDS, COLLECTIONS, RECOVERY, CARE, SERVER)

# What typer raises for wrong usage and everything like it, wherever this version of it keeps them.
CommandLineError: Final[type[Exception]] = typer.BadParameter.__mro__[2]
UsageError: Final[type[Exception]] = typer.BadParameter.__mro__[1]


class GroupedCommands(TyperGroup):
    """Shows the commands by what they are for (`rich_help_panel`)."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        shown = [(name, command) for name, command in commands if command and not command.hidden]
        limit = formatter.width - 6 - max(len(name) for name, _ in shown)
        for group in _GROUPS:
            rows: Sequence[tuple[str, str]] = [
                (name, command.get_short_help_str(limit))
                for name, command in shown
                if (getattr(command, "rich_help_panel", None) or SERVER) == group
            ]
            if rows:
                with formatter.section(group):
                    formatter.write_dl(rows)


app = typer.Typer(
    name="dvecdb",
    cls=GroupedCommands,
    help="A vector database that cannot lose an acknowledged write. Commands work on a server "
    "(--url, or DVECDB_URL; key in DVECDB_API_KEY) or on a data directory (--data-dir, or "
    "DVECDB_DATA_DIR).",
    epilog="Exit codes: 0 done and sound; 1 damage found or a check failed; 2 wrong usage, or a "
    "file or data directory that cannot be used; 3 not found; 4 conflict; 5 try again later; "
    "6 not allowed; 7 outcome unknown; 8 the server failed; 9 the budget is used up. More: "
    "docs/cli.md",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
