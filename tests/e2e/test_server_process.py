"""A server process: stopped, killed, refused a start, and pestered."""

import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib

import pytest
from tests.e2e.serving import HOST, SOURCE, Client, Server, read_answer

SOAK = "DVECDB_SOAK" in os.environ
MIB = 1024 * 1024
DIMENSION = 8

pytestmark = pytest.mark.slow


@pytest.fixture
def start(tmp_path):
    """Start servers on the same data directory, and leave none behind."""
    running = []

    def begin(*arguments, data=tmp_path / "data", log=tmp_path / "server.log", **options):
        running.append(Server(data, log, *arguments, **options))
        return running[-1]

    yield begin
    for server in running:
        server.kill()


def create(server, name="docs"):
    status, answer = server.ask("POST", "/collections", {"name": name, "dimension": DIMENSION})
    assert status == 200, answer


def record(number):
    return {"ids": [f"row-{number}"], "vectors": [[float(number % 97)] * DIMENSION]}


class Writer(threading.Thread):
    """Writes one row after the other, each under a key of its own, until nobody answers.

    acknowledged: number -> LSN; undecided: sent, and no answer; refused: answered with an error.
    """

    def __init__(self, port, numbers, *, reconnects=False):
        super().__init__()
        self.acknowledged, self.undecided, self.refused = {}, [], []
        self._port, self._numbers, self._reconnects = port, numbers, reconnects

    def run(self):
        client = Client(self._port)
        for number in self._numbers:
            try:
                status, answer = write(client, number)
            except ConnectionRefusedError:
                break
            except (OSError, http.client.HTTPException):
                self.undecided.append(number)
                break
            if status == 200:
                self.acknowledged[number] = answer["data"]["lsn"]
            else:
                self.refused.append((number, status, answer))
            if self._reconnects:
                client.close()
                client = Client(self._port)
            elif client.headers.get("connection") == "close":
                break
        client.close()


def write(client, number):
    return client.ask(
        "POST", "/collections/docs/write", {"upserts": record(number)},
        idempotency_key=f"key-{number}",
    )  # fmt: skip


def stored(server, numbers):
    """Return the LSN of each row that is there."""
    found = {}
    with contextlib.closing(server.client()) as client:
        for begin in range(0, len(numbers), 500):
            part = numbers[begin : begin + 500]
            status, answer = client.ask(
                "POST", "/collections/docs/vectors/get",
                {"ids": [f"row-{number}" for number in part], "with_vectors": False},
            )  # fmt: skip
            assert status == 200, answer
            for number, item in zip(part, answer["data"]["records"], strict=True):
                if item is not None:
                    found[number] = item["lsn"]
    return found


def rows_ever(server):
    status, answer = server.ask("GET", "/collections/docs/info")
    assert status == 200, answer
    return answer["data"]["rows"]


# --- stopping and being killed --------------------------------------------------------------


@pytest.mark.parametrize("reconnects", [False, True], ids=["kept", "new"])
def test_sigterm_under_load_answers_everything_that_was_accepted(start, reconnects):
    server = start().wait()
    create(server)
    writers = [
        Writer(server.port, range(first, 10**9, 16), reconnects=reconnects) for first in range(16)
    ]
    for writer in writers:
        writer.start()
    time.sleep(1.0)
    began = time.monotonic()
    server.signal()
    code = server.end()
    seconds = time.monotonic() - began
    for writer in writers:
        writer.join(30)
    assert code == 0, server.said[-3000:]
    assert seconds < 10
    assert [writer.undecided for writer in writers if writer.undecided] == []
    assert [writer.refused for writer in writers if writer.refused] == []
    acknowledged = {k: v for writer in writers for k, v in writer.acknowledged.items()}
    assert len(acknowledged) > 100
    again = start().wait()
    assert stored(again, sorted(acknowledged)) == acknowledged
    again.stop()


def test_a_server_killed_under_writers_keeps_every_answered_write_and_repeats_land_once(start):
    rounds, clients = (20, 32) if SOAK else (3, 16)
    acknowledged, undecided, number = {}, [], 0
    for turn in range(rounds):
        server = start().wait()
        if turn == 0:
            create(server)
        else:
            settle(server, acknowledged, undecided)
        writers = [
            Writer(server.port, range(number + first, number + 10**6, clients))
            for first in range(clients)
        ]
        number += 10**6
        for writer in writers:
            writer.start()
        time.sleep(0.6 + 0.05 * (turn % 7))
        server.signal(signal.SIGKILL)
        assert server.end() == -signal.SIGKILL
        for writer in writers:
            writer.join(30)
            assert writer.refused == []
            acknowledged |= writer.acknowledged
            undecided += writer.undecided
    server = start().wait()
    settle(server, acknowledged, undecided)
    assert len(acknowledged) > 50 * rounds
    server.stop()


