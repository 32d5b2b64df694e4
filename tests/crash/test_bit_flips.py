"""Damage at rest: every answer is right, or it names what is damaged; nothing is lost in silence.

One bit flips somewhere in the truth of a directory (logs, segments, manifests, collection.json);
then everything is read: each id, a scan, a search, the past, the documents. Damage takes the
smallest unit, and what it took is named. Then whole blocks go to the wrong place, go back in time,
turn to zeros or vanish. Derived files may suffer anything and cost nothing.
"""

import os
from collections import Counter
from random import Random

import numpy as np
import pytest

from dvecdb.engine import segment as segment_module
from dvecdb.errors import Code, DamagedDataError
from dvecdb.settings import Settings
from dvecdb.testing.blast_radius import Radius
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.faults import RottenFiles
from dvecdb.testing.history import Action, Row, difference, read_state
from dvecdb.testing.recording import Recorder, open_on

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(900)]

SOAK = bool(os.environ.get("DVECDB_SOAK"))
SEED = Random().getrandbits(32) if SOAK else 4_711
FLIPS = 200_000 if SOAK else 10_100  # for each of two directories
WRITING_EVERY = 40  # flips after which the directory is opened for writing
DIMENSION = 1_024  # 16 vectors in a block
BLOCK = 16 * 4 * DIMENSION
TRUTH = ("records.bin", "vectors.bin", ".wal", ".json")
SMALL = Settings(
    bulk_bytes=120_000, flush_bytes=1 << 24, flush_commits=1_000, merge_bytes=1 << 24,
    merge_count=50, wal_reserve_bytes=1_024, wal_extend_bytes=1_024, ballast_bytes=0,
    low_water_bytes=0,
)  # fmt: skip
MERGING = Settings(
    bulk_bytes=120_000, flush_bytes=1 << 24, flush_commits=1_000, merge_bytes=1 << 24,
    merge_count=2, wal_reserve_bytes=1_024, wal_extend_bytes=1_024, ballast_bytes=0,
    low_water_bytes=0, orphan_age_hours=0,
)  # fmt: skip
QUERY = np.ones(DIMENSION, np.float32)


def rows(seed, ids, **parts):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((len(ids), DIMENSION)).astype(np.float32)
    metadata = tuple(
        {"seed": seed, "text": rng.bytes(100).hex()} if number % 5 else None
        for number in range(len(ids))
    )
    return Action("upsert", tuple(ids), vectors, metadata, **parts)


def names(word, count):
    return [f"{word} {number}" for number in range(count)]


class Directory:
    """An undamaged directory, what it holds, and what each of its bytes may cost."""

    def __init__(self, *, closed):
        recorder = Recorder(MemoryDisk(), SMALL)
        recorder.open()
        collection = recorder.create("docs", DIMENSION)
        recorder.write("docs", rows(1, names("old", 19)))
        recorder.write("docs", rows(2, names("more", 6), key="second"))
        collection.flush()
        recorder.write("docs", rows(3, [*names("bulk", 33), "old 3"]))
        recorder.write("docs", Action("delete", deletes=("old 1", "bulk 2")))
        recorder.write("docs", Action("write", documents={("job", "cursor"): {"page": 1}}))
        collection.flush()
        recorder.write("docs", rows(4, [*names("new", 17), "old 5"]))
        recorder.write("docs", Action("delete", deletes=("new 1", "more 2")))
        recorder.write("docs", Action("write", documents={("job", "cursor"): {"page": 2}}))
        recorder.write("docs", rows(5, ["last", "old 7"]))
        if closed:
            recorder.close()
        self.closed = closed
        self.disk = recorder.disk.clone()
        self.disk.record = False
        (self.history,) = recorder.histories().values()
        self.tree = self.disk.tree()
        self.radius = Radius(self.tree)
        self.last_lsn = self.history.last_lsn
        self.truth = {
            path: data
            for path, data in self.tree.items()
            if data is not None and path.endswith(TRUTH) and "/derived/" not in path
        }
        self.lsns = sorted({1, 2, 3, 5, self.last_lsn - 1})
        self.all_lsns = [*self.lsns, self.last_lsn]


@pytest.fixture(scope="module", params=["closed", "killed"])
def directory(request):
    return Directory(closed=request.param == "closed")


