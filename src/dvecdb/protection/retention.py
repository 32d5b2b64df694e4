"""What may go from trash and backups, and when. Pure.

The trash: an entry goes when its time is up. Where the trash has a budget, the oldest go before
their time while it is exceeded, but none in its first hour.

Automatic backups of a collection: the newest `backup_keep_last` stay, and all that are younger
than `backup_keep_days`; beyond the byte budget the oldest of all go. The last backup of a
collection stays as long as the collection lives or is in the trash. Others than automatic ones
stay until somebody deletes them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from dvecdb.records import Backup, TrashEntry
    from dvecdb.settings import Settings

EARLIEST: Final = timedelta(hours=1)
"""No budget takes an entry from the trash before."""


def expired_entries(
    entries: Sequence[TrashEntry], now: datetime, bytes_max: int | None
) -> list[TrashEntry]:
    """Return the trash entries to be purged, oldest first. bytes_max: of the trash; None: any."""
    oldest_first = sorted(entries, key=lambda item: (item.deleted, item.name))
    gone = [item for item in oldest_first if item.expires <= now]
    if bytes_max is None:
        return gone
    left = [item for item in oldest_first if item not in gone]
    size = sum(item.size_bytes or 0 for item in left)
    for item in left:
        if size <= bytes_max or now - item.deleted < EARLIEST:
            break
        gone.append(item)
        size -= item.size_bytes or 0
    return gone


@dataclass(frozen=True, slots=True)
class BackupRule:
    """How automatic backups are kept. bytes_max: of all, 0: no limit."""

    keep_last: int
    keep_days: int
    bytes_max: int

    @classmethod
    def of(cls, settings: Settings) -> BackupRule:
        """Return the rule that the settings state."""
        return cls(settings.backup_keep_last, settings.backup_keep_days, settings.backup_bytes_max)


def expired_backups(
    backups: Sequence[Backup], now: datetime, rule: BackupRule, alive: Collection[str]
) -> list[Backup]:
    """Return the backups to be deleted, oldest first.

    alive: uuids of the collections that live or are in the trash.
    """
    newest: dict[str, Backup] = {}
    automatic: dict[str, list[Backup]] = defaultdict(list)
    for item in sorted(backups, key=lambda item: (item.created, item.name), reverse=True):
        newest.setdefault(item.uuid, item)
        if item.automatic:
            automatic[item.uuid].append(item)
    bound = {newest[uuid].name for uuid in alive if uuid in newest}
    loose = sorted(
        (item for found in automatic.values() for item in found if item.name not in bound),
        key=lambda item: (item.created, item.name),
    )
    days = timedelta(days=rule.keep_days)
    recent = {item.name for found in automatic.values() for item in found[: rule.keep_last]}
    gone = [item for item in loose if item.name not in recent and now - item.created >= days]
    if not rule.bytes_max:
        return gone
    size = sum(item.own_bytes for found in automatic.values() for item in found)
    size -= sum(item.own_bytes for item in gone)
    for item in loose:
        if size <= rule.bytes_max:
            break
        if item not in gone:
            gone.append(item)
            size -= item.own_bytes
    return gone
