"""The asyncio twin: the same calls, awaited. Requests, answers and retries are the shared ones."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Generator
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

from dvecdb.client import (
    job_requests,
    recovery_requests,
    requests,
    rescue_requests,
    search_requests,
)
from dvecdb.client.address import (
    CONNECT_TIMEOUT_SECONDS,
    CONNECTIONS_MAX,
    TIMEOUT_SECONDS,
    Limits,
    parse_address,
)
from dvecdb.client.attempts import ATTEMPTS_MAX, Call, Terms, Wait, play
from dvecdb.client.collection import left
from dvecdb.client.connection import closed, named
from dvecdb.client.exchange import ExchangeError, fixed_headers, request_head
from dvecdb.client.streams import StreamPool
from dvecdb.errors import Code, NotFoundError
from dvecdb.records import Metric, VectorType, check_whole

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from types import TracebackType

    from dvecdb.client.address import Verify
    from dvecdb.client.attempts import Send
    from dvecdb.client.exchange import Answer
    from dvecdb.client.requests import Plan, Target
    from dvecdb.records import (
        AsOf,
        Finding,
        Json,
        Lsn,
        Page,
        Record,
        Schema,
    )
    from dvecdb.results import FacetCount, Group, Hits, SearchOptions

P = ParamSpec("P")
T = TypeVar("T")


class AsyncConnection:
    """Plays calls over a pool of streams. For the tasks of one event loop at a time."""

    def __init__(
        self,
        pool: StreamPool,
        fixed: bytes,
        prefix: str,
        terms: Terms,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._pool = pool
        self._fixed = fixed
        self._prefix = prefix
        self._terms = terms
        self._sleep = sleep
        self._is_closed = False

    async def send(self, call: Call[T]) -> T:
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
                    answer = await self._do(step)
                except ExchangeError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _do(self, step: Send | Wait) -> Answer | None:
        if isinstance(step, Wait):
            await self._sleep(step.seconds)
            return None
        call = step.call
        head = request_head(call.method, self._prefix + call.path, call.headers, self._fixed)
        return await self._pool.exchange(head, call.body, fresh=step.fresh)

    async def follow(self, plan: Plan[T]) -> T:
        """Return the result of several calls."""
        try:
            step: Call[Any] | Wait = next(plan)
            while True:
                if isinstance(step, Wait):
                    await self._sleep(step.seconds)
                    step = plan.send(None)
                else:
                    step = plan.send(await self.send(step))
        except StopIteration as end:
            result: T = end.value
            return result

    async def close(self) -> None:
        """Close every connection; calls under way end first."""
        self._is_closed = True
        await self._pool.close()


def _server_method(
    build: Callable[P, Call[T] | Plan[T]],
) -> Callable[Concatenate[AsyncDatabase, P], Awaitable[T]]:
    """Return the method that sends what `build` makes of its arguments."""

    async def method(self: AsyncDatabase, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.send(build(*args, **kwargs))

    named(method, build)
    return method


class AsyncDatabase:
    """A server's data directory, for asyncio: `dvecdb.Database` with awaited calls.

    No request is made before the first call.
    """

    def __init__(self, url: str, connection: AsyncConnection) -> None:
        self.url = url
        self._connection = connection

    async def __aenter__(self) -> Self:
        """Return the database."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self.close()

    async def create_collection(
        self,
        name: str,
        *,
        dimension: int,
        metric: str = Metric.COSINE,
        vector_type: str = VectorType.FLOAT32,
    ) -> AsyncCollection:
        """Create a collection; durable on return. Raises as `RemoteDatabase`."""
        call = requests.create_collection(
            name, dimension=dimension, metric=metric, vector_type=vector_type
        )
        return AsyncCollection(self._connection, await self._connection.send(call))

    async def collection(self, name: str) -> AsyncCollection:
        """Return a collection. Raises as `RemoteDatabase`."""
        target = await self._connection.send(requests.open_collection(name))
        return AsyncCollection(self._connection, target)

    async def collections(self) -> list[str]:
        """Return the names of the open collections, sorted."""
        return await self._connection.send(requests.list_collections())

    async def delete_collection(
        self, name: str, *, actor: str | None = None, reason: str | None = None
    ) -> None:
        """Move a collection to the trash. Durable on return. Raises as `RemoteDatabase`."""
        await self._connection.send(requests.delete_collection(name, actor=actor, reason=reason))

    trash = _server_method(recovery_requests.trash)
    backups = _server_method(recovery_requests.backups)
    restore = _server_method(recovery_requests.restore)
    verify_backup = _server_method(recovery_requests.verify_backup)
    delete_backup = _server_method(recovery_requests.delete_backup)
    hard_delete = _server_method(recovery_requests.hard_delete)
    purge = _server_method(recovery_requests.purge)
    trust_clock = _server_method(recovery_requests.trust_clock)
    import_legacy = _server_method(rescue_requests.import_legacy)
    examine_legacy = _server_method(rescue_requests.examine_legacy)
    run_job = _server_method(job_requests.run_job)
    start_job = _server_method(job_requests.start_job)
    estimate_job = _server_method(job_requests.estimate_job)
    job = _server_method(job_requests.job)
    jobs = _server_method(job_requests.list_jobs)
    pause_job = _server_method(job_requests.pause_job)
    resume_job = _server_method(job_requests.resume_job)
    stop_job = _server_method(job_requests.stop_job)

    async def preview(self, path: str) -> AsyncPreview:
        """Open a trash entry or backup for reading, as it is. Raises as `restore`."""
        return AsyncPreview(self._connection, await self.send(recovery_requests.preview(path)))

    async def send(self, wanted: Call[T] | Plan[T]) -> T:
        """Return the result of a call or plan."""
        if isinstance(wanted, Generator):
            return await self._connection.follow(wanted)
        return await self._connection.send(wanted)

    async def findings(self) -> list[Finding]:
        """Return everything damaged or doubtful in the server's data directory."""
        return await self._connection.send(requests.all_findings())

    async def close(self) -> None:
        """Close the connections. Everything that was acknowledged was durable before."""
        await self._connection.close()