class Judge:
    """Reads everything of a damaged directory. `wrong` and `silent` are what must not happen."""

    def __init__(self, directory):
        self.directory = directory
        self.wrong, self.silent = [], []
        self.outcomes = Counter()
        self.flips = 0

    def __str__(self):
        parts = f"flips {self.flips}, wrong {len(self.wrong)}, silent {len(self.silent)}"
        return f"{parts} {dict(self.outcomes)}"

    def judge(self, disk, what, may, path, *, thorough=False, read_only=True, may_go=False):
        """Open and read all. may: rows that may be lost; may_go: so may the collection."""
        self.flips += 1
        try:
            with open_on(disk, SMALL, read_only=read_only) as database:
                lost = self._judge(database, what, may, path, thorough=thorough, may_go=may_go)
        except Exception as error:  # noqa: BLE001  # nothing but DamagedDataError is an answer
            self.wrong.append((what, repr(error)))
            return None
        return lost

    def _judge(self, database, what, may, path, *, thorough, may_go):
        directory = self.directory
        findings = database.findings()
        if database.collections() != ["docs"]:
            self.outcomes["set aside"] += 1
            with pytest.raises(DamagedDataError) as caught:
                database.collection("docs")
            assert caught.value.code is Code.COLLECTION_DAMAGED
            if not may_go:
                self.wrong.append((what, f"set aside: {findings}"))
            if not any(finding.collection == "docs" and finding.lost for finding in findings):
                self.silent.append((what, "set aside without a finding"))
            return None
        collection = database.collection("docs")
        last = collection.stats().last_lsn
        if last != directory.last_lsn:
            self._judge_cut(last, findings, what, may_go=may_go)
            return None
        lost = set()
        lsns = [directory.lsns[-2], last]
        if thorough:
            lsns = directory.all_lsns
        for lsn in lsns:
            lost |= self._read(collection, lsn, what, search=thorough and lsn == last)
        ids = {directory.radius.ids.get(row) for row in may}
        if not lost <= ids:
            self.wrong.append((what, f"too much is lost: {sorted(lost - ids)}"))
        if lost:
            self._check_named(collection, lost, what, path)
        self.outcomes["rows lost" if lost else "named" if findings else "no trace"] += 1
        return lost

    def _judge_cut(self, last, findings, what, *, may_go):
        """The last commits of a killed writer may be taken for its crash, but not in silence."""
        self.outcomes["cut"] += 1
        cuts = [item for item in findings if item.code in {"torn", "possibly-acknowledged"}]
        if not any(item.details["after_lsn"] == last for item in cuts):
            self.silent.append((what, f"{last} commits, findings {findings}"))
        if not may_go and (self.directory.closed or last != self.directory.last_lsn - 1):
            self.wrong.append((what, f"{last} commits of {self.directory.last_lsn}"))

    def _read(self, collection, lsn, what, *, search):
        """Return the ids that cannot be read at `lsn`; all else must be right."""
        history = self.directory.history
        state, snapshot = history.states[lsn], collection.snapshot(as_of=lsn)
        lost = set()
        try:
            wrong = difference(state, read_state(snapshot, history.namespaces))
            if wrong:
                self.wrong.append((what, f"as of {lsn}: {wrong}"))
        except DamagedDataError:
            lost = self._get(snapshot, state, what)
        if search:
            self._search(snapshot, state, lost, what)
        return lost & state.rows.keys()

    def _get(self, snapshot, state, what):
        """Get every id there ever was; the error names those that cannot be read."""
        wanted, lost = sorted(self.directory.history.ids), set()
        while True:
            try:
                records = snapshot.get(wanted)
                break
            except DamagedDataError as error:
                named = set(error.details["ids"])
            if not named & set(wanted):  # an id that is damaged itself has no other name
                assert all(name.startswith("row ") for name in named), named
                named = {name for name in wanted if self._is_lost(snapshot, name)}
            assert named, "an error that names nothing"
            lost |= named
            wanted = [name for name in wanted if name not in lost]
        for record_id, record in zip(wanted, records, strict=True):
            expected = state.rows.get(record_id)
            found = record and Row(record.vector.tobytes(), record.metadata, record.lsn)
            if found != expected:
                self.wrong.append((what, f"get {record_id!r}: {found!r:.100}"))
        return lost

    def _is_lost(self, snapshot, record_id):
        try:
            snapshot.get([record_id])
        except DamagedDataError:
            return True
        return False

    def _search(self, snapshot, state, lost, what):
        hits = snapshot.search(QUERY, limit=1_000, on_damage="exclude")
        found = {hit.id: hit.metadata for hit in hits}
        expected = {key: row.metadata for key, row in state.rows.items() if key in found}
        excluded = {name for name in hits.excluded if not name.startswith("row ")}
        if found != expected or found.keys() | excluded | lost != state.rows.keys() | lost:
            self.wrong.append((what, "search is wrong"))
        if not excluded <= lost or len(hits.excluded) != len(state.rows) - len(found):
            self.wrong.append((what, f"excluded {hits.excluded}, lost {sorted(lost)}"))
        for hit in hits:
            vector = np.frombuffer(state.rows[hit.id].vector, np.float32)
            cosine = 1 - vector.sum() / (np.linalg.norm(vector) * np.sqrt(DIMENSION))
            if abs(hit.distance - cosine) > 1e-4:
                self.wrong.append((what, f"distance of {hit.id!r}"))
        if lost & state.rows.keys():
            with pytest.raises(DamagedDataError):
                snapshot.search(QUERY, limit=1_000)

    def _check_named(self, collection, lost, what, path):
        place = path.split("/")[-1] if path.endswith(".wal") else path.split("/")[-2]
        named = [item for item in collection.findings() if item.lost and place in item.where]
        if not named:
            self.silent.append((what, f"{sorted(lost)} lost, findings {collection.findings()}"))


