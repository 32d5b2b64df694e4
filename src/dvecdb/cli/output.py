"""How commands print: JSON documents, sizes and findings."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import typer

if TYPE_CHECKING:
    from dvecdb.records import Finding


def say(text: str) -> None:
    """Print a line. Once the reader of our output has gone, the rest goes nowhere."""
    try:
        typer.echo(text)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def print_json(value: Any) -> None:
    """Print one JSON document, indented."""
    say(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2).decode())


def size_text(size_bytes: int) -> str:
    """Return a size as people read it."""
    amount, units = float(size_bytes), ("B", "KiB", "MiB", "GiB")
    for unit in units:
        if amount < 1024 or unit == units[-1]:
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def finding_lines(finding: Finding) -> list[str]:
    """Return the lines that show a finding."""
    lines = [f"{finding.collection or '-'}: {finding.code}: {finding.message}"]
    if finding.lost:
        lines.append(f"  lost: {finding.lost}")
    return lines
