"""Everything an operator can set for a server: unit, default, limits and reason of each."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

from dvecdb.errors import Code, InvalidRequestError
from dvecdb.settings import MIB, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("auto", "json", "console")
_PORT_LAST: Final = 65_535


@dataclass(frozen=True, slots=True)
class Rule:
    """What a setting may be. `unit` is for people; `first` and `last` bound a number."""

    unit: str
    why: str
    first: float | None = None
    last: float | None = None
    choices: tuple[str, ...] = ()


def _setting(default: Any, unit: str, why: str, **rule: Any) -> Any:
    return field(default=default, metadata={"rule": Rule(unit, why, **rule)})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Settings of a server. `engine` holds those of the database in it."""

    data_dir: str = _setting("./data", "path", "what is served; made if it is not there")
    host: str = _setting(
        "127.0.0.1", "address", "loopback: a fresh installation is not open to others"
    )
    rest_port: int = _setting(3030, "port", "0: any free one, named in the log", first=0,
                              last=_PORT_LAST)  # fmt: skip
    grpc_port: int = _setting(9090, "port", "accepted and not served yet", first=0,
                              last=_PORT_LAST)  # fmt: skip
    metrics_port: int = _setting(
        9091, "port", "Prometheus text, without keys: keep it private; 0: any free one",
        first=0, last=_PORT_LAST,
    )  # fmt: skip
    import_roots: tuple[str, ...] = _setting(
        (), "paths", "directories that an import through the server may read; none by default"
    )
    jobs_max: int = _setting(
        2, "jobs", "embedding jobs that run in the server at once; 0: it runs none",
        first=0, last=64,
    )  # fmt: skip
    job_env: tuple[str, ...] = _setting(
        (), "names", "environment variables that a job may name, beside those made for jobs"
    )
    tls_cert: str | None = _setting(None, "path", "PEM certificate chain; with tls_key: HTTPS")
    tls_key: str | None = _setting(None, "path", "PEM private key, without a pass phrase")
    cors_origins: tuple[str, ...] = _setting(
        (), "origins", "web pages that may call from a browser; `*`: all"
    )
    allow_unauthenticated: bool = _setting(
        default=False, unit="yes or no",
        why="serve an address that is not loopback although no API key exists",
    )  # fmt: skip
    allow_plaintext: bool = _setting(
        default=False, unit="yes or no",
        why="serve an address that is not loopback without TLS: behind a proxy",
    )  # fmt: skip
    body_bytes_max: int = _setting(
        64 * MIB, "bytes", "a body is held in memory whole, once for each request in flight",
        first=1024, last=2**31,
    )  # fmt: skip
    requests_in_flight_max: int = _setting(
        256, "requests", "beyond it 429: bounds memory and waiting", first=1, last=65_536
    )
    request_timeout_seconds: float = _setting(
        60.0, "seconds", "then 503 `deadline-exceeded`, though a write may still complete",
        first=0.1, last=86_400,
    )  # fmt: skip
    body_grace_seconds: float = _setting(
        10.0, "seconds", "a body has this long, and what its size takes at the rate below",
        first=0.1, last=3_600,
    )  # fmt: skip
    body_rate_bytes_min: int = _setting(
        16 * 1024, "bytes/second", "a slower body is answered 408: it holds a request in flight",
        first=1, last=2**31,
    )  # fmt: skip
    header_timeout_seconds: float = _setting(
        10.0, "seconds", "from the first byte of a request to the end of its headers, else 408",
        first=0.1, last=3_600,
    )  # fmt: skip
    header_bytes_max: int = _setting(
        32 * 1024, "bytes", "request line and headers together, else 431", first=1024, last=MIB
    )
    keep_alive_seconds: float = _setting(
        75.0, "seconds", "an idle connection is closed after it", first=0.1, last=86_400
    )
    connections_max: int = _setting(
        8_192, "connections", "beyond it the longest idle one is closed: bounds memory and handles",
        first=8, last=1_000_000,
    )  # fmt: skip
    shutdown_seconds: float = _setting(
        6.0, "seconds", "after SIGTERM, for jobs and requests in flight; the rest is answered 503",
        first=0, last=3_600,
    )  # fmt: skip
    legacy_errors: bool = _setting(
        default=False, unit="yes or no",
        why="answer application errors with status 200, as the old server did",
    )  # fmt: skip
    log_level: str = _setting("info", "level", "least important lines that are written",
                              choices=LOG_LEVELS)  # fmt: skip
    log_format: str = _setting(
        "auto", "format", "auto: console on a terminal, JSON lines elsewhere", choices=LOG_FORMATS
    )
    engine: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each alone and together.

        Raises:
            InvalidRequestError: `invalid-settings`, names the setting.
        """
        for name, rule in rules().items():
            _check(name, rule, getattr(self, name))
        if (self.tls_cert is None) != (self.tls_key is None):
            raise invalid("tls_cert and tls_key belong together; give both or neither")
        ports = [port for port in (self.rest_port, self.grpc_port, self.metrics_port) if port]
        if len(set(ports)) != len(ports):
            raise invalid(
                f"rest_port, grpc_port and metrics_port must differ, found {self.rest_port}, "
                f"{self.grpc_port}, {self.metrics_port}"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback


def rules() -> Mapping[str, Rule]:
    """Return the rule of every setting by name, in the order of documentation."""
    return {item.name: item.metadata["rule"] for item in fields(ServerSettings) if item.metadata}


def invalid(message: str, **details: object) -> InvalidRequestError:
    """Return the error for settings that cannot work."""
    return InvalidRequestError(Code.INVALID_SETTINGS, message, **details)


def _check(name: str, rule: Rule, value: object) -> None:
    if rule.first is not None and rule.last is not None:
        ok = isinstance(value, int | float) and rule.first <= value <= rule.last
        expected = f"{rule.unit} from {rule.first:g} to {rule.last:g}"
    elif rule.choices:
        ok, expected = value in rule.choices, f"one of {', '.join(rule.choices)}"
    elif name == "host":
        ok, expected = _is_address(value), "an IP address or localhost"
    else:
        return
    if not ok:
        raise invalid(f"{name}: expected {expected}, found {value!r}", setting=name)


def _is_address(value: object) -> bool:
    try:
        return value == "localhost" or bool(ipaddress.ip_address(str(value)))
    except ValueError:
        return False
