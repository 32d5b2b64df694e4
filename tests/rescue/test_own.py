"""The newest provable state of our own directories, whatever is left of them."""

import errno

import numpy as np
import pytest
from tests.rescue.own_directories import (
    APART,
    DIMENSION,
    DOCS,
    FORGETTING,
    MERGING,
    Made,
    assert_whole,
    judge,
    make,
    make_merged,
    named,
    rescue,
    rows,
    write_story,
)

from dvecdb.errors import Code, DvecdbError
from dvecdb.formats import segment_file as sf
from dvecdb.formats.framing import decode_sections
from dvecdb.formats.wal_record import Kind, scan
from dvecdb.rescue.own.places import recognise
from dvecdb.rescue.own.reading import read_own
from dvecdb.rescue.salvage import Choice
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.recording import Recorder, open_on


class CallRecorder:
    """Files that remember which calls were made, and how many handles are open."""

    def __init__(self, inner):
        self._inner, self.calls, self.opened = inner, set(), 0

    def __getattr__(self, name):
        call = getattr(self._inner, name)

        def recorded(*arguments, **options):
            result = call(*arguments, **options)
            self.calls.add(name)
            self.opened += name in {"open_root", "open_directory", "open"}
            self.opened -= name in {"close_directory", "close"}
            return result

        return recorded


class Refusing:
    """Files of which one cannot be opened."""

    def __init__(self, inner, path):
        self._inner, self._path, self._names = inner, path, {}

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def open_root(self, path, *, create):
        opened = self._inner.open_root(path, create=create)
        self._names[opened] = path.strip("/")
        return opened

    def open_directory(self, parent, name):
        opened = self._inner.open_directory(parent, name)
        self._names[opened] = f"{self._names[parent]}/{name}"
        return opened

    def open(self, directory, name):
        if f"{self._names[directory]}/{name}" == self._path:
            raise OSError(errno.EACCES, "Permission denied")
        return self._inner.open(directory, name)


def refusal(made, choice=None, path=DOCS):
    with pytest.raises(DvecdbError) as caught:
        read_own(made.disk(), path, choice or Choice())
    return caught.value


@pytest.fixture(scope="module", params=["apart", "killed", "merged", "forgetting"])
def made(request):
    match request.param:
        case "apart":
            return make()
        case "killed":
            return make(closed=False)
        case "merged":
            return make_merged(MERGING)
    return make_merged(FORGETTING)


def test_an_undamaged_directory_comes_back_whole(made):
    verdict = judge(made)
    assert_whole(verdict, made)
    assert verdict.report.lost == []
    assert verdict.report.bytes_good == verdict.report.bytes_used
    assert verdict.documents == {("job", "cursor"): {"page": 2}}
    assert verdict.report.name == "docs"
    assert (verdict.report.kind, verdict.report.generation) == ("dvecdb-collection", "dvecdb")


def test_without_manifests_segments_and_log_tell_everything(made):
    assert_whole(judge(made.without("/manifests/")), made)


def test_without_manifests_and_collection_json_the_log_knows_what_it_is(made):
    verdict = judge(made.without("/manifests/", "collection.json", "/derived/"))
    assert_whole(verdict, made)
    assert verdict.report.metric == "cosine"


def test_segments_alone_give_the_state_that_was_flushed(made):
    verdict = judge(made.without("/manifests/", "collection.json", "/wal/"))
    assert_whole(verdict, made, made.flushed)


def test_without_the_log_the_flushed_state_comes_back(made):
    verdict = judge(made.without("/wal/"))
    assert_whole(verdict, made, made.flushed)
    assert any("no log" in note for note in verdict.report.notes)


# --- what the source may be ------------------------------------------------------------------


def test_a_data_directory_gives_the_collection_that_is_named(made):
    verdict = judge(made, Choice(collection="docs"), "/data")
    assert_whole(verdict, made)
    assert_whole(judge(made, path="/data"), made)  # the only one needs no name
    assert refusal(made, Choice(collection="other"), "/data").code is Code.SOURCE_NOT_FOUND
    assert refusal(made, path="/nothing").code is Code.SOURCE_NOT_FOUND


