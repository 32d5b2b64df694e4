"""The figures of a run as a table, from what its JSON holds."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.results import CLIENTS, FILTER_LEVEL, LEVELS
from benchmarks.peers.workload import FILTERS

Table = list[list[str]]
MB = 1e6


def load_table(systems: list[dict[str, Any]]) -> Table:
    """Return what it takes to fill, keep, open and copy."""
    head = ["system", "version", "durable s", "searchable s", "disk MB", "memory MB"]
    head += ["restart s", "copy s"]
    lines = [head]
    for system in measured(systems):
        wrong = "" if all(system["restarts_correct"]) else " (wrong)"
        lines.append(
            [
                system["title"],
                next(iter(system["versions"].values()), ""),
                number(system["durable"]),
                number(system["searchable"]),
                megabytes(system["disk"]),
                megabytes(system["memory"]),
                number(system["restart"]) + wrong,
                number(system["copy"]),
            ]
        )
    return lines


def search_table(systems: list[dict[str, Any]], clients: int) -> Table:
    """Return speed at equal recall, and how much faster dvecdb is than each."""
    head = ["system"]
    for level in LEVELS:
        head += [f"QPS at {level:g}", "recall", "p50 ms", "p99 ms", "dvecdb is"]
    lines = [head]
    for system in measured(systems):
        line = [system["title"]]
        for level in LEVELS:
            cell = find(system, level, None, clients)
            line += ["-"] * 5 if cell is None else [*speed(cell), *latency(cell), ratio(cell)]
        lines.append(line)
    return lines


def filter_table(systems: list[dict[str, Any]]) -> Table:
    """Return speed with filters."""
    head = ["system"]
    for below in FILTERS:
        head += [f"QPS at {below / 10:g} %", "recall", "dvecdb is"]
    lines = [head]
    for system in measured(systems):
        line = [system["title"]]
        for below in FILTERS:
            cell = find(system, FILTER_LEVEL, below, 1)
            line += ["-"] * 3 if cell is None else [*speed(cell), ratio(cell)]
        lines.append(line)
    return lines


def absent(systems: list[dict[str, Any]]) -> list[str]:
    """Return a line for each system that was not measured, and for what one cannot do."""
    lines = []
    for system in systems:
        if system["status"] == "not installed":
            lines.append(f"{system['title']}: not installed; pip install {system['install']}")
        elif system["status"] == "failed":
            lines.append(f"{system['title']}: failed; {system['error'].splitlines()[0]}")
        lines += [f"{system['title']}: {item}" for item in system["not_supported"]]
    return lines


def measured(systems: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the systems that have figures, those of one that failed later too."""
    return [system for system in systems if system["durable"] is not None]


def find(
    system: dict[str, Any], level: float, below: int | None, clients: int
) -> dict[str, Any] | None:
    """Return a figure of a system."""
    for cell in system["cells"]:
        if (cell["level"], cell["below"], cell["clients"]) == (level, below, clients):
            return cell if cell["rounds"] else None
    return None


def speed(cell: dict[str, Any]) -> list[str]:
    """Return QPS and the recall they were measured at; `<` where no effort reaches the level."""
    return [number(cell["qps"]), ("" if cell["reached"] else "< ") + f"{cell['recall']:.3f}"]


def latency(cell: dict[str, Any]) -> list[str]:
    """Return the median and the slowest hundredth."""
    return [number(cell["p50_ms"]), number(cell["p99_ms"])]


def ratio(cell: dict[str, Any]) -> str:
    """Return dvecdb's speed over this one's; none is given where the level was not reached."""
    if "ratio" not in cell or not cell["reached"]:
        return "-"
    return f"{number(cell['ratio'])}x"


def number(value: float | None) -> str:
    """Return three digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def megabytes(value: float | None) -> str:
    """Return a size."""
    return "-" if value is None else f"{value / MB:,.0f}"


def tables(systems: list[dict[str, Any]]) -> list[tuple[str, Table]]:
    """Return every table with its caption."""
    found = [("Filling, keeping, opening, copying", load_table(systems))]
    for clients in CLIENTS:
        name = "one client" if clients == 1 else f"{clients} clients"
        found.append((f"Searching, {name}", search_table(systems, clients)))
    return [*found, ("Searching with a filter, one client", filter_table(systems))]


def as_text(table: Table) -> str:
    """Return a table for a terminal."""
    widths = [max(len(line[at]) for line in table) for at in range(len(table[0]))]
    return "\n".join(
        "  ".join(
            item.ljust(width) if at == 0 else item.rjust(width)
            for at, (item, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    )


def as_markdown(table: Table) -> str:
    """Return a table for a page."""
    rule = ["---", *["---:"] * (len(table[0]) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [table[0], rule, *table[1:]])
