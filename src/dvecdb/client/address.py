"""Where a server is and how to speak to it: the URL, TLS, limits of time and number."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    import os

TIMEOUT_SECONDS: Final = 30.0
CONNECT_TIMEOUT_SECONDS: Final = 5.0
CONNECTIONS_MAX: Final = 64
_PORTS: Final = {"http": 80, "https": 443}

Verify = bool | str | ssl.SSLContext


@dataclass(frozen=True, slots=True)
class Address:
    """A server. `prefix` goes before every path; `tls` is None for plain HTTP."""

    host: str
    port: int
    prefix: str
    tls: ssl.SSLContext | None

    @property
    def authority(self) -> str:
        """Host and port as they stand in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds to wait and connections to hold.

    timeout: the longest silence while a request is sent or its answer awaited; connect_timeout: to
    make a connection, TLS included; connections_max: open at once, idle ones included.
    """

    timeout: float = TIMEOUT_SECONDS
    connect_timeout: float = CONNECT_TIMEOUT_SECONDS
    connections_max: int = CONNECTIONS_MAX

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in ("timeout", "connect_timeout", "connections_max"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise _invalid(f"{name}: expected a number above 0, found {value!r}")


def parse_address(url: str, verify: Verify | os.PathLike[str]) -> Address:
    """Return the server that `url` names.

    Raises:
        InvalidRequestError: `invalid-argument`; it is no http or https URL, or holds what belongs
            elsewhere (a user, a query).
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except (ValueError, TypeError, AttributeError) as error:
        raise _invalid(f"{url!r} is no URL: {error}") from None
    if parts.scheme not in _PORTS or not host:
        raise _invalid(f"{url!r}: expected http://HOST:PORT or https://HOST:PORT")
    if parts.username is not None or parts.query or parts.fragment:
        raise _invalid("the URL of a server has no user, query or fragment; a key goes in api_key")
    try:
        host.encode("ascii")
        parts.path.encode("ascii")
    except UnicodeEncodeError:
        raise _invalid(f"{url!r}: write the host in its ASCII form and the path encoded") from None
    if any(character <= " " for character in url):
        raise _invalid(f"{url!r} has spaces or control characters in it")
    context = tls_context(verify) if parts.scheme == "https" else None
    if port is None:
        port = _PORTS[parts.scheme]
    return Address(host, port, parts.path.rstrip("/"), context)


def tls_context(verify: Verify | os.PathLike[str]) -> ssl.SSLContext:
    """Return how to check a server: True: by the system's authorities, a path: by that file.

    Raises:
        InvalidRequestError: `invalid-argument`, the file cannot be used.
    """
    if isinstance(verify, ssl.SSLContext):
        return verify
    if isinstance(verify, bool):
        context = ssl.create_default_context()
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context
    try:
        return ssl.create_default_context(cafile=verify)
    except (OSError, TypeError) as error:
        raise _invalid(f"verify: {verify!r} is no file of certificates: {error}") from error


def _invalid(message: str) -> InvalidRequestError:
    return InvalidRequestError(Code.INVALID_ARGUMENT, message)
