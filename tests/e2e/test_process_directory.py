"""Several processes and one directory: one writes, any number read, forked children do neither."""

import json
import os
import signal
import subprocess

import pytest

pytestmark = pytest.mark.crash


# --- one writer ------------------------------------------------------------------------------


def test_a_second_writer_is_told_which_process_has_the_directory(programs, tmp_path):
    first, second = programs.console(tmp_path / "data"), programs.console(tmp_path / "data")
    pid = first.do("open")
    refused = second.ask("open")
    assert refused["error"] == "directory-in-use"
    assert refused["details"]["pid"] == pid
    assert f"process {pid} on " in refused["message"]
    first.do("upsert", ids=["a"], version=1)
    first.do("close")
    second.do("open")
    assert second.do("get", ids=["a"]) == [1]


def test_a_stopped_writer_keeps_the_directory_and_a_killed_one_does_not(programs, tmp_path):
    first, second = programs.console(tmp_path / "data"), programs.console(tmp_path / "data")
    first.do("open")
    first.do("upsert", ids=["a"], version=1)
    first.signal(signal.SIGSTOP)
    assert second.fails("open") == "directory-in-use"
    first.signal(signal.SIGKILL)
    second.do("open")
    assert second.do("get", ids=["a"]) == [1]


def test_readers_that_look_all_the_time_do_not_keep_a_writer_out(programs, tmp_path):
    directory = tmp_path / "data"
    writer = programs.console(directory)
    writer.do("open")
    writer.do("close")
    readers = [programs.start("reader.py", directory, tmp_path / "ledger", 3) for _ in range(2)]
    for _ in range(20):
        writer.do("open")
        writer.do("close")
    assert [reader.wait(30) for reader in readers] == [0, 0], programs.said


# --- readers beside a writer -----------------------------------------------------------------


@pytest.mark.slow
def test_readers_beside_a_busy_writer_see_whole_states_that_never_go_back(programs, tmp_path):
    """Flush, compaction and reclaim run all the time; each look opens the directory again."""
    directory, ledger = tmp_path / "data", tmp_path / "ledger"
    assert programs.run("writer.py", directory, ledger, 0, "--steps", 20) == 0, programs.said
    seconds = 120 if "DVECDB_SOAK" in os.environ else 8
    writer = programs.start("writer.py", directory, ledger, 1)
    readers = [programs.start("reader.py", directory, ledger, seconds) for _ in range(2)]
    codes = [reader.wait(seconds + 60) for reader in readers]
    assert writer.poll() is None, programs.said
    writer.kill()
    writer.wait()
    assert codes == [0, 0], programs.said
    looks = [int(line.split()[0]) for line in programs.said.splitlines() if " looks" in line]
    assert len(looks) == 2
    assert min(looks) >= 3
    assert programs.run("writer.py", directory, ledger, 2, "--steps", 2) == 0, programs.said


# --- forks -----------------------------------------------------------------------------------


def test_every_call_on_a_forked_handle_is_refused_and_the_parent_keeps_its_lock(programs, tmp_path):
    process = programs.start("forked.py", tmp_path / "data", stdout=subprocess.PIPE)
    report = json.loads(process.communicate(timeout=60)[0] or "{}")
    assert process.returncode == 0, programs.said
    assert "failed" not in report, report
    assert report["calls"]
    assert set(report["calls"].values()) == {"forked-handle"}, report["calls"]
    assert report["snapshot"] == ["a", "b"]
    assert report["read_only_count"] == 2
    assert report["open"] == "directory-in-use"
    assert report["another"] == "directory-in-use"
    assert report["count"] == 3
    assert report["another_after_close"] == "ok"


def test_a_child_that_outlives_its_parent_does_not_keep_the_lock(programs, tmp_path):
    process = programs.start("forked.py", tmp_path / "data", "--outlive", stdout=subprocess.PIPE)
    child = json.loads(process.stdout.readline())["child"]
    try:
        assert process.wait(30) == 0
        os.kill(child, 0)  # it lives
        heir = programs.console(tmp_path / "data")
        heir.do("open")
        assert heir.do("count") == 2
    finally:
        os.kill(child, signal.SIGKILL)
