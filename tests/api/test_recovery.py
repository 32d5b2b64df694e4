"""The calls of recovery: what they answer to the key, what they refuse, and that this is all."""

import datetime as dt
import os
import re
import shutil
from pathlib import Path

import msgspec
import pytest
from tests.api.test_server import ended

C = "/collections/books"
STAMPED = r"_\d{8}_\d{6}"
TRASH_KEYS = ["name", "path", "collection", "uuid", "deleted", "age_hours", "expires", "actor",
              "reason", "rows", "size_bytes"]  # fmt: skip
BACKUP_KEYS = [
    *("name", "path", "collection", "uuid", "created", "lsn", "rows", "size_bytes", "own_bytes"),
    *("reason", "actor", "automatic", "independent", "verified", "ok"),
]


def refused(found, status, code, *words):
    assert (found.status, found.code) == (status, code), found.body
    for word in words:
        assert word in found.json["message"], found.json["message"]
    return found.json["details"]


def rows(server, name="books"):
    """Return every record of a collection, as it is answered."""
    return server("GET", f"/collections/{name}/scroll?limit=100&with_vectors=true").data["records"]


def delete(server, name="books"):
    """Delete a collection; return its trash entry."""
    assert server("DELETE", f"/collections/{name}").status == 200
    return server("GET", "/trash").data["entries"][0]


def back_up(server, name="books", body=None):
    """Make a backup; return all of it."""
    assert server("POST", f"/collections/{name}/backup", body).status == 200
    return server("GET", f"/collections/{name}/backups").data["backups"][0]


def tree(server):
    """Return the names in `collections`, `.deleted` and `.backups`, and what is in them."""
    root = Path(server.path)
    return sorted(
        str(path.relative_to(root))
        for part in ("collections", ".deleted", ".backups")
        for path in (root / part).rglob("*")
    )


def audited(server, operation):
    """Return the audit lines of an operation, oldest first."""
    entries = server("GET", "/audit").data["entries"]
    return [entry for entry in reversed(entries) if entry["operation"] == operation]


# --- deleted and restored --------------------------------------------------------------------


def test_a_deleted_collection_is_listed_and_comes_back(books):
    before = rows(books)
    headers = {"Dvecdb-Actor": "Zo%C3%AB", "Dvecdb-Reason": "tidy"}
    deleted = books("DELETE", C, headers=headers)
    assert deleted.data == {"name": "books", "message": "Collection deleted successfully"}
    assert books("GET", "/collections").data == []
    (legacy,) = books("GET", "/collections/deleted").data
    assert list(legacy) == ["name", "path", "deleted_timestamp", "age_hours"]
    assert re.fullmatch(f"books{STAMPED}", legacy["name"])
    assert legacy["path"] == f"{books.path}/.deleted/{legacy['name']}"
    assert type(legacy["deleted_timestamp"]) is int
    assert type(legacy["age_hours"]) is float
    (entry,) = books("GET", "/trash").data["entries"]
    assert list(entry) == TRASH_KEYS
    assert (entry["collection"], entry["rows"], entry["actor"], entry["reason"]) == (
        "books", 3, "Zoë", "tidy",
    )  # fmt: skip
    assert books("GET", f"/trash/{entry['name']}").data == {**entry, "age_hours": pytest.approx(
        books("GET", f"/trash/{entry['name']}").data["age_hours"], abs=1)}  # fmt: skip

    restored = books("POST", "/collections/restore", {"backup_path": legacy["path"]})
    assert restored.data == {
        "name": "books", "message": "Collection 'books' restored successfully",
    }  # fmt: skip
    assert restored.lsn == 1
    assert restored.headers["dvecdb-rows"] == "3"
    assert restored.headers["dvecdb-source"] == legacy["name"]
    assert rows(books) == before
    assert books("GET", "/collections/deleted").data == []


@pytest.mark.parametrize("form", ["{name}", "{path}", ".deleted/{name}", "{path}/"])
def test_a_trash_entry_is_named_in_any_of_these_ways(books, form):
    entry = delete(books)
    asked = {"backup_path": form.format(**entry), "new_name": "again", "unknown": 1}
    answer = books("POST", "/collections/restore", asked)
    assert answer.data["message"] == "Collection 'again' restored successfully"
    assert books("GET", "/collections").data == ["again"]
    assert len(rows(books, "again")) == 3


def test_a_name_with_stamps_in_it_is_parsed_from_the_end(server):
    name = "logs_20240101_000000"
    server("POST", "/collections", {"name": name, "dimension": 1})
    entry = delete(server, name)
    assert entry["collection"] == name
    server("POST", "/collections/restore", {"backup_path": entry["name"]})
    assert server("GET", "/collections").data == [name]


def test_a_restore_survives_a_restart_between(books):
    before = rows(books)
    entry = delete(books)
    books.reopen()
    assert books("GET", "/trash").data["entries"][0]["name"] == entry["name"]
    assert books("POST", "/collections/restore", {"backup_path": entry["path"]}).status == 200
    books.reopen()
    assert rows(books) == before