def test_a_data_directory_with_several_collections_asks_which():
    made = make(story=write_two)
    error = refusal(made, path="/data")
    assert error.code is Code.SOURCE_UNCLEAR
    assert error.details["collections"] == ["docs", "other"]
    assert_whole(judge(made, Choice(collection="docs"), "/data"), made)


def write_two(recorder, collection):
    write_story(recorder, collection)
    recorder.database.create_collection("other", dimension=3).upsert(["a"], [[1, 2, 3]])


def test_a_deleted_collection_and_a_backup_are_read_where_they_lie():
    def story(recorder, collection):
        write_story(recorder, collection)
        collection.backup()
        recorder.database.delete_collection("docs")

    made = make(story=story)
    entries = {
        "/" + path
        for path in made.tree
        if path.count("/") == 2 and path.split("/")[1] in {".deleted", ".backups"}
    }
    assert {path.split("/")[2] for path in entries} == {".deleted", ".backups"}
    for path in sorted(entries):
        for parts in ((), ("/manifests/",), ("deletion.json", "backup.json")):
            verdict = judge(made.without(*parts), path=path)
            assert_whole(verdict, made)
            assert verdict.report.name == "docs"


def test_a_clone_of_the_past_knows_nothing_of_what_came_after_it():
    def story(recorder, collection):
        write_story(recorder, collection)
        collection.flush()
        collection.clone("copy", as_of=7)
        clone = recorder.database.collection("copy")
        clone.delete(["old 4"])
        clone.upsert(["own"], [[1.0] * DIMENSION])
        clone.flush()
        clone.delete(["old 6"])

    made = make(story=story)
    rows = dict(made.history.states[7].rows)
    expected = {key: row.vector for key, row in rows.items() if key not in {"old 4", "old 6"}}
    expected["own"] = np.ones(DIMENSION, np.float32).tobytes()
    for parts in ((), ("/copy/manifests/",), ("/copy/manifests/", "/copy/collection.json")):
        report, found, _ = rescue(made.without(*parts), path="/data/collections/copy")
        assert {key: vector for key, (vector, _) in found.items()} == expected
        assert report.doubtful == []
    expected["old 6"] = rows["old 6"].vector
    left = made.without("/copy/manifests/", "/copy/wal/")
    report, found, _ = rescue(left, path="/data/collections/copy")
    assert {key: vector for key, (vector, _) in found.items()} == expected
    assert {item.id for item in report.doubtful} == expected.keys() - {"own"}


def test_a_segment_alone_gives_its_rows():
    made = make()
    for path in made.truth():
        if path.endswith("vectors.bin"):
            above = "/" + path.rpartition("/")[0]
            for place in (above, "/" + path, above + "/records.bin"):
                verdict = judge(made, path=place)
                rows = len(made.tree[path]) // (4 * DIMENSION)
                assert rows - 5 < len(verdict.found) <= rows
                assert verdict.report.doubtful == []
                assert all("segment alone" in note for note in verdict.report.notes[:1])


def test_a_segment_that_was_moved_somewhere_else_gives_its_rows():
    made = make()
    for path in made.truth():
        if path.endswith("vectors.bin"):
            above = path.rpartition("/")[0]
            tree = {"moved": None, "moved/here": None}
            for name in ("vectors.bin", "records.bin"):
                tree[f"moved/here/{name}"] = made.tree[f"{above}/{name}"]
            report, found, _ = rescue(Made(tree, made.history), path="/moved/here")
            assert len(found) > 20
            assert report.doubtful == []


def test_a_log_alone_gives_its_rows():
    made = make(closed=False)
    expected = {key for key, row in made.history.states[-1].rows.items() if row.lsn > made.flushed}
    (path,) = [path for path in made.truth() if path.endswith("6.wal")]
    for place in ("/" + path, DOCS + "/wal"):
        report, found, _ = rescue(made, path=place)
        assert found.keys() == expected
        assert report.doubtful == []
    alone = Made({"here": None, "here/some.log": made.tree[path]}, made.history)
    report, found, _ = rescue(alone, path="/here/some.log")
    assert found.keys() == expected


