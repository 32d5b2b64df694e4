"""One HTTP/1.1 exchange as bytes: a request to send, an answer to read. No sockets here.

Both transports, blocking and asyncio, move the bytes of this module: a request is a list of pieces,
and whatever arrives is fed to an `AnswerReader` until it says `done`. What it refuses, because
guessing would be worse: an answer whose length is not said (a cut one would look whole), one that
is not HTTP, and anything above the limits below.
"""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import httptools

from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dvecdb.client.address import Address, Limits

HEADER_BYTES_MAX: Final = 64 * 1024
ANSWER_BYTES_MAX: Final = 2 * 1024 * 1024 * 1024
RECEIVE_BYTES: Final = 256 * 1024
SEND_BYTES: Final = 1024 * 1024  # a piece; between pieces an early answer is looked for
_JOIN_BYTES: Final = 64 * 1024  # head and body go in one packet up to this size
_API_KEY: Final = re.compile(r"[!-~]{1,1024}")
_NO_BODY: Final = frozenset({204, 304})


class BadAnswerError(Exception):
    """What arrived is not an answer we can trust. The message says what was wrong with it."""


class ExchangeError(Exception):
    """There is no answer. The message completes "HOST:PORT ...".

    `sent`: the server may have taken the request; `is_lasting`: another attempt would end the same.
    """

    def __init__(self, message: str, *, sent: bool, is_lasting: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.is_lasting = is_lasting


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def fixed_headers(address: Address, api_key: object) -> bytes:
    """Return the headers that every request to a server has.

    Raises:
        InvalidRequestError: `invalid-argument`, no API key looks like this.
    """
    lines = f"host: {address.authority}\r\nuser-agent: dvecdb-python\r\n"
    if api_key is not None:
        if not isinstance(api_key, str) or not _API_KEY.fullmatch(api_key):
            raise InvalidRequestError(
                Code.INVALID_ARGUMENT, "api_key: expected visible ASCII characters, no spaces"
            )
        lines += f"authorization: Bearer {api_key}\r\n"
    return f"{lines}accept: application/msgpack\r\n".encode()


def request_head(method: str, path: str, headers: Mapping[str, str], fixed: bytes) -> bytes:
    """Return request line and headers, each line ended."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}".encode("ascii") + fixed


def request_pieces(head: bytes, body: bytes) -> Iterator[bytes | memoryview]:
    """Yield what has to be sent, in pieces of at most about `SEND_BYTES`.

    head: request line and headers, each line ended, without `Content-Length` and the empty line.
    """
    head = b"%scontent-length: %d\r\n\r\n" % (head, len(body))
    if len(body) <= _JOIN_BYTES:
        yield head + body
        return
    yield head
    view = memoryview(body)
    for start in range(0, len(body), SEND_BYTES):
        yield view[start : start + SEND_BYTES]


class AnswerReader:
    """Collects one answer from the bytes of a connection."""

    def __init__(self) -> None:
        self.done = False
        self.started = False
        self.is_reusable = False
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self._body: list[bytes] = []
        self._body_bytes = 0

    def feed(self, data: bytes) -> None:
        """Take what arrived; nothing means that the server closed the connection.

        Raises:
            BadAnswerError: it is not an answer, or it was cut off.
        """
        if not data:
            where = "in the middle of its answer" if self.started else "without an answer"
            raise BadAnswerError(f"the server closed the connection {where}")
        self.started = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise BadAnswerError("the server switched to another protocol") from None
        except httptools.HttpParserCallbackError as error:
            raise BadAnswerError(str(error.__context__ or error)) from None
        except httptools.HttpParserError as error:
            if not self.done:
                raise BadAnswerError(f"what arrived is not HTTP: {error}") from None
            self.is_reusable = False  # a whole answer, and rubbish behind it

    def answer(self) -> Answer:
        """Return the answer. `done` must be true."""
        assert self.done
        return Answer(self._status, self._headers, b"".join(self._body))

    # --- called by the parser ---

    def on_message_begin(self) -> None:
        """Notice bytes behind a whole answer."""
        if self.done:
            self.is_reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > HEADER_BYTES_MAX:
            raise BadAnswerError(f"the headers exceed {HEADER_BYTES_MAX} bytes")
        if not self.done:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Refuse an answer whose end cannot be told."""
        if self.done:
            return
        self._status = self._parser.get_status_code()
        says_length = "content-length" in self._headers or "transfer-encoding" in self._headers
        if self._status >= 200 and self._status not in _NO_BODY and not says_length:
            raise BadAnswerError("the answer does not say how long it is")

    def on_body(self, part: bytes) -> None:
        """Keep a part of the body."""
        if self.done:
            return
        self._body_bytes += len(part)
        if self._body_bytes > ANSWER_BYTES_MAX:
            raise BadAnswerError(f"the answer exceeds {ANSWER_BYTES_MAX} bytes; ask for less")
        self._body.append(part)

    def on_message_complete(self) -> None:
        """Finish, unless this was only an interim answer."""
        if self.done:
            return
        if self._status < 200:
            self._headers = {}
            return
        self.done = True
        self.is_reusable = self._parser.should_keep_alive()


# --- why there is no answer, for both transports ---


def connect_failed(error: Exception, limits: Limits) -> ExchangeError:
    """Return what to say if no connection came about: nothing was sent."""
    if isinstance(error, TimeoutError):
        text = f"cannot be reached: no connection within {limits.connect_timeout:g} s"
    elif isinstance(error, ssl.SSLCertVerificationError):
        text = (
            f"has a certificate that is not trusted: {error.verify_message}; if it is your own, "
            "pass verify='its-authority.pem'"
        )
    elif isinstance(error, ssl.SSLError):
        text = f"does not speak TLS with us: {error.reason or error}; is it http instead of https"
    else:
        text = f"cannot be reached: {_reason(error)}"
    return ExchangeError(text, sent=False, is_lasting=isinstance(error, ssl.SSLError))


def lost(error: Exception) -> ExchangeError:
    """Return what to say if the connection ended after the request, or some of it, was sent."""
    return ExchangeError(f"gave no whole answer: {_reason(error)}", sent=True)


def timed_out(limits: Limits) -> ExchangeError:
    """Return what to say if nothing moved for too long."""
    return ExchangeError(f"gave no answer: nothing came for {limits.timeout:g} s", sent=True)


def too_many(limits: Limits) -> ExchangeError:
    """Return what to say if no connection became free."""
    text = f"was not asked: all {limits.connections_max} connections stayed busy"
    return ExchangeError(f"{text} for {limits.timeout:g} s", sent=False)


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionError) and error.errno:  # asyncio has words of its own for it
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
