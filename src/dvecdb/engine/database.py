"""A data directory: its lock, its collections, and how they come into being.

    DATA_DIR/LOCK              held for life by the one writing process
    DATA_DIR/collections/X     self-contained; the directory's name is the collection's name
    DATA_DIR/.deleted/X_stamp  deleted collections, whole

One damaged collection is set aside with a reason; the others open and serve.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from dvecdb.clock import SystemClock
from dvecdb.engine.collection import Collection
from dvecdb.engine.findings import Findings
from dvecdb.engine.index_care import tend_index
from dvecdb.engine.indexer import Indexer
from dvecdb.engine.lifecycle import build_collection, open_collection, write_new
from dvecdb.engine.lock import WriterLock, highest_epoch, look_at_lock
from dvecdb.engine.maintenance import Worker, maintain, tend
from dvecdb.engine.reclaim import drop_ballast, drop_partials, keep_ballast
from dvecdb.engine.recovery import Access
from dvecdb.engine.replay import SetAsideError
from dvecdb.engine.storage import (
    check_ours,
    disk_full,
    is_disk_full,
    is_no_space,
    opened_full,
    read_only_error,
    unclear,
    unreadable,
    write_failed,
)
from dvecdb.engine.store import Environment
from dvecdb.errors import (
    Code,
    ConflictError,
    DamagedDataError,
    DirectoryError,
    DvecdbError,
    HandleError,
    NotFoundError,
)
from dvecdb.formats import names
from dvecdb.media.files import OsFiles
from dvecdb.records import (
    DIMENSION_MAX,
    NAME_PATTERN,
    Finding,
    Metric,
    Schema,
    VectorType,
    check_name,
    check_whole,
    parse_metric,
    parse_vector_type,
)
from dvecdb.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from dvecdb.clock import Clock
    from dvecdb.engine.store import Store
    from dvecdb.media.files import Dir, Files

_READ_ONLY_ATTEMPTS: Final = 20
_CLOSE_FLUSH_BYTES: Final = 4 * 1024 * 1024
_CLOSE_FLUSH_COMMITS: Final = 1000

C = TypeVar("C", bound=Collection)

_open_databases: weakref.WeakSet[Database[Any]] = weakref.WeakSet()


class Database(Generic[C]):
    """An open data directory. Safe to use from any number of threads; not across a fork.

    What users hold is `protection.database.Database`, which says what a collection is to them.

    `_lock` guards the table of collections and is taken before any lock of a collection; it is not
    held over long work, which `_working` counts.
    """

    def __init__(  # the composition root of the embedded engine
        self,
        path: str,
        *,
        read_only: bool = False,
        settings: Settings | None = None,
        files: Files | None = None,
        clock: Clock | None = None,
        new_uuid: Callable[[], uuid.UUID] = uuid.uuid4,
        background: bool = True,
    ) -> None:
        """Open or create the data directory at `path` and recover every collection in it.

        Raises:
            DirectoryError: `directory-in-use`, `not-a-data-directory`, `legacy-directory`,
                `format-too-new`, `directory-unreadable`.
        """
        self.path = path
        self.read_only = read_only
        self._files = files if files is not None else OsFiles()
        self._settings = settings if settings is not None else Settings()
        self._clock = clock if clock is not None else SystemClock()
        self._new_uuid = new_uuid
        self._findings = Findings()
        self._lock = threading.Condition(threading.RLock())
        self._works = 0
        self._building: set[str] = set()
        self._pid = os.getpid()
        self._closed = False
        self._stores: dict[str, Store] = {}
        self._collections: dict[str, C] = {}
        self._set_aside: dict[str, Finding] = {}
        self._writer: WriterLock | None = None
        self._worker: Worker | None = None
        self._indexer: Indexer | None = None
        try:
            self._root = self._files.open_root(path, create=not read_only)
        except OSError as error:
            raise unreadable(path, error) from error
        try:
            self._open()
        except OSError as error:
            self._abandon()
            if is_disk_full(error):
                raise disk_full(f"opening {path}", error) from error
            raise unreadable(path, error) from error
        except BaseException:
            self._abandon()
            raise
        if background and not read_only:
            self._worker = Worker(
                lambda: list(self._stores.values()), self._tend_all, self._settings, self._clock
            )
            self._indexer = Indexer(lambda: list(self._stores.values()))
        _open_databases.add(self)

    def __enter__(self) -> Self:
        """Return the database."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the database."""
        self.close()

    # --- opening ---

    def _open(self) -> None:
        files, root = self._files, self._root
        present = [name for name in files.list_names(root) if name not in names.NOT_DATA]
        self._check_ours(present)
        if self.read_only:
            self._epoch, self._writer_alive = look_at_lock(files, root)
        else:
            self._writer = WriterLock(
                files, root, str(self._new_uuid()), epoch_min=highest_epoch(files, root) + 1
            )
            self._epoch = self._writer.epoch
            for name in (names.COLLECTIONS, names.TRASH):
                with contextlib.suppress(FileExistsError):
                    files.make_directory(root, name)
            files.sync_directory(root)
            self._sync_names()
            keep_ballast(files, root, self._settings.ballast_bytes)
        try:
            self._directory = files.open_directory(root, names.COLLECTIONS)
        except FileNotFoundError:
            raise DirectoryError(
                Code.NOT_A_DATA_DIRECTORY,
                f"{self.path} has no {names.COLLECTIONS}/",
                path=self.path,
            ) from None
        self._environment = Environment(
            files, self._clock, self._settings, self._findings, self._new_uuid, self._writer,
            self._may_expire,
        )  # fmt: skip
        self._open_collections()

    def _check_ours(self, present: list[str]) -> None:
        """Refuse a directory that is somebody else's. present: what lies in it."""
        check_ours(self.path, present)

    def _open_collections(self) -> None:
        files = self._files
        if not self.read_only:
            drop_partials(files, self._directory)
        for name in files.list_names(self._directory):
            if NAME_PATTERN.fullmatch(name):
                self._open_collection(name)

    def _sync_names(self) -> None:
        """Make what collections exist durable: a killed process may not have got that far."""
        for name in (names.COLLECTIONS, names.TRASH):
            directory = self._files.open_directory(self._root, name)
            try:
                self._files.sync_directory(directory)
            finally:
                self._files.close_directory(directory)

    def _open_collection(self, name: str) -> None:
        attempts, is_full = _READ_ONLY_ATTEMPTS if self.read_only else 1, False
        for attempt in range(attempts):
            try:
                self._stores[name] = self._recover(name, self._access())
            except SetAsideError as error:
                self._set_aside[name] = Finding(
                    error.code, name, error.where, error.message, "the collection"
                )
            except (OSError, DvecdbError) as error:
                if isinstance(error, DirectoryError):
                    raise
                is_full = is_no_space(error)
                message = error.strerror if isinstance(error, OSError) else str(error)
                self._set_aside[name] = Finding(
                    "collection-unreadable", name, name, f"{name}: {message}", "the collection"
                )
            else:
                self._set_aside.pop(name, None)
                self._collections[name] = self._wrap(self._stores[name])
                return
            if attempt + 1 < attempts:  # beside a writer, files may go between two looks
                self._findings.forget(name)
        # The error is over: what its frames held open is closed, and takes no room any more.
        if is_full and self._open_on_full_disk(name):
            del self._set_aside[name]
        else:
            self._findings.add(self._set_aside[name])

    def _open_on_full_disk(self, name: str) -> bool:
        """Open a collection with the ballast's room, or else for reading and deleting only."""
        if self.read_only:
            return False
        with contextlib.suppress(OSError, DvecdbError, SetAsideError):
            if drop_ballast(self._files, self._root):
                self._stores[name] = self._recover(name, Access.WRITE)
                self._collections[name] = self._wrap(self._stores[name])
                return True
        with contextlib.suppress(OSError, DvecdbError, SetAsideError):
            store = self._stores[name] = self._recover(name, Access.READ_ON_FULL_DISK)
            store.stop_writes(opened_full(name))
            self._collections[name] = self._wrap(store)
            return True
        return False

    def _recover(self, name: str, access: Access) -> Store:
        directory = self._files.open_directory(self._directory, name)
        store = open_collection(name, self._environment, directory, self._epoch, access)
        if self.read_only:
            store.stopped = read_only_error()
        return store

    def _access(self) -> Access:
        if not self.read_only:
            return Access.WRITE
        return Access.READ_BESIDE_WRITER if self._writer_alive else Access.READ

    def _wrap(self, store: Store) -> C:
        """Return what users get to hold."""
        raise NotImplementedError

    def _committed(self, store: Store) -> None:
        if self._worker is not None:
            self._worker.after_commit(store)
        else:
            maintain(store)
            tend_index(store)
        if self._indexer is not None:
            self._indexer.after_commit(store)

    def _may_expire(self) -> bool:
        """Tell whether things may expire by the clock now."""
        return True

    def _tend_all(self) -> None:
        """Do what the passing of time has made due. Raises nothing."""
        for store in list(self._stores.values()):
            tend(store)

    # --- collections ---

    def create_collection(
        self,
        name: str,
        *,
        dimension: int,
        metric: str = Metric.COSINE,
        vector_type: str = VectorType.FLOAT32,
    ) -> C:
        """Create a collection; durable on return.

        Raises:
            InvalidRequestError: `invalid-name`, `invalid-argument`.
            ConflictError: `collection-exists`, also where only the case differs.
            DiskFullError: `disk-full`.
        """
        self._check_open()
        self._check_writable()
        check_name(name)
        check_whole("dimension", dimension, 1, DIMENSION_MAX)
        schema = Schema(dimension, parse_metric(metric), parse_vector_type(vector_type))
        write = partial(write_new, schema, self._environment, self._epoch)
        return self._build(name, write, f"creating collection {name!r}")

    def _build(
        self,
        name: str,
        write: Callable[[Dir], int],
        doing: str,
        make_room: Callable[[], None] | None = None,
    ) -> C:
        """Make a collection of the files that `write` puts into its directory; durable on return.

        The name is taken from the start. make_room: takes away what has it, once all is written.
        """
        with self._working():
            with self._lock:
                if make_room is None or name in self._building:
                    self._check_free(name)
                self._building.add(name)
            try:
                store = build_collection(
                    name, self._environment, self._directory, self._epoch, write, make_room
                )
            except OSError as error:
                failed = unclear if self._is_there(name) else write_failed
                raise failed(doing, error) from error
            finally:
                with self._lock:
                    self._building.discard(name)
            with self._lock:
                self._stores[name] = store
                collection = self._collections[name] = self._wrap(store)
        return collection

    def _check_free(
        self,
        name: str,
        advice: str = "delete it first (it goes to the trash) or choose another name",
    ) -> None:
        """Refuse a name that is taken, also where only the case differs. Under `_lock`."""
        for existing in (*self._names(), *self._building):
            if existing.lower() == name.lower():
                raise ConflictError(
                    Code.COLLECTION_EXISTS,
                    f"collection {existing!r} exists; nothing was changed: {advice}",
                    name=existing,
                )

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """Keep the directory open until the work inside is done."""
        with self._lock:
            self._check_open()
            self._works += 1
        try:
            yield
        finally:
            with self._lock:
                self._works -= 1
                self._lock.notify_all()

    def collection(self, name: str) -> C:
        """Return an open collection.

        Raises:
            NotFoundError: `collection-not-found`.
            DamagedDataError: `collection-damaged`, it was set aside; says why.
        """
        self._check_open()
        found = self._collections.get(name)
        if found is not None:
            return found
        reason = self._set_aside.get(name)
        if reason is not None:
            raise DamagedDataError(
                Code.COLLECTION_DAMAGED,
                f"collection {name!r} is set aside: {reason.message}. Nothing of it was changed; "
                "restore it from a backup, or import it (`dvecdb import`) elsewhere",
                name=name,
                finding=reason.code,
            )
        raise NotFoundError(
            Code.COLLECTION_NOT_FOUND,
            f"there is no collection {name!r}; there are: "
            f"{', '.join(self.collections()) or 'none'}",
            name=name,
        )

    def collections(self) -> list[str]:
        """Return the names of the open collections, sorted."""
        self._check_open()
        return sorted(self._collections)

    def _names(self) -> list[str]:
        try:
            return self._files.list_names(self._directory)
        except OSError as error:
            raise write_failed("looking for collections", error) from error

    def _is_there(self, name: str) -> bool:
        try:
            return self._files.stat(self._directory, name) is not None
        except OSError:
            return True

    def findings(self) -> list[Finding]:
        """Return everything damaged or doubtful in this data directory."""
        self._check_open()
        return self._findings.all()

    def close(self) -> None:
        """Flush what is much, seal the logs, give up the lock. Everything was durable before."""
        if self._pid != os.getpid():
            return  # the parent's, and its lock may be held by a thread that is not here
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._indexer is not None:
            self._indexer.stop()
        if self._worker is not None:
            self._worker.stop()
        with self._lock:
            while self._works:
                self._lock.wait()
            for store in self._stores.values():
                active = store.active
                if not self.read_only and (
                    active.size_bytes >= _CLOSE_FLUSH_BYTES
                    or len(active.row_ends) >= _CLOSE_FLUSH_COMMITS
                ):
                    maintain(store, force_flush=True)
                store.close(seal=not self.read_only)
            self._release()

    def _abandon(self) -> None:
        """Give up an open that failed."""
        for store in self._stores.values():
            store.close(seal=False)
        self._stores.clear()
        self._release()

    def _release(self) -> None:
        if self._writer is not None:
            self._writer.release()
        if hasattr(self, "_directory"):
            self._files.close_directory(self._directory)
        self._files.close_directory(self._root)

    def _check_open(self) -> None:
        if self._pid != os.getpid():
            raise HandleError(
                Code.FORKED_HANDLE,
                "this database was opened before a fork; open the data directory again in the "
                "child",
            )
        if self._closed:
            raise HandleError(Code.HANDLE_CLOSED, "this database is closed; open it again")

    def _check_writable(self) -> None:
        if self.read_only:
            raise read_only_error()

    def forked(self) -> None:
        """Give the lock file's handle back in a forked child; the parent keeps the lock."""
        if self._writer is not None:
            self._writer.release()


def _after_fork_in_child() -> None:
    for database in list(_open_databases):
        database.forked()


os.register_at_fork(after_in_child=_after_fork_in_child)