def test_nothing_is_restored_over_an_existing_collection(books):
    entry = delete(books)
    books("POST", "/collections", {"name": "books", "dimension": 2})
    books("PUT", f"{C}/vectors/new", {"data": [5, 5]})
    before = (tree(books), rows(books))
    details = refused(
        books("POST", "/collections/restore", {"backup_path": entry["name"]}),
        409, "collection-exists", "new_name",
    )  # fmt: skip
    assert details["name"] == "books"
    refused(
        books("POST", "/collections/restore", {"backup_path": entry["name"], "new_name": "BOOKS"}),
        409, "collection-exists",
    )  # fmt: skip
    assert (tree(books), rows(books)) == before


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "/", "..", ".", "../..", ".deleted", ".backups", ".deleted/..", "{root}",
        "{root}/collections/books", "collections/books", "books", "{root}/.deleted/../{name}",
        "{root}/.deleted/./{name}", "{root}/.deleted/{name}/../{name}", "/tmp/.deleted/{name}",
        "{root}/.deleted//{name}", "{root}/.deleted/{name}/wal", ".deleted/.partial-{name}",
        "{root}/.server/keys", "{name}\0", "\0", "{root}/.deleted/{name}/..", "./{name}",
        "file://{root}/.deleted/{name}", "~/{name}", "", "x" * 5000,
    ],
)  # fmt: skip
def test_a_path_outside_the_trash_and_the_backups_is_refused(books, path):
    entry = delete(books)
    books("POST", "/collections", {"name": "books", "dimension": 2})
    before = tree(books)
    text = path.format(root=books.path, name=entry["name"])
    found = books("POST", "/collections/restore", {"backup_path": text, "new_name": "stolen"})
    refused(found, 400, "path-not-allowed", ".deleted", ".backups")
    if text and len(text) < 1000:
        encoded = "".join(f"%{byte:02X}" for byte in text.encode())
        for kind in ("trash", "backups"):
            for target in (f"/{kind}/{encoded}/count", f"/{kind}/{encoded}/info"):
                found = books("GET", target)
                assert (found.status, found.code) in {
                    (400, "path-not-allowed"), (404, "trash-entry-not-found"),
                    (404, "backup-not-found"),
                }, found.body  # fmt: skip
    assert tree(books) == before


def test_links_and_what_is_no_directory_are_refused(books):
    entry = delete(books)
    root = Path(books.path)
    shutil.copytree(entry["path"], root / "elsewhere")
    for place in (".deleted", ".backups"):
        (root / place).mkdir(exist_ok=True)
        (root / place / "link_20240101_000000").symlink_to(root / "elsewhere")
        os.mkfifo(root / place / "pipe_20240101_000000")
        (root / place / "file_20240101_000000").write_text("x")
        for kind in ("link", "pipe", "file"):
            name = f"{kind}_20240101_000000"
            for path in (f"{place}/{name}", f"{root}/{place}/{name}"):
                found = books("POST", "/collections/restore", {"backup_path": path})
                assert (found.status, found.code) in {
                    (404, "trash-entry-not-found"), (404, "backup-not-found"),
                    (400, "path-not-allowed"),
                }, found.body  # fmt: skip
    assert [item["name"] for item in books("GET", "/trash").data["entries"]] == [entry["name"]]
    assert books("GET", "/backups").data == {"backups": []}
    assert books("GET", "/collections").data == []


def test_what_was_purged_is_not_found(books):
    entry = delete(books)
    assert books("POST", "/collections/cleanup", {"retention_hours": 0}).data == [entry["name"]]
    for found in (
        books("POST", "/collections/restore", {"backup_path": entry["path"]}),
        books("GET", f"/trash/{entry['name']}"),
        books("GET", f"/trash/{entry['name']}/count"),
        books("DELETE", f"/trash/{entry['name']}"),
        books("POST", "/collections/cleanup", {"names": [entry["name"]]}),
    ):
        refused(found, 404, "trash-entry-not-found", entry["name"])


def test_what_was_removed_by_hand_vanishes_without_an_error(books):
    entry, made = delete(books), None
    books("POST", "/collections/restore", {"backup_path": entry["name"]})
    made = back_up(books)
    entry = delete(books)
    shutil.rmtree(entry["path"])
    shutil.rmtree(made["path"])
    assert books("GET", "/collections/deleted").data == []
    assert books("GET", "/trash").data == {"entries": []}
    assert books("GET", "/backups").data == {"backups": []}
    refused(books("GET", f"/trash/{entry['name']}/count"), 404, "trash-entry-not-found")
    refused(books("GET", f"/backups/{made['name']}/count"), 404, "backup-not-found")
    shutil.rmtree(Path(books.path) / ".deleted")
    assert books("GET", "/trash").data == {"entries": []}


# --- cleanup and hard-delete -----------------------------------------------------------------


def test_cleanup_takes_a_body_or_none(books):
    entry = delete(books)
    for body in (None, {}, b"", {"retention_hours": None}, {"retention_hours": 24, "x": 1}):
        assert books("POST", "/collections/cleanup", body).data == []
    asked = {"retention_hours": 0, "dry_run": True}
    assert books("POST", "/collections/cleanup", asked).data == [entry["name"]]
    assert Path(entry["path"]).is_dir()
    assert books("POST", "/collections/cleanup", {"retention_hours": 0.0}).data == [entry["name"]]
    assert not Path(entry["path"]).exists()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"retention_hours":-1}', 422, "invalid-body"),
        (b'{"retention_hours":-0.001}', 422, "invalid-body"),
        (b'{"retention_hours":"0"}', 422, "invalid-body"),
        (b'{"retention_hours":true}', 422, "invalid-body"),
        (b'{"retention_hours":1e308}', 400, "invalid-argument"),
        (b'{"retention_hours":NaN}', 400, "invalid-body"),
        (b'{"dry_run":1}', 422, "invalid-body"),
        (b'{"names":"books"}', 422, "invalid-body"),
        (b"[]", 422, "invalid-body"),
    ],
)
def test_a_bad_cleanup_purges_nothing(books, body, status, code):
    entry = delete(books)
    refused(books("POST", "/collections/cleanup", body), status, code)
    assert Path(entry["path"]).is_dir()


def test_one_entry_is_purged_by_name(books):
    entry = delete(books)
    books("POST", "/collections", {"name": "other", "dimension": 2})
    other = delete(books, "other")
    assert books("DELETE", f"/trash/{entry['name']}").data == {"done": True}
    assert [item["name"] for item in books("GET", "/trash").data["entries"]] == [other["name"]]
    asked = {"names": [other["name"]], "retention_hours": 1000}
    assert books("POST", "/collections/cleanup", asked).data == [other["name"]]
    assert books("GET", "/trash").data == {"entries": []}


