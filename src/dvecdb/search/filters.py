"""Which records a search is about: named top-level fields of the metadata have given values.

    {"lang": "de", "year": 2024}    both fields are there and have these values

Values are equal as JSON values: 1 equals 1.0, true does not equal 1, lists and objects are equal
as a whole. A field that is null equals null; a field that is missing equals nothing. An empty
filter matches every record, also one without metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from dvecdb.records import Json, Metadata


class Filter:
    """An equality filter."""

    __slots__ = ("_fields",)

    def __init__(self, where: Mapping[str, Json]) -> None:
        self._fields = list(where.items())

    def matches(self, metadata: Metadata | None) -> bool:
        """Return whether a record with this metadata is meant."""
        if metadata is None:
            return not self._fields
        return all(
            name in metadata and same_json(metadata[name], value) for name, value in self._fields
        )


def parse_filter(where: object) -> Filter | None:
    """Return the filter of an equality map, None for all records.

    Raises:
        InvalidRequestError: `invalid-argument`, not a map with text keys.
    """
    if where is None:
        return None
    if not isinstance(where, Mapping) or not all(isinstance(name, str) for name in where):
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT,
            f"where: expected a map of metadata fields to the values they must have, "
            f"found {where!r:.80}",
        )
    return Filter(where) if where else None


def same_json(first: Json, second: Json) -> bool:
    """Return whether two JSON values are equal: 1 is 1.0, true is not 1."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, list):
        return (
            isinstance(second, list)
            and len(first) == len(second)
            and all(map(same_json, first, second))
        )
    if isinstance(first, dict):
        return (
            isinstance(second, dict)
            and first.keys() == second.keys()
            and all(same_json(value, second[name]) for name, value in first.items())
        )
    return bool(first == second)
