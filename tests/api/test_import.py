"""Imports over HTTP: what others left on the server's machine, what may be read, and by whom."""

import shlex
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.api.orphans import log, orphan
from tests.api.test_recovery import audited, refused, rows, tree, with_key
from tests.api.test_server import ended

from dvecdb.telemetry import Event

IMPORT = "/collections/import"
HELD = {
    "00000000-0000-0000-0000-000000000001": ([1.0, 1.0], {"n": 1}),
    "00000000-0000-0000-0000-000000000002": ([2.0, 2.0], {"n": 2}),
    "00000000-0000-0000-0000-000000000003": ([3.0, 3.0], {"n": 3}),
}
MESSAGE = "Collection 'docs' imported successfully from orphaned data"


def contents(server, name="docs"):
    return {item["id"]: (item["vector"], item["metadata"]) for item in rows(server, name)}


def asked(path="old", name="docs", **others):
    return {"orphaned_path": str(path), "collection_name": name, **others}


@pytest.fixture
def old(server):
    """The server with an orphaned directory `old` in its data directory."""
    assert orphan(Path(server.path) / "old") == HELD
    return server


# --- what it answers -------------------------------------------------------------------------


def test_an_orphaned_directory_becomes_a_collection(old):
    body = asked(dimension=2, distance_metric="Euclidean", vector_type="Float32", unknown=1)
    answer = old("POST", IMPORT, body)
    assert answer.data == {"name": "docs", "message": MESSAGE}
    assert (answer.headers["dvecdb-rows"], answer.headers["dvecdb-doubtful"]) == ("3", "0")
    assert answer.headers["dvecdb-lost"] == "0"
    assert answer.lsn >= 1
    assert contents(old) == HELD
    old.reopen()
    assert contents(old) == HELD
    found = old("GET", answer.headers["location"]).data
    assert list(found) == ["id", "name", "replaced", "seconds", "finished", "report"]
    assert (found["name"], found["replaced"]) == ("docs", None)
    report = found["report"]
    assert report["source"] == str(Path(old.path).resolve() / "old")
    assert (report["imported"], report["exact"], report["dimension"]) == (3, 3, 2)
    assert (report["doubtful"], report["lost"], report["generation"]) == ([], [], "C")


@pytest.mark.parametrize(
    "path",
    ["old", "./old", "old/", "{root}/old", "{root}/./old/../old", "old/vectors.bin",
     "{root}/old/vectors.bin", "//{root}/old"],
)  # fmt: skip
def test_a_source_is_named_in_any_of_these_ways(old, path):
    body = asked(path.format(root=old.path), distance_metric="euclidean")
    assert old("POST", IMPORT, body).status == 200
    assert contents(old) == HELD


def test_what_the_files_tell_may_be_left_out_and_is_not_contradicted(old):
    for body in (asked(dimension=3), asked(dimension=3, distance_metric="Cosine")):
        refused(old("POST", IMPORT, body), 400, "source-contradicts", "2")
    assert old("GET", "/collections").data == []
    assert old("POST", IMPORT, asked()).status == 200
    config = old("GET", "/collections/docs").data[0]
    assert (config["dimension"], config["distance_metric"]) == (2, "Euclidean")


