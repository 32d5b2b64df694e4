"""A file of records as a source: what JSONL, CSV and Parquet have in common.

Rows come in the order of the file. A record that cannot be read, or has no key, is a row with a
problem, named after its line. Before the first row is read, one pass over the file (a survey)
looks for what would make later runs differ: keys that are there twice. The first row keeps the
key; every further one has a problem that names both, and a key of its own, `KEY (duplicate 2)`.
If there are many, the column is no key and the source is refused.

The survey holds 8 bytes a row while it runs, and only duplicates afterwards. It is made again
when the file has changed and reading starts from the front.
"""

from __future__ import annotations

import math
import os
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, Protocol

import numpy as np
import xxhash

from dvecdb.embedding.sources.template import Projection, refused
from dvecdb.embedding.sources.values import UnfitError, keys_of, to_json
from dvecdb.errors import Code, InvalidRequestError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dvecdb.embedding.job import SourceSpec
    from dvecdb.embedding.model import SourceRow
    from dvecdb.records import Json

DUPLICATES_MAX: Final = 1_000
"""More rows with a key that another row has, and the source is refused."""
PAGE_BYTES_MAX: Final = 32 * 1024 * 1024
RECORD_BYTES_MAX: Final = 64 * 1024 * 1024
"""A longer record is not read."""


class Record(NamedTuple):
    """A record of a file. cells: of the columns asked for; None: it cannot be read, see problem."""

    position: Json
    number: int
    cells: Sequence[object] | None
    problem: str | None = None


class FileError(Exception):
    """A file that is not of its format. The message says why."""


class Records(Protocol):
    """A format.

    unit: what `Record.number` counts. unseen: the columns asked for that did not occur, so far,
    in what was read from the front.
    """

    unit: str
    unseen: set[str]

    def fits(self, position: Json) -> bool:
        """Return whether the file there is now has this position. Raises as `read`."""

    def read(self, after: Json) -> Iterator[Record]:
        """Yield the records behind a position; from the front if it does not fit.

        Raises:
            FileError: it is no file of this format, or lacks a column.
            OSError: it cannot be read.
        """


@dataclass(slots=True)
class _Survey:
    """What a pass over the file found. places: of each key that is there more than once."""

    stamp: tuple[int, ...]
    count: int = 0
    good: int = 0
    first_problem: str = ""
    greatest: dict[str, Json] = field(default_factory=dict)  # by "number" and "text"
    places: dict[str, list[int]] = field(default_factory=dict)


