"""The collection a job fills, embedded or on a server: every commit happens once, or is refused.

A commit carries the cursor's new document and expects the old one. So after an answer that never
came, the document itself says whether the commit happened: no key has to be kept for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dvecdb.embedding.identity import Identity, refuse_other
from dvecdb.embedding.lease import LEASE_SECONDS, RENEW_SECONDS, Lease, is_free, running
from dvecdb.embedding.progress import EMBEDDER, LEASE
from dvecdb.embedding.waiting import GRACE_SECONDS, is_away
from dvecdb.errors import Code, ConflictError, DvecdbError, InvalidRequestError, NotFoundError
from dvecdb.records import VectorType, parse_vector_type

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dvecdb.embedding.job import TargetSpec
    from dvecdb.embedding.waiting import Waiting
    from dvecdb.protection.collection import Collection
    from dvecdb.records import Json, Metadata
    from dvecdb.rescue.database import Database

T = TypeVar("T")
Name = tuple[str, str]


class Target:
    """A collection while one job writes into it."""

    def __init__(self, database: Database, spec: TargetSpec, waiting: Waiting) -> None:
        self.database = database
        self._spec = spec
        self._waiting = waiting
        self._collection: Collection | None = None
        self._lease: Lease | None = None
        self._renewed_ns = 0

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._spec.collection

    @property
    def collection(self) -> Collection:
        """The collection; only after `find` or `attach`."""
        assert self._collection is not None
        return self._collection

    def reach(self, call: Callable[[], T]) -> T:
        """Return what a call returns, waiting while the database is away. For reads.

        Raises:
            DvecdbError: what waiting cannot cure; `unreachable` after `give_up_seconds`.
            Stopped: somebody stopped the job.
        """
        return self._waiting.reach("database", call)

    def find(self) -> Identity | None:
        """Look for the collection; return the embedder that it is pinned to, None if to none."""
        try:
            self._collection = self.reach(lambda: self.database.collection(self.name))
        except NotFoundError:
            return None
        pinned = self.document(EMBEDDER)
        return None if pinned is None else Identity.from_json(pinned)

    def attach(self, identity: Identity, owner: str, *, takes_signals: bool = False) -> None:
        """Make the collection if there is none, take the lease, pin the embedder.

        Raises:
            ConflictError: `job-running`; `embedder-mismatch`; `collection-exists` never.
            InvalidRequestError: `vector-out-of-range`, such vectors cannot be held.
        """
        pinned = self.find()
        if self._collection is None:
            _refuse_unfit(identity, parse_vector_type(self._spec.vector_type), self.name)
            self._create(identity)
        if pinned is not None:
            refuse_other(pinned, identity, self.name)
        elif self.collection.schema.dimension != identity.dimension:
            raise ConflictError(
                Code.EMBEDDER_MISMATCH,
                f"collection {self.name!r} has dimension {self.collection.schema.dimension}, "
                f"{identity.model} answers {identity.dimension}. Nothing was written; use another "
                "collection, or an embedder of that dimension",
                collection=self.name,
                expected=self.collection.schema.dimension,
                found=identity.dimension,
            )
        _refuse_unfit(identity, self.collection.schema.vector_type, self.name)
        now_ns = self._waiting.now_ns()
        self._take(Lease.of_this_process(owner, takes_signals=takes_signals, at_ns=now_ns))
        if pinned is None:
            self.commit({EMBEDDER: (None, identity.to_json())}, reason="pin the embedder")

    def _create(self, identity: Identity) -> None:
        def create() -> Collection:
            try:
                return self.database.create_collection(
                    self.name,
                    dimension=identity.dimension,
                    metric=self._spec.metric,
                    vector_type=self._spec.vector_type,
                )
            except ConflictError as error:
                if error.code is not Code.COLLECTION_EXISTS:
                    raise
                return self.database.collection(self.name)

        self._collection = self.reach(create)

    # --- the lease ---

    def _take(self, mine: Lease) -> None:
        found = self.document(LEASE)
        if found is not None and not is_free(found, mine.at_ns):
            found = self._watch_lease(found)
        try:
            self.commit({LEASE: (found, mine.to_json())}, reason="a job begins")
        except ConflictError as error:
            if error.code is not Code.CONDITION_FAILED:
                raise
            raise running(self.document(LEASE), self.name) from error
        self._lease = mine
        self._renewed_ns = self._waiting.now_ns()

    def _watch_lease(self, found: Json) -> Json:
        """Return what is there instead once nobody renews a lease of another machine.

        Raises:
            ConflictError: `job-running`.
        """
        if found.get("host") == Lease.of_this_process("").host:
            raise running(found, self.name)
        for _ in range(int(LEASE_SECONDS)):
            self._waiting.pause(1.0)
            now = self.document(LEASE)
            if now is None:
                return None
            if now != found:
                raise running(now, self.name)
        return found

    def renew(self) -> None:
        """Renew the lease if it is time to, and nothing else did."""
        if self._waiting.now_ns() - self._renewed_ns > RENEW_SECONDS * 1e9:
            self.commit({}, reason="a job goes on")

    def release(self) -> None:
        """Give the lease back, also one that an undo brought back meanwhile."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        found = self.document(LEASE)
        if isinstance(found, dict) and found.get("owner") == lease.owner:
            self.commit({LEASE: (found, None)}, reason="a job ends")

    # --- reading and writing ---

    def document(self, name: Name) -> Json:
        """Return the value of a document."""
        return self.reach(lambda: self.collection.documents.get(*name))

    def commit(
        self,
        documents: Mapping[Name, tuple[Json, Json]],
        *,
        ids: Sequence[str] = (),
        vectors: Any = None,
        metadata: Sequence[Metadata] = (),
        deletes: Sequence[str] = (),
        extra: Mapping[Name, Json] | None = None,
        reason: str,
        confirm: bool = False,
    ) -> None:
        """Write one batch, durable on return: rows, and documents that change from old to new.

        documents: what they must be before, and what they become. extra: others, whatever they are.

        Raises:
            ConflictError: `condition-failed`; `job-running`, the lease was lost.
            DvecdbError: of the write, if waiting cannot cure it.
        """
        changes = {**documents, **self._renewal()}
        written: dict[Name, Json] = {name: new for name, (_, new) in changes.items()}
        options: dict[str, Any] = {"expect": {name: old for name, (old, _) in changes.items()}}
        if self._lease is not None and LEASE not in changes:
            options["expect"][LEASE] = self._lease.to_json()
        parts: dict[str, Any] = {"documents": {**written, **(extra or {})}}
        if len(ids):
            parts["upserts"] = {"ids": ids, "vectors": vectors, "metadata": metadata}
        if deletes:
            parts.update(deletes=deletes, confirm=confirm)

        def write() -> None:
            try:
                self.collection.write(**parts, **options, actor="embed", reason=reason)
            except DvecdbError as error:
                if not self._happened(error, written):
                    raise

        self._waiting.reach("database", write, grace_seconds=GRACE_SECONDS)
        if self._lease is not None and LEASE in changes and changes[LEASE][1] is not None:
            self._lease = Lease(**changes[LEASE][1])
            self._renewed_ns = self._waiting.now_ns()

    def _renewal(self) -> dict[Name, tuple[Json, Json]]:
        """Return the change that renews the lease, if half of its time has gone."""
        now_ns = self._waiting.now_ns()
        if self._lease is None or now_ns - self._renewed_ns < RENEW_SECONDS / 2 * 1e9:
            return {}
        return {LEASE: (self._lease.to_json(), self._lease.renew(now_ns).to_json())}

    def _happened(self, error: DvecdbError, written: Mapping[Name, Json]) -> bool:
        """Return whether a write that failed was done all the same, by a call before or by this.

        Raises:
            ConflictError: `job-running`, another job has taken the lease; `condition-failed`, the
                collection was brought back to another state.
        """
        if not is_away(error) and error.code is not Code.CONDITION_FAILED:
            return False
        if written and all(self._now(name) == new for name, new in written.items()):
            return True
        if self._lease is None or is_away(error):
            return False
        lease = self._now(LEASE)
        if (lease or {}).get("owner") != self._lease.owner:
            raise running(lease, self.name) from error
        raise ConflictError(
            Code.CONDITION_FAILED,
            f"collection {self.name!r} is not as this job left it: it was undone or restored, or "
            "its cursor was changed. Nothing more was written; start the job again, it goes on "
            "from what is there",
            collection=self.name,
        ) from error

    def _now(self, name: Name) -> Json:
        """Return the value of a document, also shortly after somebody stopped the job."""
        return self._waiting.reach(
            "database",
            lambda: self.collection.documents.get(*name),
            grace_seconds=GRACE_SECONDS,
        )


def _refuse_unfit(identity: Identity, kind: VectorType, collection: str) -> None:
    """Refuse vectors that a collection cannot hold. Raises `vector-out-of-range`."""
    if kind is VectorType.FLOAT32:
        return
    with np.errstate(over="ignore", invalid="ignore"):
        held = identity.probe.astype(kind.dtype)
    fits = np.isfinite(held).all() if kind is VectorType.FLOAT16 else (held == identity.probe).all()
    if not fits:
        holds = "whole numbers from -128 to 127" if kind is VectorType.INT8 else "up to 65,504"
        raise InvalidRequestError(
            Code.VECTOR_OUT_OF_RANGE,
            f"collection {collection!r} holds {kind} vectors ({holds}), and {identity.model} "
            "answers others. Nothing was written; take float32, or an embedder of such vectors",
            collection=collection,
        )
