"""`make dist` builds a wheel that installs into a bare environment and serves."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from tests.e2e.serving import Server

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def uv():
    """Return the uv that make uses."""
    own = ROOT / ".venv" / "uv" / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        pytest.skip("uv is missing: neither wheel nor installation is checked")
    return found


def run(*command, cwd=ROOT, **more):
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "UV_PYTHON_DOWNLOADS": "never",
        **more,
    }
    done = subprocess.run(
        command, cwd=cwd, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def test_the_makefile_builds_what_is_tested_here():
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^dist:.*\n\t\S*uv build --python", makefile, re.MULTILINE)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the source archive."""
    directory = tmp_path_factory.mktemp("dist")
    run(uv(), "build", "--python", sys.executable, "--out-dir", str(directory))
    (wheel,) = directory.glob("*.whl")
    (archive,) = directory.glob("*.tar.gz")
    return wheel, archive


def test_the_wheel_has_the_package_and_nothing_else(built):
    names = zipfile.ZipFile(built[0]).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"dvecdb"}
    assert {"dvecdb/py.typed", "dvecdb/search/_compiled.so"} <= set(names)
    assert re.search(r"-py3-none-(?!any)\w+\.whl$", built[0].name)


def test_a_wheel_without_the_compiled_part_is_for_any_system(built, tmp_path):
    run(uv(), "build", "--wheel", "--out-dir", str(tmp_path), str(built[1]), DVECDB_PURE="1")
    (wheel,) = tmp_path.glob("*-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]


def test_the_source_archive_has_what_is_needed_to_run_a_server(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"deploy/Dockerfile", "deploy/d-vecdb.service", "uv.lock", "LICENSE"} <= names


def test_the_wheel_installs_into_a_bare_environment_and_serves(built, tmp_path):
    run(uv(), "venv", "--python", sys.executable, str(tmp_path / "bare"))
    binaries = tmp_path / "bare" / "bin"
    run(uv(), "pip", "install", "--python", str(binaries / "python"), str(built[0]))
    program = "from dvecdb.search.compiled import compiled; print(compiled() is not None)"
    assert run(str(binaries / "python"), "-c", program, cwd=tmp_path) == "True\n"
    assert run(str(binaries / "dvecdb"), "version").startswith("dvecdb ")
    assert run(str(binaries / "vectordb-server"), "-V").startswith("vectordb-server ")
    server = Server(
        tmp_path / "data", tmp_path / "log", program=[str(binaries / "dvecdb"), "serve"]
    )
    try:
        assert server.wait().ask("GET", "/health")[0] == 200
        server.stop()
    finally:
        server.kill()
