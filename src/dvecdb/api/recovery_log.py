"""Log lines of what was deleted, brought back, backed up, undone and purged: by whom and how much.

The audit log has every call that changes something; these lines are the ones that an operator wants
to see pass by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from dvecdb.telemetry import Event

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dvecdb.api.audit import AuditEntry
    from dvecdb.records import VerifyReport
    from dvecdb.reports import Imported

EVENTS: Final[Mapping[str, Event]] = {
    "delete_collection": Event.DELETED,
    "restore_collection": Event.RESTORED,
    "clone_collection": Event.CLONED,
    "back_up": Event.BACKED_UP,
    "make_snapshot": Event.BACKED_UP,
    "delete_backup": Event.BACKUP_DELETED,
    "delete_snapshot": Event.BACKUP_DELETED,
    "undo": Event.UNDONE,
    "clean_up": Event.PURGED,
    "purge_trash_entry": Event.PURGED,
    "hard_delete": Event.HARD_DELETED,
    "protect": Event.PROTECTION,
    "trust_clock": Event.CLOCK_TRUSTED,
}
"""By operation of the endpoint table."""

_TOLD: Final = (
    "name", "source", "backup", "backup_path", "snapshot_name", "to_lsn", "restored", "removed",
    "rows_rewritten", "copied_bytes", "deletion",
)  # fmt: skip
"""Fields of an answer that are worth a fact. None of them holds what a record holds."""

_log = structlog.get_logger("dvecdb.api")


def log_recovery(entry: AuditEntry, path: Mapping[str, str], data: Any, *, dry_run: bool) -> None:
    """Write the line of a call that was done, if it is one of these. data: of its answer."""
    event = EVENTS.get(entry.operation)
    answer = msgspec.to_builtins(data) if event is not None else None
    if event is None or dry_run or answer == []:
        return
    facts: dict[str, Any] = {"collection": entry.collection}
    for part in ("entry", "backup", "snapshot"):
        if part in path:
            facts["name"] = path[part]
    if isinstance(answer, dict):
        facts |= {name: answer[name] for name in _TOLD if answer.get(name) is not None}
    elif isinstance(answer, list):
        facts["names"] = answer
    _log.info(
        event,
        **facts,
        rows=entry.rows,
        lsn=entry.lsn,
        key_name=entry.key,
        actor=entry.actor,
        reason=entry.reason,
        request_id=entry.request_id,
    )


def log_expired(names: Sequence[str]) -> None:
    """Write the line of trash entries and automatic backups whose time was up."""
    _log.info(Event.EXPIRED, names=list(names))


def log_verified(name: str, report: VerifyReport, request_id: str) -> None:
    """Write the line of a backup that was read whole: a warning if it is damaged."""
    write = _log.info if report.ok else _log.warning
    write(
        Event.BACKUP_VERIFIED,
        collection=report.collection,
        name=name,
        ok=report.ok,
        findings=len(report.findings),
        request_id=request_id,
    )


def log_imported(made: Imported, source: str, request_id: str, key_name: str) -> None:
    """Write the line of a collection that an import made: a warning if something was lost."""
    report = made.report
    write = _log.warning if report.lost or report.unreadable else _log.info
    write(
        Event.IMPORTED,
        collection=made.name,
        source=source,
        generation=report.generation,
        rows=report.imported,
        exact=report.exact,
        lost_ranges=len(report.lost),
        replaced=made.replaced,
        seconds=round(made.seconds, 3),
        key_name=key_name,
        request_id=request_id,
    )
