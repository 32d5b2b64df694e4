"""The recovery calls as users of d-vecDB type them: real `curl`, a real server, answers to the key.

Each line is run by a shell as it stands; URL is the server's. What it prints is the whole answer.
"""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from tests.e2e.serving import Server

pytestmark = [
    pytest.mark.compat,
    pytest.mark.skipif(
        shutil.which("curl") is None,
        reason="THE CURL EXAMPLES OF THE RECOVERY CALLS WERE NOT RUN: curl is not installed",
    ),
]

INCIDENTS = r"incidents_\d{8}_\d{6}"
JSON = "-H 'Content-Type: application/json'"
RESTORED = {"name": "incidents", "message": "Collection 'incidents' restored successfully"}


@pytest.fixture
def place(tmp_path):
    """How to start a server over the test's directory; it is ended with the test."""
    started = []

    def start():
        started.append(Server(tmp_path / "data", tmp_path / "log").wait())
        return started[-1]

    yield start
    for server in started:
        server.kill()


class Shell:
    """Runs lines of a shell; `URL` and the variables set by `let` are in its environment."""

    def __init__(self, server):
        self.variables = {"URL": f"http://127.0.0.1:{server.port}"}

    def __call__(self, line):
        """Run a line; return what curl printed, and fail unless it is one answer."""
        ran = subprocess.run(
            ["/bin/sh", "-euc", line],
            check=False, capture_output=True, text=True, timeout=60,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "NO_PROXY": "*", **self.variables},
        )  # fmt: skip
        assert ran.returncode == 0, (line, ran.stdout, ran.stderr)
        return ran.stdout

    def data(self, line):
        """Run a line; return `data` of the answer, which has the three keys and no other."""
        answer = json.loads(self(line))
        assert list(answer) == ["success", "data", "error"], answer
        assert (answer["success"], answer["error"]) == (True, None)
        return answer["data"]

    def refused(self, line):
        """Run a line; return status and code of the error."""
        body, _, status = self(f"{line} -w '\\n%{{http_code}}'").rpartition("\n")
        answer = json.loads(body)
        assert (answer["success"], answer["data"]) == (False, None)
        assert answer["error"] == answer["message"] != ""
        return int(status), answer["code"]


@pytest.fixture
def shell(place):
    """A shell beside a server with the collection `incidents` of three records."""
    shell = Shell(place())
    fill(shell)
    return shell


def fill(shell):
    shell.data(
        f"curl -s -X POST $URL/collections {JSON} -d '"
        '{"name": "incidents", "dimension": 3, "distance_metric": "Cosine", '
        '"vector_type": "Float32"}\''
    )
    shell.data(
        f"curl -s -X POST $URL/collections/incidents/vectors/batch {JSON} -d '"
        '{"vectors": [{"id": "a", "data": [1, 0, 0], "metadata": {"severity": "high"}}, '
        '{"id": "b", "data": [0, 1, 0]}, {"id": "c", "data": [0, 0, 1]}]}\''
    )


def records(shell, name="incidents"):
    """Return what is stored, as a search finds it."""
    return shell.data(
        f"curl -s -X POST $URL/collections/{name}/search {JSON} "
        """-d '{"vector": [1, 0, 0], "limit": 10}'"""
    )


def test_a_deleted_collection_is_listed_and_restored(shell):
    before = records(shell)
    assert shell.data("curl -s -X DELETE $URL/collections/incidents") == {
        "name": "incidents", "message": "Collection deleted successfully",
    }  # fmt: skip
    assert shell.data("curl -s $URL/collections") == []
    assert shell.refused("curl -s $URL/collections/incidents") == (404, "collection-not-found")
    (found,) = shell.data("curl -s $URL/collections/deleted")
    assert list(found) == ["name", "path", "deleted_timestamp", "age_hours"]
    assert re.fullmatch(INCIDENTS, found["name"])
    assert Path(found["path"]).is_absolute()
    assert found["path"].endswith(f"/.deleted/{found['name']}")
    assert Path(found["path"]).is_dir()
    assert type(found["deleted_timestamp"]) is int
    assert abs(found["deleted_timestamp"] - time.time()) < 60
    stamp = time.strftime("%Y%m%d_%H%M%S", time.gmtime(found["deleted_timestamp"]))
    assert found["name"] == f"incidents_{stamp}"
    assert type(found["age_hours"]) is float
    assert 0 <= found["age_hours"] < 1
    shell.variables["DELETED"] = found["path"]
    restored = f"""curl -s -X POST $URL/collections/restore {JSON} \
        -d "{{\\"backup_path\\": \\"$DELETED\\"}}" """
    assert shell.data(restored) == RESTORED
    assert records(shell) == before
    assert shell.data("curl -s $URL/collections/deleted") == []
    assert shell.refused(restored) == (404, "trash-entry-not-found")


