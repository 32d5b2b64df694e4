"""Fixed values in every format, and the files made of them.

`python -m tests.golden.make --force` writes the golden files anew. It never runs in CI: golden
files that changed are a changed format, and CONTRIBUTING.md says what that takes.
"""

import hashlib
import json
import shutil
import sys
import tempfile
from itertools import count
from pathlib import Path
from uuid import UUID

import numpy as np

from dvecdb.api.audit import AuditEntry
from dvecdb.clock import NANOSECONDS_PER_SECOND
from dvecdb.engine.lock import LockContent, _encode
from dvecdb.engine.segment_writer import ByteColumn, SegmentContent, write_segment
from dvecdb.formats import segment_file as sf
from dvecdb.formats.batch import Batch, BulkReference, batch_tag, encode_batch
from dvecdb.formats.columns import encode_document, encode_texts
from dvecdb.formats.framing import encode_sections, tag_of
from dvecdb.formats.index_file import IndexHeader, StoredIndex, encode_index
from dvecdb.formats.lookup_file import LookupTable, encode_lookup, hash_ids
from dvecdb.formats.manifest_file import (
    BackupFile,
    CollectionFile,
    DeletionFile,
    Manifest,
    SchemaEntry,
    SegmentEntry,
    VerificationFile,
    seal_json,
)
from dvecdb.formats.server_file import (
    AuditHeader,
    ImportReportFile,
    KeyFile,
    RevocationFile,
    TaskEndFile,
    TaskStartFile,
    encode_line,
)
from dvecdb.formats.wal_record import FileHeader, Kind, encode_file_header, encode_record
from dvecdb.media.files import OsFiles
from dvecdb.records import Epoch, Lsn, Metric, Schema, VectorType
from dvecdb.reports import Doubt, ImportReport, Lost, Unreadable
from dvecdb.rescue.database import Database
from dvecdb.settings import Settings
from dvecdb.testing.clocks import ManualClock

HERE = Path(__file__).parent
FILES = HERE / "files"
DATA_DIRECTORY = HERE / "data_directory"

CREATED_NS = 1_767_323_045_000_000_000  # 2026-01-02T03:04:05Z
COLLECTION_UUID = UUID("c0000000-0000-4000-8000-000000000001")
LINEAGE = UUID("11000000-0000-4000-8000-000000000002")
LOG_UUID = UUID("a1000000-0000-4000-8000-000000000003")
SEGMENT_UUID = UUID("5e000000-0000-4000-8000-000000000004")
BULK_UUID = UUID("5e000000-0000-4000-8000-000000000005")
EPOCH, FIRST_LSN, FIRST_ROW = 7, 41, 100
LOG_TAG = tag_of(LOG_UUID)

# --- the values ------------------------------------------------------------------------------


def manifest() -> Manifest:
    return Manifest(
        optional_features=4,
        generation=3,
        epoch=EPOCH,
        collection_uuid=str(COLLECTION_UUID),
        lineage=str(LINEAGE),
        parent_lineage="11000000-0000-4000-8000-000000000001",
        parent_lsn=12,
        parent_digest="0f" * 32,
        reason="flush",
        created_ns=CREATED_NS,
        schema=SchemaEntry(2, "cosine", "float32"),
        config={"note": "kept"},
        segments=[
            SegmentEntry(
                directory=f"{0:016d}-{40:016d}-{SEGMENT_UUID.hex}",
                uuid=SEGMENT_UUID.hex,
                digest="1e" * 32,
                first_row=0,
                row_end=FIRST_ROW,
                first_lsn=1,
                last_lsn=FIRST_LSN - 1,
                commits=FIRST_LSN - 1,
                records_bytes=8192,
                vectors_bytes=800,
            )
        ],
        flushed_lsn=FIRST_LSN - 1,
        flushed_hash=0x0123456789ABCDEF,
        row_end=FIRST_ROW,
        horizon_lsn=2,
        hlc=CREATED_NS + 5,
    )