def test_a_hard_delete_leaves_nothing_but_backups_and_names_them(books):
    made = back_up(books)
    gone = books("DELETE", f"{C}/hard-delete")
    assert gone.data == {
        "name": "books",
        "message": "Collection permanently deleted (no recovery possible)",
    }
    assert gone.headers["dvecdb-backups"] == made["name"]
    assert int(gone.headers["dvecdb-freed-bytes"]) >= 0
    assert books("GET", "/collections").data == []
    assert books("GET", "/trash").data == {"entries": []}
    assert books("POST", "/collections/restore", {"backup_path": made["path"]}).status == 200
    gone = books("DELETE", f"{C}/hard-delete?include_backups=true")
    assert "dvecdb-backups" not in gone.headers
    assert books("GET", "/backups").data == {"backups": []}


def test_a_hard_delete_makes_a_backup_first_if_asked(books):
    before = rows(books)
    gone = books("DELETE", f"{C}/hard-delete?backup=true")
    (made,) = books("GET", "/backups").data["backups"]
    assert gone.headers["dvecdb-backups"] == made["name"]
    books("POST", "/collections/restore", {"backup_path": made["name"]})
    assert rows(books) == before


def test_bad_hard_deletes_delete_nothing(books):
    back_up(books)
    before = tree(books)
    both = books("DELETE", f"{C}/hard-delete?backup=true&include_backups=true")
    refused(both, 400, "invalid-argument", "include_backups")
    refused(books("DELETE", f"{C}/hard-delete?backup=perhaps"), 422, "invalid-body", "$.backup")
    refused(books("DELETE", "/collections/none/hard-delete"), 404, "collection-not-found")
    refused(books("DELETE", "/collections/%2e%2e/hard-delete"), 400, "invalid-name")
    assert tree(books) == before


def test_a_protected_collection_cannot_be_deleted(books):
    assert books("GET", f"{C}/protect").data == {"name": "books", "deletion": False}
    protected = books("POST", f"{C}/protect")
    assert protected.data == {"name": "books", "deletion": True}
    assert protected.lsn == 2
    for target in (C, f"{C}/hard-delete", f"{C}/hard-delete?backup=true"):
        refused(books("DELETE", target), 403, "collection-protected", "'books'")
    books.reopen()
    refused(books("DELETE", C), 403, "collection-protected")
    assert books("GET", f"{C}/protect").data["deletion"] is True
    assert books("POST", f"{C}/protect", {"deletion": False}).data["deletion"] is False
    assert books("DELETE", C).status == 200
    refused(books("POST", f"{C}/protect"), 404, "collection-not-found")


# --- backups ---------------------------------------------------------------------------------


def test_a_backup_is_made_listed_verified_and_restored(books):
    before = rows(books)
    made = books("POST", f"{C}/backup")
    assert list(made.data) == ["collection", "backup_path", "message"]
    assert (made.data["collection"], made.lsn) == ("books", 1)
    assert made.data["message"] == "Backup created successfully"
    assert re.fullmatch(re.escape(f"{books.path}/.backups/books") + STAMPED,
                        made.data["backup_path"])  # fmt: skip
    (found,) = books("GET", "/backups").data["backups"]
    assert list(found) == BACKUP_KEYS
    assert (found["path"], found["rows"], found["lsn"]) == (made.data["backup_path"], 3, 1)
    assert (found["automatic"], found["independent"], found["verified"]) == (False, False, None)
    assert books("GET", f"/backups/{found['name']}").data == found
    assert books("GET", f"{C}/backups").data == {"backups": [found]}
    assert books("GET", "/collections/other/backups").data == {"backups": []}
    report = books("POST", f"/backups/{found['name']}/verify").data
    assert (report["collection"], report["ok"], report["findings"]) == ("books", True, [])
    verified = books("GET", f"/backups/{found['name']}").data
    assert (verified["ok"], verified["verified"] is None) == (True, False)

    books("DELETE", f"{C}/vectors/a")
    asked = {"backup_path": made.data["backup_path"], "new_name": "copy", "verify": "full"}
    assert books("POST", "/collections/restore", asked).status == 200
    assert rows(books, "copy") == before
    assert [item["id"] for item in rows(books)] == ["b", "c"]
    delete(books)
    assert len(books("GET", f"{C}/backups").data["backups"]) == 1
    assert books("DELETE", f"/backups/{found['name']}").data == {"done": True}
    refused(books("DELETE", f"/backups/{found['name']}"), 404, "backup-not-found")
    refused(books("GET", f"/backups/{found['name']}"), 404, "backup-not-found")
    refused(books("POST", f"/backups/{found['name']}/verify"), 404, "backup-not-found")


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (None, {"Dvecdb-Reason": "why%20not"}),
        (b"", {"Dvecdb-Reason": "why%20not"}),
        ({"reason": "why not", "more": 1}, {}),
        ({"reason": "why not", "independent": True}, {"Dvecdb-Reason": "another"}),
    ],
)
def test_a_backup_keeps_its_reason(books, body, headers):
    made = books("POST", f"{C}/backup", body, headers={"Dvecdb-Actor": "me", **headers})
    assert made.status == 200
    (found,) = books("GET", "/backups").data["backups"]
    assert (found["reason"], found["actor"]) == ("why not", "me")
    assert found["independent"] is ("independent" in (body or {}))


