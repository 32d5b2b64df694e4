"""Acts of recovery: restore, backup, undo, clone, hard-delete, purge, protection, tags, settings.

What may take longer than a request is given can be asked for in the `background`: the answer is a
task, and how that ended gets a line of its own in the audit log. Without it the work goes on
after a deadline all the same, and is done as a whole or not at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import msgspec

from dvecdb.api.auth import Scope
from dvecdb.api.context import Answer
from dvecdb.api.operations.server import task_body
from dvecdb.api.operations.stored import require_entry
from dvecdb.api.recovery_log import log_verified
from dvecdb.api.subjects import original_name
from dvecdb.errors import Code, DvecdbError, ServerError
from dvecdb.records import check_name
from dvecdb.wire import recovery as messages
from dvecdb.wire.bodies import Done, TaskStarted, VerifyRequest, report_body
from dvecdb.wire.codec import check_filter
from dvecdb.wire.legacy import NamedMessage

if TYPE_CHECKING:
    from collections.abc import Callable

    from dvecdb.api.context import Context
    from dvecdb.api.tasks import TaskHandle
    from dvecdb.records import Json, Restored

_BACKUPS_NAMED_MAX: Final = 500
"""Backups that a header names: 41 KB, as much as clients take. The list has all of them."""
_CONFIG: Final = "_config"


def _long(
    context: Context, kind: str, collection: str, work: Callable[[], Answer], *, background: bool
) -> Answer:
    """Do the work and answer, or start a task for it and answer with that."""
    if not background:
        return work()

    def run(_: TaskHandle) -> Json:
        try:
            answer = work()
        except DvecdbError as error:
            context.note(None, error)
            raise
        except BaseException:
            text = f"the task {kind!r} failed in a way that nobody foresaw"
            context.note(None, ServerError(Code.SERVER_ERROR, text))
            raise
        context.note(answer, None)
        return msgspec.to_builtins(answer.data)

    task = context.parts.tasks.start(
        kind, collection, run, key=context.principal.name, request_id=context.request_id
    )
    return Answer(TaskStarted(task_body(task)), status=202)


# --- bringing back ---


def restore_collection(context: Context, request: messages.RestoreRequest) -> Answer:
    """Bring back a collection from the trash or a backup, never over an existing one."""
    source = context.subject = original_name(request.backup_path)
    target = source if request.new_name is None else check_name(request.new_name)
    for name in dict.fromkeys((source, target)):
        context.parts.guard.require(context.principal, Scope.RESTORE, name)
    require_entry(context, Scope.RESTORE, request.backup_path)
    options = context.options

    def work() -> Answer:
        made = context.database.restore(
            request.backup_path,
            request.new_name,
            verify=request.verify,
            allow_damage=request.allow_damage,
            actor=options.get("actor"),
            reason=options.get("reason"),
        )
        if request.background:
            return Answer(made, lsn=made.lsn, rows=made.rows)
        return _restored(made)

    return _long(context, "restore", source, work, background=request.background)


def _restored(made: Restored) -> Answer:
    text = f"Collection '{made.name}' restored successfully"
    headers = {
        "dvecdb-source": quote(made.source, safe=""),
        "dvecdb-rows": str(made.rows),
        "dvecdb-rows-rewritten": str(made.rows_rewritten),
        "dvecdb-copied-bytes": str(made.copied_bytes),
    }
    return Answer(NamedMessage(made.name, text), lsn=made.lsn, rows=made.rows, headers=headers)


def clone_collection(context: Context, request: messages.CloneRequest) -> Answer:
    """Make a new collection of a state of this one; they share disk blocks."""
    source, target = context.path["collection"], check_name(request.new_name)
    guard, principal, options = context.parts.guard, context.principal, context.options
    guard.require(principal, Scope.READ, source)
    guard.require(principal, Scope.RESTORE, target)
    collection = context.collection

    def work() -> Answer:
        made = collection.clone(
            target,
            as_of=request.as_of,
            actor=options.get("actor"),
            reason=options.get("reason"),
        )
        return Answer(made, lsn=made.lsn, rows=made.rows)

    return _long(context, "clone", source, work, background=request.background)


def undo(context: Context, request: messages.UndoRequest) -> Answer:
    """Bring rows back to an earlier state, as a new commit; `dry_run` says what it would do."""
    collection = context.collection
    where = check_filter(request.filter)
    state = messages.undo_target(request)
    options = context.conditions(request.expect, request.if_lsn)

    def work() -> Answer:
        done = collection.undo(
            **state, ids=request.ids, where=where, dry_run=request.dry_run, **options
        )
        rows = 0 if done.dry_run else done.restored + done.removed
        return Answer(done, lsn=done.lsn, rows=rows)

    return _long(context, "undo", collection.name, work, background=request.background)


# --- backups ---


def back_up(context: Context, request: messages.BackupRequest) -> Answer:
    """Make a backup while others write. It is complete when this answers."""
    collection, options = context.collection, context.options
    reason = options.get("reason") if request.reason is None else request.reason

    def work() -> Answer:
        made = collection.backup(
            reason, independent=request.independent, actor=options.get("actor")
        )
        answer = messages.BackupMade(made.collection, made.path, messages.BACKUP_MADE)
        return Answer(answer, lsn=made.lsn, rows=made.rows)

    return _long(context, "backup", collection.name, work, background=request.background)


def make_snapshot(context: Context, _: None) -> Answer:
    """Make a backup: the same under its other old name."""
    made = context.collection.backup(
        context.options.get("reason"), actor=context.options.get("actor")
    )
    answer = messages.SnapshotMade(
        made.name, made.collection, made.size_bytes, messages.SNAPSHOT_MADE
    )
    return Answer(answer, lsn=made.lsn, rows=made.rows)


def verify_backup(context: Context, request: VerifyRequest) -> Answer:
    """Read and check every byte of a backup, and keep when that was and how it went."""
    name = context.path["backup"]
    require_entry(context, Scope.READ, name)

    def work() -> Answer:
        report = context.database.verify_backup(name)
        log_verified(name, report, context.request_id)
        return Answer(report_body(report))

    source = original_name(name)
    return _long(context, "verify-backup", source, work, background=request.background)


def delete_backup(context: Context, _: None) -> Answer:
    """Delete a backup for good."""
    name = context.path["backup"]
    require_entry(context, Scope.ADMIN, name)
    rows = next((item.rows for item in context.database.backups() if item.name == name), None)
    context.database.delete_backup(name)
    return Answer(Done(), rows=rows)


# --- for good ---


def hard_delete(context: Context, _: None) -> Answer:
    """Delete a collection for good and free its space. Its backups stay unless they go too."""
    name, asked, options = check_name(context.path["collection"]), context.query, context.options
    rows = lsn = None
    if name in context.database.collections():
        stats = context.collection.stats()
        rows, lsn = stats.count, stats.last_lsn
    gone = context.database.hard_delete(
        name,
        include_backups=asked.include_backups,
        backup=asked.backup,
        actor=options.get("actor"),
        reason=options.get("reason"),
    )
    context.parts.jobs.leave(name)
    headers = {"dvecdb-freed-bytes": str(gone.freed_bytes)}
    if gone.backups:
        headers["dvecdb-backups"] = ", ".join(gone.backups[:_BACKUPS_NAMED_MAX])
    answer = NamedMessage(name, messages.HARD_DELETED)
    return Answer(answer, lsn=lsn, rows=rows, headers=headers)


def clean_up(context: Context, request: messages.CleanupRequest) -> Answer:
    """Purge trash of at least an age, for good; `data` is the names of what went."""
    guard, principal = context.parts.guard, context.principal
    for name in [None] if request.names is None else request.names:
        of = None if name is None else original_name(name)
        guard.require(principal, Scope.ADMIN, of)
        if name is not None:
            require_entry(context, Scope.ADMIN, name)
    context.subject = _originals(request.names or [])
    hours = request.retention_hours
    rows = {entry.name: entry.rows or 0 for entry in context.database.trash()}
    gone = context.database.purge(
        messages.HOURS if hours is None else hours, names=request.names, dry_run=request.dry_run
    )
    context.subject = _originals(gone)
    lost = 0 if request.dry_run else sum(rows.get(name, 0) for name in gone)
    return Answer(gone, rows=lost)


def _originals(entries: list[str]) -> str | None:
    return ", ".join(dict.fromkeys(map(original_name, entries))) or None


def trust_clock(context: Context, _: None) -> Answer:
    """Take the server's clock as it is now for right, so that things expire again."""
    context.database.trust_clock()
    return Answer(Done())


