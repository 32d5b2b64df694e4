"""What each segment directory says of itself, whether or not anything else knows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from dvecdb.engine.segment import Segment, SegmentLostError
from dvecdb.formats import names
from dvecdb.formats import segment_file as sf
from dvecdb.formats.framing import FormatError, decode_sections, digest
from dvecdb.formats.manifest_file import SegmentEntry
from dvecdb.formats.segment_bounds import row_numbers
from dvecdb.records import VectorType

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    import numpy.typing as npt

    from dvecdb.media.files import Dir, File, Files
    from dvecdb.records import Finding
    from dvecdb.rescue.own.places import Part, Place

ROWS_MAX: Final = 2**62
"""No collection has so many rows or commits: numbers above come from no writer of ours."""
_UNUSABLE: Final = (FormatError, ValueError, KeyError, OverflowError)


@dataclass(slots=True)
class Found:
    """A segment directory with sound control data.

    first_row, row_end, first_lsn, last_lsn: as far as its own files and its name say, -1 where
    they do not; `row_end` of a segment that holds rows alone and not all of them is not known.
    """

    part: Part
    name: str
    head: sf.SegmentHead
    descriptor: sf.Descriptor
    digest: str
    commit_row_ends: npt.NDArray[np.uint64]
    numbers: npt.NDArray[np.int64] | None
    vectors_bytes: int
    first_row: int = -1
    row_end: int = -1
    first_lsn: int = -1
    last_lsn: int = -1

    @property
    def uuid(self) -> str:
        """The segment's uuid, in hex as manifests have it."""
        return self.head.segment_uuid.hex

    @property
    def collection(self) -> UUID:
        """The collection it was written by, which may have shared it with others."""
        return self.head.collection_uuid

    @property
    def commits(self) -> int:
        """Number of commits in it; 0 for the rows of a bulk batch alone."""
        return self.descriptor.commits

    def path(self, name: str) -> str:
        """Return what a file of it is called in reports."""
        return f"{self.part.path(self.name)}/{name}"

    def entry(self) -> SegmentEntry:
        """Return the manifest entry that names all of it."""
        return SegmentEntry(
            directory=self.name,
            uuid=self.uuid,
            digest=self.digest,
            first_row=self.first_row,
            row_end=self.row_end,
            first_lsn=self.first_lsn,
            last_lsn=self.last_lsn,
            commits=self.commits,
            records_bytes=self.head.file_size,
            vectors_bytes=self.vectors_bytes,
        )


@dataclass(slots=True)
class Unusable:
    """A segment directory whose control data is damaged in both copies, or that is not whole.

    sizes: bytes by file name.
    """

    part: Part
    name: str
    why: str
    sizes: dict[str, int]


@dataclass(slots=True)
class Opened:
    """A segment opened with the entry that counts.

    findings: what its reading found; is_certain: whether something else proves that its rows were
    committed and that what ended them is known.
    """

    found: Found
    segment: Segment
    findings: list[Finding] = field(default_factory=list)
    is_certain: bool = True


class _PartialSegment(Segment):
    """A segment that opens without its vectors if the system does not give them."""

    def _open_vectors(self, directory: Dir) -> File | None:
        try:
            return super()._open_vectors(directory)
        except OSError:
            return None


def examine_all(place: Place) -> tuple[list[Found], list[Unusable]]:
    """Return what every segment directory says of itself. Reads control data only."""
    found: list[Found] = []
    unusable: list[Unusable] = []
    part = place.segments
    for name in part.found if part is not None else ():
        assert part is not None
        try:
            found.append(_examine(place, part, name))
        except NotADirectoryError:
            continue
        except OSError as error:
            place.refused(f"{part.path(name)}/{sf.RECORDS_NAME}", error)
            unusable.append(
                Unusable(part, name, error.strerror or "unreadable", _sizes(place, name))
            )
        except _UNUSABLE as error:
            unusable.append(Unusable(part, name, str(error), _sizes(place, name)))
    return found, unusable


def open_found(
    files: Files, found: Found, entry: SegmentEntry, findings: list[Finding]
) -> Segment | None:
    """Open a segment as `entry` names it, wherever it lies; None if it cannot be."""
    entry = msgspec.structs.replace(entry, directory=found.name)
    try:
        segment = _PartialSegment(files, found.part.directory, entry, findings.append, "")
    except (SegmentLostError, OSError, *_UNUSABLE):
        return None
    if segment.lacks_rows:
        segment.close()
        return None
    return segment


def _sizes(place: Place, name: str) -> dict[str, int]:
    part, sizes = place.segments, {}
    assert part is not None
    try:
        directory = place.files.open_directory(part.directory, name)
    except OSError:
        return {}
    try:
        for child in (sf.RECORDS_NAME, sf.VECTORS_NAME):
            stat = place.files.stat(directory, child)
            if stat is not None:
                sizes[child] = stat.size_bytes
    except OSError:
        pass
    finally:
        place.files.close_directory(directory)
    return sizes


