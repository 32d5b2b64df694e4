"""The audit log: what was recorded is read, newest first, whatever the disk did."""

import errno
import itertools
import os
import threading
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.api import audit as audit_module
from dvecdb.api.audit import LOST, Audit, AuditEntry
from dvecdb.api.audit_files import AuditFiles, _lines_before
from dvecdb.api.server_directory import make_server_directory
from dvecdb.errors import Code, DirectoryError, InvalidRequestError
from dvecdb.formats import names
from dvecdb.media.files import OsFiles
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.crash import Data, Names, crash
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.faults import FailingFiles, RottenFiles, SlowSync

AUDIT = "/data/.server/audit"


def audit_on(files, clock=None, **options):
    options = {"background": False, **options}
    directory = make_server_directory(files, "/data", names.AUDIT)
    return Audit(files, directory, clock=clock or ManualClock(), **options)


def call(number, **fields):
    fields = {"operation": "delete", "method": "DELETE", "status": 200, **fields}
    return AuditEntry(request_id=str(number), **fields)


def ids(page):
    return [entry.request_id for entry in page.entries]


def present(disk):
    directory = disk.open_root(AUDIT, create=False)
    found = disk.list_names(directory)
    disk.close_directory(directory)
    return found


def everything(audit, limit=7):
    """Read all pages; return the ids oldest first, and what was damaged."""
    found, damaged, before = [], [], None
    while True:
        page = audit.read(limit, before)
        assert len(page.entries) <= limit
        found += ids(page)
        damaged += page.damaged
        before = page.next
        if before is None:
            return found[::-1], damaged


def numbers(count, start=0):
    return [str(number) for number in range(start, start + count)]


# --- entries ---------------------------------------------------------------------------------


def test_an_entry_is_read_as_it_was_recorded_with_its_time():
    audit = audit_on(MemoryDisk())
    entry = AuditEntry(
        key="ingest", address="10.0.0.7", method="DELETE", operation="delete_collection",
        collection="docs", rows=3, lsn=17, status=409, code="collection-exists", request_id="r-1",
        actor="ann", reason="ö\n\x00'\"",
    )  # fmt: skip
    audit.record(entry)
    (found,) = audit.read().entries
    assert found.when == "2023-11-14T22:13:20.000000Z"
    assert msgspec.structs.replace(found, when="") == entry


def test_a_line_is_json_that_anybody_can_read():
    disk = MemoryDisk()
    audit = audit_on(disk)
    audit.record(call(1))
    header, line, rest = disk.read_path(f"{AUDIT}/0000000001.jsonl").split(b"\n")
    assert msgspec.json.decode(header)["dvecdb"] == "audit log"
    value = msgspec.json.decode(line)
    assert (value["request_id"], value["status"], rest) == ("1", 200, b"")
    assert list(value) == [*AuditEntry.__struct_fields__, "sum"]


@given(st.text(), st.text())
def test_any_text_can_be_recorded_and_long_ones_are_cut(text, long):
    long = long + "x" * audit_module.TEXT_LENGTH_MAX
    audit = audit_on(MemoryDisk())
    audit.record(call(1, collection=text, reason="\ud800" + long))
    (entry,) = audit.read().entries
    assert entry.collection == text[: audit_module.TEXT_LENGTH_MAX]
    assert entry.reason == ("?" + long)[: audit_module.TEXT_LENGTH_MAX]


# --- pages, rotation, starts -----------------------------------------------------------------


@given(
    st.lists(st.sampled_from(["record", "durable", "restart"]), max_size=40),
    st.integers(400, 3_000), st.integers(1, 9),
)  # fmt: skip
def test_pages_give_everything_newest_first_over_files_and_starts(steps, size, limit):
    disk = MemoryDisk()
    audit, count = audit_on(disk, file_bytes_max=size), 0
    for step in steps:
        if step == "restart":
            audit.close()
            assert disk.handle_count == 0
            audit = audit_on(disk, file_bytes_max=size)
        else:
            assert audit.record(call(count), durable=step == "durable") or step == "record"
            count += 1
    assert everything(audit, limit) == (numbers(count), [])
    assert audit.findings() == []


def test_a_cursor_stays_where_it_is_while_entries_come():
    audit = audit_on(MemoryDisk())
    for number in range(5):
        audit.record(call(number))
    page = audit.read(2)
    assert ids(page) == ["4", "3"]
    audit.record(call(5))
    assert ids(audit.read(2, page.next)) == ["2", "1"]


