"""A collection of a server: the interface of `dvecdb.Collection` over HTTP."""

from __future__ import annotations

from collections.abc import Generator
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

from dvecdb.client import recovery_requests, requests, search_requests
from dvecdb.errors import Code, HandleError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

    from dvecdb.client.attempts import Call
    from dvecdb.client.connection import Connection
    from dvecdb.client.requests import Plan, Target
    from dvecdb.records import AsOf, Json, Lsn, Page, Record, Schema
    from dvecdb.results import FacetCount, Group, Hits, SearchOptions

P = ParamSpec("P")
T = TypeVar("T")


def _method(
    build: Callable[Concatenate[Target, P], Call[T] | Plan[T]],
) -> Callable[Concatenate[RemoteReader, P], T]:
    """Return the method that sends what `build` makes of its arguments."""

    def method(self: RemoteReader, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.send(build(self.target, *args, **kwargs))

    update_wrapper(method, build)
    return method


def left(target: Target, error: NotFoundError) -> HandleError:
    """Return what a handle says whose collection is no longer there."""
    return HandleError(
        Code.COLLECTION_DELETED,
        f"collection {target.name!r} is not there any more: {error.message}",
        name=target.name,
    )


class RemoteReader:
    """What can be read of a collection, trash entry or backup of a server."""

    def __init__(self, connection: Connection, target: Target) -> None:
        self._connection = connection
        self.target = target
        self.documents = RemoteDocuments(self)

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

    def snapshot(self, *, as_of: AsOf | None = None) -> RemoteSnapshot:
        """Return a consistent read view: of now, of an LSN, or of an aware datetime.

        Raises:
            InvalidRequestError: `as-of-unreadable`, says what is readable.
        """
        return RemoteSnapshot(self, self.send(requests.pin(self.target, as_of=as_of)))

    def scan(
        self,
        *,
        where: Mapping[str, Json] | None = None,
        as_of: AsOf | None = None,
        with_vectors: bool = False,
    ) -> Iterator[Record]:
        """Yield every record of one consistent state that matches `where`, in row order."""
        return self.snapshot(as_of=as_of).scan(where=where, with_vectors=with_vectors)

    def send(self, wanted: Call[T] | Plan[T]) -> T:
        """Return the result of a call or plan of this collection."""
        try:
            if isinstance(wanted, Generator):
                return self._connection.follow(wanted)
            return self._connection.send(wanted)
        except NotFoundError as error:
            if error.code is Code.COLLECTION_NOT_FOUND:
                raise left(self.target, error) from error
            raise


class RemoteCollection(RemoteReader):
    """A collection of a server. Safe to use from any number of threads.

    Every write returns a `Commit` and is durable then. Every write may carry `if_lsn` (refused if
    any id it touches was changed after that LSN), `expect` (documents that must have these values),
    `idempotency_key` (the same call again answers the same and writes nothing; one is made if none
    is given), and `actor`, `reason` and `request_id` for the commit note; a deletion of most of the
    rows needs `confirm`. The handle goes by the
    name: after the collection was deleted and made again, it is the new one.
    """

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


class RemotePreview(RemoteReader):
    """A trash entry or backup of a server: a collection that can only be read."""

    def __enter__(self) -> Self:
        """Return the preview."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing to release: the server opens it for each call."""

    def close(self) -> None:
        """Nothing to release."""


class RemoteDocuments:
    """The versioned JSON documents of a collection: job cursors, tags and the like."""

    def __init__(self, collection: RemoteReader) -> None:
        self._collection = collection

    def get(self, namespace: str, key: str, *, as_of: AsOf | None = None) -> Json:
        """Return the value of a document, or None."""
        collection = self._collection
        return collection.send(requests.document(collection.target, namespace, key, as_of=as_of))

    def list(self, namespace: str, *, as_of: AsOf | None = None) -> dict[str, Json]:
        """Return every document of a namespace by key."""
        collection = self._collection
        return collection.send(requests.documents(collection.target, namespace, as_of=as_of))


class RemoteSnapshot:
    """A consistent read view of a collection: its state at one LSN."""

    def __init__(self, collection: RemoteReader, lsn: Lsn) -> None:
        self._collection = collection
        self.lsn = lsn

    def __enter__(self) -> Self:
        """Return the snapshot."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing to release: the server keeps every state of the history window."""

    def get(
        self,
        ids: Sequence[str],
        *,
        where: Mapping[str, Json] | None = None,
        with_vectors: bool = True,
    ) -> list[Record | None]:
        """Return the records of `ids` in order, None for those that do not exist or match."""
        return self._collection.get(ids, where=where, as_of=self.lsn, with_vectors=with_vectors)

    def search(
        self,
        query: Any,
        *,
        where: Mapping[str, Json] | None = None,
        **options: Unpack[SearchOptions],
    ) -> Hits:
        """Return the nearest records, nearest first, ties by row. As `Collection.search`."""
        return self._collection.search(query, where=where, as_of=self.lsn, **options)

    def search_batch(
        self,
        queries: Any,
        *,
        where: Mapping[str, Json] | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[Hits]:
        """Return the hits of several queries [n, dimension]."""
        return self._collection.search_batch(queries, where=where, as_of=self.lsn, **options)

    def search_groups(
        self,
        query: Any,
        by: str,
        *,
        group_size: int = 3,
        where: Mapping[str, Json] | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[Group]:
        """Return the nearest groups of records that share a value of the field `by`."""
        return self._collection.search_groups(
            query, by, group_size=group_size, where=where, as_of=self.lsn, **options
        )

    def facet(
        self, by: str, *, limit: int = 10, where: Mapping[str, Json] | None = None
    ) -> list[FacetCount]:
        """Return how many records have each value of the field `by`, the commonest first."""
        return self._collection.facet(by, limit=limit, where=where, as_of=self.lsn)

    def scan(
        self, *, where: Mapping[str, Json] | None = None, with_vectors: bool = False
    ) -> Iterator[Record]:
        """Yield every record that matches in row order. Pages are read as they are needed."""
        after: int | None = None
        limit = requests.scan_rows(self._collection.schema, with_vectors=with_vectors)
        while True:
            page = self.scroll(limit=limit, after=after, where=where, with_vectors=with_vectors)
            yield from page.records
            if page.next is None:
                return
            after = page.next

    def scroll(
        self,
        *,
        limit: int = 100,
        after: int | None = None,
        where: Mapping[str, Json] | None = None,
        with_vectors: bool = False,
    ) -> Page:
        """Return up to `limit` records in row order; `after` is the `next` of the page before."""
        return self._collection.scroll(
            limit=limit, after=after, where=where, as_of=self.lsn, with_vectors=with_vectors
        )

    def count(self, *, where: Mapping[str, Json] | None = None) -> int:
        """Return the number of records, or of those that match `where`."""
        return self._collection.count(where=where, as_of=self.lsn)

    def document(self, namespace: str, key: str) -> Json:
        """Return a document's value, or None."""
        return self._collection.documents.get(namespace, key, as_of=self.lsn)

    def documents(self, namespace: str) -> dict[str, Json]:
        """Return every document of a namespace by key."""
        return self._collection.documents.list(namespace, as_of=self.lsn)
