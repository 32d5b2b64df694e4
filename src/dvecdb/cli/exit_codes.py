"""What the command's exit codes mean. Documented to users: append only."""

from __future__ import annotations

from typing import Final

OK: Final = 0
DAMAGE: Final = 1
"""Damage was found, or a check failed."""
USAGE: Final = 2
"""Wrong arguments, or a data directory that cannot be opened."""
INTERRUPTED: Final = 130
