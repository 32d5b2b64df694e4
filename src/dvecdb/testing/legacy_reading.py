"""Read a source as an import does, and keep what came of it, or of nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dvecdb.errors import Code, NotFoundError
from dvecdb.reports import ImportReport
from dvecdb.rescue.salvage import Choice
from dvecdb.rescue.sources import read_source
from dvecdb.testing.legacy_judge import nothing, taken

if TYPE_CHECKING:
    from pathlib import Path

    from dvecdb.testing.legacy_judge import Found


def read(source: Path, rowless_dimension: int, /, **choice: Any) -> Found:
    """Read a source; one without a recoverable row gives its report and no rows.

    choice: fields of `Choice`; rowless_dimension: of the answer without rows. Raises as
    `read_source`, but for `nothing-recoverable`.
    """
    try:
        return taken(read_source(str(source), Choice(**choice)))
    except NotFoundError as error:
        if error.code is not Code.NOTHING_RECOVERABLE:
            raise
        return nothing(msgspec.convert(error.details["report"], ImportReport), rowless_dimension)
