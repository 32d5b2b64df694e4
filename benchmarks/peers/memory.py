"""Memory and disk that a system takes."""

from __future__ import annotations

import os
from pathlib import Path

import psutil


def anonymous_bytes(pids: list[int]) -> int:
    """Return the memory of processes and their children that no file stands behind.

    A page that several share, as after a fork or in PostgreSQL's buffers, counts once in all.
    """
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        process = psutil.Process(pid)
        found |= {item.pid: item for item in [process, *process.children(recursive=True)]}
    return sum(_anonymous_bytes(pid) for pid in found)


def _anonymous_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:  # it ended meanwhile
        return 0
    sizes = {line.split(":")[0]: line.split()[1] for line in text.splitlines()[1:]}
    return 1024 * (int(sizes["Pss_Anon"]) + int(sizes["Pss_Shmem"]))


def disk_bytes(path: Path) -> int:
    """Return what a file or directory takes on the disk; what has several names counts once."""
    inodes = {}
    for directory, _, names in os.walk(path):
        for name in names:
            status = (Path(directory) / name).lstat()
            inodes[status.st_ino] = status.st_blocks * 512
    if path.is_file():
        inodes[0] = path.stat().st_blocks * 512
    return sum(inodes.values())
