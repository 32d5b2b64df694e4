"""Damage of every kind to our own directories: what comes back was there, or says that it may not.

The oracle is the history: every row that comes back without a doubt is as of the commit that the
report names, every other row once was, and what is missing is named. What one damaged byte may cost
is known from the undamaged files.
"""

import contextlib
import dataclasses
import os
import re
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.rescue.own_directories import (
    FORGETTING,
    MERGING,
    Made,
    assert_whole,
    judge,
    make,
    make_merged,
)

from dvecdb.errors import DvecdbError
from dvecdb.formats import segment_file as sf
from dvecdb.formats.framing import decode_sections, encode_sections, padded, padding
from dvecdb.rescue.own import holders as holders_module
from dvecdb.rescue.own.reading import read_own
from dvecdb.rescue.salvage import Choice
from dvecdb.settings import Settings
from dvecdb.testing.blast_radius import Radius
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.history import Action
from dvecdb.testing.recording import Recorder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SOAK = bool(os.environ.get("DVECDB_SOAK"))
FLIPS = 20_000 if SOAK else 250
MAKERS = {
    "apart": make,
    "killed": lambda: make(closed=False),
    "merged": lambda: make_merged(MERGING),
    "forgetting": lambda: make_merged(FORGETTING),
}
_made = {}


def directory(name):
    if name not in _made:
        _made[name] = MAKERS[name]()
    return _made[name]


@pytest.fixture(params=MAKERS)
def made(request):
    return directory(request.param)


def damaged_bytes(data, how, rng):
    """Return `data` with one kind of damage, or None for a file that is gone."""
    place = rng.randrange(len(data))
    size = min(rng.choice([1, 8, 512, 4_096, 70_000]), len(data) - place)
    match how:
        case "flip":
            return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
        case "zero":
            return data[:place] + bytes(size) + data[place + size :]
        case "noise":
            return data[:place] + rng.randbytes(size) + data[place + size :]
        case "cut":
            return data[:place]
        case "longer":
            return data + rng.randbytes(size)
    return None


HOWS = ("flip", "zero", "noise", "cut", "longer", "delete")


def damage(made, rng, count):
    """Damage some files; return what is left and what was done."""
    done = []
    for name in rng.sample(made.truth(), min(count, len(made.truth()))):
        how = rng.choice(HOWS)
        data = damaged_bytes(made.tree[name], how, rng)
        made = made.without(name) if data is None else made.changed(name, data)
        done.append((how, name))
    return made, done


@given(st.sampled_from(sorted(MAKERS)), st.integers(0, 2**32), st.integers(1, 6))
def test_nothing_is_invented_or_lost_in_silence(name, seed, count):
    left, done = damage(directory(name), Random(seed), count)
    assert (judge(left).wrong, done) == ([], done)


@given(st.sampled_from(sorted(MAKERS)), st.integers(0, 2**32), st.integers(0, 8))
def test_a_directory_copied_in_part_is_no_other(name, seed, count):
    """Files that a copy did not come to are missing, and the one it was at is cut."""
    made, rng = directory(name), Random(seed)
    gone = rng.sample(made.truth(), min(count, len(made.truth())))
    left = made
    for path in gone[:-1]:
        left = left.without(path)
    for path in gone[-1:]:
        left = left.changed(path, damaged_bytes(made.tree[path], "cut", rng))
    assert (judge(left).wrong, gone) == ([], gone)


def test_each_file_that_is_missing_costs_what_it_held_at_most(made):
    radius = Radius({name: data for name, data in made.tree.items() if "/collections/" in name})
    for path in made.truth():
        verdict = judge(made.without(path))
        assert (verdict.wrong, path) == ([], path)
        if path.endswith("vectors.bin"):
            held = {radius.ids[row] for row in radius.all_rows(path)}
            assert verdict.lost <= held
            assert verdict.report.doubtful == []
        if path.endswith(".json"):
            assert verdict.lsn == made.last
            assert (verdict.lost, verdict.report.doubtful) == (set(), [])


