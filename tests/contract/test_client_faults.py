"""What a network and a server can do to a client: every write is done once, or it says so."""

import asyncio
import contextlib
import datetime as dt
import gc
import ipaddress
import os
import socket
import threading

import msgspec
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.contract.doors import SETTINGS, Awaited, running_loop

import dvecdb
from dvecdb import Settings
from dvecdb.api.auth import Scope
from dvecdb.api.keys import KeyStore
from dvecdb.api.limits import Limits
from dvecdb.api.server_directory import make_server_directory
from dvecdb.errors import (
    AuthError,
    Code,
    DvecdbError,
    HandleError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from dvecdb.formats import names
from dvecdb.media.files import OsFiles
from dvecdb.testing.proxy import Fault, Proxy
from dvecdb.testing.serving import serving

KINDS = ["connect", "connect_async"]
OPTIONS = {"settings": Settings(**SETTINGS), "background": False}
BROKEN = [fault for fault in Fault if fault is not Fault.NONE]


@pytest.fixture(params=KINDS)
def connect(request):
    """Connect by either twin; what was connected is closed at the end."""
    with contextlib.ExitStack() as stack:
        loop = None if request.param == "connect" else stack.enter_context(running_loop())

        def begin(url, **given):
            if loop is None:
                return stack.enter_context(dvecdb.connect(url, **given))
            return stack.enter_context(Awaited(loop, dvecdb.connect_async(url, **given)))

        yield begin


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "data")


@pytest.fixture
def server(path):
    with serving(path, **OPTIONS) as served:
        served.database.create_collection("docs", dimension=2)
        yield served


@pytest.fixture
def proxy(server):
    with Proxy(server.port) as found:
        yield found


@pytest.fixture
def docs(connect, proxy):
    found = connect(proxy.url, timeout=0.5).collection("docs")
    proxy.exchanges = 0
    return found


def failed(call, code, kind=UnavailableError):
    with pytest.raises(DvecdbError) as caught:
        call()
    assert (caught.value.code, type(caught.value)) == (code, kind), caught.value
    return caught.value


# --- exactly once ----------------------------------------------------------------------------


@pytest.mark.parametrize("faults", [[one] for one in BROKEN] + [BROKEN[:4], BROKEN[:1] * 4])
def test_a_write_over_a_broken_network_is_done_once(docs, proxy, server, faults):
    engine = server.database.collection("docs")
    writes = [
        lambda: docs.upsert(None, np.eye(2)),
        lambda: docs.insert(["a"], [[1, 2]], [{"n": 1}]),
        lambda: docs.update_metadata(["a"], [{"n": 2}]),
        lambda: docs.write(documents={("jobs", "cursor"): 1}, expect={("jobs", "cursor"): None}),
        lambda: docs.delete(["a"]),
    ]
    for number, write in enumerate(writes, 1):
        proxy.plan(*faults)
        commit = write()
        assert commit.lsn == number
        assert engine.snapshot().lsn == number
        assert (commit.count, len(commit.ids)) == {
            1: (2, 2), 2: (1, 1), 3: (1, 1), 4: (0, 0), 5: (1, 0)
        }[number]  # fmt: skip
    assert proxy.exchanges == 5 * (len(faults) + 1)
    assert engine.count() == 2


@pytest.mark.parametrize("fault", BROKEN)
def test_a_read_over_a_broken_network_is_answered(docs, proxy, fault):
    docs.upsert(["a"], [[1, 2]])
    for read in (
        lambda: docs.get(["a"])[0].id,
        lambda: docs.search([1, 2])[0].id,
        lambda: next(iter(docs.scan())).id,
    ):
        proxy.plan(fault)
        assert read() == "a"
    proxy.plan(fault)
    assert docs.verify().ok


def test_a_write_without_any_answer_names_the_key_that_settles_it(docs, proxy, server):
    proxy.plan(*[Fault.LOST_ANSWER] * 5)
    error = failed(lambda: docs.upsert(None, [[1, 2]]), Code.UNREACHABLE)
    assert "may or may not" in error.message
    assert "tried 5 times" in error.message
    assert error.details["attempts"] == proxy.exchanges == 5
    key = error.details["idempotency_key"]
    assert repr(key) in error.message
    commit = docs.upsert(None, [[1, 2]], idempotency_key=key)
    assert (commit.lsn, server.database.collection("docs").count()) == (1, 1)


