"""What is not about records: keys and scopes, audit, tasks, findings, the table of endpoints."""

import subprocess
import sys
import time

import msgspec
import pytest

from dvecdb.api.audit import AuditEntry
from dvecdb.api.auth import Scope
from dvecdb.api.endpoints import ENDPOINTS
from dvecdb.api.openapi import describe
from dvecdb.api.status import STATUSES
from dvecdb.errors import Code
from dvecdb.wire.bodies import AuditLine

C = "/collections/books"


@pytest.fixture
def guarded(start):
    return start(keys=True)


def bearer(server, *scopes, patterns=("*",), name="k"):
    made = server.keys.create(name, [Scope(item) for item in scopes], patterns)
    server.keys.refresh()
    return {"Authorization": f"Bearer {made.token}"}


def test_every_endpoint_needs_its_scope(guarded):
    keys = {
        scope: bearer(guarded, scope, name=scope) for scope in ("read", "write", "backup", "admin")
    }
    for endpoint in ENDPOINTS:
        path = endpoint.path
        for name in endpoint.parameters:
            path = path.replace(f"{{{name}}}", "x")
        bare = guarded(endpoint.method, path)
        if endpoint.scope is None:
            assert bare.status == 200, path
            continue
        assert (bare.status, bare.code) == (401, "unauthenticated"), path
        assert bare.headers["www-authenticate"] == "Bearer"
        for scope, headers in keys.items():
            found = guarded(endpoint.method, path, headers=headers)
            allowed = scope in {endpoint.scope, "admin"}
            assert (found.status not in {401, 403}) == allowed, (path, scope, found.body)
            if not allowed:
                assert found.code == "forbidden"
                assert found.json["details"]["scope"] == endpoint.scope


def test_a_key_sees_only_its_collections(guarded):
    admin = bearer(guarded, "admin", name="admin")
    some = bearer(guarded, "read", "write", patterns=("b*",), name="some")
    for name in ("books", "films"):
        guarded("POST", "/collections", {"name": name, "dimension": 1}, headers=admin)
    assert guarded("GET", "/collections", headers=some).data == ["books"]
    assert guarded("GET", "/stats", headers=some).data["total_collections"] == 1
    assert guarded("GET", "/collections/films", headers=some).status == 403
    assert guarded("POST", "/collections", {"name": "x", "dimension": 1}, headers=some).code == (
        "forbidden"
    )
    assert guarded("POST", "/collections", {"name": "b", "dimension": 1}, headers=some).data
    assert guarded("GET", "/collections", headers={"api-key": some["Authorization"][7:]}).data


def test_the_key_is_the_actor_of_its_writes(guarded):
    headers = bearer(guarded, "admin", name="loader")
    guarded("POST", "/collections", {"name": "books", "dimension": 1}, headers=headers)
    guarded("POST", f"{C}/vectors", {"data": [1]}, headers=headers)
    (commit,) = guarded("GET", f"{C}/history", headers=headers).data["commits"]
    assert commit["actor"] == "loader"


def test_every_change_is_audited(books):
    books("POST", f"{C}/vectors", {"data": [1]}, headers={"Dvecdb-Actor": "ann"})
    books("DELETE", C, headers={"Dvecdb-Reason": "old"})
    books("GET", "/collections")
    created, batch, failed, deleted = books.audit.read().entries[::-1]
    assert (created.operation, created.collection, created.status) == (
        "create_collection", "books", 200)  # fmt: skip
    assert (batch.operation, batch.rows, batch.lsn) == ("insert_vectors", 3, 1)
    assert (failed.code, failed.status, failed.actor) == ("wrong-dimension", 400, "ann")
    assert (deleted.rows, deleted.lsn, deleted.reason) == (3, 1, "old")
    assert deleted.address == "127.0.0.9"
    assert deleted.key == "anonymous"
    assert deleted.request_id
    page = books("GET", "/audit?limit=2").data
    assert [entry["operation"] for entry in page["entries"]] == [
        "delete_collection", "insert_vector"]  # fmt: skip


def test_refused_changes_are_audited(guarded):
    guarded("DELETE", C)
    (entry,) = guarded.audit.read().entries
    assert (entry.code, entry.key, entry.collection) == ("unauthenticated", None, "books")


def test_the_audit_line_of_the_wire_is_that_of_the_log():
    assert AuditLine.__struct_fields__ == AuditEntry.__struct_fields__


def ended(server, task_id):
    """Return a task once it has ended."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        task = server("GET", f"/tasks/{task_id}").data
        if task["ended"] is not None:
            return task
        time.sleep(0.001)
    raise AssertionError(f"the task did not end: {task}")


def test_verification_and_findings(books):
    assert books("POST", f"{C}/flush").data == {"done": True}
    report = books("POST", f"{C}/verify").data
    assert (report["ok"], report["collection"]) == (True, "books")
    assert report["blocks"] > 0
    started = books("POST", f"{C}/verify", {"background": True})
    assert started.status == 202
    task = started.data["task"]
    done = ended(books, task["id"])
    assert (done["state"], done["result"]["ok"]) == ("done", True)
    assert books("GET", "/tasks").data == {"tasks": [done]}
    assert books("POST", f"/tasks/{task['id']}/cancel").data["state"] == "done"
    missing = books("GET", "/tasks/none")
    assert (missing.status, missing.code) == (404, "task-not-found")
    assert books("GET", "/findings").data == {"findings": []}
    assert books("GET", f"{C}/findings").data == {"findings": []}


def test_metrics(books):
    found = books("GET", "/metrics")
    assert found.headers["content-type"].startswith("text/plain")
    assert b"dvecdb_collections" in found.body


# --- the table and what is made of it ---


def test_every_code_has_a_status():
    assert set(STATUSES) == set(Code)


def test_operations_have_names_of_their_own_and_say_what_they_do():
    rows = [(row.method, row.path) for row in ENDPOINTS]
    assert len(set(rows)) == len(rows)
    names = [row.name for row in ENDPOINTS if row.path != "/ready"]
    assert len(set(names)) == len(names)
    assert all(row.summary.endswith(".") for row in ENDPOINTS)


def test_the_description_names_every_endpoint(server):
    described = server("GET", "/openapi.json").json
    assert described == msgspec.json.decode(
        msgspec.json.encode(describe(ENDPOINTS, legacy_errors=False))
    )
    for endpoint in ENDPOINTS:
        operation = described["paths"][endpoint.path][endpoint.method.lower()]
        assert operation["summary"] == endpoint.summary
    text = server("GET", "/openapi.json").body.decode()
    for reference in set(_references(described)):
        found = described
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    assert "dvecdb.wire" not in text


def _references(value):
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _references(item)


def test_the_docs_load_nothing_from_anywhere(server):
    page = server("GET", "/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    text = page.body.decode()
    for word in ("http://", "https://", "src=", "@import", "url(", "<script", "<link"):
        assert word not in text
    for endpoint in ENDPOINTS:
        assert endpoint.path in text


def test_a_server_that_runs_no_job_does_not_load_what_runs_one():
    program = (
        "import sys; import dvecdb.api.app; "
        "sys.exit(' '.join({'urllib3', 'dvecdb.embedding.running'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
