"""Requests and answers of imports: what others left behind becomes a collection.

What was found and lost is the structs of `reports`: a message of one has exactly its fields.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec

from dvecdb.errors import Code, InvalidRequestError
from dvecdb.records import DIMENSION_MAX, check_name, check_whole
from dvecdb.reports import ImportReport
from dvecdb.wire.bodies import Answer
from dvecdb.wire.legacy import LenientRequest, metric_named, vector_type_named

PATH_LENGTH_MAX: Final = 4096
LISTED_MAX: Final = 20
"""Entries of each list of a report that the result of a task has; the report itself has all."""

_LISTS: Final = ("doubtful", "lost", "deleted_by_log", "dropped_by_log", "unreadable")


class ImportRequest(LenientRequest, frozen=True):
    """Make the collection `collection_name` of what can be saved of `orphaned_path`.

    `orphaned_path`: a collection directory, a `vectors.bin` or a data directory, on the server;
    `collection`: which one of a data directory. `dimension`, `distance_metric`: refused if the
    files say otherwise. `vector_type` is taken and changes nothing: vectors stay as they are.
    `use_log`: overlay the log beside it; `keep_deleted`: rows that it deletes come too;
    `include_dropped`: also what it dropped with its collection. `keep_raw`: doubtful metadata
    keeps its stored bytes under `_dvecdb_raw`. `replace`: a collection of that name goes to the
    trash.
    """

    orphaned_path: str
    collection_name: str | None = None
    dimension: int | None = None
    distance_metric: str | None = None
    vector_type: str | None = None
    collection: str | None = None
    use_log: bool = True
    keep_deleted: bool = False
    include_dropped: bool = False
    keep_raw: bool = False
    replace: bool = False


class ImportQuery(LenientRequest, frozen=True):
    """`wait` false: answer at once with a task. `dry_run`: only the report."""

    wait: bool = True
    dry_run: bool = False


class ImportAnswer(Answer, frozen=True):
    """What an import did. `name`: of the collection it made, null if it was only tried.

    `replaced`: the trash entry of the collection that had the name before.
    """

    id: str
    name: str | None
    replaced: str | None
    seconds: float
    finished: datetime
    report: ImportReport


def imported_message(name: str) -> str:
    """Return what the old server said."""
    return f"Collection '{name}' imported successfully from orphaned data"


def checked_request(request: ImportRequest, *, dry_run: bool) -> ImportRequest:
    """Return a request with its metric in our spelling, if it can work at all.

    Raises:
        InvalidRequestError: `invalid-name`, `invalid-argument`; `invalid-body`, an enum value that
            nobody knows, or the name is missing.
    """
    path = request.orphaned_path
    if not path or "\0" in path or len(path) > PATH_LENGTH_MAX:
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT,
            f"orphaned_path: expected a path of 1 to {PATH_LENGTH_MAX} characters without NUL, "
            f"found {path!r:.80}",
        )
    if request.collection_name is not None:
        check_name(request.collection_name)
    elif not dry_run:
        raise InvalidRequestError(
            Code.INVALID_BODY,
            "the body: missing `collection_name`, the name of the collection to make",
            path="$.collection_name",
        )
    if request.dimension is not None:
        check_whole("dimension", request.dimension, 0, DIMENSION_MAX)
    vector_type_named(request.vector_type)
    if request.distance_metric is None:
        return request
    metric = str(metric_named(request.distance_metric))
    return msgspec.structs.replace(request, distance_metric=metric)


def choice_of(request: ImportRequest) -> dict[str, Any]:
    """Return what an import and a trial of it take."""
    return {
        "collection": request.collection,
        "dimension": request.dimension,
        "metric": request.distance_metric,
        "use_log": request.use_log,
        "keep_deleted": request.keep_deleted,
        "include_dropped": request.include_dropped,
    }


def shortened(report: ImportReport) -> ImportReport:
    """Return a report with the beginning of each list, and notes that say what is left out."""
    cut: dict[str, Any] = {}
    notes = list(report.notes)
    for name in _LISTS:
        items = getattr(report, name)
        if len(items) > LISTED_MAX:
            cut[name] = items[:LISTED_MAX]
            notes.append(f"{name}: the first {LISTED_MAX} of {len(items)}")
    return msgspec.structs.replace(report, **cut, notes=notes) if cut else report