def test_old_files_go_when_there_is_too_much():
    disk = MemoryDisk()
    audit = audit_on(disk, file_bytes_max=2_000, total_bytes_max=10_000)
    pages = []
    for number in range(200):
        audit.record(call(number))
        if number == 20:
            pages.append(audit.read(1))
    sizes = [len(disk.read_path(f"{AUDIT}/{name}")) for name in present(disk)]
    assert 6_000 < sum(sizes) <= 10_000 + 400
    found, damaged = everything(audit)
    assert damaged == []
    assert found == numbers(len(found), 200 - len(found))
    assert audit.read(5, pages[0].next).entries == []  # that file is gone


def test_files_are_bounded_in_number(monkeypatch):
    monkeypatch.setattr("dvecdb.api.audit_files.FILES_MAX", 4)
    disk = MemoryDisk()
    for number in range(10):
        audit = audit_on(disk)
        audit.record(call(number))
        audit.close()
    assert len(present(disk)) == 4
    assert everything(audit_on(disk))[0] == numbers(4, 6)


@pytest.mark.parametrize("before", ["", "-", "1-", "-1", "x", "1-x", "1-2-3", "²-1", "9" * 50, "1"])
def test_what_is_no_cursor_is_refused(before):
    audit = audit_on(MemoryDisk())
    with pytest.raises(InvalidRequestError) as caught:
        audit.read(10, before)
    assert caught.value.code == Code.INVALID_ARGUMENT


@pytest.mark.parametrize("limit", [0, -1, 1_001, True, 1.5])
def test_the_limit_of_a_page_is_checked(limit):
    with pytest.raises(InvalidRequestError) as caught:
        audit_on(MemoryDisk()).read(limit)
    assert caught.value.code == Code.INVALID_ARGUMENT


PIECES = st.binary(max_size=40).map(lambda line: line.replace(b"\n", b""))


