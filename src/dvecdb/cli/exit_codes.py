"""What the command's exit codes mean. Documented to users: append only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dvecdb import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

OK: Final = 0
DAMAGE: Final = 1
"""Damage was found, or a check failed."""
USAGE: Final = 2
"""Wrong arguments, or a file or data directory that cannot be used like this."""
NOT_FOUND: Final = 3
"""The collection or a record asked for does not exist, or there is nothing to bring back."""
CONFLICT: Final = 4
"""The stored state contradicts it: it exists already, or a condition failed."""
UNAVAILABLE: Final = 5
"""Try again later: the server cannot be reached or is busy, or the disk is full."""
FORBIDDEN: Final = 6
"""The API key is missing or unknown, or does not allow this."""
OUTCOME_UNKNOWN: Final = 7
"""The write may be there or not; or the handle lost its right to the data directory."""
SERVER_FAILED: Final = 8
"""The server failed in a way that nobody foresaw."""
UNFINISHED: Final = 9
"""It stopped where it was told to, its budget used up; the same command goes on there."""
INTERRUPTED: Final = 130

BY_ERROR: Final[Mapping[type[errors.DvecdbError], int]] = {
    errors.InvalidRequestError: USAGE,
    errors.NotFoundError: NOT_FOUND,
    errors.ConflictError: CONFLICT,
    errors.DirectoryError: USAGE,
    errors.DiskFullError: UNAVAILABLE,
    errors.OutcomeUnknownError: OUTCOME_UNKNOWN,
    errors.HandleError: OUTCOME_UNKNOWN,
    errors.DamagedDataError: DAMAGE,
    errors.AuthError: FORBIDDEN,
    errors.UnavailableError: UNAVAILABLE,
    errors.ServerError: SERVER_FAILED,
}
"""One exit code for each class of error: for each reaction of the caller."""
