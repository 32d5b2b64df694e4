"""Golden d-vecDB directories: the writer still makes them, the reader still gets all of them."""

import json

import pytest
from tests.golden import make_legacy

from dvecdb.testing.legacy_judge import judge
from dvecdb.testing.legacy_reading import read
from dvecdb.testing.legacy_scenes import NAME
from dvecdb.testing.legacy_truth import Content, Span, Truth

pytestmark = pytest.mark.compat

BYTES_MAX = 200_000


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def golden_truth(expected):
    result = Truth(expected["dimension"], expected["metric"])
    result.deleted = set(expected["deleted"])
    result.torn = [Span(*span) for span in expected["torn"]]
    for id, versions in expected["rows"].items():
        result.required[id] = [
            Content(
                bytes.fromhex(version["vector"]),
                version["metadata"],
                version.get("quality", "exact"),
                (),
                bytes.fromhex(version.get("stored", "")),
                version.get("json_text", False),
            )
            for version in versions
        ]
    return result


@pytest.mark.parametrize("case", make_legacy.CASES)
def test_the_writer_reproduces_the_golden_directory(case, tmp_path):
    make_legacy.scene(case).write_to(tmp_path, zeros=make_legacy.ZEROS)
    assert contents(tmp_path) == contents(make_legacy.DIRECTORY / case / "data")


@pytest.mark.parametrize("case", make_legacy.CASES)
def test_the_golden_directory_comes_back(case):
    directory = make_legacy.DIRECTORY / case
    expected = json.loads((directory / "expected.json").read_text())
    data, dimension = directory / "data", expected["dimension"]
    if expected["path"] == NAME:
        found = read(data, dimension, collection=NAME)
    else:
        found = read(data / expected["path"], dimension, use_log=False)
    truth = golden_truth(expected)
    truth.logged = (data / "wal").exists()
    assert judge(truth, found) == []
    assert set(expected["deleted"]) <= set(found.report.deleted_by_log)


def test_every_golden_directory_has_its_scene_and_all_are_small():
    assert {path.name for path in make_legacy.DIRECTORY.iterdir()} == set(make_legacy.CASES)
    sizes = map(len, contents(make_legacy.DIRECTORY).values())
    assert sum(sizes) < BYTES_MAX