def collection_file() -> CollectionFile:
    return CollectionFile(
        uuid=str(COLLECTION_UUID),
        created_ns=CREATED_NS,
        schema=SchemaEntry(2, "cosine", "float32"),
    )


def deletion_file() -> DeletionFile:
    return DeletionFile(
        name="docs",
        uuid=str(COLLECTION_UUID),
        deleted_ns=CREATED_NS,
        actor="ann",
        reason="by mistake",
        expires_ns=CREATED_NS + 86_400 * NANOSECONDS_PER_SECOND,
        rows=3,
        size_bytes=4096,
    )


def backup_file() -> BackupFile:
    return BackupFile(
        name="docs",
        uuid=str(COLLECTION_UUID),
        lineage=str(LINEAGE),
        lsn=41,
        created_ns=CREATED_NS,
        rows=3,
        size_bytes=384,
        files={"collection.json": 128, "wal/0000000007-0000000000000041.wal": 256},
        reason="before undo",
        actor="ann",
        automatic=True,
    )


def verification_file() -> VerificationFile:
    return VerificationFile(
        verified_ns=CREATED_NS, ok=False, findings=["docs_20260102_030407/x: missing"]
    )


def lock_content() -> LockContent:
    return LockContent(epoch=EPOCH, owner=str(LINEAGE), pid=4711, host="example")


def log_header() -> FileHeader:
    return FileHeader(
        file_uuid=LOG_UUID,
        collection_uuid=COLLECTION_UUID,
        lineage=LINEAGE,
        epoch=Epoch(EPOCH),
        first_lsn=Lsn(FIRST_LSN),
        previous=0x0123456789ABCDEF,
        created_ns=CREATED_NS,
    )


def lookup_table() -> LookupTable:
    hashes = hash_ids(["a", "ä", "b", "a"])
    order = np.argsort(hashes, kind="stable")
    return LookupTable(
        COLLECTION_UUID, LINEAGE, 100, 104, hashes[order], (order + 100).astype(np.uint64)
    )


def stored_index() -> StoredIndex:
    """An index whose codes are no index: what faiss writes is its own affair."""
    header = IndexHeader(
        dimension=2, metric="dot_product", vector_type="float16", reach=1.5, horizon_lsn=3,
        trained_rows=90,
        efforts=[(1, 16, 0.75), (4, 800, 1.0)], zeros=[], apart=[7, 98],
    )  # fmt: skip
    numbers, codes = np.arange(98, 0, -7, dtype=np.int64)[::-1], np.arange(40, dtype=np.uint8)
    return StoredIndex(COLLECTION_UUID, LINEAGE, 100, header, numbers, codes)


VECTORS = np.array([[0.5, -1.25], [3.0, 1e-3]], np.float32)


def full_batch() -> Batch:
    """A batch that uses every section but the bulk one."""
    return Batch(
        first_row=FIRST_ROW,
        row_count=2,
        vector_bytes=8,
        wall_ns=CREATED_NS + 1,
        ids=["a", "ä-2"],
        vectors=VECTORS.tobytes(),
        metadata=[b'{"n":1}', b""],
        ends=np.array([3, 17], np.uint64),
        note=b'{"op":"upsert","actor":"ann"}',
        documents=[("job", "cursor", b'{"at":2}'), ("job", "old", None)],
    )


def bulk_batch() -> Batch:
    return Batch(
        first_row=FIRST_ROW + 2,
        row_count=5,
        vector_bytes=8,
        wall_ns=CREATED_NS + 2,
        ids=[],
        vectors=b"",
        metadata=None,
        note=b'{"op":"upsert"}',
        bulk=BulkReference(BULK_UUID.hex, "b0" * 32, f"{102:016d}-{42:016d}-{BULK_UUID.hex}"),
    )


# --- the bytes -------------------------------------------------------------------------------


