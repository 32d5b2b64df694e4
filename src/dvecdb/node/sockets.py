"""What a server asks of the system before it serves: its ports, its certificate, file handles."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import resource
import socket
import ssl
import struct
import sys
from typing import TYPE_CHECKING, Final

from dvecdb.errors import Code, DirectoryError
from dvecdb.node.settings import invalid

if TYPE_CHECKING:
    from dvecdb.node.settings import ServerSettings

_SO_ATTACH_FILTER: Final = 26
_RETURN: Final = 6
"""Of a packet filter (socket(7), and McCanne and Jacobson, "The BSD Packet Filter", 1993): so many
bytes of the packet go on."""
_HANDLES_WANTED: Final = 65_536
_HANDLES_KEPT: Final = 512
"""File handles that connections may not use: they are for the data."""


def bind(host: str, port: int, setting: str) -> socket.socket:
    """Return a socket bound to the address; port 0 takes a free one. Not listening yet.

    Raises:
        DirectoryError: `port-in-use`.
        InvalidRequestError: `invalid-settings`, the address is none of this machine's.
    """
    host = "127.0.0.1" if host == "localhost" else host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        bound.bind((host, port))
        bound.settimeout(0)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise port_in_use(host, port, setting) from error
        raise invalid(
            f"{setting}: cannot listen on {host} port {port}: {error.strerror}", setting=setting
        ) from error
    return bound


def close_to_new(listening: socket.socket) -> None:
    """Let no connection begin any more; those that wait to be accepted can be.

    A filter of the system passes on none of what comes in: whoever connects gets no answer and
    tries again, and is refused once the socket is closed. Not on systems other than Linux.
    """
    if sys.platform != "linux":
        return
    nothing = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN, 0, 0, 0))
    program = struct.pack("HL", 1, ctypes.addressof(nothing))  # one instruction, and where it is
    with contextlib.suppress(OSError):
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def port_in_use(host: str, port: int, setting: str) -> DirectoryError:
    """Return the error for a port that another process has."""
    return DirectoryError(
        Code.PORT_IN_USE,
        f"port {port} of {host} is in use by another process; stop it or choose another {setting}",
        setting=setting,
        port=port,
    )


def check_tls(settings: ServerSettings) -> None:
    """Make sure that certificate and key can be used.

    Raises:
        InvalidRequestError: `invalid-settings`.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise invalid(
            f"tls_cert {settings.tls_cert} and tls_key {settings.tls_key} cannot be used: {why}. "
            "Expected a PEM certificate chain and its private key without a pass phrase",
            setting="tls_cert",
        ) from error


def raise_handle_limit(connections_max: int) -> int:
    """Ask for as many file handles as allowed; return how many connections they are good for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, _HANDLES_WANTED)
    if soft < hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):  # the system's own limit is lower; what we have must do
            pass
    return max(8, min(connections_max, soft - _HANDLES_KEPT))
