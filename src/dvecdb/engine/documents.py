"""The documents of a collection, as users read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvecdb.engine.collection import Collection
    from dvecdb.records import AsOf, Json


class Documents:
    """The versioned JSON documents of a collection: job cursors, tags and the like."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    def get(self, namespace: str, key: str, *, as_of: AsOf | None = None) -> Json:
        """Return the value of a document, or None."""
        return self._collection.snapshot(as_of=as_of).document(namespace, key)

    def list(self, namespace: str, *, as_of: AsOf | None = None) -> dict[str, Json]:
        """Return every document of a namespace by key."""
        return self._collection.snapshot(as_of=as_of).documents(namespace)
