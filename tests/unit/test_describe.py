"""What `describe` shows of each file, whole and damaged."""

import struct
from pathlib import Path

import msgspec
import pytest
from tests.golden import make, trees

from dvecdb.cli.dump import is_damaged
from dvecdb.formats.batch import batch_tag, encode_batch
from dvecdb.formats.describe import companion, describe, text_lines
from dvecdb.formats.framing import decode_sections, encode_sections
from dvecdb.formats.manifest_file import seal_json

LOG = "0000000007-0000000000000041.wal"


def golden(name):
    return (make.FILES / name).read_bytes()


def shown(data, name="", **more):
    described = describe(data, name, **more)
    msgspec.json.encode(described)
    return described, "\n".join(text_lines(described))


# --- logs ------------------------------------------------------------------------------------


def test_a_log_is_shown_record_by_record():
    described, text = shown(golden(LOG), LOG, vectors=1)
    assert described["header"]["epoch"] == make.EPOCH
    assert described["header"]["created"] == "2026-01-02T03:04:05.000000Z"
    assert described["zero_tail_bytes"] == 64
    kinds = [record["kind"] for record in described["records"]]
    assert kinds == ["manifest", "batch", "batch", "marker", "seal"]
    assert all(record.get("chained", True) for record in described["records"])
    manifest, batch, bulk = described["records"][:3]
    assert manifest["manifest"]["generation"] == 3
    assert batch["rows"] == {"first": 100, "count": 2, "vector_bytes": 8, "with_metadata": 1}
    assert batch["ids"] == {"count": 2, "first": ["a", "ä-2"]}
    assert batch["ends"] == {"count": 2, "first": [3, 17]}
    assert batch["note"] == {"op": "upsert", "actor": "ann"}
    assert batch["documents"]["first"] == [
        {"namespace": "job", "key": "cursor", "value": {"at": 2}},
        {"namespace": "job", "key": "old", "value": "(removed)"},
    ]
    assert batch["first_rows"] == [
        {"row": 100, "id": "a", "metadata": {"n": 1}, "vector": [0.5, -1.25]}
    ]
    assert bulk["bulk_segment"]["uuid"] == make.BULK_UUID.hex
    assert bulk["rows"]["count"] == 5
    assert "ids" not in bulk
    for part in ("hlc 1767323045000000041", "lsn 42", "actor: ann", "damaged bytes: none"):
        assert part in text


def test_many_ids_are_counted_and_the_first_shown():
    batch = make.full_batch()
    batch.row_count, batch.ids = 50, [f"id-{number}" for number in range(50)]
    batch.vectors, batch.metadata = bytes(400), None
    record, _ = make.batch_record(batch, 41, 0)
    described, text = shown(bytes(128) + record, LOG)
    assert described["records"][0]["ids"]["count"] == 50
    assert "ids: 50, first 5 shown" in text


def test_damage_in_a_log_is_shown_where_it_is():
    log = bytearray(golden(LOG))
    regions = {(part, number): start for part, start, _, number in trees.log_regions(bytes(log))}
    log[0] ^= 1  # header
    log[regions["data", 1]] ^= 1  # the vectors of the first batch
    log[regions["head", 2]] ^= 1
    described, text = shown(bytes(log), LOG)
    assert described["header"] == "damaged"
    records = described["records"]
    assert len(records) == 5
    assert records[1]["damaged_vectors"] == ["a", "ä-2"]
    assert records[2]["damaged_copies"] == ["head"]
    assert "damaged vectors a, ä-2" in text


def test_bytes_that_are_no_record_are_shown_as_a_gap_and_a_broken_chain_is_seen():
    parts = make.small_log()
    described, _ = shown(b"".join([*parts[:3], b"x" * 16, *parts[4:]]), LOG)
    start = sum(map(len, parts[:3]))
    assert described["damaged_bytes"] == [{"start": start, "end": start + 16}]
    described, _ = shown(b"".join([*parts[:2], *parts[3:]]), LOG)
    assert [record.get("chained") for record in described["records"]][1] is False


def test_a_log_of_a_newer_version_shows_its_records_all_the_same():
    log = golden(LOG)
    log = trees.reseal(log[:128], 8, struct.pack("<Q", 1 << 9)) + log[128:]
    described, text = shown(log, LOG)
    assert "format-too-new" in described["refused"]
    assert len(described["records"]) == 5
    assert "0x200" in text