def test_segments_under_other_names_are_known_by_what_is_in_them(made):
    tree = {}
    for path, data in made.tree.items():
        parts = path.split("/")
        if len(parts) > 4 and parts[3] == "segments":
            parts[4] = f"copy of {parts[4][-6:]}"
        tree["/".join(parts)] = data
    renamed = Made(tree, made.history, flushed=made.flushed)
    assert_whole(judge(renamed), made)
    verdict = judge(renamed.without("/manifests/"))
    assert verdict.wrong == []
    assert verdict.lsn == made.last


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data", "data-directory"),
        (DOCS, "collection"),
        (DOCS + "/segments", "collection"),
        (DOCS + "/wal", "log"),
        (DOCS + "/derived", None),
        ("/data/LOCK", None),
        ("/nothing", None),
        ("/", None),
    ],
)
def test_what_is_at_a_path_is_told_by_its_names(path, kind):
    assert recognise(make().disk(), path) == kind


def test_parts_of_a_collection_are_recognised():
    made = make()
    for path in made.truth():
        if path.endswith((".bin", ".wal")):
            expected = "log" if path.endswith(".wal") else "segment"
            assert recognise(made.disk(), "/" + path) == expected
            if expected == "segment":
                above = "/" + path.rpartition("/")[0]
                assert recognise(made.disk(), above) == "segment"


# --- what is asked for -----------------------------------------------------------------------


def test_deletions_that_only_the_log_holds_are_named_and_can_be_left_out():
    made = make()
    verdict = judge(made)
    assert verdict.report.deleted_by_log == ["more 2", "new 1"]
    report, found, _ = rescue(made, Choice(keep_deleted=True))
    before = made.history.states[made.flushed + 1].rows
    assert found.keys() == made.history.states[-1].rows.keys() | {"more 2", "new 1"}
    assert found["more 2"][0] == before["more 2"].vector
    assert report.deleted_by_log == ["more 2", "new 1"]


def test_without_the_log_at_hand_the_flushed_state_is_taken(made):
    assert_whole(judge(made, Choice(use_log=False)), made, made.flushed)


def test_a_dimension_or_metric_that_the_source_contradicts_is_refused(made):
    error = refusal(made, Choice(dimension=3))
    assert error.code is Code.SOURCE_CONTRADICTS
    assert error.details["dimension"] == DIMENSION
    error = refusal(made, Choice(metric="euclidean"))
    assert error.code is Code.SOURCE_CONTRADICTS
    assert error.details["metric"] == "cosine"
    assert_whole(judge(made, Choice(dimension=DIMENSION, metric="cosine")), made)
    alone = made.without("/manifests/", "collection.json", "/wal/")
    assert refusal(alone, Choice(dimension=3)).code is Code.SOURCE_CONTRADICTS
    verdict = judge(alone, Choice(metric="euclidean"))
    assert_whole(verdict, made, made.flushed)
    assert verdict.report.metric == "euclidean"


def test_nothing_recoverable_is_said_with_the_report(made):
    left = made.without("/wal/", "/segments/")
    error = refusal(left)
    assert error.code is Code.NOTHING_RECOVERABLE
    assert error.details["report"]["lost"]
    error = refusal(left.without("/manifests/"))
    assert error.code is Code.NOTHING_RECOVERABLE
    assert error.details["report"]["source"] == DOCS


def test_an_empty_collection_comes_back_empty():
    made = make(story=lambda *_: None)
    report, found, _ = rescue(made)
    assert (found, report.lost) == ({}, [])


# --- how it reads ----------------------------------------------------------------------------


def test_the_source_is_never_written_and_no_lock_is_taken(made):
    disk = made.disk()
    before = disk.tree()
    files = CallRecorder(disk)
    salvage = read_own(files, DOCS, Choice())
    list(salvage.vectors.pieces(10))
    salvage.close()
    assert disk.tree() == before
    assert files.calls <= {
        "open_root", "open_directory", "close_directory", "list_names", "stat", "open", "close",
        "read_at", "size", "map",
    }  # fmt: skip
    assert files.opened == 0


