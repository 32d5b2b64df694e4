"""Opening files of others for reading: whole, mapped, and however damaged the disk is."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dvecdb.media.files import OsFiles
from dvecdb.reports import Unreadable

if TYPE_CHECKING:
    from dvecdb.media.files import Dir, Files, Mapped

_CHUNK: Final = 8 * 1024 * 1024
_PAGE: Final = 4096


@dataclass(slots=True)
class SourceFile:
    """A file that is open for reading, as `data`; name: in reports."""

    name: str
    data: Mapped
    size: int
    unreadable: list[Unreadable] = field(default_factory=list)


class SourceFiles:
    """The files of a source. Never writes; close it when the vectors are no longer needed."""

    def __init__(self, files: Files | None = None) -> None:
        self._files = files or OsFiles()
        self._views: list[memoryview] = []

    def close(self) -> None:
        """Give the memory back."""
        views, self._views = self._views, []
        for view in views:
            view.release()

    def names(self, path: str) -> list[str]:
        """Return the names in a directory, sorted. Raises `OSError`."""
        directory = self._files.open_root(path, create=False)
        try:
            return self._files.list_names(directory)
        finally:
            self._files.close_directory(directory)

    def is_directory(self, path: str, *, follow: bool = True) -> bool:
        """Tell whether a directory is there that can be opened; follow: or a link to one."""
        if not follow and not self._is(path, is_directory=True):
            return False
        try:
            self._files.close_directory(self._files.open_root(path, create=False))
        except OSError:
            return False
        return True

    def has_file(self, path: str) -> bool:
        """Tell whether something that is no directory is there."""
        return self._is(path, is_directory=False)

    def _is(self, path: str, *, is_directory: bool) -> bool:
        parent, name = posixpath.split(path)
        try:
            directory = self._files.open_root(parent or ".", create=False)
        except OSError:
            return False
        try:
            found = self._files.stat(directory, name)
        except OSError:
            return False
        finally:
            self._files.close_directory(directory)
        return found is not None and found.is_directory is is_directory

    def open(self, path: str, name: str) -> SourceFile:
        """Open a file; what of it cannot be read is zeros, and named. Raises `OSError`."""
        parent, base = posixpath.split(path)
        directory = self._files.open_root(parent or ".", create=False)
        try:
            return self._open(directory, base, name)
        finally:
            self._files.close_directory(directory)

    def _open(self, directory: Dir, base: str, name: str) -> SourceFile:
        files = self._files
        file = files.open(directory, base)
        try:
            size = files.size(file)
            bad: list[Unreadable] = []
            for start in range(0, size, _CHUNK):
                try:
                    files.read_at(file, min(_CHUNK, size - start), start)
                except OSError as error:
                    end = min(start + _CHUNK, size)
                    bad.append(Unreadable(name, f"bytes {start} to {end}: {error.strerror}"))
            if bad:
                return SourceFile(name, self._around(file, size), size, bad)
            view = files.map(file, size)
            self._views.append(view)
            return SourceFile(name, view.obj, size)  # type: ignore[arg-type]  # a map or bytes
        finally:
            files.close(file)

    def _around(self, file: int, size: int) -> bytearray:
        """Return a file's content with zeros for the pages that cannot be read."""
        content = bytearray(size)
        for start in range(0, size, _PAGE):
            try:
                piece = self._files.read_at(file, min(_PAGE, size - start), start)  # type: ignore[arg-type]
            except OSError:
                continue
            content[start : start + len(piece)] = piece
        return content
