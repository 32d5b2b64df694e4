"""Where a text already has its vector: content hash -> the record that holds it.

Sorted arrays of 25 bytes a text, and a small dictionary of the newest, merged now and then; no
vector and no text is kept. The arrays hold half of each hash: a hit is a candidate, and the record
itself says whether it is the one.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt

_RECENT_MAX: Final = 65_536
_ENTRY: Final = np.dtype([("hash", "<u8"), ("id", "V16"), ("place", "u1")])


class TextIndex:
    """Finds records by content hash. place: a small number that says where the record is."""

    def __init__(self) -> None:
        self._sorted: npt.NDArray[np.void] = np.empty(0, _ENTRY)
        self._recent: dict[int, tuple[bytes, int]] = {}

    def __len__(self) -> int:
        """Return how many entries there are."""
        return len(self._sorted) + len(self._recent)

    def add(self, content_hash: str, record_id: str, place: int = 0) -> None:
        """Remember a record, in place of one that is known by this hash."""
        try:
            packed = uuid.UUID(record_id).bytes
        except ValueError:
            return  # not an id that a job makes
        self._recent[_short(content_hash)] = (packed, place)
        if len(self._recent) >= _RECENT_MAX:
            self._merge()

    def find(self, hashes: Iterable[str]) -> Mapping[str, tuple[str, int]]:
        """Return the candidate (id, place) of each hash that has one."""
        wanted = list(hashes)
        found: dict[str, tuple[str, int]] = {}
        shorts = [_short(one) for one in wanted]
        places = np.searchsorted(self._sorted["hash"], np.array(shorts, "<u8"))
        for one, short, at in zip(wanted, shorts, places.tolist(), strict=True):
            packed: bytes
            if short in self._recent:
                packed, place = self._recent[short]
            elif at < len(self._sorted) and int(self._sorted["hash"][at]) == short:
                packed, place = self._sorted["id"][at].tobytes(), int(self._sorted["place"][at])
            else:
                continue
            found[one] = (str(uuid.UUID(bytes=packed)), place)
        return found

    def _merge(self) -> None:
        new = np.empty(len(self._recent), _ENTRY)
        new["hash"] = np.fromiter(self._recent.keys(), "<u8", len(new))
        packed = b"".join(one for one, _ in self._recent.values())
        new["id"] = np.frombuffer(packed, "V16")
        new["place"] = np.fromiter((place for _, place in self._recent.values()), "u1", len(new))
        new = new[np.argsort(new["hash"], kind="stable")]
        at = np.searchsorted(self._sorted["hash"], new["hash"])
        known = at < len(self._sorted)
        known[known] = self._sorted["hash"][at[known]] == new["hash"][known]
        self._sorted[at[known]] = new[known]
        self._sorted = np.insert(self._sorted, at[~known], new[~known])
        self._recent = {}


def _short(content_hash: str) -> int:
    return int(content_hash[:16], 16)
