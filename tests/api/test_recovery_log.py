"""Log lines of recovery: one for each thing done, none for what was refused or only tried."""

import contextlib

import pytest
from structlog.testing import capture_logs

from dvecdb.api.endpoints import ENDPOINTS
from dvecdb.api.recovery_log import EVENTS
from dvecdb.node.settings import ServerSettings
from dvecdb.node.start import open_parts
from dvecdb.telemetry import Event

ACTOR = {"dvecdb-actor": "ann", "dvecdb-reason": "cleaning"}


@pytest.fixture
def docs(server):
    server("POST", "/collections", {"name": "docs", "dimension": 2})
    rows = [{"id": "a", "data": [1, 2]}, {"id": "b", "data": [3, 4], "metadata": {"secret": 1}}]
    for row in rows:
        assert server("POST", "/collections/docs/vectors", row).status == 200
    return server


def events(server, *calls):
    """Return what was logged of recovery while calls were made that must succeed."""
    with capture_logs() as logs:
        for call in calls:
            assert server(*call, headers=ACTOR).status == 200, call
    return [line for line in logs if str(line["event"]).startswith("recovery.")]


def test_every_event_is_of_a_call_that_changes_something():
    by_name = {endpoint.name: endpoint for endpoint in ENDPOINTS}
    assert EVENTS.keys() <= by_name.keys()
    assert all(by_name[name].mutates for name in EVENTS)


def test_what_was_done_is_a_line_with_who_and_how_much(docs):
    (line,) = events(docs, ("DELETE", "/collections/docs"))
    assert (line["event"], line["collection"], line["rows"]) == (Event.DELETED, "docs", 2)
    assert (line["actor"], line["reason"]) == ("ann", "cleaning")
    assert line["request_id"]
    (entry,) = docs("GET", "/trash").data["entries"]
    (line,) = events(docs, ("POST", "/collections/restore", {"backup_path": entry["name"]}))
    assert (line["event"], line["name"], line["rows"]) == (Event.RESTORED, "docs", 2)
    (line,) = events(docs, ("POST", "/collections/docs/backup", {}))
    assert (line["event"], line["rows"]) == (Event.BACKED_UP, 2)
    name = line["backup_path"].rpartition("/")[2]
    (line,) = events(docs, ("POST", f"/backups/{name}/verify", {}))
    assert (line["event"], line["name"], line["ok"]) == (Event.BACKUP_VERIFIED, name, True)
    (line,) = events(docs, ("POST", "/collections/docs/undo", {"to_lsn": 1}))
    assert (line["event"], line["removed"], line["to_lsn"]) == (Event.UNDONE, 1, 1)
    (line,) = events(docs, ("POST", "/collections/docs/protect", {"deletion": False}))
    assert (line["event"], line["deletion"]) == (Event.PROTECTION, False)
    (line,) = events(docs, ("DELETE", f"/backups/{name}"))
    assert (line["event"], line["name"]) == (Event.BACKUP_DELETED, name)
    (line,) = events(docs, ("DELETE", "/collections/docs/hard-delete"))
    assert (line["event"], line["collection"]) == (Event.HARD_DELETED, "docs")


def test_a_purge_names_what_went(docs):
    docs("DELETE", "/collections/docs")
    (entry,) = docs("GET", "/trash").data["entries"]
    (line,) = events(docs, ("POST", "/collections/cleanup", {"retention_hours": 0}))
    assert (line["event"], line["names"], line["rows"]) == (Event.PURGED, [entry["name"]], 2)
    assert events(docs, ("POST", "/collections/cleanup", {"retention_hours": 0})) == []


def test_what_was_only_tried_or_refused_is_no_line(docs):
    assert events(docs, ("POST", "/collections/docs/undo", {"to_lsn": 1, "dry_run": True})) == []
    with capture_logs() as logs:
        assert docs("DELETE", "/collections/films").status == 404
        assert docs("POST", "/collections/restore", {"backup_path": "../x"}).status == 400
        docs("DELETE", "/collections/docs")
        docs("POST", "/collections/cleanup", {"retention_hours": 0, "dry_run": True})
    assert [line["event"] for line in logs] == [Event.DELETED]


def test_no_line_holds_what_a_record_holds(docs):
    with capture_logs() as logs:
        docs("POST", "/collections/docs/undo", {"to_lsn": 1})
        docs("DELETE", "/collections/docs")
    assert "secret" not in str(logs)


def test_what_the_background_of_a_server_purges_is_a_line(tmp_path):
    with contextlib.ExitStack() as stack:
        parts = open_parts(ServerSettings(data_dir=str(tmp_path / "data")), stack)
        with capture_logs() as logs:
            parts.database.on_expired(("docs_20260101_000000",))
    (line,) = logs
    assert (line["event"], line["names"]) == (Event.EXPIRED, ["docs_20260101_000000"])