@given(st.lists(PIECES, max_size=9), PIECES, st.integers(1, 50))
def test_lines_are_read_backwards_whatever_the_size_of_the_pieces(lines, rest, size):
    disk = MemoryDisk()
    directory = disk.open_root("/x", create=True)
    file = disk.create(directory, "a")
    data = b"".join(line + b"\n" for line in lines) + rest
    disk.write_at(file, [data], 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dvecdb.api.audit_files._READ_BYTES", size)
        found = list(_lines_before(disk, file, len(data)))
    expected = [(line, True) for line in lines] + ([(rest, False)] if rest else [])
    assert [(line, is_whole) for _, line, is_whole in reversed(found)] == expected
    for offset, line, _ in found:
        assert data[offset : offset + len(line)] == line


# --- syncs -----------------------------------------------------------------------------------


def test_it_is_synced_every_second_and_for_a_destructive_call_at_once():
    clock = ManualClock()
    disk = MemoryDisk()
    audit = audit_on(disk, clock)

    def durable():
        return everything(audit_on(crash(disk, Random(1), data=Data.NONE, names=Names.NONE)))[0]

    assert not audit.record(call(0))
    assert durable() == []
    clock.advance(1)
    assert audit.record(call(1))
    assert durable() == ["0", "1"]
    assert not audit.record(call(2))
    assert audit.figures().waiting == 1
    assert audit.record(call(3), durable=True)
    assert durable() == ["0", "1", "2", "3"]
    audit.record(call(4))
    audit.close()
    assert durable() == ["0", "1", "2", "3", "4"]


def test_recording_does_not_wait_for_a_sync_and_a_destructive_call_does():
    hold, entered = threading.Event(), threading.Event()
    hold.set()

    def on_sync():
        entered.set()
        hold.wait(10)

    disk = MemoryDisk(on_sync=on_sync)
    audit = audit_on(disk, background=True)
    assert audit.record(call(0), durable=True)
    hold.clear()
    entered.clear()
    destructive = []
    thread = threading.Thread(
        target=lambda: destructive.append(audit.record(call(1), durable=True))
    )
    thread.start()
    assert entered.wait(10)  # the disk is at it, and hangs
    for number in range(2, 100):
        assert not audit.record(call(number))
    assert destructive == []
    hold.set()
    thread.join(10)
    assert destructive == [True]
    assert everything(audit) == (numbers(100), [])
    audit.close()
    assert disk.handle_count == 0


def test_the_thread_syncs_by_itself(monkeypatch):
    monkeypatch.setattr(audit_module, "SYNC_SECONDS", 0.01)
    synced = threading.Event()
    disk = MemoryDisk()
    audit = audit_on(disk, background=True)
    audit.record(call(0), durable=True)
    disk.on_sync = synced.set
    audit.record(call(1))
    assert synced.wait(10)
    audit.close()


def test_many_threads_record_and_nothing_is_lost():
    files = SlowSync(MemoryDisk(), 0.001)
    audit = audit_on(files, background=True, file_bytes_max=5_000)

    def work(first):
        for number in range(first, first + 50):
            audit.record(call(number), durable=number % 7 == 0)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 400, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    audit.close()
    found, damaged = everything(audit_on(files))
    assert damaged == []
    assert sorted(map(int, found)) == list(range(400))


# --- failing disks ---------------------------------------------------------------------------

FAULTS = [
    {"error": errno.EIO}, {"error": errno.ENOSPC}, {"error": errno.EIO, "before": False},
    {"error": errno.EIO, "partial_bytes": 30},
]  # fmt: skip
LOG_CALLS = {"create", "write_at", "sync", "sync_directory", "list_names", "stat", "seal", "remove"}


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_any_call_that_fails_once_loses_no_entry_and_repeats_none(fault):
    for k in itertools.count(1):
        disk, clock = MemoryDisk(), ManualClock()
        files = FailingFiles(disk, operations=LOG_CALLS, **fault)
        audit = audit_on(files, clock, file_bytes_max=900)
        files.calls, files.fail_at = 0, k
        synced = -1
        for number in range(12):
            if audit.record(call(number), durable=number % 3 == 2):
                synced = number
            if number % 5 == 4:
                clock.advance(1)
            rng = Random(number)
            left = crash(disk, rng, data=Data.NONE, names=Names.NONE)
            kept = everything(audit_on(left))[0]
            assert kept[: synced + 1] == numbers(synced + 1)
        is_past_the_last = not files.failed
        files.fail_at = None
        assert audit.record(call(12), durable=True)
        assert everything(audit) == (numbers(13), [])
        assert audit.findings() == []
        assert audit.figures().lost == audit.figures().waiting == 0
        audit.close()
        assert disk.handle_count == 0
        assert everything(audit_on(disk.clone())) == (numbers(13), [])
        if is_past_the_last:
            break
    assert k > 20


def test_a_disk_that_fails_for_ever_fails_no_call_and_is_said():
    disk = MemoryDisk()
    files = FailingFiles(disk, operations={"write_at", "create"}, error=errno.ENOSPC, once=False)
    audit = audit_on(files)
    audit.record(call(0), durable=True)
    files.fail_at = 1
    for number in range(1, 10):
        assert not audit.record(call(number), durable=True)
    (finding,) = audit.findings()
    assert finding.code == "audit-failing"
    assert os.strerror(errno.ENOSPC) in finding.message
    assert "9 entries" in finding.message
    assert audit.figures().failures == 9
    assert len(present(disk)) <= 2  # what failed is not left behind
    files.fail_at = None
    assert audit.record(call(10), durable=True)
    assert everything(audit) == (numbers(11), [])
    assert audit.findings() == []


def test_entries_beyond_the_bound_are_lost_counted_and_said_in_the_log(monkeypatch):
    monkeypatch.setattr(audit_module, "WAITING_MAX", 5)
    disk = MemoryDisk()
    files = FailingFiles(disk, operations={"write_at"}, once=False)
    audit = audit_on(files)
    files.fail_at = 1
    for number in range(8):
        audit.record(call(number))
    assert audit.figures().lost == 3
    assert [finding.code for finding in audit.findings()] == ["audit-failing", "audit-lost"]
    files.fail_at = None
    audit.close()
    again = audit_on(disk)
    entries = again.read().entries
    assert [entry.request_id for entry in entries] == [None, "4", "3", "2", "1", "0"]
    assert (entries[0].operation, entries[0].rows) == (LOST, 3)


def test_a_failed_sync_is_not_repeated_on_the_same_file():
    disk = MemoryDisk()
    files = FailingFiles(disk, operations={"sync"})
    audit = audit_on(files)
    audit.record(call(0), durable=True)
    files.calls, files.fail_at = 0, 1
    assert not audit.record(call(1), durable=True)
    assert audit.record(call(2), durable=True)
    assert present(disk) == ["0000000001.jsonl", "0000000002.jsonl"]
    assert everything(audit) == (["0", "1", "2"], [])
    # What the failed file holds beyond its last good sync is in the next file, and read once.
    assert disk.read_path(f"{AUDIT}/0000000001.jsonl").count(b"\n") == 3


def test_entries_after_close_are_counted_as_lost():
    audit = audit_on(MemoryDisk(), background=True)
    audit.record(call(0))
    audit.close()
    audit.close()
    assert not audit.record(call(1), durable=True)
    assert (audit.figures().recorded, audit.figures().lost) == (2, 1)


def test_a_thread_that_dies_is_a_finding(monkeypatch):
    audit = audit_on(MemoryDisk(), background=True)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    monkeypatch.setattr(AuditFiles, "append", lambda self, lines: 1 / 0)
    assert not audit.record(call(0), durable=True)
    assert not audit.record(call(1), durable=True)
    assert [finding.code for finding in audit.findings()] == ["audit-failing", "audit-lost"]


def test_a_directory_that_cannot_be_listed_is_refused_at_the_start():
    disk = MemoryDisk()
    directory = make_server_directory(disk, "/data", names.AUDIT)
    files = FailingFiles(disk, 1, operations={"list_names"})
    with pytest.raises(DirectoryError) as caught:
        Audit(files, directory, clock=ManualClock(), background=False)
    assert caught.value.code == Code.DIRECTORY_UNREADABLE


# --- crashes and damage ----------------------------------------------------------------------


@pytest.mark.crash
@pytest.mark.parametrize("kept", Data)
def test_after_a_power_cut_what_was_synced_is_there_and_what_is_torn_is_said(kept):
    for seed in range(30):
        disk, rng = MemoryDisk(), Random(seed)
        audit = audit_on(disk, file_bytes_max=1_500)
        synced = -1
        for number in range(rng.randrange(1, 25)):
            if audit.record(call(number), durable=rng.random() < 0.3):
                synced = number
        left = crash(disk, rng, data=kept)
        again = audit_on(left)
        found, damaged = everything(again)
        assert found[: synced + 1] == numbers(synced + 1)
        assert set(found) <= set(numbers(number + 1))
        if kept in {Data.ALL, Data.NONE}:
            assert damaged == []
        again.record(call("after"), durable=True)
        assert everything(again)[0] == [*found, "after"]


def test_a_line_that_was_cut_is_tolerated_and_said():
    disk = MemoryDisk()
    audit = audit_on(disk)
    for number in range(3):
        audit.record(call(number))
    audit.close()
    path = f"{AUDIT}/0000000001.jsonl"
    RottenFiles(disk).truncate(path, len(disk.read_path(path)) - 20)
    again = audit_on(disk)
    (finding,) = again.findings()
    assert (finding.code, "0000000001.jsonl" in finding.message) == ("audit-torn", True)
    found, damaged = everything(again)
    assert found == ["0", "1"]
    assert len(damaged) == 1
    assert "cut short" in damaged[0]


@given(st.data())
def test_a_flipped_bit_costs_its_line_and_no_other(data):
    disk = MemoryDisk()
    audit = audit_on(disk)
    for number in range(4):
        audit.record(call(number))
    audit.close()
    path = f"{AUDIT}/0000000001.jsonl"
    content = disk.read_path(path)
    offset = data.draw(st.integers(0, len(content) - 1))
    RottenFiles(disk).flip(path, offset, data.draw(st.integers(0, 7)))
    line = content[:offset].count(b"\n")  # 0 is the header
    found, damaged = everything(audit_on(disk))
    is_newline = content[offset : offset + 1] == b"\n"
    hit = {line, line + 1} if is_newline else {line}
    assert found == [str(number - 1) for number in range(1, 5) if number not in hit]
    assert damaged


def test_a_file_that_cannot_be_read_leaves_the_others():
    disk = MemoryDisk()
    for number in range(3):
        audit = audit_on(disk)
        audit.record(call(number))
        audit.close()
    files = FailingFiles(disk, operations={"open"})
    audit = audit_on(files)
    files.calls, files.fail_at = 0, 2
    page = audit.read()
    assert ids(page) == ["2", "0"]
    assert len(page.damaged) == 1
    assert "0000000002.jsonl" in page.damaged[0]


def test_on_a_real_disk(tmp_path):
    files = OsFiles()
    for start in range(2):
        audit = Audit(files, make_server_directory(files, str(tmp_path), names.AUDIT))
        for number in range(5):
            audit.record(call(start * 5 + number), durable=number == 4)
        assert everything(audit, 2) == (numbers(start * 5 + 5), [])
        audit.close()
    found = sorted(path.name for path in (tmp_path / ".server" / "audit").iterdir())
    assert found == ["0000000001.jsonl", "0000000002.jsonl"]