def test_snapshots_are_the_same_under_their_old_name(books):
    made = books("POST", f"{C}/snapshots")
    assert list(made.data) == ["snapshot_name", "collection", "size_bytes", "message"]
    name = made.data["snapshot_name"]
    (listed,) = books("GET", f"{C}/snapshots").data
    assert list(listed) == ["name", "collection", "created_at", "size_bytes", "vector_count",
                            "checksum"]  # fmt: skip
    assert (listed["name"], listed["collection"], listed["vector_count"]) == (name, "books", 3)
    assert books("GET", f"{C}/snapshots/{name}").data == listed
    assert books("GET", "/backups").data["backups"][0]["name"] == name
    for method in ("GET", "DELETE"):
        refused(books(method, f"/collections/other/snapshots/{name}"), 404, "backup-not-found")
        refused(books(method, f"{C}/snapshots/none"), 404, "backup-not-found")
    gone = books("DELETE", f"{C}/snapshots/{name}").data
    assert gone == {"name": name, "message": "Snapshot deleted successfully"}
    assert books("GET", f"{C}/snapshots").data == []


def wreck(made, how):
    """Damage a backup, independent of the collection; return the file."""
    files = [path for path in Path(made["path"]).rglob("*") if path.is_file()]
    (path,) = [path for path in files if path.name == "vectors.bin"]
    if how == "removed":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data = data[:-4] if how == "cut" else bytes([data[0] ^ 1]) + data[1:]
        path.chmod(0o600)
        path.write_bytes(data)
    return path


@pytest.mark.parametrize("how", ["removed", "cut", "flipped"])
def test_a_damaged_backup_is_not_restored_and_says_what_is_damaged(books, how):
    books("POST", f"{C}/flush")
    made = back_up(books, body={"independent": True})
    wreck(made, how)
    before = tree(books)
    asked = {"backup_path": made["name"], "new_name": "copy", "verify": "full"}
    details = refused(books("POST", "/collections/restore", asked), 409, "backup-damaged",
                      made["name"], "allow_damage")  # fmt: skip
    assert details["problems"]
    assert books("GET", "/collections").data == ["books"]
    assert tree(books) == before
    if how != "flipped":  # a glance is enough
        refused(books("POST", "/collections/restore", {**asked, "verify": "quick"}), 409,
                "backup-damaged")  # fmt: skip
    report = books("POST", f"/backups/{made['name']}/verify").data
    assert report["ok"] is False
    assert report["findings"]
    assert books("GET", f"/backups/{made['name']}").data["ok"] is False
    assert len(rows(books)) == 3
    assert books("GET", "/findings").data == {"findings": []}


def test_what_is_whole_of_a_damaged_backup_comes_back_if_asked(server):
    server("POST", "/collections", {"name": "books", "dimension": 1024})
    vectors = [{"id": f"{n}", "data": [n] * 1024} for n in range(40)]
    server("POST", f"{C}/vectors/batch", {"vectors": vectors})
    server("POST", f"{C}/flush")
    made = back_up(server, body={"independent": True})
    wreck(made, "flipped")
    asked = {"backup_path": made["name"], "new_name": "copy", "verify": "full"}
    assert server("POST", "/collections/restore", asked).status == 409
    assert server("POST", "/collections/restore", {**asked, "allow_damage": True}).status == 200
    assert server("GET", "/collections/copy/count").data["count"] == 40
    refused(server("GET", "/collections/copy/vectors/0"), 503, "damaged-data")
    assert server("GET", "/collections/copy/vectors/39").data["data"] == [39] * 1024


@pytest.mark.parametrize(
    "body",
    [
        {}, {"backup_path": None}, {"backup_path": 1}, {"backup_path": "x", "verify": "deep"},
        {"backup_path": "x", "allow_damage": "yes"}, {"backup_path": "x", "new_name": 1}, [],
    ],
)  # fmt: skip
def test_a_restore_of_the_wrong_type_is_refused(books, body):
    refused(books("POST", "/collections/restore", body), 422, "invalid-body")


@pytest.mark.parametrize("name", ["deleted", "a/b", "", "..", "x" * 65, ".x"])
def test_a_bad_new_name_is_refused(books, name):
    entry = delete(books)
    asked = {"backup_path": entry["name"], "new_name": name}
    refused(books("POST", "/collections/restore", asked), 400, "invalid-name")
    assert books("GET", "/collections/deleted").data[0]["name"] == entry["name"]


# --- looking inside --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["trash", "backups"])
def test_what_is_deleted_or_backed_up_is_read_as_a_collection_is(books, kind):
    books("POST", f"{C}/write", {"documents": [{"namespace": "jobs", "key": "k", "value": 7}]})
    calls = [
        ("POST", "vectors/get", {"ids": ["a", "zz"]}),
        ("POST", "query", {"vector": [2, 0], "limit": 2, "where": {"n": 2}}),
        ("GET", "scroll?limit=2&with_vectors=true", None),
        ("GET", "count", None),
        ("GET", "count?as_of=0", None),
        ("GET", "history", None),
        ("GET", "documents/jobs", None),
        ("GET", "documents/jobs/k", None),
    ]
    expected = [books(method, f"{C}/{path}", body).data for method, path, body in calls]
    packed = books("POST", f"{C}/vectors/get", {"ids": ["a"]},
                   headers={"accept": "application/msgpack"}).msgpack  # fmt: skip
    info = books("GET", f"{C}/info").data
    found = delete(books) if kind == "trash" else back_up(books)
    for name in (found["name"], found["path"].replace("/", "%2F")):
        base = f"/{kind}/{name}"
        for (method, path, body), answer in zip(calls, expected, strict=True):
            path = path.removeprefix("vectors/")
            assert books(method, f"{base}/{path}", body).data == answer, path
        assert packed == books("POST", f"{base}/get", {"ids": ["a"]},
                               headers={"accept": "application/msgpack"}).msgpack  # fmt: skip
        assert books("GET", f"{base}/info").data["uuid"] == info["uuid"]
        assert books("GET", f"{base}/info").data["count"] == 3
    for target in (f"{base}/write", f"{base}/vectors", f"{base}/flush"):
        assert books("POST", target, {}).status == 404
    refused(books("POST", f"{base}/query", {"vector": [1]}), 400, "wrong-dimension")
    refused(books("GET", f"{base}/count?as_of=9"), 400, "as-of-unreadable")


