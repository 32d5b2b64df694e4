"""A server as a database: the interface of `dvecdb.open` over HTTP."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Generator
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from dvecdb import clock
from dvecdb.client import job_requests, recovery_requests, requests, rescue_requests
from dvecdb.client.address import (
    CONNECT_TIMEOUT_SECONDS,
    CONNECTIONS_MAX,
    TIMEOUT_SECONDS,
    Limits,
    parse_address,
)
from dvecdb.client.attempts import ATTEMPTS_MAX, Call, Terms, Wait, play
from dvecdb.client.collection import RemoteCollection, RemotePreview
from dvecdb.client.exchange import ExchangeError, fixed_headers, request_head
from dvecdb.client.sockets import SocketPool
from dvecdb.errors import Code, HandleError
from dvecdb.records import Metric, VectorType, check_whole

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from types import TracebackType

    from dvecdb.client.address import Verify
    from dvecdb.client.attempts import Send
    from dvecdb.client.exchange import Answer
    from dvecdb.client.requests import Plan
    from dvecdb.records import Finding

P = ParamSpec("P")
T = TypeVar("T")


class Connection:
    """Plays calls over a pool of sockets. Safe to use from any number of threads."""

    def __init__(
        self,
        pool: SocketPool,
        fixed: bytes,
        prefix: str,
        terms: Terms,
        sleep: Callable[[float], None],
    ) -> None:
        self._pool = pool
        self._fixed = fixed
        self._prefix = prefix
        self._terms = terms
        self._sleep = sleep
        self._is_closed = False

    def send(self, call: Call[T]) -> T:
        """Return the result of a call.

        Raises:
            DvecdbError: of the server; `unreachable`; `handle-closed`.
        """
        if self._is_closed:
            raise closed()
        steps = play(call, self._terms)
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._do(step)
                except ExchangeError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    def _do(self, step: Send | Wait) -> Answer | None:
        if isinstance(step, Wait):
            self._sleep(step.seconds)
            return None
        call = step.call
        head = request_head(call.method, self._prefix + call.path, call.headers, self._fixed)
        return self._pool.exchange(head, call.body, fresh=step.fresh)

    def follow(self, plan: Plan[T]) -> T:
        """Return the result of several calls."""
        try:
            step: Call[Any] | Wait = next(plan)
            while True:
                if isinstance(step, Wait):
                    self._sleep(step.seconds)
                    step = plan.send(None)
                else:
                    step = plan.send(self.send(step))
        except StopIteration as end:
            result: T = end.value
            return result

    def close(self) -> None:
        """Close every connection; calls under way end first."""
        self._is_closed = True
        self._pool.close()


def closed() -> HandleError:
    """Return what a closed client says."""
    return HandleError(Code.HANDLE_CLOSED, "this client is closed; connect again")


def named(method: Callable[..., Any], build: Callable[..., Any]) -> None:
    """Give a method the name, text and parameters of what builds its calls."""
    update_wrapper(method, build)
    del method.__wrapped__  # type: ignore[attr-defined]  # or its first parameter counts as self
    whole = inspect.signature(build)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    parameters = [itself, *whole.parameters.values()]
    method.__signature__ = whole.replace(parameters=parameters)  # type: ignore[attr-defined]


def _method(
    build: Callable[P, Call[T] | Plan[T]],
) -> Callable[Concatenate[RemoteDatabase, P], T]:
    """Return the method that sends what `build` makes of its arguments."""

    def method(self: RemoteDatabase, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.send(build(*args, **kwargs))

    named(method, build)
    return method


class RemoteDatabase:
    """A server's data directory. Safe to use from any number of threads, and after a fork.

    No request is made before the first call.
    """

    def __init__(self, url: str, connection: Connection) -> None:
        self.url = url
        self._connection = connection

    def __enter__(self) -> Self:
        """Return the database."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self.close()

    def create_collection(
        self,
        name: str,
        *,
        dimension: int,
        metric: str = Metric.COSINE,
        vector_type: str = VectorType.FLOAT32,
    ) -> RemoteCollection:
        """Create a collection; durable on return.

        Raises:
            InvalidRequestError: `invalid-name`, `invalid-argument`.
            ConflictError: `collection-exists`, also where only the case differs.
            DiskFullError: `disk-full`.
        """
        call = requests.create_collection(
            name, dimension=dimension, metric=metric, vector_type=vector_type
        )
        return RemoteCollection(self._connection, self._connection.send(call))

    def collection(self, name: str) -> RemoteCollection:
        """Return a collection.

        Raises:
            NotFoundError: `collection-not-found`.
            DamagedDataError: `collection-damaged`, it was set aside; says why.
        """
        target = self._connection.send(requests.open_collection(name))
        return RemoteCollection(self._connection, target)

    def collections(self) -> list[str]:
        """Return the names of the open collections, sorted."""
        return self._connection.send(requests.list_collections())

    def delete_collection(
        self, name: str, *, actor: str | None = None, reason: str | None = None
    ) -> None:
        """Move a collection to the trash; no byte of its data is removed. Durable on return.

        Raises:
            NotFoundError: `collection-not-found`.
            ConflictError: `collection-protected`.
        """
        self._connection.send(requests.delete_collection(name, actor=actor, reason=reason))

    trash = _method(recovery_requests.trash)
    backups = _method(recovery_requests.backups)
    restore = _method(recovery_requests.restore)
    verify_backup = _method(recovery_requests.verify_backup)
    delete_backup = _method(recovery_requests.delete_backup)
    hard_delete = _method(recovery_requests.hard_delete)
    purge = _method(recovery_requests.purge)
    trust_clock = _method(recovery_requests.trust_clock)
    import_legacy = _method(rescue_requests.import_legacy)
    examine_legacy = _method(rescue_requests.examine_legacy)
    run_job = _method(job_requests.run_job)
    start_job = _method(job_requests.start_job)
    estimate_job = _method(job_requests.estimate_job)
    job = _method(job_requests.job)
    jobs = _method(job_requests.list_jobs)
    pause_job = _method(job_requests.pause_job)
    resume_job = _method(job_requests.resume_job)
    stop_job = _method(job_requests.stop_job)

    def preview(self, path: str) -> RemotePreview:
        """Open a trash entry or backup for reading, as it is; nothing is changed.

        Raises: as `restore`.
        """
        return RemotePreview(self._connection, self.send(recovery_requests.preview(path)))

    def send(self, wanted: Call[T] | Plan[T]) -> T:
        """Return the result of a call or plan."""
        if isinstance(wanted, Generator):
            return self._connection.follow(wanted)
        return self._connection.send(wanted)

    def findings(self) -> list[Finding]:
        """Return everything damaged or doubtful in the server's data directory."""
        return self._connection.send(requests.all_findings())

    def close(self) -> None:
        """Close the connections. Everything that was acknowledged was durable before."""
        self._connection.close()