def test_control_data_that_contradicts_itself_is_shown_as_far_as_it_goes():
    record, _ = make.record(1, 41, 0, encode_sections({1: b"short", 6: b"{}", 99: b"?"}))
    described, _ = shown(bytes(128) + record, LOG)
    assert described["records"][0]["sections"] == {"1": 5, "6": 2, "99": 1}
    assert "damaged" in described["records"][0]


def test_the_cut_end_of_a_log_is_shown_with_offsets_of_its_own():
    parts = make.small_log()
    described, _ = shown(parts[2] + parts[3][:-20], f"{LOG}-2592.bin")
    assert [record["offset"] for record in described["records"]] == [0, len(parts[2])]
    assert described["records"][1]["whole"] is False


def test_unknown_sections_are_named():
    batch, tag = make.full_batch(), batch_tag(make.LOG_TAG, 41)
    control, data, size = encode_batch(batch, tag)
    sections = encode_sections({**decode_sections(control), 99: b"?"})
    record, _ = make.record(1, 41, 0, sections, data, size)
    described, _ = shown(bytes(128) + record, LOG)
    assert described["records"][0]["unknown_sections"] == [99]


# --- segments --------------------------------------------------------------------------------


def segment(records=None, vectors=None, name="records.bin", rows=0):
    records = golden("records.bin") if records is None else records
    vectors = golden("vectors.bin") if vectors is None else vectors
    files = {"records.bin": records, "vectors.bin": vectors}
    data = files.pop(name)
    return shown(bytes(data), name, beside=files, vectors=rows)


def test_a_segment_is_shown_with_its_commits_and_columns():
    described, text = segment(rows=5)
    assert described["head"] == described["tail"] == "good"
    assert described["digest"] == make.segment_files()[2]
    assert described["descriptor"]["rows"] == 2
    assert described["commits"]["count"] == 1
    assert described["commits"]["first"][0]["lsn"] == 41
    assert described["commits"]["first"][0]["note"] == {"op": "upsert", "actor": "ann"}
    assert described["ends"]["first"] == [{"row": 3, "lsn": 41}, {"row": 17, "lsn": 41}]
    assert described["documents"]["first"][0]["key"] == "cursor"
    assert described["ids"] == {"count": 2, "first": ["a", "ä-2"]}
    assert described["lost_metadata"] == [1]
    assert described["checksums"]["body_pages"] == 4
    assert [row["vector"][0] for row in described["vectors_file"]["first_rows"]] == [0.5, 3.0]
    assert "tag 14, name vector blocks, size bytes 8" in text


def test_damage_in_a_segment_is_shown_where_it_is():
    records, vectors = bytearray(golden("records.bin")), bytearray(golden("vectors.bin"))
    records[5] ^= 1
    records[130] ^= 1
    records[4096 + 4096] ^= 1  # the page with the ids
    vectors[0] ^= 1
    described, _ = segment(records, vectors)
    assert described["head"] == "segment head damaged"
    assert (described["control_copy_1"], described["control_copy_2"]) == ("damaged", "good")
    assert described["damaged_pages"] == [1]
    assert described["ids"]["first"] == ["(damaged)", "(damaged)"]
    assert described["vectors_file"]["damaged_blocks"] == [0]


def test_a_segment_without_head_and_tail_still_shows_its_sections():
    records = bytearray(golden("records.bin"))
    records[5] ^= 1
    records[-5] ^= 1
    described, _ = segment(records)
    assert described["control"].startswith("not verified")
    assert described["descriptor"]["rows"] == 2


def test_a_cut_vectors_file_is_seen():
    described, _ = segment(vectors=golden("vectors.bin")[:-4])
    assert described["vectors_file"]["damaged"] == "16 bytes were written"
    assert described["vectors_file"]["damaged_blocks"] == [0]


def test_vectors_are_raw_and_explained_by_the_file_beside_them():
    assert companion("vectors.bin") == "records.bin"
    assert companion("LOCK") is None
    described, text = segment(name="vectors.bin", rows=1)
    assert described["vectors_file"]["rows"] == 2
    assert "raw; see records.bin beside it" in text
    alone, _ = shown(golden("vectors.bin"), "vectors.bin")
    assert "vectors_file" not in alone