# --- undo, clone, delete ---------------------------------------------------------------------


UNDONE_KEYS = ["lsn", "to_lsn", "restored", "removed", "documents", "dry_run", "backup"]


def spoil(books):
    """Write three bad commits: a changed, b deleted, d new. The good state is LSN 1."""
    books("PUT", f"{C}/vectors/a", {"data": [9, 9]})
    books("DELETE", f"{C}/vectors/b")
    books("PUT", f"{C}/vectors/d", {"data": [8, 8]})


@pytest.mark.parametrize(
    "target", [{"to_lsn": 1}, {"before": 2}, {"to_lsn": "before:2"}, {"to_time": ...}]
)
def test_an_undo_brings_rows_back_as_a_new_commit(books, target):
    before = {item["id"]: (item["vector"], item["metadata"]) for item in rows(books)}
    if "to_time" in target:
        target = {"to_time": dt.datetime.now(dt.UTC).isoformat()}
    spoil(books)
    spoiled = rows(books)
    planned = books("POST", f"{C}/undo", {**target, "dry_run": True}).data
    assert list(planned) == UNDONE_KEYS
    assert (planned["restored"], planned["removed"], planned["dry_run"]) == (2, 1, True)
    assert (planned["lsn"], planned["to_lsn"], planned["backup"]) == (4, 1, None)
    assert rows(books) == spoiled
    assert books("GET", "/backups").data == {"backups": []}
    done = books("POST", f"{C}/undo", target, headers={"Dvecdb-Actor": "me"})
    assert done.lsn == done.data["lsn"] == 5
    assert (done.data["restored"], done.data["removed"]) == (2, 1)
    assert {item["id"]: (item["vector"], item["metadata"]) for item in rows(books)} == before
    (made,) = books("GET", "/backups").data["backups"]
    assert (made["name"], made["automatic"], made["lsn"]) == (done.data["backup"], True, 4)
    assert books("GET", f"{C}/count?as_of=4").data["count"] == 3
    assert books("GET", f"{C}/history?limit=1").data["commits"][0]["actor"] == "me"


def test_an_undo_of_some_rows_leaves_the_others(books):
    spoil(books)
    done = books("POST", f"{C}/undo", {"to_lsn": 1, "ids": ["a"]}).data
    assert (done["restored"], done["removed"]) == (1, 0)
    assert sorted(item["id"] for item in rows(books)) == ["a", "c", "d"]
    done = books("POST", f"{C}/undo", {"to_lsn": 1, "filter": {"n": 2}}).data
    assert (done["restored"], done["removed"]) == (1, 0)
    assert sorted(item["id"] for item in rows(books)) == ["a", "b", "c", "d"]


def test_an_undo_with_a_key_is_done_once(books):
    spoil(books)
    headers = {"Idempotency-Key": "once"}
    first = books("POST", f"{C}/undo", {"to_lsn": 1}, headers=headers)
    books("PUT", f"{C}/vectors/e", {"data": [1, 1]})
    again = books("POST", f"{C}/undo", {"to_lsn": 1}, headers=headers)
    assert again.lsn == first.lsn
    assert len(rows(books)) == 4


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "invalid-argument"),
        ({"to_lsn": 1, "before": 2}, 400, "invalid-argument"),
        ({"to_lsn": "before:2", "before": 2}, 400, "invalid-argument"),
        ({"to_lsn": 99}, 400, "as-of-unreadable"),
        ({"to_lsn": -1}, 400, "as-of-unreadable"),
        ({"before": 0}, 400, "invalid-argument"),
        ({"before": 77}, 400, "as-of-unreadable"),
        ({"to_time": "1999-01-01T00:00:00Z"}, 400, "as-of-unreadable"),
        ({"to_time": "2999-01-01T00:00:00Z"}, 400, "as-of-unreadable"),
        ({"to_time": "2024-01-01T00:00:00"}, 422, "invalid-body"),
        ({"to_lsn": "after:2"}, 422, "invalid-body"),
        ({"to_lsn": "before:"}, 422, "invalid-body"),
        ({"to_lsn": 1.5}, 422, "invalid-body"),
        ({"to_lsn": 1, "ids": "a"}, 422, "invalid-body"),
        ({"to_lsn": 1, "ids": [""]}, 400, "invalid-id"),
        ({"to_lsn": 1, "filter": [1]}, 422, "invalid-body"),
        ({"tolsn": 1}, 400, "unknown-field"),
    ],
)
def test_a_bad_undo_changes_nothing(books, body, status, code):
    spoil(books)
    before = (rows(books), tree(books))
    refused(books("POST", f"{C}/undo", body), status, code)
    assert (rows(books), tree(books)) == before


def test_an_undo_outside_the_window_says_what_is_readable(books):
    details = refused(books("POST", f"{C}/undo", {"to_lsn": 9}), 400, "as-of-unreadable", "0 to 1")
    assert (details["first"], details["last"]) == (0, 1)


