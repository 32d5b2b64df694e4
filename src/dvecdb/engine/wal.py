"""The active log file: append, sync, seal. Append-only, space reserved ahead, never recycled.

States: open -> sealed (closed in order) or open -> failed (a write or sync failed). A failed log
is never written or synced again: after a failed sync the kernel may drop the pages, mark them
clean and let the next sync succeed, so only a fresh file proves anything.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from dvecdb.engine.storage import close_quietly, disk_full, is_disk_full
from dvecdb.errors import Code, OutcomeUnknownError
from dvecdb.formats import names
from dvecdb.formats.framing import encode_sections, tag_of
from dvecdb.formats.wal_record import (
    FILE_HEADER_SIZE,
    FileHeader,
    Kind,
    encode_file_header,
    encode_record,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dvecdb.media.files import Buffer, Dir, Files
    from dvecdb.settings import Settings

MANIFEST_SECTION = 1
CONTINUED_SECTION = 2  # of a seal: the next log was durable before this was written

_NO_SECTIONS: Final[Mapping[int, Buffer]] = {}


class Wal:
    """One log file, open for appending. Used under the commit lock only."""

    def __init__(  # the identity of a log file
        self,
        files: Files,
        directory: Dir,
        header: FileHeader,
        settings: Settings,
        manifest_copy: bytes,
        hlc: int,
    ) -> None:
        """Create the file with its header and a copy of the manifest. Durable on return.

        Raises:
            OSError: nothing that counts was written.
        """
        self._files = files
        self._settings = settings
        self.name = names.wal_name(header.epoch, header.first_lsn)
        self.first_lsn = header.first_lsn
        self.epoch = header.epoch
        self.tag = tag_of(header.file_uuid)
        self.last_lsn = header.first_lsn - 1
        self.durable_lsn = self.last_lsn
        self.previous = header.previous
        self.size = FILE_HEADER_SIZE
        self.syncs = 0
        self.failed = False
        self.marked = True
        try:
            self._file = files.create(directory, self.name)
        except FileExistsError:
            raise
        except OSError:
            self._unmake(directory)
            raise
        try:
            self._allocated = settings.wal_reserve_bytes + self.size + 2 * len(manifest_copy) + 1024
            files.allocate(self._file, 0, self._allocated)
            files.write_at(self._file, [encode_file_header(header)], 0)
            self.append_manifest(manifest_copy, hlc)
            files.sync(self._file)
            files.sync_directory(directory)
        except (OSError, OutcomeUnknownError):
            close_quietly(files, self._file)
            self._unmake(directory)
            raise

    def _unmake(self, directory: Dir) -> None:
        """Remove the name of a log that could not be made, durably.

        If it came back after a crash, commits that went to the log before it would seem to come
        from a writer that had lost its right.
        """
        try:
            with contextlib.suppress(FileNotFoundError):
                self._files.remove(directory, self.name)
            self._files.sync_directory(directory)
        except OSError as error:
            raise self.fail("taking back", error) from error

    def reserve(self, size: int, *, may_use_reserve: bool) -> None:
        """Make sure that `size` bytes can be appended.

        Raises:
            DiskFullError: `disk-full`; nothing was written.
            OutcomeUnknownError: `outcome-unknown`, another error of the disk; the log has failed.
        """
        if not self.must_grow(size):
            return
        needed = self.size + size + self._settings.wal_reserve_bytes
        for extra in (self._settings.wal_extend_bytes, 0):
            try:
                target = needed + extra
                self._files.allocate(self._file, self._allocated, target - self._allocated)
            except OSError as error:
                if not is_disk_full(error):
                    raise self.fail("reserving log space", error) from error
                if extra == 0 and not (may_use_reserve and self.size + size <= self._allocated):
                    raise disk_full("the log cannot grow", error) from error
            else:
                self._allocated = target
                return

    def must_grow(self, size: int) -> bool:
        """Return whether appending `size` bytes needs more space than is reserved."""
        return self.size + size + self._settings.wal_reserve_bytes > self._allocated

    def encode(
        self,
        kind: Kind,
        lsn: int,
        hlc: int,
        control: bytes,
        data: Sequence[Buffer] = (),
        data_size: int = 0,
    ) -> tuple[list[Buffer], int]:
        """Return the buffers and size of the next record, and chain it. Nothing is written."""
        buffers, size, self.previous = encode_record(
            kind,
            tag=self.tag,
            lsn=lsn,
            epoch=self.epoch,
            durable_lsn=self.durable_lsn,
            previous=self.previous,
            hlc=hlc,
            control=control,
            data=data,
            data_size=data_size,
        )
        return buffers, size

    def append(self, buffers: Sequence[Buffer], size: int, last_lsn: int) -> None:
        """Write encoded records. Not durable before `sync`.

        Raises:
            OutcomeUnknownError: `outcome-unknown`; the log has failed.
        """
        assert not self.failed
        try:
            self._files.write_at(self._file, buffers, self.size)
        except OSError as error:
            raise self.fail("writing the log", error) from error
        self.size += size
        self.last_lsn = last_lsn
        self.marked = False

    def sync(self) -> None:
        """Make everything appended durable.

        Raises:
            OutcomeUnknownError: `outcome-unknown`; the log has failed.
        """
        assert not self.failed
        try:
            self._files.sync(self._file)
        except OSError as error:
            raise self.fail("syncing the log", error) from error
        self.syncs += 1
        self.durable_lsn = self.last_lsn

    def append_manifest(self, manifest_copy: bytes, hlc: int) -> None:
        """Append a copy of an installed manifest; it becomes durable with the next sync."""
        control = encode_sections({MANIFEST_SECTION: manifest_copy})
        buffers, size = self.encode(Kind.MANIFEST, self.last_lsn, hlc, control)
        self.append(buffers, size, self.last_lsn)

    def mark(self, hlc: int) -> None:
        """Record durably how far the log is synced."""
        self._note(Kind.MARKER, hlc)

    def seal(self, hlc: int, *, continued: bool = False) -> None:
        """Write the final record, sync and close. continued: the next log exists, durably.

        The space that was reserved and not used is given back.
        """
        self._note(Kind.SEAL, hlc, {CONTINUED_SECTION: b"\1"} if continued else {}, is_last=True)
        self.close()

    def _note(
        self,
        kind: Kind,
        hlc: int,
        sections: Mapping[int, Buffer] = _NO_SECTIONS,
        *,
        is_last: bool = False,
    ) -> None:
        control = encode_sections(sections)
        self.reserve(512, may_use_reserve=True)
        buffers, size = self.encode(kind, self.last_lsn, hlc, control)
        self.append(buffers, size, self.last_lsn)
        if is_last:
            with contextlib.suppress(OSError):
                self._files.truncate(self._file, self.size)
        self.sync()
        self.marked = True

    def fail(self, doing: str, error: OSError) -> OutcomeUnknownError:
        """Latch the log and return the error for whoever waits on it."""
        self.failed = True
        return OutcomeUnknownError(
            Code.OUTCOME_UNKNOWN,
            f"{doing} {self.name} failed ({error.strerror}): whether this write survives is not "
            "known before the data directory is opened again. Writes to this collection have "
            "stopped; retry with the same idempotency key after reopening",
            log=self.name,
            errno=error.errno,
        )

    def close(self) -> None:
        """Close the file without writing or syncing anything."""
        close_quietly(self._files, self._file)
