"""Search in words: the embedding service makes a vector of them, dvecdb finds what is near.

    python -m demo.ask "somebody stole the passwords"
    python -m demo.ask "ransomware" --where kind=technique

DVECDB_URL and FASTAPI_URL say where both are; the tour writes them into a file `environment`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import dvecdb
from demo.programs import ask
from demo.world import READABLE
from dvecdb.errors import DvecdbError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dvecdb.results import Hit


def lines_of(hits: Iterable[Hit]) -> Iterator[str]:
    """Yield a line for each hit: how near, which record, its title."""
    for hit in hits:
        found = hit.metadata or {}
        year = f" ({found['year']})" if found.get("year") else ""
        yield f"{hit.distance:.3f}  {found['reference']:<10}  {found['title']}{year}"[:84]


def main(arguments: list[str]) -> int:
    """Print the records that are nearest to the words; return the exit code."""
    parser = argparse.ArgumentParser("python -m demo.ask", description=(__doc__ or "").strip())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("words", help="what to look for")
    parser.add_argument("-n", "--limit", type=int, default=5, metavar="N")
    parser.add_argument("--where", metavar="FIELD=VALUE", help="only records like this")
    parser.add_argument("--collection", default=READABLE, metavar="NAME")
    given = parser.parse_args(arguments)
    server, service = os.environ.get("DVECDB_URL"), os.environ.get("FASTAPI_URL")
    if not server or not service:
        sys.stderr.write("error: DVECDB_URL and FASTAPI_URL are not set; see 'environment'\n")
        return 2
    where: dict[str, Any] = {}
    if given.where:
        field, _, value = given.where.partition("=")
        where[field] = int(value) if value.isdecimal() else value
    try:
        vector = ask(f"{service}/embed", {"text": given.words})["embeddings"][0]
        with dvecdb.connect(server) as database:
            found = database.collection(given.collection)
            hits = found.search(vector, limit=given.limit, where=where or None)
    except (OSError, DvecdbError, json.JSONDecodeError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.writelines(f"{line}\n" for line in lines_of(hits))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
