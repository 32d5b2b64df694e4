"""From the texts of a command line to values: points in time, conditions, vectors, lists of ids."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dvecdb.cli.app import UsageError
from dvecdb.cli.reading.pipe import interruptible
from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dvecdb.records import Json


def parse_as_of(text: str | None) -> int | datetime | None:
    """Return the LSN or the time that `--as-of` names.

    Raises:
        UsageError: neither.
    """
    if text is None:
        return None
    if text.strip().isascii() and text.strip().isdigit():
        return int(text)
    return parse_time(text, "--as-of", "an LSN, or a time")


def parse_time(text: str, option: str, expected: str = "a time") -> datetime:
    """Return the time that an option names.

    Raises:
        UsageError: it is none, or without a zone.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise UsageError(
            f"{option} {text}: expected {expected} with its zone like 2026-11-24T12:00:00Z"
        )
    return moment


def parse_hours(text: str, name: str) -> int | None:
    """Return whole hours, or None for `default`.

    Raises:
        UsageError: neither.
    """
    if text == "default":
        return None
    if not text.isascii() or not text.isdigit():
        option = "--" + name.replace("_", "-")
        raise UsageError(f"{option} {text}: expected whole hours, or 'default'")
    return int(text)


def parse_conditions(texts: Sequence[str] | None) -> dict[str, Json] | None:
    """Return the filter of `--where KEY=VALUE`, JSON values or else text, or of `--where {...}`.

    Raises:
        UsageError: no `=`, a key twice, a filter that is no JSON or does not stand alone.
    """
    if texts and any(text.lstrip().startswith("{") for text in texts):
        return _parse_filter(texts)
    found: dict[str, Json] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--where {text}: expected KEY=VALUE")
        if key in found:
            raise UsageError(f"--where {text}: {key} has a value already")
        try:
            found[key] = msgspec.json.decode(value)
        except msgspec.MsgspecError:
            found[key] = value
    return found or None


def _parse_filter(texts: Sequence[str]) -> dict[str, Json]:
    if len(texts) > 1:
        raise UsageError("--where: a filter in JSON stands alone; put all conditions into it")
    try:
        return msgspec.json.decode(texts[0], type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise UsageError(
            f"--where {texts[0]}: expected KEY=VALUE, or a filter as a JSON object: {error}"
        ) from None


def parse_vector(text: str) -> Any:
    """Return the numbers of a JSON list, of a file that holds one, of a .npy file, or of stdin (-).

    Raises:
        InvalidRequestError: `invalid-argument`, not a list of numbers.
        OSError: the file cannot be read.
    """
    if text.lstrip().startswith("["):
        return _numbers(text, "the vector")
    if text == "-":
        return _numbers(_stdin().decode(errors="replace"), "stdin")
    path = Path(text)
    if path.suffix == ".npy":
        try:
            found = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise _bad(f"{path}: {error}") from None
        return found[0] if found.ndim == 2 and len(found) == 1 else found
    return _numbers(path.read_text(errors="replace"), str(path))


def _stdin() -> bytes:
    with interruptible(sys.stdin.buffer) as file:
        return file.read()


def _numbers(text: str, where: str) -> list[float]:
    try:
        return msgspec.json.decode(text, type=list[float])
    except msgspec.MsgspecError as error:
        raise _bad(f"{where}: expected a JSON list of numbers: {error}") from None


def read_ids(path: Path) -> list[str]:
    """Return the ids in a file (- for stdin): one a line, as text or as a JSON text.

    Raises:
        OSError: the file cannot be read.
        InvalidRequestError: `invalid-argument`, not text.
    """
    data = _stdin() if str(path) == "-" else path.read_bytes()
    try:
        return [parse_id(line.decode()) for line in data.split(b"\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise _bad(f"{path}: not UTF-8 text: {error}") from None


def parse_id(line: str) -> str:
    """Return the id on a line: a JSON text if it is one, else the line itself."""
    line = line.rstrip("\r\n")
    if line.startswith('"'):
        try:
            return msgspec.json.decode(line, type=str)
        except msgspec.MsgspecError:
            return line
    return line


def _bad(message: str) -> InvalidRequestError:
    return InvalidRequestError(Code.INVALID_ARGUMENT, message)
