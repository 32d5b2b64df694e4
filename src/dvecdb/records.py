"""The values users see and the engine passes around. No I/O, no formats.

Terms: an **LSN** is the gap-free number of a committed batch; a **row** is the position of a
record in its collection's log of rows, for ever; an **epoch** is raised by every writer that
takes a data directory.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, NewType, TypedDict

import numpy as np

from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

Lsn = NewType("Lsn", int)
Row = NewType("Row", int)
Epoch = NewType("Epoch", int)

Json = Any  # a JSON value: dict, list, str, int, float, bool or None
Metadata = dict[str, Json]
AsOf = int | datetime  # an LSN, or an aware time
UpdateMode = Literal["merge", "replace"]
IndexState = Literal["none", "building", "ready"]
OnDamage = Literal["fail", "exclude"]

ID_LENGTH_MAX = 256
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
RESERVED_NAMES = frozenset({"deleted", "restore", "import", "cleanup"})
DIMENSION_MAX = 65_536
LIMIT_MAX = 10_000


class Metric(StrEnum):
    """How two vectors are compared. Smaller is nearer for all of them."""

    COSINE = "cosine"  # 1 - cos(a, b), clamped to 0 .. 2
    EUCLIDEAN = "euclidean"  # with the root
    MANHATTAN = "manhattan"
    DOT_PRODUCT = "dot_product"  # minus the dot product


class VectorType(StrEnum):
    """How a vector is stored."""

    FLOAT32 = "float32"  # exact
    FLOAT16 = "float16"  # rounded to nearest; out of range is refused
    INT8 = "int8"  # whole numbers -128 .. 127; others are refused

    @property
    def dtype(self) -> np.dtype[Any]:
        """The little-endian numpy type of one component."""
        return _DTYPES[self]


_DTYPES: dict[VectorType, np.dtype[Any]] = {
    VectorType.FLOAT32: np.dtype("<f4"),
    VectorType.FLOAT16: np.dtype("<f2"),
    VectorType.INT8: np.dtype("i1"),
}
_METRIC_ALIASES = {"l2": Metric.EUCLIDEAN, "l1": Metric.MANHATTAN, "dotproduct": Metric.DOT_PRODUCT,
                   "dot": Metric.DOT_PRODUCT, "ip": Metric.DOT_PRODUCT}  # fmt: skip


def parse_metric(value: str) -> Metric:
    """Return the metric named `value`, ignoring case.

    Raises:
        InvalidRequestError: `invalid-argument`.
    """
    name = str(value).lower()
    if name in _METRIC_ALIASES:
        return _METRIC_ALIASES[name]
    try:
        return Metric(name)
    except ValueError:
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT,
            f"unknown metric {value!r}; expected one of {', '.join(Metric)}",
        ) from None


def parse_vector_type(value: str) -> VectorType:
    """Return the vector type named `value`, ignoring case.

    Raises:
        InvalidRequestError: `invalid-argument`.
    """
    try:
        return VectorType(str(value).lower())
    except ValueError:
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT,
            f"unknown vector type {value!r}; expected one of {', '.join(VectorType)}",
        ) from None


@dataclass(frozen=True, slots=True)
class Schema:
    """What a collection holds."""

    dimension: int
    metric: Metric
    vector_type: VectorType

    @property
    def vector_bytes(self) -> int:
        """Stored bytes of one vector."""
        return self.dimension * self.vector_type.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Record:
    """One row. `vector` is float32[dimension] or None if not asked for; `lsn` wrote it."""

    id: str
    vector: npt.NDArray[np.float32] | None
    metadata: Metadata | None
    lsn: Lsn


@dataclass(frozen=True, slots=True)
class Commit:
    """An acknowledged batch: it is on disk.

    `ids` are those of the upserted rows, as stored, made ones included; `count` is the number of
    rows written, or for a delete the number of rows that existed.
    """

    lsn: Lsn
    ids: list[str]
    count: int


@dataclass(frozen=True, slots=True)
class CommitInfo:
    """What the history says about a batch: when, by whom, why, and how much.

    `time` is what the clock said (UTC); `hlc` is the collection's own time in nanoseconds, which
    never goes back and which `as_of` a time goes by. `rows` were written and `ended` were replaced
    or deleted.
    """

    lsn: Lsn
    time: datetime
    hlc: int
    operation: str
    actor: str | None
    reason: str | None
    request_id: str | None
    rows: int
    ended: int


@dataclass(frozen=True, slots=True)
class Options:
    """What any write may carry. confirm: yes, it may delete most of a collection."""

    if_lsn: int | None = None
    expect: Mapping[tuple[str, str], Json] | None = None
    idempotency_key: str | None = None
    actor: str | None = None
    reason: str | None = None
    request_id: str | None = None
    confirm: bool = False


class WriteOptions(TypedDict, total=False):
    """`Options` as keyword arguments."""

    if_lsn: int | None
    expect: Mapping[tuple[str, str], Json] | None
    idempotency_key: str | None
    actor: str | None
    reason: str | None
    request_id: str | None
    confirm: bool


@dataclass(frozen=True, slots=True)
class Page:
    """A slice of a scroll. `next` goes into the next call's `after`; None at the end."""

    records: list[Record]
    next: int | None


