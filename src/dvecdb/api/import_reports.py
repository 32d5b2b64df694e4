"""The reports of imports, whole: DATA_DIR/.server/imports/ID.json, ID being that of the task.

They may have an entry for every record, so they are no results of tasks. Safe for threads: no two
share a name.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from dvecdb.api.server_directory import HeldDirectory
from dvecdb.engine.reclaim import drop_partials
from dvecdb.engine.storage import read_file, unreadable, write_file
from dvecdb.errors import Code, DamagedDataError, NotFoundError
from dvecdb.formats import names
from dvecdb.formats.framing import FormatError
from dvecdb.formats.manifest_file import seal_json
from dvecdb.formats.server_file import ImportReportFile, decode_sealed

if TYPE_CHECKING:
    from dvecdb.media.files import Dir, Files

KEPT_MAX: Final = 100
"""Reports that are kept; the oldest go first."""


class ImportReports:
    """The reports in a directory; the handle belongs to them from now on."""

    def __init__(self, files: Files, directory: Dir, *, kept_max: int = KEPT_MAX) -> None:
        self._files, self._kept_max = files, kept_max
        self._held = HeldDirectory(files, directory)
        with contextlib.suppress(OSError):
            drop_partials(files, directory)

    def keep(self, report: ImportReportFile) -> None:
        """Keep a report; durable on return. The oldest go, beyond the bound.

        Raises:
            OSError: it is not kept.
        """
        name = names.import_name(report.id)
        with self._held.open() as directory:
            try:
                write_file(self._files, directory, name, [seal_json(report)])
            except OSError:
                with contextlib.suppress(OSError):
                    self._files.remove(directory, names.PARTIAL + name)
                raise
            with contextlib.suppress(OSError):  # another one pruned the same, or the disk fails
                found = self._files.list_names(directory)
                kept = sorted(item for item in found if names.parse_import_name(item))
                for item in kept[: -self._kept_max]:
                    self._files.remove(directory, item)

    def get(self, task_id: str) -> ImportReportFile:
        """Return the report of the import that a task did.

        Raises:
            NotFoundError: `task-not-found`, there is none, or none any more.
            DamagedDataError: `damaged-data`.
            DirectoryError: `directory-unreadable`, `format-too-new`.
        """
        name = names.import_name(task_id)
        where = f"{names.SERVER}/{names.IMPORTS}/{name}"
        try:
            if names.parse_import_name(name) is None:
                raise FileNotFoundError
            with self._held.open() as directory:
                data = read_file(self._files, directory, name)
            return decode_sealed(data, ImportReportFile)
        except FileNotFoundError:
            raise NotFoundError(
                Code.TASK_NOT_FOUND,
                f"there is no report of an import {task_id!r:.80}; the {self._kept_max} newest "
                "are kept",
                task=task_id,
            ) from None
        except OSError as error:
            raise unreadable(where, error) from error
        except FormatError as error:
            raise DamagedDataError(
                Code.DAMAGED_DATA,
                f"{where}: {error}. The collection is not touched by it, only its report is lost",
                where=where,
            ) from error

    def close(self) -> None:
        """Close the directory, once nobody uses it."""
        self._held.close()