def offsets(directory, count, rng):
    """Bytes to flip: all of the small heads, and the rest evenly over all files."""
    chosen = []
    for path, data in directory.truth.items():
        edges = {*range(min(300, len(data))), *range(max(0, len(data) - 140), len(data))}
        if path.endswith(".json"):
            edges = set(range(rng.randrange(6), len(data), 6))
        if path.endswith("vectors.bin"):
            edges = set()
        chosen += [(path, offset) for offset in edges]
    total = sum(map(len, directory.truth.values()))
    step = total / max(1, count - len(chosen))
    position = rng.random() * step
    for path, data in directory.truth.items():
        while position < len(data):
            chosen.append((path, int(position)))
            position += step
        position -= len(data)
    rng.shuffle(chosen)
    return chosen


def flip_all(directory, judge, count):
    rng = Random(SEED)
    for number, (path, offset) in enumerate(offsets(directory, count, rng)):
        bit = rng.randrange(8)
        disk = directory.disk.clone()
        RottenFiles(disk).flip(path, offset, bit)
        judge.judge(
            disk, f"seed {SEED}: {path}, byte {offset}, bit {bit}",
            directory.radius.rows(path, offset), path,
            thorough=number % 10 == 0, read_only=number % WRITING_EVERY != 0,
        )  # fmt: skip


def test_no_flipped_bit_is_served_or_lost_in_silence(directory):
    judge = Judge(directory)
    flip_all(directory, judge, FLIPS)
    print(f"{'closed' if directory.closed else 'killed'}: {judge}")
    assert judge.wrong == []
    assert judge.silent == []
    assert judge.flips >= FLIPS - 10
    assert judge.outcomes["rows lost"] > FLIPS // 10


def test_a_reader_that_verifies_nothing_is_caught(directory, monkeypatch):
    """The control: without checksums damaged bytes are served, and the harness says so."""

    class Anything(int):
        __hash__ = None

        def __eq__(self, other):
            return True

        def __ne__(self, other):
            return False

    monkeypatch.setattr(segment_module, "block_checksum", lambda *_: Anything())
    judge = Judge(directory)
    flip_all(directory, judge, 2_000)
    print(f"control: {judge}")
    assert judge.wrong


# --- worse than a bit ------------------------------------------------------------------------


def segments(directory):
    """The directories of the segments that the newest manifest names and that hold rows."""
    named = [
        path for path, data in directory.truth.items() if path.endswith("vectors.bin") and data
    ]
    return [path.removesuffix("vectors.bin") for path in named]