def test_refusals_leave_nothing_open(made):
    for left in (made.without("/wal/", "/segments/"), made):
        files = CallRecorder(left.disk())
        with pytest.raises(DvecdbError):
            read_own(files, DOCS, Choice(dimension=3))
        assert files.opened == 0


def test_progress_goes_up_to_the_end(made):
    told = []
    read_own(made.disk(), DOCS, Choice(), lambda done, total: told.append((done, total))).close()
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 0


def test_files_that_the_system_refuses_are_named_and_the_rest_comes_back():
    made = make(closed=False)
    for path in made.truth():
        files = Refusing(made.disk(), path)
        salvage = read_own(files, DOCS, Choice())
        assert salvage.ids, path
        report = salvage.report
        told = [item.file for item in report.unreadable] + [item.file for item in report.lost]
        assert any(path.endswith(file) for file in told), path
        salvage.close()


def test_rows_whose_metadata_is_damaged_come_without_it():
    made = make()
    path = next(path for path in made.truth() if path.endswith("records.bin"))
    head = sf.decode_head(made.tree[path][: sf.HEAD_SIZE])
    control = made.tree[path][sf.HEAD_SIZE : sf.HEAD_SIZE + head.control_size]
    descriptor = sf.decode_descriptor(decode_sections(control)[sf.DESCRIPTOR])
    data = bytearray(made.tree[path])
    data[head.body_offset + descriptor.columns["metadata"].offset] ^= 1
    verdict = judge(made.changed(path, bytes(data)))
    assert verdict.wrong == []
    assert verdict.lost == set()
    assert verdict.flagged
    assert {item.why for item in verdict.report.doubtful} == {"metadata-lost"}
    for key in verdict.flagged:
        assert verdict.found[key] == (made.history.states[-1].rows[key].vector, None)


def test_records_cut_at_any_byte_give_the_rows_before_the_cut():
    made = make()
    path = next(path for path in made.truth() if path.endswith("records.bin"))
    data = made.tree[path]
    head = sf.decode_head(data[: sf.HEAD_SIZE])
    for size in range(head.body_offset + 1, len(data), 997):
        verdict = judge(made.changed(path, data[:size]))
        assert verdict.wrong == []
        assert verdict.lsn == made.last
        if size > head.body_offset + head.body_size:
            assert_whole(verdict, made)


def test_a_long_table_cut_at_an_odd_byte_costs_what_lies_behind_the_cut():
    recorder = Recorder(MemoryDisk(), APART)
    collection = recorder.open().create_collection("docs", dimension=2)
    ids = [f"id {number}" for number in range(2_000)]
    collection.upsert(ids, np.arange(4_000).reshape(-1, 2), [{"n": text} for text in ids])
    collection.flush()
    recorder.close()
    made = Made(recorder.disk.clone().tree(), None).without("/wal/")
    path = next(path for path in made.truth() if path.endswith("records.bin"))
    head = sf.decode_head(made.tree[path][: sf.HEAD_SIZE])
    control = made.tree[path][sf.HEAD_SIZE : sf.HEAD_SIZE + head.control_size]
    columns = sf.decode_descriptor(decode_sections(control)[sf.DESCRIPTOR]).columns
    start = head.body_offset + columns["metadata_offsets"].offset
    report, found, _ = rescue(made.changed(path, made.tree[path][: start + 4_096 + 13]))
    assert list(found) == ids
    assert {metadata for _, metadata in found.values()} == {None}
    (doubt,) = report.doubtful
    assert (doubt.id, doubt.rows, doubt.why) == (None, 2_000, "metadata-lost")
    assert report.exact == 0
    start = head.body_offset + columns["ids_offsets"].offset
    error = refusal(made.changed(path, made.tree[path][: start + 4_096 + 13]))
    assert error.code is Code.NOTHING_RECOVERABLE
    (lost,) = error.details["report"]["lost"]
    assert lost["why"].startswith("ids of 2000 rows are damaged")
    assert lost["end"] > lost["start"] >= head.body_offset