@pytest.mark.parametrize(
    ("change", "status", "code", "word"),
    [
        ({"orphaned_path": None}, 422, "invalid-body", "$.orphaned_path"),
        ({"orphaned_path": ""}, 400, "invalid-argument", "orphaned_path"),
        ({"orphaned_path": "a\0b"}, 400, "invalid-argument", "orphaned_path"),
        ({"orphaned_path": "x" * 5000}, 400, "invalid-argument", "4096"),
        ({"collection_name": None}, 422, "invalid-body", "collection_name"),
        ({"collection_name": "../x"}, 400, "invalid-name", "letter"),
        ({"collection_name": "import"}, 400, "invalid-name", "reserved"),
        ({"dimension": -1}, 400, "invalid-argument", "dimension"),
        ({"dimension": 0}, 400, "source-contradicts", "dimension"),
        ({"dimension": "2"}, 422, "invalid-body", "$.dimension"),
        ({"distance_metric": "far"}, 422, "invalid-body", "Cosine"),
        ({"vector_type": "Int4"}, 422, "invalid-body", "Float16"),
        ({"orphaned_path": "nowhere"}, 404, "source-not-found", "nowhere"),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_is_made(old, change, status, code, word):
    before = tree(old)
    refused(old("POST", IMPORT, {**asked(), **change}), status, code, word)
    assert tree(old) == before


def test_a_collection_that_is_there_stays_unless_it_is_to_be_replaced(old):
    old("POST", "/collections", {"name": "docs", "dimension": 1})
    refused(old("POST", IMPORT, asked()), 409, "collection-exists", "docs")
    assert contents(old) == {}
    answer = old("POST", IMPORT, asked(replace=True))
    assert answer.data["message"] == MESSAGE
    assert contents(old) == HELD
    (entry,) = old("GET", "/trash").data["entries"]
    assert answer.headers["dvecdb-replaced"] == entry["name"]
    assert old("GET", answer.headers["location"]).data["replaced"] == entry["name"]
    assert entry["collection"] == "docs"


def test_a_directory_with_nothing_in_it_says_so_with_the_report(old):
    (Path(old.path) / "empty").mkdir()
    before = tree(old)
    found = old("POST", IMPORT, asked("empty"))
    assert (found.status, found.code) in {(404, "nothing-recoverable"), (404, "source-not-found")}
    (Path(old.path) / "empty" / "vectors.bin").write_bytes(bytes(4096))
    details = refused(old("POST", IMPORT, asked("empty")), 404, "nothing-recoverable")
    assert details["report"]["imported"] == 0
    task = ended(old, old("POST", f"{IMPORT}?wait=false", asked("empty")).data["task"]["id"])
    assert (task["state"], task["error"]["code"]) == ("failed", "nothing-recoverable")
    assert task["error"]["details"]["report"]["imported"] == 0
    assert tree(old) == before


def test_a_trial_answers_the_report_and_makes_nothing(old):
    before = tree(old)
    for body in (asked(), {"orphaned_path": "old"}):
        answer = old("POST", f"{IMPORT}?dry_run=true", body)
        assert (answer.data["imported"], answer.data["exact"]) == (3, 3)
        found = old("GET", answer.headers["location"]).data
        assert (found["name"], found["report"]) == (None, answer.data)
    assert tree(old) == before
    assert old("GET", "/collections").data == []


def test_without_waiting_the_answer_is_a_task(old):
    answer = old("POST", f"{IMPORT}?wait=false", asked())
    assert answer.status == 202
    task = answer.data["task"]
    assert (task["kind"], task["collection"]) == ("import", "docs")
    assert answer.headers["location"] == f"/tasks/{task['id']}"
    task = ended(old, task["id"])
    assert task["state"] == "done"
    result = task["result"]
    assert (result["name"], result["report"]["imported"]) == ("docs", 3)
    found = old("GET", result["report_at"]).data
    assert found["report"] == result["report"]
    assert contents(old) == HELD
    trial = old("POST", f"{IMPORT}?wait=false&dry_run=true", asked(name="more")).data["task"]
    assert ended(old, trial["id"])["result"]["name"] is None
    assert old("GET", "/collections").data == ["docs"]


@pytest.mark.parametrize("query", ["wait=maybe", "dry_run=7"])
def test_a_query_that_is_no_yes_or_no_is_refused(old, query):
    refused(old("POST", f"{IMPORT}?{query}", asked()), 422, "invalid-body")


def test_a_report_that_is_not_there_is_not_found(old):
    for name in ("0000000099", "x", "..", "0000000001.json"):
        refused(old("GET", f"/imports/{name}"), 404, "task-not-found")


def test_old_clients_get_application_errors_as_before(start):
    server = start(legacy_errors=True)
    orphan(Path(server.path) / "old")
    answer = server("POST", IMPORT, asked("nowhere"))
    assert (answer.status, list(answer.json)) == (200, ["success", "data", "error"])
    assert answer.json["success"] is False
    assert server("POST", IMPORT, asked()).data == {"name": "docs", "message": MESSAGE}


# --- cancelled -------------------------------------------------------------------------------


class Gate:
    """Holds a server's only thread for tasks until it is opened."""

    def __init__(self, server):
        self._open = threading.Event()
        for _ in range(2):
            server.tasks.start("wait", None, self._wait)

    def _wait(self, _):
        assert self._open.wait(30)

    def open(self):
        self._open.set()


def test_an_import_that_is_cancelled_leaves_nothing(old):
    gate, before = Gate(old), tree(old)
    task = old("POST", f"{IMPORT}?wait=false", asked()).data["task"]
    assert old("POST", f"/tasks/{task['id']}/cancel").data["state"] == "cancelled"
    gate.open()
    assert ended(old, task["id"])["state"] == "cancelled"
    assert tree(old) == before


def test_who_waits_is_told_that_somebody_cancelled_it(old):
    gate, before = Gate(old), tree(old)

    def cancel():
        while not (found := [task for task in old.tasks.list() if task.kind == "import"]):
            pass
        old.tasks.cancel(found[0].id)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    refused(old("POST", IMPORT, asked()), 503, "cancelled", "look whether")
    canceller.join()
    gate.open()
    assert tree(old) == before


def test_who_waits_is_let_go_when_the_server_stops(old):
    gate, before = Gate(old), tree(old)

    def stop():
        while not [task for task in old.tasks.list() if task.kind == "import"]:
            pass
        old.tasks.stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    refused(old("POST", IMPORT, asked()), 503, "cancelled")
    stopper.join()
    gate.open()
    old.reopen()
    assert tree(old) == before
    assert old("GET", "/tasks").data["tasks"][0]["state"] == "interrupted"


# --- what may be read ------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path):
    """A directory beside the data directory, with a collection in it."""
    orphan(tmp_path / "outside" / "old")
    return tmp_path / "outside"


@pytest.mark.parametrize(
    "path",
    ["{outside}/old", "../outside/old", "/etc", "/etc/passwd", "/proc/self/environ", "..",
     "{outside}/old/vectors.bin", "{outside}/nowhere", "/nowhere", "{root}/../outside/old",
     "{root}x", "~/old", "{root}/old/../../outside/old", "//etc"],
)  # fmt: skip
def test_a_path_outside_is_refused_with_what_would_allow_it(old, outside, path):
    before = tree(old)
    given = path.format(root=old.path, outside=outside)
    found = old("POST", IMPORT, asked(given, dimension=2, keep_raw=True, use_log=False))
    if path == "..":  # which the data directory is in
        assert found.code in {"source-not-allowed", "source-in-use"}
        return
    if path == "~/old":  # no shell looks at it: it is a name
        refused(found, 404, "source-not-found")
        return
    details = refused(found, 403, "source-not-allowed", "--import-root", "dvecdb import")
    flag, root = shlex.split(details["flag"])
    assert flag == "--import-root"
    command = shlex.split(details["command"])
    assert command[:2] == ["dvecdb", "import"]
    assert command[2].removesuffix("/vectors.bin") == root
    assert command[3:] == ["--as", "docs", "--data-dir", old.path, "--dimension", "2", "--no-wal",
                           "--keep-raw"]  # fmt: skip
    assert details["flag"] in found.json["message"]
    assert details["command"] in found.json["message"]
    assert tree(old) == before


def test_whether_something_is_outside_is_not_told(old, outside):
    answers = [
        old("POST", IMPORT, asked(outside / name)).json["message"].replace(name, "X")
        for name in ("old", "new")
    ]
    assert answers[0] == answers[1]


def test_the_flag_that_the_refusal_prints_allows_it(start, outside):
    server = start()
    details = server("POST", IMPORT, asked(outside / "old")).json["details"]
    root = shlex.split(details["flag"])[1]
    server.close()
    server = start(import_roots=(root,))
    assert server("POST", IMPORT, asked(outside / "old")).data["message"] == MESSAGE
    assert contents(server) == HELD


def test_an_import_root_is_all_below_it_and_nothing_beside(start, outside):
    alone = outside / "old" / "vectors.bin"
    server = start(import_roots=(str(outside), str(outside / "nowhere")))
    orphan(outside.parent / "outsider" / "old")
    refused(server("POST", IMPORT, asked(outside.parent / "outsider/old")), 403,
            "source-not-allowed")  # fmt: skip
    refused(server("POST", IMPORT, asked(f"{outside}/../outsider/old")), 403, "source-not-allowed")
    assert server("POST", IMPORT, asked(outside / "old/vectors.bin", name="one")).status == 200
    assert server("POST", IMPORT, asked(f"{outside}/old/../old", name="two")).status == 200
    refused(server("POST", IMPORT, asked(outside / "nowhere/x")), 404, "source-not-found")
    server.close()
    server = start(import_roots=(str(alone),))  # its directory is read too
    refused(server("POST", IMPORT, asked(alone)), 403, "source-not-allowed")


def test_the_log_beside_is_read_if_it_is_inside_too(start, outside):
    (outside / "wal").write_bytes(log("old", deleted=2))
    whole, without = sorted(HELD), sorted(HELD)[::2]
    for root, left in ((outside, without), (outside / "old", whole)):
        server = start(import_roots=(str(root),))
        for name, path in (("one", outside / "old"), ("two", outside / "old" / "vectors.bin")):
            answer = server("POST", IMPORT, asked(path, name=name, replace=True))
            notes = server("GET", answer.headers["location"]).data["report"]["notes"]
            assert sorted(contents(server, name)) == left
            assert any("outside the import roots" in note for note in notes) == (left == whole)
        server.close()
    (outside / "wal").rename(outside / "old" / "wal")  # a data directory by itself
    server = start(import_roots=(str(outside / "old"),))
    answer = server("POST", f"{IMPORT}?dry_run=true", asked(outside / "old"))
    assert not any("outside the import roots" in note for note in answer.data["notes"])


def test_no_link_leads_out(start, outside):
    secret = outside.parent / "secret"
    orphan(secret)
    server = start(import_roots=(str(outside),))
    data = Path(server.path)
    for place in (outside, data, data / ".deleted"):
        place.mkdir(exist_ok=True)
        (place / "link").symlink_to(secret)
        (place / "file").symlink_to(secret / "vectors.bin")
        (place / "far").symlink_to(outside.parent)
        for name in ("link", "file", "far/secret", "link/vectors.bin"):
            refused(server("POST", IMPORT, asked(place / name)), 403, "source-not-allowed")
    before = tree(server)
    (outside / "inner").mkdir()
    (outside / "inner" / "vectors.bin").symlink_to(secret / "vectors.bin")
    found = server("POST", IMPORT, asked(outside / "inner"))
    assert found.status in {400, 404, 409, 503}, found.body  # a link is no file of it
    (outside / "near").symlink_to(outside / "old")
    assert server("POST", IMPORT, asked(outside / "near")).status == 200
    assert contents(server) == HELD
    assert [item for item in tree(server) if item not in before if "docs" not in item] == []


def test_a_root_that_is_a_link_is_what_it_leads_to(start, outside):
    (outside.parent / "way").symlink_to(outside)
    server = start(import_roots=(str(outside.parent / "way"),))
    assert server("POST", IMPORT, asked(outside / "old", name="one")).status == 200
    assert server("POST", IMPORT, asked(outside.parent / "way/old", name="two")).status == 200


@pytest.mark.parametrize(
    "path",
    [".", "{root}", "{root}/collections", "collections/books", "collections/books/wal",
     "collections/books/segments", ".server", ".server/keys", "LOCK", "collections/.partial-x",
     ".deleted/.partial-x", "{link}", "{link}/collections/books", "collections/books/",
     "wal", "collections/wal"],
)  # fmt: skip
@pytest.mark.parametrize("roots", [(), ("/",)])
def test_what_the_server_works_with_is_no_source(start, tmp_path, path, roots):
    server = start(import_roots=roots)
    server("POST", "/collections", {"name": "books", "dimension": 2})
    (tmp_path / "link").symlink_to(server.path)
    before = tree(server)
    body = asked(path.format(root=server.path, link=tmp_path / "link"))
    refused(server("POST", IMPORT, body), 409, "source-in-use")
    refused(server("POST", f"{IMPORT}?dry_run=true", body), 409, "source-in-use")
    assert tree(server) == before


def test_what_the_data_directory_is_in_is_no_source(start, tmp_path):
    server = start(import_roots=("/",))
    for path in ("/", tmp_path, "..", "//"):
        refused(server("POST", IMPORT, asked(path)), 409, "source-in-use", "data directory")


# --- who may ---------------------------------------------------------------------------------


@pytest.fixture
def kept(start, outside):
    """A server with keys, an import root, and what was deleted of two collections by d-vecDB."""
    server = start(keys=True, import_roots=(str(outside),))
    for name in ("books", "secret"):
        orphan(Path(server.path) / ".deleted" / f"{name}_20250101_000000", name=name)
    orphan(Path(server.path) / "stray")
    return server


BOOKS = ".deleted/books_20250101_000000"
SECRET = ".deleted/secret_20250101_000000"


def test_it_takes_the_scope_restore(kept):
    for scopes in (["read", "write", "backup"], ["read"]):
        details = refused(with_key(kept, scopes)("POST", IMPORT, asked(BOOKS)), 403, "forbidden")
        assert details["scope"] == "restore"
    assert with_key(kept, ["restore"])("POST", IMPORT, asked(BOOKS)).status == 200


def test_a_key_for_some_collections_reads_what_was_theirs_and_makes_none_but_them(kept, outside):
    key = with_key(kept, ["restore", "read"], ["books*"])
    for path in (SECRET, "stray", outside / "old", ".deleted", f"{SECRET}/vectors.bin"):
        for query in ("", "?dry_run=true", "?wait=false"):
            found = key("POST", f"{IMPORT}{query}", asked(path, name="books"))
            refused(found, 403, "forbidden")
    refused(key("POST", IMPORT, asked(BOOKS, name="films")), 403, "forbidden")
    answer = key("POST", IMPORT, asked(BOOKS, name="books"))
    assert key("GET", answer.headers["location"]).data["report"]["imported"] == 3
    refused(key("POST", IMPORT, asked(BOOKS, name="books", replace=True)), 403, "forbidden")
    writer = with_key(kept, ["restore", "write"], ["books*"])
    assert writer("POST", IMPORT, asked(BOOKS, name="books", replace=True)).status == 200


def test_a_report_and_its_task_are_for_keys_of_what_was_read_or_made(kept, outside):
    admin = with_key(kept, ["admin"])
    some, all_of_it = with_key(kept, ["read"], ["books*"]), with_key(kept, ["read"])
    made = admin("POST", IMPORT, asked(SECRET, name="secret")).headers["location"]
    trial = admin("POST", f"{IMPORT}?dry_run=true", asked(outside / "old", name="books"))
    theirs = admin("POST", f"{IMPORT}?dry_run=true", asked(BOOKS)).headers["location"]
    for location in (made, trial.headers["location"]):
        refused(some("GET", location), 403, "forbidden")
        refused(some("GET", location.replace("imports", "tasks")), 403, "forbidden")
        assert all_of_it("GET", location).status == 200
        assert all_of_it("GET", location.replace("imports", "tasks")).status == 200
    assert some("GET", theirs).status == 200
    ids = [task["id"] for task in some("GET", "/tasks").data["tasks"]]
    assert ids == [theirs.rpartition("/")[2]]


# --- what is kept of it ----------------------------------------------------------------------


def test_the_audit_log_says_who_imported_what_came_of_it(old):
    headers = {"Dvecdb-Actor": "ann", "Dvecdb-Reason": "after the move"}
    old("POST", IMPORT, asked(), headers=headers)
    old("POST", IMPORT, asked("/etc"), headers=headers)
    old("POST", f"{IMPORT}?dry_run=true", asked(name="tried"))
    task = old("POST", f"{IMPORT}?wait=false", asked(name="later"), headers=headers).data["task"]
    ended(old, task["id"])
    lines = audited(old, "import_collection")
    assert [(line["collection"], line["status"], line["code"], line["rows"]) for line in lines] == [
        ("docs", 200, None, 3),
        ("docs", 403, "source-not-allowed", None),
        ("tried", 200, None, 0),
        ("later", 202, None, None),
        ("later", 200, None, 3),
    ]
    assert (lines[0]["actor"], lines[0]["reason"]) == ("ann", "after the move")
    assert lines[4]["actor"] == "ann"


def test_the_log_has_a_line_of_what_was_imported_and_none_of_a_trial(old):
    with capture_logs() as logs:
        old("POST", IMPORT, asked())
        old("POST", f"{IMPORT}?dry_run=true", asked())
        old("POST", IMPORT, asked("nowhere", name="other"))
    (line,) = [item for item in logs if item["event"] == Event.IMPORTED]
    assert (line["collection"], line["rows"], line["lost_ranges"]) == ("docs", 3, 0)
    assert line["source"].endswith("/old")
    assert line["log_level"] == "info"


def test_imports_are_counted(old):
    old("POST", IMPORT, asked())
    old("POST", IMPORT, asked("nowhere", name="other"))
    old("POST", f"{IMPORT}?dry_run=true", asked())
    text = old("GET", "/metrics").body.decode()
    for line in (
        'dvecdb_imports_total{outcome="done"} 1.0',
        'dvecdb_imports_total{outcome="failed"} 1.0',
        "dvecdb_imported_rows_total 3.0",
        "dvecdb_import_doubtful_rows_total 0.0",
        "dvecdb_import_lost_ranges_total 0.0",
    ):
        assert line in text.splitlines()


def test_an_import_is_described(old):
    described = old("GET", "/openapi.json").json["paths"]
    operation = described[IMPORT]["post"]
    assert {"200", "202", "403", "404", "409", "507"} <= operation["responses"].keys()
    assert "Location" in operation["responses"]["200"]["headers"]
    assert "Location" in operation["responses"]["202"]["headers"]
    names = {item["name"] for item in operation["parameters"] if item["in"] == "query"}
    assert names == {"wait", "dry_run"}
    (data,) = [
        value["schema"]["properties"]["data"]
        for value in [operation["responses"]["200"]["content"]["application/json"]]
    ]
    assert [item["$ref"].rpartition("/")[2] for item in data["anyOf"]] == [
        "NamedMessage", "ImportReport",
    ]  # fmt: skip
    assert described["/imports/{import}"]["get"]["tags"] == ["recovery"]
