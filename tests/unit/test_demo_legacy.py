"""The broken directory of the demo: the bytes of the old format, and what is left of them."""

import struct
import uuid

import numpy as np
import pytest

from dvecdb.cli import demo_legacy
from dvecdb.cli.demo_legacy import Plan

PLANS = [demo_legacy.SMALL, Plan(50, 1, 3), Plan(2_500, 20, 8), Plan(300, 7, 1)]


def read_record(data, at):
    """Return id, vector bytes, metadata and end of the record at a place of a file."""
    mark, identity, dimension = struct.unpack_from("<Q16sQ", data, at)
    assert mark == 16
    at += 32
    vector = data[at : at + 4 * dimension]
    tag, entries = struct.unpack_from("<BQ", data, at + 4 * dimension)
    assert tag == 1
    at += 4 * dimension + 9
    metadata = {}
    for _ in range(entries):
        key, at = read_text(data, at)
        if key == "year":
            (metadata[key],) = struct.unpack_from("<Q", data, at)
            at += 8
        else:
            metadata[key], at = read_text(data, at)
    return (str(uuid.UUID(bytes=identity)), vector, metadata), at


def read_text(data, at):
    (length,) = struct.unpack_from("<Q", data, at)
    return data[at + 8 : at + 8 + length].decode(), at + 8 + length


def rows(chunks):
    return [
        (name, vector.tobytes(), value)
        for chunk in chunks
        for name, vector, value in zip(chunk.ids, chunk.vectors, chunk.metadata, strict=True)
    ]


@pytest.mark.parametrize("plan", PLANS)
def test_the_file_holds_the_late_records_then_half_a_record_then_the_old_ones(tmp_path, plan):
    written = demo_legacy.write_legacy(tmp_path / "old", plan)
    data = (tmp_path / "old" / "films" / "vectors.bin").read_bytes()
    assert len(data) == written.size_bytes
    found, at = [], 0
    for _ in range(plan.late):
        record, at = read_record(data, at)
        found.append(record)
    assert at == written.torn_at
    oldest = rows(demo_legacy.chunks(plan, written.first_whole, written.first_whole + 1))[0]
    at = data.index(struct.pack("<Q16s", 16, uuid.UUID(oldest[0]).bytes), at)
    while at < len(data) and data[at] == 16:
        record, at = read_record(data, at)
        found.append(record)
    assert not any(data[at:])
    late = rows(demo_legacy.chunks(plan, plan.rows - plan.late, plan.rows))
    assert found == late + rows(demo_legacy.survivors(plan, written))[: -plan.late]
    assert len(found) == written.whole
    torn = plan.rows - written.gone - written.whole
    assert torn in {0, 1}


def test_the_size_is_that_of_the_one_that_was_lost():
    """Records one by one into a file that grows by doubling: 517 MiB."""
    ends = np.cumsum([6_270] * 78_784).tolist()
    assert 515 < demo_legacy._capacity(ends) / 2**20 < 518.6


def test_a_part_of_the_records_is_the_same_as_in_all_of_them():
    plan = Plan(5_000, 3, 4)
    every = rows(demo_legacy.chunks(plan, 0, plan.rows))
    assert rows(demo_legacy.chunks(plan, 2_000, 4_500)) == every[2_000:4_500]
    assert len({name for name, *_ in every}) == plan.rows