def connect(
    url: str,
    *,
    api_key: str | None = None,
    timeout: float = TIMEOUT_SECONDS,
    connect_timeout: float = CONNECT_TIMEOUT_SECONDS,
    verify: Verify | os.PathLike[str] = True,
    attempts: int = ATTEMPTS_MAX,
    connections: int = CONNECTIONS_MAX,
) -> RemoteDatabase:
    """Return the database of the server at `url`, such as http://127.0.0.1:3030.

    timeout: seconds of silence until a request is given up; connect_timeout: likewise for a
    connection; verify: how to check a server's certificate: True, by the system's authorities; a
    path, by that file; an `ssl.SSLContext`; False, not at all. attempts: how often a call is made
    at most; reads are always repeated safely, writes carry an idempotency key for it. 1: no call
    is repeated, and no key is made. connections: open at once at most; more callers wait.

    Raises:
        InvalidRequestError: `invalid-argument`. Whether a server is there shows at the first call.
    """
    address = parse_address(url, verify)
    limits = Limits(timeout, connect_timeout, connections)
    terms = Terms(address.authority, check_whole("attempts", attempts, 1, 100), uuid.uuid4)
    fixed = fixed_headers(address, api_key)
    pool = SocketPool(address, limits)
    return RemoteDatabase(url, Connection(pool, fixed, address.prefix, terms, clock.sleep))
