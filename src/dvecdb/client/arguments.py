"""What a caller passes, checked as far as a message would hide what is wrong with it.

The server checks everything again; here is what does not survive the way as it is: ids that are no
text, JSON that would come back as something else, times without a zone, numbers beyond 64 bits.
The words and codes are those of the engine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from dvecdb.clock import from_datetime
from dvecdb.errors import Code, InvalidRequestError
from dvecdb.formats.json_value import bad_metadata, encode_json, encode_metadata
from dvecdb.records import canonical_ids
from dvecdb.search.filters import parse_filter
from dvecdb.search.vectors import VectorSource
from dvecdb.wire.bodies import DocumentValue, Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dvecdb.records import AsOf, Json, Metadata, Options, Schema

INTEGER_MAX: Final = 2**63 - 1
KEY_LENGTH_MAX: Final = 256
NOTE_TEXT_LENGTH_MAX: Final = 1024
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_UNLIMITED: Final = 2**62


def invalid(message: str) -> InvalidRequestError:
    """Return the refusal of an argument."""
    return InvalidRequestError(Code.INVALID_ARGUMENT, message)


def id_list(ids: Sequence[str]) -> list[str]:
    """Return ids as stored.

    Raises:
        InvalidRequestError: `invalid-id`, `invalid-argument`.
    """
    if isinstance(ids, (str, bytes)):
        raise invalid(f"ids: expected a list of ids, found {ids!r:.80}")
    return canonical_ids(list(ids))


def rows(
    schema: Schema,
    ids: Sequence[str] | None,
    vectors: Any,
    metadata: Sequence[Metadata | None] | None,
) -> Rows:
    """Return records to write; their vectors as float32 of exactly what will be stored.

    Raises:
        InvalidRequestError: as the engine's `upsert`.
    """
    if vectors is None:
        raise invalid("vectors are missing; pass [n, dimension]")
    source = VectorSource(vectors, schema)
    count = len(source)
    texts = None if ids is None else id_list(ids)
    if texts is not None and len(texts) != count:
        raise invalid(f"{len(texts)} ids for {count} vectors; pass one id per vector")
    values = None if metadata is None else _metadata(metadata, count)
    stored = source.convert()
    return Rows(stored.astype("<f4", copy=False).tobytes(), texts, values)


def _metadata(metadata: Sequence[Metadata | None], count: int) -> list[Metadata | None] | None:
    if isinstance(metadata, (dict, str, bytes)):
        raise bad_metadata(0, "metadata is a list with one object or None per vector")
    values = list(metadata)
    if len(values) != count:
        raise invalid(f"{len(values)} metadata for {count} vectors; pass one (or None) per vector")
    for index, value in enumerate(values):
        if value is not None:
            encode_metadata(value, index, _UNLIMITED)
    return None if all(value is None for value in values) else values


def objects(values: Sequence[Metadata]) -> list[Metadata]:
    """Return metadata, one object per record.

    Raises:
        InvalidRequestError: `invalid-metadata`, names the item.
    """
    for index, value in enumerate(values):
        encode_metadata(value, index, _UNLIMITED)
    return list(values)


def row_parts(rows_of: Mapping[str, Any], what: str, schema: Schema) -> Rows:
    """Return records given as a mapping of `vectors`, `ids` and `metadata`.

    Raises:
        InvalidRequestError: `invalid-argument`, an unknown key; others as `rows`.
    """
    parts = dict(rows_of)
    unknown = set(parts) - {"ids", "vectors", "metadata"}
    if unknown:
        raise invalid(
            f"{what}: unknown {', '.join(sorted(map(str, unknown)))}; "
            "expected ids, vectors, metadata"
        )
    return rows(schema, parts.get("ids"), parts.get("vectors"), parts.get("metadata"))


def documents(values: Mapping[tuple[str, str], Json] | None, what: str) -> list[DocumentValue]:
    """Return documents by (namespace, key) as a message has them.

    Raises:
        InvalidRequestError: `invalid-argument`.
    """
    found = []
    for name, value in (values or {}).items():
        namespace, key = _document_name(name)
        if value is not None:
            encode_json(value, f"{what} {namespace}/{key}", Code.INVALID_ARGUMENT)
        found.append(DocumentValue(namespace, key, value))
    return found


def _document_name(name: object) -> tuple[str, str]:
    if not (isinstance(name, tuple) and len(name) == 2):
        raise invalid(f"a document is named by a (namespace, key) pair, found {name!r}")
    namespace = text("document namespace", name[0], KEY_LENGTH_MAX)
    return namespace, text("document key", name[1], KEY_LENGTH_MAX)


def where_map(where: object) -> dict[str, Json] | None:
    """Return a filter as a message has it. What is wrong with it is said without a request.

    Raises:
        InvalidRequestError: `invalid-argument`, `invalid-filter`.
    """
    if where is None:
        return None
    parse_filter(where)
    assert isinstance(where, Mapping)
    values = dict(where)
    encode_json(values, "where", Code.INVALID_ARGUMENT)
    return values


def state(as_of: AsOf | None) -> AsOf | None:
    """Return which state to read.

    Raises:
        InvalidRequestError: `as-of-unreadable`; `invalid-argument`, a time without a zone.
    """
    if as_of is None:
        return None
    if isinstance(as_of, datetime):
        from_datetime(as_of)
        return as_of
    if type(as_of) is not int or not -INTEGER_MAX <= as_of <= INTEGER_MAX:
        raise InvalidRequestError(
            Code.AS_OF_UNREADABLE, f"as_of {as_of!r}: expected an LSN or an aware datetime"
        )
    return as_of


def text(what: str, value: object, length_max: int) -> str:
    """Return `value` if it is text of a length that will be taken.

    Raises:
        InvalidRequestError: `invalid-argument`.
    """
    if not isinstance(value, str) or not 1 <= len(value) <= length_max or "\0" in value:
        raise invalid(f"{what}: expected text of 1 to {length_max} characters, found {value!r:.80}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise invalid(f"{what}: contains a lone surrogate, which is not text") from None
    return value


def segment(what: str, value: object, length_max: int = KEY_LENGTH_MAX) -> str:
    """Return text as one part of a path: what is special in a URL is encoded, dots included.

    Raises:
        InvalidRequestError: `invalid-argument`.
    """
    return quote(text(what, value, length_max), safe="").replace(".", "%2E")


def lsn(if_lsn: object) -> int | None:
    """Return an LSN for a condition; one beyond 64 bits means what the largest means.

    Raises:
        InvalidRequestError: `invalid-argument`.
    """
    if if_lsn is None:
        return None
    if not isinstance(if_lsn, int) or isinstance(if_lsn, bool) or if_lsn < 0:
        raise invalid(f"if_lsn: expected an LSN, found {if_lsn!r}")
    return min(if_lsn, INTEGER_MAX)


def note_headers(options: Options) -> dict[str, str]:
    """Return the headers that go into the commit note, and the idempotency key.

    Raises:
        InvalidRequestError: `invalid-argument`.
    """
    headers = {}
    for name, header, value, length_max in (
        ("idempotency_key", "idempotency-key", options.idempotency_key, KEY_LENGTH_MAX),
        ("actor", "dvecdb-actor", options.actor, NOTE_TEXT_LENGTH_MAX),
        ("reason", "dvecdb-reason", options.reason, NOTE_TEXT_LENGTH_MAX),
    ):
        if value is not None:
            headers[header] = quote(text(name, value, length_max), safe="")
    if options.request_id is not None:
        if not _REQUEST_ID.fullmatch(str(options.request_id)):
            raise invalid(
                "request_id: expected 1 to 64 of A-Z a-z 0-9 _ . -, as servers keep it, "
                f"found {options.request_id!r:.80}"
            )
        headers["x-request-id"] = str(options.request_id)
    return headers