def test_it_is_restored_under_a_new_name(shell):
    before = records(shell)
    shell.data("curl -s -X DELETE $URL/collections/incidents")
    fill(shell)
    (found,) = shell.data("curl -s $URL/collections/deleted")
    shell.variables["DELETED"] = found["path"]
    same = f"""curl -s -X POST $URL/collections/restore {JSON} \
        -d "{{\\"backup_path\\": \\"$DELETED\\"}}" """
    assert shell.refused(same) == (409, "collection-exists")
    other = f"""curl -s -X POST $URL/collections/restore {JSON} \
        -d "{{\\"backup_path\\": \\"$DELETED\\", \\"new_name\\": \\"incidents_restored\\"}}" """
    assert shell.data(other) == {
        "name": "incidents_restored",
        "message": "Collection 'incidents_restored' restored successfully",
    }
    assert records(shell, "incidents_restored") == before
    assert shell.data("curl -s $URL/collections") == ["incidents", "incidents_restored"]


@pytest.mark.parametrize(
    ("arguments", "purged"),
    [
        ("", False),
        (JSON, False),
        (f"{JSON} -d '{{}}'", False),
        (f"""{JSON} -d '{{"retention_hours": 24}}'""", False),
        (f"""{JSON} -d '{{"retention_hours": 0}}'""", True),
    ],
)
def test_the_trash_is_cleaned_up_with_a_body_and_without(shell, arguments, purged):
    shell.data("curl -s -X DELETE $URL/collections/incidents")
    (found,) = shell.data("curl -s $URL/collections/deleted")
    answer = shell.data(f"curl -s -X POST $URL/collections/cleanup {arguments}")
    assert answer == ([found["name"]] if purged else [])
    assert Path(found["path"]).exists() is not purged
    assert len(shell.data("curl -s $URL/collections/deleted")) == (not purged)


def test_a_negative_retention_purges_nothing(shell):
    shell.data("curl -s -X DELETE $URL/collections/incidents")
    line = f"""curl -s -X POST $URL/collections/cleanup {JSON} -d '{{"retention_hours": -1}}'"""
    assert shell.refused(line) == (422, "invalid-body")
    assert len(shell.data("curl -s $URL/collections/deleted")) == 1


@pytest.mark.parametrize("arguments", ["", JSON, f"{JSON} -d '{{}}'"])
def test_a_backup_is_made_and_restored(shell, arguments):
    before = records(shell)
    made = shell.data(f"curl -s -X POST $URL/collections/incidents/backup {arguments}")
    assert list(made) == ["collection", "backup_path", "message"]
    assert made["collection"] == "incidents"
    assert made["message"] == "Backup created successfully"
    assert re.search(f"^/.*/\\.backups/{INCIDENTS}$", made["backup_path"])
    shell.data("curl -s -X DELETE $URL/collections/incidents/vectors/a")
    shell.variables["BACKUP"] = made["backup_path"]
    copy = f"""curl -s -X POST $URL/collections/restore {JSON} \
        -d "{{\\"backup_path\\": \\"$BACKUP\\", \\"new_name\\": \\"yesterday\\"}}" """
    assert shell.data(copy)["name"] == "yesterday"
    assert records(shell, "yesterday") == before
    assert len(records(shell)) == 2
    shell.data("curl -s -X DELETE $URL/collections/incidents")
    back = f"""curl -s -X POST $URL/collections/restore {JSON} \
        -d "{{\\"backup_path\\": \\"$BACKUP\\"}}" """
    assert shell.data(back) == RESTORED
    assert records(shell) == before
    (listed,) = shell.data("curl -s $URL/collections/incidents/snapshots")
    assert listed["name"] == Path(made["backup_path"]).name


def test_a_hard_delete_is_for_good(shell):
    made = shell.data("curl -s -X POST $URL/collections/incidents/backup")
    printed = shell("curl -s -i -X DELETE $URL/collections/incidents/hard-delete")
    head, _, body = printed.replace("\r", "").partition("\n\n")
    assert json.loads(body) == {
        "success": True,
        "data": {
            "name": "incidents",
            "message": "Collection permanently deleted (no recovery possible)",
        },
        "error": None,
    }
    name = Path(made["backup_path"]).name
    assert f"dvecdb-backups: {name}" in head.lower()
    assert shell.data("curl -s $URL/collections") == []
    assert shell.data("curl -s $URL/collections/deleted") == []
    again = "curl -s -X DELETE $URL/collections/incidents/hard-delete"
    assert shell.refused(again) == (404, "collection-not-found")


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_what_was_deleted_is_restored_after_a_restart(place, ending):
    server = place()
    shell = Shell(server)
    fill(shell)
    before = records(shell)
    backup = shell.data("curl -s -X POST $URL/collections/incidents/backup")["backup_path"]
    shell.data("curl -s -X DELETE $URL/collections/incidents")
    getattr(server, ending)()
    server = place()
    shell = Shell(server)
    (found,) = shell.data("curl -s $URL/collections/deleted")
    shell.variables |= {"DELETED": found["path"], "BACKUP": backup}
    for variable, name in (("DELETED", "incidents"), ("BACKUP", "copy")):
        line = f"""curl -s -X POST $URL/collections/restore {JSON} \
            -d "{{\\"backup_path\\": \\"${variable}\\", \\"new_name\\": \\"{name}\\"}}" """
        assert shell.data(line)["name"] == name
    getattr(server, ending)()
    shell = Shell(place())
    assert records(shell) == records(shell, "copy") == before
    assert shell.data("curl -s $URL/collections/deleted") == []
