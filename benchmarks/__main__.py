"""Run the benchmarks and print a table; nothing here is asserted by a test.

python -m benchmarks [names...] [--rows N] [--rounds N] [--data FILE] [--dir DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from benchmarks import (
    embedding,
    http,
    http_writes,
    index,
    index_filters,
    index_http,
    index_million,
    index_peers,
    index_recall,
    index_writes,
    opening,
    recovery,
    rescue,
    search,
    writes,
)
from benchmarks.data import embeddings
from benchmarks.harness import Measure, Options, report

import dvecdb

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROWS = 78_796
ROUNDS_MIN = 5
NAMES = (
    "ingest",
    "bulk",
    "single",
    "threads",
    "reopen",
    "replay",
    "search",
    "million",
    "recovery",
    "rescue",
    "embed",
    "embed-million",
    "http",
    "http-writes",
    "index",
    "index-peers",
    "index-http",
    "index-million",
    "index-filters",
    "index-writes",
    "index-recall",
)


def main() -> int:
    """Run what was asked for. Returns 1 if a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="all, if none is given")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=ROUNDS_MIN)
    parser.add_argument("--data", type=Path, help="npz with int8 codes of real embeddings")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="on the disk to be measured")
    parser.add_argument("--json", type=Path, help="where to write every round")
    given = parser.parse_args()
    if given.rounds < ROUNDS_MIN:
        parser.error(f"a median needs at least {ROUNDS_MIN} rounds")
    directory = Path(tempfile.mkdtemp(prefix="dvecdb-benchmarks-", dir=given.dir))
    options = Options(given.rows, given.rounds, given.data, directory)
    try:
        measures = run(options, given.names or NAMES)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if given.json is not None:
        given.json.write_text(json.dumps(_document(options, measures), indent=1), encoding="utf-8")
    return 1 if any(measure.ok is False for measure in measures) else 0


def run(options: Options, names: list[str] | tuple[str, ...]) -> list[Measure]:
    """Run the named benchmarks in order, printing as they finish."""
    rows, queries = embeddings(options.data, options.rows)
    print(f"{len(rows)} x {rows.shape[1]} float32, median (min .. max) of {options.rounds}\n")
    print(f"{'measure':34} | {'value':36} | {'target':10} | {'ok':6} |\n{'-' * 100}", flush=True)
    benchmarks: Mapping[str, Callable[[], list[Measure]]] = {
        "ingest": lambda: writes.ingest(options, rows),
        "bulk": lambda: writes.bulk(options, rows),
        "single": lambda: writes.single(options, rows),
        "threads": lambda: writes.threads(options, rows),
        "reopen": lambda: opening.reopen(options, rows, queries),
        "replay": lambda: opening.replay(options, rows, queries),
        "search": lambda: search.search(options, rows, queries),
        "million": lambda: opening.million(options),
        "recovery": lambda: recovery.recovery(options, rows),
        "rescue": lambda: rescue.rescue(options, rows),
        "embed": lambda: embedding.embedding(options),
        "embed-million": lambda: embedding.embedding_memory(options),
        "http": lambda: http.http(options, rows, queries),
        "http-writes": lambda: http_writes.inserts(options, rows),
        "index": lambda: index.index(options, rows, queries),
        "index-peers": lambda: index_peers.index_peers(options, rows, queries),
        "index-http": lambda: index_http.index_http(options, rows, queries),
        "index-million": lambda: index_million.index_million(options),
        "index-filters": lambda: index_filters.index_filters(options, rows, queries),
        "index-writes": lambda: index_writes.index_writes(options, rows, queries),
        "index-recall": lambda: index_recall.index_recall(options, rows, queries),
    }
    measures: list[Measure] = []
    for name in NAMES:
        if name in names:
            found = benchmarks[name]()
            report(found)
            measures += found
    return measures


def _document(options: Options, measures: list[Measure]) -> dict[str, object]:
    return {
        "dvecdb": dvecdb.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cpus": os.cpu_count(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rows": options.rows,
        "rounds": options.rounds,
        "data": "given" if options.data is not None else "synthetic",
        "measures": [measure.as_json() for measure in measures],
    }


if __name__ == "__main__":
    raise SystemExit(main())