def settle(server, acknowledged, undecided):
    """Check what was answered; repeat what was not, twice: it lands once, whether it had or not."""
    assert stored(server, sorted(acknowledged)) == acknowledged
    with contextlib.closing(server.client()) as client:
        for number in undecided:
            status, first = write(client, number)
            assert status == 200, first
            assert write(client, number) == (200, first)
            acknowledged[number] = first["data"]["lsn"]
    undecided.clear()
    assert stored(server, sorted(acknowledged)) == acknowledged
    assert rows_ever(server) == len(acknowledged)


def test_a_second_signal_ends_it_at_once(start):
    server = start("--set", "shutdown_seconds=60", "--set", "header_timeout_seconds=60").wait()
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        time.sleep(0.2)
        server.signal()
        time.sleep(0.5)
        assert server.process.poll() is None
        server.signal(signal.SIGINT)
        assert server.end(5) == 128 + signal.SIGINT


def test_a_request_that_never_ends_does_not_hold_up_the_stop(start):
    server = start("--set", "shutdown_seconds=1").wait()
    with server.connect() as connection:
        connection.sendall(b"POST /collections HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n")
        time.sleep(0.2)
        began = time.monotonic()
        server.signal()
        status, answer = read_answer(connection)
        assert (status, answer["code"]) == (503, "deadline-exceeded")
        assert server.end() == 0
        assert time.monotonic() - began < 10


def test_a_log_that_nobody_reads_holds_up_nothing(start):
    port = free_port()
    deaf = start("--rest-port", port, stderr=subprocess.PIPE)
    end = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError), contextlib.closing(Client(port)) as client:
            for _ in range(3000):  # several times what the pipe holds
                assert client.ask("GET", "/health")[0] == 200
            break
        assert time.monotonic() < end
        time.sleep(0.05)
    deaf.signal()
    assert deaf.end() == 0


# --- refusing to start ----------------------------------------------------------------------


def refused(server, code, *words):
    """Check that it ends with exit code 2 and one line."""
    assert server.end() == 2, server.said
    lines = server.said.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"error: {code}: "), lines
    assert [word for word in words if word not in lines[0]] == []


def test_a_port_in_use_is_one_line(start, tmp_path):
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        refused(start("--rest-port", port), "port-in-use", str(port), "rest_port")
        refused(
            start("--metrics-port", port, log=tmp_path / "other.log"),
            "port-in-use", "metrics_port",
        )  # fmt: skip


def test_a_directory_in_use_is_one_line(start, tmp_path):
    first = start().wait()
    refused(start(log=tmp_path / "other.log"), "directory-in-use", str(first.process.pid))
    assert first.ask("GET", "/health")[0] == 200


def test_a_directory_of_the_old_server_is_one_line_that_leads_on(start, tmp_path):
    legacy = tmp_path / "legacy"
    (legacy / "films").mkdir(parents=True)
    (legacy / "films" / "vectors.bin").write_bytes(b"\0" * 1024)
    command = f"dvecdb upgrade {legacy} --data-dir NEW"
    refused(start(data=legacy, log=tmp_path / "1.log"), "legacy-directory", command)
    assert sorted(path.name for path in legacy.iterdir()) == ["films"]


