"""What one damaged bit costs, on a whole data directory: the claims of docs/format/, tried out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.golden import make, trees

import dvecdb
from dvecdb.errors import Code, DamagedDataError
from dvecdb.formats import segment_file as sf

DOCS, CODES = "collections/docs", "collections/codes"
NOTHING = frozenset()
IN_SEGMENT = frozenset({"docs/a", "docs/b"})
IN_LOG = frozenset({"codes/k1", "codes/k2"})
EXPECTED = {
    **{f"docs/{key}": (value[0], value[1]) for key, value in make.DOCS.items()},
    **{f"codes/{key}": (value, None) for key, value in make.CODES.items()},
}


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    return trees.copy_of_golden(tmp_path_factory.mktemp("golden") / "data")


class Flipped:
    """The golden data directory with one bit flipped, for the length of a `with`."""

    def __init__(self, root, name, offset, bit=0):
        (self.path,) = root.glob(name)
        self.offset, self.bit = offset, bit

    def __enter__(self):
        self.whole = self.path.read_bytes()
        damaged = bytearray(self.whole)
        damaged[self.offset] ^= 1 << self.bit
        self.path.write_bytes(damaged)

    def __exit__(self, *error):
        self.path.write_bytes(self.whole)


def look(root):
    """Return the rows that are refused and the findings, after comparing every row served."""
    refused = set()
    with dvecdb.open(root, read_only=True) as database:
        for key, (vector, metadata) in EXPECTED.items():
            name, _, record_id = key.partition("/")
            collection = database.collection(name)
            assert collection.count() == sum(other.startswith(name) for other in EXPECTED)
            try:
                (record,) = collection.get([record_id])
            except DamagedDataError as error:
                refused.add(key if error.code == Code.DAMAGED_DATA else error.code)
                continue
            assert record.vector.tobytes() == np.array(vector, np.float32).tobytes()
            assert record.metadata == metadata
        for name in ("docs", "codes"):
            database.collection(name).verify()
        return refused, {finding.code for finding in database.findings()}


def log_cases():
    (path,) = make.DATA_DIRECTORY.glob(f"{CODES}/wal/*.wal")
    log = path.read_bytes()
    costs = {
        "header": (NOTHING, {"wal-header-damaged"}),
        "head": (NOTHING, {"control-copy-damaged"}),
        "control": (NOTHING, {"control-copy-damaged"}),
        "tail": (NOTHING, {"control-copy-damaged"}),
        "padding": (NOTHING, set()),
        "zeros": (NOTHING, {"torn"}),
        "data": (IN_LOG, {"rows-lost"}),
    }
    regions = trees.log_regions(log)
    final = max(number for *_, number in regions)
    for part, start, end, number in regions:
        lost, findings = costs[part]
        # What follows the last commit may look as a crash leaves it: then it is no finding.
        allowed = (findings, set()) if number == final or part == "zeros" else (findings,)
        for offset in sorted({start, (start + end) // 2, end - 1}):
            yield pytest.param(offset, lost, allowed, id=f"{part} {number} byte {offset}")


@pytest.mark.parametrize(("offset", "lost", "allowed"), list(log_cases()))
def test_damage_in_a_log_costs_what_its_page_says(golden, offset, lost, allowed):
    with Flipped(golden, f"{CODES}/wal/*.wal", offset):
        refused, findings = look(golden)
    assert refused == lost
    assert findings in allowed


def segment_cases():
    (path,) = make.DATA_DIRECTORY.glob(f"{DOCS}/segments/*/records.bin")
    data = path.read_bytes()
    head = sf.decode_head(data[: sf.HEAD_SIZE])
    second = head.second_control_offset
    control_end = sf.HEAD_SIZE + head.control_size
    body_end = head.body_offset + head.body_size
    copy, page = (NOTHING, {"control-copy-damaged"}), (IN_SEGMENT, {"page-damaged"})
    for part, start, end, cost in (
        ("head", 0, sf.HEAD_SIZE, copy),
        ("control 1", sf.HEAD_SIZE, control_end, copy),
        ("gap", control_end, head.body_offset, (NOTHING, set())),
        ("body", head.body_offset, body_end, page),
        ("control 2", second, second + head.control_size, copy),
        ("tail", len(data) - sf.HEAD_SIZE, len(data), copy),
    ):
        if part == "body":  # ids first; metadata, of one row only, last
            end = head.body_offset + sf.PAGE_BYTES + 2
        for offset in sorted({start, (start + end) // 2, end - 1}):
            yield pytest.param(offset, *cost, id=f"{part} byte {offset}")


@pytest.mark.parametrize(("offset", "lost", "findings"), list(segment_cases()))
def test_damage_in_records_bin_costs_what_its_page_says(golden, offset, lost, findings):
    with Flipped(golden, f"{DOCS}/segments/*/records.bin", offset):
        assert look(golden) == (lost, findings)


def test_damage_in_a_page_of_metadata_loses_the_metadata_in_it(golden):
    name = f"{DOCS}/segments/*/records.bin"
    (path,) = golden.glob(name)
    head = sf.decode_head(path.read_bytes()[: sf.HEAD_SIZE])
    with Flipped(golden, name, head.body_offset + head.body_size - 1):
        assert look(golden) == ({"docs/a"}, {"page-damaged"})  # b has none


@pytest.mark.parametrize(
    ("name", "lost", "findings"),
    [
        (f"{DOCS}/segments/*/vectors.bin", IN_SEGMENT, {"block-damaged"}),
        (f"{DOCS}/manifests/*2.json", NOTHING, {"manifest-damaged", "manifest-from-log"}),
        (f"{DOCS}/manifests/*1.json", NOTHING, set()),  # superseded: not read
        (f"{CODES}/manifests/*1.json", NOTHING, {"manifest-damaged", "manifest-from-log"}),
        (f"{DOCS}/collection.json", NOTHING, {"collection-file-damaged"}),
        (f"{DOCS}/derived/*.idx", NOTHING, {"derived-damaged"}),
        (f"{DOCS}/wal/*0001.wal", NOTHING, set()),  # all of it is flushed: not read
        (".deleted/*/deletion.json", NOTHING, set()),
    ],
)
@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.999])
def test_damage_in_other_files_costs_what_their_pages_say(golden, name, lost, findings, place):
    (path,) = golden.glob(name)
    with Flipped(golden, name, int(place * path.stat().st_size), bit=7):
        assert look(golden) == (lost, findings)


# --- two places at once -----------------------------------------------------------------------


def set_aside(root, name):
    """Return why a collection is set aside; the other one has to serve all the same."""
    with dvecdb.open(root, read_only=True) as database:
        other = {"docs": "codes", "codes": "docs"}[name]
        assert database.collections() == [other]
        assert database.collection(other).count() == sum(key.startswith(other) for key in EXPECTED)
        with pytest.raises(DamagedDataError) as caught:
            database.collection(name)
        assert caught.value.code == Code.COLLECTION_DAMAGED
        return {finding.code for finding in database.findings() if finding.collection == name}


def test_both_copies_of_a_commit_damaged_set_the_collection_aside(golden):
    name = f"{CODES}/wal/*.wal"
    (path,) = golden.glob(name)
    parts = [part for part in trees.log_regions(path.read_bytes()) if part[3] == 1]
    first, second = (part[1] for part in parts if part[0] == "control")
    with Flipped(golden, name, first), Flipped(golden, name, second):
        assert "wal-damaged" in set_aside(golden, "codes")


def test_both_copies_of_a_segments_control_data_damaged_set_the_collection_aside(golden):
    name = f"{DOCS}/segments/*/records.bin"
    (path,) = golden.glob(name)
    head = sf.decode_head(path.read_bytes()[: sf.HEAD_SIZE])
    second = head.second_control_offset
    with Flipped(golden, name, sf.HEAD_SIZE), Flipped(golden, name, second):
        assert "segment-lost" in set_aside(golden, "docs")
    with Flipped(golden, name, 0), Flipped(golden, name, path.stat().st_size - 1):
        assert "segment-lost" in set_aside(golden, "docs")


def newest_log(root):
    return max((root / DOCS / "wal").iterdir())


def test_the_newest_manifest_and_all_its_copies_may_be_damaged(golden):
    log = newest_log(golden)
    whole = log.read_bytes()
    damaged = bytearray(whole)
    for part, start, _, number in trees.log_regions(whole):
        if part == "control" and number <= 1:  # the copies of both manifests
            damaged[start + 100] ^= 1
    log.write_bytes(damaged)
    with Flipped(golden, f"{DOCS}/manifests/*2.json", 10):
        refused, findings = look(golden)
        assert not refused
        assert {"manifest-damaged"} <= findings
    log.write_bytes(whole)


def test_a_cut_vectors_file_loses_the_rows_beyond_its_end(golden):
    (path,) = golden.glob(f"{DOCS}/segments/*/vectors.bin")
    whole = path.read_bytes()
    path.write_bytes(whole[:16])
    refused, findings = look(golden)
    path.write_bytes(whole)
    assert (refused <= IN_SEGMENT, "docs/b" in refused) == (True, True)
    assert "file-cut-short" in findings


# --- LOCK -------------------------------------------------------------------------------------


def test_a_damaged_lock_costs_nothing(golden):
    size = len((golden / "LOCK").read_bytes())
    content = (golden / "LOCK").read_bytes()
    for offset in (*range(0, content.index(b"}") + 1, 5), size - 1):
        for bit in (0, 6, 7):
            with Flipped(golden, "LOCK", offset, bit):
                assert look(golden) == (set(), set())


def test_the_directory_opens_without_its_lock_file(golden):
    content = (golden / "LOCK").read_bytes()
    (golden / "LOCK").unlink()
    try:
        assert look(golden) == (set(), set())
    finally:
        (golden / "LOCK").write_bytes(content)


FILES = sorted(
    name
    for name in trees.tree_bytes(make.DATA_DIRECTORY)
    if name != "LOCK" and not name.startswith(".")
)


@given(st.sampled_from(FILES), st.integers(0, 2**20), st.integers(0, 7))
def test_any_flipped_bit_loses_rows_of_one_place_at_most_and_names_them(
    golden, name, position, bit
):
    size = (golden / name).stat().st_size
    with Flipped(golden, name, position % size, bit):
        refused, findings = look(golden)
    assert refused in (NOTHING, IN_SEGMENT, IN_LOG, {"docs/a"}, {"docs/ä-long"})
    assert findings or not refused
