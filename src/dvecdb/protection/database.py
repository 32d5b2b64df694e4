"""A data directory from which nothing is ever gone: trash, backups, restore, purge."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Final, Literal
from uuid import UUID

from dvecdb.clock import to_datetime
from dvecdb.engine.database import Database as EngineDatabase
from dvecdb.engine.findings import NO_DAMAGE
from dvecdb.engine.fork import Identity, Origin, write_fork
from dvecdb.engine.lifecycle import (
    Deletion,
    come_back,
    deleted,
    drop_collection,
    move_aside,
    move_to_trash,
)
from dvecdb.engine.lock import highest_epoch_of
from dvecdb.engine.reclaim import tidy_entries
from dvecdb.engine.storage import unclear, write_failed
from dvecdb.engine.verify import verify_store
from dvecdb.errors import Code, ConflictError, DvecdbError, HandleError, InvalidRequestError
from dvecdb.formats import names
from dvecdb.media.files import absolute_paths
from dvecdb.protection.backups import Backups, Note, damaged, open_entry
from dvecdb.protection.clock_watch import ClockWatch
from dvecdb.protection.collection import Collection
from dvecdb.protection.config import described, own_hours, refuse_protected
from dvecdb.protection.parking import Parking
from dvecdb.protection.paths import parse_entry_path
from dvecdb.protection.preview import Preview
from dvecdb.protection.retention import BackupRule, expired_backups, expired_entries
from dvecdb.protection.trash import Trash
from dvecdb.records import Finding, HardDeleted, Restored, check_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dvecdb.engine.fork import Forked
    from dvecdb.engine.store import Store
    from dvecdb.media.files import Dir
    from dvecdb.records import Backup, TrashEntry, VerifyReport

_HOURS_MAX: Final = 876_000.0


class Database(EngineDatabase[Collection]):
    """An open data directory. Safe to use from any number of threads; not across a fork.

    on_expired: is called with the names of what the background purged because its time was up.
    """

    on_expired: Callable[[Sequence[str]], None] | None = None

    def _open_collections(self) -> None:
        environment, root = self._environment, self._root
        self._known_paths = absolute_paths(self.path)
        self._trash = Trash(environment, root, self._known_paths[0])
        self._backups = Backups(environment, root, self._known_paths[0])
        self._parking = Parking(environment.files, self._clock, root)
        self._clock_watch = ClockWatch(
            self._clock, self._findings, self._hlcs, self._settings.settle_seconds
        )
        if not self.read_only:
            for name in (names.TRASH, names.BACKUPS):
                tidy_entries(self._files, root, name)
        super()._open_collections()

    def _wrap(self, store: Store) -> Collection:
        return Collection(
            store, self._committed, self._check_open, backups=self._backups, clone=self._fork
        )

    def _may_expire(self) -> bool:
        return self._clock_watch.may_expire()

    def _tend_all(self) -> None:
        super()._tend_all()
        self._parking.tidy()
        try:
            gone = self.tend()
        except DvecdbError as error:
            self._findings.add(Finding("expiry-failed", None, "expiry", error.message))
            return
        self._findings.forget(None, "expiry-failed")
        if gone and self.on_expired is not None:
            self.on_expired(gone)

    def _hlcs(self) -> list[int]:
        return [store.visible.hlc for store in list(self._stores.values())]

    def close(self) -> None:
        """Flush what is much, seal the logs, give up the lock. Everything was durable before."""
        super().close()
        self._parking.close()

    # --- deleting ---

    def delete_collection(
        self, name: str, *, actor: str | None = None, reason: str | None = None
    ) -> None:
        """Move a collection to the trash; no byte of its data is removed. Durable on return.

        `restore` brings it back for `trash_hours` at least. Works on a full disk.

        Raises:
            NotFoundError: `collection-not-found`.
            ConflictError: `collection-protected`.
        """
        self._check_open()
        self._check_writable()
        if name in self._set_aside:
            self._take_away(name, Deletion(actor, reason, self._settings.trash_hours))
            return
        with self._leaving(name) as store:
            hours = own_hours(store, "trash_hours", self._settings.trash_hours)
            entry = move_to_trash(
                store,
                self._root,
                self._directory,
                Deletion(actor, reason, hours),
                partial(refuse_protected, store),
            )
            self._parking.park(entry, store, self._findings.all(name))

    def _take_away(self, name: str, deletion: Deletion | None = None) -> str:
        """Move what could not be opened into the trash as it is; None: to be deleted there."""
        with self._lock:
            try:
                entry = move_aside(name, self._environment, self._root, self._directory, deletion)
            except OSError as error:
                raise write_failed(f"deleting collection {name!r}", error) from error
            del self._set_aside[name]
            self._findings.forget(name)
        return entry

    @contextlib.contextmanager
    def _leaving(self, name: str) -> Iterator[Store]:
        """Take a collection out of service while the block inside moves its directory away."""
        with self._lock:
            collection = self.collection(name)
            store = self._stores[name]
            collection.leave(deleted(name))
            try:
                yield store
            except (HandleError, ConflictError):
                collection.leave(None)
                raise
            except OSError as error:
                what = f"deleting collection {name!r}"
                if self._is_there(name):
                    collection.leave(None)
                    raise write_failed(what, error) from error
                self._forget(name)
                store.close(seal=False)
                raise unclear(what, error) from error
            self._forget(name)

    def _forget(self, name: str) -> None:
        """Let go of a collection that left this directory."""
        del self._collections[name]
        del self._stores[name]
        self._findings.forget(name)

    def hard_delete(
        self,
        name: str,
        *,
        include_backups: bool = False,
        backup: bool = False,
        actor: str | None = None,
        reason: str | None = None,
    ) -> HardDeleted:
        """Delete a collection for good and free its space. There is no way back but its backups.

        include_backups: those go too; backup: make one first. Works on a full disk.

        Raises:
            NotFoundError: `collection-not-found`.
            ConflictError: `collection-protected`.
            InvalidRequestError: `invalid-argument`, both flags.
        """
        if include_backups and backup:
            raise InvalidRequestError(
                Code.INVALID_ARGUMENT,
                "include_backups deletes the backups and backup makes one; pass one of them",
            )
        self._check_open()
        self._check_writable()
        with self._working():
            if name in self._set_aside:
                entry = self._take_away(name)
            else:
                entry = self._take_out(
                    name, Note(reason or "before hard-delete", actor), backup=backup
                )
            freed = self._trash.remove_apart(entry)
            if include_backups:
                for item in self._backups.all(name, strict=True):
                    freed += item.own_bytes
                    self._backups.remove(item.name)
            left = [item.name for item in self._backups.all(name, strict=True)]
        return HardDeleted(name, freed, left)

    def _take_out(self, name: str, note: Note, *, backup: bool) -> str:
        """Move a collection where it is to be deleted; return the partial name it has there."""
        if backup:
            store = self._stores[self.collection(name).name]
            refuse_protected(store)
            self._backups.make(store, note)
        with self._leaving(name) as store:
            entry = drop_collection(
                store, self._root, self._directory, partial(refuse_protected, store)
            )
        store.close(seal=False)
        return entry

    # --- the trash ---

    def trash(self) -> list[TrashEntry]:
        """Return what is in the trash, newest first."""
        self._check_open()
        return self._trash.entries()

    def purge(
        self,
        older_than: float = 24.0,
        *,
        names: Sequence[str] | None = None,
        dry_run: bool = False,
    ) -> list[str]:
        """Delete trash entries of at least `older_than` hours for good; return their names.

        0: all of them. names: only these, whatever their age. dry_run: say which, and do nothing.
        Works on a full disk.

        Raises:
            InvalidRequestError: `invalid-argument`, negative or not a number.
            NotFoundError: `trash-entry-not-found`, one of `names`.
            ConflictError: `clock-jumped`, ages cannot be told.
        """
        self._check_open()
        _check_hours(older_than)
        if not dry_run:
            self._check_writable()
        if names is not None:
            chosen = [self._trash.entry(name).name for name in names]
        else:
            if older_than and self._clock_watch.has_jumped():
                raise ConflictError(
                    Code.CLOCK_JUMPED,
                    "the wall clock jumped, so the age of what is in the trash cannot be told; "
                    "nothing was purged. Set the clock right or trust it (trust_clock), or name "
                    "the entries",
                )
            found = reversed(self._trash.entries())
            chosen = [item.name for item in found if item.age_hours >= older_than]
        return chosen if dry_run else self._purge(chosen)

    def _purge(self, chosen: Sequence[str]) -> list[str]:
        gone: list[str] = []
        with self._working():
            for name in chosen:
                self._parking.drop(name)
                if self._trash.purge(name):
                    gone.append(name)
        return gone

    def tend(self) -> list[str]:
        """Purge what has expired from trash and automatic backups; return the names.

        The background does it every `tend_seconds`. Nothing expires in the first ten minutes
        after opening, nor while the clock is not to be trusted.
        """
        self._check_open()
        self._check_writable()
        if not self._clock_watch.may_expire():
            return []
        now, entries = to_datetime(self._clock.wall_ns()), self._trash.entries()
        with self._working():
            budget = self._trash.budget()
            gone = self._purge([item.name for item in expired_entries(entries, now, budget)])
            alive = {item.uuid for item in entries if item.uuid is not None}
            alive |= {store.manifest.collection_uuid for store in list(self._stores.values())}
            rule = BackupRule.of(self._settings)
            for item in expired_backups(self._backups.all(), now, rule, alive):
                self._backups.remove(item.name)
                gone.append(item.name)
        return gone

    def trust_clock(self) -> None:
        """Take the wall clock as it is now for right, so that things expire again."""
        self._check_open()
        self._clock_watch.trust()

    # --- backups ---

    def backups(self, collection: str | None = None) -> list[Backup]:
        """Return the backups, newest first; those of `collection`, living or not, if given."""
        self._check_open()
        return self._backups.all(collection)

    def verify_backup(self, name: str) -> VerifyReport:
        """Read and check every byte of a backup, and keep when that was and how it went.

        Raises:
            NotFoundError: `backup-not-found`.
        """
        self._check_open()
        self._check_writable()
        with self._working():
            return self._backups.verify(name)

    def delete_backup(self, name: str) -> None:
        """Delete a backup for good. Works on a full disk.

        Raises:
            NotFoundError: `backup-not-found`.
        """
        self._check_open()
        self._check_writable()
        with self._working():
            self._backups.remove(name)

    # --- bringing back ---

    def preview(self, path: str) -> Preview:
        """Open a trash entry or backup for reading, as it is; nothing is changed.

        Raises:
            InvalidRequestError: `path-not-allowed`.
            NotFoundError: `trash-entry-not-found`, `backup-not-found`.
            DamagedDataError: `backup-damaged`, its state cannot be told.
        """
        parent, entry = self._find(path)
        with self._working():
            store = open_entry(self._environment, self._root, parent, entry.name)
        return Preview(store, self._check_open)

    def _find(self, path: str) -> tuple[str, TrashEntry | Backup]:
        """Return the entry that `path` names, and the directory it is in."""
        self._check_open()
        parent, name = parse_entry_path(path, self._known_paths)
        if parent is None:
            in_trash = any(item.name == name for item in self._trash.entries())
            in_backups = any(item.name == name for item in self._backups.all())
            if in_trash and in_backups:
                raise InvalidRequestError(
                    Code.PATH_NOT_ALLOWED,
                    f"{name!r} is in the trash and among the backups; name it with its directory, "
                    f"{names.TRASH}/{name} or {names.BACKUPS}/{name}",
                )
            parent = names.BACKUPS if in_backups else names.TRASH
        found = self._backups.get(name) if parent == names.BACKUPS else self._trash.entry(name)
        return parent, found

    def restore(
        self,
        path: str,
        new_name: str | None = None,
        *,
        verify: Literal["quick", "full"] = "quick",
        allow_damage: bool = False,
        actor: str | None = None,
        reason: str | None = None,
    ) -> Restored:
        """Bring back a collection from the trash or a backup; durable on return.

        path: the name of a trash entry or backup, or its path inside `.deleted` or `.backups`;
        new_name: default its original name; verify: `full` reads every byte of it first. From the
        trash it works on a full disk. A backup stays, and the new collection shares its files;
        actor and reason are written into its first manifest then.

        Raises:
            InvalidRequestError: `path-not-allowed`, `invalid-name`, `invalid-argument`.
            NotFoundError: `trash-entry-not-found`, `backup-not-found`.
            ConflictError: `collection-exists`; restore under a `new_name`.
            DamagedDataError: `backup-damaged`; with `allow_damage` what is whole comes back.
        """
        if str(verify) not in {"quick", "full"}:
            raise InvalidRequestError(
                Code.INVALID_ARGUMENT, f"verify: expected quick or full, found {verify!r}"
            )
        self._check_writable()
        parent, entry = self._find(path)
        name, target = entry.name, check_name(entry.collection if new_name is None else new_name)
        with self._working():
            with self._lock:
                self._check_free(target, "restore under another name (new_name)")
            self._check_entry(parent, name, full=verify == "full", allow_damage=allow_damage)
            if parent == names.TRASH:
                return self._restore_trash(name, target)
            why = described(f"restore of {name}", actor, reason)
            return self._restore_backup(name, target, why)

    def _check_entry(self, parent: str, name: str, *, full: bool, allow_damage: bool) -> None:
        """Refuse what is not whole.

        Raises:
            DamagedDataError: `backup-damaged`.
        """
        problems = self._backups.missing(name) if parent == names.BACKUPS else []
        if full:
            store = open_entry(self._environment, self._root, parent, name)
            try:
                verify_store(store)
                problems += [
                    item.message
                    for item in store.environment.findings.all()
                    if item.code not in NO_DAMAGE
                ]
            finally:
                store.close(seal=False)
        if problems and not allow_damage:
            raise damaged(f"{parent}/{name}", problems)

    def _restore_trash(self, name: str, target: str) -> Restored:
        with self._lock:
            self._check_free(target, "restore under another name (new_name)")
            store = self._parking.take(name, target)
            try:
                if store is None:
                    self._prepare(name)
                self._trash.take_out(name, self._directory, target)
            except BaseException:
                if store is not None:
                    store.close(seal=False)
                raise
            if store is None:
                self._open_collection(target)
            else:
                come_back(store)
                self._stores[target] = store
                self._collections[target] = self._wrap(store)
            found = self.collection(target)
            stats = found.stats()
        return Restored(target, name, stats.last_lsn, stats.count, 0, 0)

    def _prepare(self, name: str) -> None:
        """Make sure that a trash entry opens, and that its logs are older than what we write."""
        store = open_entry(self._environment, self._root, names.TRASH, name)
        try:
            newest = highest_epoch_of(self._files, store.directories.wal)
            if newest >= self._epoch and self._writer is not None:
                self._epoch = self._writer.raise_to(newest + 1)
        except OSError as error:
            raise write_failed(f"restoring {name}", error) from error
        finally:
            store.close(seal=False)

    def _restore_backup(self, name: str, target: str, reason: str) -> Restored:
        with self._backups.open(name) as store:
            visible = store.visible
            origin = Origin(store, store.view, visible.lsn, visible.row_limit)
            uuid = UUID(store.manifest.collection_uuid)
            return self._fork_as(target, name, lambda: origin, reason, uuid)

    def _fork(self, target: str, origin: Callable[[], Origin], reason: str) -> Restored:
        self._check_open()
        self._check_writable()
        source = origin().store.name
        return self._fork_as(target, source, origin, reason, self._new_uuid())

    def _fork_as(
        self, target: str, source: str, origin: Callable[[], Origin], reason: str, uuid: UUID
    ) -> Restored:
        """Make a collection that begins with a state of another one."""
        made: list[Forked] = []

        def write(directory: Dir) -> int:
            store = origin().store
            with store.files_lock:  # the view whose files are linked is the newest
                identity = Identity(uuid, self._epoch, reason)
                made.append(write_fork(origin(), self._environment, directory, identity))
            return made[-1].created_ns

        collection = self._build(target, write, f"making {target!r}: {reason}")
        stats = collection.stats()
        return Restored(
            name=target,
            source=source,
            lsn=stats.last_lsn,
            rows=stats.count,
            rows_rewritten=made[-1].rows_rewritten,
            copied_bytes=made[-1].copied_bytes,
        )


def _check_hours(older_than: object) -> None:
    if not isinstance(older_than, int | float) or not 0 <= older_than <= _HOURS_MAX:
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT,
            f"older_than: expected hours from 0 to {_HOURS_MAX:g}, found {older_than!r}",
        )