def record(kind, lsn, previous, control, data=(), data_size=0, durable_lsn=FIRST_LSN - 1):
    """Return the bytes of a record and its hash."""
    buffers, size, own = encode_record(
        kind,
        tag=LOG_TAG,
        lsn=lsn,
        epoch=EPOCH,
        durable_lsn=durable_lsn,
        previous=previous,
        hlc=CREATED_NS + lsn,
        control=control,
        data=data,
        data_size=data_size,
    )
    joined = b"".join(buffers)
    assert len(joined) == size
    return joined, own


def batch_record(batch, lsn, previous, durable_lsn=FIRST_LSN - 1):
    control, data, size = encode_batch(batch, batch_tag(LOG_TAG, lsn))
    return record(Kind.BATCH, lsn, previous, control, data, size, durable_lsn)


def manifest_record(previous):
    control = encode_sections({1: seal_json(manifest())})
    return record(Kind.MANIFEST, FIRST_LSN - 1, previous, control)


def note_record(kind, lsn, previous):
    return record(kind, lsn, previous, encode_sections({}), durable_lsn=lsn)


def small_log():
    """Return a whole log as a list of its parts: header, five records, reserved zeros."""
    parts = [encode_file_header(log_header())]
    own = log_header().previous
    for make in (
        manifest_record,
        lambda previous: batch_record(full_batch(), FIRST_LSN, previous),
        lambda previous: batch_record(bulk_batch(), FIRST_LSN + 1, previous, FIRST_LSN),
        lambda previous: note_record(Kind.MARKER, FIRST_LSN + 1, previous),
        lambda previous: note_record(Kind.SEAL, FIRST_LSN + 1, previous),
    ):
        data, own = make(own)
        parts.append(data)
    return [*parts, bytes(64)]


def segment_files(row_numbers=None):
    """Return the two files of a segment, written as the engine writes them, and its digest.

    row_numbers: of its two rows, if others between them were dropped.
    """
    ids, metadata = ["a", "ä-2"], [b'{"n":1}', b""]
    sizes, joined = encode_texts(ids)
    document = encode_document(("job", "cursor", b'{"at":2}'))
    note = b'{"op":"upsert","actor":"ann"}'

    def u64(*values):
        return np.array(values, np.uint64).tobytes()

    content = SegmentContent(
        rows=2,
        vectors=[VECTORS.tobytes()],
        ids=ByteColumn(sizes, [joined]),
        metadata=ByteColumn(np.array([7, 0], np.uint32), [b"".join(metadata)]),
        first_lsn=FIRST_LSN,
        commits=1,
        control={
            sf.ENDS_ROWS: u64(3, 17),
            sf.ENDS_LSNS: u64(FIRST_LSN, FIRST_LSN),
            sf.COMMIT_ROW_ENDS: u64(FIRST_ROW + 2),
            sf.COMMIT_HLCS: u64(CREATED_NS + FIRST_LSN),
            sf.COMMIT_WALLS: u64(CREATED_NS + 1),
            sf.NOTE_SIZES: np.array([len(note)], np.uint32).tobytes(),
            sf.NOTES: note,
            sf.DOCUMENT_HASHES: u64(int(hash_ids(["job\0cursor"])[0])),
            sf.DOCUMENT_LSNS: u64(FIRST_LSN),
            sf.DOCUMENT_SIZES: np.array([len(document)], np.uint32).tobytes(),
            sf.DOCUMENTS: document,
            sf.LOST_METADATA: np.array([1] if row_numbers is None else [], np.uint32).tobytes(),
        },
        row_numbers=None if row_numbers is None else np.array(row_numbers, np.int64),
    )
    schema = Schema(2, Metric.COSINE, VectorType.FLOAT32)
    files = OsFiles()
    with tempfile.TemporaryDirectory() as place:
        root = files.open_root(place, create=False)
        written = write_segment(files, root, content, schema, SEGMENT_UUID, COLLECTION_UUID)
        files.close_directory(root)
        at = Path(place) / written.partial_name
        return (
            (at / "records.bin").read_bytes(),
            (at / "vectors.bin").read_bytes(),
            written.digest,
        )


