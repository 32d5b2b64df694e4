"""Reading a collection: each call looks at one snapshot, the newest or the one `as_of` names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Unpack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dvecdb.engine.snapshot import Snapshot
    from dvecdb.records import AsOf, Json, Page, Record
    from dvecdb.results import FacetCount, Group, Hits, SearchOptions


class Reads(ABC):
    """What a collection and any state of it have in common for readers."""

    @abstractmethod
    def snapshot(self, *, as_of: AsOf | None = None) -> Snapshot:
        """Return a consistent read view."""

    def get(
        self,
        ids: Sequence[str],
        *,
        where: Mapping[str, Json] | None = None,
        as_of: AsOf | None = None,
        with_vectors: bool = True,
    ) -> list[Record | None]:
        """Return the records of `ids` in order, None for those that do not exist.

        where: those that do not match are None too.
        """
        return self.snapshot(as_of=as_of).get(ids, where=where, with_vectors=with_vectors)

    def search(
        self,
        query: Any,
        *,
        where: Mapping[str, Json] | None = None,
        as_of: AsOf | None = None,
        **options: Unpack[SearchOptions],
    ) -> Hits:
        """Return the nearest records, best first. query: [dimension], finite.

        where: only records that match. Options and errors as `Snapshot.search` has them.
        """
        return self.snapshot(as_of=as_of).search(query, where=where, **options)

    def search_batch(
        self,
        queries: Any,
        *,
        where: Mapping[str, Json] | None = None,
        as_of: AsOf | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[Hits]:
        """Return the hits of several queries [n, dimension] in one state, on all processors."""
        return self.snapshot(as_of=as_of).search_batch(queries, where=where, **options)

    def search_groups(
        self,
        query: Any,
        by: str,
        *,
        group_size: int = 3,
        where: Mapping[str, Json] | None = None,
        as_of: AsOf | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[Group]:
        """Return the nearest groups of records that share a value of the field `by`."""
        return self.snapshot(as_of=as_of).search_groups(
            query, by, group_size=group_size, where=where, **options
        )

    def facet(
        self,
        by: str,
        *,
        limit: int = 10,
        where: Mapping[str, Json] | None = None,
        as_of: AsOf | None = None,
    ) -> list[FacetCount]:
        """Return how many records have each value of the field `by`, the commonest first."""
        return self.snapshot(as_of=as_of).facet(by, limit=limit, where=where)

    def scan(
        self,
        *,
        where: Mapping[str, Json] | None = None,
        as_of: AsOf | None = None,
        with_vectors: bool = False,
    ) -> Iterator[Record]:
        """Yield every record of one consistent state that matches `where`, in row order."""
        return self.snapshot(as_of=as_of).scan(where=where, with_vectors=with_vectors)

    def scroll(
        self,
        *,
        limit: int = 100,
        after: int | None = None,
        where: Mapping[str, Json] | None = None,
        as_of: AsOf | None = None,
        with_vectors: bool = False,
    ) -> Page:
        """Return a page of records in row order; `after` is the `next` of the page before.

        where: only records that match, as in `search`.
        """
        return self.snapshot(as_of=as_of).scroll(
            limit=limit, after=after, where=where, with_vectors=with_vectors
        )

    def count(self, *, where: Mapping[str, Json] | None = None, as_of: AsOf | None = None) -> int:
        """Return the number of records, or of those that match `where`."""
        return self.snapshot(as_of=as_of).count(where=where)
