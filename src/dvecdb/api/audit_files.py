"""The files of the audit log: appended, rotated, pruned, read backwards. Not safe for threads.

No existing file is written to: every start begins a new file, and so does every failure. A file
whose write or sync failed is left as it is and never synced again; its lines since the last sync
are written again into the next file, whose header says up to where the old one counts. So no line
is lost while it fits in memory, and none is read twice.

    0000000007.jsonl    header {"dvecdb": "audit log", "number": 7, ...}, then one line a call
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dvecdb.engine.storage import close_quietly
from dvecdb.errors import Code, DirectoryError, InvalidRequestError
from dvecdb.formats import names
from dvecdb.formats.framing import FormatError
from dvecdb.formats.server_file import AuditHeader, decode_audit_header, decode_line, encode_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dvecdb.clock import Clock
    from dvecdb.media.files import Dir, File, Files

FILES_MAX: Final = 1_000
HEADER_BYTES_MAX: Final = 64 * 1024
_READ_BYTES: Final = 64 * 1024
_DAMAGED_MAX: Final = 100  # named in one page
_CURSOR: Final = re.compile(r"([0-9]{1,10})-([0-9]{1,15})")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log: its JSON object, or None with what is `wrong`. `cursor` leads on."""

    cursor: str
    value: dict[str, object] | None
    wrong: str = ""


@dataclass(slots=True)
class _Current:
    """The file that is appended to. `synced`: bytes that are durable, its name included."""

    number: int
    file: File
    size: int = 0
    synced: int = 0


@dataclass(slots=True)
class AuditFiles:
    """The files below `directory`. Sizes in bytes; `total_bytes_max` is kept to within a file.

    `unsynced`: lines that are not known to be durable, oldest first.
    """

    files: Files
    directory: Dir
    clock: Clock
    file_bytes_max: int
    total_bytes_max: int
    unsynced: list[bytes] = field(default_factory=list)
    _next: int = 1
    _current: _Current | None = None
    _counts_until: dict[int, int] = field(default_factory=dict)

    def begin(self) -> str | None:
        """Look at what is there and make it durable; return what is wrong with it.

        Raises:
            OSError: the directory cannot be listed.
        """
        numbers = self._numbers()
        if not numbers:
            return None
        self._next = numbers[-1] + 1
        name = names.audit_name(numbers[-1])
        try:
            file = self.files.open(self.directory, name)
            try:
                self.files.sync(file)  # a killed process may not have got that far
                size = self.files.size(file)
                last = self.files.read_at(file, 1, size - 1) if size else b"\n"
            finally:
                close_quietly(self.files, file)
            self.files.sync_directory(self.directory)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if last != b"\n":
            return f"{name} ends within a line: the server was stopped while it wrote it"
        return None

    # --- writing ---

    def append(self, lines: Sequence[bytes]) -> None:
        """Write lines behind the others. Not durable.

        Raises:
            OSError: they stay in `unsynced` and are written with the next call.
        """
        if self._current is not None and self._current.size >= self.file_bytes_max:
            try:
                self.finish()
            except OSError:
                self.unsynced += lines
                raise
        self.unsynced += lines
        if not self.unsynced:
            return
        current, wanted = self._current, lines
        if current is None:
            current, wanted = self._create(), self.unsynced
        data = b"".join(wanted)
        try:
            self.files.write_at(current.file, [data], current.size)
        except OSError:
            self._leave()
            raise
        current.size += len(data)

    def sync(self) -> None:
        """Make every line durable.

        Raises:
            OSError: they stay in `unsynced`.
        """
        if not self.unsynced:
            return
        if self._current is None:
            self.append([])
        current = self._current
        assert current is not None
        try:
            self.files.sync(current.file)
            if not current.synced:
                self.files.sync_directory(self.directory)
        except OSError:
            self._leave()
            raise
        current.synced = current.size
        self._counts_until.clear()
        self.unsynced = []

    def finish(self) -> None:
        """Sync, seal and close the file that is appended to; the next line begins another."""
        self.sync()
        current, self._current = self._current, None
        if current is not None:
            with contextlib.suppress(OSError):
                self.files.seal(current.file)
            close_quietly(self.files, current.file)

    def _create(self) -> _Current:
        self._prune()
        number, self._next = self._next, self._next + 1
        header = encode_line(
            AuditHeader(
                number=number,
                created_ns=self.clock.wall_ns(),
                counts_until={str(old): size for old, size in self._counts_until.items()},
            )
        )
        current = _Current(number, self.files.create(self.directory, names.audit_name(number)))
        self._current = current
        try:
            self.files.write_at(current.file, [header], 0)
        except OSError:
            self._leave()
            raise
        current.size = len(header)
        return current

    def _leave(self) -> None:
        """Give up a file that failed, keeping what is durable of it."""
        current, self._current = self._current, None
        assert current is not None
        close_quietly(self.files, current.file)
        self._counts_until[current.number] = current.synced
        if not current.synced:
            with contextlib.suppress(OSError):
                self.files.remove(self.directory, names.audit_name(current.number))
                del self._counts_until[current.number]

    def _prune(self) -> None:
        """Delete the oldest files, so that with the next one the bounds are kept."""
        with contextlib.suppress(OSError):
            sizes: dict[int, int] = {}
            for number in self._numbers():
                found = self.files.stat(self.directory, names.audit_name(number))
                sizes[number] = found.size_bytes if found is not None else 0
            total = sum(sizes.values())
            room = self.total_bytes_max - self.file_bytes_max
            for number in list(sizes)[:-1]:
                if total <= room and len(sizes) < FILES_MAX:
                    break
                self.files.remove(self.directory, names.audit_name(number))
                total -= sizes.pop(number)

    def _numbers(self) -> list[int]:
        found = map(names.parse_audit_name, self.files.list_names(self.directory))
        return sorted(number for number in found if number is not None)

    # --- reading, from any thread ---

    def lines(self, before: str | None = None) -> Iterator[Line]:
        """Yield the lines newest first, those before a cursor if it is given. Not the headers.

        Raises:
            InvalidRequestError: `invalid-argument`, `before` is no cursor.
            OSError: the directory cannot be listed.
        """
        first, end = _parse_cursor(before)
        ends: dict[int, int] = {}
        if first is not None:
            ends[first] = end
        for number in reversed(self._numbers()):
            if first is None or number <= first:
                yield from self._lines_of(number, ends)

    def _lines_of(self, number: int, ends: dict[int, int]) -> Iterator[Line]:
        name = names.audit_name(number)
        start = f"{number}-0"
        try:
            file = self.files.open(self.directory, name)
        except FileNotFoundError:
            return  # pruned since it was listed
        except OSError as error:
            yield Line(start, None, f"{name}: cannot be read ({error.strerror})")
            return
        try:
            current = self._current
            is_current = current is not None and current.number == number
            size = current.size if is_current and current is not None else self.files.size(file)
            end = min(size, ends.get(number, size))
            first = self.files.read_at(file, HEADER_BYTES_MAX, 0).partition(b"\n")[0]
            try:
                header = decode_audit_header(first)
                for old, until in header.counts_until.items():
                    ends.setdefault(int(old), until)
            except (FormatError, DirectoryError, ValueError):
                first = b""  # so it is shown as a line that is wrong
            for offset, line, is_whole in _lines_before(self.files, file, end):
                cursor = f"{number}-{offset}"
                if not is_whole:
                    yield Line(cursor, None, f"{name}: cut short after byte {offset}")
                elif offset or line != first:
                    yield _decode(cursor, line, f"{name}: bytes {offset} to {offset + len(line)}")
        except OSError as error:
            yield Line(start, None, f"{name}: cannot be read ({error.strerror})")
        finally:
            close_quietly(self.files, file)


