"""The calls of trash, backups, restore, undo, clone, protection, tags and settings. Pure.

As in `requests`: arguments in, a `Call` or a plan of several out. Work that may take longer than
the server lets a request take runs there as a task, which the plan waits for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, Unpack
from urllib.parse import unquote

import msgspec

from dvecdb.client import arguments
from dvecdb.client.attempts import Call, Repeat
from dvecdb.client.messages import NO_HEADERS, ask, change, read, send
from dvecdb.client.requests import Plan, Target, collection_path, finished
from dvecdb.records import (
    Backup,
    Commit,
    HardDeleted,
    Lsn,
    Options,
    Restored,
    TrashEntry,
    Undone,
    check_name,
)
from dvecdb.wire import bodies, legacy, recovery

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from dvecdb.records import AsOf, Json, VerifyReport, WriteOptions

T = TypeVar("T")

_PATH_LENGTH_MAX: Final = 4096


# --- the trash and the backups of a server ---


def trash() -> Call[list[TrashEntry]]:
    """Return what is in the trash, newest first."""
    return read("/trash", recovery.TrashAnswer, lambda answer: answer.entries)


def backups(collection: str | None = None) -> Call[list[Backup]]:
    """Return the backups, newest first; those of `collection`, living or not, if given."""
    path = "/backups"
    if collection is not None:
        path = f"{collection_path(check_name(collection))}/backups"
    return read(path, recovery.BackupsAnswer, lambda answer: answer.backups)


def restore(
    path: str,
    new_name: str | None = None,
    *,
    verify: Literal["quick", "full"] = "quick",
    allow_damage: bool = False,
    actor: str | None = None,
    reason: str | None = None,
) -> Plan[Restored]:
    """Bring back a collection from the trash or a backup; durable when it returns.

    path: the name of a trash entry or backup, or its path on the server, inside `.deleted` or
    `.backups`; new_name: default its original name; verify: `full` reads every byte of it first,
    as a task of the server, which this waits for.

    Raises:
        InvalidRequestError: `path-not-allowed`, `invalid-name`.
        NotFoundError: `trash-entry-not-found`, `backup-not-found`.
        ConflictError: `collection-exists`; restore under a `new_name`.
        DamagedDataError: `backup-damaged`; with `allow_damage` what is whole comes back.
    """
    if verify not in {"quick", "full"}:
        raise arguments.invalid(f"verify: expected quick or full, found {verify!r}")
    request = recovery.RestoreRequest(
        arguments.text("path", path, _PATH_LENGTH_MAX),
        None if new_name is None else check_name(new_name),
        verify,
        allow_damage=bool(allow_damage),
        background=verify == "full",
    )
    headers = arguments.note_headers(Options(actor=actor, reason=reason))
    where = "/collections/restore"
    if request.background:
        found = yield from _long(where, request, headers, Restored)
        return found
    call = send(
        "POST", where, request, headers, legacy.NamedMessage, Repeat.ONCE,
        finish=lambda answer: Restored(answer.name, "", Lsn(0), 0, 0, 0),
    )  # fmt: skip
    made: Restored = yield replace(call, notes=_with_figures)
    return made


def _with_figures(made: Restored, said: Mapping[str, str]) -> Restored:
    return replace(
        made,
        source=unquote(said["dvecdb-source"]),
        lsn=Lsn(int(said["dvecdb-lsn"])),
        rows=int(said["dvecdb-rows"]),
        rows_rewritten=int(said["dvecdb-rows-rewritten"]),
        copied_bytes=int(said["dvecdb-copied-bytes"]),
    )


def preview(path: str) -> Plan[Target]:
    """Open a trash entry or backup for reading, as it is; nothing is changed.

    Raises: as `restore`.
    """
    text = arguments.text("path", path, _PATH_LENGTH_MAX)
    kinds = [part for part in text.split("/") if part in {".deleted", ".backups"}]
    kind = "trash" if kinds[-1:] == [".deleted"] else "backups"
    if not kinds:
        entries: list[TrashEntry] = yield trash()
        kind = "trash" if any(entry.name == text for entry in entries) else "backups"
    base = f"/{kind}/{arguments.segment('path', text, _PATH_LENGTH_MAX)}"

    def finish(answer: bodies.InfoAnswer) -> Target:
        return Target(answer.name, base, bodies.stats_from(answer).schema, get_path="get")

    found: Target = yield read(f"{base}/info", bodies.InfoAnswer, finish)
    return found


def verify_backup(name: str) -> Plan[VerifyReport]:
    """Read and check every byte of a backup, and keep when that was and how it went.

    The server does it as a task: this waits for its end, however long that takes.

    Raises:
        NotFoundError: `backup-not-found`.
        UnavailableError: `cancelled`, somebody stopped the task, or the server did.
    """
    path = f"{_backup_path(name)}/verify"
    request = bodies.VerifyRequest(background=True)
    task = yield ask(path, request, bodies.TaskStarted, lambda got: got.task)
    result = yield from finished(task, f"verifying {name!r}")
    return bodies.report_from(msgspec.convert(result, bodies.VerifyAnswer))


def delete_backup(name: str) -> Call[None]:
    """Delete a backup for good.

    Raises:
        NotFoundError: `backup-not-found`.
    """
    return Call("DELETE", _backup_path(name), NO_HEADERS, b"", lambda _: None, Repeat.ONCE)


def hard_delete(
    name: str,
    *,
    include_backups: bool = False,
    backup: bool = False,
    actor: str | None = None,
    reason: str | None = None,
) -> Call[HardDeleted]:
    """Delete a collection for good and free its space. There is no way back but its backups.

    include_backups: those go too; backup: make one first.

    Raises:
        NotFoundError: `collection-not-found`.
        ConflictError: `collection-protected`.
        InvalidRequestError: `invalid-argument`, both flags.
    """
    query = [
        f"{flag}=true"
        for flag, value in (("include_backups", include_backups), ("backup", backup))
        if value
    ]
    path = f"{collection_path(name)}/hard-delete" + ("?" + "&".join(query) if query else "")
    headers = arguments.note_headers(Options(actor=actor, reason=reason))

    def notes(gone: HardDeleted, said: Mapping[str, str]) -> HardDeleted:
        left = [item for item in said.get("dvecdb-backups", "").split(", ") if item]
        return replace(gone, freed_bytes=int(said.get("dvecdb-freed-bytes", "0")), backups=left)

    gone = HardDeleted(name, 0, [])
    return Call("DELETE", path, headers, b"", lambda _: gone, Repeat.ONCE, notes=notes)


def purge(
    older_than: float = 24.0, *, names: Sequence[str] | None = None, dry_run: bool = False
) -> Call[list[str]]:
    """Delete trash entries of at least `older_than` hours for good; return their names.

    0: all of them. names: only these, whatever their age. dry_run: say which, and do nothing.

    Raises:
        InvalidRequestError: `invalid-argument`, negative or not a number.
        NotFoundError: `trash-entry-not-found`, one of `names`.
        ConflictError: `clock-jumped`, ages cannot be told.
    """
    if type(older_than) not in {int, float} or not 0 <= older_than < float("inf"):
        raise arguments.invalid(
            f"older_than: expected a number of hours, 0 or more, found {older_than!r:.80}"
        )
    given = None if names is None else [arguments.text("names", name, 256) for name in names]
    request = recovery.CleanupRequest(float(older_than), bool(dry_run), given)
    repeat = Repeat.READ if dry_run else Repeat.ONCE
    return send("POST", "/collections/cleanup", request, {}, list[str], repeat)


def trust_clock() -> Call[None]:
    """Take the server's wall clock as it is now for right, so that things expire again."""
    return Call("POST", "/clock/trust", NO_HEADERS, b"", lambda _: None)


