"""One URL that takes JSON and gives JSON: connections, time limits, failures with a reason."""

from __future__ import annotations

import ssl
from http.client import HTTPException
from typing import TYPE_CHECKING, Final

import urllib3
from urllib3.exceptions import (
    ClosedPoolError,
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)

from dvecdb import __version__
from dvecdb.clock import NANOSECONDS_PER_SECOND
from dvecdb.embedding.embedders.refusals import refusal
from dvecdb.embedding.model import EmbedError, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dvecdb.clock import Clock
    from dvecdb.embedding.embedders.address import Address

CONNECTIONS_MAX: Final = 64  # the greatest `concurrency` of a job
CHUNK_BYTES: Final = 1 << 20
REFUSAL_BYTES_MAX: Final = 64 << 10
SECRET_LENGTH_MIN: Final = 6  # shorter ones are found in every text


class UnsentError(EmbedError):
    """There was no connection: the service saw nothing of the request, and nothing is owed."""


class Endpoint:
    """A URL to post to. Safe to use from several threads. No request is made before `post`.

    headers: sent with every request, the key among them; never in a message.
    """

    def __init__(
        self,
        address: Address,
        headers: Mapping[str, str],
        *,
        timeout_seconds: float,
        connect_timeout_seconds: float,
        proxy: Address | None,
        clock: Clock,
    ) -> None:
        self.where = address.shown
        self._url = address.url
        self._headers = {
            "content-type": "application/json",
            "accept": "application/json",
            "user-agent": f"dvecdb/{__version__}",
            **{name.lower(): value for name, value in headers.items()},
        }
        if address.login is not None:
            self._headers.setdefault(
                "authorization", urllib3.make_headers(basic_auth=address.login)["authorization"]
            )
        self._secrets = _secrets(headers, address)
        self._seconds = timeout_seconds
        self._clock = clock
        self._connections = _connections(
            urllib3.Timeout(connect=connect_timeout_seconds, read=timeout_seconds),
            proxy,
            is_tls=address.url.startswith("https:"),
        )

    def post(self, body: bytes, bytes_max: int) -> bytes:
        """Return the body of the answer to a JSON body; at most `bytes_max` bytes of it are read.

        Raises:
            EmbedError: there was no answer, or one that is not 2xx, or a longer one.
        """
        try:
            response = self._send(body)
            try:
                if 200 <= response.status < 300:
                    answer = self._read(response, bytes_max)
                    if answer is None:
                        raise EmbedError(
                            Reason.WRONG_ANSWER,
                            f"{self.where} answered with more than {bytes_max} bytes; that is "
                            "not what was asked for",
                        )
                    return answer
                raise self._refused(response)
            except BaseException:
                response.close()  # what is left unread makes the connection useless
                raise
            finally:
                response.release_conn()
        except (HTTPError, HTTPException, OSError) as error:
            raise self._failure(error) from error

    def renew(self) -> None:
        """Drop every connection that is idle now, and the others once their answer is there."""
        self._connections.clear()

    def close(self) -> None:
        """Close the connections. May be called twice."""
        self._connections.clear()

    def _send(self, body: bytes) -> urllib3.BaseHTTPResponse:
        while True:
            try:
                return self._connections.request(
                    "POST",
                    self._url,
                    body=body,
                    headers=self._headers,
                    retries=False,
                    redirect=False,
                    preload_content=False,
                )
            except ClosedPoolError:  # another thread renewed: nothing was sent
                continue

    def _read(self, response: urllib3.BaseHTTPResponse, bytes_max: int) -> bytes | None:
        """Return the body, or None if it is longer."""
        deadline_ns = self._clock.monotonic_ns() + round(self._seconds * NANOSECONDS_PER_SECOND)
        chunks = []
        size = 0
        while chunk := response.read1(CHUNK_BYTES):
            chunks.append(chunk)
            size += len(chunk)
            if size > bytes_max:
                return None
            if self._clock.monotonic_ns() > deadline_ns:
                raise EmbedError(
                    Reason.TIMEOUT,
                    f"{self.where} did not finish its answer within {self._seconds:g} s",
                )
        return b"".join(chunks)

    def _refused(self, response: urllib3.BaseHTTPResponse) -> EmbedError:
        """Return what a status means; a body that breaks off says enough by its status."""
        body = b""
        try:
            while len(body) < REFUSAL_BYTES_MAX and (chunk := response.read1(REFUSAL_BYTES_MAX)):
                body += chunk
        except (HTTPError, HTTPException, OSError):
            response.close()
        headers = {name.lower(): value for name, value in response.headers.items()}
        now_ns = self._clock.wall_ns()
        return refusal(response.status, headers, body, self.where, self._hide, now_ns)

    def _failure(self, error: Exception) -> EmbedError:
        said = f"{self.where}: {self._hide(_reason_text(error))}"
        if isinstance(error, NewConnectionError):
            return UnsentError(Reason.UNREACHABLE, said)
        if isinstance(error, ConnectTimeoutError):
            return UnsentError(Reason.UNREACHABLE, f"{self.where}: no connection in time")
        if isinstance(error, ReadTimeoutError | TimeoutError):
            return EmbedError(
                Reason.TIMEOUT, f"{self.where} did not answer within {self._seconds:g} s"
            )
        if isinstance(error, SSLError):
            lasting = "CERTIFICATE_VERIFY_FAILED" in str(error)
            return UnsentError(Reason.FORBIDDEN if lasting else Reason.UNREACHABLE, said)
        return EmbedError(Reason.UNREACHABLE, said)

    def _hide(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _connections(
    timeout: urllib3.Timeout, proxy: Address | None, *, is_tls: bool
) -> urllib3.PoolManager:
    tls = ssl.create_default_context() if is_tls else None
    if proxy is None:
        return urllib3.PoolManager(1, maxsize=CONNECTIONS_MAX, timeout=timeout, ssl_context=tls)
    login = None
    if proxy.login is not None:
        login = urllib3.make_headers(proxy_basic_auth=proxy.login)
    return urllib3.ProxyManager(
        proxy.url,
        2,
        maxsize=CONNECTIONS_MAX,
        timeout=timeout,
        ssl_context=tls,
        proxy_headers=login,
    )


def _secrets(headers: Mapping[str, str], address: Address) -> tuple[str, ...]:
    found = [word for value in headers.values() for word in (value, *value.split())]
    if address.login is not None:
        found.append(address.login.partition(":")[2])
    long_enough = {one for one in found if len(one) >= SECRET_LENGTH_MIN}
    return tuple(sorted(long_enough, key=len, reverse=True))


def _reason_text(error: BaseException) -> str:
    """Return what went wrong in the words of the system, not of three libraries around them."""
    inner: BaseException = error
    while (deeper := inner.__cause__ or inner.__context__) is not None:
        inner = deeper
    text = str(inner if str(inner) else error)
    return " ".join(text.split())[:300] or type(inner).__name__
