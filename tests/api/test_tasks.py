"""Tasks: queued, run, watched, cancelled; what a restart, a crash or a bad disk makes of them."""

import errno
import itertools
import threading
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.api import tasks as tasks_module
from dvecdb.api.server_directory import make_server_directory
from dvecdb.api.tasks import Tasks, TaskState
from dvecdb.errors import (
    Code,
    DamagedDataError,
    DvecdbError,
    HandleError,
    NotFoundError,
    UnavailableError,
)
from dvecdb.formats import names
from dvecdb.records import Finding, VerifyReport
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.crash import Data, Names, crash
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.faults import FailingFiles, RottenFiles

TASKS = "/data/.server/tasks"
WAIT = 20  # seconds, for what happens at once


def tasks_on(files, **options):
    directory = make_server_directory(files, "/data", names.TASKS)
    return Tasks(files, directory, **{"clock": ManualClock(), **options})


def wait_over(tasks, task_id):
    """Wait until a task is over, without polling."""
    with tasks._ended:
        assert tasks._ended.wait_for(lambda: tasks._entries[task_id].task.state.is_over, WAIT)
    return tasks.get(task_id)


class Work:
    """Work that goes on until it is let go, and then looks whether it was cancelled."""

    def __init__(self, result="result", *, looks=True):
        self.result, self.looks = result, looks
        self.began, self.go, self.ended = (threading.Event() for _ in range(3))

    def __call__(self, handle):
        self.began.set()
        assert self.go.wait(WAIT)
        try:
            if self.looks:
                handle.check_cancelled()
            return self.result
        finally:
            self.ended.set()


def refused(call, *arguments):
    with pytest.raises(DvecdbError) as caught:
        call(*arguments)
    return caught.value


def states(tasks):
    return {task.id.lstrip("0"): str(task.state) for task in tasks.list()}


# --- running ---------------------------------------------------------------------------------


def test_a_task_is_done_with_its_result_also_after_a_restart():
    disk, clock = MemoryDisk(), ManualClock()
    tasks = tasks_on(disk, clock=clock)
    task = tasks.start("verify", "docs", lambda handle: {"ok": True}, key="ann", request_id="r-1")
    done = wait_over(tasks, task.id)
    assert (done.kind, done.collection, done.key, done.request_id) == (
        "verify", "docs", "ann", "r-1",
    )  # fmt: skip
    assert (done.state, done.result, done.error) == (TaskState.DONE, {"ok": True}, None)
    assert done.queued_ns == done.ended_ns == clock.wall_ns()
    tasks.close()
    assert disk.handle_count == 0
    again = tasks_on(disk)
    assert again.list() == [done]
    assert again.findings() == []
    assert again.start("verify", None, lambda handle: None).id > task.id
    again.close()


def test_progress_is_seen_while_it_runs():
    tasks, seen, go = tasks_on(MemoryDisk()), threading.Event(), threading.Event()

    def run(handle):
        handle.progress(0, 10, "blocks")
        handle.progress(4)
        seen.set()
        assert go.wait(WAIT)

    task = tasks.start("verify", None, run)
    assert seen.wait(WAIT)
    found = tasks.get(task.id)
    assert (found.state, found.done, found.total, found.unit) == ("running", 4, 10, "blocks")
    go.set()
    assert wait_over(tasks, task.id).done == 4
    tasks.close()


def test_results_are_values_of_json_and_bounded(monkeypatch):
    tasks = tasks_on(MemoryDisk())
    report = VerifyReport("docs", False, 3, 4, [Finding("x", None, "here", "bad")])
    done = wait_over(tasks, tasks.start("verify", None, lambda handle: report).id)
    assert done.result["findings"][0]["code"] == "x"
    monkeypatch.setattr(tasks_module, "RESULT_BYTES_MAX", 10)
    done = wait_over(tasks, tasks.start("verify", None, lambda handle: "x" * 20).id)
    assert done.result == {"too_large_bytes": 22, "limit_bytes": 10}
    tasks.close()