def test_a_clone_is_of_a_state_and_has_a_future_of_its_own(books):
    before = rows(books)
    spoil(books)
    made = books("POST", f"{C}/clone", {"new_name": "then", "as_of": 1})
    assert list(made.data) == ["name", "source", "lsn", "rows", "rows_rewritten", "copied_bytes"]
    assert (made.data["name"], made.data["source"], made.data["rows"]) == ("then", "books", 3)
    assert [(item["id"], item["vector"]) for item in rows(books, "then")] == [
        (item["id"], item["vector"]) for item in before
    ]
    assert books("POST", f"{C}/clone", {"new_name": "now"}).data["rows"] == 3
    books("DELETE", "/collections/then/vectors/a")
    assert sorted(item["id"] for item in rows(books, "now")) == ["a", "c", "d"]
    taken = books("POST", f"{C}/clone", {"new_name": "then"})
    refused(taken, 409, "collection-exists")
    for body, code in (
        ({"new_name": "a/b"}, "invalid-name"), ({"new_name": "x", "as_of": 9}, "as-of-unreadable"),
        ({"new_name": "restore"}, "invalid-name"),
    ):  # fmt: skip
        refused(books("POST", f"{C}/clone", body), 400, code)
    refused(books("POST", "/collections/none/clone", {"new_name": "x"}), 404,
            "collection-not-found")  # fmt: skip
    refused(books("POST", f"{C}/clone"), 415, "unsupported-media-type")
    assert books("GET", "/collections").data == ["books", "now", "then"]


def test_records_are_deleted_by_id_and_by_filter(books):
    deleted = books("POST", f"{C}/vectors/delete", {"ids": ["a", "zz"]})
    assert (deleted.data, deleted.lsn) == ({"deleted_count": 1, "lsn": 2}, 2)
    deleted = books("POST", f"{C}/vectors/delete", {"filter": {"n": 2}})
    assert deleted.data == {"deleted_count": 1, "lsn": 3}
    assert [item["id"] for item in rows(books)] == ["c"]
    for body in ({}, {"ids": ["c"], "filter": {}}):
        refused(books("POST", f"{C}/vectors/delete", body), 400, "invalid-argument")
    refused(books("POST", f"{C}/vectors/delete", {"ids": ["c"], "if_lsn": 0}), 409,
            "condition-failed")  # fmt: skip
    assert [item["id"] for item in rows(books)] == ["c"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("vectors/delete", {"ids": ["a", "b"]}),
        ("vectors/delete", {"filter": {}}),
        ("vectors/batch-delete", {"ids": ["a", "b"]}),
        ("write", {"deletes": ["a", "b"]}),
        ("write", {"deletes": ["a", "b"], "documents": [{"namespace": "a", "key": "b"}]}),
    ],
)
def test_a_deletion_of_much_needs_to_be_confirmed(start, path, body):
    books = start(engine={"guard_rows": 1})
    books("POST", "/collections", {"name": "books", "dimension": 2})
    vectors = [{"id": one, "data": [1, 0]} for one in "abc"]
    books("POST", f"{C}/vectors/batch", {"vectors": vectors})
    details = refused(books("POST", f"{C}/{path}", body), 409, "confirmation-needed")
    assert (details["rows"], details["total"]) == (3 if "filter" in body else 2, 3)
    assert len(rows(books)) == 3
    assert books("POST", f"{C}/{path}", {**body, "confirm": True}).status == 200
    assert len(rows(books)) == (0 if "filter" in body else 1)
    (made,) = books("GET", "/backups").data["backups"]
    assert (made["automatic"], made["rows"]) == (True, 3)


# --- tags, settings, the clock ---------------------------------------------------------------


def test_tags_name_states(books):
    assert books("GET", f"{C}/tags").data == {"tags": {}}
    tagged = books("POST", f"{C}/tags", {"name": "v1"})
    assert tagged.data == {"name": "v1", "lsn": 1}
    books("DELETE", f"{C}/vectors/a")
    assert books("POST", f"{C}/tags", {"name": "first/ü", "lsn": 0}).data["lsn"] == 0
    assert books("GET", f"{C}/tags").data == {"tags": {"first/ü": 0, "v1": 1}}
    refused(books("POST", f"{C}/tags", {"name": "v1", "lsn": 0}), 409, "condition-failed")
    refused(books("POST", f"{C}/tags", {"name": "v2", "lsn": 99}), 400, "as-of-unreadable")
    refused(books("POST", f"{C}/tags", {"name": ""}), 400, "invalid-argument")
    refused(books("POST", f"{C}/tags", {}), 422, "invalid-body")
    assert books("DELETE", f"{C}/tags/first%2F%C3%BC").data == {"done": True}
    refused(books("DELETE", f"{C}/tags/first%2F%C3%BC"), 404, "id-not-found")
    assert books("GET", f"{C}/tags").data == {"tags": {"v1": 1}}


def test_a_collection_has_settings_of_its_own(books):
    nothing = {"trash_hours": None, "history_hours": None}
    assert books("GET", f"{C}/config").data == nothing
    assert books("PUT", f"{C}/config").data == nothing
    stored = books("PUT", f"{C}/config", {"trash_hours": 48})
    assert stored.data == {"trash_hours": 48, "history_hours": None}
    assert stored.lsn == 2
    assert books("PUT", f"{C}/config", {"history_hours": 72}).data == {
        "trash_hours": 48, "history_hours": 72,
    }  # fmt: skip
    for body, status, code in (
        ({"trash_hours": -1}, 400, "invalid-argument"), ({"hours": 1}, 400, "unknown-field"),
        ({"trash_hours": 1.5}, 422, "invalid-body"), ({"trash_hours": "1"}, 422, "invalid-body"),
        ({"trash_hours": 10**9}, 400, "invalid-argument"),
    ):  # fmt: skip
        refused(books("PUT", f"{C}/config", body), status, code)
    assert books("PUT", f"{C}/config", {"trash_hours": None}).data == {
        "trash_hours": None, "history_hours": 72,
    }  # fmt: skip
    assert books("GET", f"{C}/config").data["history_hours"] == 72


def test_the_clock_is_trusted_on_request(books):
    assert books("POST", "/clock/trust").data == {"done": True}


