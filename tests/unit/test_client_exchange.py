"""Bytes that arrive become one answer or are refused, however they are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.client.exchange import (
    ANSWER_BYTES_MAX,
    HEADER_BYTES_MAX,
    SEND_BYTES,
    AnswerReader,
    BadAnswerError,
    request_head,
    request_pieces,
)

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Request-Id: r\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n"
WHOLE = {
    "plain": (PLAIN, 200, b"hi", True),
    "chunked": (CHUNKED, 200, b"hi", True),
    "after an interim answer": (b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN, 200, b"hi", True),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "empty": (b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", 503, b"", True),
    "to be closed": (PLAIN.replace(b"X-", b"connection: close\r\nX-"), 200, b"hi", False),
    "of 1.0": (PLAIN.replace(b"1.1", b"1.0"), 200, b"hi", False),
}  # fmt: skip


def read(data, cuts=()):
    reader, start = AnswerReader(), 0
    for cut in [*sorted(cuts), len(data)]:
        if cut > start:
            reader.feed(data[start:cut])
        start = max(start, cut)
    return reader


@pytest.mark.parametrize("what", WHOLE)
@given(cuts=st.lists(st.integers(0, 120), max_size=8))
def test_an_answer_is_the_same_however_it_is_cut(what, cuts):
    data, status, body, is_reusable = WHOLE[what]
    reader = read(data, [min(cut, len(data)) for cut in cuts])
    assert reader.done
    answer = reader.answer()
    assert (answer.status, answer.body, reader.is_reusable) == (status, body, is_reusable)
    assert answer.headers.get("x-request-id", "r") == "r"


@pytest.mark.parametrize("what", WHOLE)
def test_a_beginning_of_an_answer_is_never_taken_for_one(what):
    data = WHOLE[what][0]
    for size in range(len(data)):
        reader = AnswerReader()
        if size:
            reader.feed(data[:size])
        assert not reader.done
        with pytest.raises(BadAnswerError, match="closed"):
            reader.feed(b"")


@pytest.mark.parametrize("surplus", [b"x", b"\0\0", PLAIN, b"HTTP/1.1 200 OK\r\n"])
def test_a_connection_with_bytes_behind_an_answer_is_not_used_again(surplus):
    reader = read(PLAIN + surplus)
    assert (reader.answer().body, reader.is_reusable) == (b"hi", False)


BAD = {
    "no length": b"HTTP/1.1 200 OK\r\n\r\nhi",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi",
    "length and chunks": CHUNKED.replace(b"chunked", b"chunked\r\ncontent-length: 5"),
    "negative length": b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "an upgrade": b"HTTP/1.1 101 X\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "large headers": b"HTTP/1.1 200 OK\r\nx: " + b"y" * HEADER_BYTES_MAX + b"\r\n\r\n",
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_answer_is_refused(what):
    with pytest.raises(BadAnswerError):
        read(BAD[what]).feed(b"")


def test_an_answer_beyond_the_limit_is_refused():
    reader = read(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (ANSWER_BYTES_MAX + 1))
    reader._body_bytes = ANSWER_BYTES_MAX
    with pytest.raises(BadAnswerError, match="exceeds"):
        reader.feed(b"x")


@pytest.mark.parametrize("size", [0, 1, 70_000, SEND_BYTES, 2 * SEND_BYTES + 1])
def test_a_request_is_its_head_and_its_whole_body(size):
    head = request_head("POST", "/x", {"a": "b"}, b"host: h\r\n")
    body = bytes(range(256)) * (size // 256 + 1)
    pieces = list(request_pieces(head, body[:size]))
    assert b"".join(pieces) == (
        b"POST /x HTTP/1.1\r\na: b\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % size + body[:size]
    )
    assert max(map(len, pieces)) <= SEND_BYTES
