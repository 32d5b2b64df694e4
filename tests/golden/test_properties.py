"""Properties of the formats: what damage, truncation and garbage can and cannot do."""

import contextlib
import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.golden import make, trees

from dvecdb.errors import DirectoryError
from dvecdb.formats import segment_file as sf
from dvecdb.formats import wal_record
from dvecdb.formats.batch import Batch, batch_tag, decode_batch, encode_batch
from dvecdb.formats.columns import (
    METADATA_BLOCK_BYTES,
    block_checksums,
    block_rows,
    damaged_blocks,
    decode_documents,
    decode_texts,
    encode_documents,
    encode_texts,
)
from dvecdb.formats.describe import describe, text_lines
from dvecdb.formats.framing import (
    FormatError,
    decode_sections,
    digest,
    encode_sections,
)
from dvecdb.formats.index_file import decode_index
from dvecdb.formats.lookup_file import decode_lookup
from dvecdb.formats.manifest_file import (
    decode_backup_file,
    decode_collection_file,
    decode_deletion_file,
    decode_manifest,
    decode_verification_file,
    open_json,
    seal_json,
)
from dvecdb.formats.server_file import (
    KeyFile,
    decode_audit_header,
    decode_line,
    decode_sealed,
)
from dvecdb.formats.wal_record import Kind, scan

LOG = b"".join(make.small_log())
WHOLE = scan(LOG).records
LSNS = [(record.head.kind, record.head.lsn) for record in WHOLE]

texts = st.text(max_size=20)
documents = st.lists(
    st.tuples(texts, texts, st.none() | st.binary(max_size=50)),
    max_size=10,
)


def big_batch(rows=10, vector_bytes=16_384, metadata_bytes=5_000):
    """Return a batch of several blocks of vectors (4 rows each) and of metadata."""
    generator = np.random.default_rng(7)
    return Batch(
        first_row=0,
        row_count=rows,
        vector_bytes=vector_bytes,
        wall_ns=1,
        ids=[f"id-{number}" for number in range(rows)],
        vectors=generator.bytes(rows * vector_bytes),
        metadata=[b'"' + b"m" * metadata_bytes + b'"' for _ in range(rows)],
    )


BIG = big_batch()
BIG_LOG = b"".join(
    (
        wal_record.encode_file_header(make.log_header()),
        (first := make.batch_record(BIG, 41, make.log_header().previous))[0],
        (second := make.batch_record(make.full_batch(), 42, first[1]))[0],
        make.note_record(Kind.SEAL, 42, second[1])[0],
    )
)


def decoded(log, record):
    start = record.offset + record.head.data_offset
    data = memoryview(log)[start : start + record.head.data_size]
    tag = batch_tag(record.head.tag, int(record.head.lsn))
    return decode_batch(record.control, data, tag)


# --- one flipped bit -------------------------------------------------------------------------


def assert_nothing_but_data_is_lost(log, part):
    found = scan(log)
    assert [(record.head.kind, record.head.lsn) for record in found.records] == LSNS
    assert [record.hash for record in found.records] == [record.hash for record in WHOLE]
    assert all(record.control is not None for record in found.records)
    assert (found.header is None) == (part == "header")
    for record, whole in zip(found.records, WHOLE, strict=True):
        assert bytes(record.control) == bytes(whole.control)
        if record.head.kind is Kind.BATCH:
            batch = decoded(log, record)
            assert bool(batch.lost_vectors or batch.lost_metadata) == (
                part == "data" and (record.offset, record.head.lsn) == (whole.offset, 41)
            )


@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_anywhere_in_a_log_leaves_every_record_with_its_control_data(bit):
    regions = [region for region in trees.log_regions(LOG) if region[0] != "zeros"]
    for part, start, end, _ in regions:
        for offset in range(start, end):
            damaged = bytearray(LOG)
            damaged[offset] ^= 1 << bit
            assert_nothing_but_data_is_lost(bytes(damaged), part)