# --- what a server keeps ---------------------------------------------------------------------

TOKEN = "dvk_00112233aabb_" + "A" * 43  # the key that key_file() is of


def key_file() -> KeyFile:
    salt = bytes(range(32))
    return KeyFile(
        id="00112233aabb", name="ingest", scopes=["read", "write"], collections=["docs*"],
        created_ns=CREATED_NS, expires_ns=CREATED_NS + 86_400 * NANOSECONDS_PER_SECOND,
        salt=salt.hex(), secret_sha256=hashlib.sha256(salt + TOKEN[17:].encode()).hexdigest(),
    )  # fmt: skip


def revocation_file() -> RevocationFile:
    return RevocationFile(id="00112233aabb", revoked_ns=CREATED_NS)


def task_start_file() -> TaskStartFile:
    return TaskStartFile(
        id="0000000007", kind="verify", collection="docs", key="ingest", request_id="r-1",
        queued_ns=CREATED_NS,
    )  # fmt: skip


def task_end_file() -> TaskEndFile:
    return TaskEndFile(
        id="0000000007", state="failed", ended_ns=CREATED_NS, result=None,
        error={"code": "damaged-data", "message": "block 7", "advice": "restore", "details": {}},
    )  # fmt: skip


def import_report_file() -> ImportReportFile:
    doubt = Doubt(
        id="00112233-4455-6677-8899-aabbccddeeff", file="vectors.bin", offset=71, why="ambiguous",
        text="2 readings", raw="0100",
    )  # fmt: skip
    report = ImportReport(
        source="/old/docs", name="docs", generation="A+C", dimension=2, metric="cosine",
        records_found=4, imported=2, exact=1, superseded=1, doubtful=[doubt],
        lost=[Lost(file="vectors.bin", start=142, end=213, why="overwritten")],
        deleted_by_log=["b"], dropped_by_log=["docs"],
        unreadable=[Unreadable(file="wal", why="Permission denied")], notes=["änn"],
        bytes_used=284, bytes_good=213,
    )  # fmt: skip
    return ImportReportFile(
        id="0000000007", owner="docs", name="docs", replaced="docs_20260102_030405",
        seconds=0.25, finished_ns=CREATED_NS, report=report,
    )  # fmt: skip


def audit_header() -> AuditHeader:
    return AuditHeader(number=7, created_ns=CREATED_NS, counts_until={"6": 4096})


def audit_entry() -> AuditEntry:
    return AuditEntry(
        when="2026-01-02T03:04:05.000000Z", key="ingest", address="10.0.0.7", method="DELETE",
        operation="delete_collection", collection="docs", rows=2, lsn=41, status=200, code=None,
        request_id="r-1", actor="änn", reason=None,
    )  # fmt: skip


WITH_GAPS = (FIRST_ROW - 2, FIRST_ROW + 1)


def golden_files():
    """Return the bytes of every golden file by name."""
    log = small_log()
    names = ["wal_header", "wal_manifest", "wal_batch", "wal_bulk", "wal_marker", "wal_seal"]
    records, vectors, _ = segment_files()
    with_gaps = segment_files(WITH_GAPS)[0]
    return {
        **{f"{name}.bin": part for name, part in zip(names, log, strict=False)},
        f"{EPOCH:010d}-{FIRST_LSN:016d}.wal": b"".join(log),
        "records.bin": records,
        "records_with_gaps.bin": with_gaps,
        "vectors.bin": vectors,
        "manifest.json": seal_json(manifest(), {"from_the_future": {"kept": True}}),
        "collection.json": seal_json(collection_file()),
        "deletion.json": seal_json(deletion_file()),
        "backup.json": seal_json(backup_file()),
        "verification.json": seal_json(verification_file()),
        "lookup.idx": b"".join(map(bytes, encode_lookup(lookup_table()))),
        "index.ivf": b"".join(map(bytes, encode_index(stored_index()))),
        "LOCK": _encode(lock_content()),
        "key.json": seal_json(key_file()),
        "revocation.json": seal_json(revocation_file()),
        "task_start.json": seal_json(task_start_file()),
        "task_end.json": seal_json(task_end_file()),
        "import_report.json": seal_json(import_report_file()),
        "audit.jsonl": encode_line(audit_header()) + encode_line(audit_entry()),
    }