def test_a_task_that_fails_keeps_its_error():
    disk = MemoryDisk()
    tasks = tasks_on(disk)

    def run(handle):
        raise DamagedDataError(Code.DAMAGED_DATA, "block 7", blocks=(7,), where=TASKS)

    failed = wait_over(tasks, tasks.start("verify", None, run).id)
    assert failed.state == TaskState.FAILED
    assert failed.error == {
        "code": "damaged-data", "message": "block 7", "advice": "restore",
        "details": {"blocks": [7], "where": TASKS},
    }  # fmt: skip
    tasks.close()
    assert tasks_on(disk).get(failed.id) == failed


def test_what_nobody_foresaw_fails_the_task_and_is_told_without_its_text():
    told = []
    tasks = tasks_on(MemoryDisk(), on_error=lambda task, error: told.append((task.id, error)))
    task = tasks.start("verify", None, lambda handle: {}["secret"])
    failed = wait_over(tasks, task.id)
    assert failed.state == TaskState.FAILED
    assert failed.error["code"] == Code.SERVER_ERROR
    assert "secret" not in str(failed.error)
    assert [(task_id, type(error)) for task_id, error in told] == [(task.id, KeyError)]
    assert wait_over(tasks, tasks.start("next", None, lambda handle: 1).id).result == 1
    tasks.close()


# --- bounds ----------------------------------------------------------------------------------


def test_two_run_and_the_rest_wait_in_order():
    tasks, work = tasks_on(MemoryDisk()), [Work() for _ in range(4)]
    ids = [tasks.start("work", None, run).id for run in work]
    assert work[0].began.wait(WAIT)
    assert work[1].began.wait(WAIT)
    assert [str(tasks.get(task_id).state) for task_id in ids] == ["running"] * 2 + ["queued"] * 2
    assert not work[2].began.is_set()
    work[1].go.set()
    assert work[2].began.wait(WAIT)
    assert not work[3].began.is_set()
    for run in work:
        run.go.set()
    assert [wait_over(tasks, task_id).state for task_id in ids] == ["done"] * 4
    assert [task.id for task in tasks.list()] == ids[::-1]
    tasks.close()


def test_beyond_the_queue_a_task_is_refused_and_leaves_nothing():
    disk = MemoryDisk()
    tasks, work = tasks_on(disk, running_max=1, queued_max=3), Work()
    tasks.start("work", None, work)
    assert work.began.wait(WAIT)
    for _ in range(3):
        tasks.start("work", None, work)
    error = refused(tasks.start, "work", None, work)
    assert isinstance(error, UnavailableError)
    assert (error.code, error.details["retry_after_seconds"]) == (Code.TOO_MANY_REQUESTS, 5)
    assert len(tasks.list()) == 4
    work.go.set()
    tasks.close()
    assert len(tasks_on(disk).list()) == 4


def test_threads_end_with_the_work():
    tasks = tasks_on(MemoryDisk())
    for number in range(5):
        wait_over(tasks, tasks.start("work", None, lambda handle: None).id)
        with tasks._ended:
            assert tasks._ended.wait_for(lambda: tasks._running == 0, WAIT), number
    tasks.close()


def test_the_tasks_that_ended_first_are_forgotten():
    disk, clock = MemoryDisk(), ManualClock()
    tasks = tasks_on(disk, clock=clock, kept_max=3)
    slow = Work()
    first = tasks.start("slow", None, slow).id
    for number in range(6):
        wait_over(tasks, tasks.start("work", None, lambda handle, number=number: number).id)
        clock.advance(1)
    with tasks._ended:  # the last one prunes after it is over
        assert tasks._ended.wait_for(lambda: tasks._running == 1, WAIT)
    assert [task.result for task in tasks.list()] == [5, 4, 3, None]
    slow.go.set()
    assert wait_over(tasks, first).state == TaskState.DONE
    tasks.close()
    again = tasks_on(disk, kept_max=3)
    assert [task.result for task in again.list()] == [5, 4, "result"]
    assert refused(again.get, "0000000005").code == Code.TASK_NOT_FOUND
    again.close()
    directory = disk.open_root(TASKS, create=False)
    assert len(disk.list_names(directory)) == 6