def _examine(place: Place, part: Part, name: str) -> Found:
    """Return what the directory `name` says of itself.

    Raises:
        OSError: as the system says.
        FormatError, ValueError: it is damaged.
    """
    files = place.files
    directory = files.open_directory(part.directory, name)
    try:
        head, control = _read_control(files, directory)
        stat = files.stat(directory, sf.VECTORS_NAME)
        if stat is not None:
            try:
                files.close(files.open(directory, sf.VECTORS_NAME))
            except OSError as error:
                place.refused(f"{part.path(name)}/{sf.VECTORS_NAME}", error)
    finally:
        files.close_directory(directory)
    sections = decode_sections(control)
    descriptor = sf.decode_descriptor(sections[sf.DESCRIPTOR])
    numbers = None
    if head.required_features & sf.FEATURE_ROW_NUMBERS:
        numbers = row_numbers(sections)
    found = Found(
        part,
        name,
        head,
        descriptor,
        digest(control).hex(),
        np.frombuffer(sections.get(sf.COMMIT_ROW_ENDS, b""), np.uint64),
        numbers,
        stat.size_bytes if stat is not None else 0,
    )
    _check(found, sections)
    _place_in_history(found)
    return found


def _read_control(files: Files, directory: Dir) -> tuple[sf.SegmentHead, bytes]:
    """Return the head and the control data from whichever copies are good."""
    try:
        file = files.open(directory, sf.RECORDS_NAME)
    except FileNotFoundError:
        raise FormatError(f"{sf.RECORDS_NAME} is missing") from None
    try:
        size = files.size(file)
        for offset in (0, size - sf.HEAD_SIZE):
            try:
                head = sf.decode_head(files.read_at(file, sf.HEAD_SIZE, max(offset, 0)))
            except (FormatError, OSError):
                continue
            control = _good_copy(files, file, size, head)
            if control is not None:
                return head, control
    finally:
        files.close(file)
    raise FormatError("both copies of its control data are damaged")


def _good_copy(files: Files, file: File, size: int, head: sf.SegmentHead) -> bytes | None:
    for start in (sf.HEAD_SIZE, head.second_control_offset):
        if start + head.control_size > size:
            continue
        try:
            control = files.read_at(file, head.control_size, start)
        except OSError:
            continue
        if sf.control_checksum(control, head.segment_uuid) == head.control_checksum:
            return control
    return None


def _check(found: Found, sections: Mapping[int, memoryview]) -> None:
    """Refuse numbers that contradict each other, before anything is made of their size."""
    descriptor, rows = found.descriptor, found.descriptor.rows
    if descriptor.codec != "none" or descriptor.vector_fields:
        raise FormatError(f"its rows are stored in another form ({descriptor.codec})")
    width = VectorType(descriptor.vector_type).dtype.itemsize
    if min(rows, descriptor.commits) < 0 or min(descriptor.dimension, descriptor.block_rows) < 1:
        raise FormatError("its descriptor makes no sense")
    blocks = len(sections.get(sf.VECTOR_BLOCKS, b"")) // 8
    offsets = descriptor.columns.get("ids_offsets", sf.Span(0, 0)).size
    if (
        descriptor.vector_bytes != descriptor.dimension * width
        or blocks != -(-rows // descriptor.block_rows)
        or len(found.commit_row_ends) != descriptor.commits
        or (found.numbers is not None and len(found.numbers) != rows)
        or offsets not in {0, 8 * (rows + 1)}
    ):
        raise FormatError("its descriptor contradicts its sections")
    _check_numbers(found)


def _check_numbers(found: Found) -> None:
    """Refuse rows and commits that no collection can have, and columns outside of the file."""
    row_ends, numbers, first_lsn = found.commit_row_ends, found.numbers, found.descriptor.first_lsn
    spans = found.descriptor.columns.values()
    if (
        int(row_ends.max(initial=0)) > ROWS_MAX
        or (row_ends[1:] < row_ends[:-1]).any()
        or (numbers is not None and (int(numbers.max(initial=0)) > ROWS_MAX))
        or (numbers is not None and (int(numbers.min(initial=0)) < 0))
        or (numbers is not None and (numbers[1:] <= numbers[:-1]).any())
        or not 0 <= first_lsn <= ROWS_MAX
        or any(span.offset < 0 or span.size < 0 for span in spans)
        or any(span.offset + span.size > found.head.body_size for span in spans)
    ):
        raise FormatError("its rows and commits cannot be")


def _place_in_history(found: Found) -> None:
    """Say which rows and commits it covers, from what is checksummed first and its name last."""
    named = names.parse_segment_name(found.name)
    if named is not None and named[2] != found.uuid:
        named = None  # renamed: what the name says is somebody else's
    rows, numbers = found.descriptor.rows, found.numbers
    if found.commits:
        found.first_lsn = found.descriptor.first_lsn
        found.last_lsn = found.first_lsn + found.commits - 1
        found.row_end = int(found.commit_row_ends[-1])
        found.first_row = found.row_end - rows
    elif named is not None:
        found.first_lsn = found.last_lsn = named[1]
        found.first_row, found.row_end = named[0], named[0] + rows
    if numbers is not None:
        lowest = int(numbers[0]) if len(numbers) else max(found.first_row, 0)
        found.first_row = min(named[0], lowest) if named is not None else lowest
        if not found.commits:
            found.row_end = int(numbers[-1]) + 1 if len(numbers) else found.first_row
