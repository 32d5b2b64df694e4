"""The JSON files of a collection: manifests, collection.json, deletion.json, backup.json.

Each is one line of JSON, a newline, and one line `blake3:<hex digest of the first line>`. So a
person can read it and a program knows whether it is whole. Fields this version does not know are
kept: they are carried from a manifest to its successor.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from dvecdb.formats.framing import FORMAT_VERSION, Buffer, FormatError, check_format, digest

_PREFIX: Final = b"blake3:"
_T = TypeVar("_T")


class SegmentEntry(msgspec.Struct, frozen=True):
    """A live segment. Rows are first_row .. row_end - 1; commits are first_lsn .. last_lsn.

    Both may end before what the files hold: what lies behind does not exist for this collection.

    A bulk segment carries rows only: its commit lies in the segment after it, `commits` is 0 and
    `first_lsn` = `last_lsn` is the LSN all its rows were born at.
    """

    directory: str
    uuid: str
    digest: str
    first_row: int
    row_end: int
    first_lsn: int
    last_lsn: int
    commits: int
    records_bytes: int
    vectors_bytes: int


class SchemaEntry(msgspec.Struct, frozen=True):
    """What the collection holds. `vector_fields`: reserved for more than one vector a row."""

    dimension: int
    metric: str
    vector_type: str
    schema_id: int = 0
    vector_fields: list[dict[str, object]] = []  # msgspec copies it


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The live segments of a collection and how far they reach. Immutable; one file per swap."""

    format_version: int = FORMAT_VERSION
    required_features: int = 0
    optional_features: int = 0
    generation: int
    epoch: int
    collection_uuid: str
    lineage: str
    parent_lineage: str | None = None
    parent_lsn: int | None = None
    parent_digest: str | None = None
    reason: str
    created_ns: int
    schema: SchemaEntry
    config: dict[str, object] = {}  # msgspec copies it
    segments: list[SegmentEntry]
    flushed_lsn: int
    flushed_hash: int
    row_end: int
    horizon_lsn: int = 0
    hlc: int = 0
    pins: list[dict[str, object]] = []
    tags: list[dict[str, object]] = []
    shard_id: int = 0
    shard_count: int = 1
    parity: dict[str, object] | None = None
    archive: dict[str, object] | None = None
    replicas: list[dict[str, object]] = []


class CollectionFile(msgspec.Struct, frozen=True, kw_only=True):
    """collection.json, written once. The directory's name is the collection's name."""

    format_version: int = FORMAT_VERSION
    required_features: int = 0
    optional_features: int = 0
    uuid: str
    created_ns: int
    schema: SchemaEntry


class DeletionFile(msgspec.Struct, frozen=True, kw_only=True):
    """deletion.json: this collection is in the trash (or on its way there).

    `rows` and `size_bytes`: as it was deleted. `expires_ns`: None, as the settings say.
    """

    format_version: int = FORMAT_VERSION
    required_features: int = 0
    name: str
    uuid: str
    deleted_ns: int
    actor: str | None = None
    reason: str | None = None
    expires_ns: int | None = None
    rows: int | None = None
    size_bytes: int | None = None


class BackupFile(msgspec.Struct, frozen=True, kw_only=True):
    """backup.json, written last: this directory is a whole backup of the state at `lsn`.

    files: size by path inside the directory, `/` between its parts; `size_bytes`: their sum.
    `automatic`: made before a destructive call. `independent`: no file is shared.
    """

    format_version: int = FORMAT_VERSION
    required_features: int = 0
    name: str
    uuid: str
    lineage: str
    lsn: int
    created_ns: int
    rows: int
    size_bytes: int
    files: dict[str, int]
    reason: str | None = None
    actor: str | None = None
    automatic: bool = False
    independent: bool = False


class VerificationFile(msgspec.Struct, frozen=True, kw_only=True):
    """verified-*.json in a backup: when every byte of it was read last, and with what result."""

    format_version: int = FORMAT_VERSION
    required_features: int = 0
    verified_ns: int
    ok: bool
    findings: list[str] = []  # msgspec copies it


class DecodedManifest(msgspec.Struct, frozen=True):
    """A manifest, its digest, and the fields of it that this version does not know."""

    manifest: Manifest
    digest: str
    unknown: dict[str, object]


def seal_json(value: object, unknown: dict[str, object] | None = None) -> bytes:
    """Return the file bytes of a JSON value, with `unknown` fields carried along."""
    builtins = msgspec.to_builtins(value)
    line = msgspec.json.encode({**(unknown or {}), **builtins})
    return line + b"\n" + _PREFIX + digest(line).hex().encode() + b"\n"


def open_json(data: Buffer) -> tuple[dict[str, object], str]:
    """Return the JSON object of a file and its digest.

    Raises:
        FormatError: damaged.
        DirectoryError: `format-too-new`.
    """
    line, separator, rest = bytes(data).partition(b"\n")
    found = digest(line).hex()
    if not separator or rest != _PREFIX + found.encode() + b"\n":
        raise FormatError("digest does not match")
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError("not a JSON object")
    version, features = value.get("format_version"), value.get("required_features", 0)
    if not isinstance(version, int) or not isinstance(features, int):
        raise FormatError("no format version")
    check_format("a metadata file", version, features)
    return value, found


def decode_manifest(data: Buffer) -> DecodedManifest:
    """Return the manifest in `data`.

    Raises:
        FormatError: damaged.
        DirectoryError: `format-too-new`.
    """
    value, found = open_json(data)
    known = set(Manifest.__struct_fields__)
    unknown = {key: item for key, item in value.items() if key not in known}
    return DecodedManifest(_convert(value, Manifest), found, unknown)


def decode_collection_file(data: Buffer) -> CollectionFile:
    """Return collection.json.

    Raises:
        FormatError: damaged.
        DirectoryError: `format-too-new`.
    """
    return _convert(open_json(data)[0], CollectionFile)


def decode_deletion_file(data: Buffer) -> DeletionFile:
    """Return deletion.json.

    Raises:
        FormatError: damaged.
        DirectoryError: `format-too-new`.
    """
    return _convert(open_json(data)[0], DeletionFile)


def decode_backup_file(data: Buffer) -> BackupFile:
    """Return backup.json.

    Raises:
        FormatError: damaged.
        DirectoryError: `format-too-new`.
    """
    return _convert(open_json(data)[0], BackupFile)


def decode_verification_file(data: Buffer) -> VerificationFile:
    """Return a verified-*.json.

    Raises:
        FormatError: damaged.
        DirectoryError: `format-too-new`.
    """
    return _convert(open_json(data)[0], VerificationFile)


def _convert(value: dict[str, object], kind: type[_T]) -> _T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise FormatError(f"{kind.__name__}: {error}") from error
