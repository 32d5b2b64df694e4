"""The files of DATA_DIR/.server: API keys, tasks, reports of imports, lines of the audit log.

All but the log are write-once JSON files, sealed as manifests are (`manifest_file`). A second file
beside the first revokes a key, or says how a task ended.

The audit log is files of lines. Each line is a JSON object whose last field, `sum`, is the XXH3-64
of the bytes before `,"sum"`, so that a line that was cut or damaged is told from a whole one. The
first line of a file is its header. A file whose disk failed is left, and the header of the next one
says up to which offset it counts: what came after is repeated in the new file.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from dvecdb.formats.framing import FORMAT_VERSION, Buffer, FormatError, check_format, checksum
from dvecdb.formats.manifest_file import open_json
from dvecdb.reports import ImportReport

_SUM: Final = b',"sum":"'
_SUM_BYTES: Final = len(_SUM) + 16 + len(b'"}')
_T = TypeVar("_T")


class KeyFile(msgspec.Struct, frozen=True, kw_only=True):
    """ID.json: an API key. `secret_sha256`: hex of SHA-256(salt + secret); `salt`: hex."""

    format_version: int = FORMAT_VERSION
    required_features: int = 0
    id: str
    name: str
    scopes: list[str]
    collections: list[str]
    created_ns: int
    expires_ns: int | None = None
    salt: str
    secret_sha256: str


class RevocationFile(msgspec.Struct, frozen=True, kw_only=True):
    """ID.revoked.json: the key is not valid any more. That the file is there is enough."""

    format_version: int = FORMAT_VERSION
    required_features: int = 0
    id: str
    revoked_ns: int


class TaskStartFile(msgspec.Struct, frozen=True, kw_only=True):
    """ID.started.json: a task was accepted. Without an end it was interrupted."""

    format_version: int = FORMAT_VERSION
    required_features: int = 0
    id: str
    kind: str
    collection: str | None = None
    key: str | None = None
    request_id: str | None = None
    queued_ns: int


class TaskEndFile(msgspec.Struct, frozen=True, kw_only=True):
    """ID.ended.json: how a task ended. `result` and `error` are JSON values."""

    format_version: int = FORMAT_VERSION
    required_features: int = 0
    id: str
    state: str
    ended_ns: int
    result: Any = None
    error: dict[str, Any] | None = None


class ImportReportFile(msgspec.Struct, frozen=True, kw_only=True):
    """ID.json: what an import did, whole; `id` is that of its task.

    `owner`: the collection whose keys may read it, None: those for all; `name`: of the collection
    that was made, None for a trial; `replaced`: the trash entry of what had the name before.
    """

    format_version: int = FORMAT_VERSION
    required_features: int = 0
    id: str
    owner: str | None = None
    name: str | None = None
    replaced: str | None = None
    seconds: float
    finished_ns: int
    report: ImportReport


class AuditHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a file of the audit log.

    `counts_until`: for earlier files (by number, as text) the offset from which they do not count.
    """

    dvecdb: str = "audit log"
    format_version: int = FORMAT_VERSION
    required_features: int = 0
    number: int
    created_ns: int
    counts_until: dict[str, int] = {}  # msgspec copies it


def decode_sealed(data: Buffer, kind: type[_T]) -> _T:
    """Return the value of a sealed JSON file.

    Raises:
        FormatError: damaged.
        DirectoryError: `format-too-new`.
    """
    try:
        return msgspec.convert(open_json(data)[0], kind)
    except msgspec.ValidationError as error:
        raise FormatError(f"{kind.__name__}: {error}") from error


def encode_line(value: msgspec.Struct) -> bytes:
    """Return the line of a struct that has fields, newline included."""
    body = msgspec.json.encode(value)[:-1]
    return b'%b%b%016x"}\n' % (body, _SUM, checksum(body))


def decode_line(line: bytes) -> dict[str, object]:
    """Return the JSON object of a line, which is without its newline, and without `sum`.

    Raises:
        FormatError: cut or damaged.
    """
    body = line[:-_SUM_BYTES]
    if line != b'%b%b%016x"}' % (body, _SUM, checksum(body)):
        raise FormatError("checksum does not match")
    try:
        value = msgspec.json.decode(body + b"}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError("not a JSON object")
    return value


def decode_audit_header(line: bytes) -> AuditHeader:
    """Return the header in the first line of a file of the audit log.

    Raises:
        FormatError: cut or damaged.
        DirectoryError: `format-too-new`.
    """
    try:
        header = msgspec.convert(decode_line(line), AuditHeader)
    except msgspec.ValidationError as error:
        raise FormatError(f"AuditHeader: {error}") from error
    check_format("a file of the audit log", header.format_version, header.required_features)
    return header