def test_one_attempt_means_one_request_and_no_key(connect, proxy, server):
    docs = connect(proxy.url, attempts=1).collection("docs")
    docs.upsert(["a"], [[1, 2]])
    proxy.plan(Fault.LOST_ANSWER)
    proxy.exchanges = 0
    error = failed(lambda: docs.upsert(["b"], [[1, 2]]), Code.UNREACHABLE)
    assert "may or may not" in error.message
    assert "idempotency_key" not in error.details
    assert proxy.exchanges == 1
    engine = server.database.collection("docs")
    assert engine.count() == 2
    assert engine.snapshot().documents("_idempotency") == {}


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.LOST_ANSWER])
def test_creating_and_deleting_collections_is_not_repeated_blindly(connect, proxy, server, fault):
    database = connect(proxy.url)
    proxy.plan(fault)
    error = failed(lambda: database.create_collection("more", dimension=2), Code.UNREACHABLE)
    assert "may or may not" in error.message
    done = fault is Fault.LOST_ANSWER
    assert ("more" in database.collections()) is done
    proxy.plan(fault)
    failed(lambda: database.delete_collection("docs"), Code.UNREACHABLE)
    assert ("docs" not in database.collections()) is done


def test_a_late_answer_is_not_taken_for_the_next_one(docs, proxy):
    docs.upsert(["a", "b"], [[1, 2], [3, 4]])
    for _ in range(3):
        proxy.plan(Fault.SILENCE)
        assert docs.get(["a"])[0].id == "a"
        assert docs.get(["b"])[0].id == "b"


def test_a_deadline_that_passes_is_settled_by_the_same_key(connect, path):
    slow = [True]

    def wrap(app):
        async def slowed(scope, receive, send):
            async def late(message):
                if scope["path"].endswith(("/write", "/delete")) and slow:
                    slow.clear()
                    await asyncio.sleep(0.6)
                await send(message)

            await app(scope, receive, late)

        return slowed

    limits = Limits(request_timeout_seconds=0.2)
    with serving(path, limits=limits, wrap=wrap, **OPTIONS) as served:
        served.database.create_collection("docs", dimension=2)
        docs = connect(served.url).collection("docs")
        commit = docs.upsert(None, [[1, 2]])
        assert not slow
        assert (commit.lsn, docs.count(), docs.snapshot().lsn) == (1, 1, 1)
        slow += [True] * 9
        error = failed(lambda: connect(served.url, attempts=1).collection("docs").delete(["x"]),
                       Code.DEADLINE_EXCEEDED)  # fmt: skip
        assert "may or may not" in error.message


def test_a_busy_server_is_asked_again_as_it_wishes(connect, path):
    refusals, seen = [], []

    def wrap(app):
        async def busy(scope, receive, send):
            if scope["type"] == "http" and refusals:
                seen.append(scope["path"])
                status, headers = refusals.pop()
                await send({"type": "http.response.start", "status": status, "headers": [
                    *headers, (b"content-length", b"4")]})  # fmt: skip
                await send({"type": "http.response.body", "body": b"busy"})
                return
            await app(scope, receive, send)

        return busy

    with serving(path, wrap=wrap, **OPTIONS) as served:
        database = connect(served.url)
        refusals += [(429, []), (429, [(b"retry-after", b"0")])]
        docs = database.create_collection("docs", dimension=2)
        assert len(seen) == 2
        refusals += [(502, [])]  # a proxy may have passed it on
        error = failed(lambda: database.create_collection("more", dimension=2), Code.UNREACHABLE)
        assert "may or may not" in error.message
        refusals += [(429, []), (503, []), (504, [])]
        assert docs.upsert(["a"], [[1, 2]]).lsn == 1
        refusals += [(429, [])] * 5
        error = failed(lambda: docs.upsert(["b"], [[1, 2]]), Code.TOO_MANY_REQUESTS)
        assert "may or may not" not in error.message
        refusals += [(301, [(b"location", b"https://elsewhere/")])]
        failed(docs.count, Code.INVALID_ARGUMENT, InvalidRequestError)
        refusals += [(404, [])]
        failed(docs.count, Code.UNKNOWN_PATH, NotFoundError)


# --- servers that come and go ----------------------------------------------------------------


