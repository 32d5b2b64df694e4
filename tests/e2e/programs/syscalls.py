"""Reading traces of system calls: one file for each thread, as `strace -ff -y` writes them."""

import re
from dataclasses import dataclass
from pathlib import Path

TRACED = (
    "openat,?open,?creat,write,pwrite64,pwritev,?pwritev2,writev,fsync,fdatasync,?sync,?syncfs,"
    "?sync_file_range,?rename,renameat,?renameat2,?unlink,unlinkat,?link,linkat,?symlink,symlinkat,"
    "?mkdir,mkdirat,?rmdir,truncate,ftruncate,mmap,?copy_file_range,sendfile,splice,fallocate"
)
_CALL = re.compile(r"^(?P<time>[\d.]+) (?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>.*)$")
_FD = re.compile(r"(\d+|AT_FDCWD)<([^>]*)>")
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Call:
    """One system call. `fds`: (number, path) of descriptors among its arguments, in order."""

    time: float
    name: str
    arguments: str
    result: str
    fds: tuple
    texts: tuple

    @property
    def path(self):
        """The path of the first descriptor, or nothing."""
        return self.fds[0][1].removesuffix("(deleted)") if self.fds else ""

    @property
    def failed(self):
        """Whether it returned an error."""
        return self.result.startswith("-1")


def command(strace, prefix, *options):
    """Return the tracing command: threads followed, one file each, descriptors with their paths."""
    return [
        strace, "-ff", "-qq", "-y", "-ttt", "-s", "200", "--seccomp-bpf", "-o", str(prefix),
        "-e", f"trace={TRACED}", "-e", "signal=none", *options,
    ]  # fmt: skip


def read_threads(prefix):
    """Return the calls of each thread, by thread id."""
    prefix = Path(prefix)
    threads = {}
    for path in sorted(prefix.parent.glob(f"{prefix.name}.*")):
        calls = [parse(line) for line in path.read_text(errors="replace").splitlines()]
        threads[int(path.suffix[1:])] = [call for call in calls if call is not None]
    return threads


def parse(line):
    """Return the call in a line, or None for another line."""
    match = _CALL.match(line)
    if match is None:
        return None
    arguments = match["arguments"]
    return Call(
        float(match["time"]),
        match["name"],
        arguments,
        match["result"],
        tuple(_FD.findall(arguments)),
        tuple(_TEXT.findall(arguments)),
    )


# --- rules -----------------------------------------------------------------------------------


def opened_for_writing(calls, data):
    """Yield what was opened for writing below `data` without being made by that call."""
    for call in calls:
        if call.name in {"open", "creat"} and any(data in text for text in call.texts):
            yield f"{call.name}({call.arguments})"
        if call.name != "openat" or not below(call, data):
            continue
        writes = "O_WRONLY" in call.arguments or "O_RDWR" in call.arguments
        exclusive = "O_CREAT" in call.arguments and "O_EXCL" in call.arguments
        if writes and not exclusive and call.texts[0] != "LOCK":
            yield f"openat({call.arguments})"
        if "O_TRUNC" in call.arguments or "O_APPEND" in call.arguments:
            yield f"openat({call.arguments})"


def below(call, data):
    """Return whether a call touches what lies in `data`."""
    return any(path.startswith(data) for _, path in call.fds) or any(
        text.startswith(data) for text in call.texts
    )


def bypasses(calls, data):
    """Yield calls below `data` that the table of file calls would not make.

    It writes by `pwritev` (which the C library may turn into `pwritev2`), and it names everything
    relative to an open directory.
    """
    named = {"openat", "renameat", "renameat2", "unlinkat", "linkat", "mkdirat"}
    never = {
        "write", "writev", "pwrite64", "truncate", "copy_file_range", "sendfile",
        "splice", "symlink", "symlinkat", "rename", "unlink", "link", "mkdir", "rmdir", "syncfs",
        "sync", "sync_file_range",
    }  # fmt: skip
    for call in calls:
        if not below(call, data) and call.name != "sync":
            continue
        if call.name in never:
            yield f"{call.name}({call.arguments})"
        if call.name in named:
            relative = all("/" not in text for text in call.texts)
            root = call.texts == (data,) and "O_DIRECTORY" in call.arguments
            if not relative and not root:
                yield f"{call.name}({call.arguments})"
        if call.name == "mmap" and "PROT_WRITE" in call.arguments and "SHARED" in call.arguments:
            yield f"mmap({call.arguments})"


def acknowledged_early(calls, data, ledger):
    """Yield acknowledgements of one thread whose log was not synced since it was written."""
    dirty, synced = set(), False
    for call in calls:
        if call.name.startswith("pwrite") and is_log(call.path, data):
            dirty.add(call.path)
        elif call.name in {"fsync", "fdatasync"} and not call.failed and is_log(call.path, data):
            dirty.discard(call.path)
            synced = True
        elif call.name == "write" and call.path == ledger and "acknowledged" in call.arguments:
            if dirty or not synced:
                yield f"acknowledged at {call.time}: not synced: {sorted(dirty) or 'anything'}"
            dirty, synced = set(), False


def is_log(path, data):
    """Return whether a path is that of a log file."""
    return path.startswith(data) and path.endswith(".wal")


def named_unsynced(calls, data):
    """Yield files that got their name before what was written to them was synced."""
    dirty = set()
    for call in calls:
        if call.name.startswith("pwrite") and call.path.startswith(data):
            dirty.add(call.path)
        elif call.name in {"fsync", "fdatasync"} and not call.failed:
            dirty.discard(call.path)
        elif call.name == "renameat2" and below(call, data) and not call.failed:
            source = f"{call.fds[0][1]}/{call.texts[0]}"
            if any(path == source or path.startswith(source + "/") for path in dirty):
                yield f"renameat2({call.arguments})"
