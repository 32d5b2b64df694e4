"""Imports by a server process: killed at any moment, left by the client, longer than a request."""

import random
import socket
import time
import uuid
from pathlib import Path

import pytest
from tests.api.orphans import large_orphan
from tests.e2e.serving import Server

from dvecdb.formats import names

pytestmark = pytest.mark.slow

COUNT, DIMENSION = 100_000, 128  # 55 MB
KILLS = 20
IMPORT = "/collections/import"


@pytest.fixture
def place(tmp_path):
    """How to start a server over the test's directory, which has a large orphan in it."""
    running = []

    def start(*arguments):
        running.append(Server(tmp_path / "data", tmp_path / "log", *arguments).wait())
        return running[-1]

    large_orphan(tmp_path / "roots" / "old", COUNT, DIMENSION)
    start.source = str(tmp_path / "roots" / "old")
    start.root = ("--import-root", str(tmp_path / "roots"))
    start.data = tmp_path / "data"
    yield start
    for server in running:
        server.kill()


def asked(place, name="docs"):
    return {"orphaned_path": place.source, "collection_name": name, "distance_metric": "Euclidean"}


def is_whole(server, name="docs"):
    """Return whether all of it is there; fail if a part of it is."""
    if name not in server.ask("GET", "/collections")[1]["data"]:
        return False
    assert server.ask("GET", f"/collections/{name}/count")[1]["data"]["count"] == COUNT
    numbers = random.Random(name).sample(range(COUNT), 20)
    ids = [str(uuid.UUID(int=number)) for number in numbers]
    body = {"ids": ids, "with_vectors": True}
    found = server.ask("POST", f"/collections/{name}/vectors/get", body)[1]["data"]["records"]
    for number, item in zip(numbers, found, strict=True):
        assert item["vector"] == [float(number)] * DIMENSION
    return True


def left_over(place):
    return [
        path
        for path in Path(place.data).rglob(f"{names.PARTIAL}*")
        if names.QUARANTINE not in path.parts
    ]


def wait_until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.02)


def test_an_import_that_is_killed_leaves_nothing_and_can_be_made_again(place):
    server = place(*place.root)
    begin = time.monotonic()
    status, answer = server.ask("POST", IMPORT, asked(place))
    seconds = time.monotonic() - begin
    assert status == 200, answer
    assert is_whole(server)
    draw, torn = random.Random(5), []
    for number in range(KILLS):
        name = f"docs{number}"
        status, answer = server.ask("POST", f"{IMPORT}?wait=false", asked(place, name))
        assert status == 202, answer
        task = answer["data"]["task"]["id"]
        time.sleep(draw.uniform(0, seconds))
        server.kill()
        server = place(*place.root)
        if not is_whole(server, name):
            torn.append(name)
            assert server.ask("GET", f"/tasks/{task}")[1]["data"]["state"] == "interrupted"
        else:
            assert server.ask("DELETE", f"/collections/{name}/hard-delete")[0] == 200
        assert left_over(place) == []
        assert is_whole(server)
        assert server.ask("GET", "/findings")[1]["data"]["findings"] == []
    assert torn, "every import was done before it was killed: they are too fast for this test"
    assert server.ask("POST", IMPORT, asked(place, torn[-1]))[0] == 200
    assert is_whole(server, torn[-1])


def test_half_a_collection_and_what_is_left_over_would_be_noticed(place):
    server = place()
    body = {"name": "docs", "dimension": DIMENSION, "distance_metric": "Euclidean"}
    assert server.ask("POST", "/collections", body)[0] == 200
    vectors = [{"id": str(uuid.UUID(int=1)), "data": [1.0] * DIMENSION}]
    body = {"vectors": vectors}
    assert server.ask("POST", "/collections/docs/vectors/batch", body)[0] == 200
    with pytest.raises(AssertionError):
        is_whole(server)
    (place.data / "collections" / f"{names.PARTIAL}docs").mkdir()
    assert left_over(place) != []


def test_a_client_that_goes_away_cancels_nothing(place):
    server = place(*place.root)
    body = (
        f'{{"orphaned_path": "{place.source}", "collection_name": "docs", '
        '"distance_metric": "Euclidean"}'
    ).encode()
    head = f"POST {IMPORT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: server.ask("GET", "/tasks")[1]["data"]["tasks"])
    wait_until(lambda: is_whole(server))
    wait_until(lambda: server.ask("GET", "/audit")[1]["data"]["entries"])
    (entry,) = server.ask("GET", "/audit")[1]["data"]["entries"]
    assert (entry["operation"], entry["status"], entry["rows"]) == (
        "import_collection", 200, COUNT,
    )  # fmt: skip


def test_the_request_timeout_does_not_apply(place):
    server = place(*place.root, "--set", "request_timeout_seconds=0.1")
    begin = time.monotonic()
    status, answer = server.ask("POST", IMPORT, asked(place))
    assert status == 200, answer
    assert time.monotonic() - begin > 0.1, "too fast to show anything"
    assert is_whole(server)


def test_a_server_that_stops_meanwhile_leaves_nothing(place):
    server = place(*place.root, "--set", "shutdown_seconds=0")
    status, answer = server.ask("POST", f"{IMPORT}?wait=false", asked(place))
    assert status == 202, answer
    server.stop()
    server = place(*place.root)
    state = server.ask("GET", f"/tasks/{answer['data']['task']['id']}")[1]["data"]["state"]
    assert is_whole(server) == (state == "done")
    assert left_over(place) == []


def test_a_root_comes_from_the_flag_or_the_environment(place, monkeypatch):
    server = place()
    status, answer = server.ask("POST", IMPORT, asked(place))
    assert (status, answer["code"]) == (403, "source-not-allowed")
    server.stop()
    monkeypatch.setenv("DVECDB_IMPORT_ROOTS", str(Path(place.source).parent))
    server = place()
    assert server.ask("POST", IMPORT, asked(place))[0] == 200
    assert is_whole(server)
