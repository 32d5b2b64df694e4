"""Backups on the same machine: whole collections of one state, each in a directory of `.backups`.

A backup shares its files with the collection by hard links: segments, the manifest, and those logs
that were sealed for it. `backup.json` is written last, and then the directory gets its name, so
what is listed is complete. On another file system, or if it is to be independent, it is a copy.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from dvecdb.clock import to_datetime
from dvecdb.engine.findings import Findings
from dvecdb.engine.fork import Taken, UnsyncedDirectories, take_directory, take_files
from dvecdb.engine.lifecycle import open_collection, read_backup_file
from dvecdb.engine.reclaim import drop_verifications, remove_tree
from dvecdb.engine.recovery import Access
from dvecdb.engine.replay import SetAsideError
from dvecdb.engine.storage import (
    close_quietly,
    read_file,
    reading,
    rename_stamped,
    unreadable,
    write_failed,
    write_file,
)
from dvecdb.engine.verify import verify_store
from dvecdb.errors import Code, DamagedDataError, DvecdbError, NotFoundError
from dvecdb.formats import names
from dvecdb.formats.framing import FormatError
from dvecdb.formats.manifest_file import (
    BackupFile,
    VerificationFile,
    decode_verification_file,
    seal_json,
)
from dvecdb.protection.trash import drop_entry
from dvecdb.records import Backup, Epoch, Finding, Lsn, VerifyReport

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dvecdb.engine.rows import View
    from dvecdb.engine.store import Environment, Store
    from dvecdb.media.files import Dir, Files


@dataclass(frozen=True, slots=True)
class Note:
    """What a backup says about itself. share: link files where that is possible."""

    reason: str | None = None
    actor: str | None = None
    automatic: bool = False
    share: bool = True


@dataclass(slots=True)
class _Contents:
    """The files of a backup under construction: size by path, and how many bytes are copies."""

    sizes: dict[str, int] = field(default_factory=dict)
    copied_bytes: int = 0

    def add(self, prefix: str, taken: Taken) -> None:
        self.sizes.update({prefix + name: size for name, size in taken.sizes.items()})
        self.copied_bytes += taken.copied_bytes


class Backups:
    """The backups below an open data directory."""

    def __init__(self, environment: Environment, root: Dir, path: str) -> None:
        self._environment = environment
        self._root = root
        self._path = f"{path}/{names.BACKUPS}"

    # --- making ---

    def make(self, store: Store, note: Note) -> Backup:
        """Make a backup of the newest state of `store`, while others write. Durable on return.

        Raises:
            DiskFullError: `disk-full`; there is no backup.
            OutcomeUnknownError, HandleError: as a write of the collection.
        """
        self._environment.check_right()
        try:
            return self._make(store, note)
        except OSError as error:
            raise write_failed(f"backing up {store.name!r}", error) from error

    def _make(self, store: Store, note: Note) -> Backup:
        files = self._environment.files
        parent = _open_or_make(files, self._root)
        moment = self._environment.clock.wall_ns()
        partial = f"{names.PARTIAL}{store.name}_{self._environment.new_uuid().hex[:8]}"
        try:
            files.make_directory(parent, partial)
            directory = files.open_directory(parent, partial)
            try:
                written, copied_bytes = self._fill(store, directory, note, moment)
                self._environment.check_right()
                source = (parent, partial)
                name = rename_stamped(files, source, parent, self._root, store.name, moment)
            except BaseException:
                with contextlib.suppress(OSError):
                    remove_tree(files, parent, partial)
                raise
            finally:
                files.close_directory(directory)
            files.sync_directory(parent)
        finally:
            files.close_directory(parent)
        return self._backup(name, written, copied_bytes, None)

    def _fill(
        self, store: Store, directory: Dir, note: Note, moment: int
    ) -> tuple[BackupFile, int]:
        """Put everything into the directory of a backup; all but its own name is durable.

        Returns what it says about itself, and the bytes that are no links.
        """
        files = self._environment.files
        for child in names.COLLECTION_DIRECTORIES:
            files.make_directory(directory, child)
        with UnsyncedDirectories(files) as unsynced:
            with store.files_lock:  # nothing that is about to be linked goes
                with store.commit_lock:
                    store.rotate()
                    view, visible = store.view, store.visible
                    logs = _needed_logs(store, view)
                contents = _take_all(store, view, logs, directory, unsynced, share=note.share)
            written = BackupFile(
                name=store.name,
                uuid=view.manifest.collection_uuid,
                lineage=view.manifest.lineage,
                lsn=visible.lsn,
                created_ns=moment,
                rows=view.count(visible.lsn, visible.row_limit),
                size_bytes=sum(contents.sizes.values()),
                files=contents.sizes,
                reason=note.reason,
                actor=note.actor,
                automatic=note.automatic,
                independent=bool(contents.copied_bytes),
            )
            file = files.create(directory, names.BACKUP_FILE)
            try:
                files.write_at(file, [seal_json(written)], 0)
                unsynced.sync([file], [directory])
                files.seal(file)
            finally:
                close_quietly(files, file)
        return written, contents.copied_bytes

    # --- looking ---

    @reading(names.BACKUPS)
    def all(self, collection: str | None = None, *, strict: bool = False) -> list[Backup]:
        """Return the backups, newest first; those of a collection's name if given.

        strict: fail, rather than leave out a backup that the disk does not let us look at.

        Raises:
            DirectoryError: `directory-unreadable`.
        """
        files, found = self._environment.files, list[Backup | None]()
        try:
            parent = files.open_directory(self._root, names.BACKUPS)
        except FileNotFoundError:
            return []
        try:
            for name in files.list_names(parent):
                try:
                    found.append(self._read(parent, name))
                except OSError:
                    if strict:
                        raise
        finally:
            files.close_directory(parent)
        backups = [item for item in found if item and collection in {None, item.collection}]
        return sorted(backups, key=lambda item: (item.created, item.name), reverse=True)

    @reading(names.BACKUPS)
    def get(self, name: str) -> Backup:
        """Return a backup.

        Raises:
            NotFoundError: `backup-not-found`.
            DirectoryError: `directory-unreadable`.
        """
        return self._get(name)

    def _get(self, name: str) -> Backup:
        """Return a backup. Raises as `get`, but `OSError` as it is."""
        found = None
        with contextlib.suppress(FileNotFoundError):
            parent = self._environment.files.open_directory(self._root, names.BACKUPS)
            try:
                found = self._read(parent, name)
            finally:
                self._environment.files.close_directory(parent)
        if found is None:
            raise NotFoundError(
                Code.BACKUP_NOT_FOUND,
                f"there is no backup {name!r}; what is there: backups()",
                name=name,
            )
        return found

    def _read(self, parent: Dir, name: str) -> Backup | None:
        """Return a backup, or None for what is none or not complete. Raises `OSError`."""
        files = self._environment.files
        if names.parse_stamped_name(name) is None or name.startswith("."):
            return None
        try:
            directory = files.open_directory(parent, name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            written = read_backup_file(files, directory)
            if written is None:
                return None
            found = [item for _, item in _stats(files, directory, written) if item is not None]
            own = sum(size for size, links in found if links == 1)
            verified = _last_verification(files, directory)
        except (FileNotFoundError, SetAsideError):
            return None
        finally:
            files.close_directory(directory)
        return self._backup(name, written, own, verified)

    def _backup(
        self, name: str, written: BackupFile, own_bytes: int, verified: VerificationFile | None
    ) -> Backup:
        return Backup(
            name=name,
            path=f"{self._path}/{name}",
            collection=written.name,
            uuid=written.uuid,
            created=to_datetime(written.created_ns),
            lsn=Lsn(written.lsn),
            rows=written.rows,
            size_bytes=written.size_bytes,
            own_bytes=own_bytes,
            reason=written.reason,
            actor=written.actor,
            automatic=written.automatic,
            independent=written.independent,
            verified=None if verified is None else to_datetime(verified.verified_ns),
            ok=None if verified is None else verified.ok,
        )

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Store]:
        """Open a backup for reading, for as long as the context lasts.

        Raises:
            NotFoundError: `backup-not-found`.
            DamagedDataError: `backup-damaged`, its state cannot be told.
        """
        store = open_entry(self._environment, self._root, names.BACKUPS, name)
        try:
            yield store
        finally:
            store.close(seal=False)

    # --- checking ---

    @reading(names.BACKUPS)
    def missing(self, name: str) -> list[str]:
        """Return what a glance shows to be wrong: files that are not there or of another size.

        Raises:
            NotFoundError: `backup-not-found`.
        """
        files = self._environment.files
        self.get(name)
        parent = files.open_directory(self._root, names.BACKUPS)
        try:
            directory = files.open_directory(parent, name)
            try:
                written = read_backup_file(files, directory)
                assert written is not None
                return [
                    f"{path}: {'missing' if found is None else f'{found[0]} bytes'}, expected "
                    f"{written.files[path]} bytes"
                    for path, found in _stats(files, directory, written)
                    if found is None or found[0] != written.files[path]
                ]
            finally:
                files.close_directory(directory)
        finally:
            files.close_directory(parent)

    def verify(self, name: str) -> VerifyReport:
        """Read every byte of a backup, and keep when that was and how it went.

        Raises:
            NotFoundError: `backup-not-found`.
        """
        backup, findings = self.get(name), [
            Finding("backup-incomplete", None, f"{name}/{text.partition(':')[0]}", f"{name}/{text}")
            for text in self.missing(name)
        ]  # fmt: skip
        blocks = size = 0
        try:
            with self.open(name) as store:
                blocks, size = verify_store(store)
                findings += store.environment.findings.all()
        except DamagedDataError as error:
            findings.append(Finding("backup-damaged", None, name, error.message))
        self._keep_verification(name, [item.message for item in findings])
        return VerifyReport(backup.collection, not findings, blocks, size, findings)

    def _keep_verification(self, name: str, problems: Sequence[str]) -> None:
        files = self._environment.files
        try:
            parent = files.open_directory(self._root, names.BACKUPS)
            try:
                directory = files.open_directory(parent, name)
                try:
                    self._write_verification(directory, problems)
                finally:
                    files.close_directory(directory)
            finally:
                files.close_directory(parent)
        except OSError as error:
            raise write_failed(f"noting how the verification of {name} went", error) from error

    def _write_verification(self, directory: Dir, problems: Sequence[str]) -> None:
        """Write how it went under a name above those that are there, which go. Raises `OSError`."""
        files, now = self._environment.files, self._environment.clock.wall_ns()
        found = {item: names.parse_verification_name(item) for item in files.list_names(directory)}
        before = {item: at for item, at in found.items() if at is not None}
        written = VerificationFile(
            verified_ns=max([now, *(at + 1 for at in before.values())]),
            ok=not problems,
            findings=list(problems),
        )
        path = names.verification_name(written.verified_ns)
        write_file(files, directory, path, [seal_json(written)])
        drop_verifications(files, directory, list(before))

    def remove(self, name: str) -> None:
        """Delete a backup for good. Works on a full disk.

        Raises:
            NotFoundError: `backup-not-found`.
        """
        self.get(name)
        drop_entry(self._environment, self._root, names.BACKUPS, name)


def open_entry(environment: Environment, root: Dir, parent: str, name: str) -> Store:
    """Open a trash entry or backup for reading; the caller closes the store.

    Its findings are its own: they are not those of the data directory.

    Raises:
        NotFoundError: `trash-entry-not-found`, `backup-not-found`.
        DamagedDataError: `backup-damaged`, its state cannot be told.
        DirectoryError: `directory-unreadable`, the disk does not let us look.
    """
    own = replace(environment, findings=Findings(), lock=None)
    files = environment.files
    try:
        above = files.open_directory(root, parent)
        try:
            directory = files.open_directory(above, name)
        finally:
            files.close_directory(above)
    except OSError as error:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise unreadable(f"{parent}/{name}", error) from error
        code = Code.BACKUP_NOT_FOUND if parent == names.BACKUPS else Code.TRASH_ENTRY_NOT_FOUND
        what = f"{parent}/{name}: {error.strerror}; what is there: backups() and trash()"
        raise NotFoundError(code, what, name=name) from error
    parsed = names.parse_stamped_name(name)
    try:
        return open_collection(parsed[0] if parsed else name, own, directory, Epoch(0), Access.READ)
    except (SetAsideError, OSError) as error:
        found = error.message if isinstance(error, SetAsideError) else error.strerror
        raise damaged(f"{parent}/{name}", [str(found)]) from error


def damaged(name: str, problems: Sequence[str]) -> DamagedDataError:
    """Return the error for a backup or trash entry that is not whole."""
    shown = "; ".join(problems[:10]) + ("; ..." if len(problems) > 10 else "")
    return DamagedDataError(
        Code.BACKUP_DAMAGED,
        f"{name} is damaged: {shown}. Nothing was changed. With allow_damage what is whole of it "
        "comes back, if its state can be told; or take another backup",
        name=name,
        problems=list(problems),
    )


def _open_or_make(files: Files, root: Dir) -> Dir:
    with contextlib.suppress(FileExistsError):
        files.make_directory(root, names.BACKUPS)
        files.sync_directory(root)
    return files.open_directory(root, names.BACKUPS)


def _needed_logs(store: Store, view: View) -> list[str]:
    """Return the sealed logs with commits that no segment of `view.manifest` holds."""
    files, directory = store.environment.files, store.directories.wal
    logs = sorted(
        (parsed, name)
        for name in files.list_names(directory)
        if (parsed := names.parse_wal_name(name)) is not None
    )
    flushed = view.manifest.flushed_lsn
    return [name for (_, name), ((_, after), _) in pairwise(logs) if after - 1 > flushed]


def _take_all(
    store: Store,
    view: View,
    logs: list[str],
    target: Dir,
    unsynced: UnsyncedDirectories,
    *,
    share: bool,
) -> _Contents:
    """Link or copy the files of a state; what is copied is durable, names are when synced."""
    files, directories, contents = store.environment.files, store.directories, _Contents()
    segments = files.open_directory(target, names.SEGMENTS)
    try:
        for segment in view.segments:
            name = segment.entry.directory
            taken = take_directory(
                files, directories.segments, segments, name, unsynced, share=share
            )
            contents.add(f"{names.SEGMENTS}/{name}/", taken)
    finally:
        files.close_directory(segments)
    unsynced.open(target, names.SEGMENTS)
    manifest = names.manifest_name(view.manifest.generation)
    for child, source, wanted in (
        (names.MANIFESTS, directories.manifests, [manifest]),
        (names.WAL, directories.wal, logs),
    ):
        below = unsynced.open(target, child)
        contents.add(f"{child}/", take_files(files, source, below, wanted, share=share))
    if files.stat(directories.root, names.COLLECTION_FILE) is not None:
        wanted = [names.COLLECTION_FILE]
        contents.add("", take_files(files, directories.root, target, wanted, share=share))
    return contents


def _stats(
    files: Files, directory: Dir, written: BackupFile
) -> Iterator[tuple[str, tuple[int, int] | None]]:
    """Yield (size, links) of every file of a backup by path; None if it is missing."""
    for path in written.files:
        opened: list[Dir] = []
        try:
            *above, name = path.split("/")
            for part in above:
                opened.append(files.open_directory(opened[-1] if opened else directory, part))
            found = files.stat(opened[-1] if opened else directory, name)
        except FileNotFoundError:
            found = None
        finally:
            for item in opened:
                files.close_directory(item)
        yield path, None if found is None else (found.size_bytes, found.link_count)


def _last_verification(files: Files, directory: Dir) -> VerificationFile | None:
    for name in reversed(files.list_names(directory)):
        if names.parse_verification_name(name) is not None:
            with contextlib.suppress(FormatError, OSError, DvecdbError):
                return decode_verification_file(read_file(files, directory, name))
    return None
