"""The part of a segment that a manifest entry names.

An entry may name less than the file holds: a copy of a past state links whole segments, and what
was written after that state does not exist for it. The sections are cut here, so that nothing else
ever sees more than its entry says. Checksums and digests stay those of the whole file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from dvecdb.formats import segment_file as sf

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

_BY_COMMIT: Final = {
    sf.COMMIT_ROW_ENDS: 8,
    sf.COMMIT_HLCS: 8,
    sf.COMMIT_WALLS: 8,
    sf.NOTE_SIZES: 4,
}


def row_numbers(sections: Mapping[int, memoryview]) -> npt.NDArray[np.int64]:
    """Return the numbers of the rows of a segment from which rows were dropped: int64[rows]."""
    return np.frombuffer(sections.get(sf.ROW_NUMBERS, b""), np.int64)


def bound_rows(sections: Mapping[int, memoryview], rows: int) -> dict[int, memoryview]:
    """Return the sections of a segment of which only the first `rows` rows count."""
    cut = dict(sections)
    if sf.ROW_NUMBERS in cut:
        cut[sf.ROW_NUMBERS] = cut[sf.ROW_NUMBERS][: rows * 8]
    for tag in (sf.LOST_VECTORS, sf.LOST_METADATA):
        if tag in cut:
            ordinals = np.frombuffer(cut[tag], np.uint32)
            _put(cut, tag, ordinals[ordinals < rows])
    return cut


def bound_commits(
    sections: Mapping[int, memoryview], commits: int, last_lsn: int
) -> dict[int, memoryview]:
    """Return the sections of a segment of which only the first `commits` commits count.

    last_lsn: that of the last of them. Ends and documents of later ones are left out.
    """
    cut = dict(sections)
    sizes = np.frombuffer(cut.get(sf.NOTE_SIZES, b""), np.uint32)[:commits]
    if sf.NOTES in cut:
        cut[sf.NOTES] = cut[sf.NOTES][: int(sizes.sum(dtype=np.int64))]
    for tag, width in _BY_COMMIT.items():
        if tag in cut:
            cut[tag] = cut[tag][: commits * width]
    ended = _until(cut, sf.ENDS_LSNS, last_lsn)
    for tag in (sf.ENDS_ROWS, sf.ENDS_LSNS):
        if tag in cut:
            _put(cut, tag, np.frombuffer(cut[tag], np.uint64)[ended])
    _bound_documents(cut, last_lsn)
    return {tag: payload for tag, payload in cut.items() if len(payload)}


def _until(sections: Mapping[int, memoryview], tag: int, last_lsn: int) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = np.frombuffer(sections.get(tag, b""), np.uint64) <= np.uint64(
        last_lsn
    )
    return found


def _bound_documents(cut: dict[int, memoryview], last_lsn: int) -> None:
    if sf.DOCUMENTS not in cut:
        return
    kept = _until(cut, sf.DOCUMENT_LSNS, last_lsn)
    sizes = np.frombuffer(cut[sf.DOCUMENT_SIZES], np.uint32)
    joined = np.frombuffer(cut[sf.DOCUMENTS], np.uint8)
    _put(cut, sf.DOCUMENTS, joined[np.repeat(kept, sizes)])
    _put(cut, sf.DOCUMENT_SIZES, sizes[kept])
    for tag in (sf.DOCUMENT_HASHES, sf.DOCUMENT_LSNS):
        _put(cut, tag, np.frombuffer(cut[tag], np.uint64)[kept])


def _put(sections: dict[int, memoryview], tag: int, values: npt.NDArray[np.generic]) -> None:
    sections[tag] = memoryview(values.tobytes())
