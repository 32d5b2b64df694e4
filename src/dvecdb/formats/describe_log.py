"""A log file, or the cut end of one, as JSON values for people. Nothing is raised for damage."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from dvecdb.errors import DirectoryError
from dvecdb.formats.batch import batch_tag, decode_batch
from dvecdb.formats.columns import decode_documents
from dvecdb.formats.describe_json import describe_json
from dvecdb.formats.describe_values import (
    SHOWN,
    Described,
    hexed,
    json_value,
    sample,
    text_of,
    utc,
    vector_values,
)
from dvecdb.formats.framing import FormatError, decode_sections
from dvecdb.formats.wal_record import FILE_HEADER_SIZE, Kind, scan

if TYPE_CHECKING:
    from dvecdb.formats.batch import Batch
    from dvecdb.formats.wal_record import FileHeader, Found, Scan

_MANIFEST: Final = 1  # section of a manifest record
_MANIFEST_FIELDS: Final[tuple[str, ...]] = (
    "digest", "digest_found", "digest_stated", "refused", "text", "generation", "reason",
    "schema", "flushed_lsn", "row_end", "horizon_lsn", "unknown_fields",
)  # fmt: skip
_DOCUMENTS: Final = 7
_BATCH_SECTIONS: Final = frozenset(range(1, 10))


def describe_log(data: memoryview, vectors: int = 0) -> Described:
    """Return all that is in a log file; `vectors` rows of every batch with their vectors."""
    described: Described = {"kind": "log", "size_bytes": len(data)}
    try:
        found = scan(data)
    except DirectoryError as error:
        described["refused"] = str(error)
        found = scan(b"".join((bytes(FILE_HEADER_SIZE), data[FILE_HEADER_SIZE:])))
    described["used_bytes"] = found.used_bytes
    described["zero_tail_bytes"] = len(data) - found.used_bytes
    described["header"] = _header(found.header) if found.header is not None else "damaged"
    described.update(_contents(data, found, 0, vectors))
    return described


def describe_cut_tail(data: memoryview, vectors: int = 0) -> Described:
    """Return what is in the end of a log that was cut off and set aside."""
    padded_data = memoryview(b"".join((bytes(FILE_HEADER_SIZE), data)))
    described: Described = {"kind": "cut end of a log", "size_bytes": len(data)}
    described.update(_contents(padded_data, scan(padded_data), FILE_HEADER_SIZE, vectors))
    return described


def _header(header: FileHeader) -> Described:
    return {
        "file_uuid": str(header.file_uuid),
        "collection_uuid": str(header.collection_uuid),
        "lineage": str(header.lineage),
        "epoch": int(header.epoch),
        "first_lsn": int(header.first_lsn),
        "previous": hexed(header.previous),
        "created": utc(header.created_ns),
        "required_features": header.required_features,
        "optional_features": header.optional_features,
    }


def _contents(data: memoryview, found: Scan, shift: int, vectors: int) -> Described:
    records: list[Described] = []
    previous: Found | None = None
    vector_type: str | None = None
    for record in found.records:
        described = _record(record, shift)
        if previous is not None and previous.end == record.offset:
            described["chained"] = record.head.previous == previous.hash
        if record.control is not None and record.head.kind is Kind.BATCH:
            described.update(_batch(data, record, vectors, vector_type))
        elif record.control is not None and record.head.kind is Kind.MANIFEST:
            copy = _manifest(record.control)
            described["manifest"] = copy
            schema = copy.get("schema")
            vector_type = schema.get("vector_type") if isinstance(schema, dict) else vector_type
        records.append(described)
        previous = record
    gaps = [{"start": start - shift, "end": end - shift} for start, end in found.gaps]
    return {"records": records, "damaged_bytes": gaps}


def _record(record: Found, shift: int) -> Described:
    head = record.head
    described: Described = {
        "offset": record.offset - shift,
        "size_bytes": head.size,
        "kind": head.kind.name.lower(),
        "lsn": int(head.lsn),
        "epoch": int(head.epoch),
        "durable_lsn": int(head.durable_lsn),
        "time": utc(head.hlc),
        "hlc": head.hlc,
        "previous": hexed(head.previous),
        "hash": hexed(record.hash),
        "control_bytes": head.control_size,
        "data_bytes": head.data_size,
    }
    if not record.whole:
        described["whole"] = False
    if record.repaired:
        described["damaged_copies"] = list(record.repaired)
    if record.control is None:
        described["lost"] = "both copies of the control data are damaged"
    return described


def _manifest(control: memoryview) -> Described:
    """Return what matters of a manifest's copy; the file itself says the rest."""
    try:
        copy = describe_json(decode_sections(control)[_MANIFEST])
    except (FormatError, KeyError) as error:
        return {"damaged": repr(error)}
    described: Described = {key: copy[key] for key in _MANIFEST_FIELDS if key in copy}
    if isinstance(segments := copy.get("segments"), list):
        described["segments"] = len(segments)
    return described


