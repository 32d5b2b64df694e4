"""A real file system whose power is cut: what it had not been told to sync is gone.

A loop mount is shut down by ioctl without flushing its journal, unmounted and mounted again, which
drops the page cache and replays the journal as after a power cut. The writer's ledger lies on
another file system, so it knows what was acknowledged. Needs root, loop devices and the tools of
the file system; elsewhere it is skipped, and the simulated crashes of tests/crash remain.
"""

import fcntl
import json
import os
import random
import shutil
import struct
import subprocess
import time

import pytest

SOAK = "DVECDB_SOAK" in os.environ
ROUNDS = 200 if SOAK else 6
SECONDS_MAX = 1800 if SOAK else 35
MIB = 1024 * 1024
SIZES = {"ext4": 64 * MIB, "xfs": 320 * MIB}  # mkfs.xfs refuses less than 300 MB
SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are the same number
WITHOUT_FLUSHING = 2

pytestmark = [pytest.mark.crash, pytest.mark.slow]


class Volume:
    """A file system in a file. `cut_power` is the end of everything that is not on its disk."""

    def __init__(self, kind, directory):
        self.image, self.path = directory / f"{kind}.img", directory / kind
        with self.image.open("wb") as image:
            image.truncate(SIZES[kind])
        run(f"mkfs.{kind}", "-q", str(self.image))
        self.path.mkdir()

    def mount(self):
        run("mount", "-o", "loop", str(self.image), str(self.path))

    def unmount(self):
        run("umount", str(self.path))

    def cut_power(self):
        root = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(root, SHUTDOWN, struct.pack("I", WITHOUT_FLUSHING))
        finally:
            os.close(root)


def run(*command):
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    if found.returncode:
        raise OSError(f"{' '.join(command)}: {found.stderr.strip()[-300:]}")


@pytest.fixture(params=["ext4", "xfs"])
def volume(request, tmp_path):
    kind = request.param
    if os.geteuid() != 0:
        pytest.skip(f"not root: no {kind} can be mounted, so no real power cut is tried")
    for tool in (f"mkfs.{kind}", "mount", "umount"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing: no real power cut is tried on {kind}")
    try:
        volume = Volume(kind, tmp_path)
        volume.mount()
    except OSError as error:
        pytest.skip(f"no loop mount of {kind} here, so no real power cut is tried: {error}")
    yield volume
    if os.path.ismount(volume.path):
        subprocess.run(["umount", "-l", str(volume.path)], check=False)


def lines(ledger):
    text = ledger.read_text() if ledger.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def begun(ledger, turn):
    return any(event.get("round") == turn for event in lines(ledger))


def write_until_the_power_goes(programs, volume, ledger, turn, chance, *options):
    """Run a writer, cut the power while it writes, and mount again. Return its exit code."""
    data = volume.path / "data"
    process = programs.start("writer.py", data, ledger, turn, *options)
    while process.poll() is None and not begun(ledger, turn):
        time.sleep(0.01)
    time.sleep(chance.uniform(0.1, 0.9))
    volume.cut_power()
    time.sleep(0.02)
    code = process.poll()
    process.kill()
    process.wait()
    volume.unmount()
    volume.mount()
    return code


def test_a_power_cut_loses_nothing_that_was_acknowledged(programs, volume, tmp_path):
    chance = random.Random(seed := int(os.environ.get("DVECDB_SEED", "20261124")))
    ledger, turn, started = tmp_path / "ledger", 0, time.monotonic()
    while turn < ROUNDS and time.monotonic() - started < SECONDS_MAX:
        turn += 1
        code = write_until_the_power_goes(programs, volume, ledger, turn, chance)
        assert code != 3, f"seed {seed}, round {turn}: {programs.said}"
    code = programs.run("writer.py", volume.path / "data", ledger, turn + 1, "--steps", 3)
    assert code == 0, f"seed {seed}, after {turn} power cuts: {programs.said}"
    events = lines(ledger)
    acknowledged = sum(event["event"] == "acknowledged" for event in events)
    print(f"{volume.path.name}: {turn} power cuts, {acknowledged} acknowledged writes")
    assert turn >= 2
    assert acknowledged > 10 * turn


def test_a_disk_whose_syncs_do_nothing_does_lose_acknowledged_writes(programs, volume, tmp_path):
    """The negative control: a cut that loses nothing even without syncs would prove nothing."""
    chance = random.Random(7)
    for attempt in range(4):
        ledger = tmp_path / f"ledger-{attempt}"
        write_until_the_power_goes(programs, volume, ledger, 1, chance, "--lying")
        acknowledged = [event for event in lines(ledger) if event["event"] == "acknowledged"]
        code = programs.run("writer.py", volume.path / "data", ledger, 2, "--steps", 1)
        if acknowledged and code == 3:
            return
        shutil.rmtree(volume.path / "data", ignore_errors=True)
    pytest.fail(f"no acknowledged write was lost without syncs: {programs.said}")