# --- tasks -----------------------------------------------------------------------------------


def test_long_work_is_a_task_if_asked_for(books):
    spoil(books)

    def run(target, body):
        started = books("POST", target, {**body, "background": True})
        assert started.status == 202, started.body
        task = ended(books, started.data["task"]["id"])
        assert task["collection"] == "books"
        return task

    made = run(f"{C}/backup", {"independent": True})
    assert (made["kind"], made["state"]) == ("backup", "done")
    name = made["result"]["backup_path"].rpartition("/")[2]
    verified = run(f"/backups/{name}/verify", {})
    assert (verified["kind"], verified["result"]["ok"]) == ("verify-backup", True)
    restored = run("/collections/restore", {"backup_path": name, "new_name": "again",
                                            "verify": "full"})  # fmt: skip
    assert (restored["state"], restored["result"]["source"]) == ("done", name)
    assert restored["result"]["rows"] == 3
    assert run(f"{C}/undo", {"to_lsn": 1})["result"]["restored"] == 2
    assert run(f"{C}/clone", {"new_name": "then", "as_of": 1})["result"]["rows"] == 3
    failed = run("/collections/restore", {"backup_path": name, "new_name": "again"})
    assert (failed["state"], failed["error"]["code"]) == ("failed", "collection-exists")
    lines = audited(books, "restore_collection")
    assert [(line["status"], line["code"], line["rows"]) for line in lines] == [
        (202, None, None), (200, None, 3), (202, None, None), (409, "collection-exists", None),
    ]  # fmt: skip
    assert all(line["collection"] == "books" for line in lines)


# --- who may ---------------------------------------------------------------------------------


def with_key(server, scopes, patterns=("*",)):
    """Return how to call with a new key."""
    name = f"key-{len(server.keys.all())}"
    token = server.keys.create(name, list(scopes), list(patterns)).token

    def call(method, target, body=None, **given):
        headers = {"api-key": token, **given.pop("headers", {})}
        return server(method, target, body, headers=headers, **given)

    return call


CALLS = [
    ("read", "GET", "/collections/deleted", None),
    ("read", "GET", "/trash", None),
    ("read", "GET", "/trash/{entry}", None),
    ("read", "GET", "/trash/{entry}/count", None),
    ("read", "POST", "/trash/{entry}/get", {"ids": ["a"]}),
    ("read", "POST", "/trash/{entry}/query", {"vector": [1, 1]}),
    ("read", "GET", "/backups", None),
    ("read", "GET", "/backups/{backup}", None),
    ("read", "GET", "/backups/{backup}/scroll", None),
    ("read", "POST", "/backups/{backup}/verify", None),
    ("read", "GET", f"{C}/backups", None),
    ("read", "GET", f"{C}/snapshots", None),
    ("read", "GET", f"{C}/tags", None),
    ("read", "GET", f"{C}/protect", None),
    ("read", "GET", f"{C}/config", None),
    ("write", "POST", f"{C}/vectors/delete", {"ids": ["a"]}),
    ("write", "POST", f"{C}/tags", {"name": "another"}),
    ("write", "DELETE", f"{C}/tags/t", None),
    ("backup", "POST", f"{C}/backup", None),
    ("backup", "POST", f"{C}/snapshots", None),
    ("restore", "POST", f"{C}/undo", {"to_lsn": 1}),
    ("restore", "POST", "/collections/restore", {"backup_path": "{entry}", "new_name": "bookz"}),
    ("admin", "POST", f"{C}/protect", {"deletion": False}),
    ("admin", "PUT", f"{C}/config", {"trash_hours": 1}),
    ("admin", "POST", "/collections/cleanup", {"names": ["{entry}"]}),
    ("admin", "DELETE", "/backups/{backup}", None),
    ("admin", "DELETE", f"{C}/hard-delete", None),
]


@pytest.fixture
def kept(start):
    """A server with keys, a collection `books`, one of its trash entries and one backup."""
    server = start(keys=True)
    admin = with_key(server, ["admin"])
    for name in ("books", "secret"):
        admin("POST", "/collections", {"name": name, "dimension": 2})
        admin("PUT", f"/collections/{name}/vectors/a", {"data": [1, 0]})
        admin("POST", f"/collections/{name}/backup")
        admin("DELETE", f"/collections/{name}")
        admin("POST", "/collections", {"name": name, "dimension": 2})
        admin("PUT", f"/collections/{name}/vectors/a", {"data": [1, 0]})
    admin("POST", f"{C}/tags", {"name": "t"})
    return server, admin


def entry_of(admin, name):
    """Return the names of the trash entry and the backup of a collection."""
    entries = [item["name"] for item in admin("GET", "/trash").data["entries"]]
    backups = [item["name"] for item in admin("GET", "/backups").data["backups"]]
    return {
        "entry": next(item for item in entries if item.startswith(name)),
        "backup": next(item for item in backups if item.startswith(name)),
    }


def filled(value, names):
    text = msgspec.json.encode(value).decode()
    for name, found in names.items():
        text = text.replace("{" + name + "}", found)
    return msgspec.json.decode(text)


@pytest.mark.parametrize(("scope", "method", "target", "body"), CALLS)
def test_each_call_takes_its_scope_and_the_right_to_the_collection(
    kept, scope, method, target, body
):
    server, admin = kept
    names = entry_of(admin, "books")
    target, body = filled(target, names), filled(body, names)
    others = {"read", "write", "backup", "restore"} - {scope}
    before = tree(server)
    details = refused(with_key(server, others)(method, target, body), 403, "forbidden", scope)
    assert details["scope"] == scope
    is_list = target in {"/trash", "/backups", "/collections/deleted"}
    if not is_list:
        other = with_key(server, [scope], ["secret"])
        refused(other(method, target, body), 403, "forbidden")
        refused(other(method, target, body), 403, "forbidden", "secret")
    refused(server(method, target, body), 401, "unauthenticated")
    assert tree(server) == before
    found = with_key(server, [scope], ["book?"])(method, target, body)
    assert found.status == 200, found.body
    if is_list:
        text = found.body.decode()
        assert "books_" in text
        assert "secret" not in text


