"""`rescue scan` finds everything where all kinds lie about, and says how good it is."""

import os
import shutil

import pytest
from tests.model.legacy_directories import digest

import dvecdb
from dvecdb.errors import NotFoundError
from dvecdb.rescue.database import examine
from dvecdb.rescue.finding import scan
from dvecdb.rescue.salvage import Choice
from dvecdb.testing.legacy_scenes import NAME, SCENES

DIMENSION = 128
SHARE_TOLERANCE = 0.001
PLACES = {
    "a0-plain": ("raw", "A", "collection"),
    "a0-head-overwritten": ("deep/er/torn", "A", "collection"),
    "b0-plain": ("prefixed", "B", "collection"),
    "c0-plain": ("json", "C", "collection"),
    "a4-then-c0-offset-20": ("twenty", "A+C", "collection"),
    "b1-then-c0-mixed": ("mixed", "B+C", "collection"),
    "c0-deleted": ("deleted", "C", "deleted"),
    "c1-backup": ("copied", "C", "backup"),
    "c1-snapshot": ("snapped", "C", "snapshot"),
    "log-v2-text": ("logged", "log", "log"),
}


def share_of(scene):
    """Return the share of the used bytes that are whole records, from what was written."""
    if scene.path not in scene.server.directories:
        return 1.0
    truth = scene.truth()
    file = f"{scene.path}/vectors.bin"
    whole = {(span.start, span.end) for span in truth.whole if span.file == file}
    torn = {(span.start, span.end) for span in truth.torn if span.file == file}
    return sum(end - start for start, end in whole) / max(end for _, end in whole | torn)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A tree with a legacy data directory of each kind, our own, and what is neither."""
    top = tmp_path_factory.mktemp("mixed")
    scenes = {}
    for number, (name, (place, _, _)) in enumerate(PLACES.items()):
        scenes[name] = SCENES[name](number, DIMENSION)
        scenes[name].write_to(top / place)
    with dvecdb.open(top / "ours") as database:
        for name in ("kept", "dropped"):
            collection = database.create_collection(name, dimension=2)
            collection.upsert(ids=["a", "b"], vectors=[[1, 2], [3, 4]])
        database.collection("kept").backup()
        database.delete_collection("dropped")
    shutil.copy(top / "raw" / NAME / "vectors.bin", top / "somebody's copy.bin")
    (top / "empty").mkdir()
    (top / "letter.txt").write_text("hello")
    os.symlink(top / "raw", top / "again")
    return top, scenes


def test_every_collection_is_found_with_its_kind_and_generation(mixed):
    top, scenes = mixed
    before = digest(top)
    entries = scan(str(top))
    assert digest(top) == before
    paths = {}
    for name, (place, generation, kind) in PLACES.items():
        path = "wal" if kind == "log" else scenes[name].path
        paths[str(top / place / path), NAME] = (name, generation, kind)
    found = {(entry.path, entry.name): entry for entry in entries}
    assert paths.keys() <= found.keys()
    for key, (name, generation, kind) in paths.items():
        entry = found[key]
        assert (entry.generation, entry.kind) == (generation, kind), name
        assert entry.dimension == DIMENSION
        assert abs(entry.good - share_of(scenes[name])) <= SHARE_TOLERANCE, name
        arguments = entry.import_as
        choice = Choice(collection=arguments[4] if len(arguments) > 3 else None)
        assert examine(arguments[0], choice).imported == entry.rows > 0
    others = {(os.path.relpath(path, top).split("/")[0], found[path, name].kind)
              for path, name in found.keys() - paths.keys()}  # fmt: skip
    assert ("somebody's copy.bin", "collection") in others
    assert {kind for place, kind in others if place == "ours"} == {
        "collection", "deleted", "backup",
    }  # fmt: skip
    assert {place for place, _ in others} <= {
        "somebody's copy.bin", "ours", "deleted", "copied", "snapped",
    }  # fmt: skip


def test_progress_reaches_all_bytes_and_never_goes_back(mixed):
    top, _ = mixed
    seen = []
    scan(str(top), lambda done, total: seen.append((done, total)))
    assert len({total for _, total in seen}) == 1
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] > 0


def test_what_is_empty_and_what_is_garbage_are_told_apart(tmp_path):
    for name, data in (("empty", b""), ("zeros", bytes(1 << 20)), ("noise", os.urandom(1 << 16))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vectors.bin").write_bytes(data)
    kinds = {entry.name: (entry.kind, entry.rows) for entry in scan(str(tmp_path))}
    assert kinds == {
        "empty": ("collection", 0), "zeros": ("collection", 0), "noise": ("damaged", 0),
    }  # fmt: skip


def test_nothing_there_is_an_error_and_nothing_in_it_is_not(tmp_path):
    assert scan(str(tmp_path)) == []
    with pytest.raises(NotFoundError) as error:
        scan(str(tmp_path / "none"))
    assert error.value.code == "source-not-found"
