"""The calls that import what others left behind on the server's machine. Pure.

An import is a task of the server: the plan waits for its end and then fetches the whole report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dvecdb.client import arguments
from dvecdb.client.attempts import Repeat
from dvecdb.client.messages import read, send
from dvecdb.client.requests import Plan, finished
from dvecdb.records import DIMENSION_MAX, Options, check_name, check_whole, parse_metric
from dvecdb.reports import Imported, ImportReport
from dvecdb.wire import bodies, rescue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def import_legacy(  # the parts of an import
    source: str,
    name: str,
    *,
    collection: str | None = None,
    dimension: int | None = None,
    metric: str | None = None,
    use_log: bool = True,
    keep_deleted: bool = False,
    include_dropped: bool = False,
    keep_raw: bool = False,
    replace: bool = False,
    progress: Callable[[int, int], None] | None = None,
    actor: str | None = None,
    reason: str | None = None,
) -> Plan[Imported]:
    """Make a collection of what can be saved of `source`; durable when it returns.

    source: a path on the server, inside its data directory or an import root: a collection
    directory, a vectors.bin, or a data directory, then `collection` names which of it. Relative to
    the data directory. The rest is as in `Database.import_legacy`. The server does it as a task:
    this waits for its end, however long that takes.

    Raises:
        NotFoundError: `source-not-found`; `nothing-recoverable`, details hold the report.
        InvalidRequestError: `source-not-allowed`, says what would allow it; `source-unclear`,
            `source-contradicts`, `invalid-name`.
        ConflictError: `collection-exists`; `collection-protected`; `source-in-use`.
        DirectoryError: `directory-unreadable`.
        DiskFullError: `disk-full`; nothing is left behind.
        UnavailableError: `cancelled`, somebody stopped the task, or the server did.
    """
    request = rescue.ImportRequest(
        keep_raw=bool(keep_raw),
        replace=bool(replace),
        **_wanted(source, collection, dimension, metric),
        use_log=bool(use_log),
        keep_deleted=bool(keep_deleted),
        include_dropped=bool(include_dropped),
        collection_name=check_name(name),
    )
    headers = arguments.note_headers(Options(actor=actor, reason=reason))
    found = yield from _task("wait=false", request, headers, Repeat.ONCE, progress)
    return Imported(name, found.report, found.replaced, found.seconds)


def examine_legacy(
    source: str,
    *,
    collection: str | None = None,
    dimension: int | None = None,
    metric: str | None = None,
    use_log: bool = True,
    keep_deleted: bool = False,
    include_dropped: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Plan[ImportReport]:
    """Return what `import_legacy` would bring back. Nothing is written. Raises as that."""
    request = rescue.ImportRequest(
        **_wanted(source, collection, dimension, metric),
        use_log=bool(use_log),
        keep_deleted=bool(keep_deleted),
        include_dropped=bool(include_dropped),
    )
    found = yield from _task("wait=false&dry_run=true", request, {}, Repeat.READ, progress)
    return found.report


def _wanted(
    source: str, collection: str | None, dimension: int | None, metric: str | None
) -> dict[str, Any]:
    """Return the fields of a request that say what is wanted of a source."""
    if collection is not None and not isinstance(collection, str):
        raise arguments.invalid(f"collection: expected text, found {collection!r:.80}")
    return {
        "orphaned_path": arguments.text("source", source, rescue.PATH_LENGTH_MAX),
        "collection": collection,
        "dimension": (
            None if dimension is None else check_whole("dimension", dimension, 0, DIMENSION_MAX)
        ),
        "distance_metric": None if metric is None else str(parse_metric(metric)),
    }


def _task(
    query: str,
    request: rescue.ImportRequest,
    headers: Mapping[str, str],
    repeat: Repeat,
    progress: Callable[[int, int], None] | None,
) -> Plan[rescue.ImportAnswer]:
    path = f"/collections/import?{query}"
    started = yield send("POST", path, request, headers, bodies.TaskStarted, repeat)
    what = f"importing {request.orphaned_path:.200}"
    result: Any = yield from finished(started.task, what, progress)
    if result.get("report_at") is None:  # the server could not keep it: the beginning is there
        return msgspec.convert({"id": started.task.id, "finished": started.task.queued, **result},
                               rescue.ImportAnswer)  # fmt: skip
    found: rescue.ImportAnswer = yield read(
        result["report_at"], rescue.ImportAnswer, lambda answer: answer
    )
    return found
