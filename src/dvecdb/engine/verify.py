"""Reading every stored byte of a collection and naming what is damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dvecdb.engine.storage import read_file
from dvecdb.formats import names
from dvecdb.formats.batch import batch_tag, decode_batch
from dvecdb.formats.framing import FormatError
from dvecdb.formats.manifest_file import decode_collection_file, decode_manifest
from dvecdb.formats.wal_record import Kind, scan
from dvecdb.records import Finding

if TYPE_CHECKING:
    from dvecdb.engine.store import Store
    from dvecdb.formats.wal_record import Found


def verify_store(store: Store) -> tuple[int, int]:
    """Check segments, manifests, collection.json and logs; return blocks and bytes read.

    Damage becomes findings, as what the disk refuses to read does. Runs beside writers: of the
    active log it reads what is synced.
    """
    blocks = size = 0
    with store.maintenance_lock:  # nothing is reclaimed meanwhile
        for segment in store.view.segments:
            found = segment.verify()
            blocks, size = blocks + found[0], size + found[1]
        for check in (_verify_metadata, _verify_logs):
            try:
                found = check(store)
            except OSError as error:
                where = check.__name__.removeprefix("_verify_")
                _report(store, "read-failed", where, f"{where}: {error.strerror}; not verified")
                continue
            blocks, size = blocks + found[0], size + found[1]
    return blocks, size


def _verify_metadata(store: Store) -> tuple[int, int]:
    files, directories = store.environment.files, store.directories
    kept = {item.generation for item in (store.manifest, store.previous_manifest) if item}
    blocks = size = 0
    for generation in sorted(kept):
        name = names.manifest_name(generation)
        where = f"{names.MANIFESTS}/{name}"
        try:
            data = read_file(files, directories.manifests, name)
            decode_manifest(data)
            blocks, size = blocks + 1, size + len(data)
        except (FormatError, FileNotFoundError) as error:
            _report(store, "manifest-damaged", where, f"{where}: {error}")
    try:
        data = read_file(files, directories.root, names.COLLECTION_FILE)
        decode_collection_file(data)
        blocks, size = blocks + 1, size + len(data)
    except (FormatError, FileNotFoundError) as error:
        where = f"{store.name}/{names.COLLECTION_FILE}"
        _report(store, "collection-file-damaged", where, f"{where}: {error}")
    return blocks, size


def _verify_logs(store: Store) -> tuple[int, int]:
    """Check the records of all logs up to the newest published commit."""
    files, directory = store.environment.files, store.directories.wal
    flushed, last_lsn = store.manifest.flushed_lsn, store.visible.lsn
    blocks = size = 0
    for name in files.list_names(directory):
        if names.parse_wal_name(name) is None:
            continue
        data = read_file(files, directory, name)
        for found in scan(data).records:
            if found.head.kind is Kind.BATCH and flushed < found.head.lsn <= last_lsn:
                blocks, size = blocks + 1, size + found.head.size
                _verify_batch(store, f"{names.WAL}/{name}", found, memoryview(data))
    return blocks, size


def _verify_batch(store: Store, where: str, found: Found, log: memoryview) -> None:
    place = f"{where} commit {found.head.lsn}"
    for copy in found.repaired:
        _report(store, "control-copy-damaged", f"{place} {copy}", f"{place} {copy}: damaged")
    start = found.offset + found.head.data_offset
    data = log[start : start + found.head.data_size]
    try:
        if found.control is None:
            raise FormatError("control data is damaged in both copies")
        batch = decode_batch(found.control, data, batch_tag(found.head.tag, found.head.lsn))
    except FormatError as error:
        _report(
            store, "wal-damaged", place, f"{place}: {error}", "the commit, unless it is flushed"
        )
        return
    if batch.lost_vectors or batch.lost_metadata:
        message = f"{place}: {len(batch.lost_vectors) or len(batch.lost_metadata)} rows are damaged"
        _report(store, "rows-lost", place, message, "these rows, unless they were flushed")


def _report(store: Store, code: str, where: str, message: str, lost: str | None = None) -> None:
    store.report(Finding(code, store.name, where, message, lost))
