"""Where an embedding service is, and through which proxy. Pure: the environment is given."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit, urlunsplit

from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

_VERSION: Final = re.compile(r"/v\d+[a-z0-9]*(/|$)")
_CONTROL: Final = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True)
class Address:
    """A URL to send to. shown: without user, password and query, for messages.

    login: USER:PASSWORD that stood in it.
    """

    url: str
    shown: str
    login: str | None = None


def parse_address(url: str, what: str) -> Address:
    """Return the address that a text names. what: where it was said, for the message.

    Raises:
        InvalidRequestError: `invalid-job`, it is no http or https URL.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        parts.path.encode("ascii")
        (host or "").encode("ascii")
    except ValueError:  # its text may hold a password
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in {"http", "https"} or not host or _CONTROL.search(url):
        raise InvalidRequestError(
            Code.INVALID_JOB,
            f"{what} is no URL that can be used; expected http://HOST:PORT or https://HOST:PORT, "
            "in ASCII and without blanks",
        )
    place = (f"[{host}]" if ":" in host else host) + ("" if port is None else f":{port}")
    login = None
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Address(
        urlunsplit((parts.scheme, place, parts.path, parts.query, "")),
        urlunsplit((parts.scheme, place, parts.path, "", "")),
        login,
    )


def service_path(base: str, path: str | None) -> str:
    """Return the path of a service below the path of its URL: `path`, or /embed if not there."""
    base = base.rstrip("/")
    if path is None:
        return base if base.endswith("/embed") else f"{base}/embed"
    return f"{base}/{path.lstrip('/')}"


def openai_path(base: str, path: str | None) -> str:
    """Return the path of /embeddings; /v1 goes before it if no version stands in the URL."""
    base = base.rstrip("/")
    if path is not None:
        return f"{base}/{path.lstrip('/')}"
    if base.endswith("/embeddings"):
        return base
    return f"{base}/embeddings" if _VERSION.search(base) else f"{base}/v1/embeddings"


def with_path(address: Address, path: str) -> Address:
    """Return the address with another path."""
    return Address(
        urlunsplit(urlsplit(address.url)._replace(path=path)),
        urlunsplit(urlsplit(address.shown)._replace(path=path)),
        address.login,
    )


def proxy_of(address: Address, environment: Mapping[str, str]) -> Address | None:
    """Return the proxy that the environment names for an address; never one for this machine.

    Raises:
        InvalidRequestError: `invalid-job`, the proxy is no http or https URL.
    """
    parts = urlsplit(address.url)
    host = parts.hostname or ""
    if _is_loopback(host):
        return None
    named = {name.lower(): value for name, value in environment.items() if value}
    named |= {name: value for name, value in environment.items() if value and name.islower()}
    if _is_exempt(host, parts.port, named.get("no_proxy", "")):
        return None
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        if name in named:
            url = named[name] if "://" in named[name] else f"http://{named[name]}"
            return parse_address(url, f"the proxy in {name}")
    return None


def _is_exempt(host: str, port: int | None, exempt: str) -> bool:
    """Return whether NO_PROXY names the host: itself, a domain above it, HOST:PORT, a network."""
    for name in exempt.replace(",", " ").lower().split():
        bare = name.removeprefix("*").removeprefix(".")
        if name == "*" or bare in {host, f"{host}:{port}"} or host.endswith(f".{bare}"):
            return True
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(bare, strict=False):
                return True
        except ValueError:
            continue
    return False


def _is_loopback(host: str) -> bool:
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return found.is_loopback or found.is_unspecified
