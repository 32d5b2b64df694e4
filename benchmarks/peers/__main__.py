"""Measure dvecdb and other systems on the same vectors in one run, at equal recall.

python -m benchmarks.peers [--rows N] [--dimension D] [--data FILE] [--dir DIR] [--only NAMES]
    [--rounds N] [--seconds S] [--json FILE] [--plots DIR]
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
from typing import Any

import numpy as np
from benchmarks.peers import workload
from benchmarks.peers.registry import ENTRIES, Entry, entry
from benchmarks.peers.results import as_json
from benchmarks.peers.run import Run
from benchmarks.peers.table import absent, as_text, tables

import dvecdb

THREAD_SETTINGS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_CORETYPE")


def main() -> int:
    """Run, print, and write what was asked for. Returns 1 if a system failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--data", type=Path, help="npz with int8 codes of real embeddings")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="on the disk to be measured")
    parser.add_argument("--only", type=_names, default=list(ENTRIES), help="a,b,...")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round, at least")
    parser.add_argument("--json", type=Path, help="where to write every round")
    parser.add_argument("--plots", type=Path, help="a directory for pictures")
    given = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="dvecdb-peers-", dir=given.dir))
    directory.chmod(0o755)  # PostgreSQL, started by root, runs as another user
    try:
        made = workload.make(given.data, given.rows, given.dimension)
        run = Run(made, directory, given.only, rounds=given.rounds, seconds=given.seconds)
        run.everything(lambda: _keep(given, run))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    document = _document(given, as_json(run.results))
    for caption, table in tables(document["systems"]):
        print(f"\n{caption}\n\n{as_text(table)}")
    print("\n" + "\n".join(absent(document["systems"])))
    if given.plots is not None:
        from benchmarks.peers.plots import draw

        draw(document, given.plots)
    return int(any(system["status"] == "failed" for system in document["systems"]))


def _keep(given: argparse.Namespace, run: Run) -> None:
    if given.json is not None:
        document = _document(given, as_json(run.results))
        given.json.write_text(json.dumps(document, indent=1), encoding="utf-8")


def _names(text: str) -> list[Entry]:
    try:
        return [entry(name) for name in text.split(",")]
    except StopIteration:
        names = ",".join(item.name for item in ENTRIES)
        raise argparse.ArgumentTypeError(f"{text!r} is not of {names}") from None


def _document(given: argparse.Namespace, systems: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "dvecdb": dvecdb.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cpus": os.cpu_count(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rows": given.rows,
        "dimension": given.dimension,
        "rounds": given.rounds,
        "seconds": given.seconds,
        "data": "given" if given.data is not None else "synthetic",
        "threads": {name: os.environ.get(name) for name in THREAD_SETTINGS},
        "systems": systems,
    }


if __name__ == "__main__":
    raise SystemExit(main())
