"""Installing manifests: one immutable numbered file per swap, checked by predicates first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dvecdb.engine.storage import is_disk_full, write_failed, write_file
from dvecdb.errors import Code, OutcomeUnknownError
from dvecdb.formats import names
from dvecdb.formats.framing import digest
from dvecdb.formats.manifest_file import (
    CollectionFile,
    Manifest,
    SchemaEntry,
    SegmentEntry,
    seal_json,
)
from dvecdb.records import Metric, Schema, VectorType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dvecdb.engine.store import Store
    from dvecdb.media.files import Dir, Files


def _generation_follows(old: Manifest, new: Manifest) -> bool:
    return new.generation > old.generation


def _identity_stays(old: Manifest, new: Manifest) -> bool:
    return (old.collection_uuid, old.lineage, old.schema) == (
        new.collection_uuid,
        new.lineage,
        new.schema,
    )


def _nothing_goes_back(old: Manifest, new: Manifest) -> bool:
    return (
        new.epoch >= old.epoch
        and new.flushed_lsn >= old.flushed_lsn
        and new.row_end >= old.row_end
        and new.horizon_lsn >= old.horizon_lsn
    )


def _rows_are_covered(_old: Manifest, new: Manifest) -> bool:
    """Every row up to `row_end` lies in the range of exactly one segment, dropped or not."""
    position = 0
    for entry in sorted(new.segments, key=lambda item: (item.first_row, item.row_end)):
        if entry.first_row != position and entry.row_end > entry.first_row:
            return False
        position = max(position, entry.row_end)
    return position == new.row_end


def _commits_are_covered(_old: Manifest, new: Manifest) -> bool:
    """Every commit up to `flushed_lsn` lies in exactly one segment."""
    position = 1
    for entry in sorted(
        (item for item in new.segments if item.commits), key=lambda item: item.first_lsn
    ):
        if entry.first_lsn != position or entry.last_lsn - entry.first_lsn + 1 != entry.commits:
            return False
        position = entry.last_lsn + 1
    return position == new.flushed_lsn + 1


def _bulk_rows_have_their_commit(_old: Manifest, new: Manifest) -> bool:
    return all(entry.last_lsn <= new.flushed_lsn for entry in new.segments)


def write_first(
    files: Files,
    directory: Dir,
    manifest: Manifest,
    created_ns: int,
    unknown: dict[str, object] | None = None,
) -> None:
    """Write the first manifest of a collection and its collection.json into `directory`, durably.

    unknown: fields of a manifest before it that this version does not know. Raises `OSError`.
    """
    manifests = files.open_directory(directory, names.MANIFESTS)
    try:
        write_file(files, manifests, names.manifest_name(1), [seal_json(manifest, unknown)])
    finally:
        files.close_directory(manifests)
    created = CollectionFile(
        uuid=manifest.collection_uuid, created_ns=created_ns, schema=manifest.schema
    )
    write_file(files, directory, names.COLLECTION_FILE, [seal_json(created)])


INVARIANTS = (
    _generation_follows,
    _identity_stays,
    _nothing_goes_back,
    _rows_are_covered,
    _commits_are_covered,
    _bulk_rows_have_their_commit,
)


def check_invariants(old: Manifest, new: Manifest) -> None:
    """Assert every invariant of a swap from `old` to `new`."""
    for invariant in INVARIANTS:
        assert invariant(old, new), f"manifest {new.generation}: {invariant.__name__}"


def check_coverage(first: Manifest) -> None:
    """Assert what holds for the first manifest of a collection that was not made empty."""
    for invariant in (_rows_are_covered, _commits_are_covered, _bulk_rows_have_their_commit):
        assert invariant(first, first), f"fork: {invariant.__name__}"


def install(
    store: Store, reason: str, segments: Sequence[SegmentEntry], **changes: Any
) -> Manifest:
    """Write the manifest that follows the store's; durable on return. The view is not changed.

    Raises:
        DiskFullError: nothing was installed; try again with more space.
        OutcomeUnknownError: it may have been installed; writes must stop.
        HandleError: `fenced`; nothing was installed.
    """
    old = store.manifest
    environment = store.environment
    new = msgspec.structs.replace(
        old,
        generation=max(old.generation, store.generation_floor) + 1,
        epoch=int(store.epoch),
        parent_digest=store.manifest_digest,
        reason=reason,
        created_ns=environment.clock.wall_ns(),
        segments=list(segments),
        **changes,
    )
    check_invariants(old, new)
    data = seal_json(new, store.manifest_unknown)
    name = names.manifest_name(new.generation)
    files, directory = environment.files, store.directories.manifests
    environment.check_right()
    try:
        write_file(files, directory, name, [data])
    except OSError as error:
        try:
            absent = files.stat(directory, name) is None
        except OSError:
            absent = False
        if absent and is_disk_full(error):
            raise write_failed(f"installing manifest {name}", error) from error
        raise OutcomeUnknownError(
            Code.OUTCOME_UNKNOWN,
            f"installing manifest {name} failed ({error.strerror}); no acknowledged write is "
            "affected, but writes stop until the data directory is opened again",
        ) from error
    store.previous_manifest = old
    store.manifest_digest = digest(data.partition(b"\n")[0]).hex()
    store.manifest_bytes = data
    return new


def schema_of(entry: SchemaEntry) -> Schema:
    """Return the schema a manifest states."""
    return Schema(entry.dimension, Metric(entry.metric), VectorType(entry.vector_type))


def schema_entry(schema: Schema) -> SchemaEntry:
    """Return the form of a schema that manifests state."""
    return SchemaEntry(schema.dimension, str(schema.metric), str(schema.vector_type))