# --- small files -----------------------------------------------------------------------------


def test_a_manifest_is_shown_with_the_fields_it_does_not_know():
    described, text = shown(golden("manifest.json"), "000000000003.json")
    assert (described["kind"], described["generation"]) == ("manifest", 3)
    assert described["unknown_fields"] == {"from_the_future": {"kept": True}}
    assert described["flushed_hash"] == "0123456789abcdef"
    assert "created time: 2026-01-02T03:04:05.000000Z" in text


@pytest.mark.parametrize(
    ("name", "kind"), [("collection.json", "collection"), ("deletion.json", "deletion")]
)
def test_the_small_files_are_told_apart(name, kind):
    assert shown(golden(name))[0]["kind"] == kind
    assert shown(golden(name))[0]["digest"].startswith("blake3:")


def test_a_wrong_digest_is_shown_beside_the_fields():
    damaged = golden("deletion.json").replace(b"mistake", b"mistakf")
    described, _ = shown(damaged, "deletion.json")
    assert described["digest"] == "damaged"
    assert described["digest_found"] != described["digest_stated"]
    assert described["reason"] == "by mistakf"


def test_what_is_no_json_any_more_is_shown_as_text():
    described, text = shown(b'{"generation":\xff', "000000000003.json")
    assert described["digest"] == "damaged"
    assert "\\xff" in text


def test_a_file_of_a_newer_version_is_shown_with_the_reason_it_is_refused():
    described, _ = shown(seal_json({"format_version": 2, "generation": 1}), "x.json")
    assert "format-too-new" in described["refused"]
    assert described["generation"] == 1


def test_a_lookup_is_shown_or_said_to_be_rebuilt():
    described, _ = shown(golden("lookup.idx"), "lookup.idx")
    assert (described["entries"]["count"], described["sorted"]) == (4, True)
    damaged = bytearray(golden("lookup.idx"))
    damaged[70] ^= 1
    assert "rebuilt" in shown(bytes(damaged))[0]["damaged"]


def test_an_index_is_shown_or_said_to_be_rebuilt():
    described, text = shown(golden("index.ivf"), "index.ivf")
    assert described["rows"] == {"first": 0, "end": 100}
    assert described["efforts"]["first"][1] == {"probes": 4, "depth": 800, "recall": 1.0}
    assert (described["apart"]["first"], described["codes_bytes"]) == ([7, 98], 40)
    assert described["places"] == {"count": 14, "first": [7, 14, 21, 28, 35]}
    assert "trained rows: 90" in text
    for offset in (0, 5, 70, 130, len(golden("index.ivf")) - 1):
        damaged = bytearray(golden("index.ivf"))
        damaged[offset] ^= 1
        described, _ = shown(bytes(damaged), f"index-{100:016d}-0123abcd.ivf")
        assert "rebuilt" in described["damaged"]
        assert is_damaged(described)


def test_a_lock_is_shown_even_if_it_is_damaged():
    assert shown(golden("LOCK"), "LOCK")[0]["pid"] == 4711
    assert shown(b"\xff" * 20, "LOCK")[0]["damaged"]
    assert shown(b"", "LOCK")[0]["damaged"] == "empty"


def test_what_is_none_of_ours_is_said_to_be_unknown():
    described, _ = shown(b"hello\x1b[31m", "notes.txt")
    assert described["kind"] == "unknown"


def test_text_never_carries_control_characters():
    _, text = shown(seal_json({"format_version": 1, "generation": 1, "reason": "\x1b[2J\r\n"}))
    assert all(line.isprintable() for line in text.split("\n"))


def test_times_that_no_calendar_has_are_shown_as_numbers():
    line = b'{"format_version":1,"generation":1,"created_ns":99999999999999999999999}'
    described, _ = shown(line, "000000000001.json")
    assert described["created_time"] == f"{10**23 - 1} ns"


def test_every_golden_file_can_be_described_by_its_name_alone():
    for path in (*make.FILES.iterdir(), *Path(make.DATA_DIRECTORY).rglob("*")):
        if path.is_file() and not path.name.startswith("wal_"):
            assert shown(path.read_bytes(), path.name)[0]["kind"] != "unknown", path