def _batch(data: memoryview, record: Found, vectors: int, vector_type: str | None) -> Described:
    head = record.head
    assert record.control is not None
    start = record.offset + head.data_offset
    content = data[start : start + head.data_size]
    try:
        sections = decode_sections(record.control)
        batch = decode_batch(record.control, content, batch_tag(head.tag, int(head.lsn)))
    except FormatError as error:
        return {"damaged": str(error), **_salvaged(record.control)}
    described: Described = {
        "rows": _rows(batch),
        "wall_time": utc(batch.wall_ns),
        "note": json_value(batch.note),
    }
    if batch.ids:
        described["ids"] = sample(batch.ids)
    if len(batch.ends):
        described["ends"] = sample([int(row) for row in batch.ends])
    if batch.documents:
        described["documents"] = sample([document(*entry) for entry in batch.documents], 4 * SHOWN)
    if batch.bulk is not None:
        described["bulk_segment"] = {
            "directory": batch.bulk.directory,
            "uuid": batch.bulk.uuid,
            "digest": batch.bulk.digest,
        }
    for what, lost in (("vectors", batch.lost_vectors), ("metadata", batch.lost_metadata)):
        if lost:
            described[f"damaged_{what}"] = [batch.ids[number] for number in lost]
    unknown = sorted(set(sections) - _BATCH_SECTIONS)
    if unknown:
        described["unknown_sections"] = unknown
    if vectors and batch.ids:
        described["first_rows"] = _first_rows(batch, vectors, vector_type)
    return described


def _rows(batch: Batch) -> Described:
    described: Described = {
        "first": batch.first_row,
        "count": batch.row_count,
        "vector_bytes": batch.vector_bytes,
    }
    if batch.metadata is not None:
        described["with_metadata"] = sum(1 for value in batch.metadata if value)
    return described


def _first_rows(batch: Batch, count: int, vector_type: str | None) -> list[Described]:
    vectors, size = memoryview(batch.vectors), batch.vector_bytes
    cuts = list(pairwise(range(0, (min(count, batch.row_count) + 1) * size, size)))
    rows: list[Described] = []
    for number, (start, end) in enumerate(cuts):
        row: Described = {"row": batch.first_row + number, "id": batch.ids[number]}
        if batch.metadata is not None and batch.metadata[number]:
            row["metadata"] = json_value(batch.metadata[number])
        row["vector"] = vector_values(vectors[start:end], vector_type)
        rows.append(row)
    return rows


def _salvaged(control: memoryview) -> Described:
    """Return what can be told of control data that contradicts itself."""
    try:
        sections = decode_sections(control)
    except FormatError:
        return {}
    described: Described = {"sections": {str(tag): len(item) for tag, item in sections.items()}}
    try:
        documents = decode_documents(sections.get(_DOCUMENTS, b"\x90"))
    except FormatError:
        return described
    if documents:
        described["documents"] = sample([document(*entry) for entry in documents], 4 * SHOWN)
    return described


def document(namespace: str, key: str, value: bytes | None) -> Described:
    """Return a document as JSON values."""
    shown = "(removed)" if value is None else json_value(value) if len(value) else text_of(value)
    return {"namespace": namespace, "key": key, "value": shown}
