"""Opening: after a clean close, after a kill, with a million rows; and what it holds in memory.

Every opening is a new process with a warm page cache: what is measured is the program's work.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.data import ids_of, small_rows
from benchmarks.harness import Measure, Options, child, fresh, timed

from dvecdb.formats.framing import checksum

if TYPE_CHECKING:
    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]

BATCH = 1000
MILLION = 1_000_000
LIMIT = 10


def reopen(options: Options, rows: Rows, queries: Rows) -> list[Measure]:
    """Time to the first correct answer after a clean close, and memory after opening."""
    with fresh(options) as path:
        np.save(path / "rows.npy", rows)
        database = str(path / "data")
        child("build", path=database, rows=str(path / "rows.npy"), batch=BATCH)
        reads, answers = [], []
        for number in range(options.rounds):
            reads.append(timed(lambda: _read_checked(path / "rows.npy")))
            answers.append(_reopened(database, rows, queries[number]))
    answer = Measure("reopen to first answer", "s", _column(answers, "answer"))
    answer.notes = {
        "open s": float(np.median(_column(answers, "open"))),
        "warm search s": float(np.median(_column(answers, "warm"))),
        "reading the vectors with checksums s": float(np.median(reads)),
    }
    memory = Measure("RssAnon after open", "MB", _column(answers, "memory_open"))
    memory.notes = {"after a search": float(np.median(_column(answers, "memory_answered")))}
    return [
        answer.against(at_most=0.5),
        Measure("import", "s", _column(answers, "import")),
        memory.against(at_most=80),
    ]


def replay(options: Options, rows: Rows, queries: Rows) -> list[Measure]:
    """Time to the first correct answer after a kill just before a flush."""
    short = small_rows(600_000, 25)
    wide = rows[: 12 * BATCH]
    return [
        _replay(options, "replay rows of 6 KB", wide, queries, 100).against(at_most=2),
        _replay(options, "replay rows of 6 KB, one a commit", wide, queries, 1).against(at_most=2),
        _replay(options, "replay rows of 100 bytes", short, short, BATCH).against(at_most=4),
    ]


def _replay(options: Options, name: str, rows: Rows, queries: Rows, batch: int) -> Measure:
    answers, written = [], {}
    for number in range(options.rounds):
        with fresh(options) as path:
            np.save(path / "rows.npy", rows)
            database = str(path / "data")
            arguments = {"path": database, "rows": str(path / "rows.npy"), "batch": batch}
            child("fill-and-die", killed=True, **arguments)
            written = json.loads(Path(database + ".json").read_text(encoding="utf-8"))
            answers.append(_reopened(database, rows[: written["rows"]], queries[number]))
    measure = Measure(name, "s", _column(answers, "answer"))
    measure.notes = {
        "rows": written["rows"],
        "log MB": written["wal_bytes"] / 1e6,
        "open s": float(np.median(_column(answers, "open"))),
    }
    return measure


def million(options: Options) -> list[Measure]:
    """A million short rows: time and memory of opening, time of getting 1,000 of them."""
    with fresh(options) as path:
        np.save(path / "rows.npy", small_rows(MILLION, 32))
        database = str(path / "data")
        child("build", path=database, rows=str(path / "rows.npy"), batch=10 * BATCH)
        found = [
            child("get-many", path=database, rows=MILLION, count=1000, seed=number)
            for number in range(options.rounds)
        ]
    opening = Measure("1M rows: open", "s", _column(found, "open")).against(at_most=2)
    opening.notes = {"segments": found[0]["segments"]}
    memory = Measure("1M rows: RssAnon after open", "MB", _column(found, "memory"))
    memory.notes = {"after 7 gets of 1,000": float(np.median(_column(found, "memory_used")))}
    first = Measure("1M rows: first get of 1,000", "ms", _column(found, "first", 1e3))
    warm = Measure("1M rows: next get of 1,000", "ms", _column(found, "warm", 1e3))
    warm.notes = {"the same again ms": float(np.median(_column(found, "again", 1e3)))}
    return [
        opening,
        memory.against(at_most=120),
        first.against(at_most=20),
        warm.against(at_most=20),
    ]


def _reopened(database: str, rows: Rows, query: Rows) -> dict[str, Any]:
    expected = _oracle(rows, query)
    answer = child("reopen", path=database, query=query.tolist(), expected=expected)
    if not answer["correct"] or answer["count"] != len(rows):
        raise RuntimeError(f"wrong answer after opening: {answer}")
    return answer


def _oracle(rows: Rows, query: Rows) -> list[str]:
    """Return the ids of the nearest rows by cosine, in float64."""
    vector = query.astype(np.float64)
    distances = np.empty(len(rows))
    for start in range(0, len(rows), 4096):
        part = rows[start : start + 4096].astype(np.float64)
        lengths = np.linalg.norm(part, axis=1) * np.linalg.norm(vector)
        distances[start : start + 4096] = 1 - part @ vector / lengths
    nearest = np.argsort(distances, kind="stable")[:LIMIT]
    ids = ids_of(len(rows))
    return [ids[number] for number in nearest.tolist()]


def _read_checked(path: Path) -> None:
    """Read a file in pieces of 4 MB and checksum it: what verified reading costs at least."""
    file = os.open(path, os.O_RDONLY)
    offset = 0
    while piece := os.pread(file, 4 * 1024 * 1024, offset):
        checksum(piece)
        offset += len(piece)
    os.close(file)


def _column(found: list[dict[str, Any]], name: str, scale: float = 1.0) -> list[float]:
    return [item[name] * scale for item in found]
