"""Golden bytes: what is on disks. A test here that had to be edited is a changed format."""

import msgspec
import numpy as np
import pytest
from tests.golden import make, trees

import dvecdb
from dvecdb.api.audit import AuditEntry
from dvecdb.api.keys import KeyStore
from dvecdb.cli.dump import is_damaged
from dvecdb.engine.lock import LockContent, read_content
from dvecdb.formats import segment_file as sf
from dvecdb.formats import wal_record
from dvecdb.formats.batch import batch_tag, decode_batch
from dvecdb.formats.columns import block_checksums, block_rows
from dvecdb.formats.describe import companion, describe
from dvecdb.formats.framing import decode_sections, digest, tag_of
from dvecdb.formats.index_file import decode_index
from dvecdb.formats.lookup_file import decode_lookup, encode_lookup
from dvecdb.formats.manifest_file import (
    decode_backup_file,
    decode_collection_file,
    decode_deletion_file,
    decode_manifest,
    decode_verification_file,
)
from dvecdb.formats.server_file import (
    ImportReportFile,
    KeyFile,
    RevocationFile,
    TaskEndFile,
    TaskStartFile,
    decode_audit_header,
    decode_line,
    decode_sealed,
)
from dvecdb.formats.wal_record import Kind
from dvecdb.media.files import OsFiles
from dvecdb.testing.clocks import ManualClock

pytestmark = pytest.mark.compat

NAMES = sorted(make.golden_files())
LOG_NAME = "0000000007-0000000000000041.wal"


def golden(name: str) -> bytes:
    return (make.FILES / name).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_encoders_reproduce_the_golden_bytes(name):
    assert make.golden_files()[name] == golden(name), f"see: dvecdb dump {make.FILES / name}"


def test_every_golden_file_has_its_encoder():
    assert sorted(path.name for path in make.FILES.iterdir()) == NAMES


# --- the log ---------------------------------------------------------------------------------


def assert_same_batch(found, expected):
    for name in ("first_row", "row_count", "vector_bytes", "wall_ns", "ids", "metadata", "bulk"):
        assert getattr(found, name) == getattr(expected, name), name
    assert bytes(found.vectors) == bytes(expected.vectors)
    assert found.ends.tolist() == expected.ends.tolist()
    assert found.note == expected.note
    assert found.documents == expected.documents
    assert (found.lost_vectors, found.lost_metadata) == ([], [])


def test_the_golden_log_decodes_to_the_same_values():
    log = golden(LOG_NAME)
    found = wal_record.scan(log)
    assert found.header == make.log_header()
    assert found.gaps == []
    assert [int(record.head.kind) for record in found.records] == [3, 1, 1, 2, 4]
    assert [record.head.lsn for record in found.records] == [40, 41, 42, 42, 42]
    assert [record.head.durable_lsn for record in found.records] == [40, 40, 41, 42, 42]
    assert all(record.whole and not record.repaired for record in found.records)
    hashes = [make.log_header().previous, *(record.hash for record in found.records)]
    assert [record.head.previous for record in found.records] == hashes[:-1]
    for record, expected in zip(
        [item for item in found.records if item.head.kind is Kind.BATCH],
        [make.full_batch(), make.bulk_batch()],
        strict=True,
    ):
        start = record.offset + record.head.data_offset
        data = memoryview(log)[start : start + record.head.data_size]
        tag = batch_tag(make.LOG_TAG, int(record.head.lsn))
        assert_same_batch(decode_batch(record.control, data, tag), expected)


def test_the_golden_manifest_record_holds_the_manifest():
    found = wal_record.scan(golden(LOG_NAME)).records[0]
    assert decode_manifest(decode_sections(found.control)[1]).manifest == make.manifest()


# --- segments --------------------------------------------------------------------------------


