"""What any search may be asked for, checked by the engine and by clients with the same words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dvecdb.errors import Code, InvalidRequestError
from dvecdb.records import LIMIT_MAX, check_whole
from dvecdb.search.effort import EF_MAX


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a search asks for, checked. See `Snapshot.search`."""

    limit: int = 10
    offset: int = 0
    threshold: float | None = None
    recall: float | None = None
    ef_search: int | None = None
    with_metadata: bool = True
    with_vectors: bool = False
    on_damage: str = "fail"
    explain: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            InvalidRequestError: `invalid-argument`.
        """
        check_whole("limit", self.limit, 1, LIMIT_MAX)
        check_whole("offset", self.offset, 0, LIMIT_MAX)
        if self.ef_search is not None:
            check_whole("ef_search", self.ef_search, 1, EF_MAX)
            if self.recall is not None:
                raise _refused("pass recall or ef_search, not both: both set the effort")
        _check_number("recall", self.recall, 0.0, 1.0)
        _check_number("threshold", self.threshold, -np.inf, np.inf)
        if self.on_damage not in {"fail", "exclude"}:
            raise _refused(f"on_damage: expected fail or exclude, found {self.on_damage!r}")


def _check_number(what: str, value: object, first: float, last: float) -> None:
    if value is None:
        return
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    try:
        is_within = is_number and first <= float(value) <= last  # type: ignore[arg-type]
    except OverflowError:
        is_within = False
    if not is_within:
        within = f" from {first:g} to {last:g}" if np.isfinite(first) else ""
        raise _refused(f"{what}: expected a number{within}, found {value!r:.80}")


def _refused(message: str) -> InvalidRequestError:
    return InvalidRequestError(Code.INVALID_ARGUMENT, message)
