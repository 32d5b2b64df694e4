"""Reports of imports: kept whole, the newest of them, whatever the disk does."""

import errno

import pytest
from tests.api.orphans import orphan
from tests.api.test_recovery import rows

from dvecdb.api.import_reports import ImportReports
from dvecdb.api.server_directory import make_server_directory
from dvecdb.errors import Code, DvecdbError
from dvecdb.formats import names
from dvecdb.formats.server_file import ImportReportFile
from dvecdb.reports import Doubt, ImportReport
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.faults import FailingFiles
from dvecdb.wire.rescue import LISTED_MAX, shortened

IMPORTS = "/data/.server/imports"


def reports_on(files, **options):
    return ImportReports(files, make_server_directory(files, "/data", names.IMPORTS), **options)


def report(number, doubts=0):
    doubtful = [
        Doubt(id=f"{item}", file="vectors.bin", offset=item, why="ambiguous", text="2 readings")
        for item in range(doubts)
    ]
    return ImportReportFile(
        id=f"{number:010d}", owner="docs", name="docs", seconds=1.5, finished_ns=7,
        report=ImportReport(source="/old", imported=doubts, doubtful=doubtful),
    )  # fmt: skip


def refused(call, *arguments):
    with pytest.raises(DvecdbError) as caught:
        call(*arguments)
    return caught.value.code


def test_a_report_comes_back_whole_after_a_restart():
    disk = MemoryDisk()
    reports_on(disk).keep(report(3, doubts=5_000))
    assert reports_on(disk).get("0000000003") == report(3, doubts=5_000)


def test_the_newest_are_kept():
    disk = MemoryDisk()
    reports = reports_on(disk, kept_max=3)
    for number in range(1, 6):
        reports.keep(report(number))
    assert [refused(reports.get, f"{number:010d}") for number in (1, 2)] == [
        Code.TASK_NOT_FOUND, Code.TASK_NOT_FOUND,
    ]  # fmt: skip
    assert [reports.get(f"{number:010d}").id for number in (3, 4, 5)] == [
        "0000000003", "0000000004", "0000000005",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["", "..", "x", "../keys/1", "0000000001.json", "1", "0" * 11])
def test_what_is_no_id_is_not_found(name):
    reports = reports_on(MemoryDisk())
    reports.keep(report(1))
    assert refused(reports.get, name) == Code.TASK_NOT_FOUND


def test_a_damaged_report_is_not_served():
    disk = MemoryDisk()
    reports_on(disk).keep(report(1))
    name = names.import_name("0000000001")
    directory = disk.open_root(IMPORTS, create=False)
    file = disk.open(directory, name)
    data = bytearray(disk.read_at(file, disk.size(file), 0))
    data[len(data) // 2] ^= 1
    damaged = MemoryDisk.from_tree({f"{IMPORTS}/{name}": bytes(data)})
    assert refused(ImportReports(damaged, damaged.open_root(IMPORTS, create=False)).get,
                   "0000000001") == Code.DAMAGED_DATA  # fmt: skip


def test_whichever_call_of_the_disk_fails_it_is_kept_or_nothing_is():
    number = 0
    while True:
        number += 1
        disk = MemoryDisk()
        reports = reports_on(disk)
        reports.keep(report(1))
        reports.close()
        failing = FailingFiles(disk, number, error=errno.ENOSPC)
        failed = False
        try:
            later = reports_on(failing)
            later.keep(report(2))
        except (OSError, DvecdbError):
            failed = True
        after = reports_on(disk)
        assert after.get("0000000001") == report(1)
        if not failed:
            assert after.get("0000000002") == report(2)
            if not failing.failed:
                return


def test_a_closed_directory_keeps_nothing_more():
    reports = reports_on(MemoryDisk())
    reports.keep(report(1))
    reports.close()
    reports.close()
    with pytest.raises(OSError, match="stopping"):
        reports.keep(report(2))


def test_an_import_whose_report_cannot_be_kept_is_done_all_the_same(server, tmp_path):
    held = orphan(tmp_path / "data" / "old")
    server.imports.close()
    body = {"orphaned_path": "old", "collection_name": "docs"}
    answer = server("POST", "/collections/import", body)
    assert len(rows(server, "docs")) == len(held)
    task = server("GET", answer.headers["location"]).data
    assert answer.headers["location"] == f"/tasks/{task['id']}"
    assert (task["state"], task["result"]["report_at"]) == ("done", None)
    assert task["result"]["report"]["imported"] == len(held)


def test_the_result_of_a_task_has_the_beginning_of_long_lists():
    short, long = report(1, doubts=LISTED_MAX).report, report(1, doubts=LISTED_MAX + 1).report
    assert shortened(short) is short
    cut = shortened(long)
    assert cut.doubtful == long.doubtful[:LISTED_MAX]
    assert cut.notes == [f"doubtful: the first {LISTED_MAX} of {LISTED_MAX + 1}"]
    assert (cut.imported, long.notes) == (long.imported, [])
