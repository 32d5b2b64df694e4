"""From a call's arguments to a checked write: everything that needs no stored state.

Validation happens in the caller's thread, before anything is queued: a write that is refused here
has not touched the collection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from uuid import UUID, uuid5

import blake3
import msgspec
import numpy as np
import numpy.typing as npt

from dvecdb.errors import Code, InvalidRequestError
from dvecdb.formats.columns import DocumentEntry
from dvecdb.formats.json_value import bad_metadata, encode_json, encode_metadata
from dvecdb.media.memory import new_rows
from dvecdb.records import Json, canonical_ids
from dvecdb.search.vectors import VectorSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from dvecdb.records import Metadata, Options, Schema, UpdateMode
    from dvecdb.settings import Settings

Mode = Literal["upsert", "insert"]

IDEMPOTENCY_NAMESPACE: Final = "_idempotency"
CONFIG_NAMESPACE: Final = "_config"
TAGS_NAMESPACE: Final = "_tags"
DOCUMENT_NAME_LENGTH_MAX: Final = 256
DOCUMENT_BYTES_MAX: Final = 1024 * 1024
NOTE_TEXT_LENGTH_MAX: Final = 1024

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Update:
    """A change of one record's metadata that leaves its vector."""

    id: str
    metadata: Metadata
    mode: UpdateMode


class RowSource(Protocol):
    """Vectors that are not in memory in their stored form yet."""

    @property
    def stored_bytes(self) -> int:
        """Size of all of them as stored."""

    def pieces(self, rows_per_piece: int) -> Iterator[npt.NDArray[Any]]:
        """Yield them as stored, `rows_per_piece` at a time but for the last."""


class Write(msgspec.Struct):
    """A checked write. A struct, as its neighbours below: made for every row that comes alone.

    vectors: stored type [len(ids), dimension], owned, or None if `source` has them still to be
    converted; ids: distinct, one per row; answer_ids: what the commit returns; metadata: JSON
    bytes by row, b"" for none, or None.
    """

    operation: str
    ids: list[str] = []
    answer_ids: list[str] = []
    vectors: npt.NDArray[np.generic] | None = None
    source: RowSource | None = None
    metadata: list[bytes] | None = None
    mode: Mode = "upsert"
    deletes: list[str] = []
    updates: list[Update] = []
    documents: list[DocumentEntry] = []
    expect: list[tuple[str, str, Json]] = []
    if_lsn: int | None = None
    key: str | None = None
    digest: str | None = None
    note: bytes = b"{}"
    confirm: bool = False
    size_bytes: int = 0  # of vectors and metadata

    @property
    def touched_ids(self) -> list[str]:
        """Every id this write ends or makes."""
        if not self.deletes and not self.updates:
            return self.ids
        return [*self.ids, *self.deletes, *(update.id for update in self.updates)]