# --- a data directory ------------------------------------------------------------------------

DOCS = {  # id -> (vector, metadata, lsn), the newest state
    "a": ([1.0, 0.0, 0.5, -2.0], {"n": 1, "tags": ["x", "y"]}, 1),
    "b": ([0.25, 8.0, -0.125, 1e-3], None, 2),
    "ä-long": ([9.0, 9.5, -9.25, 0.0], {"text": "grüße"}, 5),
}
DOCS_AT_2 = {  # before c was deleted
    "a": DOCS["a"],
    "b": DOCS["b"],
    "c": ([3.0, 3.0, 3.0, 3.0], {}, 1),
}
CODES = {"k1": [-128, 0, 127], "k2": [1, 2, 3]}
DOCUMENT = {"at": 3, "file": "part-2"}


def write_data_directory(path: Path) -> None:
    """Write a data directory: flushed and unflushed commits, two types, one deleted collection."""
    numbers = count(1)
    clock = ManualClock(CREATED_NS)
    database = Database(
        str(path),
        settings=Settings(
            ballast_bytes=0, low_water_bytes=0, wal_reserve_bytes=64, wal_extend_bytes=64
        ),
        clock=clock,
        new_uuid=lambda: UUID(int=0xD0000000000040008000000000000000 + next(numbers)),
        background=False,
    )
    with database:
        docs = database.create_collection("docs", dimension=4, metric="euclidean")
        first = {key: DOCS_AT_2[key] for key in ("a", "c")}
        docs.upsert(
            ids=["a", "b", "c"],
            vectors=[first["a"][0], [7, 7, 7, 7], first["c"][0]],
            metadata=[first["a"][1], {"replaced": True}, first["c"][1]],
        )
        clock.advance(1)
        docs.upsert(ids=["b"], vectors=[DOCS["b"][0]])
        docs.flush()
        clock.advance(1)
        docs.delete(["c"], actor="ann", reason="outdated", request_id="r-1")
        docs.write(documents={("job", "cursor"): DOCUMENT})
        vector, metadata, _ = DOCS["ä-long"]
        docs.upsert(ids=["ä-long"], vectors=[vector], metadata=[metadata], idempotency_key="once")
        codes = database.create_collection("codes", dimension=3, vector_type="int8")
        codes.upsert(ids=list(CODES), vectors=list(CODES.values()))
        gone = database.create_collection("gone", dimension=1)
        gone.upsert(ids=["x"], vectors=[[1]])
        database.delete_collection("gone", actor="ann")
    (path / "LOCK").write_bytes(_encode(lock_content()))


def main() -> None:
    if "--force" not in sys.argv:
        sys.exit("golden files pin the format: pass --force if you mean to change it")
    for target in (FILES, DATA_DIRECTORY):
        shutil.rmtree(target, ignore_errors=True)
    FILES.mkdir()
    for name, data in golden_files().items():
        (FILES / name).write_bytes(data)
    write_data_directory(DATA_DIRECTORY)
    sizes = {
        at.relative_to(HERE).as_posix(): at.stat().st_size
        for at in sorted(HERE.rglob("*"))
        if at.is_file() and at.suffix != ".py"
    }
    print(json.dumps(sizes, indent=1))


if __name__ == "__main__":
    main()