def test_a_restore_takes_the_right_to_both_names(kept):
    server, admin = kept
    names = entry_of(admin, "books")
    key = with_key(server, ["restore", "read"], ["books*"])
    for path in (names["entry"], f"{server.path}/.deleted/{names['entry']}", names["backup"]):
        found = key("POST", "/collections/restore", {"backup_path": path, "new_name": "public"})
        assert refused(found, 403, "forbidden")["collection"] == "public"
    secret = entry_of(admin, "secret")
    for path in (secret["entry"], f".deleted/{secret['entry']}", secret["backup"],
                 f"books-x/../.deleted/{secret['entry']}"):  # fmt: skip
        found = key("POST", "/collections/restore", {"backup_path": path, "new_name": "books2"})
        assert refused(found, 403, "forbidden")["collection"] == "secret"
    clone = {"new_name": "public"}
    refused(key("POST", f"{C}/clone", clone), 403, "forbidden")
    refused(key("POST", "/collections/secret/clone", {"new_name": "books2"}), 403, "forbidden")
    blind = with_key(server, ["restore"], ["books*"])
    refused(blind("POST", f"{C}/clone", {"new_name": "books2"}), 403, "forbidden", "read")
    assert key("POST", f"{C}/clone", {"new_name": "books2"}).status == 200


def test_an_entry_under_another_directory_name_is_still_of_its_collection(kept):
    server, admin = kept
    secret = entry_of(admin, "secret")
    for place, name in ((".deleted", secret["entry"]), (".backups", secret["backup"])):
        os.rename(f"{server.path}/{place}/{name}", f"{server.path}/{place}/books_20240101_000000")
    key = with_key(server, ["read", "restore", "admin"], ["books*"])
    name = "books_20240101_000000"
    for method, target, body in (
        ("GET", f"/trash/{name}", None), ("GET", f"/trash/{name}/count", None),
        ("GET", f"/backups/{name}", None), ("GET", f"/backups/{name}/count", None),
        ("POST", f"/backups/{name}/verify", None), ("DELETE", f"/trash/{name}", None),
        ("DELETE", f"/backups/{name}", None),
        ("POST", "/collections/restore", {"backup_path": f".deleted/{name}"}),
        ("POST", "/collections/restore", {"backup_path": f".backups/{name}", "new_name": "books9"}),
        ("POST", "/collections/cleanup", {"names": [name]}),
    ):  # fmt: skip
        refused(key(method, target, body), 403, "forbidden")


def test_what_concerns_the_whole_server_takes_a_key_for_all_of_it(kept):
    server, _ = kept
    key = with_key(server, ["admin"], ["books*"])
    refused(key("POST", "/collections/cleanup", {"retention_hours": 0}), 403, "forbidden")
    refused(key("POST", "/collections/cleanup"), 403, "forbidden")
    refused(key("POST", "/clock/trust"), 403, "forbidden")
    everything = with_key(server, ["admin"])
    assert everything("POST", "/clock/trust").status == 200


# --- the audit log ---------------------------------------------------------------------------


def test_every_act_is_in_the_audit_log_with_its_collection_rows_and_outcome(books):
    made = back_up(books)
    entry = delete(books)
    path = entry["path"]
    headers = {"Dvecdb-Actor": "me", "Dvecdb-Reason": "why"}
    books("POST", "/collections/restore", {"backup_path": path}, headers=headers)
    books("POST", "/collections/restore", {"backup_path": path})
    books("POST", "/collections/restore", {"backup_path": made["name"], "new_name": "copy"})
    lines = audited(books, "restore_collection")
    assert [
        (line["collection"], line["rows"], line["lsn"], line["status"], line["code"])
        for line in lines
    ] == [
        ("books", 3, 1, 200, None),
        ("books", None, None, 404, "trash-entry-not-found"),
        ("books", 3, lines[2]["lsn"], 200, None),
    ]
    assert (lines[0]["actor"], lines[0]["reason"], lines[0]["method"]) == ("me", "why", "POST")
    for method, target, body, operation, expected in (
        ("POST", f"{C}/undo", {"to_lsn": 0}, "undo", ("books", 3)),
        ("POST", f"{C}/protect", None, "protect", ("books", None)),
        ("DELETE", f"/backups/{made['name']}", None, "delete_backup", ("books", 3)),
        ("DELETE", "/collections/copy/hard-delete", None, "hard_delete", ("copy", 3)),
    ):
        assert books(method, target, body).status == 200
        (line,) = audited(books, operation)
        assert ((line["collection"], line["rows"]), line["status"]) == (expected, 200)
    refused(books("DELETE", f"{C}/hard-delete"), 403, "collection-protected")
    assert audited(books, "hard_delete")[-1]["code"] == "collection-protected"
    books("POST", f"{C}/protect", {"deletion": False})
    entry = delete(books)
    books("POST", "/collections/cleanup", {"retention_hours": 0})
    (line,) = audited(books, "clean_up")
    assert (line["collection"], line["status"]) == ("books", 200)


def test_what_was_refused_at_the_door_is_audited_too(kept):
    server, admin = kept
    names = entry_of(admin, "secret")
    key = with_key(server, ["read"], ["books"])
    refused(key("DELETE", f"/trash/{names['entry']}"), 403, "forbidden")
    (line,) = audited(admin, "purge_trash_entry")
    assert (line["collection"], line["status"], line["code"]) == ("secret", 403, "forbidden")
