"""Mutated legacy files and random bytes: a reader that neither fails, hangs, swells nor invents.

A row is invented unless somebody wrote its id with its vector, or both lie together in bytes that a
mutation touched, or a doubt says what was done to it. Whole records far from every mutation come
back. CI reads four thousand mutants, `make soak` 100,000; a failure names its seed.
"""

import os
import resource
import struct
import time
import uuid
from functools import cache
from random import Random

import msgspec
import numpy as np
import pytest

from dvecdb.errors import DvecdbError
from dvecdb.testing.legacy_bytes import MAGIC
from dvecdb.testing.legacy_judge import Found, nothing
from dvecdb.testing.legacy_reading import read
from dvecdb.testing.legacy_scenes import NAME, SCENES

SOAK = bool(os.environ.get("DVECDB_SOAK"))
SHARDS = 8
MUTANTS = (100_000 if SOAK else 4_000) // SHARDS
SECONDS_MAX = 5.0
GROWTH_BYTES_MAX = 300 << 20
DIMENSIONS = (1, 3, 8, 40)
HOSTILE = (
    struct.pack("<Q", 16),
    struct.pack("<Q", 2**63),
    struct.pack("<I", 2**31),
    struct.pack("<Q", 2**40),
    struct.pack("<Q", 16) * 4,
    MAGIC,
    b"\xff" * 24,
    bytes(40),
    b'{"a":',
)


@cache
def original(name, dimension):
    """Return a scene's files, what was written, and the whole records with their places."""
    scene = SCENES[name](11, dimension)
    files = {"wal": bytes(scene.server.log)} if scene.server.log else {}
    written = {(v.id, v.vector) for entry in scene.server.logged for v in entry.versions}
    whole = []
    if scene.path in scene.server.directories:
        data = bytes(scene.vectors.data)
        files[f"{NAME}/vectors.bin"] = data + bytes(min(100, scene.vectors.size - len(data)))
        truth = scene.truth(use_log=False)
        written |= truth.written
        written |= {(id, one.vector) for id, found in truth.allowed.items() for one in found}
        whole = [
            (append.offset, append.end, append.version.id)
            for append in scene.vectors.appends
            if data[append.offset : append.end] == append.stored
        ]
    return files, written, sorted(whole)


class Mutant:
    """Bytes, and where each came from: -1 for those that a mutation made."""

    def __init__(self, data, random, mutations):
        self.data = np.frombuffer(data, np.uint8)
        self.origin = np.arange(len(data))
        self.random = random
        for _ in range(mutations):
            random.choice(self.MUTATIONS)(self)

    def place(self, span=1):
        start = self.random.randrange(max(1, len(self.data)))
        return start, min(len(self.data), start + self.random.randrange(1, span + 1))

    def put(self, start, end, data):
        """Replace a range with new bytes of any number."""
        new = np.frombuffer(bytes(data), np.uint8)
        marks = np.full(len(new), -1)
        self.data = np.concatenate([self.data[:start], new, self.data[end:]])
        self.origin = np.concatenate([self.origin[:start], marks, self.origin[end:]])

    def flip(self):
        start, _ = self.place()
        if len(self.data):
            self.put(start, start + 1, [int(self.data[start]) ^ 1 << self.random.randrange(8)])

    def scramble(self):
        start, end = self.place(60)
        self.put(start, end, self.random.randbytes(end - start))

    def blank(self):
        start, end = self.place(700)
        self.put(start, end, bytes(end - start))

    def cut(self):
        start, _ = self.place()
        self.data, self.origin = self.data[:start], self.origin[:start]

    def remove(self):
        start, end = self.place(300)
        self.put(start, end, b"")

    def insert(self):
        start, _ = self.place()
        self.put(start, start, self.random.randbytes(self.random.randrange(1, 90)))

    def hostile(self):
        start, _ = self.place()
        new = self.random.choice(HOSTILE)
        self.put(start, start + self.random.choice((0, len(new))), new)

    def copy(self):
        start, end = self.place(500)
        target, _ = self.place()
        self.put(target, target + self.random.choice((0, end - start)), self.data[start:end])

    def append(self):
        size = self.random.randrange(1, 400)
        self.put(len(self.data), len(self.data), self.random.randbytes(size))

    MUTATIONS = (flip, flip, flip, scramble, blank, cut, remove, insert, hostile, copy, append)

    def untouched(self, start, end):
        span = self.origin[max(0, start) : end]
        return bool(
            len(span) == end - max(0, start) and span[0] >= 0 and (np.diff(span) == 1).all()
        )

    def holds_touched(self, id, vector):
        """Return whether id and vector lie together in bytes that are not all as written."""
        data, id_bytes = self.data.tobytes(), uuid.UUID(id).bytes
        at = data.find(id_bytes)
        while at != -1:
            vector_at = at + 24
            if data[vector_at : vector_at + len(vector)] == vector and not self.untouched(
                at - 12, vector_at + len(vector) + 1
            ):
                return True
            at = data.find(id_bytes, at + 1)
        return False

    def spared(self, whole):
        """Yield the ids of whole records that no mutation came near, their neighbours included."""
        for before, record, after in zip(whole, whole[1:], whole[2:], strict=False):
            if before[1] == record[0] and record[1] == after[0]:
                first = np.flatnonzero(self.origin == before[0])
                size = after[1] - before[0]
                if len(first) == 1 and self.untouched(int(first[0]), int(first[0]) + size):
                    yield record[2]


class Wrong(AssertionError):  # noqa: N818  # the word tests are read with
    """A reader did what it must not."""


