"""What a newer version may write: what is refused, what is accepted, what is carried on."""

import struct

import msgspec
import pytest
from tests.golden import make, trees

import dvecdb
from dvecdb.engine.lock import _encode
from dvecdb.errors import Code, DirectoryError
from dvecdb.formats import segment_file as sf
from dvecdb.formats import wal_record
from dvecdb.formats.batch import batch_tag, decode_batch, encode_batch
from dvecdb.formats.framing import (
    decode_sections,
    digest,
    encode_sections,
    padding,
)
from dvecdb.formats.manifest_file import (
    decode_collection_file,
    decode_deletion_file,
    decode_manifest,
    open_json,
    seal_json,
)

pytestmark = pytest.mark.compat

UNKNOWN = 1 << 40  # a feature bit that this version does not know
REQUIRED, OPTIONAL = 8, 16  # offsets of the feature bits in binary headers
VERSION = 4
DOCS = "collections/docs"
LOG = f"{DOCS}/wal/0000000001-0000000000000003.wal"


def bits(value):
    return struct.pack("<Q", value)


def rewrite(path, change):
    data = change(path.read_bytes())
    path.unlink()
    path.write_bytes(data)


def changed_json(**fields):
    return lambda data: seal_json({**open_json(data)[0], **fields})


def changed_log(offset, value):
    return lambda data: trees.reseal(data[:128], offset, value) + data[128:]


def changed_segment(offset, value):
    def change(data):
        head, tail = data[:128], data[-128:]
        resealed = trees.reseal(head, offset, value), trees.reseal(tail, offset, value)
        return resealed[0] + data[128:-128] + resealed[1]

    return change


def changed_lock(**fields):
    return lambda data: _encode(msgspec.structs.replace(make.lock_content(), **fields))


@pytest.fixture
def tree(tmp_path):
    return trees.copy_of_golden(tmp_path / "data")


def only(tree, pattern):
    (path,) = tree.glob(pattern)
    return path


REFUSALS = {
    "log, feature": (LOG, changed_log(REQUIRED, bits(UNKNOWN))),
    "log, version": (LOG, changed_log(VERSION, b"\2\0")),
    "segment, feature": (f"{DOCS}/segments/*/records.bin", changed_segment(REQUIRED, bits(2))),
    "segment, version": (f"{DOCS}/segments/*/records.bin", changed_segment(VERSION, b"\2\0")),
    "manifest, feature": (
        f"{DOCS}/manifests/000000000002.json",
        changed_json(required_features=UNKNOWN),
    ),
    "manifest, version": (f"{DOCS}/manifests/000000000002.json", changed_json(format_version=2)),
    "collection.json": (f"{DOCS}/collection.json", changed_json(required_features=1)),
    "LOCK, feature": ("LOCK", changed_lock(required_features=1)),
    "LOCK, version": ("LOCK", changed_lock(format_version=2)),
}


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("case", REFUSALS)
def test_what_only_a_newer_version_can_read_is_refused(tree, case, read_only):
    pattern, change = REFUSALS[case]
    rewrite(only(tree, pattern), change)
    before = {name: data for name, data in trees.tree_bytes(tree).items() if DOCS in name}
    with pytest.raises(DirectoryError) as caught:
        dvecdb.open(tree, read_only=read_only)
    assert caught.value.code == Code.FORMAT_TOO_NEW
    after = trees.tree_bytes(tree)
    assert {name: after[name] for name in before} == before


def test_a_deletion_file_of_a_newer_version_is_refused():
    data = seal_json(make.deletion_file(), {})
    with pytest.raises(DirectoryError) as caught:
        decode_deletion_file(changed_json(required_features=1)(data))
    assert caught.value.code == Code.FORMAT_TOO_NEW


ACCEPTED = {
    "log": (LOG, changed_log(OPTIONAL, bits(UNKNOWN))),
    "log, reserved": (LOG, changed_log(6, b"\xff\xff")),
    "log, reserved end": (LOG, changed_log(104, b"\xff" * 16)),
    "segment": (f"{DOCS}/segments/*/records.bin", changed_segment(OPTIONAL, bits(UNKNOWN))),
    "segment, reserved": (f"{DOCS}/segments/*/records.bin", changed_segment(6, b"\xff\xff")),
    "segment, reserved end": (f"{DOCS}/segments/*/records.bin", changed_segment(96, b"\xff" * 24)),
    "manifest": (
        f"{DOCS}/manifests/000000000002.json",
        changed_json(
            optional_features=UNKNOWN,
            pins=[{"name": "before-import", "lsn": 1}],
            tags=[{"name": "v1", "lsn": 2}],
            shard_id=3,
            shard_count=4,
            parity={"scheme": "xor"},
            archive={"lsn": 2},
            replicas=[{"url": "x"}],
            new_field=[1, 2],
        ),
    ),
    "collection.json": (f"{DOCS}/collection.json", changed_json(optional_features=1, more={})),
    "LOCK": ("LOCK", lambda data: changed_json(more=[1, {"x": 2}])(data.rstrip() + b"\n")),
}


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("case", ACCEPTED)
def test_what_may_be_ignored_is_accepted(tree, case, read_only):
    pattern, change = ACCEPTED[case]
    rewrite(only(tree, pattern), change)
    with dvecdb.open(tree, read_only=read_only) as database:
        docs = database.collection("docs")
        assert database.findings() == []
        stored = {record.id: record.vector.tolist() for record in docs.scan(with_vectors=True)}
        assert stored.keys() == make.DOCS.keys()