def read_page(
    lines: Iterator[Line], limit: int
) -> tuple[list[dict[str, object]], str | None, list[str]]:
    """Return at most `limit` values, the cursor of the next page, and what was wrong between."""
    values: list[dict[str, object]] = []
    damaged: list[str] = []
    cursor: str | None = None
    for line in lines:
        if len(values) == limit or len(damaged) == _DAMAGED_MAX:
            return values, cursor, damaged
        cursor = line.cursor
        if line.value is None:
            damaged.append(line.wrong)
        else:
            values.append(line.value)
    return values, None, damaged


def _decode(cursor: str, line: bytes, where: str) -> Line:
    try:
        return Line(cursor, decode_line(line))
    except FormatError as error:
        return Line(cursor, None, f"{where}: {error}")


def _parse_cursor(text: str | None) -> tuple[int | None, int]:
    if text is None:
        return None, 0
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT,
            f"before: {text!r:.60} is no cursor; pass the 'next' of the page before",
        )
    return int(match[1]), int(match[2])


def _lines_before(files: Files, file: File, end: int) -> Iterator[tuple[int, bytes, bool]]:
    """Yield (offset, line without its newline, whether it had one) up to `end`, last line first."""
    start, size, rest, is_whole = end, _READ_BYTES, b"", False
    while start > 0:
        size = min(size, start)
        start -= size
        rest = files.read_at(file, size, start) + rest
        lines = rest.split(b"\n")
        offset = start + len(rest)
        for line in reversed(lines[1:]):
            offset -= len(line)
            if line or is_whole:
                yield offset, line, is_whole
            is_whole = True
            offset -= 1
        size = size * 2 if len(lines) == 1 else _READ_BYTES
        rest = lines[0]
    if end:
        yield 0, rest, is_whole