# --- what does not count ---------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 34])
def test_rows_written_in_bulk_that_no_commit_took_are_not_brought_back(count):
    """A crash before the commit leaves the segment; later the same commit number writes others."""
    bulk = make()

    def story(recorder, collection):
        recorder.write("docs", rows(1, named("old", 19)))
        recorder.write("docs", rows(2, named("more", 6), key="second"))
        for start in range(0, count, 17):
            recorder.write("docs", rows(3, named(f"other {start}", min(17, count))))
        collection.flush()

    made = make(story=story)
    orphan = {path: data for path, data in bulk.tree.items() if "0025-" in path}
    assert len(orphan) == 3
    mixed = Made({**made.tree, **orphan}, made.history, flushed=made.flushed)
    assert_whole(judge(mixed), made)
    assert_whole(judge(mixed.without("/manifests/")), made)
    assert_whole(judge(mixed.without("/manifests/", "/wal/")), made)


def test_records_of_a_writer_that_had_lost_its_right_do_not_count():
    recorder = Recorder(MemoryDisk(), APART)
    collection = recorder.open().create_collection("docs", dimension=2)
    collection.upsert(["a", "b"], [[1, 1], [2, 2]])
    other = recorder.disk.clone()
    collection.upsert(["late"], [[3, 3]])
    collection.delete(["a"])
    late = recorder.disk.clone().tree()
    with open_on(other, APART, seed=9) as database:
        database.collection("docs").upsert(["b"], [[4, 4]])
    tree = other.clone().tree()
    (log,) = [path for path in late if path.endswith("0000000001-0000000000000001.wal")]
    for parts in ((), ("/manifests/",), ("/manifests/", "/segments/")):
        made = Made({**tree, log: late[log]}, None).without(*parts)
        report, found, _ = rescue(made)
        assert {
            key: np.frombuffer(vector, np.float32)[0] for key, (vector, _) in found.items()
        } == {
            "a": 1,
            "b": 4,
        }
        assert any("after another process took over" in note for note in report.notes)


def test_a_log_of_another_collection_is_not_used():
    made, other = make(closed=False), make_other()
    (log,) = [path for path in other if path.endswith(".wal")]
    place = f"data/collections/docs/wal/{9:010d}-{10:016d}.wal"
    mixed = Made({**made.tree, place: other[log]}, made.history, flushed=made.flushed)
    verdict = judge(mixed)
    assert_whole(verdict, made)
    assert any("belongs to another collection" in note for note in verdict.report.notes)


def make_other():
    recorder = Recorder(MemoryDisk(), APART, seed=77)
    recorder.open().create_collection("docs", dimension=2).upsert(["x"], [[1, 2]])
    return recorder.disk.clone().tree()


def test_a_torn_end_of_the_log_is_cut_and_named():
    made = make(closed=False)
    (path,) = [path for path in made.truth() if path.endswith("6.wal")]
    whole = judge(made)
    used = len(made.tree[path].rstrip(b"\0"))
    verdict = judge(made.changed(path, made.tree[path][: used - 4_000]))
    assert verdict.wrong == []
    assert verdict.lsn == made.last - 1
    (lost,) = verdict.report.lost
    assert "in flight at the end (torn)" in lost.why
    assert verdict.report.doubtful == []
    assert whole.lsn == made.last


def test_a_commit_that_is_known_and_missing_puts_what_it_may_have_changed_in_doubt():
    made = make(closed=False)
    data = bytearray(made.tree[log_of(made)])
    records = [record for record in scan(bytes(data)).records if record.head.kind is Kind.BATCH]
    record = next(record for record in records if record.head.lsn == made.last - 2)
    data[record.offset : record.end] = bytes(record.head.size)
    verdict = judge(made.changed(log_of(made), bytes(data)))
    assert verdict.wrong == []
    assert verdict.lsn == made.last
    expected = made.history.states[made.last - 3].rows.keys() - {"old 7"}
    assert verdict.flagged == expected
    assert verdict.found.keys() == expected | {"old 7", "last"}
    assert any(item.why == "no record can be read here" for item in verdict.report.lost)


def log_of(made):
    (path,) = [path for path in made.truth() if path.endswith("6.wal")]
    return path
