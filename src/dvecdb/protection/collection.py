"""A collection whose past is at hand: undo, clone, backup, protection, tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Unpack

from dvecdb.engine.collection import Collection as EngineCollection
from dvecdb.engine.fork import Origin
from dvecdb.engine.writes import IDEMPOTENCY_NAMESPACE, TAGS_NAMESPACE
from dvecdb.errors import Code, ConflictError, InvalidRequestError, NotFoundError
from dvecdb.protection.backups import Note
from dvecdb.protection.config import (
    PROTECTION,
    check_config,
    check_tag_name,
    described,
    is_protected,
    read_tags,
)
from dvecdb.protection.undo import Selection, State, fill, plan_undo, request_digest, where_digest
from dvecdb.records import Lsn, Options, Restored, Undone, check_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from dvecdb.engine.rows import View
    from dvecdb.engine.store import Store
    from dvecdb.protection.backups import Backups
    from dvecdb.protection.undo import Plan
    from dvecdb.records import AsOf, Backup, Commit, Json, WriteOptions

    Clone = Callable[[str, Callable[[], Origin], str], Restored]

_DELETE_ATTEMPTS: Final = 5


class Collection(EngineCollection):
    """An open collection. Safe to use from any number of threads.

    Every write returns a `Commit` and is durable then. Every write may carry `if_lsn` (refused if
    any id it touches was changed after that LSN), `expect` (documents that must have these values),
    `idempotency_key` (the same call again answers the same and writes nothing), and `actor`,
    `reason` and `request_id` for the commit note; a deletion of most of the rows needs `confirm`.
    """

    def __init__(
        self,
        store: Store,
        after_commit: Callable[[Store], None],
        check_open: Callable[[], None],
        *,
        backups: Backups,
        clone: Clone,
    ) -> None:
        super().__init__(store, after_commit, check_open)
        self._backups = backups
        self._clone = clone

    # --- writes ---

    def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        where: Mapping[str, Json] | None = None,
        **options: Unpack[WriteOptions],
    ) -> Commit:
        """Delete records by id or by filter; `Commit.count` says how many existed. Durable.

        where: all that match, a filter as in `search`. A deletion of many
        rows at once (`guard_rows`, `guard_percent`) needs `confirm`, and is backed up before.
        Without that it works on a full disk. What is deleted stays readable with `as_of` inside
        the history window, and `undo` brings it back.

        Raises:
            ConflictError: `confirmation-needed`; details: rows, total.
            InvalidRequestError: `invalid-argument`, neither or both of ids and where;
                `invalid-filter`.
        """
        if (ids is None) == (where is None):
            raise InvalidRequestError(
                Code.INVALID_ARGUMENT, "pass ids or where, one of them: the records to delete"
            )
        if where is None:
            assert ids is not None
            return super().delete(ids, **options)
        for attempt in range(_DELETE_ATTEMPTS):
            snapshot = self.snapshot()
            found = snapshot.ids(where=where)
            own = Options(**options)
            bound = snapshot.lsn if own.if_lsn is None else min(own.if_lsn, snapshot.lsn)
            bounded: WriteOptions = {**options, "if_lsn": bound}
            try:
                # the digest is the filter's: what it finds is another thing the second time
                return self._write("delete", bounded, deletes=found, digest=where_digest(where))
            except ConflictError as error:
                last = attempt + 1 == _DELETE_ATTEMPTS or own.if_lsn is not None
                if error.code is not Code.CONDITION_FAILED or last:
                    raise
        raise AssertionError("unreachable")

    def _write(self, operation: str, options: WriteOptions, **parts: Any) -> Commit:
        """Write; what the guard lets through only when confirmed is backed up before."""
        if not options.get("confirm") or not parts.get("deletes"):
            return super()._write(operation, options, **parts)
        try:
            return super()._write(operation, {**options, "confirm": False}, **parts)
        except ConflictError as error:
            if error.code is not Code.CONFIRMATION_NEEDED:
                raise
        self._back_up_before(f"{operation} of most rows", options.get("actor"))
        return super()._write(operation, options, **parts)

    def configure(self, values: Mapping[str, Json], **options: Unpack[WriteOptions]) -> Commit:
        """Keep settings of this collection. Durable.

        `trash_hours`, `history_hours`: whole numbers that take the place of the database's; None
        goes back to it.

        Raises:
            InvalidRequestError: `invalid-argument`.
        """
        check_config(values)
        if self.count():
            self._back_up_before("configure", options.get("actor"))
        return super().configure(values, **options)

    def undo(
        self,
        *,
        to_lsn: int | None = None,
        to_time: datetime | None = None,
        before: int | None = None,
        ids: Sequence[str] | None = None,
        where: Mapping[str, Json] | None = None,
        dry_run: bool = False,
        **options: Unpack[WriteOptions],
    ) -> Undone:
        """Bring rows back to an earlier state, as a new commit. Durable on return.

        Exactly one of to_lsn, to_time and before (an LSN: the state before that commit); ids,
        where: only these rows (a filter is met by a row as it is or as it was), else all rows and
        all documents but our own. A backup is made before. dry_run: say what it would do.

        Raises:
            InvalidRequestError: `as-of-unreadable`, says what is; `invalid-argument`,
                `invalid-filter`.
            DamagedDataError: `damaged-data`, a row of that state cannot be read.
        """
        if isinstance(ids, (str, bytes)):
            raise InvalidRequestError(
                Code.INVALID_ARGUMENT, f"ids: expected a list of ids, found {ids!r:.80}"
            )
        target = _undo_target(to_lsn, to_time, before)
        selection = Selection(ids, where)
        self._enter()
        self._store.check_writable()
        visible, view = self._store.visible, self._store.view  # first: it holds all that is read
        then, now = self.snapshot(as_of=target), State(visible.lsn, visible.row_limit)
        until = min(then.lsn, now.lsn)  # a time may be that of a commit made meanwhile
        state = State(until, view.row_limit(until))
        plan = plan_undo(view, self.schema, state, now, selection)
        lsn, backup = Lsn(now.lsn), None
        key = options.get("idempotency_key")
        if not dry_run and not (plan.is_empty and key is None):
            if key is None or view.document(IDEMPOTENCY_NAMESPACE, str(key), now.lsn) is None:
                backup = self._back_up_before("undo", options.get("actor"))
            options.setdefault("reason", f"back to LSN {then.lsn}")
            lsn = self._write_undo(view, plan, request_digest(then.lsn, selection), options).lsn
        return Undone(
            lsn=lsn,
            to_lsn=then.lsn,
            restored=len(plan.ids),
            removed=len(plan.removed),
            documents=len(plan.documents),
            dry_run=dry_run,
            backup=backup,
        )

    def _write_undo(self, view: View, plan: Plan, digest: str, options: WriteOptions) -> Commit:
        store, settings = self._store, self._store.environment.settings
        options["confirm"] = True
        write = self._checker.check("undo", Options(**options), deletes=plan.removed)
        write.documents = plan.documents
        if write.key is not None:
            write.digest = digest
        fill(write, plan, view, store.schema, settings.bulk_bytes)
        return self._submit(write)

    # --- copies ---

    def clone(
        self,
        new_name: str,
        *,
        as_of: AsOf | None = None,
        actor: str | None = None,
        reason: str | None = None,
    ) -> Restored:
        """Make a new collection of this one's state, now or earlier. Durable on return.

        They share disk blocks; only rows that are still in memory are written again. Each has its
        own future, and the window of history goes with the clone.

        Raises:
            InvalidRequestError: `invalid-name`, `as-of-unreadable`.
            ConflictError: `collection-exists`.
        """
        check_name(new_name)
        lsn = self.snapshot(as_of=as_of).lsn

        def origin() -> Origin:
            view = self._store.view
            self.snapshot(as_of=lsn)  # which refuses what has left the window meanwhile
            return Origin(self._store, view, lsn, view.row_limit(lsn))

        what = described(f"clone of {self.name} at LSN {lsn}", actor, reason)
        return self._clone(new_name, origin, what)

    def backup(
        self,
        reason: str | None = None,
        *,
        independent: bool = False,
        actor: str | None = None,
    ) -> Backup:
        """Make a backup of the state now, while others write. Complete and durable on return.

        It shares disk blocks with the collection unless it is `independent` or `.backups` lies on
        another file system.

        Raises:
            DiskFullError: `disk-full`; there is no backup.
        """
        self._enter()
        return self._backups.make(self._store, Note(reason, actor, share=not independent))

    def backups(self) -> list[Backup]:
        """Return the backups of this collection's name, newest first."""
        self._enter()
        return self._backups.all(self.name)

    def _back_up_before(self, what: str, actor: str | None) -> str:
        note = Note(f"before {what}", actor, automatic=True)
        return self._backups.make(self._store, note).name

    # --- protection and tags ---

    def protect(self, *, deletion: bool = True, **options: Unpack[WriteOptions]) -> Commit:
        """Refuse to delete this collection until that is lifted with `deletion=False`. Durable."""
        return super().configure({PROTECTION: {"deletion": bool(deletion)}}, **options)

    def is_protected(self) -> bool:
        """Whether deleting this collection is refused."""
        self._enter()
        return is_protected(self._store)

    def tag(self, name: str, lsn: int | None = None, **options: Unpack[WriteOptions]) -> Lsn:
        """Name a state, now or an LSN, and keep it readable until `untag`. Durable.

        Raises:
            InvalidRequestError: `invalid-argument`; `as-of-unreadable`, the state is gone.
            ConflictError: `condition-failed`, the tag exists and names another state.
        """
        check_tag_name(name)
        self._enter()
        with self._store.maintenance_lock:  # the horizon stays where it is meanwhile
            return self._tag(name, lsn, options)

    def _tag(self, name: str, lsn: int | None, options: WriteOptions) -> Lsn:
        found = self.snapshot(as_of=lsn).lsn
        before = self.documents.get(TAGS_NAMESPACE, name)
        if before is not None and before != {"lsn": found}:
            raise ConflictError(
                Code.CONDITION_FAILED,
                f"tag {name!r} names LSN {before['lsn']}; untag it first, or take another name",
                name=name,
                lsn=before["lsn"],
            )
        self._set_tag(name, {"lsn": int(found)}, options)
        return found

    def untag(self, name: str, **options: Unpack[WriteOptions]) -> None:
        """Let go of a tag; its state may leave the history window then. Durable.

        Raises:
            NotFoundError: `id-not-found`, there is no such tag.
        """
        check_tag_name(name)
        if self.documents.get(TAGS_NAMESPACE, name) is None:
            raise NotFoundError(
                Code.ID_NOT_FOUND,
                f"there is no tag {name!r}; there are: {', '.join(self.tags()) or 'none'}",
                name=name,
            )
        self._set_tag(name, None, options)

    def _set_tag(self, name: str, value: Json, options: WriteOptions) -> None:
        documents = {(TAGS_NAMESPACE, name): value}
        operation = "untag" if value is None else "tag"
        self._write(operation, options, documents=documents, reserved=True)

    def tags(self) -> dict[str, Lsn]:
        """Return the tags and their LSNs, by name."""
        self._enter()
        return read_tags(self._store)


def _undo_target(to_lsn: int | None, to_time: datetime | None, before: int | None) -> AsOf:
    given = [value for value in (to_lsn, to_time, before) if value is not None]
    if len(given) != 1:
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT,
            f"undo: expected one of to_lsn, to_time and before, found {len(given)}",
        )
    if before is None:
        return given[0]
    if type(before) is not int or before < 1:
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT, f"before: expected an LSN from 1 on, found {before!r}"
        )
    return before - 1
