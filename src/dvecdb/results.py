"""What searches answer, and what they may be asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    import numpy.typing as npt

    from dvecdb.records import Json, Metadata, OnDamage


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result. Smaller `distance` is nearer; `vector`: float32[dimension], if asked."""

    id: str
    distance: float
    metadata: Metadata | None
    vector: npt.NDArray[np.float32] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Explained:
    """How a search was answered. `plan`: exact, index, or index over the rows that match.

    `rows_live` could have been found, of which `rows_matching` match the filter. `rows_measured`
    were measured one by one without the index, `rows_reranked` after it had chosen them, out of
    the `lists_probed` of `lists`. `recall_expected`: what such a search found of the ten nearest
    when the index was tuned, 1.0 for exact ones. `seconds`: by stage, in order.
    """

    plan: str
    why: str
    rows_live: int
    rows_matching: int
    rows_indexed: int
    rows_measured: int
    rows_reranked: int
    lists: int
    lists_probed: int
    recall_expected: float
    seconds: dict[str, float]


class Hits(list[Hit]):
    """Search results, best first. `excluded`: ids left out because their bytes are damaged.

    `explained`: how they were found, if that was asked for.
    """

    def __init__(
        self,
        hits: Iterable[Hit] = (),
        excluded: Sequence[str] = (),
        explained: Explained | None = None,
    ) -> None:
        super().__init__(hits)
        self.excluded = list(excluded)
        self.explained = explained


@dataclass(frozen=True, slots=True)
class Group:
    """The nearest records that share a value of a field. `value`: a JSON scalar."""

    value: Json
    hits: list[Hit]


@dataclass(frozen=True, slots=True)
class FacetCount:
    """How many records have a value in a field."""

    value: Json
    count: int


class SearchOptions(TypedDict, total=False):
    """What any search may ask for, as keyword arguments. See `Snapshot.search`."""

    limit: int
    offset: int
    threshold: float | None
    recall: float | None
    ef_search: int | None
    with_metadata: bool
    with_vectors: bool
    on_damage: OnDamage
    explain: bool