def check(reader, root, mutants, written, whole):
    """Read mutated files with a reader and raise `Wrong` unless it behaves."""
    for name, mutant in mutants.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(mutant.data.tobytes())
    began = time.process_time()  # not how busy the machine is with others
    try:
        found = reader(root)
    except DvecdbError:
        found = nothing(None, 0)
    except Exception as error:
        raise Wrong(f"{type(error).__name__}: {error}") from error
    seconds = time.process_time() - began
    if seconds > SECONDS_MAX:
        raise Wrong(f"took {seconds:.1f} s")
    doubted = {doubt.id for doubt in found.report.doubtful} if found.report else set()
    for id, vector, metadata in zip(found.ids, found.vectors, found.metadata, strict=True):
        if metadata and not isinstance(msgspec.json.decode(metadata), dict):
            raise Wrong(f"metadata of {id} is no object")
        if (id, vector) in written or id in doubted:
            continue
        if not any(mutant.holds_touched(id, vector) for mutant in mutants.values()):
            raise Wrong(f"invented {id}")
    file = mutants.get(f"{NAME}/vectors.bin")
    if file is not None and found.report is not None:
        missing = set(file.spared(whole)) - set(found.ids)
        if missing - set(found.report.deleted_by_log):
            raise Wrong(f"lost {sorted(missing)}, far from any damage")


def ours(root):
    return read(root, 0, collection=NAME)


def mutated(seed):
    """Return one test case: mutated files and what is known of them."""
    random = Random(seed)
    if random.random() < 0.05:
        mutant = Mutant(noise(random), random, 1)
        mutant.origin[:] = -1  # nothing in it was ever written
        return {f"{NAME}/vectors.bin": mutant}, set(), []
    name, dimension = random.choice(sorted(SCENES)), random.choice(DIMENSIONS)
    files, written, whole = original(name, dimension)
    chosen = random.choice(sorted(files))
    count = random.choice((1, 1, 1, 2, 3, 8))
    mutants = {
        path: Mutant(data, random, count if path == chosen else 0) for path, data in files.items()
    }
    return mutants, written, whole


def noise(random):
    """Return random bytes, often with what a record is made of."""
    size = random.randrange(3000)
    parts = [*HOSTILE, random.randbytes(20), bytes(9), struct.pack("<Q", 3)]
    if random.random() < 0.3:
        return random.randbytes(size)
    data = b""
    while len(data) < size:
        data += random.choice(parts)
    return data


def test_a_file_that_ends_within_the_length_of_metadata_is_read(tmp_path):
    check(ours, tmp_path / "mutant", *mutated(158541315961547))


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_mutant_makes_the_reader_fail_hang_swell_or_invent(shard, tmp_path):
    first = int.from_bytes(os.urandom(6)) if SOAK else shard * MUTANTS
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(first, first + MUTANTS):
        mutants, written, whole = mutated(seed)
        root = tmp_path / "mutant"
        try:
            check(ours, root, mutants, written, whole)
        except Wrong as wrong:
            pytest.fail(f"seed {seed}: {wrong}")
        for path in sorted(root.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert growth < GROWTH_BYTES_MAX


# --- negative controls: readers that are wrong on purpose -----------------------------------------


def records(data, *, padded=False):
    """Yield what looks like a raw record wherever one looks like it."""
    at = data.find(struct.pack("<Q", 16))
    while at != -1:
        head = data[at + 8 : at + 32]
        if len(head) == 24:
            (dimension,) = struct.unpack_from("<Q", head, 16)
            vector = data[at + 32 : at + 32 + 4 * dimension] if dimension < 100 else b""
            if vector and (padded or len(vector) == 4 * dimension):
                yield str(uuid.UUID(bytes=head[:16])), vector.ljust(4 * dimension, b"\0")
        at = data.find(struct.pack("<Q", 16), at + 1)


def found_in(rows):
    from dvecdb.reports import ImportReport

    rows = list(rows)
    ids, vectors = [row[0] for row in rows], [row[1] for row in rows]
    return Found(ids, vectors, [b""] * len(rows), ImportReport(source=""), 0)


def file_of(root):
    path = root / NAME / "vectors.bin"
    return path.read_bytes() if path.exists() else b""


def pads_what_is_cut(root):
    return found_in(records(file_of(root), padded=True))


def trusts_lengths(root):
    data, at, rows = file_of(root), 0, []
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, at)
        rows += list(records(data[at + 4 : at + 4 + length]))[:1]
        at += 4 + max(1, length)
    return found_in(rows)


def shifts_one_byte(root):
    return found_in((id, vector[1:] + b"\0") for id, vector in records(file_of(root)))


def believes_any_count(root):
    data = file_of(root)
    for at in range(0, max(0, len(data) - 8), 8):
        struct.unpack_from("<Q", data, struct.unpack_from("<Q", data, at)[0] % (len(data) + 4))
    return found_in(records(data))


def is_slow(root):
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    return found_in(records(file_of(root)))


def waits_for_a_processor(root):
    time.sleep(0.2)
    return nothing(None, 0)


@pytest.mark.parametrize(
    "reader", [pads_what_is_cut, trusts_lengths, shifts_one_byte, believes_any_count]
)
def test_a_wrong_reader_is_caught(reader, tmp_path):
    with pytest.raises(Wrong):
        for seed in range(600):
            check(reader, tmp_path, *mutated(seed))


def test_a_slow_reader_is_caught(tmp_path, monkeypatch):
    monkeypatch.setitem(check.__globals__, "SECONDS_MAX", 0.1)
    with pytest.raises(Wrong, match="took"):
        check(is_slow, tmp_path, *mutated(0))


def test_a_reader_that_has_to_wait_for_others_is_not_slow(tmp_path, monkeypatch):
    monkeypatch.setitem(check.__globals__, "SECONDS_MAX", 0.1)
    check(waits_for_a_processor, tmp_path, *mutated(0))
