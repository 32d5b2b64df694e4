"""The judge of legacy readers: content with a perfect one, and each way to be wrong is caught."""

import msgspec
import pytest

from dvecdb.reports import Doubt, ImportReport, Lost
from dvecdb.testing.legacy_judge import Found, judge, same
from dvecdb.testing.legacy_scenes import SCENES
from dvecdb.testing.legacy_truth import Content


def perfect(truth):
    """Return what a reader that knows everything hands over."""
    contents = {id: found[0] for id, found in truth.required.items()}
    doubts = [
        Doubt(id=id, file="vectors.bin", offset=0, why="metadata-lost", text="", raw="00")
        for id, content in contents.items()
        if content.quality in ("damaged", "ambiguous")
    ]
    report = ImportReport(
        source="data",
        records_found=len(contents),
        imported=len(contents),
        exact=len(contents) - len(doubts),
        doubtful=doubts,
        lost=[Lost(span.file, span.start, span.end, "torn") for span in truth.torn],
    )
    metadata = [
        b"" if content.metadata is None or content.quality == "damaged"
        else msgspec.json.encode(content.metadata)
        for content in contents.values()
    ]  # fmt: skip
    vectors = [content.vector for content in contents.values()]
    metric = {"DotProduct": "dot_product"}.get(truth.metric, (truth.metric or "cosine").lower())
    return Found(list(contents), vectors, metadata, report, truth.dimension, metric)


def changed(found, **report):
    return msgspec.structs.replace(found.report, **report)


def kinds(truth, found):
    return {verdict.kind for verdict in judge(truth, found)}


@pytest.mark.parametrize("name", SCENES)
def test_a_perfect_reader_pleases_the_judge(name):
    truth = SCENES[name](5, 6).truth()
    assert judge(truth, perfect(truth)) == []


@pytest.fixture
def truth():
    return SCENES["a0-updated"](5, 6).truth()


@pytest.fixture
def found(truth):
    return perfect(truth)


def rebuilt(found, **parts):
    fields = {name: getattr(found, name) for name in Found.__slots__}
    return Found(**{**fields, **parts})


def with_row(found, id, vector):
    report = changed(
        found,
        imported=len(found.ids) + 1,
        records_found=len(found.ids) + 1,
    )
    return rebuilt(
        found,
        ids=[*found.ids, id],
        vectors=[*found.vectors, vector],
        metadata=[*found.metadata, b""],
        report=report,
    )


def test_a_reader_that_loses_a_whole_record_is_caught(truth, found):
    count = len(found.ids) - 1
    fewer = rebuilt(
        found,
        ids=found.ids[:-1],
        vectors=found.vectors[:-1],
        metadata=found.metadata[:-1],
        report=changed(found, imported=count, exact=0),
    )
    assert kinds(truth, fewer) == {"missing"}


def test_a_reader_that_makes_up_a_row_is_caught(truth, found):
    made_up = with_row(found, "00000000-0000-4000-8000-000000000000", bytes(24))
    assert kinds(truth, made_up) == {"invented"}


def test_a_reader_that_pads_a_cut_vector_is_caught():
    scene = SCENES["a1-cut-in-vector"](5, 6)
    cut = scene.vectors.appends[12]
    truth = scene.truth(use_log=False)
    start, end = cut.fields["vector"]
    left = bytes(scene.vectors.data[cut.offset + start : cut.offset + end])
    padded = with_row(perfect(truth), cut.version.id, left.ljust(24, b"\0"))
    assert kinds(truth, padded) == {"invented"}


def test_a_reader_that_keeps_the_older_version_is_caught(truth, found):
    scene = SCENES["a0-updated"](5, 6)
    old = scene.vectors.appends[2].version
    row = list(found.ids).index(old.id)
    vectors = [*found.vectors[:row], old.vector, *found.vectors[row + 1 :]]
    assert kinds(truth, rebuilt(found, vectors=vectors)) == {"wrong-vector"}