def _method(
    build: Callable[Concatenate[Target, P], Call[T] | Plan[T]],
) -> Callable[Concatenate[AsyncReader, P], Awaitable[T]]:
    """Return the method that sends what `build` makes of its arguments."""

    async def method(self: AsyncReader, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.send(build(self.target, *args, **kwargs))

    update_wrapper(method, build)
    return method


class AsyncReader:
    """What can be read of a collection, trash entry or backup of a server."""

    def __init__(self, connection: AsyncConnection, target: Target) -> None:
        self._connection = connection
        self.target = target
        self.documents = AsyncDocuments(self)

    @property
    def name(self) -> str:
        """The collection's name."""
        return self.target.name

    @property
    def schema(self) -> Schema:
        """Dimension, metric and vector type."""
        return self.target.schema

    get = _method(requests.get)
    search = _method(search_requests.search)
    search_batch = _method(search_requests.search_batch)
    search_groups = _method(search_requests.search_groups)
    facet = _method(search_requests.facet)
    scroll = _method(requests.scroll)
    count = _method(requests.count)
    history = _method(requests.history)
    stats = _method(requests.stats)

    async def snapshot(self, *, as_of: AsOf | None = None) -> AsyncSnapshot:
        """Return a consistent read view: of now, of an LSN, or of an aware datetime."""
        return AsyncSnapshot(self, await self.send(requests.pin(self.target, as_of=as_of)))

    async def scan(
        self,
        *,
        where: Mapping[str, Json] | None = None,
        as_of: AsOf | None = None,
        with_vectors: bool = False,
    ) -> AsyncIterator[Record]:
        """Yield every record of one consistent state that matches `where`, in row order."""
        snapshot = await self.snapshot(as_of=as_of)
        async for record in snapshot.scan(where=where, with_vectors=with_vectors):
            yield record

    async def send(self, wanted: Call[T] | Plan[T]) -> T:
        """Return the result of a call or plan of this collection."""
        try:
            if isinstance(wanted, Generator):
                return await self._connection.follow(wanted)
            return await self._connection.send(wanted)
        except NotFoundError as error:
            if error.code is Code.COLLECTION_NOT_FOUND:
                raise left(self.target, error) from error
            raise


class AsyncCollection(AsyncReader):
    """A collection of a server, for asyncio. See `RemoteCollection`."""

    upsert = _method(requests.upsert)
    insert = _method(requests.insert)
    delete = _method(recovery_requests.delete)
    update_metadata = _method(requests.update_metadata)
    write = _method(requests.write)

    undo = _method(recovery_requests.undo)
    clone = _method(recovery_requests.clone)
    backup = _method(recovery_requests.backup)
    backups = _method(recovery_requests.backups_of)
    protect = _method(recovery_requests.protect)
    is_protected = _method(recovery_requests.is_protected)
    tag = _method(recovery_requests.tag)
    untag = _method(recovery_requests.untag)
    tags = _method(recovery_requests.tags)
    configure = _method(recovery_requests.configure)

    findings = _method(requests.findings)
    flush = _method(requests.flush)
    wait_for_index = _method(search_requests.wait_for_index)
    verify = _method(requests.verify)


class AsyncPreview(AsyncReader):
    """A trash entry or backup of a server: a collection that can only be read."""

    async def __aenter__(self) -> Self:
        """Return the preview."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing to release: the server opens it for each call."""

    async def close(self) -> None:
        """Nothing to release."""


class AsyncDocuments:
    """The versioned JSON documents of a collection."""

    def __init__(self, collection: AsyncReader) -> None:
        self._collection = collection

    async def get(self, namespace: str, key: str, *, as_of: AsOf | None = None) -> Json:
        """Return the value of a document, or None."""
        call = requests.document(self._collection.target, namespace, key, as_of=as_of)
        return await self._collection.send(call)

    async def list(self, namespace: str, *, as_of: AsOf | None = None) -> dict[str, Json]:
        """Return every document of a namespace by key."""
        call = requests.documents(self._collection.target, namespace, as_of=as_of)
        return await self._collection.send(call)


class AsyncSnapshot:
    """A consistent read view of a collection: its state at one LSN."""

    def __init__(self, collection: AsyncReader, lsn: Lsn) -> None:
        self._collection = collection
        self.lsn = lsn

    async def __aenter__(self) -> Self:
        """Return the snapshot."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing to release: the server keeps every state of the history window."""

    async def get(
        self,
        ids: Sequence[str],
        *,
        where: Mapping[str, Json] | None = None,
        with_vectors: bool = True,
    ) -> list[Record | None]:
        """Return the records of `ids` in order, None for those that do not exist or match."""
        return await self._collection.get(
            ids, where=where, as_of=self.lsn, with_vectors=with_vectors
        )

    async def search(
        self,
        query: Any,
        *,
        where: Mapping[str, Json] | None = None,
        **options: Unpack[SearchOptions],
    ) -> Hits:
        """Return the nearest records, nearest first, ties by row. As `Collection.search`."""
        return await self._collection.search(query, where=where, as_of=self.lsn, **options)

    async def search_batch(
        self,
        queries: Any,
        *,
        where: Mapping[str, Json] | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[Hits]:
        """Return the hits of several queries [n, dimension]."""
        return await self._collection.search_batch(queries, where=where, as_of=self.lsn, **options)

    async def search_groups(
        self,
        query: Any,
        by: str,
        *,
        group_size: int = 3,
        where: Mapping[str, Json] | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[Group]:
        """Return the nearest groups of records that share a value of the field `by`."""
        return await self._collection.search_groups(
            query, by, group_size=group_size, where=where, as_of=self.lsn, **options
        )

    async def facet(
        self, by: str, *, limit: int = 10, where: Mapping[str, Json] | None = None
    ) -> list[FacetCount]:
        """Return how many records have each value of the field `by`, the commonest first."""
        return await self._collection.facet(by, limit=limit, where=where, as_of=self.lsn)

    async def scan(
        self, *, where: Mapping[str, Json] | None = None, with_vectors: bool = False
    ) -> AsyncIterator[Record]:
        """Yield every record that matches in row order. Pages are read as they are needed."""
        after: int | None = None
        limit = requests.scan_rows(self._collection.schema, with_vectors=with_vectors)
        while True:
            page = await self.scroll(
                limit=limit, after=after, where=where, with_vectors=with_vectors
            )
            for record in page.records:
                yield record
            if page.next is None:
                return
            after = page.next

    async def scroll(
        self,
        *,
        limit: int = 100,
        after: int | None = None,
        where: Mapping[str, Json] | None = None,
        with_vectors: bool = False,
    ) -> Page:
        """Return up to `limit` records in row order; `after` is the `next` of the page before."""
        return await self._collection.scroll(
            limit=limit, after=after, where=where, as_of=self.lsn, with_vectors=with_vectors
        )

    async def count(self, *, where: Mapping[str, Json] | None = None) -> int:
        """Return the number of records, or of those that match `where`."""
        return await self._collection.count(where=where, as_of=self.lsn)

    async def document(self, namespace: str, key: str) -> Json:
        """Return a document's value, or None."""
        return await self._collection.documents.get(namespace, key, as_of=self.lsn)

    async def documents(self, namespace: str) -> dict[str, Json]:
        """Return every document of a namespace by key."""
        return await self._collection.documents.list(namespace, as_of=self.lsn)


def connect_async(
    url: str,
    *,
    api_key: str | None = None,
    timeout: float = TIMEOUT_SECONDS,
    connect_timeout: float = CONNECT_TIMEOUT_SECONDS,
    verify: Verify | os.PathLike[str] = True,
    attempts: int = ATTEMPTS_MAX,
    connections: int = CONNECTIONS_MAX,
) -> AsyncDatabase:
    """Return the database of the server at `url`, for asyncio. The arguments are `connect`'s.

    Raises:
        InvalidRequestError: `invalid-argument`. Whether a server is there shows at the first call.
    """
    address = parse_address(url, verify)
    limits = Limits(timeout, connect_timeout, connections)
    terms = Terms(address.authority, check_whole("attempts", attempts, 1, 100), uuid.uuid4)
    fixed = fixed_headers(address, api_key)
    pool = StreamPool(address, limits)
    return AsyncDatabase(url, AsyncConnection(pool, fixed, address.prefix, terms, asyncio.sleep))
