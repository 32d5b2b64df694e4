"""Put runs into the page of benchmarks: `python -m benchmarks.peers.page JSON...`.

What stands between the two marks of docs/benchmarks.md is written anew, tables and pictures, so no
figure is ever typed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.peers.table import absent, as_markdown, tables

DOCS = Path(__file__).resolve().parents[2] / "docs"
BEGIN = "<!-- benchmarks.peers.page writes from here -->"
END = "<!-- to here -->"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("runs", nargs="+", type=Path, help="what --json wrote")
    parser.add_argument("--page", type=Path, default=DOCS / "benchmarks.md")
    given = parser.parse_args()
    from benchmarks.peers.plots import draw  # what only draws needs no test

    images = given.page.parent / "images"
    sections = []
    for path in given.runs:
        document = json.loads(path.read_text(encoding="utf-8"))
        sections.append(section(document, draw(document, images)))
    text = given.page.read_text(encoding="utf-8")
    given.page.write_text(replaced(text, "\n\n".join(sections)), encoding="utf-8")


def replaced(page: str, middle: str) -> str:
    """Return the page with other text between the marks."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"the page has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{middle}\n\n{END}{after}"


def section(document: dict[str, Any], pictures: list[Path]) -> str:
    """Return what the page says of one run."""
    data = "real embeddings" if document["data"] == "given" else "low-rank mixtures"
    parts = [
        f"### {document['rows']:,} x {document['dimension']}",
        (
            f"{document['time'][:10]}, {document['cpus']} processors, Python {document['python']}, "
            f"{data}; medians of {document['rounds']} rounds."
        ),
    ]
    size = f"{document['rows']:,} x {document['dimension']}"
    parts += [f"![{size}](images/{picture.name})" for picture in pictures]
    for caption, table in tables(document["systems"]):
        parts += [f"**{caption}**", as_markdown(table)]
    missing = absent(document["systems"])
    if missing:
        parts.append("\n".join(f"* {line}" for line in missing))
    parts.append(_durability(document["systems"]))
    return "\n\n".join(parts)


def _durability(systems: list[dict[str, Any]]) -> str:
    lines = ["When a row is on the disk:", ""]
    lines += [f"* {item['title']}: {item['durability']}" for item in systems if item["durability"]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