class WriteChecker:
    """Turns arguments into a `Write` for one collection."""

    def __init__(
        self, schema: Schema, settings: Settings, uuid: UUID, new_uuid: Callable[[], UUID]
    ) -> None:
        self._schema = schema
        self._settings = settings
        self._uuid = uuid
        self._new_uuid = new_uuid

    def check(  # the parts of a write
        self,
        operation: str,
        options: Options,
        *,
        ids: Sequence[str] | None = None,
        vectors: Any = None,  # arrays and lists of any kind
        metadata: Sequence[Metadata | None] | None = None,
        mode: Mode = "upsert",
        deletes: Sequence[str] = (),
        updates: Sequence[Update] = (),
        documents: Mapping[tuple[str, str], Json] | None = None,
        reserved: bool = False,
    ) -> Write:
        """Return the checked write. `reserved`: the documents may lie in our own namespaces.

        Raises:
            InvalidRequestError: whichever argument is wrong; nothing was written.
        """
        write = Write(
            operation, mode=mode, if_lsn=_check_lsn(options.if_lsn), confirm=bool(options.confirm)
        )
        if vectors is not None:
            self._add_rows(write, ids, vectors, metadata, options.idempotency_key)
        elif ids is not None or metadata is not None:
            raise _invalid("ids or metadata without vectors; pass vectors, one per id")
        write.deletes = list(dict.fromkeys(canonical_ids(list(deletes)))) if deletes else []
        write.updates = self._check_updates(updates) if updates else []
        if write.deletes or write.updates:
            _refuse_overlap(write)
        write.documents = _check_documents(documents, reserved=reserved) if documents else []
        write.size_bytes = _size_of(write)
        write.expect = [
            (*_check_document_name(name), value) for name, value in (options.expect or {}).items()
        ]
        write.note = _note(operation, options)
        if options.idempotency_key is not None:
            write.key = _check_text(
                "idempotency_key", options.idempotency_key, DOCUMENT_NAME_LENGTH_MAX
            )
            write.digest = _digest(write, made_ids=ids is None)
        if write.size_bytes > self._settings.batch_bytes_max:
            raise InvalidRequestError(
                Code.BATCH_TOO_LARGE,
                f"the batch has {write.size_bytes} bytes, at most {self._settings.batch_bytes_max} "
                "are allowed; split it",
            )
        return write

    def _add_rows(
        self,
        write: Write,
        ids: Sequence[str] | None,
        vectors: Any,
        metadata: Sequence[Metadata | None] | None,
        key: str | None,
    ) -> None:
        source = VectorSource(vectors, self._schema)
        count = len(source)
        if ids is None:
            write.ids = self._make_ids(count, key)
        else:
            if isinstance(ids, (str, bytes)):
                raise _invalid(f"ids: expected a list of ids, found {ids!r:.80}")
            write.ids = canonical_ids(ids if isinstance(ids, list) else list(ids))
        if len(write.ids) != count:
            raise _invalid(f"{len(write.ids)} ids for {count} vectors; pass one id per vector")
        if metadata is not None:
            write.metadata = self._check_metadata(metadata, count)
        write.answer_ids = write.ids
        is_distinct = len(set(write.ids)) == count
        if is_distinct and key is None and source.stored_bytes >= self._settings.bulk_bytes:
            write.source = source  # converted piece by piece while the segment is written
        else:
            write.vectors = source.convert(new_rows)
        if not is_distinct:
            _settle_duplicates(write)

    def _make_ids(self, count: int, key: str | None) -> list[str]:
        if key is None:
            return [str(self._new_uuid()) for _ in range(count)]
        # The same key makes the same ids, so that a repeated call answers the same.
        return [str(uuid5(self._uuid, f"{key}\0{index}")) for index in range(count)]

    def _check_metadata(
        self, metadata: Sequence[Metadata | None], count: int
    ) -> list[bytes] | None:
        if isinstance(metadata, (dict, str, bytes)):
            raise bad_metadata(0, "metadata is a list with one object or None per vector")
        values = list(metadata)
        if len(values) != count:
            raise _invalid(
                f"{len(values)} metadata for {count} vectors; pass one (or None) per vector"
            )
        if all(value is None for value in values):
            return None
        size_max = self._settings.metadata_bytes_max
        return [
            b"" if value is None else encode_metadata(value, index, size_max)
            for index, value in enumerate(values)
        ]

    def _check_updates(self, updates: Sequence[Update]) -> list[Update]:
        texts = canonical_ids([update.id for update in updates])
        for index, update in enumerate(updates):
            encode_metadata(update.metadata, index, self._settings.metadata_bytes_max)
            if update.mode not in {"merge", "replace"}:
                raise _invalid(f"unknown update mode {update.mode!r}; expected merge or replace")
        return [
            Update(text, update.metadata, update.mode)
            for text, update in zip(texts, updates, strict=True)
        ]


def _size_of(write: Write) -> int:
    metadata = sum(map(len, write.metadata)) if write.metadata else 0
    vectors = write.vectors.nbytes if write.vectors is not None else 0
    return vectors + (write.source.stored_bytes if write.source is not None else 0) + metadata


