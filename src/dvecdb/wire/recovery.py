"""Requests and answers of trash, backups, restore, undo, clone, protection, tags and settings.

Trash entries, backups and what was done to them are the dataclasses of `records`: a message of one
has exactly its fields. The shapes kept from before have exactly their old keys, and requests on
those paths ignore what they do not know.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dvecdb.errors import Code, InvalidRequestError
from dvecdb.records import Backup, Lsn, TrashEntry
from dvecdb.wire.bodies import Answer, AsOf, DocumentValue, Metadata, Request
from dvecdb.wire.legacy import LegacyAnswer, LenientRequest

Time = Annotated[datetime, Meta(tz=True)]
Hours = Annotated[float, Meta(ge=0)]

BACKUP_MADE: Final = "Backup created successfully"
SNAPSHOT_MADE: Final = "Snapshot created successfully"
SNAPSHOT_GONE: Final = "Snapshot deleted successfully"
HARD_DELETED: Final = "Collection permanently deleted (no recovery possible)"
HOURS: Final = 24.0
"""Age from which `cleanup` purges, if it is not told."""


# --- kept from before ---


class DeletedCollection(LegacyAnswer, frozen=True):
    """A collection in the trash. `deleted_timestamp`: seconds since the Unix epoch."""

    name: str
    path: str
    deleted_timestamp: int
    age_hours: float


class RestoreRequest(LenientRequest, frozen=True):
    """Bring back a collection. `backup_path`: the name of a trash entry or backup, or its path.

    `verify`: `full` reads every byte of it first. `allow_damage`: bring back what is whole.
    `background`: answer at once with a task.
    """

    backup_path: str
    new_name: str | None = None
    verify: Literal["quick", "full"] = "quick"
    allow_damage: bool = False
    background: bool = False


class BackupRequest(LenientRequest, frozen=True):
    """Make a backup. `independent`: share no disk block. `background`: answer with a task."""

    reason: str | None = None
    independent: bool = False
    background: bool = False


class BackupMade(LegacyAnswer, frozen=True):
    """The backup that was made. `backup_path`: of its directory."""

    collection: str
    backup_path: str
    message: str


class CleanupRequest(LenientRequest, frozen=True):
    """Purge trash of at least this age. `names`: only these entries, whatever their age."""

    retention_hours: Hours | None = None
    dry_run: bool = False
    names: list[str] | None = None


class HardDeleteQuery(LenientRequest, frozen=True):
    """What becomes of the backups: `include_backups` deletes them, `backup` makes one first."""

    include_backups: bool = False
    backup: bool = False


class SnapshotMade(LegacyAnswer, frozen=True):
    """The backup that was made."""

    snapshot_name: str
    collection: str
    size_bytes: int
    message: str


class SnapshotInfo(LegacyAnswer, frozen=True):
    """A backup. `created_at`: seconds since the Unix epoch; `checksum`: names the state in it."""

    name: str
    collection: str
    created_at: int
    size_bytes: int
    vector_count: int
    checksum: str


# --- trash and backups ---


class TrashAnswer(Answer, frozen=True):
    """What is in the trash, newest first."""

    entries: list[TrashEntry]


class BackupsAnswer(Answer, frozen=True):
    """Backups, newest first."""

    backups: list[Backup]


# --- one collection ---


class ProtectRequest(Request, frozen=True):
    """`deletion` true: refuse to delete the collection; false: lift that."""

    deletion: bool = True


class Protection(Answer, frozen=True):
    """Whether deleting the collection is refused."""

    name: str
    deletion: bool


class UndoRequest(Request, frozen=True):
    """Bring rows back to an earlier state: of `to_lsn`, of `to_time`, or `before` a commit.

    `to_lsn` may be the text `before:LSN`. `ids`, `filter`: only these rows, else all rows and
    documents. `background`: answer at once with a task.
    """

    to_lsn: int | Annotated[str, Meta(pattern=r"^before:[0-9]{1,19}$")] | None = None
    to_time: Time | None = None
    before: int | None = None
    ids: list[str] | None = None
    filter: Metadata | None = None
    dry_run: bool = False
    background: bool = False
    if_lsn: int | None = None
    expect: list[DocumentValue] = msgspec.field(default_factory=list)


class CloneRequest(Request, frozen=True):
    """Make a new collection of this one's state. `background`: answer at once with a task."""

    new_name: str
    as_of: AsOf | None = None
    background: bool = False


class DeleteRequest(Request, frozen=True):
    """Delete records by `ids` or by `filter`. `confirm`: also if they are many."""

    ids: list[str] | None = None
    filter: Metadata | None = None
    confirm: bool = False
    if_lsn: int | None = None
    expect: list[DocumentValue] = msgspec.field(default_factory=list)


class DeleteAnswer(Answer, frozen=True):
    """How many of them existed."""

    deleted_count: int
    lsn: int


class TagRequest(Request, frozen=True):
    """Name a state: of an LSN, or of now."""

    name: str
    lsn: int | None = None


class Tag(Answer, frozen=True):
    """A state with a name."""

    name: str
    lsn: int


class TagsAnswer(Answer, frozen=True):
    """The LSNs of tags, by name."""

    tags: dict[str, int]


class ConfigRequest(Request, frozen=True):
    """Settings of the collection. Null: as the server has it; left out: as it was."""

    trash_hours: int | UnsetType | None = UNSET
    history_hours: int | UnsetType | None = UNSET


class ConfigAnswer(Answer, frozen=True):
    """The settings that the collection has of its own, null where it has none."""

    trash_hours: int | None
    history_hours: int | None


# --- between values and messages ---


def deleted_collection(entry: TrashEntry) -> DeletedCollection:
    """Return a trash entry in its old shape."""
    seconds = int(entry.deleted.timestamp())
    return DeletedCollection(entry.name, entry.path, seconds, entry.age_hours)


def snapshot_info(backup: Backup) -> SnapshotInfo:
    """Return a backup in its old shape."""
    return SnapshotInfo(
        name=backup.name,
        collection=backup.collection,
        created_at=int(backup.created.timestamp()),
        size_bytes=backup.size_bytes,
        vector_count=backup.rows,
        checksum=f"{backup.uuid}:{backup.lsn}",
    )


def undo_target(request: UndoRequest) -> dict[str, Any]:
    """Return which state an undo goes to, as `undo` takes it.

    Raises:
        InvalidRequestError: `invalid-argument`, `before` is there twice.
    """
    to_lsn, before = request.to_lsn, request.before
    if not isinstance(to_lsn, str):
        return {"to_lsn": to_lsn, "to_time": request.to_time, "before": before}
    if before is not None:
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT, f"to_lsn {to_lsn!r} and before {before}: pass one of them"
        )
    return {"to_time": request.to_time, "before": int(to_lsn.partition(":")[2])}


def tags_from(answer: TagsAnswer) -> dict[str, Lsn]:
    """Return the tags of an answer."""
    return {name: Lsn(lsn) for name, lsn in answer.tags.items()}


def setting_values(request: ConfigRequest) -> dict[str, int | None]:
    """Return the settings that a request sets."""
    found = {name: getattr(request, name) for name in ConfigRequest.__struct_fields__}
    return {name: value for name, value in found.items() if value is not UNSET}