def test_nobody_at_the_address_says_where_and_what_to_do(connect):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        database = connect(f"http://127.0.0.1:{port}")
        error = failed(database.collections, Code.UNREACHABLE)
        for word in (f"127.0.0.1:{port}", "refused", "dvecdb serve", "tried 5 times"):
            assert word in error.message, error.message
        error = failed(lambda: database.create_collection("x", dimension=1), Code.UNREACHABLE)
        assert "may or may not" not in error.message
    error = failed(connect("http://no-such-host.invalid").collections, Code.UNREACHABLE)
    assert "no-such-host.invalid:80" in error.message


def test_somebody_else_at_the_address_is_told_apart(connect):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    client.recv(4096)
                    client.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                    client.close()

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        error = failed(connect(url, attempts=1).collections, Code.UNREACHABLE)
        assert "not HTTP" in error.message
        listener.shutdown(socket.SHUT_RDWR)


def test_a_server_that_came_back_is_used_without_a_word(connect, path):
    with serving(path, **OPTIONS) as served:
        docs = connect(served.url).create_collection("docs", dimension=2)
        docs.upsert(["a"], [[1, 2]])
        port = served.port
    with serving(path, port=port, **OPTIONS):
        assert docs.count() == 1
    with serving(path, port=port, **OPTIONS):
        assert docs.upsert(["b"], [[1, 2]]).lsn == 2
    with serving(path, port=port, **OPTIONS):
        assert [record.id for record in docs.scan()] == ["a", "b"]


def test_a_large_write_is_refused_whole_and_says_how_much_is_taken(connect, path):
    with serving(path, limits=Limits(body_bytes_max=100_000), **OPTIONS) as served:
        docs = connect(served.url).create_collection("docs", dimension=1000)
        assert docs.upsert(None, np.ones((20, 1000))).count == 20
        for rows in (30, 1000, 8000):
            error = failed(lambda n=rows: docs.upsert(None, np.ones((n, 1000), np.float32)),
                           Code.BATCH_TOO_LARGE, InvalidRequestError)  # fmt: skip
            assert "atomic" in error.message
            assert error.details["body_bytes_max"] == 100_000
            assert error.details["bytes"] > rows * 4000
        assert docs.count() == 20
        error = failed(lambda: docs.get(["x" * 250] * 1000), Code.BODY_TOO_LARGE,
                       InvalidRequestError)  # fmt: skip


# --- many callers ----------------------------------------------------------------------------


def test_more_threads_than_connections_all_get_their_own_answers(connect, proxy, server):
    docs = connect(proxy.url, connections=3).collection("docs")
    wrong = []

    def work(number):
        for turn in range(10):
            name = f"{number}-{turn}"
            docs.upsert([name], [[number, turn]])
            (found,) = docs.get([name])
            if (found.id, found.vector.tolist()) != (name, [number, turn]):
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert docs.count() == 120
    assert len(proxy._open) <= 2 * 4  # three, and the one for `collection`, on two sides


def test_a_cancelled_call_leaves_nothing_for_the_next(proxy):
    async def work():
        async with dvecdb.connect_async(proxy.url) as database:
            docs = await database.collection("docs")
            await docs.upsert(["a", "b"], [[1, 2], [3, 4]])
            for _ in range(3):
                proxy.plan(Fault.SILENCE)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(docs.get(["a"]), 0.1)
                assert (await docs.get(["b"]))[0].id == "b"
            found = await asyncio.gather(*(docs.get([one]) for one in "ab" * 50))
            assert [item[0].id for item in found] == list("ab" * 50)

    asyncio.run(work())


def test_an_async_client_serves_one_loop_after_another(server):
    database = dvecdb.connect_async(server.url)
    for _ in range(2):
        assert asyncio.run(database.collections()) == ["docs"]
    asyncio.run(database.close())
    with pytest.raises(HandleError):
        asyncio.run(database.collections())


def test_a_forked_child_has_connections_of_its_own(server):
    with dvecdb.connect(server.url) as database:
        docs = database.collection("docs")
        docs.upsert(["a"], [[1, 2]])
        child = os.fork()
        if child == 0:
            good = False
            with contextlib.suppress(BaseException):
                good = all(docs.get(["a"])[0].id == "a" for _ in range(20))
                database.close()
            os._exit(0 if good else 1)
        assert all(docs.get(["a"])[0].vector.tolist() == [1, 2] for _ in range(20))
        assert os.waitpid(child, 0)[1] == 0
        assert docs.count() == 1


