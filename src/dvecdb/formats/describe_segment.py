"""The two files of a segment as JSON values for people. Nothing is raised for damage."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from dvecdb.errors import DirectoryError
from dvecdb.formats import segment_file as sf
from dvecdb.formats.columns import DocumentEntry, block_checksums
from dvecdb.formats.describe_log import document
from dvecdb.formats.describe_values import (
    SHOWN,
    Described,
    hexed,
    json_value,
    numbers,
    sample,
    text_of,
    utc,
    vector_values,
)
from dvecdb.formats.framing import FormatError, decode_sections, digest, tag_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMES: Final = {
    sf.DESCRIPTOR: "descriptor",
    sf.ROW_NUMBERS: "row numbers",
    sf.ENDS_ROWS: "ends: rows",
    sf.ENDS_LSNS: "ends: lsns",
    sf.COMMIT_ROW_ENDS: "commits: row end",
    sf.COMMIT_HLCS: "commits: hlc",
    sf.COMMIT_WALLS: "commits: wall",
    sf.NOTE_SIZES: "notes: sizes",
    sf.NOTES: "notes",
    sf.DOCUMENT_HASHES: "documents: hash",
    sf.DOCUMENT_LSNS: "documents: lsn",
    sf.DOCUMENT_SIZES: "documents: sizes",
    sf.DOCUMENTS: "documents",
    sf.VECTOR_BLOCKS: "vector blocks",
    sf.BODY_PAGES: "body pages",
    sf.VECTOR_DIGESTS: "vector digests",
    sf.BODY_DIGESTS: "body digests",
    sf.LOST_VECTORS: "lost vectors",
    sf.LOST_METADATA: "lost metadata",
}
_DIGEST_BYTES: Final = 32
_Sections = dict[int, memoryview]


def describe_segment(
    data: memoryview, vectors_file: memoryview | None = None, vectors: int = 0
) -> Described:
    """Return all that records.bin says; with vectors.bin, also its state and the first rows."""
    described: Described = {"kind": "segment", "size_bytes": len(data)}
    heads: list[sf.SegmentHead] = []
    for name, offset in (("head", 0), ("tail", max(0, len(data) - sf.HEAD_SIZE))):
        try:
            heads.append(sf.decode_head(data[offset : offset + sf.HEAD_SIZE]))
            described[name] = "good"
        except (FormatError, DirectoryError) as error:
            described[name] = str(error)
    head = heads[0] if heads else None
    if head is not None:
        described.update(_head(head))
    sections = _control(data, head, described)
    if sections is None:
        return described
    descriptor = _descriptor(sections, described)
    described["sections"] = [
        {"tag": tag, "name": _NAMES.get(tag, "unknown"), "size_bytes": len(item)}
        for tag, item in sections.items()
    ]
    described.update(_commits(sections, descriptor))
    if sf.ROW_NUMBERS in sections:
        described["row_numbers"] = numbers(sections[sf.ROW_NUMBERS], np.uint64)
    for tag, what in ((sf.LOST_VECTORS, "lost_vectors"), (sf.LOST_METADATA, "lost_metadata")):
        if tag in sections:
            described[what] = numbers(sections[tag], np.uint32)
    if head is not None and descriptor is not None:
        body = data[head.body_offset : head.body_offset + head.body_size]
        described.update(_columns(body, sections, descriptor, tag_of(head.segment_uuid)))
        if vectors_file is not None:
            described["vectors_file"] = _vectors(vectors_file, sections, descriptor, head, vectors)
    return described


def describe_vectors(
    data: memoryview, records_file: memoryview | None = None, vectors: int = 0
) -> Described:
    """Return what vectors.bin is: raw numbers, which records.bin beside it explains."""
    described: Described = {
        "kind": "vectors",
        "size_bytes": len(data),
        "format": "raw; see records.bin beside it",
    }
    if records_file is None:
        return described
    segment = describe_segment(records_file, data, vectors)
    for key in ("segment_uuid", "descriptor", "vectors_file"):
        if key in segment:
            described[key] = segment[key]
    return described


def _head(head: sf.SegmentHead) -> Described:
    return {
        "segment_uuid": str(head.segment_uuid),
        "collection_uuid": str(head.collection_uuid),
        "required_features": head.required_features,
        "optional_features": head.optional_features,
        "control_bytes": head.control_size,
        "control_checksum": hexed(head.control_checksum),
        "body_offset": head.body_offset,
        "body_bytes": head.body_size,
        "vectors_bytes": head.vectors_size,
    }


def _control(
    data: memoryview, head: sf.SegmentHead | None, described: Described
) -> _Sections | None:
    """Return the sections of the control data, and note the state of both copies."""
    control: memoryview | None = None
    if head is None:
        described["control"] = "not verified: head and tail cannot be used"
        control = data[sf.HEAD_SIZE :]
    else:
        for name, offset in (
            ("control copy 1", sf.HEAD_SIZE),
            ("control copy 2", head.second_control_offset),
        ):
            copy = data[offset : offset + head.control_size]
            good = (
                len(copy) == head.control_size
                and sf.control_checksum(copy, head.segment_uuid) == head.control_checksum
            )
            described[name.replace(" ", "_")] = "good" if good else "damaged"
            if good:
                control = copy
        if control is None:
            described["lost"] = "both copies of the control data are damaged"
            return None
        described["digest"] = digest(control).hex()
    try:
        return decode_sections(control)
    except FormatError as error:
        described["damaged"] = str(error)
        return None


def _descriptor(sections: _Sections, described: Described) -> sf.Descriptor | None:
    raw = sections.get(sf.DESCRIPTOR, memoryview(b""))
    value = json_value(raw)
    if isinstance(value, dict):  # the columns are shown with their pages
        value = {key: item for key, item in value.items() if key != "columns"}
    described["descriptor"] = value
    try:
        return sf.decode_descriptor(raw)
    except FormatError as error:
        described["damaged"] = str(error)
        return None


def _commits(sections: _Sections, descriptor: sf.Descriptor | None) -> Described:
    def column(tag: int, dtype: type[np.generic]) -> list[int]:
        return numbers(sections.get(tag, memoryview(b"")), dtype)

    first_lsn = descriptor.first_lsn if descriptor is not None else 0
    notes = _cut(sections.get(sf.NOTES, memoryview(b"")), column(sf.NOTE_SIZES, np.uint32))
    hlcs, walls = column(sf.COMMIT_HLCS, np.uint64), column(sf.COMMIT_WALLS, np.uint64)
    row_ends = column(sf.COMMIT_ROW_ENDS, np.uint64)
    commits = [
        {
            "lsn": first_lsn + number,
            "row_end": row_end,
            "time": utc(hlc),
            "wall_time": utc(wall),
            "note": json_value(note),
        }
        for number, (row_end, hlc, wall, note) in enumerate(
            zip(row_ends, hlcs, walls, notes, strict=False)
        )
    ]
    ends = [
        {"row": row, "lsn": lsn}
        for row, lsn in zip(
            column(sf.ENDS_ROWS, np.uint64), column(sf.ENDS_LSNS, np.uint64), strict=False
        )
    ]
    described: Described = {"commits": sample(commits, 4 * SHOWN), "ends": sample(ends)}
    if sf.DOCUMENTS in sections:
        pieces = _cut(sections[sf.DOCUMENTS], column(sf.DOCUMENT_SIZES, np.uint32))
        lsns = column(sf.DOCUMENT_LSNS, np.uint64)
        documents = [
            {"lsn": lsn, **_document(piece)} for lsn, piece in zip(lsns, pieces, strict=False)
        ]
        described["documents"] = sample(documents, 4 * SHOWN)
    return described


def _cut(joined: memoryview, sizes: list[int]) -> list[memoryview]:
    pieces, position = [], 0
    for size in sizes:
        pieces.append(joined[position : position + size])
        position += size
    return pieces


def _document(piece: memoryview) -> Described:
    try:
        return document(*msgspec.msgpack.decode(piece, type=DocumentEntry))
    except msgspec.MsgspecError:
        return {"damaged": text_of(piece)}


def _columns(
    body: memoryview, sections: _Sections, descriptor: sf.Descriptor, tag: int
) -> Described:
    expected = numbers(sections.get(sf.BODY_PAGES, memoryview(b"")), np.uint64)
    damaged = _differing(block_checksums(body, sf.PAGE_BYTES, tag), expected)
    described: Described = {
        "columns": [
            {"name": name, "offset": span.offset, "size_bytes": span.size}
            for name, span in descriptor.columns.items()
        ],
        "checksums": {
            "vector_blocks": len(sections.get(sf.VECTOR_BLOCKS, b"")) // 8,
            "body_pages": len(expected),
            "vector_digests": len(sections.get(sf.VECTOR_DIGESTS, b"")) // _DIGEST_BYTES,
            "body_digests": len(sections.get(sf.BODY_DIGESTS, b"")) // _DIGEST_BYTES,
        },
        "damaged_pages": damaged,
    }
    ids = _ids(body, descriptor.columns, descriptor.rows, frozenset(damaged))
    if descriptor.rows:
        described["ids"] = {"count": descriptor.rows, "first": ids}
    return described


def _differing(found: list[int], expected: list[int]) -> list[int]:
    """Return the numbers of blocks that are not as expected, missing ones included."""
    return [
        number
        for number, checksum in enumerate(expected)
        if number >= len(found) or found[number] != checksum
    ]


def _ids(
    body: memoryview, columns: Mapping[str, sf.Span], rows: int, damaged: frozenset[int]
) -> list[str]:
    """Return the ids of the first few rows, as far as they lie in undamaged pages."""
    offsets, texts = columns.get("ids_offsets"), columns.get("ids")
    if offsets is None or texts is None or offsets.offset // sf.PAGE_BYTES in damaged:
        return []
    count = min(rows, SHOWN)
    cuts = numbers(body[offsets.offset : offsets.offset + 8 * (count + 1)], np.uint64)
    ids: list[str] = []
    for start, end in pairwise(cuts):
        first, last = texts.offset + start, texts.offset + end
        if any(
            first < (page + 1) * sf.PAGE_BYTES and page * sf.PAGE_BYTES < last for page in damaged
        ):
            ids.append("(damaged)")
        else:
            ids.append(text_of(body[first:last]))
    return ids


def _vectors(
    data: memoryview,
    sections: _Sections,
    descriptor: sf.Descriptor,
    head: sf.SegmentHead,
    vectors: int,
) -> Described:
    size = max(1, descriptor.vector_bytes)
    expected = numbers(sections.get(sf.VECTOR_BLOCKS, memoryview(b"")), np.uint64)
    block_bytes = max(1, descriptor.block_rows) * size
    found = block_checksums(data, block_bytes, tag_of(head.segment_uuid))
    described: Described = {
        "size_bytes": len(data),
        "rows": len(data) // size,
        "block_rows": descriptor.block_rows,
        "damaged_blocks": _differing(found, expected),
    }
    if len(data) != head.vectors_size:
        described["damaged"] = f"{head.vectors_size} bytes were written"
    if vectors:
        described["first_rows"] = [
            {
                "ordinal": number,
                "vector": vector_values(
                    data[number * size : (number + 1) * size], descriptor.vector_type
                ),
            }
            for number in range(min(vectors, len(data) // size))
        ]
    return described