def test_what_is_no_data_directory_is_one_line(start, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("hello")
    refused(start(data=other, log=tmp_path / "2.log"), "not-a-data-directory", "letter.txt")
    file = tmp_path / "file"
    file.write_text("hello")
    refused(start(data=file, log=tmp_path / "3.log"), "directory-unreadable", str(file))


def test_an_address_that_is_not_safe_is_one_line(start, tmp_path):
    refused(start("--host", "0.0.0.0"), "unsafe-address", "tls_cert", "allow_plaintext")
    refused(
        start("--host", "0.0.0.0", "--allow-plaintext", log=tmp_path / "2.log"),
        "unsafe-address", "dvecdb keys create", "allow_unauthenticated",
    )  # fmt: skip
    server = start(
        "--host", "0.0.0.0", "--allow-plaintext", "--allow-unauthenticated",
        log=tmp_path / "3.log",
    ).wait()  # fmt: skip
    assert server.ask("GET", "/health")[0] == 200
    assert server.events("server.unsafe_address")
    server.stop()


def test_wrong_settings_are_one_line(start, tmp_path):
    config = tmp_path / "dvecdb.toml"
    config.write_text("# ours\nrest_prot = 1\n")
    refused(start("--config", config), "invalid-settings", f"{config}:2", "'rest_port'")
    refused(
        start("--tls-cert", config, "--tls-key", config, log=tmp_path / "2.log"),
        "invalid-settings", "tls_cert",
    )  # fmt: skip
    refused(start("--config", tmp_path / "none.toml", log=tmp_path / "3.log"), "file-unreadable")


# --- keys, TLS, what it says ----------------------------------------------------------------


def test_the_first_key_closes_the_door_of_a_running_server(start, tmp_path):
    server = start().wait()
    assert server.ask("GET", "/collections")[0] == 200
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    made = subprocess.run(
        [server.process.args[0], "-m", "dvecdb", "keys", "create", "ops", "--scope", "read",
         "--data-dir", str(server.data), "--json"],
        env=environment, check=True, capture_output=True,
    )  # fmt: skip
    token = json.loads(made.stdout)["token"]
    end = time.monotonic() + 10
    while server.ask("GET", "/collections")[0] != 401:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert server.ask("GET", "/collections", authorization=f"Bearer {token}")[0] == 200
    body = {"name": "docs", "dimension": DIMENSION}
    status, answer = server.ask("POST", "/collections", body, api_key=token)
    assert (status, answer["code"]) == (403, "forbidden")
    assert server.ask("GET", "/health")[0] == 200
    server.stop()
    assert token not in server.said


def test_tls(start, tmp_path, certificate):
    cert, key = certificate
    server = start("--tls-cert", cert, "--tls-key", key).wait()
    assert server.events("server.started")[0]["rest"].startswith("https://")
    with contextlib.closing(server.client(certificate=cert)) as client:
        assert client.ask("GET", "/health")[0] == 200
        size = 3 * MIB
        status, answer = client.ask(
            "POST", "/collections", {"name": "x" * size, "dimension": DIMENSION}
        )
        assert (status, answer["code"]) == (400, "invalid-name")
    server.stop()


@pytest.fixture
def certificate(tmp_path):
    """A certificate for 127.0.0.1 that signs itself."""
    import datetime as dt
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    cert, private = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert, private


def test_it_says_what_can_be_brought_back_and_what_is_not_served(start, tmp_path):
    server = start().wait()
    create(server)
    assert server.ask("DELETE", "/collections/docs")[0] == 200
    server.stop()
    (tmp_path / "data" / ".deleted" / "stray.txt").write_text("no collection")
    again = start("--import-root", "/var/lib", "--grpc-port", "9090").wait()
    line = "recovery: soft delete 24 h, trash 1, backups 0, import roots /var/lib"
    assert again.events("recovery")[0]["message"] == line
    assert "9090" in again.events("server.setting_ignored")[0]["message"]
    again.stop()


def test_metrics_and_request_log_tell_of_every_request_and_of_no_payload(start):
    server = start().wait()
    create(server)
    with contextlib.closing(server.client()) as client:
        status, _ = client.ask(
            "POST", "/collections/docs/write",
            {"upserts": {**record(1), "metadata": [{"word": "xylophone"}]}},
            x_request_id="my-request", api_key="top-secret",
        )  # fmt: skip
        assert status == 200
        assert client.headers["x-request-id"] == "my-request"
        assert client.headers["dvecdb-lsn"] == "1"
    text = server.metrics()
    assert 'dvecdb_requests_total{operation="write",status="200"} 1.0' in text
    assert 'dvecdb_rows{collection="docs"} 1.0' in text
    assert "dvecdb_disk_free_bytes " in text
    server.stop()
    (line,) = [item for item in server.events("request") if item["request_id"] == "my-request"]
    assert (line["operation"], line["status"], line["path"]) == (
        "write", 200, "/collections/docs/write",
    )  # fmt: skip
    assert "xylophone" not in server.said
    assert "top-secret" not in server.said


def test_vectordb_server_serves_with_the_old_flags(start, tmp_path):
    ports = [free_port() for _ in range(3)]
    code = "from dvecdb.cli.legacy_server import main; main()"
    server = start(
        "--rest-port", ports[0], "--grpc-port", ports[1], "--metrics-port", ports[2],
        "--log-level", "info", program=(sys.executable, "-c", code),
    ).wait()  # fmt: skip
    assert server.port == ports[0]
    assert server.ask("GET", "/health")[1]["data"] == "OK"
    server.stop()


def free_port():
    with socket.create_server((HOST, 0)) as found:
        return found.getsockname()[1]


# --- clients that pester --------------------------------------------------------------------


@pytest.fixture
def many_files():
    """Allow this process as many sockets as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < 3000:
        pytest.skip(f"only {hard} file handles are allowed here; 2,000 connections need more")
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def answers_others(server, seconds=2.0):
    began = time.monotonic()
    assert server.ask("GET", "/collections")[0] == 200
    assert time.monotonic() - began < seconds


def test_two_thousand_idle_connections_are_cheap(start, many_files):
    server = start().wait()
    answers_others(server)
    before = server.rss_anon_bytes
    connections = [server.connect() for _ in range(2000)]
    try:
        for connection in connections[::2]:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        for connection in connections[::2]:
            assert read_answer(connection)[0] == 200
        answers_others(server)
        assert 'dvecdb_connections{state="idle"} 2000.0' in server.metrics()
        assert server.rss_anon_bytes - before < 100 * MIB
    finally:
        for connection in connections:
            connection.close()
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 10


def test_clients_that_send_a_byte_a_second_are_answered_408(start):
    server = start(
        "--set", "header_timeout_seconds=2", "--set", "body_grace_seconds=2"
    ).wait()  # fmt: skip
    head = b"POST /collections HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    slow_heads = [server.connect() for _ in range(50)]
    slow_bodies = [server.connect() for _ in range(50)]
    for connection in slow_bodies:
        connection.sendall(head + b"content-length: 1000\r\n\r\n")
    end = time.monotonic() + 4
    position = 0
    while time.monotonic() < end:
        for connection in slow_heads:
            drip(connection, head[position : position + 1])
        for connection in slow_bodies:
            drip(connection, b" ")
        position += 1
        answers_others(server)
        time.sleep(0.9)
    for connection in slow_heads + slow_bodies:
        status, answer = read_answer(connection)
        assert (status, answer["code"]) == (408, "request-timeout")
        connection.close()
    answers_others(server)
    server.stop()


def drip(connection, data):
    with contextlib.suppress(OSError):
        connection.sendall(data)


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_a_body_of_a_gibibyte_is_answered_413_and_not_swallowed(start, chunked):
    server = start().wait()
    answers_others(server)
    before = server.rss_anon_bytes
    length = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % 2**30
    part = b"x" * MIB
    part = b"%x\r\n%s\r\n" % (len(part), part) if chunked else part
    with server.connect() as connection:
        connection.sendall(
            b"POST /collections/docs/write HTTP/1.1\r\nhost: x\r\n"
            b"content-type: application/json\r\n" + length + b"\r\n\r\n"
        )
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 2**30:
                sent += connection.send(part)
        assert sent < 100 * MIB
        status, answer = read_answer(connection)
        assert (status, answer["code"]) == (413, "body-too-large")
    answers_others(server)
    assert server.rss_anon_bytes - before < 300 * MIB
    server.stop()


def test_a_gzip_bomb_is_not_unpacked(start):
    server = start().wait()
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(b" " * MIB) for _ in range(200)) + packer.flush()
    with server.connect() as connection:
        connection.sendall(
            b"POST /collections HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb)
        )
        drip(connection, bomb)
        status, answer = read_answer(connection)
    assert (status, answer["code"]) == (415, "unsupported-media-type")
    answers_others(server)
    assert server.rss_anon_bytes < 400 * MIB
    server.stop()


def test_json_nested_a_million_deep_is_answered_400(start):
    server = start().wait()
    create(server)
    for body in (
        b"[" * 10**6,
        b'{"a":' * 10**6,
        b'{"upserts":{"vectors":' + b"[" * 10**6 + b"]" * 10**6 + b"}}",
        b'{"upserts":{"vectors":[[1,2,3,4,5,6,7,8]],"metadata":[' + b'{"a":' * 500_000 + b"1"
        + b"}" * 500_000 + b"]}}",
    ):  # fmt: skip
        with server.connect() as connection:
            connection.sendall(
                b"POST /collections/docs/write HTTP/1.1\r\nhost: x\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            )
            connection.sendall(body)
            status, answer = read_answer(connection)
            assert status in {400, 422}
            assert answer["code"] in {"invalid-body", "unknown-field"}
    answers_others(server)
    server.stop()
