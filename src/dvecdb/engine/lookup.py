"""From ids to rows: sorted runs of (hash, row), one file each, derived and mapped.

Runs cover neighbouring row ranges. A new run is merged with its neighbour while that one is less
than twice as large, so there are about log2(rows) runs and each row is rewritten as often.
A run that is missing or damaged is rebuilt from the segments' ids.
"""

from __future__ import annotations

import contextlib
import itertools
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dvecdb.engine.segment import UnreadableError
from dvecdb.engine.storage import write_file
from dvecdb.formats import names
from dvecdb.formats.framing import FormatError
from dvecdb.formats.lookup_file import LookupTable, decode_lookup, encode_lookup, hash_ids
from dvecdb.records import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    import numpy.typing as npt

    from dvecdb.engine.segment import Segment
    from dvecdb.media.files import Dir, Files


@dataclass(frozen=True, slots=True)
class Run:
    """A sorted run. `name` is its file, None while it is only in memory."""

    table: LookupTable
    name: str | None

    @property
    def count(self) -> int:
        """Rows in the run."""
        return len(self.table.hashes)

    def find(
        self, hashes: npt.NDArray[np.uint64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return (index into `hashes`, row) of every row with one of the hashes."""
        table = self.table.hashes
        if len(hashes) == 1 and not self._holds(int(hashes[0])):
            return _NONE, _NONE
        left = np.searchsorted(table, hashes, side="left")
        present = (
            np.flatnonzero(table[np.minimum(left, len(table) - 1)] == hashes)
            if len(table)
            else left[:0]
        )
        if not len(present):
            return _NONE, _NONE
        right = np.searchsorted(table, hashes[present], side="right")
        counts = right - left[present]
        if int(counts.max()) == 1:
            return present, self.table.rows[left[present]].astype(np.int64)
        indexes = np.repeat(present, counts)
        positions = np.concatenate(
            [np.arange(a, b) for a, b in zip(left[present].tolist(), right.tolist(), strict=True)]
        )
        return indexes, self.table.rows[positions].astype(np.int64)

    def _holds(self, wanted: int) -> bool:
        """Tell whether a hash is in here: for a single one faster than numpy."""
        table = self.table.hashes.data
        position = bisect_left(table, wanted)
        return position < len(table) and table[position] == wanted


_NONE = np.zeros(0, dtype=np.int64)


def segment_run(
    collection: UUID, lineage: UUID, segment: Segment, first_row: int, row_end: int
) -> Run:
    """Return the run of a segment's rows `first_row` .. `row_end` - 1.

    Raises:
        UnreadableError: some ids are damaged.
    """
    start, end = segment.count_below(first_row), segment.count_below(row_end)
    whole = end - start == segment.rows
    ordinals = np.arange(start, end)
    hashes = hash_ids(segment.all_ids() if whole else segment.ids(ordinals))
    order = np.argsort(hashes, kind="stable")
    rows = segment.rows_at(ordinals)[order].astype(np.uint64)
    return Run(LookupTable(collection, lineage, first_row, row_end, hashes[order], rows), None)


def without_rows(runs: Sequence[Run], dropped: npt.NDArray[np.int64]) -> tuple[Run, ...]:
    """Return `runs` without the `dropped` rows, which rise."""
    return tuple(left for run in runs if (left := _without(run, dropped)).count)


def _without(run: Run, dropped: npt.NDArray[np.int64]) -> Run:
    """Return the run without these rows: in memory only, if any of them was in it."""
    table = run.table
    first, end = np.searchsorted(dropped, [table.first_row, table.row_end]).tolist()
    if first == end:
        return run
    own = dropped[first:end].astype(np.uint64)
    found = np.minimum(np.searchsorted(own, table.rows), len(own) - 1)
    kept = own[found] != table.rows
    left = LookupTable(
        table.collection_uuid,
        table.lineage,
        table.first_row,
        table.row_end,
        table.hashes[kept],
        table.rows[kept],
    )
    return Run(left, None)


def make_run(
    collection: UUID, lineage: UUID, first_row: int, hashes: npt.NDArray[np.uint64]
) -> Run:
    """Return the run of consecutive rows from `first_row` with `hashes` in row order."""
    order = np.argsort(hashes, kind="stable")
    rows = (order + first_row).astype(np.uint64)
    table = LookupTable(
        collection, lineage, first_row, first_row + len(hashes), hashes[order], rows
    )
    return Run(table, None)


def merge_runs(runs: Sequence[Run]) -> Run:
    """Return neighbouring runs as one."""
    hashes = np.concatenate([run.table.hashes for run in runs])
    rows = np.concatenate([run.table.rows for run in runs])
    order = np.argsort(hashes, kind="stable")
    first, last = runs[0].table, runs[-1].table
    table = LookupTable(
        first.collection_uuid,
        first.lineage,
        first.first_row,
        last.row_end,
        hashes[order],
        rows[order],
    )
    return Run(table, None)


def insert_run(runs: Sequence[Run], run: Run) -> tuple[Run, ...]:
    """Return `runs` with `run` at its place."""
    if not run.count:
        return tuple(runs)
    return tuple(sorted((*runs, run), key=lambda item: item.table.first_row))


def pick_merge(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Return two neighbours of which the first is less than twice as large, or nothing."""
    for first, second in reversed(list(itertools.pairwise(runs))):
        adjacent = first.table.row_end == second.table.first_row
        if adjacent and first.count < 2 * second.count:
            return (first, second)
    return ()


def replace_runs(runs: Sequence[Run], old: Sequence[Run], new: Run) -> tuple[Run, ...]:
    """Return `runs` with `old`, which are all in there, replaced by `new`."""
    return insert_run([run for run in runs if all(run is not item for item in old)], new)


def save_run(files: Files, derived: Dir, run: Run, salt: str) -> Run:
    """Return `run` written and mapped; or as it is, if it cannot be written: it is derived."""
    name = names.lookup_name(run.table.first_row, run.table.row_end, salt)
    try:
        write_file(files, derived, name, encode_lookup(run.table))
        return _load(files, derived, name)
    except (OSError, FormatError):
        return run


def _load(files: Files, derived: Dir, name: str) -> Run:
    file = files.open(derived, name)
    try:
        return Run(decode_lookup(files.map(file, files.size(file))), name)
    finally:
        files.close(file)


def load_runs(
    files: Files,
    derived: Dir,
    segments: Sequence[Segment],
    identity: tuple[UUID, UUID],
    report: Callable[[Finding], None],
    collection: str,
) -> tuple[Run, ...]:
    """Return runs that cover the rows of `segments`, from files where they are good.

    `identity`: collection uuid and lineage. Segments whose ids cannot be read are left out; their
    rows' ids cannot be answered, and `rows.View` says so.
    """
    loaded: list[Run] = []
    for name in files.list_names(derived):
        if names.parse_lookup_name(name) is None:
            continue
        try:
            run = _load(files, derived, name)
        except FileNotFoundError:
            continue  # a writer beside us merged it meanwhile
        except (OSError, FormatError) as error:
            where = f"derived/{name}"
            report(Finding("derived-damaged", collection, where, f"{where}: {error}; rebuilt"))
            continue
        if (run.table.collection_uuid, run.table.lineage) == identity:
            loaded.append(run)
    return _cover(loaded, [segment for segment in segments if segment.rows], identity)


def _cover(
    loaded: Sequence[Run], segments: Sequence[Segment], identity: tuple[UUID, UUID]
) -> tuple[Run, ...]:
    """Return runs for all rows of `segments`: loaded ones as far as they go, others made.

    A run need not end where a segment does: segments are merged without it.
    """
    usable = [run for run in loaded if run.count == _held(segments, run.table)]
    runs: list[Run] = []
    row = 0
    for segment in segments:
        row = max(row, segment.first_row)
        while row < segment.row_end:
            starting = [run for run in usable if run.table.first_row == row]
            if starting:
                runs.append(max(starting, key=lambda run: run.table.row_end))
                row = runs[-1].table.row_end
                continue
            later = [run.table.first_row for run in usable if run.table.first_row > row]
            end = min([segment.row_end, *later])
            with contextlib.suppress(UnreadableError):
                runs.append(segment_run(*identity, segment, row, end))
            row = end
    return tuple(run for run in runs if run.count)


def _held(segments: Sequence[Segment], table: LookupTable) -> int:
    """Return how many rows of a table's range are held."""
    return sum(
        segment.count_below(table.row_end) - segment.count_below(table.first_row)
        for segment in segments
        if segment.first_row < table.row_end and table.first_row < segment.row_end
    )
