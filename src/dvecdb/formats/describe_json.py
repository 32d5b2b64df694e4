"""The JSON files, LOCK and the audit log as JSON values for people. No damage raises anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from dvecdb.errors import DirectoryError
from dvecdb.formats.describe_values import Described, sample, text_of, utc
from dvecdb.formats.framing import FormatError, check_format, digest
from dvecdb.formats.manifest_file import (
    BackupFile,
    CollectionFile,
    DeletionFile,
    Manifest,
    VerificationFile,
)
from dvecdb.formats.server_file import (
    AuditHeader,
    ImportReportFile,
    KeyFile,
    RevocationFile,
    TaskEndFile,
    TaskStartFile,
    decode_line,
)

if TYPE_CHECKING:
    from dvecdb.formats.framing import Buffer

_KINDS: Final[dict[str, tuple[str, type[msgspec.Struct]]]] = {  # by a field only they have
    "report": ("report of an import", ImportReportFile),
    "generation": ("manifest", Manifest),
    "deleted_ns": ("deletion", DeletionFile),
    "secret_sha256": ("API key", KeyFile),
    "revoked_ns": ("revocation of an API key", RevocationFile),
    "queued_ns": ("start of a task", TaskStartFile),
    "ended_ns": ("end of a task", TaskEndFile),
    "verified_ns": ("verification of a backup", VerificationFile),
    "automatic": ("backup", BackupFile),
    "created_ns": ("collection", CollectionFile),
}
_TIMES: Final = frozenset(
    {"created_ns", "deleted_ns", "expires_ns", "hlc", "revoked_ns", "queued_ns", "ended_ns"}
    | {"verified_ns", "finished_ns"}
)
_HASHES: Final = frozenset({"flushed_hash"})
_LOCK_FIELDS: Final = frozenset(
    {"dvecdb", "format_version", "required_features", "epoch", "owner", "pid", "host", "address"}
)


def describe_json(data: Buffer) -> Described:
    """Return a sealed JSON file: its digest, its fields, and those this version does not know."""
    line, _, rest = bytes(data).partition(b"\n")
    found = "blake3:" + digest(line).hex()
    described: Described = {"kind": "JSON file", "size_bytes": len(data)}
    if rest == found.encode() + b"\n":
        described["digest"] = found
    else:
        described["digest"] = "damaged"
        described["digest_found"] = found
        described["digest_stated"] = text_of(rest.rstrip(b"\n"))
    value = _object(line)
    if value is None:
        described["text"] = text_of(line)
        return described
    known: frozenset[str] | None = None
    for field, (kind, struct) in _KINDS.items():
        if field in value:
            described["kind"] = kind
            known = frozenset(struct.__struct_fields__)
            break
    if {"code", "where", "message"} <= value.keys():
        described["kind"] = "finding"
    _add_fields(described, value, known)
    return described


def describe_lock(data: Buffer) -> Described:
    """Return what LOCK says about the last writer."""
    described: Described = {"kind": "lock", "size_bytes": len(data)}
    sealed = bytes(data).rstrip(b" \n\0")
    line, _, rest = sealed.partition(b"\n")
    value = _object(line)
    if value is None:
        described["damaged"] = text_of(data) or "empty"
        return described
    found = "blake3:" + digest(line).hex()
    described["digest"] = found if rest == found.encode() else "damaged"
    _add_fields(described, value, _LOCK_FIELDS)
    return described


def describe_audit(data: Buffer) -> Described:
    """Return a file of the audit log: its header, its entries, and the lines that are damaged."""
    described: Described = {"kind": "audit log", "size_bytes": len(data)}
    entries: list[Described] = []
    damaged: list[Described] = []
    offset = 0
    *lines, rest = bytes(data).split(b"\n")
    if rest:
        damaged.append(
            {"offset": len(data) - len(rest), "size_bytes": len(rest), "found": "cut short"}
        )
    for line in lines:
        try:
            value = decode_line(line)
            if offset == 0 and "dvecdb" in value:
                _add_fields(described, value, frozenset(AuditHeader.__struct_fields__))
            else:
                entries.append(value)
        except FormatError as error:
            damaged.append({"offset": offset, "size_bytes": len(line), "found": str(error)})
        offset += len(line) + 1
    described["entries"] = sample(entries)
    described["damaged_lines"] = damaged
    return described


def _object(line: bytes) -> dict[str, object] | None:
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _add_fields(
    described: Described, value: dict[str, object], known: frozenset[str] | None
) -> None:
    version, features = value.get("format_version"), value.get("required_features", 0)
    if isinstance(version, int) and isinstance(features, int):
        try:
            check_format("this file", version, features)
        except DirectoryError as error:
            described["refused"] = str(error)
    unknown: Described = {}
    for key, item in value.items():
        if known is not None and key not in known:
            unknown[key] = item
            continue
        described[key] = f"{item:016x}" if key in _HASHES and isinstance(item, int) else item
        if key in _TIMES and isinstance(item, int):
            described[key.removesuffix("_ns") + "_time"] = utc(item)
    if unknown:
        described["unknown_fields"] = unknown
