"""What is cut from a log is named, also if the recovery that cuts it is cut itself."""

from random import Random

import pytest

from dvecdb import Database, Settings
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.crash import Data, Names, crash, kill, replay
from dvecdb.testing.disk import MemoryDisk

SETTINGS = Settings(wal_reserve_bytes=4096, wal_extend_bytes=4096, ballast_bytes=0)


def open_on(disk):
    return Database("d", files=disk, settings=SETTINGS, clock=ManualClock(), background=False)


def torn_disk():
    """A disk with one commit whose record is torn: its second half never got there."""
    disk = MemoryDisk()
    books = open_on(disk).create_collection("books", dimension=256)
    image, start = kill(disk), disk.log_position
    books.upsert(["a"], [[1.0] * 256])
    left = replay(image, disk.log[start:])
    (path,) = (path for path in left.tree() if path.endswith(".wal"))
    whole = left.read_path(path)
    end = len(whole.rstrip(b"\0"))
    left.damage(path, whole[: end - 700] + bytes(len(whole) - end + 700))
    return left


@pytest.mark.crash
@pytest.mark.parametrize("names", [Names.ALL, Names.NONE, Names.PREFIX])
def test_cut_tail_is_named_whenever_its_recovery_is_cut(names):
    image = torn_disk()
    disk = kill(image)
    open_on(disk).close()
    for position in range(disk.log_position):
        left = crash(
            replay(image, disk.log, position), Random(position), names=names, data=Data.ALL
        )
        with open_on(left) as database:
            assert database.collection("books").count() == 0
            found = [finding for finding in database.findings() if finding.code == "torn"]
            assert len(found) == 1, f"after {position} of {disk.log_position} operations"
            assert found[0].collection == "books"
