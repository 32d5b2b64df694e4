"""Rows that were brought back, sent to a collection in batches.

A server takes no vector that is not finite and no metadata beyond its limit. Such rows are left
out, or come without their metadata, and the report says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from dvecdb.errors import Code, InvalidRequestError
from dvecdb.reports import Doubt, Lost, cap_lost

if TYPE_CHECKING:
    import numpy.typing as npt

    import dvecdb
    from dvecdb.cli.staging import Note
    from dvecdb.records import Metadata
    from dvecdb.rescue.salvage import Progress, Salvage

_BATCH_BYTES: Final = 8 * 1024 * 1024
_BATCH_ROWS_MAX: Final = 10_000
_METADATA_CODES: Final = frozenset({Code.METADATA_TOO_LARGE, Code.INVALID_METADATA})
_decode = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(slots=True)
class _Batch:
    ids: list[str]
    vectors: npt.NDArray[Any]
    metadata: list[Metadata | None]


def stream_rows(
    collection: dvecdb.Collection, salvage: Salvage, note: Note, progress: Progress
) -> None:
    """Write all rows and documents of a salvage; durable on return. Its report says what was not.

    Raises:
        DvecdbError: as `Collection.upsert`; some batches are in then.
    """
    per_piece = max(1, min(_BATCH_ROWS_MAX, _BATCH_BYTES // salvage.schema.vector_bytes))
    first, total = 0, len(salvage.ids)
    for vectors in salvage.vectors.pieces(per_piece):
        for start, end in _cuts(salvage, first, first + len(vectors)):
            part = slice(start, end)
            batch = _Batch(
                salvage.ids[part],
                vectors[start - first : end - first],
                [_decode(text) if text else None for text in salvage.metadata[part]],
            )
            _leave_out_infinite(batch, salvage)
            _write(collection, batch, salvage, note)
            progress(end, total)
        first += len(vectors)
    assert first == total, f"{first} vectors of {total} rows"
    cap_lost(salvage.report)
    documents = {
        name: value for name, value in salvage.documents.items() if not name[0].startswith("_")
    }
    if documents:
        collection.write(documents=documents, **note.options)


def _cuts(salvage: Salvage, first: int, last: int) -> list[tuple[int, int]]:
    """Return ranges of rows whose metadata fit into a batch."""
    cuts, size, start = [], 0, first
    for row in range(first, last):
        size += len(salvage.metadata[row])
        if size >= _BATCH_BYTES:
            cuts.append((start, row + 1))
            start, size = row + 1, 0
    return [*cuts, (start, last)] if start < last else cuts


def _leave_out_infinite(batch: _Batch, salvage: Salvage) -> None:
    """Take rows that are not finite out of a batch, and out of what the report counts."""
    if batch.vectors.dtype.kind != "f":
        return
    finite = np.isfinite(batch.vectors).all(axis=1)
    if finite.all():
        return
    keep = np.flatnonzero(finite).tolist()
    left_out = {batch.ids[row] for row in np.flatnonzero(~finite).tolist()}
    batch.ids = [batch.ids[row] for row in keep]
    batch.vectors = batch.vectors[finite]
    batch.metadata = [batch.metadata[row] for row in keep]
    report = salvage.report
    doubts = [item for item in report.doubtful if item.id in left_out]
    places = {item.id: (item.file, item.offset) for item in doubts}
    report.doubtful = [item for item in report.doubtful if item.id not in left_out]
    report.imported -= len(left_out)
    report.exact -= len(left_out - places.keys())
    lost: list[Lost] = []
    for record_id in sorted(left_out):
        file, offset = places.get(record_id, (report.source, 0))
        why = f"the vector of {record_id} has NaN or infinities, which a server does not take"
        lost.append(Lost(file, offset, offset, why))
    report.lost = [*report.lost, *lost]


def _write(collection: dvecdb.Collection, batch: _Batch, salvage: Salvage, note: Note) -> None:
    """Write a batch, without the metadata that are refused."""
    while batch.ids:
        try:
            collection.upsert(batch.ids, batch.vectors, batch.metadata, **note.options)
        except InvalidRequestError as error:
            item = error.details.get("item")
            if error.code not in _METADATA_CODES or not isinstance(item, int):
                raise
            if batch.metadata[item] is None:
                raise
            batch.metadata[item] = None
            _doubt_metadata(batch.ids[item], error, salvage)
        else:
            return


def _doubt_metadata(record_id: str, error: InvalidRequestError, salvage: Salvage) -> None:
    report = salvage.report
    known = {item.id for item in report.doubtful}
    report.exact -= record_id not in known
    doubt = Doubt(id=record_id, file=report.source, offset=0, why="metadata-lost",
                  text=error.message)  # fmt: skip
    report.doubtful = [*report.doubtful, doubt]