def test_the_golden_segment_decodes_to_the_same_values():
    records, vectors, written_digest = make.segment_files()
    assert digest(records[128 : 128 + sf.decode_head(records[:128]).control_size]).hex() == (
        written_digest
    )
    data = memoryview(golden("records.bin"))
    head = sf.decode_head(data[:128])
    assert head == sf.decode_head(data[-128:])
    assert (head.segment_uuid, head.collection_uuid) == (make.SEGMENT_UUID, make.COLLECTION_UUID)
    assert (head.file_size, head.vectors_size) == (len(data), len(vectors))
    control = data[128 : 128 + head.control_size]
    second = data[head.second_control_offset :][: head.control_size]
    assert control == second
    assert sf.control_checksum(control, head.segment_uuid) == head.control_checksum
    sections = decode_sections(control)
    descriptor = sf.decode_descriptor(sections[sf.DESCRIPTOR])
    assert (descriptor.rows, descriptor.dimension, descriptor.vector_type) == (2, 2, "float32")
    assert (descriptor.first_lsn, descriptor.commits, descriptor.codec) == (41, 1, "none")
    assert np.frombuffer(sections[sf.ENDS_ROWS], np.uint64).tolist() == [3, 17]
    assert np.frombuffer(sections[sf.LOST_METADATA], np.uint32).tolist() == [1]
    body = data[head.body_offset : head.body_offset + head.body_size]
    assert sorted(descriptor.columns) == ["ids", "ids_offsets", "metadata", "metadata_offsets"]
    ids = descriptor.columns["ids"]
    assert bytes(body[ids.offset : ids.offset + ids.size]) == "aä-2".encode()
    for blocks, content, size in (
        (sf.BODY_PAGES, body, sf.PAGE_BYTES),
        (sf.VECTOR_BLOCKS, vectors, block_rows(8) * 8),
    ):
        expected = np.frombuffer(sections[blocks], np.uint64).tolist()
        assert block_checksums(content, size, tag_of(make.SEGMENT_UUID)) == expected


def test_the_golden_segment_with_gaps_says_which_rows_it_has():
    data = golden("records_with_gaps.bin")
    head = sf.decode_head(data[:128])
    assert head.required_features == sf.FEATURE_ROW_NUMBERS == 1
    sections = decode_sections(data[128 : 128 + head.control_size])
    assert tuple(np.frombuffer(sections[sf.ROW_NUMBERS], np.uint64).tolist()) == make.WITH_GAPS
    whole = sf.decode_head(golden("records.bin")[:128])
    assert (whole.required_features, whole.vectors_size) == (0, head.vectors_size)


def test_vectors_bin_is_nothing_but_the_numbers():
    assert np.fromfile(make.FILES / "vectors.bin", "<f4").tolist() == make.VECTORS.ravel().tolist()


# --- the small files -------------------------------------------------------------------------


def test_the_golden_json_files_decode_to_the_same_values():
    decoded = decode_manifest(golden("manifest.json"))
    assert decoded.manifest == make.manifest()
    assert decoded.unknown == {"from_the_future": {"kept": True}}
    assert decode_collection_file(golden("collection.json")) == make.collection_file()
    assert decode_deletion_file(golden("deletion.json")) == make.deletion_file()
    assert decode_backup_file(golden("backup.json")) == make.backup_file()
    assert decode_verification_file(golden("verification.json")) == make.verification_file()


def test_the_golden_lookup_decodes_to_the_same_values():
    found = decode_lookup(memoryview(golden("lookup.idx")))
    assert b"".join(map(bytes, encode_lookup(found))) == golden("lookup.idx")
    assert sorted(found.rows.tolist()) == [100, 101, 102, 103]
    assert (found.first_row, found.row_end) == (100, 104)


def test_the_golden_index_decodes_to_the_same_values():
    found, made = decode_index(memoryview(golden("index.ivf"))), make.stored_index()
    assert (found.collection_uuid, found.lineage, found.row_end) == (
        made.collection_uuid, made.lineage, made.row_end,
    )  # fmt: skip
    assert found.header == made.header
    assert found.numbers.tolist() == made.numbers.tolist()
    assert found.codes.tolist() == made.codes.tolist()


def test_the_golden_lock_says_who_wrote_it():
    assert read_content(golden("LOCK")) == make.lock_content()
    assert isinstance(make.lock_content(), LockContent)


