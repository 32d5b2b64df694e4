"""What to do about an error, in the words of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dvecdb.errors import Code

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dvecdb.errors import DvecdbError

NEXT_STEPS: Final[Mapping[Code, str]] = {
    Code.COLLECTION_PROTECTED: "'dvecdb protect COLLECTION --lift' allows it again",
    Code.CONFIRMATION_NEEDED: "--confirm does it all the same",
    Code.PATH_NOT_ALLOWED: "'dvecdb trash list' and 'dvecdb backup list' show what can be named",
    Code.TRASH_ENTRY_NOT_FOUND: "'dvecdb trash list' shows what is there",
    Code.BACKUP_NOT_FOUND: "'dvecdb backup list' shows what is there",
    Code.BACKUP_DAMAGED: "--allow-damage brings back what is whole",
    Code.CLOCK_JUMPED: "'dvecdb trash trust-clock' tells a server that it is right now; what is "
    "named, or all with --older-than 0, is purged whatever the clock says",
    Code.SOURCE_UNCLEAR: "--collection C names one; 'dvecdb rescue scan SOURCE' lists them",
    Code.SOURCE_CONTRADICTS: "Leave --dimension and --metric out to take what the bytes say",
    Code.NOTHING_RECOVERABLE: "'dvecdb rescue scan' looks for more in a whole directory tree",
    Code.AS_OF_UNREADABLE: "'dvecdb history COLLECTION' shows the commits",
}
"""By error code. Other codes say it themselves."""


def with_next_step(error: DvecdbError) -> str:
    """Return the message of an error, and the command or option that leads on."""
    step = NEXT_STEPS.get(error.code)
    if step is None or "--max-share" in error.message:  # which says it itself
        return error.message
    return f"{error.message.rstrip('.')}. {step}"
