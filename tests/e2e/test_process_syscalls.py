"""What the process really asks of the kernel, seen from outside: nothing bypasses the file table.

The simulated crashes are as good as their picture of the calls. Here the calls of a real process
are traced and held against the same rules; and injected errors are real errors of the kernel.
"""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.crash, pytest.mark.slow]


def load(name):
    """Return a module of programs/, which is no package."""
    path = Path(__file__).with_name("programs") / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"e2e_programs_{name}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


syscalls = load("syscalls")


@pytest.fixture
def trace(programs, strace, tmp_path):
    """The calls, by thread, of a writer that opens, writes, flushes, merges, reopens and closes."""
    data, ledger = tmp_path / "data", tmp_path / "ledger"
    for turn in range(2):
        prefix = syscalls.command(strace, tmp_path / f"trace-{turn}")
        arguments = [data, ledger, turn, "--steps", 150, "--threads", 1]
        code = programs.run("writer.py", *arguments, prefix=prefix, timeout=120)
        assert code == 0, programs.said
    threads = {}
    for turn in range(2):
        found = syscalls.read_threads(tmp_path / f"trace-{turn}")
        threads |= {(turn, thread): calls for thread, calls in found.items()}
    return threads, str(data), str(ledger)


def test_system_calls_keep_the_rules_of_the_file_table(trace):
    threads, data, ledger = trace
    everything = [call for calls in threads.values() for call in calls]
    assert list(syscalls.opened_for_writing(everything, data)) == []
    assert list(syscalls.bypasses(everything, data)) == []
    early, acknowledged = [], 0
    for calls in threads.values():
        early += syscalls.named_unsynced(calls, data)
        early += syscalls.acknowledged_early(calls, data, ledger)
        acknowledged += sum("acknowledged" in call.arguments for call in calls)
    assert early == []
    assert acknowledged >= 300
    names = {call.name for call in everything if syscalls.below(call, data)}
    assert {"fdatasync", "fsync", "renameat2", "unlinkat"} <= names
    merged = sum(call.name == "unlinkat" and "vectors.bin" in call.arguments for call in everything)
    assert merged > 0, "nothing was merged and reclaimed: the trace says little"

    # The rules notice: the same trace without its syncs of files, and with a plain write.
    noticed = 0
    for calls in threads.values():
        lying = [call for call in calls if call.name != "fdatasync"]
        noticed += len(list(syscalls.acknowledged_early(lying, data, ledger)))
        noticed += len(list(syscalls.named_unsynced(lying, data)))
    assert noticed > acknowledged
    foreign = syscalls.parse(f'1.0 openat(AT_FDCWD</>, "{data}/x", O_WRONLY|O_CREAT, 0666) = 3')
    assert list(syscalls.opened_for_writing([foreign], data))
    assert list(syscalls.bypasses([foreign], data))


@pytest.mark.parametrize("number", [14, 23])
@pytest.mark.parametrize("call", ["fdatasync", "pwritev,?pwritev2"])
def test_after_a_failed_call_on_the_log_it_is_never_written_or_synced_again(
    programs, strace, tmp_path, call, number
):
    """A second sync would report success, and the data would be gone."""
    data, traced = tmp_path / "data", tmp_path / "trace"
    inject = ["-e", f"inject={call}:error=EIO:when={number}"]
    console = programs.console(data, prefix=syscalls.command(strace, traced, *inject))
    console.do("open")
    outcomes = {}
    for version in range(40):
        outcomes[f"r{version}"] = console.ask("upsert", ids=[f"r{version}"], version=version)
    codes = [answer.get("error", "ok") for answer in outcomes.values()]
    failed = codes.index("outcome-unknown")
    assert failed > 0
    assert codes == ["ok"] * failed + ["outcome-unknown"] + ["writes-stopped"] * (39 - failed)
    assert console.do("get", ids=["r0", f"r{failed}", "r39"]) == [0, None, None]
    assert console.fails("flush") == "writes-stopped"
    console.do("close")
    console.end()

    calls = sorted(
        (call for calls in syscalls.read_threads(traced).values() for call in calls),
        key=lambda item: item.time,
    )
    (first,) = [index for index, item in enumerate(calls) if "INJECTED" in item.result]
    assert calls[first].path.endswith(".wal"), calls[first]
    later = [item for item in calls[first + 1 :] if item.path == calls[first].path]
    assert [item for item in later if item.name != "mmap"] == []

    again = programs.console(data)
    again.do("open")
    names = list(outcomes)
    versions = again.do("get", ids=names)
    assert versions[:failed] == list(range(failed))
    assert versions[failed] in {failed, None}
    assert versions[failed + 1 :] == [None] * (39 - failed)
    assert again.do("upsert", ids=["after"], version=1)
    print(json.dumps({"call": call, "failed": failed}))