@given(st.integers(0, 8 * len(LOG) - 1))
def test_a_flipped_bit_is_shown_or_harmless_and_never_raised(position):
    damaged = bytearray(LOG)
    damaged[position // 8] ^= 1 << position % 8
    described = describe(bytes(damaged), "0000000007-0000000000000041.wal", vectors=1)
    assert [record["lsn"] for record in described["records"]] == [lsn for _, lsn in LSNS]
    assert text_lines(described)


def data_region(number):
    (region,) = [
        item for item in trees.log_regions(BIG_LOG) if item[0] == "data" and item[3] == number
    ]
    return region[1], region[2]


@given(st.data())
def test_a_flipped_bit_in_the_data_loses_the_rows_of_its_block_and_names_them(data):
    start, end = data_region(0)
    offset = data.draw(st.integers(0, end - start - 1))
    damaged = bytearray(BIG_LOG)
    damaged[start + offset] ^= 1 << data.draw(st.integers(0, 7))
    records = scan(bytes(damaged)).records
    assert [record.head.lsn for record in records] == [41, 42, 42]
    batch = decoded(bytes(damaged), records[0])
    vectors_end = len(BIG.vectors)
    if offset < vectors_end:
        rows = block_rows(BIG.vector_bytes)
        first = offset // (rows * BIG.vector_bytes) * rows
        assert batch.lost_vectors == list(range(first, min(first + rows, BIG.row_count)))
        assert batch.lost_metadata == []
    else:
        block = (offset - vectors_end) // METADATA_BLOCK_BYTES
        touched = range(block * METADATA_BLOCK_BYTES, (block + 1) * METADATA_BLOCK_BYTES)
        cuts = pairwise(range(0, 5_002 * 11, 5_002))
        expected = [
            row for row, (a, b) in enumerate(cuts) if a < touched.stop and b > touched.start
        ]
        assert batch.lost_metadata == expected
        assert batch.lost_vectors == []
    other = decoded(bytes(damaged), records[1])
    assert (other.lost_vectors, other.lost_metadata) == ([], [])


# --- truncation ------------------------------------------------------------------------------


def assert_only_whole_records_count(log, size):
    found = scan(log)
    whole = [record.head.lsn for record in found.records if record.whole]
    assert whole == [record.head.lsn for record in WHOLE if record.end <= size]
    assert all(record.end > size for record in found.records[len(whole) :])
    assert len(found.records) - len(whole) <= 1


def test_truncation_anywhere_keeps_exactly_the_whole_records_before_it():
    for size in range(len(LOG)):
        assert_only_whole_records_count(LOG[:size], size)


@given(st.integers(0, len(LOG)))
def test_zeros_from_anywhere_on_keep_exactly_the_whole_records_before_them(size):
    assert_only_whole_records_count(LOG[:size] + bytes(len(LOG) - size), size)


@given(st.integers(0, len(LOG)), st.binary(max_size=300))
def test_garbage_after_a_record_hides_nothing_before_it(size, garbage):
    found = scan(LOG[:size] + garbage)
    whole = [record.head.lsn for record in WHOLE if record.end <= size]
    assert [record.head.lsn for record in found.records][: len(whole)] == whole


# --- garbage ---------------------------------------------------------------------------------

DECODERS = {
    "sections": decode_sections,
    "batch": lambda data: decode_batch(data, memoryview(data), 1),
    "documents": decode_documents,
    "texts": lambda data: decode_texts(np.frombuffer(data[: len(data) // 4 * 4], np.uint32), data),
    "scan": scan,
    "log header": wal_record.decode_file_header,
    "segment head": sf.decode_head,
    "descriptor": sf.decode_descriptor,
    "lookup": lambda data: decode_lookup(memoryview(data)),
    "index": lambda data: decode_index(memoryview(data)),
    "json": open_json,
    "manifest": decode_manifest,
    "collection": decode_collection_file,
    "deletion": decode_deletion_file,
    "backup": decode_backup_file,
    "verification": decode_verification_file,
    "key": lambda data: decode_sealed(data, KeyFile),
    "audit line": decode_line,
    "audit header": decode_audit_header,
}


def survives(decode, data):
    with contextlib.suppress(FormatError, DirectoryError):
        decode(data)


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.binary(max_size=400))
@example(data=b'{"rows":"\xff"}')
@example(data=b"\x91\x93\xa1\xff\xa1a\xc0")
@example(data=b'{"rows":' + b"[" * 5_000)
def test_garbage_raises_nothing_but_a_format_or_directory_error(name, data):
    survives(DECODERS[name], data)


section_maps = st.dictionaries(st.integers(1, 12), st.binary(max_size=80), max_size=8)
FIXED = struct.pack("<QIIQQII", 0, 2, 4, 3, 5, 0, 0)


@given(section_maps, st.binary(max_size=40))
@example({1: FIXED, 2: b"\2\0\0\0\1\0\0\0", 3: b"ab\xff"}, bytes(11))
@example({1: FIXED, 2: b"\2\0\0\0\1\0\0", 3: b"abc"}, bytes(11))
@example({1: FIXED, 2: b"\2\0\0\0\1\0\0\0"}, bytes(11))
@example({1: FIXED, 9: b"\x93"}, b"abc")
@example({1: FIXED, 2: b"\1\0\0\0\1\0\0\0", 3: b"ab", 8: bytes(16)}, bytes(11))
@example({1: FIXED, 2: b"\1\0\0\0\1\0\0\0", 3: b"ab", 5: b"abc"}, bytes(11))
def test_control_data_that_contradicts_itself_raises_a_format_error(sections, data):
    note = {6: b"{}", **sections}
    survives(lambda raw: decode_batch(raw, memoryview(data), 1), encode_sections(note))


@given(st.binary(max_size=200))
@example(b"nonsense")
@example(b'{"format_version":1,"generation":"x"}')
@example(b'{"format_version":1,"generation":\xff}')
@example(b'{"format_version":' + b"[" * 10_000)
@example(b"[1]")
def test_a_sealed_line_that_is_no_manifest_raises_a_format_error(line):
    sealed = line + b"\nblake3:" + digest(line).hex().encode() + b"\n"
    for decode in (
        open_json, decode_manifest, decode_collection_file, decode_deletion_file,
        decode_backup_file, decode_verification_file,
    ):  # fmt: skip
        survives(decode, sealed)


@given(
    st.binary(max_size=400),
    st.sampled_from(["", "LOCK", "records.bin", "vectors.bin", "x.json", "0000000001.jsonl"]),
)
def test_any_bytes_can_be_described(data, name):
    for magic in (b"", b"dvWL", b"dvSG", b"dvLK", b"{"):
        assert text_lines(describe(magic + data, name, beside={"records.bin": data}))


# --- there and back --------------------------------------------------------------------------


@given(st.dictionaries(st.integers(0, 2**16 - 1), st.binary(max_size=60), max_size=12))
def test_sections_come_back(sections):
    encoded = encode_sections(sections)
    assert len(encoded) % 8 == 0
    found = decode_sections(encoded)
    assert {tag: bytes(payload) for tag, payload in found.items()} == sections
    assert list(found) == list(sections)


@given(st.lists(texts, max_size=30))
def test_texts_come_back(values):
    lengths, joined = encode_texts(values)
    assert lengths.dtype == np.uint32
    assert decode_texts(lengths, joined) == values


@given(documents)
def test_documents_come_back(values):
    assert decode_documents(encode_documents(values)) == values


@given(st.binary(max_size=300), st.integers(1, 64), st.integers(0, 2**64 - 1), st.data())
def test_a_block_is_known_by_content_file_and_place(data, size, tag, drawn):
    expected = block_checksums(data, size, tag)
    assert damaged_blocks(data, size, tag, expected) == []
    if data:
        assert damaged_blocks(data, size, tag ^ 1, expected) == list(range(len(expected)))
        position = drawn.draw(st.integers(0, 8 * len(data) - 1))
        changed = bytearray(data)
        changed[position // 8] ^= 1 << position % 8
        assert damaged_blocks(changed, size, tag, expected) == [position // 8 // size]


@given(st.dictionaries(texts, st.none() | st.integers(-(2**53), 2**53) | texts, max_size=5))
def test_sealed_json_comes_back_and_any_flipped_bit_is_noticed(value):
    sealed = seal_json({"format_version": 1}, value)
    found, _ = open_json(sealed)
    assert found == {**value, "format_version": 1}
    for position in range(0, 8 * len(sealed), 5):
        damaged = bytearray(sealed)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(FormatError):
            open_json(bytes(damaged))


@st.composite
def batches(draw):
    rows, size = draw(st.integers(0, 6)), draw(st.integers(1, 12))
    # An empty JSON text stands for no metadata; a batch without any stores None.
    metadata = draw(st.none() | st.lists(st.binary(max_size=9), min_size=rows, max_size=rows))
    return Batch(
        first_row=draw(st.integers(0, 2**63)),
        row_count=rows,
        vector_bytes=size,
        wall_ns=draw(st.integers(0, 2**63)),
        ids=draw(st.lists(texts, min_size=rows, max_size=rows)),
        vectors=draw(st.binary(min_size=rows * size, max_size=rows * size)),
        metadata=metadata if metadata and any(metadata) else None,
        ends=np.array(draw(st.lists(st.integers(0, 2**64 - 1), max_size=4)), np.uint64),
        note=b"{}",
        documents=draw(documents),
    )


@given(batches(), st.integers(0, 2**64 - 1))
def test_batches_come_back(batch, tag):
    control, data, size = encode_batch(batch, tag)
    joined = b"".join(bytes(part) for part in data)
    assert len(joined) == size
    found = decode_batch(control, memoryview(joined), tag)
    assert (found.ids, found.metadata, found.documents) == (
        batch.ids,
        batch.metadata,
        batch.documents,
    )
    assert (found.first_row, found.row_count, found.wall_ns) == (
        batch.first_row,
        batch.row_count,
        batch.wall_ns,
    )
    assert bytes(found.vectors) == batch.vectors
    assert found.ends.tolist() == batch.ends.tolist()
    assert not found.lost_vectors
    assert not found.lost_metadata