def worse(directory):
    """(what, damage, path, rows that may be lost, whether the collection may be set aside)."""
    radius = directory.radius
    for path, data in directory.truth.items():
        everything = radius.all_rows(path)
        is_log, is_json = path.endswith(".wal"), path.endswith(".json")
        for start in range(0, len(data), 4_096 if len(data) > 8_192 else 512):
            size = min(512, len(data) - start)
            may = {row for at in (start, start + size - 1) for row in radius.rows(path, at)}
            if any(data[start : start + size]):
                yield (f"zeros at {start}", lambda rot, p=path, s=start, n=size: rot.zero(p, s, n),
                       path, may, is_log)  # fmt: skip
        sizes = {0, 1, len(data) // 3, len(data) // 2, len(data) - 1}
        for size in sizes & set(range(len(data))):
            yield (f"cut to {size}", lambda rot, p=path, s=size: rot.truncate(p, max(s, 0)),
                   path, everything, not is_json and "vectors" not in path)  # fmt: skip
    one, two = segments(directory)[:2]
    vectors, records = f"{one}vectors.bin", f"{one}records.bin"
    others = f"{two}vectors.bin"
    both = radius.rows(vectors, 0) | radius.rows(vectors, BLOCK)
    size = len(directory.truth[vectors]) - BLOCK
    yield ("blocks swapped in a file",
           lambda rot: rot.swap(vectors, 0, vectors, BLOCK, size),
           vectors, both, False)  # fmt: skip
    both = radius.rows(vectors, 0) | radius.rows(others, 0)
    yield ("blocks swapped between files",
           lambda rot: rot.swap(vectors, 0, others, 0, BLOCK),
           vectors, both, False)  # fmt: skip
    pages = len(directory.truth[records]) // 4_096 - 1
    may = radius.rows(records, 4_096) | radius.rows(records, 2 * 4_096)
    assert pages > 2
    yield ("pages swapped",
           lambda rot: rot.swap(records, 4_096, records, 8_192, 4_096),
           records, may, False)  # fmt: skip
    older = directory.truth[others][:BLOCK]
    yield ("a block of another time",
           lambda rot: rot.restore(vectors, 0, older),
           vectors, radius.rows(vectors, 0), False)  # fmt: skip


def test_blocks_that_moved_aged_or_vanished_are_never_served(directory):
    judge = Judge(directory)
    for what, damage, path, may, may_go in worse(directory):
        disk = directory.disk.clone()
        damage(RottenFiles(disk))
        judge.judge(disk, f"{path}: {what}", may, path, thorough=True, may_go=may_go)
    print(f"worse than a bit: {judge}")
    assert judge.wrong == []
    assert judge.silent == []


def remove(disk, path):
    above, _, name = path.rpartition("/")
    parent = disk.open_root("/" + above, create=False)
    disk.remove(parent, name)
    disk.sync_directory(parent)
    disk.close_directory(parent)


def test_a_missing_file_is_named(directory):
    judge = Judge(directory)
    for path in directory.truth:
        disk = directory.disk.clone()
        remove(disk, path)
        is_spare = path.endswith((".json", "vectors.bin"))
        may = directory.radius.all_rows(path)
        judge.judge(disk, f"{path} is missing", may, path, thorough=True, may_go=not is_spare)
    print(f"missing: {judge}")
    assert judge.wrong == []
    assert judge.silent == []


def test_derived_files_may_suffer_anything(directory):
    judge, rng = Judge(directory), Random(SEED)
    derived = [path for path, data in directory.tree.items() if data and "/derived/" in path]
    assert derived
    for path in derived:
        size = len(directory.tree[path])
        for offset in rng.sample(range(size), min(size, 300)):
            disk = directory.disk.clone()
            RottenFiles(disk).flip(path, offset, rng.randrange(8))
            judge.judge(disk, f"{path} byte {offset}", set(), path, read_only=offset % 3 > 0)
        for left in (0, 1, size // 2, size - 1):
            disk = directory.disk.clone()
            RottenFiles(disk).truncate(path, left)
            judge.judge(disk, f"{path} cut to {left}", set(), path, read_only=False)
        disk = directory.disk.clone()
        remove(disk, path)
        judge.judge(disk, f"{path} is missing", set(), path, read_only=False)
    assert judge.wrong == []
    assert judge.outcomes.keys() <= {"named", "no trace"}


def test_a_damaged_lock_file_costs_nothing(directory):
    judge = Judge(directory)
    for offset in range(0, 512, 3):
        disk = directory.disk.clone()
        RottenFiles(disk).flip("data/LOCK", offset, offset % 8)
        judge.judge(disk, f"LOCK byte {offset}", set(), "data/LOCK", read_only=offset % 2 > 0)
    assert judge.wrong == []
    assert set(judge.outcomes) <= {"named", "no trace"}


@pytest.mark.parametrize("place", ["vectors", "records", "log"])
def test_writes_after_damage_leave_it_named_and_in_place(directory, place):
    """Damaged segments are not merged away; rows damaged in the log stay named when flushed."""
    radius = directory.radius
    if place == "log":
        path = max(path for path in directory.truth if path.endswith(".wal"))
        offset = next(
            at for at in range(0, len(directory.truth[path]), 64) if radius.rows(path, at)
        )
    else:
        path = segments(directory)[0] + f"{place}.bin"
        offset = 0 if place == "vectors" else next(
            at for at in range(4_096, len(directory.truth[path]), 4_096) if radius.rows(path, at)
        )  # fmt: skip
    disk = directory.disk.clone()
    RottenFiles(disk).flip(path, offset, 3)
    before = disk.read_path(path)
    judge = Judge(directory)
    lost = judge.judge(disk, place, radius.rows(path, offset), path, thorough=True, read_only=False)
    assert lost
    assert judge.wrong == judge.silent == []
    first = []
    for number in range(4):
        with open_on(disk, MERGING, seed=number) as database:
            collection = database.collection("docs")
            collection.upsert([f"later {number}"], [QUERY])
            collection.flush()
            hits = collection.search(QUERY, limit=1_000, on_damage="exclude")
            still = sorted(hits.excluded)
            first = first or still
            assert still == first
            assert len(hits) + len(still) == collection.count()
            assert any(finding.lost for finding in database.findings())
    if place != "log":
        assert disk.read_path(path) == before