def _backup_path(name: str) -> str:
    return f"/backups/{arguments.segment('name', name)}"


def _long(path: str, request: Any, headers: Mapping[str, str], kind: type[T]) -> Plan[T]:
    """Do what may take long: if the request says `background`, wait for the task."""
    result: T
    if not request.background:
        result = yield send("POST", path, request, headers, kind, Repeat.ONCE)
        return result
    started = yield send("POST", path, request, headers, bodies.TaskStarted, Repeat.ONCE)
    found = yield from finished(started.task, f"POST {path}")
    return msgspec.convert(found, kind)


# --- one collection ---


def delete(
    collection: Target,
    ids: Sequence[str] | None = None,
    *,
    where: Mapping[str, Json] | None = None,
    **options: Unpack[WriteOptions],
) -> Call[Commit]:
    """Delete records by id or by filter; `Commit.count` says how many existed. Durable.

    Works on a full disk. They stay readable with `as_of` inside the history window. A deletion of
    many rows at once needs `confirm`.

    Raises:
        ConflictError: `confirmation-needed`; details: rows, total.
    """
    given = Options(**options)
    request = recovery.DeleteRequest(
        None if ids is None else arguments.id_list(ids),
        arguments.where_map(where),
        bool(given.confirm),
        arguments.lsn(given.if_lsn),
        arguments.documents(given.expect, "expect"),
    )

    def finish(answer: recovery.DeleteAnswer) -> Commit:
        return Commit(Lsn(answer.lsn), [], answer.deleted_count)

    path = f"{collection.path}/vectors/delete"
    return change(path, request, given, recovery.DeleteAnswer, finish)