# --- what a collection keeps about itself ---


def protect(context: Context, request: messages.ProtectRequest) -> Answer:
    """Refuse to delete a collection, or lift that."""
    collection = context.collection
    commit = collection.protect(deletion=request.deletion, **context.options)
    return Answer(messages.Protection(collection.name, request.deletion), lsn=commit.lsn)


def read_protection(context: Context, _: None) -> Answer:
    """Say whether deleting a collection is refused."""
    collection = context.collection
    return Answer(messages.Protection(collection.name, collection.is_protected()))


def list_tags(context: Context, _: None) -> Answer:
    """List the states that have a name."""
    return Answer(messages.TagsAnswer({**context.collection.tags()}))


def set_tag(context: Context, request: messages.TagRequest) -> Answer:
    """Name a state, of now or of an LSN, and keep it readable."""
    lsn = context.collection.tag(request.name, request.lsn, **context.options)
    return Answer(messages.Tag(request.name, lsn), lsn=lsn)


def remove_tag(context: Context, _: None) -> Answer:
    """Let go of a tag; its state may leave the window of history then."""
    context.collection.untag(context.path["tag"], **context.options)
    return Answer(Done())


def configure(context: Context, request: messages.ConfigRequest) -> Answer:
    """Keep settings of the collection that differ from the server's."""
    values = messages.setting_values(request)
    lsn = None
    if values:
        lsn = context.collection.configure(values, **context.options).lsn
    return Answer(_config(context), lsn=lsn)


def read_config(context: Context, _: None) -> Answer:
    """Return the settings that a collection has of its own."""
    return Answer(_config(context))


def _config(context: Context) -> messages.ConfigAnswer:
    stored: dict[str, Any] = context.collection.documents.list(_CONFIG)
    return messages.ConfigAnswer(stored.get("trash_hours"), stored.get("history_hours"))
