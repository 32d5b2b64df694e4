"""A writer that lost its right to the directory fails instead of acknowledging.

It is stopped, its LOCK goes away (an administrator's mistake, a network file system's failover), a
second writer takes over, and the first one wakes up and knows nothing of it.
"""

import os
import re
import signal
import time

import pytest

import dvecdb

pytestmark = pytest.mark.crash


def remove_lock(directory):
    (directory / "LOCK").unlink()


def replace_lock(directory):
    (directory / "LOCK").rename(directory.parent / "LOCK.before")
    (directory / "LOCK").write_text("")


def replace_lock_with_a_copy(directory):
    content = (directory / "LOCK").read_bytes()
    (directory / "LOCK").unlink()
    (directory / "LOCK").write_bytes(content)


TAKEOVERS = [remove_lock, replace_lock, replace_lock_with_a_copy]


def taken_over(programs, directory, take):
    """Return a stopped first writer and the second that has taken over."""
    first = programs.console(directory)
    first.do("open")
    first.do("upsert", ids=["a", "b"], version=1)
    first.do("flush")
    first.do("upsert", ids=["c"], version=1)
    first.do("create", name="other")
    first.signal(signal.SIGSTOP)
    take(directory)
    second = programs.console(directory)
    second.do("open")
    assert second.do("get", ids=["a", "b", "c"]) == [1, 1, 1]
    return first, second


def names_below(directory):
    return {os.path.join(where, name) for where, _, names in os.walk(directory) for name in names}


@pytest.mark.parametrize("take", TAKEOVERS)
def test_a_writer_that_slept_through_a_takeover_acknowledges_nothing(programs, tmp_path, take):
    directory = tmp_path / "data"
    first, second = taken_over(programs, directory, take)
    second.do("upsert", ids=["b", "s"], version=2)
    first.signal(signal.SIGCONT)
    assert first.fails("upsert", ids=["a", "late"], version=3) == "fenced"
    assert first.fails("upsert", ids=["late"], version=4) == "fenced"
    assert first.fails("delete", ids=["s"]) == "fenced"
    assert second.do("upsert", ids=["t"], version=2) == 4
    assert second.do("get", ids=["a", "b", "c", "s", "t", "late"]) == [1, 2, 1, 2, 2, None]
    first.do("close")
    second.signal(signal.SIGKILL)

    third = programs.console(directory)
    third.do("open")
    assert third.do("get", ids=["a", "b", "c", "s", "t", "late"]) == [1, 2, 1, 2, 2, None]
    assert "fenced-records" in third.do("findings")


def test_a_fenced_writer_changes_no_file_that_is_no_longer_its_own(programs, tmp_path):
    """Flush, compaction, reclaim, create and delete ask for the right to write as commits do."""
    directory = tmp_path / "data"
    first, second = taken_over(programs, directory, remove_lock)
    for version in range(2, 8):  # enough for merges, and for the first one's files to be reclaimed
        second.do("upsert", ids=["b", "s"], version=version)
        second.do("flush")
    before = names_below(directory)
    first.signal(signal.SIGCONT)
    assert first.fails("flush") == "fenced"
    assert first.fails("drop", name="other") == "fenced"
    assert first.fails("create", name="more") == "fenced"
    assert names_below(directory) == before
    first.do("close")
    assert names_below(directory) == before
    assert second.do("upsert", ids=["t"], version=9)
    second.do("flush")
    second.do("close")

    third = programs.console(directory)
    third.do("open")
    assert third.do("get", ids=["a", "b", "c", "s", "t"]) == [1, 7, 1, 7, 9]


def test_a_lock_overwritten_in_place_fences_its_holder(programs, tmp_path):
    directory = tmp_path / "data"
    first = programs.console(directory)
    first.do("open")
    first.do("upsert", ids=["a"], version=1)
    donor = tmp_path / "donor"  # a directory that was opened more often
    for _ in range(6):
        dvecdb.open(donor).close()
    assert b'"epoch":1,' in (directory / "LOCK").read_bytes()
    with (directory / "LOCK").open("r+b") as file:
        file.write((donor / "LOCK").read_bytes())
    assert first.fails("upsert", ids=["b"], version=1) == "fenced"
    first.end()
    second = programs.console(directory)
    second.do("open")
    assert second.do("get", ids=["a"]) == [1]
    assert b'"epoch":7,' in (directory / "LOCK").read_bytes()


@pytest.mark.slow
def test_a_busy_writer_is_fenced_wherever_it_was_stopped(programs, tmp_path):
    """Threads, flushes and compactions under way: no acknowledged write of either is lost."""
    directory, ledger = tmp_path / "data", tmp_path / "ledger"
    turns = 10 if "DVECDB_SOAK" in os.environ else 2
    for turn in range(turns):
        first = programs.start("writer.py", directory, ledger, 2 * turn)
        while first.poll() is None and f'"begin", "round": {2 * turn},' not in text(ledger):
            time.sleep(0.01)
        time.sleep(0.3 + 0.1 * turn)
        first.send_signal(signal.SIGSTOP)
        os.waitpid(first.pid, os.WUNTRACED)
        remove_lock(directory)
        code = programs.run("writer.py", directory, ledger, 2 * turn + 1, "--steps", 60)
        assert code == 0, programs.said
        first.send_signal(signal.SIGCONT)
        assert first.wait(60) == 4, programs.said
        # Stopped inside a file call, it may find its own partial file gone before it looks at LOCK.
        refused = re.findall(r'"code": "([a-z-]+)"', text(ledger))
        assert len(refused) == 3 * (turn + 1), programs.said
        assert set(refused) <= {"fenced", "outcome-unknown", "writes-stopped"}
    code = programs.run("writer.py", directory, ledger, 2 * turns, "--steps", 5)
    assert code == 0, programs.said


def text(ledger):
    return ledger.read_text() if ledger.exists() else ""