# --- cancelling ------------------------------------------------------------------------------


def test_a_waiting_task_is_cancelled_at_once_and_never_runs():
    disk = MemoryDisk()
    tasks, work, never = tasks_on(disk, running_max=1), Work(), Work()
    tasks.start("work", None, work)
    waiting = tasks.start("work", None, never).id
    assert tasks.cancel(waiting).state == TaskState.CANCELLED
    work.go.set()
    tasks.close()
    assert not never.began.is_set()
    assert states(tasks_on(disk))["2"] == "cancelled"


def test_a_running_task_is_cancelled_where_it_looks():
    disk = MemoryDisk()
    tasks, work = tasks_on(disk), Work()
    task = tasks.start("work", None, work)
    assert work.began.wait(WAIT)
    asked = tasks.cancel(task.id)
    assert (asked.state, asked.is_cancelling) == (TaskState.RUNNING, True)
    work.go.set()
    ended = wait_over(tasks, task.id)
    assert (ended.state, ended.error["code"]) == (TaskState.CANCELLED, "cancelled")
    assert tasks.cancel(task.id) == ended
    tasks.close()
    assert tasks_on(disk).get(task.id).state == TaskState.CANCELLED


def test_a_task_that_does_not_look_is_done_all_the_same():
    tasks, work = tasks_on(MemoryDisk()), Work(looks=False)
    task = tasks.start("work", None, work)
    assert work.began.wait(WAIT)
    tasks.cancel(task.id)
    work.go.set()
    assert wait_over(tasks, task.id).state == TaskState.DONE
    tasks.close()


def test_unknown_tasks_are_not_found():
    tasks = tasks_on(MemoryDisk())
    for call in (tasks.get, tasks.cancel):
        for task_id in ("0000000001", "", "../x"):
            error = refused(call, task_id)
            assert isinstance(error, NotFoundError)
            assert error.code == Code.TASK_NOT_FOUND
    tasks.close()


# --- stopping, crashes -----------------------------------------------------------------------


def test_close_interrupts_what_runs_and_what_waits():
    disk = MemoryDisk()
    tasks, work, never = tasks_on(disk, running_max=1), Work(), Work()
    tasks.start("work", None, work)
    tasks.start("work", None, never)
    assert work.began.wait(WAIT)
    stopper = threading.Thread(target=tasks.close, args=(WAIT,))
    stopper.start()
    work.go.set()
    stopper.join(WAIT)
    assert not stopper.is_alive()
    assert states(tasks) == {"1": "interrupted", "2": "interrupted"}
    assert not never.began.is_set()
    assert disk.handle_count == 0
    assert isinstance(refused(tasks.start, "work", None, work), HandleError)
    tasks.close()
    again = tasks_on(disk)
    assert states(again) == {"1": "interrupted", "2": "interrupted"}
    assert all(task.ended_ns is not None for task in again.list())


def test_close_waits_no_longer_than_told_and_what_comes_later_changes_nothing():
    disk = MemoryDisk()
    tasks, work = tasks_on(disk), Work()
    task = tasks.start("work", None, work)
    assert work.began.wait(WAIT)
    tasks.close(timeout_seconds=0.01)
    assert tasks.get(task.id).state == TaskState.INTERRUPTED
    assert disk.handle_count == 0
    work.go.set()
    with tasks._ended:
        assert tasks._ended.wait_for(lambda: tasks._running == 0, WAIT)
    assert tasks.get(task.id).state == TaskState.INTERRUPTED
    assert states(tasks_on(disk)) == {"1": "interrupted"}


