"""Make embeddings of real texts: `python -m benchmarks.peers.texts FILE [--count N]`.

FILE is an npz for `--data`. The texts are the security records of the demo, the model is the one of
the extra `local`, 384 dimensions, some 30 texts a second: 20,000 take about ten minutes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from demo.records import read_records
from demo.world import text_of

from dvecdb.embedding.local.minilm import MiniLm

if TYPE_CHECKING:
    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]

QUERIES = 500
BATCH = 256
CODE_MAX = 127


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, default=20_000, help="of rows; queries come to that")
    given = parser.parse_args()
    texts = list(dict.fromkeys(text_of(record) for record in read_records()))
    wanted = given.count + QUERIES
    if wanted > len(texts):
        parser.error(f"there are {len(texts)} texts, {QUERIES} of them for queries")
    order = np.random.default_rng(14).permutation(len(texts))[:wanted]
    rows = _embedded([texts[at] for at in order])
    mean = rows.mean(axis=0)
    query, query_scale = codes(rows[:QUERIES] - mean)
    base, base_scale = codes(rows[QUERIES:] - mean)
    np.savez(
        given.file,
        mean=mean,
        base=base,
        base_scale=base_scale,
        query=query,
        query_scale=query_scale,
    )


def codes(rows: Rows) -> tuple[npt.NDArray[np.int8], Rows]:
    """Return int8 codes of rows, and by what to multiply each."""
    scale = np.abs(rows).max(axis=1) / np.float32(CODE_MAX)
    return np.rint(rows / scale[:, None]).astype(np.int8), scale


def _embedded(texts: list[str]) -> Rows:
    model = MiniLm()
    parts, begun = [], time.monotonic()
    for start in range(0, len(texts), BATCH):
        parts.append(model.embed(texts[start : start + BATCH]).vectors)
        done = start + len(parts[-1])
        print(f"{done:,} of {len(texts):,} in {time.monotonic() - begun:.0f} s", flush=True)
    model.close()
    return np.concatenate(parts)


if __name__ == "__main__":
    main()
