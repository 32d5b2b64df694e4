"""The comparison with other systems runs, with the two that are installed wherever tests are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    """What a run of a few hundred rows wrote."""
    directory = tmp_path_factory.mktemp("peers")
    target = directory / "run.json"
    command = [sys.executable, "-m", "benchmarks.peers", "--only", "dvecdb,faiss", "--rows", "500"]
    command += ["--dimension", "32", "--rounds", "1", "--seconds", "0", "--dir", str(directory)]
    done = subprocess.run(
        [*command, "--json", str(target)], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in directory.iterdir()] == ["run.json"]
    return json.loads(target.read_text())


def test_a_run_says_what_it_ran_on(document):
    assert (document["rows"], document["dimension"], document["rounds"]) == (500, 32, 1)
    assert {"dvecdb", "python", "numpy", "cpus", "time", "data", "threads"} <= document.keys()
    assert [system["name"] for system in document["systems"]] == ["dvecdb", "faiss"]


def test_every_system_has_every_figure(document):
    for system in document["systems"]:
        assert (system["status"], system["error"]) == ("measured", "")
        assert system["versions"]
        assert system["durability"]
        assert 0 < system["durable"] <= system["searchable"]
        assert system["disk"] > 0
        assert len(system["restarts"]) == len(system["copies"]) == 1
        assert system["restarts_correct"] == [True]
        figures = {(cell["level"], cell["below"], cell["clients"]) for cell in system["cells"]}
        assert figures == {
            *((level, None, clients) for level in (0.95, 0.99) for clients in (1, 8)),
            *((0.95, below, 1) for below in (10, 100, 500)),
        }


def test_every_figure_has_the_recall_it_was_measured_at_and_a_ratio(document):
    for system in document["systems"]:
        for cell in system["cells"]:
            assert {"effort", "reached", "qps", "p50_ms", "p99_ms", "ratio"} <= cell.keys()
            assert 0.8 <= cell["recall"] <= 1.0
            assert len(cell["rounds"]) == 1