@pytest.mark.crash
def test_after_a_power_cut_every_accepted_task_is_there_as_what_it_came_to():
    for seed in range(20):
        disk = MemoryDisk()
        tasks, work = tasks_on(disk, running_max=1), Work()
        done = tasks.start("work", None, lambda handle: 1).id
        wait_over(tasks, done)
        running, waiting = (tasks.start("work", None, work).id for _ in range(2))
        left = crash(disk, Random(seed), data=Data.NONE, names=Names.NONE)
        again = tasks_on(left)
        found = {task.id: task.state for task in again.list()}
        assert found == {done: "done", running: "interrupted", waiting: "interrupted"}
        assert again.start("work", None, lambda handle: 2).id > waiting
        again.close()
        work.go.set()
        tasks.close()


FAULTS = [
    {"error": errno.EIO}, {"error": errno.ENOSPC}, {"error": errno.EIO, "before": False},
    {"error": errno.EIO, "once": False},
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_any_failing_call_is_reported_and_leaves_a_whole_task_or_none(fault):
    for k in itertools.count(1):
        disk, rng = MemoryDisk(), Random(k)
        files = FailingFiles(disk, **fault)
        tasks, ran = tasks_on(files), threading.Event()
        files.calls, files.fail_at = 0, k
        started = error = None
        try:
            started = tasks.start("work", None, lambda handle, ran=ran: ran.set())
        except DvecdbError as raised:
            error = raised
        if started is None:
            assert error.code in {Code.DISK_FULL, Code.OUTCOME_UNKNOWN}
            assert tasks.list() == []
        else:
            assert wait_over(tasks, started.id).state == TaskState.DONE
            assert ran.is_set()
        tasks.close()
        assert disk.handle_count == 0
        left = tasks_on(crash(disk, rng, data=Data.NONE, names=Names.NONE))
        if started is None:
            assert not ran.is_set()
            if fault.get("once", True):
                assert states(tasks_on(disk.clone())) == {}
        else:
            expected = {"done"} if not tasks.findings() else {"done", "interrupted"}
            assert states(left)["1"] in expected
        assert left.findings() == []
        if not files.failed:
            break
    assert k > 12


def test_an_end_that_cannot_be_written_is_a_finding():
    disk = MemoryDisk()
    files = FailingFiles(disk, operations={"sync"}, once=False)
    tasks, work = tasks_on(files), Work()
    task = tasks.start("work", None, work)
    files.fail_at = 1
    work.go.set()
    assert wait_over(tasks, task.id).state == TaskState.DONE
    (finding,) = tasks.findings()
    assert (finding.code, task.id in finding.message) == ("task-not-noted", True)
    tasks.close()
    assert states(tasks_on(disk)) == {"1": "interrupted"}


@given(st.data())
def test_a_flipped_bit_is_said_and_costs_one_task(data):
    disk = MemoryDisk()
    tasks = tasks_on(disk)
    for number in range(2):
        wait_over(tasks, tasks.start("work", "docs", lambda handle, n=number: {"n": n}).id)
    tasks.close()
    ended = data.draw(st.booleans())
    path = f"{TASKS}/{names.task_name('0000000001', ended=ended)}"
    offset = data.draw(st.integers(0, len(disk.read_path(path)) - 1))
    RottenFiles(disk).flip(path, offset, data.draw(st.integers(0, 7)))
    again = tasks_on(disk)
    expected = {"1": "interrupted", "2": "done"} if ended else {"2": "done"}
    assert states(again) == expected
    assert [finding.code for finding in again.findings()] == ["task-damaged"]
    assert again.start("work", None, lambda handle: 1).id == "0000000003"
    again.close()


def test_half_of_a_pruned_task_is_no_task():
    disk = MemoryDisk.from_tree({f"{TASKS}/{names.task_name('0000000007', ended=True)}": b"x"})
    tasks = tasks_on(disk)
    assert tasks.list() == []
    assert tasks.findings() == []
    assert tasks.start("work", None, lambda handle: 1).id == "0000000008"
    tasks.close()


# --- waiting ---------------------------------------------------------------------------------


def waiting(tasks, task_id):
    """Wait for a task in a thread; return the thread and where its result will be."""
    found = []
    thread = threading.Thread(target=lambda: found.append(tasks.wait(task_id)))
    thread.start()
    return thread, found


@pytest.mark.parametrize("fails", [False, True])
def test_who_waits_for_a_task_gets_it_as_it_ended(fails):
    tasks = tasks_on(MemoryDisk())
    work = Work({"n": 1})
    task = tasks.start("import", "docs", work)
    thread, found = waiting(tasks, task.id)
    assert work.began.wait(WAIT)
    if fails:
        tasks.cancel(task.id)
    assert found == []
    work.go.set()
    thread.join(WAIT)
    assert found[0].state is (TaskState.CANCELLED if fails else TaskState.DONE)
    assert tasks.wait(task.id) == tasks.get(task.id)
    assert refused(tasks.wait, "0000000099").code == Code.TASK_NOT_FOUND
    tasks.close()


def test_who_waits_is_let_go_when_the_tasks_stop_and_nothing_more_is_started():
    tasks = tasks_on(MemoryDisk())
    work = Work()
    task = tasks.start("import", "docs", work)
    assert work.began.wait(WAIT)
    thread, found = waiting(tasks, task.id)
    tasks.stop()
    thread.join(WAIT)
    assert found[0].state is TaskState.RUNNING
    assert refused(tasks.start, "import", "docs", work).code == Code.HANDLE_CLOSED
    work.go.set()
    tasks.close()
    assert tasks.get(task.id).state is TaskState.INTERRUPTED


# --- apart -----------------------------------------------------------------------------------


def test_what_runs_apart_keeps_nothing_waiting_and_waits_for_nothing():
    tasks = tasks_on(MemoryDisk(), running_max=1, queued_max=1)
    busy, queued, apart = Work(), Work(), [Work() for _ in range(3)]
    tasks.start("busy", None, busy)
    assert busy.began.wait(WAIT)
    tasks.start("queued", None, queued)
    started = [tasks.start("apart", None, work, apart=True) for work in apart]
    assert [task.state for task in started] == [TaskState.RUNNING] * 3
    for work in apart:
        assert work.began.wait(WAIT)
    assert not queued.began.is_set()
    for work in (*apart, busy, queued):
        work.go.set()
    for task in started:
        assert wait_over(tasks, task.id).state is TaskState.DONE
    tasks.close()


def test_what_runs_apart_is_stopped_first_and_the_rest_goes_on():
    tasks = tasks_on(MemoryDisk())
    work, apart, told = Work(), Work(), threading.Event()

    def run(handle):
        handle.when_stopped(told.set)
        assert not handle.is_stopping
        apart(handle)

    task = tasks.start("apart", None, run, apart=True)
    other = tasks.start("other", None, work)
    assert apart.began.wait(WAIT)
    assert not tasks.wait_apart(0)
    assert not told.is_set()
    tasks.stop_apart()
    assert told.is_set()
    with pytest.raises(HandleError) as caught:
        tasks.start("apart", None, Work(), apart=True)
    assert caught.value.code is Code.HANDLE_CLOSED
    apart.go.set()
    assert tasks.wait_apart(WAIT)
    assert tasks.get(task.id).state is TaskState.INTERRUPTED
    work.go.set()
    assert wait_over(tasks, other.id).state is TaskState.DONE
    tasks.close()


def test_cancelling_tells_what_waits_where_it_cannot_ask():
    tasks = tasks_on(MemoryDisk())
    told = threading.Event()

    def run(handle):
        handle.when_stopped(told.set)
        assert told.wait(WAIT)
        handle.check_cancelled()

    task = tasks.start("apart", None, run, apart=True)
    assert tasks.cancel(task.id).is_cancelling
    assert wait_over(tasks, task.id).state is TaskState.CANCELLED
    tasks.close()


def test_who_is_told_late_is_told_at_once():
    tasks = tasks_on(MemoryDisk())
    work, told = Work(looks=False), threading.Event()

    def run(handle):
        work(handle)
        handle.when_stopped(told.set)
        assert told.is_set()

    task = tasks.start("apart", None, run, apart=True)
    assert work.began.wait(WAIT)
    tasks.stop_apart()
    work.go.set()
    assert wait_over(tasks, task.id).state is TaskState.DONE
    tasks.close()
