"""Looks whether a job is as it should be: what it would cost, what is missing, what is too much.

Nothing here embeds or writes.
"""

from __future__ import annotations

import uuid
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dvecdb.embedding.identity import Identity, made_of, row_id
from dvecdb.embedding.pending import Outcome, prepare
from dvecdb.embedding.progress import DEAD_LETTERS
from dvecdb.embedding.report import Checked, Estimate
from dvecdb.embedding.stored import Stored
from dvecdb.embedding.texts import TextIndex
from dvecdb.errors import DamagedDataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

    from dvecdb.embedding.job import Job
    from dvecdb.embedding.model import Source
    from dvecdb.embedding.pending import Pending
    from dvecdb.embedding.target import Target

LISTED_MAX: Final = 1_000
_CHARACTERS_PER_TOKEN: Final = 4  # English prose; what the services publish as a rule of thumb
_KEYS_AT_ONCE: Final = 10_000


def pages(name: str, source: Source, job: Job, identity: Identity) -> Iterator[list[Pending]]:
    """Yield every row of a source, prepared, page by page."""
    position: Any = None
    while rows := source.read(position, job.flow.page):
        position = rows[-1].position
        yield [prepare(name, row, job.text, identity) for row in rows]


def estimate(
    name: str, source: Source, job: Job, identity: Identity | None, target: Target
) -> Estimate:
    """Return what a run would do with every row of a source. Nothing is sent or written.

    identity: the embedder that the collection is pinned to; None, if there is none yet.
    """
    known = identity or Identity("", np.zeros(1, np.float32))
    stored = Stored(target, known, lambda _event: None) if identity is not None else None
    counts = dict.fromkeys(Outcome, 0)
    seen = TextIndex()
    rows = texts = characters = 0
    for page in pages(name, source, job, known):
        rows += len(page)
        if stored is not None:
            stored.settle([row for row in page if row.outcome is None])
            stored.copy([row for row in page if row.outcome is None])
        lacking = [row for row in page if row.outcome is None]
        before = set(seen.find([row.content_hash for row in lacking]))
        for row in lacking:
            if row.content_hash in before:
                row.outcome = Outcome.COPIED
                continue
            before.add(row.content_hash)
            seen.add(row.content_hash, row.id)
            texts += len(row.parts)
            characters += sum(map(len, row.parts))
        for row in page:
            if row.outcome is not None:
                counts[row.outcome] += 1
    if stored is not None:
        stored.close()
    tokens = -(-characters // _CHARACTERS_PER_TOKEN)
    return Estimate(
        rows=rows,
        unchanged=counts[Outcome.UNCHANGED],
        relabelled=counts[Outcome.RELABELLED],
        copied=counts[Outcome.COPIED],
        failed=counts[Outcome.FAILED],
        skipped=counts[Outcome.SKIPPED],
        texts=texts,
        tokens=tokens,
        money=job.embedder.money(tokens),
    )


class Ids:
    """Ids of records, 16 bytes each, and which of them were seen."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._sorted = np.sort(_packed(ids))
        self._seen = np.zeros(len(self._sorted), bool)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._sorted)

    def see(self, ids: Iterable[str]) -> None:
        """Note ids, known or not."""
        wanted = _packed(ids)
        at = np.searchsorted(self._sorted, wanted)
        inside = at < len(self._sorted)
        at, wanted = at[inside], wanted[inside]
        self._seen[at[self._sorted[at] == wanted]] = True

    def unseen(self) -> list[str]:
        """Return the ids that were not seen."""
        left = self._sorted[~self._seen].tobytes()
        return [str(uuid.UUID(bytes=left[at : at + 16])) for at in range(0, len(left), 16)]


def _packed(ids: Iterable[str]) -> npt.NDArray[np.bytes_]:
    return np.frombuffer(b"".join(uuid.UUID(id).bytes for id in ids), "S16")


def check(name: str, source: Source, job: Job, identity: Identity, target: Target) -> Checked:
    """Compare every row of a source with its record, and read the record's vector.

    missing: rows without a record; stale: their text or metadata is another by now, or they have a
    record and no text any more; damaged: the vector cannot be read; orphaned: records whose row is
    not there any more; failed: rows that are dead letters or would be.
    """
    letters = target.reach(lambda: target.collection.documents.list(DEAD_LETTERS))
    own = ids_of(name, target)
    found: dict[str, list[str]] = {
        what: [] for what in ("missing", "stale", "damaged", "failed", "orphaned")
    }
    counts = dict.fromkeys(found, 0)
    rows = good = 0

    def note(what: str, key: str) -> None:
        counts[what] += 1
        if len(found[what]) < LISTED_MAX:
            found[what].append(key)

    for page in pages(name, source, job, identity):
        rows += len(page)
        own.see([row.id for row in page])
        for row, state in zip(page, _states(page, target), strict=True):
            if row.outcome is Outcome.SKIPPED and state == "missing":
                good += 1
            elif row.outcome is Outcome.FAILED or (state == "missing" and row.id in letters):
                note("failed", row.row.key)
            elif state:
                note(state, row.row.key)
            else:
                good += 1
    orphaned = own.unseen()
    counts["orphaned"] = len(orphaned)
    found["orphaned"] = orphaned[:LISTED_MAX]
    ok = good == rows and not orphaned
    return Checked(rows=rows, good=good, counts=counts, listed=found, ok=ok)


def ids_of(name: str, target: Target) -> Ids:
    """Return the ids of the records of a source."""
    return target.reach(lambda: _ids_of(name, target))


def _ids_of(name: str, target: Target) -> Ids:
    snapshot = target.collection.snapshot()
    return Ids(
        record.id
        for record in snapshot.scan()
        if (made := made_of(record.metadata)) is not None
        and made.source == name
        and record.id == row_id(name, made.key)  # and no copy that somebody made of one
    )


def _states(page: list[Pending], target: Target) -> list[str]:
    """Return what is wrong with the record of each row; an empty text, if nothing is."""
    ids = [row.id for row in page]
    try:
        records = target.reach(lambda: target.collection.get(ids))
    except DamagedDataError:
        return [_state(row, target) for row in page]
    return [_wrong(row, record) for row, record in zip(page, records, strict=True)]


def _state(row: Pending, target: Target) -> str:
    try:
        return _wrong(row, target.reach(lambda: target.collection.get([row.id]))[0])
    except DamagedDataError:
        return "damaged"


def _wrong(row: Pending, record: Any) -> str:
    if record is None:
        return "missing"
    made = made_of(record.metadata)
    fresh = made is not None and made.content_hash == row.content_hash
    return "" if fresh and record.metadata == row.metadata else "stale"


def orphans(name: str, source: Source, own: Ids) -> list[str]:
    """Return the ids of the records of a source whose row is not there any more."""
    for keys in batched(source.keys(), _KEYS_AT_ONCE):
        own.see(row_id(name, key) for key in keys)
    return own.unseen()


def batched(items: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yield the items, `size` at a time."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
