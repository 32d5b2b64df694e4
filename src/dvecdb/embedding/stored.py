"""What the database already has: which rows are as they should be, and which texts have a vector.

Vectors of known texts are copied from the record that holds them: in the collection, or in a trash
entry that is pinned to the same embedder. The hashes are read once per run, when the first text
would have to be paid for; a record that the run itself has replaced since is read as it was then.

What cannot be read, because it is damaged or was purged meanwhile, is not there: it is embedded.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from dvecdb.embedding.events import Noted
from dvecdb.embedding.identity import Identity, made_of, refuse_other
from dvecdb.embedding.pending import Outcome
from dvecdb.embedding.progress import EMBEDDER
from dvecdb.embedding.texts import TextIndex
from dvecdb.embedding.waiting import is_away
from dvecdb.errors import DamagedDataError, DvecdbError
from dvecdb.records import VectorType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    import numpy.typing as npt

    from dvecdb.embedding.events import Watch
    from dvecdb.embedding.pending import Pending
    from dvecdb.embedding.target import Target

_PLACES_MAX: Final = 250


class Stored:
    """The records of a collection and its trash, asked by id and by content hash."""

    def __init__(self, target: Target, identity: Identity, watch: Watch) -> None:
        self._target = target
        self._identity = identity
        self._watch = watch
        self._index: TextIndex | None = None
        self._lsn: int | None = None
        self._places: list[Any] = [target.collection]
        self.reads_vectors = False  # of every record, to find those that are damaged

    def settle(self, rows: Sequence[Pending]) -> None:
        """Settle the rows whose record is as it should be, or only has other metadata."""
        if not rows:
            return
        ids = [row.id for row in rows]
        records = self._get(0, ids, with_vectors=self.reads_vectors)
        relabelled: list[Pending] = []
        for row, record in zip(rows, records, strict=True):
            made = None if record is None else made_of(record.metadata)
            if made is None or made.content_hash != row.content_hash:
                continue
            if record.metadata == row.metadata:
                row.outcome = Outcome.UNCHANGED
            else:
                relabelled.append(row)
        self._take(0, [(row, row.id) for row in relabelled], Outcome.RELABELLED)

    def copy(self, rows: Sequence[Pending]) -> None:
        """Settle the rows whose text has its vector somewhere."""
        if not rows:
            return  # nothing to pay for: the hashes are not read
        index = self._hashes()
        found = index.find([row.content_hash for row in rows])
        by_place: dict[int, list[tuple[Pending, str]]] = {}
        for row in rows:
            if row.content_hash in found:
                record_id, place = found[row.content_hash]
                by_place.setdefault(place, []).append((row, record_id))
        for place, wanted in by_place.items():
            self._take(place, wanted, Outcome.COPIED)

    def remember(self, rows: Iterable[Pending]) -> None:
        """Note rows that were committed with a vector."""
        if self._index is not None:
            for row in rows:
                self._index.add(row.content_hash, row.id)

    def close(self) -> None:
        """Give back the trash entries."""
        places, self._places = self._places[1:], self._places[:1]
        for place in places:
            with contextlib.suppress(DvecdbError):
                place.close()

    def _get(
        self, place: int, ids: Sequence[str], *, with_vectors: bool, as_of: int | None = None
    ) -> list[Any]:
        """Return the records of ids, None for those that cannot be read."""
        reader = self._places[place]

        def get(some: Sequence[str]) -> list[Any]:
            return list(reader.get(some, with_vectors=with_vectors, as_of=as_of))

        def get_what_can_be_read() -> list[Any]:
            try:
                return get(ids)
            except DamagedDataError:
                return [_one(get, id) for id in ids]

        try:
            return self._target.reach(get_what_can_be_read)
        except DvecdbError as error:
            if is_away(error) or (place == 0 and as_of is None):
                raise
            return [None] * len(ids)  # an entry that was purged, a state that is no longer kept

    def _take(self, place: int, wanted: Sequence[tuple[Pending, str]], outcome: Outcome) -> None:
        """Give rows the vectors of records, if those still are what the index said."""
        left = _give(wanted, self._records_of(place, wanted), outcome)
        if left and place == 0 and self._lsn is not None:
            _give(left, self._records_of(place, left, self._lsn), outcome)

    def _records_of(
        self, place: int, wanted: Sequence[tuple[Pending, str]], as_of: int | None = None
    ) -> list[Any]:
        ids = list(dict.fromkeys(record_id for _, record_id in wanted))
        if not ids:
            return []
        found = dict(zip(ids, self._get(place, ids, with_vectors=True, as_of=as_of), strict=True))
        return [found[record_id] for _, record_id in wanted]

    def _hashes(self) -> TextIndex:
        if self._index is None:
            self._index = self._target.reach(self._read_all)
        return self._index

    def _read_all(self) -> TextIndex:
        self.close()
        index = TextIndex()
        for entry in self._trash():
            if len(self._places) > _PLACES_MAX:
                break
            preview = self._open(entry)
            if preview is not None:
                self._places.append(preview)
                self._read(preview, index, len(self._places) - 1, entry.name)
        snapshot = self._target.collection.snapshot()
        self._lsn = snapshot.lsn
        self._read(snapshot, index, 0, self._target.name)  # last: it is found before the trash
        return index

    def _trash(self) -> Iterable[Any]:
        try:
            return self._target.database.trash()
        except DvecdbError as error:
            if is_away(error):
                raise
            self._watch(Noted(f"the trash is not searched for known texts: {error.message}"))
            return ()

    def _open(self, entry: Any) -> Any:
        """Return a trash entry to read, None unless its vectors are those of this embedder."""
        try:
            preview = self._target.database.preview(entry.name)
        except DvecdbError as error:
            if is_away(error):
                raise
            return None  # damaged, or gone meanwhile
        fits = False
        try:
            fits = self._fits(preview)
        finally:
            if not fits:
                preview.close()
        return preview if fits else None

    def _fits(self, preview: Any) -> bool:
        """Return whether its vectors are exactly what this embedder would answer."""
        own = self._target.collection.schema.vector_type
        try:
            if preview.schema.vector_type not in {VectorType.FLOAT32, own}:
                return False
            pinned = preview.documents.get(*EMBEDDER)
            if pinned is None:
                return False
            refuse_other(Identity.from_json(pinned), self._identity, "")
        except DvecdbError as error:
            if is_away(error):
                raise
            return False
        return True

    def _read(self, reader: Any, index: TextIndex, place: int, name: str) -> None:
        """Add the records of a place to the index, as far as they can be read."""
        try:
            for record in reader.scan():
                made = made_of(record.metadata)
                if made is not None:
                    index.add(made.content_hash, record.id, place)
        except DvecdbError as error:
            if is_away(error) or (place == 0 and not isinstance(error, DamagedDataError)):
                raise
            self._watch(Noted(f"{name} is searched for known texts in part: {error.message}"))


def _one(get: Callable[[Sequence[str]], list[Any]], id: str) -> Any:
    try:
        return get([id])[0]
    except DamagedDataError:
        return None


def _give(
    wanted: Sequence[tuple[Pending, str]], records: Sequence[Any], outcome: Outcome
) -> list[tuple[Pending, str]]:
    """Give rows the vectors of records made of the same text; return those that got none."""
    left: list[tuple[Pending, str]] = []
    for (row, record_id), record in zip(wanted, records, strict=True):
        made = None if record is None else made_of(record.metadata)
        if made is not None and made.content_hash == row.content_hash:
            vector: npt.NDArray[np.float32] = record.vector
            row.vector, row.outcome = vector, outcome
        else:
            left.append((row, record_id))
    return left
