"""A pipe that says nothing: a signal ends the reading, whenever it comes."""

import fcntl
import io
import os
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from array import array
from pathlib import Path

import pytest

from dvecdb.cli.reading.pipe import interruptible

SOURCE = Path(__file__).parents[2] / "src"

# The main thread does not take the signal, so no system call of it is interrupted: as if it came
# just before the call. Another thread takes it, once the main thread waits.
PROGRAM = """
import contextlib, signal, sys, threading, time
from dvecdb.cli.reading.pipe import interruptible

signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
reading = {"ours": interruptible, "plain": contextlib.nullcontext}[sys.argv[1]]
with reading(sys.stdin.buffer) as file:
    print(file.read(5).decode(), flush=True)
    try:
        while file.read(1 << 20):
            pass
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def wait_until_read(pipe):
    """Wait until nothing is left in a pipe."""
    left, end = array("i", [1]), time.monotonic() + 60
    while left[0]:
        assert time.monotonic() < end
        fcntl.ioctl(pipe, termios.FIONREAD, left)
        time.sleep(0.01)


def said_after_a_signal(which, seconds):
    """Return what a reader says within a time of a signal that came while its pipe was silent."""
    environment = {"PYTHONPATH": str(SOURCE), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", PROGRAM, which]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        process.stdin.write(b"hello" + b"x" * 100_000)
        process.stdin.flush()
        assert process.stdout.readline() == b"hello\n"
        wait_until_read(process.stdin)  # then it waits in its second call
        process.send_signal(signal.SIGINT)
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        said = process.stdout.readline() if ready else None
        process.kill()
        return said


def test_a_signal_ends_a_read_that_it_did_not_interrupt():
    assert said_after_a_signal("ours", 60) == b"interrupted\n"


def test_a_plain_read_waits_for_the_writer():  # the control
    assert said_after_a_signal("plain", 2) is None


@pytest.mark.parametrize("size", [0, 1, 65_536, 300_000])
def test_everything_is_read_and_the_descriptor_stays_open(size):
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as inner:
        writer = subprocess.Popen(
            [sys.executable, "-c", f"print('x' * {size}, end='')"], stdout=writing
        )
        os.close(writing)
        with interruptible(inner) as file:
            assert file.read() == b"x" * size
            assert file.read(1) == b""
        assert writer.wait() == 0
        assert not inner.closed


def test_what_has_no_descriptor_is_read_as_it_is():
    memory = io.BytesIO(b"rows")
    with interruptible(memory) as file:
        assert file is memory


def test_another_thread_reads_the_file_as_it_is():
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as inner, os.fdopen(writing, "wb"):
        seen = []

        def read():
            with interruptible(inner) as file:
                seen.append(file is inner)

        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
        assert seen == [True]