@pytest.mark.parametrize("name", MAKERS)
def test_a_flipped_bit_costs_at_most_the_rows_of_its_block(name):
    made = directory(name)
    radius = Radius({name: data for name, data in made.tree.items() if "/collections/" in name})
    rng = Random(4_711)
    sizes = [len(made.tree[path]) for path in made.truth()]
    costs = 0
    for _ in range(FLIPS):
        (path,) = rng.choices(made.truth(), sizes)
        offset = rng.randrange(len(made.tree[path]))
        data = bytearray(made.tree[path])
        data[offset] ^= 1 << rng.randrange(8)
        verdict = judge(made.changed(path, bytes(data)))
        where = f"{path} byte {offset}"
        assert (verdict.wrong, where) == ([], where)
        may = {radius.ids[row] for row in radius.rows(path, offset)}
        assert verdict.lost <= may, where
        assert verdict.flagged <= may, where
        is_tail = path.endswith(".wal") and verdict.lsn == made.last - 1
        assert verdict.lsn == made.last or is_tail, where
        costs += bool(verdict.lost or verdict.flagged)
    has_copies = name == "merged"  # what was merged lies beside it still
    assert (costs < FLIPS // 20) if has_copies else (costs > FLIPS // 20)


@given(st.integers(0, 2**32), st.integers(0, 40))
def test_noise_under_our_names_is_an_error_of_ours_or_nothing(seed, size):
    made, rng = directory("apart"), Random(seed)
    for path in made.truth():
        begin = made.tree[path][:size] if rng.random() < 0.5 else b""
        made = made.changed(path, begin + rng.randbytes(rng.choice([0, 100, 5_000])))
    verdict = judge(made)
    assert (verdict.found, verdict.wrong) == ({}, [])


@given(st.sampled_from(["apart", "forgetting"]), st.integers(0, 2**32))
def test_control_data_that_is_sealed_but_senseless_breaks_nothing(name, seed):
    """Checksums keep accidents out, not malice: nothing is believed only because they fit."""
    made, rng = directory(name), Random(seed)
    path = rng.choice([path for path in made.truth() if path.endswith("records.bin")])
    made = made.changed(path, resealed(made.tree[path], rng)).without("/manifests/", "/wal/")
    with contextlib.suppress(DvecdbError):
        salvage = read_own(made.disk(), made.path, Choice())
        for _ in salvage.vectors.pieces(100):
            pass
        salvage.close()


def resealed(data, rng):
    """Return records with one section changed, and all checksums right."""
    head = sf.decode_head(data[: sf.HEAD_SIZE])
    sections = dict(decode_sections(data[sf.HEAD_SIZE : sf.HEAD_SIZE + head.control_size]))
    tag = rng.choice([tag for tag, payload in sections.items() if len(payload)])
    changed = bytearray(sections[tag])
    if tag == sf.DESCRIPTOR:
        text = bytes(changed).decode()
        numbers = re.findall(r"\d+", text)
        value = str(rng.choice([0, 1, 7, 2**31, 2**63, 2**64 + 1]))
        changed = bytearray(text.replace(rng.choice(numbers), value, 1).encode())
    else:
        place = rng.randrange(len(changed))
        part = bytes(rng.choice([0, 1, 127, 255]) for _ in range(8))
        changed[place : place + 8] = part[: len(changed) - place]
    control = encode_sections({**sections, tag: bytes(changed)})
    body = data[head.body_offset : head.body_offset + head.body_size]
    offset = sf.align_page(sf.HEAD_SIZE + padded(len(control)))
    new = dataclasses.replace(
        head,
        control_size=len(control),
        control_checksum=sf.control_checksum(control, head.segment_uuid),
        body_offset=offset,
    )
    first, last = sf.encode_head(new)
    stored = control + padding(len(control))
    gap = bytes(offset - sf.HEAD_SIZE - len(control))
    return first + control + gap + body + padding(len(body)) + stored + last


def test_a_reader_that_trusts_damaged_vectors_is_caught(monkeypatch):
    """The control: the judge sees what no checksum kept back."""

    class Trusting(holders_module.SegmentRows):
        def __init__(self, opened, *, is_shared):
            super().__init__(opened, is_shared=is_shared)
            self.bad_vectors[: len(self.segment.vectors)] = False

    monkeypatch.setattr("dvecdb.rescue.own.reading.SegmentRows", Trusting)
    wrong = 0
    for seed in range(60):
        left, _ = damage(directory("apart"), Random(seed), 4)
        wrong += bool(judge(left).wrong)
    assert wrong > 3


# --- any history -----------------------------------------------------------------------------


def random_story(seed):
    """Return a directory of a random history: tiny segments, merges, reopenings and crashes."""
    rng = Random(seed)
    settings = Settings(
        bulk_bytes=rng.choice([200, 100_000]), flush_bytes=rng.choice([1_500, 100_000]),
        flush_commits=rng.choice([2, 5, 100]), merge_bytes=rng.choice([2_000, 30_000]),
        merge_count=rng.choice([2, 50]), history_hours=rng.choice([0, 24]), settle_seconds=0,
        compact_dead_percent=rng.choice([1, 30]), orphan_age_hours=rng.choice([0, 24]),
        ballast_bytes=0, low_water_bytes=0, wal_reserve_bytes=512, wal_extend_bytes=512,
    )  # fmt: skip
    recorder = Recorder(MemoryDisk(record=False), settings)
    recorder.open()
    recorder.create("docs", 4)
    words = [f"id {number}" for number in range(12)]
    state = set()
    for number in range(rng.randrange(1, 25)):
        chosen = rng.sample(words, rng.randrange(1, 9))
        gone = [word for word in chosen if word in state]
        if gone and rng.random() < 0.3:
            recorder.write("docs", Action("delete", deletes=tuple(gone)))
            state -= set(gone)
        else:
            vectors = np.array([[number, place, 1, 2] for place in range(len(chosen))], np.float32)
            metadata = tuple({"n": number} if rng.random() < 0.7 else None for _ in chosen)
            recorder.write("docs", Action("upsert", tuple(chosen), vectors, metadata))
            state |= set(chosen)
        recorder.clock.advance(1)
        match rng.random():
            case chance if chance < 0.2:
                recorder.database.collection("docs").flush()
            case chance if chance < 0.3:
                recorder.close()
                recorder.open()
    flushed = recorder.database.collection("docs").stats().flushed_lsn
    if rng.random() < 0.5:
        recorder.close()
    (history,) = recorder.histories().values()
    return Made(recorder.disk.clone().tree(), history, flushed=flushed)


@given(st.integers(0, 2**32))
def test_any_history_comes_back_from_what_is_enough_for_it(seed):
    made = random_story(seed)
    assert_whole(judge(made), made)
    assert_whole(judge(made.without("/manifests/")), made)
    assert_whole(judge(made.without("/manifests/", "collection.json", "/derived/")), made)
    without_log = judge(made.without("/wal/"))
    assert without_log.wrong == []
    if made.flushed:
        assert without_log.lsn >= made.flushed


@given(st.integers(0, 2**32), st.integers(1, 5))
def test_any_history_that_is_damaged_is_not_made_up(seed, count):
    left, done = damage(random_story(seed), Random(seed + 1), count)
    assert (judge(left).wrong, done) == ([], done)
