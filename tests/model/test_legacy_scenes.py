"""Every way in which legacy files grow, tear and rot, from our own writer: no corpus is needed."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvecdb.testing import legacy_damage as damage
from dvecdb.testing.legacy_bytes import GENERATIONS, Op, vector_bytes
from dvecdb.testing.legacy_judge import judge
from dvecdb.testing.legacy_reading import read
from dvecdb.testing.legacy_scenes import NAME, SCENES, Actor, Scene
from dvecdb.testing.legacy_writer import LegacyServer

SEEDS = st.integers(0, 2**32 - 1)
UNTAGGED = ("A0", "A1", "A4", "B0", "B1")


def judged(scene, root, *, zeros=600, **choice):
    """Write a scene, read it with and without its log, and return all that is wrong."""
    scene.write_to(root, zeros=zeros)
    verdicts = []
    name = scene.path.rpartition("/")[2]
    whole = scene.truth(**choice)
    if scene.path == NAME:
        found = read(root, whole.dimension, collection=NAME, **choice)
        verdicts += judge(whole, found)
    if scene.path in scene.server.directories:
        alone = scene.truth(use_log=False)
        found = read(root / scene.path, alone.dimension, use_log=False)
        verdicts += [(name, verdict) for verdict in judge(alone, found)]
    return verdicts


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("dimension", [3, 8, 48])
def test_a_scene_comes_back_as_far_as_its_bytes_allow(name, dimension, tmp_path):
    assert judged(SCENES[name](7, dimension), tmp_path) == []


@pytest.mark.parametrize("name", ["a0-head-overwritten", "c0-plain", "a1-cut-in-vector"])
def test_the_zeros_of_a_full_file_change_nothing(name, tmp_path):
    assert judged(SCENES[name](7, 8), tmp_path, zeros=None) == []


@settings(max_examples=25)
@given(seed=SEEDS, name=st.sampled_from(sorted(SCENES)), dimension=st.integers(1, 24))
def test_any_scene_of_any_seed_comes_back(tmp_path_factory, seed, name, dimension):
    root = tmp_path_factory.mktemp("scene")
    assert judged(SCENES[name](seed, dimension), root) == []


# --- metadata --------------------------------------------------------------------------------

KEYS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=2, max_size=9)
PLAIN = st.one_of(
    st.just(st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=2)),
    st.just(st.integers(1, 2**53 - 1)),
    st.just(st.integers(-(2**53) + 1, -1)),
    st.just(st.floats(0.001, 1e12).map(lambda value: value + 1e-3)),
    st.just(st.booleans()),
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=12)
)
ANY = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def scene_of(generation, seed, dimension, rows):
    actor = Actor(generation, seed, dimension)
    for metadata in rows:
        keys = list(metadata or {})
        actor.random.shuffle(keys)
        shuffled = None if metadata is None else {key: metadata[key] for key in keys}
        id = str(actor.server.random_id())
        actor.server.insert(NAME, id, actor.vector(), shuffled)
    return Scene(actor.server)


@given(data=st.data(), seed=SEEDS, generation=st.sampled_from(UNTAGGED))
@settings(max_examples=40)
def test_metadata_of_a_plain_schema_comes_back_exactly(tmp_path_factory, data, seed, generation):
    schema = data.draw(st.dictionaries(KEYS, PLAIN, min_size=1, max_size=6), "schema")
    rows = data.draw(st.lists(st.fixed_dictionaries(schema), min_size=9, max_size=14), "rows")
    scene = scene_of(generation, seed, 4, rows)
    qualities = {one.quality for found in scene.truth().required.values() for one in found}
    assert "exact" in qualities
    assert judged(scene, tmp_path_factory.mktemp("plain")) == []


@given(data=st.data(), seed=SEEDS, generation=st.sampled_from(sorted(GENERATIONS)))
@settings(max_examples=40)
def test_metadata_of_any_kind_comes_back_or_with_a_doubt(tmp_path_factory, data, seed, generation):
    values = st.none() | st.dictionaries(KEYS, ANY, max_size=4)
    rows = data.draw(st.lists(values, min_size=1, max_size=10), "rows")
    assert judged(scene_of(generation, seed, 4, rows), tmp_path_factory.mktemp("any")) == []


# --- damage ----------------------------------------------------------------------------------

BASES = [name for name in SCENES if "flipped" not in name and "cut" not in name]


def damaged(name, seed, kind):
    scene = SCENES[name](seed, 6)
    random = Random(seed)
    vectors = scene.vectors
    append = random.choice(vectors.appends)
    if kind == "cut":
        damage.cut(vectors, random.randrange(1, len(vectors.data)))
    elif kind == "hole":
        start = random.randrange(len(vectors.data))
        damage.zero_hole(vectors, start, start + random.randrange(1, 200))
    elif kind == "metadata-length":
        damage.flip_metadata_length(vectors, append, random)
    else:
        damage.flip(vectors, append, kind, random)
    return scene


@given(
    seed=SEEDS,
    name=st.sampled_from([name for name in BASES if not name.startswith(("log", "a0-zombie"))]),
    kind=st.sampled_from([*damage.FIELDS, "cut", "hole", "metadata-length"]),
)
@settings(max_examples=60, derandomize=True)
def test_one_damage_costs_no_more_than_the_record_it_hit(tmp_path_factory, seed, name, kind):
    scene = damaged(name, seed, kind)
    assert judged(scene, tmp_path_factory.mktemp("damaged")) == []


SURVIVED = [
    ("a0-head-overwritten", 2, "metadata-length", "what the log corrects hides a lost neighbour"),
    ("b0-plain", 0, "hole", "what the log corrects hides a lost neighbour"),
    ("c0-updated", 5, "hole", "what the log corrects hides a lost neighbour"),
    ("b0-plain", 2, "hole", "a vector with a hole wins over the one in the log"),
    ("c0-updated", 4, "hole", "a vector with a hole wins over the version before"),
    ("a0-zombie", 0, "vector", "a flipped vector makes a deleted row newer than its deletion"),
    ("a2-updated", 370011399, "tag", "a record with a wrong tag is taken for its neighbour's text"),
    ("b0-head-overwritten", 4005655884, "prefix", "a wrong length wins over metadata in no doubt"),
    ("c0-replayed-behind", 3607564414, "hole", "a hole is taken for an older run's beginning"),
    ("b1-replayed-behind", 2494614936, "hole", "a damaged record is taken for an older one's rest"),
    ("a4-then-c0-offset-20", 3519356806, "hole", "a vector that ends in a hole is believed"),
    ("a4-then-c0-offset-20", 615802334, "vector", "zeros are taken for a length, and read badly"),
    ("a0-updated", 2072191466, "metadata", "a flipped bit makes all that follows an older run"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "seed", "kind", "why"), SURVIVED)
def test_damage_that_was_once_too_much(name, seed, kind, why, tmp_path):
    assert judged(damaged(name, seed, kind), tmp_path) == [], why


def test_versions_that_bytes_between_them_put_in_question_are_in_doubt(tmp_path):
    scene = damaged("a0-head-with-the-same-ids", 487521631, "prefix")
    scene.write_to(tmp_path, zeros=600)
    found = read(tmp_path, scene.truth().dimension, collection=NAME, use_log=False)
    wrong = {item.id for item in judge(scene.truth(use_log=False), found)}
    doubted = {item.id for item in found.report.doubtful if "newest" in item.text}
    assert wrong
    assert wrong <= doubted


def test_text_that_looks_like_the_head_of_a_record_is_none(tmp_path):
    actor = Actor("A1", 3, 5)
    for number in range(1, 12):
        id = str(actor.server.random_id())
        # Sixteen bytes, and then the length of "title": a marker, an id and the dimension.
        metadata = {"source": "path/to/file.txt", "title": f"Item {number}", "page": number}
        actor.server.insert(NAME, id, actor.vector(), metadata)
    assert judged(Scene(actor.server), tmp_path) == []


@given(seed=SEEDS, name=st.sampled_from([name for name in SCENES if "updated" in name]))
@settings(max_examples=20)
def test_the_log_tells_which_of_two_vectors_is_right(tmp_path_factory, seed, name):
    scene = SCENES[name](seed, 6)
    random = Random(seed)
    for append in random.sample(scene.vectors.appends, 3):
        damage.flip(scene.vectors, append, "vector", random)
    assert judged(scene, tmp_path_factory.mktemp("flipped")) == []


@given(seed=SEEDS, generation=st.sampled_from(sorted(GENERATIONS)), flush=st.sampled_from([0, 900]))
@settings(max_examples=40)
def test_any_history_of_calls_and_restarts_comes_back(tmp_path_factory, seed, generation, flush):
    random = Random(seed)
    actor = Actor(generation, seed, 5, flush_bytes=flush)
    for _ in range(random.randrange(3, 9)):
        call = random.random()
        if call < 0.5 or not actor.ids:
            actor.insert(random.randrange(1, 6), metadata=random.random() < 0.6)
        elif call < 0.7:
            actor.update(random.randrange(len(actor.ids)))
        elif call < 0.85:
            actor.server.delete(NAME, random.choice(actor.ids))
        else:
            actor.server.restart(without_log=random.random() < 0.5 or generation < "A2")
            if NAME not in actor.server.open:
                actor.server.create(NAME, 5, "Euclidean")
    assert judged(Scene(actor.server), tmp_path_factory.mktemp("history")) == []


def test_a_log_keeps_its_order_beside_a_second_collection(tmp_path):
    server = LegacyServer("C0", flush_bytes=0)
    actor = Actor("C0", 3, 4)
    for name in (NAME, "other"):
        server.create(name, 4)
    ids = [str(server.random_id()) for _ in range(6)]
    for id in ids:
        server.insert(NAME, id, actor.vector(), {"n": 1})
        server.insert("other", id, vector_bytes([1, 2, 3, 4]))
    server.delete("other", ids[0])
    assert [entry.op for entry in server.logged].count(Op.DELETE) == 1
    assert judged(Scene(server), tmp_path) == []
    assert judged(Scene(server, "other"), tmp_path / "again") == []