def test_a_reader_that_brings_a_deleted_row_back_is_caught(truth, found):
    deleted = SCENES["a0-updated"](5, 6).vectors.appends[4].version
    assert deleted.id in truth.deleted
    assert kinds(truth, with_row(found, deleted.id, deleted.vector)) == {"stale"}


def test_a_reader_that_drops_metadata_silently_is_caught(truth, found):
    assert kinds(truth, rebuilt(found, metadata=[b""] * len(found.ids))) == {"wrong-metadata"}


def test_a_reader_that_moves_metadata_to_the_next_row_is_caught(truth, found):
    moved = [*found.metadata[1:], found.metadata[0]]
    assert kinds(truth, rebuilt(found, metadata=moved)) == {"wrong-metadata"}


def test_a_reader_that_returns_an_id_twice_is_caught(truth, found):
    assert kinds(truth, with_row(found, found.ids[0], found.vectors[0])) >= {"duplicate"}


def test_a_reader_that_counts_wrong_is_caught(truth, found):
    truth.logged = False
    for wrong in ({"imported": 1}, {"exact": 1000}, {"records_found": 0}):
        assert kinds(truth, rebuilt(found, report=changed(found, **wrong))) == {"miscounted"}
    assert kinds(truth, rebuilt(found, dimension=5)) == {"miscounted"}
    assert kinds(truth, rebuilt(found, metric="manhattan")) == {"miscounted"}


@pytest.mark.parametrize("name", ["a0-head-overwritten", "c0-hole", "b0-cut-in-vector"])
def test_a_reader_that_is_silent_about_a_torn_record_is_caught(name):
    truth = SCENES[name](5, 6).truth(use_log=False)
    found = perfect(truth)
    assert kinds(truth, rebuilt(found, report=changed(found, lost=[]))) == {"silent-loss"}


def test_a_reader_that_gives_a_whole_record_up_is_caught(truth, found):
    span = truth.whole[3]
    lost = [Lost(span.file, span.start, span.end, "")]
    assert kinds(truth, rebuilt(found, report=changed(found, lost=lost))) == {"false-loss"}


def test_a_guess_at_damaged_metadata_needs_a_doubt():
    truth = SCENES["c0-flipped-metadata-length"](5, 6).truth(use_log=False)
    found = perfect(truth)
    damaged = [id for id, one in truth.required.items() if one[0].quality == "damaged"]
    row = list(found.ids).index(damaged[0])
    metadata = [*found.metadata[:row], b'{"title":"guess"}', *found.metadata[row + 1 :]]
    assert kinds(truth, rebuilt(found, metadata=metadata)) == set()
    silent = changed(found, doubtful=[])
    assert kinds(truth, rebuilt(found, metadata=metadata, report=silent)) == {"wrong-metadata"}


def zeros(doubtful, quality="zero-class"):
    truth = SCENES["c0-plain"](5, 6).truth()
    id = next(iter(truth.required))
    truth.required[id] = [
        Content(truth.required[id][0].vector, {"a": 0, "b": "x"}, quality, (), b"")
    ]
    found = perfect(truth)
    found.metadata[list(found.ids).index(id)] = b'{"a":"","b":"x"}'
    return kinds(truth, rebuilt(found, report=changed(found, doubtful=doubtful)))


def test_a_zero_of_another_kind_needs_a_doubt_about_its_key():
    doubt = Doubt(file="f", offset=0, why="zero-class", text="", key="a")
    assert zeros([doubt]) == set()
    assert zeros([]) == {"wrong-metadata"}
    assert zeros([msgspec.structs.replace(doubt, key="b")]) == {"wrong-metadata"}
    assert zeros([doubt], "exact") == {"wrong-metadata"}


def test_values_are_the_same_only_in_kind_and_number():
    assert not same(1, 1.0)
    assert not same(True, 1)
    assert not same(0, "")
    assert same(0, "", zeros=True)
    assert not same(-0.0, 0, zeros=True)
    assert same(1.0, 4607182418800017408, numbers=True)
    assert same(-1, 2**64 - 1, numbers=True)
    assert same(9.491485934932383e-05, 9.491485934932384e-05)
    assert not same({"a": None}, {})
