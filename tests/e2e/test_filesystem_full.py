"""A real small disk that fills up: refused writes are whole refusals, and the way out works.

On tmpfs (which accounts for every page) and on ext4 in a loop mount (which has metadata to run out
of as well).
"""

import errno
import gc
import os
import shutil
import subprocess

import numpy as np
import pytest

import dvecdb
from dvecdb.errors import DvecdbError
from dvecdb.media.files import OsFiles

MIB = 1024 * 1024
DIMENSION = 64
ROWS = 200
SETTINGS = dvecdb.Settings(
    flush_bytes=256 * 1024,
    merge_bytes=MIB,
    bulk_bytes=MIB,
    wal_reserve_bytes=64 * 1024,
    wal_extend_bytes=256 * 1024,
    ballast_bytes=512 * 1024,
    low_water_bytes=0,
)

pytestmark = [pytest.mark.crash, pytest.mark.slow]


def mount(kind, directory):
    """Return a mounted small file system."""
    path = directory / kind
    path.mkdir()
    if kind == "tmpfs":
        commands = [["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(path)]]
    else:
        image = directory / "image"
        with image.open("wb") as file:
            file.truncate(16 * MIB)
        commands = [["mkfs.ext4", "-q", str(image)], ["mount", "-o", "loop", str(image), str(path)]]
    for command in commands:
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is missing: no real full {kind} is tried")
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no real full {kind} is tried: {' '.join(command)}: {done.stderr[-200:]}")
    return path


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request, tmp_path):
    if os.geteuid() != 0:
        pytest.skip(
            f"not root: no small {request.param} can be mounted, no real full disk is tried"
        )
    path = mount(request.param, tmp_path)
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def vectors_of(number):
    return np.random.default_rng(number).standard_normal((ROWS, DIMENSION)).astype(np.float32)


def ids_of(number):
    return [f"{number}-{index}" for index in range(ROWS)]


def write(collection, number):
    return collection.upsert(ids=ids_of(number), vectors=vectors_of(number))


def fill(collection, first=0):
    """Write batches until the disk is full; return the numbers that were acknowledged."""
    acknowledged = []
    with pytest.raises(DvecdbError) as refused:
        for number in range(first, first + 2000):
            write(collection, number)
            acknowledged.append(number)
    assert refused.value.code == "disk-full"
    return acknowledged


def check(collection, numbers, deleted=()):
    """Compare every row bit for bit."""
    found = {record.id: record.vector for record in collection.scan(with_vectors=True)}
    wanted = {
        record_id: vector
        for number in numbers
        for record_id, vector in zip(ids_of(number), vectors_of(number), strict=True)
        if record_id not in deleted
    }
    assert found.keys() == wanted.keys()
    for record_id, vector in wanted.items():
        assert found[record_id].tobytes() == vector.tobytes(), record_id


def test_a_full_disk_refuses_inserts_keeps_everything_and_lets_go(disk):
    path = disk / "data"
    deleted = set()
    with dvecdb.open(path, settings=SETTINGS) as database:
        docs = database.create_collection("docs", dimension=DIMENSION)
        other = database.create_collection("other", dimension=DIMENSION)
        kept = [number for number in range(50) if write(other, number)]
        numbers = fill(docs)
        assert len(numbers) > 20
        check(docs, numbers)
        check(other, kept)
        for number in numbers[:10]:  # deletes have their own reserve
            gone = ids_of(number)[:50]
            assert docs.delete(gone).count == 50
            deleted |= set(gone)
        numbers += fill(docs, first=5000)
        check(docs, numbers, deleted)
        assert shutil.disk_usage(disk).free < MIB

    with dvecdb.open(path, settings=SETTINGS) as database:  # reopening works, and finds it all
        docs = database.collection("docs")
        check(docs, numbers, deleted)
        check(database.collection("other"), kept)
        assert docs.search(vectors_of(numbers[-1])[7], limit=1)[0].id == f"{numbers[-1]}-7"
        database.delete_collection("other")
        assert database.collections() == ["docs"]

    assert [name.startswith("other_") for name in os.listdir(path / ".deleted")] == [True]
    shutil.rmtree(path / ".deleted" / os.listdir(path / ".deleted")[0])
    gc.collect()  # tracebacks of this test may hold maps of the files, and so their space
    with dvecdb.open(path, settings=SETTINGS) as database:
        docs = database.collection("docs")
        assert write(docs, 9000).count == ROWS
        check(docs, [*numbers, 9000], deleted)
        docs.flush()
        assert docs.verify().ok, docs.findings()


class NoRoomForManifests(OsFiles):
    """A disk that has room for a segment and, while `full`, none for the manifest after it."""

    full = False

    def create(self, directory, name):
        if self.full and name.endswith(".json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().create(directory, name)


def test_a_flush_without_room_for_its_manifest_leaves_no_segment_behind(tmp_path):
    """It is tried again every second: what each attempt left would fill the disk."""
    files, path = NoRoomForManifests(), tmp_path / "data"
    with dvecdb.Database(str(path), settings=SETTINGS, files=files, background=False) as database:
        docs = database.create_collection("docs", dimension=DIMENSION)
        numbers = [number for number in range(2) if write(docs, number)]
        files.full = True
        before = sorted(os.walk(path / "collections" / "docs" / "segments"))
        for _ in range(5):
            docs.flush()
            assert [finding.code for finding in docs.findings()] == ["waiting-for-space"]
        assert sorted(os.walk(path / "collections" / "docs" / "segments")) == before
        assert os.listdir(path / "collections" / "docs" / "derived") == []
        files.full = False
        docs.flush()
        assert docs.findings() == []
        assert docs.stats().segments == 1
        check(docs, numbers)
    with dvecdb.open(path, settings=SETTINGS) as database:
        check(database.collection("docs"), numbers)


def test_a_disk_that_was_full_takes_writes_again_without_reopening(disk):
    path, padding = disk / "data", disk / "padding"
    with dvecdb.open(path, settings=SETTINGS) as database:
        docs = database.create_collection("docs", dimension=DIMENSION)
        with padding.open("wb") as file:
            file.write(bytes(4 * MIB))
        numbers = fill(docs)
        padding.unlink()
        more = fill(docs, first=7000)
        assert len(more) > 5
        check(docs, numbers + more)
    with dvecdb.open(path, settings=SETTINGS) as database:
        check(database.collection("docs"), numbers + more)
