"""Where settings come from: defaults < TOML file < environment < flags. Pure.

The file has the settings' names as keys, and the engine's in a table `[engine]`. The environment
has them as DVECDB_REST_PORT, the engine's as DVECDB_ENGINE_FLUSH_BYTES; lists are separated by
commas. A name that nobody knows is an error, for a setting that has no effect is one nobody finds.
Some engine settings are what an operator sets, and have a short name beside the long one.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from dvecdb.errors import InvalidRequestError
from dvecdb.node.settings import ServerSettings, invalid, rules
from dvecdb.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

PREFIX: Final = "DVECDB_"
_ENGINE: Final = "engine"
_DEFAULT: Final = "default"

# Not settings of a server: what the client, the command line, jobs and the tests read, and what
# orchestrators set for a service that is called dvecdb.
_FOREIGN: Final = re.compile(
    r"CONFIG|URL|API_KEY|ACTOR|TIMEOUT_SECONDS|SOAK|SEED|BENCH\w*"
    r"|JOB_(?!ENV$)\w+"  # what embedding jobs may name
    r"|PORT|PORT_\d+_\w+|(\w+_)?SERVICE_(HOST|PORT)(_\w+)?|NAME|ENV_\w+"
)
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})
_TABLE: Final = re.compile(r"\s*\[\s*\"?([\w.-]+)\"?\s*\]")
_KEY: Final = re.compile(r"\s*[\"']?([\w-]+)[\"']?\s*[=.]")

_SERVER_TYPES: Final = {item.name: str(item.type) for item in fields(ServerSettings)}
_ENGINE_NAMES: Final = tuple(item.name for item in fields(Settings))
SHORT_NAMES: Final = {"trash_hours": f"{_ENGINE}.trash_hours"}
"""Engine settings that may also be set without saying that they are the engine's."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and for each where it comes from; engine settings as `engine.flush_bytes`."""

    settings: ServerSettings
    origins: Mapping[str, str]


class _Layers:
    """Collects values and their origins, later ones over earlier ones."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}

    def put(self, name: str, value: object, origin: str) -> None:
        """Take the value of a known setting."""
        name = SHORT_NAMES.get(name, name)
        self.values[name] = _converted(name, value, origin)
        self.origins[name] = origin

    def loaded(self) -> Loaded:
        """Return the settings."""
        engine = {
            name: self.values[f"{_ENGINE}.{name}"]
            for name in _ENGINE_NAMES
            if f"{_ENGINE}.{name}" in self.values
        }
        own = {name: value for name, value in self.values.items() if "." not in name}
        try:
            settings = ServerSettings(engine=Settings(**engine), **own)
        except InvalidRequestError as error:
            setting = str(error.details.get("setting"))
            origin = self.origins.get(setting) or self.origins.get(f"{_ENGINE}.{setting}")
            where = f"{origin}: " if origin else ""
            raise invalid(where + error.message, **error.details) from None
        names = [*rules(), *(f"{_ENGINE}.{name}" for name in _ENGINE_NAMES)]
        return Loaded(settings, {name: self.origins.get(name, _DEFAULT) for name in names})


def load(
    *,
    toml: str | None = None,
    path: str = "",
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    assignments: Iterable[str] = (),
    presets: Mapping[str, tuple[object, str]] | None = None,
) -> Loaded:
    """Return the settings of a server. `toml`: the text of the file at `path`.

    presets: values and their origins, in place of the defaults; flags: by setting, None means not
    given; assignments: `NAME=VALUE`, after the flags.

    Raises:
        InvalidRequestError: `invalid-settings`; names the file and line, the variable or the flag,
            and the nearest known name.
    """
    layers = _Layers()
    for name, (preset, origin) in (presets or {}).items():
        layers.put(name, preset, origin)
    if toml is not None:
        _read_toml(layers, toml, path)
    for variable, value in sorted((environment or {}).items()):
        if variable.startswith(PREFIX):
            _read_variable(layers, variable, value)
    for name, flag in (flags or {}).items():
        if flag is not None and flag != ():
            layers.put(name, flag, "--" + name.replace("_", "-"))
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise invalid(f"--set: expected NAME=VALUE, found {assignment!r}")
        names = [*rules(), *SHORT_NAMES, *(f"{_ENGINE}.{item}" for item in _ENGINE_NAMES)]
        _check_known(f"setting {name!r}", name, names, "--set")
        layers.put(name, value, f"--set {name}")
    return layers.loaded()


def _read_toml(layers: _Layers, text: str, path: str) -> None:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise invalid(f"{path}: not TOML: {error}", file=path) from None
    lines = _lines(text)
    for key, value in document.items():
        line = lines.get(key, 0)
        if key == _ENGINE and isinstance(value, dict):
            for inner, setting in value.items():
                at = f"{path}:{lines.get(f'{_ENGINE}.{inner}', line)}"
                _check_known(f"setting {inner!r} in [{_ENGINE}]", inner, _ENGINE_NAMES, at)
                layers.put(f"{_ENGINE}.{inner}", setting, at)
            continue
        what = f"table [{key}]" if isinstance(value, dict) else f"setting {key!r}"
        _check_known(what, key, [*rules(), *SHORT_NAMES], f"{path}:{line}")
        layers.put(key, value, f"{path}:{line}")


def _lines(text: str) -> dict[str, int]:
    """Return the line of every key and table, as `key` or `table.key`."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := _TABLE.match(line):
            table = match[1] + "."
            found.setdefault(match[1], number)
        elif match := _KEY.match(line):
            found.setdefault(table + match[1], number)
    return found


