"""What the reader of d-vecDB's files does with single files that are made by hand."""

from __future__ import annotations

import struct
import time
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import numpy as np
import pytest

from dvecdb.rescue.salvage import Choice
from dvecdb.rescue.sources import read_source
from dvecdb.testing.legacy_bytes import Op, encode_body, encode_entry, insert_fields

if TYPE_CHECKING:
    from pathlib import Path

    from dvecdb.records import Metadata
    from dvecdb.reports import ImportReport

HANG_SECONDS = 30.0


def identifier(number: int) -> bytes:
    return UUID(int=number, version=4).bytes


def body(number: int, vector: Any, metadata: Metadata | None = None) -> bytes:
    stored = np.asarray(vector, "<f4").tobytes()
    return encode_body(identifier(number), stored, metadata, json_text=False)


def insert(record: bytes, version: int) -> bytes:
    return encode_entry(version, identifier(99), 1, Op.INSERT, insert_fields("c", record))


def read(
    tmp_path: Path, vectors: bytes, log: bytes | None = None
) -> tuple[dict[int, tuple[list[float], Any]], ImportReport]:
    """Return vector and metadata by the number of an id, and the report."""
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "vectors.bin").write_bytes(vectors + bytes(4096))
    if log is not None:
        (tmp_path / "wal").write_bytes(log)
    salvage = read_source(str(tmp_path / "c"), Choice())
    try:
        rows = [row for piece in salvage.vectors.pieces(64) for row in piece.tolist()]
        found = {
            UUID(text).int & 0xFFFF: (row, msgspec.json.decode(stored) if stored else None)
            for text, row, stored in zip(salvage.ids, rows, salvage.metadata, strict=True)
        }
        return found, salvage.report
    finally:
        salvage.close()


def vector(number: int, dimension: int) -> list[float]:
    values = np.random.default_rng(number).normal(size=dimension).astype("<f4")
    return [float(value) for value in values]


@pytest.mark.parametrize("keys", [["a"], ["aaa", "bbb", "ccc"], ["k1", "k2", "k3", "k4", "k5"]])
def test_texts_of_sixteen_bytes_do_not_vote_for_a_dimension(tmp_path, keys):
    random = Random(1)
    rows = {
        number: {key: f"{random.getrandbits(64):016x}" for key in random.sample(keys, len(keys))}
        for number in range(1, 200)
    }
    found, report = read(
        tmp_path, b"".join(body(number, vector(number, 8), row) for number, row in rows.items())
    )
    assert report.dimension == 8
    assert {number: row for number, (_, row) in found.items()} == rows


@pytest.mark.parametrize(
    "value",
    [list(range(1, 31)), [f"w{n}" for n in range(60)], [0.5 + n for n in range(384)]],
    ids=["integers", "texts", "floats"],
)
def test_long_arrays_in_metadata_are_read(tmp_path, value):
    rows = {number: {"t": "abc", "a": [*value[number:], *value[:number]]} for number in range(40)}
    found, report = read(
        tmp_path, b"".join(body(number, vector(number, 16), row) for number, row in rows.items())
    )
    assert {number: row for number, (_, row) in found.items()} == rows
    assert report.exact == len(rows)
    assert report.lost == []


@pytest.mark.parametrize("keys", [25, 60])
def test_many_keys_in_metadata_are_read(tmp_path, keys):
    rows = {n: {f"key{key}": f"v{n * key % 100}" for key in range(keys)} for n in range(40)}
    found, report = read(
        tmp_path, b"".join(body(number, vector(number, 16), row) for number, row in rows.items())
    )
    assert {number: row for number, (_, row) in found.items()} == rows
    assert report.exact == len(rows)


def test_a_wrong_length_in_an_old_log_hides_no_other_entry(tmp_path):
    entries = [insert(body(n, vector(n, 8), {"t": "abc"}), 1) for n in range(1, 21)]
    log = bytearray(b"".join(entries))
    at = 4 * len(entries[0])
    struct.pack_into("<I", log, at, struct.unpack_from("<I", log, at)[0] + 512)
    found, report = read(tmp_path, b"", bytes(log))
    assert sorted(found) == [n for n in range(1, 21) if n != 5]
    assert [(item.file, item.start, item.end) for item in report.lost] == [
        ("wal", at, at + len(entries[4]))
    ]


def test_a_log_of_false_entries_is_given_up_in_time(tmp_path):
    count = 40_000
    log = b"".join(
        struct.pack("<IIQ24xII", 0xDEADBEEF, (count - n) * 48 - 8, 16, 1, 2) for n in range(count)
    )
    begun = time.monotonic()
    found, report = read(tmp_path, body(1, [1.0, 2.0, 3.0]), log)
    assert time.monotonic() - begun < HANG_SECONDS
    assert sorted(found) == [1]
    assert [(item.start, item.end) for item in report.lost] == [(0, len(log))]


@pytest.mark.parametrize(
    ("first", "second"), [([0.5, 1, 0, 1], [1, 1, 0, 1]), ([3, 4, 5, 6], [7, 8, 9, 1])]
)
def test_what_the_file_has_behind_the_end_of_the_log_is_newer(tmp_path, first, second):
    """The log of newer servers is behind; an id may get back what it held, or nearly that."""
    log = insert(body(1, second), 2) + insert(body(1, first), 2)
    found, _ = read(
        tmp_path, body(1, second) + body(1, first) + body(1, second) + body(2, first), log
    )
    assert found[1][0] == second


def test_a_large_torn_record_begins_an_older_run(tmp_path):
    """Larger than metadata that is searched for its end: the head is newer all the same."""
    old = b"".join(body(n, vector(n, 6000), {"v": "old", "n": n}) for n in range(1, 31))
    new = b"".join(body(n, vector(-n % 97, 6000), {"v": "newer", "n": n}) for n in range(21, 26))
    found, report = read(tmp_path, new + old[len(new) :])
    assert [row["v"] for n, (_, row) in found.items() if 21 <= n <= 25] == ["newer"] * 5
    assert len(report.lost) == 1


def test_an_older_vector_with_zeros_in_it_is_no_hole(tmp_path):
    half = [*([1.0] * 128), *([0.0] * 128)]
    old = b"".join(body(n, half, {"v": "old", "n": n}) for n in range(1, 31))
    new = b"".join(body(n, half, {"v": "newer", "n": n}) for n in range(21, 26))
    found, _ = read(tmp_path, new + old[len(new) :])
    assert [row["v"] for n, (_, row) in found.items() if 21 <= n <= 25] == ["newer"] * 5
