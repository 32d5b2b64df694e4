"""What an old server wrote, upgraded, is read row by row by the old official client."""

import json
import subprocess

import numpy as np
import pytest
from tests.compat.test_official_client import PROGRAMS, client_python
from tests.model.legacy_directories import OldDirectory

from dvecdb.rescue.upgrade import upgrade
from dvecdb.testing.serving import serving

pytestmark = [pytest.mark.compat, pytest.mark.slow, pytest.mark.timeout(600)]
__all__ = ["client_python"]
NAMES = {"docs": "docs", "my films": "my-films", "a/b": "a-b", "logged": "logged"}


@pytest.mark.parametrize("generation", ["A0", "B1", "C1"])
def test_the_official_client_reads_every_row_of_an_upgraded_directory(
    client_python, tmp_path, generation
):
    old = OldDirectory(generation, seed=3)
    for name in NAMES:
        old.collection(name, 25, 16, batch=name == "docs")
    old.server.delete("docs", old.ids["docs"][3])
    old.lose("logged")
    old.write_to(tmp_path / "old")
    report = upgrade(str(tmp_path / "old"), str(tmp_path / "new"), timezone="UTC")
    assert {item.was: item.name for item in report.items} == NAMES
    expected = {
        NAMES[item.name]: {
            id: (np.frombuffer(content.vector, "<f4").tolist(), content.metadata)
            for id, (content,) in old.truth(item).required.items()
        }
        for item in old.expected
    }
    assert {name: len(rows) for name, rows in expected.items()} == {
        "docs": 24, "my-films": 25, "a-b": 25, "logged": 25,
    }  # fmt: skip
    wanted = {name: {id: row[0] for id, row in rows.items()} for name, rows in expected.items()}
    with serving(str(tmp_path / "new")) as served:
        ran = subprocess.run(
            [client_python, str(PROGRAMS / "read_everything.py"), f"127.0.0.1:{served.port}"],
            input=json.dumps(wanted), check=False, capture_output=True, text=True,
            env={"NO_PROXY": "*", "PYTHONDONTWRITEBYTECODE": "1"}, cwd=tmp_path,
        )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    answers = json.loads(ran.stdout)
    assert answers["listed"] == sorted(NAMES.values())
    for name, rows in expected.items():
        for id, (vector, metadata) in rows.items():
            got = answers["rows"][name][id]
            assert (got["vector"], got["hit"]) == (vector, id)
            assert (got["metadata"] or None) == metadata