# --- keys and certificates -------------------------------------------------------------------


def test_a_key_is_sent_and_its_lack_is_told(connect, path):

    keys = KeyStore(OsFiles(), make_server_directory(OsFiles(), path, names.KEYS))
    token = keys.create("reader", [Scope.READ]).token
    with serving(path, keys=keys, **OPTIONS) as served:
        served.database.create_collection("docs", dimension=2)
        failed(connect(served.url).collections, Code.UNAUTHENTICATED, AuthError)
        database = connect(served.url, api_key=token)
        assert database.collections() == ["docs"]
        docs = database.collection("docs")
        error = failed(lambda: docs.delete(["a"]), Code.FORBIDDEN, AuthError)
        assert "may or may not" not in error.message
        assert token not in repr(vars(database) if isinstance(database, Awaited) else error)
    keys.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Files of a certificate for 127.0.0.1 and its key."""

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dvecdb test")])
    begin = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + dt.timedelta(days=36_500))
        .add_extension(x509.SubjectAlternativeName(
            [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("tls")
    (directory / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(directory / "cert.pem"), str(directory / "key.pem")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_certificate_is_checked_unless_told_otherwise(connect, path, certificate):
    with serving(path, tls=certificate, **OPTIONS) as served:
        plain = connect(served.url.replace("https", "http"), attempts=1)
        failed(plain.collections, Code.UNREACHABLE)
        error = failed(connect(served.url).collections, Code.UNREACHABLE)
        assert "not trusted" in error.message
        assert "verify=" in error.message
        assert "attempts" not in error.details  # another attempt would end the same
        docs = connect(served.url, verify=certificate[0]).create_collection("docs", dimension=1000)
        rows = np.random.default_rng(1).normal(size=(500, 1000)).astype(np.float32)
        ids = docs.upsert(None, rows).ids
        assert np.array_equal([item.vector for item in docs.get(ids)], rows)
        assert connect(served.url, verify=False).collections() == ["docs"]
    with serving(path, **OPTIONS) as served:
        error = failed(connect(served.url.replace("http", "https")).collections, Code.UNREACHABLE)
        assert "http instead of https" in error.message
    gc.collect()  # the server's side of handshakes that failed


@pytest.mark.parametrize(
    ("url", "given"),
    [
        ("127.0.0.1:3030", {}),
        ("ftp://host", {}),
        ("http://", {}),
        ("http://user:secret@host", {}),
        ("http://host?key=1", {}),
        ("http://host:99999", {}),
        ("http://ho st", {}),
        ("http://host/\r\nx: y", {}),
        ("http://bücher.example", {}),
        (None, {}),
        ("http://host", {"api_key": "a\r\nb: c"}),
        ("http://host", {"api_key": ""}),
        ("http://host", {"api_key": 7}),
        ("http://host", {"timeout": 0}),
        ("http://host", {"connect_timeout": -1}),
        ("http://host", {"connections": 0}),
        ("http://host", {"attempts": 0}),
        ("https://host", {"verify": "/no/such/file"}),
        ("https://host", {"verify": 7}),
    ],
)
def test_what_cannot_be_an_address_is_refused_at_once(connect, url, given):
    error = failed(lambda: connect(url, **given), Code.INVALID_ARGUMENT, InvalidRequestError)
    assert "secret" not in error.message


def test_answers_of_a_newer_server_are_read(connect, path):
    """Fields that are not known are passed over; a code that is not known is kept."""

    def wrap(app):
        async def newer(scope, receive, send):
            body = {
                "success": False, "data": None, "error": "e", "message": "the moon is full",
                "code": "moon-full", "advice": "retry", "details": {"phase": 1}, "more": 1,
            }  # fmt: skip
            encoded = msgspec.json.encode(body)
            await send({"type": "http.response.start", "status": 418, "headers": [
                (b"content-length", str(len(encoded)).encode())]})  # fmt: skip
            await send({"type": "http.response.body", "body": encoded})

        return newer

    with serving(path, wrap=wrap, **OPTIONS) as served:
        error = failed(connect(served.url).collections, Code.SERVER_ERROR)
        assert error.message.startswith("the moon is full")
        assert error.details["code"] == "moon-full"
        assert error.details["phase"] == 1
