"""The files of tasks: written once, read at the start. Safe for threads: no two share a name."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from dvecdb.api.server_directory import HeldDirectory
from dvecdb.engine.reclaim import drop_partials
from dvecdb.engine.storage import read_file, write_file
from dvecdb.errors import DirectoryError
from dvecdb.formats import names
from dvecdb.formats.framing import FormatError
from dvecdb.formats.manifest_file import seal_json
from dvecdb.formats.server_file import TaskEndFile, TaskStartFile, decode_sealed
from dvecdb.records import Finding

if TYPE_CHECKING:
    from dvecdb.media.files import Dir, Files

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StoredTask:
    """What the files say of a task. Without an end it was interrupted."""

    id: str
    start: TaskStartFile
    end: TaskEndFile | None


class TaskFiles:
    """The files below DATA_DIR/.server/tasks; the handle belongs to them from now on."""

    def __init__(self, files: Files, directory: Dir) -> None:
        self._files, self._directory = files, directory
        self._held = HeldDirectory(files, directory)
        self.next_number = 1
        """A number above that of every file, damaged ones included."""

    def load(self, findings: list[Finding]) -> list[StoredTask]:
        """Return the tasks on disk, oldest first, and add what is damaged to `findings`.

        Raises:
            OSError: the directory cannot be listed.
        """
        present = self._files.list_names(self._directory)
        with contextlib.suppress(OSError):
            drop_partials(self._files, self._directory)
        parsed = [found for name in present if (found := names.parse_task_name(name))]
        started = {task_id for task_id, is_end in parsed if not is_end}
        ended = {task_id for task_id, is_end in parsed if is_end}
        self.next_number = 1 + max((int(task_id) for task_id, _ in parsed), default=0)
        for task_id in ended - started:
            self._remove(names.task_name(task_id, ended=True))  # pruned half
        tasks: list[StoredTask] = []
        for task_id in sorted(started):
            start = self._read(names.task_name(task_id), TaskStartFile, findings)
            end = None
            if task_id in ended:
                end = self._read(names.task_name(task_id, ended=True), TaskEndFile, findings)
            if start is not None:
                tasks.append(StoredTask(task_id, start, end))
        return tasks

    def _read(self, name: str, kind: type[_T], findings: list[Finding]) -> _T | None:
        try:
            return decode_sealed(read_file(self._files, self._directory, name), kind)
        except (OSError, FormatError, DirectoryError) as error:
            what = error.strerror if isinstance(error, OSError) else str(error)
            where = f"{names.SERVER}/{names.TASKS}/{name}"
            findings.append(Finding("task-damaged", None, where, f"tasks/{name}: {what}"))
            return None

    def write_start(self, start: TaskStartFile) -> None:
        """Note that a task was accepted; durable on return.

        Raises:
            OSError: nothing of it is left, unless it cannot be removed.
        """
        name = names.task_name(start.id)
        try:
            self._write(name, start)
        except OSError:
            self._remove(name)
            raise

    def write_end(self, end: TaskEndFile) -> None:
        """Note how a task ended; durable on return.

        Raises:
            OSError: it may be there or not.
        """
        self._write(names.task_name(end.id, ended=True), end)

    def remove(self, task_id: str) -> None:
        """Forget a task; that it is gone need not be durable."""
        self._remove(names.task_name(task_id))  # first: an end alone is nothing, a start is a task
        self._remove(names.task_name(task_id, ended=True))

    def _write(self, name: str, value: object) -> None:
        with self._held.open():
            try:
                write_file(self._files, self._directory, name, [seal_json(value)])
            except OSError:
                self._remove(names.PARTIAL + name)
                raise

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError), self._held.open():
            self._files.remove(self._directory, name)

    def close(self) -> None:
        """Close the directory, once nobody uses it."""
        self._held.close()
