"""The settings of the old `vectordb-server`: its flags, its YAML file, its defaults. Pure.

It had REST on 8080, took a file in which every field is required, and ignored all other flags when
it was given a file. The environment (DVECDB_*) sets what it did not know, such as keys and TLS.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

import yaml

from dvecdb.node.settings import invalid
from dvecdb.node.sources import Loaded, load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LEVELS: Final = {
    "trace": "debug", "debug": "debug", "info": "info", "warn": "warning", "error": "error"
}  # fmt: skip
_FIELDS: Final[dict[str, type]] = {
    "host": str,
    "grpc_port": int,
    "rest_port": int,
    "metrics_port": int,
    "data_dir": str,
    "max_connections": int,
    "request_timeout": int,
    "enable_logging": bool,
    "log_level": str,
    "enable_cors": bool,
}
_REST_PORT: Final = 8080
_CONNECTIONS_MIN: Final = 8


def parser(version: str) -> argparse.ArgumentParser:
    """Return the parser of the old flags."""
    result = argparse.ArgumentParser(
        "vectordb-server",
        description="dvecdb under the name and with the flags of the old d-vecDB server.",
        epilog="With --config every other flag is ignored. New settings: DVECDB_* in the "
        "environment; 'dvecdb serve' has flags for them.",
        allow_abbrev=False,
    )
    result.add_argument("-c", "--config", metavar="FILE", help="YAML file with every old field")
    result.add_argument("-d", "--data-dir", metavar="DIR", help="data directory [./data]")
    result.add_argument("--host", help="IP address to listen on [127.0.0.1]")
    result.add_argument("--grpc-port", type=int, metavar="PORT", help="not served yet [9090]")
    result.add_argument("--rest-port", type=int, metavar="PORT", help=f"[{_REST_PORT}]")
    result.add_argument("--metrics-port", type=int, metavar="PORT", help="[9091]")
    result.add_argument("--log-level", choices=list(LEVELS), help="[info]")
    result.add_argument("-V", "--version", action="version", version=f"vectordb-server {version}")
    return result


def from_flags(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Loaded:
    """Return the settings of the old flags.

    Raises:
        InvalidRequestError: `invalid-settings`.
    """
    level = arguments.log_level
    return load(
        presets={"rest_port": (_REST_PORT, "default of vectordb-server")},
        environment=environment,
        flags={
            "data_dir": arguments.data_dir,
            "host": arguments.host,
            "grpc_port": arguments.grpc_port,
            "rest_port": arguments.rest_port,
            "metrics_port": arguments.metrics_port,
            "log_level": LEVELS[level] if level is not None else None,
        },
    )


def from_yaml(text: str, path: str, environment: Mapping[str, str]) -> tuple[Loaded, list[str]]:
    """Return the settings of an old file, and its keys that nobody knows: the old one let them be.

    Raises:
        InvalidRequestError: `invalid-settings`; names the field and, for what is no YAML, the line.
    """
    values = _fields(text, path)
    level = values["log_level"] if values["enable_logging"] else "error"
    if level not in LEVELS:
        raise invalid(f"{path}: log_level: expected one of {', '.join(LEVELS)}, found {level!r}")
    presets: dict[str, Any] = {
        "host": values["host"],
        "grpc_port": values["grpc_port"],
        "rest_port": values["rest_port"],
        "metrics_port": values["metrics_port"],
        "data_dir": values["data_dir"],
        "connections_max": max(_CONNECTIONS_MIN, values["max_connections"]),
        "request_timeout_seconds": values["request_timeout"],
        "log_level": LEVELS[level],
        "cors_origins": ("*",) if values["enable_cors"] else (),
    }
    loaded = load(
        presets={name: (value, path) for name, value in presets.items()}, environment=environment
    )
    return loaded, [str(key) for key in values if key not in _FIELDS]


def _fields(text: str, path: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else path
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise invalid(f"{where}: not YAML: {problem}", file=path) from None
    if not isinstance(values, dict):
        raise invalid(f"{path}: expected a mapping with {_names(_FIELDS)}", file=path)
    missing = [name for name in _FIELDS if name not in values]
    if missing:
        raise invalid(f"{path}: missing {_names(missing)}; every field is required", file=path)
    for name, kind in _FIELDS.items():
        if type(values[name]) is not kind:
            raise invalid(
                f"{path}: {name}: expected {kind.__name__}, found {values[name]!r}", file=path
            )
    for name in ("max_connections", "request_timeout"):
        if values[name] <= 0:
            raise invalid(f"{path}: {name}: must be above 0, found {values[name]}", file=path)
    return values


def _names(items: Sequence[str] | Mapping[str, type]) -> str:
    return ", ".join(items)