def undo(
    collection: Target,
    *,
    to_lsn: int | None = None,
    to_time: datetime | None = None,
    before: int | None = None,
    ids: Sequence[str] | None = None,
    where: Mapping[str, Json] | None = None,
    dry_run: bool = False,
    **options: Unpack[WriteOptions],
) -> Call[Undone]:
    """Bring rows back to an earlier state, as a new commit. Durable when it returns.

    Exactly one of to_lsn, to_time and before (an LSN: the state before that commit); ids,
    where: only these rows, else all rows and documents.

    Raises:
        InvalidRequestError: `as-of-unreadable`, `invalid-argument`.
        DamagedDataError: `damaged-data`, a row of that state cannot be read.
    """
    given = Options(**options)
    if to_time is not None:
        arguments.state(to_time)
    request = recovery.UndoRequest(
        to_lsn=_whole("to_lsn", to_lsn),
        to_time=to_time,
        before=_whole("before", before),
        ids=None if ids is None else arguments.id_list(ids),
        filter=arguments.where_map(where),
        dry_run=bool(dry_run),
        if_lsn=arguments.lsn(given.if_lsn),
        expect=arguments.documents(given.expect, "expect"),
    )
    path = f"{collection.path}/undo"
    if dry_run:
        return ask(path, request, Undone, lambda found: found)
    return change(path, request, given, Undone, lambda found: found)


def clone(
    collection: Target,
    new_name: str,
    *,
    as_of: AsOf | None = None,
    actor: str | None = None,
    reason: str | None = None,
) -> Call[Restored]:
    """Make a new collection of this one's state, now or earlier; they share disk blocks.

    Raises:
        InvalidRequestError: `invalid-name`, `as-of-unreadable`.
        ConflictError: `collection-exists`.
    """
    request = recovery.CloneRequest(check_name(new_name), arguments.state(as_of))
    headers = arguments.note_headers(Options(actor=actor, reason=reason))
    return send("POST", f"{collection.path}/clone", request, headers, Restored, Repeat.ONCE)


def backup(
    collection: Target,
    reason: str | None = None,
    *,
    independent: bool = False,
    actor: str | None = None,
) -> Plan[Backup]:
    """Make a backup of the state now, while others write. Complete and durable when it returns.

    It shares disk blocks with the collection unless it is `independent` or `.backups` lies on
    another file system. An independent one is made by a task of the server, which this waits for.
    """
    headers = arguments.note_headers(Options(actor=actor, reason=reason))
    request = recovery.BackupRequest(None, bool(independent), background=bool(independent))
    path = f"{collection.path}/backup"
    made = yield from _long(path, request, headers, recovery.BackupMade)
    name = made.backup_path.rpartition("/")[2]
    found: Backup = yield read(_backup_path(name), Backup, lambda answer: answer)
    return found


