"""A killed process loses nothing it acknowledged, and whatever it was doing is whole or absent.

Each round starts the writer on the same directory. It checks every row, document and receipt
against the ledger of what was acknowledged, settles what the kill left undecided by repeating it
under its idempotency key, reads some of the past, and writes on until it is killed as well. All
oracles are in programs/ledger.py.
"""

import json
import os
import random
import signal
import time

import pytest

SOAK = "DVECDB_SOAK" in os.environ
ROUNDS = 400 if SOAK else 20
SECONDS_MAX = 3600 if SOAK else 34  # a busy machine gets fewer rounds, and says so

pytestmark = [pytest.mark.crash, pytest.mark.slow]


def lines(ledger):
    """Return the whole lines of a ledger."""
    text = ledger.read_text() if ledger.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def acknowledged(ledger):
    return [event for event in lines(ledger) if event["event"] == "acknowledged"]


def has_begun(ledger, turn):
    return ledger.exists() and f'"begin", "round": {turn},' in ledger.read_text()


def kill_at_random(process, ledger, turn, chance):
    """Kill the writer while it recovers (sometimes) or while it writes. Return its exit code."""
    if chance.random() < 0.2:
        time.sleep(chance.uniform(0.2, 1.0))
    else:
        while process.poll() is None and not has_begun(ledger, turn):
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.7))
    process.send_signal(signal.SIGKILL)
    return process.wait()


def test_a_writer_killed_again_and_again_loses_nothing_it_acknowledged(programs, tmp_path):
    chance = random.Random(seed := int(os.environ.get("DVECDB_SEED", "20260711")))
    directory, ledger = tmp_path / "data", tmp_path / "ledger"
    started, turn = time.monotonic(), 0
    while turn < ROUNDS and time.monotonic() - started < SECONDS_MAX:
        turn += 1
        process = programs.start("writer.py", directory, ledger, turn)
        code = kill_at_random(process, ledger, turn, chance)
        assert code == -signal.SIGKILL, f"seed {seed}, round {turn}: {programs.said}"
    code = programs.run("writer.py", directory, ledger, turn + 1, "--steps", 5)
    assert code == 0, f"seed {seed}, after the last round: {programs.said}"
    events = lines(ledger)
    begun = sum(event["event"] == "begin" for event in events)
    print(f"{turn} kills, {begun} while writing, {len(acknowledged(ledger))} acknowledged writes")
    assert begun >= 5
    assert len(acknowledged(ledger)) > 100


def test_a_directory_that_lost_a_write_is_noticed(programs, tmp_path):
    """The negative control: without it a ledger that never fails would look the same."""
    directory, ledger = tmp_path / "data", tmp_path / "ledger"
    assert programs.run("writer.py", directory, ledger, 1, "--steps", 3) == 0
    with ledger.open("a") as file:
        lsn = max(event["lsn"] for event in acknowledged(ledger)) + 1
        name = [1, 0, 3]
        file.write(json.dumps({"event": "acknowledged", "name": name, "lsn": lsn}) + "\n")
    assert programs.run("writer.py", directory, ledger, 2, "--steps", 3) == 3
    assert "acknowledged write (1, 0, 3)" in programs.said