def _settle_duplicates(write: Write) -> None:
    """Refuse repeated ids in an insert; in an upsert the last one wins."""
    last = {record_id: index for index, record_id in enumerate(write.ids)}
    if write.mode == "insert":
        for index, record_id in enumerate(write.ids):
            if last[record_id] != index:
                raise InvalidRequestError(
                    Code.DUPLICATE_ID,
                    f"items {index} and {last[record_id]} have the same id {record_id!r}; "
                    "an insert takes each id once",
                    id=record_id,
                )
    kept = sorted(last.values())
    assert write.vectors is not None
    write.vectors = write.vectors[kept]
    write.ids = [write.ids[index] for index in kept]
    if write.metadata is not None:
        write.metadata = [write.metadata[index] for index in kept]


def _refuse_overlap(write: Write) -> None:
    seen: set[str] = set()
    for record_id in write.touched_ids:
        if record_id in seen:
            raise InvalidRequestError(
                Code.DUPLICATE_ID,
                f"the id {record_id!r} is used twice in one batch; split the batch",
                id=record_id,
            )
        seen.add(record_id)


def _check_documents(
    documents: Mapping[tuple[str, str], Json], *, reserved: bool
) -> list[DocumentEntry]:
    entries: list[DocumentEntry] = []
    for name, value in documents.items():
        namespace, key = _check_document_name(name)
        if namespace.startswith("_") and not reserved:
            raise _invalid(f"document namespace {namespace!r}: a leading underscore is reserved")
        encoded = None
        if value is not None:
            encoded = encode_json(value, f"document {namespace}/{key}", Code.INVALID_ARGUMENT)
            if len(encoded) > DOCUMENT_BYTES_MAX:
                raise _invalid(
                    f"document {namespace}/{key} has {len(encoded)} bytes, at most "
                    f"{DOCUMENT_BYTES_MAX} are allowed"
                )
        entries.append((namespace, key, encoded))
    return entries


def _check_document_name(name: object) -> tuple[str, str]:
    if not (isinstance(name, tuple) and len(name) == 2):
        raise _invalid(f"a document is named by a (namespace, key) pair, found {name!r}")
    return (
        _check_text("document namespace", name[0], DOCUMENT_NAME_LENGTH_MAX),
        _check_text("document key", name[1], DOCUMENT_NAME_LENGTH_MAX),
    )


def _check_text(what: str, value: object, length_max: int) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= length_max or "\0" in value:
        raise _invalid(
            f"{what}: expected text of 1 to {length_max} characters, found {value!r:.80}"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _invalid(f"{what}: contains a lone surrogate, which is not text") from None
    return value


def _check_lsn(value: object) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise _invalid(f"if_lsn: expected an LSN, found {value!r}")
    return value


def _note(operation: str, options: Options) -> bytes:
    note: dict[str, str] = {"op": operation}
    for name, value in (
        ("actor", options.actor),
        ("reason", options.reason),
        ("request_id", options.request_id),
    ):
        if value is not None:
            note[name] = _check_text(name, value, NOTE_TEXT_LENGTH_MAX)
    if options.idempotency_key is not None:
        note["key"] = options.idempotency_key
    return _encode(note)


def _digest(write: Write, *, made_ids: bool) -> str:
    total = blake3.blake3()
    head = (
        write.operation,
        write.mode,
        None if made_ids else write.ids,
        write.metadata,
        write.deletes,
        [(update.id, _encode(update.metadata), update.mode) for update in write.updates],
        write.documents,
    )
    total.update(msgspec.msgpack.encode(head))
    if write.vectors is not None:
        total.update(np.ascontiguousarray(write.vectors).tobytes())
    return total.hexdigest()


def _invalid(message: str) -> InvalidRequestError:
    return InvalidRequestError(Code.INVALID_ARGUMENT, message)
