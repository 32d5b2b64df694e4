"""The comparison with other systems runs, with the two that are installed wherever tests are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

FIGURES = {
    *((level, None, clients) for level in (0.95, 0.99) for clients in (1, 8)),
    *((0.95, below, 1) for below in (10, 100, 500)),
}


def run(directory):
    """Return what a run of a few hundred rows wrote."""
    target = directory / "run.json"
    command = [sys.executable, "-m", "benchmarks.peers", "--only", "dvecdb,faiss", "--rows", "500"]
    command += ["--dimension", "32", "--rounds", "1", "--seconds", "0", "--dir", str(directory)]
    done = subprocess.run(
        [*command, "--json", str(target)], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(directory.iterdir()) == [target]
    return json.loads(target.read_text())


def test_a_run_has_every_figure_of_every_system_with_its_recall(tmp_path):
    document = run(tmp_path)
    assert (document["rows"], document["dimension"], document["rounds"]) == (500, 32, 1)
    assert {"dvecdb", "python", "numpy", "cpus", "time", "data", "threads"} <= document.keys()
    assert [system["name"] for system in document["systems"]] == ["dvecdb", "faiss"]
    for system in document["systems"]:
        assert (system["status"], system["error"]) == ("measured", "")
        assert system["versions"]
        assert system["durability"]
        assert 0 < system["durable"] <= system["searchable"]
        assert system["disk"] > 0
        assert len(system["restarts"]) == len(system["copies"]) == 1
        assert system["restarts_correct"] == [True]
        cells = {(cell["level"], cell["below"], cell["clients"]) for cell in system["cells"]}
        assert cells == FIGURES
        for cell in system["cells"]:
            assert {"effort", "reached", "qps", "p50_ms", "p99_ms", "ratio"} <= cell.keys()
            assert 0.8 <= cell["recall"] <= 1.0
            assert len(cell["rounds"]) == 1
