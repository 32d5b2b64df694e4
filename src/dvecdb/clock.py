"""The only source of time. Everything inside is integer nanoseconds since the Unix epoch, UTC."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

_STAMP: Final = re.compile(r"(\d{4})(\d\d)(\d\d)_(\d\d)(\d\d)(\d\d)", re.ASCII)
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NANOSECONDS_PER_SECOND = 1_000_000_000


def _monotonic() -> Callable[[], int]:
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic_ns if boot is None else partial(time.clock_gettime_ns, boot)


_monotonic_ns = _monotonic()


class Clock(Protocol):
    """Wall time and a monotonic clock. Production: `SystemClock`; tests: `testing.ManualClock`."""

    def wall_ns(self) -> int:
        """Return nanoseconds since the Unix epoch. May jump either way."""

    def monotonic_ns(self) -> int:
        """Return nanoseconds from an arbitrary start. Never goes back."""


class SystemClock:
    """The clock of the operating system."""

    def wall_ns(self) -> int:
        """Return the wall time."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """Return the monotonic time, on Linux with the time that the machine slept."""
        return _monotonic_ns()


def to_datetime(nanoseconds: int) -> datetime:
    """Return the aware UTC datetime of `nanoseconds`, rounded down to a microsecond."""
    return _UNIX_EPOCH + timedelta(microseconds=nanoseconds // 1_000)


def from_datetime(moment: datetime) -> int:
    """Return nanoseconds since the Unix epoch.

    Raises:
        InvalidRequestError: `invalid-argument`, `moment` carries no time zone.
    """
    if moment.tzinfo is None:
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT,
            f"the time {moment.isoformat()} has no time zone; use an aware datetime, "
            "for example datetime.now(timezone.utc)",
        )
    delta = moment - _UNIX_EPOCH
    microseconds = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    return microseconds * 1_000


def stamp(nanoseconds: int) -> str:
    """Return the UTC directory stamp `YYYYMMDD_HHMMSS`."""
    return to_datetime(nanoseconds).strftime("%Y%m%d_%H%M%S")


def parse_stamp(text: str) -> int | None:
    """Return nanoseconds since the Unix epoch of a directory stamp, or None if it is none."""
    found = _STAMP.fullmatch(text)
    if found is None:
        return None
    try:
        moment = datetime(*map(int, found.groups()), tzinfo=UTC)  # type: ignore[misc, arg-type]  # six
    except ValueError:
        return None
    return from_datetime(moment)


def parse_local_stamp(text: str, zone: tzinfo | None) -> int | None:
    """Return nanoseconds since the Unix epoch of a stamp in local time, or None if it is none.

    zone: None, that of this machine. Of an hour that a clock showed twice it is the first.
    """
    utc = parse_stamp(text)
    if utc is None:
        return None
    try:
        return from_datetime(to_datetime(utc).replace(tzinfo=zone).astimezone(UTC))
    except (OverflowError, ValueError, OSError):
        return None


def find_zone(name: str) -> tzinfo:
    """Return the time zone of a name like Europe/Paris.

    Raises:
        InvalidRequestError: `invalid-argument`, there is none, or this machine does not know it.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT,
            f"{name!r} is no time zone that this machine knows; expected a name like UTC or "
            "Europe/Paris",
        ) from None


def sleep(seconds: float) -> None:
    """Let the calling thread wait."""
    time.sleep(seconds)
