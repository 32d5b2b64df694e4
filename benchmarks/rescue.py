"""Rescue: a legacy file with an overwritten head, from the call to durable and answering.

The limit is measured in the same round: reading the file once, and writing and syncing as many
bytes as its vectors have.
"""

from __future__ import annotations

import os
import random
import struct
import threading
import time
import uuid
from typing import TYPE_CHECKING

from benchmarks.harness import MEMORY_FACTOR, Measure, Options, fresh

import dvecdb
from dvecdb.testing.legacy_bytes import encode_entries

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]

MIB = 1024 * 1024
FILE_BYTES = 517 * MIB
LATE = 5
PIECE = 4 * MIB
WORDS = [
    "alpha",
    "report",
    "incident",
    "outage",
    "network",
    "storage",
    "zürich",
    "launch",
    "data",
    "signal",
]


def write_source(path: Path, rows: Rows) -> int:
    """Write the records end to end, then some anew over the first ones; return how many remain."""
    rng = random.Random(1)
    path.mkdir()
    ends = []
    with (path / "vectors.bin").open("wb") as file:
        for number, row in enumerate(rows):
            file.write(_record(rng, number, row))
            ends.append(file.tell())
        file.truncate(max(FILE_BYTES, 2 * ends[-1]) if ends[-1] > FILE_BYTES else FILE_BYTES)
        file.seek(0)
        for number, row in enumerate(rows[:LATE]):
            file.write(_record(rng, number + len(rows), row))
        torn = file.tell()
        os.fsync(file.fileno())
    return LATE + sum(1 for start in [0, *ends[:-1]] if start >= torn)


def _record(rng: random.Random, number: int, row: Rows) -> bytes:
    metadata = {
        "title": f"Item {number} {rng.choice(WORDS)}",
        "source": f"{rng.choice(WORDS)}/{rng.choice(WORDS)}",
        "page": rng.randrange(1, 400),
        "score": rng.random(),
        "tags": [rng.choice(WORDS), "x"],
        "lang": "en",
    }
    entries = dict(rng.sample(list(metadata.items()), len(metadata)))
    identifier = uuid.UUID(int=rng.getrandbits(128), version=4).bytes
    head = struct.pack("<Q", 16) + identifier + struct.pack("<Q", len(row))
    return head + row.tobytes() + b"\1" + encode_entries(entries)


def rescue(options: Options, rows: Rows) -> list[Measure]:
    """An import of all rows, against the limit, and the memory it takes."""
    over = Measure("import, over reading + writing", "x", [])
    took = Measure("import to durable and answering", "s", [])
    memory = Measure("RssAnon an import adds", "MB", [])
    room = MEMORY_FACTOR * rows.nbytes
    with fresh(options) as source:
        whole = write_source(source / "legacy", rows)
        for _ in range(options.rounds):
            with fresh(options, room) as place:
                seconds, anonymous = _import(source, place, whole, rows[-1])
            with fresh(options, room) as place:
                limit = _limit(source, place, rows.nbytes)
            took.values.append(seconds)
            over.values.append(seconds / limit)
            memory.values.append(anonymous)
            took.notes = {"limit": limit}
    return [took, over.against(at_most=2.5), memory.against(at_most=300)]


def _import(source: Path, place: Path, whole: int, query: Rows) -> tuple[float, float]:
    peak = [0.0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], _anonymous())

    with dvecdb.open(place / "data") as database:
        watcher = threading.Thread(target=watch)
        watcher.start()
        before = _anonymous()
        start = time.perf_counter()
        report = database.import_legacy(str(source / "legacy"), "rescued").report
        found = database.collection("rescued").search(query, limit=1)
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
        assert report.imported == whole, report
        assert found[0].distance < 1e-6
    return seconds, max(peak[0] - before, 0.0)


def _anonymous() -> float:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


def _limit(source: Path, place: Path, size: int) -> float:
    start = time.perf_counter()
    with (source / "legacy" / "vectors.bin").open("rb", buffering=0) as file:
        buffer = bytearray(PIECE)
        while file.readinto(buffer):
            pass
    target = place / "limit"
    with target.open("wb", buffering=0) as file:
        for _ in range(-(-size // PIECE)):
            file.write(buffer)
        os.fsync(file.fileno())
    return time.perf_counter() - start