class FileSource:
    """A `Source`. path: of the file; records: reads it."""

    def __init__(self, name: str, spec: SourceSpec, path: str, make: type[Any]) -> None:
        """Read the names; nothing is opened yet.

        Raises:
            InvalidRequestError: `invalid-job`.
        """
        self._what = f"source {name}"
        self._path = path
        self._projection = Projection(name, spec)
        needed = self._projection.needed
        self._records: Records = make(path, needed)
        self._key_at = tuple(map(needed.index, self._projection.key))
        self._cells_at = tuple(map(needed.index, self._projection.columns))
        changed = self._projection.changed_since
        self._changed_at = None if changed is None else needed.index(changed)
        self._survey: _Survey | None = None
        self._open: tuple[Iterator[Record], Json, tuple[int, ...]] | None = None

    def check(self) -> None:
        """Refuse what can never work, after a pass over the whole file: see the module.

        Raises:
            InvalidRequestError: `source-refused`.
            UnavailableError: `source-unreachable`.
        """
        self._survey = None
        self._surveyed(again=True)

    def count(self, since: Json = None) -> int | None:
        """Return how many rows there are. Raises: `check`."""
        if since is None or self._changed_at is None:
            return self._surveyed(again=True).count
        return sum(not self._is_old(record, since) for record in self._all(None))

    def mark(self) -> Json:
        """Return the greatest value of the `changed_since` column, number or text, or None.

        Text is compared as text: dates are to be in ISO 8601, all in one zone. Raises: `check`.
        """
        found = list(self._surveyed(again=True).greatest.values())
        return found[0] if found else None

    def read(self, after: Json, limit: int, since: Json = None) -> Sequence[SourceRow]:
        """Return up to `limit` rows, fewer if they are long. Raises: `check`."""
        rows: list[SourceRow] = []
        size = 0
        try:
            survey, records, stamp = self._continue(after)
            for record in records:
                if self._is_old(record, since):
                    continue
                row = self._row(record, survey)
                rows.append(row)
                size += len(row.text or "")
                if len(rows) >= limit or size >= PAGE_BYTES_MAX:
                    break
        except OSError as error:
            self._unreadable(error)
        except FileError as error:
            self._refuse(str(error))
        if rows:
            self._open = (records, rows[-1].position, stamp)
        return rows

    def keys(self) -> Iterator[str]:
        """Yield every key, those of rows with a problem too. Raises: `check`."""
        survey = self._surveyed(again=True)
        for record in self._all(None):
            yield self._row(record, survey).key

    def close(self) -> None:
        """Close the file."""
        if self._open is not None:
            self._open[0].close()  # type: ignore[attr-defined]  # a generator
            self._open = None

    # --- rows ------------------------------------------------------------------------------------

    def _continue(self, after: Json) -> tuple[_Survey, Iterator[Record], tuple[int, ...]]:
        """Return the records behind a position: those that are open already, if it is theirs.

        With the survey to go by, and the state of the file.
        """
        opened, self._open = self._open, None
        stamp = self._stamp()
        if opened is not None:
            records, position, stamp_then = opened
            if after is not None and after == position and stamp == stamp_then:
                return self._surveyed(again=False), records, stamp
            records.close()  # type: ignore[attr-defined]  # a generator
        if after is not None and not self._records.fits(after):
            after = None
        return self._surveyed(again=after is None), self._records.read(after), stamp

    def _all(self, after: Json) -> Iterator[Record]:
        try:
            yield from self._records.read(after)
        except OSError as error:
            self._unreadable(error)
        except FileError as error:
            self._refuse(str(error))

    def _is_old(self, record: Record, since: Json) -> bool:
        """Return whether a record is older. What has no such value, or of another type, is not."""
        at = self._changed_at
        if since is None or at is None or record.cells is None:
            return False
        value = _comparable(record.cells[at])
        return _kind(value) == _kind(since) and _kind(since) is not None and bool(value < since)

    def _row(self, record: Record, survey: _Survey) -> SourceRow:
        cells, number = record.cells, record.number
        if cells is None:
            return self._nameless(record, str(record.problem))
        try:
            key = self._key(cells)
        except UnfitError as error:
            return self._nameless(record, str(error))
        if key in survey.places:
            places = survey.places[key]
            if number in places[1:]:
                return self._duplicate(record, key, places)
        return self._projection.row(key, record.position, [cells[at] for at in self._cells_at])

    def _key(self, cells: Sequence[object]) -> str:
        return keys_of([cells[at] for at in self._key_at])

    def _nameless(self, record: Record, problem: str) -> SourceRow:
        where = f"{self._records.unit} {record.number}"
        return refused(f"({where})", record.position, f"{where}: {problem}")

    def _duplicate(self, record: Record, key: str, places: list[int]) -> SourceRow:
        unit = self._records.unit
        return refused(
            f"{key} (duplicate {places.index(record.number) + 1})",
            record.position,
            f"{unit} {record.number} has the key {key!r:.80} that {unit} {places[0]} has already; "
            "give it one of its own, or remove it",
        )

    # --- the survey ------------------------------------------------------------------------------

    def _surveyed(self, *, again: bool) -> _Survey:
        """Return the survey. again: make a new one if the file has changed."""
        stamp = self._stamp() if again or self._survey is None else ()
        if self._survey is None or (again and stamp != self._survey.stamp):
            self._survey = self._look(stamp)
        return self._survey

    def _look(self, stamp: tuple[int, ...]) -> _Survey:
        survey = _Survey(stamp)
        hashes = array("Q")
        for record in self._all(None):
            survey.count += 1
            cells = record.cells
            if cells is None:
                survey.first_problem = survey.first_problem or (
                    f"{self._records.unit} {record.number}: {record.problem}"
                )
                continue
            survey.good += 1
            if self._changed_at is not None:
                _keep_greatest(survey.greatest, _comparable(cells[self._changed_at]))
            try:
                hashes.append(xxhash.xxh3_64_intdigest(self._key(cells).encode()))
            except UnfitError:
                continue
        self._refuse_unusable(survey)
        twice = _repeated(hashes)
        if twice:
            self._find_places(survey, twice)
        return survey

    def _refuse_unusable(self, survey: _Survey) -> None:
        if survey.count and not survey.good:
            self._refuse(f"nothing in it can be read; {survey.first_problem}")
        if survey.count and self._records.unseen:
            missing = ", ".join(repr(name) for name in sorted(self._records.unseen))
            self._refuse(f"no record of it has {missing}")
        if len(survey.greatest) > 1:
            self._refuse(
                f"{self._projection.changed_since} is here a number and there text, which cannot "
                "be compared"
            )

    def _find_places(self, survey: _Survey, twice: set[int]) -> None:
        """Note the places of the keys with these hashes, of those that are there twice."""
        found: dict[str, list[int]] = {}
        extra = 0
        for record in self._all(None):
            if record.cells is None:
                continue
            try:
                key = self._key(record.cells)
            except UnfitError:
                continue
            if xxhash.xxh3_64_intdigest(key.encode()) not in twice:
                continue
            places = found.setdefault(key, [])
            places.append(record.number)
            extra += len(places) > 1
            if extra > DUPLICATES_MAX:
                unit = self._records.unit
                self._refuse(
                    f"the key {', '.join(self._projection.key)} is not one: more than "
                    f"{DUPLICATES_MAX} rows have one that another row has, like {key!r:.80} in "
                    f"{unit} {places[0]} and {unit} {places[1] if places[1:] else '?'}"
                )
        survey.places = {key: places for key, places in found.items() if len(places) > 1}

    def _stamp(self) -> tuple[int, ...]:
        try:
            found = os.stat(self._path)  # noqa: PTH116  # a path is text here
        except OSError as error:
            self._unreadable(error)
        return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)

    def _unreadable(self, error: OSError) -> NoReturn:
        said = error.strerror or str(error)
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError
                      | NotADirectoryError):  # fmt: skip
            self._refuse(f"it cannot be opened: {said}")
        raise UnavailableError(
            Code.SOURCE_UNREACHABLE, f"{self._what}: {self._path} cannot be read: {said}"
        ) from None

    def _refuse(self, message: str) -> NoReturn:
        raise InvalidRequestError(
            Code.SOURCE_REFUSED, f"{self._what}: {self._path}: {message}"
        ) from None


def _repeated(hashes: array[int]) -> set[int]:
    """Return the values that are there more than once."""
    ordered = np.sort(np.frombuffer(hashes, np.uint64)) if hashes else np.empty(0, np.uint64)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    return set(np.unique(again).tolist())


def _comparable(value: object) -> Json:
    try:
        return to_json(value)
    except UnfitError:
        return None


def _kind(value: Json) -> str | None:
    if isinstance(value, str):
        return "text"
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return "number"
    return None


def _keep_greatest(greatest: dict[str, Json], value: Json) -> None:
    kind = _kind(value)
    if kind is not None and (kind not in greatest or value > greatest[kind]):
        greatest[kind] = value
