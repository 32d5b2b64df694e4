"""A collection that is filled under another name and gets its own when it is whole.

    NAME.importing-XXXX  made, filled batch by batch, cloned to NAME (by links), deleted

So NAME appears at once, through a server as well, and whatever stops the work before leaves NAME as
it was.
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dvecdb.errors import AuthError, Code, ConflictError, DvecdbError
from dvecdb.records import check_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dvecdb
    from dvecdb.records import Restored, Schema

_MARK: Final = ".importing-"
_SALT_LENGTH: Final = 4
_NAME_LENGTH_MAX: Final = 64 - len(_MARK) - _SALT_LENGTH


@dataclass(frozen=True, slots=True)
class Note:
    """Who does it and why, for the history."""

    actor: str | None
    reason: str

    @property
    def options(self) -> dict[str, Any]:
        """The same as keyword arguments."""
        return {"actor": self.actor, "reason": self.reason}


def refuse_taken(database: dvecdb.Database, name: str, *, replace: bool) -> None:
    """Refuse a name that is taken, before any work.

    Raises:
        InvalidRequestError: `invalid-name`.
        ConflictError: `collection-exists`.
    """
    check_name(name)
    taken = [item for item in database.collections() if item.lower() == name.lower()]
    if taken and not (replace and taken == [name]):
        raise ConflictError(
            Code.COLLECTION_EXISTS,
            f"collection {taken[0]!r} exists; nothing was changed: choose another name, or "
            "--replace moves it to the trash",
            name=taken[0],
        )


class Staging:
    """The collection that is being filled."""

    def __init__(self, database: dvecdb.Database, name: str, schema: Schema, note: Note) -> None:
        """Make it. Raises as `Database.create_collection`."""
        self._database = database
        self._name = name
        self._note = note
        begin, salt = f"{name[:_NAME_LENGTH_MAX]}{_MARK}", uuid.uuid4().hex[:_SALT_LENGTH]
        self._others = [item for item in database.collections() if item.startswith(begin)]
        self.collection = database.create_collection(
            f"{begin}{salt}",
            dimension=schema.dimension,
            metric=str(schema.metric),
            vector_type=str(schema.vector_type),
        )

    def try_rights(self) -> None:
        """Find out whether it could be given its name, before there is much to lose.

        Raises:
            AuthError: `forbidden`, the key lacks a scope.
        """
        with contextlib.suppress(ConflictError):  # the name is its own, so it is taken
            self.collection.clone(self.collection.name)

    @property
    def notes(self) -> list[str]:
        """What else is to be said: other imports to this name that never came to their end."""
        return [
            f"{name} is of an import under way, or of one that was killed; then: dvecdb "
            f"hard-delete {name}"
            for name in self._others
        ]

    def finish(self, *, replace: bool) -> str | None:
        """Give it its name; durable on return. Return the trash entry of what had it before.

        replace: that goes to the trash, after a backup. If the name cannot be given then, it
        comes back.

        Raises:
            ConflictError: `collection-exists`, `collection-protected`.
        """
        if not replace or self._name not in self._database.collections():
            self._clone()
            return None
        self._database.collection(self._name).backup(reason=f"before {self._note.reason}")
        self._database.delete_collection(self._name, **self._note.options)
        entry = next(item.name for item in self._database.trash() if item.collection == self._name)
        try:
            self._clone()
        except BaseException:
            self._database.restore(entry)
            raise
        return entry

    def _clone(self) -> Restored:
        return self.collection.clone(self._name, **self._note.options)

    def discard(self) -> None:
        """Delete it for good; its clone keeps the data. Raises `DvecdbError`."""
        name = self.collection.name
        try:
            self._database.hard_delete(name, **self._note.options)
        except AuthError:  # not every key may
            self._database.delete_collection(name, **self._note.options)


@contextlib.contextmanager
def staged(database: dvecdb.Database, name: str, schema: Schema, note: Note) -> Iterator[Staging]:
    """Make a collection to fill, and delete it at the end whatever happens.

    Raises:
        DvecdbError: as making and deleting it raise; an error from inside goes before.
    """
    staging = Staging(database, name, schema, note)
    try:
        yield staging
    except BaseException:
        with contextlib.suppress(DvecdbError):
            staging.discard()
        raise
    staging.discard()