def _read_variable(layers: _Layers, variable: str, value: str) -> None:
    name = variable.removeprefix(PREFIX)
    if _FOREIGN.fullmatch(name):
        return
    name = name.lower()
    engine_name = name.removeprefix(f"{_ENGINE}_")
    if engine_name != name and engine_name in _ENGINE_NAMES:
        layers.put(f"{_ENGINE}.{engine_name}", value, variable)
        return
    known = [f"{PREFIX}{item}".upper() for item in (*rules(), *SHORT_NAMES)]
    engine = [f"{PREFIX}{_ENGINE}_{item}".upper() for item in _ENGINE_NAMES]
    _check_known(f"variable {variable}", variable, [*known, *engine], "environment")
    layers.put(name, value, variable)


def _check_known(what: str, name: str, known: Iterable[str], where: str) -> None:
    names = list(known)
    if name in names:
        return
    near = difflib.get_close_matches(name, names, 1, 0.0)
    raise invalid(
        f"{where}: unknown {what}; the nearest known one is {near[0]!r}",
        setting=name,
        nearest=near[0],
    )


def _converted(name: str, value: object, origin: str) -> object:
    kind = _SERVER_TYPES.get(name, "int")
    if isinstance(value, str) and origin.startswith((PREFIX, "--")):
        parse = _PARSERS.get(kind)
        try:
            value = parse(value) if parse is not None else value
        except ValueError:
            raise _wrong_type(name, kind, value, origin) from None
    if isinstance(value, list | tuple) and kind.startswith("tuple"):
        value = tuple(value)
        fits = all(isinstance(item, str) for item in value)
    elif isinstance(value, bool):
        fits = kind == "bool"
    elif isinstance(value, int):
        fits = kind in {"int", "float"}
    elif isinstance(value, float):
        fits = kind == "float"
    else:
        fits = isinstance(value, str) and kind in {"str", "str | None"}
    if not fits:
        raise _wrong_type(name, kind, value, origin)
    return value


def _wrong_type(name: str, kind: str, value: object, origin: str) -> InvalidRequestError:
    return invalid(
        f"{origin}: {name}: expected {_KINDS.get(kind, kind)}, found {value!r}", setting=name
    )


def _flag(text: str) -> bool:
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(text)


def _texts(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


_PARSERS: Final[dict[str, Callable[[str], object]]] = {
    "bool": _flag,
    "int": int,
    "float": float,
    "tuple[str, ...]": _texts,
}
_KINDS: Final = {
    "bool": "yes or no",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "str | None": "text",
    "tuple[str, ...]": "a list of texts",
}
