"""Load over HTTP by wrk: many connections, prepared requests, answers counted in C.

wrk is a program of its own (the Debian package `wrk`); it is looked for on the path.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

CONNECTIONS = 8
SECONDS = 3

_SCRIPT = """
local requests, at = {}, 0

function init(args)
  local file = io.open(%(bodies)s, "rb")
  while true do
    local size = file:read(8)
    if not size then break end
    local body = file:read(tonumber(size))
    requests[#requests + 1] = wrk.format("POST", %(path)s, %(headers)s, body)
  end
  file:close()
end

function request()
  at = at %% #requests + 1
  return requests[at]
end

function done(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format("\\nfound %%d %%d %%d\\n", summary.requests, summary.duration, failed))
end
"""


def is_present() -> bool:
    """Return whether there is a wrk."""
    return shutil.which("wrk") is not None


class Load:
    """POST requests that differ in their bodies, sent over and over."""

    def __init__(
        self, directory: Path, url: str, headers: Mapping[str, str], bodies: Sequence[bytes]
    ) -> None:
        """url: with the path. directory: for the script and the bodies; one a load."""
        directory.mkdir()
        with (directory / "bodies").open("wb") as file:
            for body in bodies:
                file.write(b"%08d" % len(body) + body)
        scheme, _, rest = url.partition("://")
        authority, _, path = rest.partition("/")
        self._url = f"{scheme}://{authority}"
        self._script = directory / "wrk.lua"
        fields = ", ".join(f"[{_text(name)}] = {_text(value)}" for name, value in headers.items())
        self._script.write_text(
            _SCRIPT
            % {
                "bodies": _text(str(directory / "bodies")),
                "path": _text(f"/{path}"),
                "headers": f"{{{fields}}}",
            },
            encoding="utf-8",
        )

    def rate(self, seconds: int = SECONDS) -> float:
        """Return the answers a second.

        Raises:
            RuntimeError: some requests failed.
        """
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(self._script)]
        done = subprocess.run([*command, self._url], check=True, capture_output=True, text=True)
        (line,) = (line for line in done.stdout.splitlines() if line.startswith("found "))
        count, microseconds, failed = map(int, line.split()[1:])
        if failed or not count:
            raise RuntimeError(
                f"{failed} of {count} requests to {self._url} failed:\n{done.stdout}"
            )
        return count / (microseconds / 1e6)


def _text(value: str) -> str:
    """Return a text as Lua writes it: of ASCII, JSON's form is the same."""
    return json.dumps(value)


def json_numbers(vector: npt.NDArray[np.float32]) -> bytes:
    """Return a vector as a JSON list, as float32 prints: what a client of such vectors sends."""
    return b"[" + ",".join(map(str, vector)).encode() + b"]"
