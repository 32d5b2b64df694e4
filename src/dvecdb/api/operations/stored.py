"""What lies in the trash and in the backups: lists, and reads inside them.

A key sees the entries and backups of the collections that it is for. The reads are those of
collections, of what an entry or a backup holds, opened for the one call.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dvecdb.api.auth import Scope
from dvecdb.api.context import Answer
from dvecdb.errors import Code, NotFoundError
from dvecdb.formats.names import BACKUPS, TRASH
from dvecdb.records import check_name
from dvecdb.wire import recovery as messages
from dvecdb.wire.bodies import Done
from dvecdb.wire.legacy import NamedMessage

if TYPE_CHECKING:
    from collections.abc import Callable

    from dvecdb.api.context import Context
    from dvecdb.records import Backup, TrashEntry

    Operation = Callable[[Context, Any], Answer]


def require_entry(context: Context, scope: Scope, path: str) -> None:
    """Refuse unless the key is for the collection that an entry or backup says it is of.

    Its name was looked at before; somebody may have given its directory another.

    Raises:
        AuthError: `forbidden`.
    """
    if context.principal.is_unrestricted:
        return
    name = path.rstrip("/").rpartition("/")[2]
    found: list[TrashEntry | Backup] = [*context.database.trash(), *context.database.backups()]
    for item in found:
        if item.name == name:
            context.parts.guard.require(context.principal, scope, item.collection)


# --- the trash ---


def list_deleted(context: Context, _: None) -> Answer:
    """List the deleted collections, newest first, as the old server did."""
    return Answer([messages.deleted_collection(entry) for entry in _entries(context)])


def list_trash(context: Context, _: None) -> Answer:
    """List the deleted collections with all that is known of them, newest first."""
    return Answer(messages.TrashAnswer(_entries(context)))


def read_trash_entry(context: Context, _: None) -> Answer:
    """Describe a deleted collection."""
    return Answer(_entry(context))


def purge_trash_entry(context: Context, _: None) -> Answer:
    """Delete one deleted collection for good, whatever its age."""
    entry = _entry(context)
    context.database.purge(names=[entry.name])
    return Answer(Done(), rows=entry.rows)


def _entries(context: Context) -> list[TrashEntry]:
    may_see = context.principal.may_see
    return [entry for entry in context.database.trash() if may_see(entry.collection)]


def _entry(context: Context) -> TrashEntry:
    name = context.path["entry"]
    require_entry(context, Scope.READ, name)
    for entry in context.database.trash():
        if entry.name == name:
            return entry
    raise NotFoundError(
        Code.TRASH_ENTRY_NOT_FOUND,
        f"there is no {name!r} in the trash; GET /trash lists what there is. What was purged "
        "cannot be brought back, but from a backup",
        name=name,
    )


# --- backups ---


def list_backups(context: Context, _: None) -> Answer:
    """List the backups, newest first."""
    may_see = context.principal.may_see
    found = [item for item in context.database.backups() if may_see(item.collection)]
    return Answer(messages.BackupsAnswer(found))


def list_collection_backups(context: Context, _: None) -> Answer:
    """List the backups of a collection, newest first. It may be deleted meanwhile."""
    return Answer(messages.BackupsAnswer(_of_collection(context)))


def read_backup(context: Context, _: None) -> Answer:
    """Describe a backup."""
    name = context.path["backup"]
    require_entry(context, Scope.READ, name)
    return Answer(_named(context.database.backups(), name))


def list_snapshots(context: Context, _: None) -> Answer:
    """List the backups of a collection in their old shape, newest first."""
    return Answer([messages.snapshot_info(item) for item in _of_collection(context)])


def read_snapshot(context: Context, _: None) -> Answer:
    """Describe a backup of a collection in its old shape."""
    found = _named(_of_collection(context), context.path["snapshot"])
    return Answer(messages.snapshot_info(found))


def delete_snapshot(context: Context, _: None) -> Answer:
    """Delete a backup of a collection for good."""
    found = _named(_of_collection(context), context.path["snapshot"])
    context.database.delete_backup(found.name)
    answer = NamedMessage(found.name, messages.SNAPSHOT_GONE)
    return Answer(answer, lsn=found.lsn, rows=found.rows)


def _of_collection(context: Context) -> list[Backup]:
    return context.database.backups(check_name(context.path["collection"]))


def _named(backups: list[Backup], name: str) -> Backup:
    for item in backups:
        if item.name == name:
            return item
    raise NotFoundError(
        Code.BACKUP_NOT_FOUND,
        f"there is no backup {name!r}; GET /backups lists what there is",
        name=name,
    )


# --- reading inside ---


def inside_trash(operation: Operation) -> Operation:
    """Return the operation on what a trash entry holds."""
    return _inside("entry", TRASH, operation, "trash", "a trash entry")


def inside_backup(operation: Operation) -> Operation:
    """Return the operation on what a backup holds."""
    return _inside("backup", BACKUPS, operation, "backup", "a backup")


def _inside(
    parameter: str, directory: str, operation: Operation, word: str, what: str
) -> Operation:
    def read(context: Context, request: Any) -> Answer:
        name = context.path[parameter]
        require_entry(context, Scope.READ, name)
        path = name if "/" in name else f"{directory}/{name}"
        with context.database.preview(path) as opened:
            return operation(replace(context, opened=opened), request)

    read.__name__ = f"{word}_{operation.__name__}"
    text = operation.__doc__ or ""
    read.__doc__ = f"Inside {what}: {text[:1].lower()}{text[1:]}"
    return read
