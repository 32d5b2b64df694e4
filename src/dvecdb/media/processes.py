"""Whether a process is still the one that it was."""

from __future__ import annotations

import os


def start_of(pid: int) -> int | None:
    """Return a number that no other process of this id has until a reboot, None if there is none.

    Linux: when it started, in ticks since boot. Elsewhere 0 for every process that lives.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # as in files.py
            content = file.read()
    except OSError:
        return _lives(pid) if not os.path.isdir("/proc/self") else None
    after_name = content.rpartition(b")")[2].split()
    state, started = after_name[0], int(after_name[19])
    return None if state in {b"Z", b"X"} else started


def _lives(pid: int) -> int | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return 0
    return 0