def test_the_golden_files_of_a_server_decode_to_the_same_values():
    assert decode_sealed(golden("key.json"), KeyFile) == make.key_file()
    assert decode_sealed(golden("revocation.json"), RevocationFile) == make.revocation_file()
    assert decode_sealed(golden("task_start.json"), TaskStartFile) == make.task_start_file()
    assert decode_sealed(golden("task_end.json"), TaskEndFile) == make.task_end_file()
    found = decode_sealed(golden("import_report.json"), ImportReportFile)
    assert found == make.import_report_file()
    header, entry, rest = golden("audit.jsonl").split(b"\n")
    assert decode_audit_header(header) == make.audit_header()
    assert msgspec.convert(decode_line(entry), AuditEntry) == make.audit_entry()
    assert rest == b""


def test_the_golden_key_lets_its_token_in(tmp_path):
    (tmp_path / f"{make.key_file().id}.json").write_bytes(golden("key.json"))
    files = OsFiles()
    store = KeyStore(
        files, files.open_root(str(tmp_path), create=False), clock=ManualClock(make.CREATED_NS)
    )
    store.refresh()
    assert store.find(make.TOKEN).name == "ingest"
    store.close()


# --- a data directory ------------------------------------------------------------------------


def assert_docs(docs, expected, as_of=None):
    assert docs.count(as_of=as_of) == len(expected)
    records = {record.id: record for record in docs.scan(as_of=as_of, with_vectors=True)}
    assert records.keys() == expected.keys()
    for key, (vector, metadata, lsn) in expected.items():
        assert records[key].vector.tobytes() == np.array(vector, np.float32).tobytes()
        assert (records[key].metadata, records[key].lsn) == (metadata, lsn)
        (found,) = docs.get([key], as_of=as_of)
        assert found.vector.tobytes() == records[key].vector.tobytes()


@pytest.mark.parametrize("read_only", [True, False])
def test_the_golden_data_directory_opens_with_every_row(tmp_path, read_only):
    path = trees.copy_of_golden(tmp_path / "data")
    with dvecdb.open(path, read_only=read_only) as database:
        assert database.findings() == []
        assert database.collections() == ["codes", "docs"]
        docs, codes = database.collection("docs"), database.collection("codes")
        assert (docs.schema.dimension, docs.schema.metric) == (4, "euclidean")
        assert_docs(docs, make.DOCS)
        assert_docs(docs, make.DOCS_AT_2, as_of=2)
        assert docs.documents.get("job", "cursor") == make.DOCUMENT
        assert docs.documents.get("job", "cursor", as_of=3) is None
        assert [hit.id for hit in docs.search(make.DOCS["b"][0], limit=1)] == ["b"]
        stored = {record.id: record.vector.tolist() for record in codes.scan(with_vectors=True)}
        assert stored == make.CODES
        assert docs.verify().ok


def test_the_golden_data_directory_can_be_written_and_read_again(tmp_path):
    path = trees.copy_of_golden(tmp_path / "data")
    for number in range(3):
        with dvecdb.open(path) as database:
            docs = database.collection("docs")
            repeated = docs.upsert(
                ids=["ä-long"],
                vectors=[make.DOCS["ä-long"][0]],
                metadata=[make.DOCS["ä-long"][1]],
                idempotency_key="once",
            )
            assert repeated.lsn == 5
            assert docs.upsert(ids=[f"new-{number}"], vectors=[[number] * 4]).lsn == 6 + number
            docs.flush()
    with dvecdb.open(path, read_only=True) as database:
        docs = database.collection("docs")
        assert_docs(docs, make.DOCS, as_of=5)
        assert docs.count() == len(make.DOCS) + 3
        assert database.findings() == []


def test_nothing_in_the_golden_files_reads_as_damage():
    for path in (*make.FILES.iterdir(), *make.DATA_DIRECTORY.rglob("*")):
        if not path.is_file() or path.name.startswith("wal_"):
            continue
        beside = {}
        other = companion(path.name)
        if other is not None:
            beside[other] = (path.parent / other).read_bytes()
        described = describe(path.read_bytes(), path.name, beside=beside)
        expected = path.parent == make.FILES and path.name == "records.bin"  # it names a lost row
        assert is_damaged(described) == expected, path
