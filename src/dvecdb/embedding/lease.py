"""One job at a time for a collection: a document that says who runs it. Pure, but for its owner.

Every commit of a job expects the document as the job wrote it, so a job that lost its lease cannot
write any more. A lease of this machine is free when its process is dead, or when it was not renewed
for `LEASE_SECONDS`: an undo, a restore and a clone bring old leases back, also those of processes
that live. One of another machine is free when it was not renewed while somebody watched it for as
long: clocks of two machines cannot be compared.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from dvecdb.errors import Code, ConflictError
from dvecdb.media.processes import start_of

if TYPE_CHECKING:
    from dvecdb.records import Json

LEASE_SECONDS: Final = 30.0
RENEW_SECONDS: Final = LEASE_SECONDS / 3


@dataclass(frozen=True, slots=True)
class Lease:
    """Who runs a job. owner: unique to the run; renewed: grows with each renewal.

    at_ns: when that was, in the monotonic time of its machine.

    takes_signals: the process pauses, goes on and stops as its signals say (`cli.embed_signals`).
    """

    owner: str
    host: str
    pid: int
    started: int
    takes_signals: bool = False
    renewed: int = 0
    at_ns: int = 0

    @classmethod
    def of_this_process(cls, owner: str, *, takes_signals: bool = False, at_ns: int = 0) -> Lease:
        """Return a lease of this process."""
        started = start_of(os.getpid()) or 0
        return cls(owner, platform.node(), os.getpid(), started, takes_signals, at_ns=at_ns)

    def renew(self, now_ns: int) -> Lease:
        """Return it renewed."""
        return replace(self, renewed=self.renewed + 1, at_ns=now_ns)

    def to_json(self) -> Json:
        """Return the document that says so."""
        return {
            "owner": self.owner,
            "host": self.host,
            "pid": self.pid,
            "started": self.started,
            "takes_signals": self.takes_signals,
            "renewed": self.renewed,
            "at_ns": self.at_ns,
        }


def is_dead(value: Json) -> bool:
    """Return whether a lease belongs to a process of this machine that is no more."""
    found: Any = value
    return (
        isinstance(found, dict)
        and found.get("host") == platform.node()
        and isinstance(found.get("pid"), int)
        and start_of(found["pid"]) != found.get("started")
    )


def is_free(value: Json, now_ns: int) -> bool:
    """Return whether a lease can be taken at once: its process is dead, or it was not renewed.

    now_ns: monotonic. Leases of other machines are never known to be free.
    """
    found: Any = value
    if not isinstance(found, dict):
        return True
    if found.get("host") != platform.node():
        return False
    at_ns = found.get("at_ns")
    is_fresh = isinstance(at_ns, int) and 0 <= now_ns - at_ns < LEASE_SECONDS * 1e9
    return is_dead(found) or not is_fresh


def running(value: Json, collection: str) -> ConflictError:
    """Return what is said to a second job."""
    found: Any = value if isinstance(value, dict) else {}
    host, pid = found.get("host"), found.get("pid")
    return ConflictError(
        Code.JOB_RUNNING,
        f"collection {collection!r} has a job already: process {pid} on {host}. Wait for it, or "
        "stop it with 'dvecdb embed stop'; nothing was written",
        collection=collection,
        host=host,
        pid=pid,
    )
