"""The import of orphaned files as users of d-vecDB type it: real `curl`, a real server.

Each line is run by a shell as it stands. What it prints is the whole answer.
"""

import re
import time

import pytest
from tests.api.orphans import orphan
from tests.compat import test_recovery_curl as curl
from tests.e2e.serving import Server

pytestmark = curl.pytestmark

IMPORTED = {
    "name": "docs", "message": "Collection 'docs' imported successfully from orphaned data",
}  # fmt: skip
BODY = (
    '{"orphaned_path": "\'$OLD\'", "collection_name": "docs", "dimension": 2, '
    '"distance_metric": "Cosine", "vector_type": "Float32"}'
)


@pytest.fixture
def shell(tmp_path):
    """A shell beside a server; OLD is an orphaned directory that it may import."""
    old = tmp_path / "old server" / "docs"
    orphan(old, metric="Cosine")
    arguments = ("--import-root", str(old.parent))
    server = Server(tmp_path / "data", tmp_path / "log", *arguments).wait()
    shell = curl.Shell(server)
    shell.variables["OLD"] = str(old)
    shell.variables["BODY"] = BODY.replace("'$OLD'", str(old))
    yield shell
    server.kill()


def posted(query=""):
    return f'curl -s -X POST "$URL/collections/import{query}" {curl.JSON} -d "$BODY"'


def hits(shell):
    return shell.data(
        f"curl -s -X POST $URL/collections/docs/search {curl.JSON} "
        """-d '{"vector": [1, 1], "limit": 10}'"""
    )


def test_an_orphaned_directory_is_imported(shell):
    assert shell.data(posted()) == IMPORTED
    found = {hit["id"]: hit["metadata"] for hit in hits(shell)}
    assert found == {f"00000000-0000-0000-0000-00000000000{n}": {"n": n} for n in (1, 2, 3)}
    assert shell.refused(posted()) == (409, "collection-exists")


def test_the_report_is_where_the_location_says(shell):
    head = shell(posted() + " -D - -o /dev/null")
    place = re.search(r"(?im)^location: (\S+)", head)[1]
    report = shell.data(f"curl -s $URL{place}")["report"]
    assert (report["imported"], report["exact"], report["dimension"]) == (3, 3, 2)


def test_only_the_report_is_asked_for(shell):
    report = shell.data(posted("?dry_run=true"))
    assert (report["imported"], report["lost"]) == (3, [])
    assert shell.data("curl -s $URL/collections") == []


def test_a_task_does_it(shell):
    task = shell.data(posted("?wait=false"))["task"]
    end = time.monotonic() + 30
    while shell.data(f"curl -s $URL/tasks/{task['id']}")["state"] in {"queued", "running"}:
        assert time.monotonic() < end
    assert len(hits(shell)) == 3


def test_a_path_elsewhere_is_refused_with_the_command_that_imports_it(shell):
    line = (
        f"curl -s -X POST $URL/collections/import {curl.JSON} "
        """-d '{"orphaned_path": "/etc", "collection_name": "docs"}'"""
    )
    assert shell.refused(line) == (403, "source-not-allowed")
    assert "dvecdb import /etc --as docs" in shell(line)
    assert "--import-root /etc" in shell(line)