def backups_of(collection: Target) -> Call[list[Backup]]:
    """Return the backups of this collection's name, newest first."""
    path = f"{collection.path}/backups"
    return read(path, recovery.BackupsAnswer, lambda answer: answer.backups)


def protect(
    collection: Target, *, deletion: bool = True, **options: Unpack[WriteOptions]
) -> Call[Commit]:
    """Refuse to delete this collection until that is lifted with `deletion=False`. Durable."""
    request = recovery.ProtectRequest(bool(deletion))
    path = f"{collection.path}/protect"
    call = change(path, request, Options(**options), recovery.Protection, _no_commit)
    return replace(call, notes=_with_lsn)


def is_protected(collection: Target) -> Call[bool]:
    """Return whether deleting this collection is refused."""
    return read(f"{collection.path}/protect", recovery.Protection, lambda found: found.deletion)


def tag(
    collection: Target, name: str, lsn: int | None = None, **options: Unpack[WriteOptions]
) -> Call[Lsn]:
    """Name a state, now or an LSN, and keep it readable until `untag`. Durable.

    Raises:
        InvalidRequestError: `invalid-argument`; `as-of-unreadable`, the state is gone.
        ConflictError: `condition-failed`, the tag exists and names another state.
    """
    request = recovery.TagRequest(name, _whole("lsn", lsn))
    path = f"{collection.path}/tags"
    call = change(path, request, Options(**options), recovery.Tag, lambda found: Lsn(found.lsn))
    # The newest state is another one once it was tagged: that cannot be asked for twice.
    return replace(call, repeat=Repeat.ONCE) if lsn is None else call


def untag(collection: Target, name: str, **options: Unpack[WriteOptions]) -> Call[None]:
    """Let go of a tag.

    Raises:
        NotFoundError: `id-not-found`, there is no such tag.
    """
    path = f"{collection.path}/tags/{arguments.segment('tag', name)}"
    headers = arguments.note_headers(Options(**options))
    return Call("DELETE", path, headers, b"", lambda _: None, Repeat.ONCE)


def tags(collection: Target) -> Call[dict[str, Lsn]]:
    """Return the tags and their LSNs, by name."""
    return read(f"{collection.path}/tags", recovery.TagsAnswer, recovery.tags_from)


def configure(
    collection: Target, values: Mapping[str, Json], **options: Unpack[WriteOptions]
) -> Call[Commit]:
    """Keep settings of the collection, `trash_hours` and `history_hours`; None: as the server.

    Durable when it returns.

    Raises:
        InvalidRequestError: `invalid-argument`.
    """
    known = recovery.ConfigRequest.__struct_fields__
    for name, value in values.items():
        if name not in known:
            raise arguments.invalid(f"unknown setting {name!r}; known are {', '.join(known)}")
        if value is not None:
            _whole(name, value)
    given = Options(**options)
    headers = arguments.note_headers(given)
    call = send(
        "PUT",
        f"{collection.path}/config",
        recovery.ConfigRequest(**values),
        headers,
        recovery.ConfigAnswer,
        Repeat.KEYED,
        key=given.idempotency_key,
        finish=_no_commit,
    )
    return replace(call, notes=_with_lsn)


def _no_commit(_: object) -> Commit:
    return Commit(Lsn(0), [], 0)


def _with_lsn(commit: Commit, said: Mapping[str, str]) -> Commit:
    return replace(commit, lsn=Lsn(int(said["dvecdb-lsn"])))


def _whole(what: str, value: object) -> int | None:
    """Return a whole number that a message can hold, or None."""
    if value is None:
        return None
    if type(value) is not int or not -arguments.INTEGER_MAX <= value <= arguments.INTEGER_MAX:
        raise arguments.invalid(f"{what}: expected a whole number, found {value!r:.80}")
    return value