@dataclass(frozen=True, slots=True)
class Finding:
    """A typed report of damage or doubt. `code` is stable; `lost` says what cannot be read."""

    code: str
    collection: str | None
    where: str
    message: str
    lost: str | None = None
    details: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IndexStats:
    """The index of a collection. `state`: none (searches measure every row), building, ready.

    While it is building searches are exact; rows it does not cover yet always are measured.
    `seconds_left`: None where that cannot be told; `size_bytes`: in memory, about.
    """

    state: IndexState = "none"
    rows_done: int = 0
    rows_to_do: int = 0
    seconds_left: float | None = None
    lists: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class CollectionStats:
    """Figures of one collection. Sizes in bytes."""

    name: str
    uuid: str
    schema: Schema
    count: int
    rows: int
    last_lsn: Lsn
    flushed_lsn: Lsn
    horizon_lsn: Lsn
    epoch: Epoch
    segments: int
    segment_bytes: int
    memtable_rows: int
    memtable_bytes: int
    wal_bytes: int
    syncs: int
    findings: int
    index: IndexStats = IndexStats()


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What reading everything found. `ok` means no damage at all."""

    collection: str
    ok: bool
    blocks: int
    size_bytes: int
    findings: list[Finding]


@dataclass(frozen=True, slots=True)
class TrashEntry:
    """A deleted collection. `name` is its directory, `path` absolute; sizes in bytes.

    What the deletion could not write down (on a full disk) is None. It goes at `expires` at the
    earliest.
    """

    name: str
    path: str
    collection: str
    uuid: str | None
    deleted: datetime
    age_hours: float
    expires: datetime
    actor: str | None
    reason: str | None
    rows: int | None
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup on the same machine. `own_bytes`: what deleting it would free; `lsn`: its state.

    `automatic`: made before a destructive call, and kept by a rule. `independent`: it shares no
    disk block with the collection. `verified`, `ok`: when it was last read whole, and with what
    result.
    """

    name: str
    path: str
    collection: str
    uuid: str
    created: datetime
    lsn: Lsn
    rows: int
    size_bytes: int
    own_bytes: int
    reason: str | None
    actor: str | None
    automatic: bool
    independent: bool
    verified: datetime | None
    ok: bool | None


@dataclass(frozen=True, slots=True)
class Restored:
    """A collection that was made from a trash entry, a backup or another collection.

    `source`: what it was made of; `lsn`: its newest commit; `rows_rewritten`: rows that had to be
    written again because they were still in memory; `copied_bytes`: 0 where files are shared.
    """

    name: str
    source: str
    lsn: Lsn
    rows: int
    rows_rewritten: int
    copied_bytes: int


@dataclass(frozen=True, slots=True)
class HardDeleted:
    """A collection that is gone for good. `backups`: those of it that are still there."""

    name: str
    freed_bytes: int
    backups: list[str]


@dataclass(frozen=True, slots=True)
class Undone:
    """What an undo did, or with `dry_run` would do. `lsn`: of its commit, or the newest one.

    `restored` rows were written again as they had been, `removed` ended without a successor,
    `documents` set back. `backup`: made before; None if there was nothing to do.
    """

    lsn: Lsn
    to_lsn: Lsn
    restored: int
    removed: int
    documents: int
    dry_run: bool
    backup: str | None


def check_whole(what: str, value: object, first: int, last: int) -> int:
    """Return `value` if it is a whole number from `first` to `last`.

    Raises:
        InvalidRequestError: `invalid-argument`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not first <= value <= last:
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT,
            f"{what}: expected a whole number from {first} to {last}, found {value!r}",
        )
    return value


def check_name(name: object) -> str:
    """Return `name` if it may name a collection.

    Raises:
        InvalidRequestError: `invalid-name`.
    """
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        raise InvalidRequestError(
            Code.INVALID_NAME,
            f"{name!r} cannot name a collection; expected 1 to 64 of A-Z a-z 0-9 _ . - "
            "beginning with a letter or digit",
        )
    if name.lower() in RESERVED_NAMES:
        raise InvalidRequestError(
            Code.INVALID_NAME,
            f"{name!r} is reserved for the recovery calls; choose another name",
        )
    return name


_UUID_LENGTHS = frozenset({32, 36, 38, 41, 45})  # plain, dashed, braced, urn:uuid: forms
_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def canonical_id(value: str) -> str:
    """Return the stored form of an id: what parses as a UUID in lower-case dashed form."""
    if len(value) not in _UUID_LENGTHS or _CANONICAL_UUID.fullmatch(value):
        return value
    try:
        return str(uuid.UUID(value))
    except ValueError:
        return value


def canonical_ids(values: Sequence[object]) -> list[str]:
    """Return the stored form of every id, in order.

    Raises:
        InvalidRequestError: `invalid-id`, names the item.
    """
    ids: list[str] = list(values)  # type: ignore[arg-type]  # checked just below, all at once
    if set(map(type, ids)) <= {str}:
        lengths = set(map(len, ids))
        if lengths and (min(lengths) < 1 or max(lengths) > ID_LENGTH_MAX):
            _refuse_id(ids)
        try:
            "".join(ids).encode()
        except UnicodeEncodeError:
            _refuse_id(ids)
        if lengths & _UUID_LENGTHS:
            ids = [canonical_id(item) for item in ids]
        return ids
    _refuse_id(values)
    raise AssertionError("unreachable")


def _refuse_id(values: Sequence[object]) -> None:
    for index, value in enumerate(values):
        if not isinstance(value, str):
            found = f"a {type(value).__name__}"
        elif not 1 <= len(value) <= ID_LENGTH_MAX:
            found = f"{len(value)} characters"
        elif not _encodable(value):
            found = "a lone surrogate, which is not text"
        else:
            continue
        raise InvalidRequestError(
            Code.INVALID_ID,
            f"item {index}: an id is text of 1 to {ID_LENGTH_MAX} characters, found {found}",
            item=index,
        )
    raise InvalidRequestError(Code.INVALID_ID, "ids must be a sequence of text")


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