def test_reserved_fields_of_record_heads_may_be_set(tree):
    def edit(head):
        head[5:8] = b"\xff\xff\xff"
        head[60:64] = b"\xff\xff\xff\xff"

    rewrite(only(tree, LOG), lambda data: trees.rewrite_log(data, edit))
    with dvecdb.open(tree, read_only=True) as database:
        assert database.findings() == []
        assert database.collection("docs").count() == len(make.DOCS)


def test_reserved_fields_of_a_damaged_record_head_do_not_break_the_chain(tree):
    def edit(head):
        head[60:64] = b"\xff\xff\xff\xff"

    def change(data):
        data = bytearray(trees.rewrite_log(data, edit))
        second = wal_record.scan(bytes(data)).records[1]
        data[second.offset + 30] ^= 1
        return bytes(data)

    rewrite(only(tree, LOG), change)
    found = wal_record.scan(only(tree, LOG).read_bytes()).records
    assert found[1].repaired == ("head",)
    assert found[2].head.previous == found[1].hash


def test_unknown_sections_of_a_batch_are_ignored():
    batch, tag = make.full_batch(), batch_tag(make.LOG_TAG, 41)
    control, data, _ = encode_batch(batch, tag)
    sections = {**decode_sections(control), 10: b"vector references", 999: b"?"}
    found = decode_batch(encode_sections(sections), memoryview(b"".join(data)), tag)
    assert (found.ids, found.metadata, found.documents) == (
        batch.ids,
        batch.metadata,
        batch.documents,
    )


def test_unknown_sections_and_descriptor_fields_of_a_segment_are_ignored(tree):
    path = only(tree, f"{DOCS}/segments/*/records.bin")
    data = path.read_bytes()
    head = sf.decode_head(data[:128])
    body = data[head.body_offset :][: head.body_size]
    sections = dict(decode_sections(data[128 : 128 + head.control_size]))
    descriptor = msgspec.json.decode(sections[sf.DESCRIPTOR])
    sections[sf.DESCRIPTOR] = msgspec.json.encode(
        {**descriptor, "vector_fields": [{"id": 1, "kind": "sparse"}], "later": 1}
    )
    sections[20], sections[777] = b"presence", b"?"
    control = encode_sections(sections)
    changed = sf.SegmentHead(
        segment_uuid=head.segment_uuid,
        collection_uuid=head.collection_uuid,
        control_size=len(control),
        control_checksum=sf.control_checksum(control, head.segment_uuid),
        body_offset=sf.align_page(128 + len(control)),
        body_size=head.body_size,
        vectors_size=head.vectors_size,
    )
    first, last = sf.encode_head(changed)
    gap = bytes(changed.body_offset - 128 - len(control))
    parts = (first, control, gap, body, padding(len(body)), control, padding(len(control)), last)
    rewrite(path, lambda _: b"".join(parts))
    for manifest in (tree / DOCS / "manifests").glob("*2.json"):
        entries = open_json(manifest.read_bytes())[0]["segments"]
        entries[0]["digest"] = digest(control).hex()
        rewrite(manifest, changed_json(segments=entries))
    with dvecdb.open(tree, read_only=True) as database:
        assert database.findings() == []
        assert database.collection("docs").count() == len(make.DOCS)
        assert database.collection("docs").verify().ok


def test_unknown_manifest_fields_are_carried_to_the_next_manifest(tree):
    manifests = tree / DOCS / "manifests"
    future = {"policy": {"keep": [1, 2]}, "list": []}
    change = changed_json(
        optional_features=UNKNOWN, future=future, parity={"scheme": "xor"}, tags=[{"name": "v1"}]
    )
    rewrite(manifests / "000000000002.json", change)
    with dvecdb.open(tree) as database:
        docs = database.collection("docs")
        docs.upsert(ids=["new"], vectors=[[1, 2, 3, 4]])
        docs.flush()
    newest = decode_manifest(max(manifests.iterdir()).read_bytes())
    assert newest.manifest.generation > 2
    assert newest.unknown == {"future": future}
    assert newest.manifest.optional_features == UNKNOWN
    assert newest.manifest.parity == {"scheme": "xor"}
    assert newest.manifest.tags == [{"name": "v1"}]


def test_unknown_fields_of_the_small_files_are_ignored():
    later = {"later": {"x": 1}}
    assert decode_collection_file(seal_json(make.collection_file(), later)) == (
        make.collection_file()
    )
    assert decode_deletion_file(seal_json(make.deletion_file(), later)) == make.deletion_file()
